/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maps of guest memory: building them from what a front end claims, and looking addresses up.
 * The mappings themselves, and the answer to SIGBUS, are in mapping.c.
 *
 * Invariants of a finished map: regions are sorted by guest address and overlap neither there
 * nor in the front end's addresses; no region wraps; each holds a reference to a mapping that covers it.
 */
#include "guest/memory.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "guest/lookup.h"
#include "guest/mapping.h"

static int check_region(const struct guest_region_desc *d, unsigned index, struct errmsg *e)
{
    if (d->size_bytes == 0) return errmsg_set(e, EINVAL, "memory region %u has no size", index);
    if (d->size_bytes > UINT64_MAX - d->guest_addr.v)
        return errmsg_set(e, EINVAL, "memory region %u: guest address 0x%llx + size 0x%llx wraps around", index,
                          (unsigned long long)d->guest_addr.v, (unsigned long long)d->size_bytes);
    if (d->size_bytes > UINT64_MAX - d->user_addr)
        return errmsg_set(e, EINVAL, "memory region %u: user address 0x%llx + size 0x%llx wraps around", index,
                          (unsigned long long)d->user_addr, (unsigned long long)d->size_bytes);
    return 0;
}

static int by_guest_addr(const void *a, const void *b)
{
    uint64_t x = ((const struct guest_region *)a)->guest_addr.v, y = ((const struct guest_region *)b)->guest_addr.v;
    return (x > y) - (x < y);
}

static int by_user_addr(const void *a, const void *b)
{
    uint64_t x = (*(const struct guest_region *const *)a)->user_addr;
    uint64_t y = (*(const struct guest_region *const *)b)->user_addr;
    return (x > y) - (x < y);
}

/* `m` is sorted by guest address. */
static int check_overlaps(const struct guest_map *m, struct errmsg *e)
{
    const struct guest_region *by_user[GUEST_REGIONS_MAX];
    for (unsigned i = 0; i < m->count; i++)
        by_user[i] = &m->region[i];
    qsort(by_user, m->count, sizeof by_user[0], by_user_addr);
    for (unsigned i = 1; i < m->count; i++) {
        const struct guest_region *a = &m->region[i - 1], *b = &m->region[i];
        if (b->guest_addr.v - a->guest_addr.v < a->size_bytes)
            return errmsg_set(e, EINVAL, "memory regions overlap in guest addresses: 0x%llx + 0x%llx and 0x%llx",
                              (unsigned long long)a->guest_addr.v, (unsigned long long)a->size_bytes,
                              (unsigned long long)b->guest_addr.v);
        a = by_user[i - 1], b = by_user[i];
        if (b->user_addr - a->user_addr < a->size_bytes)
            return errmsg_set(e, EINVAL, "memory regions overlap in user addresses: 0x%llx + 0x%llx and 0x%llx",
                              (unsigned long long)a->user_addr, (unsigned long long)a->size_bytes,
                              (unsigned long long)b->user_addr);
    }
    return 0;
}

static struct guest_mapping *find_mapping(const struct guest_map *reuse, const struct guest_mapping_key *key)
{
    for (unsigned i = 0; reuse && i < reuse->count; i++)
        if (guest_mapping_is(reuse->region[i].mapping, key)) return guest_mapping_ref(reuse->region[i].mapping);
    return NULL;
}

static int add_region(struct guest_map *m, const struct guest_region_desc *d, int fd, const struct guest_map *reuse,
                      struct errmsg *e)
{
    struct guest_mapping_key key;
    int ret = guest_mapping_key(&key, fd, d->file_offset_bytes, d->size_bytes, e);
    if (ret) return errmsg_prefix(e, ret, "memory region %u", m->count);
    struct guest_mapping *mapping = find_mapping(reuse, &key);
    if (!mapping) {
        ret = guest_mapping_new(&mapping, &key, fd, e);
        if (ret) return errmsg_prefix(e, ret, "memory region %u", m->count);
    }
    m->region[m->count++] = (struct guest_region){.guest_addr = d->guest_addr,
                                                  .size_bytes = d->size_bytes,
                                                  .user_addr = d->user_addr,
                                                  .host = guest_mapping_host(mapping),
                                                  .mapping = mapping};
    return 0;
}

int guest_map_new(struct guest_map **out, const struct guest_region_desc *desc, const int *fds, unsigned count,
                  struct guest_map *reuse, struct errmsg *e)
{
    *out = NULL;
    if (count > GUEST_REGIONS_MAX)
        return errmsg_set(e, EINVAL, "%u memory regions, at most %u are supported", count, GUEST_REGIONS_MAX);
    struct guest_map *m = calloc(1, sizeof *m + count * sizeof m->region[0]);
    if (!m) return errmsg_sys(e, ENOMEM, "a map of %u memory regions", count);
    atomic_init(&m->refs, 1);
    int ret = 0;
    for (unsigned i = 0; i < count && !ret; i++) {
        ret = check_region(&desc[i], i, e);
        if (!ret) ret = add_region(m, &desc[i], fds[i], reuse, e);
    }
    if (!ret) {
        qsort(m->region, m->count, sizeof m->region[0], by_guest_addr);
        ret = check_overlaps(m, e);
    }
    if (ret) {
        guest_map_unref(m);
        return ret;
    }
    *out = m;
    return 0;
}

struct guest_map *guest_map_ref(struct guest_map *m)
{
    unsigned before = atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    assert(before > 0 && before < UINT32_MAX);
    return m;
}

void guest_map_unref(struct guest_map *m)
{
    if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1) return;
    for (unsigned i = 0; i < m->count; i++)
        guest_mapping_unref(m->region[i].mapping);
    free(m);
}

void *guest_map_at(const struct guest_map *m, struct gpa addr, uint64_t length_bytes)
{
    const struct guest_region *r = guest_map_find(m, addr);
    if (!r) return NULL;
    uint64_t offset = addr.v - r->guest_addr.v;
    return range_fits(offset, length_bytes, r->size_bytes) ? r->host + offset : NULL;
}

void *guest_map_at_user(const struct guest_map *m, uint64_t user_addr, uint64_t length_bytes)
{
    for (unsigned i = 0; i < m->count; i++) {
        const struct guest_region *r = &m->region[i];
        uint64_t offset = user_addr - r->user_addr;
        if (user_addr >= r->user_addr && offset < r->size_bytes)
            return length_bytes <= r->size_bytes - offset ? r->host + offset : NULL;
    }
    return NULL;
}

int guest_map_iov(const struct guest_map *m, struct gpa addr, uint64_t length_bytes, struct iovec *iov, unsigned max)
{
    if (length_bytes == 0) return 0;
    if (length_bytes > UINT64_MAX - addr.v) return -EFAULT;
    unsigned n = 0;
    const struct guest_region *r = guest_map_find(m, addr);
    for (; r && n < max; r++) {
        /* The next region in the array continues this one only where it starts at the very next byte. */
        if (r == m->region + m->count || addr.v < r->guest_addr.v) return -EFAULT;
        uint64_t offset = addr.v - r->guest_addr.v;
        uint64_t take = min_u64(length_bytes, r->size_bytes - offset);
        iov[n++] = (struct iovec){r->host + offset, take};
        length_bytes -= take;
        if (length_bytes == 0) return (int)n;
        addr.v += take;
    }
    return r ? -E2BIG : -EFAULT;
}

bool guest_map_truncated(const struct guest_map *m)
{
    if (!guest_mapping_any_truncated()) return false;
    for (unsigned i = 0; i < m->count; i++)
        if (guest_mapping_truncated(m->region[i].mapping)) return true;
    return false;
}

void guest_memory_init(void)
{
    guest_mapping_catch_sigbus();
}
