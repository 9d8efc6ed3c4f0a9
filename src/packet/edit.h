/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of headers, as a switch's actions make them, on the private head; checksums are kept right by the difference that
 * the change makes, without looking at the payload: right stays right, wrong stays wrong, and a field that is
 * unfinished (offload.csum_partial) stays that. A UDP checksum of zero (none) stays zero.
 *
 * What is at a layer is found from p->l3_at on, which who parsed has set; the caller knows that it is the layer that he means.
 * Each function returns false, and has changed nothing, when the header is not there (not such a packet, cut off, or a
 * later fragment without an L4 header), or when there is no room for a tag.
 *
 * A packet that others may look at later must be cloned first (packet_clone).
 *
 * Sources: see packet/wire.h; OpenFlow Switch Specification 1.3.5, section 5.12 (what push and pop do).
 */
#ifndef PACKET_EDIT_H
#define PACKET_EDIT_H

#include "base/endian.h"
#include "packet/packet.h"

/* ---- Ethernet and tags ---- */

/* Where the type is, which may be cut off: behind the VLAN tags that stand before p->l3_at. Further ones are what the packet carries. */
uint16_t packet_type_at(const struct packet *p);
bool packet_set_eth_dst(struct packet *p, const uint8_t mac[6]);
bool packet_set_eth_src(struct packet *p, const uint8_t mac[6]);
/* The one after the VLAN tags. */
bool packet_set_eth_type(struct packet *p, struct be16 type);

/* A tag becomes the outermost; a second one is no different. */
bool packet_push_vlan(struct packet *p, struct be16 tpid, struct be16 tci);
bool packet_pop_vlan(struct packet *p);
/* Of the outermost tag. */
bool packet_set_vlan_tci(struct packet *p, struct be16 tci);

/* An I-TAG stands before all VLAN tags; the frame's addresses become the customer's too, and the other way round. */
bool packet_push_pbb(struct packet *p, struct be32 tci);
bool packet_pop_pbb(struct packet *p);
/* The 32 bits of the outermost I-TAG: priority, DEI, UCA, and the service in the lower 24. */
bool packet_set_pbb_tci(struct packet *p, struct be32 tci);

/* A label stands behind the VLAN tags. type: 0x8847 or 0x8848; after a pop: what the packet is then. */
bool packet_push_mpls(struct packet *p, struct be16 type, struct be32 entry);
bool packet_pop_mpls(struct packet *p, struct be16 type);
/* All 32 bits of the outermost entry. */
bool packet_set_mpls_entry(struct packet *p, struct be32 entry);
bool packet_set_mpls_ttl(struct packet *p, uint8_t ttl);

/* ---- IP ---- */

bool packet_set_ipv4_src(struct packet *p, struct be32 addr);
bool packet_set_ipv4_dst(struct packet *p, struct be32 addr);
bool packet_set_ipv4_tos(struct packet *p, uint8_t tos);
bool packet_set_ipv4_ttl(struct packet *p, uint8_t ttl);
/* What IP, or its last extension header, says that it carries. What that is stays as it is, but for its checksum if that sums up the
 * protocol's number. */
bool packet_set_ip_proto(struct packet *p, uint8_t proto);
bool packet_set_ipv6_src(struct packet *p, const uint8_t addr[16]);
/* With a routing header that is not used up the address is not in the pseudo header, and the checksum stays. */
bool packet_set_ipv6_dst(struct packet *p, const uint8_t addr[16]);
bool packet_set_ipv6_class(struct packet *p, uint8_t traffic_class);
bool packet_set_ipv6_label(struct packet *p, uint32_t label); /* 20 bits */
bool packet_set_ipv6_hop_limit(struct packet *p, uint8_t hop_limit);

/* Of IP, and of the outermost label. False also when it is 0 or 1: the packet may not be forwarded. */
bool packet_dec_ttl(struct packet *p);
bool packet_dec_mpls_ttl(struct packet *p);
/* Between the outermost label and what is below it (a label, or IP). */
bool packet_copy_ttl_out(struct packet *p);
bool packet_copy_ttl_in(struct packet *p);

/* ---- L4 ---- */

/* TCP, UDP, SCTP. SCTP's CRC32c is adjusted for the whole packet. */
bool packet_set_port_src(struct packet *p, struct be16 port);
bool packet_set_port_dst(struct packet *p, struct be16 port);
/* ICMP or ICMPv6. */
bool packet_set_icmp_type(struct packet *p, uint8_t type);
bool packet_set_icmp_code(struct packet *p, uint8_t code);

/* Neighbour solicitation or advertisement; sll and tll: false also when the option is not there. */
bool packet_set_nd_target(struct packet *p, const uint8_t addr[16]);
bool packet_set_nd_sll(struct packet *p, const uint8_t mac[6]);
bool packet_set_nd_tll(struct packet *p, const uint8_t mac[6]);

/* ---- ARP, of Ethernet and IPv4 ---- */

bool packet_set_arp_op(struct packet *p, struct be16 op);
bool packet_set_arp_sha(struct packet *p, const uint8_t mac[6]);
bool packet_set_arp_tha(struct packet *p, const uint8_t mac[6]);
bool packet_set_arp_spa(struct packet *p, struct be32 addr);
bool packet_set_arp_tpa(struct packet *p, struct be32 addr);

#endif
