/* SPDX-License-Identifier: Apache-2.0 */
/* Select groups whose choice is left to each packet: many connections over one megaflow, each to the bucket that its key says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "switch/choose.h"
#include "switch/extract.h"
#include "switch/group_internal.h"
#include "switch/oracle_frame.h"
#include "switch/test_rig.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"
#define P(n) (1u << (n))
#define CONNECTIONS 1500u

static unsigned frame(uint8_t *f, unsigned i)
{
    char from[16];
    snprintf(from, sizeof from, "10.0.%u.%u", i / 250 % 250, i % 250);
    return frame_udp(f, B, A, from, "10.9.0.2", 1000 + i, 2000 + i % 7);
}

static void key_of(const uint8_t *f, unsigned bytes, struct flow_key *k)
{
    struct packet p = {.head = (uint8_t *)(uintptr_t)f, .head_bytes = (uint16_t)bytes, .length_bytes = bytes};
    memset(k, 0, sizeof *k);
    assert_int_not_equal(extract_key(&p, k), EXTRACT_INVALID);
}

static bool by_link(void *rig, const struct group_bucket *k)
{
    const struct rig *r = rig;
    return k->watch_port == SWITCH_PORT_ANY || !r->ports[k->watch_port]->link_down;
}

/* The bucket that a frame is to take, or -1. */
static int bucket_of(struct rig *r, uint32_t id, const uint8_t *f, unsigned bytes)
{
    struct flow_key k, unused = {0};
    key_of(f, bytes, &k);
    return group_choose(&group_find(r->bridge, id)->spec, group_hash(id, &k, &unused), by_link, r);
}

static unsigned megaflows(struct rig *r)
{
    struct switch_stats s;
    switch_stats_read(r->sw, &s);
    return s.megaflows;
}

static void set_link(struct rig *r, unsigned port, bool up)
{
    r->ports[port]->link_down = !up;
    switch_tick(r->sw, clock_now_ns());
}

/* ---- the hash ---- */

static void packets_hash_as_their_keys(void **state)
{
    uint64_t seed = 77;
    struct oracle_frame f;
    unsigned simple = 0;
    (void)state;
    for (unsigned i = 0; i < 100000; i++) {
        struct flow_key k, unused = {0};
        oracle_frame(&f, &seed, i & 1);
        if (i & 2) { /* addresses and ports of all kinds, where there are any */
            for (unsigned at = 26; at < 58 && at < f.length; at++)
                f.bytes[at] ^= (uint8_t)oracle_random(&seed, 256);
        }
        struct packet p = {.head = f.bytes, .head_bytes = (uint16_t)f.length, .length_bytes = f.length};
        key_of(f.bytes, f.length, &k);
        simple += extract_simple_word(&p) != 0;
        p.l3_at = 7;
        assert_true(choose_hash(5, &p) == group_hash(5, &k, &unused));
        assert_int_equal(p.l3_at, 7);
    }
    assert_true(simple > 1000 && simple < 99000);
}

/* What differs between the packets of each kind, most of them in some low bits only. */
enum kind { PORT_SRC, PORT_DST, HOST_SRC, NET_DST, MAC, BOTH, IPV6_HOST, IPV6_NET, TAG, KINDS };

static void key_number(struct flow_key *k, enum kind kind, unsigned i)
{
    *k = (struct flow_key){.eth_dst = {2, 0, 0, 0, 0, 1}, .eth_src = {2, 0, 0, 0, 0, 2}, .nw_proto = 17};
    bool ipv6 = kind == IPV6_HOST || kind == IPV6_NET;
    k->eth_type = be16_make(ipv6 ? 0x86dd : 0x0800);
    if (!ipv6) k->ipv4_src = be32_make(0x0a000001 + (kind == HOST_SRC ? i : kind == BOTH ? i % 64 : 0));
    if (!ipv6) k->ipv4_dst = be32_make(0x0a000002 + (kind == NET_DST ? i << 8 : 0));
    k->tp_src = be16_make((uint16_t)(kind == PORT_SRC ? 1024 + i : kind == BOTH ? i / 64 : 53));
    k->tp_dst = be16_make((uint16_t)(kind == PORT_DST ? i : 80));
    if (kind == MAC) memcpy(k->eth_src + 4, (uint8_t[]){(uint8_t)(i >> 8), (uint8_t)i}, 2);
    if (kind == TAG) k->vlan[0].tci = be16_make((uint16_t)(FLOW_VLAN_PRESENT | i));
    if (kind == IPV6_HOST) memcpy(k->ipv6_src + 14, (uint8_t[]){(uint8_t)(i >> 8), (uint8_t)i}, 2);
    if (kind == IPV6_NET) memcpy(k->ipv6_dst + 4, (uint8_t[]){(uint8_t)(i >> 8), (uint8_t)i}, 2);
}

/* Connections as they are numbered in practice, over 2 to 8 buckets and some groups: within six standard deviations. */
static void all_buckets_get_their_share(void **state)
{
    enum { ALL = 4096 };
    (void)state;
    for (unsigned at = 0; at < KINDS * 7 * 8; at++) {
        unsigned kind = at % KINDS, buckets = 2 + at / KINDS % 7, of[8] = {0}, share = ALL / buckets;
        for (unsigned i = 0; i < ALL; i++) {
            struct flow_key k, unused = {0};
            key_number(&k, kind, i);
            of[choose_point(group_hash(at / KINDS / 7, &k, &unused), buckets)]++;
        }
        for (unsigned i = 0; i < buckets; i++) {
            unsigned off = of[i] > share ? of[i] - share : share - of[i];
            if (off * off > 36 * share) fail_msg("kind %u, bucket %u of %u: %u of %u", kind, i, buckets, of[i], ALL);
        }
    }
}

/* By weights that are even and those that are not, with and without dead ones. */
static void a_list_chooses_as_its_group(void **state)
{
    uint64_t seed = 78;
    (void)state;
    for (unsigned round = 0; round < 300; round++) {
        struct dp_action a[1 + DP_BUCKETS_MAX] = {{.type = DP_SELECT}};
        struct group_bucket buckets[DP_BUCKETS_MAX];
        struct group_spec g = {.count = 2 + oracle_random(&seed, DP_BUCKETS_MAX - 1), .buckets = buckets};
        unsigned even = oracle_random(&seed, 2) ? 1 + oracle_random(&seed, 65535) : 0, end = 0, end_alive = 0;
        struct rig r = {.count = 0};
        struct rig_port dead = {.link_down = true};
        r.ports[1] = &dead;
        for (unsigned i = 0; i < g.count; i++) {
            bool alive = i == 1 || round % 3 || oracle_random(&seed, 2);
            buckets[i] = (struct group_bucket){.weight = (uint16_t)(even ? even : 1 + oracle_random(&seed, 300)),
                                               .watch_port = alive ? SWITCH_PORT_ANY : 1};
            end += buckets[i].weight;
            end_alive += alive ? buckets[i].weight : 0;
            a[1 + i] = (struct dp_action){.type = DP_BUCKET, .field = alive};
            a[1 + i].bucket.at = i;
            a[1 + i].bucket.end = end;
            a[1 + i].bucket.end_alive = end_alive;
        }
        a->select.buckets = g.count;
        a->select.weights = end;
        a->select.weights_alive = end_alive;
        for (unsigned i = 0; i < 200; i++) {
            uint64_t hash = choose_mix(round, i);
            if (i < 2) hash = i ? UINT64_MAX : 0;
            assert_int_equal(choose_bucket(a, hash)->bucket.at, group_choose(&g, hash, by_link, &r));
        }
    }
}

/* ---- one megaflow ---- */

struct sums {
    uint64_t packets, bytes, of[8], bytes_of[8];
};

static void see(void *arg, const struct group_spec *g, const struct group_stats *s)
{
    struct sums *sum = arg;
    sum->packets = s->packets;
    sum->bytes = s->bytes;
    for (unsigned i = 0; i < g->count && i < 8; i++) {
        sum->of[i] = s->buckets[i].packets;
        sum->bytes_of[i] = s->buckets[i].bytes;
    }
}

/* Sends each connection's frame once and notes where it should have gone. */
static void send_all(struct rig *r, unsigned tags, struct sums *expected)
{
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        uint8_t f[128];
        unsigned n = frame(f, i);
        for (unsigned t = 0; t < tags; t++)
            n = frame_tag(f, n, 0x8100, 5);
        int bucket = bucket_of(r, 1, f, n);
        rig_send(r, 1, f, n, 1 + i % 2);
        assert_int_equal(rig_got(r), bucket < 0 ? 0 : P(2 + (unsigned)bucket));
        expected->packets += 1 + i % 2;
        expected->bytes += (1 + i % 2) * n;
        if (bucket < 0) continue;
        expected->of[bucket] += 1 + i % 2;
        expected->bytes_of[bucket] += (1 + i % 2) * n;
    }
}

static void check_counts(struct rig *r, const struct sums *expected)
{
    struct sums is = {0};
    switch_fold(r->sw);
    bridge_group_each(r->bridge, 1, see, &is);
    assert_memory_equal(&is, expected, sizeof is);
}

static void connections_share_a_megaflow(void **state)
{
    struct rig r;
    struct sums expected = {0};
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 5);
    rig_group(&r, "group_id=1,type=select,bucket=weight:1,watch_port:2,output:2,bucket=weight:0,watch_port:3,output:3,"
                  "bucket=weight:3,watch_port:4,output:4,bucket=weight:2,watch_port:5,output:5");
    rig_flow(&r, "actions=group:1");
    send_all(&r, 0, &expected);
    assert_int_equal(megaflows(&r), 1);
    send_all(&r, 1, &expected);
    assert_int_equal(megaflows(&r), 1); /* the tag is hashed, but nothing looks at it */
    check_counts(&r, &expected);
    assert_true(expected.of[0] && !expected.of[1] && expected.of[2] && expected.of[3]);
    set_link(&r, 4, false); /* those of others stay where they are: as bucket_of() says */
    send_all(&r, 0, &expected);
    set_link(&r, 2, false); /* nothing to choose */
    send_all(&r, 0, &expected);
    set_link(&r, 5, false);
    send_all(&r, 0, &expected);
    assert_int_equal(megaflows(&r), 1);
    set_link(&r, 4, true);
    set_link(&r, 5, true);
    send_all(&r, 2, &expected);
    check_counts(&r, &expected);
    rig_close(&r);
}

/* One burst of different connections; ports: where each bucket sends to, 0: nowhere. Dead: the link of port 4 is down. */
static void send_burst(struct rig *r, const unsigned *ports, struct sums *expected)
{
    struct packet *packets[PACKET_BATCH];
    unsigned to[RIG_PORTS + 1] = {0};
    for (unsigned i = 0; i < PACKET_BATCH; i++) {
        struct packet *p = packets[i] = packet_pool_packet(r->pool);
        uint8_t f[128];
        unsigned n = frame(f, i * 37);
        memset(f + n, 0, i); /* padding, so that each is of another length */
        n += i;
        memcpy(p->head, f, n);
        p->head_bytes = (uint16_t)(p->length_bytes = n);
        int bucket = bucket_of(r, 1, f, n);
        expected->packets++;
        expected->bytes += p->length_bytes;
        expected->of[bucket]++;
        expected->bytes_of[bucket] += p->length_bytes;
        to[ports[bucket]]++;
    }
    rig_burst(r, 1, packets, PACKET_BATCH);
    for (unsigned i = 2; i <= r->count; i++)
        assert_int_equal(r->ports[i]->got, to[i]);
    rig_got(r);
}

static void bursts_are_spread(void **state)
{
    static const struct {
        const char *group;
        unsigned ports[4];
    } cases[] = {
        {"bucket=output:2,bucket=output:2,bucket=output:2", {2, 2, 2}},
        {"bucket=output:2,bucket=actions=drop,bucket=output:2", {2, 0, 2}},
        {"bucket=output:2,bucket=output:3,bucket=output:2,bucket=output:5", {2, 3, 2, 5}},
        {"bucket=weight:5,output:2,bucket=weight:1,output:3,bucket=weight:2,output:2", {2, 3, 2}},
        {"bucket=output:2,bucket=watch_port:4,output:2,bucket=output:2", {2, 2, 2}},
        {"bucket=output:2,bucket=watch_port:4,output:4,bucket=output:3", {2, 4, 3}},
        {"bucket=weight:5,output:2,bucket=weight:9,watch_port:4,output:2,bucket=actions=drop", {2, 2, 0}},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;
        struct sums expected = {0};
        char text[256];
        rig_open(&r, NULL, BRIDGE_SECURE, 5);
        snprintf(text, sizeof text, "group_id=1,type=select,%s", cases[i].group);
        rig_group(&r, text);
        rig_flow(&r, "actions=group:1");
        for (unsigned n = 0; n < 6; n++) {
            if (n == 3) set_link(&r, 4, false);
            send_burst(&r, cases[i].ports, &expected);
        }
        assert_int_equal(megaflows(&r), 1);
        check_counts(&r, &expected);
        rig_close(&r);
    }
}

/* A bucket's own way with a packet, which afterwards goes on as it was; counts of groups within are exact. */
static void buckets_change_packets(void **state)
{
    struct rig r;
    struct sums expected = {0}, inner = {0};
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 6);
    rig_group(&r, "group_id=7,type=all,bucket=set_field:02:00:00:00:00:dd->eth_dst,output:3,bucket=output:6");
    rig_group(&r, "group_id=1,type=select,bucket=set_field:02:00:00:00:00:cc->eth_dst,push_vlan:0x8100,output:2,"
                  "bucket=group:7,bucket=output:4");
    rig_flow(&r, "ip,actions=dec_ttl,group:1,output:5");
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        uint8_t f[128];
        unsigned n = frame(f, i);
        int bucket = bucket_of(&r, 1, f, n);
        rig_send(&r, 1, f, n, 1);
        const uint8_t *first = r.ports[bucket == 0 ? 2 : bucket == 1 ? 3 : 4]->last[0].bytes;
        assert_int_equal(r.ports[5]->last[0].length, n);
        assert_int_equal(r.ports[5]->last[0].bytes[5], 0x0b);
        assert_int_equal(first[5], bucket == 0 ? 0xcc : bucket == 1 ? 0xdd : 0x0b);
        if (bucket == 1) assert_int_equal(r.ports[6]->last[0].bytes[5], 0x0b);
        assert_int_equal(rig_got(&r), P(5) | (bucket == 0 ? P(2) : bucket == 1 ? P(3) | P(6) : P(4)));
        expected.packets++;
        expected.bytes += n;
        expected.of[bucket]++;
        expected.bytes_of[bucket] += n;
        if (bucket != 1) continue;
        inner.packets++;
        inner.bytes += n;
        inner.of[0]++;
        inner.of[1]++;
        inner.bytes_of[0] += n;
        inner.bytes_of[1] += n;
    }
    assert_int_equal(megaflows(&r), 1);
    check_counts(&r, &expected);
    struct sums is = {0};
    bridge_group_each(r.bridge, 7, see, &is);
    assert_memory_equal(&is, &inner, sizeof is);
    rig_close(&r);
}

/* ---- the translation chooses ---- */

static unsigned megaflows_of(struct rig *r, const char *flow)
{
    rig_flow_delete(r, "", bridge_flow_count(r->bridge));
    rig_flow(r, flow);
    for (unsigned i = 0; i < 100; i++) {
        uint8_t f[128];
        unsigned n = frame(f, i);
        rig_send(r, 1, f, n, 1);
        assert_int_not_equal(rig_got(r), 0);
    }
    return megaflows(r);
}

static void some_choices_cannot_be_left_open(void **state)
{
    static const char *const groups[] = {
        "group_id=1,type=select,bucket=output:2,bucket=NORMAL",
        "group_id=1,type=select,bucket=output:2,bucket=push_pbb:0x88e7,output:3",
        "group_id=1,type=select,bucket=output:2,bucket=group:2",
        "group_id=1,type=select,bucket=output:2,bucket=group:3",
    };
    struct rig r;
    char text[8192] = "group_id=1,type=select";
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_group(&r, "group_id=2,type=select,bucket=output:2,bucket=output:3");
    rig_group(&r, "group_id=3,type=all,bucket=NORMAL");
    for (unsigned i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        rig_group(&r, groups[i]);
        assert_true(megaflows_of(&r, "actions=group:1") >= 100);
    }
    rig_group(&r, "group_id=1,type=select,bucket=output:2,bucket=output:3");
    megaflows_of(&r, "actions=group:1");
    assert_true(megaflows_of(&r, "actions=set_field:02:00:00:00:00:cc->eth_dst,group:1") >= 100);
    for (unsigned i = 0; i <= DP_BUCKETS_MAX; i++)
        strcat(text, ",bucket=output:2");
    rig_group(&r, text);
    assert_true(megaflows_of(&r, "actions=group:1") >= 100);
    rig_close(&r);
}

static void it_is_told(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_group(&r, "group_id=1,type=select,bucket=weight:2,output:2,bucket=weight:1,watch_port:9,output:4,"
                  "bucket=weight:0,output:2,bucket=dec_ttl,output:3,bucket=weight:5,actions=drop");
    rig_flow(&r, "actions=group:1,output:4");
    char *text = rig_trace(&r, "in_port=1,udp,nw_ttl=9");
    assert_non_null(strstr(text, "group 1: this packet takes bucket "));
    if (!strstr(text,
                "actions: select(group=1,0(weight=2,output:2),1(weight=1,dead),3(weight=1,set(0x8->nw_ttl),output:3),"
                "4(weight=5,drop)),output:4\n"))
        fail_msg("%s", text);
    free(text);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packets_hash_as_their_keys),
        cmocka_unit_test(all_buckets_get_their_share),
        cmocka_unit_test(a_list_chooses_as_its_group),
        cmocka_unit_test(connections_share_a_megaflow),
        cmocka_unit_test(bursts_are_spread),
        cmocka_unit_test(buckets_change_packets),
        cmocka_unit_test(some_choices_cannot_be_left_open),
        cmocka_unit_test(it_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
