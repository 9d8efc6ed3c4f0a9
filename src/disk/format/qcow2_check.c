/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checking a whole image: count how often each host cluster is referred to, from the header down, and
 * compare with what the refcounts say.
 *
 *   tables    header, L1 tables (active and of snapshots), L2 tables, snapshot table, refcount table and
 *             blocks, consistent bitmaps: where they lie, and that they do not overlap
 *   data      entries of all L2 tables
 *   refcounts too low is an error (data can be overwritten), too high a leak (space is lost)
 *   flags     COPIED in the active tables must be set exactly where the refcount is 1
 *
 * A cluster that is referred to twice counts 2; with that refcount it is shared, which is safe.
 */
#include "disk/format/qcow2_check_impl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cursor.h"
#include "disk/format/qcow2_refbits.h"

void qcow2_check_say(struct qcow2_check_state *s, const char *format, ...)
{
    char text[512];
    if (!s->args->finding || s->findings++ > QCOW2_CHECK_FINDINGS_MAX) return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    s->args->finding(s->args->finding_arg, s->findings > QCOW2_CHECK_FINDINGS_MAX ? "... and more" : text);
}

int qcow2_check_read(struct qcow2_check_state *s, void *buf, uint64_t offset, uint64_t bytes, const char *what)
{
    int ret = engine_read_now(s->engine, s->file, buf, offset, bytes);
    if (ret < 0) return errmsg_sys(s->e, -ret, "%s: reading %s at 0x%" PRIx64, s->file->name, what, offset);
    return 0;
}

int qcow2_check_write(struct qcow2_check_state *s, const void *buf, uint64_t offset, uint64_t bytes, const char *what)
{
    int ret = engine_write_now(s->engine, s->file, buf, offset, bytes);
    if (ret < 0) return errmsg_sys(s->e, -ret, "%s: writing %s at 0x%" PRIx64, s->file->name, what, offset);
    return 0;
}

static void error_found(struct qcow2_check_state *s)
{
    s->out->errors++;
}

/* An error that would need data which nobody has. */
#define BAD_ENTRY(s, ...)                                                                                              \
    do {                                                                                                               \
        qcow2_check_say(s, __VA_ARGS__);                                                                               \
        error_found(s);                                                                                                \
        (s)->bad_entries++;                                                                                            \
    } while (0)

static void count_clusters(struct qcow2_check_state *s, uint64_t first, uint64_t count)
{
    for (uint64_t cluster = first; cluster < first + count && cluster < s->counted_max; cluster++)
        if (s->counts[cluster] != UINT32_MAX) s->counts[cluster]++;
    s->counted_end = max_u64(s->counted_end, min_u64(first + count, s->counted_max));
}

static void step(struct qcow2_check_state *s)
{
    if (s->args->progress) s->args->progress(s->args->progress_arg, ++s->progress, s->progress_total);
}

/* ---- tables ---- */

static int claim_table(struct qcow2_check_state *s, uint64_t offset, uint64_t bytes, enum qcow2_meta_type type)
{
    enum qcow2_meta_type other;
    uint64_t first = offset >> s->cluster_bits, count = div_round_up(bytes, s->cluster_bytes);
    if (!count) return 0;
    count_clusters(s, first, count);
    int ret = qcow2_meta_add(&s->meta, first, count, type, &other);
    if (ret == -EEXIST && other == QCOW2_META_L2 && type == QCOW2_META_L2) return 0; /* shared with a snapshot */
    if (ret == -EEXIST)
        BAD_ENTRY(s, "%s at 0x%" PRIx64 " overlaps %s", qcow2_meta_name(type), offset, qcow2_meta_name(other));
    else if (ret < 0) return errmsg_sys(s->e, -ret, "%s: the list of its tables", s->file->name);
    return 0;
}

/* Where an entry of a table of tables points to; 0: nowhere good. */
static uint64_t table_at(struct qcow2_check_state *s, uint64_t entry, uint64_t flags, uint64_t reserved,
                         const char *what, uint64_t i)
{
    uint64_t offset = entry & ~(flags | reserved);
    const char *why = NULL;
    if (!entry) return 0;
    if (entry & reserved) why = "has reserved bits set";
    else if (!offset) why = "has a flag but no offset";
    else if (offset & (s->cluster_bytes - 1)) why = "is not aligned to a cluster";
    else if (offset >> s->cluster_bits >= s->file_clusters) why = "points past the end of the file";
    if (!why) return offset;
    BAD_ENTRY(s, "%s entry %" PRIu64 " (0x%016" PRIx64 ") %s", what, i, entry, why);
    return 0;
}

struct l1 {
    uint64_t offset;
    uint32_t entries;
    bool active;
    uint64_t *entry; /* host order */
};

static int l1_load(struct qcow2_check_state *s, struct l1 *l)
{
    uint64_t bytes = align_up((uint64_t)l->entries * 8, 4096);
    l->entry = aligned_alloc(4096, max_u64(bytes, 4096));
    if (!l->entry) return errmsg_sys(s->e, ENOMEM, "%s: an L1 table of %" PRIu64 " bytes", s->file->name, bytes);
    int ret = bytes ? qcow2_check_read(s, l->entry, l->offset, bytes, "an L1 table") : 0;
    for (uint32_t i = 0; i < l->entries && ret == 0; i++)
        l->entry[i] = be64_get(((struct be64 *)l->entry)[i]);
    return ret;
}

static int claim_l1(struct qcow2_check_state *s, const struct l1 *l)
{
    int ret = claim_table(s, l->offset, (uint64_t)l->entries * 8, l->active ? QCOW2_META_L1 : QCOW2_META_SNAPSHOT_L1);
    for (uint32_t i = 0; i < l->entries && ret == 0; i++) {
        uint64_t offset =
            table_at(s, l->entry[i], QCOW2_COPIED, QCOW2_L1_RESERVED, l->active ? "L1" : "a snapshot's L1", i);
        if (offset) ret = claim_table(s, offset, 1, QCOW2_META_L2);
    }
    s->progress_total += l->entries;
    return ret;
}

/* ---- data ---- */

static void check_compressed(struct qcow2_check_state *s, uint64_t entry, uint64_t guest)
{
    struct qcow2 geometry = {.cluster_bits = s->cluster_bits};
    uint64_t offset, bytes;
    qcow2_compressed_range(&geometry, entry, &offset, &bytes);
    uint64_t first = offset >> s->cluster_bits, last = (offset + bytes - 1) >> s->cluster_bits;
    s->out->compressed_clusters++;
    if (entry & QCOW2_COPIED)
        BAD_ENTRY(s, "guest offset 0x%" PRIx64 ": a compressed cluster has the COPIED flag", guest);
    else if (offset >= QCOW2_DATA_OFFSET_LIMIT || offset >= s->file_bytes)
        BAD_ENTRY(s, "guest offset 0x%" PRIx64 ": compressed data at 0x%" PRIx64 " is past the end of the file", guest,
                  offset);
    else if (qcow2_meta_find(&s->meta, first, last - first + 1) <= last)
        BAD_ENTRY(s, "guest offset 0x%" PRIx64 ": compressed data at 0x%" PRIx64 " overlaps the image's tables", guest,
                  offset);
    else count_clusters(s, first, last - first + 1);
}

static void check_standard(struct qcow2_check_state *s, uint64_t entry, uint64_t guest)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    const char *why = NULL;
    if (entry & QCOW2_L2_RESERVED) why = "has reserved bits set";
    else if ((entry & QCOW2_ZERO) && s->h.version < 3) why = "has the zero flag in a version 2 image";
    else if (!offset && (entry & QCOW2_COPIED)) why = "has the COPIED flag without a host cluster";
    else if (offset & (s->cluster_bytes - 1)) why = "is not aligned to a cluster";
    else if (offset >> s->cluster_bits >= s->file_clusters) why = "points past the end of the file";
    else if (offset && qcow2_meta_at(&s->meta, offset >> s->cluster_bits)) why = "points into the image's tables";
    if (why) BAD_ENTRY(s, "guest offset 0x%" PRIx64 ": the L2 entry 0x%016" PRIx64 " %s", guest, entry, why);
    else if (offset) count_clusters(s, offset >> s->cluster_bits, 1);
}

/* Allocation statistics are of what the guest sees now. */
static void count_allocation(struct qcow2_check_state *s, uint64_t entry, uint64_t *next_offset)
{
    s->out->allocated_clusters++;
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    if (!(entry & QCOW2_COMPRESSED)) {
        if (*next_offset && offset != *next_offset) s->out->fragmented_clusters++;
        *next_offset = offset + s->cluster_bytes;
    }
}

static int check_l2(struct qcow2_check_state *s, const struct l1 *l, uint32_t i, struct be64 *buf,
                    uint64_t *next_offset)
{
    uint64_t offset = l->entry[i] & QCOW2_OFFSET_MASK, per_table = s->cluster_bytes / 8;
    int ret = qcow2_check_read(s, buf, offset, s->cluster_bytes, "an L2 table");
    for (uint64_t j = 0; j < per_table && ret == 0; j++) {
        uint64_t entry = be64_get(buf[j]), guest = (i * per_table + j) << s->cluster_bits;
        if (!entry) continue;
        if (l->active && (entry & (QCOW2_COMPRESSED | QCOW2_OFFSET_MASK))) count_allocation(s, entry, next_offset);
        if (entry & QCOW2_COMPRESSED) check_compressed(s, entry, guest);
        else check_standard(s, entry, guest);
    }
    return ret;
}

static bool l2_is_good(const struct qcow2_check_state *s, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    return offset && !(entry & QCOW2_L1_RESERVED) && !(offset & (s->cluster_bytes - 1)) &&
           qcow2_meta_at(&s->meta, offset >> s->cluster_bits) == QCOW2_META_L2;
}

static int check_l1(struct qcow2_check_state *s, const struct l1 *l)
{
    uint64_t next_offset = 0;
    autofree struct be64 *buf = aligned_alloc(4096, align_up(s->cluster_bytes, 4096));
    if (!buf) return errmsg_sys(s->e, ENOMEM, "%s: an L2 table", s->file->name);
    struct qcow2_meta seen = {0};
    int ret = 0;
    for (uint32_t i = 0; i < l->entries && ret == 0; i++, step(s)) {
        enum qcow2_meta_type other;
        if (!l2_is_good(s, l->entry[i])) continue;
        ret = qcow2_meta_add(&seen, (l->entry[i] & QCOW2_OFFSET_MASK) >> s->cluster_bits, 1, QCOW2_META_L2, &other);
        if (ret == 0) ret = check_l2(s, l, i, buf, &next_offset);
        if (ret != -EEXIST) continue;
        BAD_ENTRY(s, "L1 entry %" PRIu32 " refers to the same L2 table (0x%" PRIx64 ") as another entry", i,
                  l->entry[i] & QCOW2_OFFSET_MASK);
        ret = 0;
    }
    qcow2_meta_free(&seen);
    return ret;
}

/* ---- snapshots: the same over every L1 table, first for tables, then for data ---- */

struct snapshots {
    struct qcow2_check_state *s;
    int (*visit)(struct qcow2_check_state *s, const struct l1 *l);
};

static int visit_snapshot(void *arg, const struct qcow2_snapshot *snap, struct errmsg *e)
{
    struct snapshots *v = arg;
    struct l1 l = {.offset = snap->l1_offset, .entries = snap->l1_entries};
    (void)e;
    int ret = l1_load(v->s, &l);
    if (ret == 0) ret = v->visit(v->s, &l);
    free(l.entry);
    return ret;
}

static int visit_all(struct qcow2_check_state *s, int (*visit)(struct qcow2_check_state *s, const struct l1 *l),
                     uint64_t *snapshot_table_bytes)
{
    struct l1 l = {.offset = s->h.l1_offset, .entries = s->h.l1_entries, .active = true};
    int ret = l1_load(s, &l);
    if (ret == 0) ret = visit(s, &l);
    free(l.entry);
    struct snapshots v = {s, visit};
    if (ret < 0) return ret;
    return qcow2_snapshots_read(s->engine, s->file, &s->h, s->file_bytes, visit_snapshot, &v, snapshot_table_bytes,
                                s->e);
}

/* ---- bitmaps: kept as they are, but their clusters are in use ---- */

static int claim_bitmap(struct qcow2_check_state *s, uint64_t offset, uint32_t entries)
{
    uint64_t bytes = (uint64_t)entries * 8;
    if ((offset & (s->cluster_bytes - 1)) || !range_fits(offset, bytes, s->file_bytes) || bytes > QCOW2_L1_MAX_BYTES) {
        BAD_ENTRY(s, "a bitmap's table at 0x%" PRIx64 " of %" PRIu64 " bytes is not inside the file", offset, bytes);
        return 0;
    }
    int ret = claim_table(s, offset, bytes, QCOW2_META_BITMAPS);
    struct l1 l = {.offset = offset, .entries = entries};
    if (ret == 0) ret = l1_load(s, &l);
    for (uint32_t i = 0; i < entries && ret == 0; i++) {
        uint64_t at = l.entry[i] & QCOW2_OFFSET_MASK;
        if (at) ret = claim_table(s, at, 1, QCOW2_META_BITMAPS);
    }
    free(l.entry);
    return ret;
}

static int claim_bitmaps(struct qcow2_check_state *s)
{
    const struct qcow2_header *h = &s->h;
    if (!h->has_bitmaps || !(h->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) return 0;
    if ((h->bitmap_dir_offset & (s->cluster_bytes - 1)) || h->bitmap_dir_bytes > QCOW2_SNAPSHOT_TABLE_MAX_BYTES ||
        !range_fits(h->bitmap_dir_offset, h->bitmap_dir_bytes, s->file_bytes)) {
        BAD_ENTRY(s, "the bitmap directory at 0x%" PRIx64 " of %" PRIu64 " bytes is not inside the file",
                  h->bitmap_dir_offset, h->bitmap_dir_bytes);
        return 0;
    }
    uint64_t bytes = align_up(h->bitmap_dir_bytes, 4096);
    autofree uint8_t *dir = aligned_alloc(4096, max_u64(bytes, 4096));
    if (!dir) return errmsg_sys(s->e, ENOMEM, "%s: the bitmap directory", s->file->name);
    int ret = qcow2_check_read(s, dir, h->bitmap_dir_offset, bytes, "the bitmap directory");
    if (ret == 0) ret = claim_table(s, h->bitmap_dir_offset, h->bitmap_dir_bytes, QCOW2_META_BITMAPS);
    struct cursor c = cursor_over(dir, h->bitmap_dir_bytes);
    for (uint32_t i = 0; i < h->bitmap_count && ret == 0; i++) {
        uint64_t offset;
        uint32_t entries, extra;
        uint16_t name;
        bool whole = cursor_be64(&c, &offset) && cursor_be32(&c, &entries) && cursor_pull(&c, 6) &&
                     cursor_be16(&c, &name) && cursor_be32(&c, &extra) &&
                     cursor_pull(&c, align_up((uint64_t)name + extra, 8));
        if (!whole) {
            BAD_ENTRY(s, "the bitmap directory ends inside entry %" PRIu32, i);
            break;
        }
        ret = claim_bitmap(s, offset, entries);
    }
    return ret;
}

/* ---- refcounts ---- */

static int load_reftable(struct qcow2_check_state *s)
{
    uint64_t bytes = (uint64_t)s->h.reftable_clusters << s->cluster_bits;
    s->table_entries = bytes / 8;
    s->table = aligned_alloc(4096, align_up(bytes, 4096));
    if (!s->table) return errmsg_sys(s->e, ENOMEM, "%s: the refcount table", s->file->name);
    int ret = qcow2_check_read(s, s->table, s->h.reftable_offset, bytes, "the refcount table");
    for (uint64_t i = 0; i < s->table_entries && ret == 0; i++)
        s->table[i] = be64_get(((struct be64 *)s->table)[i]);
    return ret;
}

static int claim_refcounts(struct qcow2_check_state *s)
{
    int ret =
        claim_table(s, s->h.reftable_offset, (uint64_t)s->h.reftable_clusters << s->cluster_bits, QCOW2_META_REFTABLE);
    for (uint64_t i = 0; i < s->table_entries && ret == 0; i++) {
        uint64_t before = s->bad_entries;
        uint64_t offset = table_at(s, s->table[i], 0, QCOW2_REFTABLE_RESERVED, "refcount table", i);
        if (offset) ret = claim_table(s, offset, 1, QCOW2_META_REFBLOCK);
        if (s->bad_entries == before) continue;
        if (offset && s->counts[offset >> s->cluster_bits]) s->counts[offset >> s->cluster_bits]--;
        s->table[i] = 0;
        s->must_rebuild = true; /* which does help */
        s->bad_entries = before;
    }
    return ret;
}

/* One refcount; true when it was changed. */
static bool compare_one(struct qcow2_check_state *s, uint8_t *block, uint64_t i, uint64_t cluster, bool fix_low,
                        bool fix_high)
{
    unsigned order = s->h.refcount_order;
    uint64_t stored = qcow2_ref_get(block, order, i), counted = qcow2_check_count(s, cluster);
    if (stored == counted) return false;
    if (stored < counted) s->wrong_low++;
    else s->wrong_high++;
    bool fix = stored < counted ? fix_low : fix_high;
    if (fix) {
        bool fits = counted <= qcow2_ref_max(order);
        if (fits) qcow2_ref_set(block, order, i, counted);
        else s->bad_entries++; /* a reference too many, and which one nobody knows */
        return fits;
    }
    qcow2_check_say(
        s, "host cluster %" PRIu64 ": the refcount is %" PRIu64 ", but %" PRIu64 " reference(s) were found: %s",
        cluster, stored, counted, stored < counted ? "an error" : "a leak");
    return false;
}

static int check_block(struct qcow2_check_state *s, uint64_t region, uint8_t *block, bool fix_low, bool fix_high)
{
    uint64_t refs = s->cluster_bytes * 8 >> s->h.refcount_order;
    uint64_t first = region * refs;
    bool changed = false;
    if (!s->table[region]) {
        for (uint64_t cluster = first; cluster < first + refs && cluster < s->counted_end; cluster++) {
            if (!s->counts[cluster]) continue;
            s->wrong_low++;
            s->must_rebuild = true;
            qcow2_check_say(s, "host cluster %" PRIu64 " is in use and has no refcount", cluster);
        }
        return 0;
    }
    int ret = qcow2_check_read(s, block, s->table[region], s->cluster_bytes, "a refcount block");
    if (ret < 0) return ret;
    for (uint64_t i = 0; i < refs; i++)
        changed |= compare_one(s, block, i, first + i, fix_low, fix_high);
    return changed ? qcow2_check_write(s, block, s->table[region], s->cluster_bytes, "a refcount block") : 0;
}

int qcow2_check_refcounts(struct qcow2_check_state *s, bool fix_low, bool fix_high)
{
    uint64_t refs = s->cluster_bytes * 8 >> s->h.refcount_order;
    autofree uint8_t *block = aligned_alloc(4096, align_up(s->cluster_bytes, 4096));
    if (!block) return errmsg_sys(s->e, ENOMEM, "%s: a refcount block", s->file->name);
    s->wrong_low = s->wrong_high = 0;
    int ret = 0;
    for (uint64_t region = 0; region < s->table_entries && ret == 0; region++) {
        ret = check_block(s, region, block, fix_low, fix_high);
        step(s);
    }
    for (uint64_t cluster = s->table_entries * refs; cluster < s->counted_end; cluster++) {
        if (!s->counts[cluster]) continue;
        s->wrong_low++;
        s->must_rebuild = true;
    }
    return ret;
}

/* ---- COPIED flags ---- */

static bool flag_is_wrong(struct qcow2_check_state *s, uint64_t entry, uint64_t *right)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    *right = entry;
    if (!offset || (entry & QCOW2_COMPRESSED) || (offset & (s->cluster_bytes - 1))) return false;
    if (offset >> s->cluster_bits >= s->file_clusters) return false;
    bool ours = qcow2_check_count(s, offset >> s->cluster_bits) == 1;
    *right = ours ? entry | QCOW2_COPIED : entry & ~QCOW2_COPIED;
    return *right != entry;
}

static int check_l2_flags(struct qcow2_check_state *s, uint64_t table, uint64_t l1_index, struct be64 *buf, bool fix)
{
    uint64_t per_table = s->cluster_bytes / 8, wrong = 0;
    int ret = qcow2_check_read(s, buf, table, s->cluster_bytes, "an L2 table");
    for (uint64_t j = 0; j < per_table && ret == 0; j++) {
        uint64_t right;
        if (!flag_is_wrong(s, be64_get(buf[j]), &right)) continue;
        wrong++;
        if (!fix)
            qcow2_check_say(s, "guest offset 0x%" PRIx64 ": the L2 entry 0x%016" PRIx64 " has the COPIED flag wrong",
                            (l1_index * per_table + j) << s->cluster_bits, be64_get(buf[j]));
        buf[j] = be64_make(right);
    }
    s->wrong_flags += wrong;
    return ret == 0 && wrong && fix ? qcow2_check_write(s, buf, table, s->cluster_bytes, "an L2 table") : ret;
}

int qcow2_check_flags(struct qcow2_check_state *s, bool fix)
{
    struct l1 l = {.offset = s->h.l1_offset, .entries = s->h.l1_entries, .active = true};
    autofree struct be64 *buf = aligned_alloc(4096, align_up(s->cluster_bytes, 4096));
    if (!buf) return errmsg_sys(s->e, ENOMEM, "%s: an L2 table", s->file->name);
    int ret = l1_load(s, &l);
    uint64_t l1_wrong = 0;
    s->wrong_flags = 0;
    for (uint32_t i = 0; i < l.entries && ret == 0; i++) {
        uint64_t right;
        if (!l2_is_good(s, l.entry[i])) continue;
        if (flag_is_wrong(s, l.entry[i], &right)) {
            l1_wrong++;
            if (!fix)
                qcow2_check_say(s, "L1 entry %" PRIu32 " (0x%016" PRIx64 ") has the COPIED flag wrong", i, l.entry[i]);
        }
        l.entry[i] = right;
        /* A table that a snapshot shares is not ours to change: its entries' flags mean nothing then. */
        if (right & QCOW2_COPIED) ret = check_l2_flags(s, right & QCOW2_OFFSET_MASK, i, buf, fix);
    }
    s->wrong_flags += l1_wrong;
    if (ret == 0 && l1_wrong && fix) {
        for (uint32_t i = 0; i < l.entries; i++)
            ((struct be64 *)l.entry)[i] = be64_make(l.entry[i]);
        uint64_t bytes = align_up((uint64_t)l.entries * 8, max_u64(512, s->file->io_align));
        ret = qcow2_check_write(s, l.entry, l.offset, bytes, "the L1 table");
    }
    free(l.entry);
    return ret;
}

/* ---- the whole ---- */

static int count_all(struct qcow2_check_state *s)
{
    uint64_t table_bytes = 0;
    int ret = claim_table(s, 0, 1, QCOW2_META_HEADER);
    if (ret == 0) ret = visit_all(s, claim_l1, &table_bytes);
    if (ret == 0) ret = claim_table(s, s->h.snapshot_offset, table_bytes, QCOW2_META_SNAPSHOTS);
    if (ret == 0) ret = claim_bitmaps(s);
    if (ret == 0) ret = load_reftable(s);
    if (ret == 0) ret = claim_refcounts(s);
    s->progress_total += s->table_entries;
    return ret < 0 ? ret : visit_all(s, check_l1, &table_bytes);
}

static int prepare(struct qcow2_check_state *s)
{
    struct stat st;
    struct engine_file now = *s->file;
    if (!s->file->block_device && fstat(s->file->fd, &st) == 0) now.size_bytes = (uint64_t)st.st_size;
    int ret = qcow2_header_read(s->engine, &now, &s->h, s->e);
    if (ret < 0) return ret;
    s->cluster_bits = s->h.cluster_bits;
    s->cluster_bytes = qcow2_cluster_bytes(&s->h);
    s->file_bytes = now.size_bytes;
    s->file_clusters = div_round_up(s->file_bytes, s->cluster_bytes);
    s->counted_max = s->file_clusters + 2; /* compressed data may name a sector or two past the end */
    void *p = mmap(NULL, s->counted_max * sizeof *s->counts, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return errmsg_sys(s->e, errno, "%s: counting %" PRIu64 " clusters", s->file->name, s->file_clusters);
    s->counts = p;
    s->out->total_clusters = div_round_up(s->h.size_bytes, s->cluster_bytes);
    return 0;
}

static int clear_bits(struct qcow2_check_state *s)
{
    uint64_t bits = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
    int ret = engine_op_now(s->engine, s->file, ENGINE_SYNC, 0, 0);
    if (ret == 0 && (s->h.incompatible & bits)) {
        s->h.incompatible &= ~bits;
        ret = qcow2_header_update(s->engine, s->file, &s->h);
        if (ret == 0) ret = engine_op_now(s->engine, s->file, ENGINE_SYNC, 0, 0);
    }
    return ret < 0 ? errmsg_sys(s->e, -ret, "%s: making the repair durable", s->file->name) : 0;
}

static int repair(struct qcow2_check_state *s)
{
    struct qcow2_check_result *out = s->out;
    uint64_t low = s->wrong_low, high = s->wrong_high, flags = s->wrong_flags;
    int ret;
    if (s->must_rebuild && !s->args->repair_all) return 0; /* a leak can't be told from the rest */
    ret = s->must_rebuild ? qcow2_repair_rebuild(s) : qcow2_check_refcounts(s, s->args->repair_all, true);
    if (ret == 0 && s->args->repair_all) ret = qcow2_check_flags(s, true);
    if (ret < 0) return ret;
    out->leaks_fixed = high;
    if (s->args->repair_all) out->errors_fixed = out->errors - s->bad_entries;
    (void)low, (void)flags;
    if (out->errors == out->errors_fixed && s->args->repair_all) return clear_bits(s);
    ret = engine_op_now(s->engine, s->file, ENGINE_SYNC, 0, 0);
    return ret < 0 ? errmsg_sys(s->e, -ret, "%s: making the repair durable", s->file->name) : 0;
}

static int check_and_repair(struct qcow2_check_state *s)
{
    int ret = prepare(s);
    if (ret == 0) ret = count_all(s);
    if (ret == 0) ret = qcow2_check_refcounts(s, false, false);
    if (ret == 0) ret = qcow2_check_flags(s, false);
    if (ret < 0) return ret;
    s->out->errors += s->wrong_low + s->wrong_flags;
    s->out->leaks += s->wrong_high;
    s->out->end_bytes = s->counted_end << s->cluster_bits;
    bool broken =
        s->out->errors || s->out->leaks || (s->h.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT));
    return broken && (s->args->repair_leaks || s->args->repair_all) ? repair(s) : 0;
}

int qcow2_check(struct engine *engine, const struct engine_file *file, const struct qcow2_check_args *args,
                struct qcow2_check_result *out, struct errmsg *e)
{
    struct qcow2_check_state s = {.engine = engine, .file = file, .args = args, .out = out, .e = e};
    memset(out, 0, sizeof *out);
    int ret = check_and_repair(&s);
    if (s.counts) munmap((void *)s.counts, s.counted_max * sizeof *s.counts);
    qcow2_meta_free(&s.meta);
    free(s.table);
    return ret;
}

int qcow2_rebuild_refcounts(struct engine *engine, const struct engine_file *file, struct errmsg *e)
{
    struct qcow2_check_args args = {.repair_leaks = true, .repair_all = true};
    struct qcow2_check_result r;
    int ret = qcow2_check(engine, file, &args, &r, e);
    if (ret < 0 || r.errors == r.errors_fixed) return ret;
    return errmsg_set(e, EIO, "%s: %" PRIu64 " errors cannot be repaired: check the image", file->name,
                      r.errors - r.errors_fixed);
}
