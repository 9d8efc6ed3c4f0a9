/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model behind a power cut (disk/engine/fault.h): what a file on a disk with a volatile write cache may hold.
 *
 * For every sector written since the last sync, the content that is stable; and the list of the writes since, each
 * with its data. A sync makes the writes stable that were complete when it was submitted. A sector that no write of the list
 * touches is not kept: the file itself holds its stable content.
 *
 * Thread-safety: none; the plan's lock protects it.
 */
#ifndef DISK_ENGINE_FAULT_DISK_H
#define DISK_ENGINE_FAULT_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "disk/engine/engine.h"

struct fault_write; /* one entry of the list: a run of sectors */

struct fault_disk {
    struct list node; /* the plan's list */
    dev_t device;     /* identity of the file */
    ino_t inode;
    int fd; /* the same file, opened once more, buffered */
    struct list writes;
    struct list *buckets; /* of sectors, by number */
    uint64_t stable_size_bytes;
    uint64_t sequence; /* of the last write begun */
    uint64_t tick;     /* of the last write completed */
};

int fault_disk_new(struct fault_disk **out, const struct engine_file *f);
void fault_disk_free(struct fault_disk *d);

/* A WRITE, PUNCH, ZERO or DISCARD is about to be given to the kernel: remember it, and what was there. `sequence` gets the
 * number to complete it by. 0 or -errno (then nothing is remembered). */
int fault_disk_begin(struct fault_disk *d, const struct engine_io *io, uint64_t *sequence);
/* A part of a WRITE takes effect, and nothing else of it ever will. */
int fault_disk_add_run(struct fault_disk *d, const struct engine_io *io, uint64_t offset_bytes, uint64_t length_bytes);
void fault_disk_complete(struct fault_disk *d, uint64_t sequence);

/* A sync is submitted: returns what to give to fault_disk_synced() when it has completed. */
uint64_t fault_disk_sync_begin(struct fault_disk *d);
void fault_disk_synced(struct fault_disk *d, uint64_t mark);

/* Write the content after a cut to fd, which holds what the file holds now. 0 or -errno. */
int fault_disk_outcome(struct fault_disk *d, int fd, uint64_t seed);
/* Forget all: what the file holds now is stable. */
void fault_disk_settle(struct fault_disk *d);

/* Deterministic and well mixed: the n-th random number of a seed. */
uint64_t fault_random(uint64_t seed, uint64_t n);

#endif
