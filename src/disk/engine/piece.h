/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes, piece by piece: what to ask the kernel for next, and what its answer means. A request usually is one
 * piece. It is several when the kernel does a part only, or when it goes through a bounce slot (io->priv.bounce) that is
 * smaller than it. Knows nothing of how the kernel is asked.
 *
 * Thread-safety: none; part of one engine.
 */
#ifndef DISK_ENGINE_PIECE_H
#define DISK_ENGINE_PIECE_H

#include <stdbool.h>

#include "disk/engine/engine.h"

struct piece {
    uint64_t offset_bytes;
    const struct iovec *iov; /* count > 1: these buffers; else `one` is the only one */
    unsigned iov_count;
    struct iovec one; /* shorter than 4 GiB */
};

/* Can the storage move the request's own buffers? If not it needs a bounce slot. */
bool piece_buffers_fit(const struct engine_io *io);

/* The next piece. Fills the bounce slot of a write. */
struct piece piece_next(struct engine_io *io);

enum piece_result { PIECE_LAST, PIECE_MORE, PIECE_STUCK };

/*
 * The kernel moved `got` bytes of the piece. LAST: the request is complete (a read that met the end of the file has
 * its rest zeroed). MORE: piece_next() again. STUCK: a write that makes no progress.
 */
enum piece_result piece_returned(struct engine_io *io, uint64_t got);

#endif
