/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of each bridge in which flows, groups, meters and ports' settings outlive the process.
 *
 * It is a log of changes, a line each, in the syntax of ovs-ofctl:
 *
 *     add | mod | mod-strict | del | del-strict FLOW
 *     group-add | group-mod | group-del GROUP
 *     meter-add | meter-mod | meter-del METER
 *     port-config NUMBER CONFIG MASK                  OpenFlow's OFPPC_* bits
 *
 * Whoever carries out a change notes its line; lines are appended together before anybody is told that it was: in one write()
 * before an answer over OpenFlow, which a killed process does not lose, and the disk has it a second later
 * (switch_sync.c); before the answer to a request of the daemon's the disk has it. A last line without an end was being
 * written in a crash, and was never answered: it is cut off. Flows that time out are noted as deleted. When the file has
 * grown to twice what is needed, the keeper is asked for a new one, which gets a line or two for each thing that there is.
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

#define LINES_SPARED 256u          /* a file with fewer is never too long */
#define NEW_ROUNDS_MAX 5u          /* a file that is changed all the time is waited for in the end */
#define NOTED_BYTES_MAX (1u << 20) /* then what is noted is written, asked for or not */

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
};
static_assert(ARRAY_LEN(words) == OF_PORT_CONFIG + 1, "every change has a word");

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

static void write_flow(FILE *out, enum of_change what, const struct flow_spec *f)
{
    fprintf(out, "%s ", words[what]);
    if (what == OF_FLOW_DELETE || what == OF_FLOW_DELETE_STRICT) write_selection(out, f, what == OF_FLOW_DELETE_STRICT);
    else write_whole(out, f, what == OF_FLOW_ADD);
    putc('\n', out);
}

static void write_group(FILE *out, enum of_change what, const struct group_spec *g)
{
    fprintf(out, "%s ", words[what]);
    if (what != OF_GROUP_DELETE) group_format(out, g, &numbers_only);
    else if (g->id == SWITCH_GROUP_ALL) fputs("group_id=all", out);
    else fprintf(out, "group_id=%" PRIu32, g->id);
    putc('\n', out);
}

static void write_meter(FILE *out, enum of_change what, const struct meter_spec *m)
{
    fprintf(out, "%s ", words[what]);
    if (what != OF_METER_DELETE) meter_format(out, m);
    else if (m->id == SWITCH_METER_ALL) fputs("meter=all", out);
    else fprintf(out, "meter=%" PRIu32, m->id);
    putc('\n', out);
}

static void write_port(FILE *out, uint32_t number, uint32_t config, uint32_t mask)
{
    fprintf(out, "%s %" PRIu32 " 0x%" PRIx32 " 0x%" PRIx32 "\n", words[OF_PORT_CONFIG], number, config, mask);
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

/* Of a file that is written now. */
static uint64_t lines_needed(const struct net_bridge *b)
{
    return 3 + (uint64_t)bridge_flow_count(b->bridge) + 2 * (uint64_t)bridge_group_count(b->bridge) +
           bridge_meter_count(b->bridge) + b->port_config_count;
}

static void look_at_length(struct net_bridge *b)
{
    if (b->file_lines > 2 * lines_needed(b) + LINES_SPARED) ask_for_new_file(b);
}

void net_keep_ask_again(struct net_bridge *b)
{
    if (!b->file_asked) return;
    b->file_asked = false;
    ask_for_new_file(b);
}

static int write_file(struct net_bridge *b, int fd, bool sync, uint64_t *lines);

static void append_to_new(struct net_bridge *b, const char *text, size_t bytes, unsigned lines)
{
    b->new_bad = b->new_bad || b->file_behind || write_all(b->new_fd, text, bytes) < 0;
    b->new_dirty = true;
    b->new_lines += lines;
}

/* All of it, or nothing that a reader would see. A file that missed a change gets everything anew behind what it has. */
static int file_append(struct net_bridge *b, const char *text, size_t bytes, unsigned lines, bool sync,
                       struct errmsg *e)
{
    uint64_t wrote = lines;
    off_t end = lseek(b->file_fd, 0, SEEK_END);
    int ret = b->file_behind ? write_file(b, b->file_fd, true, &wrote) : write_all(b->file_fd, text, bytes);
    if (b->new_fd >= 0) append_to_new(b, text, bytes, lines);
    if (ret == 0 && sync && fdatasync(b->file_fd) < 0) ret = -errno;
    if (ret == 0) {
        b->file_lines += wrote;
        b->file_behind = false;
        b->unsynced = !sync;
        look_at_length(b);
        return 0;
    }
    if (end >= 0 && ftruncate(b->file_fd, end) < 0) log_error("bridge %s: its flow file has a torn end", b->name);
    b->file_behind = true;
    ask_for_new_file(b);
    return errmsg_sys(e, -ret, "bridge %s: the flows are changed, but cannot be saved", b->name);
}

/* ---- noting ---- */

/* Where a line is to be written; NULL: nothing is kept, or it cannot be, and all is written anew later. */
static FILE *noting(struct net_bridge *b)
{
    if (b->file_fd < 0) return NULL;
    if (!b->noted) b->noted = open_memstream(&b->noted_text, &b->noted_bytes);
    if (!b->noted) b->file_behind = true;
    else b->noted_lines++;
    return b->noted;
}

static void was_noted(struct net_bridge *b)
{
    struct errmsg e = {""};
    if (ftell(b->noted) > (long)NOTED_BYTES_MAX && net_keep(b, false, &e) < 0)
        log_limited(LOG_LEVEL_ERROR, "%s", e.text);
}

void net_note_flow(struct net_bridge *b, enum of_change what, const struct flow_spec *f)
{
    FILE *out = noting(b);
    if (!out) return;
    write_flow(out, what, f);
    was_noted(b);
}

void net_note_group(struct net_bridge *b, enum of_change what, const struct group_spec *g)
{
    FILE *out = noting(b);
    if (!out) return;
    write_group(out, what, g);
    was_noted(b);
}

void net_note_meter(struct net_bridge *b, enum of_change what, const struct meter_spec *m)
{
    FILE *out = noting(b);
    if (!out) return;
    write_meter(out, what, m);
    was_noted(b);
}

void net_note_port(struct net_bridge *b, uint32_t number, uint32_t config, uint32_t mask)
{
    FILE *out = noting(b);
    if (!out) return;
    write_port(out, number, config, mask);
    was_noted(b);
}

/* The stream is used again: what is written next overwrites. */
int net_keep(struct net_bridge *b, bool sync, struct errmsg *e)
{
    if (b->file_fd < 0 || (!b->noted_lines && !b->file_behind)) return 0;
    bool whole = b->noted && fflush(b->noted) == 0 && !ferror(b->noted);
    if (!whole) b->file_behind = true;
    int ret = file_append(b, b->noted_text, b->noted_bytes, b->noted_lines, sync, e);
    b->noted_lines = 0;
    if (whole) {
        rewind(b->noted);
    } else if (b->noted) {
        fclose(b->noted);
        free(b->noted_text);
        b->noted = NULL;
        b->noted_text = NULL;
    }
    return ret;
}

/* From switch_tick(): a flow's time was over. Not waited for: one that a crash of the host brings back times out again. */
void net_keep_gone(struct net_bridge *b, const struct flow_spec *f, enum flow_gone why)
{
    struct flow_spec one = *f;
    if (why != FLOW_GONE_IDLE && why != FLOW_GONE_HARD) return; /* what made it go is noted */
    one.cookie_mask = 0;
    one.out_port = SWITCH_PORT_ANY;
    one.out_group = SWITCH_GROUP_ANY;
    net_note_flow(b, OF_FLOW_DELETE_STRICT, &one);
}

static void look_at_new_file(struct net_bridge *b);

void net_keep_ticked(struct net_bridge *b)
{
    struct errmsg e = {""};
    if (net_keep(b, false, &e) < 0) log_limited(LOG_LEVEL_ERROR, "%s", e.text);
    look_at_new_file(b);
    if (!b->unsynced) return;
    if (net_sync_soon(b->net->sync, bridge_number(b->bridge), b->file_fd)) b->unsynced = false;
}

/* ---- reading ---- */

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

/* ---- writing it anew ---- */

struct writing {
    FILE *out;
    uint64_t lines;
    unsigned flows, groups, meters;
};

static void save_flow(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    struct writing *w = arg;
    (void)s;
    write_flow(w->out, OF_FLOW_ADD, f);
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
    write_group(w->out, OF_GROUP_ADD, names_groups(g) ? &bare : g);
    w->lines++;
    w->groups++;
}

static void save_group_names(void *arg, const struct group_spec *g, const struct group_stats *s)
{
    struct writing *w = arg;
    (void)s;
    if (!names_groups(g)) return;
    write_group(w->out, OF_GROUP_MODIFY, g);
    w->lines++;
}

static void save_meter(void *arg, const struct meter_spec *m, const struct meter_stats *s)
{
    struct writing *w = arg;
    (void)s;
    write_meter(w->out, OF_METER_ADD, m);
    w->lines++;
    w->meters++;
}

/* Those that list leave out what they have no memory for: a file that lacks it must not take the place of a whole one. */
static bool is_whole(const struct net_bridge *b, const struct writing *w)
{
    return w->flows == bridge_flow_count(b->bridge) && w->groups == bridge_group_count(b->bridge) &&
           w->meters == bridge_meter_count(b->bridge);
}

/* The first lines take away what a new bridge begins with, and what stands before them in the file. */
static void write_state(struct net_bridge *b, struct writing *w, bool behind)
{
    struct flow_spec all;
    struct errmsg e;
    fprintf(w->out, "%s \n", words[OF_FLOW_DELETE]);
    if (behind) fprintf(w->out, "%s group_id=all\n%s meter=all\n", words[OF_GROUP_DELETE], words[OF_METER_DELETE]);
    w->lines = behind ? 3 : 1;
    bridge_group_each(b->bridge, SWITCH_GROUP_ALL, save_group, w);
    bridge_group_each(b->bridge, SWITCH_GROUP_ALL, save_group_names, w);
    bridge_meter_each(b->bridge, SWITCH_METER_ALL, save_meter, w);
    for (unsigned i = 0; i < b->port_config_count; i++, w->lines++)
        write_port(w->out, b->port_configs[i].number, b->port_configs[i].config, UINT32_MAX);
    if (flow_parse(&all, "", FLOW_PARSE_SELECT, &numbers_only, &e) == 0)
        bridge_flow_each(b->bridge, &all, save_flow, w);
}

static int write_file(struct net_bridge *b, int fd, bool sync, uint64_t *lines)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    struct writing w = {.out = copy < 0 ? NULL : fdopen(copy, "w")};
    if (!w.out) {
        if (copy >= 0) close(copy);
        return -ENOMEM;
    }
    write_state(b, &w, lseek(fd, 0, SEEK_END) > 0);
    int ret = fflush(w.out) == 0 && !ferror(w.out) && (!sync || fdatasync(fd) == 0) ? 0 : -(errno ? errno : EIO);
    fclose(w.out);
    if (ret == 0 && !is_whole(b, &w)) ret = -ENOMEM;
    *lines = w.lines;
    return ret;
}

/* ---- its life ---- */

int net_keep_open(struct net_bridge *b, int fd, struct errmsg *e)
{
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
        ret = write_file(b, fd, true, &b->file_lines);
        if (ret < 0) return errmsg_sys(e, -ret, "bridge %s: beginning its flow file", b->name);
    }
    if (ret == 0) look_at_length(b);
    return ret;
}

static void forget_notes(struct net_bridge *b)
{
    if (b->noted) fclose(b->noted);
    free(b->noted_text);
    b->noted = NULL;
    b->noted_text = NULL;
    b->noted_lines = 0;
}

void net_keep_close(struct net_bridge *b)
{
    struct errmsg e = {""};
    if (b->bridge && net_keep(b, false, &e) < 0) log_error("%s", e.text);
    if (b->unsynced) net_sync_soon(b->net->sync, bridge_number(b->bridge), b->file_fd);
    forget_notes(b);
    if (b->file_fd >= 0) close(b->file_fd);
    if (b->new_fd >= 0) close(b->new_fd);
    b->file_fd = b->new_fd = -1;
}

/* The new file takes the place of the one there was. */
static json_t *use_file(struct net_bridge *b, int fd, uint64_t lines)
{
    if (b->file_fd >= 0) close(b->file_fd);
    b->file_fd = fd;
    b->file_behind = b->unsynced = false;
    b->file_lines = lines;
    return json_pack("{s:I}", "flows", (json_int_t)bridge_flow_count(b->bridge));
}

/* Is it on the disk, with all that came to it meanwhile? Then it is used, and who asked for it told. */
static void look_at_new_file(struct net_bridge *b)
{
    const struct net_keeper *k = &b->net->keeper;
    unsigned number = bridge_number(b->bridge);
    int ret = b->new_fd < 0 ? -EINPROGRESS : net_sync_new_file_state(b->net->sync, number);
    if (ret == -EINPROGRESS) return;
    if (ret == 0 && b->new_bad) ret = -EIO;
    if (ret == 0 && b->new_dirty && b->new_rounds++ < NEW_ROUNDS_MAX) {
        b->new_dirty = false;
        ret = net_sync_new_file(b->net->sync, number, b->new_fd);
        if (ret == 0) return;
    }
    if (ret == 0 && b->new_dirty && fdatasync(b->new_fd) < 0) ret = -errno;
    int fd = b->new_fd;
    b->new_fd = -1;
    if (ret < 0) close(fd);
    k->answer(k->arg, b->new_ticket, ret, ret < 0 ? strerror(-ret) : NULL,
              ret < 0 ? NULL : use_file(b, fd, b->new_lines));
}

/* Written at once; the disk is waited for by another thread, if the answer can come later. */
static int new_file(struct net_bridge *b, int fd, struct net_request *r)
{
    uint64_t lines = 0;
    bool later = b->net->keeper.answer && r->ticket;
    int ret = net_keep(b, false, r->e);
    if (ret < 0) return ret;
    if (b->new_fd >= 0) return errmsg_set(r->e, EBUSY, "bridge %s: a new file is being written already", b->name);
    b->file_asked = false;
    ret = write_file(b, fd, !later, &lines);
    if (ret == 0 && later) ret = net_sync_new_file(b->net->sync, bridge_number(b->bridge), fd);
    if (ret < 0) return errmsg_sys(r->e, -ret, "bridge %s: writing its flows", b->name);
    r->deferred = later;
    if (later) {
        b->new_fd = fd;
        b->new_lines = lines;
        b->new_ticket = r->ticket;
        b->new_bad = b->new_dirty = false;
        b->new_rounds = 0;
    } else {
        r->result = use_file(b, fd, lines);
    }
    return 0;
}

int request_flows_file(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret, fd = request_take_fd(r, "flows");
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    if (ret == 0) ret = fields_done(&f, r->e);
    if (ret == 0 && fd < 0) ret = errmsg_set(r->e, EINVAL, "flows: the descriptor is missing");
    if (ret == 0) ret = new_file(b, fd, r);
    if (ret < 0 && fd >= 0) close(fd);
    return ret;
}
