/* SPDX-License-Identifier: Apache-2.0 */
/* What a peer says about its session, ports and tables, and what it may not say at all. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "openflow/test_client.h"

static int setup(void **state)
{
    static struct world w;
    world_open(&w, 4, 0);
    *state = &w;
    return 0;
}

static int teardown(void **state)
{
    world_close(*state);
    return 0;
}

static void features(void **state)
{
    struct client c;
    client_open(&c, *state, OF_PEER_CONTROLLER);
    assert_int_equal(of_agent_controllers(c.w->agent), 0);
    assert_int_equal(c.w->established, 0);
    client_ask(&c, OFPT_FEATURES_REQUEST, 7);
    const uint8_t *m = client_expect(&c, OFPT_FEATURES_REPLY, 7);
    assert_int_equal(get16(m + 2), 32);
    assert_true(get64(m + 8) == 0x1122334455667788);
    assert_int_equal(get32(m + 16), OF_BUFFERS_MAX);
    assert_int_equal(m[20], 254); /* tables */
    assert_int_equal(m[21], 0);   /* auxiliary id */
    assert_int_equal(get32(m + 24), OFPC_FLOW_STATS | OFPC_TABLE_STATS | OFPC_PORT_STATS | OFPC_GROUP_STATS);
    assert_int_equal(of_agent_controllers(c.w->agent), 1);
    assert_int_equal(c.w->established, 1);
    client_close(&c);
    assert_int_equal(of_agent_controllers(c.w->agent), 0);
    assert_int_equal(c.w->ended, 1);
}

static void another_datapath_id(void **state)
{
    struct client c, d;
    client_open_controller(&c, *state);
    of_agent_set_datapath_id(c.w->agent, 5);
    world_run(c.w);
    assert_int_equal(of_agent_controllers(c.w->agent), 0);
    assert_int_equal(c.w->ended, 1);
    client_open(&d, *state, OF_PEER_CONTROLLER);
    client_ask(&d, OFPT_FEATURES_REQUEST, 7);
    assert_true(get64(client_expect(&d, OFPT_FEATURES_REPLY, 7) + 8) == 5);
    client_close(&d);
    client_close(&c);
}

/* What has come already is not carried out. */
static void disconnected(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    msg_flow_mod(&m, 1, &(struct flow_text){.in_port = 1, .output = 2});
    client_send(&c, &m);
    of_agent_disconnect(c.w->agent, &c, "nobody");
    of_agent_disconnect(c.w->agent, c.w, "the end");
    world_run(c.w);
    assert_int_equal(c.w->ended, 1);
    assert_int_equal(c.w->noted.flows, 0);
    client_close(&c);
}

static void config(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    client_ask(&c, OFPT_GET_CONFIG_REQUEST, 8);
    const uint8_t *r = client_expect(&c, OFPT_GET_CONFIG_REPLY, 8);
    assert_int_equal(get16(r + 2), 12);
    assert_int_equal(get16(r + 8), OFPC_FRAG_NORMAL);
    assert_int_equal(get16(r + 10), 128);
    msg_begin(&m, OFPT_SET_CONFIG, 9);
    msg_u16(&m, OFPC_FRAG_NORMAL);
    msg_u16(&m, 77);
    client_do(&c, &m);
    client_ask(&c, OFPT_GET_CONFIG_REQUEST, 10);
    assert_int_equal(get16(client_expect(&c, OFPT_GET_CONFIG_REPLY, 10) + 10), 77);
    for (unsigned flags = OFPC_FRAG_DROP; flags < 16; flags++) {
        msg_begin(&m, OFPT_SET_CONFIG, 11);
        msg_u16(&m, flags);
        msg_u16(&m, 77);
        client_refused(&c, &m, OFPET_SWITCH_CONFIG_FAILED, OFPSCFC_BAD_FLAGS);
    }
    client_close(&c);
}

static void barriers(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    for (uint32_t i = 0; i < 300; i++)
        client_ask(&c, OFPT_BARRIER_REQUEST, i);
    for (uint32_t i = 0; i < 300; i++)
        assert_int_equal(get16(client_expect(&c, OFPT_BARRIER_REPLY, i) + 2), 8);
    /* What comes in between keeps its place. */
    client_ask(&c, OFPT_BARRIER_REQUEST, 1);
    client_ask(&c, OFPT_GET_CONFIG_REQUEST, 2);
    client_ask(&c, OFPT_BARRIER_REQUEST, 3);
    client_ask(&c, OFPT_PACKET_IN, 4);
    client_ask(&c, OFPT_BARRIER_REQUEST, 5);
    client_expect(&c, OFPT_BARRIER_REPLY, 1);
    client_expect(&c, OFPT_GET_CONFIG_REPLY, 2);
    client_expect(&c, OFPT_BARRIER_REPLY, 3);
    client_expect_error(&c, 4, OFPET_BAD_REQUEST, OFPBRC_BAD_TYPE);
    client_expect(&c, OFPT_BARRIER_REPLY, 5);
    /* A change is kept before it is confirmed, once for all of a batch. */
    unsigned commits = c.w->noted.commits;
    for (unsigned i = 1; i < 10; i++) {
        msg_flow_mod(&m, i, &(struct flow_text){.in_port = i, .output = 1});
        client_send(&c, &m);
        client_ask(&c, OFPT_BARRIER_REQUEST, i);
    }
    for (unsigned i = 1; i < 10; i++)
        client_expect(&c, OFPT_BARRIER_REPLY, i);
    assert_int_equal(c.w->noted.flows, 9);
    assert_in_range(c.w->noted.commits, commits + 1, commits + 3); /* its turn may be over in between */
    client_close(&c);
}

static void unknown_types(void **state)
{
    static const uint8_t types[] = {OFPT_FEATURES_REPLY,
                                    OFPT_GET_CONFIG_REPLY,
                                    OFPT_PACKET_IN,
                                    OFPT_FLOW_REMOVED,
                                    OFPT_PORT_STATUS,
                                    OFPT_MULTIPART_REPLY,
                                    OFPT_BARRIER_REPLY,
                                    OFPT_ROLE_REPLY,
                                    OFPT_QUEUE_GET_CONFIG_REPLY,
                                    OFPT_GET_ASYNC_REPLY,
                                    OFPT_METER_MOD + 1,
                                    200,
                                    255};
    struct client c;
    client_open_controller(&c, *state);
    for (unsigned i = 0; i < sizeof types; i++) {
        client_ask(&c, types[i], i);
        client_expect_error(&c, i, OFPET_BAD_REQUEST, OFPBRC_BAD_TYPE);
    }
    client_close(&c);
}

/* Every request that has a fixed body: one byte less, one more. */
static void lengths(void **state)
{
    static const struct {
        uint8_t type;
        unsigned body;
        bool longer; /* may be */
    } requests[] = {{OFPT_FEATURES_REQUEST, 0, false},
                    {OFPT_GET_CONFIG_REQUEST, 0, false},
                    {OFPT_SET_CONFIG, 4, false},
                    {OFPT_BARRIER_REQUEST, 0, false},
                    {OFPT_QUEUE_GET_CONFIG_REQUEST, 8, false},
                    {OFPT_ROLE_REQUEST, 16, false},
                    {OFPT_GET_ASYNC_REQUEST, 0, false},
                    {OFPT_SET_ASYNC, 24, false},
                    {OFPT_PORT_MOD, 32, false},
                    {OFPT_TABLE_MOD, 8, false},
                    {OFPT_FLOW_MOD, 40, true},
                    {OFPT_GROUP_MOD, 8, true},
                    {OFPT_METER_MOD, 8, true},
                    {OFPT_PACKET_OUT, 16, true},
                    {OFPT_MULTIPART_REQUEST, 8, true},
                    {OFPT_EXPERIMENTER, 8, true}};
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    for (unsigned i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        msg_begin(&m, requests[i].type, 5);
        if (requests[i].body) {
            msg_zeros(&m, requests[i].body - 1);
            client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_LEN);
        }
        if (requests[i].longer) continue;
        msg_begin(&m, requests[i].type, 6);
        msg_zeros(&m, requests[i].body + 1);
        client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_LEN);
    }
    client_close(&c);
}

/* ---- roles ---- */

static void msg_role(struct msg *m, uint32_t role, uint64_t generation)
{
    msg_begin(m, OFPT_ROLE_REQUEST, 20);
    msg_u32(m, role);
    msg_zeros(m, 4);
    msg_u64(m, generation);
}

static void take_role(struct client *c, uint32_t role, uint64_t generation)
{
    struct msg m;
    msg_role(&m, role, generation);
    client_send(c, &m);
    const uint8_t *r = client_expect(c, OFPT_ROLE_REPLY, 20);
    assert_int_equal(get16(r + 2), 24);
    if (role != OFPCR_ROLE_NOCHANGE) assert_int_equal(get32(r + 8), role);
}

static uint32_t role_of(struct client *c, uint64_t *generation)
{
    struct msg m;
    msg_role(&m, OFPCR_ROLE_NOCHANGE, 0);
    client_send(c, &m);
    const uint8_t *r = client_expect(c, OFPT_ROLE_REPLY, 20);
    *generation = get64(r + 16);
    return get32(r + 8);
}

static void roles(void **state)
{
    struct client a, b;
    struct msg m;
    uint64_t generation;
    client_open_controller(&a, *state);
    client_open_controller(&b, *state);
    assert_int_equal(role_of(&a, &generation), OFPCR_ROLE_EQUAL);
    assert_true(generation == UINT64_MAX);
    take_role(&a, OFPCR_ROLE_MASTER, 10);
    assert_int_equal(role_of(&a, &generation), OFPCR_ROLE_MASTER);
    assert_true(generation == 10);
    take_role(&b, OFPCR_ROLE_MASTER, 11);
    assert_int_equal(role_of(&a, &generation), OFPCR_ROLE_SLAVE);
    assert_true(generation == 11);
    msg_role(&m, OFPCR_ROLE_MASTER, 10);
    client_refused(&a, &m, OFPET_ROLE_REQUEST_FAILED, OFPRRFC_STALE);
    msg_role(&m, OFPCR_ROLE_SLAVE, 9);
    client_refused(&b, &m, OFPET_ROLE_REQUEST_FAILED, OFPRRFC_STALE);
    take_role(&a, OFPCR_ROLE_EQUAL, 0); /* needs no generation */
    assert_int_equal(role_of(&b, &generation), OFPCR_ROLE_MASTER);
    take_role(&b, OFPCR_ROLE_SLAVE, 11 + (UINT64_C(1) << 62)); /* numbers wrap */
    msg_role(&m, OFPCR_ROLE_SLAVE, 5);
    client_refused(&b, &m, OFPET_ROLE_REQUEST_FAILED, OFPRRFC_STALE);
    take_role(&b, OFPCR_ROLE_SLAVE, 11 + (UINT64_C(1) << 63));
    msg_role(&m, 4, 0);
    client_refused(&b, &m, OFPET_ROLE_REQUEST_FAILED, OFPRRFC_BAD_ROLE);
    client_close(&a);
    client_close(&b);
}

static void slaves(void **state)
{
    static const struct {
        uint8_t type;
        unsigned body;
    } changes[] = {{OFPT_FLOW_MOD, 48},   {OFPT_GROUP_MOD, 8}, {OFPT_METER_MOD, 8},
                   {OFPT_PACKET_OUT, 16}, {OFPT_PORT_MOD, 32}, {OFPT_TABLE_MOD, 8}};
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    take_role(&c, OFPCR_ROLE_SLAVE, 1);
    for (unsigned i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        msg_begin(&m, changes[i].type, 5);
        msg_zeros(&m, changes[i].body);
        client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_IS_SLAVE);
    }
    msg_multipart(&m, OFPMP_TABLE_FEATURES, 0, 6);
    msg_zeros(&m, 64);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_IS_SLAVE);
    client_ask(&c, OFPT_GET_CONFIG_REQUEST, 8);
    client_expect(&c, OFPT_GET_CONFIG_REPLY, 8);
    client_close(&c);
}

/* ---- asynchronous messages ---- */

static void async_config(void **state)
{
    static const uint32_t masks[6] = {0x80000007, 1, 2, 3, 0xffffffff, 5};
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    client_ask(&c, OFPT_GET_ASYNC_REQUEST, 3);
    const uint8_t *r = client_expect(&c, OFPT_GET_ASYNC_REPLY, 3);
    assert_int_equal(get16(r + 2), 32);
    assert_int_equal(get32(r + 8), 3);   /* packet-ins: no match, action */
    assert_int_equal(get32(r + 12), 0);  /* to slaves none */
    assert_int_equal(get32(r + 16), 7);  /* ports */
    assert_int_equal(get32(r + 20), 7);  /* to slaves, too */
    assert_int_equal(get32(r + 24), 15); /* flows that are gone */
    assert_int_equal(get32(r + 28), 0);
    msg_begin(&m, OFPT_SET_ASYNC, 4);
    for (unsigned i = 0; i < 6; i++)
        msg_u32(&m, masks[i]);
    client_do(&c, &m);
    client_ask(&c, OFPT_GET_ASYNC_REQUEST, 5);
    r = client_expect(&c, OFPT_GET_ASYNC_REPLY, 5);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(get32(r + 8 + 4 * i), masks[i]);
    client_close(&c);
}

/* ---- ports, tables, queues ---- */

static void find_mac(void *arg, const struct switch_port_info *p)
{
    if (p->number == 2) memcpy(arg, p->mac, 6);
}

static void msg_port_mod(struct msg *m, uint32_t port, const uint8_t mac[6], uint32_t config, uint32_t mask,
                         uint32_t advertise)
{
    msg_begin(m, OFPT_PORT_MOD, 30);
    msg_u32(m, port);
    msg_zeros(m, 4);
    msg_bytes(m, mac, 6);
    msg_zeros(m, 2);
    msg_u32(m, config);
    msg_u32(m, mask);
    msg_u32(m, advertise);
    msg_zeros(m, 4);
}

static void find_config(void *arg, const struct switch_port_info *p)
{
    if (p->number == 2) *(uint32_t *)arg = p->config;
}

static void port_mods(void **state)
{
    struct client c;
    struct msg m;
    uint8_t mac[6], other[6] = {2, 3, 4, 5, 6, 7};
    uint32_t now = 0;
    client_open_controller(&c, *state);
    bridge_port_each(c.w->rig.bridge, find_mac, mac);
    msg_port_mod(&m, 9, mac, 0, 0, 0);
    client_refused(&c, &m, OFPET_PORT_MOD_FAILED, OFPPMFC_BAD_PORT);
    msg_port_mod(&m, OFPP_ANY, mac, 0, 0, 0);
    client_refused(&c, &m, OFPET_PORT_MOD_FAILED, OFPPMFC_BAD_PORT);
    msg_port_mod(&m, 2, other, 0, 0, 0);
    client_refused(&c, &m, OFPET_PORT_MOD_FAILED, OFPPMFC_BAD_HW_ADDR);
    msg_port_mod(&m, 2, mac, 2, 2, 0);
    client_refused(&c, &m, OFPET_PORT_MOD_FAILED, OFPPMFC_BAD_CONFIG);
    msg_port_mod(&m, 2, mac, 0, 0, 1u << 20);
    client_refused(&c, &m, OFPET_PORT_MOD_FAILED, OFPPMFC_BAD_ADVERTISE);
    msg_port_mod(&m, 2, mac, OFPPC_NO_FWD | OFPPC_NO_RECV, OFPPC_NO_FWD, 0);
    client_send(&c, &m);
    const uint8_t *r = client_expect(&c, OFPT_PORT_STATUS, 0);
    assert_int_equal(get16(r + 2), 80);
    assert_int_equal(r[8], OFPPR_MODIFY);
    assert_int_equal(get32(r + 16), 2);
    assert_memory_equal(r + 24, mac, 6);
    assert_int_equal(get32(r + 48), OFPPC_NO_FWD);
    bridge_port_each(c.w->rig.bridge, find_config, &now);
    assert_int_equal(now, OFPPC_NO_FWD);
    assert_int_equal(c.w->noted.ports, 1);
    client_close(&c);
}

static void table_mods(void **state)
{
    static const struct {
        uint8_t table;
        uint32_t config;
        unsigned code;
    } wrong[] = {{254, 0, OFPTMFC_BAD_TABLE}, {0, 4, OFPTMFC_BAD_CONFIG}, {255, 0x80000000, OFPTMFC_BAD_CONFIG}};
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    for (unsigned i = 0; i < 3; i++) {
        msg_begin(&m, OFPT_TABLE_MOD, 40);
        msg_u8(&m, wrong[i].table);
        msg_zeros(&m, 3);
        msg_u32(&m, wrong[i].config);
        client_refused(&c, &m, OFPET_TABLE_MOD_FAILED, wrong[i].code);
    }
    msg_begin(&m, OFPT_TABLE_MOD, 41);
    msg_u8(&m, 255);
    msg_zeros(&m, 3);
    msg_u32(&m, 3);
    client_do(&c, &m);
    assert_int_equal(c.w->noted.tables, 1);
    for (unsigned i = 0; i < 2; i++) { /* it reads back, of all but the one that is changed then */
        msg_multipart(&m, OFPMP_TABLE_FEATURES, 0, 42);
        client_send(&c, &m);
        for (unsigned tables = 0; tables < SWITCH_TABLES;) {
            const uint8_t *r = client_expect(&c, OFPT_MULTIPART_REPLY, 42);
            for (unsigned at = 16, bytes = get16(r + 2); at < bytes; at += get16(r + at), tables++)
                assert_int_equal(get32(r + at + 56), i && r[at + 2] == 7 ? 1 : 3);
        }
        msg_begin(&m, OFPT_TABLE_MOD, 43);
        msg_u8(&m, 7);
        msg_zeros(&m, 3);
        msg_u32(&m, 1);
        client_do(&c, &m);
    }
    client_close(&c);
}

static void queues(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    msg_begin(&m, OFPT_QUEUE_GET_CONFIG_REQUEST, 50);
    msg_u32(&m, 3);
    msg_zeros(&m, 4);
    client_send(&c, &m);
    const uint8_t *r = client_expect(&c, OFPT_QUEUE_GET_CONFIG_REPLY, 50);
    assert_int_equal(get16(r + 2), 16);
    assert_int_equal(get32(r + 8), 3);
    msg_begin(&m, OFPT_QUEUE_GET_CONFIG_REQUEST, 51);
    msg_u32(&m, 99);
    msg_zeros(&m, 4);
    client_refused(&c, &m, OFPET_QUEUE_OP_FAILED, OFPQOFC_BAD_PORT);
    client_close(&c);
}

/* ---- experimenters ---- */

static void msg_experimenter(struct msg *m, uint32_t who, uint32_t what, unsigned bytes)
{
    msg_begin(m, OFPT_EXPERIMENTER, 60);
    msg_u32(m, who);
    msg_u32(m, what);
    msg_zeros(m, bytes);
}

static void experimenters(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    msg_experimenter(&m, 0x00123456, 1, 0);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_EXPERIMENTER);
    msg_experimenter(&m, NX_EXPERIMENTER_ID, 9999, 0);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_EXP_TYPE);
    msg_experimenter(&m, NX_EXPERIMENTER_ID, 16, 8);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_LEN);
    msg_experimenter(&m, NX_EXPERIMENTER_ID, 16, 0);
    msg_u32(&m, 2); /* packet-ins in Nicira's second format */
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_EPERM);
    msg_experimenter(&m, NX_EXPERIMENTER_ID, 16, 4);
    client_do(&c, &m);
    msg_experimenter(&m, NX_EXPERIMENTER_ID, 19, 24);
    client_do(&c, &m);
    client_ask(&c, OFPT_GET_ASYNC_REQUEST, 3);
    assert_int_equal(get32(client_expect(&c, OFPT_GET_ASYNC_REPLY, 3) + 8), 0);
    client_close(&c);
}

/* ---- connections ---- */

static void count_one(void *arg, const struct of_connection_info *c)
{
    unsigned *count = arg;
    assert_string_equal(c->name, "client");
    assert_string_equal(c->state, "established");
    assert_string_equal(c->role, "equal");
    ++*count;
}

static int connect_one(struct world *w, bool begun_by_switch, int *end)
{
    struct errmsg e;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    const struct of_connection_args one = {
        .fd = ends[1], .tls_client = begun_by_switch, .peer = OF_PEER_CONTROLLER, .name = "one more"};
    *end = ends[0];
    return of_agent_connect(w->agent, &one, &e);
}

static void refused_connection(struct world *w, bool begun_by_switch)
{
    char byte;
    int end;
    assert_int_equal(connect_one(w, begun_by_switch, &end), -ENOSPC);
    assert_int_equal(read(end, &byte, 1), 0); /* it was closed */
    close(end);
}

static void too_many_connections(void **state)
{
    enum { OTHERS = OF_CONNECTIONS_MAX - OF_CONNECTIONS_KEPT };
    static struct client clients[OTHERS];
    struct world *w = *state;
    unsigned count = 0;
    int own[OF_CONNECTIONS_KEPT];
    for (unsigned i = 0; i < OTHERS; i++)
        client_open(&clients[i], w, i % 2 ? OF_PEER_CONTROLLER : OF_PEER_SERVICE);
    of_agent_each(w->agent, count_one, &count);
    assert_int_equal(count, OTHERS);
    refused_connection(w, false);
    for (unsigned i = 0; i < OF_CONNECTIONS_KEPT; i++)
        assert_int_equal(connect_one(w, true, &own[i]), 0);
    refused_connection(w, true);
    for (unsigned i = 0; i < OF_CONNECTIONS_KEPT; i++)
        close(own[i]);
    for (unsigned i = 0; i < OTHERS; i++)
        client_close(&clients[i]);
    assert_int_equal(w->ended, OTHERS);
}

/* An error from a peer is not answered; a tool has no role; an agent may go while peers are there. */
static void odds_and_ends(void **state)
{
    static struct world own;
    struct client c;
    struct msg m;
    (void)state;
    world_open(&own, 1, 0);
    client_open(&c, &own, OF_PEER_SERVICE);
    msg_begin(&m, OFPT_ERROR, 1);
    msg_zeros(&m, 4);
    client_do(&c, &m);
    msg_begin(&m, OFPT_ERROR, 1);
    client_do(&c, &m);
    msg_role(&m, OFPCR_ROLE_MASTER, 1);
    client_refused(&c, &m, OFPET_ROLE_REQUEST_FAILED, OFPRRFC_UNSUP);
    client_ask(&c, OFPT_BARRIER_REQUEST, 2);
    world_close(&own);
    close(c.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(features, setup, teardown),
        cmocka_unit_test_setup_teardown(another_datapath_id, setup, teardown),
        cmocka_unit_test_setup_teardown(disconnected, setup, teardown),
        cmocka_unit_test_setup_teardown(config, setup, teardown),
        cmocka_unit_test_setup_teardown(barriers, setup, teardown),
        cmocka_unit_test_setup_teardown(unknown_types, setup, teardown),
        cmocka_unit_test_setup_teardown(lengths, setup, teardown),
        cmocka_unit_test_setup_teardown(roles, setup, teardown),
        cmocka_unit_test_setup_teardown(slaves, setup, teardown),
        cmocka_unit_test_setup_teardown(async_config, setup, teardown),
        cmocka_unit_test_setup_teardown(port_mods, setup, teardown),
        cmocka_unit_test_setup_teardown(table_mods, setup, teardown),
        cmocka_unit_test_setup_teardown(queues, setup, teardown),
        cmocka_unit_test_setup_teardown(experimenters, setup, teardown),
        cmocka_unit_test_setup_teardown(too_many_connections, setup, teardown),
        cmocka_unit_test(odds_and_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
