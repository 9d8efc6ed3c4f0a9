/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may talk with VIFs: lists of rules of each VIF, and of each bridge for all of its VIFs, put together and compiled to the
 * policy of the VIF's port (switch/policy.h). They come with the bridge and the VIF, so that no packet goes by before them.
 *
 *     {"allow": true, "direction": "in", "range": "10.0.0.0/8", "protocol": "tcp", "port": 80, "source_port"?, "priority"?}
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/switch_net.h"

#define PRIORITY_DEFAULT 32768u

static const char *const directions[] = {"out", "in", "both", NULL};
static const char *const protocol_names[] = {"any", "ip", "tcp", "udp", "sctp", "icmp", "arp", NULL};
static_assert(POLICY_ANY == 0 && POLICY_ARP == 6 && POLICY_PROTOCOLS == 7, "protocol_names has them in this order");

static void read_range(struct fields *f, struct policy_rule *r)
{
    const char *text = fields_string(f, "range", "", 64);
    struct ip_range range;
    if (!*text) return;
    if (!ip_range_parse(text, &range)) {
        fields_refuse(f, "range", "an address or a range of addresses as 192.0.2.0/24");
        return;
    }
    r->range = (struct guard_prefix){.ipv6 = range.v6, .length = range.prefix};
    memcpy(r->range.address, range.addr, sizeof r->range.address);
    r->has_range = true;
}

static void read_rule(struct fields *f, struct policy_rule *r)
{
    int direction = fields_choice(f, "direction", -1, directions);
    *r = (struct policy_rule){.in = direction != 0, .out = direction != 1};
    r->allow = fields_bool(f, "allow", true);
    if (!fields_has(f, "allow")) fields_refuse(f, "allow", "true or false");
    r->protocol = (uint8_t)fields_choice(f, "protocol", POLICY_ANY, protocol_names);
    r->has_port = fields_has(f, "port");
    r->has_source_port = fields_has(f, "source_port");
    r->port = (uint16_t)fields_uint(f, "port", 0, 0, UINT16_MAX);
    r->source_port = (uint16_t)fields_uint(f, "source_port", 0, 0, UINT16_MAX);
    r->priority = (uint16_t)fields_uint(f, "priority", PRIORITY_DEFAULT, 0, UINT16_MAX);
    read_range(f, r);
}

void fields_policy(struct fields *f, struct net_rules *out)
{
    json_t *list = fields_array(f, "policy", 0, POLICY_RULES_MAX), *v;
    size_t i;
    *out = (struct net_rules){.list = calloc(json_array_size(list) + 1, sizeof *out->list)};
    assert(out->list);
    json_array_foreach(list, i, v)
    {
        char where[32];
        snprintf(where, sizeof where, "policy[%zu]", i);
        struct fields in = fields_begin(v, where, f->error);
        read_rule(&in, &out->list[i]);
        fields_end(&in);
        out->count++;
    }
}

void net_rules_clear(struct net_rules *r)
{
    free(r->list);
    *r = (struct net_rules){0};
}

/* Of the bridge and of the VIF together. *out NULL: no rules. */
int net_policy_new(struct policy **out, const struct net_rules *of_bridge, const struct net_rules *own,
                   struct errmsg *e)
{
    unsigned count = of_bridge->count + own->count;
    *out = NULL;
    if (!count) return 0;
    struct policy_rule *all = calloc(count, sizeof *all);
    if (!all) return errmsg_set(e, ENOMEM, "out of memory");
    if (of_bridge->count) memcpy(all, of_bridge->list, of_bridge->count * sizeof *all);
    if (own->count) memcpy(all + of_bridge->count, own->list, own->count * sizeof *all);
    int ret = policy_new(out, all, count, e);
    free(all);
    return ret;
}

/* ---- changing ---- */

/* One VIF's, or with it NULL those of all VIFs of the bridge. */
struct swap {
    struct net_vif *v;
    struct policy *policy; /* the new one, then the old one */
};

static unsigned prepare(struct net *n, const struct net_bridge *b, struct net_vif *only, const struct net_rules *rules,
                        struct swap *list, int *ret, struct errmsg *e)
{
    unsigned count = 0;
    LIST_FOR_EACH (node, &n->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        struct net_vif *v = a->is_vif ? net_vif_of(a) : NULL;
        if (!v || *ret < 0 || (only ? v != only : a->bridge != b)) continue;
        list[count].v = v;
        *ret = net_policy_new(&list[count].policy, only ? &a->bridge->rules : rules, only ? rules : &v->rules, e);
        if (*ret < 0) errmsg_prefix(e, *ret, "VIF %s", a->name);
        else count++;
    }
    return count;
}

/* rules are taken over. */
static int set_rules(struct net *n, struct net_bridge *b, struct net_vif *only, struct net_rules *rules,
                     struct errmsg *e)
{
    struct swap *list = calloc(SWITCH_PORTS_MAX, sizeof *list);
    int ret = list ? 0 : errmsg_set(e, ENOMEM, "out of memory");
    unsigned count = list ? prepare(n, b, only, rules, list, &ret, e) : 0;
    for (unsigned i = 0; ret == 0 && i < count; i++) {
        struct net_vif *v = list[i].v;
        struct policy *before = v->policy;
        v->a.vlan.policy = v->policy = list[i].policy;
        list[i].policy = before;
        if (v->a.sp) switch_port_set(v->a.sp, &v->a.vlan);
    }
    if (ret == 0) {
        struct net_rules *kept = only ? &only->rules : &b->rules, before = *kept;
        *kept = *rules;
        *rules = before;
        switch_barrier(n->sw);
    }
    for (unsigned i = 0; i < count; i++)
        policy_free(list[i].policy);
    free(list);
    net_rules_clear(rules);
    return ret;
}

/* True: nothing would change. A daemon that came back says everything once more. */
static bool has_rules(const struct net_rules *r, const struct net_rules *wanted)
{
    if (r->count != wanted->count) return false;
    return r->count == 0 || memcmp(r->list, wanted->list, r->count * sizeof *r->list) == 0;
}

static struct net_vif *find_vif(struct net *n, const char *name, struct errmsg *e, int *ret)
{
    struct attachment *a = net_attachment_find(n, name);
    if (a && a->is_vif) return net_vif_of(a);
    *ret = errmsg_set(e, ENOENT, "VIF %s: there is no such VIF", name);
    return NULL;
}

int request_policy_set(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    const char *vif = fields_string(&f, "vif", "", PORT_NAME_BYTES - 1);
    const char *bridge = fields_string(&f, "bridge", "", PORT_NAME_BYTES - 1);
    struct net_rules rules;
    fields_policy(&f, &rules);
    int ret = fields_done(&f, r->e);
    struct net_vif *v = ret == 0 && *vif ? find_vif(n, vif, r->e, &ret) : NULL;
    struct net_bridge *b = ret == 0 && !*vif ? net_bridge_find(n, bridge) : NULL;
    if (ret == 0 && !v && !b) ret = errmsg_set(r->e, ENOENT, "bridge %s: there is no such bridge", bridge);
    if (ret == 0 && !has_rules(v ? &v->rules : &b->rules, &rules)) return set_rules(n, b, v, &rules, r->e);
    net_rules_clear(&rules);
    return ret;
}

/* ---- showing ---- */

struct shown {
    struct page page;
    const struct net_vif *v;
};

static void show(void *arg, enum policy_direction d, const struct flow_spec *f)
{
    static const struct flow_match everything;
    struct shown *s = arg;
    char *text = NULL;
    size_t bytes;
    if (!page_wants(&s->page)) return;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return;
    fprintf(out, "%s=%s,priority=%u", d == POLICY_OUT ? "in_port" : "out_port", s->v->a.name, f->priority);
    if (memcmp(&f->match, &everything, sizeof everything) != 0) putc(',', out);
    flow_format_match(out, &f->match, &s->v->a.bridge->names);
    fprintf(out, " actions=%s", f->instructions.has_goto ? "allow" : "drop");
    fclose(out);
    page_add(&s->page, json_pack("{s:s, s:s}", "direction", directions[d], "text", text));
    free(text);
}

int request_policy_show(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct shown s = {0};
    const char *vif = fields_string(&f, "vif", FIELD_REQUIRED, PORT_NAME_BYTES - 1);
    page_read(&s.page, &f);
    int ret = fields_done(&f, r->e);
    if (ret == 0) s.v = find_vif(n, vif, r->e, &ret);
    if (s.v) {
        policy_each(s.v->policy, POLICY_OUT, show, &s);
        policy_each(s.v->policy, POLICY_IN, show, &s);
        r->result = page_json(&s.page, "flows");
    } else {
        page_drop(&s.page);
    }
    return ret;
}
