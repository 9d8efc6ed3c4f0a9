/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtual block device: a chain of disk layers shown to one guest as virtio-blk.
 *
 *     guest/ session --guest_device_ops--> vbd (control thread)
 *                                           |  commands by mailbox, answered before they return
 *                                           v
 *     ring/ virtq  <--->  queue thread  <--->  disk/ channel chain, engine     (one per queue)
 *
 * Each queue has a thread of its own that alone touches the virtqueue, its requests, its engine
 * and its channels of the layers. Threads share the layers and the few atomics of the device.
 *
 * The device outlives sessions: front ends come and go, the disk stays open.
 *
 * Thread-safety: every function on the control thread, except vbd_stats_read() (any).
 */
#ifndef VBD_VBD_H
#define VBD_VBD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "disk/disk.h"
#include "guest/vhost_user.h"

#define VBD_QUEUES_MAX VHOST_QUEUES_MAX
#define VBD_SEG_MAX_DEFAULT 126u
#define VBD_SEG_MAX_LIMIT (DISK_IOV_MAX - 2u - 16u)
#define VBD_POLL_NS_DEFAULT UINT64_C(50000)
#define VBD_DISCARD_SEGMENTS 32u
#define VBD_SERIAL_BYTES 21

/* What the driver set that no other part remembers; survives with the session's state. */
struct vbd_kept {
    uint8_t cache_mode_set; /* 1: the driver wrote write_through */
    uint8_t write_through;
    uint8_t unused[62];
};

struct vbd_config {
    const char *name;      /* for messages; outlives the device */
    unsigned queues;       /* 1..VBD_QUEUES_MAX */
    uint32_t sector_bytes; /* logical block: 512 or 4096 */
    bool read_only;
    bool write_through;            /* initial mode; the driver may change it (CONFIG_WCE) */
    bool packed;                   /* offer the packed ring */
    uint32_t seg_max;              /* data segments in a request, 1..VBD_SEG_MAX_LIMIT */
    uint32_t size_max_bytes;       /* largest segment, 0: no limit */
    uint32_t io_opt_bytes;         /* the leaf's natural unit (cluster), 0: unknown */
    uint64_t poll_ns;              /* upper bound of adaptive polling; 0: never poll */
    struct vbd_kept *kept;         /* zeroed when new; until vbd_keep_in() */
    char serial[VBD_SERIAL_BYTES]; /* zero-terminated */
};

/* A thread's connection to the read cache, opened and closed with its channels. The device does not
 * know what is behind it (cmd/ connects it to cache/). All called on the queue's thread. */
struct vbd_chains {
    /* Open this thread's channel chain on e; the first channel takes requests. 0 or -errno. */
    int (*open)(void *arg, unsigned queue, struct engine *e, struct layer_chan **top);
    void (*close)(void *arg, unsigned queue);
    /* Run on queue's thread on behalf of vbd_call_queues(). */
    void (*call)(void *arg, unsigned queue, void *call_arg);
    void *arg;
};

struct vbd;

/* leaf: the top layer, for size and resize. NULL config fields have no default: fill all. */
int vbd_new(struct vbd **out, const struct vbd_config *c, struct layer *leaf, const struct vbd_chains *chains,
            const struct engine_maker *maker, struct errmsg *e);
/* All queues must be stopped (the session freed). Joins the threads. */
void vbd_free(struct vbd *d);

/* To be given to vhost_session_new() with the device as `device`. */
const struct guest_device_ops *vbd_guest_ops(struct vbd *d);

/* Keep it there from now on: what is there counts (filled), or is filled from where it was kept before. No queue runs. */
void vbd_keep_in(struct vbd *d, struct vbd_kept *kept, bool filled);

/* The disk has another size (already changed on the layers): from the next request on the new
 * capacity counts. The caller tells the front end. */
void vbd_size_changed(struct vbd *d);

/* Run chains->call on every queue thread there is and wait for all. */
void vbd_call_queues(struct vbd *d, void *call_arg);

void vbd_set_poll(struct vbd *d, uint64_t poll_ns);

/* Why a queue broke the device (the first reason), or NULL while it is sound. */
const char *vbd_broken(struct vbd *d);
/* Which queues broke since the last call, a bit each. vbd_broken_fd(), an eventfd, is readable while there are any, and once
 * after a broken device was reset. */
uint64_t vbd_broken_take(struct vbd *d);
int vbd_broken_fd(struct vbd *d);

struct vbd_queue_stats {
    bool running;
    uint64_t requests, reads, read_bytes, writes, write_bytes, flushes, discards, write_zeroes, errors;
    uint64_t fast_reads;                  /* of reads: completed at once, without the engine */
    uint64_t calls;                       /* times the driver was notified */
    uint64_t sleeps;                      /* times the thread slept */
    uint64_t polls_ns;                    /* time spent polling in vain before sleeping */
    uint64_t latency_ns, latency_samples; /* of a sample of requests, from pop to publication */
};
void vbd_stats_read(struct vbd *d, unsigned queue, struct vbd_queue_stats *out);
unsigned vbd_queues(const struct vbd *d);

#endif
