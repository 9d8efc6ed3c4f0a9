/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue's thread: take requests, run completions, publish, poll a little, sleep.
 *
 * How long to poll adapts, per queue and separately for the two things a queue waits for (the
 * guest's next request when nothing is in flight; a completion or a request when something is):
 * if the last gap was short enough that polling would have bridged it, poll longer next time (up
 * to the operator's bound); if not, stop polling. An idle disk therefore polls once and never
 * again, a fast one never sleeps. When the kernel preempted this thread since the last look, somebody
 * else wants the CPU: it stops polling, or does not start.
 *
 * Notification and sleep: the driver's kicks are off while the thread is awake. Before it sleeps it
 * turns them on and looks once more (events_on), so no request is left behind.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "loop/clock.h"
#include "loop/thread.h"
#include "vbd/queue.h"

#define TAKE_BATCH 64u /* requests taken before completions are looked at again */
#define GROUP 16u      /* requests popped before the first of them is carried out */
#define WINDOW_MIN_NS UINT64_C(4000)
#define UNKICKED_POLL_NS UINT64_C(1000000) /* a queue without a kick descriptor is looked at this often */

/* A ring that copies data does it when it publishes: only then has a request taken all its time. */
static void note_latency(struct vbd_queue *q, const struct vbd_request *first)
{
    uint64_t now_ns = clock_now_ns();
    for (const struct vbd_request *r = first; r; r = r->next) {
        if (!r->start_ns) continue;
        counter_add(&q->count.latency_ns, now_ns - r->start_ns);
        counter_add(&q->count.latency_samples, 1);
    }
    q->over_sampled = 0;
}

/* Give back what is over. */
static void publish(struct vbd_queue *q)
{
    struct vbd_request *first = q->over;
    if (!first) return;
    q->over = NULL;
    q->ring->publish(q, first);
    if (q->over_sampled) note_latency(q, first);
    q->over_last->next = q->free;
    q->free = first;
}

void vbd_queue_broke(struct vbd_queue *q, const char *why)
{
    struct vbd *d = q->vbd;
    q->broken = true;
    log_limited(LOG_LEVEL_ERROR, "disk %s: queue %u broken by its guest: %s", d->config.name, q->index, why);
    const char *expected = NULL;
    atomic_compare_exchange_strong(&d->broken_why, &expected, why); /* the first reason stays */
    atomic_fetch_or(&d->broken_queues, UINT64_C(1) << q->index);
    uint64_t one = 1;
    ssize_t n = write(d->broken_fd, &one, sizeof one);
    (void)n;
}

void vbd_queue_finish(struct vbd_request *r)
{
    struct vbd_queue *q = r->queue;
    q->over_sampled += r->start_ns != 0;
    q->in_flight--;
    if (q->over) q->over_last->next = r;
    else q->over = r;
    q->over_last = r;
}

bool vbd_request_add(struct vbd_queue *q)
{
    if (q->fresh == q->request_count) return false;
    struct vbd_request *r = (struct vbd_request *)(void *)(q->requests + q->fresh++ * q->request_bytes);
    r->queue = q;
    r->next = NULL;
    q->free = r;
    return true;
}

static void check_ring(struct vbd_queue *q)
{
    const char *why = q->broken ? NULL : q->ring->check(q);
    if (why) vbd_queue_broke(q, why);
}

/* Take what the driver made available, at most TAKE_BATCH. Returns how many. In groups: all of a group are popped, then all
 * hints are given back to back, so that the walks through the page tables that they cause go on side by side (given
 * between the pops, each waited for the last: 1.2 M IOPS of 4 KiB instead of 1.6 M), then all are carried out. What is complete is
 * shown to the driver after each group, so that both sides have work. */
static unsigned take(struct vbd_queue *q)
{
    unsigned taken = 0, n;
    if (!q->running || (q->broken && !q->draining)) return 0;
    do {
        struct vbd_request *popped[GROUP];
        n = q->ring->pop(q, popped, GROUP);
        for (unsigned i = 0; i < n; i++)
            vbd_request_hint(popped[i]);
        for (unsigned i = 0; i < n; i++)
            vbd_request_run(popped[i]);
        taken += n;
        publish(q);
    } while (n == GROUP && taken < TAKE_BATCH);
    if (taken) check_ring(q);
    return taken;
}

static bool preempted(struct vbd_queue *q)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    bool yes = usage.ru_nivcsw != q->preemptions;
    q->preemptions = usage.ru_nivcsw;
    return yes;
}

static void adapt(struct vbd_queue *q, uint64_t *window_ns, uint64_t gap_ns)
{
    uint64_t bound_ns = atomic_load_explicit(&q->vbd->poll_ns, memory_order_relaxed);
    if (gap_ns > bound_ns || preempted(q)) {
        *window_ns = 0;
        return;
    }
    uint64_t longer_ns = *window_ns ? *window_ns * 2 : WINDOW_MIN_NS;
    *window_ns = min_u64(max_u64(longer_ns, gap_ns * 2), bound_ns);
}

static uint64_t *window_of(struct vbd_queue *q)
{
    return q->in_flight ? &q->window_io_ns : &q->window_guest_ns;
}

/* Nothing to do now: sleep until something is. */
static void sleep_until_work(struct vbd_queue *q)
{
    bool kicks = q->running && !q->broken;
    if (kicks && q->ring->events_on(q)) {
        q->ring->events_off(q);
        /* What was submitted must not wait for the guest to run out of requests. */
        engine_poll(q->engine);
        publish(q);
        return;
    }
    if (q->running) check_ring(q);
    if (mailbox_has_mail(&q->mailbox)) return;
    uint64_t *window_ns = window_of(q);
    uint64_t start_ns = clock_now_ns();
    counter_add(&q->count.sleeps, 1);
    if (q->idle_since_ns) counter_add(&q->count.polls_ns, start_ns - q->idle_since_ns);
    engine_sleep(q->engine, kicks && q->unkicked ? UNKICKED_POLL_NS : UINT64_MAX);
    adapt(q, window_ns, clock_now_ns() - (q->idle_since_ns ? q->idle_since_ns : start_ns));
    q->idle_since_ns = 0;
    if (kicks && q->running) q->ring->events_off(q);
    publish(q);
}

/* One round of the thread. */
static void pass(struct vbd_queue *q)
{
    if (mailbox_has_mail(&q->mailbox)) {
        mailbox_run(&q->mailbox);
        return; /* an order may have changed anything, "quit" included */
    }
    unsigned taken = take(q);
    publish(q);
    uint64_t window_ns = *window_of(q);
    bool more = taken && q->ring->has_work(q);
    if (!more && window_ns == 0) {
        /* Submitting and waiting are one system call. */
        sleep_until_work(q);
        return;
    }
    int ran = engine_poll(q->engine);
    publish(q);
    if (taken || ran > 0) {
        q->idle_since_ns = 0;
        return;
    }
    uint64_t now_ns = clock_now_ns();
    if (q->idle_since_ns == 0) q->idle_since_ns = now_ns;
    if (now_ns - q->idle_since_ns < window_ns) cpu_relax();
    else sleep_until_work(q);
}

static void wake_ready(struct engine_watch *w)
{
    (void)w; /* the pass looks at everything anyway */
}

struct start_order {
    struct vbd_queue *queue;
    sem_t ready;
    int ret;
};

static int thread_open(struct vbd_queue *q)
{
    struct vbd *d = q->vbd;
    struct errmsg e;
    int ret = d->maker->make(d->maker->arg, &q->engine, &e);
    if (ret < 0) {
        log_error("disk %s: queue %u: %s", d->config.name, q->index, e.text);
        return ret;
    }
    q->mail_watch = (struct engine_watch){.fd = mailbox_fd(&q->mailbox), .ready = wake_ready};
    ret = engine_watch(q->engine, &q->mail_watch);
    if (ret == 0) {
        ret = d->chains.open(d->chains.arg, q->index, q->engine, &q->top);
        if (ret < 0) engine_unwatch(q->engine, &q->mail_watch);
    }
    if (ret < 0) {
        engine_free(q->engine);
        q->engine = NULL;
    }
    return ret;
}

static void *thread_main(void *arg)
{
    struct start_order *order = arg;
    struct vbd_queue *q = order->queue;
    int ret = thread_open(q);
    order->ret = ret;
    sem_post(&order->ready); /* order is gone from here on */
    if (ret < 0) return NULL;
    while (!q->quit)
        pass(q);
    q->vbd->chains.close(q->vbd->chains.arg, q->index);
    engine_unwatch(q->engine, &q->mail_watch);
    engine_free(q->engine);
    return NULL;
}

static int thread_ensure(struct vbd_queue *q)
{
    if (q->thread_started) return 0;
    int ret = mailbox_init(&q->mailbox);
    if (ret < 0) return ret;
    struct start_order order = {.queue = q};
    sem_init(&order.ready, 0, 0);
    q->quit = false;
    char name[16];
    snprintf(name, sizeof name, "vbd-q%u", q->index);
    ret = thread_start(&q->thread, name, thread_main, &order);
    if (ret == 0) {
        while (sem_wait(&order.ready) < 0)
            ;
        ret = order.ret;
        if (ret < 0) pthread_join(q->thread, NULL);
    }
    sem_destroy(&order.ready);
    if (ret < 0) mailbox_destroy(&q->mailbox);
    q->thread_started = ret == 0;
    return ret;
}

/* Commands: run on the queue's thread between two passes while the control thread waits. */
struct command {
    struct mail mail;
    sem_t done;
    struct vbd_queue *queue;
    const struct vbd_ring_ops *ring;
    const void *setup; /* the ring's */
    struct guest_map *map;
    void *call_arg;
    int fd;
    bool grows;
    int ret;
    uint32_t base;
};

static void command_run(struct vbd_queue *q, struct command *c, void (*run)(struct mail *))
{
    c->queue = q;
    c->mail.run = run;
    sem_init(&c->done, 0, 0);
    mailbox_post(&q->mailbox, &c->mail);
    while (sem_wait(&c->done) < 0)
        ;
    sem_destroy(&c->done);
}

/* Let everything in flight complete, what an earlier process had in flight included: whoever stops the queue
 * forgets the in-flight table. New requests are not waited for. */
static void drain(struct vbd_queue *q)
{
    q->draining = true;
    while (q->running && q->ring->resuming(q)) {
        if (take(q) == 0 && q->in_flight) engine_sleep(q->engine, UINT64_MAX);
        publish(q); /* what is held back may wait for what others give back then */
    }
    while (q->in_flight)
        engine_sleep(q->engine, UINT64_MAX);
    if (q->running) publish(q);
    q->draining = false;
}

/* As many requests as the ring has entries, on memory of their own that is not there before it is used: few guests use many. */
static int requests_make(struct vbd_queue *q, unsigned count)
{
    q->request_bytes = align_up(sizeof(struct vbd_request) + q->iov_max * sizeof(struct iovec) + q->extra_bytes, 64);
    void *mem = mmap(NULL, count * q->request_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem == MAP_FAILED) return -errno;
    (void)madvise(mem, count * q->request_bytes, MADV_NOHUGEPAGE); /* a kernel that has none refuses: no harm */
    q->requests = mem;
    q->request_count = count;
    q->fresh = 0;
    q->free = q->over = NULL;
    return 0;
}

static void requests_free(struct vbd_queue *q)
{
    if (q->requests) munmap(q->requests, q->request_count * q->request_bytes);
    q->requests = NULL;
    q->free = q->over = NULL;
}

static void stop(struct vbd_queue *q)
{
    q->ring->stop(q);
    requests_free(q);
    q->running = false;
    atomic_store(&q->count.running, false);
}

static int start(struct vbd_queue *q, const struct command *c)
{
    unsigned count;
    q->ring = c->ring;
    q->broken = q->unkicked = false;
    int ret = q->ring->start(q, c->setup, c->map, &count);
    if (ret < 0) return ret;
    ret = requests_make(q, count);
    if (ret < 0) {
        stop(q);
        return ret;
    }
    q->sample_countdown = VBD_SAMPLE_EVERY;
    q->window_io_ns = q->window_guest_ns = 0;
    q->idle_since_ns = 0;
    q->running = true;
    q->ring->events_off(q);
    atomic_store(&q->count.running, true);
    return 0;
}

static void run_start(struct mail *m)
{
    struct command *c = container_of(m, struct command, mail);
    c->ret = start(c->queue, c);
    sem_post(&c->done);
}

static void run_stop(struct mail *m)
{
    struct command *c = container_of(m, struct command, mail);
    struct vbd_queue *q = c->queue;
    if (q->running) {
        drain(q);
        c->base = q->ring->base(q);
        stop(q);
    }
    sem_post(&c->done);
}

static void run_set_call(struct mail *m)
{
    struct command *c = container_of(m, struct command, mail);
    if (c->queue->ring == &vbd_virtio_ops) vbd_virtio_set_call(c->queue, c->fd);
    sem_post(&c->done);
}

static void run_set_map(struct mail *m)
{
    struct command *c = container_of(m, struct command, mail);
    struct vbd_queue *q = c->queue;
    if (q->running && q->ring == &vbd_virtio_ops) {
        if (!c->grows) drain(q);
        vbd_virtio_set_map(q, c->map);
    }
    sem_post(&c->done);
}

static void run_call(struct mail *m)
{
    struct command *c = container_of(m, struct command, mail);
    struct vbd *d = c->queue->vbd;
    d->chains.call(d->chains.arg, c->queue->index, c->call_arg);
    sem_post(&c->done);
}

static void run_quit(struct mail *m)
{
    struct command *c = container_of(m, struct command, mail);
    c->queue->quit = true;
    sem_post(&c->done);
}

int vbd_queue_start(struct vbd_queue *q, const struct vbd_ring_ops *ring, const void *setup, struct guest_map *map)
{
    int ret = thread_ensure(q);
    if (ret < 0) return ret;
    struct command c = {.ring = ring, .setup = setup, .map = map};
    command_run(q, &c, run_start);
    return c.ret;
}

uint32_t vbd_queue_stop(struct vbd_queue *q)
{
    if (!q->thread_started) return 0;
    struct command c = {0};
    command_run(q, &c, run_stop);
    return c.base;
}

void vbd_queue_set_call(struct vbd_queue *q, int call_fd)
{
    if (!q->thread_started) return;
    struct command c = {.fd = call_fd};
    command_run(q, &c, run_set_call);
}

void vbd_queue_set_map(struct vbd_queue *q, struct guest_map *map, bool grows)
{
    if (!q->thread_started) return;
    struct command c = {.map = map, .grows = grows};
    command_run(q, &c, run_set_map);
}

void vbd_queue_call(struct vbd_queue *q, void *call_arg)
{
    if (!q->thread_started) return;
    struct command c = {.call_arg = call_arg};
    command_run(q, &c, run_call);
}

void vbd_queue_end(struct vbd_queue *q)
{
    if (!q->thread_started) return;
    vbd_queue_stop(q);
    struct command c = {0};
    command_run(q, &c, run_quit);
    pthread_join(q->thread, NULL);
    mailbox_destroy(&q->mailbox);
    q->thread_started = false;
}
