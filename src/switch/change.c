/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/change.h"

#include "base/bitmap.h"

#define RELEASE memory_order_release
#define ACQUIRE memory_order_acquire

static uint64_t what_make(enum change_kind kind, uint16_t bridge, uint8_t table)
{
    return (uint64_t)kind << 32 | (uint64_t)bridge << 8 | table;
}

void change_init(struct change_log *l)
{
    memset(l, 0, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
}

void change_destroy(struct change_log *l)
{
    pthread_mutex_destroy(&l->lock);
}

static void number_it(struct change *c, struct change_bridge *b, uint64_t number, bool is_mac)
{
    atomic_store_explicit(&c->number, number, RELEASE);
    atomic_store_explicit(&b->last, number, RELEASE);
    if (!is_mac) atomic_store_explicit(&b->last_but_mac, number, RELEASE);
}

static void add(struct change_log *l, enum change_kind kind, uint16_t bridge, uint8_t table, uint64_t mac,
                const struct flow_match *m)
{
    struct change_bridge *b = &l->bridges[bridge % CHANGE_BRIDGES];
    pthread_mutex_lock(&l->lock);
    uint64_t number = ++l->last;
    struct change *c = &l->changes[number % CHANGE_LOG];
    atomic_store_explicit(&c->number, 0, RELEASE);
    atomic_store_explicit(&c->before, atomic_load_explicit(&b->last, memory_order_relaxed), RELEASE);
    atomic_store_explicit(&c->what, what_make(kind, bridge, table), RELEASE);
    atomic_store_explicit(&c->mac, mac, RELEASE);
    for (unsigned i = 0; m && i < FLOW_KEY_PACKET_WORDS; i++) {
        atomic_store_explicit(&c->value[i], m->key.words[i], RELEASE);
        atomic_store_explicit(&c->mask[i], m->mask.words[i], RELEASE);
    }
    number_it(c, b, number, kind == CHANGE_MAC);
    pthread_mutex_unlock(&l->lock);
}

void change_bridge(struct change_log *l, uint16_t bridge)
{
    add(l, CHANGE_BRIDGE, bridge, 0, 0, NULL);
}

void change_flow(struct change_log *l, uint16_t bridge, uint8_t table, const struct flow_match *m)
{
    add(l, CHANGE_FLOW, bridge, table, 0, m);
}

void change_mac(struct change_log *l, uint16_t bridge, uint64_t mac)
{
    add(l, CHANGE_MAC, bridge, 0, mac, NULL);
}

void change_group(struct change_log *l, uint16_t bridge, uint32_t id)
{
    add(l, CHANGE_GROUP, bridge, 0, change_group_bit(id), NULL);
}

static bool may_overlap(struct change *c, const struct flow_match *megaflow)
{
    for (unsigned i = 0; i < FLOW_KEY_PACKET_WORDS; i++) {
        uint64_t mask = atomic_load_explicit(&c->mask[i], ACQUIRE) & megaflow->mask.words[i];
        if ((atomic_load_explicit(&c->value[i], ACQUIRE) ^ megaflow->key.words[i]) & mask) return false;
    }
    return true;
}

/* *before: the one to look at next, if it does not. */
static bool one_concerns(struct change *c, uint64_t number, const struct change_deps *d,
                         const struct flow_match *megaflow, uint64_t *before)
{
    if (atomic_load_explicit(&c->number, ACQUIRE) != number) return true;
    uint64_t what = atomic_load_explicit(&c->what, ACQUIRE);
    bool concerns = true;
    *before = atomic_load_explicit(&c->before, ACQUIRE);
    if (what >> 32 == CHANGE_MAC) {
        uint64_t mac = atomic_load_explicit(&c->mac, ACQUIRE);
        concerns = d->mac && (mac == d->mac_src || mac == d->mac_dst);
    } else if (what >> 32 == CHANGE_GROUP) {
        concerns = d->groups & atomic_load_explicit(&c->mac, ACQUIRE);
    } else if (what >> 32 == CHANGE_FLOW) {
        concerns = bitmap_test(d->tables, what & 0xff) && (d->modified || may_overlap(c, megaflow));
    }
    return concerns || atomic_load_explicit(&c->number, ACQUIRE) != number;
}

bool change_concerns(struct change_log *l, uint64_t from, uint64_t to, const struct change_deps *d,
                     const struct flow_match *megaflow)
{
    unsigned walked = 0;
    for (uint64_t n = to, before; n > from; n = before)
        if (walked++ == CHANGE_WALK_MAX || one_concerns(&l->changes[n % CHANGE_LOG], n, d, megaflow, &before))
            return true;
    return false;
}
