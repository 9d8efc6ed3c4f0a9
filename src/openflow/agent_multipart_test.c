/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics and descriptions: short answers, long ones, requests in parts, and those that are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "openflow/test_client.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"

/* The one part of a short answer: its body. */
static const uint8_t *answer(struct client *c, unsigned type, size_t *bytes)
{
    const uint8_t *m = client_expect(c, OFPT_MULTIPART_REPLY, 90);
    assert_int_equal(get16(m + 8), type);
    assert_int_equal(get16(m + 10), 0);
    *bytes = get16(m + 2) - 16u;
    return m + 16;
}

/* A request whose body is a number and padding, or none. */
static const uint8_t *ask(struct client *c, unsigned type, const uint32_t *number, size_t *bytes)
{
    struct msg m;
    msg_multipart(&m, type, 0, 90);
    if (number) {
        msg_u32(&m, *number);
        msg_zeros(&m, 4);
    }
    client_send(c, &m);
    return answer(c, type, bytes);
}

static void msg_flow_stats(struct msg *m, unsigned type, unsigned table, uint32_t out_port, uint32_t in_port)
{
    msg_multipart(m, type, 0, 90);
    msg_u8(m, table);
    msg_zeros(m, 3);
    msg_u32(m, out_port);
    msg_u32(m, OFPG_ANY);
    msg_zeros(m, 4 + 16);
    msg_match(m, in_port);
}

/* ---- the switch ---- */

static void descriptions(void **state)
{
    struct client c;
    size_t bytes;
    client_open_controller(&c, *state);
    const uint8_t *d = ask(&c, OFPMP_DESC, NULL, &bytes);
    assert_int_equal(bytes, 1056);
    assert_string_equal((const char *)d, "Creedence");
    assert_string_equal((const char *)d + 512, "1");
    assert_string_equal((const char *)d + 800, "a bridge for tests");
    const uint8_t *g = ask(&c, OFPMP_GROUP_FEATURES, NULL, &bytes);
    assert_int_equal(bytes, 40);
    assert_int_equal(get32(g), 15);
    ask(&c, OFPMP_METER_FEATURES, NULL, &bytes);
    assert_int_equal(bytes, 16);
    client_close(&c);
}

static void tables(void **state)
{
    struct client c;
    size_t bytes;
    client_open_controller(&c, *state);
    client_do_flow(&c, &(struct flow_text){.table = 2, .in_port = 1, .output = 2});
    const uint8_t *t = ask(&c, OFPMP_TABLE, NULL, &bytes);
    assert_int_equal(bytes, 254 * 24);
    assert_int_equal(t[2 * 24], 2);
    assert_int_equal(get32(t + 2 * 24 + 4), 1);
    client_close(&c);
}

/* ---- ports ---- */

static void ports(void **state)
{
    struct client c;
    struct msg m;
    size_t bytes;
    client_open_controller(&c, *state);
    const uint8_t *p = ask(&c, OFPMP_PORT_DESC, NULL, &bytes);
    assert_int_equal(bytes, 4 * 64);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(get32(p + i * 64), i + 1);
    assert_string_equal((const char *)p + 16, "p1");
    uint32_t any = OFPP_ANY, two = 2, other = 9;
    p = ask(&c, OFPMP_PORT_STATS, &any, &bytes);
    assert_int_equal(bytes, 4 * 112);
    p = ask(&c, OFPMP_PORT_STATS, &two, &bytes);
    assert_int_equal(bytes, 112);
    assert_int_equal(get32(p), 2);
    msg_multipart(&m, OFPMP_PORT_STATS, 0, 90);
    msg_u32(&m, other);
    msg_zeros(&m, 4);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_PORT);
    client_close(&c);
}

static void queues(void **state)
{
    static const struct {
        uint32_t port, queue;
        int code; /* -1: none */
    } requests[] = {
        {OFPP_ANY, OFPQ_ALL, -1}, {2, OFPQ_ALL, -1}, {9, OFPQ_ALL, OFPQOFC_BAD_PORT}, {2, 1, OFPQOFC_BAD_QUEUE}};
    struct client c;
    struct msg m;
    size_t bytes;
    client_open_controller(&c, *state);
    for (unsigned i = 0; i < 4; i++) {
        msg_multipart(&m, OFPMP_QUEUE, 0, 90);
        msg_u32(&m, requests[i].port);
        msg_u32(&m, requests[i].queue);
        if (requests[i].code >= 0) {
            client_refused(&c, &m, OFPET_QUEUE_OP_FAILED, (unsigned)requests[i].code);
            continue;
        }
        client_send(&c, &m);
        answer(&c, OFPMP_QUEUE, &bytes);
        assert_int_equal(bytes, 0);
    }
    client_close(&c);
}

/* ---- flows ---- */

static void flow_stats(void **state)
{
    struct client c;
    struct msg m;
    size_t bytes;
    uint8_t f[128];
    client_open_controller(&c, *state);
    client_do_flow(&c,
                   &(struct flow_text){
                       .priority = 5, .in_port = 1, .output = 2, .cookie = 7, .idle = 100, .hard = 200, .flags = 1});
    client_do_flow(&c, &(struct flow_text){.priority = 9, .in_port = 2, .output = 3});
    rig_send(&c.w->rig, 1, f, frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1, 2), 3);
    msg_flow_stats(&m, OFPMP_FLOW, 255, OFPP_ANY, 0);
    client_send(&c, &m);
    const uint8_t *s = answer(&c, OFPMP_FLOW, &bytes);
    assert_int_equal(bytes, 2 * 88);
    assert_int_equal(get16(s), 88);
    assert_int_equal(get16(s + 12), 9); /* the higher priority first */
    s += 88;
    assert_int_equal(get16(s + 12), 5);
    assert_int_equal(get16(s + 14), 100);
    assert_int_equal(get16(s + 16), 200);
    assert_int_equal(get16(s + 18), 1);
    assert_true(get64(s + 24) == 7);
    assert_true(get64(s + 32) == 3);
    assert_true(get64(s + 40) == 180);
    msg_flow_stats(&m, OFPMP_FLOW, 0, 3, 0);
    client_send(&c, &m);
    answer(&c, OFPMP_FLOW, &bytes);
    assert_int_equal(bytes, 88);
    msg_flow_stats(&m, OFPMP_AGGREGATE, 255, OFPP_ANY, 1);
    client_send(&c, &m);
    s = answer(&c, OFPMP_AGGREGATE, &bytes);
    assert_int_equal(bytes, 24);
    assert_true(get64(s) == 3 && get64(s + 8) == 180);
    assert_int_equal(get32(s + 16), 1);
    msg_flow_stats(&m, OFPMP_FLOW, 254, OFPP_ANY, 0);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_TABLE_ID);
    client_close(&c);
}

/* So many that they do not fit into the socket, nor into what may be queued; others are heard meanwhile, and what the peer asks
 * next is answered after it. */
static void many_flows(void **state)
{
    static struct client c, other;
    enum { FLOWS = 50000 };
    struct msg m;
    unsigned got = 0, parts = 0;
    bool more = true;
    client_open_controller(&c, *state);
    client_open_controller(&other, *state);
    for (uint32_t i = 0; i < FLOWS; i++) {
        msg_flow_mod(&m, 1, &(struct flow_text){.priority = i & 0xffff, .in_port = i + 1, .output = 2});
        client_send(&c, &m);
    }
    client_ask(&c, OFPT_BARRIER_REQUEST, 1);
    client_expect(&c, OFPT_BARRIER_REPLY, 1);
    assert_int_equal(bridge_flow_count(c.w->rig.bridge), FLOWS);
    msg_flow_stats(&m, OFPMP_FLOW, 255, OFPP_ANY, 0);
    client_send(&c, &m);
    client_ask(&c, OFPT_BARRIER_REQUEST, 2);
    world_run(c.w);
    client_ask(&other, OFPT_BARRIER_REQUEST, 3);
    client_expect(&other, OFPT_BARRIER_REPLY, 3);
    client_do_flow(&other, &(struct flow_text){.command = OFPFC_DELETE, .in_port = 1}); /* the last, not yet told */
    for (; more; parts++) {
        const uint8_t *p = client_expect(&c, OFPT_MULTIPART_REPLY, 90);
        more = get16(p + 10) == OFPMPF_REPLY_MORE;
        unsigned left = get16(p + 2) - 16;
        for (p += 16; left; left -= get16(p), p += get16(p))
            got++;
    }
    assert_in_range(got, FLOWS - 1, FLOWS);
    assert_true(parts >= FLOWS * 88 / 65536);
    client_expect(&c, OFPT_BARRIER_REPLY, 2);
    client_close(&c);
    client_close(&other);
}

/* One peer asks for much work at once: another one waits for a turn of it, not for all. */
static void turns(void **state)
{
    static struct client greedy, other;
    enum { REQUESTS = 400 };
    struct msg m;
    unsigned answered = 0;
    size_t bytes;
    client_open_controller(&greedy, *state);
    client_open_controller(&other, *state);
    for (uint32_t i = 0; i < 20000; i++) {
        msg_flow_mod(&m, 1, &(struct flow_text){.in_port = i + 1, .output = 2});
        client_send(&greedy, &m);
    }
    client_ask(&greedy, OFPT_BARRIER_REQUEST, 1);
    client_expect(&greedy, OFPT_BARRIER_REPLY, 1);
    msg_flow_stats(&m, OFPMP_AGGREGATE, 255, OFPP_ANY, 0);
    for (unsigned i = 0; i < REQUESTS; i++)
        client_send(&greedy, &m);
    client_ask(&other, OFPT_BARRIER_REQUEST, 2);
    for (unsigned passes = 0; !answered; passes++) {
        assert_in_range(passes, 0, 8);
        assert_int_equal(loop_run_once(greedy.w->loop, 0), 0);
        answered = recv(other.fd, m.at, sizeof m.at, 0) == 8;
    }
    for (answered = 0; recv(greedy.fd, m.at, 40, 0) == 40;)
        answered++;
    assert_in_range(answered, 1, REQUESTS - 1);
    while (answered < REQUESTS && client_get(&greedy, &bytes))
        answered++;
    assert_int_equal(answered, REQUESTS);
    client_close(&greedy);
    client_close(&other);
}

/* A peer that goes in the middle. */
static void gone_meanwhile(void **state)
{
    static struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    for (uint32_t i = 0; i < 20000; i++) {
        msg_flow_mod(&m, 1, &(struct flow_text){.in_port = i + 1, .output = 2});
        client_send(&c, &m);
    }
    msg_flow_stats(&m, OFPMP_FLOW, 255, OFPP_ANY, 0);
    client_send(&c, &m);
    world_run(c.w);
    client_close(&c);
    world_run(c.w);
}

/* ---- groups, meters ---- */

static void add_group(struct world *w, uint32_t id, unsigned buckets)
{
    struct action out = {.type = ACTION_OUTPUT, .output = {.port = 1}};
    struct group_bucket *list = calloc(buckets, sizeof *list);
    struct group_spec g = {.id = id, .type = GROUP_ALL, .count = buckets, .buckets = list};
    struct errmsg e;
    for (unsigned i = 0; i < buckets; i++)
        list[i] =
            (struct group_bucket){.watch_port = SWITCH_PORT_ANY, .watch_group = SWITCH_GROUP_ANY, .actions = {1, &out}};
    assert_int_equal(bridge_group_add(w->rig.bridge, &g, NULL, &e), 0);
    free(list);
}

static void groups(void **state)
{
    static struct client c;
    struct msg m;
    size_t bytes;
    uint32_t id = 3, none = 99;
    client_open_controller(&c, *state);
    for (uint32_t i = 1; i <= 3; i++)
        add_group(c.w, i, i);
    const uint8_t *g = ask(&c, OFPMP_GROUP_DESC, NULL, &bytes);
    assert_int_equal(bytes, 3 * 8 + 6 * 32);
    assert_int_equal(get16(g), 8 + 32);
    assert_int_equal(get32(g + 4), 1);
    g = ask(&c, OFPMP_GROUP, &id, &bytes);
    assert_int_equal(bytes, 40 + 3 * 16);
    assert_int_equal(get32(g + 4), 3);
    ask(&c, OFPMP_GROUP, &none, &bytes);
    assert_int_equal(bytes, 0);
    /* Many: piece by piece. */
    for (uint32_t i = 4; i <= 6000; i++)
        add_group(c.w, i, 8);
    msg_multipart(&m, OFPMP_GROUP_DESC, 0, 90);
    client_send(&c, &m);
    uint32_t next = 1;
    for (bool more = true; more;) {
        const uint8_t *p = client_expect(&c, OFPT_MULTIPART_REPLY, 90);
        more = get16(p + 10) == OFPMPF_REPLY_MORE;
        unsigned left = get16(p + 2) - 16;
        for (p += 16; left; left -= get16(p), p += get16(p))
            assert_int_equal(get32(p + 4), next++);
    }
    assert_int_equal(next, 6001);
    client_close(&c);
}

static void meters(void **state)
{
    struct client c;
    struct msg m;
    size_t bytes;
    uint32_t all = OFPM_ALL, one = 1;
    struct errmsg e;
    client_open_controller(&c, *state);
    const struct meter_spec spec = {
        .id = 1, .flags = METER_PKTPS, .count = 1, .bands = {{.type = METER_DROP, .rate = 5}}};
    assert_int_equal(bridge_meter_add(c.w->rig.bridge, &spec, NULL, &e), 0);
    ask(&c, OFPMP_METER, &all, &bytes);
    assert_int_equal(bytes, 40 + 16);
    const uint8_t *r = ask(&c, OFPMP_METER_CONFIG, &one, &bytes);
    assert_int_equal(bytes, 8 + 16);
    assert_int_equal(get32(r + 4), 1);
    for (unsigned type = OFPMP_METER; type <= OFPMP_METER_CONFIG; type++) {
        msg_multipart(&m, type, 0, 90);
        msg_u32(&m, 2);
        msg_zeros(&m, 4);
        client_refused(&c, &m, OFPET_METER_MOD_FAILED, OFPMMFC_UNKNOWN_METER);
    }
    client_close(&c);
}

/* ---- table features ---- */

static uint8_t *all_features(struct client *c, size_t *bytes)
{
    struct msg m;
    uint8_t *all = malloc(1u << 20);
    assert_non_null(all);
    msg_multipart(&m, OFPMP_TABLE_FEATURES, 0, 90);
    client_send(c, &m);
    *bytes = 0;
    for (bool more = true; more;) {
        const uint8_t *p = client_expect(c, OFPT_MULTIPART_REPLY, 90);
        more = get16(p + 10) == OFPMPF_REPLY_MORE;
        memcpy(all + *bytes, p + 16, get16(p + 2) - 16u);
        *bytes += get16(p + 2) - 16u;
    }
    return all;
}

/* In parts of at most 60,000 bytes. */
static void send_features(struct client *c, const uint8_t *all, size_t bytes)
{
    static struct msg m;
    for (size_t at = 0; at < bytes;) {
        size_t n = bytes - at < 60000 ? bytes - at : 60000;
        msg_multipart(&m, OFPMP_TABLE_FEATURES, at + n < bytes ? OFPMPF_REQ_MORE : 0, 91);
        msg_bytes(&m, all + at, n);
        client_send(c, &m);
        at += n;
    }
}

static void table_features(void **state)
{
    static struct client c;
    size_t bytes, again, tables = 0;
    client_open_controller(&c, *state);
    uint8_t *all = all_features(&c, &bytes);
    for (size_t at = 0; at < bytes; at += get16(all + at)) {
        assert_int_equal(all[at + 2], tables);
        tables++;
    }
    assert_int_equal(tables, 254);
    /* What there is already may be asked for. */
    send_features(&c, all, bytes);
    for (again = 0; again < bytes;) {
        const uint8_t *p = client_expect(&c, OFPT_MULTIPART_REPLY, 91);
        again += get16(p + 2) - 16u;
    }
    assert_int_equal(again, bytes);
    /* One table less, another name, another size: no. */
    send_features(&c, all + get16(all), bytes - get16(all));
    client_expect_error(&c, 91, OFPET_TABLE_FEATURES_FAILED, OFPTFFC_EPERM);
    all[8] = 'x';
    send_features(&c, all, bytes);
    client_expect_error(&c, 91, OFPET_TABLE_FEATURES_FAILED, OFPTFFC_EPERM);
    all[8] = 't';
    all[60] = 1;
    send_features(&c, all, bytes);
    client_expect_error(&c, 91, OFPET_TABLE_FEATURES_FAILED, OFPTFFC_EPERM);
    all[60] = 0;
    all[2] = 254;
    send_features(&c, all, bytes);
    client_expect_error(&c, 91, OFPET_TABLE_FEATURES_FAILED, OFPTFFC_BAD_TABLE);
    client_ask(&c, OFPT_BARRIER_REQUEST, 2);
    client_expect(&c, OFPT_BARRIER_REPLY, 2);
    free(all);
    client_close(&c);
}

/* ---- what is refused ---- */

static void refused(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    for (unsigned type = 14; type < 20; type++) {
        msg_multipart(&m, type, 0, 90);
        client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_MULTIPART);
    }
    msg_multipart(&m, OFPMP_EXPERIMENTER, 0, 90);
    msg_u32(&m, 0x123456);
    msg_u32(&m, 1);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_EXPERIMENTER);
    static const struct {
        unsigned type, least;
    } bodies[] = {{OFPMP_DESC, 0},           {OFPMP_FLOW, 40}, {OFPMP_AGGREGATE, 40},   {OFPMP_TABLE, 0},
                  {OFPMP_PORT_STATS, 8},     {OFPMP_QUEUE, 8}, {OFPMP_GROUP, 8},        {OFPMP_GROUP_DESC, 0},
                  {OFPMP_GROUP_FEATURES, 0}, {OFPMP_METER, 8}, {OFPMP_METER_CONFIG, 8}, {OFPMP_METER_FEATURES, 0},
                  {OFPMP_PORT_DESC, 0}};
    for (unsigned i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        msg_multipart(&m, bodies[i].type, 0, 90);
        msg_zeros(&m, bodies[i].least ? bodies[i].least - 8 + 7 : 8);
        client_send(&c, &m);
        const uint8_t *e = client_expect(&c, OFPT_ERROR, 90);
        assert_int_equal(get16(e + 10), get16(e + 8) == OFPET_BAD_MATCH ? OFPBMC_BAD_LEN : OFPBRC_BAD_LEN);
    }
    client_close(&c);
}

static void parts(void **state)
{
    static struct msg m;
    struct client c;
    client_open_controller(&c, *state);
    /* Too long. */
    for (unsigned i = 0; i < 18; i++) {
        msg_multipart(&m, OFPMP_TABLE_FEATURES, OFPMPF_REQ_MORE, 1);
        msg_zeros(&m, 60000);
        client_send(&c, &m);
    }
    client_expect_error(&c, 1, OFPET_BAD_REQUEST, OFPBRC_MULTIPART_BUFFER_OVERFLOW);
    client_expect_nothing(&c);
    /* While one is not whole there is no room for another, and only table features may come so. */
    msg_multipart(&m, OFPMP_TABLE_FEATURES, OFPMPF_REQ_MORE, 2);
    client_do(&c, &m);
    msg_multipart(&m, OFPMP_TABLE_FEATURES, OFPMPF_REQ_MORE, 3);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_MULTIPART_BUFFER_OVERFLOW);
    msg_multipart(&m, OFPMP_DESC, OFPMPF_REQ_MORE, 2);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_MULTIPART_BUFFER_OVERFLOW);
    size_t bytes;
    ask(&c, OFPMP_DESC, NULL, &bytes);
    msg_multipart(&m, OFPMP_TABLE_FEATURES, 0, 2);
    msg_zeros(&m, 3); /* now it is whole, and wrong */
    client_refused(&c, &m, OFPET_TABLE_FEATURES_FAILED, OFPTFFC_BAD_LEN);
    client_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(descriptions, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(tables, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(ports, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(queues, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(flow_stats, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(many_flows, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(turns, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(gone_meanwhile, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(groups, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(meters, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(table_features, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(refused, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(parts, world_setup, world_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
