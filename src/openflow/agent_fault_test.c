/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation fails once while a peer asks all there is to ask: nobody is harmed but, at most, that peer's connection. And peers
 * that come and go in great numbers, say anything, and stop in the middle of it.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/test_alloc.h"
#include "openflow/test_client.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"

/* Whatever comes back is thrown away. */
static void say(struct client *c, const struct msg *m)
{
    uint8_t answers[4096];
    ssize_t n = send(c->fd, m->at, m->bytes, MSG_NOSIGNAL);
    if (n < 0) assert_true(errno == EPIPE || errno == EAGAIN || errno == ECONNRESET);
    world_run(c->w);
    while (recv(c->fd, answers, sizeof answers, 0) > 0)
        world_run(c->w);
}

static void say_changes(struct client *c)
{
    static struct msg m;
    for (unsigned command = OFPFC_ADD; command <= OFPFC_MODIFY_STRICT; command++) {
        msg_flow_mod(&m, 1, &(struct flow_text){.command = command, .in_port = 1, .output = 2, .flags = 1});
        say(c, &m);
    }
    msg_begin(&m, OFPT_GROUP_MOD, 2);
    msg_u32(&m, 0);
    msg_u32(&m, 1);
    say(c, &m);
    msg_begin(&m, OFPT_METER_MOD, 2);
    msg_u32(&m, OFPMF_PKTPS);
    msg_u32(&m, 1);
    say(c, &m);
    msg_begin(&m, OFPT_PACKET_OUT, 3);
    msg_u32(&m, OFP_NO_BUFFER);
    msg_u32(&m, OFPP_CONTROLLER);
    msg_u16(&m, 16);
    msg_zeros(&m, 6);
    msg_u16(&m, OFPAT_OUTPUT);
    msg_u16(&m, 16);
    msg_u32(&m, OFPP_CONTROLLER);
    msg_zeros(&m, 8 + 60);
    say(c, &m);
}

static void say_questions(struct client *c)
{
    static struct msg m;
    static const struct {
        uint8_t type, body;
    } requests[] = {{OFPMP_DESC, 0},         {OFPMP_FLOW, 40},    {OFPMP_AGGREGATE, 40}, {OFPMP_TABLE, 0},
                    {OFPMP_PORT_STATS, 8},   {OFPMP_GROUP, 8},    {OFPMP_GROUP_DESC, 0}, {OFPMP_METER, 8},
                    {OFPMP_METER_CONFIG, 8}, {OFPMP_PORT_DESC, 0}};
    for (unsigned i = 0; i < ARRAY_LEN(requests); i++) {
        msg_multipart(&m, requests[i].type, 0, 4);
        msg_zeros(&m, requests[i].body);
        if (requests[i].body == 8) memset(m.at + 16, 0xff, 4);
        if (requests[i].body == 40) memcpy(m.at + 16 + 32, (uint8_t[]){0, 1, 0, 4}, 4);
        say(c, &m);
    }
    msg_multipart(&m, OFPMP_TABLE_FEATURES, OFPMPF_REQ_MORE, 5);
    msg_zeros(&m, 100);
    say(c, &m);
    static const uint8_t simple[] = {OFPT_FEATURES_REQUEST, OFPT_GET_CONFIG_REQUEST, OFPT_GET_ASYNC_REQUEST,
                                     OFPT_PACKET_IN, OFPT_BARRIER_REQUEST};
    for (unsigned i = 0; i < sizeof simple; i++) {
        msg_begin(&m, simple[i], 6);
        say(c, &m);
    }
}

static void say_everything(struct client *c)
{
    static struct msg m;
    uint8_t f[128];
    say_changes(c);
    say_questions(c);
    msg_flow_mod(&m, 1, &(struct flow_text){.priority = 9, .output = OFPP_CONTROLLER, .max_len = 10});
    say(c, &m);
    rig_send(&c->w->rig, 3, f, frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000), 1);
    msg_flow_mod(&m, 1, &(struct flow_text){.command = OFPFC_DELETE, .table = 255});
    say(c, &m);
}

static void every_allocation_fails(void **state)
{
    static struct client c, snoop, other;
    static struct world w;
    unsigned n = 1;
    (void)state;
    for (;; n++) {
        world_open(&w, 4, 0);
        client_open(&snoop, &w, OF_PEER_SNOOP);
        client_open_controller(&c, &w);
        alloc_failed = false;
        alloc_countdown = n;
        say_everything(&c);
        alloc_countdown = 0;
        client_open_controller(&other, &w); /* is served as ever */
        client_close(&other);
        client_close(&c);
        client_close(&snoop);
        world_close(&w);
        if (!alloc_failed) break;
    }
    assert_true(n > 30);
}

/* A connection for which there is no memory. */
static void no_connection(void **state)
{
    static struct world w;
    struct errmsg e;
    int ends[2], ret = -1;
    (void)state;
    world_open(&w, 1, 0);
    for (unsigned n = 1; ret; n++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
        const struct of_connection_args args = {.fd = ends[1], .peer = OF_PEER_CONTROLLER, .name = "client"};
        alloc_countdown = n;
        ret = of_agent_connect(w.agent, &args, &e);
        alloc_countdown = 0;
        if (ret) assert_int_equal(ret, -ENOMEM);
        char byte;
        if (ret) assert_int_equal(read(ends[0], &byte, 1), 0);
        close(ends[0]);
        assert_true(n < 20);
    }
    world_run(&w);
    world_close(&w);
}

/* ---- peers that come and go ---- */

static uint32_t random_number(void)
{
    static uint64_t x = 88172645463325252ull;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)(x >> 32);
}

/* A message that may be anything, of a type that is known, mostly. */
static void msg_random(struct msg *m)
{
    msg_begin(m, (uint8_t)(random_number() % 32), random_number());
    unsigned bytes = random_number() % 4 ? random_number() % 128 : random_number() % 2048;
    for (unsigned i = 0; i < bytes; i++)
        msg_u8(m, random_number() % 3 ? 0 : random_number());
    if (m->at[1] == OFPT_MULTIPART_REQUEST && bytes > 4) m->at[9] = (uint8_t)(random_number() % 16);
    if (m->at[1] == OFPT_MULTIPART_REQUEST && bytes > 4) m->at[8] = 0;
}

static void churn(void **state)
{
    static struct client clients[OF_CONNECTIONS_MAX], honest;
    static struct world w;
    static struct msg m;
    bool open[OF_CONNECTIONS_MAX] = {false};
    uint8_t f[128];
    (void)state;
    world_open(&w, 4, 0);
    client_open_controller(&honest, &w);
    for (unsigned i = 0; i < 3000; i++) {
        unsigned k = random_number() % (OF_CONNECTIONS_MAX - OF_CONNECTIONS_KEPT - 1);
        struct client *c = &clients[k];
        if (!open[k]) {
            client_open(c, &w, (enum of_peer)(random_number() % 3));
            open[k] = true;
        }
        for (unsigned n = random_number() % 8; n; n--) {
            msg_random(&m);
            if (random_number() % 32 == 0) m.bytes -= m.bytes / 3; /* stops, or goes on with another */
            ssize_t sent = send(c->fd, m.at, m.bytes, MSG_NOSIGNAL);
            (void)sent;
        }
        if (random_number() % 4) world_run(&w);
        if (random_number() % 8 == 0) rig_send(&w.rig, 1, f, frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1, 2), 3);
        if (random_number() % 6 == 0) {
            close(c->fd);
            open[k] = false;
        }
        if (i % 100 == 0) {
            msg_flow_mod(&m, 1, &(struct flow_text){.priority = 1, .output = OFPP_CONTROLLER, .max_len = 10});
            client_send(&honest, &m);
            client_ask(&honest, OFPT_BARRIER_REQUEST, i);
            size_t bytes;
            const uint8_t *r;
            while ((r = client_get(&honest, &bytes)) && r[1] != OFPT_BARRIER_REPLY) {
            }
            assert_non_null(r);
            world_run(&w);
        }
    }
    for (unsigned i = 0; i < OF_CONNECTIONS_MAX; i++)
        if (open[i]) close(clients[i].fd);
    client_close(&honest);
    world_run(&w);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_fails),
        cmocka_unit_test(no_connection),
        cmocka_unit_test(churn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
