/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that takes frames from its sources and hands them to the sink (port/source.h).
 *
 * Where a source is, it says itself:
 *
 *   ACTIVE     asked in each round. A round takes one batch from each of them, so that a busy one cannot starve the others.
 *   IDLE       armed: its descriptor wakes the thread, or the time look_at_ns. (A source without one is looked at every UNKICKED_POLL_NS.)
 *   THROTTLED  not_before_ns lies ahead; asked again then, whatever comes before.
 *   BROKEN     receive failed; never asked again.
 *
 * How long an active source that has nothing is still polled adapts, per source: when the last gap was so short that polling
 * would have bridged it, longer (up to the operator's bound); otherwise not at all. So one that is idle is polled once and
 * never again, a fast one never sleeps. When the kernel preempted the thread since the last look, somebody else wants
 * the CPU, and it may be just who is to answer: then nothing is polled for a while, which gets longer the more often that happens.
 * (Two hosts behind taps on two busy CPUs: with the poll going on, half as many requests and answers a second.)
 *
 * The thread sleeps only when no source is active. Before a source becomes idle it is armed, which looks once more, and
 * descriptors stay readable until `woken`, so nothing is missed. While some are active the idle ones' descriptors are looked at
 * every WATCH_ROUNDS.
 */
#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include "loop/clock.h"
#include "port/capture.h"
#include "port/runner_internal.h"

#define WINDOW_MIN_NS UINT64_C(4000)
#define SHY_MIN_NS (2 * NS_PER_MS)
#define SHY_MAX_NS (500 * NS_PER_MS)
#define UNKICKED_POLL_NS NS_PER_MS
#define WATCH_ROUNDS 4u
#define EVENTS_MAX 64

enum source_state { SOURCE_GONE, SOURCE_ACTIVE, SOURCE_IDLE, SOURCE_THROTTLED, SOURCE_BROKEN };

static _Thread_local const struct port *serves;

const struct port *runner_serves(void)
{
    return serves;
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* ---- where a source is ---- */

static int watch(struct port_source *s)
{
    if (s->fd < 0 || s->events) return 0;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    if (epoll_ctl(s->runner->epoll_fd, EPOLL_CTL_ADD, s->fd, &event) < 0) return -errno;
    s->events = EPOLLIN;
    return 0;
}

static void unwatch(struct port_source *s)
{
    if (!s->events) return;
    epoll_ctl(s->runner->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
    s->events = 0;
}

static void move(struct port_source *s, enum source_state state, struct list *to)
{
    list_remove(&s->node);
    list_push_back(to, &s->node);
    s->state = (uint8_t)state;
}

static void set_broken(struct port_source *s, int error)
{
    unwatch(s);
    atomic_store(&s->broken, error);
    move(s, SOURCE_BROKEN, &s->runner->broken);
}

static void set_active(struct port_source *s)
{
    /* A source that cannot be watched could sleep for ever. */
    int ret = watch(s);
    if (ret < 0) set_broken(s, ret);
    else move(s, SOURCE_ACTIVE, &s->runner->active);
}

/* ---- how long to poll ---- */

static bool preempted(struct runner *r)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    bool yes = usage.ru_nivcsw != r->preemptions;
    r->preemptions = usage.ru_nivcsw;
    return yes;
}

static uint64_t window_of(struct port_source *s)
{
    uint64_t bound_ns = atomic_load_explicit(&s->runner->poll_ns, memory_order_relaxed);
    return bound_ns == UINT64_MAX ? UINT64_MAX : min_u64(s->window_ns, bound_ns);
}

/* May it poll? Each preemption soon after another keeps it from that for twice as long. */
static bool undisturbed(struct runner *r, uint64_t now_ns)
{
    if (preempted(r)) {
        r->shy_ns = min_u64(max_u64(r->shy_ns * 2, SHY_MIN_NS), SHY_MAX_NS);
        r->shy_until_ns = now_ns + r->shy_ns;
        return false;
    }
    if (now_ns < r->shy_until_ns) return false;
    if (now_ns - r->shy_until_ns > r->shy_ns) {
        r->shy_ns /= 2;
        r->shy_until_ns = now_ns;
    }
    return true;
}

static void adapt(struct port_source *s, uint64_t now_ns)
{
    uint64_t bound_ns = atomic_load_explicit(&s->runner->poll_ns, memory_order_relaxed);
    uint64_t gap_ns = now_ns - s->idle_since_ns;
    if (gap_ns > bound_ns || !undisturbed(s->runner, now_ns)) {
        s->window_ns = 0;
        return;
    }
    uint64_t longer_ns = s->window_ns ? s->window_ns * 2 : WINDOW_MIN_NS;
    s->window_ns = min_u64(max_u64(longer_ns, gap_ns * 2), bound_ns);
}

/* ---- a round ---- */

static void count_in(struct port_source *s, struct packet *const *packets, unsigned n)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < n; i++)
        bytes += packets[i]->length_bytes;
    /* A port may have several sources, on several threads. */
    atomic_fetch_add_explicit(&s->port->in.packets, n, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->port->in.bytes, bytes, memory_order_relaxed);
    count(&s->runner->packets, n);
    struct port_capture *capture = atomic_load_explicit(&s->port->capture, memory_order_acquire);
    if (capture) port_capture_frames(capture, packets, n, PORT_CAPTURE_IN);
}

static unsigned merge(struct runner *r, struct port_source *s, struct packet **packets, unsigned n)
{
    unsigned left = gro_batch(&r->gro, packets, n, r->pool);
    if (left < n) atomic_fetch_add_explicit(&s->port->merged, n - left, memory_order_relaxed);
    return left;
}

/* One batch. How many frames there were, or -errno. */
static int serve(struct runner *r, struct port_source *s)
{
    struct packet *packets[PACKET_BATCH];
    int n = s->ops->receive(s, packets, PACKET_BATCH, r->pool);
    if (n <= 0) return n;
    count_in(s, packets, (unsigned)n);
    unsigned left = s->gro ? merge(r, s, packets, (unsigned)n) : (unsigned)n;
    r->sink->input(r->thread_arg, s->port, packets, left);
    s->ops->release(s);
    packet_pool_reset(r->pool);
    return n;
}

/* The source has nothing at the moment, and was polled for long enough. */
static void park(struct runner *r, struct port_source *s)
{
    s->look_at_ns = 0;
    if (s->ops->arm && s->ops->arm(s)) {
        if (s->ops->disarm) s->ops->disarm(s);
        return;
    }
    if (s->fd >= 0) {
        move(s, SOURCE_IDLE, &r->idle);
        if (s->look_at_ns) r->idle_due_ns = min_u64(r->idle_due_ns, s->look_at_ns);
        return;
    }
    if (list_empty(&r->unkicked)) r->unkicked_due_ns = clock_now_ns() + UNKICKED_POLL_NS;
    move(s, SOURCE_IDLE, &r->unkicked);
}

static void disarm(struct port_source *s)
{
    serves = s->port;
    if (s->ops->disarm) s->ops->disarm(s);
    serves = NULL;
}

static void unpark(struct port_source *s, uint64_t now_ns)
{
    disarm(s);
    adapt(s, now_ns);
    s->idle_since_ns = 0;
    set_active(s);
}

static void not_now(struct runner *r, struct port_source *s, unsigned given)
{
    uint64_t window_ns = window_of(s);
    if (given && window_ns) {
        s->idle_since_ns = 0;
        return;
    }
    uint64_t now_ns = clock_now_ns();
    if (given || s->idle_since_ns == 0) s->idle_since_ns = now_ns;
    if (now_ns - s->idle_since_ns >= window_ns) park(r, s);
}

/* One batch from each active source. How many frames there were in all. */
static unsigned serve_active(struct runner *r)
{
    unsigned total = 0;
    LIST_FOR_EACH_SAFE (node, &r->active) {
        struct port_source *s = list_entry(node, struct port_source, node);
        s->not_before_ns = 0;
        serves = s->port;
        int n = serve(r, s);
        if (n < 0) {
            set_broken(s, n);
            continue;
        }
        total += (unsigned)n;
        if (s->not_before_ns) move(s, SOURCE_THROTTLED, &r->throttled);
        else if (n < (int)PACKET_BATCH) not_now(r, s, (unsigned)n);
        else s->idle_since_ns = 0;
    }
    serves = NULL;
    return total;
}

/* ---- what wakes ---- */

static void event_for(struct port_source *s, uint64_t now_ns)
{
    if (s->ops->woken) s->ops->woken(s);
    if (s->state == SOURCE_IDLE) unpark(s, now_ns);
    /* It would wake us again and again until its time has come. */
    else if (s->state == SOURCE_THROTTLED) unwatch(s);
}

/* Kernels before 5.11 and filters that know no better refuse the call that takes nanoseconds: milliseconds must do then, rounded
 * up, so that the thread does not spin before a time has come. */
static int wait_epoll(struct runner *r, struct epoll_event *events, uint64_t timeout_ns)
{
    if (!r->no_pwait2) {
        struct timespec ts = {.tv_sec = (time_t)(timeout_ns / NS_PER_SECOND),
                              .tv_nsec = (long)(timeout_ns % NS_PER_SECOND)};
        int n = epoll_pwait2(r->epoll_fd, events, EVENTS_MAX, timeout_ns == UINT64_MAX ? NULL : &ts, NULL);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM)) return n;
        r->no_pwait2 = true;
    }
    int timeout_ms = timeout_ns == UINT64_MAX ? -1 : (int)min_u64(div_round_up(timeout_ns, NS_PER_MS), INT_MAX);
    return epoll_wait(r->epoll_fd, events, EVENTS_MAX, timeout_ms);
}

/* Look at the descriptors, for timeout_ns at most. */
static void wait_events(struct runner *r, uint64_t timeout_ns)
{
    struct epoll_event events[EVENTS_MAX];
    int n = wait_epoll(r, events, timeout_ns);
    if (n <= 0) return;
    uint64_t now_ns = clock_now_ns();
    for (int i = 0; i < n; i++)
        if (events[i].data.ptr) event_for(events[i].data.ptr, now_ns);
}

/* Idle sources that wanted to be asked by now. Returns when the next one does. */
static uint64_t wake_idle(struct runner *r, uint64_t now_ns)
{
    if (r->idle_due_ns > now_ns) return r->idle_due_ns;
    r->idle_due_ns = UINT64_MAX;
    LIST_FOR_EACH_SAFE (node, &r->idle) {
        struct port_source *s = list_entry(node, struct port_source, node);
        if (s->look_at_ns > now_ns) r->idle_due_ns = min_u64(r->idle_due_ns, s->look_at_ns);
        else if (s->look_at_ns) unpark(s, now_ns);
    }
    return r->idle_due_ns;
}

/* Sources whose time has come. Returns how long until the next one's. */
static uint64_t wake_due(struct runner *r)
{
    if (list_empty(&r->throttled) && list_empty(&r->unkicked) && r->idle_due_ns == UINT64_MAX) return UINT64_MAX;
    uint64_t now_ns = clock_now_ns(), next_ns = wake_idle(r, now_ns);
    LIST_FOR_EACH_SAFE (node, &r->throttled) {
        struct port_source *s = list_entry(node, struct port_source, node);
        if (s->not_before_ns > now_ns) {
            next_ns = min_u64(next_ns, s->not_before_ns);
            continue;
        }
        s->idle_since_ns = 0;
        set_active(s);
    }
    if (list_empty(&r->unkicked)) return next_ns == UINT64_MAX ? UINT64_MAX : next_ns - now_ns;
    if (r->unkicked_due_ns > now_ns) return min_u64(next_ns, r->unkicked_due_ns) - now_ns;
    LIST_FOR_EACH_SAFE (node, &r->unkicked) {
        unpark(list_entry(node, struct port_source, node), now_ns);
    }
    return 0;
}

static void count_polling(struct runner *r)
{
    if (r->polling_since_ns == 0) return;
    count(&r->polled_ns, clock_now_ns() - r->polling_since_ns);
    r->polling_since_ns = 0;
}

static void sleep_until_work(struct runner *r, uint64_t timeout_ns)
{
    if (mailbox_has_mail(&r->mailbox)) return;
    count_polling(r);
    count(&r->sleeps, 1);
    if (r->sink->asleep) r->sink->asleep(r->thread_arg);
    wait_events(r, timeout_ns);
    if (r->sink->awake) r->sink->awake(r->thread_arg);
}

static void look_where_to_stay(struct runner *r)
{
    if (!r->stay.wanted) return;
    uint64_t now_ns = clock_now_ns();
    if (now_ns >= r->stay.until_ns)
        stay_look(&r->stay, now_ns, atomic_load_explicit(&r->packets, memory_order_relaxed));
}

void runner_pass(struct runner *r)
{
    if (mailbox_has_mail(&r->mailbox)) {
        mailbox_run(&r->mailbox);
        return; /* an order may have changed anything, "quit" included */
    }
    count(&r->rounds, 1);
    look_where_to_stay(r);
    wake_due(r);
    unsigned taken = serve_active(r);
    if (r->sink->quiescent) r->sink->quiescent(r->thread_arg);
    if (list_empty(&r->active)) {
        uint64_t timeout_ns = wake_due(r);
        if (list_empty(&r->active)) sleep_until_work(r, timeout_ns);
        return;
    }
    if (taken) {
        count_polling(r);
    } else {
        if (r->polling_since_ns == 0) r->polling_since_ns = clock_now_ns();
        cpu_relax();
    }
    if (!list_empty(&r->idle) && --r->watch_countdown == 0) {
        r->watch_countdown = WATCH_ROUNDS;
        wait_events(r, 0);
    }
}

/* ---- orders ---- */

void runner_pass_init(struct runner *r)
{
    r->watch_countdown = WATCH_ROUNDS;
    r->idle_due_ns = UINT64_MAX;
    list_init(&r->active);
    list_init(&r->idle);
    list_init(&r->unkicked);
    list_init(&r->throttled);
    list_init(&r->broken);
    gro_init(&r->gro);
}

int runner_pass_add(struct runner *r, struct port_source *s)
{
    s->runner = r;
    atomic_store(&s->broken, 0);
    s->events = 0;
    s->not_before_ns = s->idle_since_ns = s->window_ns = 0;
    list_init(&s->node);
    int ret = watch(s);
    if (ret == 0) move(s, SOURCE_ACTIVE, &r->active);
    else s->runner = NULL;
    return ret;
}

void runner_pass_remove(struct port_source *s)
{
    if (s->state == SOURCE_IDLE) disarm(s);
    unwatch(s);
    list_remove(&s->node);
    s->state = SOURCE_GONE;
    s->runner = NULL;
}

void runner_pass_wake_all(struct runner *r)
{
    uint64_t now_ns = clock_now_ns();
    LIST_FOR_EACH_SAFE (node, &r->idle) {
        unpark(list_entry(node, struct port_source, node), now_ns);
    }
}
