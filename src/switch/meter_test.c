/* SPDX-License-Identifier: Apache-2.0 */
/* Meters: rates by simulated time, alone and with several threads; what they do with packets; what is wrong with them. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "switch/meter_internal.h"
#include "switch/test_rig.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"

static struct meter_spec spec_of(const char *text)
{
    struct meter_spec m;
    struct errmsg e;
    int ret = meter_parse(&m, text, &e);
    if (ret) fail_msg("%s: %s", text, e.text);
    return m;
}

/* ---- rates ---- */

static struct meter *meter_of(const char *text)
{
    struct meter_spec spec = spec_of(text);
    struct meter *m = aligned_alloc(64, (sizeof *m + 63) / 64 * 64);
    assert_non_null(m);
    memset(m, 0, sizeof *m);
    m->spec = spec;
    atomic_init(&m->config, meter_config_new(&spec));
    return m;
}

static void meter_end(struct meter *m)
{
    free(atomic_load(&m->config));
    free(m);
}

struct passed {
    uint64_t passed, raised, dropped, bytes;
};

/* A packet every step_ns for so long, settled after each burst of 8. */
static struct passed run(struct meter *m, uint32_t bytes, uint64_t step_ns, uint64_t from_ns, uint64_t for_ns)
{
    struct passed p = {0};
    struct meter_run r = {0};
    for (uint64_t t = from_ns; t < from_ns + for_ns; t += step_ns) {
        if (r.now_ns == 0) r.now_ns = t;
        int ret = meter_pass(&r, m, bytes);
        if (ret == METER_EXCEEDED) p.dropped++;
        else if (ret) p.raised++;
        else p.passed++;
        if (ret != METER_EXCEEDED) p.bytes += bytes;
        if (t / step_ns % 8 == 7) meter_run_end(&r);
    }
    meter_run_end(&r);
    return p;
}

static bool is_near(uint64_t n, uint64_t of)
{
    if (n > of * 97 / 100 && n < of * 103 / 100) return true;
    print_message("%lu, not about %lu\n", (unsigned long)n, (unsigned long)of);
    return false;
}

static void rates_are_kept(void **state)
{
    static const struct {
        const char *text;
        uint32_t bytes;
        uint64_t step_ns, expected; /* packets in the second second */
    } cases[] = {
        {"meter=1,pktps,bands=type=drop,rate=1000", 60, 100000, 1000},
        {"meter=1,pktps,burst,bands=type=drop,rate=1000,burst_size=10", 60, 100000, 1000},
        {"meter=1,pktps,burst,bands=type=drop,rate=1000,burst_size=2", 60, 100000, 1000},
        {"meter=1,pktps,bands=type=drop,rate=10000000", 60, 50, 10000000},
        {"meter=1,pktps,bands=type=drop,rate=1", 60, 1000000, 1},
        {"meter=1,kbps,bands=type=drop,rate=12000", 1500, 100000, 1000},
        {"meter=1,kbps,burst,bands=type=drop,rate=12000,burst_size=120", 1500, 100000, 1000},
        {"meter=1,kbps,burst,bands=type=drop,rate=12000,burst_size=1", 1500, 100000, 1000},
        {"meter=1,bands=type=drop,rate=5242880", 65536, 10000, 10000},
        {"meter=1,kbps,bands=type=drop,rate=4294967295", 65550, 200000, 5000}, /* all of it */
        {"meter=1,pktps,bands=type=drop,rate=0", 60, 100000, 0},
        {"meter=1,pktps", 60, 100000, 10000},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct meter *m = meter_of(cases[i].text);
        run(m, cases[i].bytes, cases[i].step_ns, 1 * NS_PER_SECOND, 2 * NS_PER_SECOND); /* the burst is used up */
        struct passed p = run(m, cases[i].bytes, cases[i].step_ns, 3 * NS_PER_SECOND, NS_PER_SECOND);
        if (cases[i].expected < 10) assert_int_equal(p.passed, cases[i].expected);
        else if (!is_near(p.passed, cases[i].expected)) fail_msg("%s", cases[i].text);
        meter_end(m);
    }
}

/* At first as much as the bucket has; without METER_BURST a second's worth. */
static void bursts_pass(void **state)
{
    (void)state;
    struct meter *m = meter_of("meter=1,pktps,burst,bands=type=drop,rate=1000,burst_size=50");
    assert_int_equal(run(m, 60, 1, NS_PER_SECOND, 200).passed, 50);
    assert_int_equal(run(m, 60, 1, 20 * NS_PER_SECOND, 200).passed, 50);
    meter_end(m);
    m = meter_of("meter=1,pktps,bands=type=drop,rate=1000,burst_size=50");
    assert_int_equal(run(m, 60, 1, NS_PER_SECOND, 5000).passed, 1000);
    meter_end(m);
    m = meter_of("meter=1,pktps,burst,bands=type=drop,rate=100,burst_size=0");
    assert_int_equal(run(m, 60, 1, NS_PER_SECOND, 5000).passed, 100);
    meter_end(m);
    m = meter_of("meter=1,kbps,burst,bands=type=drop,rate=1000,burst_size=120"); /* 15000 bytes */
    assert_int_equal(run(m, 1000, 1, NS_PER_SECOND, 5000).passed, 15);
    meter_end(m);
}

/* Of several bands one counts: the highest that is exceeded. */
static void bands_work_together(void **state)
{
    (void)state;
    struct meter *m = meter_of("meter=1,pktps,bands=type=dscp_remark,rate=500,prec_level=1,type=drop,rate=1000");
    run(m, 60, 100000, NS_PER_SECOND, 4 * NS_PER_SECOND);
    struct passed p = run(m, 60, 100000, 5 * NS_PER_SECOND, NS_PER_SECOND);
    assert_true(is_near(p.dropped, 9000));
    assert_true(is_near(p.raised, 500));
    assert_true(is_near(p.passed, 500));
    meter_end(m);
}

/* Idle for years, or with a clock that other threads read earlier. */
static void time_does_not_confuse_it(void **state)
{
    (void)state;
    struct meter *m = meter_of("meter=1,pktps,burst,bands=type=drop,rate=1000,burst_size=10");
    assert_int_equal(run(m, 60, 1, 30 * 365 * 86400 * NS_PER_SECOND, 100).passed, 10);
    assert_int_equal(run(m, 60, 1, 30 * 365 * 86400 * NS_PER_SECOND - 1000, 100).passed, 0);
    meter_end(m);
    m = meter_of("meter=1,kbps,bands=type=drop,rate=1");
    for (unsigned i = 0; i < 100; i++)
        run(m, UINT32_MAX, 1, NS_PER_SECOND * (1 + i), 10);
    meter_end(m);
}

static void whole_bursts(void **state)
{
    (void)state;
    struct meter *m = meter_of("meter=1,pktps,burst,bands=type=drop,rate=1000,burst_size=40,type=dscp_remark,rate=2000,"
                               "burst_size=100,prec_level=1");
    struct meter_run r = {.now_ns = NS_PER_SECOND};
    assert_true(meter_pass_all(&r, m, 32, 32 * 60));
    assert_false(meter_pass_all(&r, m, 32, 32 * 60)); /* the other band has its tokens back */
    assert_int_equal(run(m, 60, 1, NS_PER_SECOND, 100).passed, 8);
    assert_int_equal(atomic_load(&m->packets), 32 + 100);
    assert_int_equal(atomic_load(&m->bytes), 132 * 60);
    meter_end(m);
}

#define THREADS 4u

struct sender {
    struct meter *m;
    _Atomic uint64_t *clock; /* one time for all */
    uint64_t passed;
};

/* Eight times the rate, by four threads, over some seconds of simulated time. */
static void *sender_run(void *arg)
{
    struct sender *s = arg;
    struct meter_run r = {0};
    for (;;) {
        uint64_t now = atomic_fetch_add(s->clock, 4000 * 8); /* eight packets of ours */
        if (now > 6 * NS_PER_SECOND) break;
        r.now_ns = now;
        for (unsigned i = 0; i < 8; i++)
            if (meter_pass(&r, s->m, 1000) != METER_EXCEEDED && now >= 2 * NS_PER_SECOND) s->passed++;
        meter_run_end(&r);
    }
    return NULL;
}

static void threads_share_a_rate(void **state)
{
    static const char *const texts[] = {"meter=1,pktps,burst,bands=type=drop,rate=31250,burst_size=100",
                                        "meter=1,kbps,burst,bands=type=drop,rate=250000,burst_size=1000",
                                        "meter=1,pktps,bands=type=drop,rate=31250"};
    (void)state;
    for (unsigned t = 0; t < sizeof texts / sizeof texts[0]; t++) {
        struct meter *m = meter_of(texts[t]);
        _Atomic uint64_t clock = NS_PER_SECOND;
        struct sender senders[THREADS];
        pthread_t threads[THREADS];
        uint64_t passed = 0;
        for (unsigned i = 0; i < THREADS; i++) {
            senders[i] = (struct sender){.m = m, .clock = &clock};
            assert_int_equal(pthread_create(&threads[i], NULL, sender_run, &senders[i]), 0);
        }
        for (unsigned i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
            passed += senders[i].passed;
        }
        if (!is_near(passed, 4 * 31250)) fail_msg("%s", texts[t]);
        meter_end(m);
    }
}

/* ---- a bridge's ---- */

static int add(struct rig *r, const char *text, enum meter_wrong *why)
{
    struct meter_spec m = spec_of(text);
    struct errmsg e;
    return bridge_meter_add(r->bridge, &m, why, &e);
}

static void meter(struct rig *r, const char *text)
{
    assert_int_equal(add(r, text, NULL), 0);
}

static int modify(struct rig *r, const char *text, enum meter_wrong *why)
{
    struct meter_spec m = spec_of(text);
    struct errmsg e;
    return bridge_meter_modify(r->bridge, &m, why, &e);
}

struct seen {
    unsigned count;
    struct meter_spec spec;
    struct meter_stats stats;
};

static void see(void *arg, const struct meter_spec *m, const struct meter_stats *s)
{
    struct seen *out = arg;
    out->count++;
    out->spec = *m;
    out->stats = *s;
}

static struct seen look(struct rig *r, uint32_t id)
{
    struct seen s = {0};
    bridge_meter_each(r->bridge, id, see, &s);
    return s;
}

static void send_udp(struct rig *r, unsigned port, unsigned copies)
{
    uint8_t f[128];
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    rig_send(r, port, f, n, copies);
}

static void meters_drop_and_count(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    meter(&r, "meter=5,pktps,burst,bands=type=drop,rate=1,burst_size=10");
    rig_flow(&r, "in_port=1,actions=meter:5,output:2");
    send_udp(&r, 1, 7);
    send_udp(&r, 1, 7);
    send_udp(&r, 1, 7);
    assert_in_range(r.ports[2]->got, 10, 13); /* a second or two may have passed */
    struct seen s = look(&r, 5);
    assert_int_equal(s.count, 1);
    assert_int_equal(s.stats.flows, 1);
    assert_int_equal(s.stats.packets, 21);
    assert_int_equal(s.stats.bytes, 21 * 60);
    assert_int_equal(s.stats.bands[0].packets, 21 - r.ports[2]->got);
    assert_int_equal(s.stats.bands[0].bytes, s.stats.bands[0].packets * 60);
    assert_int_equal(modify(&r, "meter=5,pktps,bands=type=drop,rate=1000000", NULL), 0);
    r.ports[2]->got = 0;
    send_udp(&r, 1, 32); /* by the same megaflow */
    assert_int_equal(r.ports[2]->got, 32);
    assert_int_equal(look(&r, 5).stats.packets, 53);
    rig_close(&r);
}

/* In each table that has one; what was sent before it stays sent. */
static void meters_of_several_tables(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    meter(&r, "meter=1,pktps");
    meter(&r, "meter=2,pktps,bands=type=drop,rate=0");
    meter(&r, "meter=3,pktps");
    rig_flow(&r, "in_port=1,actions=meter:1,output:2,write_actions(output:3),goto_table:1");
    rig_flow(&r, "table=1,priority=1,actions=meter:2,output:4,goto_table:2");
    rig_flow(&r, "table=1,priority=9,udp,tp_dst=7,actions=meter:3,output:4");
    rig_flow(&r, "table=2,actions=meter:3");
    send_udp(&r, 1, 3);
    assert_int_equal(rig_got(&r), 1u << 2);
    assert_int_equal(look(&r, 1).stats.packets, 3);
    assert_int_equal(look(&r, 2).stats.packets, 3);
    assert_int_equal(look(&r, 2).stats.bands[0].packets, 3);
    assert_int_equal(look(&r, 3).stats.packets, 0);
    rig_flow(&r, "in_port=2,actions=meter:3"); /* not sent anywhere: it counts all the same */
    send_udp(&r, 2, 4);
    assert_int_equal(look(&r, 3).stats.packets, 4);
    assert_int_equal(look(&r, 3).stats.flows, 3);
    rig_close(&r);
}

static unsigned ip_sum(const uint8_t *ip)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < 20; i += 2)
        sum += (unsigned)(ip[i] << 8 | ip[i + 1]);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static unsigned frame_tos(uint8_t *f, uint8_t tos)
{
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    f[15] = tos;
    unsigned sum = ~ip_sum(f + 14) & 0xffff;
    f[24] = (uint8_t)(sum >> 8);
    f[25] = (uint8_t)sum;
    return n;
}

/* Which drop precedence: of the classes AF1 to AF4, low to high. ECN stays. */
static void precedence_is_raised(void **state)
{
    static const struct {
        uint8_t from, level, to;
    } cases[] = {{0x28, 1, 0x30}, {0x28, 2, 0x38}, {0x28, 9, 0x38}, {0x30, 1, 0x38}, {0x38, 1, 0x38}, {0x88, 1, 0x90},
                 {0x8b, 1, 0x93}, {0x98, 3, 0x98}, {0x00, 1, 0x00}, {0xb8, 1, 0xb8}, {0x60, 1, 0x40}, {0x63, 2, 0x23},
                 {0x60, 9, 0x00}, {0x2c, 1, 0x2c}, {0xa8, 1, 0xa8}, {0x28, 0, 0x28}};
    struct rig r;
    uint8_t f[128];
    char text[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    meter(&r, "meter=1,pktps");
    rig_flow(&r, "in_port=1,actions=output:3,goto_table:1");
    rig_flow(&r, "table=1,actions=meter:1,output:2");
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(text, sizeof text, "meter=1,pktps,bands=type=dscp_remark,rate=0,prec_level=%u", cases[i].level);
        assert_int_equal(modify(&r, text, NULL), 0);
        unsigned n = frame_tos(f, cases[i].from);
        r.ports[2]->got = r.ports[3]->got = 0;
        rig_send(&r, 1, f, n, 2);
        assert_int_equal(r.ports[2]->got, 2);
        const uint8_t *out = r.ports[2]->last[0].bytes;
        assert_int_equal(out[15], cases[i].to);
        assert_int_equal(ip_sum(out + 14), 0xffff);
        assert_int_equal(r.ports[3]->last[0].bytes[15], cases[i].from); /* it was sent before */
    }
    rig_close(&r);
}

static void precedence_of_others(void **state)
{
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    meter(&r, "meter=1,pktps,bands=type=dscp_remark,rate=0,prec_level=1");
    rig_flow(&r, "actions=meter:1,output:2");
    unsigned n = frame_tos(f, 0x28);
    n = frame_tag(f, n, 0x8100, 5); /* tagged */
    rig_send(&r, 1, f, n, 1);
    assert_int_equal(r.ports[2]->last[0].bytes[19], 0x30);
    memset(f, 0, sizeof f); /* IPv6: AF11 is 0x2 and 0x8 */
    f[12] = 0x86, f[13] = 0xdd, f[14] = 0x62, f[15] = 0x81, f[16] = 0x23, f[20] = 59;
    rig_send(&r, 1, f, 54, 1);
    assert_int_equal(r.ports[2]->last[1].bytes[14], 0x63);
    assert_int_equal(r.ports[2]->last[1].bytes[15], 0x01);
    assert_int_equal(r.ports[2]->last[1].bytes[16], 0x23);
    f[12] = 0x88, f[13] = 0x47; /* a label that looks like an IPv4 header */
    f[14] = 0x45, f[15] = 0x28;
    rig_send(&r, 1, f, 54, 1);
    assert_memory_equal(r.ports[2]->last[2].bytes, f, 54);
    rig_close(&r);
}

/* A table after it sees what the meter has made of each packet. */
static void tables_see_the_new_precedence(void **state)
{
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    meter(&r, "meter=1,pktps,burst,bands=type=dscp_remark,rate=1,burst_size=5,prec_level=1");
    rig_flow(&r, "in_port=1,actions=meter:1,goto_table:1");
    rig_flow(&r, "table=1,ip,ip_dscp=10,actions=output:2");
    rig_flow(&r, "table=1,ip,ip_dscp=12,actions=output:3");
    rig_flow(&r, "table=1,priority=0,actions=output:4");
    unsigned n = frame_tos(f, 0x28);
    rig_send(&r, 1, f, n, 12);
    assert_in_range(r.ports[2]->got, 5, 6);
    assert_int_equal(r.ports[2]->got + r.ports[3]->got, 12);
    assert_int_equal(r.ports[3]->last[0].bytes[15], 0x30);
    assert_int_equal(ip_sum(r.ports[3]->last[0].bytes + 14), 0xffff);
    assert_int_equal(look(&r, 1).stats.packets, 12);
    assert_int_equal(modify(&r, "meter=1,pktps,bands=type=drop,rate=0", NULL), 0);
    rig_got(&r);
    rig_send(&r, 1, f, n, 3);
    assert_int_equal(rig_got(&r), 0);
    assert_int_equal(modify(&r, "meter=1,pktps,bands=type=dscp_remark,rate=0,prec_level=2", NULL), 0);
    rig_send(&r, 1, f, n, 3); /* the megaflow that looked at what it is no longer is forgotten */
    assert_int_equal(rig_got(&r), 1u << 4);
    rig_close(&r);
}

/* ---- what is wrong with them ---- */

static void wrong_meters_are_refused(void **state)
{
    static const struct {
        struct meter_spec m;
        enum meter_wrong why;
    } wrong[] = {
        {{.id = 0}, METER_INVALID},
        {{.id = SWITCH_METER_MAX + 1}, METER_INVALID},
        {{.id = SWITCH_METER_ALL}, METER_INVALID},
        {{.id = 1, .flags = 16}, METER_BAD_FLAGS},
        {{.id = 1, .flags = METER_KBPS | METER_PKTPS}, METER_BAD_FLAGS},
        {{.id = 1, .count = METER_BANDS_MAX + 1}, METER_OUT_OF_BANDS},
        {{.id = 1, .count = 1, .bands = {{.type = 0}}}, METER_BAD_BAND},
        {{.id = 1, .count = 2, .bands = {{.type = METER_DROP}, {.type = 0xffff}}}, METER_BAD_BAND},
    };
    struct rig r;
    struct errmsg e;
    enum meter_wrong why;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 1);
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(bridge_meter_add(r.bridge, &wrong[i].m, &why, &e), -EINVAL);
        assert_int_equal(why, wrong[i].why);
        assert_int_equal(bridge_meter_modify(r.bridge, &wrong[i].m, &why, &e), -EINVAL);
        assert_int_equal(why, wrong[i].why);
    }
    assert_int_equal(add(&r, "meter=3,pktps", &why), 0);
    assert_int_equal(why, METER_RIGHT);
    assert_int_equal(add(&r, "meter=3,pktps", &why), -EEXIST);
    assert_int_equal(why, METER_EXISTS);
    assert_int_equal(modify(&r, "meter=4,pktps", &why), -ENOENT);
    assert_int_equal(why, METER_UNKNOWN);
    assert_int_equal(bridge_meter_delete(r.bridge, 4, &why, &e), 0); /* not there: no error */
    assert_int_equal(bridge_meter_delete(r.bridge, 0, &why, &e), -EINVAL);
    assert_int_equal(why, METER_INVALID);
    assert_int_equal(bridge_meter_count(r.bridge), 1);
    rig_close(&r);
}

/* A burst of nothing, and one without its flag: as they were written. */
static void it_is_read_back_as_it_was_written(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 1);
    meter(&r, "meter=9,kbps,burst,stats,bands=type=drop,rate=1000,burst_size=0,type=dscp_remark,rate=500,prec_level=2");
    meter(&r, "meter=2,bands=type=drop,rate=7,burst_size=77");
    meter(&r, "meter=controller,pktps,bands=type=drop,rate=7");
    struct seen s = look(&r, 9);
    assert_int_equal(s.spec.flags, METER_KBPS | METER_BURST | METER_STATS);
    assert_int_equal(s.spec.count, 2);
    assert_int_equal(s.spec.bands[0].burst, 0);
    assert_int_equal(s.spec.bands[1].prec_level, 2);
    s = look(&r, 2);
    assert_int_equal(s.spec.flags, 0);
    assert_int_equal(s.spec.bands[0].burst, 77);
    s = look(&r, SWITCH_METER_ALL);
    assert_int_equal(s.count, 3);
    assert_true(s.spec.id == SWITCH_METER_CONTROLLER); /* by rising number */
    rig_close(&r);
}

/* ---- flows ---- */

static int flow_why(struct rig *r, const char *text, bool change, enum flow_wrong *why)
{
    struct flow_spec f;
    struct errmsg e;
    assert_int_equal(flow_parse(&f, text, FLOW_PARSE_ADD, NULL, &e), 0);
    int ret =
        change ? bridge_flow_modify(r->bridge, &f, false, NULL, why, &e) : bridge_flow_add(r->bridge, &f, why, &e);
    instructions_clear(&f.instructions);
    return ret;
}

static void gone(void *arg, const struct flow_spec *f, const struct flow_stats *s, enum flow_gone why)
{
    unsigned *count = arg;
    (void)s;
    assert_int_equal(why, FLOW_GONE_METER);
    assert_true(f->instructions.meter == 1 || f->instructions.meter == 2);
    ++*count;
}

static void flows_go_with_their_meter(void **state)
{
    struct rig r;
    struct errmsg e;
    enum flow_wrong why;
    unsigned count = 0;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    bridge_on_flow_gone(r.bridge, gone, &count);
    assert_int_equal(flow_why(&r, "in_port=1,actions=meter:1,output:2", false, &why), -EINVAL);
    assert_int_equal(why, FLOW_BAD_METER);
    meter(&r, "meter=1,pktps");
    meter(&r, "meter=2,pktps");
    rig_flow(&r, "in_port=1,actions=meter:1,output:2");
    rig_flow(&r, "in_port=1,actions=meter:1,output:3"); /* in its place */
    rig_flow(&r, "priority=0,actions=meter:2,output:3");
    rig_flow(&r, "table=3,actions=output:3");
    assert_int_equal(look(&r, 1).stats.flows, 1);
    assert_int_equal(flow_why(&r, "table=3,actions=meter:9", true, &why), -EINVAL);
    assert_int_equal(why, FLOW_BAD_METER);
    assert_int_equal(flow_why(&r, "table=3,actions=meter:1,output:2", true, &why), 0);
    assert_int_equal(look(&r, 1).stats.flows, 2);
    send_udp(&r, 1, 3);
    assert_int_equal(rig_got(&r), 1u << 3);
    assert_int_equal(bridge_meter_delete(r.bridge, 1, NULL, &e), 0);
    assert_int_equal(count, 2);
    assert_int_equal(bridge_flow_count(r.bridge), 1);
    meter(&r, "meter=1,pktps,bands=type=drop,rate=0"); /* another one of that number */
    send_udp(&r, 1, 3);
    assert_int_equal(r.ports[3]->got, 3);
    assert_int_equal(look(&r, 1).stats.packets, 0);
    assert_int_equal(look(&r, 2).stats.packets, 3);
    assert_int_equal(bridge_meter_delete(r.bridge, SWITCH_METER_ALL, NULL, &e), 0);
    assert_int_equal(count, 3);
    assert_int_equal(bridge_meter_count(r.bridge), 0);
    rig_got(&r);
    send_udp(&r, 1, 3);
    assert_int_equal(rig_got(&r), 0);
    rig_close(&r);
}

/* ---- what goes to controllers ---- */

static void received(void *arg, const struct packet_in *in)
{
    unsigned *count = arg;
    (void)in;
    ++*count;
}

static void controllers_are_spared(void **state)
{
    struct rig r;
    struct errmsg e;
    unsigned count = 0;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    switch_on_packet_in(r.sw, received, &count);
    rig_flow(&r, "priority=0,actions=controller");
    rig_flow(&r, "in_port=2,actions=controller,output:3");
    meter(&r, "meter=slowpath,pktps,burst,bands=type=drop,rate=1,burst_size=3");
    send_udp(&r, 1, 10);
    assert_in_range(count, 3, 4);
    count = 0;
    send_udp(&r, 2, 10); /* a flow says so */
    assert_int_equal(count, 10);
    meter(&r, "meter=controller,pktps,burst,bands=type=drop,rate=1,burst_size=5");
    count = r.ports[3]->got = 0;
    send_udp(&r, 2, 10);
    assert_in_range(count, 5, 6);
    assert_int_equal(r.ports[3]->got, 10);
    assert_int_equal(bridge_meter_delete(r.bridge, SWITCH_METER_CONTROLLER, NULL, &e), 0);
    count = 0;
    send_udp(&r, 2, 10);
    assert_int_equal(count, 10);
    rig_close(&r);
}

/* ---- text ---- */

static void formatted(char out[512], const struct meter_spec *m)
{
    FILE *to = fmemopen(out, 512, "w");
    assert_non_null(to);
    meter_format(to, m);
    assert_int_equal(fclose(to), 0);
}

static void text_makes_the_same_meter(void **state)
{
    static const char *const texts[][2] = {
        {"meter=1,kbps,burst,stats,bands=type=drop,rate=1000,burst_size=100", NULL},
        {"meter=1 pktps bands= type=drop rate=5", "meter=1,pktps,bands=type=drop,rate=5"},
        {"meter=1,pktps,band=type=dscp_remark,rate=5,prec_level=2 type=drop,rate=7",
         "meter=1,pktps,bands=type=dscp_remark,rate=5,prec_level=2,type=drop,rate=7"},
        {"meter=slowpath,kbps", NULL},
        {"meter=controller,kbps,burst,bands=type=drop,rate=0,burst_size=0", NULL},
        {"meter=0xffff0000", "meter=4294901760"},
        {"meter=1,bands=type=drop,rate=4294967295,burst_size=4294967295", NULL},
    };
    char out[512];
    (void)state;
    for (unsigned i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct meter_spec m = spec_of(texts[i][0]), again;
        formatted(out, &m);
        assert_string_equal(out, texts[i][1] ? texts[i][1] : texts[i][0]);
        again = spec_of(out);
        assert_memory_equal(&m, &again, sizeof m);
    }
}

static void wrong_text_is_explained(void **state)
{
    static const char *const texts[][2] = {
        {"", "column 1: nothing there, expected meter=NUMBER"},
        {"kbps", "column 5: nothing there, expected meter=NUMBER"},
        {"meter=0", "column 7: found \"0\", expected a meter's number (from 1), controller or slowpath"},
        {"meter=1,mbps", "column 9: found \"mbps\", expected meter=NUMBER, kbps, pktps, burst, stats or bands=.."},
        {"meter=1,bands=rate=5", "column 15: found \"rate=5\", expected type=drop or type=dscp_remark"},
        {"meter=1,bands=type=none", "column 20: found \"none\", expected drop or dscp_remark"},
        {"meter=1,bands=type=drop,prec_level=1",
         "column 25: found \"prec_level\", expected type, rate or burst_size (of dscp_remark: prec_level, too)"},
        {"meter=1,bands=type=drop,rate=4294967296", "column 30: found \"4294967296\", expected a number of 32 bits"},
        {"meter=1,bands=type=dscp_remark,rate=1,prec_level=256",
         "column 50: found \"256\", expected a number of 8 bits"},
        {"meter=1,bands=(", "column 15: \"(\": there is no ')' for it"},
    };
    struct meter_spec m;
    struct errmsg e;
    (void)state;
    for (unsigned i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(meter_parse(&m, texts[i][0], &e), -EINVAL);
        assert_string_equal(e.text, texts[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_are_kept),
        cmocka_unit_test(bursts_pass),
        cmocka_unit_test(bands_work_together),
        cmocka_unit_test(time_does_not_confuse_it),
        cmocka_unit_test(whole_bursts),
        cmocka_unit_test(threads_share_a_rate),
        cmocka_unit_test(meters_drop_and_count),
        cmocka_unit_test(meters_of_several_tables),
        cmocka_unit_test(precedence_is_raised),
        cmocka_unit_test(precedence_of_others),
        cmocka_unit_test(tables_see_the_new_precedence),
        cmocka_unit_test(wrong_meters_are_refused),
        cmocka_unit_test(it_is_read_back_as_it_was_written),
        cmocka_unit_test(flows_go_with_their_meter),
        cmocka_unit_test(controllers_are_spared),
        cmocka_unit_test(text_makes_the_same_meter),
        cmocka_unit_test(wrong_text_is_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
