/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model of a disk (an array of bytes) and random requests that are run on a disk and on the model: in waves
 * of requests that do not touch the same bytes, though often the same clusters.
 */
#ifndef DISK_FORMAT_QCOW2_MODEL_H
#define DISK_FORMAT_QCOW2_MODEL_H

#include "disk/format/qcow2_test_util.h"

#define WAVE_MAX 24
#define SHOT_MAX_BYTES (UINT64_C(512) << 10)

struct shot {
    struct disk_req req;
    struct iovec iov[6];
    uint8_t *buf;
    int res;
    bool finished;
    struct model *m;
};

struct model {
    uint8_t *data;
    uint64_t size;
    uint64_t seed;
    uint64_t unit;       /* offsets and lengths are multiples of it */
    uint64_t max_bytes;  /* of a request */
    bool errors_allowed; /* failed writes leave their range unknown */
    bool no_zero_ops;
    uint64_t from, to;    /* where requests go; to 0: anywhere */
    unsigned comb, tooth; /* comb > 0: of every `comb` times 4 KiB, only those number `tooth` */
    uint8_t *unknown;     /* per sector: 1 when a failed or unflushed write may or may not be there; NULL: never */
    unsigned in_flight;
    struct shot shots[WAVE_MAX];
    unsigned count;
    uint64_t failures;
};

/* In the environment, a number: requests are other ones then, and the same again for the same number. NULL: not there. */
static inline const char *other_seed(void)
{
    return getenv("CREEDENCE_DISK_SEED");
}

static inline void model_init(struct model *m, uint64_t size, uint64_t seed)
{
    const char *other = other_seed();
    memset(m, 0, sizeof *m);
    m->data = calloc(1, size);
    assert_non_null(m->data);
    m->size = size;
    if (other) seed += strtoull(other, NULL, 10) * 1000;
    m->seed = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    m->unit = 512;
    m->max_bytes = SHOT_MAX_BYTES;
    for (unsigned i = 0; i < WAVE_MAX; i++)
        m->shots[i].buf = aligned_alloc(4096, SHOT_MAX_BYTES + 4096);
}

static inline void model_free(struct model *m)
{
    for (unsigned i = 0; i < WAVE_MAX; i++)
        free(m->shots[i].buf);
    free(m->data);
    free(m->unknown);
}

static inline void shot_done(struct disk_req *req, int res)
{
    struct shot *s = container_of(req, struct shot, req);
    assert_false(s->finished);
    s->finished = true;
    s->res = res;
    s->m->in_flight--;
}

static inline bool shot_collides(const struct model *m, uint64_t offset, uint64_t length)
{
    for (unsigned i = 0; i < m->count; i++)
        if (range_overlaps(m->shots[i].req.offset_bytes, m->shots[i].req.length_bytes, offset, length)) return true;
    return false;
}

/* Sizes: mostly small, sometimes large; places: often near the last ones. */
static inline bool shot_place(struct model *m, uint64_t *offset, uint64_t *length)
{
    uint64_t from = m->from, to = m->to ? m->to : m->size;
    if (m->comb) {
        *length = (1 + rnd_below(&m->seed, 8)) * 512;
        *offset = (rnd_below(&m->seed, m->size / 4096 / m->comb) * m->comb + m->tooth) * 4096;
        *offset += rnd_below(&m->seed, (4096 - *length) / 512 + 1) * 512;
        return !shot_collides(m, *offset, *length);
    }
    uint64_t most = rnd_below(&m->seed, 8) ? min_u64(m->max_bytes, 16384) : m->max_bytes;
    *length = (1 + rnd_below(&m->seed, most / m->unit)) * m->unit;
    if (*length > to - from) *length = to - from;
    *offset = from + rnd_below(&m->seed, (to - from - *length) / m->unit + 1) * m->unit;
    return !shot_collides(m, *offset, *length);
}

static inline enum disk_op shot_kind(struct model *m)
{
    uint64_t r = rnd_below(&m->seed, 100);
    if (r < 45) return DISK_WRITE;
    if (r < 80 || m->no_zero_ops) return DISK_READ;
    if (r < 88) return DISK_WRITE_ZEROES;
    if (r < 96) return DISK_DISCARD;
    return DISK_FLUSH;
}

/* Cut the buffer into odd pieces: guests do. */
static inline void shot_vectors(struct model *m, struct shot *s, uint64_t length)
{
    uint64_t at = 0;
    unsigned n = 0;
    uint64_t skew = rnd_below(&m->seed, 4) ? 0 : rnd_below(&m->seed, 4096);
    uint8_t *base = s->buf + skew;
    while (at < length) {
        uint64_t piece = n == 5 || rnd_below(&m->seed, 2) ? length - at : 1 + rnd_below(&m->seed, length - at);
        s->iov[n++] = (struct iovec){base + at, piece};
        at += piece;
    }
    s->req.iov = s->iov;
    s->req.iov_count = n;
}

static inline void model_fire(struct model *m, struct layer_chan *c)
{
    struct shot *s = &m->shots[m->count];
    uint64_t offset, length;
    if (!shot_place(m, &offset, &length)) return;
    s->req = (struct disk_req){.op = shot_kind(m), .offset_bytes = offset, .length_bytes = length, .done = shot_done};
    s->finished = false;
    s->m = m;
    if (s->req.op == DISK_FLUSH) s->req.offset_bytes = s->req.length_bytes = 0;
    if (s->req.op == DISK_WRITE_ZEROES && rnd_below(&m->seed, 2)) s->req.flags = DISK_REQ_UNMAP;
    if (s->req.op == DISK_READ || s->req.op == DISK_WRITE) {
        if (s->req.op == DISK_WRITE) rnd_fill(&m->seed, s->buf, 4096);
        for (uint64_t i = 4096; s->req.op == DISK_WRITE && i < length + 4096; i += 4096)
            memcpy(s->buf + i, s->buf, min_u64(4096, SHOT_MAX_BYTES + 4096 - i));
        shot_vectors(m, s, length);
        if (s->req.op == DISK_WRITE) { /* make every sector different */
            uint8_t *base = s->iov[0].iov_base;
            for (uint64_t i = 0; i < length; i += 512)
                memcpy(base + i, &i, sizeof i);
            memcpy(base + 8, &m->seed, 8);
        }
    }
    m->count++;
    m->in_flight++;
    layer_submit(c, &s->req);
}

static inline void settle_unknown(struct model *m, uint64_t offset, uint64_t length, uint8_t value)
{
    if (m->unknown) memset(m->unknown + offset / 512, value, length / 512);
}

/* A read must return the model, except where the model does not know: then the model learns. */
static inline void model_learn(struct model *m, uint64_t offset, uint64_t length, const uint8_t *got)
{
    for (uint64_t at = 0; at < length; at += 512) {
        if (m->unknown && m->unknown[(offset + at) / 512]) continue;
        if (memcmp(m->data + offset + at, got + at, 512) == 0) continue;
        fail_msg("wrong data at 0x%llx (request at 0x%llx, %llu bytes)", (unsigned long long)(offset + at),
                 (unsigned long long)offset, (unsigned long long)length);
    }
}

static inline void model_apply(struct model *m, struct shot *s, struct layer_chan *c, struct engine *e)
{
    uint64_t offset = s->req.offset_bytes, length = s->req.length_bytes;
    if (s->res < 0) {
        if (!m->errors_allowed)
            fail_msg("op %d at 0x%llx: %s", s->req.op, (unsigned long long)offset, strerror(-s->res));
        m->failures++;
        if (s->req.op != DISK_READ) settle_unknown(m, offset, length, 1);
        return;
    }
    switch (s->req.op) {
    case DISK_WRITE:
        iov_copy_from(m->data + offset, s->iov, s->req.iov_count, 0, length);
        settle_unknown(m, offset, length, 0);
        break;
    case DISK_READ: model_learn(m, offset, length, s->iov[0].iov_base); break;
    case DISK_WRITE_ZEROES:
        memset(m->data + offset, 0, length);
        settle_unknown(m, offset, length, 0);
        break;
    default: break;
    }
    (void)c, (void)e;
}

/* After a discard every sector is zero or what it was: see which, and remember. */
static inline void model_after_discard(struct model *m, struct shot *s, struct disk *d)
{
    uint64_t end = s->req.offset_bytes + s->req.length_bytes;
    for (uint64_t at = s->req.offset_bytes, n; at < end; at += n) {
        n = min_u64(end - at, SHOT_MAX_BYTES);
        int ret = disk_io(d, DISK_READ, 0, at, n, s->buf);
        if (ret < 0 && m->errors_allowed) {
            settle_unknown(m, at, n, 1);
            continue;
        }
        assert_int_equal(ret, 0);
        for (uint64_t i = 0; i < n; i += 512) {
            bool zero = true;
            for (unsigned j = 0; j < 512 && zero; j++)
                zero = s->buf[i + j] == 0;
            bool known = !(m->unknown && m->unknown[(at + i) / 512]);
            if (known && !zero && memcmp(m->data + at + i, s->buf + i, 512) != 0)
                fail_msg("discarded sector at 0x%llx is neither zero nor as before", (unsigned long long)(at + i));
            memcpy(m->data + at + i, s->buf + i, 512);
        }
    }
}

static inline void model_wave(struct model *m, struct disk *d, unsigned size)
{
    m->count = 0;
    for (unsigned i = 0; i < size && m->count < WAVE_MAX; i++)
        model_fire(m, d->chan);
    while (m->in_flight)
        assert_true(engine_sleep(d->engine, UINT64_MAX) >= 0);
    for (unsigned i = 0; i < m->count; i++)
        model_apply(m, &m->shots[i], d->chan, d->engine);
    for (unsigned i = 0; i < m->count; i++)
        if (m->shots[i].req.op == DISK_DISCARD) model_after_discard(m, &m->shots[i], d);
}

/* Only what this model has a say in. */
static inline void model_check_own(struct model *m, struct disk *d)
{
    uint8_t *buf = m->shots[0].buf;
    uint64_t from = m->from, to = m->to ? m->to : m->size;
    uint64_t step = m->comb ? 4096 * m->comb : SHOT_MAX_BYTES;
    for (uint64_t at = m->comb ? m->tooth * 4096 : from; at < to; at += step) {
        uint64_t n = m->comb ? 4096 : min_u64(to - at, SHOT_MAX_BYTES);
        disk_read(d, at, n, buf);
        model_learn(m, at, n, buf);
    }
}

static inline void model_check_all(struct model *m, struct disk *d)
{
    uint8_t *buf = m->shots[0].buf;
    for (uint64_t at = 0, n; at < m->size; at += n) {
        n = min_u64(m->size - at, SHOT_MAX_BYTES);
        disk_read(d, at, n, buf);
        model_learn(m, at, n, buf);
    }
}

#endif
