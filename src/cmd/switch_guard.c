/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which addresses a VIF may use as its own (allowed_macs, allowed_ips), compiled to flows of table 0 that are keyed on its
 * port and come before all others. A register says how far a packet got:
 *
 *     reg15 = 0   Ethernet: the source address is allowed; ARP and neighbour discovery name an allowed one as well
 *                 --> reg15 = 1, table 0 again
 *     reg15 = 1   IP: the source address is allowed; ARP and neighbour discovery speak for allowed ones only
 *                 --> reg15 = 2, table 0 again: now the bridge's own flows see it
 *
 * and what matches nothing of this is dropped. Who has no list passes that stage untested. The bridge's own flows do
 * not look at reg15, and may not have these priorities: a VIF cannot get around its guards by a flow that was meant for
 * something else. Guards carry a cookie of their own; lists do not show them, and no change touches them.
 *
 * Allowed beside the lists: DHCP and DHCPv6 have no address yet (0.0.0.0, and :: for duplicate address detection and router
 * solicitation), and IPv6's link-local address that follows from an allowed MAC address.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/switch_net.h"

#define GUARD_COOKIE UINT64_C(0x4352656164677264)
#define CLOSED_COOKIE (GUARD_COOKIE + 1)
#define CLOSED 65535u /* while guards change: nothing passes */
#define PASS 65534u   /* what is allowed of a protocol that is looked into */
#define BLOCK 65533u  /* the rest of that protocol */
#define OTHER 65532u  /* what is allowed of all others */
#define DROP GUARD_PRIORITY
static_assert(DROP < OTHER && OTHER < BLOCK && BLOCK < PASS && PASS < CLOSED, "in this order");

bool guard_is(const struct flow_spec *f)
{
    return f->table == 0 && f->priority >= GUARD_PRIORITY && (f->cookie == GUARD_COOKIE || f->cookie == CLOSED_COOKIE);
}

struct guard {
    struct net_vif *v;
    unsigned stage; /* 0 or 1 */
    int ret;
    struct errmsg *e;
};

static bool no_number(void *arg, const char *name, size_t length, uint32_t *number)
{
    return false;
}

/* One flow: match is what comes behind the port and the stage. */
static void add(struct guard *g, unsigned priority, bool pass, const char *match, const char *value)
{
    const struct flow_names names = {.port_number = no_number};
    char text[512], actions[64] = "drop";
    struct flow_spec f;
    if (g->ret < 0) return;
    if (pass) snprintf(actions, sizeof actions, "load:%u->reg15,resubmit(,0)", g->stage + 1);
    snprintf(text, sizeof text, "table=0,priority=%u,cookie=0x%llx,reg15=%u,in_port=%u%s%s%s,actions=%s", priority,
             (unsigned long long)GUARD_COOKIE, g->stage, switch_port_number(g->v->a.sp), *match ? "," : "", match,
             value, actions);
    g->ret = flow_parse(&f, text, FLOW_PARSE_ADD, &names, g->e);
    if (g->ret < 0) return;
    g->ret = bridge_flow_add(g->v->a.bridge->bridge, &f, g->e);
    instructions_clear(&f.instructions);
}

static void ethernet_stage(struct guard *g)
{
    const struct vif_settings *s = &g->v->s;
    char mac[18], match[96];
    g->stage = 0;
    if (!s->mac_count) {
        add(g, PASS, true, "", "");
        return;
    }
    for (unsigned i = 0; i < s->mac_count; i++) {
        mac_format(mac, s->allowed_mac[i]);
        snprintf(match, sizeof match, "arp,dl_src=%s,arp_sha=", mac);
        add(g, PASS, true, match, mac);
        snprintf(match, sizeof match, "icmp6,icmp_type=135,icmp_code=0,dl_src=%s,nd_sll=", mac);
        add(g, PASS, true, match, mac);
        add(g, PASS, true, match, "00:00:00:00:00:00"); /* it names none */
        snprintf(match, sizeof match, "icmp6,icmp_type=136,icmp_code=0,dl_src=%s,nd_tll=", mac);
        add(g, PASS, true, match, mac);
        add(g, PASS, true, match, "00:00:00:00:00:00");
        add(g, OTHER, true, "dl_src=", mac);
    }
    add(g, BLOCK, false, "arp", "");
    add(g, BLOCK, false, "icmp6,icmp_type=135", "");
    add(g, BLOCK, false, "icmp6,icmp_type=136", "");
    add(g, DROP, false, "", "");
}

/* fe80:: and the interface identifier made of the MAC address (RFC 4291, appendix A) */
static struct ip_range link_local(const uint8_t *mac)
{
    return (struct ip_range){
        .v6 = true,
        .prefix = 128,
        .addr = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}};
}

static void allow_ip(struct guard *g, const struct ip_range *ip)
{
    char text[64];
    ip_range_format(text, ip);
    if (ip->v6) {
        add(g, PASS, true, "icmp6,icmp_type=136,icmp_code=0,nd_target=", text);
        add(g, OTHER, true, "ipv6,ipv6_src=", text);
    } else {
        add(g, OTHER, true, "arp,arp_spa=", text);
        add(g, OTHER, true, "ip,nw_src=", text);
    }
}

static void ip_stage(struct guard *g)
{
    const struct vif_settings *s = &g->v->s;
    g->stage = 1;
    if (!s->ip_count) {
        add(g, PASS, true, "", "");
        return;
    }
    for (unsigned i = 0; i < s->ip_count; i++)
        allow_ip(g, &s->allowed_ip[i]);
    for (unsigned i = 0; i < s->mac_count; i++) {
        struct ip_range own = link_local(s->allowed_mac[i]);
        allow_ip(g, &own);
    }
    if (!s->mac_count) {
        struct ip_range own = link_local(s->mac);
        allow_ip(g, &own);
    }
    add(g, BLOCK, false, "icmp6,icmp_type=136", "");
    add(g, OTHER, true, "arp,arp_spa=0.0.0.0", ""); /* is it in use? (RFC 5227) */
    add(g, OTHER, true, "udp,nw_src=0.0.0.0,tp_src=68,tp_dst=67", "");
    add(g, OTHER, true, "icmp6,ipv6_src=::,icmp_type=135", "");
    add(g, OTHER, true, "icmp6,ipv6_src=::,icmp_type=133", "");
    add(g, OTHER, true, "icmp6,ipv6_src=::,icmp_type=143", ""); /* joins groups before it has an address */
    add(g, DROP, false, "", "");
}

struct high {
    bool found;
};

static void look(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    struct high *h = arg;
    (void)s;
    h->found = h->found || (f->table == 0 && f->priority >= GUARD_PRIORITY && !guard_is(f));
}

static bool bridge_has_high_flows(struct net_bridge *b)
{
    const struct flow_names names = {.port_number = no_number};
    struct flow_spec all;
    struct errmsg e;
    struct high h = {false};
    if (flow_parse(&all, "table=0", FLOW_PARSE_SELECT, &names, &e) == 0) bridge_flow_each(b->bridge, &all, look, &h);
    return h.found;
}

static void delete_cookie(struct net_vif *v, uint64_t cookie)
{
    const struct flow_names names = {.port_number = no_number};
    char text[128];
    struct flow_spec f;
    struct errmsg e;
    unsigned changed;
    snprintf(text, sizeof text, "table=0,cookie=0x%llx/-1,in_port=%u", (unsigned long long)cookie,
             switch_port_number(v->a.sp));
    if (flow_parse(&f, text, FLOW_PARSE_DEL, &names, &e) == 0)
        bridge_flow_delete(v->a.bridge->bridge, &f, false, &changed, &e);
}

static int close_port(struct net_vif *v, struct errmsg *e)
{
    const struct flow_names names = {.port_number = no_number};
    char text[128];
    struct flow_spec f;
    snprintf(text, sizeof text, "table=0,priority=%u,cookie=0x%llx,in_port=%u,actions=drop", CLOSED,
             (unsigned long long)CLOSED_COOKIE, switch_port_number(v->a.sp));
    int ret = flow_parse(&f, text, FLOW_PARSE_ADD, &names, e);
    if (ret < 0) return ret;
    ret = bridge_flow_add(v->a.bridge->bridge, &f, e);
    instructions_clear(&f.instructions);
    return ret;
}

void guard_remove(struct net_vif *v)
{
    if (!v->guarded) return;
    delete_cookie(v, GUARD_COOKIE);
    delete_cookie(v, CLOSED_COOKIE);
    v->guarded = false;
    v->a.bridge->guards--;
}

/* Its port is closed while they change; it stays so when they cannot be made. */
int guard_set(struct net_vif *v, struct errmsg *e)
{
    struct guard g = {.v = v, .e = e};
    if (!v->s.mac_count && !v->s.ip_count) {
        guard_remove(v);
        return 0;
    }
    if (!v->a.bridge->guards && bridge_has_high_flows(v->a.bridge))
        return errmsg_set(
            e, EBUSY, "VIF %s: bridge %s has flows in table 0 of priority %u or more, which checking addresses needs",
            v->a.name, v->a.bridge->name, GUARD_PRIORITY);
    g.ret = close_port(v, e);
    if (g.ret == 0) {
        if (!v->guarded) v->a.bridge->guards++;
        v->guarded = true;
        delete_cookie(v, GUARD_COOKIE);
    }
    ethernet_stage(&g);
    ip_stage(&g);
    if (g.ret < 0) return errmsg_prefix(e, g.ret, "VIF %s: checking its addresses", v->a.name);
    delete_cookie(v, CLOSED_COOKIE);
    return 0;
}
