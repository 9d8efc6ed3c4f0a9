/* SPDX-License-Identifier: Apache-2.0 */
/* A queue's ring as a virtqueue: what the thread (queue.c) asks of it. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "vbd/queue.h"

#define KICK_READS 64u /* of a pipe or socket that the guest kicks through, at one wake-up */

static void notify_driver(struct vbd_queue *q)
{
    uint64_t one = 1;
    if (q->call_fd < 0) return;
    counter_add(&q->count.calls, 1);
    ssize_t n = q->call_is_socket ? send(q->call_fd, &one, sizeof one, MSG_DONTWAIT | MSG_NOSIGNAL)
                                  : write(q->call_fd, &one, sizeof one);
    (void)n; /* full: the driver has not looked at earlier ones yet; gone: the session will hear of it */
}

static void broke(struct vbd_queue *q, const char *why)
{
    virtq_break(q->vq, why);
    vbd_queue_broke(q, why);
}

/* Nothing can be said about it but that it is over. */
static void drop(struct vbd_request *r)
{
    r->status = NULL;
    vbd_queue_finish(r);
}

/* A request of more buffers than the driver was told to make gets an error of its own, not the device: they are looked at for
 * its status only. 1: popped and over; -EPROTO. */
static int pop_too_long(struct vbd_queue *q, struct vbd_request *r)
{
    const char *why = NULL;
    int ret = virtq_pop(q->vq, &r->chain, q->long_iov, DISK_IOV_MAX);
    if (ret == -E2BIG) why = "a request of more buffers than the device takes";
    if (ret < 0) {
        if (why) virtq_break(q->vq, why);
        return -EPROTO;
    }
    if (ret == 0) return 0;
    vbd_request_taken(q, r);
    if (vbd_virtio_parse(r, q->long_iov, &why)) {
        vbd_request_refuse(r);
        return 1;
    }
    drop(r);
    virtq_break(q->vq, why);
    return -EPROTO;
}

/* A queue that turns out broken gives none after that. */
static unsigned pop(struct vbd_queue *q, struct vbd_request **popped, unsigned max)
{
    unsigned n = 0;
    while (n < max && !q->broken) {
        const char *why;
        struct vbd_request *r = vbd_request_next(q);
        if (!r) {
            /* There are as many requests as descriptors. */
            if (virtq_has_work(q->vq)) broke(q, "more requests than the queue has descriptors");
            break;
        }
        int ret = virtq_pop(q->vq, &r->chain, r->iov, q->iov_max);
        if (ret == -E2BIG) {
            ret = pop_too_long(q, r);
            if (ret > 0) continue;
        }
        if (ret == 0) break;
        if (ret < 0) {
            broke(q, virtq_broken(q->vq));
            break;
        }
        vbd_request_taken(q, r);
        vbd_request_sample(q, r);
        if (!vbd_virtio_parse(r, r->iov, &why)) {
            drop(r);
            broke(q, why);
            break;
        }
        popped[n++] = r;
    }
    return n;
}

/* Where memory was cut off there are zeroes now, that mean nothing: in a ring, that nothing is there to do. */
static const char *check(struct vbd_queue *q)
{
    if (!guest_map_truncated(q->map)) return NULL;
    const char *why = "the guest's memory was cut short";
    virtq_break(q->vq, why);
    return why;
}

static void push(struct vbd_queue *q, struct vbd_request *r)
{
    uint32_t written_bytes = 0;
    if (r->status) {
        written_bytes = 1;
        if (r->result == VIRTIO_BLK_S_OK) {
            if (r->type == VIRTIO_BLK_T_IN) written_bytes += (uint32_t)r->data_bytes;
            if (r->type == VIRTIO_BLK_T_GET_ID) written_bytes += VIRTIO_BLK_ID_BYTES;
        }
        *r->status = r->result;
    }
    virtq_push(q->vq, r->chain.id, written_bytes);
}

static void publish(struct vbd_queue *q, struct vbd_request *first)
{
    for (struct vbd_request *r = first; r; r = r->next)
        push(q, r);
    if (virtq_publish(q->vq)) notify_driver(q);
}

static bool has_work(const struct vbd_queue *q)
{
    return virtq_has_work(q->vq);
}

static void events_off(struct vbd_queue *q)
{
    virtq_kick_disable(q->vq);
}

static bool events_on(struct vbd_queue *q)
{
    return virtq_kick_enable(q->vq);
}

static bool resuming(const struct vbd_queue *q)
{
    return !q->broken && virtq_resuming(q->vq);
}

static uint32_t base(const struct vbd_queue *q)
{
    return virtq_base(q->vq);
}

/* Never waits. poll() first: another holder of the pipe may have made it blocking. */
static ssize_t kick_read(struct vbd_queue *q, char *buf, size_t bytes)
{
    if (q->kick_kind == S_IFSOCK) return recv(q->kick_fd, buf, bytes, MSG_DONTWAIT);
    struct pollfd p = {.fd = q->kick_fd, .events = POLLIN};
    if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLIN)) return 0;
    return read(q->kick_fd, buf, bytes);
}

/* An eventfd never fills up; a pipe or a socket would, and then its writer waits. Whatever is left is taken out after the
 * next kick. */
static void kick_ready(struct engine_watch *w)
{
    struct vbd_queue *q = container_of(w, struct vbd_queue, kick_watch);
    char buf[1024];
    if (q->kick_kind == 0) return;
    for (unsigned i = 0; i < KICK_READS; i++)
        if (kick_read(q, buf, sizeof buf) <= 0) return;
}

static int watch_kick(struct vbd_queue *q, int kick_fd)
{
    struct stat st;
    q->kick_watch = (struct engine_watch){.fd = kick_fd, .ready = kick_ready};
    int ret = engine_watch(q->engine, &q->kick_watch);
    if (ret < 0) return ret;
    q->kick_fd = kick_fd;
    q->kick_kind = fstat(kick_fd, &st) == 0 && (S_ISSOCK(st.st_mode) || S_ISFIFO(st.st_mode)) ? st.st_mode & S_IFMT : 0;
    return 0;
}

static void set_call(struct vbd_queue *q, int call_fd)
{
    struct stat st;
    q->call_fd = call_fd;
    q->call_is_socket = call_fd >= 0 && fstat(call_fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

static void stop(struct vbd_queue *q)
{
    if (q->kick_fd >= 0) engine_unwatch(q->engine, &q->kick_watch);
    virtq_free(q->vq);
    guest_map_unref(q->map);
    free(q->long_iov);
    q->vq = NULL;
    q->map = NULL;
    q->long_iov = NULL;
    q->kick_fd = q->call_fd = -1;
}

static int start(struct vbd_queue *q, const void *arg, struct guest_map *map, unsigned *requests)
{
    const struct guest_queue *setup = arg;
    const struct vbd_config *config = &q->vbd->config;
    struct errmsg e;
    int ret = virtq_new(&q->vq, &setup->setup, map, &e);
    if (ret < 0) {
        log_limited(LOG_LEVEL_ERROR, "disk %s: queue %u refused: %s", config->name, q->index, e.text);
        return ret;
    }
    q->map = guest_map_ref(map);
    q->kick_fd = -1;
    q->iov_max = (unsigned)max_u64(config->seg_max + 18, VBD_DISCARD_SEGMENTS + 2);
    q->extra_bytes = 0;
    *requests = setup->setup.size;
    q->long_iov = malloc(DISK_IOV_MAX * sizeof q->long_iov[0]);
    if (!q->long_iov) ret = -ENOMEM;
    if (ret == 0 && setup->kick_fd >= 0) ret = watch_kick(q, setup->kick_fd);
    if (ret < 0) {
        stop(q);
        return ret;
    }
    q->unkicked = q->kick_fd < 0;
    set_call(q, setup->call_fd);
    /* A successor cannot know whether the driver was told of the last publication: tell it again. */
    if (setup->setup.resume) notify_driver(q);
    return 0;
}

void vbd_virtio_set_call(struct vbd_queue *q, int call_fd)
{
    set_call(q, call_fd);
    /* What completed while there was no descriptor would never be told. */
    if (q->vq) notify_driver(q);
}

void vbd_virtio_set_map(struct vbd_queue *q, struct guest_map *map)
{
    virtq_set_map(q->vq, map);
    guest_map_ref(map);
    guest_map_unref(q->map);
    q->map = map;
}

const struct vbd_ring_ops vbd_virtio_ops = {start,      stop,      pop,      publish, has_work,
                                            events_off, events_on, resuming, check,   base};
