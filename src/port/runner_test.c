/* SPDX-License-Identifier: Apache-2.0 */
/* Runners over sources that are made up: nothing is missed, nobody starves, nobody is called after it was removed. */
#include "port/source.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loop/clock.h"
#include "port/capture.h"

/* In the place of libc's: a kernel, or a filter, without the call. */
static _Atomic int pwait2_fails_with;

int epoll_pwait2(int fd, struct epoll_event *events, int max, const struct timespec *timeout, const sigset_t *mask)
{
    errno = atomic_load(&pwait2_fails_with);
    if (errno) return -1;
    return (int)syscall(SYS_epoll_pwait2, fd, events, max, timeout, mask, (size_t)8);
}

/* A source whose frames are a number: `made` so many there are, `taken` so many were received. As a virtqueue does it, whoever makes
 * frames signals only while the source is armed. */
struct fake {
    struct port_source source;
    struct port port;
    struct packet packets[PACKET_BATCH];
    uint8_t frame[64];
    _Atomic uint64_t made, taken, released;
    _Atomic bool armed;
    _Atomic int fail_with;
    _Atomic bool endless;
    _Atomic uint64_t receives, arms;
    uint64_t gap_ns; /* between two batches: a rate limit */
    uint64_t next_ns;
    uint64_t look_after_ns; /* armed: asks to be looked at after that long */
    bool held;              /* received and not released */
};

static int fake_receive(struct port_source *s, struct packet **out, unsigned max, struct packet_pool *pool)
{
    struct fake *f = container_of(s, struct fake, source);
    assert_non_null(pool);
    assert_ptr_equal(runner_serves(), &f->port);
    assert_false(f->held);
    assert_false(atomic_load(&f->armed));
    atomic_fetch_add(&f->receives, 1);
    if (atomic_load(&f->fail_with)) return -atomic_load(&f->fail_with);
    if (f->gap_ns) {
        uint64_t now_ns = clock_now_ns();
        if (now_ns < f->next_ns) {
            s->not_before_ns = f->next_ns;
            return 0;
        }
        f->next_ns = now_ns + f->gap_ns;
    }
    uint64_t taken = atomic_load(&f->taken);
    uint64_t n = min_u64(atomic_load(&f->endless) ? max : atomic_load(&f->made) - taken, max);
    for (uint64_t i = 0; i < n; i++)
        out[i] = &f->packets[i];
    f->held = n != 0;
    return (int)n;
}

static void fake_release(struct port_source *s)
{
    struct fake *f = container_of(s, struct fake, source);
    assert_true(f->held);
    assert_ptr_equal(runner_serves(), &f->port);
    f->held = false;
    atomic_fetch_add(&f->released, 1);
}

static bool fake_arm(struct port_source *s)
{
    struct fake *f = container_of(s, struct fake, source);
    assert_ptr_equal(runner_serves(), &f->port);
    assert_false(atomic_load(&f->armed));
    atomic_store(&f->armed, true);
    atomic_fetch_add(&f->arms, 1);
    if (f->look_after_ns) s->look_at_ns = clock_now_ns() + f->look_after_ns;
    return atomic_load(&f->made) != atomic_load(&f->taken);
}

static void fake_disarm(struct port_source *s)
{
    struct fake *f = container_of(s, struct fake, source);
    assert_ptr_equal(runner_serves(), &f->port);
    assert_true(atomic_load(&f->armed));
    atomic_store(&f->armed, false);
}

static void fake_woken(struct port_source *s)
{
    uint64_t value;
    ssize_t n = read(s->fd, &value, sizeof value);
    (void)n;
}

static const struct port_source_ops fake_ops = {fake_receive, fake_release, fake_arm, fake_disarm, fake_woken};
static const struct port_ops fake_port_ops = {.type = "fake"};

static struct fake *fake_new(bool kicked)
{
    struct fake *f = calloc(1, sizeof *f);
    assert_non_null(f);
    port_init(&f->port, &fake_port_ops, "fake");
    f->source = (struct port_source){.ops = &fake_ops, .port = &f->port, .fd = -1};
    if (kicked) f->source.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    for (unsigned i = 0; i < PACKET_BATCH; i++)
        f->packets[i] = (struct packet){.head = f->frame, .head_bytes = 60, .length_bytes = 60};
    return f;
}

static void fake_free(struct fake *f)
{
    if (f->source.fd >= 0) close(f->source.fd);
    free(f);
}

static void fake_make(struct fake *f, unsigned n)
{
    uint64_t one = 1;
    atomic_fetch_add(&f->made, n);
    if (f->source.fd < 0 || !atomic_load(&f->armed)) return;
    assert_int_equal(write(f->source.fd, &one, sizeof one), sizeof one);
}

/* ---- the sink ---- */

struct fake_sink {
    struct runner_sink sink;
    bool refuses;
    pthread_t thread;
    bool asleep;
    _Atomic uint64_t inputs, quiescents, sleeps;
    _Atomic int threads;
};

static void *sink_thread_new(void *arg, struct packet_pool *pool)
{
    struct fake_sink *s = arg;
    assert_non_null(pool);
    if (s->refuses) return NULL;
    s->thread = pthread_self();
    atomic_fetch_add(&s->threads, 1);
    return s;
}

static void sink_thread_free(void *thread)
{
    struct fake_sink *s = thread;
    assert_true(pthread_equal(s->thread, pthread_self()));
    atomic_fetch_sub(&s->threads, 1);
}

static void sink_input(void *thread, struct port *in, struct packet *const *packets, unsigned count)
{
    struct fake_sink *s = thread;
    struct fake *f = container_of(in, struct fake, port);
    assert_true(pthread_equal(s->thread, pthread_self()));
    assert_false(s->asleep);
    assert_true(f->held);
    for (unsigned i = 0; i < count; i++)
        assert_ptr_equal(packets[i], &f->packets[i]);
    atomic_fetch_add(&f->taken, count);
    atomic_fetch_add(&s->inputs, 1);
}

static void sink_quiescent(void *thread)
{
    struct fake_sink *s = thread;
    assert_false(s->asleep);
    atomic_fetch_add(&s->quiescents, 1);
}

static void sink_asleep(void *thread)
{
    struct fake_sink *s = thread;
    assert_false(s->asleep);
    s->asleep = true;
    atomic_fetch_add(&s->sleeps, 1);
}

static void sink_awake(void *thread)
{
    struct fake_sink *s = thread;
    assert_true(s->asleep);
    s->asleep = false;
}

static struct runner *start(struct fake_sink *s, uint64_t poll_ns)
{
    *s = (struct fake_sink){
        .sink = {sink_thread_new, sink_thread_free, sink_input, sink_quiescent, sink_asleep, sink_awake, s}};
    struct runner *r;
    assert_int_equal(runner_new(&r, "runner", &s->sink, poll_ns), 0);
    assert_int_equal(atomic_load(&s->threads), 1);
    return r;
}

#define WAIT_FOR(condition)                                                                                            \
    do {                                                                                                               \
        uint64_t until_ns_ = clock_now_ns() + 10 * NS_PER_SECOND;                                                      \
        while (!(condition)) {                                                                                         \
            assert_true(clock_now_ns() < until_ns_);                                                                   \
            usleep(100);                                                                                               \
        }                                                                                                              \
    } while (0)

static uint64_t sleeps_of(struct runner *r)
{
    struct runner_stats stats;
    runner_stats_read(r, &stats);
    return stats.sleeps;
}

/* ---- tests ---- */

static void frames_come_through_and_are_counted(void **state)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, 0);
    struct fake *f = fake_new(true);
    atomic_store(&f->made, 100); /* before it is added: nobody signals */
    assert_int_equal(runner_add(r, &f->source), 0);
    WAIT_FOR(atomic_load(&f->taken) == 100);
    fake_make(f, 1);
    WAIT_FOR(atomic_load(&f->taken) == 101);
    runner_remove(&f->source);
    assert_int_equal(atomic_load(&f->released), atomic_load(&sink.inputs));
    struct port_stats stats;
    port_stats_read(&f->port, &stats);
    assert_int_equal(stats.in_packets, 101);
    assert_int_equal(stats.in_bytes, 101 * 60);
    struct runner_stats mine;
    runner_stats_read(r, &mine);
    assert_int_equal(mine.packets, 101);
    assert_true(mine.rounds >= 4);
    runner_free(r);
    assert_int_equal(atomic_load(&sink.threads), 0);
    fake_free(f);
}

/* Nobody signals, but it has said when it wants to be looked at. */
static void looked_at_in_time(void **state)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, 0);
    struct fake *f = fake_new(true), *other = fake_new(true);
    f->look_after_ns = 50 * NS_PER_MS;
    uint64_t start_ns = clock_now_ns();
    assert_int_equal(runner_add(r, &f->source), 0);
    assert_int_equal(runner_add(r, &other->source), 0);
    WAIT_FOR(atomic_load(&f->armed) && atomic_load(&other->armed));
    atomic_fetch_add(&f->made, 1);
    WAIT_FOR(atomic_load(&f->taken) == 1);
    assert_true(clock_now_ns() - start_ns >= 50 * NS_PER_MS);
    assert_int_equal(atomic_load(&other->arms), 1);
    assert_true(atomic_load(&f->receives) < 10);
    runner_remove(&f->source);
    runner_remove(&other->source);
    runner_free(r);
    fake_free(f);
    fake_free(other);
}

struct producer {
    struct fake *fake;
    unsigned bursts;
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    unsigned random = 1;
    for (unsigned i = 0; i < p->bursts; i++) {
        random = random * 1103515245 + 12345;
        fake_make(p->fake, 1 + (random >> 16) % 40);
        unsigned pause = (random >> 24) % 8;
        if (pause == 0) usleep(60);
        for (unsigned k = 0; k < pause * 50; k++)
            cpu_relax();
    }
    return NULL;
}

static void nothing_is_missed(uint64_t poll_ns)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, poll_ns);
    struct producer producers[3];
    pthread_t threads[3];
    for (unsigned i = 0; i < 3; i++) {
        producers[i] = (struct producer){fake_new(i != 2), 3000};
        assert_int_equal(runner_add(r, &producers[i].fake->source), 0);
        assert_int_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        struct fake *f = producers[i].fake;
        WAIT_FOR(atomic_load(&f->taken) == atomic_load(&f->made));
        runner_remove(&f->source);
        assert_false(atomic_load(&f->armed));
        fake_free(f);
    }
    runner_free(r);
}

static void nothing_is_missed_without_polling(void **state)
{
    nothing_is_missed(0);
}

static void nothing_is_missed_with_polling(void **state)
{
    nothing_is_missed(RUNNER_POLL_NS_DEFAULT);
}

static void one_that_is_idle_costs_nothing(void **state)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, RUNNER_POLL_NS_DEFAULT);
    struct fake *f = fake_new(true);
    assert_int_equal(runner_add(r, &f->source), 0);
    fake_make(f, 1);
    WAIT_FOR(atomic_load(&f->taken) == 1 && atomic_load(&f->armed));
    usleep(20000);
    struct runner_stats before, after;
    runner_stats_read(r, &before);
    usleep(100000);
    runner_stats_read(r, &after);
    assert_int_equal(before.rounds, after.rounds);
    assert_int_equal(before.sleeps, after.sleeps);
    runner_remove(&f->source);
    runner_free(r);
    fake_free(f);
}

static void a_busy_source_starves_nobody(void **state)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, RUNNER_POLL_NS_DEFAULT);
    struct fake *busy = fake_new(true), *quiet = fake_new(true), *unkicked = fake_new(false), *slow = fake_new(true);
    atomic_store(&busy->endless, true);
    slow->gap_ns = 2 * NS_PER_MS;
    atomic_store(&slow->made, 100 * PACKET_BATCH);
    struct fake *all[] = {busy, quiet, unkicked, slow};
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        assert_int_equal(runner_add(r, &all[i]->source), 0);
    uint64_t before_sleeps = sleeps_of(r); /* while there was no source */
    for (unsigned i = 1; i <= 50; i++) {
        usleep(200);
        uint64_t before = atomic_load(&busy->receives);
        fake_make(quiet, 1);
        fake_make(unkicked, 1);
        WAIT_FOR(atomic_load(&quiet->taken) == i);
        WAIT_FOR(atomic_load(&unkicked->taken) == i);
        WAIT_FOR(atomic_load(&busy->receives) > before);
    }
    WAIT_FOR(atomic_load(&slow->taken) >= 3 * PACKET_BATCH);
    assert_int_equal(sleeps_of(r), before_sleeps);
    for (unsigned i = 0; i < ARRAY_LEN(all); i++) {
        runner_remove(&all[i]->source);
        fake_free(all[i]);
    }
    runner_free(r);
}

static void many_idle_sources_cost_the_busy_one_nothing(void **state)
{
    enum { MANY = 300 };
    struct fake_sink sink;
    struct runner *r = start(&sink, RUNNER_POLL_NS_DEFAULT);
    struct fake *idle[MANY], *busy = fake_new(true);
    for (unsigned i = 0; i < MANY; i++) {
        idle[i] = fake_new(true);
        assert_int_equal(runner_add(r, &idle[i]->source), 0);
    }
    for (unsigned i = 0; i < MANY; i++)
        WAIT_FOR(atomic_load(&idle[i]->armed));
    atomic_store(&busy->endless, true);
    assert_int_equal(runner_add(r, &busy->source), 0);
    uint64_t before[MANY];
    for (unsigned i = 0; i < MANY; i++)
        before[i] = atomic_load(&idle[i]->receives);
    WAIT_FOR(atomic_load(&busy->receives) > 10000);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(atomic_load(&idle[i]->receives), before[i]);
    for (unsigned i = 0; i < MANY; i += 7)
        fake_make(idle[i], i + 1);
    for (unsigned i = 0; i < MANY; i += 7)
        WAIT_FOR(atomic_load(&idle[i]->taken) == i + 1);
    for (unsigned i = 0; i < MANY; i++) {
        runner_remove(&idle[i]->source);
        fake_free(idle[i]);
    }
    runner_remove(&busy->source);
    runner_free(r);
    fake_free(busy);
}

static void what_comes_in_is_mirrored_to_a_capture(void **state)
{
    struct fake_sink sink;
    struct errmsg e;
    struct runner *r = start(&sink, 0);
    struct fake *f = fake_new(true);
    struct port_capture *c;
    struct port_capture_config config = {.fd = memfd_create("capture", MFD_CLOEXEC), .direction = PORT_CAPTURE_IN};
    assert_int_equal(port_capture_start(&c, &f->port, &config, &e), 0);
    assert_int_equal(runner_add(r, &f->source), 0);
    fake_make(f, 75);
    WAIT_FOR(atomic_load(&f->taken) == 75);
    port_capture_stop(c);
    struct port_capture_stats stats;
    port_capture_stats_read(c, &stats);
    assert_int_equal(stats.frames, 75);
    fake_make(f, 5);
    WAIT_FOR(atomic_load(&f->taken) == 80);
    runner_remove(&f->source);
    runner_free(r);
    port_capture_free(c);
    close(config.fd);
    fake_free(f);
}

static void a_broken_source_is_left_alone(void **state)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, 0);
    struct fake *bad = fake_new(true), *good = fake_new(true);
    atomic_store(&bad->fail_with, EIO);
    assert_int_equal(runner_add(r, &bad->source), 0);
    assert_int_equal(runner_add(r, &good->source), 0);
    fake_make(good, 1);
    WAIT_FOR(atomic_load(&good->taken) == 1 && atomic_load(&bad->receives) == 1);
    uint64_t one = 1;
    assert_int_equal(write(bad->source.fd, &one, sizeof one), sizeof one); /* it would wake us for ever */
    fake_make(good, 50);
    WAIT_FOR(atomic_load(&good->taken) == 51);
    assert_int_equal(atomic_load(&bad->receives), 1);
    assert_int_equal(atomic_load(&bad->source.broken), -EIO);
    /* Again, when it was removed and added. */
    runner_remove(&bad->source);
    atomic_store(&bad->fail_with, 0);
    assert_int_equal(runner_add(r, &bad->source), 0);
    fake_make(bad, 5);
    WAIT_FOR(atomic_load(&bad->taken) == 5);
    runner_remove(&bad->source);
    runner_remove(&bad->source); /* harmless */
    runner_remove(&good->source);
    runner_free(r);
    fake_free(bad);
    fake_free(good);
}

static void a_rate_limit_is_obeyed(void **state)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, RUNNER_POLL_NS_DEFAULT);
    struct fake *f = fake_new(true);
    f->gap_ns = 5 * NS_PER_MS;
    atomic_store(&f->made, 10 * PACKET_BATCH);
    uint64_t one = 1, start_ns = clock_now_ns();
    assert_int_equal(write(f->source.fd, &one, sizeof one), sizeof one); /* readable all the time */
    assert_int_equal(runner_add(r, &f->source), 0);
    WAIT_FOR(atomic_load(&f->taken) == 10 * PACKET_BATCH);
    assert_true(clock_now_ns() - start_ns >= 9 * f->gap_ns);
    /* Not asked all the time in between. */
    assert_true(atomic_load(&f->receives) <= 30);
    runner_remove(&f->source);
    runner_free(r);
    fake_free(f);
}

struct called {
    struct fake_sink *sink;
    bool on_thread;
};

static void call_me(void *arg)
{
    struct called *c = arg;
    c->on_thread = pthread_equal(c->sink->thread, pthread_self());
}

static void calls_run_on_the_thread(void **state)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, 0);
    struct called c = {.sink = &sink};
    runner_call(r, call_me, &c);
    assert_true(c.on_thread);
    runner_free(r);
}

static void after_remove_nobody_is_called(void **state)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, RUNNER_POLL_NS_DEFAULT);
    struct fake *other = fake_new(true);
    atomic_store(&other->endless, true);
    assert_int_equal(runner_add(r, &other->source), 0);
    for (unsigned i = 0; i < 200; i++) {
        struct fake *f = fake_new(i % 2);
        atomic_store(&f->endless, i % 3 == 0);
        if (i % 5 == 0) f->gap_ns = NS_PER_SECOND;
        fake_make(f, i);
        assert_int_equal(runner_add(r, &f->source), 0);
        if (i % 4 == 0) usleep(100);
        runner_remove(&f->source);
        fake_free(f); /* a call from here on is a use after free */
    }
    runner_remove(&other->source);
    runner_free(r);
    fake_free(other);
}

static void polling_can_be_for_ever_and_never(void **state)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, UINT64_MAX);
    struct fake *f = fake_new(true);
    assert_int_equal(runner_add(r, &f->source), 0);
    uint64_t before = sleeps_of(r); /* while there was no source */
    for (unsigned i = 1; i <= 20; i++) {
        fake_make(f, 1);
        WAIT_FOR(atomic_load(&f->taken) == i);
    }
    assert_int_equal(sleeps_of(r), before);
    assert_int_equal(atomic_load(&f->arms), 0);
    runner_set_poll(r, 0);
    WAIT_FOR(atomic_load(&f->armed));
    fake_make(f, 1);
    WAIT_FOR(atomic_load(&f->taken) == 21 && atomic_load(&f->armed));
    runner_set_poll(r, UINT64_MAX);
    WAIT_FOR(!atomic_load(&f->armed));
    struct runner_stats stats;
    runner_remove(&f->source);
    runner_stats_read(r, &stats);
    assert_true(stats.polled_ns > 0);
    runner_free(r);
    fake_free(f);
}

static void old_kernels_do_not_make_it_spin(void **state)
{
    static const int errors[] = {ENOSYS, EPERM};
    for (unsigned i = 0; i < 2; i++) {
        struct fake_sink sink;
        atomic_store(&pwait2_fails_with, errors[i]);
        struct runner *r = start(&sink, 0);
        struct fake *f = fake_new(true), *slow = fake_new(true);
        slow->gap_ns = 5 * NS_PER_MS;
        assert_int_equal(runner_add(r, &f->source), 0);
        WAIT_FOR(atomic_load(&f->armed));
        uint64_t before = sleeps_of(r);
        usleep(50000);
        assert_true(sleeps_of(r) - before < 5);
        for (unsigned n = 1; n <= 20; n++) {
            fake_make(f, 1);
            WAIT_FOR(atomic_load(&f->taken) == n && atomic_load(&f->armed));
        }
        assert_int_equal(runner_add(r, &slow->source), 0);
        fake_make(slow, 4 * PACKET_BATCH);
        WAIT_FOR(atomic_load(&slow->taken) == 4 * PACKET_BATCH);
        assert_true(sleeps_of(r) - before < 200);
        runner_remove(&f->source);
        runner_remove(&slow->source);
        runner_free(r);
        fake_free(f);
        fake_free(slow);
    }
    atomic_store(&pwait2_fails_with, 0);
}

static void affinity_read(void *arg)
{
    assert_int_equal(sched_getaffinity(0, sizeof(cpu_set_t), arg), 0);
}

static int cpus_of(struct runner *r, cpu_set_t *set)
{
    runner_call(r, affinity_read, set);
    return CPU_COUNT(set);
}

/* How is in stay_test.c. */
static void a_busy_thread_stays_where_it_is(void **state)
{
    cpu_set_t all, set;
    affinity_read(&all);
    if (CPU_COUNT(&all) < 2) skip();
    struct fake_sink sink;
    struct runner *r = start(&sink, 0);
    struct fake *f = fake_new(true);
    atomic_store(&f->endless, true);
    assert_int_equal(runner_add(r, &f->source), 0);
    assert_int_equal(cpus_of(r, &set), CPU_COUNT(&all)); /* not told to */
    runner_set_stay(r, true);
    WAIT_FOR(cpus_of(r, &set) == 1);
    runner_set_stay(r, false);
    assert_int_equal(cpus_of(r, &set), CPU_COUNT(&all));
    runner_remove(&f->source);
    runner_free(r);
    fake_free(f);
}

static void what_cannot_be_watched_is_refused(void **state)
{
    struct fake_sink sink;
    struct runner *r = start(&sink, 0);
    struct fake *f = fake_new(false);
    char name[] = "/tmp/creedence-runner-XXXXXX";
    f->source.fd = mkstemp(name);
    unlink(name);
    assert_int_equal(runner_add(r, &f->source), -EPERM);
    assert_null(f->source.runner);
    runner_remove(&f->source);
    runner_free(r);
    fake_free(f);
}

static void no_memory_for_the_sink(void **state)
{
    struct fake_sink s = {.sink = {sink_thread_new, sink_thread_free, sink_input, NULL, NULL, NULL, &s},
                          .refuses = true};
    struct runner *r;
    assert_int_equal(runner_new(&r, "runner", &s.sink, 0), -ENOMEM);
    runner_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_come_through_and_are_counted),
        cmocka_unit_test(looked_at_in_time),
        cmocka_unit_test(nothing_is_missed_without_polling),
        cmocka_unit_test(nothing_is_missed_with_polling),
        cmocka_unit_test(one_that_is_idle_costs_nothing),
        cmocka_unit_test(a_busy_source_starves_nobody),
        cmocka_unit_test(many_idle_sources_cost_the_busy_one_nothing),
        cmocka_unit_test(what_comes_in_is_mirrored_to_a_capture),
        cmocka_unit_test(a_broken_source_is_left_alone),
        cmocka_unit_test(a_rate_limit_is_obeyed),
        cmocka_unit_test(calls_run_on_the_thread),
        cmocka_unit_test(after_remove_nobody_is_called),
        cmocka_unit_test(polling_can_be_for_ever_and_never),
        cmocka_unit_test(old_kernels_do_not_make_it_spin),
        cmocka_unit_test(a_busy_thread_stays_where_it_is),
        cmocka_unit_test(what_cannot_be_watched_is_refused),
        cmocka_unit_test(no_memory_for_the_sink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
