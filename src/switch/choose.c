/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/choose.h"

#include "switch/extract.h"
#include "switch/group_internal.h"

enum { TYPE_IPV4 = 0x0800, TYPE_ARP = 0x0806, TYPE_IPV6 = 0x86dd, IP_TCP = 6, IP_UDP = 17, IP_SCTP = 132 };

#define ETH_BYTES 14u

/* ---- the hash ---- */

/* Products of two words each, none of which waits for another, and one of their sum. A word that equals its constant takes its
 * partner out of the hash: of the first three no frame has one, for its source would be a multicast address. */
#define DST_MAC UINT64_C(0x5fffa761d647ff64) /* and 2 bytes of the source's */
#define SRC_MAC UINT64_C(0xff037ed1a0b428ff)
#define ADDRESS_0 UINT64_C(0xff6ee9f5d4a3c1ff)
#define ADDRESS_1 UINT64_C(0x8ebc6af09c88c6e3)
#define ADDRESS_2 UINT64_C(0x589965cc75374cc3)
#define ADDRESS_3 UINT64_C(0x1d8e4e27c47d124f)

static uint64_t load(const void *from)
{
    uint64_t w;
    memcpy(&w, from, sizeof w);
    return w;
}

static uint64_t seed_of(uint32_t group, uint8_t proto, uint64_t vlan)
{
    return choose_mix(choose_mix(group, proto), vlan);
}

/* head: as it would be without tags. addresses: so many words. ports: 4 bytes. */
static inline uint64_t hash_bytes(uint64_t seed, const uint8_t *head, const void *addresses, unsigned words,
                                  const void *ports)
{
    const uint8_t *a = addresses;
    uint32_t p;
    memcpy(&p, ports, sizeof p);
    uint64_t h = choose_fold(load(head) ^ DST_MAC, load(head + 6) ^ SRC_MAC);
    h += choose_fold(load(a) ^ ADDRESS_0, p ^ seed);
    if (words == 4) {
        h += choose_fold(load(a + 8) ^ ADDRESS_1, load(a + 16) ^ ADDRESS_2);
        h += choose_fold(load(a + 24) ^ ADDRESS_3, seed);
    }
    return choose_mix(h, 0);
}

/* ---- of a key ---- */

/* Of a fragment the ports are not taken, which only the first one has. */
void choose_fields(const struct flow_key *k, struct flow_key *m)
{
    unsigned type = be16_get(k->eth_type);
    memset(m->eth_dst, 0xff, sizeof m->eth_dst);
    memset(m->eth_src, 0xff, sizeof m->eth_src);
    memset(&m->eth_type, 0xff, sizeof m->eth_type);
    m->vlan[0].tci = be16_make(FLOW_VLAN_PRESENT | 0xfff);
    if (type == TYPE_IPV4 || type == TYPE_ARP) m->words[6] = UINT64_MAX;
    if (type == TYPE_IPV6) m->words[9] = m->words[10] = m->words[11] = m->words[12] = UINT64_MAX;
    if (type != TYPE_IPV4 && type != TYPE_IPV6) return;
    m->nw_proto = m->nw_frag = 0xff;
    if (k->nw_frag || (k->nw_proto != IP_TCP && k->nw_proto != IP_UDP && k->nw_proto != IP_SCTP)) return;
    memset(&m->tp_src, 0xff, sizeof m->tp_src);
    memset(&m->tp_dst, 0xff, sizeof m->tp_dst);
}

uint64_t group_hash(uint32_t id, const struct flow_key *k, struct flow_key *used)
{
    struct flow_key m = {0};
    uint8_t head[ETH_BYTES];
    choose_fields(k, &m);
    for (unsigned i = 0; i < FLOW_KEY_PACKET_WORDS; i++) {
        used->words[i] |= m.words[i];
        m.words[i] &= k->words[i];
    }
    memcpy(head, m.eth_dst, 6);
    memcpy(head + 6, m.eth_src, 6);
    memcpy(head + 12, &m.eth_type, 2);
    uint8_t proto = k->nw_frag ? 0 : m.nw_proto; /* IPv6's later fragments have another */
    bool ipv6 = be16_get(k->eth_type) == TYPE_IPV6;
    const void *addresses = ipv6 ? (const void *)m.ipv6_src : &m.ipv4_src;
    return hash_bytes(seed_of(id, proto, m.words[3]), head, addresses, ipv6 ? 4 : 1, &m.tp_src);
}

/* The bucket at that point of the sum of weights (alive: NULL, or whose weights count). -1: there is none. */
static int at_point(const struct group_spec *g, uint64_t hash, const bool *alive)
{
    uint64_t all = 0, at = 0;
    for (unsigned i = 0; i < g->count; i++)
        all += !alive || alive[i] ? g->buckets[i].weight : 0;
    uint64_t point = choose_point(hash, all);
    for (unsigned i = 0; i < g->count; i++) {
        at += !alive || alive[i] ? g->buckets[i].weight : 0;
        if (point < at) return (int)i;
    }
    return -1;
}

int group_choose(const struct group_spec *g, uint64_t hash, bool (*is_alive)(void *arg, const struct group_bucket *k),
                 void *arg)
{
    bool alive[GROUP_BUCKETS_MAX];
    int i = at_point(g, hash, NULL);
    if (i < 0 || is_alive(arg, &g->buckets[i])) return i;
    for (unsigned j = 0; j < g->count; j++)
        alive[j] = g->buckets[j].weight && is_alive(arg, &g->buckets[j]);
    return at_point(g, choose_mix(hash, 1), alive);
}

/* ---- of a packet's bytes ---- */

static uint64_t hash_parsed(uint32_t group, struct packet *p)
{
    struct flow_key k, unused = {0};
    uint16_t l3 = p->l3_at, l4 = p->l4_at; /* what pushed a header has set them better than this would */
    if (extract_key(p, &k) == EXTRACT_INVALID) memset(&k, 0, sizeof k);
    p->l3_at = l3;
    p->l4_at = l4;
    return group_hash(group, &k, &unused);
}

static void hash_all(uint32_t group, uint32_t word, struct packet *const *packets, unsigned count, uint64_t *hashes)
{
    uint64_t seed = seed_of(group, word >> 8 & 0xff, 0);
    bool ports = word & 0xff00; /* TCP's or UDP's, and no fragment's (extract_simple_word()) */
    if (ports && word >> 16 == TYPE_IPV4) {
        for (unsigned i = 0; i < count; i++)
            hashes[i] = hash_bytes(seed, packets[i]->head, packets[i]->head + 26, 1, packets[i]->head + 34);
    } else if (ports && word >> 16 == TYPE_IPV6) {
        for (unsigned i = 0; i < count; i++)
            hashes[i] = hash_bytes(seed, packets[i]->head, packets[i]->head + 22, 4, packets[i]->head + 54);
    } else {
        for (unsigned i = 0; i < count; i++)
            hashes[i] = hash_parsed(group, packets[i]);
    }
}

uint64_t choose_hash(uint32_t group, struct packet *p)
{
    uint64_t hash;
    uint16_t l3 = p->l3_at, l4 = p->l4_at;
    uint32_t word = extract_simple_word(p);
    p->l3_at = l3;
    p->l4_at = l4;
    if (!word) return hash_parsed(group, p);
    hash_all(group, word, &p, 1, &hash);
    return hash;
}

void choose_spread_all(const struct dp_spread *s, const struct dp_action *select, uint32_t word,
                       struct packet *const *packets, unsigned count, uint8_t *buckets)
{
    uint64_t hashes[PACKET_BATCH];
    hash_all(select->select.group, word, packets, count, hashes);
    if (s->even && s->alive) {
        for (unsigned i = 0; i < count; i++)
            buckets[i] = (uint8_t)choose_point(hashes[i], s->buckets);
    } else {
        for (unsigned i = 0; i < count; i++)
            buckets[i] = (uint8_t)choose_spread(s, select, hashes[i]);
    }
}
