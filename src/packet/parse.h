/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the headers of a frame are, read off its head only: for segmentation, merging, and checksums. (The switch has a
 * flow key to fill and parses for itself.)
 */
#ifndef PACKET_PARSE_H
#define PACKET_PARSE_H

#include "packet/packet.h"

struct packet_layers {
    uint16_t
        type_at;    /* of the last Ethernet type: after VLAN tags, before MPLS labels; PACKET_NO_LAYER: a short frame */
    uint16_t l3_at; /* IPv4 or IPv6 header, all of which (options too) lies in the head; else PACKET_NO_LAYER */
    uint16_t l4_at; /* after the IP header and its extensions; PACKET_NO_LAYER in fragments but the first */
    uint16_t proto_at;   /* the byte that says proto; with l3_at only */
    uint16_t payload_at; /* after a whole TCP, UDP, SCTP or ICMP header in the head; else PACKET_NO_LAYER */
    uint32_t end_at;     /* where the IP packet ends: padding may follow */
    uint8_t version;     /* 4, 6, or 0: no IP header was found */
    uint8_t proto;       /* what is (or, in a later fragment, was) at l4_at */
    uint8_t tags;        /* VLAN tags */
    bool encapsulated;   /* there are MPLS labels or an I-TAG before IP */
    bool options;        /* IPv4 options, IPv6 extension headers */
    bool routed;         /* a routing header with segments left: the pseudo header has another destination */
    bool fragment;
    bool bad_length; /* IP's own length cannot be: end_at is the frame's */
};

struct packet_layers packet_parse(const struct packet *p);

/* From the IP header at l3_at on, whose version is told by its first four bits; no type_at, no tags. */
struct packet_layers packet_parse_ip(const struct packet *p, uint16_t l3_at);

/*
 * Where a sender wants the checksum finished (offload.csum_start and csum_offset), against the frame. A place that is not a
 * checksum's would be a way to rewrite a frame after it was looked at: an address, a port. So it is the field of the TCP or
 * UDP header that the frame has, or such a field of a frame in a tunnel, behind every header that a switch looks at.
 */
enum packet_csum_place {
    PACKET_CSUM_WRONG, /* to be dropped */
    PACKET_CSUM_L4,    /* of the header at l4_at */
    PACKET_CSUM_INNER,
};
enum packet_csum_place packet_csum_place(const struct packet *p);

#endif
