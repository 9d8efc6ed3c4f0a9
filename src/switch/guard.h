/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Anti-spoofing: what a port may say about itself. A port with a guard may only send frames with the addresses that are
 * its own.
 *
 *     port -> guard_allows() -> table 0 -> ..
 *
 * A guard is not part of the tables of flows: it stands in front of them, belongs to the port and is asked first, so that
 * nothing that a user or a controller does to flows can open it, and users' flows keep the tables 0 to 253. It is
 * compiled to flows all the same: a pipeline of stages with rules by falling priority. In each stage the first rule that
 * a packet meets decides: it goes on to the next stage, or is dropped. What passes the last stage is allowed.
 *
 *     stage     with     what is checked
 *     type      both     no frame inside of which another one may hide: a third VLAN tag, MPLS, PBB;
 *                        with addresses: ARP and IPv4, if any IPv4 address is allowed; IPv6 likewise; RARP
 *     source    MACs     eth_src
 *     arp       both     an ARP packet that could be read
 *     arp_sha   MACs     the hardware address of ARP's sender
 *     arp_spa   IPs      its protocol address; 0.0.0.0 asks before an address is taken (RFC 5227)
 *     hidden    both     IPv6 headers that could not be read to their end; neighbour discovery in fragments (RFC 6980)
 *     nd        both     neighbour discovery that could be read: it has a target
 *     nd_link   MACs     source and target link-layer addresses within solicitations and advertisements
 *     nd_router IPs      no router advertisements, no redirects
 *     nd_target IPs      the target of advertisements, and of solicitations from :: (duplicate address detection)
 *     ip        IPs      source addresses; 0.0.0.0 for DHCP's client, :: for what RFC 4861, 4862 and 3810 have it for
 *
 * Link-local addresses: where IPv6 addresses are allowed, those that belong to the allowed MACs (EUI-64; RFC 4291,
 * appendix A) are too, or all of fe80::/10 when MACs are not checked. A guest that makes up other ones (RFC 7217) needs
 * them, or fe80::/10, in its list.
 *
 * What was looked at is narrow: of a rule that is not met, one byte in which it differs, and none if a byte that was looked
 * at before shows it. So a port cannot make many masks: at most one per byte of the addresses in its list.
 *
 * Thread-safety: a guard does not change once it is made; any thread may ask.
 */
#ifndef SWITCH_GUARD_H
#define SWITCH_GUARD_H

#include "switch/flow.h"

#define GUARD_MACS_MAX 16u
#define GUARD_PREFIXES_MAX 64u

struct guard_prefix {
    bool ipv6;
    uint8_t length; /* up to 32 or 128 */
    uint8_t address[16];
};

/* No MACs: they are not checked. No prefixes: IP addresses are not checked. */
struct guard_config {
    unsigned macs, prefixes;
    uint8_t mac[GUARD_MACS_MAX][6];
    struct guard_prefix prefix[GUARD_PREFIXES_MAX];
};

/* From text: "02:00:00:00:00:01", "192.0.2.1", "192.0.2.0/24", "2001:db8::/64". 0; -EINVAL with what was expected; -ENOSPC:
 * the list is full. */
int guard_add_mac(struct guard_config *c, const char *text, struct errmsg *e);
int guard_add_prefix(struct guard_config *c, const char *text, struct errmsg *e);

struct guard;

/* -EINVAL: addresses that no port can have (multicast, unspecified), lengths out of range. -ENOMEM. */
int guard_new(struct guard **out, const struct guard_config *c, struct errmsg *e);
void guard_free(struct guard *g);
bool guard_config_equal(const struct guard_config *a, const struct guard_config *b);
const struct guard_config *guard_config_of(const struct guard *g);

/* May the packet go on? *used gains the bits that were looked at. NULL: no guard, everything is allowed. */
bool guard_allows(const struct guard *g, const struct flow_key *k, struct flow_key *used);
/* The stage that drops the packet, for people ("arp_sha"); NULL: it is allowed. */
const char *guard_drops_in(const struct guard *g, const struct flow_key *k);

/* Every rule as a flow of the port, by stage and falling priority: table is the stage's number, the instructions are
 * goto_table (the next stage) or none (drop). stage: its name. The specification is good during the call. */
void guard_each(const struct guard *g, uint32_t port,
                void (*visit)(void *arg, const char *stage, const struct flow_spec *f), void *arg);

#endif
