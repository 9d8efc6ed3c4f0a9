/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of what is before IP: Ethernet addresses, VLAN tags, I-TAGs, MPLS labels. */
#include "packet/edit.h"
#include "packet/edit_internal.h"
#include "packet/wire.h"

#include "base/checked.h"

#define MPLS_TTL_AT 3u /* in an entry */

/* n bytes at frame byte `at`, or NULL where the head does not have them. */
static void *head_at(const struct packet *p, uint32_t at, uint32_t n)
{
    return range_fits(at, n, p->head_bytes) ? p->head + at : NULL;
}

static bool set_bytes(struct packet *p, uint32_t at, const void *bytes, uint32_t n)
{
    void *field = head_at(p, at, n);
    if (!field) return false;
    memcpy(field, bytes, n);
    return true;
}

static uint16_t type_of(const struct packet *p, uint32_t at)
{
    const struct be16 *type = head_at(p, at, sizeof *type);
    return type ? be16_get(*type) : 0;
}

uint16_t packet_type_at(const struct packet *p)
{
    uint16_t at = ETH_TYPE_AT;
    while (at + 2u < p->l3_at && eth_type_is_vlan(type_of(p, at)))
        at += VLAN_TAG_BYTES;
    return at;
}

bool packet_set_eth_dst(struct packet *p, const uint8_t mac[6])
{
    return set_bytes(p, 0, mac, 6);
}

bool packet_set_eth_src(struct packet *p, const uint8_t mac[6])
{
    return set_bytes(p, 6, mac, 6);
}

bool packet_set_eth_type(struct packet *p, struct be16 type)
{
    return set_bytes(p, packet_type_at(p), &type, sizeof type);
}

bool packet_push_vlan(struct packet *p, struct be16 tpid, struct be16 tci)
{
    if (p->head_bytes < ETH_HEADER_BYTES || !packet_insert(p, ETH_TYPE_AT, VLAN_TAG_BYTES)) return false;
    struct wire_vlan tag = {tpid, tci};
    return set_bytes(p, ETH_TYPE_AT, &tag, sizeof tag);
}

static struct wire_vlan *outer_vlan(const struct packet *p)
{
    return eth_type_is_vlan(type_of(p, ETH_TYPE_AT)) ? head_at(p, ETH_TYPE_AT, sizeof(struct wire_vlan)) : NULL;
}

bool packet_pop_vlan(struct packet *p)
{
    return outer_vlan(p) && packet_remove(p, ETH_TYPE_AT, VLAN_TAG_BYTES);
}

bool packet_set_vlan_tci(struct packet *p, struct be16 tci)
{
    struct wire_vlan *tag = outer_vlan(p);
    if (tag) tag->tci = tci;
    return tag;
}

bool packet_push_pbb(struct packet *p, struct be32 tci)
{
    if (p->head_bytes < ETH_HEADER_BYTES || !packet_insert(p, ETH_TYPE_AT, PBB_TAG_BYTES)) return false;
    struct wire_pbb tag = {.type = be16_make(ETH_TYPE_PBB), .tci = tci};
    memcpy(tag.customer_dst, p->head, 6);
    memcpy(tag.customer_src, p->head + 6, 6);
    return set_bytes(p, ETH_TYPE_AT, &tag, sizeof tag);
}

/* The I-TAG, which may stand behind VLAN tags of the backbone. */
static struct wire_pbb *outer_pbb(const struct packet *p, uint16_t *at)
{
    *at = packet_type_at(p);
    return type_of(p, *at) == ETH_TYPE_PBB ? head_at(p, *at, sizeof(struct wire_pbb)) : NULL;
}

bool packet_pop_pbb(struct packet *p)
{
    uint16_t at;
    const struct wire_pbb *tag = outer_pbb(p, &at);
    if (!tag) return false;
    memcpy(p->head, tag->customer_dst, 6);
    memcpy(p->head + 6, tag->customer_src, 6);
    return packet_remove(p, at, PBB_TAG_BYTES);
}

bool packet_set_pbb_tci(struct packet *p, struct be32 tci)
{
    uint16_t at;
    struct wire_pbb *tag = outer_pbb(p, &at);
    if (tag) tag->tci = tci;
    return tag;
}

bool packet_push_mpls(struct packet *p, struct be16 type, struct be32 entry)
{
    uint16_t at = packet_type_at(p);
    if (!head_at(p, at, 2) || !packet_insert(p, (uint16_t)(at + 2), MPLS_LABEL_BYTES)) return false;
    return set_bytes(p, at, &type, sizeof type) && set_bytes(p, at + 2u, &entry, sizeof entry);
}

/* The outermost entry; *at is of the type before it. */
static struct be32 *outer_mpls(const struct packet *p, uint16_t *at)
{
    *at = packet_type_at(p);
    return eth_type_is_mpls(type_of(p, *at)) ? head_at(p, *at + 2u, MPLS_LABEL_BYTES) : NULL;
}

bool packet_pop_mpls(struct packet *p, struct be16 type)
{
    uint16_t at;
    if (!outer_mpls(p, &at)) return false;
    set_bytes(p, at, &type, sizeof type);
    return packet_remove(p, (uint16_t)(at + 2), MPLS_LABEL_BYTES);
}

bool packet_set_mpls_entry(struct packet *p, struct be32 entry)
{
    uint16_t at;
    struct be32 *outer = outer_mpls(p, &at);
    if (outer) *outer = entry;
    return outer;
}

bool packet_set_mpls_ttl(struct packet *p, uint8_t ttl)
{
    uint16_t at;
    struct be32 *outer = outer_mpls(p, &at);
    if (outer) outer->raw[MPLS_TTL_AT] = ttl;
    return outer;
}

bool packet_dec_mpls_ttl(struct packet *p)
{
    uint16_t at;
    struct be32 *outer = outer_mpls(p, &at);
    if (!outer || outer->raw[MPLS_TTL_AT] <= 1) return false;
    outer->raw[MPLS_TTL_AT]--;
    return true;
}

bool packet_copy_ttl_out(struct packet *p)
{
    uint16_t at;
    struct be32 *outer = outer_mpls(p, &at);
    if (!outer) return false;
    uint32_t below = at + 2u + MPLS_LABEL_BYTES;
    if (be32_get(*outer) & MPLS_BOTTOM) {
        int ttl = packet_ip_ttl_get(p, below);
        if (ttl >= 0) outer->raw[MPLS_TTL_AT] = (uint8_t)ttl;
        return ttl >= 0;
    }
    const struct be32 *inner = head_at(p, below, sizeof *inner);
    if (inner) outer->raw[MPLS_TTL_AT] = inner->raw[MPLS_TTL_AT];
    return inner;
}

bool packet_copy_ttl_in(struct packet *p)
{
    uint16_t at;
    const struct be32 *outer = outer_mpls(p, &at);
    if (!outer) return false;
    uint8_t ttl = outer->raw[MPLS_TTL_AT];
    uint32_t below = at + 2u + MPLS_LABEL_BYTES;
    if (be32_get(*outer) & MPLS_BOTTOM) return packet_ip_ttl_set(p, below, ttl);
    struct be32 *inner = head_at(p, below, sizeof *inner);
    if (inner) inner->raw[MPLS_TTL_AT] = ttl;
    return inner;
}
