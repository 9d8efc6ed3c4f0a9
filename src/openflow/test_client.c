/* SPDX-License-Identifier: Apache-2.0 */
#include "openflow/test_client.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the switch's side ---- */

static void note_flow(void *arg, enum of_change change, const struct flow_spec *f)
{
    struct noted *n = arg;
    (void)f;
    n->flows++;
    n->last = change;
}

static void note_group(void *arg, enum of_change change, const struct group_spec *g)
{
    struct noted *n = arg;
    (void)g;
    n->groups++;
    n->last = change;
}

static void note_meter(void *arg, enum of_change change, const struct meter_spec *m)
{
    struct noted *n = arg;
    (void)m;
    n->meters++;
    n->last = change;
}

static void note_port(void *arg, uint32_t port, uint32_t config, uint32_t mask)
{
    struct noted *n = arg;
    (void)port;
    (void)config;
    (void)mask;
    n->ports++;
}

static void note_table(void *arg, unsigned table, uint32_t config)
{
    struct noted *n = arg;
    (void)table;
    (void)config;
    n->tables++;
}

static void note_gone(void *arg, const struct flow_spec *f, enum flow_gone why)
{
    struct noted *n = arg;
    (void)f;
    n->gone++;
    n->why = why;
}

static void note_commit(void *arg)
{
    struct noted *n = arg;
    n->commits++;
}

void world_open(struct world *w, unsigned count, unsigned packet_in_rate)
{
    struct errmsg e;
    memset(w, 0, sizeof *w);
    rig_open(&w->rig, NULL, BRIDGE_SECURE, count);
    w->loop = loop_new();
    assert_non_null(w->loop);
    assert_int_equal(of_agents_new(&w->all, w->rig.sw, w->loop), 0);
    const struct of_agent_args args = {.loop = w->loop,
                                       .bridge = w->rig.bridge,
                                       .datapath_id = 0x1122334455667788,
                                       .keeper = {.flow = note_flow,
                                                  .group = note_group,
                                                  .meter = note_meter,
                                                  .port = note_port,
                                                  .table = note_table,
                                                  .flow_gone = note_gone,
                                                  .commit = note_commit,
                                                  .arg = &w->noted},
                                       .packet_in_rate = packet_in_rate,
                                       .description = "a bridge for tests",
                                       .version = "1"};
    assert_int_equal(of_agent_new(&w->agent, w->all, &args, &e), 0);
}

void world_close(struct world *w)
{
    of_agent_free(w->agent);
    of_agents_free(w->all);
    loop_free(w->loop);
    rig_close(&w->rig);
}

int world_setup(void **state)
{
    static struct world w;
    world_open(&w, 4, 0);
    *state = &w;
    return 0;
}

int world_teardown(void **state)
{
    world_close(*state);
    return 0;
}

void world_run(struct world *w)
{
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(loop_run_once(w->loop, 0), 0);
}

/* ---- messages ---- */

static void set_length(struct msg *m)
{
    m->at[2] = (uint8_t)(m->bytes >> 8);
    m->at[3] = (uint8_t)m->bytes;
}

void msg_bytes(struct msg *m, const void *from, size_t bytes)
{
    assert_true(m->bytes + bytes <= sizeof m->at);
    memcpy(m->at + m->bytes, from, bytes);
    m->bytes += bytes;
    set_length(m);
}

void msg_u64(struct msg *m, uint64_t v)
{
    struct be64 raw = be64_make(v);
    msg_bytes(m, &raw, sizeof raw);
}

void msg_u32(struct msg *m, uint32_t v)
{
    struct be32 raw = be32_make(v);
    msg_bytes(m, &raw, sizeof raw);
}

void msg_u16(struct msg *m, unsigned v)
{
    struct be16 raw = be16_make((uint16_t)v);
    msg_bytes(m, &raw, sizeof raw);
}

void msg_u8(struct msg *m, unsigned v)
{
    uint8_t raw = (uint8_t)v;
    msg_bytes(m, &raw, 1);
}

void msg_zeros(struct msg *m, size_t bytes)
{
    assert_true(m->bytes + bytes <= sizeof m->at);
    memset(m->at + m->bytes, 0, bytes);
    m->bytes += bytes;
    set_length(m);
}

void msg_begin(struct msg *m, uint8_t type, uint32_t xid)
{
    const uint8_t head[4] = {4, type};
    m->bytes = 0;
    msg_bytes(m, head, sizeof head);
    msg_u32(m, xid);
}

void msg_multipart(struct msg *m, unsigned type, unsigned flags, uint32_t xid)
{
    msg_begin(m, OFPT_MULTIPART_REQUEST, xid);
    msg_u16(m, type);
    msg_u16(m, flags);
    msg_zeros(m, 4);
}

void msg_match(struct msg *m, uint32_t in_port)
{
    msg_u16(m, OFPMT_OXM);
    msg_u16(m, in_port ? 12 : 4);
    if (in_port) {
        msg_u32(m, 0x80000004);
        msg_u32(m, in_port);
    }
    msg_zeros(m, 4);
}

void msg_flow_mod(struct msg *m, uint32_t xid, const struct flow_text *f)
{
    msg_begin(m, OFPT_FLOW_MOD, xid);
    msg_u64(m, f->cookie);
    msg_u64(m, f->cookie_mask);
    msg_u8(m, f->table);
    msg_u8(m, f->command);
    msg_u16(m, f->idle);
    msg_u16(m, f->hard);
    msg_u16(m, f->priority);
    msg_u32(m, f->buffer ? f->buffer : OFP_NO_BUFFER);
    msg_u32(m, f->out_port ? f->out_port : OFPP_ANY);
    msg_u32(m, f->out_group ? f->out_group : OFPG_ANY);
    msg_u16(m, f->flags);
    msg_zeros(m, 2);
    msg_match(m, f->in_port);
    if (!f->output) return;
    msg_u16(m, OFPIT_APPLY_ACTIONS);
    msg_u16(m, 24);
    msg_zeros(m, 4);
    msg_u16(m, OFPAT_OUTPUT);
    msg_u16(m, 16);
    msg_u32(m, f->output);
    msg_u16(m, f->max_len);
    msg_zeros(m, 6);
}

unsigned get16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

uint32_t get32(const uint8_t *at)
{
    return (uint32_t)get16(at) << 16 | get16(at + 2);
}

uint64_t get64(const uint8_t *at)
{
    return (uint64_t)get32(at) << 32 | get32(at + 4);
}

/* ---- peers ---- */

static void has_established(void *arg)
{
    struct world *w = arg;
    w->established++;
}

static void has_ended(void *arg, const char *reason)
{
    struct world *w = arg;
    assert_non_null(reason);
    w->ended++;
}

void client_open(struct client *c, struct world *w, enum of_peer peer)
{
    int ends[2];
    struct errmsg e;
    struct msg m;
    memset(c, 0, offsetof(struct client, in));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    c->w = w;
    c->fd = ends[0];
    const struct of_connection_args args = {
        .fd = ends[1], .peer = peer, .name = "client", .established = has_established, .ended = has_ended, .arg = w};
    assert_int_equal(of_agent_connect(w->agent, &args, &e), 0);
    msg_begin(&m, OFPT_HELLO, 1);
    client_send(c, &m);
    size_t bytes;
    const uint8_t *hello = client_get(c, &bytes);
    assert_non_null(hello);
    assert_int_equal(hello[1], OFPT_HELLO);
}

void client_open_controller(struct client *c, struct world *w)
{
    client_open(c, w, OF_PEER_CONTROLLER);
    client_ask(c, OFPT_FEATURES_REQUEST, 2);
    client_expect(c, OFPT_FEATURES_REPLY, 2);
}

void client_close(struct client *c)
{
    close(c->fd);
    world_run(c->w);
}

void client_send(struct client *c, struct msg *m)
{
    for (size_t sent = 0; sent < m->bytes;) {
        ssize_t n = send(c->fd, m->at + sent, m->bytes - sent, MSG_NOSIGNAL);
        if (n < 0) assert_int_equal(errno, EAGAIN);
        else sent += (size_t)n;
        if (sent < m->bytes) world_run(c->w);
    }
}

void client_ask(struct client *c, uint8_t type, uint32_t xid)
{
    struct msg m;
    msg_begin(&m, type, xid);
    client_send(c, &m);
}

static void fill(struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->have, sizeof c->in - c->have, 0);
    if (n > 0) c->have += (size_t)n;
    if (n == 0) c->over = true;
}

static bool has_message(const struct client *c)
{
    return c->have >= 8 && c->have >= get16(c->in + 2);
}

const uint8_t *client_get(struct client *c, size_t *bytes)
{
    static uint8_t message[OFP_MESSAGE_MAX];
    for (unsigned i = 0; i < 4 && !has_message(c); i++) {
        world_run(c->w);
        fill(c);
    }
    if (!has_message(c)) return NULL;
    *bytes = get16(c->in + 2);
    assert_true(*bytes >= 8 && c->in[0] == 4);
    memcpy(message, c->in, *bytes);
    memmove(c->in, c->in + *bytes, c->have - *bytes);
    c->have -= *bytes;
    return message;
}

const uint8_t *client_expect(struct client *c, uint8_t type, uint32_t xid)
{
    size_t bytes = 0;
    const uint8_t *m = client_get(c, &bytes);
    assert_non_null(m);
    if (m[1] == OFPT_ERROR && type != OFPT_ERROR) print_error("error %u, %u\n", get16(m + 8), get16(m + 10));
    assert_int_equal(m[1], type);
    assert_int_equal(get32(m + 4), xid);
    return m;
}

void client_expect_error(struct client *c, uint32_t xid, unsigned type, unsigned code)
{
    const uint8_t *m = client_expect(c, OFPT_ERROR, xid);
    assert_int_equal(get16(m + 8), type);
    assert_int_equal(get16(m + 10), code);
}

void client_expect_nothing(struct client *c)
{
    size_t bytes;
    const uint8_t *m = client_get(c, &bytes);
    if (m) print_error("a message of type %u\n", m[1]);
    assert_null(m);
}

void client_do(struct client *c, struct msg *m)
{
    client_send(c, m);
    client_ask(c, OFPT_BARRIER_REQUEST, 0xba771e7);
    client_expect(c, OFPT_BARRIER_REPLY, 0xba771e7);
}

void client_do_flow(struct client *c, const struct flow_text *f)
{
    struct msg m;
    msg_flow_mod(&m, 77, f);
    client_do(c, &m);
}

void client_refused(struct client *c, struct msg *m, unsigned type, unsigned code)
{
    client_send(c, m);
    client_expect_error(c, get32(m->at + 4), type, code);
}
