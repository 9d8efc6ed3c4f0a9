/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/engine/piece.h"

#include <assert.h>

#include "base/checked.h"
#include "base/iov.h"
#include "disk/engine/bounce.h"

#define PIECE_MAX_BYTES (UINT64_C(1) << 30) /* of one buffer; the kernel's own limit is 2 GiB */

/* Direct I/O wants every buffer to start at mem_align and to be whole blocks. */
bool piece_buffers_fit(const struct engine_io *io)
{
    const struct engine_file *f = io->file;
    if (f->mem_align == 1 && f->io_align == 1) return true;
    uintptr_t bases = 0, lengths = io->offset_bytes;
    for (unsigned i = 0; i < io->iov_count; i++) {
        bases |= (uintptr_t)io->iov[i].iov_base;
        lengths |= io->iov[i].iov_len;
    }
    return (bases & (f->mem_align - 1)) == 0 && (lengths & (f->io_align - 1)) == 0;
}

/* What does not lie on block boundaries is read in whole blocks; writes have been refused then. */
static struct piece next_bounced(const struct engine_io *io)
{
    uint64_t at = io->offset_bytes + io->priv.moved_bytes;
    uint64_t left = io->length_bytes - io->priv.moved_bytes;
    uint64_t start = align_down(at, io->file->io_align);
    uint64_t want = min_u64(align_up(at - start + left, io->file->io_align), BOUNCE_BYTES);
    if (io->op == ENGINE_WRITE) iov_copy_from(io->priv.bounce, io->iov, io->iov_count, io->priv.moved_bytes, want);
    return (struct piece){.offset_bytes = start, .iov_count = 1, .one = {io->priv.bounce, want}};
}

/* The rest of a request of which the kernel did a part goes one buffer at a time, which needs no list of buffers. */
static struct iovec next_buffer(const struct engine_io *io)
{
    uint64_t skip = io->priv.moved_bytes;
    unsigned i = 0;
    while (skip >= io->iov[i].iov_len) {
        skip -= io->iov[i++].iov_len;
        assert(i < io->iov_count);
    }
    return (struct iovec){(char *)io->iov[i].iov_base + skip, min_u64(io->iov[i].iov_len - skip, PIECE_MAX_BYTES)};
}

struct piece piece_next(struct engine_io *io)
{
    if (io->priv.bounce) return next_bounced(io);
    uint64_t at = io->offset_bytes + io->priv.moved_bytes;
    if (io->iov_count > 1 && io->priv.moved_bytes == 0)
        return (struct piece){.offset_bytes = at, .iov = io->iov, .iov_count = io->iov_count};
    return (struct piece){.offset_bytes = at, .iov_count = 1, .one = next_buffer(io)};
}

/* How many bytes of what was asked for do `got` bytes bring? Copies them out of the slot of a bounced read. */
static uint64_t take(const struct engine_io *io, uint64_t got)
{
    if (!io->priv.bounce || io->op == ENGINE_WRITE) return got;
    uint64_t at = io->offset_bytes + io->priv.moved_bytes;
    uint64_t head = at - align_down(at, io->file->io_align); /* read in front of it by widening */
    if (got <= head) return 0;
    uint64_t useful = min_u64(got - head, io->length_bytes - io->priv.moved_bytes);
    iov_copy_to(io->iov, io->iov_count, io->priv.moved_bytes, (char *)io->priv.bounce + head, useful);
    return useful;
}

/*
 * A short read is carried on with until one brings nothing, which is the end of the file; direct reads end in the
 * middle of a block only there, and must not be carried on with from there.
 */
enum piece_result piece_returned(struct engine_io *io, uint64_t got)
{
    bool odd = (got & (io->file->io_align - 1)) != 0;
    uint64_t useful = take(io, got);
    io->priv.moved_bytes += useful;
    uint64_t left = io->length_bytes - io->priv.moved_bytes;
    if (left == 0) return PIECE_LAST;
    if (useful && !(odd && io->op == ENGINE_READ)) return PIECE_MORE;
    if (io->op == ENGINE_WRITE) return PIECE_STUCK;
    iov_zero(io->iov, io->iov_count, io->priv.moved_bytes, left);
    return PIECE_LAST;
}
