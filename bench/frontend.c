/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vhost-user front end: see frontend.h. Attaching, in the order that QEMU uses:
 *
 *     connect -> features, protocol features, queue number, configuration  (negotiate)
 *             -> in-flight memory, memory regions                          (share_memory)
 *             -> per queue: call, size, base, addresses, kick, enable      (start_queues)
 */
#include "frontend.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <linux/virtio_config.h>

#include "base/checked.h"
#include "base/cleanup.h"

#define BIT(n) (UINT64_C(1) << (n))
#define HUGE_BYTES (UINT64_C(2) << 20)

static const uint64_t device_features =
    BIT(VIRTIO_F_VERSION_1) | BIT(FE_FEATURE_PROTOCOL) | BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) |
    BIT(VIRTIO_BLK_F_GEOMETRY) | BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) |
    BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_CONFIG_WCE) | BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_BLK_F_DISCARD) |
    BIT(VIRTIO_BLK_F_WRITE_ZEROES);

static bool agreed(const struct frontend *f, enum frontend_protocol bit)
{
    return f->protocol & BIT(bit);
}

/* ---- Memory ---- */

void *frontend_alloc(struct frontend *f, uint64_t bytes, uint64_t align)
{
    uint64_t at = align_up(f->mem_used, align);
    if (!range_fits(at, bytes, f->mem_bytes)) return NULL;
    f->mem_used = at + bytes;
    return f->mem + at;
}

static int memory_map(struct frontend *f, uint64_t bytes, struct errmsg *e)
{
    bool huge = f->args.huge_pages;
    uint64_t unit = huge ? HUGE_BYTES : 4096;
    unit *= f->args.regions;
    f->mem_bytes = div_round_up(bytes, unit) * unit;
    f->mem_fd = memfd_create("guest-memory", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));
    if (f->mem_fd < 0) return errmsg_sys(e, errno, "memfd_create");
    if (ftruncate(f->mem_fd, (off_t)f->mem_bytes) < 0) return errmsg_sys(e, errno, "guest memory");
    void *p = mmap(NULL, f->mem_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, f->mem_fd, 0);
    if (p == MAP_FAILED)
        return errmsg_sys(e, errno, "mapping %llu bytes of guest memory%s", (unsigned long long)f->mem_bytes,
                          huge ? " (huge pages: see /proc/sys/vm/nr_hugepages)" : "");
    f->mem = p;
    return 0;
}

/* ---- New, free ---- */

static int args_default(struct frontend_args *a, struct errmsg *e)
{
    if (!a->reply_wait_ms) a->reply_wait_ms = 10000;
    if (!a->queues) a->queues = 1;
    if (!a->depth) a->depth = 1;
    if (!a->slot_bytes) a->slot_bytes = 4096;
    if (!a->regions) a->regions = 1;
    if (a->regions > FRONTEND_REGIONS_MAX)
        return errmsg_set(e, EINVAL, "%u memory regions: at most %u", a->regions, FRONTEND_REGIONS_MAX);
    if (a->other_device) return 0;
    if (a->slot_bytes % 512 || a->segment_bytes % 512)
        return errmsg_set(e, EINVAL, "buffer and segment sizes must be multiples of 512");
    unsigned descs = 2 + (a->segment_bytes ? (a->slot_bytes + a->segment_bytes - 1) / a->segment_bytes : 1);
    unsigned need = fe_queue_entries(a->depth, descs, a->packed, false);
    unsigned least = a->indirect ? fe_queue_entries(a->depth, descs, a->packed, true) : need;
    if (!a->queue_size) a->queue_size = need ? need : least;
    if (least == 0 || a->queue_size < least || a->queue_size > 32768 || !is_power_of_2(a->queue_size))
        return errmsg_set(e, EINVAL, "%u requests of %u descriptors do not fit a queue of %u (%s)", a->depth, descs,
                          a->queue_size, a->indirect ? "indirect" : "direct");
    return 0;
}

static int queues_init(struct frontend *f, struct errmsg *e)
{
    f->queue = calloc(f->args.queues, sizeof *f->queue);
    if (!f->queue) return errmsg_sys(e, ENOMEM, "queues");
    for (unsigned i = 0; i < f->args.queues; i++) {
        int ret = fe_queue_init(&f->queue[i], f, i);
        if (ret < 0) return errmsg_sys(e, -ret, "queue %u", i);
    }
    return 0;
}

static uint64_t memory_needed(const struct frontend_args *a)
{
    if (a->other_device) return a->other_bytes;
    unsigned descs = 2 + (a->segment_bytes ? (a->slot_bytes + a->segment_bytes - 1) / a->segment_bytes : 1);
    uint64_t queue_bytes = fe_queue_bytes(a->queue_size, a->depth, descs);
    return a->queues * (queue_bytes + align_up((uint64_t)a->depth * a->slot_bytes, 4096));
}

int frontend_new(struct frontend **out, const struct frontend_args *args, struct errmsg *e)
{
    struct frontend *f = calloc(1, sizeof *f);
    if (!f) return errmsg_sys(e, ENOMEM, "front end");
    f->args = *args;
    f->sock = f->listen_fd = f->mem_fd = f->inflight_fd = f->backend_fd = -1;
    f->args.socket_path = strdup(args->socket_path ? args->socket_path : "");
    int ret = f->args.socket_path ? args_default(&f->args, e) : -ENOMEM;
    if (ret == 0) ret = memory_map(f, memory_needed(&f->args), e);
    if (ret == 0 && !f->args.other_device) ret = queues_init(f, e);
    if (ret < 0) {
        frontend_free(f);
        return ret;
    }
    *out = f;
    return 0;
}

static void close_slot(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

void frontend_hangup(struct frontend *f)
{
    close_slot(&f->sock);
    close_slot(&f->backend_fd);
}

void frontend_free(struct frontend *f)
{
    if (!f) return;
    frontend_hangup(f);
    for (unsigned i = 0; f->queue && i < f->args.queues; i++) {
        if (f->queue[i].f) fe_queue_clear(&f->queue[i]);
    }
    free(f->queue);
    if (f->mem) munmap(f->mem, f->mem_bytes);
    close_slot(&f->mem_fd);
    close_slot(&f->inflight_fd);
    if (f->listen_fd >= 0) unlink(f->args.socket_path);
    close_slot(&f->listen_fd);
    free((void *)(uintptr_t)f->args.socket_path);
    free(f);
}

bool frontend_alive(const struct frontend *f)
{
    struct pollfd p = {.fd = f->sock, .events = POLLRDHUP};
    return f->sock >= 0 && poll(&p, 1, 0) >= 0 && !(p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* ---- Connecting ---- */

static int socket_address(const char *path, struct sockaddr_un *sa, struct errmsg *e)
{
    *sa = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof sa->sun_path) return errmsg_set(e, ENAMETOOLONG, "socket path '%s'", path);
    memcpy(sa->sun_path, path, strlen(path));
    return 0;
}

static int connect_once(struct frontend *f, const struct sockaddr_un *sa)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    if (connect(fd, (const struct sockaddr *)sa, sizeof *sa) < 0) {
        int err = errno;
        close(fd);
        return -err;
    }
    f->sock = fd;
    return 0;
}

static int accept_once(struct frontend *f, const struct sockaddr_un *sa, int wait_ms)
{
    if (f->listen_fd < 0) {
        autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) return -errno;
        unlink(sa->sun_path); /* left by an earlier run */
        if (bind(fd, (const struct sockaddr *)sa, sizeof *sa) < 0 || listen(fd, 1) < 0) return -errno;
        f->listen_fd = steal_fd(&fd);
    }
    struct pollfd p = {.fd = f->listen_fd, .events = POLLIN};
    int ready = poll(&p, 1, wait_ms);
    if (ready == 0) return -ETIMEDOUT;
    int fd = ready < 0 ? -1 : accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) return -errno;
    f->sock = fd;
    return 0;
}

static uint64_t clock_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

int frontend_connect(struct frontend *f, struct errmsg *e)
{
    struct sockaddr_un sa;
    int ret = socket_address(f->args.socket_path, &sa, e);
    if (ret < 0) return ret;
    unsigned wait_ms = f->args.connect_wait_ms;
    frontend_hangup(f);
    if (f->args.listen) {
        ret = accept_once(f, &sa, wait_ms ? (int)wait_ms : -1);
        return ret < 0 ? errmsg_sys(e, -ret, "waiting for a back end on %s", sa.sun_path) : 0;
    }
    uint64_t deadline_ms = clock_ms() + wait_ms;
    for (;;) {
        ret = connect_once(f, &sa);
        if (ret == 0) return 0;
        bool may_come = ret == -ENOENT || ret == -ECONNREFUSED || ret == -EAGAIN;
        if (!may_come || clock_ms() >= deadline_ms) return errmsg_sys(e, -ret, "connecting to %s", sa.sun_path);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}

/* ---- Negotiating ---- */

static int ask_u64(struct frontend *f, enum frontend_request request, uint64_t *v, struct errmsg *e)
{
    int ret = frontend_ask(f, request, NULL, 0, v, sizeof *v, NULL, e);
    if (ret >= 0 && ret != sizeof *v)
        return errmsg_set(e, EPROTO, "%s: %d bytes, expected 8", frontend_request_name(request), ret);
    return ret < 0 ? ret : 0;
}

static int tell_u64(struct frontend *f, enum frontend_request request, uint64_t v, struct errmsg *e)
{
    return frontend_tell(f, request, &v, sizeof v, NULL, 0, e);
}

static uint64_t protocol_wanted(const struct frontend *f)
{
    uint64_t want = BIT(FE_PROTO_MQ) | BIT(FE_PROTO_REPLY_ACK) | BIT(FE_PROTO_CONFIG) | BIT(FE_PROTO_RESET_DEVICE) |
                    BIT(FE_PROTO_STATUS);
    if (!f->args.no_inflight) want |= BIT(FE_PROTO_INFLIGHT);
    if (f->args.mem_slots) want |= BIT(FE_PROTO_MEM_SLOTS);
    if (f->args.backend_channel) want |= BIT(FE_PROTO_BACKEND_REQ);
    return want;
}

static int negotiate_protocol(struct frontend *f, struct errmsg *e)
{
    uint64_t offered;
    f->queues_max = 1;
    int ret = ask_u64(f, FE_GET_PROTOCOL_FEATURES, &offered, e);
    if (ret < 0) return ret;
    /* Not yet in force: this message itself is not acknowledged unless the feature was agreed before. */
    uint64_t accepted = offered & protocol_wanted(f);
    ret = tell_u64(f, FE_SET_PROTOCOL_FEATURES, accepted, e);
    if (ret < 0) return ret;
    f->protocol = accepted;
    if (!agreed(f, FE_PROTO_MQ)) return 0;
    uint64_t n;
    ret = ask_u64(f, FE_GET_QUEUE_NUM, &n, e);
    if (ret == 0) f->queues_max = n > UINT32_MAX ? UINT32_MAX : (unsigned)n;
    return ret;
}

static int negotiate_backend_channel(struct frontend *f, struct errmsg *e)
{
    int pair[2];
    if (!agreed(f, FE_PROTO_BACKEND_REQ)) return 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return errmsg_sys(e, errno, "socketpair");
    f->backend_fd = pair[0];
    int ret = frontend_tell(f, FE_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1, e);
    close(pair[1]);
    return ret;
}

static int features_choose(struct frontend *f, struct errmsg *e)
{
    uint64_t want = device_features;
    if (f->args.other_device) want = f->args.other_features | BIT(VIRTIO_F_VERSION_1) | BIT(FE_FEATURE_PROTOCOL);
    if (f->args.packed) want |= BIT(VIRTIO_F_RING_PACKED);
    if (f->args.event_idx) want |= BIT(VIRTIO_RING_F_EVENT_IDX);
    if (f->args.indirect) want |= BIT(VIRTIO_RING_F_INDIRECT_DESC);
    uint64_t accepted = f->features_offered & want;
    if (!(accepted & BIT(VIRTIO_F_VERSION_1)))
        return errmsg_set(e, ENOTSUP, "%s: the back end does not offer VERSION_1", f->args.socket_path);
    if (f->args.packed && !(accepted & BIT(VIRTIO_F_RING_PACKED)))
        return errmsg_set(e, ENOTSUP, "%s: the back end does not offer packed virtqueues", f->args.socket_path);
    if (f->attached_before && (f->features & ~accepted))
        return errmsg_set(e, EPROTO, "%s: features 0x%llx were agreed before and are not offered now",
                          f->args.socket_path, (unsigned long long)(f->features & ~accepted));
    if (!f->attached_before) f->features = accepted;
    return 0;
}

/* Rings follow what was agreed, when that is known for the first time. */
static int features_apply(struct frontend *f, struct errmsg *e)
{
    bool indirect = f->features & BIT(VIRTIO_RING_F_INDIRECT_DESC);
    bool event_idx = f->features & BIT(VIRTIO_RING_F_EVENT_IDX);
    const struct fe_queue *q0 = &f->queue[0];
    if (!indirect && fe_queue_entries(q0->slot_count, q0->slot_descs_max, q0->packed, false) > q0->size)
        return errmsg_set(e, ENOTSUP, "%s: without indirect descriptors a queue of %u is too small for this depth",
                          f->args.socket_path, q0->size);
    for (unsigned i = 0; !f->attached_before && i < f->args.queues; i++) {
        fe_queue_features(&f->queue[i], event_idx, indirect);
        fe_queue_restart(&f->queue[i]);
    }
    return 0;
}

int frontend_read_config(struct frontend *f, struct errmsg *e)
{
    /* As far as write-zeroes: back ends older than what follows refuse to be asked for more. */
    struct {
        uint32_t offset, size, flags;
        uint8_t c[offsetof(struct virtio_blk_config, max_secure_erase_sectors)];
    } __attribute__((packed)) msg = {.size = sizeof msg.c};
    if (!agreed(f, FE_PROTO_CONFIG)) return errmsg_set(e, ENOTSUP, "the back end has no CONFIG protocol feature");
    int ret = frontend_ask(f, FE_GET_CONFIG, &msg, sizeof msg, &msg, sizeof msg, NULL, e);
    if (ret < 0) return ret;
    if (ret != sizeof msg) return errmsg_set(e, EPROTO, "GET_CONFIG: %d bytes, expected %zu", ret, sizeof msg);
    memcpy(&f->config, msg.c, sizeof msg.c);
    f->capacity_bytes = f->config.capacity * 512;
    return 0;
}

int frontend_negotiate(struct frontend *f, struct errmsg *e)
{
    f->protocol = 0;
    f->capacity_bytes = 0;
    int ret = ask_u64(f, FE_GET_FEATURES, &f->features_offered, e);
    if (ret == 0) ret = features_choose(f, e);
    if (ret == 0 && (f->features & BIT(FE_FEATURE_PROTOCOL))) ret = negotiate_protocol(f, e);
    if (ret == 0) ret = frontend_tell(f, FE_SET_OWNER, NULL, 0, NULL, 0, e);
    unsigned units = f->args.other_device ? f->args.other_units : f->args.queues;
    if (ret == 0 && f->queues_max < units)
        ret = errmsg_set(e, ENOTSUP, "%s: %u queues asked for, the back end has %u", f->args.socket_path, units,
                         f->queues_max);
    if (ret == 0) ret = negotiate_backend_channel(f, e);
    if (ret == 0 && agreed(f, FE_PROTO_CONFIG) && !f->args.other_device) ret = frontend_read_config(f, e);
    if (ret == 0 && !f->args.other_device) ret = features_apply(f, e);
    if (ret == 0) ret = tell_u64(f, FE_SET_FEATURES, f->features, e);
    return ret;
}

/* ---- Memory and in-flight tracking ---- */

static struct fe_msg_region region_desc(const struct frontend *f, unsigned i)
{
    uint64_t size = f->mem_bytes / f->args.regions;
    return (struct fe_msg_region){.guest_addr = FRONTEND_GPA_BASE + i * size,
                                  .size_bytes = size,
                                  .user_addr = (uint64_t)(uintptr_t)f->mem + i * size,
                                  .file_offset = i * size};
}

static int share_by_slots(struct frontend *f, struct errmsg *e)
{
    for (unsigned i = 0; i < f->args.regions; i++) {
        struct {
            uint64_t padding;
            struct fe_msg_region r;
        } msg = {.r = region_desc(f, i)};
        int ret = frontend_tell(f, FE_ADD_MEM_REG, &msg, sizeof msg, &f->mem_fd, 1, e);
        if (ret < 0) return ret;
    }
    return 0;
}

static int share_by_table(struct frontend *f, struct errmsg *e)
{
    struct {
        uint32_t count, padding;
        struct fe_msg_region r[FRONTEND_REGIONS_MAX];
    } msg = {.count = f->args.regions};
    int fds[FRONTEND_REGIONS_MAX];
    for (unsigned i = 0; i < f->args.regions; i++) {
        msg.r[i] = region_desc(f, i);
        fds[i] = f->mem_fd;
    }
    return frontend_tell(f, FE_SET_MEM_TABLE, &msg, 8 + f->args.regions * sizeof msg.r[0], fds, f->args.regions, e);
}

static int inflight_get(struct frontend *f, struct errmsg *e)
{
    f->inflight =
        (struct fe_msg_inflight){.num_queues = (uint16_t)f->args.queues, .queue_size = (uint16_t)f->args.queue_size};
    struct fe_msg_inflight answer;
    int fd;
    int ret = frontend_ask(f, FE_GET_INFLIGHT_FD, &f->inflight, sizeof f->inflight, &answer, sizeof answer, &fd, e);
    if (ret < 0) return ret;
    if (ret != sizeof answer || fd < 0 || answer.mmap_size == 0) {
        if (fd >= 0) close(fd);
        return errmsg_set(e, EPROTO, "GET_INFLIGHT_FD: %d bytes, %s descriptor", ret, fd < 0 ? "no" : "one");
    }
    f->inflight.mmap_size = answer.mmap_size;
    f->inflight.mmap_offset = answer.mmap_offset;
    f->inflight_fd = fd;
    return 0;
}

static int share_inflight(struct frontend *f, struct errmsg *e)
{
    if (!agreed(f, FE_PROTO_INFLIGHT)) return 0;
    int ret = f->inflight_fd >= 0 ? 0 : inflight_get(f, e);
    if (ret < 0) return ret;
    return frontend_tell(f, FE_SET_INFLIGHT_FD, &f->inflight, sizeof f->inflight, &f->inflight_fd, 1, e);
}

int frontend_share_memory(struct frontend *f, struct errmsg *e)
{
    int ret = share_inflight(f, e);
    if (ret < 0) return ret;
    return agreed(f, FE_PROTO_MEM_SLOTS) ? share_by_slots(f, e) : share_by_table(f, e);
}

/* ---- Queues ---- */

struct msg_vring_state {
    uint32_t index, num;
};

struct msg_vring_addr {
    uint32_t index, flags;
    uint64_t desc_user, used_user, avail_user, log;
};

int frontend_start_ring(struct frontend *f, const struct frontend_ring *r, struct errmsg *e)
{
    uint64_t index = r->index;
    struct msg_vring_state num = {r->index, r->size}, base = {r->index, r->base}, on = {r->index, 1};
    struct msg_vring_addr addr = {.index = r->index,
                                  .desc_user = (uint64_t)(uintptr_t)r->desc,
                                  .used_user = (uint64_t)(uintptr_t)r->device,
                                  .avail_user = (uint64_t)(uintptr_t)r->driver};
    int ret = frontend_tell(f, FE_SET_VRING_CALL, &index, sizeof index, &r->call_fd, 1, e);
    if (ret == 0) ret = frontend_tell(f, FE_SET_VRING_NUM, &num, sizeof num, NULL, 0, e);
    if (ret == 0) ret = frontend_tell(f, FE_SET_VRING_BASE, &base, sizeof base, NULL, 0, e);
    if (ret == 0) ret = frontend_tell(f, FE_SET_VRING_ADDR, &addr, sizeof addr, NULL, 0, e);
    if (ret == 0) ret = frontend_tell(f, FE_SET_VRING_KICK, &index, sizeof index, &r->kick_fd, 1, e);
    if (ret == 0 && (f->features & BIT(FE_FEATURE_PROTOCOL)))
        ret = frontend_tell(f, FE_SET_VRING_ENABLE, &on, sizeof on, NULL, 0, e);
    return errmsg_prefix(e, ret, "queue %u", r->index);
}

int frontend_driver_ok(struct frontend *f, struct errmsg *e)
{
    uint64_t status =
        VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
    int ret = agreed(f, FE_PROTO_STATUS) ? tell_u64(f, FE_SET_STATUS, status, e) : 0;
    if (ret == 0) f->attached_before = true;
    return ret;
}

int frontend_start_queues(struct frontend *f, struct errmsg *e)
{
    for (unsigned i = 0; i < f->args.queues; i++) {
        struct fe_queue *q = &f->queue[i];
        /* The back end cannot know what was in flight: all of it is submitted anew. */
        if (f->attached_before && f->inflight_fd < 0) fe_queue_restart(q);
        struct frontend_ring r = {.index = q->index,
                                  .size = q->size,
                                  .desc = q->ring_desc,
                                  .driver = q->ring_driver,
                                  .device = q->ring_device,
                                  .base = fe_queue_base(q),
                                  .kick_fd = q->kick_fd,
                                  .call_fd = q->call_fd};
        int ret = frontend_start_ring(f, &r, e);
        if (ret < 0) return ret;
        fe_queue_kick(q); /* a ring starts with its first kick */
    }
    return frontend_driver_ok(f, e);
}

static int attach_once(struct frontend *f, struct errmsg *e)
{
    int ret = frontend_connect(f, e);
    if (ret == 0) ret = frontend_negotiate(f, e);
    if (ret == 0) ret = frontend_share_memory(f, e);
    if (ret == 0) ret = frontend_start_queues(f, e);
    if (ret < 0) frontend_hangup(f);
    return ret;
}

int frontend_attach(struct frontend *f, struct errmsg *e)
{
    uint64_t deadline_ms = clock_ms() + f->args.connect_wait_ms;
    int ret;
    do {
        ret = attach_once(f, e); /* a back end that dies in the middle may come back too */
    } while (ret == -EPIPE && clock_ms() < deadline_ms);
    return ret;
}

int frontend_detach(struct frontend *f, struct errmsg *e)
{
    int ret = f->sock < 0 ? errmsg_set(e, ENOTCONN, "not attached") : 0;
    for (unsigned i = 0; ret == 0 && i < f->args.queues; i++) {
        struct msg_vring_state s = {.index = i};
        ret = frontend_ask(f, FE_GET_VRING_BASE, &s, sizeof s, &s, sizeof s, NULL, e);
        if (ret >= 0) ret = ret == sizeof s ? 0 : errmsg_set(e, EPROTO, "GET_VRING_BASE: %d bytes, expected 8", ret);
    }
    frontend_hangup(f);
    return ret;
}

/* ---- The back end's own channel ---- */

int frontend_poll_backend(struct frontend *f, struct errmsg *e)
{
    enum { BACKEND_CONFIG_CHANGE = 2 };
    struct fe_msg_header h;
    if (f->backend_fd < 0) return 0;
    ssize_t n = recv(f->backend_fd, &h, sizeof h, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return 0;
    if (n <= 0) return errmsg_sys(e, n ? errno : EPIPE, "the back end's channel");
    if (n != sizeof h || h.request != BACKEND_CONFIG_CHANGE || h.size_bytes != 0)
        return errmsg_set(e, EPROTO, "the back end's channel: request %u with %u bytes", h.request, h.size_bytes);
    if (h.flags & FE_FLAG_NEED_REPLY) {
        struct {
            struct fe_msg_header h;
            uint64_t result;
        } __attribute__((packed))
        answer = {.h = {.request = h.request, .flags = FE_FLAG_VERSION | FE_FLAG_REPLY, .size_bytes = 8}};
        if (send(f->backend_fd, &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer)
            return errmsg_sys(e, errno, "answering on the back end's channel");
    }
    int ret = frontend_read_config(f, e);
    return ret < 0 ? ret : 1;
}
