/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/vhost_user_test/ramdisk.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/log.h"

/* virtio-blk (Virtual I/O Device specification 1.2, section 5.2) */
#define BLK_F_SEG_MAX (UINT64_C(1) << 2)
#define BLK_F_FLUSH (UINT64_C(1) << 9)
#define BLK_F_MQ (UINT64_C(1) << 12)
enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8 };
enum { BLK_OK = 0, BLK_IOERR = 1, BLK_UNSUPP = 2 };

struct blk_head {
    struct le32 type, reserved;
    struct le64 sector;
};

struct blk_config {
    struct le64 capacity;
    struct le32 size_max, seg_max;
    uint8_t geometry[4];
    struct le32 blk_size;
    uint8_t topology[8];
    uint8_t writeback, unused;
    struct le16 num_queues;
    uint8_t rest[24];
};

#define IOV_MAX_ENTRIES 512u

static uint8_t request(struct ramdisk *d, const struct virtq_chain *c, const struct iovec *iov, uint32_t *written)
{
    struct blk_head head;
    const struct iovec *in = iov + c->out_count;
    *written = 1; /* the status */
    if (c->in_bytes < 1 || iov_copy_from(&head, iov, c->out_count, 0, sizeof head) != sizeof head) return BLK_IOERR;
    uint64_t at = le64_get(head.sector) * 512, out = c->out_bytes - sizeof head, into = c->in_bytes - 1;
    switch (le32_get(head.type)) {
    case BLK_IN:
        if (!range_fits(at, into, d->size_bytes)) return BLK_IOERR;
        iov_copy_to(in, c->in_count, 0, d->data + at, into);
        *written += (uint32_t)into;
        return BLK_OK;
    case BLK_OUT:
        if (!range_fits(at, out, d->size_bytes)) return BLK_IOERR;
        iov_copy_from(d->data + at, iov, c->out_count, sizeof head, out);
        return BLK_OK;
    case BLK_FLUSH: return BLK_OK;
    case BLK_GET_ID:
        if (into > 20) into = 20;
        iov_copy_to(in, c->in_count, 0, "ramdisk\0\0\0\0\0\0\0\0\0\0\0\0\0", into);
        *written += (uint32_t)into;
        return BLK_OK;
    default: return BLK_UNSUPP;
    }
}

static void notify(struct ramdisk_queue *q)
{
    if (q->call_fd >= 0 && write(q->call_fd, &(uint64_t){1}, sizeof(uint64_t)) < 0 && errno != EAGAIN)
        log_warn("ramdisk: notifying: %s", strerror(errno));
}

static int serve_all(struct ramdisk_queue *q)
{
    struct iovec iov[IOV_MAX_ENTRIES];
    struct virtq_chain c;
    int ret;
    while ((ret = virtq_pop(q->vq, &c, iov, IOV_MAX_ENTRIES)) > 0) {
        uint32_t written;
        uint8_t status = request(q->disk, &c, iov, &written);
        if (c.in_bytes) iov_copy_to(iov + c.out_count, c.in_count, c.in_bytes - 1, &status, 1);
        virtq_push(q->vq, c.id, written);
        if (virtq_publish(q->vq)) notify(q);
    }
    if (ret == -E2BIG) virtq_break(q->vq, "a request of more buffers than the device takes");
    return ret;
}

static void serve(struct ramdisk_queue *q)
{
    virtq_kick_disable(q->vq);
    do {
        if (serve_all(q) == 0) continue;
        log_error("ramdisk: queue %d: %s", (int)(q - q->disk->queue), virtq_broken(q->vq));
        return;
    } while (virtq_kick_enable(q->vq));
}

static void kicked(struct loop_watch *w, uint32_t events)
{
    struct ramdisk_queue *q = container_of(w, struct ramdisk_queue, kick);
    uint64_t count;
    (void)events;
    if (read(w->fd, &count, sizeof count) < 0 && errno != EAGAIN) return;
    serve(q);
}

static int op_set_features(void *device, uint64_t features)
{
    (void)device;
    (void)features;
    return 0;
}

static void op_get_config(void *device, uint8_t *config)
{
    struct ramdisk *d = device;
    struct blk_config c = {.capacity = le64_make(d->size_bytes / 512),
                           .seg_max = le32_make(126),
                           .blk_size = le32_make(512),
                           .num_queues = le16_make(RAMDISK_QUEUES)};
    memcpy(config, &c, sizeof c);
}

static int op_set_config(void *device, uint32_t offset, uint32_t length, const uint8_t *data)
{
    (void)device;
    (void)offset;
    (void)length;
    (void)data;
    return -EINVAL;
}

static int op_queue_start(void *device, const struct guest_queue *g, struct guest_map *map)
{
    struct ramdisk *d = device;
    struct ramdisk_queue *q = &d->queue[g->index];
    struct errmsg e;
    int ret = virtq_new(&q->vq, &g->setup, map, &e);
    if (ret < 0) {
        log_error("ramdisk: queue %u: %s", g->index, e.text);
        return ret;
    }
    q->call_fd = g->call_fd;
    log_debug("ramdisk: queue %u starts: %u entries, base 0x%x%s", g->index, g->setup.size, g->setup.base,
              g->setup.resume ? ", resumed" : "");
    if (g->kick_fd >= 0) ret = loop_add(d->loop, &q->kick, g->kick_fd, EPOLLIN, kicked);
    if (ret < 0) {
        virtq_free(q->vq);
        q->vq = NULL;
        return ret;
    }
    serve(q);
    if (g->setup.resume) notify(q); /* the last process may not have come to it */
    return 0;
}

static uint32_t op_queue_stop(void *device, unsigned index)
{
    struct ramdisk *d = device;
    struct ramdisk_queue *q = &d->queue[index];
    uint32_t base = virtq_base(q->vq);
    loop_remove(&q->kick);
    virtq_free(q->vq);
    q->vq = NULL;
    log_debug("ramdisk: queue %u stops at 0x%x", index, base);
    return base;
}

static void op_queue_set_call(void *device, unsigned index, int call_fd)
{
    struct ramdisk *d = device;
    d->queue[index].call_fd = call_fd;
}

static void op_set_map(void *device, struct guest_map *map, bool grows)
{
    struct ramdisk *d = device;
    (void)grows;
    for (unsigned i = 0; i < RAMDISK_QUEUES; i++)
        if (d->queue[i].vq) virtq_set_map(d->queue[i].vq, map);
}

static void op_reset(void *device, enum guest_reset kind)
{
    (void)device;
    (void)kind;
}

void ramdisk_init(struct ramdisk *d, struct loop *loop, char *data, uint64_t size_bytes, uint64_t extra_features)
{
    *d = (struct ramdisk){
        .ops = {.queues_max = RAMDISK_QUEUES,
                .config_bytes = sizeof(struct blk_config),
                .features = BLK_F_SEG_MAX | BLK_F_FLUSH | BLK_F_MQ | UINT64_C(1) << VIRTIO_F_RING_INDIRECT_DESC |
                            UINT64_C(1) << VIRTIO_F_RING_EVENT_IDX | extra_features,
                .set_features = op_set_features,
                .get_config = op_get_config,
                .set_config = op_set_config,
                .queue_start = op_queue_start,
                .queue_stop = op_queue_stop,
                .queue_set_call = op_queue_set_call,
                .set_map = op_set_map,
                .reset = op_reset},
        .loop = loop,
        .data = data,
        .size_bytes = size_bytes,
    };
    for (unsigned i = 0; i < RAMDISK_QUEUES; i++)
        d->queue[i] = (struct ramdisk_queue){.disk = d, .call_fd = -1};
}
