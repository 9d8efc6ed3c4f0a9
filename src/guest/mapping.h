/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One mapping of a part of a front end's file, and what happens when the file gets shorter under
 * us. Private to guest/; the rest of the program knows guest_map (memory.h).
 *
 * Thread-safety: ref, unref and the questions from any thread.
 */
#ifndef GUEST_MAPPING_H
#define GUEST_MAPPING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/errmsg.h"

struct guest_mapping;

/* What makes two mappings the same. A mapped file keeps its inode, so the pair of numbers is not used again. */
struct guest_mapping_key {
    dev_t device;
    ino_t inode;
    uint64_t offset_bytes;
    uint64_t size_bytes;
    uint64_t page_bytes; /* what mmap of this file wants offsets and lengths to be multiples of */
};

/* Look at the file and check that [offset, offset + size) is in it. 0 or -errno. */
int guest_mapping_key(struct guest_mapping_key *key, int fd, uint64_t offset_bytes, uint64_t size_bytes,
                      struct errmsg *e);
/* Map it for reading and writing; fd stays the caller's. 0 or -errno. */
int guest_mapping_new(struct guest_mapping **out, const struct guest_mapping_key *key, int fd, struct errmsg *e);
struct guest_mapping *guest_mapping_ref(struct guest_mapping *m);
void guest_mapping_unref(struct guest_mapping *m);
bool guest_mapping_is(const struct guest_mapping *m, const struct guest_mapping_key *key);
char *guest_mapping_host(const struct guest_mapping *m);

/* Did it lose pages? The second is a cheap question first: has any mapping ever? */
bool guest_mapping_truncated(const struct guest_mapping *m);
bool guest_mapping_any_truncated(void);

void guest_mapping_catch_sigbus(void);

#endif
