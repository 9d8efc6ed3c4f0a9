/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of fixed layout: hello, configuration, ports, roles, and what multipart requests ask for. */
#include "openflow/codec_internal.h"

/* The body is `bytes` long, no more and no less: it. */
static const void *exactly(const struct of_msg *m, size_t bytes, const char *what, struct of_error *e)
{
    struct cursor c = of_body(m);
    if (c.left_bytes == bytes) return c.at;
    WRONG_LENGTH(e, what);
    return NULL;
}

int of_get_nothing(const struct of_msg *m, struct of_error *e)
{
    return m->bytes == sizeof(struct ofp_header) ? 0 : WRONG_LENGTH(e, "a message without content");
}

/* ---- hello ---- */

static int get_versions(struct cursor c, uint32_t *versions)
{
    struct be32 first;
    if (c.left_bytes < sizeof first) return -EINVAL;
    memcpy(&first, c.at, sizeof first); /* further words are of versions above 31 */
    *versions = be32_get(first);
    return 0;
}

/* Unknown elements are passed over (7.5.1), and so is what cannot be one. */
int of_get_hello(const uint8_t *message, size_t bytes, uint32_t *versions, struct of_error *e)
{
    struct ofp_header h;
    if (bytes < sizeof h) return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_LEN, "a hello of %zu bytes", bytes);
    memcpy(&h, message, sizeof h);
    struct cursor c = cursor_over(message + sizeof h, bytes - sizeof h);
    *versions = h.version >= 31 ? UINT32_MAX - 1 : (2u << h.version) - 2;
    while (c.left_bytes >= sizeof(struct ofp_hello_elem)) {
        struct ofp_hello_elem el;
        memcpy(&el, c.at, sizeof el);
        size_t length = be16_get(el.length);
        if (length < sizeof el || length > c.left_bytes) break;
        struct cursor content = cursor_over(c.at + sizeof el, length - sizeof el);
        if (be16_get(el.type) == OFPHET_VERSIONBITMAP && get_versions(content, versions) == 0) break;
        if (!cursor_pull(&c, round_up_8(length))) break;
    }
    return 0;
}

int of_refuse_experimenter(const struct of_msg *m, struct of_error *e)
{
    struct cursor c = of_body(m);
    const struct ofp_experimenter *x = cursor_pull(&c, sizeof *x);
    if (!x) return WRONG_LENGTH(e, "an experimenter's message");
    uint32_t id = be32_get(x->experimenter);
    unsigned code = id == NX_EXPERIMENTER_ID ? OFPBRC_BAD_EXP_TYPE : OFPBRC_BAD_EXPERIMENTER;
    return of_wrong(e, OFPET_BAD_REQUEST, code, "experimenter 0x%08x, message %u", id, be32_get(x->exp_type));
}

/* ---- configuration ---- */

/* Reassembly is not offered (OFPC_IP_REASM). */
int of_get_set_config(const struct of_msg *m, struct of_config *out, struct of_error *e)
{
    const struct ofp_switch_config *c = exactly(m, sizeof *c, "set_config", e);
    if (!c) return -EINVAL;
    *out = (struct of_config){be16_get(c->flags), be16_get(c->miss_send_len)};
    if (out->flags & ~(unsigned)OFPC_FRAG_MASK || out->flags & OFPC_FRAG_REASM)
        return of_wrong(e, OFPET_SWITCH_CONFIG_FAILED, OFPSCFC_BAD_FLAGS, "configuration flags 0x%x", out->flags);
    return 0;
}

int of_get_port_mod(const struct of_msg *m, struct of_port_mod *out, struct of_error *e)
{
    const unsigned known = OFPPC_PORT_DOWN | OFPPC_NO_RECV | OFPPC_NO_FWD | OFPPC_NO_PACKET_IN;
    const struct ofp_port_mod *p = exactly(m, sizeof *p, "port_mod", e);
    if (!p) return -EINVAL;
    *out = (struct of_port_mod){.port = be32_get(p->port_no),
                                .config = be32_get(p->config),
                                .mask = be32_get(p->mask),
                                .advertise = be32_get(p->advertise)};
    memcpy(out->mac, p->hw_addr, sizeof out->mac);
    if ((out->config | out->mask) & ~known)
        return of_wrong(e, OFPET_PORT_MOD_FAILED, OFPPMFC_BAD_CONFIG, "port configuration 0x%x/0x%x", out->config,
                        out->mask);
    if (out->advertise & ~(unsigned)OFPPF_ALL)
        return of_wrong(e, OFPET_PORT_MOD_FAILED, OFPPMFC_BAD_ADVERTISE, "port features 0x%x", out->advertise);
    return 0;
}

int of_get_table_mod(const struct of_msg *m, struct of_table_mod *out, struct of_error *e)
{
    const struct ofp_table_mod *t = exactly(m, sizeof *t, "table_mod", e);
    if (!t) return -EINVAL;
    *out = (struct of_table_mod){t->table_id, be32_get(t->config)};
    if (out->table >= SWITCH_TABLES && out->table != SWITCH_TABLE_ALL)
        return of_wrong(e, OFPET_TABLE_MOD_FAILED, OFPTMFC_BAD_TABLE, "table %u", out->table);
    if (out->config & ~OFPTC_DEPRECATED_MASK)
        return of_wrong(e, OFPET_TABLE_MOD_FAILED, OFPTMFC_BAD_CONFIG, "table configuration 0x%x", out->config);
    return 0;
}

int of_get_role_request(const struct of_msg *m, struct of_role *out, struct of_error *e)
{
    const struct ofp_role_request *r = exactly(m, sizeof *r, "role_request", e);
    if (!r) return -EINVAL;
    *out = (struct of_role){be32_get(r->role), be64_get(r->generation_id)};
    if (out->role <= OFPCR_ROLE_SLAVE) return 0;
    return of_wrong(e, OFPET_ROLE_REQUEST_FAILED, OFPRRFC_BAD_ROLE, "role %u", out->role);
}

int of_get_set_async(const struct of_msg *m, struct of_async *out, struct of_error *e)
{
    const struct ofp_async_config *a = exactly(m, sizeof *a, "set_async", e);
    if (!a) return -EINVAL;
    for (unsigned i = 0; i < 2; i++) {
        out->packet_in[i] = be32_get(a->packet_in_mask[i]);
        out->port_status[i] = be32_get(a->port_status_mask[i]);
        out->flow_removed[i] = be32_get(a->flow_removed_mask[i]);
    }
    return 0;
}

int of_get_queue_config_request(const struct of_msg *m, uint32_t *port, struct of_error *e)
{
    const struct ofp_queue_get_config *q = exactly(m, sizeof *q, "queue_get_config", e);
    if (!q) return -EINVAL;
    *port = be32_get(q->port);
    return 0;
}

/* ---- multipart requests ---- */

static const struct {
    const char *name;
    uint16_t min, max; /* bytes of a body */
} multipart[] = {
    [OFPMP_DESC] = {"desc", 0, 0},
    [OFPMP_FLOW] = {"flow stats", sizeof(struct ofp_flow_stats_request) + 8, UINT16_MAX},
    [OFPMP_AGGREGATE] = {"aggregate stats", sizeof(struct ofp_flow_stats_request) + 8, UINT16_MAX},
    [OFPMP_TABLE] = {"table stats", 0, 0},
    [OFPMP_PORT_STATS] = {"port stats", 8, 8},
    [OFPMP_QUEUE] = {"queue stats", 8, 8},
    [OFPMP_GROUP] = {"group stats", 8, 8},
    [OFPMP_GROUP_DESC] = {"group desc", 0, 0},
    [OFPMP_GROUP_FEATURES] = {"group features", 0, 0},
    [OFPMP_METER] = {"meter stats", 8, 8},
    [OFPMP_METER_CONFIG] = {"meter config", 8, 8},
    [OFPMP_METER_FEATURES] = {"meter features", 0, 0},
    [OFPMP_TABLE_FEATURES] = {"table features", 0, UINT16_MAX},
    [OFPMP_PORT_DESC] = {"port desc", 0, 0},
};

int of_get_multipart(const struct of_msg *m, struct of_multipart *out, struct of_error *e)
{
    struct cursor c = of_body(m);
    const struct ofp_multipart *h = cursor_pull(&c, sizeof *h);
    if (!h) return WRONG_LENGTH(e, "a multipart request");
    unsigned type = be16_get(h->type);
    if (type == OFPMP_EXPERIMENTER)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_EXPERIMENTER, "an experimenter's multipart request");
    if (type >= sizeof multipart / sizeof multipart[0])
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BAD_MULTIPART, "multipart request %u", type);
    *out = (struct of_multipart){
        .type = (uint16_t)type, .more = be16_get(h->flags) & OFPMPF_REQ_MORE, .body = c.at, .bytes = c.left_bytes};
    if (c.left_bytes >= multipart[type].min && c.left_bytes <= multipart[type].max) return 0;
    return WRONG_LENGTH(e, multipart[type].name);
}

static int get_one_number(const uint8_t *at, size_t bytes, uint32_t *n, struct of_error *e)
{
    struct cursor c = cursor_over(at, bytes);
    return bytes == 8 && cursor_be32(&c, n) ? 0 : WRONG_LENGTH(e, "a multipart request");
}

int of_get_port_stats_request(const uint8_t *at, size_t bytes, uint32_t *port, struct of_error *e)
{
    return get_one_number(at, bytes, port, e);
}

int of_get_queue_stats_request(const uint8_t *at, size_t bytes, uint32_t *port, uint32_t *queue, struct of_error *e)
{
    struct ofp_queue_stats_request q;
    if (bytes != sizeof q) return WRONG_LENGTH(e, "queue stats");
    memcpy(&q, at, sizeof q);
    *port = be32_get(q.port_no);
    *queue = be32_get(q.queue_id);
    return 0;
}

int of_get_group_stats_request(const uint8_t *at, size_t bytes, uint32_t *group, struct of_error *e)
{
    return get_one_number(at, bytes, group, e);
}

int of_get_meter_request(const uint8_t *at, size_t bytes, uint32_t *meter, struct of_error *e)
{
    return get_one_number(at, bytes, meter, e);
}
