/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transfers in pieces, against a kernel made of an array of bytes that does as little as it may: it moves any number of
 * blocks of what it is asked for, and refuses what direct I/O refuses. Real storage does so too rarely to test with.
 */
#include "disk/test_util.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/iov.h"
#include "disk/engine/bounce.h"
#include "disk/engine/piece.h"

#define FILE_MAX (512u << 10)

struct kernel {
    char content[FILE_MAX];
    uint64_t size; /* no multiple of anything */
    uint64_t seed;
    uint64_t bytes_refused_at; /* writes make no progress from here on */
};

/* What the kernel checks of a direct request. */
static void check_piece(const struct engine_io *io, const struct piece *p)
{
    const struct iovec *iov = p->iov_count > 1 ? p->iov : &p->one;
    uint64_t length = iov_bytes(iov, p->iov_count);
    assert_true(length > 0 && p->iov_count >= 1);
    assert_int_equal(p->offset_bytes % io->file->io_align, 0);
    assert_int_equal(length % io->file->io_align, 0);
    for (unsigned i = 0; i < p->iov_count; i++)
        assert_true((uintptr_t)iov[i].iov_base % io->file->mem_align == 0 && iov[i].iov_len % io->file->io_align == 0);
}

static uint64_t serve(struct kernel *k, const struct engine_io *io, const struct piece *p)
{
    const struct iovec *iov = p->iov_count > 1 ? p->iov : &p->one;
    uint64_t length = iov_bytes(iov, p->iov_count), align = io->file->io_align;
    if (rnd_below(&k->seed, 3) == 0) length = (1 + rnd_below(&k->seed, length / align)) * align; /* a part of it */
    if (io->op == ENGINE_READ) {
        length = p->offset_bytes < k->size ? min_u64(length, k->size - p->offset_bytes) : 0;
        iov_copy_to(iov, p->iov_count, 0, k->content + p->offset_bytes, length);
        return length;
    }
    if (p->offset_bytes >= k->bytes_refused_at) return 0;
    iov_copy_from(k->content + p->offset_bytes, iov, p->iov_count, 0, length);
    return length;
}

static enum piece_result transfer(struct kernel *k, struct engine_io *io, void *slot)
{
    io->priv.moved_bytes = 0;
    io->priv.bounce = piece_buffers_fit(io) ? NULL : slot;
    enum piece_result result = PIECE_MORE;
    for (unsigned rounds = 0; result == PIECE_MORE; rounds++) {
        assert_true(rounds < 100000);
        struct piece p = piece_next(io);
        check_piece(io, &p);
        result = piece_returned(io, serve(k, io, &p));
    }
    return result;
}

/* At most `max` buffers over [buf, buf + length), cut at multiples of `unit` but for the last. */
static unsigned cut(struct iovec *iov, unsigned max, char *buf, uint64_t length, uint64_t unit, uint64_t *seed)
{
    unsigned n = 0;
    while (length > 0) {
        uint64_t take = n == max - 1 ? length : min_u64(length, align_up(1 + rnd_below(seed, length), unit));
        iov[n++] = (struct iovec){buf, take};
        buf += take;
        length -= take;
    }
    return n;
}

static void one_case(struct kernel *k, const struct engine_file *f, char *buf, char *before, void *slot)
{
    struct iovec iov[6];
    bool read = rnd_below(&k->seed, 2), odd = rnd_below(&k->seed, 2);
    uint64_t unit = read ? rnd_below(&k->seed, 2) ? 1 : f->io_align : f->io_align;
    uint64_t length = (1 + rnd_below(&k->seed, FILE_MAX / 2 / unit)) * unit;
    uint64_t offset = rnd_below(&k->seed, (FILE_MAX - length) / unit + 1) * unit;
    char *at = buf + (odd ? rnd_below(&k->seed, 4096) : 0);
    struct engine_io io = {
        .op = read ? ENGINE_READ : ENGINE_WRITE, .file = f, .offset_bytes = offset, .length_bytes = length};
    io.iov = iov;
    io.iov_count = cut(iov, 6, at, length, odd ? 1 : f->io_align, &k->seed);
    k->size = rnd_below(&k->seed, FILE_MAX + 1);
    rnd_fill(&k->seed, at, min_u64(length, 1000));
    if (read) {
        assert_int_equal(transfer(k, &io, slot), PIECE_LAST);
        uint64_t have = offset < k->size ? min_u64(length, k->size - offset) : 0;
        assert_memory_equal(at, k->content + offset, have);
        for (uint64_t i = have; i < length; i++)
            assert_int_equal(at[i], 0);
        return;
    }
    memcpy(before, k->content, FILE_MAX);
    assert_int_equal(transfer(k, &io, slot), PIECE_LAST);
    assert_memory_equal(k->content + offset, at, length);
    assert_memory_equal(k->content, before, offset); /* and nothing else */
    assert_memory_equal(k->content + offset + length, before + offset + length, FILE_MAX - offset - length);
}

static void check_random(uint32_t mem_align, uint32_t io_align)
{
    autofree struct kernel *k = malloc(sizeof *k);
    autofree char *buf = aligned_alloc(4096, FILE_MAX + 4096), *before = malloc(FILE_MAX);
    autofree void *slot = aligned_alloc(ENGINE_ALIGN_MAX, BOUNCE_BYTES);
    struct engine_file f = {.direct = io_align > 1, .mem_align = mem_align, .io_align = io_align};
    k->seed = 99;
    k->bytes_refused_at = UINT64_MAX;
    memset(buf, 0, FILE_MAX + 4096);
    rnd_fill(&k->seed, k->content, FILE_MAX);
    for (int i = 0; i < 300; i++)
        one_case(k, &f, buf, before, slot);
}

static void test_buffered(void **state)
{
    check_random(1, 1);
}

static void test_direct(void **state)
{
    check_random(512, 512);
    check_random(4, 512);
    check_random(4096, 4096);
    check_random(512, ENGINE_ALIGN_MAX);
}

static void test_write_without_progress(void **state)
{
    autofree struct kernel *k = calloc(1, sizeof *k);
    char buf[4096] = "x";
    struct iovec iov[2] = {{buf, 1024}, {buf + 1024, 3072}};
    struct engine_file f = {.mem_align = 1, .io_align = 1};
    struct engine_io io = {.op = ENGINE_WRITE, .file = &f, .length_bytes = 4096, .iov = iov, .iov_count = 2};
    k->seed = 3;
    assert_int_equal(transfer(k, &io, NULL), PIECE_STUCK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buffered),
        cmocka_unit_test(test_direct),
        cmocka_unit_test(test_write_without_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
