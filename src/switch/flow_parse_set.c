/* SPDX-License-Identifier: Apache-2.0 */
/* Actions that write fields, from text: mod_*, set_field, load, move. All but the last become set-field. */
#include "switch/flow_parse_action.h"

static int add_set(struct actions *a, struct text at, enum field_id id, struct field_value v, struct field_value mask)
{
    return actions_add(
        a, at, (struct action){.type = ACTION_SET_FIELD, .set = {.field = (uint8_t)id, .value = v, .mask = mask}});
}

static int add_set_number(struct actions *a, struct text at, enum field_id id, uint64_t n)
{
    return add_set(a, at, id, field_value_of(n), field_all_ones(id));
}

int parse_mod(struct actions *a, const struct text_item *i, enum field_id id)
{
    struct field_value v, mask;
    struct text value, after;
    if (text_split(i->value, '/', &value, &after)) return text_refuse(a->s, after, "it has no mask");
    int ret = text_field(a->s, id, i->value, &v, &mask);
    return ret ? ret : add_set(a, i->whole, id, v, mask);
}

/* OpenFlow 1.0 adds a tag where there is none. */
static int push_if_untagged(struct actions *a, const struct text_item *i)
{
    if (a->tagged) return 0;
    a->tagged = true;
    return actions_add(a, i->whole, (struct action){.type = ACTION_PUSH_VLAN, .eth_type = 0x8100});
}

int parse_mod_vlan_vid(struct actions *a, const struct text_item *i)
{
    uint64_t n;
    int ret = actions_number(a, i->value, 0xfff, "a VLAN number (0 to 4095)", &n);
    if (!ret) ret = push_if_untagged(a, i);
    return ret ? ret : add_set_number(a, i->whole, FIELD_VLAN_VID, n | FLOW_VLAN_PRESENT);
}

int parse_mod_vlan_pcp(struct actions *a, const struct text_item *i)
{
    uint64_t n;
    int ret = actions_number(a, i->value, 7, "a VLAN priority (0 to 7)", &n);
    if (!ret) ret = push_if_untagged(a, i);
    return ret ? ret : add_set_number(a, i->whole, FIELD_VLAN_PCP, n);
}

int parse_mod_nw_tos(struct actions *a, const struct text_item *i)
{
    uint64_t n;
    int ret = actions_number(a, i->value, 255, "a multiple of 4 up to 252", &n);
    if (!ret && n % 4) ret = text_fail(a->s, i->value, "a multiple of 4 up to 252");
    return ret ? ret : add_set_number(a, i->whole, FIELD_IP_DSCP, n / 4);
}

int parse_mod_tp(struct actions *a, const struct text_item *i)
{
    static const enum field_id source[] = {FIELD_TCP_SRC, FIELD_UDP_SRC, FIELD_SCTP_SRC};
    static const enum field_id destination[] = {FIELD_TCP_DST, FIELD_UDP_DST, FIELD_SCTP_DST};
    const enum field_id *ids = text_is(i->key, "mod_tp_src") ? source : destination;
    for (unsigned n = 0; n < 3; n++)
        if (field_is_ensured(ids[n], a->m)) return parse_mod(a, i, ids[n]);
    return text_refuse(a->s, i->whole, "the flow must match tcp, udp or sctp");
}

/* "X->Y" */
static int split_arrow(struct actions *a, struct text t, struct text *from, struct text *to)
{
    for (size_t n = 0; n + 1 < t.length; n++)
        if (t.at[n] == '-' && t.at[n + 1] == '>') {
            *from = (struct text){t.at, n};
            *to = (struct text){t.at + n + 2, t.length - n - 2};
            return 0;
        }
    return text_fail(a->s, t, "SOURCE->DESTINATION");
}

/* Names for whole fields: tp_src is TCP's, as ovs-ofctl has it. */
static enum field_id find_target(struct text t)
{
    if (text_is(t, "tp_src")) return FIELD_TCP_SRC;
    if (text_is(t, "tp_dst")) return FIELD_TCP_DST;
    return field_find(t.at, t.length);
}

int parse_set_field(struct actions *a, const struct text_item *i)
{
    struct text from, to;
    struct text_item mod = *i;
    struct field_value v, mask;
    int ret = split_arrow(a, i->value, &from, &to);
    if (ret) return ret;
    mod.value = from;
    if (text_is(to, "nw_tos")) return parse_mod_nw_tos(a, &mod);
    enum field_id id = find_target(to);
    if (id == FIELD_COUNT) return text_fail(a->s, to, "a field");
    if (!fields[id].writable) return text_refuse(a->s, to, "it cannot be written");
    ret = text_field(a->s, id, from, &v, &mask);
    if (ret) return ret;
    if (text_field_is_zero(mask)) return text_fail(a->s, from, "a mask that is not 0");
    return add_set(a, i->whole, id, v, mask);
}

struct bits {
    enum field_id field;
    unsigned at, count;
};

/* [], [N] or [FIRST..LAST] */
static int parse_range(struct actions *a, struct text t, unsigned width, struct bits *b)
{
    uint64_t first, last;
    struct text low, high;
    if (t.length == 0) return 0;
    bool range = text_split(t, '.', &low, &high);
    if (range && (high.length < 1 || high.at[0] != '.')) return text_fail(a->s, t, "[FIRST..LAST]");
    if (range) high = (struct text){high.at + 1, high.length - 1};
    if (!text_number(low, width - 1, &first) || !text_number(range ? high : low, width - 1, &last) || last < first)
        return text_fail(a->s, t, "bits from 0 to %u, the lower one first", width - 1);
    b->at = (unsigned)first;
    b->count = (unsigned)(last - first) + 1;
    return 0;
}

/* NAME, NAME[], NAME[N], NAME[FIRST..LAST]. The whole of a VLAN's number is its 12 bits, without the mark that
 * there is a tag; the whole byte of the TOS is not one field, but its upper six bits are. */
static int parse_bits(struct actions *a, struct text t, struct bits *b)
{
    struct text name, range;
    bool has_range = text_split(t, '[', &name, &range), tos;
    if (has_range && (range.length == 0 || range.at[range.length - 1] != ']')) return text_fail(a->s, t, "NAME[..]");
    if (has_range) range.length--;
    tos = text_is(name, "NXM_OF_IP_TOS");
    b->field = tos ? FIELD_IP_DSCP : find_target(name);
    if (b->field == FIELD_COUNT) return text_fail(a->s, name, "a field");
    b->at = 0;
    b->count = tos ? 8 : b->field == FIELD_VLAN_VID ? 12 : fields[b->field].bits;
    int ret = parse_range(a, range, tos ? 8 : fields[b->field].bits, b);
    if (ret || !tos) return ret;
    if (b->at < 2) return text_refuse(a->s, t, "bits 2 to 7 only, the others are NXM_NX_IP_ECN");
    b->at -= 2;
    return 0;
}

static struct field_value shifted(uint64_t n, unsigned by)
{
    struct field_value v = {0};
    for (unsigned bit = 0; bit < 64 && bit + by < 128; bit++)
        if (n >> bit & 1) v.raw[15 - (bit + by) / 8] |= (uint8_t)(1u << (bit + by) % 8);
    return v;
}

static struct field_value ones_at(unsigned at, unsigned count)
{
    struct field_value v = {0};
    for (unsigned bit = at; bit < at + count; bit++)
        v.raw[15 - bit / 8] |= (uint8_t)(1u << bit % 8);
    return v;
}

int parse_load(struct actions *a, const struct text_item *i)
{
    struct text from, to;
    struct bits b;
    uint64_t n;
    int ret = split_arrow(a, i->value, &from, &to);
    if (!ret) ret = parse_bits(a, to, &b);
    if (ret) return ret;
    if (!fields[b.field].writable) return text_refuse(a->s, to, "it cannot be written");
    if (!text_number(from, b.count >= 64 ? UINT64_MAX : (1ull << b.count) - 1, &n))
        return text_fail(a->s, from, "a number of %u bits", b.count);
    return add_set(a, i->whole, b.field, shifted(n, b.at), ones_at(b.at, b.count));
}

int parse_move(struct actions *a, const struct text_item *i)
{
    struct text from, to;
    struct bits f, t;
    int ret = split_arrow(a, i->value, &from, &to);
    if (!ret) ret = parse_bits(a, from, &f);
    if (!ret) ret = parse_bits(a, to, &t);
    if (ret) return ret;
    if (!fields[t.field].writable) return text_refuse(a->s, to, "it cannot be written");
    if (f.count != t.count) return text_refuse(a->s, i->value, "%u bits do not go into %u", f.count, t.count);
    return actions_add(a, i->whole,
                       (struct action){.type = ACTION_MOVE,
                                       .move = {.from = (uint8_t)f.field,
                                                .to = (uint8_t)t.field,
                                                .from_bit = (uint8_t)f.at,
                                                .to_bit = (uint8_t)t.at,
                                                .bits = (uint8_t)f.count}});
}
