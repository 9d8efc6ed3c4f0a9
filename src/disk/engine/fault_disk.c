/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/engine/fault_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/iov.h"
#include "disk/engine/fault.h"

#define BUCKETS 4096u

struct sector {
    struct list node; /* bucket */
    uint64_t number;
    unsigned uses; /* by writes of the list */
    uint8_t stable[FAULT_SECTOR_BYTES];
    uint8_t outcome[FAULT_SECTOR_BYTES];
};

struct fault_write {
    struct list node;
    uint64_t sequence;  /* of the request; one request may be several runs */
    uint64_t done_tick; /* 0: not complete */
    bool zeroes;        /* PUNCH, ZERO or DISCARD: no data, and never makes the file longer */
    uint64_t offset_bytes, length_bytes;
    uint8_t data[]; /* nothing when it zeroes */
};

uint64_t fault_random(uint64_t seed, uint64_t n)
{
    uint64_t x = seed + n * UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* ---- Sectors ---- */

static struct list *bucket_of(const struct fault_disk *d, uint64_t number)
{
    return &d->buckets[fault_random(0, number) % BUCKETS];
}

static struct sector *sector_find(const struct fault_disk *d, uint64_t number)
{
    struct list *bucket = bucket_of(d, number);
    LIST_FOR_EACH (node, bucket) {
        struct sector *s = list_entry(node, struct sector, node);
        if (s->number == number) return s;
    }
    return NULL;
}

static void sector_drop(struct fault_disk *d, uint64_t number)
{
    struct sector *s = sector_find(d, number);
    if (!s || --s->uses > 0) return;
    list_remove(&s->node);
    free(s);
}

static uint64_t first_sector(const struct fault_write *w)
{
    return w->offset_bytes / FAULT_SECTOR_BYTES;
}

static uint64_t end_sector(const struct fault_write *w)
{
    return div_round_up(w->offset_bytes + w->length_bytes, FAULT_SECTOR_BYTES);
}

/* One more use of the sector; what the file holds there is its stable content if this is the first. */
static int sector_use(struct fault_disk *d, uint64_t number)
{
    struct sector *s = sector_find(d, number);
    if (s) {
        s->uses++;
        return 0;
    }
    s = calloc(1, sizeof *s);
    if (!s) return -ENOMEM;
    if (pread(d->fd, s->stable, sizeof s->stable, (off_t)(number * FAULT_SECTOR_BYTES)) < 0) {
        free(s);
        return -errno;
    }
    s->number = number;
    s->uses = 1;
    list_push_back(bucket_of(d, number), &s->node);
    return 0;
}

/* Put what the write says of this sector into its content. */
static void overlay(const struct fault_write *w, uint64_t number, uint8_t *content)
{
    uint64_t start = number * FAULT_SECTOR_BYTES;
    uint64_t from = max_u64(start, w->offset_bytes);
    uint64_t to = min_u64(start + FAULT_SECTOR_BYTES, w->offset_bytes + w->length_bytes);
    if (w->zeroes) memset(content + (from - start), 0, to - from);
    else memcpy(content + (from - start), w->data + (from - w->offset_bytes), to - from);
}

/* ---- Writes ---- */

static void write_drop(struct fault_disk *d, struct fault_write *w)
{
    for (uint64_t n = first_sector(w); n < end_sector(w); n++)
        sector_drop(d, n);
    list_remove(&w->node);
    free(w);
}

static int write_add(struct fault_disk *d, uint64_t sequence, const struct engine_io *io, uint64_t offset,
                     uint64_t length)
{
    bool data = io->op == ENGINE_WRITE;
    struct fault_write *w = calloc(1, sizeof *w + (data ? length : 0));
    if (!w) return -ENOMEM;
    w->sequence = sequence;
    w->zeroes = !data;
    w->offset_bytes = offset;
    w->length_bytes = length;
    if (data) iov_copy_from(w->data, io->iov, io->iov_count, offset - io->offset_bytes, length);
    for (uint64_t n = first_sector(w); n < end_sector(w); n++) {
        int ret = sector_use(d, n);
        if (ret == 0) continue;
        while (n-- > first_sector(w))
            sector_drop(d, n);
        free(w);
        return ret;
    }
    list_push_back(&d->writes, &w->node);
    return 0;
}

/* Zeroing may name the whole disk: only where there is something does it change anything. */
static int zeroes_add(struct fault_disk *d, uint64_t sequence, const struct engine_io *io)
{
    uint64_t at = io->offset_bytes, end = io->offset_bytes + io->length_bytes;
    while (at < end) {
        off_t data = lseek(d->fd, (off_t)at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) return 0;
        off_t hole = data < 0 ? data : lseek(d->fd, data, SEEK_HOLE);
        if (hole < 0) return -errno;
        if ((uint64_t)data >= end) return 0;
        uint64_t stop = min_u64((uint64_t)hole, end);
        int ret = write_add(d, sequence, io, (uint64_t)data, stop - (uint64_t)data);
        if (ret < 0) return ret;
        at = stop;
    }
    return 0;
}

int fault_disk_begin(struct fault_disk *d, const struct engine_io *io, uint64_t *sequence)
{
    *sequence = ++d->sequence;
    if (io->length_bytes == 0) return 0;
    int ret = io->op == ENGINE_WRITE ? write_add(d, *sequence, io, io->offset_bytes, io->length_bytes)
                                     : zeroes_add(d, *sequence, io);
    if (ret == 0) return 0;
    LIST_FOR_EACH_SAFE (node, &d->writes) {
        struct fault_write *w = list_entry(node, struct fault_write, node);
        if (w->sequence == *sequence) write_drop(d, w);
    }
    return ret;
}

int fault_disk_add_run(struct fault_disk *d, const struct engine_io *io, uint64_t offset_bytes, uint64_t length_bytes)
{
    int ret = write_add(d, ++d->sequence, io, offset_bytes, length_bytes);
    if (ret < 0) return ret;
    struct fault_write *w = list_entry(d->writes.prev, struct fault_write, node);
    w->done_tick = ++d->tick;
    return pwrite(d->fd, w->data, w->length_bytes, (off_t)offset_bytes) < 0 ? -errno : 0;
}

void fault_disk_complete(struct fault_disk *d, uint64_t sequence)
{
    d->tick++;
    LIST_FOR_EACH (node, &d->writes) {
        struct fault_write *w = list_entry(node, struct fault_write, node);
        if (w->sequence == sequence) w->done_tick = d->tick;
    }
}

uint64_t fault_disk_sync_begin(struct fault_disk *d)
{
    return d->tick;
}

static uint64_t size_now(const struct fault_disk *d)
{
    struct stat st;
    return fstat(d->fd, &st) < 0 ? 0 : (uint64_t)st.st_size;
}

void fault_disk_synced(struct fault_disk *d, uint64_t mark)
{
    LIST_FOR_EACH_SAFE (node, &d->writes) {
        struct fault_write *w = list_entry(node, struct fault_write, node);
        if (w->done_tick == 0 || w->done_tick > mark) continue;
        for (uint64_t n = first_sector(w); n < end_sector(w); n++)
            overlay(w, n, sector_find(d, n)->stable);
        write_drop(d, w);
    }
    d->stable_size_bytes = size_now(d);
}

/* ---- After the cut ---- */

static bool survives(const struct fault_write *w, uint64_t sector, uint64_t seed)
{
    if (seed == FAULT_SEED_LOSE_ALL) return false;
    if (seed == FAULT_SEED_KEEP_ALL) return true;
    uint64_t fate = fault_random(seed, w->sequence * 2);
    if (fate % 3 == 0) return false;
    if (fate % 3 == 1) return true;
    return fault_random(fate, sector) & 1;
}

static uint64_t play_writes(struct fault_disk *d, uint64_t seed)
{
    uint64_t size = d->stable_size_bytes;
    for (unsigned b = 0; b < BUCKETS; b++)
        LIST_FOR_EACH (node, &d->buckets[b])
            memcpy(list_entry(node, struct sector, node)->outcome, list_entry(node, struct sector, node)->stable,
                   FAULT_SECTOR_BYTES);
    LIST_FOR_EACH (node, &d->writes) {
        const struct fault_write *w = list_entry(node, struct fault_write, node);
        for (uint64_t n = first_sector(w); n < end_sector(w); n++) {
            if (!survives(w, n, seed)) continue;
            overlay(w, n, sector_find(d, n)->outcome);
            uint64_t end = min_u64((n + 1) * FAULT_SECTOR_BYTES, w->offset_bytes + w->length_bytes);
            if (!w->zeroes) size = max_u64(size, end);
        }
    }
    return size;
}

int fault_disk_outcome(struct fault_disk *d, int fd, uint64_t seed)
{
    uint64_t size = play_writes(d, seed);
    for (unsigned b = 0; b < BUCKETS; b++)
        LIST_FOR_EACH (node, &d->buckets[b]) {
            const struct sector *s = list_entry(node, struct sector, node);
            if (pwrite(fd, s->outcome, sizeof s->outcome, (off_t)(s->number * FAULT_SECTOR_BYTES)) < 0) return -errno;
        }
    struct stat st;
    if (fstat(fd, &st) < 0) return -errno;
    if (S_ISREG(st.st_mode) && ftruncate(fd, (off_t)size) < 0) return -errno;
    return 0;
}

void fault_disk_settle(struct fault_disk *d)
{
    while (!list_empty(&d->writes))
        write_drop(d, list_entry(d->writes.next, struct fault_write, node));
    d->stable_size_bytes = size_now(d);
}

/* ---- The disk ---- */

int fault_disk_new(struct fault_disk **out, const struct engine_file *f)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0) return -errno;
    autofree struct fault_disk *d = calloc(1, sizeof *d);
    autofree struct list *buckets = malloc(BUCKETS * sizeof *buckets);
    if (!d || !buckets) return -ENOMEM;
    for (unsigned b = 0; b < BUCKETS; b++)
        list_init(&buckets[b]);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", f->fd);
    d->fd = open(path, O_RDWR | O_CLOEXEC);
    if (d->fd < 0) return -errno;
    d->device = st.st_dev;
    d->inode = st.st_ino;
    d->stable_size_bytes = size_now(d);
    list_init(&d->writes);
    d->buckets = steal_ptr(&buckets);
    *out = steal_ptr(&d);
    return 0;
}

void fault_disk_free(struct fault_disk *d)
{
    if (!d) return;
    fault_disk_settle(d);
    close(d->fd);
    free(d->buckets);
    free(d);
}
