/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flow key: all that flows can tell packets apart by, in fixed places.
 *
 * Every field is a big-endian bit string (as on the wire), so that matching, masks, moving bits between fields and
 * OpenFlow's encoding need no knowledge of single fields (switch/field.h says where each one lies). Whatever a packet
 * does not have is zero. Words are what hashing and comparing work on; the first FLOW_KEY_PACKET_WORDS come from the
 * packet, the rest is metadata, zero when a packet enters.
 *
 * Masks: a 1 bit is looked at, a 0 bit is wildcarded. In a megaflow a 1 bit too many costs speed; a 0 bit too many
 * is a security bug.
 */
#ifndef SWITCH_KEY_H
#define SWITCH_KEY_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/endian.h"

#define FLOW_KEY_WORDS 27u
#define FLOW_KEY_PACKET_WORDS 17u
#define FLOW_VLANS 2u
#define FLOW_MPLS_LABELS 3u

#define FLOW_VLAN_PRESENT 0x1000u /* in a tci, in the place of the CFI/DEI bit: there is a tag */

/* nw_frag */
#define FLOW_FRAG_ANY 1u   /* a fragment */
#define FLOW_FRAG_LATER 2u /* not the first: it has no L4 header */

struct flow_vlan {
    struct be16 tpid, tci;
};

struct flow_key {
    union {
        uint64_t words[FLOW_KEY_WORDS];
        struct {
            /* 0 */
            struct be32 in_port;  /* OpenFlow number within the bridge */
            uint16_t bridge;      /* which one (always looked at) */
            uint8_t recirculated; /* in a cache: of a packet as it is by now (recirculate.h), not as it came */
            uint8_t unused0;
            /* 1, 2 */
            uint8_t eth_dst[6];
            struct be16 eth_type; /* after the tags; 0x05ff: a frame without a type (802.3, LLC without SNAP) */
            uint8_t eth_src[6];
            uint8_t recirculation_high[2]; /* in a cache: which one; in all other keys zero */
            /* 3 */
            struct flow_vlan vlan[FLOW_VLANS]; /* outermost first */
            /* 4, 5 */
            struct be32 mpls[FLOW_MPLS_LABELS]; /* outermost first */
            struct be32 pbb_isid;               /* 24 bits; bit 24: there is an I-tag */
            /* 6 */
            struct be32 ipv4_src, ipv4_dst; /* ARP: spa, tpa */
            /* 7 */
            uint8_t nw_proto; /* IPv6: of the last header that could be read */
            uint8_t nw_tos;   /* DSCP and ECN */
            uint8_t nw_ttl;
            uint8_t nw_frag;
            struct be32 ipv6_label; /* 20 bits */
            /* 8 */
            struct be16 tp_src, tp_dst; /* TCP, UDP, SCTP ports; ICMP and ICMPv6: type, code */
            struct be16 tcp_flags;      /* 12 bits */
            struct be16 arp_op;
            /* 9 - 12 */
            uint8_t ipv6_src[16], ipv6_dst[16];
            /* 13, 14 */
            uint8_t nd_target[16];
            /* 15, 16 */
            uint8_t arp_sha[6];      /* ND: source link-layer address */
            struct be16 ipv6_exthdr; /* OFPIEH_* bits */
            uint8_t arp_tha[6];      /* ND: target link-layer address */
            uint8_t recirculation_low[2];
            /* 17, 18 */
            struct be64 metadata;
            struct be64 tunnel_id;
            /* 19 - 26 */
            struct be32 reg[16];
        };
    };
};
static_assert(sizeof(struct flow_key) == FLOW_KEY_WORDS * 8, "no padding: keys are hashed and compared as words");

struct flow_match {
    struct flow_key key; /* no bit set outside mask */
    struct flow_key mask;
};

static inline bool flow_match_hits(const struct flow_match *m, const struct flow_key *k)
{
    uint64_t differ = 0;
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        differ |= (k->words[i] & m->mask.words[i]) ^ m->key.words[i];
    return differ == 0;
}

/* Could a packet be matched by both? */
static inline bool flow_match_overlaps(const struct flow_match *a, const struct flow_match *b)
{
    uint64_t differ = 0;
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        differ |= (a->key.words[i] ^ b->key.words[i]) & a->mask.words[i] & b->mask.words[i];
    return differ == 0;
}

#endif
