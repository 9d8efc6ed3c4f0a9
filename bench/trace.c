/* SPDX-License-Identifier: Apache-2.0 */
#include "trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "bench.h"

/* ---- Reading ---- */

/* The number at *text, which moves behind it. False when there is none. */
static bool take_number(const char **text, uint64_t *v)
{
    char *end;
    errno = 0;
    *v = strtoull(*text, &end, 10);
    bool good = end != *text && !errno && (*end == '\n' || *end == ' ' || *end == 0);
    *text = end;
    return good;
}

/* 1: a step; 0: none on this line; -EINVAL. */
static int parse_line(const char *line, struct trace_step *s)
{
    uint64_t count = 0;
    line += strspn(line, " \t\n");
    *s = (struct trace_step){.kind = *line};
    if (*line == 0 || *line == '#') return 0;
    line++;
    if (s->kind == 'f' || s->kind == 'b') return 1;
    if (s->kind == 't') return take_number(&line, &s->value) ? 1 : -EINVAL;
    if (s->kind != 'r' && s->kind != 'w') return -EINVAL;
    if (!take_number(&line, &s->value) || !take_number(&line, &count)) return -EINVAL;
    if (count == 0 || count > TRACE_REQUEST_MAX_BYTES / 512 || s->value > UINT64_MAX / 512) return -EINVAL;
    s->bytes = (uint32_t)count * 512;
    return 1;
}

static int trace_append(struct trace *t, const struct trace_step *s)
{
    if ((t->count & (t->count - 1)) == 0) {
        struct trace_step *more = realloc(t->step, (t->count ? t->count * 2 : 1) * sizeof *more);
        if (!more) return -ENOMEM;
        t->step = more;
    }
    t->step[t->count++] = *s;
    if (s->kind == 'r') t->read_bytes += s->bytes;
    if (s->kind == 'w') t->written_bytes += s->bytes;
    return 0;
}

int trace_load(struct trace *t, const char *path, struct errmsg *e)
{
    char line[256];
    *t = (struct trace){0};
    FILE *file = fopen(path, "re");
    if (!file) return errmsg_sys(e, errno, "%s", path);
    int ret = 0;
    for (unsigned number = 1; ret >= 0 && fgets(line, sizeof line, file); number++) {
        struct trace_step s;
        ret = parse_line(line, &s);
        if (ret == 1) ret = trace_append(t, &s);
        if (ret < 0) errmsg_set(e, -ret, "%s, line %u: '%.*s'", path, number, (int)strcspn(line, "\n"), line);
    }
    fclose(file);
    if (ret >= 0 && t->count == 0) ret = errmsg_set(e, EINVAL, "%s: no steps", path);
    if (ret < 0) trace_clear(t);
    return ret < 0 ? ret : 0;
}

void trace_clear(struct trace *t)
{
    free(t->step);
    t->step = NULL;
    t->count = 0;
}

/* ---- Making one ---- */

struct maker {
    FILE *file;
    uint64_t rng, size_bytes, private_bytes;
    unsigned since_wait;
};

/* A file being read: sequential requests of read-ahead's size, preceded by the blocks that say where it is. */
static uint64_t make_file_read(struct maker *m, uint64_t left)
{
    unsigned shift = 14 + (unsigned)bench_random_below(&m->rng, 8); /* 16 KiB to 2 MiB */
    uint64_t bytes = (UINT64_C(1) << shift) + bench_random_below(&m->rng, UINT64_C(1) << shift);
    bytes = align_up(bytes < left ? bytes : left, 4096);
    uint64_t span = m->size_bytes - m->private_bytes - bytes;
    uint64_t at = align_down(bench_random_below(&m->rng, span), 4096);
    if (bench_random_below(&m->rng, 3) == 0)
        fprintf(m->file, "r %llu 8\nb\n", (unsigned long long)(align_down(at, 1 << 20) / 512));
    for (uint64_t done = 0; done < bytes;) {
        uint64_t n = bytes - done < TRACE_REQUEST_MAX_BYTES ? bytes - done : TRACE_REQUEST_MAX_BYTES;
        fprintf(m->file, "r %llu %llu\n", (unsigned long long)((at + done) / 512), (unsigned long long)(n / 512));
        done += n;
        if (++m->since_wait % 4 == 0) fputs("b\n", m->file);
    }
    return bytes;
}

static void make_private_writes(struct maker *m)
{
    uint64_t base = m->size_bytes - m->private_bytes;
    for (unsigned i = 0, n = 1 + (unsigned)bench_random_below(&m->rng, 4); i < n; i++) {
        uint64_t blocks = 1 + bench_random_below(&m->rng, 8);
        uint64_t at = base + bench_random_below(&m->rng, m->private_bytes / 4096 - blocks) * 4096;
        fprintf(m->file, "w %llu %llu\n", (unsigned long long)(at / 512), (unsigned long long)(blocks * 8));
    }
    if (bench_random_below(&m->rng, 4) == 0) fputs("f\nb\n", m->file);
}

int bench_make_trace(const char *path, uint64_t size_bytes, uint64_t working_set_bytes, uint64_t seed)
{
    struct maker m = {.rng = seed, .size_bytes = align_down(size_bytes, 4096)};
    m.private_bytes = align_down(size_bytes / 8, 4096);
    if (size_bytes < (64u << 20) || working_set_bytes > size_bytes / 2) {
        fprintf(stderr, "vhost-blk-bench: a trace needs a disk of at least 64M and twice its working set\n");
        return 2;
    }
    m.file = fopen(path, "we");
    if (!m.file) {
        fprintf(stderr, "vhost-blk-bench: %s: %s\n", path, strerror(errno));
        return 2;
    }
    fprintf(m.file, "# a boot: %llu bytes read of a disk of %llu, writes in its last eighth\n",
            (unsigned long long)working_set_bytes, (unsigned long long)size_bytes);
    for (uint64_t done = 0; done < working_set_bytes;) {
        done += make_file_read(&m, working_set_bytes - done);
        if (bench_random_below(&m.rng, 2)) make_private_writes(&m);
    }
    fputs("f\nb\n", m.file);
    if (fclose(m.file) == 0) return 0;
    fprintf(stderr, "vhost-blk-bench: writing %s: %s\n", path, strerror(errno));
    return 2;
}
