/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a controller can set that is no flow, group or meter: its own session (roles, asynchronous messages), ports and
 * tables; and what it can ask about the switch as a whole.
 *
 * Source: OpenFlow 1.3.5, sections 6.3.4 to 6.3.6, 7.3.1 to 7.3.3, 7.3.4.3, 7.3.6, 7.3.9, 7.3.10.
 */
#include <errno.h>

#include "openflow/agent_internal.h"

#define NXT_FLOW_MOD_TABLE_ID 15u
#define NXT_SET_FLOW_FORMAT 12u
#define NXT_SET_PACKET_IN_FORMAT 16u
#define NXT_SET_ASYNC_CONFIG 19u
#define NXPIF_STANDARD 0u

/* ---- the switch ---- */

int agent_features(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    const struct of_features f = {
        .datapath_id = s->agent->args.datapath_id, .buffers = OF_BUFFERS_MAX, .tables = SWITCH_TABLES};
    if (of_get_nothing(m, e)) return -EINVAL;
    session_said_one(s, of_reply_features(session_reply(s), m->xid, &f));
    session_announce(s);
    return 0;
}

int agent_get_config(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    const struct of_config c = {.flags = OFPC_FRAG_NORMAL, .miss_send_len = s->miss_send_len};
    if (of_get_nothing(m, e)) return -EINVAL;
    session_said_one(s, of_reply_config(session_reply(s), m->xid, &c));
    return 0;
}

/* Fragments are forwarded as they are: the switch neither drops nor reassembles them. */
int agent_set_config(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    struct of_config c;
    if (of_get_set_config(m, &c, e)) return -EINVAL;
    if (c.flags != OFPC_FRAG_NORMAL)
        return of_wrong(e, OFPET_SWITCH_CONFIG_FAILED, OFPSCFC_BAD_FLAGS, "configuration flags 0x%x", c.flags);
    s->miss_send_len = c.miss_send_len;
    agent_see_wants(s->agent);
    return 0;
}

int agent_queue_get_config(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    uint32_t port;
    if (of_get_queue_config_request(m, &port, e)) return -EINVAL;
    if (port != OFPP_ANY && !agent_is_port(s->agent, port))
        return of_wrong(e, OFPET_QUEUE_OP_FAILED, OFPQOFC_BAD_PORT, "there is no port %u", port);
    session_said_one(s, of_reply_queue_config(session_reply(s), m->xid, port));
    return 0;
}

/* ---- roles ---- */

/* Numbers wrap: what is behind by less than half of them is old. */
static bool is_stale(const struct of_agent *a, uint64_t generation)
{
    return a->has_generation && (int64_t)(generation - a->generation) < 0;
}

static void demote_masters(struct of_agent *a)
{
    LIST_FOR_EACH (node, &a->sessions) {
        struct of_session *other = list_entry(node, struct of_session, node);
        if (other->role == OFPCR_ROLE_MASTER) other->role = OFPCR_ROLE_SLAVE;
    }
}

static int take_role(struct of_session *s, uint32_t role, uint64_t generation, struct of_error *e)
{
    struct of_agent *a = s->agent;
    if (role == OFPCR_ROLE_MASTER || role == OFPCR_ROLE_SLAVE) {
        if (s->args.peer != OF_PEER_CONTROLLER)
            return of_wrong(e, OFPET_ROLE_REQUEST_FAILED, OFPRRFC_UNSUP, "only a controller may be master or slave");
        if (is_stale(a, generation))
            return of_wrong(e, OFPET_ROLE_REQUEST_FAILED, OFPRRFC_STALE, "generation %llu is older than %llu",
                            (unsigned long long)generation, (unsigned long long)a->generation);
        a->has_generation = true;
        a->generation = generation;
    }
    if (role == OFPCR_ROLE_MASTER) demote_masters(a);
    s->role = role;
    agent_see_wants(a);
    return 0;
}

int agent_role(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    const struct of_agent *a = s->agent;
    struct of_role r;
    if (of_get_role_request(m, &r, e)) return -EINVAL;
    if (r.role > OFPCR_ROLE_SLAVE)
        return of_wrong(e, OFPET_ROLE_REQUEST_FAILED, OFPRRFC_BAD_ROLE, "there is no role %u", r.role);
    if (r.role != OFPCR_ROLE_NOCHANGE && take_role(s, r.role, r.generation, e)) return -EINVAL;
    /* Before any is known: the largest, as Open vSwitch has it. */
    const struct of_role reply = {.role = s->role, .generation = a->has_generation ? a->generation : UINT64_MAX};
    session_said_one(s, of_reply_role(session_reply(s), m->xid, &reply));
    return 0;
}

/* ---- asynchronous messages ---- */

int agent_get_async(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    if (of_get_nothing(m, e)) return -EINVAL;
    session_said_one(s, of_reply_async(session_reply(s), m->xid, &s->async));
    return 0;
}

int agent_set_async(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    struct of_async async;
    if (of_get_set_async(m, &async, e)) return -EINVAL;
    s->async = async;
    s->chose_async = true;
    agent_see_wants(s->agent);
    return 0;
}

/* ---- ports and tables ---- */

bool agent_is_port(struct of_agent *a, uint32_t number)
{
    return number != 0 && (number < OFPP_MAX || number == OFPP_LOCAL) && bridge_port(a->args.bridge, number);
}

struct port_search {
    uint32_t number;
    bool has_address;
    uint8_t mac[6];
};

static void see_address(void *arg, const struct switch_port_info *p)
{
    struct port_search *search = arg;
    if (p->number != search->number) return;
    search->has_address = true;
    memcpy(search->mac, p->mac, sizeof search->mac);
}

static int check_port_mod(struct of_agent *a, const struct of_port_mod *p, struct of_error *e)
{
    struct port_search search = {.number = p->port};
    if (!agent_is_port(a, p->port))
        return of_wrong(e, OFPET_PORT_MOD_FAILED, OFPPMFC_BAD_PORT, "there is no port %u", p->port);
    bridge_port_each(a->args.bridge, see_address, &search);
    if (!search.has_address || memcmp(search.mac, p->mac, sizeof search.mac) != 0)
        return of_wrong(e, OFPET_PORT_MOD_FAILED, OFPPMFC_BAD_HW_ADDR, "port %u has another address", p->port);
    if (p->advertise)
        return of_wrong(e, OFPET_PORT_MOD_FAILED, OFPPMFC_BAD_ADVERTISE, "a port of the switch advertises nothing");
    return 0;
}

int agent_port_mod(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    struct of_agent *a = s->agent;
    const struct of_keeper *k = &a->args.keeper;
    struct of_port_mod p;
    if (of_get_port_mod(m, &p, e) || check_port_mod(a, &p, e)) return -EINVAL;
    switch_port_set_config(bridge_port(a->args.bridge, p.port), p.config, p.mask);
    if (k->port) k->port(k->arg, p.port, p.config, p.mask);
    a->changed = true;
    return 0;
}

/* In OpenFlow 1.3 the only bits of a table's configuration are deprecated: they are kept and have no effect. */
int agent_table_mod(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    struct of_agent *a = s->agent;
    const struct of_keeper *k = &a->args.keeper;
    struct of_table_mod t;
    if (of_get_table_mod(m, &t, e)) return -EINVAL;
    if (t.table != SWITCH_TABLE_ALL && t.table >= SWITCH_TABLES)
        return of_wrong(e, OFPET_TABLE_MOD_FAILED, OFPTMFC_BAD_TABLE, "there is no table %u", t.table);
    if (t.config & ~OFPTC_DEPRECATED_MASK)
        return of_wrong(e, OFPET_TABLE_MOD_FAILED, OFPTMFC_BAD_CONFIG, "table configuration 0x%x", t.config);
    for (unsigned i = 0; i < SWITCH_TABLES; i++)
        if (t.table == SWITCH_TABLE_ALL || t.table == i) a->table_config[i] = t.config;
    if (k->table) k->table(k->arg, t.table, t.config);
    a->changed = true;
    return 0;
}

/* ---- experimenters ---- */

/* What Open vSwitch's tools and controllers say and what makes no difference with OpenFlow 1.3, or has a standard twin. */
static const struct {
    uint32_t subtype;
    size_t bytes;
} nicira_messages[] = {{NXT_FLOW_MOD_TABLE_ID, 8},
                       {NXT_SET_FLOW_FORMAT, sizeof(struct be32)},
                       {NXT_SET_PACKET_IN_FORMAT, sizeof(struct be32)},
                       {NXT_SET_ASYNC_CONFIG, sizeof(struct ofp_async_config)}};

/* As OFPT_SET_ASYNC has it. */
static void set_async(struct of_session *s, const uint8_t *from)
{
    struct ofp_async_config c;
    memcpy(&c, from, sizeof c);
    for (unsigned slave = 0; slave < 2; slave++) {
        s->async.packet_in[slave] = be32_get(c.packet_in_mask[slave]);
        s->async.port_status[slave] = be32_get(c.port_status_mask[slave]);
        s->async.flow_removed[slave] = be32_get(c.flow_removed_mask[slave]);
    }
    s->chose_async = true;
    agent_see_wants(s->agent);
}

static int nicira(struct of_session *s, uint32_t subtype, const uint8_t *body, size_t bytes, struct of_error *e)
{
    unsigned i = 0;
    while (i < ARRAY_LEN(nicira_messages) && nicira_messages[i].subtype != subtype)
        i++;
    if (i == ARRAY_LEN(nicira_messages))
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_EXP_TYPE, "Nicira's message %u", subtype);
    if (bytes != nicira_messages[i].bytes)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_LEN, "Nicira's message %u with %zu bytes", subtype, bytes);
    if (subtype == NXT_SET_ASYNC_CONFIG) set_async(s, body);
    struct be32 format;
    memcpy(&format, body, sizeof format);
    if (subtype == NXT_SET_PACKET_IN_FORMAT && be32_get(format) != NXPIF_STANDARD)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_EPERM, "packet-ins have OpenFlow's format only");
    return 0;
}

int agent_experimenter(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    struct ofp_experimenter x;
    size_t header = sizeof(struct ofp_header) + sizeof x;
    if (m->bytes < header) return of_refuse_experimenter(m, e);
    memcpy(&x, m->at + sizeof(struct ofp_header), sizeof x);
    if (be32_get(x.experimenter) != NX_EXPERIMENTER_ID) return of_refuse_experimenter(m, e);
    return nicira(s, be32_get(x.exp_type), m->at + header, m->bytes - header, e);
}
