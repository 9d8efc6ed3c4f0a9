/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/vhost_user_test/front.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/test_fds.h"
#include "guest/notify.h"

/* ---- the device that takes notes ---- */

static int fake_set_features(void *device, uint64_t features)
{
    struct fake *d = device;
    if (d->refuse_features) return -d->refuse_features;
    d->features = features;
    return 0;
}

static void fake_get_config(void *device, uint8_t *config)
{
    struct fake *d = device;
    memcpy(config, d->config, sizeof d->config);
}

static int fake_set_config(void *device, uint32_t offset, uint32_t length, const uint8_t *data)
{
    struct fake *d = device;
    if (d->refuse_config) return -EINVAL;
    memcpy(d->config + offset, data, length);
    return 0;
}

static int fake_queue_start(void *device, const struct guest_queue *q, struct guest_map *map)
{
    struct fake *d = device;
    struct fake_queue *fq = &d->queue[q->index];
    assert_false(fq->running);
    if (d->refuse_start) return -d->refuse_start;
    fq->running = true;
    fq->q = *q;
    fq->call_fd = q->call_fd;
    fq->map = guest_map_ref(map);
    fq->starts++;
    /* As a ring does: from here on its table is one. */
    if (q->setup.inflight) memcpy((char *)q->setup.inflight + 8, &(uint16_t){1}, 2);
    return 0;
}

static uint32_t fake_queue_stop(void *device, unsigned index)
{
    struct fake *d = device;
    assert_true(d->queue[index].running);
    d->queue[index].running = false;
    d->queue[index].stops++;
    guest_map_unref(d->queue[index].map);
    d->queue[index].map = NULL;
    return d->stop_base + index;
}

static void fake_queue_set_call(void *device, unsigned index, int call_fd)
{
    struct fake *d = device;
    assert_true(d->queue[index].running);
    d->queue[index].calls_set++;
    d->queue[index].call_fd = call_fd;
}

static void fake_set_map(void *device, struct guest_map *map, bool grows)
{
    struct fake *d = device;
    d->maps_set++;
    d->maps_grown += grows;
    for (unsigned i = 0; i < QUEUES; i++) {
        if (!d->queue[i].running) continue;
        guest_map_unref(d->queue[i].map);
        d->queue[i].map = guest_map_ref(map);
    }
}

static void fake_reset(void *device, enum guest_reset kind)
{
    struct fake *d = device;
    for (unsigned i = 0; i < QUEUES; i++)
        assert_false(d->queue[i].running);
    d->features = 0;
    d->resets++;
    d->last_reset = kind;
}

static void fake_init(struct fake *d)
{
    d->ops = (struct guest_device_ops){
        .queues_max = QUEUES,
        .config_bytes = CONFIG_BYTES,
        .features = BIT64(9) | BIT64(VIRTIO_F_RING_EVENT_IDX) | BIT64(VIRTIO_F_RING_INDIRECT_DESC) |
                    BIT64(VIRTIO_F_RING_PACKED),
        .set_features = fake_set_features,
        .get_config = fake_get_config,
        .set_config = fake_set_config,
        .queue_start = fake_queue_start,
        .queue_stop = fake_queue_stop,
        .queue_set_call = fake_queue_set_call,
        .set_map = fake_set_map,
        .reset = fake_reset,
    };
    for (unsigned i = 0; i < CONFIG_BYTES; i++)
        d->config[i] = (uint8_t)(i + 1);
}

/* ---- who holds ---- */

static int held_find(const struct front *f, const char *name)
{
    for (unsigned i = 0; i < f->held_count; i++)
        if (strcmp(f->held[i].name, name) == 0) return (int)i;
    return -1;
}

int front_held(const struct front *f, const char *name)
{
    int i = held_find(f, name);
    return i < 0 ? -1 : f->held[i].fd;
}

static void hold_keep(void *arg, const char *name, int fd)
{
    struct front *f = arg;
    int i = held_find(f, name), copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    assert_true(copy >= 0);
    if (i >= 0) {
        close(f->held[i].fd);
    } else {
        assert_true(f->held_count < sizeof f->held / sizeof f->held[0]);
        i = (int)f->held_count++;
        snprintf(f->held[i].name, sizeof f->held[i].name, "%s", name);
    }
    f->held[i].fd = copy;
}

static void hold_drop(void *arg, const char *name)
{
    struct front *f = arg;
    int i = held_find(f, name);
    assert_true(i >= 0); /* nothing is dropped that was not kept */
    close(f->held[i].fd);
    f->held[i] = f->held[--f->held_count];
}

/* ---- life ---- */

static void on_ended(void *owner, const char *why)
{
    struct front *f = owner;
    assert_false(f->ended);
    f->ended = true;
    snprintf(f->why, sizeof f->why, "%s", why);
    vhost_session_free(f->session); /* from inside, as is allowed */
    f->session = NULL;
}

static void on_stash(void *owner, void *mem, size_t bytes, bool resumed)
{
    struct front *f = owner;
    assert_true(mem ? bytes == STASH_BYTES : bytes == 0);
    f->fake.stash = mem;
    f->fake.stash_resumed = resumed;
}

void front_connect(struct front *f)
{
    int pair[2];
    struct errmsg e;
    assert_null(f->session);
    if (f->sock >= 0) close(f->sock);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    f->sock = pair[0];
    f->ended = false;
    assert_int_equal(vhost_session_new(&f->session, &f->args, pair[1], &e), 0);
}

void front_new(struct front *f)
{
    memset(f, 0, sizeof *f);
    fake_init(&f->fake);
    f->sock = -1;
    f->loop = loop_new();
    assert_non_null(f->loop);
    f->mem_fd = memfd_create("guest", MFD_CLOEXEC);
    assert_int_equal(ftruncate(f->mem_fd, (off_t)MEM_BYTES), 0);
    f->mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->mem_fd, 0);
    assert_ptr_not_equal(f->mem, MAP_FAILED);
    size_t inflight_bytes = QUEUES * virtq_inflight_bytes(256, true);
    f->args = (struct vhost_args){
        .loop = f->loop,
        .ops = &f->fake.ops,
        .device = &f->fake,
        .owner = f,
        .state = calloc(1, vhost_state_bytes()),
        .hold = {hold_keep, hold_drop, f},
        .inflight = calloc(1, inflight_bytes),
        .inflight_bytes = inflight_bytes,
        .stash_bytes = STASH_BYTES,
        .stash_ready = on_stash,
        .ended = on_ended,
    };
    front_connect(f);
}

void front_free(struct front *f)
{
    vhost_session_free(f->session);
    assert_int_equal(f->held_count, 0);
    loop_free(f->loop);
    free(f->args.state);
    free(f->args.inflight);
    munmap(f->mem, MEM_BYTES);
    close(f->mem_fd);
    if (f->sock >= 0) close(f->sock);
}

void front_kill(struct front *f)
{
    vhost_session_release(f->session);
    free(f->session);
    f->session = NULL;
    for (unsigned i = 0; i < QUEUES; i++) {
        guest_map_unref(f->fake.queue[i].map);
        f->fake.queue[i].map = NULL;
        f->fake.queue[i].running = false;
    }
    f->fake.features = 0;
}

int front_resume(struct front *f, struct errmsg *e)
{
    const char *names[1024];
    int fds[1024];
    for (unsigned i = 0; i < f->held_count; i++) {
        names[i] = f->held[i].name;
        fds[i] = fcntl(f->held[i].fd, F_DUPFD_CLOEXEC, 0);
        assert_true(fds[i] >= 0);
    }
    return vhost_session_resume(&f->session, &f->args, names, fds, f->held_count, e);
}

/* ---- talking ---- */

void front_send(struct front *f, uint32_t request, uint32_t flags, const void *payload, size_t bytes, const int *fds,
                unsigned count)
{
    char buf[sizeof(struct vu_header) + VU_PAYLOAD_MAX + 64];
    struct vu_header head = {request, flags, (uint32_t)bytes};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(VU_FDS_MAX * sizeof(int))];
    } control = {0};
    memcpy(buf, &head, sizeof head);
    if (bytes) memcpy(buf + sizeof head, payload, bytes);
    struct iovec iov = {buf, sizeof head + bytes};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count) {
        h.msg_control = control.room;
        h.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_len = CMSG_LEN(count * sizeof(int));
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    }
    assert_int_equal(sendmsg(f->sock, &h, MSG_NOSIGNAL), iov.iov_len);
}

void front_pump(struct front *f)
{
    for (int i = 0; i < 64; i++)
        assert_int_equal(loop_run_once(f->loop, 0), 0);
}

int front_answer(struct front *f, uint32_t request, void *payload, size_t bytes, int *fd)
{
    struct vu_header head;
    char control[CMSG_SPACE(4 * sizeof(int))];
    struct iovec iov[2] = {{&head, sizeof head}, {payload, bytes}};
    struct msghdr h = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof control};
    /* Never more than one answer is on its way here, so this takes exactly it. */
    ssize_t n = recvmsg(f->sock, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EAGAIN) return -1;
    assert_true(n >= (ssize_t)sizeof head);
    assert_int_equal(head.request, request);
    assert_int_equal(head.flags, VU_VERSION | VU_FLAG_REPLY);
    assert_int_equal(head.size, (size_t)n - sizeof head);
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);
    assert_true((c != NULL) == (fd != NULL));
    if (c) memcpy(fd, CMSG_DATA(c), sizeof *fd);
    f->inbox++;
    return (int)head.size;
}

void front_tell(struct front *f, uint32_t request, const void *payload, size_t bytes, const int *fds, unsigned count)
{
    char none[8];
    front_send(f, request, VU_VERSION, payload, bytes, fds, count);
    front_pump(f);
    if (f->ended) fail_msg("session ended: %s", f->why);
    assert_int_equal(front_answer(f, request, none, sizeof none, NULL), -1);
}

uint64_t front_ack(struct front *f, uint32_t request, const void *payload, size_t bytes, const int *fds, unsigned count)
{
    uint64_t v = ~UINT64_C(0);
    front_send(f, request, VU_VERSION | VU_FLAG_NEED_REPLY, payload, bytes, fds, count);
    front_pump(f);
    if (f->ended) fail_msg("session ended: %s", f->why);
    assert_int_equal(front_answer(f, request, &v, sizeof v, NULL), sizeof v);
    return v;
}

uint64_t front_get_u64(struct front *f, uint32_t request)
{
    uint64_t v = ~UINT64_C(0);
    front_send(f, request, VU_VERSION, NULL, 0, NULL, 0);
    front_pump(f);
    if (f->ended) fail_msg("session ended: %s", f->why);
    assert_int_equal(front_answer(f, request, &v, sizeof v, NULL), sizeof v);
    return v;
}

void front_assert_ended(struct front *f, const char *text)
{
    front_pump(f);
    assert_true(f->ended);
    if (!strstr(f->why, text)) fail_msg("\"%s\" does not say \"%s\"", f->why, text);
    assert_int_equal(f->held_count, 0);
    for (unsigned i = 0; i < QUEUES; i++)
        assert_false(f->fake.queue[i].running);
}

uint64_t front_ack_u64(struct front *f, uint32_t request, uint64_t value)
{
    return front_ack(f, request, &value, sizeof value, NULL, 0);
}

uint64_t front_ack_state(struct front *f, uint32_t request, uint32_t index, uint32_t num)
{
    struct vu_vring_state v = {index, num};
    return front_ack(f, request, &v, sizeof v, NULL, 0);
}

uint64_t front_ack_ring_fd(struct front *f, uint32_t request, uint64_t value, int fd)
{
    return front_ack(f, request, &value, sizeof value, &fd, fd >= 0 ? 1 : 0);
}

uint64_t front_ack_addr(struct front *f, uint32_t index, uint64_t user_base)
{
    struct vu_vring_addr a = {.index = index,
                              .descriptor = user_base,
                              .available = user_base + 0x400,
                              .used = user_base + 0x800,
                              .log = ~UINT64_C(0)};
    return front_ack(f, VU_SET_VRING_ADDR, &a, sizeof a, NULL, 0);
}

void front_negotiate(struct front *f, uint64_t features, uint64_t protocol_features)
{
    front_tell(f, VU_SET_OWNER, NULL, 0, NULL, 0);
    assert_int_equal(front_ack_u64(f, VU_SET_PROTOCOL_FEATURES, protocol_features), 0);
    assert_int_equal(front_ack_u64(f, VU_SET_FEATURES, features), 0);
}

void front_share_memory(struct front *f)
{
    struct {
        struct vu_mem_table_head head;
        struct vu_region region[1];
    } table = {{1, 0}, {{MEM_GUEST, MEM_BYTES, MEM_USER, 0}}};
    assert_int_equal(front_ack(f, VU_SET_MEM_TABLE, &table, sizeof table, &f->mem_fd, 1), 0);
}

void front_start_ring(struct front *f, uint32_t index)
{
    int kick = eventfd(0, EFD_CLOEXEC), call = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, index, RING_SIZE), 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_BASE, index, 0), 0);
    assert_int_equal(front_ack_addr(f, index, MEM_USER + index * UINT64_C(4096)), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, index, call), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, index, kick), 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, index, 1), 0);
    assert_true(f->fake.queue[index].running);
    close(kick);
    close(call);
}

uint32_t front_get_base(struct front *f, uint32_t index)
{
    struct vu_vring_state v = {index, 0};
    front_send(f, VU_GET_VRING_BASE, VU_VERSION, &v, sizeof v, NULL, 0);
    front_pump(f);
    assert_int_equal(front_answer(f, VU_GET_VRING_BASE, &v, sizeof v, NULL), sizeof v);
    assert_int_equal(v.index, index);
    return v.num;
}

/* ---- setup and teardown ---- */

unsigned count_open_fds(void)
{
    while (guest_fd_drops() > 0)
        usleep(100);
    return open_fds();
}

static unsigned fds_before;

int front_setup(void **state)
{
    int first = eventfd(0, EFD_CLOEXEC); /* the first signal opens what stays open */
    guest_notify(first, 0);
    close(first);
    fds_before = count_open_fds();
    struct front *f = malloc(sizeof *f);
    front_new(f);
    *state = f;
    return 0;
}

int front_teardown(void **state)
{
    front_free(*state);
    free(*state);
    assert_int_equal(count_open_fds(), fds_before);
    return 0;
}
