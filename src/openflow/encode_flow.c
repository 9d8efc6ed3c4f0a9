/* SPDX-License-Identifier: Apache-2.0 */
/* Flows and their statistics, packet-ins (OpenFlow 1.3.5, sections 7.3.5.2, 7.4.1, 7.4.2). */
#include "openflow/codec_internal.h"

void of_put_flow_stats(struct of_out *o, const struct flow_spec *f, const struct flow_stats *s)
{
    size_t at = of_out_at(o);
    of_out_put(o, sizeof(struct ofp_flow_stats));
    of_put_match(o, &f->match);
    of_put_instructions(o, &f->instructions);
    struct ofp_flow_stats *w = of_out_ptr(o, at);
    if (!w) return;
    *w = (struct ofp_flow_stats){.length = be16_make((uint16_t)(of_out_at(o) - at)),
                                 .table_id = f->table,
                                 .duration_sec = of_seconds(s->duration_ns),
                                 .duration_nsec = of_nanoseconds(s->duration_ns),
                                 .priority = be16_make(f->priority),
                                 .idle_timeout = be16_make(f->idle_timeout_s),
                                 .hard_timeout = be16_make(f->hard_timeout_s),
                                 .flags = be16_make(f->flags),
                                 .cookie = be64_make(f->cookie),
                                 .packet_count = be64_make(s->packets),
                                 .byte_count = be64_make(s->bytes)};
    of_multipart_entry(o, at);
}

/* 1.3 has no reason of its own for a meter's end. */
unsigned of_reason_of_gone(enum flow_gone why)
{
    switch (why) {
    case FLOW_GONE_IDLE: return OFPRR_IDLE_TIMEOUT;
    case FLOW_GONE_HARD: return OFPRR_HARD_TIMEOUT;
    case FLOW_GONE_GROUP: return OFPRR_GROUP_DELETE;
    case FLOW_GONE_DELETED:
    case FLOW_GONE_METER: break;
    }
    return OFPRR_DELETE;
}

bool of_put_flow_removed(struct of_out *o, const struct flow_spec *f, const struct flow_stats *s, enum flow_gone why)
{
    struct ofp_flow_removed w = {.cookie = be64_make(f->cookie),
                                 .priority = be16_make(f->priority),
                                 .reason = (uint8_t)of_reason_of_gone(why),
                                 .table_id = f->table,
                                 .duration_sec = of_seconds(s->duration_ns),
                                 .duration_nsec = of_nanoseconds(s->duration_ns),
                                 .idle_timeout = be16_make(f->idle_timeout_s),
                                 .hard_timeout = be16_make(f->hard_timeout_s),
                                 .packet_count = be64_make(s->packets),
                                 .byte_count = be64_make(s->bytes)};
    of_out_begin(o, OFPT_FLOW_REMOVED, 0);
    of_out_put_bytes(o, &w, sizeof w);
    of_put_match(o, &f->match);
    return of_out_end(o);
}

bool of_put_packet_in(struct of_out *o, const struct of_packet_in *p)
{
    struct ofp_packet_in w = {.buffer_id = be32_make(p->buffer_id),
                              .total_len = be16_make(p->total_bytes),
                              .reason = p->reason,
                              .table_id = p->table,
                              .cookie = be64_make(p->cookie)};
    of_out_begin(o, OFPT_PACKET_IN, 0);
    of_out_put_bytes(o, &w, sizeof w);
    of_put_match(o, &p->match);
    of_out_put(o, 2); /* the packet's IP header is aligned then */
    of_out_put_bytes(o, p->data, p->data_bytes);
    return of_out_end(o);
}
