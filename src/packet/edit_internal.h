/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PACKET_EDIT_INTERNAL_H
#define PACKET_EDIT_INTERNAL_H

#include "packet/packet.h"

/* The TTL or hop limit of the IP header at frame byte `at`; a label stack may stand before it, so p->l3_at is not asked. Get:
 * -1 when there is none. */
int packet_ip_ttl_get(const struct packet *p, uint32_t at);
bool packet_ip_ttl_set(struct packet *p, uint32_t at, uint8_t ttl);

#endif
