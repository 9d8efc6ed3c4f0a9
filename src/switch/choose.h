/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which bucket of a select group a packet takes: by a hash of its addresses and, of what is no fragment, its ports; where that falls to
 * in the sum of the buckets' weights.
 *
 *     | bucket 0, weight 1 | bucket 1, weight 2                     | bucket 2, weight 1 |
 *     0                    ^ hash * 4 / 2^64                                             4
 *
 * All buckets first: if the one that it falls to is dead, those that are alive, by another hash. So the packets of a bucket that is alive
 * stay where they are when another one dies.
 *
 * Translation asks for a key (group_hash(), group_choose() in group_internal.h), or leaves it to each packet (DP_SELECT in dp.h), whose
 * bytes are hashed then: the same function, so the same bucket.
 *
 * Thread-safety: none is needed.
 */
#ifndef SWITCH_CHOOSE_H
#define SWITCH_CHOOSE_H

#include "packet/packet.h"
#include "switch/dp.h"
#include "switch/key.h"

/* Counts that a list keeps beside it, of its thread: handed on with those of its megaflows. */
struct dp_sum {
    uint64_t packets, bytes;
};

#define SPREAD_DROP DP_BUCKETS_MAX /* instead of a port */
#define SPREAD_DEAD 255u

/* A list that is nothing but a choice between ports, made ready for bursts. */
struct dp_spread {
    bool even;  /* all buckets have the same weight */
    bool alive; /* all of them are */
    unsigned buckets, ports;
    uint8_t port[DP_BUCKETS_MAX]; /* of each bucket: which one of to */
    struct port *to[DP_BUCKETS_MAX];
    struct port *only; /* where whichever bucket is chosen has this one; else NULL */
};

static inline uint64_t choose_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static inline uint64_t choose_mix(uint64_t h, uint64_t v)
{
    return choose_fold(h ^ (v ^ UINT64_C(0x9e3779b97f4a7c15)), UINT64_C(0xd6e8feb86659fd93));
}

/* Where a hash falls to in a sum of weights. */
static inline uint64_t choose_point(uint64_t hash, uint64_t weights)
{
    return (uint64_t)((unsigned __int128)hash * weights >> 64);
}

/* The fields that are hashed, as bits that are set in m. */
void choose_fields(const struct flow_key *k, struct flow_key *m);
/* Of a packet, as group_hash() of its key. */
uint64_t choose_hash(uint32_t group, struct packet *p);
/* The buckets of packets, at most PACKET_BATCH, that have this word of extract_simple_word(), which is not 0: as choose_spread(). */
void choose_spread_all(const struct dp_spread *s, const struct dp_action *select, uint32_t word,
                       struct packet *const *packets, unsigned count, uint8_t *buckets);

/* No branches: nobody could foretell them. */
static inline const struct dp_action *choose_by_weight(const struct dp_action *buckets, unsigned count, uint64_t point)
{
    for (unsigned half; count > 1; count -= half) {
        half = count / 2;
        buckets += half & -(unsigned)(buckets[half - 1].bucket.end <= point);
    }
    return buckets;
}

static inline const struct dp_action *choose_alive(const struct dp_action *select, uint64_t hash)
{
    const struct dp_action *k = select + 1;
    uint64_t point = choose_point(choose_mix(hash, 1), select->select.weights_alive);
    while (k->bucket.end_alive <= point)
        k++;
    return k;
}

/* The bucket; one that is alive is there. */
static inline const struct dp_action *choose_bucket(const struct dp_action *select, uint64_t hash)
{
    const struct dp_action *k =
        choose_by_weight(select + 1, select->select.buckets, choose_point(hash, select->select.weights));
    return __builtin_expect(k->field & DP_BUCKET_ALIVE, true) ? k : choose_alive(select, hash);
}

/* Its number among those of the select, which is all of the list. With even weights: the same, by floor(floor(xnw) / w) = floor(xn). */
static inline unsigned choose_spread(const struct dp_spread *s, const struct dp_action *select, uint64_t hash)
{
    unsigned i = s->even
                     ? (unsigned)choose_point(hash, s->buckets)
                     : (unsigned)(choose_by_weight(select + 1, s->buckets, choose_point(hash, select->select.weights)) -
                                  (select + 1));
    if (__builtin_expect(s->port[i] != SPREAD_DEAD, true)) return i;
    return (unsigned)(choose_alive(select, hash) - (select + 1));
}

/* What is done with a packet that takes it. */
static inline const struct dp_action *choose_actions(const struct dp_action *select, const struct dp_action *bucket)
{
    return select + bucket->bucket.first;
}

#endif
