/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of internal snapshots: read to know which clusters their tables occupy. Snapshots are kept
 * as they are; what they share with the disk is copied before it is written.
 *
 * Source: QEMU docs/interop/qcow2, "Snapshots".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/cursor.h"
#include "disk/format/qcow2_image.h"

#define ENTRY_FIXED_BYTES 40u
#define READ_AHEAD_BYTES 65536u

/* A window over the table, which may be large. */
struct window {
    struct engine *engine;
    const struct engine_file *file;
    uint64_t file_bytes;
    uint64_t at;     /* file offset of data[0] */
    uint64_t length; /* valid bytes */
    uint8_t *data;
};

static const uint8_t *window_get(struct window *w, uint64_t offset, uint64_t bytes, int *ret)
{
    if (!range_fits(offset, bytes, w->file_bytes)) {
        *ret = -EINVAL;
        return NULL;
    }
    if (offset < w->at || offset + bytes > w->at + w->length) {
        w->at = align_down(offset, 512);
        *ret = engine_read_now(w->engine, w->file, w->data, w->at, 2 * READ_AHEAD_BYTES);
        w->length = *ret < 0 ? 0 : 2 * READ_AHEAD_BYTES;
        if (*ret < 0) return NULL;
    }
    return w->data + (offset - w->at);
}

struct entry {
    struct qcow2_snapshot s;
    uint16_t id_bytes, name_bytes;
    uint32_t extra_bytes;
};

static void decode_entry(const uint8_t *data, struct entry *out)
{
    struct cursor c = cursor_over(data, ENTRY_FIXED_BYTES);
    memset(out, 0, sizeof *out);
    cursor_be64(&c, &out->s.l1_offset);
    cursor_be32(&c, &out->s.l1_entries);
    cursor_be16(&c, &out->id_bytes);
    cursor_be16(&c, &out->name_bytes);
    cursor_pull(&c, 20);
    cursor_be32(&c, &out->extra_bytes);
}

static int check_entry(const struct window *w, const struct qcow2_header *h, const struct entry *s, uint32_t i,
                       uint64_t at, struct errmsg *e)
{
    uint64_t bytes = (uint64_t)s->s.l1_entries * 8;
    const char *why = NULL;
    if (s->extra_bytes > QCOW2_SNAPSHOT_EXTRA_MAX_BYTES) why = "its extra data is too large";
    else if (bytes > QCOW2_L1_MAX_BYTES) why = "its L1 table is too large";
    else if (s->s.l1_offset & (qcow2_cluster_bytes(h) - 1)) why = "its L1 table is not aligned to a cluster";
    else if (bytes && !s->s.l1_offset) why = "its L1 table would lie over the header";
    else if (!range_fits(s->s.l1_offset, bytes, w->file_bytes)) why = "its L1 table does not end inside the file";
    if (!why) return 0;
    return errmsg_set(e, EINVAL,
                      "%s: at byte %" PRIu64 ": snapshot %" PRIu32 " (L1 table of %" PRIu32 " entries at 0x%" PRIx64
                      "): %s",
                      w->file->name, at, i, s->s.l1_entries, s->s.l1_offset, why);
}

static void take_name(struct qcow2_snapshot *s, const uint8_t *name, uint16_t bytes)
{
    size_t n = min_u64(bytes, sizeof s->name - 1);
    for (size_t i = 0; i < n; i++)
        s->name[i] = name[i] < 0x20 || name[i] > 0x7e ? '?' : (char)name[i];
    s->name[n] = 0;
}

int qcow2_snapshots_read(struct engine *engine, const struct engine_file *file, const struct qcow2_header *h,
                         uint64_t file_bytes, int (*each)(void *arg, const struct qcow2_snapshot *s, struct errmsg *e),
                         void *arg, uint64_t *table_bytes, struct errmsg *e)
{
    *table_bytes = 0;
    if (!h->snapshot_count) return 0;
    autofree uint8_t *data = aligned_alloc(4096, 3 * READ_AHEAD_BYTES);
    if (!data) return errmsg_sys(e, ENOMEM, "%s: reading the snapshot table", file->name);
    struct window w = {.engine = engine, .file = file, .file_bytes = file_bytes, .data = data};
    uint64_t at = h->snapshot_offset;
    for (uint32_t i = 0; i < h->snapshot_count; i++) {
        struct entry s;
        int ret = 0;
        const uint8_t *fixed = window_get(&w, at, ENTRY_FIXED_BYTES, &ret);
        if (!fixed)
            return errmsg_sys(e, -ret, "%s: reading entry %" PRIu32 " of the snapshot table at 0x%" PRIx64, file->name,
                              i, at);
        decode_entry(fixed, &s);
        ret = check_entry(&w, h, &s, i, at, e);
        if (ret < 0) return ret;
        at += ENTRY_FIXED_BYTES + s.extra_bytes + s.id_bytes;
        const uint8_t *name = window_get(&w, at, s.name_bytes, &ret);
        if (!name)
            return errmsg_sys(e, -ret, "%s: reading the name of snapshot %" PRIu32 " at 0x%" PRIx64, file->name, i, at);
        take_name(&s.s, name, s.name_bytes);
        at = align_up(at + s.name_bytes, 8);
        if (at - h->snapshot_offset > QCOW2_SNAPSHOT_TABLE_MAX_BYTES)
            return errmsg_set(e, EFBIG, "%s: the snapshot table is larger than %" PRIu64 " bytes", file->name,
                              QCOW2_SNAPSHOT_TABLE_MAX_BYTES);
        ret = each(arg, &s.s, e);
        if (ret < 0) return ret;
    }
    *table_bytes = at - h->snapshot_offset;
    return 0;
}
