/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/guard.h"

#include <errno.h>
#include <stdlib.h>

#include "switch/flow_text.h"

enum { TYPE_IPV4 = 0x0800, TYPE_ARP = 0x0806, TYPE_RARP = 0x8035, TYPE_IPV6 = 0x86dd };
enum { TYPE_VLAN = 0x8100, TYPE_QINQ = 0x88a8, TYPE_QINQ_OLD = 0x9100, TYPE_PBB = 0x88e7 };
enum { TYPE_MPLS = 0x8847, TYPE_MPLS_MULTICAST = 0x8848 };
enum { PROTO_UDP = 17, PROTO_ICMPV6 = 58, PROTO_FRAGMENT = 44 };
enum { MLD_QUERY = 130, MLD_REPORT = 131, MLD_DONE = 132, ND_RS = 133, ND_RA = 134, ND_NS = 135, ND_NA = 136 };
enum { ND_REDIRECT = 137, MLD2_REPORT = 143 };

enum stage { TYPE, SOURCE, ARP, ARP_SHA, ARP_SPA, HIDDEN, ND, ND_LINK, ND_ROUTER, ND_TARGET, IP, STAGES };
static const char *const stage_names[STAGES] = {
    "type", "source", "arp", "arp_sha", "arp_spa", "hidden", "nd", "nd_link", "nd_router", "nd_target", "ip",
};

/* The words of a match that have a mask, and nothing else of it: matches have three or four. */
struct guard_word {
    uint64_t key, mask;
};

struct guard_rule {
    uint32_t words; /* which: a bit each */
    uint32_t first; /* in guard.words */
    uint32_t other; /* the next rule that is of another Ethernet type, or of any */
    struct be16 type;
    bool has_type; /* only for packets of that Ethernet type */
    uint8_t stage;
    bool allow;
};

struct guard {
    struct guard_config config;
    unsigned rules, words;
    struct guard_rule *rule;
    struct guard_word *word;
};

/* ---- asking ---- */

/* Is the rule met? What was looked at: all of it, or a byte that shows that it is not. */
static bool is_met(const struct guard *g, const struct guard_rule *r, const struct flow_key *k, struct flow_key *used)
{
    const struct guard_word *w = &g->word[r->first];
    unsigned differs_in = FLOW_KEY_WORDS;
    uint64_t differs = 0;
    for (uint32_t left = r->words; left; left &= left - 1, w++) {
        unsigned i = (unsigned)__builtin_ctz(left);
        uint64_t d = (k->words[i] & w->mask) ^ w->key;
        if (d & used->words[i]) return false;
        if (d && !differs) {
            differs_in = i;
            differs = w->mask & (0xffull << (__builtin_ctzll(d) & ~7));
        }
    }
    if (differs) {
        used->words[differs_in] |= differs;
        return false;
    }
    w = &g->word[r->first];
    for (uint32_t left = r->words; left; left &= left - 1, w++)
        used->words[__builtin_ctz(left)] |= w->mask;
    return true;
}

/* The rule that drops the packet, or NULL. Most rules are of one Ethernet type, and those of the others are passed over
 * together; translation looks at the type anyhow. */
static const struct guard_rule *dropped_by(const struct guard *g, const struct flow_key *k, struct flow_key *used)
{
    if (g->rules) used->eth_type = be16_make(UINT16_MAX);
    for (unsigned i = 0; i < g->rules;) {
        const struct guard_rule *r = &g->rule[i++];
        if (r->has_type && memcmp(&r->type, &k->eth_type, sizeof r->type) != 0) {
            i = r->other;
            continue;
        }
        if (!is_met(g, r, k, used)) continue;
        if (!r->allow) return r;
        while (i < g->rules && g->rule[i].stage == r->stage)
            i++;
    }
    return NULL;
}

bool guard_allows(const struct guard *g, const struct flow_key *k, struct flow_key *used)
{
    return !g || !dropped_by(g, k, used);
}

const char *guard_drops_in(const struct guard *g, const struct flow_key *k)
{
    struct flow_key used = {0};
    const struct guard_rule *r = g ? dropped_by(g, k, &used) : NULL;
    return r ? stage_names[r->stage] : NULL;
}

/* ---- compiling ---- */

/* First it counts, then, with memory in the guard, it writes. */
struct compiler {
    const struct guard_config *c;
    struct guard *g; /* NULL: count only */
    unsigned rules, words;
    bool macs, ips, ipv4, ipv6; /* what is checked, what is allowed */
};

static void add(struct compiler *c, enum stage stage, bool allow, const struct flow_match *m)
{
    struct guard_rule r = {.first = c->words, .stage = (uint8_t)stage, .allow = allow, .type = m->key.eth_type};
    r.has_type = be16_get(m->mask.eth_type) != 0;
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++) {
        if (!m->mask.words[i]) continue;
        r.words |= 1u << i;
        if (c->g) c->g->word[c->words] = (struct guard_word){m->key.words[i], m->mask.words[i]};
        c->words++;
    }
    if (c->g) c->g->rule[c->rules] = r;
    c->rules++;
}

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

static struct flow_match any(void)
{
    return (struct flow_match){0};
}

static struct flow_match of_type(uint16_t type)
{
    return with(any(), FIELD_ETH_TYPE, type);
}

static struct flow_match of_icmpv6(uint8_t type)
{
    return with(with(of_type(TYPE_IPV6), FIELD_IP_PROTO, PROTO_ICMPV6), FIELD_ICMPV6_TYPE, type);
}

static struct field_value mac_value(const uint8_t mac[6])
{
    struct field_value v = {0};
    memcpy(v.raw + 10, mac, 6);
    return v;
}

/* The rules of `base`: any of the port's MACs in the field, 0 too if it may be missing; anything else is dropped. */
static void add_macs(struct compiler *c, enum stage stage, struct flow_match base, enum field_id id, bool may_miss)
{
    for (unsigned i = 0; i < c->c->macs; i++) {
        struct flow_match m = with_masked(base, id, mac_value(c->c->mac[i]), field_all_ones(id));
        add(c, stage, true, &m);
    }
    struct flow_match none = with(base, id, 0);
    if (may_miss) add(c, stage, true, &none);
    add(c, stage, false, &base);
}

static struct field_value prefix_mask(const struct guard_prefix *p)
{
    struct field_value mask = {0};
    for (unsigned i = 0, at = p->ipv6 ? 0 : 96; i < p->length; i++, at++)
        mask.raw[at / 8] |= (uint8_t)(0x80 >> at % 8);
    return mask;
}

static struct field_value prefix_value(const struct guard_prefix *p)
{
    struct field_value v = {0};
    memcpy(v.raw + (p->ipv6 ? 0 : 12), p->address, p->ipv6 ? 16 : 4);
    return v;
}

static void allow_prefixes(struct compiler *c, enum stage stage, struct flow_match base, enum field_id id, bool ipv6)
{
    for (unsigned i = 0; i < c->c->prefixes; i++) {
        const struct guard_prefix *p = &c->c->prefix[i];
        if (p->ipv6 != ipv6) continue;
        struct flow_match m = with_masked(base, id, prefix_value(p), prefix_mask(p));
        add(c, stage, true, &m);
    }
}

static struct guard_prefix link_local_of(const uint8_t mac[6])
{
    return (struct guard_prefix){
        .ipv6 = true,
        .length = 128,
        .address = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}};
}

/* Allowed prefixes, and the link-local addresses. */
static void allow_ipv6(struct compiler *c, enum stage stage, struct flow_match base, enum field_id id)
{
    allow_prefixes(c, stage, base, id, true);
    for (unsigned i = 0; i < c->c->macs; i++) {
        struct guard_prefix p = link_local_of(c->c->mac[i]);
        struct flow_match m = with_masked(base, id, prefix_value(&p), prefix_mask(&p));
        add(c, stage, true, &m);
    }
    if (c->macs) return;
    struct guard_prefix p = {.ipv6 = true, .length = 10, .address = {0xfe, 0x80}};
    struct flow_match m = with_masked(base, id, prefix_value(&p), prefix_mask(&p));
    add(c, stage, true, &m);
}

static void add_types(struct compiler *c, const uint16_t *types, unsigned count, bool allow)
{
    for (unsigned i = 0; i < count; i++) {
        struct flow_match m = of_type(types[i]);
        if (types[i]) add(c, TYPE, allow, &m);
    }
}

static void compile_type(struct compiler *c)
{
    static const uint16_t wrappers[] = {TYPE_VLAN, TYPE_QINQ, TYPE_QINQ_OLD, TYPE_PBB, TYPE_MPLS, TYPE_MPLS_MULTICAST};
    const uint16_t plain[] = {TYPE_RARP, c->ipv4 ? TYPE_IPV4 : 0, c->ipv4 ? TYPE_ARP : 0, c->ipv6 ? TYPE_IPV6 : 0};
    struct flow_match rest = any();
    if (c->ips) {
        add_types(c, plain, sizeof plain / sizeof plain[0], true);
        add(c, TYPE, false, &rest);
    } else {
        add_types(c, wrappers, sizeof wrappers / sizeof wrappers[0], false);
    }
}

static void compile_arp(struct compiler *c)
{
    static const uint16_t types[] = {TYPE_ARP, TYPE_RARP};
    for (unsigned i = 0; i < 2; i++) {
        struct flow_match unread = with(of_type(types[i]), FIELD_ARP_OP, 0);
        add(c, ARP, false, &unread);
    }
    for (unsigned i = 0; c->macs && i < 2; i++)
        add_macs(c, ARP_SHA, of_type(types[i]), FIELD_ARP_SHA, false);
    for (unsigned i = 0; c->ips && i < 2; i++) {
        struct flow_match all = of_type(types[i]), none = with(all, FIELD_ARP_SPA, 0);
        allow_prefixes(c, ARP_SPA, all, FIELD_ARP_SPA, false);
        add(c, ARP_SPA, true, &none);
        add(c, ARP_SPA, false, &all);
    }
}

/* Extension headers that are the last that could be read: the chain is longer than what is looked at, or what it carries is
 * out of sight. A fragment header is the last of every fragment but the first. ICMPv6 whose type is 0: its header is not there. */
static void compile_hidden(struct compiler *c)
{
    static const uint8_t chains[] = {0, 43, 51, 60};
    static const uint8_t whole[] = {ND_RS, ND_RA, ND_NS, ND_NA, ND_REDIRECT};
    for (unsigned i = 0; i < sizeof chains; i++) {
        struct flow_match m = with(of_type(TYPE_IPV6), FIELD_IP_PROTO, chains[i]);
        add(c, HIDDEN, false, &m);
    }
    struct field_value later = field_value_of(FLOW_FRAG_LATER), fragment = field_value_of(FLOW_FRAG_ANY);
    struct flow_match m = with(of_type(TYPE_IPV6), FIELD_IP_PROTO, PROTO_FRAGMENT);
    m = with_masked(m, FIELD_IP_FRAG, field_value_of(0), later);
    add(c, HIDDEN, false, &m);
    m = of_icmpv6(0);
    add(c, HIDDEN, false, &m);
    for (unsigned i = 0; i < sizeof whole; i++) {
        m = with_masked(of_icmpv6(whole[i]), FIELD_IP_FRAG, fragment, fragment);
        add(c, HIDDEN, false, &m);
    }
}

static void compile_nd(struct compiler *c)
{
    struct flow_match solicits = of_icmpv6(ND_NS), advertises = of_icmpv6(ND_NA), from_nowhere;
    struct flow_match no_target = with(solicits, FIELD_ND_TARGET, 0),
                      no_target_either = with(advertises, FIELD_ND_TARGET, 0);
    add(c, ND, false, &no_target);
    add(c, ND, false, &no_target_either);
    if (c->macs) {
        add_macs(c, ND_LINK, solicits, FIELD_ND_SLL, true);
        add_macs(c, ND_LINK, advertises, FIELD_ND_TLL, true);
    }
    if (!c->ips) return;
    struct flow_match router = of_icmpv6(ND_RA), redirect = of_icmpv6(ND_REDIRECT);
    add(c, ND_ROUTER, false, &router);
    add(c, ND_ROUTER, false, &redirect);
    allow_ipv6(c, ND_TARGET, advertises, FIELD_ND_TARGET);
    add(c, ND_TARGET, false, &advertises);
    from_nowhere = with(solicits, FIELD_IPV6_SRC, 0);
    allow_ipv6(c, ND_TARGET, from_nowhere, FIELD_ND_TARGET);
    add(c, ND_TARGET, false, &from_nowhere);
}

static void compile_ipv4(struct compiler *c)
{
    struct flow_match all = of_type(TYPE_IPV4), dhcp = with(all, FIELD_IP_PROTO, PROTO_UDP);
    dhcp = with(with(dhcp, FIELD_IPV4_SRC, 0), FIELD_IPV4_DST, 0xffffffff);
    dhcp = with(with(with(dhcp, FIELD_UDP_SRC, 68), FIELD_UDP_DST, 67), FIELD_IP_FRAG, 0);
    allow_prefixes(c, IP, all, FIELD_IPV4_SRC, false);
    add(c, IP, true, &dhcp);
    add(c, IP, false, &all);
}

static void compile_ipv6(struct compiler *c)
{
    static const uint8_t unspecified[] = {MLD_REPORT, MLD_DONE, ND_RS, ND_NS, MLD2_REPORT};
    struct flow_match all = of_type(TYPE_IPV6);
    allow_ipv6(c, IP, all, FIELD_IPV6_SRC);
    for (unsigned i = 0; i < sizeof unspecified; i++) {
        struct flow_match m = with(with(of_icmpv6(unspecified[i]), FIELD_IPV6_SRC, 0), FIELD_IP_FRAG, 0);
        add(c, IP, true, &m);
    }
    add(c, IP, false, &all);
}

static void link_types(struct guard *g)
{
    for (unsigned i = g->rules; i > 0; i--) {
        struct guard_rule *r = &g->rule[i - 1], *next = i < g->rules ? &g->rule[i] : NULL;
        bool alike = next && next->has_type && memcmp(&next->type, &r->type, sizeof r->type) == 0;
        r->other = alike ? next->other : i;
    }
}

/* Nothing is checked: no rules. */
static void compile(struct compiler *c)
{
    c->rules = c->words = 0;
    if (!c->macs && !c->ips) return;
    compile_type(c);
    if (c->macs) add_macs(c, SOURCE, any(), FIELD_ETH_SRC, false);
    compile_arp(c);
    compile_hidden(c);
    compile_nd(c);
    if (c->ips && c->ipv4) compile_ipv4(c);
    if (c->ips && c->ipv6) compile_ipv6(c);
}

/* ---- configuration ---- */

static bool is_zero(const uint8_t *bytes, unsigned n)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < n; i++)
        sum |= bytes[i];
    return sum == 0;
}

static int check_mac(const uint8_t mac[6], struct errmsg *e)
{
    if (mac[0] & 1 || is_zero(mac, 6)) return errmsg_set(e, EINVAL, "no port has a multicast or zero MAC address");
    return 0;
}

static int check_prefix(const struct guard_prefix *p, struct errmsg *e)
{
    unsigned bytes = p->ipv6 ? 16 : 4;
    if (p->length > 8 * bytes) return errmsg_set(e, EINVAL, "a prefix of more than %u bits", 8 * bytes);
    bool multicast = p->ipv6 ? p->address[0] == 0xff : p->address[0] >= 224 && p->address[0] < 240;
    if (multicast && p->length >= (p->ipv6 ? 8 : 4))
        return errmsg_set(e, EINVAL, "a port does not send from a multicast address");
    if (p->length == 8 * bytes && is_zero(p->address, bytes))
        return errmsg_set(e, EINVAL, "0.0.0.0 and :: are no addresses of a port");
    return 0;
}

static int check(const struct guard_config *c, struct errmsg *e)
{
    if (c->macs > GUARD_MACS_MAX || c->prefixes > GUARD_PREFIXES_MAX)
        return errmsg_set(e, EINVAL, "more than %u MACs or %u prefixes", GUARD_MACS_MAX, GUARD_PREFIXES_MAX);
    int ret = 0;
    for (unsigned i = 0; i < c->macs && !ret; i++)
        ret = check_mac(c->mac[i], e);
    for (unsigned i = 0; i < c->prefixes && !ret; i++)
        ret = check_prefix(&c->prefix[i], e);
    return ret;
}

static int read_field(enum field_id id, const char *text, struct field_value *v, struct field_value *mask,
                      struct errmsg *e)
{
    struct text_source s = {.start = text, .e = e};
    return text_field(&s, id, (struct text){text, strnlen(text, FLOW_TEXT_MAX)}, v, mask);
}

int guard_add_mac(struct guard_config *c, const char *text, struct errmsg *e)
{
    struct field_value v, mask;
    int ret = read_field(FIELD_ETH_SRC, text, &v, &mask, e);
    if (ret) return ret;
    if (!text_field_is_full(FIELD_ETH_SRC, mask))
        return errmsg_set(e, EINVAL, "%s: a MAC address without a mask", text);
    ret = check_mac(v.raw + 10, e);
    if (ret) return ret;
    if (c->macs == GUARD_MACS_MAX) return errmsg_set(e, ENOSPC, "more than %u MAC addresses", GUARD_MACS_MAX);
    memcpy(c->mac[c->macs++], v.raw + 10, 6);
    return 0;
}

int guard_add_prefix(struct guard_config *c, const char *text, struct errmsg *e)
{
    struct field_value v, mask;
    struct guard_prefix p = {.ipv6 = strchr(text, ':') != NULL};
    int ret = read_field(p.ipv6 ? FIELD_IPV6_SRC : FIELD_IPV4_SRC, text, &v, &mask, e);
    if (ret) return ret;
    for (unsigned i = 0; i < 128; i++)
        p.length = (uint8_t)(p.length + (mask.raw[i / 8] >> (7 - i % 8) & 1));
    struct field_value contiguous = prefix_mask(&p);
    if (memcmp(&contiguous, &mask, sizeof mask) != 0)
        return errmsg_set(e, EINVAL, "%s: an address or a prefix, ADDRESS/LENGTH", text);
    memcpy(p.address, v.raw + (p.ipv6 ? 0 : 12), p.ipv6 ? 16 : 4);
    ret = check_prefix(&p, e);
    if (ret) return ret;
    if (c->prefixes == GUARD_PREFIXES_MAX) return errmsg_set(e, ENOSPC, "more than %u addresses", GUARD_PREFIXES_MAX);
    c->prefix[c->prefixes++] = p;
    return 0;
}

bool guard_config_equal(const struct guard_config *a, const struct guard_config *b)
{
    if (a->macs != b->macs || a->prefixes != b->prefixes) return false;
    if (a->macs && memcmp(a->mac, b->mac, a->macs * sizeof a->mac[0]) != 0) return false;
    for (unsigned i = 0; i < a->prefixes; i++) {
        const struct guard_prefix *p = &a->prefix[i], *q = &b->prefix[i];
        if (p->ipv6 != q->ipv6 || p->length != q->length) return false;
        if (memcmp(p->address, q->address, p->ipv6 ? 16 : 4) != 0) return false;
    }
    return true;
}

/* ---- making ---- */

static struct compiler compiler_of(const struct guard_config *config)
{
    struct compiler c = {.c = config, .macs = config->macs > 0, .ips = config->prefixes > 0};
    for (unsigned i = 0; i < config->prefixes; i++) {
        c.ipv4 |= !config->prefix[i].ipv6;
        c.ipv6 |= config->prefix[i].ipv6;
    }
    return c;
}

int guard_new(struct guard **out, const struct guard_config *config, struct errmsg *e)
{
    int ret = check(config, e);
    if (ret) return ret;
    struct compiler c = compiler_of(config);
    compile(&c);
    size_t rules_bytes = c.rules * sizeof(struct guard_rule), words_bytes = c.words * sizeof(struct guard_word);
    struct guard *g = calloc(1, sizeof *g + words_bytes + rules_bytes);
    if (!g) return errmsg_set(e, ENOMEM, "no memory for the port's allowed addresses");
    g->config = *config;
    g->word = (struct guard_word *)(g + 1);
    g->rule = (struct guard_rule *)(g->word + c.words);
    c.c = &g->config;
    c.g = g;
    compile(&c);
    g->rules = c.rules;
    g->words = c.words;
    link_types(g);
    *out = g;
    return 0;
}

void guard_free(struct guard *g)
{
    free(g);
}

const struct guard_config *guard_config_of(const struct guard *g)
{
    return &g->config;
}

/* ---- showing ---- */

void guard_each(const struct guard *g, uint32_t port,
                void (*visit)(void *arg, const char *stage, const struct flow_spec *f), void *arg)
{
    unsigned in_stage = 0;
    for (unsigned i = 0; g && i < g->rules; i++) {
        const struct guard_rule *r = &g->rule[i];
        in_stage = i && g->rule[i - 1].stage == r->stage ? in_stage + 1 : 0;
        struct flow_spec f = {.table = r->stage, .priority = (uint16_t)(FLOW_PRIORITY_DEFAULT - 1 - in_stage)};
        const struct guard_word *w = &g->word[r->first];
        for (uint32_t left = r->words; left; left &= left - 1, w++) {
            f.match.key.words[__builtin_ctz(left)] = w->key;
            f.match.mask.words[__builtin_ctz(left)] = w->mask;
        }
        f.match = with(f.match, FIELD_IN_PORT, port);
        f.out_port = f.out_group = SWITCH_PORT_ANY;
        f.instructions.has_goto = r->allow;
        f.instructions.goto_table = (uint8_t)(r->stage + 1);
        visit(arg, stage_names[r->stage], &f);
    }
}
