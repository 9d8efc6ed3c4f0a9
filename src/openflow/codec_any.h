/* SPDX-License-Identifier: Apache-2.0 */
/* For tests and fuzzing: any message through the decoder of its type. */
#ifndef OPENFLOW_CODEC_ANY_H
#define OPENFLOW_CODEC_ANY_H

#include <stdlib.h>

#include "openflow/codec.h"

static inline void group_mod_clear(struct of_group_mod *g)
{
    for (unsigned i = 0; i < g->group.count; i++)
        of_actions_clear(&g->group.buckets[i].actions);
    free(g->group.buckets);
}

static inline int decode_any_multipart(const struct of_msg *m, struct of_error *e)
{
    struct of_multipart p;
    struct of_flow_stats_request flows;
    struct of_table_features t;
    uint32_t n, queue;
    int ret = of_get_multipart(m, &p, e);
    if (ret) return ret;
    switch (p.type) {
    case OFPMP_FLOW:
    case OFPMP_AGGREGATE: return of_get_flow_stats_request(p.body, p.bytes, &flows, e);
    case OFPMP_PORT_STATS: return of_get_port_stats_request(p.body, p.bytes, &n, e);
    case OFPMP_QUEUE: return of_get_queue_stats_request(p.body, p.bytes, &n, &queue, e);
    case OFPMP_GROUP: return of_get_group_stats_request(p.body, p.bytes, &n, e);
    case OFPMP_METER:
    case OFPMP_METER_CONFIG: return of_get_meter_request(p.body, p.bytes, &n, e);
    case OFPMP_TABLE_FEATURES:
        do
            ret = of_get_table_features(&p.body, &p.bytes, &t, e);
        while (ret > 0);
        return ret;
    default: return 0;
    }
}

/* What it was, when it was one; 0 or a negative number and *e. */
static inline int decode_any(const struct of_msg *m, struct of_error *e)
{
    struct of_flow_mod flow;
    struct of_group_mod group;
    struct of_meter_mod meter;
    struct of_packet_out out;
    struct of_port_mod port;
    struct of_table_mod table;
    struct of_config config;
    struct of_role role;
    struct of_async async;
    uint32_t n;
    int ret;
    switch (m->type) {
    case OFPT_HELLO: return of_get_hello(m->at, m->bytes, &n, e);
    case OFPT_EXPERIMENTER: return of_refuse_experimenter(m, e);
    case OFPT_FEATURES_REQUEST:
    case OFPT_GET_CONFIG_REQUEST:
    case OFPT_BARRIER_REQUEST:
    case OFPT_GET_ASYNC_REQUEST: return of_get_nothing(m, e);
    case OFPT_SET_CONFIG: return of_get_set_config(m, &config, e);
    case OFPT_PACKET_OUT:
        ret = of_get_packet_out(m, &out, e);
        if (!ret) of_actions_clear(&out.actions);
        return ret;
    case OFPT_FLOW_MOD:
        ret = of_get_flow_mod(m, &flow, e);
        if (!ret) instructions_clear(&flow.flow.instructions);
        return ret;
    case OFPT_GROUP_MOD:
        ret = of_get_group_mod(m, &group, e);
        if (!ret) group_mod_clear(&group);
        return ret;
    case OFPT_PORT_MOD: return of_get_port_mod(m, &port, e);
    case OFPT_TABLE_MOD: return of_get_table_mod(m, &table, e);
    case OFPT_MULTIPART_REQUEST: return decode_any_multipart(m, e);
    case OFPT_QUEUE_GET_CONFIG_REQUEST: return of_get_queue_config_request(m, &n, e);
    case OFPT_ROLE_REQUEST: return of_get_role_request(m, &role, e);
    case OFPT_SET_ASYNC: return of_get_set_async(m, &async, e);
    case OFPT_METER_MOD: return of_get_meter_mod(m, &meter, e);
    default: return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_TYPE, "message %u", m->type);
    }
}

#endif
