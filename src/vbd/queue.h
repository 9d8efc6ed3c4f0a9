/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One queue of a virtual disk and the thread that owns it. Inside vbd/ only.
 *
 * States of a queue, seen from its thread:
 *   no virtq   the thread sleeps on its mailbox; costs nothing
 *   running    takes requests, polls a little after each burst of work, sleeps otherwise
 *   broken     the virtq refused what the guest wrote: no more requests are taken, those in flight finish
 *   draining   inside a command that must not return before the last request in flight has completed
 */
#ifndef VBD_QUEUE_H
#define VBD_QUEUE_H

#include <pthread.h>
#include <semaphore.h>
#include <sys/types.h>

#include "disk/disk.h"
#include "loop/clock.h"
#include "loop/mailbox.h"
#include "vbd/vbd.h"
#include "vbd/virtio_blk.h"

/* A counter with one writer, read by anybody: no locked instruction is needed to move it. */
typedef _Atomic uint64_t vbd_counter;

static inline void counter_add(vbd_counter *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}

struct vbd_queue;

/* What requests of other rings ask for beside virtio-blk's types, of which none is that large. */
#define VBD_T_UNKNOWN 0x80000000u /* not supported */
#define VBD_T_REFUSED 0x80000001u /* an I/O error is due */
#define VBD_T_BARRIER                                                                                                  \
    0x80000002u /* flush, write, flush; maybe without data. Its order among others is the ring's affair */
#define VBD_T_DISCARD 0x80000003u /* of one range: sector, data_bytes */

struct vbd_request {
    struct disk_req disk;
    struct vbd_queue *queue;
    struct vbd_request *next; /* of those that are free, or over */
    struct virtq_chain chain;
    uint8_t *status;    /* the guest's status byte; NULL: the chain has none */
    uint64_t start_ns;  /* 0: not in the latency sample */
    uint32_t type;      /* enum virtio_blk_type, or VBD_T_... */
    uint8_t result;     /* enum virtio_blk_status, once it is over */
    bool refused;       /* an I/O error is due, and nothing else */
    uint64_t sector;    /* as the header has it */
    struct iovec *data; /* the data's entries, within iov, and how many bytes they are */
    unsigned data_count;
    uint64_t data_bytes;
    /* READ, WRITE of more than a layer takes at once: what is still to be done after the piece at work, and what of the
     * piece's last entry belongs to the next one. */
    uint64_t left_bytes, cut_bytes;
    uint8_t range_at; /* DISCARD, WRITE_ZEROES: the range at work, of range_count */
    uint8_t range_count;
    bool flushing; /* a write through, a barrier: data are written, the flush is on its way */
    bool before;   /* a barrier: the flush before the data is on its way */
    struct iovec
        iov[]; /* queue->iov_max entries; ranges are kept here once they are copied out. Then queue->extra_bytes */
};

/*
 * What a queue's thread asks of the ring that it serves. Called once for a group of requests, not for each.
 */
struct vbd_ring_ops {
    /* Set up; *requests: how many there may be at a time. q->iov_max and q->extra_bytes are set. 0 or -errno, and then all is
     * as before. */
    int (*start)(struct vbd_queue *q, const void *setup, struct guest_map *map, unsigned *requests);
    void (*stop)(struct vbd_queue *q);
    /* Take up to max requests: what they ask is in them then. Fewer: there are none, or the ring broke (vbd_queue_broke()). */
    unsigned (*pop)(struct vbd_queue *q, struct vbd_request **popped, unsigned max);
    /* Show the guest that the requests of this list are over, and notify it if it wants that. */
    void (*publish)(struct vbd_queue *q, struct vbd_request *first);
    bool (*has_work)(const struct vbd_queue *q);
    /* The guest shall not notify; it shall. The second returns true when there is work meanwhile. */
    void (*events_off)(struct vbd_queue *q);
    bool (*events_on)(struct vbd_queue *q);
    /* What an earlier process had in flight, or what was taken from the ring and is held back, is still to be popped. The latter
     * holds of a ring that is broken, too: pop() gives that out, and only that. */
    bool (*resuming)(const struct vbd_queue *q);
    /* Is the guest's memory still there? NULL or why not. */
    const char *(*check)(struct vbd_queue *q);
    uint32_t (*base)(const struct vbd_queue *q);
};

struct vbd_queue {
    struct vbd *vbd;
    unsigned index;
    pthread_t thread;
    bool thread_started;

    /* Everything below belongs to the queue's thread once it runs. */
    struct engine *engine;
    struct layer_chan *top;
    struct mailbox mailbox;
    struct engine_watch mail_watch, kick_watch;
    bool quit;

    const struct vbd_ring_ops *ring;
    bool running;
    bool broken;
    bool draining; /* nothing new is taken, only what resuming() means */
    bool unkicked; /* nothing wakes the thread up for this ring */

    struct vbd_blkif *blkif; /* blkif.c's */

    /* virtio.c's */
    struct virtq *vq;
    struct guest_map *map;
    int kick_fd, call_fd;
    mode_t kick_kind;       /* S_IFIFO, S_IFSOCK: what is written to it must be taken out; 0: an eventfd */
    bool call_is_socket;    /* User-mode Linux: written to without blocking */
    struct iovec *long_iov; /* DISK_IOV_MAX entries, for requests of more buffers than the driver was told to make */

    char *requests; /* array of requests, request_bytes apart */
    size_t request_bytes;
    struct vbd_request *free; /* last used first: few are ever touched */
    unsigned request_count;
    unsigned fresh; /* requests from here on were never used, nor their memory */
    unsigned iov_max;
    size_t extra_bytes; /* of each request, for the ring */
    unsigned in_flight;
    struct vbd_request *over, *over_last; /* and not published; first is first */
    unsigned over_sampled;                /* how many of them are timed */
    uint32_t sample_countdown;

    /* Adaptive polling: how long to poll after the last work, with and without I/O in flight. */
    uint64_t window_io_ns, window_guest_ns;
    uint64_t idle_since_ns; /* 0: there was work in the last pass */
    long preemptions;       /* involuntary context switches seen */

    struct {
        vbd_counter requests, reads, read_bytes, writes, write_bytes, flushes, discards, write_zeroes, errors;
        vbd_counter fast_reads, calls, sleeps, polls_ns, latency_ns, latency_samples;
        _Atomic bool running;
    } count;
};

struct vbd {
    struct vbd_config config;
    struct layer *leaf;
    struct vbd_chains chains;
    const struct engine_maker *maker;
    struct guest_device_ops ops;
    _Atomic uint64_t capacity_bytes;
    _Atomic bool write_through;
    _Atomic uint32_t size_max_bytes; /* 0: none, or the driver did not agree to it */
    _Atomic uint64_t poll_ns;
    _Atomic(const char *) broken_why;
    _Atomic uint64_t broken_queues; /* one bit each; taken out by vbd_broken_take() */
    int broken_fd;
    uint64_t features; /* accepted */
    struct vbd_queue queue[];
};

/* queue.c; all but the first and last on the control thread, answered by the queue's thread. */
int vbd_queue_start(struct vbd_queue *q, const struct vbd_ring_ops *ring, const void *setup, struct guest_map *map);
uint32_t vbd_queue_stop(struct vbd_queue *q);
void vbd_queue_set_call(struct vbd_queue *q, int call_fd);
void vbd_queue_set_map(struct vbd_queue *q, struct guest_map *map, bool grows);
void vbd_queue_call(struct vbd_queue *q, void *call_arg);
void vbd_queue_end(struct vbd_queue *q); /* stop and join the thread */

/* queue.c, for rings; on the queue's thread. */
#define VBD_SAMPLE_EVERY 32u /* one request in so many is timed */

static inline void *vbd_request_extra(struct vbd_request *r)
{
    return r->iov + r->queue->iov_max;
}

/* The ring is broken: no more is taken from it, and the device hears of it. */
void vbd_queue_broke(struct vbd_queue *q, const char *why);
/* One that was never used becomes q->free. False: all are in use. */
bool vbd_request_add(struct vbd_queue *q);

/* The one that the next request goes to; NULL: all are in use. */
static inline struct vbd_request *vbd_request_next(struct vbd_queue *q)
{
    return q->free || vbd_request_add(q) ? q->free : NULL;
}

/* It did. */
static inline void vbd_request_taken(struct vbd_queue *q, struct vbd_request *r)
{
    q->free = r->next;
    r->next = NULL;
    q->in_flight++;
    r->start_ns = 0;
}

static inline void vbd_request_sample(struct vbd_queue *q, struct vbd_request *r)
{
    if (--q->sample_countdown) return;
    q->sample_countdown = VBD_SAMPLE_EVERY;
    r->start_ns = clock_now_ns();
}

/* virtio.c */
extern const struct vbd_ring_ops vbd_virtio_ops; /* setup: struct guest_queue */
void vbd_virtio_set_call(struct vbd_queue *q, int call_fd);
void vbd_virtio_set_map(struct vbd_queue *q, struct guest_map *map);

/* virtio_request.c: find header, data and status in a popped chain of these entries: r->iov, but for a request that is to be
 * refused. False: the chain is so malformed that there is no byte to put a status in; why says. */
bool vbd_virtio_parse(struct vbd_request *r, struct iovec *iov, const char **why);

/* request.c; on the queue's thread. */
/* Nothing of it is carried out: an I/O error. */
void vbd_request_refuse(struct vbd_request *r);
/* Let the layers know that it is about to be carried out. */
void vbd_request_hint(const struct vbd_request *r);
/* Carry it out: complete it at once or hand it to the layers. */
void vbd_request_run(struct vbd_request *r);
/* queue.c: a request is over; r->result says how. Its memory is used again after the next publication. */
void vbd_queue_finish(struct vbd_request *r);

#endif
