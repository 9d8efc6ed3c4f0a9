/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/choose.h"

#include "switch/extract.h"
#include "switch/group_internal.h"

enum { TYPE_IPV4 = 0x0800, TYPE_ARP = 0x0806, TYPE_IPV6 = 0x86dd, IP_TCP = 6, IP_UDP = 17, IP_SCTP = 132 };

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
    choose_fields(k, &m);
    uint64_t h = choose_mix(id, k->nw_frag ? 0 : m.nw_proto & k->nw_proto); /* IPv6's later fragments have another */
    for (unsigned i = 0; i < FLOW_KEY_PACKET_WORDS; i++) {
        used->words[i] |= m.words[i];
        if (m.words[i] && i != 7)
            h = choose_mix(h, k->words[i] & m.words[i]); /* 7: which fragment it is must not matter */
    }
    return choose_mix(h, 0);
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

/* Words of a key, as they lie in memory: the first bytes of one are its lowest where the processor's are. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FIRST(bytes) (UINT64_MAX >> (8 * (8 - (bytes))))
#else
#define FIRST(bytes) (UINT64_MAX << (8 * (8 - (bytes))))
#endif

static uint64_t load(const uint8_t *from)
{
    uint64_t w;
    memcpy(&w, from, sizeof w);
    return w;
}

/* Bytes 12 and 13 behind the first 6. */
static uint64_t dst_and_type(const uint8_t *head)
{
    return (load(head) & FIRST(6)) | (load(head + 6) & ~FIRST(6));
}

/* Ethernet without a tag, an IP header of that many bytes, addresses in it from `at` on, and ports behind it. */
static inline uint64_t hash_plain(uint64_t h, const uint8_t *head, unsigned at, unsigned words, unsigned l4)
{
    uint64_t ports = load(head + l4) & FIRST(4);
    h = choose_mix(h, dst_and_type(head));
    h = choose_mix(h, load(head + 6) & FIRST(6));
    h = choose_mix(h, 0);
    if (words > 1) h = choose_mix(h, ports); /* in the order of the key's words */
    for (unsigned i = 0; i < words; i++)
        h = choose_mix(h, load(head + at + 8 * i));
    if (words == 1) h = choose_mix(h, ports);
    return choose_mix(h, 0);
}

static uint64_t hash_parsed(uint32_t group, struct packet *p)
{
    struct flow_key k, unused = {0};
    uint16_t l3 = p->l3_at, l4 = p->l4_at; /* what pushed a header has set them better than this would */
    if (extract_key(p, &k) == EXTRACT_INVALID) memset(&k, 0, sizeof k);
    p->l3_at = l3;
    p->l4_at = l4;
    return group_hash(group, &k, &unused);
}

void choose_hash_all(uint32_t group, uint32_t word, struct packet *const *packets, unsigned count, uint64_t *hashes)
{
    uint64_t h = choose_mix(group, word >> 8 & 0xff);
    bool ports = word & 0xff00; /* TCP's or UDP's, and no fragment's (extract_simple_word()) */
    if (ports && word >> 16 == TYPE_IPV4) {
        for (unsigned i = 0; i < count; i++)
            hashes[i] = hash_plain(h, packets[i]->head, 26, 1, 34);
    } else if (ports && word >> 16 == TYPE_IPV6) {
        for (unsigned i = 0; i < count; i++)
            hashes[i] = hash_plain(h, packets[i]->head, 22, 4, 54);
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
    choose_hash_all(group, word, &p, 1, &hash);
    return hash;
}
