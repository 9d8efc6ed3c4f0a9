/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "switch/flow_text.h"

/* The names that ovs-ofctl has for whole fields in actions. */
static const char *set_name(enum field_id id)
{
    switch (id) {
    case FIELD_ETH_DST: return "eth_dst";
    case FIELD_ETH_SRC: return "eth_src";
    case FIELD_ETH_TYPE: return "eth_type";
    case FIELD_IPV4_SRC: return "ip_src";
    case FIELD_IPV4_DST: return "ip_dst";
    default: return fields[id].name;
    }
}

static bool is_nxm(const char *name)
{
    return name && strncmp(name, "NXM_", 4) == 0;
}

/* And for parts of fields: Nicira's, or OpenFlow's where there is none. */
static const char *part_name(enum field_id id)
{
    const char *found = fields[id].name;
    for (unsigned i = 0; i < 3; i++) {
        const char *name = fields[id].aliases[i];
        if (is_nxm(name) || (name && strncmp(name, "OXM_", 4) == 0 && !is_nxm(found))) found = name;
    }
    return found;
}

static void put_part(FILE *out, enum field_id id, unsigned at, unsigned bits)
{
    unsigned all = id == FIELD_VLAN_VID ? 12 : fields[id].bits;
    fputs(part_name(id), out);
    if (at == 0 && bits == all) fputs("[]", out);
    else if (bits == 1) fprintf(out, "[%u]", at);
    else fprintf(out, "[%u..%u]", at, at + bits - 1);
}

static void put_output(FILE *out, const struct action *a, const struct flow_names *names)
{
    if (a->output.port == SWITCH_PORT_CONTROLLER) {
        fprintf(out, "CONTROLLER:%u", a->output.max_len);
        return;
    }
    if (!text_port_word(a->output.port)) fputs("output:", out);
    text_port_print(out, a->output.port, names);
}

static void put_resubmit(FILE *out, const struct action *a, const struct flow_names *names)
{
    if (a->resubmit.table == SWITCH_TABLE_ALL) {
        fputs("resubmit:", out);
        text_port_print(out, a->resubmit.port, names);
        return;
    }
    fputs("resubmit(", out);
    if (a->resubmit.port != SWITCH_PORT_IN_PORT) text_port_print(out, a->resubmit.port, names);
    fprintf(out, ",%u)", a->resubmit.table);
}

static void put_action(FILE *out, const struct action *a, const struct flow_names *names)
{
    switch ((enum action_type)a->type) {
    case ACTION_OUTPUT: put_output(out, a, names); break;
    case ACTION_GROUP: fprintf(out, "group:%u", a->group); break;
    case ACTION_SET_QUEUE: fprintf(out, "set_queue:%u", a->queue); break;
    case ACTION_SET_FIELD:
        fputs("set_field:", out);
        text_field_print_set(out, a->set.field, a->set.value, a->set.mask);
        fprintf(out, "->%s", set_name(a->set.field));
        break;
    case ACTION_MOVE:
        fputs("move:", out);
        put_part(out, a->move.from, a->move.from_bit, a->move.bits);
        fputs("->", out);
        put_part(out, a->move.to, a->move.to_bit, a->move.bits);
        break;
    case ACTION_PUSH_VLAN: fprintf(out, "push_vlan:0x%04x", a->eth_type); break;
    case ACTION_POP_VLAN: fputs("pop_vlan", out); break;
    case ACTION_PUSH_MPLS: fprintf(out, "push_mpls:0x%04x", a->eth_type); break;
    case ACTION_POP_MPLS: fprintf(out, "pop_mpls:0x%04x", a->eth_type); break;
    case ACTION_PUSH_PBB: fprintf(out, "push_pbb:0x%04x", a->eth_type); break;
    case ACTION_POP_PBB: fputs("pop_pbb", out); break;
    case ACTION_DEC_NW_TTL: fputs("dec_ttl", out); break;
    case ACTION_SET_NW_TTL: fprintf(out, "mod_nw_ttl:%u", a->ttl); break;
    case ACTION_DEC_MPLS_TTL: fputs("dec_mpls_ttl", out); break;
    case ACTION_SET_MPLS_TTL: fprintf(out, "set_mpls_ttl(%u)", a->ttl); break;
    case ACTION_COPY_TTL_OUT: fputs("copy_ttl_out", out); break;
    case ACTION_COPY_TTL_IN: fputs("copy_ttl_in", out); break;
    case ACTION_RESUBMIT: put_resubmit(out, a, names); break;
    case ACTION_TYPES: break;
    }
}

void text_action_list_print(FILE *out, const struct action_list *l, const struct flow_names *names)
{
    for (unsigned i = 0; i < l->count; i++) {
        if (i) fputc(',', out);
        put_action(out, &l->list[i], names);
    }
}

static void begin(FILE *out, bool *begun)
{
    if (*begun) fputc(',', out);
    *begun = true;
}

void flow_format_actions(FILE *out, const struct instructions *i, const struct flow_names *names)
{
    bool begun = false;
    if (i->meter) begin(out, &begun), fprintf(out, "meter:%u", i->meter);
    if (i->apply.count) begin(out, &begun), text_action_list_print(out, &i->apply, names);
    if (i->clear) begin(out, &begun), fputs("clear_actions", out);
    if (i->write.count) {
        begin(out, &begun);
        fputs("write_actions(", out);
        text_action_list_print(out, &i->write, names);
        fputc(')', out);
    }
    if (i->has_metadata) {
        begin(out, &begun);
        fprintf(out, "write_metadata:%#" PRIx64, i->metadata);
        if (i->metadata_mask != UINT64_MAX) fprintf(out, "/%#" PRIx64, i->metadata_mask);
    }
    if (i->has_goto) begin(out, &begun), fprintf(out, "goto_table:%u", i->goto_table);
    if (!begun) fputs("drop", out);
}
