/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which queue a frame goes to where the guest says so itself: the Toeplitz hash of addresses and ports (Xen's public io/netif.h), and a
 * table from hashes to queues. Also told to the guest, with the frame.
 *
 * The hash of n bytes is the XOR of what each byte contributes at its place: a table for each place, made when the key changes.
 */
#include <stdlib.h>
#include <string.h>

#include "packet/parse.h"
#include "vif/netif_impl.h"

#define PLACES 36u /* IPv6 addresses and ports */
#define IP_TCP 6u

struct netif_hash {
    uint32_t flags, mapping_count;
    uint32_t mapping[NETIF_HASH_MAPPING_MAX];
    uint32_t part[PLACES][256];
};

/* 32 bits of the key from bit `at` on; there are zeros behind it. */
static uint32_t key_bits(const uint8_t *key, unsigned at)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < 5; i++)
        v = v << 8 | (at / 8 + i < NETIF_HASH_KEY_MAX ? key[at / 8 + i] : 0);
    return (uint32_t)(v >> (8 - at % 8));
}

struct netif_hash *netif_hash_new(const struct netif_hash_settings *s)
{
    struct netif_hash *h = malloc(sizeof *h);
    if (!h) return NULL;
    h->flags = s->flags;
    h->mapping_count = s->mapping_count;
    memcpy(h->mapping, s->mapping, sizeof h->mapping);
    for (unsigned place = 0; place < PLACES; place++)
        for (unsigned byte = 0; byte < 256; byte++) {
            uint32_t v = 0;
            for (unsigned bit = 0; bit < 8; bit++)
                if (byte << bit & 0x80) v ^= key_bits(s->key, place * 8 + bit);
            h->part[place][byte] = v;
        }
    return h;
}

static uint32_t toeplitz(const struct netif_hash *h, const uint8_t *bytes, unsigned from, unsigned n)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v ^= h->part[from + i][bytes[i]];
    return v;
}

struct netif_hashed netif_hash_of(const struct netif_hash *h, const struct packet *p)
{
    struct packet_layers l = packet_parse(p);
    struct netif_hashed none = {0};
    if (l.l3_at == PACKET_NO_LAYER || l.encapsulated || (l.version != 4 && l.version != 6)) return none;
    bool v4 = l.version == 4;
    unsigned address_at = l.l3_at + (v4 ? 12u : 8u), bytes = v4 ? 8 : 32;
    bool tcp = !l.fragment && l.proto == IP_TCP && l.payload_at != PACKET_NO_LAYER &&
               h->flags & (v4 ? NETIF_HASH_IPV4_TCP : NETIF_HASH_IPV6_TCP);
    if (!tcp && !(h->flags & (v4 ? NETIF_HASH_IPV4 : NETIF_HASH_IPV6))) return none;
    uint32_t v = toeplitz(h, p->head + address_at, 0, bytes);
    if (tcp) v ^= toeplitz(h, p->head + l.l4_at, bytes, 4);
    return (struct netif_hashed){.there = true, .type = (uint8_t)((v4 ? 0 : 2) + tcp), .value = v};
}

unsigned netif_hash_queue(const struct netif_hash *h, struct netif_hashed v, unsigned queues)
{
    return (h->mapping_count ? h->mapping[v.value % h->mapping_count] : v.value) % queues;
}
