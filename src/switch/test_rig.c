/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/test_rig.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "switch/group.h"

static void keep(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool)
{
    struct rig_port *r = (struct rig_port *)p;
    (void)pool;
    for (unsigned i = 0; i < count; i++) {
        unsigned at = r->got++ % 8;
        uint32_t n = packets[i]->length_bytes < RIG_BYTES ? packets[i]->length_bytes : RIG_BYTES;
        r->last[at].length = packets[i]->length_bytes;
        packet_read(packets[i], 0, r->last[at].bytes, n);
    }
}

static bool link_up(struct port *p)
{
    return !((struct rig_port *)p)->link_down;
}

static const struct port_ops ops = {.type = "test", .send = keep, .link_up = link_up};

struct rig_port *rig_port_add(struct rig *r, uint32_t number, const struct switch_port_config *c)
{
    char name[PORT_NAME_BYTES];
    struct errmsg e;
    struct rig_port *p = calloc(1, sizeof *p);
    assert(p && number <= RIG_PORTS);
    snprintf(name, sizeof name, "p%u", number);
    port_init(&p->port, &ops, name);
    atomic_store(&p->port.takes, PORT_TAKES_ALL);
    atomic_store(&p->port.mtu, 9000);
    int ret = bridge_add_port(r->bridge, &p->port, number, c, &p->sp, &e);
    assert(ret == 0);
    r->ports[number] = p;
    return p;
}

void rig_port_remove(struct rig *r, uint32_t number)
{
    bridge_remove_port(r->ports[number]->sp);
    free(r->ports[number]);
    r->ports[number] = NULL;
}

void rig_open(struct rig *r, const struct switch_config *c, enum bridge_fail fail, unsigned count)
{
    struct switch_config defaults;
    struct errmsg e;
    memset(r, 0, sizeof *r);
    switch_config_default(&defaults);
    defaults.new_flows_ns = 0; /* with a sanitizer any flow takes long */
    int ret = switch_new(&r->sw, c ? c : &defaults);
    assert(ret == 0);
    ret = bridge_new(&r->bridge, r->sw, "br0", fail, &e);
    assert(ret == 0);
    r->sink = switch_sink(r->sw);
    r->pool = packet_pool_new();
    r->thread = r->sink->thread_new(r->sink->arg, r->pool);
    assert(r->pool && r->thread);
    r->sink->asleep(r->thread);
    for (unsigned i = 1; i <= count; i++)
        rig_port_add(r, i, NULL);
    r->count = count;
}

void rig_close(struct rig *r)
{
    for (unsigned i = 1; i <= RIG_PORTS; i++)
        if (r->ports[i]) rig_port_remove(r, i);
    r->sink->thread_free(r->thread);
    packet_pool_free(r->pool);
    bridge_free(r->bridge);
    switch_free(r->sw);
}

void rig_flow(struct rig *r, const char *text)
{
    struct flow_spec f;
    struct errmsg e;
    int ret = flow_parse(&f, text, FLOW_PARSE_ADD, NULL, &e);
    if (ret == 0) {
        ret = bridge_flow_add(r->bridge, &f, NULL, &e);
        instructions_clear(&f.instructions);
    }
    if (ret) fprintf(stderr, "%s: %s\n", text, e.text);
    assert(ret == 0);
}

void rig_group(struct rig *r, const char *text)
{
    struct group_spec g;
    struct group_why why = {0};
    struct errmsg e;
    int ret = group_parse(&g, text, NULL, &e);
    if (ret == 0) {
        ret = bridge_group_add(r->bridge, &g, &why, &e);
        if (why.wrong == GROUP_EXISTS) ret = bridge_group_modify(r->bridge, &g, &why, &e);
        group_spec_clear(&g);
    }
    if (ret) fprintf(stderr, "%s: %s\n", text, e.text);
    assert(ret == 0);
}

char *rig_trace(struct rig *r, const char *packet)
{
    struct flow_key k;
    struct errmsg e;
    char *text = NULL;
    size_t bytes;
    int ret = flow_parse_key(&k, packet, NULL, &e);
    assert(ret == 0);
    FILE *out = open_memstream(&text, &bytes);
    assert(out);
    bridge_trace(r->bridge, &k, NULL, out);
    fclose(out);
    return text;
}

void rig_flow_delete(struct rig *r, const char *text, unsigned expected)
{
    struct flow_spec f;
    struct errmsg e;
    unsigned changed;
    int ret = flow_parse(&f, text, FLOW_PARSE_DEL, NULL, &e);
    assert(ret == 0);
    ret = bridge_flow_delete(r->bridge, &f, f.has_priority, &changed, NULL, &e);
    assert(ret == 0 && changed == expected);
    instructions_clear(&f.instructions);
}

void rig_burst(struct rig *r, uint32_t port, struct packet *const *packets, unsigned count)
{
    r->sink->awake(r->thread);
    r->sink->input(r->thread, &r->ports[port]->port, packets, count);
    packet_pool_reset(r->pool);
    r->sink->quiescent(r->thread);
    if (!r->busy) r->sink->asleep(r->thread);
}

void rig_busy(struct rig *r, bool busy)
{
    r->busy = busy;
    if (busy) r->sink->awake(r->thread);
    else r->sink->asleep(r->thread);
}

void rig_send(struct rig *r, uint32_t port, const void *frame, unsigned bytes, unsigned copies)
{
    struct packet *packets[PACKET_BATCH];
    struct iovec *body;
    assert(copies <= PACKET_BATCH && bytes <= 1514);
    for (unsigned i = 0; i < copies; i++) {
        struct packet *p = packets[i] = packet_pool_packet(r->pool);
        unsigned head = bytes < PACKET_HEAD_BYTES ? bytes : PACKET_HEAD_BYTES;
        memcpy(p->head, frame, head);
        p->head_bytes = (uint16_t)head;
        p->length_bytes = bytes;
        if (head == bytes) continue;
        body = packet_pool_iov(r->pool, 1);
        *body = (struct iovec){(uint8_t *)(uintptr_t)frame + head, bytes - head};
        p->body = body;
        p->body_count = 1;
    }
    rig_burst(r, port, packets, copies);
}

uint32_t rig_got(struct rig *r)
{
    uint32_t bits = 0;
    for (unsigned i = 1; i <= RIG_PORTS; i++) {
        if (!r->ports[i] || !r->ports[i]->got) continue;
        bits |= 1u << i;
        r->ports[i]->got = 0;
    }
    return bits;
}

static void mac_of(uint8_t *out, const char *text)
{
    unsigned m[6];
    int n = sscanf(text, "%x:%x:%x:%x:%x:%x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]);
    assert(n == 6);
    for (unsigned i = 0; i < 6; i++)
        out[i] = (uint8_t)m[i];
}

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

unsigned frame_udp(uint8_t *f, const char *dst, const char *src, const char *ip_src, const char *ip_dst, unsigned sport,
                   unsigned dport)
{
    memset(f, 0, 64);
    mac_of(f, dst);
    mac_of(f + 6, src);
    put16(f + 12, 0x0800);
    f[14] = 0x45;
    put16(f + 16, 46);
    f[22] = 64;
    f[23] = 17;
    inet_pton(AF_INET, ip_src, f + 26);
    inet_pton(AF_INET, ip_dst, f + 30);
    put16(f + 34, sport);
    put16(f + 36, dport);
    put16(f + 38, 26);
    return 60;
}

unsigned frame_tag(uint8_t *f, unsigned bytes, unsigned tpid, unsigned tci)
{
    memmove(f + 16, f + 12, bytes - 12);
    put16(f + 12, tpid);
    put16(f + 14, tci);
    return bytes + 4;
}
