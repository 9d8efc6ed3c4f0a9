/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is answered to multipart requests.
 *
 * Flows may be there in great numbers: a list of those that there are is made at once, each is looked at when its turn comes, and one
 * that has gone meanwhile is passed over. Groups, meters and tables go on behind the last number that was told. Ports are few
 * enough to be told at once.
 *
 * Source: OpenFlow 1.3.5, section 7.3.5.
 */
#include <errno.h>
#include <stdio.h>

#include "base/bitmap.h"
#include "openflow/agent_internal.h"

void answer_clear(struct answer *a)
{
    flow_list_free(a->flows);
    *a = (struct answer){.more = NULL};
}

/* ---- the switch ---- */

static bool tell_desc(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    (void)answer;
    const struct of_desc d = {.manufacturer = "Creedence",
                              .hardware = "flow switch",
                              .software = a->args.version ? a->args.version : "",
                              .serial = "none",
                              .datapath = a->args.description ? a->args.description : ""};
    of_put_desc(o, &d);
    return false;
}

static bool tell_table_stats(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    (void)answer;
    for (unsigned table = 0; table < SWITCH_TABLES; table++) {
        struct table_stats stats;
        bridge_table_stats(a->args.bridge, (uint8_t)table, &stats);
        of_put_table_stats(o, (uint8_t)table, &stats);
    }
    return false;
}

static bool tell_nothing(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    (void)a;
    (void)answer;
    (void)o;
    return false;
}

/* ---- flows ---- */

static bool tell_flows(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    struct flow_spec f;
    struct flow_stats stats;
    (void)a;
    while (!answer_is_full(answer, o)) {
        if (!flow_list_next(answer->flows, &f, &stats)) return false;
        of_put_flow_stats(o, &f, &stats);
    }
    return true;
}

static int get_selection(const struct of_request *r, struct flow_spec *out, struct of_error *e)
{
    struct of_flow_stats_request request;
    if (of_get_flow_stats_request(r->body, r->bytes, &request, e)) return -EINVAL;
    if (request.selection.table >= SWITCH_TABLES && request.selection.table != SWITCH_TABLE_ALL)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_TABLE_ID, "there is no table %u", request.selection.table);
    *out = request.selection;
    return 0;
}

static int ask_flows(struct of_agent *a, const struct of_request *r, struct answer *out, struct of_error *e)
{
    struct flow_spec selection;
    if (get_selection(r, &selection, e)) return -EINVAL;
    out->flows = bridge_flow_list(a->args.bridge, &selection);
    if (!out->flows)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_MULTIPART_BUFFER_OVERFLOW,
                        "too many flows are being told of, or no memory");
    out->more = tell_flows;
    return 0;
}

static bool tell_sum(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    (void)a;
    of_put_aggregate(o, answer->sum.packets, answer->sum.bytes, answer->sum.flows);
    return false;
}

static void add_up(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    struct answer *answer = arg;
    (void)f;
    answer->sum.packets += s->packets;
    answer->sum.bytes += s->bytes;
    answer->sum.flows++;
}

static int ask_aggregate(struct of_agent *a, const struct of_request *r, struct answer *out, struct of_error *e)
{
    struct flow_spec selection;
    if (get_selection(r, &selection, e)) return -EINVAL;
    bridge_flow_each(a->args.bridge, &selection, add_up, out);
    out->more = tell_sum;
    return 0;
}

/* ---- ports ---- */

struct port_visit {
    struct of_out *out;
    uint32_t number; /* OFPP_ANY: all */
};

static void tell_one_port_stats(void *arg, const struct switch_port_info *p)
{
    const struct port_visit *v = arg;
    struct port_stats stats;
    if (v->number != OFPP_ANY && v->number != p->number) return;
    port_stats_read(p->port, &stats);
    of_put_port_stats(v->out, p, &stats);
}

static bool tell_port_stats(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    struct port_visit v = {.out = o, .number = answer->number};
    bridge_port_each(a->args.bridge, tell_one_port_stats, &v);
    return false;
}

static int ask_port_stats(struct of_agent *a, const struct of_request *r, struct answer *out, struct of_error *e)
{
    if (of_get_port_stats_request(r->body, r->bytes, &out->number, e)) return -EINVAL;
    if (out->number != OFPP_ANY && !agent_is_port(a, out->number))
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_PORT, "there is no port %u", out->number);
    out->more = tell_port_stats;
    return 0;
}

static void tell_one_port(void *arg, const struct switch_port_info *p)
{
    of_put_port(arg, p);
}

static bool tell_ports(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    (void)answer;
    bridge_port_each(a->args.bridge, tell_one_port, o);
    return false;
}

/* There are no queues. */
static int ask_queues(struct of_agent *a, const struct of_request *r, struct answer *out, struct of_error *e)
{
    uint32_t port, queue;
    if (of_get_queue_stats_request(r->body, r->bytes, &port, &queue, e)) return -EINVAL;
    if (port != OFPP_ANY && !agent_is_port(a, port))
        return of_wrong(e, OFPET_QUEUE_OP_FAILED, OFPQOFC_BAD_PORT, "there is no port %u", port);
    if (queue != OFPQ_ALL)
        return of_wrong(e, OFPET_QUEUE_OP_FAILED, OFPQOFC_BAD_QUEUE, "port %u has no queue %u", port, queue);
    out->more = tell_nothing;
    return 0;
}

/* ---- groups and meters ---- */

struct visit {
    struct answer *answer;
    struct of_out *out;
    bool more; /* there are some that did not fit */
};

/* Is it this one's turn? Numbers rise. */
static bool has_turn(struct visit *v, uint32_t number)
{
    if (v->more || number < v->answer->next) return false;
    v->more = answer_is_full(v->answer, v->out);
    if (!v->more) v->answer->next = (uint64_t)number + 1;
    return !v->more;
}

static void tell_one_group(void *arg, const struct group_spec *g, const struct group_stats *s)
{
    struct visit *v = arg;
    if (!has_turn(v, g->id)) return;
    if (v->answer->type == OFPMP_GROUP) of_put_group_stats(v->out, g, s);
    else of_put_group_desc(v->out, g);
}

static bool tell_groups(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    struct visit v = {.answer = answer, .out = o};
    bridge_group_each(a->args.bridge, answer->number, tell_one_group, &v);
    return v.more;
}

static int ask_groups(struct of_agent *a, const struct of_request *r, struct answer *out, struct of_error *e)
{
    (void)a;
    out->number = SWITCH_GROUP_ALL;
    if (r->type == OFPMP_GROUP && of_get_group_stats_request(r->body, r->bytes, &out->number, e)) return -EINVAL;
    out->more = tell_groups;
    return 0;
}

static bool tell_group_features(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    (void)a;
    (void)answer;
    of_put_group_features(o);
    return false;
}

static void tell_one_meter(void *arg, const struct meter_spec *m, const struct meter_stats *s)
{
    struct visit *v = arg;
    if (!has_turn(v, m->id)) return;
    if (v->answer->type == OFPMP_METER) of_put_meter_stats(v->out, m, s);
    else of_put_meter_config(v->out, m);
}

static bool tell_meters(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    struct visit v = {.answer = answer, .out = o};
    bridge_meter_each(a->args.bridge, answer->number, tell_one_meter, &v);
    return v.more;
}

static void is_there(void *arg, const struct meter_spec *m, const struct meter_stats *s)
{
    (void)m;
    (void)s;
    *(bool *)arg = true;
}

static int ask_meters(struct of_agent *a, const struct of_request *r, struct answer *out, struct of_error *e)
{
    bool found = false;
    if (of_get_meter_request(r->body, r->bytes, &out->number, e)) return -EINVAL;
    if (out->number != SWITCH_METER_ALL) bridge_meter_each(a->args.bridge, out->number, is_there, &found);
    if (out->number != SWITCH_METER_ALL && !found)
        return of_wrong(e, OFPET_METER_MOD_FAILED, OFPMMFC_UNKNOWN_METER, "there is no meter %u", out->number);
    out->more = tell_meters;
    return 0;
}

static bool tell_meter_features(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    (void)a;
    (void)answer;
    of_put_meter_features(o);
    return false;
}

/* ---- table features ---- */

static void name_of_table(unsigned table, char name[OFP_MAX_TABLE_NAME_LEN])
{
    snprintf(name, OFP_MAX_TABLE_NAME_LEN, "table%u", table);
}

static bool tell_table_features(struct of_agent *a, struct answer *answer, struct of_out *o)
{
    for (; answer->next < SWITCH_TABLES; answer->next++) {
        char name[OFP_MAX_TABLE_NAME_LEN];
        unsigned table = (unsigned)answer->next;
        if (answer_is_full(answer, o)) return true;
        name_of_table(table, name);
        of_put_table_features(o, (uint8_t)table, name, a->table_config[table], SWITCH_FLOWS_MAX_DEFAULT);
    }
    return false;
}

static int refuse_table(const struct of_table_features *f, const char *why, struct of_error *e)
{
    return of_wrong(e, OFPET_TABLE_FEATURES_FAILED, OFPTFFC_EPERM, "table %u: %s", f->table, why);
}

static int check_table(struct of_agent *a, const struct of_table_features *f, uint64_t *seen, struct of_error *e)
{
    char name[OFP_MAX_TABLE_NAME_LEN];
    if (f->table >= SWITCH_TABLES)
        return of_wrong(e, OFPET_TABLE_FEATURES_FAILED, OFPTFFC_BAD_TABLE, "there is no table %u", f->table);
    name_of_table(f->table, name);
    if (bitmap_test(seen, f->table)) return refuse_table(f, "it comes twice", e);
    bitmap_set(seen, f->table);
    if (!f->same || f->max_entries != SWITCH_FLOWS_MAX_DEFAULT) return refuse_table(f, "what it can do is fixed", e);
    if (f->config != a->table_config[f->table]) return refuse_table(f, "its configuration is another", e);
    return strcmp(f->name, name) == 0 ? 0 : refuse_table(f, "its name is fixed", e);
}

/* The pipeline is what it is: a request may only ask for that, of all tables. */
static int ask_table_features(struct of_agent *a, const struct of_request *r, struct answer *out, struct of_error *e)
{
    const uint8_t *at = r->body;
    size_t bytes = r->bytes;
    uint64_t seen[4] = {0};
    unsigned count = 0;
    int ret;
    out->more = tell_table_features;
    for (struct of_table_features f; (ret = of_get_table_features(&at, &bytes, &f, e)) > 0; count++)
        if (check_table(a, &f, seen, e)) return -EINVAL;
    if (ret < 0 || count == 0 || count == SWITCH_TABLES) return ret;
    return of_wrong(e, OFPET_TABLE_FEATURES_FAILED, OFPTFFC_EPERM, "%u tables: there are %u", count, SWITCH_TABLES);
}

/* ---- which is whose ---- */

static const struct {
    /* Either it can be answered at once, or there is something to be looked at first. */
    bool (*more)(struct of_agent *a, struct answer *answer, struct of_out *o);
    int (*ask)(struct of_agent *a, const struct of_request *r, struct answer *out, struct of_error *e);
} answers[] = {
    [OFPMP_DESC] = {tell_desc, NULL},
    [OFPMP_FLOW] = {NULL, ask_flows},
    [OFPMP_AGGREGATE] = {NULL, ask_aggregate},
    [OFPMP_TABLE] = {tell_table_stats, NULL},
    [OFPMP_PORT_STATS] = {NULL, ask_port_stats},
    [OFPMP_QUEUE] = {NULL, ask_queues},
    [OFPMP_GROUP] = {NULL, ask_groups},
    [OFPMP_GROUP_DESC] = {NULL, ask_groups},
    [OFPMP_GROUP_FEATURES] = {tell_group_features, NULL},
    [OFPMP_METER] = {NULL, ask_meters},
    [OFPMP_METER_CONFIG] = {NULL, ask_meters},
    [OFPMP_METER_FEATURES] = {tell_meter_features, NULL},
    [OFPMP_TABLE_FEATURES] = {NULL, ask_table_features},
    [OFPMP_PORT_DESC] = {tell_ports, NULL},
};

int agent_answer_to(struct of_session *s, const struct of_request *r, struct answer *out, struct of_error *e)
{
    assert(r->type < ARRAY_LEN(answers)); /* of_get_multipart() knows it */
    if (r->type == OFPMP_TABLE_FEATURES && r->bytes && s->role == OFPCR_ROLE_SLAVE)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_IS_SLAVE, "a slave may not change anything");
    out->more = answers[r->type].more;
    return answers[r->type].ask ? answers[r->type].ask(s->agent, r, out, e) : 0;
}
