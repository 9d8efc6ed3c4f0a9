/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Match fields on the wire: type-length-values of OpenFlow's class (OpenFlow 1.3.5, section 7.2.3) and of Nicira's two,
 * and the ONF's TCP flags. All kinds are read; written are OpenFlow's, and Nicira's for fields that OpenFlow 1.3 lacks.
 *
 * A field must be preceded by those that it presupposes, so prerequisites are looked at field by field.
 */
#include "openflow/codec_internal.h"

#include "switch/flow_text.h"

static_assert(FIELD_COUNT <= 64, "a bit for each in a word");

#define UNKNOWN 0xff

/* By number within the class. */
static const uint8_t basic[] = {
    FIELD_IN_PORT,     FIELD_IN_PHY_PORT, FIELD_METADATA,    FIELD_ETH_DST,     FIELD_ETH_SRC,     FIELD_ETH_TYPE,
    FIELD_VLAN_VID,    FIELD_VLAN_PCP,    FIELD_IP_DSCP,     FIELD_IP_ECN,      FIELD_IP_PROTO,    FIELD_IPV4_SRC,
    FIELD_IPV4_DST,    FIELD_TCP_SRC,     FIELD_TCP_DST,     FIELD_UDP_SRC,     FIELD_UDP_DST,     FIELD_SCTP_SRC,
    FIELD_SCTP_DST,    FIELD_ICMPV4_TYPE, FIELD_ICMPV4_CODE, FIELD_ARP_OP,      FIELD_ARP_SPA,     FIELD_ARP_TPA,
    FIELD_ARP_SHA,     FIELD_ARP_THA,     FIELD_IPV6_SRC,    FIELD_IPV6_DST,    FIELD_IPV6_FLABEL, FIELD_ICMPV6_TYPE,
    FIELD_ICMPV6_CODE, FIELD_ND_TARGET,   FIELD_ND_SLL,      FIELD_ND_TLL,      FIELD_MPLS_LABEL,  FIELD_MPLS_TC,
    FIELD_MPLS_BOS,    FIELD_PBB_ISID,    FIELD_TUNNEL_ID,   FIELD_IPV6_EXTHDR,
};
static_assert(sizeof basic == 40, "OpenFlow 1.3 has 40");

static const uint8_t nicira_0[] = {
    FIELD_IN_PORT,  FIELD_ETH_DST,     FIELD_ETH_SRC,     FIELD_ETH_TYPE, FIELD_VLAN_TCI, FIELD_IP_DSCP,
    FIELD_IP_PROTO, FIELD_IPV4_SRC,    FIELD_IPV4_DST,    FIELD_TCP_SRC,  FIELD_TCP_DST,  FIELD_UDP_SRC,
    FIELD_UDP_DST,  FIELD_ICMPV4_TYPE, FIELD_ICMPV4_CODE, FIELD_ARP_OP,   FIELD_ARP_SPA,  FIELD_ARP_TPA,
};

#define REGISTERS(n) FIELD_REG0 + n, FIELD_REG0 + n + 1, FIELD_REG0 + n + 2, FIELD_REG0 + n + 3
static const uint8_t nicira_1[] = {
    REGISTERS(0),   REGISTERS(4),   REGISTERS(8),   REGISTERS(12),     [16] = FIELD_TUNNEL_ID,   FIELD_ARP_SHA,
    FIELD_ARP_THA,  FIELD_IPV6_SRC, FIELD_IPV6_DST, FIELD_ICMPV6_TYPE, [22] = FIELD_ICMPV6_CODE, FIELD_ND_TARGET,
    FIELD_ND_SLL,   FIELD_ND_TLL,   FIELD_IP_FRAG,  FIELD_IPV6_FLABEL, [28] = FIELD_IP_ECN,      FIELD_IP_TTL,
    FIELD_MPLS_TTL, UNKNOWN,        UNKNOWN,        UNKNOWN,           FIELD_TCP_FLAGS,
};

/* ---- reading ---- */

enum oxm_wrong { WRONG_LEN, WRONG_FIELD, WRONG_VALUE, WRONG_MASK, WRONG_WILDCARDS };

static int wrong(enum oxm_place where, enum oxm_wrong what, enum field_id id, struct of_error *e)
{
    static const struct {
        uint8_t match, set;
        const char *text;
    } errors[] = {
        [WRONG_LEN] = {OFPBMC_BAD_LEN, OFPBAC_BAD_SET_LEN, "a wrong length"},
        [WRONG_FIELD] = {OFPBMC_BAD_FIELD, OFPBAC_BAD_SET_TYPE, "there is no such"},
        [WRONG_VALUE] = {OFPBMC_BAD_VALUE, OFPBAC_BAD_SET_ARGUMENT, "the value does not fit"},
        [WRONG_MASK] = {OFPBMC_BAD_MASK, OFPBAC_BAD_SET_TYPE, "no mask is possible"},
        [WRONG_WILDCARDS] = {OFPBMC_BAD_WILDCARDS, OFPBAC_BAD_SET_ARGUMENT, "the value has bits outside of its mask"},
    };
    const char *name = id < FIELD_COUNT ? fields[id].name : "a field";
    if (where == OXM_IN_MATCH)
        return of_wrong(e, OFPET_BAD_MATCH, errors[what].match, "%s: %s", name, errors[what].text);
    return of_wrong(e, OFPET_BAD_ACTION, errors[what].set, "%s: %s", name, errors[what].text);
}

size_t oxm_bytes(enum field_id id)
{
    return fields[id].bits == 20 ? 4 : (fields[id].bits + 7u) / 8u;
}

static unsigned look_up(unsigned class, unsigned number)
{
    switch (class) {
    case OFPXMC_OPENFLOW_BASIC: return number < sizeof basic ? basic[number] : UNKNOWN;
    case OFPXMC_NXM_0: return number < sizeof nicira_0 ? nicira_0[number] : UNKNOWN;
    case OFPXMC_NXM_1: return number < sizeof nicira_1 ? nicira_1[number] : UNKNOWN;
    default: return UNKNOWN;
    }
}

/* The header has been taken; an experimenter's id follows it. *length: what is left of the payload. */
static unsigned look_up_experimenter(struct cursor *c, unsigned number, unsigned *length)
{
    uint32_t id;
    if (*length < sizeof id || !cursor_be32(c, &id)) return UNKNOWN;
    *length -= (unsigned)sizeof id;
    return id == ONF_EXPERIMENTER_ID && number == ONFOXM_ET_TCP_FLAGS ? FIELD_TCP_FLAGS : UNKNOWN;
}

int oxm_get_header(struct cursor *c, enum oxm_place where, struct oxm *out, struct of_error *e)
{
    const struct oxm_header *h = cursor_pull(c, sizeof *h);
    if (!h) return wrong(where, WRONG_LEN, FIELD_COUNT, e);
    unsigned class = be16_get(h->class), number = h->field_mask >> 1, length = h->length;
    unsigned id = class == OFPXMC_EXPERIMENTER ? look_up_experimenter(c, number, &length) : look_up(class, number);
    if (id == UNKNOWN) return wrong(where, WRONG_FIELD, FIELD_COUNT, e);
    const struct field *f = &fields[id];
    *out = (struct oxm){.id = id, .bits = f->bits, .bytes = (uint8_t)oxm_bytes(id), .masked = h->field_mask & 1};
    if (class == OFPXMC_NXM_0 && id == FIELD_IN_PORT) {
        out->bits = 16;
        out->bytes = 2;
        out->narrow_port = true;
    } else if (class == OFPXMC_NXM_0 && id == FIELD_IP_DSCP) {
        out->bits = 8;
        out->spare = 2;
    }
    if (length != (out->masked ? 2u : 1u) * out->bytes) return wrong(where, WRONG_LEN, id, e);
    return 0;
}

bool oxm_get_id(struct cursor *c, enum field_id *id, bool *masked)
{
    const struct oxm_header *h = cursor_pull(c, sizeof *h);
    if (!h) return false;
    unsigned class = be16_get(h->class), number = h->field_mask >> 1, length = h->length;
    unsigned n = class == OFPXMC_EXPERIMENTER ? look_up_experimenter(c, number, &length) : look_up(class, number);
    if (n == UNKNOWN) return false;
    *id = n;
    *masked = h->field_mask & 1;
    return length == oxm_bytes(n) || (*masked && length == 2 * oxm_bytes(n));
}

static struct field_value value_of(const uint8_t *at, unsigned bytes)
{
    struct field_value v = {0};
    memcpy(v.raw + sizeof v.raw - bytes, at, bytes);
    return v;
}

/* False: it does not fit. */
static bool narrow(const struct oxm *f, struct field_value *v)
{
    if (f->bits > 64) return true;
    uint64_t n = field_value_u64(*v);
    if (f->bits < 64 && n >> f->bits) return false;
    if (n & ((1u << f->spare) - 1)) return false;
    n >>= f->spare;
    *v = field_value_of(f->narrow_port ? port_of_16((uint16_t)n) : n);
    return true;
}

static bool is_within(const struct field_value *v, const struct field_value *mask)
{
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        if (v->raw[i] & ~mask->raw[i]) return false;
    return true;
}

static void keep_within(struct field_value *v, const struct field_value *mask)
{
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        v->raw[i] &= mask->raw[i];
}

/* Bits of the mask that the field does not have are 0 in every packet: to look at them changes nothing. */
static int get_mask(struct cursor *c, enum oxm_place where, struct oxm_value *out, struct of_error *e)
{
    enum field_id id = out->field.id;
    if (where == OXM_IN_SET_FIELD || (where == OXM_IN_MATCH && !text_field_maskable(id)) || out->field.spare)
        return wrong(where, WRONG_MASK, id, e);
    const uint8_t *at = cursor_pull(c, out->field.bytes);
    if (!at) return wrong(where, WRONG_LEN, id, e);
    struct field_value all = out->mask;
    out->mask = value_of(at, out->field.bytes);
    keep_within(&out->mask, &all);
    return is_within(&out->value, &out->mask) ? 0 : wrong(where, WRONG_WILDCARDS, id, e);
}

int oxm_get(struct cursor *c, enum oxm_place where, struct oxm_value *out, struct of_error *e)
{
    int ret = oxm_get_header(c, where, &out->field, e);
    if (ret) return ret;
    const uint8_t *at = cursor_pull(c, out->field.bytes);
    if (!at) return wrong(where, WRONG_LEN, out->field.id, e);
    out->value = value_of(at, out->field.bytes);
    if (!narrow(&out->field, &out->value)) return wrong(where, WRONG_VALUE, out->field.id, e);
    out->mask = field_all_ones(out->field.id);
    return out->field.masked ? get_mask(c, where, out, e) : 0;
}

/* The same bits by another name. */
static uint64_t rivals(enum field_id id)
{
    const uint64_t parts = 1ull << FIELD_VLAN_VID | 1ull << FIELD_VLAN_PCP, whole = 1ull << FIELD_VLAN_TCI;
    if (id == FIELD_VLAN_TCI) return parts | whole;
    return 1ull << id | (parts >> id & 1 ? whole : 0);
}

/* Every port is its own physical port here, so this says nothing new, or what cannot be. */
static int check_phy_port(const struct flow_match *m, uint64_t seen, const struct oxm_value *v, struct of_error *e)
{
    if (!(seen >> FIELD_IN_PORT & 1))
        return of_wrong(e, OFPET_BAD_MATCH, OFPBMC_BAD_PREREQ, "in_phy_port without in_port before it");
    if (field_value_u64(v->value) == be32_get(m->key.in_port)) return 0;
    return of_wrong(e, OFPET_BAD_MATCH, OFPBMC_BAD_VALUE, "in_phy_port is not in_port");
}

static int get_field(struct cursor *c, struct flow_match *m, uint64_t *seen, struct of_error *e)
{
    struct oxm_value v;
    int ret = oxm_get(c, OXM_IN_MATCH, &v, e);
    if (ret) return ret;
    enum field_id id = v.field.id;
    if (*seen & rivals(id)) return of_wrong(e, OFPET_BAD_MATCH, OFPBMC_DUP_FIELD, "%s is there twice", fields[id].name);
    *seen |= 1ull << id;
    if (id == FIELD_IN_PHY_PORT) return check_phy_port(m, *seen, &v, e);
    if (!field_is_ensured(id, m))
        return of_wrong(e, OFPET_BAD_MATCH, OFPBMC_BAD_PREREQ, "%s without %s before it", fields[id].name,
                        text_needs(fields[id].needs));
    field_set_masked(&m->key, id, v.value, v.mask);
    field_set_masked(&m->mask, id, v.mask, v.mask);
    return 0;
}

/* ovs-ofctl may send a field of 1.5, that it is an Ethernet packet: which all are. Taken if so. */
static bool get_packet_type(struct cursor *c)
{
    static const uint8_t ethernet[] = {0x80, 0x00, 44 << 1, 4, 0, 0, 0, 0};
    if (c->left_bytes < sizeof ethernet || memcmp(c->at, ethernet, sizeof ethernet) != 0) return false;
    return cursor_pull(c, sizeof ethernet);
}

int of_get_match(const uint8_t *at, size_t bytes, struct flow_match *out, size_t *used, struct of_error *e)
{
    struct cursor c = cursor_over(at, bytes);
    const struct ofp_match *h = cursor_pull(&c, sizeof *h);
    if (!h) return of_wrong(e, OFPET_BAD_MATCH, OFPBMC_BAD_LEN, "a match of %zu bytes", bytes);
    size_t length = be16_get(h->length);
    if (be16_get(h->type) != OFPMT_OXM)
        return of_wrong(e, OFPET_BAD_MATCH, OFPBMC_BAD_TYPE, "a match of type %u", be16_get(h->type));
    if (length < sizeof *h || round_up_8(length) > bytes)
        return of_wrong(e, OFPET_BAD_MATCH, OFPBMC_BAD_LEN, "a match of %zu bytes in %zu", length, bytes);
    struct cursor list = cursor_over(at + sizeof *h, length - sizeof *h);
    uint64_t seen = 0;
    memset(out, 0, sizeof *out);
    while (list.left_bytes) {
        int ret = get_packet_type(&list) ? 0 : get_field(&list, out, &seen, e);
        if (ret) return ret;
    }
    *used = round_up_8(length);
    return 0;
}

/* ---- writing ---- */

static struct oxm_header header_of(enum field_id id, unsigned masked)
{
    unsigned class = OFPXMC_OPENFLOW_BASIC, number = fields[id].oxm, bytes = (unsigned)oxm_bytes(id) << masked;
    if (number == FIELD_NO_OXM) {
        class = OFPXMC_NXM_1;
        number = id - FIELD_REG0;
    }
    switch (id) {
    case FIELD_VLAN_TCI:
        class = OFPXMC_NXM_0;
        number = 4;
        break;
    case FIELD_IP_FRAG: number = 26; break;
    case FIELD_IP_TTL: number = 29; break;
    case FIELD_MPLS_TTL: number = 30; break;
    case FIELD_TCP_FLAGS:
        class = OFPXMC_EXPERIMENTER;
        number = ONFOXM_ET_TCP_FLAGS;
        bytes += 4;
        break;
    default: break;
    }
    return (struct oxm_header){be16_make((uint16_t) class), (uint8_t)(number << 1 | masked), (uint8_t)bytes};
}

size_t oxm_header_bytes(enum field_id id)
{
    return sizeof(struct oxm_header) + (id == FIELD_TCP_FLAGS ? sizeof(struct be32) : 0);
}

static uint8_t *write_header(uint8_t *to, enum field_id id, bool masked)
{
    struct oxm_header h = header_of(id, masked);
    struct be32 experimenter = be32_make(ONF_EXPERIMENTER_ID);
    memcpy(to, &h, sizeof h);
    if (id == FIELD_TCP_FLAGS) memcpy(to + sizeof h, &experimenter, sizeof experimenter);
    return to + oxm_header_bytes(id);
}

void oxm_put_header(struct of_out *o, enum field_id id, bool masked)
{
    uint8_t *to = of_out_put(o, oxm_header_bytes(id));
    if (to) write_header(to, id, masked);
}

void oxm_put(struct of_out *o, enum field_id id, const struct field_value *value, const struct field_value *mask)
{
    bool masked = !text_field_is_full(id, *mask);
    size_t bytes = oxm_bytes(id);
    uint8_t *to = of_out_put(o, oxm_header_bytes(id) + (bytes << masked));
    if (!to) return;
    to = write_header(to, id, masked);
    memcpy(to, value->raw + FIELD_VALUE_BYTES - bytes, bytes);
    if (masked) memcpy(to + bytes, mask->raw + FIELD_VALUE_BYTES - bytes, bytes);
}

static void put_field(struct of_out *o, const struct flow_match *m, enum field_id id)
{
    struct field_value value = field_get(&m->key, id), mask = field_get(&m->mask, id);
    oxm_put(o, id, &value, &mask);
}

/* In OpenFlow's two fields when that is possible, else as a whole. */
static void put_tag(struct of_out *o, const struct flow_match *m)
{
    const unsigned pcp = 0xe000;
    unsigned mask = be16_get(m->mask.vlan[0].tci);
    if (!mask) return;
    bool whole_pcp = (mask & pcp) == pcp && field_is_ensured(FIELD_VLAN_PCP, m);
    if (mask & pcp && !whole_pcp) {
        put_field(o, m, FIELD_VLAN_TCI);
        return;
    }
    put_field(o, m, FIELD_VLAN_VID);
    if (whole_pcp) put_field(o, m, FIELD_VLAN_PCP);
}

/* What stands before what in the table of fields is what it presupposes. */
void of_put_match(struct of_out *o, const struct flow_match *m)
{
    size_t at = of_out_at(o);
    of_out_put(o, sizeof(struct ofp_match));
    for (unsigned id = 0; id < FIELD_COUNT; id++) {
        if (id == FIELD_VLAN_VID) put_tag(o, m);
        else if (id == FIELD_IN_PHY_PORT || id == FIELD_VLAN_PCP || id == FIELD_VLAN_TCI) continue;
        else if (!field_is_zero(&m->mask, id) && field_is_ensured(id, m)) put_field(o, m, id);
    }
    struct ofp_match *h = of_out_ptr(o, at);
    if (h) *h = (struct ofp_match){.type = be16_make(OFPMT_OXM), .length = be16_make((uint16_t)(of_out_at(o) - at))};
    of_out_pad8(o, at);
}
