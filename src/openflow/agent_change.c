/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flow mods, group mods, meter mods, packet-outs: what changes how packets go, or sends one.
 *
 * Source: OpenFlow 1.3.5, sections 6.4 to 6.7, 7.3.4, 7.3.7.
 */
#include <errno.h>
#include <stdlib.h>

#include "openflow/agent_internal.h"

static void note_flow(struct of_agent *a, enum of_change change, const struct flow_spec *f)
{
    a->changed = true;
    if (a->args.keeper.flow) a->args.keeper.flow(a->args.keeper.arg, change, f);
}

/* ---- flows ---- */

/* *count: how many flows are others now. */
static int change_flow(struct of_agent *a, unsigned command, struct flow_spec *f, unsigned *count, enum flow_wrong *why,
                       struct errmsg *text)
{
    struct bridge *b = a->args.bridge;
    switch (command) {
    case OFPFC_ADD: *count = 1; return bridge_flow_add(b, f, why, text);
    case OFPFC_MODIFY:
    case OFPFC_MODIFY_STRICT:
        f->out_port = f->out_group = SWITCH_PORT_ANY; /* these select only what is deleted */
        return bridge_flow_modify(b, f, command == OFPFC_MODIFY_STRICT, count, why, text);
    default: return bridge_flow_delete(b, f, command == OFPFC_DELETE_STRICT, count, why, text);
    }
}

/* The packet goes through the tables, from the first, as one that just came in. */
static int send_buffered(struct of_session *s, uint32_t id, struct of_error *e)
{
    struct buffered buffer;
    struct action to_table = {.type = ACTION_OUTPUT, .output = {.port = SWITCH_PORT_TABLE}};
    const struct action_list actions = {1, &to_table};
    if (buffer_take(s, id, &buffer, e)) return -EINVAL;
    bridge_packet_out(s->agent->args.bridge, buffer.in_port, &actions, buffer.data, buffer.bytes, NULL, NULL);
    free(buffer.data);
    return 0;
}

static int flow_mod(struct of_session *s, struct of_flow_mod *mod, struct of_error *e)
{
    static const enum of_change changes[] = {[OFPFC_ADD] = OF_FLOW_ADD,
                                             [OFPFC_MODIFY] = OF_FLOW_MODIFY,
                                             [OFPFC_MODIFY_STRICT] = OF_FLOW_MODIFY_STRICT,
                                             [OFPFC_DELETE] = OF_FLOW_DELETE,
                                             [OFPFC_DELETE_STRICT] = OF_FLOW_DELETE_STRICT};
    struct of_agent *a = s->agent;
    enum flow_wrong why = FLOW_RIGHT;
    unsigned count;
    struct errmsg text;
    if (mod->command > OFPFC_DELETE_STRICT)
        return of_wrong(e, OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_COMMAND, "command %u", mod->command);
    bool deletes = mod->command >= OFPFC_DELETE;
    if (mod->flow.table >= SWITCH_TABLES && !(deletes && mod->flow.table == SWITCH_TABLE_ALL))
        return of_wrong(e, OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_TABLE_ID, "there is no table %u", mod->flow.table);
    text.text[0] = 0;
    if (change_flow(a, mod->command, &mod->flow, &count, &why, &text)) {
        if (why == FLOW_RIGHT) return of_wrong(e, OFPET_FLOW_MOD_FAILED, OFPFMFC_UNKNOWN, "%s", text.text);
        of_error_of_flow(why, text.text, e);
        return -EINVAL;
    }
    if (count) note_flow(a, changes[mod->command], &mod->flow);
    return deletes || mod->buffer_id == OFP_NO_BUFFER ? 0 : send_buffered(s, mod->buffer_id, e);
}

int agent_flow_mod(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    struct of_flow_mod mod;
    if (of_get_flow_mod(m, &mod, e)) return -EINVAL;
    int ret = flow_mod(s, &mod, e);
    instructions_clear(&mod.flow.instructions);
    return ret;
}

/* ---- groups ---- */

static int change_group(struct of_agent *a, unsigned command, const struct group_spec *g, struct of_error *e)
{
    struct bridge *b = a->args.bridge;
    struct group_why why = {.wrong = GROUP_RIGHT};
    struct errmsg text = {""};
    int ret;
    switch (command) {
    case OFPGC_ADD: ret = bridge_group_add(b, g, &why, &text); break;
    case OFPGC_MODIFY: ret = bridge_group_modify(b, g, &why, &text); break;
    case OFPGC_DELETE: ret = bridge_group_delete(b, g->id, &why, &text); break;
    default: return of_wrong(e, OFPET_GROUP_MOD_FAILED, OFPGMFC_BAD_COMMAND, "command %u", command);
    }
    if (ret == 0) return 0;
    if (why.wrong == GROUP_RIGHT) return of_wrong(e, OFPET_GROUP_MOD_FAILED, OFPGMFC_OUT_OF_GROUPS, "%s", text.text);
    of_error_of_group(&why, text.text, e);
    return -EINVAL;
}

int agent_group_mod(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    static const enum of_change changes[] = {
        [OFPGC_ADD] = OF_GROUP_ADD, [OFPGC_MODIFY] = OF_GROUP_MODIFY, [OFPGC_DELETE] = OF_GROUP_DELETE};
    struct of_agent *a = s->agent;
    struct of_group_mod mod;
    /* Its description must fit into a message: that has a longer header. */
    if (m->bytes > OFP_MESSAGE_MAX - sizeof(struct ofp_multipart))
        return of_wrong(e, OFPET_GROUP_MOD_FAILED, OFPGMFC_OUT_OF_BUCKETS, "%zu bytes of buckets", m->bytes);
    if (of_get_group_mod(m, &mod, e)) return -EINVAL;
    int ret = change_group(a, mod.command, &mod.group, e);
    if (ret == 0) {
        a->changed = true;
        if (a->args.keeper.group) a->args.keeper.group(a->args.keeper.arg, changes[mod.command], &mod.group);
    }
    group_spec_clear(&mod.group);
    return ret;
}

/* ---- meters ---- */

int agent_meter_mod(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    static const enum of_change changes[] = {
        [OFPMC_ADD] = OF_METER_ADD, [OFPMC_MODIFY] = OF_METER_MODIFY, [OFPMC_DELETE] = OF_METER_DELETE};
    struct of_agent *a = s->agent;
    struct of_meter_mod mod;
    enum meter_wrong why = METER_RIGHT;
    struct errmsg text = {""};
    int ret;
    if (of_get_meter_mod(m, &mod, e)) return -EINVAL;
    switch (mod.command) {
    case OFPMC_ADD: ret = bridge_meter_add(a->args.bridge, &mod.meter, &why, &text); break;
    case OFPMC_MODIFY: ret = bridge_meter_modify(a->args.bridge, &mod.meter, &why, &text); break;
    case OFPMC_DELETE: ret = bridge_meter_delete(a->args.bridge, mod.meter.id, &why, &text); break;
    default: return of_wrong(e, OFPET_METER_MOD_FAILED, OFPMMFC_BAD_COMMAND, "command %u", mod.command);
    }
    if (ret && why == METER_RIGHT) return of_wrong(e, OFPET_METER_MOD_FAILED, OFPMMFC_OUT_OF_METERS, "%s", text.text);
    if (ret) {
        of_error_of_meter(why, text.text, e);
        return -EINVAL;
    }
    a->changed = true;
    if (a->args.keeper.meter) a->args.keeper.meter(a->args.keeper.arg, changes[mod.command], &mod.meter);
    return 0;
}

/* ---- packets ---- */

static int packet_error(int ret, enum flow_wrong why, const char *text, struct of_error *e)
{
    if (ret == 0) return 0;
    if (ret == -ENXIO) return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_PORT, "%s", text);
    if (why == FLOW_RIGHT) return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_PACKET, "%s", text);
    of_error_of_flow(why, text, e);
    return -EINVAL;
}

static int send_packet(struct of_session *s, const struct of_packet_out *p, struct of_error *e)
{
    struct bridge *b = s->agent->args.bridge;
    struct buffered buffer = {.data = NULL};
    enum flow_wrong why = FLOW_RIGHT;
    struct errmsg text = {""};
    int ret;
    if (p->buffer_id != OFP_NO_BUFFER && buffer_take(s, p->buffer_id, &buffer, e)) return -EINVAL;
    if (buffer.data) ret = bridge_packet_out(b, p->in_port, &p->actions, buffer.data, buffer.bytes, &why, &text);
    else ret = bridge_packet_out(b, p->in_port, &p->actions, p->data, p->data_bytes, &why, &text);
    free(buffer.data);
    return packet_error(ret, why, text.text, e);
}

int agent_packet_out(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    struct of_packet_out p;
    if (of_get_packet_out(m, &p, e)) return -EINVAL;
    int ret = send_packet(s, &p, e);
    of_actions_clear(&p.actions);
    return ret;
}
