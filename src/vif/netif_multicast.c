/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multicast control: a front end that asked for it gets frames of those groups only that it named, in frames that are none
 * (extra infos on its transmit rings). The list is a word for each group, in what survives: written by the threads of its
 * transmit rings, under a lock, and read by whoever brings a frame to a group.
 */
#include <string.h>

#include "vif/netif_impl.h"

#define THERE (UINT64_C(1) << 48)

static uint64_t word_of(const uint8_t *mac)
{
    uint64_t w = 0;
    memcpy(&w, mac, 6);
    return w | THERE;
}

static _Atomic uint64_t *find(struct netif_state *s, uint64_t word)
{
    for (unsigned i = 0; i < NETIF_GROUPS_MAX; i++)
        if (atomic_load_explicit(&s->group[i], memory_order_relaxed) == word) return &s->group[i];
    return NULL;
}

enum netif_status netif_multicast_order(struct netif_card *c, uint8_t order, const uint8_t *mac)
{
    uint64_t word = word_of(mac);
    enum netif_status ret = NETIF_OKAY;
    if (!(mac[0] & 1)) return NETIF_ERROR;
    pthread_mutex_lock(&c->groups_lock);
    _Atomic uint64_t *at = find(c->config.state, word);
    if (order == NETIF_EXTRA_MCAST_ADD && !at) {
        at = find(c->config.state, 0);
        if (at) atomic_store_explicit(at, word, memory_order_relaxed);
        else ret = NETIF_ERROR;
    } else if (order == NETIF_EXTRA_MCAST_DEL && at) {
        atomic_store_explicit(at, 0, memory_order_relaxed);
    }
    pthread_mutex_unlock(&c->groups_lock);
    return ret;
}

void netif_multicast_clear(struct netif_card *c)
{
    for (unsigned i = 0; i < NETIF_GROUPS_MAX; i++)
        atomic_store_explicit(&c->config.state->group[i], 0, memory_order_relaxed);
}

static bool is_wanted(struct netif_card *c, const struct packet *p)
{
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    if (!(p->head[0] & 1) || memcmp(p->head, broadcast, sizeof broadcast) == 0) return true;
    return find(c->config.state, word_of(p->head)) != NULL;
}

unsigned netif_multicast_filter(struct netif_card *c, struct packet *const *packets, unsigned count,
                                struct packet **wanted)
{
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++)
        if (is_wanted(c, packets[i])) wanted[n++] = packets[i];
    return n;
}
