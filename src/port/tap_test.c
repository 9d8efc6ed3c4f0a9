/* SPDX-License-Identifier: Apache-2.0 */
/* Two hosts, each behind a tap, and a hub between the taps: the kernel's own stacks talk through it and check what they get. */
#include "port/tap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "loop/clock.h"
#include "port/test_net.h"

#define MIB (UINT64_C(1) << 20)

static bool permitted;

/* In the place of libc's, to see through which queues frames leave. */
static _Atomic unsigned writes[1024];

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    if (fd >= 0 && fd < 1024) atomic_fetch_add(&writes[fd], 1);
    return syscall(SYS_writev, fd, iov, count);
}

struct rig {
    int nets[2];
    struct tap *taps[2];
    struct hub hub;
};

static struct tap *tap_in(int net, struct tap_config c)
{
    struct errmsg e;
    struct tap *t = NULL;
    int here = net_here();
    net_enter(net);
    int ret = tap_open(&t, &c, &e);
    if (ret < 0) print_error("%s\n", e.text);
    net_enter(here);
    close(here);
    assert_int_equal(ret, 0);
    return t;
}

static void rig_open(struct rig *r, struct tap_config first, struct tap_config second)
{
    const struct tap_config *configs[] = {&first, &second};
    memset(r, 0, sizeof *r);
    for (unsigned i = 0; i < 2; i++) {
        r->nets[i] = net_new();
        r->taps[i] = tap_in(r->nets[i], *configs[i]);
        const char *device = tap_device(r->taps[i]);
        net_run(r->nets[i],
                "ip addr add 10.0.0.%u/24 dev %s && ip -6 addr add fd00::%u/64 dev %s nodad && ip link set %s up",
                i + 1, device, i + 1, device, device);
    }
    hub_init(&r->hub, tap_port(r->taps[0]), tap_port(r->taps[1]));
    for (unsigned i = 0; i < 2; i++)
        for (unsigned q = 0; tap_source(r->taps[i], q); q++)
            hub_add(&r->hub, tap_source(r->taps[i], q));
}

static void rig_close(struct rig *r)
{
    hub_stop(&r->hub);
    for (unsigned i = 0; i < 2; i++) {
        struct port *p = tap_port(r->taps[i]);
        p->ops->free(p);
        close(r->nets[i]);
    }
}

static struct tap_config config(void)
{
    return (struct tap_config){.name = "tap", .device = "cr-tap", .queues = 1, .mtu = 1500};
}

static void talk(struct rig *r)
{
    net_stream(r->nets[0], r->nets[1], "10.0.0.2", 8 * MIB);
    net_stream(r->nets[1], r->nets[0], "10.0.0.1", 8 * MIB);
    net_stream(r->nets[0], r->nets[1], "fd00::2", 4 * MIB);
    assert_int_equal(net_echo(r->nets[0], r->nets[1], "10.0.0.2", 50, 1400, 0), 50);
    assert_int_equal(net_echo(r->nets[0], r->nets[1], "fd00::2", 50, 1, 0), 50);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(net_bad_checksums(r->nets[i]), 0);
}

static void large_segments_stay_large(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, config(), config());
    talk(&r);
    assert_true(atomic_load(&r.hub.large) > 100);
    assert_true(atomic_load(&r.hub.largest_bytes) > 30000);
    assert_true(atomic_load(&r.hub.partial) > 100);
    struct port_stats stats;
    port_stats_read(tap_port(r.taps[1]), &stats);
    assert_int_equal(stats.segmented + stats.checksummed, 0);
    assert_int_equal(stats.out_errors, 0);
    assert_true(stats.out_bytes > 12 * MIB && stats.in_bytes > 8 * MIB);
    rig_close(&r);
}

/* The receiver takes nothing: what comes is cut up and summed here, and the kernel looks at every sum. */
static void software_finishes_what_is_not_taken(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, config(), config());
    for (unsigned i = 0; i < 2; i++)
        atomic_store(&tap_port(r.taps[i])->takes, 0);
    talk(&r);
    assert_true(atomic_load(&r.hub.large) > 100);
    struct port_stats stats;
    port_stats_read(tap_port(r.taps[1]), &stats);
    assert_true(stats.segmented > 1000 && stats.checksummed > 50);
    assert_int_equal(stats.out_errors, 0);
    rig_close(&r);
}

static void a_kernel_without_offloads_does_it_itself(void **state)
{
    if (!permitted) skip();
    struct rig r;
    struct tap_config none = config();
    none.no_offloads = true;
    rig_open(&r, none, none);
    talk(&r);
    assert_int_equal(atomic_load(&r.hub.large), 0);
    assert_int_equal(atomic_load(&r.hub.partial), 0);
    rig_close(&r);
}

static void datagrams_are_cut_up_late(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, config(), config());
    if (!(atomic_load(&tap_port(r.taps[0])->takes) & PORT_TAKES_USO4)) skip();
    assert_int_equal(net_echo(r.nets[0], r.nets[1], "10.0.0.2", 10, 20000, 1000), 200);
    assert_true(atomic_load(&r.hub.large) >= 10);
    assert_int_equal(net_echo(r.nets[0], r.nets[1], "fd00::2", 10, 20500, 1000), 210);
    for (unsigned i = 0; i < 2; i++)
        atomic_store(&tap_port(r.taps[i])->takes, 0);
    assert_int_equal(net_echo(r.nets[0], r.nets[1], "10.0.0.2", 10, 20500, 1000), 210);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(net_bad_checksums(r.nets[i]), 0);
    rig_close(&r);
}

static void several_queues(void **state)
{
    if (!permitted) skip();
    struct rig r;
    struct tap_config c = config();
    c.queues = 3;
    c.mtu = 9000;
    rig_open(&r, c, c);
    assert_null(tap_source(r.taps[0], 3));
    assert_int_equal(atomic_load(&tap_port(r.taps[0])->mtu), 9000);
    for (unsigned q = 0; q < 3; q++)
        atomic_store(&writes[tap_source(r.taps[0], q)->fd], 0);
    net_send_flows(tap_port(r.taps[0]));
    for (unsigned q = 0; q < 3; q++)
        assert_true(atomic_load(&writes[tap_source(r.taps[0], q)->fd]) > 2);
    for (unsigned i = 0; i < 4; i++)
        net_stream(r.nets[i % 2], r.nets[1 - i % 2], i % 2 ? "10.0.0.1" : "10.0.0.2", MIB);
    rig_close(&r);
}

static void queues_that_others_opened(void **state)
{
    if (!permitted) skip();
    struct errmsg e;
    struct rig r;
    rig_open(&r, config(), config());
    struct tap *adopted;
    struct tap_config c = {.name = "adopted", .queues = 1, .fds = &tap_source(r.taps[0], 0)->fd};
    assert_int_equal(tap_open(&adopted, &c, &e), 0);
    assert_string_equal(tap_device(adopted), "cr-tap");
    struct port *p = tap_port(adopted);
    p->ops->free(p);
    talk(&r);
    c.fds = &(int){STDIN_FILENO};
    assert_true(tap_open(&adopted, &c, &e) < 0);
    rig_close(&r);
}

#define WAIT_FOR(condition)                                                                                            \
    do {                                                                                                               \
        uint64_t until_ns_ = clock_now_ns() + 10 * NS_PER_SECOND;                                                      \
        while (!(condition)) {                                                                                         \
            assert_true(clock_now_ns() < until_ns_);                                                                   \
            usleep(1000);                                                                                              \
        }                                                                                                              \
    } while (0)

static uint64_t dropped(struct tap *t)
{
    struct port_stats stats;
    port_stats_read(tap_port(t), &stats);
    return stats.out_dropped;
}

static void an_interface_that_is_down_takes_nothing(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, config(), config());
    net_stream(r.nets[0], r.nets[1], "10.0.0.2", MIB);
    struct port *second = tap_port(r.taps[1]);
    assert_true(second->ops->link_up(second));
    net_run(r.nets[1], "ip link set cr-tap down");
    uint64_t before = dropped(r.taps[1]);
    net_shout(r.nets[0], "cr-tap", "10.0.0.2");
    WAIT_FOR(dropped(r.taps[1]) > before);
    assert_false(second->ops->link_up(second));
    net_run(r.nets[1], "ip link set cr-tap up");
    net_stream(r.nets[0], r.nets[1], "10.0.0.2", MIB);
    assert_true(second->ops->link_up(second));
    rig_close(&r);
}

static void an_interface_may_be_removed_in_use(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, config(), config());
    net_stream(r.nets[0], r.nets[1], "10.0.0.2", MIB);
    net_run(r.nets[1], "ip link del cr-tap");
    WAIT_FOR(hub_broken(&r.hub, 1));
    net_shout(r.nets[0], "cr-tap", "10.0.0.2");
    struct runner_stats before, after;
    usleep(20000);
    runner_stats_read(r.hub.runners[1], &before);
    usleep(50000);
    runner_stats_read(r.hub.runners[1], &after);
    assert_int_equal(before.rounds, after.rounds);
    rig_close(&r);
}

static void what_cannot_be_opened(void **state)
{
    if (!permitted) skip();
    struct errmsg e;
    struct tap *t;
    struct tap_config c = config();
    c.device = "a-name-that-is-too-long";
    assert_int_equal(tap_open(&t, &c, &e), -EINVAL);
    c.device = "lo";
    assert_int_equal(tap_open(&t, &c, &e), -EINVAL);
    assert_non_null(strstr(e.text, "lo"));
    c = config();
    c.queues = 0;
    assert_int_equal(tap_open(&t, &c, &e), -EINVAL);
    c = config();
    c.mtu = 10; /* less than an Ethernet may have */
    assert_int_equal(tap_open(&t, &c, &e), -EINVAL);
}

static void interfaces_that_stay(void **state)
{
    if (!permitted) skip();
    struct errmsg e;
    struct tap *t;
    int net = net_new(), before = net_here();
    struct tap_config c = config();
    net_enter(net);
    assert_int_equal(tap_open(&t, &c, &e), 0);
    tap_port(t)->ops->free(tap_port(t));
    net_run(net, "! ip link show cr-tap 2>&-"); /* it went */
    c.persist = true;
    c.mtu = 10;
    assert_int_equal(tap_open(&t, &c, &e), -EINVAL);
    net_run(net, "! ip link show cr-tap 2>&-"); /* nothing is left behind */
    for (unsigned i = 0; i < 3; i++) {
        c = config();
        c.persist = i == 0; /* afterwards others take it up, and leave it */
        assert_int_equal(tap_open(&t, &c, &e), 0);
        tap_port(t)->ops->free(tap_port(t));
        net_run(net, "ip link show cr-tap >/dev/null");
    }
    net_enter(before);
    close(before);
    close(net);
}

static int open_one(void *arg)
{
    struct errmsg e;
    struct tap_config c = config();
    c.queues = 3;
    return tap_open(arg, &c, &e);
}

static void few_descriptors(void **state)
{
    if (!permitted) skip();
    struct tap *t;
    net_few_descriptors(open_one, &t);
    struct port *p = tap_port(t);
    p->ops->free(p);
}

int main(void)
{
    permitted = net_permitted();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_segments_stay_large),
        cmocka_unit_test(software_finishes_what_is_not_taken),
        cmocka_unit_test(a_kernel_without_offloads_does_it_itself),
        cmocka_unit_test(datagrams_are_cut_up_late),
        cmocka_unit_test(several_queues),
        cmocka_unit_test(queues_that_others_opened),
        cmocka_unit_test(an_interface_that_is_down_takes_nothing),
        cmocka_unit_test(an_interface_may_be_removed_in_use),
        cmocka_unit_test(what_cannot_be_opened),
        cmocka_unit_test(interfaces_that_stay),
        cmocka_unit_test(few_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
