/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TRUST BOUNDARY 1: a guest's memory as this process sees it.
 *
 * A `guest_map` is an immutable snapshot of the regions that the front end shared. It is replaced,
 * never changed: SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG make a new one, the device moves its
 * queues over, and the old one is released when its last user lets go (so a region's mapping lives
 * as long as any request may still touch it).
 *
 * Guest addresses are checked whole and overflow-safe: a range is inside mapped regions or it
 * is refused. A region whose file is shorter than it claims is refused when mapped; one that is cut
 * short later costs this device only: SIGBUS is caught, the page replaced by zeroes, and the
 * map marked `truncated`, which the device answers by breaking itself.
 *
 * Thread-safety: guest_map_ref/unref from any thread; lookups from any thread holding a reference.
 */
#ifndef GUEST_MEMORY_H
#define GUEST_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/errmsg.h"

#define GUEST_REGIONS_MAX 512

/* An address in the guest's physical memory; no host address is ever mistaken for one. */
struct gpa {
    uint64_t v;
};

struct guest_mapping; /* one mmap of one region, reference counted, shared by successive maps */

struct guest_region {
    struct gpa guest_addr;
    uint64_t size_bytes;
    uint64_t user_addr; /* where the front end has it in its own address space */
    char *host;         /* where we have it */
    struct guest_mapping *mapping;
};

struct guest_map {
    _Atomic unsigned refs;
    unsigned count;
    struct guest_region region[]; /* sorted by guest_addr, not overlapping */
};

/* What to map: as a vhost-user memory region describes it. */
struct guest_region_desc {
    struct gpa guest_addr;
    uint64_t size_bytes;
    uint64_t user_addr;
    uint64_t file_offset_bytes;
};

/*
 * A map of `count` regions. fds[i] are duplicated by mmap only: the caller closes its own. Refuses
 * regions of no size, that wrap, overlap in guest or user addresses, or do not fit their
 * file, with a message that says which. `reuse` (may be NULL) is a map whose mappings are shared for
 * the regions that it has in common (same file, offset, size, address).
 */
int guest_map_new(struct guest_map **out, const struct guest_region_desc *desc, const int *fds, unsigned count,
                  struct guest_map *reuse, struct errmsg *e);
struct guest_map *guest_map_ref(struct guest_map *m);
void guest_map_unref(struct guest_map *m); /* NULL is legal */

/* Is a region's file one of memory (tmpfs, memfd, hugetlbfs), whose pages come from the kernel itself? 0 or -errno. */
int guest_memory_check_file(int fd, struct errmsg *e);

/* Host address of [addr, addr + length), or NULL unless it lies within one region. */
void *guest_map_at(const struct guest_map *m, struct gpa addr, uint64_t length_bytes);
/* The same for an address of the front end's own (vhost-user ring addresses). */
void *guest_map_at_user(const struct guest_map *m, uint64_t user_addr, uint64_t length_bytes);

/* [addr, addr + length) as up to max entries, one per region that it runs through (adjacent regions
 * may continue one another). Returns the count; -EFAULT: a byte is outside; -E2BIG: max entries are too few. */
int guest_map_iov(const struct guest_map *m, struct gpa addr, uint64_t length_bytes, struct iovec *iov, unsigned max);

/* True once any of its mappings lost pages under us (SIGBUS was taken). */
bool guest_map_truncated(const struct guest_map *m);

/* Install the SIGBUS handler for mappings of this module. Once per process, at start. */
void guest_memory_init(void);

#endif
