/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hash that spreads frames over a receiver's queues, where nobody before us has made one: over the addresses and
 * ports of TCP and UDP, of the addresses alone for other IP and for fragments (all pieces of a datagram go one
 * way), of the Ethernet addresses for all else. Reads the private head only. Not symmetric.
 *
 * Thread-safety: as packet/packet.h.
 */
#ifndef PACKET_HASH_H
#define PACKET_HASH_H

#include "packet/packet.h"

/* Never 0. */
uint32_t packet_hash(const struct packet *p);

/* Which of so many queues the frame goes to: all frames of a flow to the same one. */
static inline unsigned packet_queue(const struct packet *p, unsigned queues)
{
    uint32_t hash = p->hash ? p->hash : packet_hash(p);
    /* Symmetric or weak hashes of others are mixed once more: what counts here are the upper bits. */
    return (unsigned)(((uint64_t)(hash * UINT32_C(0x9e3779b1)) * queues) >> 32);
}

#endif
