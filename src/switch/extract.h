/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flow key of a frame, read from its private head.
 *
 * Hostile input. A header is looked at only if all of it lies within the head and within what the header before it says;
 * where that fails, parsing stops and the rest of the key is zero (as Open vSwitch does). Padding behind an IP packet is never
 * taken for a header. What decides whether a header is there (eth_type, nw_proto, nw_frag) is always in a megaflow's mask.
 */
#ifndef SWITCH_EXTRACT_H
#define SWITCH_EXTRACT_H

#include "packet/packet.h"
#include "switch/key.h"

enum extract {
    EXTRACT_INVALID, /* shorter than an Ethernet header: nothing is set */
    EXTRACT_SHORT,   /* nothing outside words 0 to 3 and 6 to 8 (and 2 VLAN tags) is set */
    EXTRACT_FULL,
};

/* Sets all words but in_port and bridge, and the packet's l3_at and l4_at. */
enum extract extract_key(struct packet *p, struct flow_key *k);

/* Type, protocol and fragment bits as cache_simple_word() has them in the key, for most frames without a tag, and the packet's
 * l3_at and l4_at; 0: parse it. */
uint32_t extract_simple_word(struct packet *p);

/* Fields that a packet of this key cannot have, as bits that need not be in a mask: in_port, type, protocol and fragment
 * bits alone decide. Removes them from mask. */
void extract_trim_mask(const struct flow_key *k, struct flow_key *mask);

#endif
