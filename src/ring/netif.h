/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TRUST BOUNDARY 2, on Xen: the two rings of a netfront's queue (Xen's public io/netif.h, io/ring.h), backend side.
 *
 *     transmit   entries become frames: a first one (with the whole's length), extra infos, further pieces
 *     receive    each entry is a buffer of one page; frames are put into as many as they need, in the order of the ring
 *
 * Entries are copied out once, checked, and given out as plain structures. On both rings everything is answered in the order in
 * which it came, so a response lies where its request was, and one number says where a ring stands. That number, and the responses
 * of the batch that is being published, are kept in memory that outlives the process (netif_kept), in an order that leaves it
 * right wherever the process is killed: what the kept number covers is answered, by the next process if need be, with what had
 * been decided; the rest is given out anew.
 *
 * Nothing here maps or copies a guest's data pages: that is the card's (vif/).
 *
 * Thread-safety: a ring belongs to one thread at a time.
 */
#ifndef RING_NETIF_H
#define RING_NETIF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"

#define NETIF_ENTRIES 256u
#define NETIF_SLOTS_MAX 20u /* pieces of a frame that are taken; a front end may count on 18 */

enum netif_status { NETIF_DROPPED = -2, NETIF_ERROR = -1, NETIF_OKAY = 0 };
enum netif_gso { NETIF_GSO_NONE = 0, NETIF_GSO_TCP4 = 1, NETIF_GSO_TCP6 = 2 };
enum netif_extra {
    NETIF_EXTRA_GSO = 1,
    NETIF_EXTRA_MCAST_ADD = 2,
    NETIF_EXTRA_MCAST_DEL = 3,
    NETIF_EXTRA_HASH = 4,
    NETIF_EXTRA_XDP = 5,
};

/* What of a ring outlives the process; zeroed when new. */
struct netif_kept {
    uint32_t magic;
    uint32_t published; /* responses up to here were written and made visible */
    uint32_t done;      /* responses up to here are decided */
    uint32_t unused[13];
    uint64_t response[NETIF_ENTRIES];
};

struct netif_setup {
    void *ring;              /* mapped, a page */
    struct netif_kept *kept; /* out of the guest's reach; NULL: nothing outlives us */
    bool resume;             /* the front end was served by an earlier process, which left that (or nothing) */
};

/* ---- transmit ---- */

struct netif_slot {
    uint32_t ref;
    uint16_t offset, length; /* within a page; length may be 0 */
};

struct netif_tx_frame {
    unsigned entries; /* of the ring, extra infos too: give back with netif_tx_push() */
    bool invalid;     /* well enough formed to be answered, but nothing else: NETIF_ERROR is due */
    bool csum_blank, data_validated;
    uint32_t length; /* the sum of its slots */
    unsigned slot_count;
    /* Extra infos, the last of each type; what was not there is 0. */
    uint8_t gso_type; /* enum netif_gso, or what nobody knows */
    uint16_t gso_size;
    uint8_t mcast; /* NETIF_EXTRA_MCAST_ADD or _DEL: no frame, but an order */
    uint8_t mcast_addr[6];
};

struct netif_tx;

/* 0, -EINVAL with the reason, -ENOMEM. After a resume the guest may still wait for what the last process published: the first
 * publish returns true, even with nothing pushed. */
int netif_tx_new(struct netif_tx **out, const struct netif_setup *s, struct errmsg *e);
void netif_tx_free(struct netif_tx *t);
/* 1: taken; 0: none; -EPROTO: broken: netif_tx_broken() says why. slots: NETIF_SLOTS_MAX. */
int netif_tx_pop(struct netif_tx *t, struct netif_tx_frame *out, struct netif_slot *slots);
/* Of the oldest frame that was popped and not pushed. */
void netif_tx_push(struct netif_tx *t, unsigned entries, enum netif_status status);
/* True: the guest is to be notified. */
bool netif_tx_publish(struct netif_tx *t);
/* Ask for an event with the next request; true: one is there already. */
bool netif_tx_final_check(struct netif_tx *t);
const char *netif_tx_broken(const struct netif_tx *t);

/* ---- receive ---- */

#define NETIF_RX_DATA_VALIDATED 1u
#define NETIF_RX_CSUM_BLANK 2u
#define NETIF_RX_MORE_DATA 4u
#define NETIF_RX_EXTRA_INFO 8u

struct netif_rx;

int netif_rx_new(struct netif_rx **out, const struct netif_setup *s, struct errmsg *e);
void netif_rx_free(struct netif_rx *r);
/* How many buffers could be popped now; or -EPROTO. */
int netif_rx_available(struct netif_rx *r);
/* The next one's grant; there must be one. */
uint32_t netif_rx_pop(struct netif_rx *r);
/* Of the oldest buffer that was popped and not pushed: `status` bytes from its start, or an error (enum netif_status). */
void netif_rx_push(struct netif_rx *r, uint16_t flags, int16_t status);
/* Instead: an extra info; the buffer is not used. more: another follows. */
void netif_rx_push_gso(struct netif_rx *r, enum netif_gso type, uint16_t size, bool more);
void netif_rx_push_hash(struct netif_rx *r, uint8_t type, uint8_t algorithm, uint32_t value, bool more);
bool netif_rx_publish(struct netif_rx *r);
const char *netif_rx_broken(const struct netif_rx *r);

#endif
