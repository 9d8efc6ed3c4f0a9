/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/action.h"

#include <stdlib.h>

static bool list_copy(struct action_list *out, const struct action_list *in)
{
    *out = (struct action_list){0};
    if (in->count == 0) return true;
    out->list = calloc(in->count, sizeof *out->list);
    if (!out->list) return false;
    memcpy(out->list, in->list, in->count * sizeof *out->list);
    out->count = in->count;
    return true;
}

static void list_clear(struct action_list *l)
{
    free(l->list);
    *l = (struct action_list){0};
}

bool instructions_copy(struct instructions *out, const struct instructions *in)
{
    struct instructions i = *in;
    if (!list_copy(&i.apply, &in->apply)) return false;
    if (!list_copy(&i.write, &in->write)) {
        list_clear(&i.apply);
        return false;
    }
    *out = i;
    return true;
}

void instructions_clear(struct instructions *i)
{
    list_clear(&i->apply);
    list_clear(&i->write);
    *i = (struct instructions){0};
}

/* Not memcmp of the whole: what a type does not use may hold anything. */
static bool action_equal(const struct action *a, const struct action *b)
{
    if (a->type != b->type) return false;
    switch ((enum action_type)a->type) {
    case ACTION_OUTPUT: return a->output.port == b->output.port && a->output.max_len == b->output.max_len;
    case ACTION_GROUP: return a->group == b->group;
    case ACTION_SET_QUEUE: return a->queue == b->queue;
    case ACTION_SET_FIELD:
        return a->set.field == b->set.field && memcmp(&a->set.value, &b->set.value, sizeof a->set.value) == 0 &&
               memcmp(&a->set.mask, &b->set.mask, sizeof a->set.mask) == 0;
    case ACTION_MOVE:
        return a->move.from == b->move.from && a->move.to == b->move.to && a->move.from_bit == b->move.from_bit &&
               a->move.to_bit == b->move.to_bit && a->move.bits == b->move.bits;
    case ACTION_PUSH_VLAN:
    case ACTION_PUSH_MPLS:
    case ACTION_POP_MPLS:
    case ACTION_PUSH_PBB: return a->eth_type == b->eth_type;
    case ACTION_SET_NW_TTL:
    case ACTION_SET_MPLS_TTL: return a->ttl == b->ttl;
    case ACTION_RESUBMIT: return a->resubmit.port == b->resubmit.port && a->resubmit.table == b->resubmit.table;
    case ACTION_POP_VLAN:
    case ACTION_POP_PBB:
    case ACTION_DEC_NW_TTL:
    case ACTION_DEC_MPLS_TTL:
    case ACTION_COPY_TTL_OUT:
    case ACTION_COPY_TTL_IN:
    case ACTION_TYPES: return true;
    }
    return true;
}

static bool list_equal(const struct action_list *a, const struct action_list *b)
{
    if (a->count != b->count) return false;
    for (unsigned i = 0; i < a->count; i++)
        if (!action_equal(&a->list[i], &b->list[i])) return false;
    return true;
}

bool instructions_equal(const struct instructions *a, const struct instructions *b)
{
    if (a->meter != b->meter || a->has_apply != b->has_apply || a->clear != b->clear || a->has_write != b->has_write ||
        a->has_metadata != b->has_metadata || a->has_goto != b->has_goto)
        return false;
    if (a->has_goto && a->goto_table != b->goto_table) return false;
    if (a->has_metadata && (a->metadata != b->metadata || a->metadata_mask != b->metadata_mask)) return false;
    return list_equal(&a->apply, &b->apply) && list_equal(&a->write, &b->write);
}
