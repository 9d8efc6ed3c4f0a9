/* SPDX-License-Identifier: Apache-2.0 */
/* Actions and instructions to the wire: OpenFlow's where it has them, Nicira's for the rest. */
#include "openflow/codec_internal.h"

#include "switch/flow_text.h"

static void put_u32(struct of_out *o, unsigned type, uint32_t value)
{
    struct ofp_action_u32 a = {be16_make((uint16_t)type), be16_make(sizeof a), be32_make(value)};
    of_out_put_bytes(o, &a, sizeof a);
}

static void put_u16(struct of_out *o, unsigned type, uint16_t value)
{
    struct ofp_action_u16 a = {be16_make((uint16_t)type), be16_make(sizeof a), be16_make(value), {0}};
    of_out_put_bytes(o, &a, sizeof a);
}

static void put_u8(struct of_out *o, unsigned type, uint8_t value)
{
    struct ofp_action_u8 a = {be16_make((uint16_t)type), be16_make(sizeof a), value, {0}};
    of_out_put_bytes(o, &a, sizeof a);
}

static void put_output(struct of_out *o, const struct action *a)
{
    struct ofp_action_output w = {.type = be16_make(OFPAT_OUTPUT),
                                  .len = be16_make(sizeof w),
                                  .port = be32_make(a->output.port),
                                  .max_len = be16_make(a->output.max_len)};
    of_out_put_bytes(o, &w, sizeof w);
}

/* 1.3's set_field has no mask. */
static void put_set(struct of_out *o, const struct action *a)
{
    enum field_id id = a->set.field;
    if (!text_field_is_full(id, a->set.mask)) {
        nicira_put_load(o, a);
        return;
    }
    size_t at = of_out_at(o);
    of_out_put(o, sizeof(struct ofp_action_set_field));
    oxm_put(o, id, &a->set.value, &a->set.mask);
    of_out_pad8(o, at);
    struct ofp_action_set_field *h = of_out_ptr(o, at);
    if (h) *h = (struct ofp_action_set_field){be16_make(OFPAT_SET_FIELD), be16_make((uint16_t)(of_out_at(o) - at))};
}

static void put_action(struct of_out *o, const struct action *a)
{
    switch ((enum action_type)a->type) {
    case ACTION_OUTPUT: put_output(o, a); break;
    case ACTION_GROUP: put_u32(o, OFPAT_GROUP, a->group); break;
    case ACTION_SET_QUEUE: put_u32(o, OFPAT_SET_QUEUE, a->queue); break;
    case ACTION_SET_FIELD: put_set(o, a); break;
    case ACTION_MOVE: nicira_put_move(o, a); break;
    case ACTION_PUSH_VLAN: put_u16(o, OFPAT_PUSH_VLAN, a->eth_type); break;
    case ACTION_POP_VLAN: put_u8(o, OFPAT_POP_VLAN, 0); break;
    case ACTION_PUSH_MPLS: put_u16(o, OFPAT_PUSH_MPLS, a->eth_type); break;
    case ACTION_POP_MPLS: put_u16(o, OFPAT_POP_MPLS, a->eth_type); break;
    case ACTION_PUSH_PBB: put_u16(o, OFPAT_PUSH_PBB, a->eth_type); break;
    case ACTION_POP_PBB: put_u8(o, OFPAT_POP_PBB, 0); break;
    case ACTION_DEC_NW_TTL: put_u8(o, OFPAT_DEC_NW_TTL, 0); break;
    case ACTION_SET_NW_TTL: put_u8(o, OFPAT_SET_NW_TTL, a->ttl); break;
    case ACTION_DEC_MPLS_TTL: put_u8(o, OFPAT_DEC_MPLS_TTL, 0); break;
    case ACTION_SET_MPLS_TTL: put_u8(o, OFPAT_SET_MPLS_TTL, a->ttl); break;
    case ACTION_COPY_TTL_OUT: put_u8(o, OFPAT_COPY_TTL_OUT, 0); break;
    case ACTION_COPY_TTL_IN: put_u8(o, OFPAT_COPY_TTL_IN, 0); break;
    case ACTION_RESUBMIT: nicira_put_resubmit(o, a); break;
    case ACTION_TYPES: break;
    }
}

void of_put_actions(struct of_out *o, const struct action_list *l)
{
    for (unsigned i = 0; i < l->count; i++)
        put_action(o, &l->list[i]);
}

/* ---- instructions ---- */

static void put_list(struct of_out *o, unsigned type, const struct action_list *l)
{
    size_t at = of_out_at(o);
    of_out_put(o, sizeof(struct ofp_instruction_actions));
    of_put_actions(o, l);
    struct ofp_instruction_actions *h = of_out_ptr(o, at);
    if (!h) return;
    h->type = be16_make((uint16_t)type);
    h->len = be16_make((uint16_t)(of_out_at(o) - at));
}

static void put_metadata(struct of_out *o, const struct instructions *i)
{
    struct ofp_instruction_write_metadata w = {.type = be16_make(OFPIT_WRITE_METADATA),
                                               .len = be16_make(sizeof w),
                                               .metadata = be64_make(i->metadata),
                                               .metadata_mask = be64_make(i->metadata_mask)};
    of_out_put_bytes(o, &w, sizeof w);
}

/* In the order in which they are carried out (5.9). */
void of_put_instructions(struct of_out *o, const struct instructions *i)
{
    static const struct action_list none;
    if (i->meter) put_u32(o, OFPIT_METER, i->meter); /* the same layout */
    if (i->has_apply) put_list(o, OFPIT_APPLY_ACTIONS, &i->apply);
    if (i->clear) put_list(o, OFPIT_CLEAR_ACTIONS, &none);
    if (i->has_write) put_list(o, OFPIT_WRITE_ACTIONS, &i->write);
    if (i->has_metadata) put_metadata(o, i);
    if (i->has_goto) put_u8(o, OFPIT_GOTO_TABLE, i->goto_table); /* the same layout */
}
