/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Table features (OpenFlow 1.3.5, section 7.3.5.5). All tables are alike: every instruction, action and field, and what
 * they offer to packets that match no flow is the same, so the properties for those are left out.
 */
#include "openflow/codec_internal.h"

#include "switch/flow_text.h"

enum kind { NONE, INSTRUCTIONS, TABLES, ACTIONS, MATCHED, WILDCARDED, SET };

#define PROPERTIES 16u
static const uint8_t kinds[PROPERTIES] = {
    [OFPTFPT_INSTRUCTIONS] = INSTRUCTIONS,
    [OFPTFPT_INSTRUCTIONS_MISS] = INSTRUCTIONS,
    [OFPTFPT_NEXT_TABLES] = TABLES,
    [OFPTFPT_NEXT_TABLES_MISS] = TABLES,
    [OFPTFPT_WRITE_ACTIONS] = ACTIONS,
    [OFPTFPT_WRITE_ACTIONS_MISS] = ACTIONS,
    [OFPTFPT_APPLY_ACTIONS] = ACTIONS,
    [OFPTFPT_APPLY_ACTIONS_MISS] = ACTIONS,
    [OFPTFPT_MATCH] = MATCHED,
    [OFPTFPT_WILDCARDS] = WILDCARDED,
    [OFPTFPT_WRITE_SETFIELD] = SET,
    [OFPTFPT_WRITE_SETFIELD_MISS] = SET,
    [OFPTFPT_APPLY_SETFIELD] = SET,
    [OFPTFPT_APPLY_SETFIELD_MISS] = SET,
};
#define NEEDED                                                                                                         \
    (1u << OFPTFPT_INSTRUCTIONS | 1u << OFPTFPT_NEXT_TABLES | 1u << OFPTFPT_WRITE_ACTIONS |                            \
     1u << OFPTFPT_APPLY_ACTIONS | 1u << OFPTFPT_MATCH | 1u << OFPTFPT_WILDCARDS | 1u << OFPTFPT_WRITE_SETFIELD |      \
     1u << OFPTFPT_APPLY_SETFIELD)

/* A bit per type. */
#define ALL_ACTIONS                                                                                                    \
    (1u << OFPAT_OUTPUT | 1u << OFPAT_COPY_TTL_OUT | 1u << OFPAT_COPY_TTL_IN | 1u << OFPAT_SET_MPLS_TTL |              \
     1u << OFPAT_DEC_MPLS_TTL | 1u << OFPAT_PUSH_VLAN | 1u << OFPAT_POP_VLAN | 1u << OFPAT_PUSH_MPLS |                 \
     1u << OFPAT_POP_MPLS | 1u << OFPAT_SET_QUEUE | 1u << OFPAT_GROUP | 1u << OFPAT_SET_NW_TTL |                       \
     1u << OFPAT_DEC_NW_TTL | 1u << OFPAT_SET_FIELD | 1u << OFPAT_PUSH_PBB | 1u << OFPAT_POP_PBB)

static unsigned all_instructions(uint8_t table)
{
    unsigned others = 1u << OFPIT_WRITE_METADATA | 1u << OFPIT_WRITE_ACTIONS | 1u << OFPIT_APPLY_ACTIONS |
                      1u << OFPIT_CLEAR_ACTIONS | 1u << OFPIT_METER;
    return others | (table + 1u < SWITCH_TABLES ? 1u << OFPIT_GOTO_TABLE : 0);
}

static uint64_t all_fields(enum kind kind)
{
    uint64_t all = 0;
    for (unsigned id = 0; id < FIELD_COUNT; id++)
        if (kind != SET || (fields[id].writable && id != FIELD_METADATA)) all |= 1ull << id;
    return all;
}

/* ---- writing ---- */

static void put_types(struct of_out *o, unsigned types)
{
    for (unsigned type = 0; type < 32; type++) {
        struct ofp_action_header h = {be16_make((uint16_t)type), be16_make(sizeof h)};
        if (types >> type & 1) of_out_put_bytes(o, &h, sizeof h);
    }
}

static void put_tables(struct of_out *o, uint8_t table)
{
    for (unsigned next = table + 1u; next < SWITCH_TABLES; next++) {
        uint8_t n = (uint8_t)next;
        of_out_put_bytes(o, &n, 1);
    }
}

static void put_fields(struct of_out *o, enum kind kind)
{
    uint64_t all = all_fields(kind);
    for (unsigned id = 0; id < FIELD_COUNT; id++)
        if (all >> id & 1) oxm_put_header(o, id, kind == MATCHED && text_field_maskable(id));
}

static void put_property(struct of_out *o, unsigned type, uint8_t table)
{
    size_t at = of_out_at(o);
    of_out_put(o, sizeof(struct ofp_table_feature_prop));
    switch ((enum kind)kinds[type]) {
    case INSTRUCTIONS: put_types(o, all_instructions(table)); break;
    case TABLES: put_tables(o, table); break;
    case ACTIONS: put_types(o, ALL_ACTIONS); break;
    default: put_fields(o, kinds[type]); break;
    }
    struct ofp_table_feature_prop *p = of_out_ptr(o, at);
    if (p) *p = (struct ofp_table_feature_prop){be16_make((uint16_t)type), be16_make((uint16_t)(of_out_at(o) - at))};
    of_out_pad8(o, at);
}

void of_put_table_features(struct of_out *o, uint8_t table, const char *name, uint32_t config, uint32_t max_entries)
{
    size_t at = of_out_at(o);
    of_out_put(o, sizeof(struct ofp_table_features));
    for (unsigned type = 0; type < PROPERTIES; type++)
        if (NEEDED >> type & 1) put_property(o, type, table);
    struct ofp_table_features *w = of_out_ptr(o, at);
    if (!w) return;
    *w = (struct ofp_table_features){.length = be16_make((uint16_t)(of_out_at(o) - at)),
                                     .table_id = table,
                                     .metadata_match = be64_make(UINT64_MAX),
                                     .metadata_write = be64_make(UINT64_MAX),
                                     .config = be32_make(config),
                                     .max_entries = be32_make(max_entries)};
    memcpy(w->name, name, strnlen(name, sizeof w->name - 1));
    of_multipart_entry(o, at);
}

/* ---- reading ---- */

/* What is asked for is what there is: *same stays. False: there is no such. */

static bool get_types(struct cursor c, unsigned all, bool *same)
{
    unsigned asked = 0;
    while (c.left_bytes) {
        const struct ofp_action_header *h = cursor_pull(&c, sizeof *h);
        if (!h) return false;
        unsigned type = be16_get(h->type);
        if (type >= 32 || !(all >> type & 1) || be16_get(h->len) != sizeof *h) return false;
        asked |= 1u << type;
    }
    *same &= asked == all;
    return true;
}

static bool get_tables(struct cursor c, uint8_t table, bool *same)
{
    *same &= c.left_bytes == SWITCH_TABLES - 1u - table;
    for (size_t i = 0; i < c.left_bytes; i++) {
        if (c.at[i] <= table || c.at[i] >= SWITCH_TABLES) return false;
        *same &= c.at[i] == table + 1 + i;
    }
    return true;
}

static bool get_fields(struct cursor c, enum kind kind, bool *same)
{
    uint64_t all = all_fields(kind), asked = 0;
    while (c.left_bytes) {
        enum field_id id;
        bool masked, maskable;
        if (!oxm_get_id(&c, &id, &masked) || !(all >> id & 1)) return false;
        maskable = kind == MATCHED && text_field_maskable(id);
        if (masked && !maskable) return false;
        *same &= masked == maskable;
        asked |= 1ull << id;
    }
    *same &= asked == all;
    return true;
}

static int wrong(struct of_error *e, unsigned code, const char *what, unsigned n)
{
    return of_wrong(e, OFPET_TABLE_FEATURES_FAILED, code, "table features: %s %u", what, n);
}

static int get_property(unsigned type, struct cursor c, uint8_t table, bool *same, struct of_error *e)
{
    bool ok = false;
    switch (type < PROPERTIES ? (enum kind)kinds[type] : NONE) {
    case NONE: return wrong(e, OFPTFFC_BAD_TYPE, "property", type);
    case INSTRUCTIONS: ok = get_types(c, all_instructions(table), same); break;
    case TABLES: ok = get_tables(c, table, same); break;
    case ACTIONS: ok = get_types(c, ALL_ACTIONS, same); break;
    default: ok = get_fields(c, kinds[type], same); break;
    }
    return ok ? 0 : wrong(e, OFPTFFC_BAD_ARGUMENT, "what is not there, in property", type);
}

static int get_properties(struct cursor c, struct of_table_features *out, struct of_error *e)
{
    unsigned seen = 0;
    out->same = true;
    while (c.left_bytes) {
        struct ofp_table_feature_prop p;
        if (c.left_bytes < sizeof p) return wrong(e, OFPTFFC_BAD_LEN, "bytes left:", (unsigned)c.left_bytes);
        memcpy(&p, c.at, sizeof p);
        unsigned type = be16_get(p.type), length = be16_get(p.length);
        if (length < sizeof p || round_up_8(length) > c.left_bytes)
            return wrong(e, OFPTFFC_BAD_LEN, "the length of property", type);
        int ret = get_property(type, cursor_over(c.at + sizeof p, length - sizeof p), out->table, &out->same, e);
        if (ret) return ret;
        if (seen >> type & 1) return wrong(e, OFPTFFC_BAD_ARGUMENT, "twice the property", type);
        seen |= 1u << type;
        cursor_pull(&c, round_up_8(length));
    }
    if (seen) out->same &= (seen & NEEDED) == NEEDED && (out->metadata_match & out->metadata_write) == UINT64_MAX;
    return 0;
}

int of_get_table_features(const uint8_t **at, size_t *bytes, struct of_table_features *out, struct of_error *e)
{
    struct cursor c = cursor_over(*at, *bytes);
    if (!*bytes) return 0;
    const struct ofp_table_features *t = cursor_pull(&c, sizeof *t);
    if (!t) return wrong(e, OFPTFFC_BAD_LEN, "bytes left:", (unsigned)*bytes);
    size_t length = be16_get(t->length);
    if (length < sizeof *t || length > *bytes) return wrong(e, OFPTFFC_BAD_LEN, "the length", (unsigned)length);
    *out = (struct of_table_features){.table = t->table_id,
                                      .metadata_match = be64_get(t->metadata_match),
                                      .metadata_write = be64_get(t->metadata_write),
                                      .config = be32_get(t->config),
                                      .max_entries = be32_get(t->max_entries)};
    memcpy(out->name, t->name, sizeof t->name);
    if (out->table >= SWITCH_TABLES) return wrong(e, OFPTFFC_BAD_TABLE, "table", out->table);
    if (out->config & ~OFPTC_DEPRECATED_MASK) return wrong(e, OFPTFFC_BAD_ARGUMENT, "configuration", out->config);
    int ret = get_properties(cursor_over(t + 1, length - sizeof *t), out, e);
    if (ret) return ret;
    *at += length;
    *bytes -= length;
    return 1;
}
