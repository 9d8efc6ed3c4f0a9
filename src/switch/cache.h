/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a runner thread remembers of translations: three caches, of its own, without locks.
 *
 *     one word per megaflow that looks at nothing but type, protocol and fragment bits ("simple"): no hash, no key
 *     exact-match cache: all of the key -> megaflow; keys of untagged or tagged IPv4 only, a cache line each
 *     hints: a byte for each of many hashes of all of the key: in which subtable it was found last; wrong ones cost a probe
 *     megaflows: subtables, one per mask and input port; a hash table over the words that the mask looks at
 *
 * Subtables belong to an input port (every megaflow looks at it), so masks that one port's traffic creates cost the others
 * nothing; over a port's limit of masks further megaflows of it get its full mask. Those that are hit
 * most are probed first. All packets of a burst are hashed and prefetched before the first is compared.
 *
 * A hash finds, the full key decides. A megaflow that is found has to be validated (cache_is_valid()) before it is obeyed.
 *
 * Thread-safety: a cache belongs to its thread, or to who holds that.
 */
#ifndef SWITCH_CACHE_H
#define SWITCH_CACHE_H

#include "switch/change.h"
#include "switch/counts.h"
#include "switch/dp.h"
#include "switch/quota.h"
#include "switch/table.h"

#define CACHE_SIMPLE 8u /* per port */
#define CACHE_PORT_CHAINS 64u
#define CACHE_HINTS (1u << 17)
#define CACHE_HINTED 256u /* masks of a port that hints can name; 0 is none */
#define CACHE_PATHS 64u   /* that new megaflows are compared with */

/* Actions, shared by all megaflows that have the same. */
struct dp_list {
    struct dp_list *next; /* of its chain */
    uint64_t hash;
    unsigned refs, count;
    struct port *single;  /* it is nothing but one output; else NULL */
    struct port *metered; /* it is a meter and one output; else NULL */
    bool again;           /* it ends with a DP_RECIRCULATE */
    unsigned sum_count;
    struct dp_sum *sums; /* of its buckets, not handed on yet; behind the actions */
    struct dp_spread
        *spread; /* it is a choice of buckets that output to one port, or drop; else NULL. Behind the sums */
    struct dp_action actions[];
};

/* One of a path's meters, and what it dropped of packets that were counted on the path, or are to be. Not handed on yet. */
struct path_meter {
    struct count_mark before;
    uint64_t packets, bytes;
};

/* The way through the tables, shared by megaflows that came along it. Whatever is added here has to be compared, too (path_is()
 * in cache_share.c). */
struct megaflow_path {
    unsigned refs;
    uint8_t slot; /* in paths, if it is there */
    bool refresh, again;
    uint16_t tables; /* how many were consulted */
    struct table_misses misses;
    struct change_deps deps; /* but for the addresses */
    /* What was counted on it and not handed on yet (cache_hand_on()). */
    struct megaflow_path *next; /* that has something */
    struct table_counters *counters;
    uint64_t packets, bytes, used_ns;
    size_t size; /* of itself, in memory */
    unsigned flow_count, counted_count, meter_count;
    struct counted *counted;   /* of groups and their buckets, with references; behind the flows */
    struct path_meter *meters; /* but for those after which nothing is counted; behind these */
    struct flow *flows[];      /* that count packets; with a reference each */
};

/* Half a cache line, then the words of its masked key. */
struct megaflow {
    uint64_t valid_at; /* true up to this change */
    uint64_t bytes;
    uint32_t packets; /* since the last fold */
    uint32_t generation : 31;
    uint32_t watches_mac : 1;
    struct dp_list *list;
    uint64_t key[];
};

#define MEGAFLOW_LINES_MAX ((sizeof(struct megaflow) + (FLOW_KEY_PACKET_WORDS - 1) * 8 + 63) / 64)

/* What the packet path does not touch; by the same line number. A cache line. */
struct megaflow_cold {
    struct subtable *table; /* NULL: not in use */
    struct megaflow_path *path;
    uint64_t mac_src, mac_dst; /* of its dependencies */
    uint64_t used_ns, packets, bytes;
    uint32_t sig;
    bool used; /* since the last sweep, whoever folded in between */
};

struct subtable {
    struct subtable *next; /* of its port, most used first */
    struct cache_port *port;
    uint64_t mask_sum; /* of whole: others are told apart by it */
    uint8_t words;
    uint8_t id; /* for hints; 0: none */
    uint8_t index[FLOW_KEY_PACKET_WORDS];
    uint64_t mask[FLOW_KEY_PACKET_WORDS]; /* of these words; in_port's is not among them: its port says that */
    struct bucket *buckets;
    uint32_t bucket_mask, bucket_count; /* half of the buckets that the mask is for, or more */
    uint32_t bucket_most, bucket_ready; /* that there may be, that are in memory */
    unsigned count;
    uint64_t hits;
    bool simple; /* it looks at type, protocol and fragment bits only */
    struct flow_key whole;
};

struct cache_port {
    struct cache_port *next;
    union {
        uint64_t word0; /* in_port and bridge, as in a key */
        struct be32 in_port;
    };
    struct table_counters *counters; /* its bridge's; NULL: nobody counts */
    unsigned masks, simple_count;
    struct {
        uint32_t word, line;
    } simple[CACHE_SIMPLE];
    struct subtable *tables, *full;
    struct subtable *recent; /* had the last new megaflow; may be NULL */
    struct subtable *by_id[CACHE_HINTED];
    /* Is the exact-match cache worth it? */
    uint32_t exact_tried, exact_hit, exact_pause;
    struct quota quota; /* of its new flows */
};

struct exact_entry {
    uint64_t key[7];
    uint32_t line, generation; /* line 0: empty */
};

struct cache_stats {
    uint64_t emc_hits, megaflow_hits;
    uint64_t expired, evicted;
    unsigned megaflows, masks;
};

struct cache {
    struct switch_config_cache {
        unsigned megaflows_max, masks_max, emc_entries;
        bool evict; /* when full, instead of making none */
    } config;
    uint64_t seed[8];
    uint8_t *lines; /* megaflows, by line number */
    struct megaflow_cold *cold;
    uint32_t lines_max, lines_used;
    uint32_t lines_ready;                  /* in memory */
    uint32_t free[MEGAFLOW_LINES_MAX + 1]; /* by size in lines; chained through valid_at */
    struct exact_entry *exact;
    uint8_t *hints;
    struct cache_port *ports[CACHE_PORT_CHAINS];
    struct dp_list **lists;
    unsigned list_count, list_mask;
    uint64_t shared_bytes;                    /* of lists and paths */
    struct dp_list *recent;                   /* of the last new megaflow; may be NULL */
    struct megaflow_path *counting;           /* paths that have something to hand on */
    struct megaflow_path *paths[CACHE_PATHS]; /* by what is in them; a newer one takes an older one's place */
    uint8_t recent_path;                      /* in paths: what was asked for last */
    uint32_t sweep_at;                        /* next line to look at; 0: no sweep under way */
    uint64_t sweep_ns;                        /* when the last one began */
    uint64_t now_ns;                          /* as last told */
    uint32_t victim;
    uint32_t number; /* the last one of cache_number() */
    struct cache_stats stats;
};

/* 0 or -ENOMEM. Memory is touched when it is used. */
int cache_init(struct cache *c, const struct switch_config_cache *config);
void cache_destroy(struct cache *c);

/* NULL: no memory. */
struct cache_port *cache_port_get(struct cache *c, uint64_t word0);
/* A number that no recirculation has (recirculate.h). */
uint32_t cache_number(struct cache *c);
/* Megaflows that count for a flow of the port, or output to it, go. */
void cache_forget_port(struct cache *c, uint64_t word0);

static inline struct megaflow *cache_megaflow(const struct cache *c, uint32_t line)
{
    return (struct megaflow *)(void *)(c->lines + (size_t)line * 64);
}

/* A key's word for the simple cache. */
static inline uint32_t cache_simple_word(const struct flow_key *k)
{
    return (uint32_t)be16_get(k->eth_type) << 16 | (uint32_t)k->nw_proto << 8 | k->nw_frag;
}

/* 0: not there. */
static inline uint32_t cache_simple_find(const struct cache_port *p, uint32_t word)
{
    for (unsigned i = 0; i < p->simple_count; i++)
        if (p->simple[i].word == word) return p->simple[i].line;
    return 0;
}

/* For each of count keys the line of its megaflow, or 0. is_short: bit i says that key i has words 0 to 3 and 6 to 8 only. */
void cache_lookup(struct cache *c, struct cache_port *p, const struct flow_key *const *keys, unsigned count,
                  uint32_t is_short, uint32_t *lines);

struct cache_add {
    const struct flow_key *key, *mask;
    const struct dp_action *actions;
    unsigned action_count;
    struct flow *const *flows;
    unsigned flow_count, tables;
    const struct table_misses *misses;
    const struct counted *counted;
    unsigned counted_count;
    const struct count_mark *marks;
    unsigned mark_count;
    const struct change_deps *deps;
    bool refresh;
    bool again; /* it only leads to another look-up: what is counted on it is handed on to nobody */
    uint64_t valid_at, now_ns;
};
/* There is no room for another one. */
static inline bool cache_is_full(const struct cache *c)
{
    return c->stats.megaflows >= c->config.megaflows_max && !c->config.evict;
}
/* The line of a new megaflow, or 0: no room, no memory. */
uint32_t cache_add(struct cache *c, struct cache_port *p, const struct cache_add *a);
void cache_remove(struct cache *c, uint32_t line);
/* The megaflow of a key in the subtable of another one, or 0. */
uint32_t cache_find_beside(const struct cache *c, uint32_t line, const struct flow_key *k);
/* Is it still the megaflow of that generation, and does it match the key (whose port it is of)? */
bool cache_holds(const struct cache *c, uint32_t line, uint32_t generation, const struct flow_key *k);
void cache_match(const struct cache *c, uint32_t line, struct flow_match *out);
/* Nothing that happened up to `to` concerns it: note that. False: translate again. */
bool cache_revalidate(struct cache *c, uint32_t line, struct change_log *log, uint64_t to);
/* Would this translation leave it as it is? Then note that it is true up to add->valid_at. */
bool cache_same(struct cache *c, uint32_t line, const struct cache_add *a);

/* Its counters are its path's from now on, those of all (or of packets that no megaflow stands for; false: no memory, not counted)
 * their paths'; and what paths have is their flows' and tables': together, because these are everybody's and costly to touch.
 * dropped_by: the number of the meter that dropped the packet, or COUNT_ALL. */
void cache_fold(struct cache *c, uint32_t line, uint64_t now_ns);
void cache_fold_all(struct cache *c, uint64_t now_ns);
bool cache_count(struct cache *c, const struct cache_port *p, const struct cache_add *a, uint32_t bytes,
                 unsigned dropped_by);
/* A packet that the megaflow counted was dropped by that one of its meters: it is not for what comes after it. */
void cache_count_dropped(struct cache *c, uint32_t line, unsigned meter, uint32_t bytes);
void cache_hand_on(struct cache *c);
/* Look at up to max lines: fold, expire; refreshed() is told of addresses in use: false: translate again. */
void cache_sweep(struct cache *c, uint64_t now_ns, uint32_t max,
                 bool (*refreshed)(void *arg, const struct change_deps *d, uint32_t in_port), void *arg);

#endif
