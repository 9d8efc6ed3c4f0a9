/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups as text, in ovs-ofctl's syntax (add-group). The normal form is what dump-groups -O OpenFlow13 writes.
 *
 *     group_id=1,type=select,bucket=weight:2,watch_port:3,actions=output:3,bucket=actions=output:4
 *
 * A bucket goes on to the next bucket=; what is none of its settings is an action, with or without "actions=" before it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "switch/flow_parse_action.h"
#include "switch/group.h"

#define GROUP_TEXT_MAX (1024u * 1024)

static const char *const type_names[GROUP_TYPES] = {
    [GROUP_ALL] = "all", [GROUP_SELECT] = "select", [GROUP_INDIRECT] = "indirect", [GROUP_FAST_FAILOVER] = "ff"};

struct parser {
    struct text_source s;
    struct group_spec *g;
    unsigned room;
    bool has_id, has_type;
};

/* What was said of one bucket. */
struct bucket_parser {
    struct parser *p;
    struct group_bucket *k;
    struct text at;
    struct actions actions;
    struct flow_match any;
    struct instructions none;
    bool has_weight, has_port, has_group, has_actions;
};

static int once(struct parser *p, struct text key, bool *said)
{
    if (*said) return text_refuse(&p->s, key, "it was said before");
    *said = true;
    return 0;
}

/* ---- buckets ---- */

static int parse_weight(struct bucket_parser *b, const struct text_item *i)
{
    uint64_t n;
    int ret = once(b->p, i->key, &b->has_weight);
    if (ret) return ret;
    if (b->p->g->type != GROUP_SELECT) return text_refuse(&b->p->s, i->key, "only a select group's buckets have one");
    if (!text_number(i->value, UINT16_MAX, &n)) return text_fail(&b->p->s, i->value, "a weight (0 to 65535)");
    b->k->weight = (uint16_t)n;
    return 0;
}

static int parse_watch_port(struct bucket_parser *b, const struct text_item *i)
{
    int ret = once(b->p, i->key, &b->has_port);
    if (ret) return ret;
    if (!text_port(&b->p->s, i->value, &b->k->watch_port))
        return text_fail(&b->p->s, i->value, "a port's number or name");
    return 0;
}

static int parse_watch_group(struct bucket_parser *b, const struct text_item *i)
{
    uint64_t n = SWITCH_GROUP_ANY;
    int ret = once(b->p, i->key, &b->has_group);
    if (ret) return ret;
    if (!text_is(i->value, "any") && !text_number(i->value, SWITCH_GROUP_MAX, &n))
        return text_fail(&b->p->s, i->value, "a group's number");
    b->k->watch_group = (uint32_t)n;
    return 0;
}

static int parse_action(struct bucket_parser *b, const struct text_item *i)
{
    bool named = text_is(i->key, "actions") || text_is(i->key, "action");
    b->has_actions = true;
    return actions_piece(&b->actions, named && i->has_value ? i->value : i->whole);
}

static int parse_bucket_item(struct bucket_parser *b, const struct text_item *i)
{
    if (text_is(i->key, "weight")) return parse_weight(b, i);
    if (text_is(i->key, "watch_port")) return parse_watch_port(b, i);
    if (text_is(i->key, "watch_group")) return parse_watch_group(b, i);
    if (text_is(i->key, "bucket_id"))
        return text_refuse(&b->p->s, i->key, "OpenFlow 1.3 has no numbers of buckets: their order counts");
    return parse_action(b, i);
}

/* Takes the items of a bucket off *rest. */
static int parse_bucket(struct bucket_parser *b, struct text first, struct text *rest)
{
    struct text_item i;
    struct text t = first;
    int ret;
    while ((ret = text_next(&b->p->s, &t, &i)) > 0)
        if ((ret = parse_bucket_item(b, &i)) < 0) return ret;
    for (;;) {
        struct text before = *rest;
        if (ret < 0) return ret;
        ret = text_next(&b->p->s, rest, &i);
        if (ret == 0) break;
        if (ret > 0 && text_is(i.key, "bucket")) {
            *rest = before;
            break;
        }
        if (ret > 0) ret = parse_bucket_item(b, &i);
    }
    if (b->has_actions) return 0;
    return text_refuse(&b->p->s, b->at, "a bucket has actions (or drop)");
}

static struct group_bucket *bucket_new(struct parser *p)
{
    struct group_spec *g = p->g;
    if (g->count == p->room) {
        unsigned room = p->room ? 2 * p->room : 4;
        struct group_bucket *list = reallocarray(g->buckets, room, sizeof *list);
        if (!list) return NULL;
        g->buckets = list;
        p->room = room;
    }
    struct group_bucket *k = &g->buckets[g->count++];
    *k = (struct group_bucket){
        .weight = g->type == GROUP_SELECT, .watch_port = SWITCH_PORT_ANY, .watch_group = SWITCH_GROUP_ANY};
    return k;
}

static int add_bucket(struct parser *p, const struct text_item *i, struct text *rest)
{
    if (!i->has_value) return text_fail(&p->s, i->value, "bucket=..");
    if (!p->has_type) return text_refuse(&p->s, i->key, "the group's type comes first");
    if (p->g->count == GROUP_BUCKETS_MAX)
        return text_refuse(&p->s, i->key, "there are no more than %u buckets", GROUP_BUCKETS_MAX);
    struct group_bucket *k = bucket_new(p);
    if (!k) return errmsg_set(p->s.e, ENOMEM, "no memory for a group");
    struct bucket_parser b = {.p = p, .k = k, .at = i->whole};
    b.actions = (struct actions){.s = &p->s, .m = &b.any, .out = &b.none, .list = &k->actions, .nested = true};
    return parse_bucket(&b, i->value, rest);
}

/* ---- the whole ---- */

static int parse_type(struct parser *p, struct text t)
{
    for (unsigned i = 0; i < GROUP_TYPES; i++)
        if (text_is(t, type_names[i])) {
            p->g->type = (uint8_t)i;
            return 0;
        }
    if (!text_is(t, "fast_failover")) return text_fail(&p->s, t, "all, select, indirect or ff");
    p->g->type = GROUP_FAST_FAILOVER;
    return 0;
}

static int parse_item(struct parser *p, const struct text_item *i, struct text *rest)
{
    uint64_t n;
    int ret;
    if (text_is(i->key, "bucket")) return add_bucket(p, i, rest);
    if (text_is(i->key, "group_id")) {
        ret = once(p, i->key, &p->has_id);
        if (ret) return ret;
        if (!text_number(i->value, SWITCH_GROUP_MAX, &n)) return text_fail(&p->s, i->value, "a group's number");
        p->g->id = (uint32_t)n;
        return 0;
    }
    if (text_is(i->key, "type")) {
        ret = once(p, i->key, &p->has_type);
        return ret ? ret : parse_type(p, i->value);
    }
    if (text_is(i->key, "selection_method") || text_is(i->key, "selection_method_param") || text_is(i->key, "fields"))
        return text_refuse(&p->s, i->key, "a select group chooses by addresses and ports, always");
    return text_fail(&p->s, i->key, "group_id=, type= or bucket=");
}

static int finish(struct parser *p, struct text all)
{
    struct text end = {all.at + all.length, 0};
    if (!p->has_id) return text_fail(&p->s, end, "group_id=NUMBER");
    return p->has_type ? 0 : text_fail(&p->s, end, "type=all, select, indirect or ff");
}

int group_parse(struct group_spec *out, const char *text, const struct flow_names *names, struct errmsg *e)
{
    struct parser p = {.s = {.start = text, .names = names, .e = e}, .g = out};
    struct text all = {text, strnlen(text, GROUP_TEXT_MAX + 1)}, rest = all;
    struct text_item i;
    int ret;
    *out = (struct group_spec){0};
    if (all.length > GROUP_TEXT_MAX)
        return errmsg_set(e, EINVAL, "the group has more than %u characters", GROUP_TEXT_MAX);
    while ((ret = text_next(&p.s, &rest, &i)) > 0)
        if ((ret = parse_item(&p, &i, &rest)) < 0) break;
    if (!ret) ret = finish(&p, all);
    if (ret) group_spec_clear(out);
    return ret;
}

static void put_bucket(FILE *out, const struct group_spec *g, const struct group_bucket *k,
                       const struct flow_names *names)
{
    fputs(",bucket=", out);
    if (k->weight != (g->type == GROUP_SELECT)) fprintf(out, "weight:%u,", k->weight);
    if (k->watch_port != SWITCH_PORT_ANY) {
        fputs("watch_port:", out);
        text_port_print(out, k->watch_port, names);
        fputc(',', out);
    }
    if (k->watch_group != SWITCH_GROUP_ANY) fprintf(out, "watch_group:%" PRIu32 ",", k->watch_group);
    fputs("actions=", out);
    if (k->actions.count) text_action_list_print(out, &k->actions, names);
    else fputs("drop", out);
}

void group_format(FILE *out, const struct group_spec *g, const struct flow_names *names)
{
    fprintf(out, "group_id=%" PRIu32 ",type=%s", g->id, g->type < GROUP_TYPES ? type_names[g->type] : "?");
    for (unsigned i = 0; i < g->count; i++)
        put_bucket(out, g, &g->buckets[i], names);
}
