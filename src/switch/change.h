/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What has changed, lately: so that a thread can tell whether a megaflow that it made earlier is still true.
 *
 * Changes are numbered. A change is published (in a table, in a bridge's ports, in its addresses) before it gets its number. A megaflow
 * has the number up to which it is known to be true; when that is behind its bridge's last, the bridge's changes in between
 * are looked at one by one, from the last back: does one touch a table it consulted, and a packet it could cover? If not, it
 * lives on. What the log has already forgotten is taken for a hit. Of other bridges' changes it takes no notice, but that they
 * push others out of the log.
 *
 * Thread-safety: any thread. An entry is read without a lock; its number before and after tells whether it was overwritten.
 */
#ifndef SWITCH_CHANGE_H
#define SWITCH_CHANGE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "switch/key.h"

#define CHANGE_LOG 1024u
#define CHANGE_WALK_MAX 128u /* entries looked at for one megaflow: translating again is cheaper */
#define CHANGE_BRIDGES 256u

enum change_kind {
    CHANGE_BRIDGE, /* anything: its ports, their settings */
    CHANGE_FLOW,   /* a flow of this match in this table */
    CHANGE_MAC,    /* where this address is */
    CHANGE_GROUP,  /* a group, or others of the same bit */
};

struct change {
    _Atomic uint64_t number;
    _Atomic uint64_t before; /* number of the same bridge's last one before */
    _Atomic uint64_t what;   /* kind, bridge, table */
    _Atomic uint64_t mac;    /* GROUP: its bit */
    _Atomic uint64_t value[FLOW_KEY_PACKET_WORDS], mask[FLOW_KEY_PACKET_WORDS];
};

/* Numbers of a bridge's last change of any kind, and of the last that was no CHANGE_MAC; 0: none. */
struct change_bridge {
    _Alignas(64) _Atomic uint64_t last;
    _Atomic uint64_t last_but_mac;
};

struct change_log {
    struct change_bridge bridges[CHANGE_BRIDGES];
    _Alignas(64) pthread_mutex_t lock;
    uint64_t last; /* of all bridges; under the lock */
    struct change changes[CHANGE_LOG];
};

/* What a megaflow depends on. */
struct change_deps {
    uint16_t bridge;
    bool mac;      /* it consulted the addresses */
    bool modified; /* tables may have seen another key than the packet's */
    uint64_t tables[4];
    uint64_t mac_src, mac_dst; /* mac_key() */
    uint64_t groups;           /* a bit of each that it asked, change_group_bit() */
};
static_assert(sizeof(struct change_deps) == 64, "what is new has to be compared, too");

/* But for the addresses. Member by member, as they were just written: a look at several at once would wait for the stores. */
static inline bool change_deps_same(const struct change_deps *a, const struct change_deps *b)
{
    uint64_t differ = a->groups ^ b->groups;
    for (unsigned i = 0; i < 4; i++)
        differ |= a->tables[i] ^ b->tables[i];
    return differ == 0 && a->bridge == b->bridge && a->mac == b->mac && a->modified == b->modified;
}

void change_init(struct change_log *l);
void change_destroy(struct change_log *l);
void change_bridge(struct change_log *l, uint16_t bridge);
void change_flow(struct change_log *l, uint16_t bridge, uint8_t table, const struct flow_match *m);
void change_mac(struct change_log *l, uint16_t bridge, uint64_t mac);
void change_group(struct change_log *l, uint16_t bridge, uint32_t id);

/* Groups are told apart by one of 64 bits. */
static inline uint64_t change_group_bit(uint32_t id)
{
    return UINT64_C(1) << (id * UINT32_C(0x9e3779b1) >> 26);
}

/* Could one of its bridge's changes after `from`, up to `to` (a number that was the bridge's last), concern a megaflow? */
bool change_concerns(struct change_log *l, uint64_t from, uint64_t to, const struct change_deps *d,
                     const struct flow_match *megaflow);

#endif
