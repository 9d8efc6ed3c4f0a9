/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flows, and the file of each bridge in which they outlive the process.
 *
 * The file is a log of changes, a line each, in the flow syntax:
 *
 *     add FLOW | mod FLOW | mod-strict FLOW | del FLOW | del-strict FLOW
 *
 * A request is carried out whole or up to its first error; what was carried out passes switch_barrier(), is appended in
 * one write, and is on the disk, before the answer goes out. A last line without an end was being written in a crash,
 * and was never answered: it is cut off. Flows that time out are appended as deleted. When the file has grown to twice what
 * the flows need, the keeper is asked for a new one, which gets one `add` per flow.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cmd/switch_net.h"
#include "loop/clock.h"
#include "switch/guard.h"

#define LINES_SPARED 256u /* a file with fewer is never too long */
#define FLOW_TEXT_MAX 65536u

enum change { CHANGE_ADD, CHANGE_MOD, CHANGE_MOD_STRICT, CHANGE_DEL, CHANGE_DEL_STRICT };
static const char *const change_words[] = {"add", "mod", "mod-strict", "del", "del-strict", NULL};

/* ---- text ---- */

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
    if (f->out_group != SWITCH_PORT_ANY) fprintf(out, "out_group=%u,", f->out_group);
    flow_format_match(out, &f->match, &numbers_only);
}

/* What a flow is, not how it came: what was checked when it was added need not hold any more. */
static void write_whole(FILE *out, const struct flow_spec *f)
{
    struct flow_spec plain = *f;
    plain.flags &= (uint16_t) ~(FLOW_CHECK_OVERLAP | FLOW_RESET_COUNTS);
    plain.cookie_mask = 0;
    flow_format_all(out, &plain, &numbers_only);
}

static void write_line(FILE *out, enum change change, const struct flow_spec *f)
{
    fprintf(out, "%s ", change_words[change]);
    if (change == CHANGE_DEL || change == CHANGE_DEL_STRICT) write_selection(out, f, change == CHANGE_DEL_STRICT);
    else write_whole(out, f);
    putc('\n', out);
}

/* ---- changes ---- */

static int change_flows(struct net_bridge *b, enum change change, const struct flow_spec *f, unsigned *changed,
                        struct errmsg *e)
{
    bool strict = change == CHANGE_MOD_STRICT || change == CHANGE_DEL_STRICT;
    bool modify = change == CHANGE_MOD || change == CHANGE_MOD_STRICT;
    unsigned n = 0;
    int ret;
    if (change == CHANGE_ADD) {
        ret = bridge_flow_add(b->bridge, f, NULL, e);
        n = ret == 0;
    } else if (modify) {
        ret = bridge_flow_modify(b->bridge, f, strict, &n, NULL, e);
    } else {
        ret = bridge_flow_delete(b->bridge, f, strict, &n, NULL, e);
    }
    *changed += n;
    return ret;
}

static int parse_change(struct flow_spec *f, enum change change, const char *text, const struct flow_names *names,
                        struct errmsg *e)
{
    static const enum flow_parse how[] = {FLOW_PARSE_ADD, FLOW_PARSE_MOD, FLOW_PARSE_MOD, FLOW_PARSE_DEL,
                                          FLOW_PARSE_DEL};
    int ret = flow_parse(f, text, how[change], names, e);
    if (ret < 0) return ret;
    if (change != CHANGE_DEL && change != CHANGE_DEL_STRICT) ret = flow_check(f, e);
    if (ret < 0) instructions_clear(&f->instructions);
    return ret;
}

/* ---- the file ---- */

static int write_all(int fd, const char *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? -errno : -EIO;
        data += n;
        bytes -= (size_t)n;
    }
    return 0;
}

static void ask_for_new_file(struct net_bridge *b)
{
    struct net_keeper *k = &b->net->keeper;
    if (b->file_asked || !k->flows_grown) return;
    b->file_asked = true;
    k->flows_grown(k->arg, b->name);
}

static void look_at_length(struct net_bridge *b)
{
    if (b->file_lines > 2 * (uint64_t)bridge_flow_count(b->bridge) + LINES_SPARED) ask_for_new_file(b);
}

void net_flows_ask_again(struct net_bridge *b)
{
    if (!b->file_asked) return;
    b->file_asked = false;
    ask_for_new_file(b);
}

static int write_file(struct net_bridge *b, int fd);

/* All of it, or nothing that a reader would see. A file that missed a change gets everything anew behind what it has. */
static int file_append(struct net_bridge *b, const char *text, size_t bytes, unsigned lines, bool sync,
                       struct errmsg *e)
{
    if (b->file_fd < 0 || !bytes) return 0;
    off_t end = lseek(b->file_fd, 0, SEEK_END);
    int ret = b->file_behind ? write_file(b, b->file_fd) : write_all(b->file_fd, text, bytes);
    if (ret == 0 && sync && fdatasync(b->file_fd) < 0) ret = -errno;
    if (ret == 0) {
        b->file_lines += b->file_behind ? bridge_flow_count(b->bridge) + 1 : lines;
        b->file_behind = false;
        look_at_length(b);
        return 0;
    }
    if (end >= 0 && ftruncate(b->file_fd, end) < 0) log_error("bridge %s: its flow file has a torn end", b->name);
    b->file_behind = true;
    ask_for_new_file(b);
    return errmsg_sys(e, -ret, "bridge %s: the flows are changed, but cannot be saved", b->name);
}

/* From switch_tick(): a flow's time was over. Many may go at once, and are written together. */
static void flow_gone(void *arg, const struct flow_spec *f, const struct flow_stats *s, enum flow_gone why)
{
    struct net_bridge *b = arg;
    (void)s;
    if (why == FLOW_GONE_DELETED || b->file_fd < 0) return;
    if (!b->gone) b->gone = open_memstream(&b->gone_text, &b->gone_bytes);
    if (!b->gone) {
        b->file_behind = true;
        return;
    }
    struct flow_spec one = *f;
    one.cookie_mask = 0;
    one.out_port = one.out_group = SWITCH_PORT_ANY;
    write_line(b->gone, CHANGE_DEL_STRICT, &one);
    b->gone_lines++;
}

/* Not waited for: a flow that a crash of the host brings back times out again. */
void net_flows_ticked(struct net_bridge *b)
{
    struct errmsg e = {""};
    if (!b->gone) return;
    fclose(b->gone);
    if (file_append(b, b->gone_text, b->gone_bytes, b->gone_lines, false, &e) < 0)
        log_limited(LOG_LEVEL_ERROR, "%s", e.text);
    free(b->gone_text);
    b->gone = NULL;
    b->gone_text = NULL;
    b->gone_lines = 0;
}

static int replay_line(struct net_bridge *b, char *line, struct errmsg *e)
{
    char *text = strchr(line, ' ');
    if (text) *text++ = 0;
    for (unsigned i = 0; text && change_words[i]; i++) {
        struct flow_spec f;
        unsigned changed = 0;
        if (strcmp(line, change_words[i]) != 0) continue;
        int ret = parse_change(&f, (enum change)i, text, &numbers_only, e);
        if (ret == 0) {
            ret = change_flows(b, (enum change)i, &f, &changed, e);
            instructions_clear(&f.instructions);
        }
        return ret;
    }
    return errmsg_set(e, EINVAL, "a line that is no change of a flow");
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
static int replay(struct net_bridge *b, FILE *in, struct errmsg *e)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    off_t good = 0;
    int ret = 0;
    while (ret == 0 && (n = getline(&line, &room, in)) > 0) {
        if (line[n - 1] != '\n') {
            log_warn("bridge %s: the last line of its flow file was never finished: it is cut off", b->name);
            if (ftruncate(b->file_fd, good) < 0) ret = errmsg_sys(e, errno, "cutting the flow file");
            break;
        }
        line[n - 1] = 0;
        good += n;
        if (b->file_lines++ == 0) delete_all(b); /* what a new bridge begins with */
        ret = replay_line(b, line, e);
        if (ret < 0) errmsg_prefix(e, ret, "bridge %s: line %" PRIu64 " of its flow file", b->name, b->file_lines);
    }
    free(line);
    return ret;
}

static void save_one(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    (void)s;
    write_line(arg, CHANGE_ADD, f);
}

static int select_all(struct flow_spec *all)
{
    struct errmsg e;
    return flow_parse(all, "", FLOW_PARSE_SELECT, &numbers_only, &e);
}

/* The first line says that the file has begun, so that a bridge without any flow does not get those of a new one. */
static int write_file(struct net_bridge *b, int fd)
{
    struct flow_spec all;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    FILE *out = copy < 0 ? NULL : fdopen(copy, "w");
    if (!out) {
        if (copy >= 0) close(copy);
        return -ENOMEM;
    }
    fprintf(out, "%s \n", change_words[CHANGE_DEL]);
    if (select_all(&all) == 0) bridge_flow_each(b->bridge, &all, save_one, out);
    int ret = fflush(out) == 0 && !ferror(out) && fdatasync(fd) == 0 ? 0 : -(errno ? errno : EIO);
    fclose(out);
    return ret;
}

int net_flows_open(struct net_bridge *b, int fd, struct errmsg *e)
{
    bridge_on_flow_gone(b->bridge, flow_gone, b);
    b->file_fd = fd;
    if (fd < 0) return 0;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    FILE *in = copy < 0 ? NULL : fdopen(copy, "r");
    if (!in) {
        if (copy >= 0) close(copy);
        return errmsg_sys(e, errno, "bridge %s: its flow file", b->name);
    }
    rewind(in);
    int ret = replay(b, in, e);
    fclose(in);
    if (ret == 0 && b->file_lines == 0) {
        ret = write_file(b, fd);
        b->file_lines = 1 + bridge_flow_count(b->bridge);
        if (ret < 0) return errmsg_sys(e, -ret, "bridge %s: beginning its flow file", b->name);
    }
    if (ret == 0) look_at_length(b);
    return ret;
}

void net_flows_close(struct net_bridge *b)
{
    if (b->file_fd >= 0) close(b->file_fd);
    b->file_fd = -1;
}

/* ---- requests ---- */

struct batch {
    enum change change;
    struct flow_spec *list;
    unsigned count;
};

static void batch_clear(struct batch *batch)
{
    for (unsigned i = 0; i < batch->count; i++)
        instructions_clear(&batch->list[i].instructions);
    free(batch->list);
}

/* Every text is read before the first flow is changed. */
static int batch_parse(struct batch *batch, struct net_bridge *b, json_t *flows, struct errmsg *e)
{
    size_t i;
    json_t *v;
    batch->list = calloc(json_array_size(flows) + 1, sizeof *batch->list);
    if (!batch->list) return errmsg_set(e, ENOMEM, "out of memory");
    json_array_foreach(flows, i, v)
    {
        const char *text = json_string_value(v);
        if (!text || json_string_length(v) > FLOW_TEXT_MAX || strlen(text) != json_string_length(v))
            return errmsg_set(e, EINVAL, "line %zu: expected the text of a flow", i + 1);
        int ret = parse_change(&batch->list[i], batch->change, text, &b->names, e);
        if (ret < 0) return errmsg_prefix(e, ret, "line %zu", i + 1);
        batch->count++;
    }
    return 0;
}

static int batch_apply(struct batch *batch, struct net_bridge *b, unsigned *changed, struct errmsg *e)
{
    struct errmsg save = {""};
    char *text = NULL;
    size_t bytes = 0;
    unsigned done = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return errmsg_set(e, ENOMEM, "out of memory");
    int ret = 0;
    while (ret == 0 && done < batch->count) {
        ret = change_flows(b, batch->change, &batch->list[done], changed, e);
        if (ret < 0) errmsg_prefix(e, ret, "line %u", done + 1);
        else write_line(out, batch->change, &batch->list[done++]);
    }
    fclose(out);
    switch_barrier(b->net->sw);
    int saved = file_append(b, text, bytes, done, true, &save);
    free(text);
    if (ret == 0 && saved < 0) {
        *e = save;
        return saved;
    }
    return ret;
}

static int change_request(struct net *n, struct net_request *r, enum change change, enum change strictly)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    if (ret < 0) return ret;
    json_t *flows = fields_array(&f, "flows", 0, LINK_MESSAGE_MAX);
    bool strict = fields_bool(&f, "strict", false);
    ret = fields_done(&f, r->e);
    struct batch batch = {.change = strict ? strictly : change};
    unsigned changed = 0;
    if (ret == 0) ret = batch_parse(&batch, b, flows, r->e);
    if (ret == 0) ret = batch_apply(&batch, b, &changed, r->e);
    batch_clear(&batch);
    if (ret == 0) r->result = json_pack("{s:I}", "changed", (json_int_t)changed);
    return ret;
}

int request_flow_add(struct net *n, struct net_request *r)
{
    return change_request(n, r, CHANGE_ADD, CHANGE_ADD);
}

int request_flow_mod(struct net *n, struct net_request *r)
{
    return change_request(n, r, CHANGE_MOD, CHANGE_MOD_STRICT);
}

int request_flow_del(struct net *n, struct net_request *r)
{
    return change_request(n, r, CHANGE_DEL, CHANGE_DEL_STRICT);
}

int request_flows_file(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret, fd = request_take_fd(r, "flows");
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    if (ret == 0) ret = fields_done(&f, r->e);
    if (ret == 0 && fd < 0) ret = errmsg_set(r->e, EINVAL, "flows: the descriptor is missing");
    if (ret == 0) {
        b->file_asked = false;
        ret = write_file(b, fd);
        if (ret < 0) errmsg_sys(r->e, -ret, "bridge %s: writing its flows", b->name);
    }
    if (ret < 0) {
        if (fd >= 0) close(fd);
        return ret;
    }
    net_flows_close(b);
    b->file_fd = fd;
    b->file_behind = false;
    unsigned count = bridge_flow_count(b->bridge);
    b->file_lines = 1 + (uint64_t)count;
    r->result = json_pack("{s:I}", "flows", (json_int_t)count);
    return 0;
}

/* ---- listing ---- */

struct dump {
    struct page page;
    struct net_bridge *b;
    const struct flow_match *selected; /* of guards */
    const char *vif;
};

static char *text_of(const struct flow_spec *f, const struct flow_names *names, bool actions)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return NULL;
    struct flow_spec plain = *f;
    plain.cookie_mask = 0;
    if (actions) flow_format_actions(out, &f->instructions, names);
    else flow_format_all(out, &plain, names);
    fclose(out);
    return text;
}

static json_t *flow_json(const struct flow_spec *f, const struct flow_stats *s, const struct flow_names *names)
{
    char *text = text_of(f, names, false), *actions = text_of(f, names, true), cookie[24];
    snprintf(cookie, sizeof cookie, "0x%" PRIx64, f->cookie);
    json_t *j =
        json_pack("{s:s, s:s, s:I, s:I, s:f, s:f, s:i, s:i, s:i, s:i, s:s}", "text", text ? text : "", "actions",
                  actions ? actions : "", "packets", (json_int_t)s->packets, "bytes", (json_int_t)s->bytes,
                  "duration_s", (double)s->duration_ns / (double)NS_PER_SECOND, "idle_s",
                  (double)s->idle_ns / (double)NS_PER_SECOND, "table", (int)f->table, "priority", (int)f->priority,
                  "idle_timeout", (int)f->idle_timeout_s, "hard_timeout", (int)f->hard_timeout_s, "cookie", cookie);
    free(text);
    free(actions);
    return j;
}

static void dump_one(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    struct dump *d = arg;
    if (page_wants(&d->page)) page_add(&d->page, flow_json(f, s, &d->b->names));
}

static void dump_guard(void *arg, const char *stage, const struct flow_spec *f)
{
    struct dump *d = arg;
    if (!flow_match_overlaps(d->selected, &f->match) || !page_wants(&d->page)) return;
    struct flow_spec rule = *f;
    rule.table = 0; /* it is in none: the stage says where it stands */
    char *text = text_of(&rule, &d->b->names, false);
    json_t *j = json_pack("{s:s, s:s, s:s}", "guard", d->vif, "stage", stage, "text", text ? text : "");
    free(text);
    page_add(&d->page, j);
}

static void dump_guards(struct dump *d, const struct flow_match *selected)
{
    d->selected = selected;
    LIST_FOR_EACH (node, &d->b->net->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (a->bridge != d->b || !a->is_vif || !a->sp) continue;
        d->vif = a->name;
        guard_each(net_vif_of(a)->guard, switch_port_number(a->sp), dump_guard, d);
    }
}

int request_flow_dump(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct dump d = {0};
    struct flow_spec selection;
    int ret;
    d.b = request_bridge(n, &f, r->e, &ret);
    if (ret < 0) return ret;
    const char *match = fields_string(&f, "match", "", FLOW_TEXT_MAX);
    bool guards = fields_bool(&f, "guards", false);
    page_read(&d.page, &f);
    ret = fields_done(&f, r->e);
    if (ret == 0) ret = flow_parse(&selection, match, FLOW_PARSE_SELECT, &d.b->names, r->e);
    if (ret == 0) bridge_flow_each(d.b->bridge, &selection, dump_one, &d);
    if (ret == 0 && guards) dump_guards(&d, &selection.match);
    if (ret == 0) r->result = page_json(&d.page, "flows");
    else page_drop(&d.page);
    return ret;
}

int request_flow_trace(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct flow_key key;
    int ret;
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    if (ret < 0) return ret;
    const char *packet = fields_string(&f, "packet", FIELD_REQUIRED, FLOW_TEXT_MAX);
    ret = fields_done(&f, r->e);
    if (ret == 0) ret = flow_parse_key(&key, packet, &b->names, r->e);
    if (ret < 0) return ret;
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return errmsg_set(r->e, ENOMEM, "out of memory");
    bridge_trace(b->bridge, &key, &b->names, out);
    fclose(out);
    r->result = json_pack("{s:s}", "text", text);
    free(text);
    return 0;
}
