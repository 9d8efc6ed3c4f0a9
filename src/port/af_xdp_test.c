/* SPDX-License-Identifier: Apache-2.0 */
/* A host at the other end of a veth pair, whose our end is an AF_XDP port, talks to a host behind a tap. */
#include "port/af_xdp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loop/clock.h"
#include "port/tap.h"
#include "port/test_net.h"

#define MIB (UINT64_C(1) << 20)

static bool permitted;

/* In the place of libc's, to see which queues the kernel is told to send. */
static _Atomic unsigned kicks[1024];

ssize_t sendto(int fd, const void *data, size_t bytes, int flags, const struct sockaddr *to, socklen_t to_bytes)
{
    if (fd >= 0 && fd < 1024) atomic_fetch_add(&kicks[fd], 1);
    return syscall(SYS_sendto, fd, data, bytes, flags, to, to_bytes);
}

struct rig {
    int nets[2], ours, before;
    unsigned queues; /* of the veth pair; 0: one */
    struct af_xdp *xdp;
    struct tap *tap;
    struct hub hub;
};

static void make_hosts(struct rig *r)
{
    struct errmsg e;
    unsigned queues = r->queues ? r->queues : 1;
    r->before = net_here();
    r->ours = net_new();
    for (unsigned i = 0; i < 2; i++)
        r->nets[i] = net_new();
    net_enter(r->nets[1]);
    struct tap_config tap = {.name = "tap", .device = "cr-host", .queues = 1};
    assert_int_equal(tap_open(&r->tap, &tap, &e), 0);
    net_enter(r->ours);
    net_run(r->ours,
            "ip link add cr-0 numrxqueues %u numtxqueues %u type veth peer name cr-host numrxqueues %u numtxqueues %u "
            "netns /proc/%d/fd/%d && ip link set cr-0 up",
            queues, queues, queues, queues, getpid(), r->nets[0]);
    for (unsigned i = 0; i < 2; i++)
        net_run(r->nets[i],
                "ip addr add 10.0.0.%u/24 dev cr-host && ip -6 addr add fd00::%u/64 dev cr-host nodad && ip link set "
                "cr-host up",
                i + 1, i + 1);
    /* There is no place for an unfinished checksum. */
    net_ethtool(r->nets[0], "cr-host", ETHTOOL_STXCSUM, 0);
}

static void rig_open_port(struct rig *r, enum af_xdp_mode mode)
{
    struct errmsg e;
    struct af_xdp_config c = {.name = "xdp", .device = "cr-0", .mode = mode};
    int ret = af_xdp_open(&r->xdp, &c, &e);
    if (ret == -ENOSYS || ret == -EPERM || ret == -EOPNOTSUPP) {
        print_message("%s\n", e.text);
        skip();
    }
    if (ret < 0) print_error("%s\n", e.text);
    assert_int_equal(ret, 0);
    hub_init(&r->hub, af_xdp_port(r->xdp), tap_port(r->tap));
    for (unsigned q = 0; af_xdp_source(r->xdp, q); q++)
        hub_add(&r->hub, af_xdp_source(r->xdp, q));
    hub_add(&r->hub, tap_source(r->tap, 0));
}

static void rig_open(struct rig *r, enum af_xdp_mode mode)
{
    make_hosts(r);
    rig_open_port(r, mode);
}

static void rig_close(struct rig *r)
{
    hub_stop(&r->hub);
    struct port *p = af_xdp_port(r->xdp);
    p->ops->free(p);
    p = tap_port(r->tap);
    p->ops->free(p);
    net_enter(r->before);
    close(r->before);
    close(r->ours);
    close(r->nets[0]);
    close(r->nets[1]);
}

static void talk(struct rig *r)
{
    net_stream(r->nets[0], r->nets[1], "10.0.0.2", 4 * MIB);
    net_stream(r->nets[1], r->nets[0], "10.0.0.1", 4 * MIB);
    net_stream(r->nets[0], r->nets[1], "fd00::2", 2 * MIB);
    assert_int_equal(net_echo(r->nets[0], r->nets[1], "10.0.0.2", 50, 1400, 0), 50);
    assert_int_equal(net_echo(r->nets[1], r->nets[0], "fd00::1", 50, 1, 0), 50);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(net_bad_checksums(r->nets[i]), 0);
}

static void hosts_talk(enum af_xdp_mode mode)
{
    struct rig r = {0};
    rig_open(&r, mode);
    if (mode != AF_XDP_AUTO) assert_int_equal(af_xdp_mode(r.xdp), mode);
    talk(&r);
    struct port_stats stats;
    port_stats_read(af_xdp_port(r.xdp), &stats);
    assert_true(stats.segmented > 500); /* the tap's large segments */
    assert_true(stats.merged > 500);    /* the veth's small ones */
    assert_true(stats.out_copied_bytes > 4 * MIB);
    assert_true(atomic_load(&r.hub.large) > 0);
    rig_close(&r);
}

static void in_the_driver(void **state)
{
    if (!permitted) skip();
    hosts_talk(AF_XDP_NATIVE);
}

static void before_the_stack(void **state)
{
    if (!permitted) skip();
    hosts_talk(AF_XDP_GENERIC);
}

static void whatever_is_possible(void **state)
{
    if (!permitted) skip();
    hosts_talk(AF_XDP_AUTO);
}

static bool takes_tags_off(const char *device)
{
    struct ethtool_value v = {.cmd = ETHTOOL_GFLAGS};
    struct ifreq request = {.ifr_data = (char *)&v};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(ioctl(fd, SIOCETHTOOL, &request), 0);
    close(fd);
    return v.data & ETH_FLAG_RXVLAN;
}

static void the_card_leaves_vlan_tags_alone(void **state)
{
    if (!permitted) skip();
    struct rig r = {0};
    make_hosts(&r);
    net_ethtool(r.ours, "cr-0", ETHTOOL_SFLAGS, ETH_FLAG_RXVLAN);
    assert_true(takes_tags_off("cr-0"));
    rig_open_port(&r, AF_XDP_AUTO);
    assert_false(takes_tags_off("cr-0"));
    rig_close(&r);
}

static void several_queues(void **state)
{
    if (!permitted) skip();
    struct rig r = {.queues = 3};
    rig_open(&r, AF_XDP_AUTO);
    assert_non_null(af_xdp_source(r.xdp, 2));
    assert_null(af_xdp_source(r.xdp, 3));
    for (unsigned q = 0; q < 3; q++)
        atomic_store(&kicks[af_xdp_source(r.xdp, q)->fd], 0);
    net_send_flows(af_xdp_port(r.xdp));
    for (unsigned q = 0; q < 3; q++)
        assert_true(atomic_load(&kicks[af_xdp_source(r.xdp, q)->fd]) > 0);
    talk(&r);
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

static void an_interface_goes_down_and_is_removed(void **state)
{
    if (!permitted) skip();
    struct rig r = {0};
    rig_open(&r, AF_XDP_AUTO);
    struct port *p = af_xdp_port(r.xdp);
    net_stream(r.nets[0], r.nets[1], "10.0.0.2", MIB);
    WAIT_FOR(p->ops->link_up(p));
    net_run(r.ours, "ip link set cr-0 down");
    WAIT_FOR(!p->ops->link_up(p));
    net_shout(r.nets[1], "cr-host", "10.0.0.1");
    net_run(r.ours, "ip link set cr-0 up");
    WAIT_FOR(p->ops->link_up(p));
    net_stream(r.nets[1], r.nets[0], "10.0.0.1", MIB);
    assert_int_equal(p->ops->broken(p), 0);
    net_run(r.ours, "ip link del cr-0");
    WAIT_FOR(!p->ops->link_up(p));
    assert_int_equal(p->ops->broken(p), -ENODEV);
    net_shout(r.nets[1], "cr-host", "10.0.0.1");
    usleep(20000);
    struct port_stats stats;
    port_stats_read(p, &stats);
    assert_true(stats.out_errors + stats.out_dropped > 0);
    rig_close(&r);
}

static void what_cannot_be_opened(void **state)
{
    if (!permitted) skip();
    struct rig r = {0};
    struct errmsg e;
    struct af_xdp *x;
    rig_open(&r, AF_XDP_AUTO);
    struct af_xdp_config c = {.name = "x", .device = "cr-none"};
    assert_int_equal(af_xdp_open(&x, &c, &e), -ENODEV);
    c.device = "cr-0"; /* twice */
    assert_int_equal(af_xdp_open(&x, &c, &e), -EBUSY);
    c.device = "lo"; /* its MTU */
    assert_int_equal(af_xdp_open(&x, &c, &e), -EINVAL);
    talk(&r);
    rig_close(&r);
}

static int open_one(void *arg)
{
    struct errmsg e;
    struct af_xdp_config c = {.name = "xdp", .device = "cr-0", .mode = AF_XDP_GENERIC};
    return af_xdp_open(arg, &c, &e);
}

static void few_descriptors(void **state)
{
    if (!permitted) skip();
    struct rig r = {0};
    rig_open(&r, AF_XDP_AUTO); /* or skip */
    struct port *p = af_xdp_port(r.xdp);
    hub_stop(&r.hub);
    p->ops->free(p);
    net_few_descriptors(open_one, &r.xdp);
    rig_close(&r);
}

int main(void)
{
    permitted = net_permitted();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_the_driver),         cmocka_unit_test(before_the_stack),
        cmocka_unit_test(whatever_is_possible),  cmocka_unit_test(an_interface_goes_down_and_is_removed),
        cmocka_unit_test(several_queues),        cmocka_unit_test(the_card_leaves_vlan_tags_alone),
        cmocka_unit_test(what_cannot_be_opened), cmocka_unit_test(few_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
