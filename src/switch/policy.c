/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "switch/flow_text.h"

enum { TYPE_IPV4 = 0x0800, TYPE_ARP = 0x0806, TYPE_IPV6 = 0x86dd };
enum { PROTO_FRAGMENT = 44, PROTO_ICMPV6 = 58 };
enum { ND_FIRST = 133, ND_LAST = 136 }; /* redirects are not needed */

#define ROW_WORDS 10u

/* A match's words that have a mask. */
struct row {
    uint8_t count;
    bool allow;
    uint8_t at[ROW_WORDS];
    uint64_t key[ROW_WORDS], mask[ROW_WORDS];
};

struct policy {
    unsigned count[2], room[2];
    struct row *rows[2];
};

/* ---- asking ---- */

/* Does the packet meet it? What was looked at: all of it, or a byte that shows that it does not. */
static bool is_met(const struct row *r, const struct flow_key *k, struct flow_key *used)
{
    unsigned differs_in = 0;
    uint64_t differs = 0;
    for (unsigned i = 0; i < r->count; i++) {
        uint64_t d = (k->words[r->at[i]] & r->mask[i]) ^ r->key[i];
        if (d & used->words[r->at[i]]) return false;
        if (!d || differs) continue;
        differs_in = r->at[i];
        differs = r->mask[i] & (0xffull << (__builtin_ctzll(d) & ~7));
    }
    if (differs) {
        used->words[differs_in] |= differs;
        return false;
    }
    for (unsigned i = 0; i < r->count; i++)
        used->words[r->at[i]] |= r->mask[i];
    return true;
}

bool policy_allows(const struct policy *p, enum policy_direction d, const struct flow_key *k, struct flow_key *used)
{
    if (!p || !p->count[d]) return true;
    used->eth_type = be16_make(UINT16_MAX); /* translation looks at it anyhow */
    for (unsigned i = 0; i < p->count[d]; i++)
        if (is_met(&p->rows[d][i], k, used)) return p->rows[d][i].allow;
    return true;
}

/* ---- matches ---- */

static struct flow_match with_masked(struct flow_match m, enum field_id id, struct field_value v,
                                     struct field_value mask)
{
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        v.raw[i] &= mask.raw[i];
    field_set_masked(&m.key, id, v, mask);
    field_set_masked(&m.mask, id, mask, mask);
    return m;
}

static struct flow_match with(struct flow_match m, enum field_id id, uint64_t n)
{
    return with_masked(m, id, field_value_of(n), field_all_ones(id));
}

static struct flow_match of_type(uint16_t type)
{
    return with((struct flow_match){0}, FIELD_ETH_TYPE, type);
}

static struct flow_match with_range(struct flow_match m, enum field_id id, const struct guard_prefix *p)
{
    struct field_value mask = {0}, v = {0};
    for (unsigned i = 0, at = p->ipv6 ? 0 : 96; i < p->length; i++, at++)
        mask.raw[at / 8] |= (uint8_t)(0x80 >> at % 8);
    memcpy(v.raw + (p->ipv6 ? 0 : 12), p->address, p->ipv6 ? 16 : 4);
    return p->length ? with_masked(m, id, v, mask) : m;
}

/* ---- rows ---- */

static int add(struct policy *p, enum policy_direction d, bool allow, const struct flow_match *m)
{
    struct row r = {.allow = allow};
    if (p->count[d] == p->room[d]) {
        unsigned room = p->room[d] ? 2 * p->room[d] : 32;
        struct row *rows = realloc(p->rows[d], room * sizeof *rows);
        if (!rows) return -ENOMEM;
        p->rows[d] = rows;
        p->room[d] = room;
    }
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++) {
        if (!m->mask.words[i]) continue;
        assert(r.count < ROW_WORDS);
        r.at[r.count] = (uint8_t)i;
        r.key[r.count] = m->key.words[i];
        r.mask[r.count++] = m->mask.words[i];
    }
    p->rows[d][p->count[d]++] = r;
    return 0;
}

/* First fragments that end before their L4 header does (RFC 1858; RFC 7112: of IPv6, with another header in between, UDP's, too).
 * Ports do not count as seen then (they are 0), but whoever puts the packet together has them. */
static int add_tiny_fragments(struct policy *p, enum policy_direction d)
{
    static const struct {
        uint8_t proto;
        enum field_id source, port;
    } cut[] = {
        {6, FIELD_TCP_SRC, FIELD_TCP_DST}, {17, FIELD_UDP_SRC, FIELD_UDP_DST}, {132, FIELD_SCTP_SRC, FIELD_SCTP_DST}};
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < 2 * ARRAY_LEN(cut); i++) {
        struct flow_match m = with(of_type(i % 2 ? TYPE_IPV6 : TYPE_IPV4), FIELD_IP_PROTO, cut[i / 2].proto);
        m = with(with(m, cut[i / 2].source, 0), cut[i / 2].port, 0);
        m = with(m, FIELD_IP_FRAG, FLOW_FRAG_ANY);
        ret = add(p, d, false, &m);
    }
    return ret;
}

/* What cannot be looked into: as in guard.c, stages type and hidden. */
static int add_hidden(struct policy *p, enum policy_direction d)
{
    static const uint16_t wrappers[] = {0x8100, 0x88a8, 0x9100, 0x88e7, 0x8847, 0x8848};
    static const uint8_t chains[] = {0, 43, 51, 60};
    struct field_value later = field_value_of(FLOW_FRAG_LATER);
    struct flow_match m;
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(wrappers); i++) {
        m = of_type(wrappers[i]);
        ret = add(p, d, false, &m);
    }
    for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(chains); i++) {
        m = with(of_type(TYPE_IPV6), FIELD_IP_PROTO, chains[i]);
        ret = add(p, d, false, &m);
    }
    m = with(of_type(TYPE_IPV6), FIELD_IP_PROTO, PROTO_FRAGMENT);
    m = with_masked(m, FIELD_IP_FRAG, field_value_of(0), later);
    if (ret == 0) ret = add(p, d, false, &m);
    m = with(of_type(TYPE_ARP), FIELD_ARP_OP, 0); /* it was not read; some hosts do */
    if (ret == 0) ret = add(p, d, false, &m);
    return ret < 0 ? ret : add_tiny_fragments(p, d);
}

/* Behind the rules: beside an allow-list addresses can be found; the rest is dropped. */
static int add_rest(struct policy *p, enum policy_direction d)
{
    struct flow_match m = of_type(TYPE_ARP), nothing = {0};
    int ret = add(p, d, true, &m);
    for (unsigned type = ND_FIRST; ret == 0 && type <= ND_LAST; type++) {
        m = with(with(of_type(TYPE_IPV6), FIELD_IP_PROTO, PROTO_ICMPV6), FIELD_ICMPV6_TYPE, type);
        m = with(m, FIELD_IP_FRAG, 0);
        ret = add(p, d, true, &m);
    }
    return ret < 0 ? ret : add(p, d, false, &nothing);
}

static const struct {
    uint8_t ipv4, ipv6;
    enum field_id source, port; /* of ports */
    bool has_ports;
} protocols[POLICY_PROTOCOLS] = {
    [POLICY_TCP] = {6, 6, FIELD_TCP_SRC, FIELD_TCP_DST, true},
    [POLICY_UDP] = {17, 17, FIELD_UDP_SRC, FIELD_UDP_DST, true},
    [POLICY_SCTP] = {132, 132, FIELD_SCTP_SRC, FIELD_SCTP_DST, true},
    [POLICY_ICMP] = {.ipv4 = 1, .ipv6 = PROTO_ICMPV6},
};

static int add_family(struct policy *p, enum policy_direction d, const struct policy_rule *r, bool ipv6)
{
    struct flow_match m = of_type(ipv6 ? TYPE_IPV6 : TYPE_IPV4), later;
    uint8_t proto = ipv6 ? protocols[r->protocol].ipv6 : protocols[r->protocol].ipv4;
    struct field_value bit = field_value_of(FLOW_FRAG_LATER);
    bool ports = r->has_port || r->has_source_port;
    if (proto) m = with(m, FIELD_IP_PROTO, proto);
    if (r->has_range && d == POLICY_OUT) m = with_range(m, ipv6 ? FIELD_IPV6_DST : FIELD_IPV4_DST, &r->range);
    else if (r->has_range) m = with_range(m, ipv6 ? FIELD_IPV6_SRC : FIELD_IPV4_SRC, &r->range);
    later = with_masked(m, FIELD_IP_FRAG, bit, bit);
    if (ipv6 && proto) later = with(later, FIELD_IP_PROTO, PROTO_FRAGMENT); /* that is what it is known by */
    if (ports) m = with_masked(m, FIELD_IP_FRAG, field_value_of(0), bit);
    if (r->has_port) m = with(m, protocols[r->protocol].port, r->port);
    if (r->has_source_port) m = with(m, protocols[r->protocol].source, r->source_port);
    int ret = add(p, d, r->allow, &m);
    bool others = ports || (ipv6 && proto); /* m has none of them */
    return ret < 0 || !others || !r->allow ? ret : add(p, d, true, &later);
}

static int add_rule(struct policy *p, enum policy_direction d, const struct policy_rule *r)
{
    struct flow_match m = {0};
    int ret = 0;
    if (r->protocol == POLICY_ANY && !r->has_range) return add(p, d, r->allow, &m);
    if (r->protocol == POLICY_ARP || r->protocol == POLICY_ANY) {
        m = of_type(TYPE_ARP);
        if (r->has_range) m = with_range(m, d == POLICY_OUT ? FIELD_ARP_TPA : FIELD_ARP_SPA, &r->range);
        if (!r->has_range || !r->range.ipv6) ret = add(p, d, r->allow, &m);
    }
    if (r->protocol == POLICY_ARP) return ret;
    if (ret == 0 && !(r->has_range && r->range.ipv6)) ret = add_family(p, d, r, false);
    if (ret == 0 && !(r->has_range && !r->range.ipv6)) ret = add_family(p, d, r, true);
    return ret;
}

/* ---- making ---- */

static int check(const struct policy_rule *r, struct errmsg *e)
{
    if (r->protocol >= POLICY_PROTOCOLS || (!r->in && !r->out))
        return errmsg_set(e, EINVAL, "no such protocol or direction");
    if ((r->has_port || r->has_source_port) && !protocols[r->protocol].has_ports)
        return errmsg_set(e, EINVAL, "ports are those of tcp, udp and sctp");
    if (r->protocol == POLICY_ARP && r->has_range && r->range.ipv6)
        return errmsg_set(e, EINVAL, "arp is about IPv4 addresses");
    if (r->has_range && r->range.length > (r->range.ipv6 ? 128 : 32)) return errmsg_set(e, EINVAL, "too long a prefix");
    return 0;
}

struct ordered {
    const struct policy_rule *rule;
    unsigned index;
};

static int compare(const void *a, const void *b)
{
    const struct ordered *x = a, *y = b;
    if (x->rule->priority != y->rule->priority) return x->rule->priority > y->rule->priority ? -1 : 1;
    if (x->rule->allow != y->rule->allow) return x->rule->allow ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int compile(struct policy *p, const struct ordered *list, unsigned count, enum policy_direction d)
{
    bool any = false, allows = false;
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < count; i++) {
        const struct policy_rule *r = list[i].rule;
        if (d == POLICY_OUT ? !r->out : !r->in) continue;
        if (!any) ret = add_hidden(p, d);
        any = true;
        allows = allows || r->allow;
        if (ret == 0) ret = add_rule(p, d, r);
    }
    return ret < 0 || !allows ? ret : add_rest(p, d);
}

int policy_new(struct policy **out, const struct policy_rule *rules, unsigned count, struct errmsg *e)
{
    if (count > POLICY_RULES_MAX) return errmsg_set(e, ENOSPC, "more than %u rules of a policy", POLICY_RULES_MAX);
    for (unsigned i = 0; i < count; i++) {
        int ret = check(&rules[i], e);
        if (ret < 0) return errmsg_prefix(e, ret, "rule %u", i + 1);
    }
    struct policy *p = calloc(1, sizeof *p);
    struct ordered *list = calloc(count + 1, sizeof *list);
    int ret = p && list ? 0 : -ENOMEM;
    if (ret == 0) {
        for (unsigned i = 0; i < count; i++)
            list[i] = (struct ordered){&rules[i], i};
        qsort(list, count, sizeof *list, compare);
        ret = compile(p, list, count, POLICY_OUT);
        if (ret == 0) ret = compile(p, list, count, POLICY_IN);
    }
    free(list);
    if (ret < 0) {
        policy_free(p);
        return errmsg_set(e, ENOMEM, "no memory for the port's policy");
    }
    *out = p;
    return 0;
}

void policy_free(struct policy *p)
{
    if (!p) return;
    free(p->rows[POLICY_OUT]);
    free(p->rows[POLICY_IN]);
    free(p);
}

/* ---- showing ---- */

void policy_each(const struct policy *p, enum policy_direction d,
                 void (*visit)(void *arg, enum policy_direction d, const struct flow_spec *f), void *arg)
{
    for (unsigned i = 0; p && i < p->count[d]; i++) {
        const struct row *r = &p->rows[d][i];
        struct flow_spec f = {.priority = (uint16_t)(UINT16_MAX - 1 - i), .out_port = SWITCH_PORT_ANY};
        f.out_group = SWITCH_PORT_ANY;
        for (unsigned k = 0; k < r->count; k++) {
            f.match.key.words[r->at[k]] = r->key[k];
            f.match.mask.words[r->at[k]] = r->mask[k];
        }
        f.instructions.has_goto = r->allow;
        visit(arg, d, &f);
    }
}
