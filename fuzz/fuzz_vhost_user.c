/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile front end: the input is a script of messages with descriptors, of raw bytes, and of what may happen in
 * between (a worker that is killed and replaced, an upgrade, a lost connection). Behind the session stands a device
 * that runs real rings on whatever memory it is given.
 *
 * input: commands (enum command, a byte) and their operands. Whatever comes, rings lie in the memory that the
 * device was given, a session that ended holds nothing, and no descriptor is lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "guest/vhost_user.h"
#include "guest/vhost_user_session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_BYTES 65536u
#define USER_ADDR 0x10000u /* short numbers, that the fuzzer finds */
#define QUEUES 3u
#define STASH_BYTES 4096u
#define COMMANDS_MAX 100u
#define HELD_MAX 720u

enum command { MESSAGE, NEGOTIATE, SHARE, RING, KILL, LEAVE, RECONNECT, RAW, CHANGED, CUT, SCRIBBLE, COMMANDS };

struct input {
    const uint8_t *at, *end;
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes && in->at < in->end; i++)
        v |= (uint64_t)*in->at++ << (8 * i);
    return v;
}

struct held {
    char name[32];
    int fd;
};

static struct {
    struct loop *loop;
    struct vhost_args args;
    struct vhost_session *session;
    int sock, mem_fd, event_fd, inflight_fd, channel[2];
    char *memory;
    struct virtq *vq[QUEUES];
    struct held held[HELD_MAX];
    unsigned held_count;
} t;

static void check(bool ok)
{
    if (!ok) abort();
}

/* ---- the device ---- */

static int set_features(void *device, uint64_t features)
{
    (void)device;
    check(!(features & BIT64(VHOST_USER_F_PROTOCOL_FEATURES)));
    return features & BIT64(5) ? -EINVAL : 0;
}

static void get_config(void *device, uint8_t *config)
{
    (void)device;
    memset(config, 0x5a, 60);
}

static int set_config(void *device, uint32_t offset, uint32_t length, const uint8_t *data)
{
    (void)device;
    check(offset <= 60 && length <= 60 - offset);
    uint8_t sum = 0;
    for (uint32_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + data[i]);
    return sum & 1 ? -EINVAL : 0;
}

static void serve(unsigned index)
{
    struct iovec iov[64];
    struct virtq_chain c;
    for (int i = 0; i < 64 && virtq_pop(t.vq[index], &c, iov, 64) > 0; i++)
        virtq_push(t.vq[index], c.id, 0);
    virtq_publish(t.vq[index]);
}

static int queue_start(void *device, const struct guest_queue *q, struct guest_map *map)
{
    (void)device;
    check(q->index < QUEUES && !t.vq[q->index] && map);
    check(q->kick_fd < 0 || fcntl(q->kick_fd, F_GETFD) >= 0);
    check(q->call_fd < 0 || fcntl(q->call_fd, F_GETFD) >= 0);
    int ret = virtq_new(&t.vq[q->index], &q->setup, map, NULL);
    if (ret == 0) serve(q->index);
    return ret;
}

static uint32_t queue_stop(void *device, unsigned index)
{
    (void)device;
    check(index < QUEUES && t.vq[index]);
    uint32_t base = virtq_base(t.vq[index]);
    virtq_free(t.vq[index]);
    t.vq[index] = NULL;
    return base;
}

static void queue_set_call(void *device, unsigned index, int call_fd)
{
    (void)device;
    check(index < QUEUES && t.vq[index]);
    check(call_fd < 0 || fcntl(call_fd, F_GETFD) >= 0);
}

static void set_map(void *device, struct guest_map *map, bool grows)
{
    (void)device;
    (void)grows;
    for (unsigned i = 0; i < QUEUES; i++)
        if (t.vq[i]) virtq_set_map(t.vq[i], map);
}

static void reset(void *device, enum guest_reset kind)
{
    (void)kind;
    (void)device;
    for (unsigned i = 0; i < QUEUES; i++)
        check(!t.vq[i]);
}

static const struct guest_device_ops ops = {
    .queues_max = QUEUES,
    .config_bytes = 60,
    .features = BIT64(5) | BIT64(9) | BIT64(VIRTIO_F_RING_PACKED) | BIT64(VIRTIO_F_RING_EVENT_IDX) |
                BIT64(VIRTIO_F_RING_INDIRECT_DESC),
    .set_features = set_features,
    .get_config = get_config,
    .set_config = set_config,
    .queue_start = queue_start,
    .queue_stop = queue_stop,
    .queue_set_call = queue_set_call,
    .set_map = set_map,
    .reset = reset,
};

static void stash_ready(void *owner, void *mem, size_t bytes, bool resumed)
{
    (void)owner;
    (void)resumed;
    check(mem ? bytes == STASH_BYTES : bytes == 0);
    if (mem) memset(mem, 1, bytes);
}

/* ---- who holds ---- */

static unsigned held_find(const char *name)
{
    unsigned i = 0;
    while (i < t.held_count && strcmp(t.held[i].name, name) != 0)
        i++;
    return i;
}

static void keep(void *arg, const char *name, int fd)
{
    (void)arg;
    unsigned i = held_find(name);
    if (i < t.held_count) close(t.held[i].fd);
    check(i < HELD_MAX);
    if (i == t.held_count) t.held_count++;
    snprintf(t.held[i].name, sizeof t.held[i].name, "%s", name);
    t.held[i].fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    check(t.held[i].fd >= 0);
}

static void drop(void *arg, const char *name)
{
    (void)arg;
    unsigned i = held_find(name);
    check(i < t.held_count);
    close(t.held[i].fd);
    t.held[i] = t.held[--t.held_count];
}

/* ---- the front end ---- */

static void ended(void *owner, const char *why)
{
    (void)owner;
    check(why[0] != '\0');
    vhost_session_free(t.session);
    t.session = NULL;
    check(t.held_count == 0);
}

static void reconnect(void)
{
    int pair[2];
    vhost_session_free(t.session);
    t.session = NULL;
    check(t.held_count == 0);
    if (t.sock >= 0) close(t.sock);
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    t.sock = pair[0];
    check(vhost_session_new(&t.session, &t.args, pair[1], NULL) == 0);
}

static void resume(bool killed)
{
    const char *names[HELD_MAX];
    int fds[HELD_MAX];
    if (killed) {
        vhost_session_release(t.session);
        free(t.session);
        for (unsigned i = 0; i < QUEUES; i++) {
            virtq_free(t.vq[i]);
            t.vq[i] = NULL;
        }
    } else {
        vhost_session_leave(t.session);
    }
    t.session = NULL;
    for (unsigned i = 0; i < t.held_count; i++) {
        names[i] = t.held[i].name;
        fds[i] = fcntl(t.held[i].fd, F_DUPFD_CLOEXEC, 0);
    }
    if (vhost_session_resume(&t.session, &t.args, names, fds, t.held_count, NULL) == 0) return;
    t.session = NULL; /* a front end that spoils its in-flight memory is not resumed */
    while (t.held_count)
        drop(NULL, t.held[0].name);
    reconnect();
}

/* Let the session work, and take what it says. */
static void pump(void)
{
    for (int i = 0; i < 8; i++)
        check(loop_run_once(t.loop, 0) == 0);
    char buf[1024], control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {buf, sizeof buf};
    struct msghdr h;
    do {
        h = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        if (recvmsg(t.sock, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0) return;
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        if (!c) continue;
        if (t.inflight_fd >= 0) close(t.inflight_fd);
        memcpy(&t.inflight_fd, CMSG_DATA(c), sizeof(int));
    } while (true);
}

static void send_message(uint32_t request, uint32_t flags, const void *payload, uint32_t claimed, size_t bytes, int fd,
                         unsigned count)
{
    struct vu_header head = {request, flags, claimed};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(VU_FDS_MAX * sizeof(int))];
    } control = {0};
    struct iovec iov[2] = {{&head, sizeof head}, {(void *)(uintptr_t)payload, bytes}};
    struct msghdr h = {.msg_iov = iov, .msg_iovlen = 2};
    if (count) {
        h.msg_control = control.room;
        h.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        *c = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        for (unsigned i = 0; i < count; i++)
            memcpy(CMSG_DATA(c) + i * sizeof fd, &fd, sizeof fd);
    }
    ssize_t n = sendmsg(t.sock, &h, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)n; /* no room, or the session is over: the input goes on */
}

static void say(uint32_t request, const void *payload, uint32_t bytes, int fd)
{
    send_message(request, VU_VERSION, payload, bytes, bytes, fd, fd >= 0);
    pump();
}

static int some_fd(unsigned kind)
{
    switch (kind % 5) {
    case 0: return t.mem_fd;
    case 1: return t.event_fd;
    case 2: return t.channel[1];
    case 3: return t.inflight_fd >= 0 ? t.inflight_fd : t.mem_fd;
    default: return t.sock;
    }
}

static void any_message(struct input *in)
{
    uint32_t request = (uint32_t)take(in, 1), flags = (uint32_t)take(in, 1);
    unsigned fds = (unsigned)take(in, 1);
    uint32_t bytes = (uint32_t)take(in, 1);
    uint8_t payload[VU_PAYLOAD_MAX + 256] = {0};
    if (bytes == 255) bytes = (uint32_t)take(in, 2) % (uint32_t)sizeof payload;
    for (uint32_t i = 0; i < bytes && in->at < in->end; i++)
        payload[i] = *in->at++;
    send_message(request, flags, payload, bytes, bytes, some_fd(fds >> 4), fds & 15);
}

static void negotiate(struct input *in)
{
    uint64_t features = take(in, 1) & 1 ? BIT64(VIRTIO_F_RING_PACKED) : 0, protocol = 0x19229;
    features |= BIT64(VHOST_USER_F_PROTOCOL_FEATURES) | BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_F_RING_EVENT_IDX);
    say(VU_SET_PROTOCOL_FEATURES, &protocol, 8, -1);
    say(VU_SET_FEATURES, &features, 8, -1);
}

static void share(struct input *in)
{
    struct {
        struct vu_mem_table_head head;
        struct vu_region region;
    } table = {{1, 0}, {0, MEMORY_BYTES - ((uint64_t)take(in, 1) << 8), USER_ADDR, 0}};
    say(VU_SET_MEM_TABLE, &table, sizeof table, t.mem_fd);
}

static void run_ring(struct input *in)
{
    uint32_t index = (uint32_t)take(in, 1) % (QUEUES + 1);
    struct vu_vring_state size = {index, 1u << (take(in, 1) % 8)}, base = {index, (uint32_t)take(in, 2)},
                          on = {index, 1};
    uint64_t at = USER_ADDR + take(in, 1) * 0x200;
    struct vu_vring_addr a = {.index = index, .descriptor = at, .available = at + 0x800, .used = at + 0xc00};
    uint64_t ring = index;
    say(VU_SET_VRING_NUM, &size, 8, -1);
    say(VU_SET_VRING_BASE, &base, 8, -1);
    say(VU_SET_VRING_ADDR, &a, sizeof a, -1);
    say(VU_SET_VRING_CALL, &ring, 8, t.event_fd);
    say(VU_SET_VRING_KICK, &ring, 8, t.event_fd);
    say(VU_SET_VRING_ENABLE, &on, 8, -1);
}

static void scribble(struct input *in)
{
    unsigned at = (unsigned)take(in, 2) % MEMORY_BYTES, bytes = (unsigned)take(in, 1) % 32;
    uint8_t v[32];
    for (unsigned i = 0; i < bytes; i++)
        v[i] = (uint8_t)take(in, 1);
    ssize_t n = pwrite(t.mem_fd, v, bytes, at);
    (void)n;
}

static void command(struct input *in)
{
    switch ((enum command)(take(in, 1) % COMMANDS)) {
    case MESSAGE: any_message(in); break;
    case NEGOTIATE: negotiate(in); break;
    case SHARE: share(in); break;
    case RING: run_ring(in); break;
    case KILL: resume(true); break;
    case LEAVE: resume(false); break;
    case RECONNECT: reconnect(); break;
    case RAW: {
        char v = (char)take(in, 1);
        ssize_t n = send(t.sock, &v, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)n;
        break;
    }
    case CHANGED: vhost_session_config_changed(t.session); break;
    case CUT: check(ftruncate(t.mem_fd, (off_t)(take(in, 1) << 8)) == 0); break;
    case SCRIBBLE: scribble(in); break;
    case COMMANDS: break;
    }
    pump();
    if (!t.session) reconnect();
}

/* ---- one input ---- */

static int lowest_free_fd(void)
{
    int fd = fcntl(t.event_fd, F_DUPFD_CLOEXEC, 0);
    close(fd);
    return fd;
}

static void once(void)
{
    if (t.loop) return;
    log_setup("fuzz", LOG_LEVEL_ERROR);
    guest_memory_init();
    t.loop = loop_new();
    t.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    size_t inflight_bytes = QUEUES * virtq_inflight_bytes(64, true);
    t.args = (struct vhost_args){.loop = t.loop,
                                 .ops = &ops,
                                 .owner = &t,
                                 .state = calloc(1, vhost_state_bytes()),
                                 .hold = {keep, drop, NULL},
                                 .inflight = aligned_alloc(64, inflight_bytes),
                                 .inflight_bytes = inflight_bytes,
                                 .stash_bytes = STASH_BYTES,
                                 .stash_ready = stash_ready,
                                 .ended = ended};
    check(t.loop && t.event_fd >= 0 && t.args.state && t.args.inflight);
    memset(t.args.inflight, 0, inflight_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    once();
    int free_before = lowest_free_fd();
    t.sock = t.inflight_fd = -1;
    t.mem_fd = memfd_create("fuzz", MFD_CLOEXEC);
    check(ftruncate(t.mem_fd, MEMORY_BYTES) == 0);
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, t.channel) == 0);
    reconnect();
    for (unsigned i = 0; i < COMMANDS_MAX && in.at < in.end; i++)
        command(&in);
    vhost_session_free(t.session);
    t.session = NULL;
    check(t.held_count == 0);
    int mine[] = {t.sock, t.mem_fd, t.inflight_fd, t.channel[0], t.channel[1]};
    for (unsigned i = 0; i < 5; i++)
        if (mine[i] >= 0) close(mine[i]);
    check(lowest_free_fd() == free_before);
    return 0;
}
