/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenFlow messages from anybody. input: a message; its version and length are set right, as a connection has checked them.
 * What is taken is written as what is read as the same, and written the same way.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "openflow/codec_any.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) abort();
}

/* In memory of its own, of just that size. */
static struct of_msg message_of(const void *bytes, size_t count)
{
    struct ofp_header h;
    uint8_t *at = malloc(count);
    check(at);
    memcpy(at, bytes, count);
    memcpy(&h, at, sizeof h);
    return (struct of_msg){.at = at, .bytes = count, .type = h.type, .xid = be32_get(h.xid)};
}

/* What was written into o, if it is no longer than a message. */
static bool take(struct of_out *o, struct of_msg *out)
{
    bool ok = of_out_end(o);
    if (ok) *out = message_of(o->bytes, o->count);
    of_out_clear(o);
    return ok;
}

static void drop(struct of_msg *m)
{
    free((void *)(uintptr_t)m->at);
}

static void check_same(const struct of_msg *a, const struct of_msg *b)
{
    check(a->bytes == b->bytes && memcmp(a->at, b->at, a->bytes) == 0);
}

/* ---- flows ---- */

static bool write_flow(const struct of_flow_mod *f, struct of_msg *out)
{
    struct of_out o;
    const struct flow_spec *s = &f->flow;
    struct ofp_flow_mod w = {.cookie = be64_make(s->cookie),
                             .cookie_mask = be64_make(s->cookie_mask),
                             .table_id = s->table,
                             .command = f->command,
                             .idle_timeout = be16_make(s->idle_timeout_s),
                             .hard_timeout = be16_make(s->hard_timeout_s),
                             .priority = be16_make(s->priority),
                             .buffer_id = be32_make(f->buffer_id),
                             .out_port = be32_make(s->out_port),
                             .out_group = be32_make(s->out_group),
                             .flags = be16_make(s->flags)};
    of_out_init(&o);
    of_out_begin(&o, OFPT_FLOW_MOD, 1);
    of_out_put_bytes(&o, &w, sizeof w);
    of_put_match(&o, &s->match);
    of_put_instructions(&o, &s->instructions);
    return take(&o, out);
}

static void as_flow(const struct of_msg *m)
{
    struct of_flow_mod f, again;
    struct of_msg first, second;
    struct of_error e;
    if (of_get_flow_mod(m, &f, &e)) return;
    if (write_flow(&f, &first)) {
        check(of_get_flow_mod(&first, &again, &e) == 0);
        check(memcmp(&f.flow.match, &again.flow.match, sizeof f.flow.match) == 0);
        check(instructions_equal(&f.flow.instructions, &again.flow.instructions));
        check(f.flow.cookie == again.flow.cookie && f.flow.priority == again.flow.priority);
        check(write_flow(&again, &second));
        check_same(&first, &second);
        instructions_clear(&again.flow.instructions);
        drop(&first);
        drop(&second);
    }
    flow_check(&f.flow, NULL);
    instructions_clear(&f.flow.instructions);
}

static void as_packet_out(const struct of_msg *m)
{
    struct of_packet_out p;
    struct action_list again;
    struct of_error e;
    struct of_out o;
    if (of_get_packet_out(m, &p, &e)) return;
    of_out_init(&o);
    of_put_actions(&o, &p.actions);
    check(of_get_actions(o.bytes, o.count, &again, &e) == 0);
    struct instructions a = {.apply = p.actions}, b = {.apply = again};
    check(instructions_equal(&a, &b));
    of_actions_clear(&again);
    of_actions_clear(&p.actions);
    of_out_clear(&o);
}

/* ---- groups, meters: their descriptions are laid out as mods, with a length in the place of the command ---- */

static struct of_out begin(uint8_t type)
{
    struct of_out o;
    of_out_init(&o);
    of_out_begin(&o, type, 1);
    return o;
}

static bool take_mod(struct of_out *o, struct of_msg *out)
{
    struct be16 *command = of_out_ptr(o, sizeof(struct ofp_header));
    if (!command || o->count > OFP_MESSAGE_MAX) {
        of_out_clear(o);
        return false;
    }
    *command = be16_make(OFPGC_ADD);
    return take(o, out);
}

static void as_group(const struct of_msg *m)
{
    struct of_group_mod g, again;
    struct of_msg first, second;
    struct of_error e;
    if (of_get_group_mod(m, &g, &e)) return;
    struct of_out o = begin(OFPT_GROUP_MOD);
    of_put_group_desc(&o, &g.group);
    if (g.command != OFPGC_DELETE && take_mod(&o, &first)) {
        check(of_get_group_mod(&first, &again, &e) == 0);
        check(again.group.count == g.group.count && again.group.type == g.group.type);
        o = begin(OFPT_GROUP_MOD);
        of_put_group_desc(&o, &again.group);
        check(take_mod(&o, &second));
        check_same(&first, &second);
        group_mod_clear(&again);
        drop(&first);
        drop(&second);
    } else {
        of_out_clear(&o);
    }
    group_mod_clear(&g);
}

static void as_meter(const struct of_msg *m)
{
    struct of_meter_mod meter, again;
    struct of_msg first;
    struct of_error e;
    if (of_get_meter_mod(m, &meter, &e)) return;
    struct of_out o = begin(OFPT_METER_MOD);
    of_put_meter_config(&o, &meter.meter);
    check(take_mod(&o, &first));
    check(of_get_meter_mod(&first, &again, &e) == 0);
    check(memcmp(&meter.meter, &again.meter, sizeof meter.meter) == 0);
    drop(&first);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ofp_header h;
    struct of_error e = {.type = OF_RIGHT};
    if (size < sizeof h || size > OFP_MESSAGE_MAX) return 0;
    struct of_msg m = message_of(data, size);
    int ret = decode_any(&m, &e);
    check((ret < 0) == (e.type != OF_RIGHT));
    if (m.type == OFPT_FLOW_MOD) as_flow(&m);
    else if (m.type == OFPT_PACKET_OUT) as_packet_out(&m);
    else if (m.type == OFPT_GROUP_MOD) as_group(&m);
    else if (m.type == OFPT_METER_MOD) as_meter(&m);
    struct of_out o;
    of_out_init(&o);
    if (ret) check(of_put_error(&o, m.at, m.bytes, &e));
    of_out_clear(&o);
    drop(&m);
    return 0;
}
