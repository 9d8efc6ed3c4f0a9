/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/mac.h"

#include <stdlib.h>
#include <sys/random.h>

#define BUCKET 8u

uint64_t mac_key(uint16_t vlan, const uint8_t mac[6])
{
    uint64_t m = 0;
    for (unsigned i = 0; i < 6; i++)
        m = m << 8 | mac[i];
    return m << 16 | (uint64_t)(vlan & 0xfffu) << 4 | 1;
}

uint16_t mac_key_vlan(uint64_t key)
{
    return key >> 4 & 0xfff;
}

void mac_key_address(uint64_t key, uint8_t mac[6])
{
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)(key >> (56 - i * 8));
}

static uint64_t value_make(uint32_t port, uint32_t used_s)
{
    return (uint64_t)port << 32 | used_s;
}

struct mac_table *mac_new(unsigned max)
{
    if (max < MAC_ENTRIES_LEAST) max = MAC_ENTRIES_LEAST;
    if (max > MAC_ENTRIES_MOST) max = MAC_ENTRIES_MOST;
    uint64_t buckets = 1;
    while (buckets * BUCKET < max * UINT64_C(2))
        buckets *= 2;
    struct mac_table *t = calloc(1, sizeof *t + buckets * BUCKET * sizeof t->slots[0]);
    if (!t) return NULL;
    pthread_mutex_init(&t->lock, NULL);
    t->max = max;
    t->bucket_mask = buckets - 1;
    if (getrandom(&t->seed, sizeof t->seed, GRND_NONBLOCK) != sizeof t->seed) t->seed = (uintptr_t)t;
    return t;
}

void mac_free(struct mac_table *t)
{
    if (!t) return;
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static size_t bucket_of(const struct mac_table *t, uint64_t key)
{
    uint64_t h = (key ^ t->seed) * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ h >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return (size_t)((h >> 32 & t->bucket_mask) * BUCKET);
}

/* BUCKET: not there. */
static unsigned slot_in(const struct mac_slot *b, uint64_t key)
{
    for (unsigned i = 0; i < BUCKET; i++)
        if (atomic_load_explicit(&b[i].key, memory_order_acquire) == key) return i;
    return BUCKET;
}

uint32_t mac_lookup(const struct mac_table *t, uint64_t key)
{
    const struct mac_slot *b = &t->slots[bucket_of(t, key)];
    unsigned i = slot_in(b, key);
    if (i == BUCKET) return 0;
    uint64_t value = atomic_load_explicit(&b[i].value, memory_order_acquire);
    return atomic_load_explicit(&b[i].key, memory_order_relaxed) == key ? (uint32_t)(value >> 32) : 0;
}

static unsigned *behind(struct mac_table *t, uint64_t value)
{
    return &t->behind[(value >> 32) % MAC_PORT_COUNTS];
}

static void take_away(struct mac_table *t, struct mac_slot *s)
{
    --*behind(t, atomic_load_explicit(&s->value, memory_order_relaxed));
    t->count--;
    atomic_store_explicit(&s->key, 0, memory_order_release);
}

/* An empty slot, or the one that was used longest ago. */
static struct mac_slot *room_in(struct mac_slot *b)
{
    struct mac_slot *oldest = b;
    for (unsigned i = 0; i < BUCKET; i++) {
        if (atomic_load_explicit(&b[i].key, memory_order_relaxed) == 0) return &b[i];
        if ((uint32_t)atomic_load_explicit(&b[i].value, memory_order_relaxed) <
            (uint32_t)atomic_load_explicit(&oldest->value, memory_order_relaxed))
            oldest = &b[i];
    }
    return oldest;
}

/* With the table full: the oldest of those behind a port that has more than this one. NULL: none here. */
static struct mac_slot *room_from_others(struct mac_table *t, struct mac_slot *b, uint64_t value)
{
    struct mac_slot *oldest = NULL;
    for (unsigned i = 0; i < BUCKET; i++) {
        uint64_t other = atomic_load_explicit(&b[i].value, memory_order_relaxed);
        if (atomic_load_explicit(&b[i].key, memory_order_relaxed) == 0 || *behind(t, other) <= *behind(t, value))
            continue;
        if (!oldest || (uint32_t)other < (uint32_t)atomic_load_explicit(&oldest->value, memory_order_relaxed))
            oldest = &b[i];
    }
    return oldest;
}

/* True: it has moved. */
static bool is_there(struct mac_table *t, struct mac_slot *s, uint64_t value)
{
    uint64_t old = atomic_load_explicit(&s->value, memory_order_relaxed); /* refreshing changes its time only */
    bool moves = old >> 32 != value >> 32;
    if (moves && s->moved_s == (uint32_t)value) return false;
    if (moves) s->moved_s = (uint32_t)value;
    atomic_store_explicit(&s->value, value, memory_order_release);
    --*behind(t, old);
    ++*behind(t, value);
    return moves;
}

static bool learn_locked(struct mac_table *t, uint64_t key, uint32_t port, uint32_t now_s, uint64_t *evicted)
{
    struct mac_slot *b = &t->slots[bucket_of(t, key)];
    uint64_t value = value_make(port, now_s);
    unsigned i = slot_in(b, key);
    if (i < BUCKET) return is_there(t, &b[i], value);
    if (*behind(t, value) >= t->max / 2) return false;
    struct mac_slot *s = t->count >= t->max ? room_from_others(t, b, value) : room_in(b);
    if (!s) return false;
    *evicted = atomic_load_explicit(&s->key, memory_order_relaxed);
    if (*evicted) take_away(t, s);
    s->moved_s = 0;
    atomic_store_explicit(&s->value, value, memory_order_release);
    atomic_store_explicit(&s->key, key, memory_order_release);
    t->count++;
    ++*behind(t, value);
    return true;
}

bool mac_learn(struct mac_table *t, uint64_t key, uint32_t port, uint32_t now_s, uint64_t *evicted)
{
    *evicted = 0;
    pthread_mutex_lock(&t->lock);
    bool changed = learn_locked(t, key, port, now_s, evicted);
    pthread_mutex_unlock(&t->lock);
    return changed;
}

void mac_refresh(struct mac_table *t, uint64_t key, uint32_t port, uint32_t now_s)
{
    struct mac_slot *b = &t->slots[bucket_of(t, key)];
    unsigned i = slot_in(b, key);
    if (i == BUCKET) return;
    uint64_t old = atomic_load_explicit(&b[i].value, memory_order_relaxed);
    if (old >> 32 != port || (uint32_t)old >= now_s) return;
    /* Lost to somebody who learns: his is newer. */
    atomic_compare_exchange_strong_explicit(&b[i].value, &old, value_make(port, now_s), memory_order_relaxed,
                                            memory_order_relaxed);
}

void mac_remove(struct mac_table *t, uint32_t before_s, uint32_t port, void (*removed)(void *arg, uint64_t key),
                void *arg)
{
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < (t->bucket_mask + 1) * BUCKET; i++) {
        struct mac_slot *s = &t->slots[i];
        uint64_t key = atomic_load_explicit(&s->key, memory_order_relaxed);
        uint64_t value = atomic_load_explicit(&s->value, memory_order_relaxed);
        if (!key || (port && value >> 32 != port) || (uint32_t)value >= before_s) continue;
        take_away(t, s);
        if (removed) removed(arg, key);
    }
    pthread_mutex_unlock(&t->lock);
}

void mac_each(struct mac_table *t, void (*visit)(void *arg, uint64_t key, uint32_t port, uint32_t used_s), void *arg)
{
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < (t->bucket_mask + 1) * BUCKET; i++) {
        uint64_t key = atomic_load_explicit(&t->slots[i].key, memory_order_relaxed);
        uint64_t value = atomic_load_explicit(&t->slots[i].value, memory_order_relaxed);
        if (key) visit(arg, key, (uint32_t)(value >> 32), (uint32_t)value);
    }
    pthread_mutex_unlock(&t->lock);
}
