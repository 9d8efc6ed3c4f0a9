/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands in a bridge's flow file: a log of changes, a line each, in the syntax of ovs-ofctl.
 *
 *     add | mod | mod-strict | del | del-strict FLOW
 *     group-add | group-mod | group-del GROUP
 *     meter-add | meter-mod | meter-del METER
 *     port-config NUMBER CONFIG MASK                  OpenFlow's OFPPC_* bits
 *     begin | end                                     between them: everything; what stands before counts no more
 *
 * A last line without its end, or what follows a `begin` without its `end`, was being written in a crash, and nobody
 * was told that it was done: it is cut off.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/switch_net.h"

static const char *const words[] = {
    [OF_FLOW_ADD] = "add",
    [OF_FLOW_MODIFY] = "mod",
    [OF_FLOW_MODIFY_STRICT] = "mod-strict",
    [OF_FLOW_DELETE] = "del",
    [OF_FLOW_DELETE_STRICT] = "del-strict",
    [OF_GROUP_ADD] = "group-add",
    [OF_GROUP_MODIFY] = "group-mod",
    [OF_GROUP_DELETE] = "group-del",
    [OF_METER_ADD] = "meter-add",
    [OF_METER_MODIFY] = "meter-mod",
    [OF_METER_DELETE] = "meter-del",
    [OF_PORT_CONFIG] = "port-config",
    [OF_TABLE_CONFIG] = "table-config",
};
static_assert(ARRAY_LEN(words) == OF_TABLE_CONFIG + 1, "every change has a word");

/* ---- lines ---- */

/* Numbers only: names of ports may change, or belong to another port one day. */
static bool no_number(void *arg, const char *name, size_t length, uint32_t *number)
{
    return false;
}

static const char *no_name(void *arg, uint32_t number)
{
    return NULL;
}

static const struct flow_names numbers_only = {.port_number = no_number, .port_name = no_name};

/* Which flows are meant: flow_format() would write actions, which have no place here. */
static void write_selection(FILE *out, const struct flow_spec *f, bool strict)
{
    if (f->table != SWITCH_TABLE_ALL) fprintf(out, "table=%u,", f->table);
    if (strict) fprintf(out, "priority=%u,", f->priority);
    if (f->cookie_mask) fprintf(out, "cookie=0x%" PRIx64 "/0x%" PRIx64 ",", f->cookie, f->cookie_mask);
    if (f->out_port != SWITCH_PORT_ANY) fprintf(out, "out_port=%u,", f->out_port);
    if (f->out_group != SWITCH_GROUP_ANY) fprintf(out, "out_group=%u,", f->out_group);
    flow_format_match(out, &f->match, &numbers_only);
}

/* What a flow is, not how it came: what was checked when it was added need not hold any more. */
static void write_whole(FILE *out, const struct flow_spec *f, bool add)
{
    struct flow_spec plain = *f;
    plain.flags &= (uint16_t) ~(FLOW_CHECK_OVERLAP | FLOW_RESET_COUNTS);
    if (add) plain.cookie_mask = 0;
    flow_format_all(out, &plain, &numbers_only);
}

void flow_log_flow(FILE *out, enum of_change what, const struct flow_spec *f)
{
    fprintf(out, "%s ", words[what]);
    if (what == OF_FLOW_DELETE || what == OF_FLOW_DELETE_STRICT) write_selection(out, f, what == OF_FLOW_DELETE_STRICT);
    else write_whole(out, f, what == OF_FLOW_ADD);
    putc('\n', out);
}

void flow_log_group(FILE *out, enum of_change what, const struct group_spec *g)
{
    fprintf(out, "%s ", words[what]);
    if (what != OF_GROUP_DELETE) group_format(out, g, &numbers_only);
    else if (g->id == SWITCH_GROUP_ALL) fputs("group_id=all", out);
    else fprintf(out, "group_id=%" PRIu32, g->id);
    putc('\n', out);
}

void flow_log_meter(FILE *out, enum of_change what, const struct meter_spec *m)
{
    fprintf(out, "%s ", words[what]);
    if (what != OF_METER_DELETE) meter_format(out, m);
    else if (m->id == SWITCH_METER_ALL) fputs("meter=all", out);
    else fprintf(out, "meter=%" PRIu32, m->id);
    putc('\n', out);
}

void flow_log_port(FILE *out, uint32_t number, uint32_t config, uint32_t mask)
{
    fprintf(out, "%s %" PRIu32 " 0x%" PRIx32 " 0x%" PRIx32 "\n", words[OF_PORT_CONFIG], number, config, mask);
}

void flow_log_table(FILE *out, unsigned table, uint32_t config)
{
    fprintf(out, "%s %u 0x%" PRIx32 "\n", words[OF_TABLE_CONFIG], table, config);
}

/* ---- everything ---- */

struct writing {
    FILE *out;
    uint64_t lines;
    unsigned flows, groups, meters;
};

static void save_flow(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    struct writing *w = arg;
    (void)s;
    flow_log_flow(w->out, OF_FLOW_ADD, f);
    w->lines++;
    w->flows++;
}

static bool names_groups(const struct group_spec *g)
{
    for (unsigned i = 0; i < g->count; i++) {
        const struct group_bucket *k = &g->buckets[i];
        if (k->watch_group != SWITCH_GROUP_ANY) return true;
        for (unsigned j = 0; j < k->actions.count; j++)
            if (k->actions.list[j].type == ACTION_GROUP) return true;
    }
    return false;
}

/* Groups may name groups that come later: all are there first, those without what they name. */
static void save_group(void *arg, const struct group_spec *g, const struct group_stats *s)
{
    struct writing *w = arg;
    struct group_bucket nothing = {.weight = 0, .watch_port = SWITCH_PORT_ANY, .watch_group = SWITCH_GROUP_ANY};
    struct group_spec bare = {.id = g->id, .type = g->type};
    (void)s;
    if (g->type == GROUP_INDIRECT) {
        bare.count = 1;
        bare.buckets = &nothing;
    }
    flow_log_group(w->out, OF_GROUP_ADD, names_groups(g) ? &bare : g);
    w->lines++;
    w->groups++;
}

static void save_group_names(void *arg, const struct group_spec *g, const struct group_stats *s)
{
    struct writing *w = arg;
    (void)s;
    if (!names_groups(g)) return;
    flow_log_group(w->out, OF_GROUP_MODIFY, g);
    w->lines++;
}

static void save_meter(void *arg, const struct meter_spec *m, const struct meter_stats *s)
{
    struct writing *w = arg;
    (void)s;
    flow_log_meter(w->out, OF_METER_ADD, m);
    w->lines++;
    w->meters++;
}

/* Those that list leave out what they have no memory for: without it the rest must not count as everything. */
static bool is_whole(const struct net_bridge *b, const struct writing *w)
{
    return w->flows == bridge_flow_count(b->bridge) && w->groups == bridge_group_count(b->bridge) &&
           w->meters == bridge_meter_count(b->bridge);
}

static void write_state(struct net_bridge *b, struct writing *w)
{
    struct flow_spec all;
    struct errmsg e;
    fputs("begin\n", w->out);
    bridge_group_each(b->bridge, SWITCH_GROUP_ALL, save_group, w);
    bridge_group_each(b->bridge, SWITCH_GROUP_ALL, save_group_names, w);
    bridge_meter_each(b->bridge, SWITCH_METER_ALL, save_meter, w);
    for (unsigned i = 0; i < b->port_config_count; i++, w->lines++)
        flow_log_port(w->out, b->port_configs[i].number, b->port_configs[i].config, UINT32_MAX);
    for (unsigned i = 0; i < SWITCH_TABLES; i++) {
        if (!b->table_config[i]) continue;
        flow_log_table(w->out, i, b->table_config[i]);
        w->lines++;
    }
    if (flow_parse(&all, "", FLOW_PARSE_SELECT, &numbers_only, &e) == 0)
        bridge_flow_each(b->bridge, &all, save_flow, w);
    if (is_whole(b, w)) fputs("end\n", w->out);
    w->lines += 2;
}

int flow_log_write_all(struct net_bridge *b, int fd, uint64_t *lines)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    struct writing w = {.out = copy < 0 ? NULL : fdopen(copy, "w")};
    if (!w.out) {
        if (copy >= 0) close(copy);
        return -ENOMEM;
    }
    errno = 0;
    write_state(b, &w);
    int ret = fflush(w.out) == 0 && !ferror(w.out) ? 0 : -(errno ? errno : EIO);
    fclose(w.out);
    if (ret == 0 && !is_whole(b, &w)) ret = -ENOMEM;
    *lines = w.lines;
    return ret;
}

uint64_t flow_log_lines_needed(const struct net_bridge *b)
{
    unsigned tables = 0;
    for (unsigned i = 0; i < SWITCH_TABLES; i++)
        tables += b->table_config[i] != 0;
    return 2 + tables + (uint64_t)bridge_flow_count(b->bridge) + 2 * (uint64_t)bridge_group_count(b->bridge) +
           bridge_meter_count(b->bridge) + b->port_config_count;
}

/* ---- reading ---- */

/* What counts of a file. */
struct extent {
    off_t start, end;       /* from behind the last `begin` that has its `end`, to the last that is finished */
    uint64_t before, lines; /* lines before start, and before end */
};

static int find_extent(FILE *in, struct extent *x)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    struct extent at = {0}; /* start, before: of a `begin` whose `end` did not come yet */
    bool unfinished = false;
    *x = (struct extent){0};
    while ((n = getline(&line, &room, in)) > 0 && line[n - 1] == '\n') {
        at.end += n;
        at.lines++;
        if (strcmp(line, "begin\n") == 0) {
            unfinished = true;
            at.start = at.end;
            at.before = at.lines;
        } else if (unfinished && strcmp(line, "end\n") == 0) {
            unfinished = false;
            x->start = at.start;
            x->before = at.before;
        }
        if (unfinished) continue;
        x->end = at.end;
        x->lines = at.lines;
    }
    free(line);
    return ferror(in) ? -EIO : 0;
}

static int replay_line(struct net_bridge *b, char *line, struct errmsg *e)
{
    char *text = strchr(line, ' ');
    if (text) *text++ = 0;
    for (unsigned i = 0; text && i < ARRAY_LEN(words); i++) {
        struct net_change c;
        unsigned changed = 0;
        if (strcmp(line, words[i]) != 0) continue;
        int ret = net_change_parse(&c, (enum of_change)i, text, &numbers_only, e);
        if (ret == 0) {
            ret = net_change_apply(b, &c, &changed, e);
            net_change_clear(&c);
        }
        return ret;
    }
    return errmsg_set(e, EINVAL, "a line that is no change");
}

static void delete_all(struct net_bridge *b)
{
    struct errmsg e;
    struct flow_spec f;
    unsigned changed;
    if (flow_parse(&f, "", FLOW_PARSE_DEL, &numbers_only, &e) == 0)
        bridge_flow_delete(b->bridge, &f, false, &changed, NULL, &e);
}

/* A line that cannot be obeyed fails the whole: a switch that forwards by half of its flows is worse than none. */
static int replay(struct net_bridge *b, FILE *in, const struct extent *x, struct errmsg *e)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    off_t at = x->start;
    uint64_t number = x->before;
    int ret = fseeko(in, at, SEEK_SET) < 0 ? errmsg_sys(e, errno, "bridge %s: its flow file", b->name) : 0;
    if (x->lines) delete_all(b); /* what a new bridge begins with */
    while (ret == 0 && at < x->end && (n = getline(&line, &room, in)) > 0) {
        at += n;
        number++;
        line[n - 1] = 0;
        if (x->before && strcmp(line, "end") == 0) continue;
        ret = replay_line(b, line, e);
        if (ret < 0) errmsg_prefix(e, ret, "bridge %s: line %" PRIu64 " of its flow file", b->name, number);
    }
    free(line);
    return ret;
}

static int cut_off(const struct net_bridge *b, int fd, off_t end, struct errmsg *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0) return errmsg_sys(e, errno, "bridge %s: its flow file", b->name);
    if (st.st_size <= end) return 0;
    log_warn("bridge %s: the end of its flow file was never finished: it is cut off", b->name);
    return ftruncate(fd, end) < 0 ? errmsg_sys(e, errno, "bridge %s: cutting its flow file", b->name) : 0;
}

int flow_log_replay(struct net_bridge *b, int fd, uint64_t *lines, struct errmsg *e)
{
    struct extent x;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    FILE *in = copy < 0 ? NULL : fdopen(copy, "r");
    if (!in) {
        if (copy >= 0) close(copy);
        return errmsg_sys(e, errno, "bridge %s: its flow file", b->name);
    }
    rewind(in);
    int ret = find_extent(in, &x);
    if (ret < 0) errmsg_sys(e, -ret, "bridge %s: reading its flow file", b->name);
    if (ret == 0) ret = cut_off(b, fd, x.end, e);
    if (ret == 0) ret = replay(b, in, &x, e);
    fclose(in);
    *lines = x.lines;
    return ret;
}
