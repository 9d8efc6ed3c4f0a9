/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may talk with a port: lists of rules for what it sends and for what it is sent.
 *
 *     port -> guard_allows() -> policy_allows(OUT) -> table 0 -> .. -> output -> policy_allows(IN) -> port
 *
 * Like a guard (guard.h) a policy belongs to the port, and stands outside of the tables of flows: no flow, group or controller
 * can open it, and it takes nothing away from them. It knows the port by its number, never by an address that a guest can choose.
 *
 * Of each direction the first rule that a packet meets decides: by falling priority, of the same priority those that drop first.
 * What meets none is dropped if the direction has a rule that allows (an allow-list), and may pass otherwise. Beside an
 * allow-list ARP and neighbour discovery may pass: addresses could not be found without them.
 *
 * It is stateless: an answer is a packet like any other, and must be allowed in its own direction, if that has an allow-list.
 *
 * What could hide from rules does not pass where there are any: a third VLAN tag, MPLS, PBB, ARP of other hardware, IPv6 headers
 * that cannot be read to their end, and first fragments that end before a header of TCP, UDP or SCTP does. Fragments but the
 * first have no ports: a rule with ports that allows lets them pass, one that drops does not concern them (without the first
 * they are of no use).
 *
 * Thread-safety: a policy does not change once it is made; any thread may ask.
 */
#ifndef SWITCH_POLICY_H
#define SWITCH_POLICY_H

#include "switch/guard.h"

#define POLICY_RULES_MAX 512u

enum policy_direction { POLICY_OUT, POLICY_IN }; /* from the port into the switch; to the port */
enum policy_protocol {
    POLICY_ANY, /* whatever it is */
    POLICY_IP,  /* IPv4 or IPv6 */
    POLICY_TCP,
    POLICY_UDP,
    POLICY_SCTP,
    POLICY_ICMP, /* ICMPv6, too */
    POLICY_ARP,
    POLICY_PROTOCOLS
};

struct policy_rule {
    bool allow, out, in;
    uint16_t priority;
    uint8_t protocol; /* enum policy_protocol */
    bool has_range;
    struct guard_prefix range; /* of the other side's address; of ARP its protocol address */
    bool has_port, has_source_port;
    uint16_t port, source_port; /* TCP, UDP, SCTP: where the packet goes to, comes from */
};

struct policy;

/* -EINVAL with the reason: ports without TCP, UDP or SCTP, an IPv6 range of ARP; -ENOSPC; -ENOMEM. */
int policy_new(struct policy **out, const struct policy_rule *rules, unsigned count, struct errmsg *e);
void policy_free(struct policy *p);

/* May the packet pass? *used gains the bits that were looked at. NULL: no policy, everything may. */
bool policy_allows(const struct policy *p, enum policy_direction d, const struct flow_key *k, struct flow_key *used);

/* Every rule as a flow, by falling priority; in: what the port is sent, as if it were matched when it is output. The
 * instructions are goto_table:0 (it may pass) or none (drop). The specification is good during the call. */
void policy_each(const struct policy *p, enum policy_direction d,
                 void (*visit)(void *arg, enum policy_direction d, const struct flow_spec *f), void *arg);

#endif
