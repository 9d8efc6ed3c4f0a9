/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/naive.h"

#include "switch/extract.h"
#include "switch/group_internal.h"
#include "switch/meter_internal.h"

#include <assert.h>
#include <stdlib.h>

#define DEPTH 64u       /* of resubmits: as in translate.h */
#define RESUBMITS 4096u /* in all */
#define BURIED 32u      /* tags */
#define ROOM 60u        /* bytes that are inserted: the switch has a little more */

struct set { /* an action set */
    const struct action *last[ACTION_TYPES];
    const struct action *field[FIELD_COUNT];
};

struct run {
    const struct naive *n;
    struct naive_result *out;
    struct flow_key key;
    struct naive_frame frame;        /* of length 0: there is none */
    bool behind;                     /* fields of IP and behind it are right in the key only */
    struct flow_vlan buried[BURIED]; /* tags below those that the key has room for, the outermost last */
    unsigned buried_count;
    struct set set;
    unsigned depth, resubmits;
    bool stop, failed;
};

static bool same_match(const struct flow_match *a, const struct flow_match *b)
{
    return memcmp(&a->mask, &b->mask, sizeof a->mask) == 0 && memcmp(&a->key, &b->key, sizeof a->key) == 0;
}

static void remove_at(struct naive *n, unsigned i)
{
    instructions_clear(&n->flows[i].instructions);
    memmove(&n->flows[i], &n->flows[i + 1], (n->count - i - 1) * sizeof n->flows[0]);
    n->count--;
}

static bool is_meant(const struct flow_spec *have, const struct flow_spec *f, bool strict)
{
    if (f->table != SWITCH_TABLE_ALL && have->table != f->table) return false;
    if (strict) return have->priority == f->priority && same_match(&have->match, &f->match);
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++) {
        uint64_t m = f->match.mask.words[i];
        if ((have->match.mask.words[i] & m) != m || (have->match.key.words[i] & m) != f->match.key.words[i])
            return false;
    }
    return true;
}

bool naive_add(struct naive *n, const struct flow_spec *f)
{
    naive_delete(n, f, true);
    if (n->count == NAIVE_FLOWS) return false;
    n->flows[n->count] = *f;
    bool copied = instructions_copy(&n->flows[n->count++].instructions, &f->instructions);
    assert(copied);
    return true;
}

unsigned naive_delete(struct naive *n, const struct flow_spec *f, bool strict)
{
    unsigned removed = 0;
    for (unsigned i = n->count; i > 0; i--) {
        if (!is_meant(&n->flows[i - 1], f, strict)) continue;
        remove_at(n, i - 1);
        removed++;
    }
    return removed;
}

unsigned naive_modify(struct naive *n, const struct flow_spec *f, bool strict)
{
    unsigned changed = 0;
    for (unsigned i = 0; i < n->count; i++) {
        if (!is_meant(&n->flows[i], f, strict)) continue;
        instructions_clear(&n->flows[i].instructions);
        bool copied = instructions_copy(&n->flows[i].instructions, &f->instructions);
        assert(copied);
        changed++;
    }
    return changed;
}

void naive_meter_delete(struct naive *n, uint32_t id)
{
    for (unsigned i = n->count; i > 0; i--)
        if (n->flows[i - 1].instructions.meter == id) remove_at(n, i - 1);
}

/* ---- groups ---- */

bool naive_knows_groups(const struct naive *n, const struct action_list *l)
{
    for (unsigned i = 0; i < l->count; i++) {
        if (l->list[i].type != ACTION_GROUP) continue;
        if (l->list[i].group >= NAIVE_GROUPS || !n->has_group[l->list[i].group]) return false;
    }
    return true;
}

void naive_group_set(struct naive *n, const struct group_spec *g)
{
    if (n->has_group[g->id]) group_spec_clear(&n->groups[g->id]);
    n->has_group[g->id] = true;
    bool copied = group_spec_copy(&n->groups[g->id], g);
    assert(copied);
}

static bool sends_to(const struct action_list *l, uint32_t id)
{
    for (unsigned i = 0; i < l->count; i++)
        if (l->list[i].type == ACTION_GROUP && l->list[i].group == id) return true;
    return false;
}

bool naive_group_delete(struct naive *n, uint32_t id)
{
    for (unsigned i = 0; i < NAIVE_GROUPS; i++)
        for (unsigned j = 0; n->has_group[i] && j < n->groups[i].count; j++)
            if (n->groups[i].buckets[j].watch_group == id || sends_to(&n->groups[i].buckets[j].actions, id))
                return false;
    for (unsigned i = n->count; i > 0; i--) {
        const struct instructions *in = &n->flows[i - 1].instructions;
        if (sends_to(&in->apply, id) || sends_to(&in->write, id)) remove_at(n, i - 1);
    }
    if (n->has_group[id]) group_spec_clear(&n->groups[id]);
    n->has_group[id] = false;
    return true;
}

void naive_clear(struct naive *n)
{
    for (uint32_t id = NAIVE_GROUPS; id > 0; id--)
        if (n->has_group[id - 1]) group_spec_clear(&n->groups[id - 1]);
    memset(n->has_group, 0, sizeof n->has_group);
    while (n->count)
        remove_at(n, n->count - 1);
}

/* ---- a packet ---- */

uint64_t naive_sum(const uint8_t *bytes, unsigned length)
{
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (unsigned i = 0; i < length; i++)
        sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    return sum | 1;
}

static void table(struct run *r, uint8_t number);
static void group(struct run *r, uint32_t id);

static void emit(struct run *r, uint32_t port)
{
    if (port > 31 || !(r->n->ports >> port & 1)) return;
    assert(r->out->count < NAIVE_OUTPUTS);
    r->out->unsure |= r->frame.inserted > ROOM;
    r->out->out[r->out->count].port = port;
    r->out->out[r->out->count].sum = r->behind ? 0 : naive_sum(r->frame.bytes, r->frame.length);
    r->out->out[r->out->count++].key = r->key;
}

static void output(struct run *r, uint32_t port)
{
    uint32_t in = be32_get(r->key.in_port);
    if (port == SWITCH_PORT_IN_PORT) {
        emit(r, in);
    } else if (port == SWITCH_PORT_ALL || port == SWITCH_PORT_FLOOD) {
        for (uint32_t p = 1; p < 32; p++)
            if (p != in) emit(r, p);
    } else if (port != in) {
        emit(r, port);
    }
}

static bool is_behind_tags(enum field_id id)
{
    return id == FIELD_ETH_TYPE || (fields[id].bit_at >= 4 * 64 && fields[id].bit_at < FLOW_KEY_PACKET_WORDS * 64);
}

static bool is_mpls(const struct flow_key *k)
{
    return field_exists(FIELD_MPLS_LABEL, k, NULL);
}

/* What the frame's bytes say. */
static void parse(struct run *r)
{
    struct flow_key k;
    struct packet p = {.head = r->frame.bytes, .length_bytes = r->frame.length};
    p.head_bytes = (uint16_t)(r->frame.length < PACKET_HEAD_BYTES ? r->frame.length : PACKET_HEAD_BYTES);
    if (extract_key(&p, &k) == EXTRACT_INVALID) r->out->unsure = true;
    else memcpy(r->key.words + 1, k.words + 1, (FLOW_KEY_PACKET_WORDS - 1) * sizeof k.words[0]);
    r->buried_count = 0;
    r->frame.type_at = 12;
    for (unsigned i = 0; i < FLOW_VLANS; i++)
        if (be16_get(r->key.vlan[i].tci) & FLOW_VLAN_PRESENT) r->frame.type_at += 4;
}

/* A header that is not there leaves its part of the key zero. */
static bool is_odd(const struct flow_key *k)
{
    unsigned type = be16_get(k->eth_type);
    bool later = k->nw_frag & FLOW_FRAG_LATER, ports = k->nw_proto == 6 || k->nw_proto == 17 || k->nw_proto == 132;
    if (type == 0x0800 && k->words[6] == 0) return true;
    if (type == 0x86dd && (k->words[9] | k->words[11]) == 0) return true;
    if (type == 0x86dd && be16_get(k->ipv6_exthdr)) return true;
    if (type == 0x0806 && be16_get(k->arp_op) == 0) return true;
    return (type == 0x0800 || type == 0x86dd) && ports && !later && be16_get(k->tp_src) == 0;
}

/* After something was taken off: what was written behind it is not in the bytes. */
static void look_inside(struct run *r)
{
    r->out->unsure |= r->behind || r->frame.length == 0;
    parse(r);
    r->out->odd |= is_odd(&r->key);
}

/* What a field of the key says, into the bytes. */
static void write_back(struct run *r, enum field_id id)
{
    struct naive_frame *f = &r->frame;
    unsigned type_at = f->type_at;
    if (f->length < 14 || fields[id].bit_at >= FLOW_KEY_PACKET_WORDS * 64) return;
    if (id == FIELD_ETH_DST) {
        memcpy(f->bytes, r->key.eth_dst, 6);
    } else if (id == FIELD_ETH_SRC) {
        memcpy(f->bytes + 6, r->key.eth_src, 6);
    } else if (id == FIELD_VLAN_VID || id == FIELD_VLAN_PCP || id == FIELD_VLAN_TCI) {
        bool dei = f->bytes[14] & 0x10;
        naive_put(f, 14, (be16_get(r->key.vlan[0].tci) & 0xefffu) | (dei ? 0x1000u : 0), 2);
    } else if (id == FIELD_ETH_TYPE) {
        r->out->unsure |= r->buried_count > 0;
        naive_put(f, type_at, be16_get(r->key.eth_type), 2);
        r->behind = true; /* in a set, fields that are none any more may have been set before, or not */
    } else if (id == FIELD_MPLS_LABEL || id == FIELD_MPLS_TC || id == FIELD_MPLS_BOS || id == FIELD_MPLS_TTL) {
        if (naive_label_at(f)) naive_put(f, type_at + 2, be32_get(r->key.mpls[0]), 4);
    } else if (id == FIELD_PBB_ISID) {
        if (type_at + 6 <= f->length) naive_put(f, type_at + 3, be32_get(r->key.pbb_isid), 3);
    } else {
        r->behind = true;
    }
    r->out->shimmed |= is_mpls(&r->key) || id == FIELD_PBB_ISID;
}

static void set(struct run *r, const struct action *a)
{
    struct field_value mask = a->set.mask;
    enum field_id id = a->set.field;
    if (!field_exists(id, &r->key, NULL)) return;
    if (id == FIELD_VLAN_VID || id == FIELD_VLAN_TCI) {
        if (!(be16_get(r->key.vlan[0].tci) & FLOW_VLAN_PRESENT)) return;
        mask.raw[14] &= 0xef;
    }
    r->out->edited |= is_behind_tags(id);
    field_set_masked(&r->key, id, a->set.value, mask);
    write_back(r, id);
    if (id == FIELD_ETH_TYPE) memset(&r->key.words[4], 0, 13 * 8); /* to what has nothing that is looked at in it */
    if (id == FIELD_IP_PROTO) r->key.words[8] = r->key.words[13] = r->key.words[14] = 0;
    if (id == FIELD_IP_PROTO) r->key.words[15] = r->key.words[16] = 0;
    if ((id == FIELD_ETH_TYPE || id == FIELD_IP_PROTO) && r->out->deep) r->out->unsure = true;
}

static void move(struct run *r, const struct action *a)
{
    enum field_id id = a->move.to;
    bool tag = id == FIELD_VLAN_VID || id == FIELD_VLAN_TCI;
    if (!field_exists(a->move.from, &r->key, NULL) || !field_exists(id, &r->key, NULL)) return;
    if (tag && !(be16_get(r->key.vlan[0].tci) & FLOW_VLAN_PRESENT)) return;
    struct field_value from = field_get(&r->key, a->move.from), to = field_get(&r->key, a->move.to);
    for (unsigned i = 0; i < a->move.bits; i++) {
        unsigned f = a->move.from_bit + i, t = a->move.to_bit + i;
        unsigned bit = from.raw[15 - f / 8] >> f % 8 & 1;
        to.raw[15 - t / 8] = (uint8_t)((to.raw[15 - t / 8] & ~(1u << t % 8)) | bit << t % 8);
    }
    if (tag) to.raw[14] |= 0x10;
    r->out->edited |= is_behind_tags(id);
    field_set(&r->key, id, to);
    write_back(r, id);
}

static void dec_ttl(struct run *r)
{
    if (!field_exists(FIELD_IP_TTL, &r->key, NULL)) return;
    if (r->key.nw_ttl <= 1) r->stop = true;
    else r->key.nw_ttl--;
    r->behind = r->out->edited = true;
}

static void set_mpls_ttl(struct run *r, unsigned ttl)
{
    r->key.mpls[0].raw[3] = (uint8_t)ttl;
    r->out->edited = true;
    write_back(r, FIELD_MPLS_TTL);
}

static void dec_mpls_ttl(struct run *r)
{
    unsigned ttl = r->key.mpls[0].raw[3];
    if (!is_mpls(&r->key)) return;
    if (ttl <= 1) r->stop = true;
    else set_mpls_ttl(r, ttl - 1);
}

static void set_ttl(struct run *r, uint8_t ttl)
{
    if (!field_exists(FIELD_IP_TTL, &r->key, NULL)) return;
    r->key.nw_ttl = ttl;
    r->behind = r->out->edited = true;
}

static void copy_ttl(struct run *r, bool out)
{
    if (!is_mpls(&r->key)) return;
    r->out->shimmed = r->out->edited = true;
    if (!naive_copy_ttl(&r->frame, out)) r->stop = true;
    look_inside(r);
    r->behind |= !out; /* a sum changes with it */
}

static void push_mpls(struct run *r, unsigned type)
{
    uint32_t entry = be32_get(r->key.mpls[0]) & ~0x100u;
    if (!is_mpls(&r->key)) entry = 0x100u | (field_exists(FIELD_IP_TTL, &r->key, NULL) ? r->key.nw_ttl : 0);
    r->out->shimmed = true;
    r->out->unsure |= r->buried_count > 0 || !naive_push_mpls(&r->frame, type, entry);
    parse(r);
}

static void pop_mpls(struct run *r, unsigned type)
{
    if (!is_mpls(&r->key)) return;
    r->out->shimmed = true;
    if (!naive_pop_mpls(&r->frame, type)) r->stop = true;
    look_inside(r);
}

static void push_pbb(struct run *r)
{
    uint32_t tci = be32_get(r->key.pbb_isid) & 0xffffff;
    tci |= (uint32_t)(be16_get(r->key.vlan[0].tci) & 0xe000) << 16;
    r->out->shimmed = true;
    r->out->unsure |= !naive_push_pbb(&r->frame, tci);
    parse(r);
}

static void pop_pbb(struct run *r)
{
    if (!field_exists(FIELD_PBB_ISID, &r->key, NULL)) return;
    r->out->shimmed = true;
    if (!naive_pop_pbb(&r->frame)) r->stop = true;
    look_inside(r);
}

static void push_vlan(struct run *r, uint16_t type)
{
    (void)naive_push_vlan(&r->frame, type, be16_get(r->key.vlan[0].tci));
    if (be16_get(r->key.vlan[1].tci) & FLOW_VLAN_PRESENT) {
        r->out->deep = true;
        if (r->buried_count < BURIED) r->buried[r->buried_count++] = r->key.vlan[1];
        else r->out->unsure = true;
    }
    r->key.vlan[1] = r->key.vlan[0];
    r->key.vlan[0].tpid = be16_make(type);
    r->key.vlan[0].tci = be16_make(be16_get(r->key.vlan[0].tci) | FLOW_VLAN_PRESENT);
}

static void pop_vlan(struct run *r)
{
    bool more = be16_get(r->key.vlan[1].tci) & FLOW_VLAN_PRESENT, popped = naive_pop_vlan(&r->frame);
    if (popped && more && naive_is_vlan(be16_get(r->key.eth_type))) { /* a third comes to light */
        look_inside(r);
        return;
    }
    r->key.vlan[0] = r->key.vlan[1];
    memset(&r->key.vlan[1], 0, sizeof r->key.vlan[1]);
    if (r->buried_count == 0) return;
    r->key.vlan[1] = r->buried[--r->buried_count];
    if (r->buried_count > 0) r->out->unsure = true; /* what is below them is out of sight by now */
}

static void resubmit(struct run *r, const struct action *a, uint8_t here)
{
    if (r->depth == DEPTH || r->resubmits == RESUBMITS) {
        r->stop = r->failed = true;
        return;
    }
    struct be32 in = r->key.in_port;
    if (a->resubmit.port != SWITCH_PORT_IN_PORT) r->key.in_port = be32_make(a->resubmit.port);
    r->depth++;
    r->resubmits++;
    table(r, a->resubmit.table == SWITCH_TABLE_ALL ? here : a->resubmit.table);
    r->depth--;
    r->key.in_port = in;
}

static void one(struct run *r, const struct action *a, uint8_t here)
{
    switch (a->type) {
    case ACTION_OUTPUT: output(r, a->output.port); break;
    case ACTION_SET_FIELD: set(r, a); break;
    case ACTION_MOVE: move(r, a); break;
    case ACTION_PUSH_VLAN: push_vlan(r, a->eth_type); break;
    case ACTION_POP_VLAN: pop_vlan(r); break;
    case ACTION_PUSH_MPLS: push_mpls(r, a->eth_type); break;
    case ACTION_POP_MPLS: pop_mpls(r, a->eth_type); break;
    case ACTION_PUSH_PBB: push_pbb(r); break;
    case ACTION_POP_PBB: pop_pbb(r); break;
    case ACTION_DEC_NW_TTL: dec_ttl(r); break;
    case ACTION_SET_NW_TTL: set_ttl(r, a->ttl); break;
    case ACTION_DEC_MPLS_TTL: dec_mpls_ttl(r); break;
    case ACTION_SET_MPLS_TTL:
        if (is_mpls(&r->key)) set_mpls_ttl(r, a->ttl);
        break;
    case ACTION_COPY_TTL_OUT: copy_ttl(r, true); break;
    case ACTION_COPY_TTL_IN: copy_ttl(r, false); break;
    case ACTION_RESUBMIT: resubmit(r, a, here); break;
    case ACTION_GROUP: group(r, a->group); break;
    default: break;
    }
}

/* ---- sets and groups ---- */

static void write_set(struct set *s, const struct action_list *l)
{
    for (unsigned i = 0; i < l->count; i++) {
        const struct action *w = &l->list[i];
        if (w->type == ACTION_SET_FIELD) s->field[w->set.field] = w;
        else s->last[w->type] = w;
    }
}

static void last(struct run *r, const struct set *s, enum action_type type)
{
    if (s->last[type] && !r->stop) one(r, s->last[type], 0);
}

static void run_set(struct run *r, const struct set *s)
{
    static const uint8_t before[] = {ACTION_COPY_TTL_IN,  ACTION_POP_VLAN,  ACTION_POP_MPLS,  ACTION_POP_PBB,
                                     ACTION_PUSH_MPLS,    ACTION_PUSH_PBB,  ACTION_PUSH_VLAN, ACTION_COPY_TTL_OUT,
                                     ACTION_DEC_MPLS_TTL, ACTION_DEC_NW_TTL};
    for (unsigned i = 0; i < sizeof before; i++)
        last(r, s, before[i]);
    for (unsigned i = 0; i < FIELD_COUNT && !r->stop; i++)
        if (s->field[i]) one(r, s->field[i], 0);
    last(r, s, ACTION_GROUP);
    if (!s->last[ACTION_GROUP]) last(r, s, ACTION_OUTPUT);
}

static bool is_alive(void *arg, const struct group_bucket *k)
{
    const struct naive *n = arg;
    uint32_t up = n->ports & ~n->down;
    if (k->watch_port == SWITCH_PORT_ANY && k->watch_group == SWITCH_GROUP_ANY) return true;
    if (k->watch_port < 32 && (up >> k->watch_port & 1)) return true;
    if (k->watch_group >= NAIVE_GROUPS || !n->has_group[k->watch_group]) return false;
    const struct group_spec *g = &n->groups[k->watch_group];
    for (unsigned i = 0; i < g->count; i++)
        if (is_alive(arg, &g->buckets[i])) return true;
    return false;
}

/* The packet's own hash, or what it was for another one at this point. */
static int choose(struct run *r, const struct group_spec *g)
{
    struct flow_key unused = {0};
    const struct naive_result *as = r->n->chosen;
    unsigned at = r->out->choices++;
    uint64_t hash = group_hash(g->id, &r->key, &unused);
    if (as && at < as->choices && at < NAIVE_CHOICES) hash = as->hashes[at];
    if (at < NAIVE_CHOICES) r->out->hashes[at] = hash;
    return group_choose(g, hash, is_alive, (void *)(uintptr_t)r->n);
}

static void bucket(struct run *r, const struct group_spec *g, unsigned i)
{
    const struct group_bucket *k = &g->buckets[i];
    struct run before = *r;
    if (i < NAIVE_BUCKETS) r->out->buckets[g->id][i]++;
    struct set s = {{0}, {0}};
    write_set(&s, &k->actions);
    run_set(r, &s);
    r->key = before.key;
    r->frame = before.frame;
    r->behind = before.behind;
    r->buried_count = before.buried_count;
    memcpy(r->buried, before.buried, sizeof r->buried);
    r->stop = r->failed;
}

static void group(struct run *r, uint32_t id)
{
    if (id >= NAIVE_GROUPS || !r->n->has_group[id]) return;
    const struct group_spec *g = &r->n->groups[id];
    r->out->groups[id]++;
    void *arg = (void *)(uintptr_t)r->n;
    int chosen = g->type == GROUP_SELECT ? choose(r, g) : -1;
    for (unsigned i = 0; i < g->count; i++) {
        if (g->type == GROUP_SELECT && (int)i != chosen) continue;
        if (g->type == GROUP_FAST_FAILOVER && !is_alive(arg, &g->buckets[i])) continue;
        bucket(r, g, i);
        if (g->type == GROUP_FAST_FAILOVER) break;
    }
}

static const struct flow_spec *best_of(const struct naive *n, uint8_t number, const struct flow_key *k)
{
    const struct flow_spec *best = NULL;
    for (unsigned i = 0; i < n->count; i++) {
        const struct flow_spec *f = &n->flows[i];
        if (f->table != number || !flow_match_hits(&f->match, k)) continue;
        if (!best || f->priority > best->priority) best = f;
    }
    return best;
}

static void meter(struct run *r, uint32_t id)
{
    unsigned type = be16_get(r->key.eth_type);
    if (id == NAIVE_METER_DROPS) r->stop = true;
    if (id != NAIVE_METER_RAISES || (type != 0x0800 && type != 0x86dd)) return;
    r->key.nw_tos = meter_raise(r->key.nw_tos, 1);
    r->behind = r->out->raised = true;
}

static void table(struct run *r, uint8_t number)
{
    for (;;) {
        const struct flow_spec *f = best_of(r->n, number, &r->key);
        if (number < NAIVE_TABLES) r->out->tables |= 1u << number;
        if (!f) return;
        r->out->hit[f - r->n->flows] = true;
        const struct instructions *i = &f->instructions;
        meter(r, i->meter);
        if (r->stop) return;
        for (unsigned a = 0; i->has_apply && a < i->apply.count && !r->stop; a++)
            one(r, &i->apply.list[a], number);
        if (i->clear) memset(&r->set, 0, sizeof r->set);
        if (i->has_write) write_set(&r->set, &i->write);
        if (i->has_metadata) {
            uint64_t old = be64_get(r->key.metadata);
            r->key.metadata = be64_make((old & ~i->metadata_mask) | (i->metadata & i->metadata_mask));
        }
        if (r->stop || !i->has_goto) return;
        number = i->goto_table;
    }
}

void naive_run(const struct naive *n, const struct flow_key *k, const struct naive_frame *frame,
               struct naive_result *out)
{
    struct run r = {.n = n, .out = out, .key = *k};
    if (frame) r.frame = *frame;
    out->count = 0;
    memset(out->hit, 0, sizeof out->hit);
    memset(out->groups, 0, sizeof out->groups);
    memset(out->buckets, 0, sizeof out->buckets);
    out->tables = out->choices = 0;
    out->deep = out->unsure = out->raised = out->edited = out->shimmed = out->odd = false;
    if (frame) parse(&r);
    table(&r, 0);
    struct set set = r.set;
    run_set(&r, &set);
    if (r.failed) out->count = 0;
}
