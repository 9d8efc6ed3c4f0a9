/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of what a bridge forwards by, as text: those that requests ask for and those that the bridge's file holds. Both are
 * read and carried out here. (OpenFlow's come as structures: openflow/agent.h; their lines are written by the same code.)
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cmd/switch_net.h"

/* ---- reading ---- */

static int parse_flow(struct flow_spec *f, enum of_change what, const char *text, const struct flow_names *names,
                      struct errmsg *e)
{
    bool deletes = what == OF_FLOW_DELETE || what == OF_FLOW_DELETE_STRICT;
    enum flow_parse how = deletes ? FLOW_PARSE_DEL : what == OF_FLOW_ADD ? FLOW_PARSE_ADD : FLOW_PARSE_MOD;
    int ret = flow_parse(f, text, how, names, e);
    if (ret < 0) return ret;
    if (!deletes) ret = flow_check(f, e);
    if (ret < 0) instructions_clear(&f->instructions);
    return ret;
}

/* "KEY=NUMBER", or all of them: "KEY=all" or nothing. */
static int parse_which(uint32_t *id, uint32_t all, const char *key, const char *text, struct errmsg *e)
{
    size_t len = strlen(key);
    const char *value = text + len + 1;
    char *end;
    *id = all;
    if (!*text) return 0;
    if (strncmp(text, key, len) != 0 || text[len] != '=')
        return errmsg_set(e, EINVAL, "\"%.64s\": expected %s=NUMBER or %s=all", text, key, key);
    if (strcmp(value, "all") == 0) return 0;
    errno = 0;
    unsigned long long n = strtoull(value, &end, 0);
    if (*value < '0' || *value > '9' || *end || errno || n > UINT32_MAX)
        return errmsg_set(e, EINVAL, "\"%.64s\": expected %s=NUMBER or %s=all", text, key, key);
    *id = (uint32_t)n;
    return 0;
}

static int parse_port(struct net_port_config *p, uint32_t *mask, const char *text, struct errmsg *e)
{
    int used = 0;
    if (sscanf(text, "%u %x %x%n", &p->number, &p->config, mask, &used) == 3 && !text[used]) return 0;
    return errmsg_set(e, EINVAL, "\"%.64s\": expected a port's number, its configuration and a mask", text);
}

static int parse_table(struct net_table_config *t, const char *text, struct errmsg *e)
{
    int used = 0;
    if (sscanf(text, "%u %x%n", &t->table, &t->config, &used) == 2 && !text[used] &&
        (t->table < SWITCH_TABLES || t->table == SWITCH_TABLE_ALL))
        return 0;
    return errmsg_set(e, EINVAL, "\"%.64s\": expected a table's number and its configuration", text);
}

int net_change_parse(struct net_change *c, enum of_change what, const char *text, const struct flow_names *names,
                     struct errmsg *e)
{
    memset(c, 0, sizeof *c);
    c->what = what;
    switch (what) {
    case OF_FLOW_ADD:
    case OF_FLOW_MODIFY:
    case OF_FLOW_MODIFY_STRICT:
    case OF_FLOW_DELETE:
    case OF_FLOW_DELETE_STRICT: return parse_flow(&c->flow, what, text, names, e);
    case OF_GROUP_ADD:
    case OF_GROUP_MODIFY: return group_parse(&c->group, text, names, e);
    case OF_GROUP_DELETE: return parse_which(&c->group.id, SWITCH_GROUP_ALL, "group_id", text, e);
    case OF_METER_ADD:
    case OF_METER_MODIFY: return meter_parse(&c->meter, text, e);
    case OF_METER_DELETE: return parse_which(&c->meter.id, SWITCH_METER_ALL, "meter", text, e);
    case OF_PORT_CONFIG: return parse_port(&c->port, &c->port_mask, text, e);
    case OF_TABLE_CONFIG: return parse_table(&c->table, text, e);
    }
    return errmsg_set(e, EINVAL, "no such change");
}

void net_change_clear(struct net_change *c)
{
    if (c->what <= OF_FLOW_DELETE_STRICT) instructions_clear(&c->flow.instructions);
    else if (c->what <= OF_GROUP_DELETE) group_spec_clear(&c->group);
}

/* ---- carrying out ---- */

static unsigned count_groups(const struct net_bridge *b)
{
    return bridge_group_count(b->bridge);
}

static int apply_group(struct net_bridge *b, const struct net_change *c, unsigned *changed, struct errmsg *e)
{
    unsigned before = count_groups(b);
    int ret;
    if (c->what == OF_GROUP_DELETE) {
        ret = bridge_group_delete(b->bridge, c->group.id, NULL, e);
        *changed += before - count_groups(b);
        return ret;
    }
    ret = c->what == OF_GROUP_ADD ? bridge_group_add(b->bridge, &c->group, NULL, e)
                                  : bridge_group_modify(b->bridge, &c->group, NULL, e);
    *changed += ret == 0;
    return ret;
}

static int apply_meter(struct net_bridge *b, const struct net_change *c, unsigned *changed, struct errmsg *e)
{
    unsigned before = bridge_meter_count(b->bridge);
    int ret;
    if (c->what == OF_METER_DELETE) {
        ret = bridge_meter_delete(b->bridge, c->meter.id, NULL, e);
        *changed += before - bridge_meter_count(b->bridge);
        return ret;
    }
    ret = c->what == OF_METER_ADD ? bridge_meter_add(b->bridge, &c->meter, NULL, e)
                                  : bridge_meter_modify(b->bridge, &c->meter, NULL, e);
    *changed += ret == 0;
    return ret;
}

int net_change_apply(struct net_bridge *b, const struct net_change *c, unsigned *changed, struct errmsg *e)
{
    unsigned n = 0;
    int ret = -EINVAL;
    switch (c->what) {
    case OF_FLOW_ADD:
        ret = bridge_flow_add(b->bridge, &c->flow, NULL, e);
        n = ret == 0;
        break;
    case OF_FLOW_MODIFY:
    case OF_FLOW_MODIFY_STRICT:
        ret = bridge_flow_modify(b->bridge, &c->flow, c->what == OF_FLOW_MODIFY_STRICT, &n, NULL, e);
        break;
    case OF_FLOW_DELETE:
    case OF_FLOW_DELETE_STRICT:
        ret = bridge_flow_delete(b->bridge, &c->flow, c->what == OF_FLOW_DELETE_STRICT, &n, NULL, e);
        break;
    case OF_GROUP_ADD:
    case OF_GROUP_MODIFY:
    case OF_GROUP_DELETE: ret = apply_group(b, c, &n, e); break;
    case OF_METER_ADD:
    case OF_METER_MODIFY:
    case OF_METER_DELETE: ret = apply_meter(b, c, &n, e); break;
    case OF_PORT_CONFIG: ret = net_port_config_set(b, c->port.number, c->port.config, c->port_mask, e); break;
    case OF_TABLE_CONFIG:
        net_table_config_set(b, c->table.table, c->table.config);
        ret = 0;
        break;
    }
    *changed += n;
    return ret;
}

void net_change_note(struct net_bridge *b, const struct net_change *c)
{
    if (c->what <= OF_FLOW_DELETE_STRICT) net_note_flow(b, c->what, &c->flow);
    else if (c->what <= OF_GROUP_DELETE) net_note_group(b, c->what, &c->group);
    else if (c->what <= OF_METER_DELETE) net_note_meter(b, c->what, &c->meter);
    else if (c->what == OF_PORT_CONFIG) net_note_port(b, c->port.number, c->port.config, c->port_mask);
    else net_note_table(b, c->table.table, c->table.config);
}

void net_table_config_set(struct net_bridge *b, unsigned table, uint32_t config)
{
    for (unsigned i = 0; i < SWITCH_TABLES; i++)
        if (table == SWITCH_TABLE_ALL || table == i) b->table_config[i] = config;
}

/* ---- what OpenFlow set of ports, which may come later than the file is read ---- */

static struct net_port_config *find_config(struct net_bridge *b, uint32_t number)
{
    for (unsigned i = 0; i < b->port_config_count; i++)
        if (b->port_configs[i].number == number) return &b->port_configs[i];
    return NULL;
}

int net_port_config_note(struct net_bridge *b, uint32_t number, uint32_t config, uint32_t mask)
{
    struct net_port_config *p = find_config(b, number);
    uint32_t now = (p ? p->config & ~mask : 0) | (config & mask);
    if (p && now) {
        p->config = now;
    } else if (p) {
        *p = b->port_configs[--b->port_config_count];
    } else if (now) {
        struct net_port_config *more =
            b->port_config_count < SWITCH_PORTS_MAX
                ? realloc(b->port_configs, (b->port_config_count + 1) * sizeof *b->port_configs)
                : NULL;
        if (!more) return -ENOMEM;
        b->port_configs = more;
        more[b->port_config_count++] = (struct net_port_config){.number = number, .config = now};
    }
    return 0;
}

int net_port_config_set(struct net_bridge *b, uint32_t number, uint32_t config, uint32_t mask, struct errmsg *e)
{
    struct switch_port *sp = bridge_port(b->bridge, number);
    int ret = net_port_config_note(b, number, config, mask);
    if (ret < 0) return errmsg_set(e, -ret, "port %u: more ports are configured than there can be", number);
    if (sp) switch_port_set_config(sp, config, mask);
    return 0;
}

void net_port_config_apply(struct attachment *a)
{
    const struct net_port_config *p = find_config(a->bridge, switch_port_number(a->sp));
    if (p) switch_port_set_config(a->sp, p->config, UINT32_MAX);
}

void net_port_config_forget(struct attachment *a)
{
    struct net_bridge *b = a->bridge;
    struct errmsg e = {""};
    uint32_t number = switch_port_number(a->sp);
    if (!find_config(b, number)) return;
    net_port_config_note(b, number, 0, UINT32_MAX);
    net_note_port(b, number, 0, UINT32_MAX);
    if (net_keep(b, true, &e) < 0) log_error("%s", e.text);
}
