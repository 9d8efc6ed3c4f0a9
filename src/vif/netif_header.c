/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What netif says of a frame, into offloads and back: a missing checksum (it does not say where: TCP's or UDP's), a checksum that
 * the sender vouches for, and large TCP segments.
 *
 * As with virtio-net, what a guest wrote is believed in nothing: the frame's own headers, in our copy of them, say where its checksum
 * is, and a frame that is not what it is said to be is dropped.
 */
#include <string.h>

#include "packet/checksum.h"
#include "packet/parse.h"
#include "vif/netif_impl.h"

#define IP_TCP 6u
#define IP_UDP 17u
#define TCP_CHECKSUM_AT 16u
#define UDP_CHECKSUM_AT 6u
#define TCP_BYTES 20u

static bool parse_gso(const struct netif_tx_frame *f, struct packet *p, const struct packet_layers *l)
{
    struct packet_offload *o = &p->offload;
    unsigned version = f->gso_type == NETIF_GSO_TCP4 ? 4 : 6;
    if (l->version != version || l->proto != IP_TCP || l->payload_at == PACKET_NO_LAYER) return false;
    if (f->gso_size < VIF_TCP_SEGMENT_MIN) return false;
    if (p->length_bytes - l->payload_at <= f->gso_size) return true; /* there is nothing to be cut */
    o->gso = version == 4 ? PACKET_GSO_TCP4 : PACKET_GSO_TCP6;
    o->gso_size = f->gso_size;
    o->gso_ecn = p->head[l->l4_at + 13] & 0x80;
    return true;
}

/* A large segment whose sender did not say that its checksum is missing: it is, all the same. */
static void put_pseudo(struct packet *p, const struct packet_layers *l)
{
    uint64_t sum = packet_csum_pseudo(p, l->l3_at, l->version, l->proto, p->length_bytes - l->l4_at);
    struct be16 field = csum_unfinished(sum);
    memcpy(p->head + l->l4_at + TCP_CHECKSUM_AT, field.raw, sizeof field.raw);
}

bool netif_header_parse(const struct netif_tx_frame *f, struct packet *p)
{
    p->offload = (struct packet_offload){0};
    if (likely(!f->csum_blank && !f->gso_type)) {
        p->offload.csum_valid = f->data_validated;
        return true;
    }
    struct packet_layers l = packet_parse(p);
    if (l.l4_at == PACKET_NO_LAYER || l.fragment || (l.proto != IP_TCP && l.proto != IP_UDP)) return false;
    p->offload.csum_partial = true;
    p->offload.csum_start = l.l4_at;
    p->offload.csum_offset = l.proto == IP_TCP ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT;
    if (packet_csum_place(p) != PACKET_CSUM_L4) return false;
    if (!f->gso_type) return true;
    if (!parse_gso(f, p, &l)) return false;
    if (!f->csum_blank) put_pseudo(p, &l);
    return true;
}

uint16_t netif_header_flags(const struct packet *p)
{
    if (p->offload.csum_partial) return NETIF_RX_CSUM_BLANK | NETIF_RX_DATA_VALIDATED;
    return p->offload.csum_valid ? NETIF_RX_DATA_VALIDATED : 0;
}
