/* SPDX-License-Identifier: Apache-2.0 */
/* What controllers are told without asking: flows that are gone, ports that come, go and change. */
#include "openflow/agent_internal.h"

/* OpenFlow 1.3 has no reason for a meter that is deleted. */
static const uint8_t removed_reasons[] = {[FLOW_GONE_IDLE] = OFPRR_IDLE_TIMEOUT,
                                          [FLOW_GONE_HARD] = OFPRR_HARD_TIMEOUT,
                                          [FLOW_GONE_DELETED] = OFPRR_DELETE,
                                          [FLOW_GONE_GROUP] = OFPRR_GROUP_DELETE,
                                          [FLOW_GONE_METER] = OFPRR_DELETE};

void agent_flow_gone(void *arg, const struct flow_spec *f, const struct flow_stats *stats, enum flow_gone why)
{
    struct of_agent *a = arg;
    if (a->args.keeper.flow_gone) a->args.keeper.flow_gone(a->args.keeper.arg, f, why);
    if (!(f->flags & FLOW_SEND_REMOVED)) return;
    LIST_FOR_EACH (node, &a->sessions) {
        struct of_session *s = list_entry(node, struct of_session, node);
        if (!session_wants(s, ASYNC_FLOW_REMOVED, removed_reasons[why])) continue;
        session_said_one(s, of_put_flow_removed(of_conn_out(s->conn), f, stats, why));
        a->told = true;
    }
}

static const uint8_t port_reasons[] = {
    [PORT_EVENT_ADD] = OFPPR_ADD, [PORT_EVENT_DELETE] = OFPPR_DELETE, [PORT_EVENT_MODIFY] = OFPPR_MODIFY};

void agent_port_event(void *arg, enum port_event what, const struct switch_port_info *p)
{
    struct of_agent *a = arg;
    LIST_FOR_EACH (node, &a->sessions) {
        struct of_session *s = list_entry(node, struct of_session, node);
        if (!session_wants(s, ASYNC_PORT_STATUS, port_reasons[what])) continue;
        session_said_one(s, of_put_port_status(of_conn_out(s->conn), what, p));
        a->told = true;
    }
}
