/* SPDX-License-Identifier: Apache-2.0 */
/* Action sets: lists kept in the order of OpenFlow 1.3.5, section 5.10. */
#include <stdlib.h>

#include "switch/action.h"

/* The place of each kind. Actions of one rank stay as they were written. Both TTLs are one step, and set-field,
 * setting a TTL and moving bits are. Whoever carries the set out skips its output when there is a group. */
static unsigned rank_of(const struct action *a)
{
    static const uint8_t ranks[ACTION_TYPES] = {
        [ACTION_COPY_TTL_IN] = 0,  [ACTION_POP_VLAN] = 1,     [ACTION_POP_MPLS] = 2,   [ACTION_POP_PBB] = 3,
        [ACTION_PUSH_MPLS] = 4,    [ACTION_PUSH_PBB] = 5,     [ACTION_PUSH_VLAN] = 6,  [ACTION_COPY_TTL_OUT] = 7,
        [ACTION_DEC_MPLS_TTL] = 8, [ACTION_DEC_NW_TTL] = 8,   [ACTION_SET_FIELD] = 9,  [ACTION_MOVE] = 9,
        [ACTION_SET_NW_TTL] = 9,   [ACTION_SET_MPLS_TTL] = 9, [ACTION_SET_QUEUE] = 10, [ACTION_GROUP] = 11,
        [ACTION_RESUBMIT] = 12,    [ACTION_OUTPUT] = 13,
    };
    return a->type < ACTION_TYPES ? ranks[a->type] : 13;
}

static bool covers(const struct field_value *wide, const struct field_value *narrow)
{
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        if (narrow->raw[i] & ~wide->raw[i]) return false;
    return true;
}

/* Does nothing of old remain once new was written? */
static bool replaces(const struct action *new, const struct action *old)
{
    if (new->type != old->type) return false;
    if (new->type == ACTION_SET_FIELD) return new->set.field == old->set.field &&covers(&new->set.mask, &old->set.mask);
    if (new->type == ACTION_MOVE)
        return new->move.to == old->move.to &&new->move.to_bit == old->move.to_bit &&new->move.bits == old->move.bits;
    return true;
}

static bool add(struct action *list, unsigned *count, const struct action *new)
{
    unsigned n = *count, at = 0;
    for (unsigned i = 0; i < n; i++)
        if (!replaces(new, &list[i])) list[at++] = list[i];
    n = at;
    if (n == ACTIONS_MAX) return false;
    while (at > 0 && rank_of(&list[at - 1]) > rank_of(new))
        at--;
    memmove(list + at + 1, list + at, (n - at) * sizeof *list);
    list[at] = *new;
    *count = n + 1;
    return true;
}

/* The result, in `list` with room for ACTIONS_MAX. */
static bool merge(struct action *list, unsigned *count, const struct action_list *set, const struct action_list *more)
{
    if (set->count > ACTIONS_MAX) return false;
    if (set->count) memcpy(list, set->list, set->count * sizeof *list);
    *count = set->count;
    for (unsigned i = 0; i < more->count; i++)
        if (!add(list, count, &more->list[i])) return false;
    return true;
}

bool action_set_merge_into(struct action_list *set, const struct action_list *more)
{
    struct action list[ACTIONS_MAX];
    unsigned count;
    if (!merge(list, &count, set, more)) return false;
    if (count) memcpy(set->list, list, count * sizeof *list);
    set->count = count;
    return true;
}

bool action_set_merge(struct action_list *set, const struct action_list *more)
{
    struct action list[ACTIONS_MAX];
    unsigned count;
    if (!merge(list, &count, set, more)) return false;
    if (count == 0) return true;
    struct action *copy = reallocarray(set->list, count, sizeof *copy);
    if (!copy) return false;
    memcpy(copy, list, count * sizeof *copy);
    *set = (struct action_list){.count = count, .list = copy};
    return true;
}
