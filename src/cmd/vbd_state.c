/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/vbd_state.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "guest/vhost_user.h"
#include "ring/virtq.h"

#define STATE_MAGIC UINT64_C(0x3145544154534443) /* "CDSTATE1" */
#define HEAD_BYTES 4096u

struct state_head {
    uint64_t magic;
    uint32_t queues;
    uint32_t queue_size_max;
    uint64_t vhost_bytes, inflight_bytes, stash_bytes;
    struct worker_kept kept;
};
_Static_assert(sizeof(struct state_head) <= HEAD_BYTES, "it has that room");

static struct state_head *head(const struct worker_state *s)
{
    return (struct state_head *)(void *)s->mem;
}

struct worker_kept *worker_state_kept(const struct worker_state *s)
{
    return &head(s)->kept;
}

void *worker_state_vhost(const struct worker_state *s)
{
    return s->mem + HEAD_BYTES;
}

void *worker_state_inflight(const struct worker_state *s)
{
    return s->mem + HEAD_BYTES + s->vhost_bytes;
}

struct disk_stash worker_state_stash(const struct worker_state *s)
{
    if (s->fd < 0) return (struct disk_stash){0};
    return (struct disk_stash){s->mem + HEAD_BYTES + s->vhost_bytes + s->inflight_bytes, WORKER_STASH_BYTES};
}

static void lay_out(struct worker_state *s, const struct worker_config *c)
{
    size_t split = virtq_inflight_bytes(c->queue_size_max, false);
    size_t packed = virtq_inflight_bytes(c->queue_size_max, true);
    s->vhost_bytes = align_up(vhost_state_bytes(), 4096);
    s->inflight_bytes = c->xen.there ? worker_xen_state_bytes(c->device.queues)
                                     : align_up((split > packed ? split : packed) * c->device.queues, 4096);
    s->bytes = HEAD_BYTES + s->vhost_bytes + s->inflight_bytes + WORKER_STASH_BYTES;
}

static int check(const struct worker_state *s, const struct worker_config *c, struct errmsg *e)
{
    const struct state_head *h = head(s);
    if (h->magic == STATE_MAGIC && h->queues == c->device.queues && h->queue_size_max == c->queue_size_max &&
        h->vhost_bytes == s->vhost_bytes && h->inflight_bytes == s->inflight_bytes &&
        h->stash_bytes == WORKER_STASH_BYTES)
        return 0;
    return errmsg_set(
        e, EPROTO,
        "disk %s: the state left by the last worker is of another layout (%u queues of %u, expected %u of %u)", c->name,
        h->queues, h->queue_size_max, c->device.queues, c->queue_size_max);
}

int worker_state_map(struct worker_state *s, const struct worker_config *c, int fd, bool survives, struct errmsg *e)
{
    bool fresh = fd < 0;
    lay_out(s, c);
    if (fresh && survives) {
        fd = memfd_create("creedence-vbd-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        s->fd = fd;
        if (fd < 0 || ftruncate(fd, (off_t)s->bytes) < 0)
            return errmsg_sys(e, errno, "disk %s: memory for the device's state", c->name);
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    }
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    s->fd = fd;
    if (fd >= 0 && (uint64_t)size != s->bytes)
        return errmsg_set(e, EPROTO, "disk %s: the state left by the last worker has %lld bytes, expected %zu", c->name,
                          (long long)size, s->bytes);
    void *mem = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    if (mem == MAP_FAILED) return errmsg_sys(e, errno, "disk %s: mapping the device's state", c->name);
    s->mem = mem;
    if (!fresh) return check(s, c, e);
    *head(s) = (struct state_head){.magic = STATE_MAGIC,
                                   .queues = c->device.queues,
                                   .queue_size_max = c->queue_size_max,
                                   .vhost_bytes = s->vhost_bytes,
                                   .inflight_bytes = s->inflight_bytes,
                                   .stash_bytes = WORKER_STASH_BYTES};
    return 0;
}

void worker_state_unmap(struct worker_state *s)
{
    if (s->mem) munmap(s->mem, s->bytes);
    if (s->fd >= 0) close(s->fd);
}
