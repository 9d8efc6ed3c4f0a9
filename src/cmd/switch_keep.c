/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When lines come into a bridge's flow file (switch_keep.h).
 *
 * Whoever carries out a change notes its line; lines are appended together before anybody is told that it was: in one
 * write() before an answer over OpenFlow, which a killed process does not lose, and the disk has it a second later
 * (switch_sync.c); before the answer to a request of the daemon's the disk has it. Flows that time out are noted as
 * deleted. When the file has grown to twice what is needed, the daemon is asked for a new one.
 *
 * A file that misses a change gets no more of them: everything is written anew behind what it has, from the tick, with
 * a pause that grows; and the daemon is asked for a new one. Until one of the two succeeds, requests are told that what
 * they changed is not saved.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/switch_net.h"
#include "loop/clock.h"

#define LINES_SPARED 256u          /* a file with fewer is never too long */
#define NOTED_BYTES_MAX (1u << 20) /* then what is noted is written, asked for or not */
#define RETRY_S_MAX 64u

/* ---- one file ---- */

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

static void file_missed(const struct net_bridge *b, struct net_flow_file *f, off_t end, int error)
{
    f->behind = true;
    f->error = error;
    if (end >= 0 && ftruncate(f->fd, end) == 0) return;
    f->torn = true;
    log_error("bridge %s: its flow file has a torn end", b->name);
}

/* All of it, or nothing that a reader would see. text NULL: what it was is not known. */
static void file_append(const struct net_bridge *b, struct net_flow_file *f, const char *text, size_t bytes,
                        unsigned lines)
{
    if (f->fd < 0 || f->behind) return;
    off_t end = lseek(f->fd, 0, SEEK_END);
    int ret = text ? write_all(f->fd, text, bytes) : -ENOMEM;
    if (ret < 0) {
        file_missed(b, f, end, ret);
        return;
    }
    f->lines += lines;
    f->unsynced = true;
}

static void file_catch_up(struct net_bridge *b, struct net_flow_file *f)
{
    uint64_t lines = 0;
    if (f->fd < 0 || !f->behind || f->torn) return;
    off_t end = lseek(f->fd, 0, SEEK_END);
    int ret = flow_log_write_all(b, f->fd, &lines);
    if (ret < 0) {
        file_missed(b, f, end, ret);
        return;
    }
    f->lines += lines;
    f->unsynced = true;
    f->behind = false;
    if (!f->unsure) f->error = 0;
    log_info("bridge %s: its flows are saved again", b->name);
}

static void file_is_unsure(const struct net_bridge *b, struct net_flow_file *f, int error)
{
    if (!f->unsure) log_error("bridge %s: the disk has not taken its flow file: %s", b->name, strerror(-error));
    f->unsure = true;
    f->error = error;
}

static void file_sync(const struct net_bridge *b, struct net_flow_file *f)
{
    if (f->fd < 0 || !f->unsynced) return;
    if (fdatasync(f->fd) < 0) file_is_unsure(b, f, -errno);
    f->unsynced = false;
}

/* By the thread; what came of the last time is asked first. One at a time: an error is told once only. */
static void file_sync_later(struct net_bridge *b, struct net_flow_file *f)
{
    unsigned number = bridge_number(b->bridge);
    int ret = net_sync_result(b->net->sync, number, f->slot);
    if (f->fd < 0 || ret == -EINPROGRESS) return;
    if (ret < 0) file_is_unsure(b, f, ret);
    if (f->unsynced && net_sync_begin(b->net->sync, number, f->slot, f->fd) == 0) f->unsynced = false;
}

/* One that is too long, or cannot be relied on. */
static void look_at_files(struct net_bridge *b)
{
    const struct net_keep *k = &b->keep;
    bool bad = k->file.error || (k->next_ready && k->next.error);
    if (bad || k->file.lines > 2 * flow_log_lines_needed(b) + LINES_SPARED) net_new_file_want(b);
}

/* ---- noting ---- */

/* Where a line is to be written; NULL: nothing is kept, or it cannot be, and all is written anew later. */
static FILE *noting(struct net_bridge *b)
{
    struct net_keep *k = &b->keep;
    if (k->file.fd < 0) return NULL;
    if (!k->noted) k->noted = open_memstream(&k->noted_text, &k->noted_bytes);
    if (!k->noted) k->note_missed = true;
    else k->noted_lines++;
    return k->noted;
}

static void was_noted(struct net_bridge *b)
{
    struct errmsg e = {""};
    if (ftell(b->keep.noted) > (long)NOTED_BYTES_MAX && net_keep(b, false, &e) < 0)
        log_limited(LOG_LEVEL_ERROR, "%s", e.text);
}

void net_note_flow(struct net_bridge *b, enum of_change what, const struct flow_spec *f)
{
    FILE *out = noting(b);
    if (!out) return;
    flow_log_flow(out, what, f);
    was_noted(b);
}

void net_note_group(struct net_bridge *b, enum of_change what, const struct group_spec *g)
{
    FILE *out = noting(b);
    if (!out) return;
    flow_log_group(out, what, g);
    was_noted(b);
}

void net_note_meter(struct net_bridge *b, enum of_change what, const struct meter_spec *m)
{
    FILE *out = noting(b);
    if (!out) return;
    flow_log_meter(out, what, m);
    was_noted(b);
}

void net_note_port(struct net_bridge *b, uint32_t number, uint32_t config, uint32_t mask)
{
    FILE *out = noting(b);
    if (!out) return;
    flow_log_port(out, number, config, mask);
    was_noted(b);
}

void net_note_table(struct net_bridge *b, unsigned table, uint32_t config)
{
    FILE *out = noting(b);
    if (!out) return;
    flow_log_table(out, table, config);
    was_noted(b);
}

static void forget_notes(struct net_keep *k)
{
    if (k->noted) fclose(k->noted);
    free(k->noted_text);
    k->noted = NULL;
    k->noted_text = NULL;
    k->noted_lines = 0;
    k->note_missed = false;
}

/* To both files: switch_keep.h. The stream is used again: what is written next overwrites. */
static void append_notes(struct net_bridge *b)
{
    struct net_keep *k = &b->keep;
    bool whole = k->noted && fflush(k->noted) == 0 && !ferror(k->noted) && !k->note_missed;
    const char *text = whole ? k->noted_text : NULL;
    file_append(b, &k->file, text, k->noted_bytes, k->noted_lines);
    file_append(b, &k->next, text, k->noted_bytes, k->noted_lines);
    if (whole) rewind(k->noted);
    else forget_notes(k);
    k->noted_lines = 0;
}

int net_keep(struct net_bridge *b, bool sync, struct errmsg *e)
{
    struct net_keep *k = &b->keep;
    bool noted = k->noted_lines || k->note_missed;
    if (k->file.fd < 0 || (!noted && !sync)) return 0;
    if (noted) append_notes(b);
    if (sync) file_sync(b, &k->file);
    if (sync && k->next_ready) file_sync(b, &k->next);
    int ret = k->file.error;
    if (ret == 0 && k->next_ready) ret = k->next.error;
    look_at_files(b);
    return ret < 0 ? errmsg_sys(e, -ret, "bridge %s: the flows are changed, but cannot be saved", b->name) : 0;
}

/* From switch_tick(): its time was over. Not waited for: a flow that a crash of the host brings back times out again. */
void net_keep_gone(struct net_bridge *b, const struct flow_spec *f, enum flow_gone why)
{
    struct flow_spec one = *f;
    if (why != FLOW_GONE_IDLE && why != FLOW_GONE_HARD) return; /* what made it go is noted */
    one.cookie_mask = 0;
    one.out_port = SWITCH_PORT_ANY;
    one.out_group = SWITCH_GROUP_ANY;
    net_note_flow(b, OF_FLOW_DELETE_STRICT, &one);
}

/* ---- time ---- */

static void retry(struct net_bridge *b, uint64_t now_ns)
{
    struct net_keep *k = &b->keep;
    bool behind = k->file.behind || (k->next_ready && k->next.behind);
    bool unasked = k->new_wanted && !k->new_asked && k->next.fd < 0;
    if (now_ns < k->retry_ns) return;
    if (!behind && !k->new_wanted) k->retry_s = 0;
    if (!behind && !unasked) return;
    k->retry_s = !k->retry_s ? 1 : 2 * k->retry_s < RETRY_S_MAX ? 2 * k->retry_s : RETRY_S_MAX;
    k->retry_ns = now_ns + k->retry_s * NS_PER_SECOND;
    file_catch_up(b, &k->file);
    if (k->next_ready) file_catch_up(b, &k->next);
    net_new_file_ask(b);
}

void net_keep_ticked(struct net_bridge *b, uint64_t now_ns)
{
    struct net_keep *k = &b->keep;
    struct errmsg e = {""};
    if (k->file.fd < 0) return;
    if (net_keep(b, false, &e) < 0) log_limited(LOG_LEVEL_ERROR, "%s", e.text);
    net_new_file_ticked(b);
    retry(b, now_ns);
    file_sync_later(b, &k->file);
    if (k->next_ready) file_sync_later(b, &k->next);
    look_at_files(b);
}

/* ---- its life ---- */

int net_keep_open(struct net_bridge *b, int fd, struct errmsg *e)
{
    struct net_flow_file *f = &b->keep.file;
    f->fd = fd;
    if (fd < 0) return 0;
    for (unsigned slot = 0; slot < NET_SYNC_SLOTS; slot++) /* another bridge had this number before */
        net_sync_forget(b->net->sync, bridge_number(b->bridge), slot);
    int ret = flow_log_replay(b, fd, &f->lines, e);
    if (ret == 0 && f->lines == 0) {
        ret = flow_log_write_all(b, fd, &f->lines);
        if (ret == 0 && fdatasync(fd) < 0) ret = -errno;
        if (ret < 0) return errmsg_sys(e, -ret, "bridge %s: beginning its flow file", b->name);
    }
    if (ret == 0) look_at_files(b);
    return ret;
}

void net_keep_close(struct net_bridge *b)
{
    struct net_keep *k = &b->keep;
    struct errmsg e = {""};
    if (k->file.fd >= 0) {
        if (net_keep(b, false, &e) < 0) log_error("%s", e.text);
        file_catch_up(b, &k->file);
        if (k->next_ready) file_catch_up(b, &k->next);
        if (k->file.unsynced) net_sync_begin(b->net->sync, bridge_number(b->bridge), k->file.slot, k->file.fd);
        net_new_file_close(b);
        close(k->file.fd);
        k->file.fd = -1;
    }
    forget_notes(k);
}
