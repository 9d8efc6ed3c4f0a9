/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading compressed clusters. A channel has a few inflaters, each with room for one cluster before and
 * after; an inflater keeps what it made last, so that small sequential reads inflate a cluster once.
 * (An entry names its data for good: nothing compressed is ever written here.)
 *
 * Source: QEMU docs/interop/qcow2, "Compressed Clusters Descriptor": raw deflate with a 4 KiB window, or
 * a zstd frame; the data may be followed by anything, and ends when a cluster is full.
 */
#include "disk/format/qcow2_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#define DEFLATE_WINDOW_BITS (-12)
#define ZSTD_WINDOW_BITS_MAX 23 /* memory that a hostile frame can ask for: 8 MiB */

static uint64_t in_room(const struct qcow2 *q)
{
    return 2 * q->cluster_bytes + 1024; /* the most sectors that an entry can name, with both ends widened */
}

int qcow2_inflate_init(struct qcow2_chan *c)
{
    struct qcow2 *q = qcow2_of_chan(c);
    uint64_t each = align_up(in_room(q), 4096) + align_up(q->cluster_bytes, 4096);
    char *at = mmap(NULL, each * QCOW2_INFLATERS_MAX, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return -ENOMEM;
    c->inflate_memory = at;
    for (unsigned i = 0; i < QCOW2_INFLATERS_MAX; i++, at += each) {
        c->inflaters[i].in = (uint8_t *)at;
        c->inflaters[i].out = (uint8_t *)at + align_up(in_room(q), 4096);
    }
    return 0;
}

void qcow2_inflate_destroy(struct qcow2_chan *c)
{
    struct qcow2 *q = qcow2_of_chan(c);
    uint64_t each = align_up(in_room(q), 4096) + align_up(q->cluster_bytes, 4096);
    if (c->inflate_memory) munmap(c->inflate_memory, each * QCOW2_INFLATERS_MAX);
    if (c->zlib) inflateEnd(c->zlib);
    free(c->zlib);
    ZSTD_freeDCtx(c->zstd);
}

/* ---- the two methods: exactly one cluster, or -EIO ---- */

static int inflate_zlib(struct qcow2_chan *c, const uint8_t *in, uint64_t in_bytes, uint8_t *out, uint64_t out_bytes)
{
    if (!c->zlib) {
        z_stream *z = calloc(1, sizeof *z);
        if (!z) return -ENOMEM;
        if (inflateInit2(z, DEFLATE_WINDOW_BITS) != Z_OK) {
            free(z);
            return -ENOMEM;
        }
        c->zlib = z;
    }
    z_stream *z = c->zlib;
    if (inflateReset(z) != Z_OK) return -EIO;
    z->next_in = (Bytef *)(uintptr_t)in;
    z->avail_in = (uInt)in_bytes;
    z->next_out = out;
    z->avail_out = (uInt)out_bytes;
    int ret = inflate(z, Z_FINISH);
    return (ret == Z_STREAM_END || ret == Z_BUF_ERROR || ret == Z_OK) && z->avail_out == 0 ? 0 : -EIO;
}

static int inflate_zstd(struct qcow2_chan *c, const uint8_t *in, uint64_t in_bytes, uint8_t *out, uint64_t out_bytes)
{
    if (!c->zstd) {
        c->zstd = ZSTD_createDCtx();
        if (!c->zstd) return -ENOMEM;
        ZSTD_DCtx_setParameter(c->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_BITS_MAX);
    }
    ZSTD_DCtx_reset(c->zstd, ZSTD_reset_session_only);
    ZSTD_inBuffer from = {in, in_bytes, 0};
    ZSTD_outBuffer to = {out, out_bytes, 0};
    while (to.pos < to.size) {
        size_t before_in = from.pos, before_out = to.pos;
        size_t ret = ZSTD_decompressStream(c->zstd, &to, &from);
        if (ZSTD_isError(ret)) return -EIO;
        if (from.pos == before_in && to.pos == before_out) return -EIO; /* it ends too early */
    }
    return 0;
}

/* ---- jobs ---- */

static void next_job(struct qcow2_chan *c);

static void job_end(struct qcow2_inflater *f, int res)
{
    struct qcow2_inflate *job = f->job;
    struct qcow2_chan *c = job->chan;
    f->entry = res == 0 ? job->entry : 0;
    f->job = NULL;
    job->done(job, f->out, res);
    next_job(c);
}

static void data_read(struct engine_io *io, int res)
{
    struct qcow2_inflater *f = container_of(io, struct qcow2_inflater, io);
    struct qcow2_chan *c = f->job->chan;
    struct qcow2 *q = qcow2_of_chan(c);
    if (res < 0) {
        job_end(f, res);
        return;
    }
    res = q->header.compression == QCOW2_COMPRESSION_ZSTD
              ? inflate_zstd(c, f->in + f->in_skip, f->in_bytes, f->out, q->cluster_bytes)
              : inflate_zlib(c, f->in + f->in_skip, f->in_bytes, f->out, q->cluster_bytes);
    if (res == -EIO)
        log_limited(LOG_LEVEL_ERROR, "%s: the compressed cluster at 0x%llx does not inflate to a cluster",
                    q->layer.name, (unsigned long long)(io->offset_bytes + f->in_skip));
    job_end(f, res);
}

static void run_job(struct qcow2_inflater *f, struct qcow2_inflate *job)
{
    struct qcow2 *q = qcow2_of_chan(job->chan);
    uint64_t offset, bytes;
    qcow2_compressed_range(q, job->entry, &offset, &bytes);
    f->job = job;
    f->entry = 0;
    f->in_skip = offset % 512;
    f->in_bytes = bytes;
    uint64_t length = align_up(f->in_skip + bytes, 512);
    f->iov = (struct iovec){f->in, length};
    f->io = (struct engine_io){.op = ENGINE_READ,
                               .file = q->file,
                               .offset_bytes = offset - f->in_skip,
                               .length_bytes = length,
                               .iov = &f->iov,
                               .iov_count = 1,
                               .done = data_read};
    engine_submit(job->chan->chan.engine, &f->io);
}

static struct qcow2_inflater *pick(struct qcow2_chan *c, uint64_t entry)
{
    struct qcow2_inflater *oldest = NULL;
    for (unsigned i = 0; i < QCOW2_INFLATERS_MAX; i++) {
        struct qcow2_inflater *f = &c->inflaters[i];
        if (f->job) continue;
        if (f->entry == entry) return f;
        if (!oldest || f->used < oldest->used) oldest = f;
    }
    return oldest;
}

void qcow2_inflate_start(struct qcow2_inflate *job)
{
    struct qcow2_chan *c = job->chan;
    struct qcow2_inflater *f = pick(c, job->entry);
    if (!f) {
        list_push_back(&c->inflate_waiters, &job->node);
        return;
    }
    f->used = ++c->inflate_clock;
    if (f->entry == job->entry) job->done(job, f->out, 0);
    else run_job(f, job);
}

static void next_job(struct qcow2_chan *c)
{
    while (!list_empty(&c->inflate_waiters) && pick(c, 0))
        qcow2_inflate_start(list_entry(list_pop_front(&c->inflate_waiters), struct qcow2_inflate, node));
}
