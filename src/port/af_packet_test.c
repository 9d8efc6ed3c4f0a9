/* SPDX-License-Identifier: Apache-2.0 */
/* Two hosts, each at the other end of a veth pair; a hub between packet sockets on our ends. */
#include "port/af_packet.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/clock.h"
#include "port/test_net.h"

#define MIB (UINT64_C(1) << 20)

static bool permitted;

struct rig {
    int nets[2];
    int ours, before;
    struct af_packet *ports[2];
    struct hub hub;
};

static void rig_open(struct rig *r, bool host_offloads, unsigned queues, struct af_packet_config c)
{
    memset(r, 0, sizeof *r);
    r->before = net_here();
    r->ours = net_new();
    net_enter(r->ours);
    c.queues = queues;
    for (unsigned i = 0; i < 2; i++) {
        char device[16];
        struct errmsg e;
        snprintf(device, sizeof device, "cr-%u", i);
        r->nets[i] = net_new();
        net_run(r->ours, "ip link add %s type veth peer name cr-host netns /proc/%d/fd/%d && ip link set %s up", device,
                getpid(), r->nets[i], device);
        net_run(r->nets[i],
                "ip addr add 10.0.0.%u/24 dev cr-host && ip -6 addr add fd00::%u/64 dev cr-host nodad && ip link set "
                "cr-host up",
                i + 1, i + 1);
        if (!host_offloads) {
            net_ethtool(r->nets[i], "cr-host", ETHTOOL_STSO, 0);
            net_ethtool(r->nets[i], "cr-host", ETHTOOL_SGSO, 0);
            net_ethtool(r->nets[i], "cr-host", ETHTOOL_STXCSUM, 0);
        }
        c.name = c.device = device;
        int ret = af_packet_open(&r->ports[i], &c, &e);
        if (ret < 0) print_error("%s\n", e.text);
        assert_int_equal(ret, 0);
    }
    hub_init(&r->hub, af_packet_port(r->ports[0]), af_packet_port(r->ports[1]));
    for (unsigned i = 0; i < 2; i++)
        for (unsigned q = 0; af_packet_source(r->ports[i], q); q++)
            hub_add(&r->hub, af_packet_source(r->ports[i], q));
}

static void rig_close(struct rig *r)
{
    hub_stop(&r->hub);
    for (unsigned i = 0; i < 2; i++) {
        struct port *p = af_packet_port(r->ports[i]);
        p->ops->free(p);
        close(r->nets[i]);
    }
    net_enter(r->before);
    close(r->before);
    close(r->ours);
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

static struct port_stats stats_of(struct rig *r, unsigned i)
{
    struct port_stats stats;
    port_stats_read(af_packet_port(r->ports[i]), &stats);
    return stats;
}

static void large_segments_stay_large(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, true, 1, (struct af_packet_config){0});
    talk(&r);
    assert_true(atomic_load(&r.hub.largest_bytes) > 30000);
    assert_true(atomic_load(&r.hub.partial) > 100);
    struct port_stats stats = stats_of(&r, 1);
    assert_int_equal(stats.segmented + stats.checksummed + stats.out_errors + stats.in_errors, 0);
    rig_close(&r);
}

static void small_segments_are_merged(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, false, 1, (struct af_packet_config){0});
    talk(&r);
    assert_true(atomic_load(&r.hub.large) > 100);
    assert_true(stats_of(&r, 0).merged > 1000);
    rig_close(&r);
}

static void unless_it_is_turned_off(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, false, 1, (struct af_packet_config){.no_gro = true});
    talk(&r);
    assert_int_equal(atomic_load(&r.hub.large), 0);
    assert_int_equal(stats_of(&r, 0).merged, 0);
    rig_close(&r);
}

static void several_queues(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, true, 3, (struct af_packet_config){.ring = 300});
    assert_null(af_packet_source(r.ports[0], 3));
    for (unsigned i = 0; i < 6; i++)
        net_stream(r.nets[i % 2], r.nets[1 - i % 2], i % 2 ? "10.0.0.1" : "10.0.0.2", MIB);
    talk(&r);
    rig_close(&r);
}

static void straight_to_the_driver(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, true, 1, (struct af_packet_config){.qdisc_bypass = true});
    talk(&r);
    assert_true(stats_of(&r, 1).segmented > 100);
    rig_close(&r);
}

/* Everything that is there, without a runner: how many frames of ours (the hosts say something of their own at times); the last
 * one's bytes in frame. */
static unsigned drain(struct port_source *s, uint8_t *frame, uint32_t *bytes)
{
    struct packet *packets[PACKET_BATCH];
    struct packet_pool *pool = packet_pool_new();
    unsigned total = 0;
    for (;;) {
        struct pollfd wait = {.fd = s->fd, .events = POLLIN};
        poll(&wait, 1, 50);
        int n = s->ops->receive(s, packets, PACKET_BATCH, pool);
        assert_true(n >= 0);
        if (n == 0) break;
        for (int i = 0; i < n; i++) {
            if (memcmp(packets[i]->head, "\2\2\2\2\2\2\2\2\2\2\2\1", 12) != 0) continue;
            total++;
            *bytes = packets[i]->length_bytes;
            packet_read(packets[i], 0, frame, *bytes);
        }
        s->ops->release(s);
    }
    packet_pool_free(pool);
    return total;
}

static void send_raw(int net, const void *frame, size_t bytes, unsigned times)
{
    int before = net_here();
    net_enter(net);
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("cr-host")};
    for (unsigned i = 0; i < times; i++)
        assert_int_equal(sendto(fd, frame, bytes, 0, (struct sockaddr *)&to, sizeof to), bytes);
    close(fd);
    net_enter(before);
    close(before);
}

static void send_frame(struct port *port, uint8_t *frame, uint32_t bytes)
{
    uint8_t head[PACKET_BUFFER_BYTES];
    uint16_t head_bytes = (uint16_t)min_u64(bytes, 100);
    memcpy(head + PACKET_ROOM_BYTES, frame, head_bytes);
    struct iovec body = {frame + head_bytes, bytes - head_bytes};
    struct packet p = {.head = head + PACKET_ROOM_BYTES,
                       .head_bytes = head_bytes,
                       .room_bytes = PACKET_ROOM_BYTES,
                       .length_bytes = bytes,
                       .body = &body,
                       .body_count = bytes > head_bytes};
    struct packet *packets[] = {&p};
    struct packet_pool *pool = packet_pool_new();
    port_send(port, packets, 1, pool);
    packet_pool_free(pool);
}

static void tags_are_put_back_and_own_frames_left_out(void **state)
{
    if (!permitted) skip();
    for (unsigned queues = 1; queues <= 2; queues++) {
        struct rig r;
        rig_open(&r, true, queues, (struct af_packet_config){0});
        hub_stop(&r.hub);
        uint8_t frame[1600], got[PACKET_MAX_BYTES];
        uint32_t bytes;
        for (unsigned q = 0; q < queues; q++)
            drain(af_packet_source(r.ports[0], q), got, &bytes); /* what the hosts say when they come up */
        for (unsigned i = 0; i < sizeof frame; i++)
            frame[i] = (uint8_t)i;
        memcpy(frame, "\2\2\2\2\2\2\2\2\2\2\2\1\x88\xa8\x0f\xff\x81\0\0\5\x88\xb5", 22);
        for (unsigned at = 60; at <= 1500; at += 240) {
            unsigned seen = 0;
            send_raw(r.nets[0], frame, at, 1);
            for (unsigned i = 0; i < 100 && seen == 0; i++)
                for (unsigned q = 0; q < queues; q++)
                    seen += drain(af_packet_source(r.ports[0], q), got, &bytes);
            assert_int_equal(seen, 1);
            assert_int_equal(bytes, at);
            assert_memory_equal(got, frame, at);
            send_frame(af_packet_port(r.ports[0]), frame, at);
            for (unsigned q = 0; q < queues; q++)
                assert_int_equal(drain(af_packet_source(r.ports[0], q), got, &bytes), 0);
        }
        assert_int_equal(stats_of(&r, 0).out_dropped, 0);
        rig_close(&r);
    }
}

static void a_ring_that_is_full_loses_frames_and_goes_on(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, true, 1, (struct af_packet_config){.ring = 10});
    hub_stop(&r.hub);
    struct port_source *s = af_packet_source(r.ports[0], 0);
    uint8_t frame[1000] = "\2\2\2\2\2\2\2\2\2\2\2\1\x88\xb5", got[PACKET_MAX_BYTES];
    uint32_t bytes;
    for (unsigned round = 0; round < 5; round++) {
        drain(s, got, &bytes);
        uint64_t dropped = stats_of(&r, 0).in_dropped;
        send_raw(r.nets[0], frame, sizeof frame, 500);
        unsigned seen = drain(s, got, &bytes);
        assert_true(seen >= 10 && seen < 500);
        dropped = stats_of(&r, 0).in_dropped - dropped;
        assert_true(dropped >= 500 - seen && dropped <= 500 - seen + 20); /* and some of the hosts' own */
    }
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

static void an_interface_goes_down_and_comes_back(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, true, 1, (struct af_packet_config){0});
    struct port *p = af_packet_port(r.ports[1]);
    net_stream(r.nets[0], r.nets[1], "10.0.0.2", MIB);
    WAIT_FOR(p->ops->link_up(p));
    net_run(r.nets[1], "ip link set cr-host down"); /* the cable */
    WAIT_FOR(!p->ops->link_up(p));
    net_run(r.nets[1], "ip link set cr-host up");
    WAIT_FOR(p->ops->link_up(p));
    net_run(r.ours, "ip link set cr-1 down");
    WAIT_FOR(!p->ops->link_up(p));
    uint8_t frame[100] = "\2\2\2\2\2\2\2\2\2\2\2\1\x88\xb5";
    uint64_t before = stats_of(&r, 1).out_dropped;
    send_frame(p, frame, sizeof frame);
    assert_true(stats_of(&r, 1).out_dropped > before);
    usleep(300000);
    net_run(r.ours, "ip link set cr-1 up");
    WAIT_FOR(p->ops->link_up(p));
    net_stream(r.nets[0], r.nets[1], "10.0.0.2", MIB);
    net_stream(r.nets[1], r.nets[0], "10.0.0.1", MIB);
    rig_close(&r);
}

static void an_interface_may_be_removed_in_use(void **state)
{
    if (!permitted) skip();
    struct rig r;
    rig_open(&r, true, 1, (struct af_packet_config){0});
    struct port *p = af_packet_port(r.ports[1]);
    net_stream(r.nets[0], r.nets[1], "10.0.0.2", MIB);
    net_run(r.ours, "ip link del cr-1");
    WAIT_FOR(hub_broken(&r.hub, 1));
    uint8_t frame[100] = "\2\2\2\2\2\2\2\2\2\2\2\1\x88\xb5";
    uint64_t before = stats_of(&r, 1).out_dropped;
    send_frame(p, frame, sizeof frame);
    assert_int_equal(stats_of(&r, 1).out_dropped, before + 1);
    assert_false(p->ops->link_up(p));
    assert_false(hub_broken(&r.hub, 0));
    rig_close(&r);
}

static void a_queue_that_is_full_drops(void **state)
{
    if (!permitted || access("/sbin/tc", X_OK) < 0) skip();
    struct rig r;
    rig_open(&r, true, 1, (struct af_packet_config){0});
    net_run(r.ours, "/sbin/tc qdisc add dev cr-1 root tbf rate 1mbit burst 2kb limit 4kb");
    uint8_t frame[1400] = "\2\2\2\2\2\2\2\2\2\2\2\1\x88\xb5";
    for (unsigned i = 0; i < 100; i++)
        send_frame(af_packet_port(r.ports[1]), frame, sizeof frame);
    struct port_stats stats = stats_of(&r, 1);
    assert_true(stats.out_dropped > 50 && stats.out_dropped < 100);
    assert_int_equal(stats.out_errors, 0);
    rig_close(&r);
}

static void what_cannot_be_opened(void **state)
{
    if (!permitted) skip();
    struct errmsg e;
    struct af_packet *a;
    struct af_packet_config c = {.name = "x", .device = "cr-none", .queues = 1};
    assert_int_equal(af_packet_open(&a, &c, &e), -ENODEV);
    assert_non_null(strstr(e.text, "cr-none"));
    c.device = "a-name-that-is-too-long";
    assert_int_equal(af_packet_open(&a, &c, &e), -EINVAL);
    c.device = "lo";
    c.queues = 17;
    assert_int_equal(af_packet_open(&a, &c, &e), -EINVAL);
    c.queues = 1;
    c.ring = 1u << 30;
    assert_int_equal(af_packet_open(&a, &c, &e), -EINVAL);
    c.ring = 0;
    assert_int_equal(af_packet_open(&a, &c, &e), 0); /* an MTU of 65536 */
    struct port *p = af_packet_port(a);
    p->ops->free(p);
}

static int open_one(void *arg)
{
    struct errmsg e;
    struct af_packet_config c = {.name = "x", .device = "lo", .queues = 3};
    return af_packet_open(arg, &c, &e);
}

static void few_descriptors(void **state)
{
    if (!permitted) skip();
    struct af_packet *a;
    net_few_descriptors(open_one, &a);
    struct port *p = af_packet_port(a);
    p->ops->free(p);
}

int main(void)
{
    permitted = net_permitted();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_segments_stay_large),
        cmocka_unit_test(small_segments_are_merged),
        cmocka_unit_test(unless_it_is_turned_off),
        cmocka_unit_test(several_queues),
        cmocka_unit_test(straight_to_the_driver),
        cmocka_unit_test(tags_are_put_back_and_own_frames_left_out),
        cmocka_unit_test(a_ring_that_is_full_loses_frames_and_goes_on),
        cmocka_unit_test(an_interface_goes_down_and_comes_back),
        cmocka_unit_test(an_interface_may_be_removed_in_use),
        cmocka_unit_test(a_queue_that_is_full_drops),
        cmocka_unit_test(what_cannot_be_opened),
        cmocka_unit_test(few_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
