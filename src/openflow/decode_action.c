/* SPDX-License-Identifier: Apache-2.0 */
/* Actions and instructions from the wire (OpenFlow 1.3.5, sections 7.2.4, 7.2.5). Padding is not looked at. */
#include <stdlib.h>

#include "openflow/codec_internal.h"

#define ACTION_BYTES_MIN 8u

/* ---- one action ---- */

static int bad_length(struct of_error *e, unsigned type, size_t bytes)
{
    return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_LEN, "action %u of %zu bytes", type, bytes);
}

static uint32_t u32_of(const uint8_t *at)
{
    struct ofp_action_u32 a;
    memcpy(&a, at, sizeof a);
    return be32_get(a.value);
}

static uint16_t u16_of(const uint8_t *at)
{
    struct ofp_action_u16 a;
    memcpy(&a, at, sizeof a);
    return be16_get(a.value);
}

static uint8_t u8_of(const uint8_t *at)
{
    struct ofp_action_u8 a;
    memcpy(&a, at, sizeof a);
    return a.value;
}

static void get_output(const uint8_t *at, struct action *out)
{
    struct ofp_action_output a;
    memcpy(&a, at, sizeof a);
    out->output.port = be32_get(a.port);
    out->output.max_len = be16_get(a.max_len);
}

/* By the specification (7.2.5) metadata cannot be set by it; ovs-ofctl does, and it does no harm. */
static int get_set_field(const uint8_t *at, size_t bytes, struct action *out, struct of_error *e)
{
    struct cursor c = cursor_over(at, bytes);
    struct oxm_value v;
    cursor_pull(&c, sizeof(struct ofp_action_set_field));
    int ret = oxm_get(&c, OXM_IN_SET_FIELD, &v, e);
    if (ret) return ret;
    if (c.left_bytes > 7)
        return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_SET_LEN, "set_field of %zu bytes: too many", bytes);
    if (!fields[v.field.id].writable)
        return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_SET_TYPE, "%s cannot be set", fields[v.field.id].name);
    out->set.field = (uint8_t)v.field.id;
    out->set.value = v.value;
    out->set.mask = v.mask;
    return 0;
}

static int get_experimenter(const uint8_t *at, size_t bytes, struct action *out, struct of_error *e)
{
    uint32_t id = u32_of(at);
    if (id == NX_EXPERIMENTER_ID && bytes < 16) return bad_length(e, OFPAT_EXPERIMENTER, bytes);
    if (id == NX_EXPERIMENTER_ID) return nicira_get_action(at, bytes, out, e);
    return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_EXPERIMENTER, "an action of experimenter 0x%08x", id);
}

static const struct {
    uint8_t known, type, bytes; /* bytes 0: several lengths are right */
} kinds[] = {
    [OFPAT_OUTPUT] = {1, ACTION_OUTPUT, sizeof(struct ofp_action_output)},
    [OFPAT_COPY_TTL_OUT] = {1, ACTION_COPY_TTL_OUT, 8},
    [OFPAT_COPY_TTL_IN] = {1, ACTION_COPY_TTL_IN, 8},
    [OFPAT_SET_MPLS_TTL] = {1, ACTION_SET_MPLS_TTL, 8},
    [OFPAT_DEC_MPLS_TTL] = {1, ACTION_DEC_MPLS_TTL, 8},
    [OFPAT_PUSH_VLAN] = {1, ACTION_PUSH_VLAN, 8},
    [OFPAT_POP_VLAN] = {1, ACTION_POP_VLAN, 8},
    [OFPAT_PUSH_MPLS] = {1, ACTION_PUSH_MPLS, 8},
    [OFPAT_POP_MPLS] = {1, ACTION_POP_MPLS, 8},
    [OFPAT_SET_QUEUE] = {1, ACTION_SET_QUEUE, 8},
    [OFPAT_GROUP] = {1, ACTION_GROUP, 8},
    [OFPAT_SET_NW_TTL] = {1, ACTION_SET_NW_TTL, 8},
    [OFPAT_DEC_NW_TTL] = {1, ACTION_DEC_NW_TTL, 8},
    [OFPAT_SET_FIELD] = {1, ACTION_SET_FIELD, 0},
    [OFPAT_PUSH_PBB] = {1, ACTION_PUSH_PBB, 8},
    [OFPAT_POP_PBB] = {1, ACTION_POP_PBB, 8},
};

static int get_action(const uint8_t *at, size_t bytes, struct action *out, struct of_error *e)
{
    struct ofp_action_header h;
    memcpy(&h, at, sizeof h);
    unsigned type = be16_get(h.type);
    *out = (struct action){0};
    if (type == OFPAT_EXPERIMENTER) return get_experimenter(at, bytes, out, e);
    if (type >= sizeof kinds / sizeof kinds[0] || !kinds[type].known)
        return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_TYPE, "action %u", type);
    if (kinds[type].bytes && kinds[type].bytes != bytes) return bad_length(e, type, bytes);
    out->type = kinds[type].type;
    switch (type) {
    case OFPAT_OUTPUT: get_output(at, out); break;
    case OFPAT_SET_FIELD: return get_set_field(at, bytes, out, e);
    case OFPAT_GROUP: out->group = u32_of(at); break;
    case OFPAT_SET_QUEUE: out->queue = u32_of(at); break;
    case OFPAT_SET_MPLS_TTL:
    case OFPAT_SET_NW_TTL: out->ttl = u8_of(at); break;
    case OFPAT_PUSH_VLAN:
    case OFPAT_PUSH_MPLS:
    case OFPAT_POP_MPLS:
    case OFPAT_PUSH_PBB: out->eth_type = u16_of(at); break;
    default: break;
    }
    return 0;
}

/* ---- lists ---- */

/* How long the one at `at` is; 0: that cannot be. */
static size_t length_at(const uint8_t *at, size_t left)
{
    struct ofp_action_header h;
    if (left < ACTION_BYTES_MIN) return 0;
    memcpy(&h, at, sizeof h);
    size_t length = be16_get(h.len);
    return length < ACTION_BYTES_MIN || length % 8 || length > left ? 0 : length;
}

static int count_actions(const uint8_t *at, size_t bytes, unsigned *count, struct of_error *e)
{
    *count = 0;
    for (size_t done = 0, length; done < bytes; done += length) {
        length = length_at(at + done, bytes - done);
        if (!length)
            return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_LEN, "an action's length in a list of %zu bytes", bytes);
        if (++*count > ACTIONS_MAX)
            return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_TOO_MANY, "more than %u actions in a list", ACTIONS_MAX);
    }
    return 0;
}

int of_get_actions(const uint8_t *at, size_t bytes, struct action_list *out, struct of_error *e)
{
    unsigned count;
    *out = (struct action_list){0};
    int ret = count_actions(at, bytes, &count, e);
    if (ret || !count) return ret;
    struct action *list = calloc(count, sizeof *list);
    if (!list) return of_no_memory(e);
    for (unsigned i = 0; i < count; i++) {
        size_t length = length_at(at, bytes);
        ret = get_action(at, length, &list[i], e);
        if (ret) {
            free(list);
            return ret;
        }
        at += length;
        bytes -= length;
    }
    *out = (struct action_list){.count = count, .list = list};
    return 0;
}

void of_actions_clear(struct action_list *l)
{
    free(l->list);
    *l = (struct action_list){0};
}

/* ---- instructions ---- */

static int get_goto(const uint8_t *at, struct instructions *out)
{
    struct ofp_instruction_goto_table g;
    memcpy(&g, at, sizeof g);
    out->has_goto = true;
    out->goto_table = g.table_id;
    return 0;
}

/* Bits outside of the mask are not written (5.9), so they may be anything. */
static int get_metadata(const uint8_t *at, struct instructions *out)
{
    struct ofp_instruction_write_metadata w;
    memcpy(&w, at, sizeof w);
    out->has_metadata = true;
    out->metadata_mask = be64_get(w.metadata_mask);
    out->metadata = be64_get(w.metadata) & out->metadata_mask;
    return 0;
}

static int get_meter(const uint8_t *at, struct instructions *out, struct of_error *e)
{
    struct ofp_instruction_meter m;
    memcpy(&m, at, sizeof m);
    out->meter = be32_get(m.meter_id);
    if (out->meter >= 1 && out->meter <= OFPM_MAX) return 0;
    return of_wrong(e, OFPET_METER_MOD_FAILED, OFPMMFC_UNKNOWN_METER, "meter 0x%x", out->meter);
}

/* An instruction of a type that is known, of a length that it may have. */
static int get_instruction(unsigned type, const uint8_t *at, size_t bytes, struct instructions *out, struct of_error *e)
{
    const size_t head = sizeof(struct ofp_instruction_actions);
    switch (type) {
    case OFPIT_GOTO_TABLE: return get_goto(at, out);
    case OFPIT_WRITE_METADATA: return get_metadata(at, out);
    case OFPIT_WRITE_ACTIONS: out->has_write = true; return of_get_actions(at + head, bytes - head, &out->write, e);
    case OFPIT_APPLY_ACTIONS: out->has_apply = true; return of_get_actions(at + head, bytes - head, &out->apply, e);
    case OFPIT_CLEAR_ACTIONS: out->clear = true; return 0;
    default: return get_meter(at, out, e);
    }
}

static int check_instruction(unsigned type, const uint8_t *at, size_t bytes, struct of_error *e)
{
    static const uint8_t lengths[] = {
        [OFPIT_GOTO_TABLE] = 8, [OFPIT_WRITE_METADATA] = 24, [OFPIT_CLEAR_ACTIONS] = 8, [OFPIT_METER] = 8};
    if (type == OFPIT_EXPERIMENTER)
        return of_wrong(e, OFPET_BAD_INSTRUCTION, OFPBIC_BAD_EXPERIMENTER, "an instruction of experimenter 0x%08x",
                        u32_of(at));
    if (type < OFPIT_GOTO_TABLE || type > OFPIT_METER)
        return of_wrong(e, OFPET_BAD_INSTRUCTION, OFPBIC_UNKNOWN_INST, "instruction %u", type);
    if (!lengths[type] || lengths[type] == bytes) return 0;
    return of_wrong(e, OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN, "instruction %u of %zu bytes", type, bytes);
}

static int get_instructions(const uint8_t *at, size_t bytes, struct instructions *out, struct of_error *e)
{
    unsigned seen = 0;
    for (size_t done = 0, length; done < bytes; done += length) {
        length = length_at(at + done, bytes - done); /* their heads are as those of actions */
        if (!length)
            return of_wrong(e, OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN, "an instruction's length in %zu bytes", bytes);
        struct ofp_instruction h;
        memcpy(&h, at + done, sizeof h);
        unsigned type = be16_get(h.type);
        int ret = check_instruction(type, at + done, length, e);
        if (!ret && seen >> type & 1)
            ret = of_wrong(e, OFPET_EXPERIMENTER, ONFERR_DUP_INSTRUCTION, "instruction %u is there twice", type);
        if (!ret) ret = get_instruction(type, at + done, length, out, e);
        if (ret) return ret;
        seen |= 1u << type;
    }
    return 0;
}

int of_get_instructions(const uint8_t *at, size_t bytes, struct instructions *out, struct of_error *e)
{
    *out = (struct instructions){0};
    int ret = get_instructions(at, bytes, out, e);
    if (ret) instructions_clear(out);
    return ret;
}
