/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which port is an address behind? Learnt by NORMAL, per bridge.
 *
 * A hash table of buckets of eight slots, twice as many as entries are allowed. A slot is two atomic words, the address
 * with its VLAN, and the port with the time it was last used; readers look at the first again after the second.
 *
 * Bounds: entries in all, and half of that behind one port; what is over is not learnt (and so flooded to) until something has
 * aged out. In a full table a port may take the place of one with more addresses, never the other way round: a guest that sends
 * from addresses that it makes up harms the table for itself. An address moves to another port at most once in a second: two
 * ports that both send from it do not keep everyone busy with its moves.
 *
 * Thread-safety: mac_lookup(), mac_refresh() lock-free; the rest takes the table's mutex. All from any thread.
 */
#ifndef SWITCH_MAC_H
#define SWITCH_MAC_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "switch/epoch.h"

#define MAC_ENTRIES_DEFAULT 8192u
#define MAC_AGEING_S_DEFAULT 300u
#define MAC_ENTRIES_LEAST 16u
#define MAC_ENTRIES_MOST (1u << 20)
#define MAC_PORT_COUNTS 1024u

struct mac_slot {
    _Atomic uint64_t key;   /* 0: empty */
    _Atomic uint64_t value; /* port, second of last use */
    uint32_t moved_s;       /* second of the last move; under the lock */
};

struct mac_table {
    pthread_mutex_t lock;
    unsigned max, count;
    uint64_t bucket_mask, seed;
    unsigned behind[MAC_PORT_COUNTS]; /* entries, by the low bits of the port's number */
    struct epoch_node retired;
    struct mac_slot slots[];
};

/* An address in a VLAN, as one word; never 0. */
uint64_t mac_key(uint16_t vlan, const uint8_t mac[6]);
uint16_t mac_key_vlan(uint64_t key);
void mac_key_address(uint64_t key, uint8_t mac[6]);

struct mac_table *mac_new(unsigned max); /* NULL: no memory */
void mac_free(struct mac_table *t);

/* 0: not known. */
uint32_t mac_lookup(const struct mac_table *t, uint64_t key);
/* True: the address is new, or was behind another port. *evicted: one that had to go (0: none). Where it is not learnt, because
 * of a bound, mac_lookup() says something else than the port. */
bool mac_learn(struct mac_table *t, uint64_t key, uint32_t port, uint32_t now_s, uint64_t *evicted);
/* Still in use, if it is still behind this port. */
void mac_refresh(struct mac_table *t, uint64_t key, uint32_t port, uint32_t now_s);
/* Take away what was last used before before_s, or is behind the port (0: any port); tells of each. */
void mac_remove(struct mac_table *t, uint32_t before_s, uint32_t port, void (*removed)(void *arg, uint64_t key),
                void *arg);
void mac_each(struct mac_table *t, void (*visit)(void *arg, uint64_t key, uint32_t port, uint32_t used_s), void *arg);

#endif
