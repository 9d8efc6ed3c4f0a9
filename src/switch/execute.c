/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/execute.h"

#include "packet/edit.h"
#include "switch/bridge.h"
#include "switch/choose.h"
#include "switch/counts.h"
#include "switch/extract.h"

/* ---- one field ---- */

static uint8_t merge8(uint8_t old, uint8_t value, uint8_t mask)
{
    return (uint8_t)((old & ~mask) | (value & mask));
}

/* What the field is to be, right-aligned as in set.value: the packet's own where the mask is not set. */
static void merge(const struct dp_action *a, const uint8_t *old, uint8_t *out, unsigned bytes)
{
    const uint8_t *v = a->set.value.raw + FIELD_VALUE_BYTES - bytes;
    const uint8_t *m = a->set.mask.raw + FIELD_VALUE_BYTES - bytes;
    for (unsigned i = 0; i < bytes; i++)
        out[i] = merge8(old[i], v[i], m[i]);
}

/* Bytes of a layer, if they lie in the head. */
static const uint8_t *at(const struct packet *p, uint16_t layer, unsigned offset, unsigned bytes)
{
    if (layer == PACKET_NO_LAYER || layer > p->head_bytes || (unsigned)(p->head_bytes - layer) < offset + bytes)
        return NULL;
    return p->head + layer + offset;
}

static bool is_v6(const struct packet *p)
{
    const uint8_t *ip = at(p, p->l3_at, 0, 1);
    return ip && *ip >> 4 == 6;
}

static uint64_t value_of(const struct dp_action *a)
{
    return field_value_u64(a->set.value);
}

static uint64_t mask_of(const struct dp_action *a)
{
    return field_value_u64(a->set.mask);
}

static bool set_mac(struct packet *p, const struct dp_action *a, const uint8_t *old,
                    bool (*set)(struct packet *, const uint8_t[6]))
{
    uint8_t mac[6];
    if (!old) return false;
    merge(a, old, mac, 6);
    return set(p, mac);
}

static bool set_be32(struct packet *p, const struct dp_action *a, const uint8_t *old,
                     bool (*set)(struct packet *, struct be32))
{
    if (!old) return false;
    uint32_t v, mask = (uint32_t)mask_of(a);
    memcpy(&v, old, sizeof v);
    v = (ENDIAN_BE(32, v) & ~mask) | ((uint32_t)value_of(a) & mask);
    return set(p, be32_make(v));
}

static bool set_be16(struct packet *p, const struct dp_action *a, const uint8_t *old,
                     bool (*set)(struct packet *, struct be16))
{
    struct be16 v;
    if (!old) return false;
    merge(a, old, v.raw, 2);
    return set(p, v);
}

static bool set_in6(struct packet *p, const struct dp_action *a, const uint8_t *old,
                    bool (*set)(struct packet *, const uint8_t[16]))
{
    uint8_t v[16];
    if (!old) return false;
    merge(a, old, v, 16);
    return set(p, v);
}

static bool set_vlan(struct packet *p, const struct dp_action *a, unsigned shift)
{
    const uint8_t *tci = at(p, 12, 2, 2);
    if (!tci) return false;
    uint64_t mask = mask_of(a) << shift & ~(uint64_t)FLOW_VLAN_PRESENT, value = value_of(a) << shift & mask;
    unsigned old = (unsigned)(tci[0] << 8 | tci[1]);
    return packet_set_vlan_tci(p, be16_make((uint16_t)((old & ~mask) | value)));
}

static uint8_t tos_of(const struct packet *p, bool *found)
{
    const uint8_t *ip = at(p, p->l3_at, 0, 2);
    *found = ip != NULL;
    if (!ip) return 0;
    return (uint8_t)(ip[0] >> 4 == 6 ? ip[0] << 4 | ip[1] >> 4 : ip[1]);
}

static bool set_tos(struct packet *p, const struct dp_action *a, unsigned shift)
{
    bool found;
    uint8_t tos = merge8(tos_of(p, &found), (uint8_t)(value_of(a) << shift), (uint8_t)(mask_of(a) << shift));
    if (!found) return false;
    return is_v6(p) ? packet_set_ipv6_class(p, tos) : packet_set_ipv4_tos(p, tos);
}

static bool set_ttl(struct packet *p, const struct dp_action *a)
{
    const uint8_t *old = at(p, p->l3_at, is_v6(p) ? 7 : 8, 1);
    if (!old) return false;
    uint8_t ttl = merge8(*old, (uint8_t)value_of(a), (uint8_t)mask_of(a));
    return is_v6(p) ? packet_set_ipv6_hop_limit(p, ttl) : packet_set_ipv4_ttl(p, ttl);
}

static bool set_label(struct packet *p, const struct dp_action *a)
{
    const uint8_t *ip = at(p, p->l3_at, 0, 4);
    if (!ip) return false;
    uint64_t old = (uint64_t)(ip[1] & 15) << 16 | (uint64_t)ip[2] << 8 | ip[3];
    return packet_set_ipv6_label(p, (uint32_t)((old & ~mask_of(a)) | (value_of(a) & mask_of(a))) & 0xfffff);
}

/* A label entry, or an I-TAG's. */
static bool set_outer_word(struct packet *p, const struct dp_action *a, unsigned shift,
                           bool (*set)(struct packet *, struct be32))
{
    const uint8_t *e = at(p, packet_type_at(p), 2, 4);
    if (!e) return false;
    struct be32 raw;
    memcpy(&raw, e, sizeof raw);
    uint32_t mask = (uint32_t)(mask_of(a) << shift), value = (uint32_t)(value_of(a) << shift) & mask;
    return set(p, be32_make((be32_get(raw) & ~mask) | value));
}

static bool set_icmp(struct packet *p, const struct dp_action *a, unsigned offset,
                     bool (*set)(struct packet *, uint8_t))
{
    const uint8_t *old = at(p, p->l4_at, offset, 1);
    return old && set(p, merge8(*old, (uint8_t)value_of(a), (uint8_t)mask_of(a)));
}

/* The address in the option of that type. */
static const uint8_t *nd_option(const struct packet *p, uint8_t type)
{
    const uint8_t *o;
    for (unsigned offset = 24; (o = at(p, p->l4_at, offset, 8)) && o[1]; offset += o[1] * 8u)
        if (o[0] == type && o[1] == 1) return o + 2;
    return NULL;
}

/* A packet without the option stays as it is. */
static bool set_nd_link(struct packet *p, const struct dp_action *a, uint8_t type,
                        bool (*set)(struct packet *, const uint8_t[6]))
{
    const uint8_t *old = nd_option(p, type);
    if (old) (void)set_mac(p, a, old, set);
    return true;
}

/* Layers anew, after another header has come to be where one was. */
static bool relayer(struct packet *p)
{
    struct flow_key k;
    return extract_key(p, &k) != EXTRACT_INVALID;
}

static bool set_field(struct packet *p, const struct dp_action *a)
{
    const uint16_t l3 = p->l3_at, l4 = p->l4_at;
    switch ((enum field_id)a->field) {
    case FIELD_ETH_DST: return set_mac(p, a, at(p, 0, 0, 6), packet_set_eth_dst);
    case FIELD_ETH_SRC: return set_mac(p, a, at(p, 0, 6, 6), packet_set_eth_src);
    case FIELD_VLAN_VID:
    case FIELD_VLAN_TCI: return set_vlan(p, a, 0);
    case FIELD_VLAN_PCP: return set_vlan(p, a, 13);
    case FIELD_ETH_TYPE: return packet_set_eth_type(p, be16_make((uint16_t)value_of(a))) && relayer(p);
    case FIELD_IP_PROTO: return packet_set_ip_proto(p, (uint8_t)value_of(a)) && relayer(p);
    case FIELD_IP_DSCP: return set_tos(p, a, 2);
    case FIELD_IP_ECN: return set_tos(p, a, 0);
    case FIELD_IP_TTL: return set_ttl(p, a);
    case FIELD_IPV4_SRC: return set_be32(p, a, at(p, l3, 12, 4), packet_set_ipv4_src);
    case FIELD_IPV4_DST: return set_be32(p, a, at(p, l3, 16, 4), packet_set_ipv4_dst);
    case FIELD_IPV6_SRC: return set_in6(p, a, at(p, l3, 8, 16), packet_set_ipv6_src);
    case FIELD_IPV6_DST: return set_in6(p, a, at(p, l3, 24, 16), packet_set_ipv6_dst);
    case FIELD_IPV6_FLABEL: return set_label(p, a);
    case FIELD_TCP_SRC:
    case FIELD_UDP_SRC:
    case FIELD_SCTP_SRC: return set_be16(p, a, at(p, l4, 0, 2), packet_set_port_src);
    case FIELD_TCP_DST:
    case FIELD_UDP_DST:
    case FIELD_SCTP_DST: return set_be16(p, a, at(p, l4, 2, 2), packet_set_port_dst);
    case FIELD_ICMPV4_TYPE:
    case FIELD_ICMPV6_TYPE: return set_icmp(p, a, 0, packet_set_icmp_type);
    case FIELD_ICMPV4_CODE:
    case FIELD_ICMPV6_CODE: return set_icmp(p, a, 1, packet_set_icmp_code);
    case FIELD_ARP_OP: return set_be16(p, a, at(p, l3, 6, 2), packet_set_arp_op);
    case FIELD_ARP_SHA: return set_mac(p, a, at(p, l3, 8, 6), packet_set_arp_sha);
    case FIELD_ARP_SPA: return set_be32(p, a, at(p, l3, 14, 4), packet_set_arp_spa);
    case FIELD_ARP_THA: return set_mac(p, a, at(p, l3, 18, 6), packet_set_arp_tha);
    case FIELD_ARP_TPA: return set_be32(p, a, at(p, l3, 24, 4), packet_set_arp_tpa);
    case FIELD_ND_TARGET: return set_in6(p, a, at(p, l4, 8, 16), packet_set_nd_target);
    case FIELD_ND_SLL: return set_nd_link(p, a, 1, packet_set_nd_sll);
    case FIELD_ND_TLL: return set_nd_link(p, a, 2, packet_set_nd_tll);
    case FIELD_MPLS_LABEL: return set_outer_word(p, a, 12, packet_set_mpls_entry);
    case FIELD_MPLS_TC: return set_outer_word(p, a, 9, packet_set_mpls_entry);
    case FIELD_MPLS_BOS: return set_outer_word(p, a, 8, packet_set_mpls_entry);
    case FIELD_MPLS_TTL: return set_outer_word(p, a, 0, packet_set_mpls_entry);
    case FIELD_PBB_ISID: return set_outer_word(p, a, 0, packet_set_pbb_tci);
    default: return true; /* not in the packet */
    }
}

/* ---- one action ---- */

/* Parsed anew, the label would not be found behind tags that were pushed, and that no key has room for. */
static bool push_mpls(struct packet *p, const struct dp_action *a)
{
    uint16_t type_at = packet_type_at(p);
    if (!packet_push_mpls(p, be16_make(a->eth_type), be32_make(a->entry))) return false;
    p->l3_at = (uint16_t)(type_at + 2);
    p->l4_at = PACKET_NO_LAYER;
    return true;
}

bool execute_change(struct packet *p, const struct dp_action *a)
{
    switch ((enum dp_type)a->type) {
    case DP_SET: return set_field(p, a);
    case DP_PUSH_VLAN:
        return packet_push_vlan(p, be16_make(a->eth_type), be16_make((uint16_t)(a->entry & ~FLOW_VLAN_PRESENT)));
    case DP_POP_VLAN: return packet_pop_vlan(p) && (a->entry == 0 || relayer(p));
    case DP_PUSH_MPLS: return push_mpls(p, a);
    case DP_POP_MPLS: return packet_pop_mpls(p, be16_make(a->eth_type)) && relayer(p);
    case DP_PUSH_PBB: return packet_push_pbb(p, be32_make(a->entry)) && relayer(p);
    case DP_POP_PBB: return packet_pop_pbb(p) && relayer(p);
    case DP_COPY_TTL_OUT: return packet_copy_ttl_out(p) && relayer(p);
    case DP_COPY_TTL_IN: return packet_copy_ttl_in(p) && relayer(p);
    case DP_OUTPUT:
    case DP_CONTROLLER:
    case DP_METER:
    case DP_BRANCH:
    case DP_SELECT:
    case DP_BUCKET:
    case DP_COUNT:
    case DP_RECIRCULATE: break;
    }
    return false;
}

/* ---- meters ---- */

static bool is_ip(const struct packet *p)
{
    const uint8_t *type = p->l3_at == PACKET_NO_LAYER || p->l3_at < 2 ? NULL : at(p, (uint16_t)(p->l3_at - 2), 0, 2);
    if (!type) return false;
    unsigned t = (unsigned)(type[0] << 8 | type[1]);
    return t == 0x0800 || t == 0x86dd;
}

/* What is not IP, or of another class, stays as it is. */
static void remark(struct packet *p, unsigned levels)
{
    bool found;
    uint8_t old = is_ip(p) ? tos_of(p, &found) : 0, tos = meter_raise(old, levels);
    if (tos == old) return;
    (void)(is_v6(p) ? packet_set_ipv6_class(p, tos) : packet_set_ipv4_tos(p, tos));
}

/* The packet as it goes on; NULL: the pool has no room for a copy. */
static struct packet *raised(const struct execute_context *c, struct packet *p, unsigned levels, bool *given)
{
    if (*given) p = packet_clone(c->outbox->pool, p);
    *given = false;
    if (p) remark(p, levels);
    return p;
}

/* ---- all of them ---- */

/* The packet as it goes on; NULL: it does not. */
static struct packet *meet(const struct execute_context *c, struct packet *p, struct meter *m, bool *given)
{
    int raise = meter_pass(c->meters, m, p->length_bytes);
    if (raise == METER_EXCEEDED) return NULL;
    return raise ? raised(c, p, (unsigned)raise, given) : p;
}

/* What bounds everything that goes to controllers, and what goes there because no flow matched. */
static struct packet *meet_special(const struct execute_context *c, struct packet *p, uint8_t reason)
{
    struct meter *slow = reason == 0 ? atomic_load_explicit(&c->bridge->slowpath_meter, memory_order_acquire) : NULL;
    struct meter *all = atomic_load_explicit(&c->bridge->controller_meter, memory_order_acquire);
    bool given = true; /* it goes on elsewhere, too */
    if (slow) p = meet(c, p, slow, &given);
    if (all && p) p = meet(c, p, all, &given);
    return p;
}

static void to_controller(const struct execute_context *c, struct packet *p, const struct dp_action *a)
{
    if (!c->received || !(p = meet_special(c, p, a->in.reason))) return;
    struct packet_in in = {.bridge = c->bridge,
                           .reason = a->in.reason,
                           .table = a->in.table,
                           .cookie = a->from.cookie,
                           .packet = p,
                           .max_len = a->eth_type};
    if (extract_key(p, &in.key) == EXTRACT_INVALID) return;
    in.key.words[0] = 0;
    in.key.in_port = be32_make(c->in_port);
    memcpy(&in.key.metadata, &a->from.metadata, sizeof in.key.metadata);
    c->received(c->arg, &in);
}

#define POOL_LOW (PACKET_POOL_PACKETS / 4 * 3)

/* Its copies are nobody's once the ports have taken them: a group with a thousand buckets has to do with the pool that there is. */
static bool branch(struct execute_context *c, const struct packet *p, const struct dp_action *a, unsigned count)
{
    struct packet_pool *pool = c->outbox->pool;
    struct packet_pool_mark mark = packet_pool_mark(pool);
    struct packet *copy = packet_clone(pool, p);
    bool done = copy && execute(c, copy, a, count);
    if (packet_pool_mark(pool).packets >= POOL_LOW) {
        outbox_flush(c->outbox);
        packet_pool_rewind(pool, mark);
    }
    return done;
}

/* ---- choices ---- */

void execute_count(const struct execute_context *c, const struct dp_action *a)
{
    if (!c->sums) {
        counts_add((struct counted){a->bucket.in, a->bucket.at}, 1, c->length_bytes);
        return;
    }
    c->sums[a->bucket.sum].packets++;
    c->sums[a->bucket.sum].bytes += c->length_bytes;
}

/* given: a port has the packet, or has it now. last: nothing is done with it afterwards. */
static bool choose(struct execute_context *c, struct packet *p, const struct dp_action *select, bool last, bool *given)
{
    const struct dp_action *k = choose_bucket(select, choose_hash(select->select.group, p));
    const struct dp_action *actions = choose_actions(select, k);
    execute_count(c, k);
    if (k->field & DP_BUCKET_CHANGES && (*given || !last)) return branch(c, p, actions, k->count);
    bool nothing = k->count == 0 && last && !*given;
    *given = true;
    return execute(c, p, actions, k->count) && !nothing;
}

bool execute(struct execute_context *c, struct packet *p, const struct dp_action *a, unsigned count)
{
    bool done = true;
    bool given = false; /* a port has it: it may not be changed */
    for (unsigned i = 0; i < count; i++) {
        if (a[i].type == DP_OUTPUT) {
            outbox_put(c->outbox, a[i].to, p);
            given = true;
        } else if (a[i].type == DP_CONTROLLER) {
            to_controller(c, p, &a[i]);
        } else if (a[i].type == DP_BRANCH) {
            done &= branch(c, p, &a[i] + 1, a[i].count);
            i += a[i].count;
        } else if (a[i].type == DP_SELECT) {
            done &= choose(c, p, &a[i], i + a[i].count + 1 == count, &given);
            i += a[i].count;
        } else if (a[i].type == DP_COUNT) {
            execute_count(c, &a[i]);
        } else if (a[i].type == DP_METER) {
            int raise = meter_pass(c->meters, a[i].meter, p->length_bytes);
            if (raise == METER_EXCEEDED) {
                c->exceeded = &a[i];
                return false;
            }
            if (raise && !(p = raised(c, p, (unsigned)raise, &given))) return false;
        } else {
            if (given) p = packet_clone(c->outbox->pool, p);
            given = false;
            if (!p || !execute_change(p, &a[i])) return false;
        }
    }
    return done;
}
