/* SPDX-License-Identifier: Apache-2.0 */
/* The device: features, configuration space, and orders to its queues (control thread). */
#include "vbd/vbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "vbd/queue.h"

#define BIT(n) (UINT64_C(1) << (n))

static uint64_t features_of(const struct vbd_config *c)
{
    uint64_t f = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_INDIRECT_DESC) | BIT(VIRTIO_F_RING_EVENT_IDX) |
                 BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY) |
                 BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE);
    if (c->packed) f |= BIT(VIRTIO_F_RING_PACKED);
    if (c->size_max_bytes) f |= BIT(VIRTIO_BLK_F_SIZE_MAX);
    if (c->queues > 1) f |= BIT(VIRTIO_BLK_F_MQ);
    if (c->read_only) f |= BIT(VIRTIO_BLK_F_RO);
    else f |= BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES);
    return f;
}

/* Without FLUSH the driver cannot ask for durability, so every write gets it (5.2.5.1). */
static bool write_through_by(const struct vbd *d, uint64_t features)
{
    const struct vbd_kept *kept = d->config.kept;
    if (!(features & BIT(VIRTIO_BLK_F_FLUSH))) return true;
    return kept->cache_mode_set ? kept->write_through : d->config.write_through;
}

static int op_set_features(void *device, uint64_t features)
{
    struct vbd *d = device;
    d->features = features;
    atomic_store(&d->size_max_bytes, features & BIT(VIRTIO_BLK_F_SIZE_MAX) ? d->config.size_max_bytes : 0);
    atomic_store(&d->write_through, write_through_by(d, features));
    return 0;
}

static void op_get_config(void *device, uint8_t *config)
{
    struct vbd *d = device;
    const struct vbd_config *c = &d->config;
    uint32_t sectors_per_block = c->sector_bytes / DISK_SECTOR_BYTES;
    uint64_t capacity = atomic_load(&d->capacity_bytes) / DISK_SECTOR_BYTES;
    uint32_t range_max = (uint32_t)min_u64(UINT32_MAX / sectors_per_block, UINT64_C(1) << 22) * sectors_per_block;
    struct virtio_blk_config blk = {
        .capacity = le64_make(capacity),
        .size_max = le32_make(c->size_max_bytes),
        .seg_max = le32_make(c->seg_max),
        .blk_size = le32_make(c->sector_bytes),
        .physical_block_exp = c->sector_bytes < 4096 ? 3 : 0,
        .min_io_size = le16_make((uint16_t)(4096 / c->sector_bytes)),
        .opt_io_size = le32_make(c->io_opt_bytes / c->sector_bytes),
        .writeback = !atomic_load(&d->write_through),
        .num_queues = le16_make((uint16_t)c->queues),
        .max_discard_sectors = le32_make(range_max),
        .max_discard_seg = le32_make(VBD_DISCARD_SEGMENTS),
        .discard_sector_alignment = le32_make((c->io_opt_bytes ? c->io_opt_bytes : 4096u) / DISK_SECTOR_BYTES),
        .max_write_zeroes_sectors = le32_make(range_max),
        .max_write_zeroes_seg = le32_make(VBD_DISCARD_SEGMENTS),
        .write_zeroes_may_unmap = 1,
    };
    memcpy(config, &blk, sizeof blk);
}

/* Only the cache mode may be written (5.2.4). */
static int op_set_config(void *device, uint32_t offset, uint32_t length, const uint8_t *data)
{
    struct vbd *d = device;
    if (offset != offsetof(struct virtio_blk_config, writeback) || length != 1 || data[0] > 1) return -EINVAL;
    if (!(d->features & BIT(VIRTIO_BLK_F_CONFIG_WCE))) return -EINVAL;
    bool through = !data[0];
    /* What was written under write-back must not be less durable than what follows; requests in
     * flight see either mode, and the driver flushes by itself when it leaves write-back. */
    atomic_store(&d->write_through, through);
    *d->config.kept = (struct vbd_kept){.cache_mode_set = 1, .write_through = through};
    return 0;
}

void vbd_keep_in(struct vbd *d, struct vbd_kept *kept, bool filled)
{
    if (!filled) *kept = *d->config.kept;
    d->config.kept = kept;
    if (filled) atomic_store(&d->write_through, write_through_by(d, d->features));
}

static int op_queue_start(void *device, const struct guest_queue *q, struct guest_map *map)
{
    struct vbd *d = device;
    if (q->index >= d->config.queues) return -EINVAL;
    return vbd_queue_start(&d->queue[q->index], &vbd_virtio_ops, q, map);
}

static uint32_t op_queue_stop(void *device, unsigned index)
{
    struct vbd *d = device;
    return index < d->config.queues ? vbd_queue_stop(&d->queue[index]) : 0;
}

static void op_queue_set_call(void *device, unsigned index, int call_fd)
{
    struct vbd *d = device;
    if (index < d->config.queues) vbd_queue_set_call(&d->queue[index], call_fd);
}

static void op_set_map(void *device, struct guest_map *map, bool grows)
{
    struct vbd *d = device;
    for (unsigned i = 0; i < d->config.queues; i++)
        vbd_queue_set_map(&d->queue[i], map, grows);
}

static void op_reset(void *device, enum guest_reset kind)
{
    struct vbd *d = device;
    uint64_t one = 1;
    d->features = 0;
    atomic_store(&d->size_max_bytes, 0);
    /* A mode that is safer than what was configured stays over a status of 0 and the end of a connection: QEMU resets a device
     * that is merely paused, and connects again to one that was restarted, and does not write the mode again; its guest
     * sends no flushes. RESET_DEVICE is a driver that starts anew. */
    if (kind == GUEST_RESET_DEVICE || !d->config.kept->write_through) *d->config.kept = (struct vbd_kept){0};
    atomic_store(&d->write_through, d->config.write_through || d->config.kept->write_through);
    bool was_broken = atomic_exchange(&d->broken_why, NULL) != NULL;
    vbd_broken_take(d);
    if (was_broken && write(d->broken_fd, &one, sizeof one) < 0)
        log_limited(LOG_LEVEL_WARN, "eventfd: %s", strerror(errno));
}

static int config_check(const struct vbd_config *c, struct errmsg *e)
{
    assert(c->kept);
    if (c->queues < 1 || c->queues > VBD_QUEUES_MAX)
        return errmsg_set(e, EINVAL, "disk %s: %u queues, expected 1 to %u", c->name, c->queues, VBD_QUEUES_MAX);
    if (c->sector_bytes != 512 && c->sector_bytes != 4096)
        return errmsg_set(e, EINVAL, "disk %s: sector size %u, expected 512 or 4096", c->name, c->sector_bytes);
    if (c->seg_max < 1 || c->seg_max > VBD_SEG_MAX_LIMIT)
        return errmsg_set(e, EINVAL, "disk %s: seg_max %u, expected 1 to %u", c->name, c->seg_max, VBD_SEG_MAX_LIMIT);
    if (c->size_max_bytes && c->size_max_bytes < 4096)
        return errmsg_set(e, EINVAL, "disk %s: size_max %u, expected 0 (no limit) or at least 4096", c->name,
                          c->size_max_bytes);
    return 0;
}

_Static_assert(VBD_QUEUES_MAX <= 64, "a bit each in broken_queues");

int vbd_new(struct vbd **out, const struct vbd_config *c, struct layer *leaf, const struct vbd_chains *chains,
            const struct engine_maker *maker, struct errmsg *e)
{
    int ret = config_check(c, e);
    if (ret < 0) return ret;
    struct vbd *d = calloc(1, sizeof *d + c->queues * sizeof d->queue[0]);
    if (!d) return errmsg_set(e, ENOMEM, "disk %s: out of memory", c->name);
    d->broken_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (d->broken_fd < 0) {
        ret = errmsg_sys(e, errno, "disk %s: eventfd", c->name);
        free(d);
        return ret;
    }
    d->config = *c;
    d->leaf = leaf;
    d->chains = *chains;
    d->maker = maker;
    atomic_init(&d->write_through, c->write_through || c->kept->write_through);
    atomic_init(&d->poll_ns, c->poll_ns);
    d->ops = (struct guest_device_ops){
        .queues_max = c->queues,
        .config_bytes = sizeof(struct virtio_blk_config),
        .features = features_of(c),
        .set_features = op_set_features,
        .get_config = op_get_config,
        .set_config = op_set_config,
        .queue_start = op_queue_start,
        .queue_stop = op_queue_stop,
        .queue_set_call = op_queue_set_call,
        .set_map = op_set_map,
        .reset = op_reset,
    };
    for (unsigned i = 0; i < c->queues; i++)
        d->queue[i] = (struct vbd_queue){.vbd = d, .index = i, .kick_fd = -1, .call_fd = -1};
    vbd_size_changed(d);
    *out = d;
    return 0;
}

void vbd_free(struct vbd *d)
{
    if (!d) return;
    for (unsigned i = 0; i < d->config.queues; i++)
        vbd_queue_end(&d->queue[i]);
    close(d->broken_fd);
    free(d);
}

const struct guest_device_ops *vbd_guest_ops(struct vbd *d)
{
    return &d->ops;
}

void vbd_size_changed(struct vbd *d)
{
    atomic_store(&d->capacity_bytes, align_down(layer_size(d->leaf), d->config.sector_bytes));
}

void vbd_call_queues(struct vbd *d, void *call_arg)
{
    for (unsigned i = 0; i < d->config.queues; i++)
        vbd_queue_call(&d->queue[i], call_arg);
}

void vbd_set_poll(struct vbd *d, uint64_t poll_ns)
{
    atomic_store(&d->poll_ns, poll_ns);
}

const char *vbd_broken(struct vbd *d)
{
    return atomic_load(&d->broken_why);
}

uint64_t vbd_broken_take(struct vbd *d)
{
    uint64_t count;
    ssize_t n = read(d->broken_fd, &count, sizeof count);
    (void)n; /* nothing new */
    return atomic_exchange(&d->broken_queues, 0);
}

int vbd_broken_fd(struct vbd *d)
{
    return d->broken_fd;
}

unsigned vbd_queues(const struct vbd *d)
{
    return d->config.queues;
}

void vbd_stats_read(struct vbd *d, unsigned queue, struct vbd_queue_stats *out)
{
    assert(queue < d->config.queues);
    struct vbd_queue *q = &d->queue[queue];
    *out = (struct vbd_queue_stats){.running = atomic_load(&q->count.running)};
#define READ_COUNTER(name) out->name = atomic_load_explicit(&q->count.name, memory_order_relaxed)
    READ_COUNTER(requests);
    READ_COUNTER(reads);
    READ_COUNTER(read_bytes);
    READ_COUNTER(writes);
    READ_COUNTER(write_bytes);
    READ_COUNTER(flushes);
    READ_COUNTER(discards);
    READ_COUNTER(write_zeroes);
    READ_COUNTER(errors);
    READ_COUNTER(fast_reads);
    READ_COUNTER(calls);
    READ_COUNTER(sleeps);
    READ_COUNTER(polls_ns);
    READ_COUNTER(latency_ns);
    READ_COUNTER(latency_samples);
#undef READ_COUNTER
}
