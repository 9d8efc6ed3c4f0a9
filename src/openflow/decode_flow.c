/* SPDX-License-Identifier: Apache-2.0 */
/* Flow mods, requests for flow statistics, packet-outs (OpenFlow 1.3.5, sections 7.3.4.1, 7.3.5.2, 7.3.7). */
#include "openflow/codec_internal.h"

static int bad_table(struct of_error *e, unsigned type, unsigned code, uint8_t table)
{
    return of_wrong(e, type, code, "table %u: there are %u", table, SWITCH_TABLES);
}

static bool is_delete(unsigned command)
{
    return command == OFPFC_DELETE || command == OFPFC_DELETE_STRICT;
}

/* What does not count for the command is left out. */
static void get_flow(const struct ofp_flow_mod *f, unsigned command, struct flow_spec *out)
{
    bool add = command == OFPFC_ADD;
    *out = (struct flow_spec){
        .table = f->table_id,
        .priority = be16_get(f->priority),
        .idle_timeout_s = be16_get(f->idle_timeout),
        .hard_timeout_s = be16_get(f->hard_timeout),
        .flags = be16_get(f->flags),
        .cookie = be64_get(f->cookie),
        .cookie_mask = add ? 0 : be64_get(f->cookie_mask),
        .out_port = is_delete(command) ? be32_get(f->out_port) : SWITCH_PORT_ANY,
        .out_group = is_delete(command) ? be32_get(f->out_group) : SWITCH_GROUP_ANY,
        .has_priority = true,
    };
}

static int check_flow(const struct of_flow_mod *f, struct of_error *e)
{
    const unsigned flags =
        OFPFF_SEND_FLOW_REM | OFPFF_CHECK_OVERLAP | OFPFF_RESET_COUNTS | OFPFF_NO_PKT_COUNTS | OFPFF_NO_BYT_COUNTS;
    if (f->command > OFPFC_DELETE_STRICT)
        return of_wrong(e, OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_COMMAND, "flow_mod: command %u", f->command);
    if (f->flow.flags & ~flags)
        return of_wrong(e, OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_FLAGS, "flow_mod: flags 0x%x", f->flow.flags);
    bool all = is_delete(f->command) && f->flow.table == SWITCH_TABLE_ALL;
    if (f->flow.table < SWITCH_TABLES || all) return 0;
    return bad_table(e, OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_TABLE_ID, f->flow.table);
}

/* Instructions of a flow that is to be deleted say nothing, and are not looked at. */
int of_get_flow_mod(const struct of_msg *m, struct of_flow_mod *out, struct of_error *e)
{
    struct cursor c = of_body(m);
    const struct ofp_flow_mod *f = cursor_pull(&c, sizeof *f);
    size_t used;
    if (!f) return WRONG_LENGTH(e, "flow_mod");
    out->command = f->command;
    out->buffer_id = be32_get(f->buffer_id);
    get_flow(f, f->command, &out->flow);
    int ret = check_flow(out, e);
    if (!ret) ret = of_get_match(c.at, c.left_bytes, &out->flow.match, &used, e);
    if (ret || is_delete(f->command)) return ret;
    cursor_pull(&c, used);
    return of_get_instructions(c.at, c.left_bytes, &out->flow.instructions, e);
}

int of_get_flow_stats_request(const uint8_t *at, size_t bytes, struct of_flow_stats_request *out, struct of_error *e)
{
    struct cursor c = cursor_over(at, bytes);
    const struct ofp_flow_stats_request *r = cursor_pull(&c, sizeof *r);
    size_t used;
    if (!r) return WRONG_LENGTH(e, "flow stats");
    out->selection = (struct flow_spec){.table = r->table_id,
                                        .cookie = be64_get(r->cookie),
                                        .cookie_mask = be64_get(r->cookie_mask),
                                        .out_port = be32_get(r->out_port),
                                        .out_group = be32_get(r->out_group)};
    if (r->table_id >= SWITCH_TABLES && r->table_id != SWITCH_TABLE_ALL)
        return bad_table(e, OFPET_BAD_REQUEST, OFPBRC_BAD_TABLE_ID, r->table_id);
    int ret = of_get_match(c.at, c.left_bytes, &out->selection.match, &used, e);
    return ret || used == c.left_bytes ? ret : WRONG_LENGTH(e, "flow stats");
}

static bool comes_from_somewhere(uint32_t port)
{
    return (port >= 1 && port <= OFPP_MAX) || port == OFPP_LOCAL || port == OFPP_CONTROLLER || port == OFPP_ANY;
}

int of_get_packet_out(const struct of_msg *m, struct of_packet_out *out, struct of_error *e)
{
    struct cursor c = of_body(m);
    const struct ofp_packet_out *p = cursor_pull(&c, sizeof *p);
    if (!p) return WRONG_LENGTH(e, "packet_out");
    size_t bytes = be16_get(p->actions_len);
    const uint8_t *actions = cursor_pull(&c, bytes);
    if (!actions) return WRONG_LENGTH(e, "packet_out's actions");
    *out = (struct of_packet_out){
        .buffer_id = be32_get(p->buffer_id), .in_port = be32_get(p->in_port), .data = c.at, .data_bytes = c.left_bytes};
    if (out->buffer_id != OFP_NO_BUFFER) out->data_bytes = 0; /* the buffer's count */
    if (!comes_from_somewhere(out->in_port))
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_PORT, "packet_out: in_port 0x%x", out->in_port);
    return of_get_actions(actions, bytes, &out->actions, e);
}
