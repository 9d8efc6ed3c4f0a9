/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Headers as they lie in a frame. All members are bytes, so that any of these may be laid over a frame at any offset; who
 * does so has checked that it lies within the head.
 *
 * Sources: IEEE 802.3, 802.1Q, 802.1ah (I-TAG), RFC 3032 (MPLS), 826 (ARP), 791 (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP),
 * 9260 (SCTP), 792 and 4443 (ICMP), 4861 (ND).
 */
#ifndef PACKET_WIRE_H
#define PACKET_WIRE_H

#include <stdbool.h>

#include "base/endian.h"

#define ETH_TYPE_AT 12u /* the first type, after the addresses */
#define ETH_HEADER_BYTES 14u
#define VLAN_TAG_BYTES 4u
#define MPLS_LABEL_BYTES 4u
#define PBB_TAG_BYTES 18u /* type, TCI, and the customer's addresses */

#define ETH_TYPE_IPV4 0x0800u
#define ETH_TYPE_ARP 0x0806u
#define ETH_TYPE_VLAN 0x8100u
#define ETH_TYPE_IPV6 0x86ddu
#define ETH_TYPE_MPLS 0x8847u
#define ETH_TYPE_MPLS_MULTICAST 0x8848u
#define ETH_TYPE_QINQ 0x88a8u
#define ETH_TYPE_PBB 0x88e7u

static inline bool eth_type_is_vlan(uint16_t type)
{
    return type == ETH_TYPE_VLAN || type == ETH_TYPE_QINQ;
}

static inline bool eth_type_is_mpls(uint16_t type)
{
    return type == ETH_TYPE_MPLS || type == ETH_TYPE_MPLS_MULTICAST;
}

#define MPLS_BOTTOM 0x100u /* of a label stack entry */

#define IP_PROTO_ICMP 1u
#define IP_PROTO_IPV4 4u /* in IP */
#define IP_PROTO_TCP 6u
#define IP_PROTO_UDP 17u
#define IP_PROTO_IPV6 41u /* in IP */
#define IP_PROTO_GRE 47u
#define IP_PROTO_DCCP 33u
#define IP_PROTO_ICMPV6 58u
#define IP_PROTO_SCTP 132u
#define IP_PROTO_UDPLITE 136u

#define GRE_HEADER_BYTES 4u   /* without key, sum and number */
#define IPV4_HEADER_BYTES 20u /* without options */
#define IPV6_HEADER_BYTES 40u
#define IPV4_DONT_FRAGMENT 0x4000u
#define IPV4_MORE_FRAGMENTS 0x2000u
#define IPV4_FRAGMENT_OFFSET 0x1fffu

#define IPV6_HOP_BY_HOP 0u
#define IPV6_ROUTING 43u
#define IPV6_FRAGMENT 44u
#define IPV6_AUTHENTICATION 51u
#define IPV6_DESTINATION 60u
#define IPV6_MOBILITY 135u

#define TCP_FIN 0x01u
#define TCP_SYN 0x02u
#define TCP_RST 0x04u
#define TCP_PSH 0x08u
#define TCP_ACK 0x10u
#define TCP_URG 0x20u
#define TCP_ECE 0x40u
#define TCP_CWR 0x80u

#define TCP_CSUM_OFFSET 16u
#define UDP_CSUM_OFFSET 6u

#define ICMPV6_NEIGHBOR_SOLICIT 135u
#define ICMPV6_NEIGHBOR_ADVERT 136u
#define ND_OPTION_SOURCE_LINK 1u
#define ND_OPTION_TARGET_LINK 2u

struct wire_eth {
    uint8_t dst[6], src[6];
    struct be16 type;
};

struct wire_vlan { /* at ETH_TYPE_AT */
    struct be16 tpid, tci;
};

struct wire_pbb { /* at ETH_TYPE_AT */
    struct be16 type;
    struct be32 tci; /* priority, DEI, UCA, reserved; 24 bits of service */
    uint8_t customer_dst[6], customer_src[6];
};

struct wire_ipv4 {
    uint8_t version_words; /* 0x45: version 4, five words of header */
    uint8_t tos;
    struct be16 total_bytes, id, fragment;
    uint8_t ttl, proto;
    struct be16 csum;
    struct be32 src, dst;
};

struct wire_ipv6 {
    struct be32 version_class_label;
    struct be16 payload_bytes;
    uint8_t next, hop_limit;
    uint8_t src[16], dst[16];
};

struct wire_ipv6_ext { /* all but the fragment header, whose length is fixed */
    uint8_t next, length;
    uint8_t type, segments_left; /* of a routing header */
    uint8_t more[4];
};

struct wire_ipv6_fragment {
    uint8_t next, unused;
    struct be16 offset_more; /* offset in bytes, and bit 0: more follow */
    struct be32 id;
};

struct wire_tcp {
    struct be16 src, dst;
    struct be32 seq, ack;
    uint8_t words_reserved; /* header words in the upper four bits */
    uint8_t flags;
    struct be16 window, csum, urgent;
};

struct wire_udp {
    struct be16 src, dst, bytes, csum;
};

struct wire_sctp {
    struct be16 src, dst;
    struct be32 tag;
    struct le32 crc;
};

struct wire_icmp {
    uint8_t type, code;
    struct be16 csum;
    uint8_t more[4];
};

struct wire_nd { /* neighbour solicitation and advertisement; options follow */
    struct wire_icmp icmp;
    uint8_t target[16];
};

struct wire_arp { /* of Ethernet and IPv4 */
    struct be16 hardware, protocol;
    uint8_t hardware_bytes, protocol_bytes;
    struct be16 op;
    uint8_t sha[6];
    struct be32 spa;
    uint8_t tha[6];
    struct be32 tpa;
};

#endif
