/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bridge's sessions and what their peers ask.
 *
 *     of_conn --message--> slave? length? --> handler --> of_out (reply, error)
 *                 \ copy to snoops                 \ of_keeper (what was changed)
 *
 * Order. Requests of a session are carried out one after the other, before the next is looked at. A barrier's reply may come
 * later than that: barriers that came in one batch are answered together, after one commit and one switch_barrier(), and before
 * anything else that this session is told as a reply. So nobody hears that a change was made before it is kept and obeyed.
 *
 * Turns. A session that has kept the loop for TURN_NS is not read from until the others were looked at.
 */
#include "openflow/agent_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "loop/clock.h"

#define NO_ECHO_S (1u << 20) /* a snoop answers nothing */
#define TURN_MESSAGES 16u    /* between two looks at the clock */

/* ---- what is said ---- */

static void copy_to(struct of_session *s, const uint8_t *message, size_t bytes)
{
    struct of_out *o = of_conn_out(s->conn);
    struct ofp_header h;
    memcpy(&h, message, sizeof h);
    of_out_begin(o, h.type, be32_get(h.xid));
    of_out_put_bytes(o, message + sizeof h, bytes - sizeof h);
    if (!of_out_end(o)) return;
    s->sent++;
    of_conn_send(s->conn);
}

/* A snoop hears no more than it takes. */
static void copy_to_snoops(struct of_agent *a, const uint8_t *message, size_t bytes)
{
    LIST_FOR_EACH (node, &a->sessions) {
        struct of_session *s = list_entry(node, struct of_session, node);
        if (s->args.peer == OF_PEER_SNOOP && s->established && of_conn_queued(s->conn) < OF_OUTPUT_PAUSE_BYTES)
            copy_to(s, message, bytes);
    }
}

void session_said(struct of_session *s, size_t from, bool whole)
{
    struct of_out *o = of_conn_out(s->conn);
    struct ofp_header h;
    bool is_heard = s->agent->snoops && s->args.peer == OF_PEER_CONTROLLER;
    for (size_t at = from, bytes; at < o->count; at += bytes) {
        memcpy(&h, o->bytes + at, sizeof h);
        bytes = be16_get(h.length);
        s->sent++;
        if (is_heard) copy_to_snoops(s->agent, o->bytes + at, bytes);
    }
    if (whole) of_conn_send(s->conn);
    else of_conn_close(s->conn, "no memory for a message");
}

void session_said_one(struct of_session *s, bool whole)
{
    session_said(s, of_conn_out(s->conn)->message, whole);
}

struct of_out *session_reply(struct of_session *s)
{
    session_flush_barriers(s);
    agent_commit(s->agent);
    return of_conn_out(s->conn);
}

static void say_error(struct of_session *s, const struct of_msg *m, const struct of_error *e)
{
    (void)session_reply(s); /* what is wrong with it may be what was changed before */
    log_debug("%s: a message of type %u: error %u, %u: %s", s->args.name, m->type, e->type, e->code, e->text);
    session_said_one(s, of_put_error(of_conn_out(s->conn), m->at, m->bytes, e));
}

void agent_commit(struct of_agent *a)
{
    a->told = false;
    if (!a->changed) return;
    a->changed = false;
    if (a->args.keeper.commit) a->args.keeper.commit(a->args.keeper.arg);
}

/* ---- barriers ---- */

void session_flush_barriers(struct of_session *s)
{
    unsigned count = s->barriers;
    if (count == 0) return;
    s->barriers = 0;
    agent_commit(s->agent);
    switch_barrier(s->agent->all->sw);
    for (unsigned i = 0; i < count; i++)
        session_said_one(s, of_reply_empty(of_conn_out(s->conn), OFPT_BARRIER_REPLY, s->barrier_xids[i]));
}

static int barrier(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    if (of_get_nothing(m, e)) return -EINVAL;
    if (s->barriers == BARRIERS_TOGETHER) session_flush_barriers(s);
    s->barrier_xids[s->barriers++] = m->xid;
    return 0;
}

/* ---- requests ---- */

static int peer_error(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    struct ofp_error_msg error = {0};
    (void)e;
    if (m->bytes >= sizeof(struct ofp_header) + sizeof error)
        memcpy(&error, m->at + sizeof(struct ofp_header), sizeof error);
    log_limited(LOG_LEVEL_WARN, "%s: the peer says: error %u, %u", s->args.name, be16_get(error.type),
                be16_get(error.code));
    return 0;
}

static const struct {
    REQUEST_HANDLER((*run)); /* NULL: OFPBRC_BAD_TYPE */
    bool changes;            /* not for slaves */
    bool is_long;            /* may take long: timed one by one */
} handlers[] = {
    [OFPT_ERROR] = {peer_error, false, false},
    [OFPT_EXPERIMENTER] = {agent_experimenter, false, false},
    [OFPT_FEATURES_REQUEST] = {agent_features, false, false},
    [OFPT_GET_CONFIG_REQUEST] = {agent_get_config, false, false},
    [OFPT_SET_CONFIG] = {agent_set_config, false, false},
    [OFPT_PACKET_OUT] = {agent_packet_out, true, true},
    [OFPT_FLOW_MOD] = {agent_flow_mod, true, false},
    [OFPT_GROUP_MOD] = {agent_group_mod, true, true},
    [OFPT_PORT_MOD] = {agent_port_mod, true, true},
    [OFPT_TABLE_MOD] = {agent_table_mod, true, false},
    [OFPT_MULTIPART_REQUEST] = {agent_multipart, false, true},
    [OFPT_BARRIER_REQUEST] = {barrier, false, false},
    [OFPT_QUEUE_GET_CONFIG_REQUEST] = {agent_queue_get_config, false, false},
    [OFPT_ROLE_REQUEST] = {agent_role, false, false},
    [OFPT_GET_ASYNC_REQUEST] = {agent_get_async, false, false},
    [OFPT_SET_ASYNC] = {agent_set_async, false, false},
    [OFPT_METER_MOD] = {agent_meter_mod, true, true},
};

static bool is_known(const struct of_msg *m)
{
    return m->type < ARRAY_LEN(handlers) && handlers[m->type].run;
}

static int handle(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    if (!is_known(m)) return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_TYPE, "no request has type %u", m->type);
    if (s->args.peer == OF_PEER_SNOOP && m->type != OFPT_ERROR)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_EPERM, "who listens in may not ask");
    if (handlers[m->type].changes && s->role == OFPCR_ROLE_SLAVE)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_IS_SLAVE, "a slave may not change anything");
    return handlers[m->type].run(s, m, e);
}

/* ---- turns ---- */

void session_hold(struct of_session *s, enum held why)
{
    s->held |= why;
    of_conn_read(s->conn, false);
}

void session_release(struct of_session *s, enum held why)
{
    s->held &= ~(unsigned)why;
    if (!s->held) of_conn_read(s->conn, true);
}

static void turn_again(struct loop_timer *t)
{
    struct of_session *s = container_of(t, struct of_session, again);
    if (s->answer.more) session_answer_more(s);
    session_release(s, HELD_TURN);
}

static void turn_over(struct of_session *s)
{
    session_flush_barriers(s);
    s->turn_ns = 0;
    session_hold(s, HELD_TURN);
    loop_timer_arm(s->agent->all->loop, &s->again, 0, turn_again);
}

/* Most flow mods are short, and the clock is not looked at for each. Those of many flows look at every one that there is. */
static bool may_be_long(const struct of_msg *m)
{
    struct ofp_flow_mod f;
    if (!is_known(m) || m->type != OFPT_FLOW_MOD) return is_known(m) && handlers[m->type].is_long;
    if (m->bytes < sizeof(struct ofp_header) + sizeof f) return false;
    memcpy(&f, m->at + sizeof(struct ofp_header), sizeof f);
    return f.command == OFPFC_MODIFY || f.command == OFPFC_DELETE;
}

static bool had_its_turn(struct of_session *s, const struct of_msg *m)
{
    s->turn_messages++;
    if (s->turn_messages % TURN_MESSAGES != 0 && !may_be_long(m)) return false;
    return clock_now_ns() - s->turn_ns > TURN_NS;
}

/* ---- what connections report ---- */

static void message(void *arg, const uint8_t *at, size_t bytes)
{
    struct of_session *s = arg;
    struct ofp_header h;
    struct of_error e;
    memcpy(&h, at, sizeof h);
    struct of_msg m = {.at = at, .bytes = bytes, .type = h.type, .xid = be32_get(h.xid)};
    s->received++;
    if (s->turn_ns == 0) s->turn_ns = clock_now_ns();
    if (s->agent->snoops && s->args.peer == OF_PEER_CONTROLLER) copy_to_snoops(s->agent, at, bytes);
    if (handle(s, &m, &e)) say_error(s, &m, &e);
    if (had_its_turn(s, &m)) turn_over(s);
}

static void batch_end(void *arg)
{
    struct of_session *s = arg;
    session_flush_barriers(s);
    if (s->agent->told) agent_commit(s->agent); /* nothing was sent yet */
    s->turn_ns = 0;
}

void session_announce(struct of_session *s)
{
    if (s->announced) return;
    s->announced = true;
    if (s->args.established) s->args.established(s->args.arg);
}

static void established(void *arg)
{
    struct of_session *s = arg;
    s->established = true;
    s->since_ns = clock_now_ns();
    agent_see_wants(s->agent);
    if (s->args.peer != OF_PEER_CONTROLLER) session_announce(s);
}

static void drained(void *arg)
{
    struct of_session *s = arg;
    if (s->answer.more && !(s->held & HELD_TURN)) session_answer_more(s);
}

static void session_free(struct of_session *s)
{
    struct of_agent *a = s->agent;
    loop_timer_cancel(&s->again);
    list_remove(&s->node);
    a->count--;
    if (s->args.peer == OF_PEER_SNOOP) a->snoops--;
    buffers_forget(a, s);
    session_multipart_clear(s);
    of_conn_free(s->conn);
    agent_see_wants(a);
    free((void *)(uintptr_t)s->args.name);
    free(s);
}

static void ended(void *arg, const char *reason)
{
    struct of_session *s = arg;
    void (*then)(void *arg, const char *reason) = s->args.ended;
    void *then_arg = s->args.arg;
    session_free(s);
    if (then) then(then_arg, reason);
}

/* ---- sessions ---- */

bool session_wants(const struct of_session *s, enum async kind, unsigned reason)
{
    if (!s->established || s->args.peer == OF_PEER_SNOOP) return false;
    /* A tool asks for them by a length of packets that is not zero, as with Open vSwitch. */
    if (s->args.peer == OF_PEER_SERVICE && s->miss_send_len == 0 && !s->chose_async) return false;
    const uint32_t *masks[] = {[ASYNC_PACKET_IN] = s->async.packet_in,
                               [ASYNC_PORT_STATUS] = s->async.port_status,
                               [ASYNC_FLOW_REMOVED] = s->async.flow_removed};
    return masks[kind][s->role == OFPCR_ROLE_SLAVE] >> reason & 1;
}

void agent_see_wants(struct of_agent *a)
{
    unsigned wanted = 0;
    LIST_FOR_EACH (node, &a->sessions)
        for (unsigned reason = OFPR_NO_MATCH; reason <= OFPR_INVALID_TTL; reason++)
            if (session_wants(list_entry(node, struct of_session, node), ASYNC_PACKET_IN, reason))
                wanted |= 1u << reason;
    atomic_store_explicit(&a->wanted, wanted, memory_order_relaxed);
}

/* Section 6.3.6: everything as master or equal, but packets whose TTL was over; as slave what happens to ports. */
static const struct of_async async_default = {
    .packet_in = {1u << OFPR_NO_MATCH | 1u << OFPR_ACTION, 0},
    .port_status = {1u << OFPPR_ADD | 1u << OFPPR_DELETE | 1u << OFPPR_MODIFY,
                    1u << OFPPR_ADD | 1u << OFPPR_DELETE | 1u << OFPPR_MODIFY},
    .flow_removed = {
        1u << OFPRR_IDLE_TIMEOUT | 1u << OFPRR_HARD_TIMEOUT | 1u << OFPRR_DELETE | 1u << OFPRR_GROUP_DELETE, 0}};

static struct of_session *session_new(struct of_agent *a, const struct of_connection_args *c)
{
    struct of_session *s = calloc(1, sizeof *s);
    char *name = strdup(c->name ? c->name : "");
    if (!s || !name) {
        free(s);
        free(name);
        return NULL;
    }
    s->agent = a;
    s->args = *c;
    s->args.name = name;
    s->has_tls = c->tls != NULL;
    s->since_ns = clock_now_ns();
    s->role = OFPCR_ROLE_EQUAL;
    s->miss_send_len = c->peer == OF_PEER_CONTROLLER ? OFP_DEFAULT_MISS_SEND_LEN : 0;
    s->async = async_default;
    return s;
}

static int session_start(struct of_session *s, struct of_stream *stream)
{
    struct of_agent *a = s->agent;
    const struct of_conn_ops ops = {.established = established,
                                    .message = message,
                                    .batch_end = batch_end,
                                    .drained = drained,
                                    .ended = ended,
                                    .arg = s};
    unsigned echo_s = s->args.peer == OF_PEER_SNOOP ? NO_ECHO_S : s->args.echo_s;
    int ret = of_conn_new(&s->conn, a->all->loop, stream, echo_s, &ops);
    if (ret) return ret;
    list_push_back(&a->sessions, &s->node);
    a->count++;
    if (s->args.peer == OF_PEER_SNOOP) a->snoops++;
    return 0;
}

int of_agent_connect(struct of_agent *a, const struct of_connection_args *c, struct errmsg *e)
{
    struct of_stream *stream;
    /* Whoever can reach a socket of the switch cannot keep it from its controllers. */
    if (a->count >= OF_CONNECTIONS_MAX - (c->tls_client ? 0 : OF_CONNECTIONS_KEPT)) {
        close(c->fd);
        return errmsg_set(e, ENOSPC, "%s: there are %u connections", c->name, a->count);
    }
    struct of_session *s = session_new(a, c);
    int ret = s ? of_stream_new(&stream, c->fd, c->tls, c->tls_client) : -ENOMEM;
    if (ret) close(c->fd);
    if (ret == 0) ret = session_start(s, stream);
    if (ret == 0) return 0;
    if (s) free((void *)(uintptr_t)s->args.name);
    free(s);
    return errmsg_sys(e, -ret, "%s: beginning a connection", c->name);
}

void of_agent_set_datapath_id(struct of_agent *a, uint64_t datapath_id)
{
    a->args.datapath_id = datapath_id;
    LIST_FOR_EACH (node, &a->sessions)
        of_conn_close(list_entry(node, struct of_session, node)->conn, "the bridge has another datapath id now");
}

void of_agent_disconnect(struct of_agent *a, const void *arg, const char *reason)
{
    LIST_FOR_EACH (node, &a->sessions) {
        struct of_session *s = list_entry(node, struct of_session, node);
        if (s->args.arg == arg) of_conn_close(s->conn, reason);
    }
}

unsigned of_agent_controllers(const struct of_agent *a)
{
    unsigned count = 0;
    LIST_FOR_EACH (node, &a->sessions) {
        const struct of_session *s = list_entry(node, struct of_session, node);
        if (s->args.peer == OF_PEER_CONTROLLER && s->announced) count++;
    }
    return count;
}

void of_agent_each(struct of_agent *a, void (*visit)(void *arg, const struct of_connection_info *c), void *arg)
{
    static const char *const roles[] = {
        [OFPCR_ROLE_EQUAL] = "equal", [OFPCR_ROLE_MASTER] = "master", [OFPCR_ROLE_SLAVE] = "slave"};
    LIST_FOR_EACH (node, &a->sessions) {
        const struct of_session *s = list_entry(node, struct of_session, node);
        const struct of_connection_info info = {.name = s->args.name,
                                                .role = roles[s->role],
                                                .state = s->established ? "established" : "connecting",
                                                .peer = s->args.peer,
                                                .tls = s->has_tls,
                                                .received = s->received,
                                                .sent = s->sent,
                                                .packet_ins = s->packet_ins,
                                                .packet_ins_dropped = s->packet_ins_dropped,
                                                .since_ns = s->since_ns};
        visit(arg, &info);
    }
}

uint64_t of_agent_dropped(const struct of_agent *a)
{
    return atomic_load_explicit(&a->dropped, memory_order_relaxed);
}

/* ---- agents ---- */

int of_agent_new(struct of_agent **out, struct of_agents *all, const struct of_agent_args *args, struct errmsg *e)
{
    struct of_agent *a = calloc(1, sizeof *a);
    if (!a) return errmsg_set(e, ENOMEM, "no memory for an OpenFlow agent");
    unsigned rate = args->packet_in_rate ? args->packet_in_rate : OF_PACKET_IN_RATE_DEFAULT;
    a->all = all;
    a->args = *args;
    if (args->table_config) memcpy(a->table_config, args->table_config, sizeof a->table_config);
    a->packet_in_interval_ns = NS_PER_SECOND / rate;
    list_init(&a->sessions);
    for (unsigned i = 0; i < OF_BUFFERS_MAX; i++)
        a->buffers[i].id = OFP_NO_BUFFER;
    bridge_on_flow_gone(args->bridge, agent_flow_gone, a);
    bridge_on_port(args->bridge, agent_port_event, a);
    atomic_store_explicit(&all->by_bridge[bridge_number(args->bridge)], a, memory_order_release);
    *out = a;
    return 0;
}

void of_agent_free(struct of_agent *a)
{
    if (!a) return;
    bridge_on_flow_gone(a->args.bridge, NULL, NULL);
    bridge_on_port(a->args.bridge, NULL, NULL);
    atomic_store(&a->all->by_bridge[bridge_number(a->args.bridge)], NULL);
    switch_barrier(a->all->sw); /* no thread hands over a packet of this bridge any more */
    packet_ins_forget(a);
    LIST_FOR_EACH_SAFE (node, &a->sessions)
        session_free(list_entry(node, struct of_session, node));
    agent_commit(a);
    buffers_forget(a, NULL);
    loop_timer_cancel(&a->age);
    free(a);
}
