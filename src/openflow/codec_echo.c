/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: what is read from standard input as mods is written to standard output as a switch describes it. Flow mods become
 * flow statistics, group mods group descriptions, meter mods meter configurations; what is wrong an error message.
 */
#include <stdio.h>
#include <unistd.h>

#include "openflow/codec_any.h"

static bool describe_flow(struct of_out *o, const struct of_msg *m, struct of_error *e)
{
    struct of_flow_mod f;
    const struct flow_stats s = {0};
    if (of_get_flow_mod(m, &f, e)) return false;
    of_multipart_begin(o, OFPMP_FLOW, m->xid);
    of_put_flow_stats(o, &f.flow, &s);
    instructions_clear(&f.flow.instructions);
    return of_multipart_end(o, false);
}

static bool describe_group(struct of_out *o, const struct of_msg *m, struct of_error *e)
{
    struct of_group_mod g;
    if (of_get_group_mod(m, &g, e)) return false;
    of_multipart_begin(o, OFPMP_GROUP_DESC, m->xid);
    of_put_group_desc(o, &g.group);
    group_mod_clear(&g);
    return of_multipart_end(o, false);
}

static bool describe_meter(struct of_out *o, const struct of_msg *m, struct of_error *e)
{
    struct of_meter_mod meter;
    if (of_get_meter_mod(m, &meter, e)) return false;
    of_multipart_begin(o, OFPMP_METER_CONFIG, m->xid);
    of_put_meter_config(o, &meter.meter);
    return of_multipart_end(o, false);
}

static void describe(struct of_out *o, const struct of_msg *m)
{
    struct of_error e;
    bool ok = false;
    of_wrong(&e, OFPET_BAD_REQUEST, OFPBRC_BAD_TYPE, "message %u", m->type);
    if (m->type == OFPT_FLOW_MOD) ok = describe_flow(o, m, &e);
    else if (m->type == OFPT_GROUP_MOD) ok = describe_group(o, m, &e);
    else if (m->type == OFPT_METER_MOD) ok = describe_meter(o, m, &e);
    if (!ok) of_put_error(o, m->at, m->bytes, &e);
}

int main(void)
{
    struct ofp_header h;
    uint8_t message[OFP_MESSAGE_MAX];
    struct of_out o;
    of_out_init(&o);
    while (fread(&h, sizeof h, 1, stdin) == 1) {
        size_t bytes = be16_get(h.length);
        memcpy(message, &h, sizeof h);
        if (bytes < sizeof h || fread(message + sizeof h, 1, bytes - sizeof h, stdin) != bytes - sizeof h) return 1;
        describe(&o, &(struct of_msg){.at = message, .bytes = bytes, .type = h.type, .xid = be32_get(h.xid)});
    }
    bool written = fwrite(o.bytes, 1, o.count, stdout) == o.count;
    of_out_clear(&o);
    return written ? 0 : 1;
}
