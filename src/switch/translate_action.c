/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/packet.h"
#include "switch/execute.h"
#include "switch/extract.h"
#include "switch/translate_internal.h"

#define TYPE_VLAN 0x8100u
#define TYPE_MPLS 0x8847u

enum { REASON_ACTION = 1, REASON_INVALID_TTL = 2, REASON_NO_MATCH = 0 };

/* Was it looked at, or is it about to move: all of a tag or label stack. */
static void see_tags(struct walk *w)
{
    w->out->deps.modified = true;
    memset(seen(w)->vlan, 0xff, sizeof seen(w)->vlan);
}

static void see_labels(struct walk *w)
{
    w->out->deps.modified = true;
    memset(seen(w)->mpls, 0xff, sizeof seen(w)->mpls);
}

static bool is_mpls(const struct flow_key *k)
{
    uint16_t type = be16_get(k->eth_type);
    return type == TYPE_MPLS || type == 0x8848;
}

/* ---- output ---- */

/* What no flow matches is not told of packets from such a port. */
static bool tells_of_misses(struct walk *w)
{
    const struct switch_port *in = bridge_find_port(w->r->bridge, be32_get(w->r->key->in_port));
    return !in || !(port_settings(in)->config & PORT_CONFIG_NO_PACKET_IN);
}

static void to_controller(struct walk *w, uint8_t reason, uint16_t max_len)
{
    /* A table-miss flow: no match (OpenFlow 1.3.5, section 5.4). */
    bool miss = reason == REASON_ACTION && w->flow && w->flow->priority == 0 && w->flow->words == 0;
    if (miss && !tells_of_misses(w)) return;
    struct dp_action *a = walk_emit(w, DP_CONTROLLER);
    if (!a) return;
    a->eth_type = max_len;
    a->in.reason = miss ? REASON_NO_MATCH : reason;
    a->in.table = w->table;
    a->from.cookie = w->flow ? w->flow->cookie : UINT64_MAX;
    memcpy(&a->from.metadata, &w->key.metadata, sizeof a->from.metadata);
}

static void to_all(struct walk *w, bool flood)
{
    const struct port_map *m = atomic_load_explicit(&w->r->bridge->ports, memory_order_acquire);
    uint32_t in_port = be32_get(w->key.in_port);
    for (unsigned i = 0; m && i < m->count && !w->stop; i++) {
        struct switch_port *sp = m->ports[i];
        if (sp->number != in_port && !(flood && port_settings(sp)->c.no_flood)) walk_output(w, sp);
    }
}

static void to_number(struct walk *w, uint32_t number)
{
    struct switch_port *sp = bridge_find_port(w->r->bridge, number);
    if (sp) walk_output(w, sp);
    else walk_trace(w, "there is no port %u", number);
}

static void output(struct walk *w, const struct action *a)
{
    switch (a->output.port) {
    case SWITCH_PORT_IN_PORT: to_number(w, be32_get(w->key.in_port)); break;
    case SWITCH_PORT_NORMAL: walk_normal(w); break;
    case SWITCH_PORT_FLOOD: to_all(w, true); break;
    case SWITCH_PORT_ALL: to_all(w, false); break;
    case SWITCH_PORT_CONTROLLER: to_controller(w, REASON_ACTION, a->output.max_len); break;
    case SWITCH_PORT_TABLE:
        if (w->r->actions && !w->flow) walk_pipeline(w);
        break;
    case SWITCH_PORT_ANY: break;
    default:
        if (a->output.port == be32_get(w->key.in_port)) walk_trace(w, "not back to where it came from");
        else to_number(w, a->output.port);
    }
}

/* ---- what comes to light ---- */

/* Of a list of actions, those that have changed the packet by now: not what other branches do. False: they cannot be done, or not be kept
 * in mind (*keep). */
static bool change_so_far(struct walk *w, struct packet *p, bool *keep)
{
    struct translation *t = w->out;
    for (unsigned i = 0; i < t->count; i++) {
        const struct dp_action *a = &t->actions[i];
        if (dp_is_block(a)) i += a->count; /* the one that is being written has the length 0 as yet */
        if (dp_is_block(a) || dp_is_seen(a)) continue;
        if (!execute_change(p, a)) return false;
        if (t->change_count == TRANSLATION_CHANGES) *keep = false;
        else t->changes[t->change_count++] = *a;
    }
    return true;
}

/* The packet as it is by now, parsed anew. */
static bool parse_anew(struct walk *w, struct translation_inner *in, bool *keep)
{
    struct packet_pool_mark mark = packet_pool_mark(w->r->pool);
    struct packet *p = packet_clone(w->r->pool, w->r->packet);
    in->change_at = (uint16_t)w->out->change_count;
    bool ok = p && change_so_far(w, p, keep) && extract_key(p, &in->key) != EXTRACT_INVALID;
    in->change_count = (uint16_t)(w->out->change_count - in->change_at);
    packet_pool_rewind(w->r->pool, mark);
    return ok;
}

/* What is looked at from here on is the packet's new key. A meter that remarks before that changes it, too: not to be kept. */
static void look_inside(struct walk *w)
{
    struct translation *t = w->out;
    if (walk_refuses(w)) return;
    if (!w->r->packet) {
        t->once = true;
        walk_trace(w, "what is inside is not known without a packet");
        return;
    }
    struct translation_inner last, *in = t->inner_count < TRANSLATION_INNER ? &t->inner[t->inner_count] : &last;
    bool keep = in != &last && !w->remarked;
    t->deps.modified = true;
    if (!parse_anew(w, in, &keep)) {
        t->once = w->stop = true; /* what was before has happened, as with any change that a packet does not allow */
        return;
    }
    memcpy(w->key.words + 1, in->key.words + 1, (FLOW_KEY_PACKET_WORDS - 1) * sizeof in->key.words[0]);
    t->once |= !keep;
    if (in == &last) return;
    t->inner_count++;
    memset(&in->mask, 0, sizeof in->mask);
    walk_look_at(w, &in->mask);
}

/* ---- fields ---- */

/* Says what the headers behind it are: with another value they are others. */
static bool is_a_shape(enum field_id id)
{
    return id == FIELD_ETH_TYPE || id == FIELD_IP_PROTO;
}

/* Written whole, as the bits of mask say. */
static void set_bits(struct walk *w, enum field_id id, struct field_value value, struct field_value mask)
{
    field_write(&w->key, seen(w), id, value, mask);
    if (is_a_shape(id)) {
        value = field_get(&w->key, id);
        mask = field_all_ones(id);
    }
    if (fields[id].bit_at >= FLOW_KEY_PACKET_WORDS * 64) return; /* not in the packet */
    w->out->deps.modified = true;
    struct dp_action *a = walk_emit(w, DP_SET);
    if (!a) return;
    a->field = (uint8_t)id;
    a->set.value = value;
    a->set.mask = mask;
    if (is_a_shape(id)) look_inside(w);
}

/* In the packet's key there is no difference between an option with address 0 and none. */
static bool lacks_option(struct walk *w, enum field_id id)
{
    if (id != FIELD_ND_SLL && id != FIELD_ND_TLL) return false;
    struct field_value v = field_get(&w->key, id), none = {{0}};
    field_set(seen(w), id, field_all_ones(id));
    return memcmp(&v, &none, sizeof v) == 0;
}

static bool is_tag(enum field_id id)
{
    return id == FIELD_VLAN_VID || id == FIELD_VLAN_TCI;
}

/* Can it be written? */
static bool is_there(struct walk *w, enum field_id id)
{
    return field_exists(is_tag(id) ? FIELD_VLAN_PCP : id, &w->key, seen(w)) && !lacks_option(w, id);
}

/* A tag's presence is a bit that is not to be written: only push and pop change it. */
static void spare_presence(enum field_id id, struct field_value *mask)
{
    if (is_tag(id)) mask->raw[FIELD_VALUE_BYTES - 2] &= (uint8_t) ~(FLOW_VLAN_PRESENT >> 8);
}

static void set_u64(struct walk *w, enum field_id id, uint64_t value)
{
    set_bits(w, id, field_value_of(value), field_all_ones(id));
}

static void set_field(struct walk *w, const struct action *a)
{
    enum field_id id = a->set.field;
    if (!is_there(w, id)) {
        walk_trace(w, "%s: the packet has none", fields[id].name);
        return;
    }
    struct field_value mask = a->set.mask, value = a->set.value;
    spare_presence(id, &mask);
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        value.raw[i] &= mask.raw[i];
    set_bits(w, id, value, mask);
}

static unsigned bit_get(const struct field_value *v, unsigned bit)
{
    return v->raw[FIELD_VALUE_BYTES - 1 - bit / 8] >> bit % 8 & 1u;
}

static void bit_set(struct field_value *v, unsigned bit)
{
    v->raw[FIELD_VALUE_BYTES - 1 - bit / 8] |= (uint8_t)(1u << bit % 8);
}

/* The source's bits were looked at, so that what they are is known: a set-field. */
static void move(struct walk *w, const struct action *a)
{
    enum field_id from = a->move.from, to = a->move.to;
    if (!field_exists(from, &w->key, seen(w)) || !is_there(w, to)) return;
    struct field_value source = field_get(&w->key, from), looked_at = {{0}}, value = {{0}}, mask = {{0}};
    for (unsigned i = 0; i < a->move.bits; i++) {
        bit_set(&looked_at, a->move.from_bit + i);
        bit_set(&mask, a->move.to_bit + i);
        if (bit_get(&source, a->move.from_bit + i)) bit_set(&value, a->move.to_bit + i);
    }
    field_set_masked(seen(w), from, looked_at, looked_at);
    spare_presence(to, &mask);
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        value.raw[i] &= mask.raw[i];
    set_bits(w, to, value, mask);
}

/* ---- tags ---- */

static void push_vlan(struct walk *w, uint16_t type)
{
    see_tags(w);
    struct dp_action *a = walk_emit(w, DP_PUSH_VLAN);
    if (!a) return;
    uint16_t tci = be16_get(w->key.vlan[0].tci) | FLOW_VLAN_PRESENT;
    w->buried |= (be16_get(w->key.vlan[1].tci) & FLOW_VLAN_PRESENT) != 0;
    a->eth_type = type;
    a->entry = tci;
    w->key.vlan[1] = w->key.vlan[0];
    w->key.vlan[0] = (struct flow_vlan){be16_make(type), be16_make(tci)};
}

/* One that the key has no room for. */
static bool may_have_third_tag(const struct walk *w)
{
    uint16_t type = be16_get(w->key.eth_type);
    return be16_get(w->key.vlan[1].tci) & FLOW_VLAN_PRESENT && (type == TYPE_VLAN || type == 0x88a8 || w->buried);
}

static void pop_vlan(struct walk *w)
{
    see_tags(w);
    struct dp_action *a = be16_get(w->key.vlan[0].tci) & FLOW_VLAN_PRESENT ? walk_emit(w, DP_POP_VLAN) : NULL;
    if (!a) return;
    if (may_have_third_tag(w)) {
        a->entry = 1;
        look_inside(w);
        if (w->r->packet) return;
    }
    w->key.vlan[0] = w->key.vlan[1];
    memset(&w->key.vlan[1], 0, sizeof w->key.vlan[1]);
}

static void push_mpls(struct walk *w, uint16_t type)
{
    bool labelled = is_mpls(&w->key);
    see_labels(w);
    uint32_t entry;
    if (labelled) {
        entry = be32_get(w->key.mpls[0]) & ~UINT32_C(0x100);
    } else {
        uint8_t ttl = 0; /* what there is no field for to be copied from is 0 (OpenFlow 1.3.5, section 5.12.1) */
        if (field_exists(FIELD_IP_TTL, &w->key, seen(w))) {
            seen(w)->nw_ttl = 0xff;
            ttl = w->key.nw_ttl;
        }
        entry = 0x100u | ttl;
    }
    struct dp_action *a = walk_emit(w, DP_PUSH_MPLS);
    if (!a) return;
    a->eth_type = type;
    a->entry = entry;
    if (labelled) {
        w->key.mpls[2] = w->key.mpls[1];
        w->key.mpls[1] = w->key.mpls[0];
    } else { /* what was there is not in sight any more */
        memset(&w->key.words[4], 0, (FLOW_KEY_PACKET_WORDS - 4) * sizeof w->key.words[0]);
    }
    w->key.mpls[0] = be32_make(entry);
    w->key.eth_type = be16_make(type);
}

static void pop_mpls(struct walk *w, uint16_t type)
{
    if (!field_exists(FIELD_MPLS_LABEL, &w->key, seen(w))) return;
    see_labels(w);
    struct dp_action *a = walk_emit(w, DP_POP_MPLS);
    if (!a) return;
    a->eth_type = type;
    look_inside(w);
}

static void push_pbb(struct walk *w, uint16_t type)
{
    see_tags(w);
    memset(&seen(w)->pbb_isid, 0xff, sizeof seen(w)->pbb_isid);
    struct dp_action *a = walk_emit(w, DP_PUSH_PBB);
    if (!a) return;
    uint32_t tci = be32_get(w->key.pbb_isid) & 0xffffff;
    tci |= (uint32_t)(be16_get(w->key.vlan[0].tci) & 0xe000) << 16; /* priority, of the tag it goes before */
    a->entry = tci;
    look_inside(w);
    (void)type; /* there is but one */
}

static void pop_pbb(struct walk *w)
{
    if (!field_exists(FIELD_PBB_ISID, &w->key, seen(w)) || !walk_emit(w, DP_POP_PBB)) return;
    look_inside(w);
}

/* ---- TTL ---- */

static void invalid_ttl(struct walk *w)
{
    walk_trace(w, "its TTL has run out");
    to_controller(w, REASON_INVALID_TTL, 128);
    w->stop = true;
}

static void dec_ttl(struct walk *w, enum field_id id)
{
    if (!field_exists(id, &w->key, seen(w))) return;
    uint64_t ttl = field_value_u64(field_get(&w->key, id));
    field_set(seen(w), id, field_all_ones(id));
    if (ttl <= 1) invalid_ttl(w);
    else set_u64(w, id, ttl - 1);
}

static void set_ttl(struct walk *w, enum field_id id, uint8_t ttl)
{
    if (field_exists(id, &w->key, seen(w))) set_u64(w, id, ttl);
}

static void copy_ttl(struct walk *w, enum dp_type type)
{
    if (!field_exists(FIELD_MPLS_TTL, &w->key, seen(w)) || !walk_emit(w, type)) return;
    see_labels(w);
    look_inside(w);
}

/* ---- one action ---- */

static void resubmit(struct walk *w, const struct action *a)
{
    if (w->depth == RESUBMIT_DEPTH || w->resubmits == RESUBMITS_MAX) {
        walk_trace(w, "resubmitted too often: drop");
        w->out->failed = w->stop = true;
        return;
    }
    struct be32 in_port = w->key.in_port;
    if (a->resubmit.port != SWITCH_PORT_IN_PORT) w->key.in_port = be32_make(a->resubmit.port);
    if (memcmp(&w->key.in_port, &w->r->key->in_port, sizeof in_port) != 0) w->out->deps.modified = true;
    w->depth++;
    w->resubmits++;
    walk_table(w, a->resubmit.table == SWITCH_TABLE_ALL ? w->table : a->resubmit.table);
    w->depth--;
    w->key.in_port = in_port;
}

void walk_action(struct walk *w, const struct action *a)
{
    switch ((enum action_type)a->type) {
    case ACTION_OUTPUT: output(w, a); break;
    case ACTION_SET_FIELD: set_field(w, a); break;
    case ACTION_MOVE: move(w, a); break;
    case ACTION_PUSH_VLAN: push_vlan(w, a->eth_type); break;
    case ACTION_POP_VLAN: pop_vlan(w); break;
    case ACTION_PUSH_MPLS: push_mpls(w, a->eth_type); break;
    case ACTION_POP_MPLS: pop_mpls(w, a->eth_type); break;
    case ACTION_PUSH_PBB: push_pbb(w, a->eth_type); break;
    case ACTION_POP_PBB: pop_pbb(w); break;
    case ACTION_DEC_NW_TTL: dec_ttl(w, FIELD_IP_TTL); break;
    case ACTION_SET_NW_TTL: set_ttl(w, FIELD_IP_TTL, a->ttl); break;
    case ACTION_DEC_MPLS_TTL: dec_ttl(w, FIELD_MPLS_TTL); break;
    case ACTION_SET_MPLS_TTL: set_ttl(w, FIELD_MPLS_TTL, a->ttl); break;
    case ACTION_COPY_TTL_OUT: copy_ttl(w, DP_COPY_TTL_OUT); break;
    case ACTION_COPY_TTL_IN: copy_ttl(w, DP_COPY_TTL_IN); break;
    case ACTION_RESUBMIT: resubmit(w, a); break;
    case ACTION_GROUP: walk_group(w, a->group); break;
    case ACTION_SET_QUEUE: /* kept, without effect */
    case ACTION_TYPES: break;
    }
}

void walk_actions(struct walk *w, const struct action_list *l)
{
    for (unsigned i = 0; i < l->count && !w->stop; i++)
        walk_action(w, &l->list[i]);
}

void walk_set(struct walk *w, const struct action_list *set)
{
    bool group = false;
    for (unsigned i = 0; i < set->count; i++)
        group |= set->list[i].type == ACTION_GROUP;
    for (unsigned i = 0; i < set->count && !w->stop; i++)
        if (!group || set->list[i].type != ACTION_OUTPUT) walk_action(w, &set->list[i]);
}
