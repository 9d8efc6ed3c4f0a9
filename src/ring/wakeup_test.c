/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driver and device on two threads that sleep on event descriptors as real ones do. A wake-up that is lost leaves
 * both asleep: the wait then runs into its limit and the test fails. Run under the thread sanitizer it also checks
 * that everything one side writes is ordered before the other reads it.
 */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "loop/clock.h"
#include "ring/test_rig.h"

#define REQUESTS 15000u
#define LIMIT_MS 10000

struct pair {
    struct rig rig;
    int kick, call;
    _Atomic bool stuck;
    unsigned long sleeps, notifications; /* of the device */
};

static void notify(int fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one);
    (void)n;
}

/* False when nobody woke us. */
static bool sleep_on(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, LIMIT_MS) != 1) return false;
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof count);
    (void)n;
    return true;
}

static void spin(uint64_t *random)
{
    for (uint64_t n = rig_random(random) % 64; n > 0; n--)
        cpu_relax();
}

/* Answers each request with its number plus one, where the request says. */
static unsigned serve(struct pair *t, uint64_t *random)
{
    struct virtq_chain c;
    struct iovec iov[4];
    unsigned n = 0;
    while (virtq_pop(t->rig.q, &c, iov, 4) == 1) {
        uint64_t number;
        memcpy(&number, iov[0].iov_base, sizeof number);
        number++;
        memcpy(iov[1].iov_base, &number, sizeof number);
        virtq_push(t->rig.q, c.id, sizeof number);
        n++;
        if (rig_random(random) % 3 == 0) break;
    }
    if (virtq_publish(t->rig.q)) {
        notify(t->call);
        t->notifications++;
    }
    return n;
}

static void *device(void *arg)
{
    struct pair *t = arg;
    uint64_t random = 1;
    for (unsigned done = 0; done < REQUESTS;) {
        unsigned n = serve(t, &random);
        done += n;
        if (n) {
            virtq_kick_disable(t->rig.q);
            spin(&random);
        } else if (!virtq_kick_enable(t->rig.q)) {
            t->sleeps++;
            if (!sleep_on(t->kick)) {
                atomic_store(&t->stuck, true);
                return NULL;
            }
        }
    }
    return NULL;
}

static bool add(struct pair *t, uint64_t number)
{
    unsigned place = (unsigned)(number % 64);
    uint64_t at = t->rig.buffers_gpa + place * 64;
    struct driver_sim_buf buf[2] = {{{at}, 8, false}, {{at + 8}, 8, true}};
    memcpy(t->rig.buffers + place * 64, &number, sizeof number);
    return driver_sim_add(t->rig.driver, buf, 2, number % 2, number);
}

static unsigned take_back(struct pair *t)
{
    uint64_t token, answer;
    uint32_t written;
    unsigned n = 0;
    for (; driver_sim_get(t->rig.driver, &token, &written); n++) {
        memcpy(&answer, t->rig.buffers + token % 64 * 64 + 8, sizeof answer);
        assert_int_equal(answer, token + 1);
    }
    if (driver_sim_error(t->rig.driver)) fail_msg("driver: %s", driver_sim_error(t->rig.driver));
    return n;
}

static void drive(struct pair *t)
{
    uint64_t random = 2, added = 0, done = 0;
    while (done < REQUESTS) {
        uint64_t want = 1 + rig_random(&random) % 5;
        while (want-- > 0 && added < REQUESTS && added - done < 64 && add(t, added))
            added++;
        if (driver_sim_publish(t->rig.driver)) notify(t->kick);
        unsigned n = take_back(t);
        done += n;
        if (n) driver_sim_calls_off(t->rig.driver);
        else spin(&random);
        if (n == 0 && !driver_sim_calls_on(t->rig.driver) && !sleep_on(t->call))
            fail_msg("stuck at %u", (unsigned)done);
        assert_false(atomic_load(&t->stuck));
    }
}

static void run(bool packed, bool event_idx)
{
    struct pair t = {.kick = eventfd(0, EFD_NONBLOCK), .call = eventfd(0, EFD_NONBLOCK)};
    struct rig_options o = {.size = 16, .packed = packed, .event_idx = event_idx, .tracked = event_idx};
    o.base = packed ? 0x80008000 : 60000;
    rig_open(&t.rig, &o);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, device, &t), 0);
    drive(&t);
    pthread_join(thread, NULL);
    print_message("%u requests, the device slept %lu times and notified %lu times\n", REQUESTS, t.sleeps,
                  t.notifications);
    rig_close(&t.rig);
    close(t.kick);
    close(t.call);
}

static void test_split(void **state)
{
    run(false, false);
}

static void test_split_event_idx(void **state)
{
    run(false, true);
}

static void test_packed(void **state)
{
    run(true, false);
}

static void test_packed_event_idx(void **state)
{
    run(true, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_split_event_idx),
        cmocka_unit_test(test_packed),
        cmocka_unit_test(test_packed_event_idx),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
