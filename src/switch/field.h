/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each match field is called, where it lies in the flow key, and what must hold for it to mean anything.
 * One table serves the text syntax, set-field, move, and (later) OpenFlow's encoding.
 *
 * Source: OpenFlow Switch Specification 1.3.5, section 7.2.3 (OXM); names as ovs-ofctl has them, with OpenFlow's as aliases.
 */
#ifndef SWITCH_FIELD_H
#define SWITCH_FIELD_H

#include "switch/key.h"

enum field_id {
    FIELD_IN_PORT,
    FIELD_IN_PHY_PORT, /* the same bits as in_port */
    FIELD_METADATA,
    FIELD_ETH_DST,
    FIELD_ETH_SRC,
    FIELD_ETH_TYPE,
    FIELD_VLAN_VID, /* 13 bits: FLOW_VLAN_PRESENT and the number */
    FIELD_VLAN_PCP,
    FIELD_VLAN_TCI, /* all 16 bits of the outer tag */
    FIELD_IP_DSCP,
    FIELD_IP_ECN,
    FIELD_IP_PROTO,
    FIELD_IP_TTL,
    FIELD_IP_FRAG,
    FIELD_IPV4_SRC,
    FIELD_IPV4_DST,
    FIELD_TCP_SRC,
    FIELD_TCP_DST,
    FIELD_TCP_FLAGS,
    FIELD_UDP_SRC,
    FIELD_UDP_DST,
    FIELD_SCTP_SRC,
    FIELD_SCTP_DST,
    FIELD_ICMPV4_TYPE,
    FIELD_ICMPV4_CODE,
    FIELD_ARP_OP,
    FIELD_ARP_SPA,
    FIELD_ARP_TPA,
    FIELD_ARP_SHA,
    FIELD_ARP_THA,
    FIELD_IPV6_SRC,
    FIELD_IPV6_DST,
    FIELD_IPV6_FLABEL,
    FIELD_ICMPV6_TYPE,
    FIELD_ICMPV6_CODE,
    FIELD_ND_TARGET,
    FIELD_ND_SLL,
    FIELD_ND_TLL,
    FIELD_MPLS_LABEL,
    FIELD_MPLS_TC,
    FIELD_MPLS_BOS,
    FIELD_MPLS_TTL,
    FIELD_PBB_ISID,
    FIELD_TUNNEL_ID,
    FIELD_IPV6_EXTHDR,
    FIELD_REG0,
    FIELD_REG15 = FIELD_REG0 + 15,
    FIELD_COUNT,
};

/* What a packet must be for the field to exist in it. */
enum field_needs {
    NEEDS_NOTHING,
    NEEDS_VLAN,
    NEEDS_IP, /* either */
    NEEDS_IPV4,
    NEEDS_IPV6,
    NEEDS_TCP, /* over either */
    NEEDS_UDP,
    NEEDS_SCTP,
    NEEDS_ICMPV4,
    NEEDS_ICMPV6,
    NEEDS_ND, /* neighbour solicitation or advertisement */
    NEEDS_NS,
    NEEDS_NA,
    NEEDS_ARP,
    NEEDS_MPLS,
    NEEDS_PBB,
};

struct field {
    const char *name;       /* ovs-ofctl's */
    const char *aliases[3]; /* unused: NULL */
    uint16_t bit_at;        /* of its first (most significant) bit, from the key's first byte */
    uint8_t bits;
    uint8_t oxm;   /* OXM_OF_* number within class 0x8000, or FIELD_NO_OXM */
    bool maskable; /* in OpenFlow 1.3 */
    bool writable; /* by set-field */
    enum field_needs needs;
};
#define FIELD_NO_OXM 0xff

extern const struct field fields[FIELD_COUNT];

#define FIELD_VALUE_BYTES 16
/* A field's value, right-aligned: the least significant bit is the last bit of raw[15]. */
struct field_value {
    uint8_t raw[FIELD_VALUE_BYTES];
};

struct field_value field_get(const struct flow_key *k, enum field_id id);
bool field_is_zero(const struct flow_key *k, enum field_id id);
void field_set(struct flow_key *k, enum field_id id, struct field_value v);
/* Only the bits of mask. */
void field_set_masked(struct flow_key *k, enum field_id id, struct field_value v, struct field_value mask);
/* The same; these bits are set in *written, too. */
void field_write(struct flow_key *k, struct flow_key *written, enum field_id id, struct field_value v,
                 struct field_value mask);
struct field_value field_all_ones(enum field_id id);
struct field_value field_value_of(uint64_t v);
uint64_t field_value_u64(struct field_value v); /* the low 64 bits */
/* FIELD_COUNT: no field has that name. */
enum field_id field_find(const char *name, size_t length);
/* Does the packet of this key have the field? *used (may be NULL) gains the bits that were looked at to tell. */
bool field_exists(enum field_id id, const struct flow_key *k, struct flow_key *used);
/* Does the match itself make sure of it? (OpenFlow: prerequisites, OFPBMC_BAD_PREREQ) */
bool field_is_ensured(enum field_id id, const struct flow_match *m);

#endif
