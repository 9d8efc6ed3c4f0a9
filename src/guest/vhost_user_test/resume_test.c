/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that ends between any two steps of any message, and the next one that goes on: the front end must
 * get every answer once and in order, and the device must end up as if nothing had happened.
 *
 * `conversation` is a whole session; for each message and each step the session is driven by hand up to that
 * step, dropped as a kill drops it, and resumed. (kill_test.c does it with real signals.)
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/vhost_user_test/front.h"

#define OTHER_GUEST UINT64_C(0x80000000)
#define OTHER_USER UINT64_C(0x7f3400000000)

enum fd_kind { NO_FD, MEMORY, OTHER_MEMORY, EVENT, CHANNEL, INFLIGHT };

struct step_message {
    uint32_t request;
    bool ack;
    enum fd_kind fd;
    uint32_t bytes;
    union {
        uint64_t u64;
        struct vu_vring_state state;
        struct vu_vring_addr addr;
        struct vu_single_region region;
        struct {
            struct vu_mem_table_head head;
            struct vu_region region[1];
        } table;
        struct {
            struct vu_config_head head;
            uint8_t data[60];
        } config;
        struct vu_inflight inflight;
    } p;
};

#define U64(v)                                                                                                         \
    sizeof(uint64_t),                                                                                                  \
    {                                                                                                                  \
        .u64 = (v)                                                                                                     \
    }
#define RING(i, n)                                                                                                     \
    sizeof(struct vu_vring_state),                                                                                     \
    {                                                                                                                  \
        .state = {(i), (n) }                                                                                           \
    }
#define ADDR(i)                                                                                                        \
    sizeof(struct vu_vring_addr),                                                                                      \
    {                                                                                                                  \
        .addr = {                                                                                                      \
            .index = (i),                                                                                              \
            .descriptor = MEM_USER + (i)*4096,                                                                         \
            .available = MEM_USER + (i)*4096 + 0x400,                                                                  \
            .used = MEM_USER + (i)*4096 + 0x800                                                                        \
        }                                                                                                              \
    }
#define REGION(g, u)                                                                                                   \
    sizeof(struct vu_single_region),                                                                                   \
    {                                                                                                                  \
        .region = { 0, {(g), MEM_BYTES, (u), 0} }                                                                      \
    }
#define TABLE                                                                                                          \
    40,                                                                                                                \
    {                                                                                                                  \
        .table = { {1, 0}, {{MEM_GUEST, MEM_BYTES, MEM_USER, 0}} }                                                     \
    }

static const struct step_message conversation[] = {
    {VU_GET_FEATURES},
    {VU_GET_PROTOCOL_FEATURES},
    {VU_SET_PROTOCOL_FEATURES, true, NO_FD, U64(ALL_PROTOCOL_FEATURES)},
    {VU_GET_QUEUE_NUM},
    {VU_SET_BACKEND_REQ_FD, true, CHANNEL},
    {VU_SET_OWNER, false},
    {VU_SET_VRING_CALL, true, EVENT, U64(0)},
    {VU_GET_CONFIG, false, NO_FD, 72, {.config = {{0, 60, 0}, {0}}}},
    {VU_SET_FEATURES, true, NO_FD, U64(USUAL_FEATURES)},
    {VU_GET_INFLIGHT_FD, false, NO_FD, 24, {.inflight = {0, 0, QUEUES, RING_SIZE, 0}}},
    {VU_SET_INFLIGHT_FD, true, INFLIGHT, 24, {.inflight = {4096 + STASH_BYTES, 0, QUEUES, RING_SIZE, 0}}},
    {VU_SET_MEM_TABLE, true, MEMORY, TABLE},
    {VU_SET_VRING_NUM, true, NO_FD, RING(0, RING_SIZE)},
    {VU_SET_VRING_BASE, false, NO_FD, RING(0, 3)},
    {VU_SET_VRING_ADDR, true, NO_FD, ADDR(0)},
    {VU_SET_VRING_KICK, true, EVENT, U64(0)},
    {VU_SET_VRING_ENABLE, true, NO_FD, RING(0, 1)},
    {VU_SET_VRING_NUM, false, NO_FD, RING(1, RING_SIZE)},
    {VU_SET_VRING_ADDR, true, NO_FD, ADDR(1)},
    {VU_SET_VRING_ENABLE, true, NO_FD, RING(1, 1)},
    {VU_SET_VRING_KICK, true, EVENT, U64(1)},
    {VU_SET_VRING_CALL, true, EVENT, U64(1)},
    {VU_SET_VRING_CALL, false, EVENT, U64(1)},
    {VU_SET_VRING_CALL, true, NO_FD, U64(1 | VU_RING_NO_FD)},
    {VU_SET_VRING_ERR, true, EVENT, U64(1)},
    {VU_ADD_MEM_REG, true, MEMORY, REGION(OTHER_GUEST, OTHER_USER)},
    {VU_ADD_MEM_REG, true, MEMORY, REGION(OTHER_GUEST, OTHER_USER)}, /* refused: it is there */
    {VU_REM_MEM_REG, true, NO_FD, REGION(OTHER_GUEST, OTHER_USER)},
    {VU_REM_MEM_REG, true, NO_FD, REGION(OTHER_GUEST, OTHER_USER)}, /* refused: it is not there */
    {VU_SET_MEM_TABLE, true, OTHER_MEMORY, TABLE},                  /* the rings move */
    {VU_SET_MEM_TABLE, true, MEMORY, TABLE},
    {VU_SET_CONFIG, true, NO_FD, 13, {.config = {{30, 1, 0}, {9}}}},
    {VU_SET_STATUS, true, NO_FD, U64(15)},
    {VU_GET_STATUS},
    {VU_SET_VRING_ENABLE, true, NO_FD, RING(1, 0)},
    {VU_SET_VRING_ENABLE, true, NO_FD, RING(1, 1)},
    {VU_SET_VRING_KICK, true, EVENT, U64(0)},
    {VU_GET_VRING_BASE, false, NO_FD, RING(0, 0)},
    {VU_SET_VRING_KICK, true, EVENT, U64(0)},
    {VU_GET_VRING_BASE, false, NO_FD, RING(1, 0)},
    {VU_GET_VRING_BASE, false, NO_FD, RING(0, 0)},
    {VU_RESET_DEVICE, true},
    {VU_GET_FEATURES},
};
#define MESSAGES (sizeof conversation / sizeof conversation[0])

static bool has_own_answer(uint32_t request)
{
    switch (request) {
    case VU_GET_FEATURES:
    case VU_GET_PROTOCOL_FEATURES:
    case VU_GET_QUEUE_NUM:
    case VU_GET_CONFIG:
    case VU_GET_VRING_BASE:
    case VU_GET_INFLIGHT_FD:
    case VU_GET_STATUS: return true;
    default: return false;
    }
}

/* What the front end saw and what the device is, to be compared between runs. */
struct record {
    struct {
        int bytes;
        uint8_t payload[VU_REPLY_MAX];
    } answer[MESSAGES];
    struct {
        bool running;
        uint16_t size;
        unsigned calls;
    } ring[MESSAGES][QUEUES];
    uint8_t config[CONFIG_BYTES];
};

struct run {
    struct front f;
    struct record *record;
    int other_fd, inflight_fd;
};

static void send_message(struct run *r, const struct step_message *m)
{
    int fd = -1, pair[2] = {-1, -1};
    switch (m->fd) {
    case NO_FD: break;
    case MEMORY: fd = r->f.mem_fd; break;
    case OTHER_MEMORY: fd = r->other_fd; break;
    case INFLIGHT: fd = r->inflight_fd; break;
    case EVENT: fd = pair[0] = eventfd(0, EFD_CLOEXEC); break;
    case CHANNEL:
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        fd = pair[0];
        break;
    }
    front_send(&r->f, m->request, VU_VERSION | (m->ack ? VU_FLAG_NEED_REPLY : 0), &m->p, m->bytes, &fd, fd >= 0);
    if (pair[0] >= 0) close(pair[0]);
    if (pair[1] >= 0) close(pair[1]);
}

/* All answers that are due are here, once. */
static void take_answer(struct run *r, unsigned i)
{
    const struct step_message *m = &conversation[i];
    int fd = -1;
    front_pump(&r->f);
    if (r->f.ended) fail_msg("message %u (%s): session ended: %s", i, vu_request_name(m->request), r->f.why);
    r->record->answer[i].bytes = -1;
    if (m->ack || has_own_answer(m->request)) {
        r->record->answer[i].bytes = front_answer(&r->f, m->request, r->record->answer[i].payload, VU_REPLY_MAX,
                                                  m->request == VU_GET_INFLIGHT_FD ? &fd : NULL);
        if (r->record->answer[i].bytes < 0) fail_msg("message %u (%s): no answer", i, vu_request_name(m->request));
    }
    if (fd >= 0) {
        if (r->inflight_fd >= 0) close(r->inflight_fd);
        r->inflight_fd = fd;
    }
    char none[8];
    assert_int_equal(front_answer(&r->f, m->request, none, sizeof none, NULL), -1);
    for (unsigned q = 0; q < QUEUES; q++) {
        r->record->ring[i][q].running = r->f.fake.queue[q].running;
        r->record->ring[i][q].size = r->f.fake.queue[q].running ? r->f.fake.queue[q].q.setup.size : 0;
    }
    memcpy(r->record->config, r->f.fake.config, CONFIG_BYTES);
}

enum kill_at {
    BEFORE,          /* it lies in the socket */
    CARRIED_OUT,     /* nothing is marked */
    PROCESSED,       /* marked, not taken out */
    TAKEN,           /* taken out, not marked */
    CONSUMED,        /* nothing of the answer is out */
    ANSWERED_A_BYTE, /* one byte of it is */
    ANSWERED,        /* all of it is, not marked */
    KILLS,
    TWICE = KILLS, /* PROCESSED, and the next process dies at CARRIED_OUT */
    LEFT,          /* an orderly upgrade instead */
    WAYS
};

/* As vhost_user.c does it, up to `at`. */
static void drive(struct vhost_session *s, enum kill_at at)
{
    struct vhost_state *st = s->state;
    struct vhost_message *m = &s->msg;
    struct errmsg e;
    if (at == BEFORE) return;
    assert_int_equal(vhost_socket_peek(s, &e), 1);
    assert_int_equal(vhost_message_run(s, &e), 0);
    vhost_message_close_fds(m);
    if (at == CARRIED_OUT) return;
    st->message = m->head;
    memcpy(st->payload, m->payload, m->head.size);
    assert_int_equal(vhost_reply_store(s, &e), 0);
    vhost_state_mark(&st->step, VHOST_STEP_PROCESSED);
    if (at == PROCESSED) return;
    assert_int_equal(vhost_socket_consume(s, sizeof m->head + m->head.size), 0);
    if (at == TAKEN) return;
    vhost_state_mark(&st->step, VHOST_STEP_CONSUMED);
    if (at == CONSUMED) return;
    if (at == ANSWERED_A_BYTE && st->reply_bytes && !st->reply_has_fd) {
        assert_int_equal(sendfile(s->conn_fd, s->reply_fd, NULL, 1), 1);
        return;
    }
    assert_int_equal(vhost_reply_send(s), 1);
}

static void resume(struct run *r)
{
    struct errmsg e;
    if (front_resume(&r->f, &e) < 0) fail_msg("resume: %s", e.text);
}

static void run_conversation(struct record *record, unsigned kill_message, enum kill_at at)
{
    struct run *r = calloc(1, sizeof *r);
    front_new(&r->f);
    r->record = record;
    r->inflight_fd = -1;
    r->other_fd = memfd_create("other", MFD_CLOEXEC);
    assert_int_equal(ftruncate(r->other_fd, (off_t)MEM_BYTES), 0);
    for (unsigned i = 0; i < MESSAGES; i++) {
        send_message(r, &conversation[i]);
        if (i == kill_message) {
            if (at == LEFT) {
                vhost_session_leave(r->f.session);
                r->f.session = NULL;
            } else {
                drive(r->f.session, at == TWICE ? PROCESSED : at);
                front_kill(&r->f);
            }
            resume(r);
            if (at == TWICE) {
                drive(r->f.session, CARRIED_OUT);
                front_kill(&r->f);
                resume(r);
            }
        }
        take_answer(r, i);
    }
    if (r->inflight_fd >= 0) close(r->inflight_fd);
    close(r->other_fd);
    front_free(&r->f);
    free(r);
}

/* Records begin as zeroes, padding included. */
static bool same(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
}

static void killed_at_every_step(void **state)
{
    (void)state;
    unsigned before = count_open_fds();
    struct record *good = calloc(1, sizeof *good), *now = calloc(1, sizeof *now);
    run_conversation(good, MESSAGES, BEFORE);
    for (unsigned i = 0; i < MESSAGES; i++) {
        for (enum kill_at at = BEFORE; at < WAYS; at++) {
            memset(now, 0, sizeof *now);
            run_conversation(now, i, at);
            if (same(good, now, sizeof *good)) continue;
            for (unsigned k = 0; k < MESSAGES; k++)
                if (!same(&good->answer[k], &now->answer[k], sizeof good->answer[k]) ||
                    !same(&good->ring[k], &now->ring[k], sizeof good->ring[k]))
                    fail_msg("killed in message %u (%s) at step %d: message %u (%s) goes differently", i,
                             vu_request_name(conversation[i].request), (int)at, k,
                             vu_request_name(conversation[k].request));
            fail_msg("killed in message %u at step %d: another configuration", i, (int)at);
        }
    }
    free(good);
    free(now);
    assert_int_equal(count_open_fds(), before);
}

/* A ring that ran is resumed from its table, one that was stopped in order goes on at its base. */
static void rings_resume(void **state)
{
    struct front *f = *state;
    struct errmsg e;
    front_negotiate(f, USUAL_FEATURES | BIT64(VIRTIO_F_RING_EVENT_IDX), ALL_PROTOCOL_FEATURES);
    front_share_memory(f);
    front_start_ring(f, 0);
    front_start_ring(f, 1);
    f->fake.stop_base = 70;
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 1, 0), 0);
    front_kill(f);
    assert_int_equal(front_resume(f, &e), 0);
    assert_true(f->fake.queue[0].running && f->fake.queue[0].q.setup.resume && f->fake.queue[0].q.setup.event_idx);
    assert_false(f->fake.queue[1].running);
    assert_true(f->fake.features == (BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_F_RING_EVENT_IDX)));
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 1, 1), 0);
    assert_int_equal(f->fake.queue[1].q.setup.base, 71);
    assert_false(f->fake.queue[1].q.setup.resume);

    f->fake.stop_base = 90;
    vhost_session_leave(f->session);
    f->session = NULL;
    assert_false(f->fake.queue[0].running || f->fake.queue[1].running);
    assert_int_equal(f->fake.resets, 0);
    assert_int_equal(front_resume(f, &e), 0);
    assert_false(f->fake.queue[0].q.setup.resume || f->fake.queue[1].q.setup.resume);
    assert_int_equal(f->fake.queue[0].q.setup.base, 90);
    assert_int_equal(f->fake.queue[1].q.setup.base, 91);
    assert_int_equal(front_get_base(f, 1), 91);
}

/* Nobody noted what was in flight: going on would do requests twice or never. An orderly leave knows better. */
static void without_inflight_memory(void **state)
{
    struct front *f = *state;
    struct errmsg e;
    void *inflight = f->args.inflight;
    f->session->args.inflight = f->args.inflight = NULL;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    front_share_memory(f);
    front_start_ring(f, 0);
    assert_null(f->fake.queue[0].q.setup.inflight);
    f->fake.stop_base = 33;
    vhost_session_leave(f->session);
    f->session = NULL;
    assert_int_equal(front_resume(f, &e), 0);
    assert_int_equal(f->fake.queue[0].q.setup.base, 33);
    front_kill(f);
    assert_int_equal(front_resume(f, &e), -ENODATA);
    assert_non_null(strstr(e.text, "ring 0 ran without in-flight memory"));
    while (f->held_count)
        f->args.hold.drop(f, f->held[0].name);
    f->args.inflight = inflight;
}

static void config_change_is_told_again(void **state)
{
    struct front *f = *state;
    struct errmsg e;
    struct vu_header head;
    int pair[2];
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(front_ack(f, VU_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1), 0);
    close(pair[1]);
    assert_true(vhost_session_config_changed(f->session));
    front_kill(f);
    assert_int_equal(front_resume(f, &e), 0);
    struct {
        struct vu_header head;
        uint64_t v;
    } __attribute__((packed)) a = {{VU_BACKEND_CONFIG_CHANGE_MSG, VU_VERSION | VU_FLAG_REPLY, 8}, 0};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(recv(pair[0], &head, sizeof head, 0), sizeof head);
        assert_int_equal(send(pair[0], &a, sizeof a, 0), sizeof a);
    }
    front_pump(f);
    assert_false(f->ended);
    assert_int_equal(recv(pair[0], &head, sizeof head, 0), -1);
    assert_true(vhost_session_config_changed(f->session));
    assert_int_equal(recv(pair[0], &head, sizeof head, 0), sizeof head);
    close(pair[0]);
}

/* ---- what cannot be resumed says why, and leaves nothing open ---- */

static void cannot(struct front *f, int code, const char *text)
{
    struct errmsg e;
    unsigned before = count_open_fds();
    assert_int_equal(front_resume(f, &e), -code);
    if (!strstr(e.text, text)) fail_msg("\"%s\" does not say \"%s\"", e.text, text);
    assert_null(f->session);
    assert_int_equal(count_open_fds(), before);
    for (unsigned i = 0; i < QUEUES; i++)
        assert_false(f->fake.queue[i].running);
}

static void drop(struct front *f, const char *name)
{
    f->args.hold.drop(f, name);
}

static void cannot_resume(void **state)
{
    struct front *f = *state;
    struct vhost_state *st = f->args.state;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    front_share_memory(f);
    front_start_ring(f, 0);
    front_kill(f);

    struct vhost_state *copy = malloc(sizeof *copy);
    *copy = *st;
    st->magic = 0;
    cannot(f, ENOTCONN, "of no session");
    st->magic = 12345;
    cannot(f, EPROTO, "a layout that this version does not know");
    *st = *copy;
    st->bytes++;
    cannot(f, EPROTO, "a layout that this version does not know");
    *st = *copy;
    st->queues_max = 3;
    cannot(f, EINVAL, "of a device with 3 rings, this one has 4");
    *st = *copy;
    st->step = 99;
    cannot(f, EPROTO, "damaged");
    *st = *copy;
    st->message.size = VU_PAYLOAD_MAX + 1;
    cannot(f, EPROTO, "damaged");
    *st = *copy;
    st->ring[5].running = 1;
    cannot(f, EPROTO, "damaged");
    *st = *copy;
    st->ring[0].descriptor = 0;
    cannot(f, EFAULT, "ring 0: its descriptor table");
    *st = *copy;
    f->fake.refuse_features = EINVAL;
    cannot(f, EINVAL, "the device refused the features");
    f->fake.refuse_features = 0;
    f->fake.refuse_start = ENOMEM;
    cannot(f, ENOMEM, "ring 0: the device cannot run it");
    f->fake.refuse_start = 0;
    *st = *copy;
    drop(f, "kick.0");
    cannot(f, EBADF, "a descriptor of ring 0 was not kept");
    st->ring[0].flags &= ~(uint32_t)VHOST_RING_HAS_KICK;
    drop(f, "region.0");
    cannot(f, EBADF, "memory region 0 of the session was not kept");
    drop(f, "conn");
    cannot(f, EBADF, "connection was not kept");
    while (f->held_count)
        drop(f, f->held[0].name);
    free(copy);
}

/* Whatever else is held is closed; a descriptor whose message was not finished is dropped. */
static void strays(void **state)
{
    struct front *f = *state;
    struct errmsg e;
    static const char *const names[] = {"kick.1", "region.7", "err.3"};
    static const char *const foreign[] = {"log", "kick.99", "region.9999", "kick.", "call.1x", "state"};
    for (unsigned i = 0; i < 3; i++)
        f->args.hold.keep(f, names[i], f->mem_fd);
    for (unsigned i = 0; i < 6; i++)
        f->args.hold.keep(f, foreign[i], f->mem_fd);
    front_kill(f);
    unsigned before = count_open_fds();
    assert_int_equal(front_resume(f, &e), 0);
    assert_int_equal(count_open_fds(), before + 2 - 3); /* conn and reply; three fewer held */
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(front_held(f, names[i]), -1);
    for (unsigned i = 0; i < 6; i++)
        drop(f, foreign[i]);
}

static void front_end_left_meanwhile(void **state)
{
    struct front *f = *state;
    struct errmsg e;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    front_share_memory(f);
    front_start_ring(f, 0);
    front_send(f, VU_GET_FEATURES, VU_VERSION, NULL, 0, NULL, 0);
    drive(f->session, CONSUMED);
    front_kill(f);
    close(f->sock);
    f->sock = -1;
    assert_int_equal(front_resume(f, &e), 0);
    front_assert_ended(f, "closed the connection");
}

/*
 * While its answer goes out, a message that was taken must be marked so: the front end's next one may look the same,
 * and a second kill would let it pass for the first. Seen here by an answer that cannot go out.
 */
static void taken_is_marked_before_the_answer(void **state)
{
    struct front *f = *state;
    struct errmsg e;
    char junk[4096] = {0};
    size_t sent = 0;
    uint64_t v = 0;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    front_send(f, VU_SET_OWNER, VU_VERSION | VU_FLAG_NEED_REPLY, NULL, 0, NULL, 0);
    drive(f->session, TAKEN);
    front_kill(f);
    for (size_t bytes = sizeof junk; bytes > 0; bytes = bytes > 1 ? 1 : 0)
        for (ssize_t n; (n = send(front_held(f, "conn"), junk, bytes, MSG_DONTWAIT)) > 0;)
            sent += (size_t)n;
    assert_int_equal(front_resume(f, &e), 0);
    assert_true(f->session->sending);
    assert_int_equal(f->args.state->step, VHOST_STEP_CONSUMED);
    while (sent > 0) {
        ssize_t n = recv(f->sock, junk, sent < sizeof junk ? sent : sizeof junk, MSG_DONTWAIT);
        assert_true(n > 0);
        sent -= (size_t)n;
    }
    front_pump(f);
    assert_int_equal(front_answer(f, VU_SET_OWNER, &v, sizeof v, NULL), sizeof v);
    assert_int_equal(v, 0);
    assert_int_equal(f->args.state->step, VHOST_STEP_IDLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_at_every_step),
        FRONT_TEST(rings_resume),
        FRONT_TEST(without_inflight_memory),
        FRONT_TEST(config_change_is_told_again),
        FRONT_TEST(cannot_resume),
        FRONT_TEST(strays),
        FRONT_TEST(front_end_left_meanwhile),
        FRONT_TEST(taken_is_marked_before_the_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
