/* SPDX-License-Identifier: Apache-2.0 */
/* Every message in its good form, and each way in which one can be malformed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/vhost_user_test/front.h"

static void features(void **state)
{
    struct front *f = *state;
    uint64_t offered = front_get_u64(f, VU_GET_FEATURES);
    assert_true(offered == (f->fake.ops.features | USUAL_FEATURES));
    assert_int_equal(front_ack_u64(f, VU_SET_FEATURES, offered | BIT64(50)), EINVAL);
    assert_int_equal(f->fake.features, 0);
    assert_int_equal(front_ack_u64(f, VU_SET_FEATURES, offered), 0);
    assert_true(f->fake.features == (offered & ~BIT64(VHOST_USER_F_PROTOCOL_FEATURES)));
    f->fake.refuse_features = ENOTSUP;
    assert_int_equal(front_ack_u64(f, VU_SET_FEATURES, offered), 0); /* nothing new: the device is not asked */
    assert_int_equal(front_ack_u64(f, VU_SET_FEATURES, USUAL_FEATURES), ENOTSUP);
}

static void protocol_features(void **state)
{
    struct front *f = *state;
    uint64_t offered = front_get_u64(f, VU_GET_PROTOCOL_FEATURES);
    assert_true(offered == ALL_PROTOCOL_FEATURES);
    assert_false(offered & BIT64(1)); /* LOG_SHMFD */
    assert_int_equal(front_ack_u64(f, VU_SET_PROTOCOL_FEATURES, offered | BIT64(1)), EINVAL);
    assert_int_equal(front_ack_u64(f, VU_SET_PROTOCOL_FEATURES, offered), 0);
    assert_int_equal(front_get_u64(f, VU_GET_QUEUE_NUM), QUEUES);
    assert_int_equal(front_get_u64(f, VU_GET_MAX_MEM_SLOTS), VHOST_REGIONS_MAX);
}

static void config_not_offered_by_a_device_without(void **state)
{
    struct front *f = *state;
    f->fake.ops.config_bytes = 0;
    assert_false(front_get_u64(f, VU_GET_PROTOCOL_FEATURES) & BIT64(VU_PROTOCOL_F_CONFIG));
}

/* REPLY_ACK is used by the message that agrees on it (User-mode Linux does). */
static void ack_of_the_agreement(void **state)
{
    struct front *f = *state;
    assert_int_equal(front_ack_u64(f, VU_SET_PROTOCOL_FEATURES, BIT64(VU_PROTOCOL_F_REPLY_ACK)), 0);
}

static void every_message_can_be_acknowledged(void **state)
{
    struct front *f = *state;
    int kick = eventfd(0, EFD_CLOEXEC);
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    assert_int_equal(front_ack(f, VU_SET_OWNER, NULL, 0, NULL, 0), 0);
    front_share_memory(f);
    front_start_ring(f, 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_ERR, 0, kick), 0);
    assert_int_equal(front_ack_u64(f, VU_SET_STATUS, 7), 0);
    assert_int_equal(front_ack(f, VU_RESET_OWNER, NULL, 0, NULL, 0), 0);
    assert_false(f->fake.queue[0].running);
    assert_int_equal(front_ack(f, VU_RESET_DEVICE, NULL, 0, NULL, 0), 0);
    assert_int_equal(f->fake.resets, 1);
    assert_int_equal(f->fake.last_reset, GUEST_RESET_DEVICE);
    /* What has an answer of its own gets that one only. */
    uint64_t v = 0;
    front_send(f, VU_GET_FEATURES, VU_VERSION | VU_FLAG_NEED_REPLY, NULL, 0, NULL, 0);
    front_pump(f);
    assert_int_equal(front_answer(f, VU_GET_FEATURES, &v, sizeof v, NULL), sizeof v);
    assert_int_equal(front_answer(f, VU_GET_FEATURES, &v, sizeof v, NULL), -1);
    close(kick);
}

static void status(void **state)
{
    struct front *f = *state;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    front_share_memory(f);
    front_start_ring(f, 1);
    assert_int_equal(front_get_u64(f, VU_GET_STATUS), 0);
    assert_int_equal(front_ack_u64(f, VU_SET_STATUS, 15), 0);
    assert_int_equal(front_get_u64(f, VU_GET_STATUS), 15);
    assert_int_equal(front_ack_u64(f, VU_SET_STATUS, 0x100), EINVAL);
    f->fake.stop_base = 500;
    assert_int_equal(front_ack_u64(f, VU_SET_STATUS, 0), 0);
    assert_int_equal(front_get_u64(f, VU_GET_STATUS), 0);
    assert_int_equal(f->fake.resets, 1);
    assert_int_equal(f->fake.last_reset, GUEST_RESET_STATUS);
    assert_false(f->fake.queue[1].running);
    assert_int_equal(front_get_base(f, 1), 501); /* QEMU asks after the reset, and starts there later */
    /* All over again on the same memory. */
    assert_int_equal(front_ack_u64(f, VU_SET_FEATURES, USUAL_FEATURES), 0);
    front_start_ring(f, 1);
}

struct config {
    struct vu_config_head head;
    uint8_t data[VHOST_CONFIG_MAX_BYTES + 1];
};

static int get_config(struct front *f, uint32_t offset, uint32_t bytes, struct config *c)
{
    *c = (struct config){.head = {offset, bytes, 0}};
    front_send(f, VU_GET_CONFIG, VU_VERSION, c, sizeof c->head + bytes, NULL, 0);
    front_pump(f);
    memset(c, 0xee, sizeof *c);
    return front_answer(f, VU_GET_CONFIG, c, sizeof *c, NULL);
}

static void config_is_read(void **state)
{
    struct front *f = *state;
    struct config c;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    assert_int_equal(get_config(f, 0, CONFIG_BYTES, &c), 12 + CONFIG_BYTES);
    assert_memory_equal(c.data, f->fake.config, CONFIG_BYTES);
    /* More than there is: zeroes. */
    assert_int_equal(get_config(f, 0, 256, &c), 12 + 256);
    assert_memory_equal(c.data, f->fake.config, CONFIG_BYTES);
    for (unsigned i = CONFIG_BYTES; i < 256; i++)
        assert_int_equal(c.data[i], 0);
    assert_int_equal(get_config(f, 8, 4, &c), 12 + 4);
    assert_int_equal(c.head.offset, 8);
    assert_int_equal(c.data[0], 9);
    /* Refused: an answer without a payload. */
    assert_int_equal(get_config(f, 1, 256, &c), 0);
    assert_int_equal(get_config(f, UINT32_MAX, 4, &c), 0);
    c = (struct config){.head = {0, 100, 0}};
    front_send(f, VU_GET_CONFIG, VU_VERSION, &c, sizeof c.head + 10, NULL, 0);
    front_pump(f);
    assert_int_equal(front_answer(f, VU_GET_CONFIG, &c, sizeof c, NULL), 0);
}

static uint64_t set_config(struct front *f, uint32_t offset, uint32_t bytes, uint32_t flags, size_t payload)
{
    struct config c = {.head = {offset, bytes, flags}};
    memset(c.data, 0x77, sizeof c.data);
    return front_ack(f, VU_SET_CONFIG, &c, payload, NULL, 0);
}

static void config_is_written(void **state)
{
    struct front *f = *state;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    assert_int_equal(set_config(f, 32, 1, 0, 13), 0);
    assert_int_equal(f->fake.config[32], 0x77);
    assert_int_equal(set_config(f, 0, CONFIG_BYTES, 1, 12 + CONFIG_BYTES), 0);
    assert_int_equal(set_config(f, 0, CONFIG_BYTES + 1, 0, 12 + CONFIG_BYTES + 1), EINVAL);
    assert_int_equal(set_config(f, UINT32_MAX, 1, 0, 13), EINVAL);
    assert_int_equal(set_config(f, 0, 1, 2, 13), EINVAL);
    assert_int_equal(set_config(f, 0, 2, 0, 13), EINVAL);
    f->fake.refuse_config = 1;
    assert_int_equal(set_config(f, 0, 1, 0, 13), EINVAL);
}

/* ---- what must be negotiated first ---- */

static void needs_its_protocol_feature(void **state)
{
    struct front *f = *state;
    static const struct {
        uint32_t request;
        size_t bytes;
        unsigned fds;
    } gated[] = {{VU_SET_CONFIG, 13, 0},  {VU_SET_BACKEND_REQ_FD, 0, 1}, {VU_SET_INFLIGHT_FD, 24, 1},
                 {VU_RESET_DEVICE, 0, 0}, {VU_ADD_MEM_REG, 40, 1},       {VU_REM_MEM_REG, 40, 0},
                 {VU_SET_STATUS, 8, 0}};
    char zeroes[64] = {0};
    assert_int_equal(front_ack_u64(f, VU_SET_PROTOCOL_FEATURES, BIT64(VU_PROTOCOL_F_REPLY_ACK)), 0);
    for (unsigned i = 0; i < sizeof gated / sizeof gated[0]; i++)
        assert_int_equal(front_ack(f, gated[i].request, zeroes, gated[i].bytes, &f->mem_fd, gated[i].fds), EPROTO);
    front_send(f, VU_GET_STATUS, VU_VERSION, NULL, 0, NULL, 0);
    front_assert_ended(f, "GET_STATUS: its protocol feature (bit 16) was not negotiated");
}

/* ---- sizes and descriptors, for every message there is ---- */

static const struct {
    uint32_t request, bytes;
    unsigned fds;
} forms[] = {
    {VU_GET_FEATURES, 0, 0},     {VU_SET_FEATURES, 8, 0},          {VU_SET_OWNER, 0, 0},
    {VU_RESET_OWNER, 0, 0},      {VU_SET_MEM_TABLE, 40, 1},        {VU_SET_VRING_NUM, 8, 0},
    {VU_SET_VRING_ADDR, 40, 0},  {VU_SET_VRING_BASE, 8, 0},        {VU_GET_VRING_BASE, 8, 0},
    {VU_SET_VRING_KICK, 8, 1},   {VU_SET_VRING_CALL, 8, 1},        {VU_SET_VRING_ERR, 8, 1},
    {VU_GET_QUEUE_NUM, 0, 0},    {VU_SET_VRING_ENABLE, 8, 0},      {VU_SET_BACKEND_REQ_FD, 0, 1},
    {VU_GET_CONFIG, 16, 0},      {VU_SET_CONFIG, 16, 0},           {VU_GET_INFLIGHT_FD, 24, 0},
    {VU_SET_INFLIGHT_FD, 24, 1}, {VU_RESET_DEVICE, 0, 0},          {VU_GET_MAX_MEM_SLOTS, 0, 0},
    {VU_ADD_MEM_REG, 40, 1},     {VU_REM_MEM_REG, 40, 0},          {VU_SET_STATUS, 8, 0},
    {VU_GET_STATUS, 0, 0},       {VU_GET_PROTOCOL_FEATURES, 0, 0},
};

/* Refused in whatever way is due; never carried out, and the front end is never left waiting. */
static void assert_refused(struct front *f, uint32_t request, const void *payload, size_t bytes, unsigned fds)
{
    int fd[8];
    struct vu_inflight answer = {.size_bytes = 1};
    for (unsigned i = 0; i < fds; i++)
        fd[i] = f->mem_fd;
    if (!f->session) {
        front_connect(f);
        front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    }
    front_send(f, request, VU_VERSION | VU_FLAG_NEED_REPLY, payload, bytes, fd, fds);
    front_pump(f);
    if (f->ended) {
        front_assert_ended(f, vu_request_name(request));
        return;
    }
    int n = front_answer(f, request, &answer, sizeof answer, NULL);
    if (request == VU_GET_CONFIG) {
        assert_int_equal(n, 0);
    } else if (request == VU_GET_INFLIGHT_FD) {
        assert_int_equal(n, sizeof answer);
        assert_int_equal(answer.size_bytes, 0);
    } else {
        assert_int_equal(n, 8);
        assert_true(answer.size_bytes > 0 && answer.size_bytes < 256);
    }
}

static void wrong_sizes(void **state)
{
    struct front *f = *state;
    char zeroes[512] = {0};
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    for (unsigned i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (forms[i].bytes > 0) assert_refused(f, forms[i].request, zeroes, forms[i].bytes - 1, forms[i].fds);
        if (forms[i].bytes > 0) assert_refused(f, forms[i].request, zeroes, 0, forms[i].fds);
        if (forms[i].request != VU_SET_MEM_TABLE)
            assert_refused(f, forms[i].request, zeroes, forms[i].bytes + 1, forms[i].fds);
    }
    f->fake.resets = 0;
}

static void wrong_descriptor_counts(void **state)
{
    struct front *f = *state;
    char zeroes[64] = {0};
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    unsigned before = count_open_fds();
    for (unsigned i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        /* REM_MEM_REG may bring one. */
        unsigned more = forms[i].request == VU_REM_MEM_REG ? 2 : forms[i].fds + 1;
        assert_refused(f, forms[i].request, zeroes, forms[i].bytes, more);
        if (forms[i].fds) assert_refused(f, forms[i].request, zeroes, forms[i].bytes, 0);
        assert_refused(f, forms[i].request, zeroes, forms[i].bytes, 7);
    }
    if (f->session) assert_int_equal(count_open_fds(), before);
}

/* A table of one region has one descriptor, whatever its size says. */
static void most_descriptors(void **state)
{
    struct front *f = *state;
    int fds[VU_FDS_MAX];
    char zeroes[40] = {1};
    for (unsigned i = 0; i < VU_FDS_MAX; i++)
        fds[i] = f->mem_fd;
    unsigned before = count_open_fds();
    assert_int_equal(front_ack(f, VU_SET_MEM_TABLE, zeroes, sizeof zeroes, fds, VU_FDS_MAX), EINVAL);
    assert_int_equal(front_ack(f, VU_SET_VRING_CALL, zeroes, 8, fds, VU_FDS_MAX), EINVAL);
    assert_int_equal(count_open_fds(), before);
}

/* Room for this many more descriptors in the process, and no more. */
static void open_files_room(struct rlimit *before, unsigned room)
{
    int lowest = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
    for (unsigned i = 0; i < room; i++) {
        int next = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, lowest + 1);
        assert_int_equal(next, lowest + 1);
        close(lowest);
        lowest = next;
    }
    close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, before), 0);
    struct rlimit tight = {(rlim_t)lowest, before->rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
}

/* With too many files open the kernel delivers a message without all of its descriptors: it is refused whole, and those that
 * came are closed. */
static void lost_descriptors(void **state)
{
    struct front *f = *state;
    struct {
        struct vu_mem_table_head head;
        struct vu_region region[2];
    } table = {.head = {2, 0},
               .region = {{0, MEM_BYTES / 2, MEM_USER, 0},
                          {MEM_BYTES / 2, MEM_BYTES / 2, MEM_USER + MEM_BYTES / 2, MEM_BYTES / 2}}};
    int fds[2] = {f->mem_fd, f->mem_fd}, call = eventfd(0, EFD_CLOEXEC);
    struct rlimit limit;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    unsigned before = count_open_fds();
    for (unsigned room = 0; room < 2; room++) {
        open_files_room(&limit, room);
        uint64_t answer = front_ack(f, VU_SET_MEM_TABLE, &table, sizeof table, fds, 2);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        assert_int_equal(answer, EMFILE);
        assert_int_equal(count_open_fds(), before);
    }
    open_files_room(&limit, 0);
    uint64_t answer = front_ack_ring_fd(f, VU_SET_VRING_CALL, 0, call);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(answer, EMFILE);
    assert_int_equal(count_open_fds(), before);
    /* Nothing of it is left over: the same again, and it works. */
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, 0, call), 0);
    assert_int_equal(front_ack(f, VU_SET_MEM_TABLE, &table, sizeof table, fds, 2), 0);
    /* Where no answer is due the front end cannot be told. */
    open_files_room(&limit, 0);
    front_send(f, VU_SET_VRING_CALL, VU_VERSION, &(uint64_t){0}, 8, &call, 1);
    front_pump(f);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    front_assert_ended(f, "descriptors were lost");
    close(call);
}

static void refused_without_an_answer_due(void **state)
{
    struct front *f = *state;
    front_send(f, VU_SET_FEATURES, VU_VERSION, &(uint64_t){BIT64(60)}, 8, NULL, 0);
    front_assert_ended(f, "SET_FEATURES: features 0x1000000000000000 were not offered");
}

static void unknown_message(void **state)
{
    struct front *f = *state;
    assert_int_equal(front_ack(f, 4711, "12345678", 8, NULL, 0), EOPNOTSUPP);
    assert_int_equal(front_ack(f, 0, NULL, 0, NULL, 0), EOPNOTSUPP);
    assert_int_equal(front_ack(f, VU_SET_LOG_BASE, "0123456789abcdef", 16, &f->mem_fd, 1), EOPNOTSUPP);
    assert_int_equal(front_ack(f, VU_VRING_KICK, "01234567", 8, NULL, 0), EOPNOTSUPP);
    assert_int_equal(front_ack(f, VU_POSTCOPY_ADVISE, NULL, 0, NULL, 0), EOPNOTSUPP);
    front_send(f, 4711, VU_VERSION, NULL, 0, NULL, 0);
    front_assert_ended(f, "message 4711: not supported");
}

static void wrong_version(void **state)
{
    struct front *f = *state;
    front_send(f, VU_GET_FEATURES, 2 | VU_FLAG_NEED_REPLY, NULL, 0, NULL, 0);
    front_assert_ended(f, "GET_FEATURES: protocol version 2, expected 1");
}

static void answer_without_a_question(void **state)
{
    struct front *f = *state;
    front_send(f, VU_SET_OWNER, VU_VERSION | VU_FLAG_REPLY | VU_FLAG_NEED_REPLY, NULL, 0, NULL, 0);
    front_assert_ended(f, "SET_OWNER: it is marked as an answer");
}

static void too_long(void **state)
{
    struct front *f = *state;
    struct vu_header head = {VU_SET_CONFIG, VU_VERSION, VU_PAYLOAD_MAX + 1};
    assert_int_equal(write(f->sock, &head, sizeof head), sizeof head);
    front_assert_ended(f, "message 25 has 8193 bytes, expected at most 8192");
}

/* ---- in pieces ---- */

static void send_bytes(struct front *f, const void *data, size_t bytes, int fd)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec iov = {(void *)(uintptr_t)data, bytes};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
        h.msg_control = control.room;
        h.msg_controllen = sizeof control.room;
    }
    assert_int_equal(sendmsg(f->sock, &h, 0), bytes);
    front_pump(f);
}

/* Byte by byte, the descriptor with any of them: the same as in one piece. */
static void byte_by_byte(void **state)
{
    struct front *f = *state;
    struct {
        struct vu_header head;
        uint64_t v;
    } __attribute__((packed)) m = {{VU_SET_VRING_CALL, VU_VERSION | VU_FLAG_NEED_REPLY, 8}, 2};
    int call = eventfd(0, EFD_CLOEXEC);
    for (unsigned with = 0; with < sizeof m; with++) {
        uint64_t v = 1;
        for (unsigned i = 0; i < sizeof m; i++) {
            assert_int_equal(front_answer(f, VU_SET_VRING_CALL, &v, sizeof v, NULL), -1);
            send_bytes(f, (char *)&m + i, 1, i == with ? call : -1);
        }
        assert_int_equal(front_answer(f, VU_SET_VRING_CALL, &v, sizeof v, NULL), sizeof v);
        assert_int_equal(v, 0);
    }
    close(call);
}

/* Half a message must not keep the thread awake. */
static void half_a_message_sleeps(void **state)
{
    struct front *f = *state;
    struct vu_header head = {VU_SET_FEATURES, VU_VERSION, 8};
    send_bytes(f, &head, sizeof head, -1);
    send_bytes(f, "\0\0", 3, -1);
    front_pump(f);
    assert_true(f->session->conn_watch.events & EPOLLET);
    uint64_t rest = 0;
    send_bytes(f, &rest, 5, -1);
    assert_false(f->ended);
    assert_false(f->session->conn_watch.events & EPOLLET);
    assert_int_equal(f->session->state->features_set, 1);
}

static void several_at_once(void **state)
{
    struct front *f = *state;
    uint64_t v = 0;
    int call = eventfd(0, EFD_CLOEXEC);
    for (int i = 0; i < 3; i++) {
        front_send(f, VU_SET_OWNER, VU_VERSION, NULL, 0, NULL, 0);
        front_send(f, VU_SET_VRING_CALL, VU_VERSION, &(uint64_t){1}, 8, &call, 1);
        front_send(f, VU_SET_VRING_CALL, VU_VERSION, &(uint64_t){1 | VU_RING_NO_FD}, 8, NULL, 0);
    }
    front_send(f, VU_GET_FEATURES, VU_VERSION, NULL, 0, NULL, 0);
    front_pump(f);
    assert_string_equal(f->why, "");
    assert_int_equal(front_answer(f, VU_GET_FEATURES, &v, sizeof v, NULL), sizeof v);
    close(call);
}

static void closed_in_the_middle(void **state)
{
    struct front *f = *state;
    struct vu_header head = {VU_SET_FEATURES, VU_VERSION, 8};
    send_bytes(f, &head, sizeof head, f->mem_fd);
    close(f->sock);
    f->sock = -1;
    front_assert_ended(f, "closed the connection");
    assert_int_equal(f->fake.resets, 1);
    assert_int_equal(f->fake.last_reset, GUEST_RESET_END);
}

static void closed(void **state)
{
    struct front *f = *state;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    front_share_memory(f);
    front_start_ring(f, 0);
    assert_true(front_held(f, "kick.0") >= 0 && front_held(f, "region.0") >= 0 && front_held(f, "conn") >= 0);
    close(f->sock);
    f->sock = -1;
    front_assert_ended(f, "closed the connection");
    assert_int_equal(f->fake.queue[0].stops, 1);
}

/* A front end that asks and does not read stops itself: nothing more is taken from it. */
static void does_not_read(void **state)
{
    struct front *f = *state;
    struct vu_header head = {VU_GET_FEATURES, VU_VERSION, 0};
    unsigned asked = 0, answered = 0;
    assert_int_equal(fcntl(f->sock, F_SETFL, O_NONBLOCK), 0);
    while (!f->session->sending && asked < 100000) {
        if (write(f->sock, &head, sizeof head) == sizeof head) asked++;
        loop_run_once(f->loop, 0);
    }
    assert_true(f->session->sending);
    while (write(f->sock, &head, sizeof head) == sizeof head)
        asked++;
    front_pump(f);
    assert_true(f->session->sending);
    /* Then it reads: all is there, in order and whole. */
    struct {
        struct vu_header head;
        uint64_t v;
    } __attribute__((packed)) a;
    while (answered < asked) {
        ssize_t n = recv(f->sock, &a, sizeof a, 0);
        if (n < 0) {
            assert_int_equal(errno, EAGAIN);
            loop_run_once(f->loop, 0);
            continue;
        }
        assert_int_equal(n, sizeof a);
        assert_int_equal(a.head.request, VU_GET_FEATURES);
        assert_true(a.v == vhost_features_offered(f->session));
        answered++;
    }
    assert_false(f->ended);
}

static void closes_while_we_wait_for_room(void **state)
{
    struct front *f = *state;
    struct vu_header head = {VU_GET_FEATURES, VU_VERSION, 0};
    while (!f->session->sending) {
        assert_int_equal(write(f->sock, &head, sizeof head), sizeof head);
        loop_run_once(f->loop, 0);
    }
    close(f->sock);
    f->sock = -1;
    front_pump(f);
    assert_true(f->ended);
}

static void not_a_stream_socket(void **state)
{
    struct front *f = *state;
    struct vhost_session *s = NULL;
    struct errmsg e;
    int pair[2];
    assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
    assert_int_equal(vhost_session_new(&s, &f->args, pair[0], &e), -ENOTSOCK);
    close(pair[1]);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(vhost_session_new(&s, &f->args, pair[0], &e), -EPROTOTYPE);
    assert_non_null(strstr(e.text, "not a Unix stream socket"));
    close(pair[1]);
    assert_null(s);
}

static void described(void **state)
{
    struct front *f = *state;
    struct vhost_session_info info;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    front_share_memory(f);
    front_start_ring(f, 0);
    front_start_ring(f, 3);
    vhost_session_describe(f->session, &info);
    assert_true(info.connected);
    assert_true(info.features == USUAL_FEATURES && info.protocol_features == ALL_PROTOCOL_FEATURES);
    assert_int_equal(info.queues_running, 2);
    assert_int_equal(info.regions, 1);
    assert_int_equal(info.memory_bytes, MEM_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRONT_TEST(features),
        FRONT_TEST(protocol_features),
        FRONT_TEST(config_not_offered_by_a_device_without),
        FRONT_TEST(ack_of_the_agreement),
        FRONT_TEST(every_message_can_be_acknowledged),
        FRONT_TEST(status),
        FRONT_TEST(config_is_read),
        FRONT_TEST(config_is_written),
        FRONT_TEST(needs_its_protocol_feature),
        FRONT_TEST(wrong_sizes),
        FRONT_TEST(wrong_descriptor_counts),
        FRONT_TEST(most_descriptors),
        FRONT_TEST(lost_descriptors),
        FRONT_TEST(refused_without_an_answer_due),
        FRONT_TEST(unknown_message),
        FRONT_TEST(wrong_version),
        FRONT_TEST(answer_without_a_question),
        FRONT_TEST(too_long),
        FRONT_TEST(byte_by_byte),
        FRONT_TEST(half_a_message_sleeps),
        FRONT_TEST(several_at_once),
        FRONT_TEST(closed_in_the_middle),
        FRONT_TEST(closed),
        FRONT_TEST(does_not_read),
        FRONT_TEST(closes_while_we_wait_for_room),
        FRONT_TEST(not_a_stream_socket),
        FRONT_TEST(described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
