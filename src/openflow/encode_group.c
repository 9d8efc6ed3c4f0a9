/* SPDX-License-Identifier: Apache-2.0 */
/* Groups and meters, their statistics and what they can do (OpenFlow 1.3.5, sections 7.3.5.8 to 7.3.5.13). */
#include "openflow/codec_internal.h"

/* ---- groups ---- */

void of_put_group_stats(struct of_out *o, const struct group_spec *g, const struct group_stats *s)
{
    size_t at = of_out_at(o), bytes = sizeof(struct ofp_group_stats) + g->count * sizeof(struct ofp_bucket_counter);
    struct ofp_group_stats w = {.length = be16_make((uint16_t)bytes),
                                .group_id = be32_make(g->id),
                                .ref_count = be32_make(s->references),
                                .packet_count = be64_make(s->packets),
                                .byte_count = be64_make(s->bytes),
                                .duration_sec = of_seconds(s->duration_ns),
                                .duration_nsec = of_nanoseconds(s->duration_ns)};
    of_out_put_bytes(o, &w, sizeof w);
    for (unsigned i = 0; i < g->count; i++) {
        struct ofp_bucket_counter b = {be64_make(s->buckets[i].packets), be64_make(s->buckets[i].bytes)};
        of_out_put_bytes(o, &b, sizeof b);
    }
    of_multipart_entry(o, at);
}

static void put_bucket(struct of_out *o, const struct group_bucket *b)
{
    size_t at = of_out_at(o);
    of_out_put(o, sizeof(struct ofp_bucket));
    of_put_actions(o, &b->actions);
    struct ofp_bucket *w = of_out_ptr(o, at);
    if (!w) return;
    *w = (struct ofp_bucket){.len = be16_make((uint16_t)(of_out_at(o) - at)),
                             .weight = be16_make(b->weight),
                             .watch_port = be32_make(b->watch_port),
                             .watch_group = be32_make(b->watch_group)};
}

void of_put_group_desc(struct of_out *o, const struct group_spec *g)
{
    size_t at = of_out_at(o);
    of_out_put(o, sizeof(struct ofp_group_desc));
    for (unsigned i = 0; i < g->count; i++)
        put_bucket(o, &g->buckets[i]);
    struct ofp_group_desc *w = of_out_ptr(o, at);
    if (!w) return;
    *w = (struct ofp_group_desc){
        .length = be16_make((uint16_t)(of_out_at(o) - at)), .type = g->type, .group_id = be32_make(g->id)};
    of_multipart_entry(o, at);
}

void of_put_group_features(struct of_out *o)
{
    const unsigned actions =
        1u << OFPAT_OUTPUT | 1u << OFPAT_COPY_TTL_OUT | 1u << OFPAT_COPY_TTL_IN | 1u << OFPAT_SET_MPLS_TTL |
        1u << OFPAT_DEC_MPLS_TTL | 1u << OFPAT_PUSH_VLAN | 1u << OFPAT_POP_VLAN | 1u << OFPAT_PUSH_MPLS |
        1u << OFPAT_POP_MPLS | 1u << OFPAT_SET_QUEUE | 1u << OFPAT_GROUP | 1u << OFPAT_SET_NW_TTL |
        1u << OFPAT_DEC_NW_TTL | 1u << OFPAT_SET_FIELD | 1u << OFPAT_PUSH_PBB | 1u << OFPAT_POP_PBB;
    struct ofp_group_features w = {
        .types = be32_make(1u << OFPGT_ALL | 1u << OFPGT_SELECT | 1u << OFPGT_INDIRECT | 1u << OFPGT_FF),
        .capabilities =
            be32_make(OFPGFC_SELECT_WEIGHT | OFPGFC_SELECT_LIVENESS | OFPGFC_CHAINING | OFPGFC_CHAINING_CHECKS)};
    for (unsigned i = 0; i < GROUP_TYPES; i++) {
        w.max_groups[i] = be32_make(SWITCH_GROUPS_MAX);
        w.actions[i] = be32_make(actions);
    }
    of_out_put_bytes(o, &w, sizeof w);
}

/* ---- meters ---- */

void of_put_meter_stats(struct of_out *o, const struct meter_spec *m, const struct meter_stats *s)
{
    size_t at = of_out_at(o), bytes = sizeof(struct ofp_meter_stats) + m->count * sizeof(struct ofp_meter_band_stats);
    struct ofp_meter_stats w = {.meter_id = be32_make(m->id),
                                .len = be16_make((uint16_t)bytes),
                                .flow_count = be32_make(s->flows),
                                .packet_in_count = be64_make(s->packets),
                                .byte_in_count = be64_make(s->bytes),
                                .duration_sec = of_seconds(s->duration_ns),
                                .duration_nsec = of_nanoseconds(s->duration_ns)};
    of_out_put_bytes(o, &w, sizeof w);
    for (unsigned i = 0; i < m->count; i++) {
        struct ofp_meter_band_stats b = {be64_make(s->bands[i].packets), be64_make(s->bands[i].bytes)};
        of_out_put_bytes(o, &b, sizeof b);
    }
    of_multipart_entry(o, at);
}

void of_put_meter_config(struct of_out *o, const struct meter_spec *m)
{
    size_t at = of_out_at(o), bytes = sizeof(struct ofp_meter_config) + m->count * sizeof(struct ofp_meter_band);
    struct ofp_meter_config w = {be16_make((uint16_t)bytes), be16_make(m->flags), be32_make(m->id)};
    of_out_put_bytes(o, &w, sizeof w);
    for (unsigned i = 0; i < m->count; i++) {
        struct ofp_meter_band b = {.type = be16_make(m->bands[i].type),
                                   .len = be16_make(sizeof b),
                                   .rate = be32_make(m->bands[i].rate),
                                   .burst_size = be32_make(m->bands[i].burst),
                                   .prec_level = m->bands[i].prec_level};
        of_out_put_bytes(o, &b, sizeof b);
    }
    of_multipart_entry(o, at);
}

void of_put_meter_features(struct of_out *o)
{
    struct ofp_meter_features w = {.max_meter = be32_make(SWITCH_METERS_MAX),
                                   .band_types = be32_make(1u << OFPMBT_DROP | 1u << OFPMBT_DSCP_REMARK),
                                   .capabilities = be32_make(OFPMF_KBPS | OFPMF_PKTPS | OFPMF_BURST | OFPMF_STATS),
                                   .max_bands = METER_BANDS_MAX,
                                   .max_color = 0};
    of_out_put_bytes(o, &w, sizeof w);
}
