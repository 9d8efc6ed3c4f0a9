/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of fixed layout, and multipart answers of any length. */
#include "openflow/codec_internal.h"

static bool reply(struct of_out *o, uint8_t type, uint32_t xid, const void *body, size_t bytes)
{
    of_out_begin(o, type, xid);
    of_out_put_bytes(o, body, bytes);
    return of_out_end(o);
}

/* Version 4 and no other. */
bool of_put_hello(struct of_out *o, uint32_t xid)
{
    struct {
        struct ofp_hello_elem head;
        struct be32 bitmap;
    } h = {{be16_make(OFPHET_VERSIONBITMAP), be16_make(sizeof h)}, be32_make(1u << OFP_VERSION)};
    return reply(o, OFPT_HELLO, xid, &h, sizeof h);
}

bool of_reply_empty(struct of_out *o, uint8_t type, uint32_t xid)
{
    return reply(o, type, xid, NULL, 0);
}

bool of_reply_features(struct of_out *o, uint32_t xid, const struct of_features *f)
{
    const unsigned capabilities = OFPC_FLOW_STATS | OFPC_TABLE_STATS | OFPC_PORT_STATS | OFPC_GROUP_STATS;
    struct ofp_switch_features r = {.datapath_id = be64_make(f->datapath_id),
                                    .n_buffers = be32_make(f->buffers),
                                    .n_tables = f->tables,
                                    .auxiliary_id = f->auxiliary,
                                    .capabilities = be32_make(capabilities)};
    return reply(o, OFPT_FEATURES_REPLY, xid, &r, sizeof r);
}

bool of_reply_config(struct of_out *o, uint32_t xid, const struct of_config *c)
{
    struct ofp_switch_config r = {be16_make(c->flags), be16_make(c->miss_send_len)};
    return reply(o, OFPT_GET_CONFIG_REPLY, xid, &r, sizeof r);
}

bool of_reply_role(struct of_out *o, uint32_t xid, const struct of_role *role)
{
    struct ofp_role_request r = {.role = be32_make(role->role), .generation_id = be64_make(role->generation)};
    return reply(o, OFPT_ROLE_REPLY, xid, &r, sizeof r);
}

bool of_reply_async(struct of_out *o, uint32_t xid, const struct of_async *a)
{
    struct ofp_async_config r;
    for (unsigned i = 0; i < 2; i++) {
        r.packet_in_mask[i] = be32_make(a->packet_in[i]);
        r.port_status_mask[i] = be32_make(a->port_status[i]);
        r.flow_removed_mask[i] = be32_make(a->flow_removed[i]);
    }
    return reply(o, OFPT_GET_ASYNC_REPLY, xid, &r, sizeof r);
}

bool of_reply_queue_config(struct of_out *o, uint32_t xid, uint32_t port)
{
    struct ofp_queue_get_config r = {.port = be32_make(port)};
    return reply(o, OFPT_QUEUE_GET_CONFIG_REPLY, xid, &r, sizeof r);
}

/* ---- multipart ---- */

struct multipart_head {
    struct ofp_header header;
    struct ofp_multipart part;
};

void of_multipart_begin(struct of_out *o, uint16_t type, uint32_t xid)
{
    of_out_begin(o, OFPT_MULTIPART_REPLY, xid);
    struct ofp_multipart *m = of_out_put(o, sizeof *m);
    if (m) m->type = be16_make(type);
}

static void set_more(struct of_out *o)
{
    struct multipart_head *h = of_out_ptr(o, o->message);
    if (h) h->part.flags = be16_make(OFPMPF_REPLY_MORE);
}

bool of_multipart_end(struct of_out *o, bool more)
{
    if (more) set_more(o);
    return of_out_end(o);
}

/* The entry moves on by a head, which is put before it; what is before ends there. */
void of_multipart_entry(struct of_out *o, size_t at)
{
    struct multipart_head h;
    if (o->failed || o->count - o->message <= OFP_MESSAGE_MAX) return;
    size_t bytes = o->count - at;
    if (!of_out_put(o, sizeof h)) return;
    memmove(o->bytes + at + sizeof h, o->bytes + at, bytes);
    memcpy(&h, o->bytes + o->message, sizeof h);
    set_more(o);
    struct ofp_header *before = of_out_ptr(o, o->message);
    before->length = be16_make((uint16_t)(at - o->message));
    h.part.flags = be16_make(0);
    memcpy(o->bytes + at, &h, sizeof h);
    o->message = at;
}

static void put_text(char *to, size_t room, const char *text)
{
    if (text) memcpy(to, text, strnlen(text, room - 1)); /* the rest is zero */
}

void of_put_desc(struct of_out *o, const struct of_desc *d)
{
    struct ofp_desc *p = of_out_put(o, sizeof *p);
    if (!p) return;
    put_text(p->mfr_desc, sizeof p->mfr_desc, d->manufacturer);
    put_text(p->hw_desc, sizeof p->hw_desc, d->hardware);
    put_text(p->sw_desc, sizeof p->sw_desc, d->software);
    put_text(p->serial_num, sizeof p->serial_num, d->serial);
    put_text(p->dp_desc, sizeof p->dp_desc, d->datapath);
}

void of_put_aggregate(struct of_out *o, uint64_t packets, uint64_t bytes, uint32_t flows)
{
    struct ofp_aggregate_stats a = {
        .packet_count = be64_make(packets), .byte_count = be64_make(bytes), .flow_count = be32_make(flows)};
    of_out_put_bytes(o, &a, sizeof a);
}

void of_put_table_stats(struct of_out *o, uint8_t table, const struct table_stats *s)
{
    size_t at = of_out_at(o);
    struct ofp_table_stats t = {.table_id = table,
                                .active_count = be32_make(s->active),
                                .lookup_count = be64_make(s->lookups),
                                .matched_count = be64_make(s->matched)};
    of_out_put_bytes(o, &t, sizeof t);
    of_multipart_entry(o, at);
}

/* ---- ports ---- */

/* Speeds and media are not known: 0. */
static void put_port(struct of_out *o, const struct switch_port_info *p)
{
    struct ofp_port *port = of_out_put(o, sizeof *port);
    if (!port) return;
    port->port_no = be32_make(p->number);
    memcpy(port->hw_addr, p->mac, sizeof port->hw_addr);
    put_text(port->name, sizeof port->name, p->name);
    port->config = be32_make(p->config);
    port->state = be32_make(p->state);
}

void of_put_port(struct of_out *o, const struct switch_port_info *p)
{
    size_t at = of_out_at(o);
    put_port(o, p);
    of_multipart_entry(o, at);
}

bool of_put_port_status(struct of_out *o, enum port_event what, const struct switch_port_info *p)
{
    static const uint8_t reasons[] = {
        [PORT_EVENT_ADD] = OFPPR_ADD, [PORT_EVENT_DELETE] = OFPPR_DELETE, [PORT_EVENT_MODIFY] = OFPPR_MODIFY};
    of_out_begin(o, OFPT_PORT_STATUS, 0);
    uint8_t *head = of_out_put(o, offsetof(struct ofp_port_status, desc));
    if (head) head[0] = reasons[what];
    put_port(o, p);
    return of_out_end(o);
}

/* What is not counted is all ones (7.3.5.6). */
void of_put_port_stats(struct of_out *o, const struct switch_port_info *p, const struct port_stats *s)
{
    size_t at = of_out_at(o);
    const struct be64 unknown = be64_make(UINT64_MAX);
    struct ofp_port_stats r = {.port_no = be32_make(p->number),
                               .rx_packets = be64_make(s->in_packets),
                               .tx_packets = be64_make(s->out_packets),
                               .rx_bytes = be64_make(s->in_bytes),
                               .tx_bytes = be64_make(s->out_bytes),
                               .rx_dropped = be64_make(s->in_dropped),
                               .tx_dropped = be64_make(s->out_dropped),
                               .rx_errors = be64_make(s->in_errors),
                               .tx_errors = be64_make(s->out_errors),
                               .rx_frame_err = unknown,
                               .rx_over_err = unknown,
                               .rx_crc_err = unknown,
                               .collisions = unknown,
                               .duration_sec = of_seconds(p->duration_ns),
                               .duration_nsec = of_nanoseconds(p->duration_ns)};
    of_out_put_bytes(o, &r, sizeof r);
    of_multipart_entry(o, at);
}
