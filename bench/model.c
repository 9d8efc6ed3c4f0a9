/* SPDX-License-Identifier: Apache-2.0 */
#include "model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512u
#define SECTOR_WORDS (SECTOR / 8)
#define SECTOR_MAGIC UINT64_C(0x43726564426c6f63)

struct model_file_header {
    char magic[8];
    uint64_t seed, offset_bytes, block_count;
    uint32_t block_bytes, reserved;
};

static const char file_magic[8] = "CRDMODL1";

int model_new(struct model *m, const struct bench_options *o, uint64_t block_count, struct errmsg *e)
{
    *m = (struct model){.block_bytes = o->block_bytes,
                        .initial = o->initial,
                        .seed = o->seed,
                        .offset_bytes = o->offset_bytes,
                        .block_count = block_count};
    m->generation = calloc(block_count, sizeof *m->generation);
    return m->generation ? 0 : errmsg_sys(e, ENOMEM, "a model of %llu blocks", (unsigned long long)block_count);
}

void model_clear(struct model *m)
{
    free(m->generation);
    m->generation = NULL;
}

int model_load(struct model *m, const char *path, struct errmsg *e)
{
    struct model_file_header h;
    FILE *file = fopen(path, "re");
    if (!file) return errmsg_sys(e, errno, "%s", path);
    int ret = 0;
    if (fread(&h, sizeof h, 1, file) != 1 || memcmp(h.magic, file_magic, sizeof h.magic) != 0) {
        ret = errmsg_set(e, EINVAL, "%s is no model", path);
    } else if (h.block_bytes != m->block_bytes || h.block_count != m->block_count ||
               h.offset_bytes != m->offset_bytes) {
        ret = errmsg_set(e, EINVAL, "%s: made for %llu blocks of %u bytes at %llu; this run has %llu of %u at %llu",
                         path, (unsigned long long)h.block_count, h.block_bytes, (unsigned long long)h.offset_bytes,
                         (unsigned long long)m->block_count, m->block_bytes, (unsigned long long)m->offset_bytes);
    } else if (fread(m->generation, sizeof *m->generation, m->block_count, file) != m->block_count) {
        ret = errmsg_set(e, EINVAL, "%s is cut short", path);
    } else {
        m->seed = h.seed;
    }
    fclose(file);
    return ret;
}

int model_save(const struct model *m, const char *path, struct errmsg *e)
{
    struct model_file_header h = {
        .seed = m->seed, .offset_bytes = m->offset_bytes, .block_count = m->block_count, .block_bytes = m->block_bytes};
    memcpy(h.magic, file_magic, sizeof h.magic);
    FILE *file = fopen(path, "we");
    if (!file) return errmsg_sys(e, errno, "%s", path);
    bool good = fwrite(&h, sizeof h, 1, file) == 1 &&
                fwrite(m->generation, sizeof *m->generation, m->block_count, file) == m->block_count;
    if (fclose(file) != 0) good = false;
    return good ? 0 : errmsg_sys(e, errno, "writing %s", path);
}

/* ---- Content ---- */

static uint64_t content_word(const struct model *m, uint64_t at, uint32_t generation)
{
    return pattern_word(at ^ m->seed << 40) * (2 * (uint64_t)generation + 1);
}

static void sector_words(const struct model *m, uint64_t offset, uint32_t generation, uint64_t *w)
{
    w[0] = SECTOR_MAGIC ^ m->seed;
    w[1] = offset;
    w[2] = generation;
    for (unsigned i = 3; i < SECTOR_WORDS; i++) {
        w[i] = content_word(m, offset + i * 8, generation);
    }
}

void model_fill(const struct model *m, uint64_t block, uint32_t generation, void *data)
{
    for (uint32_t at = 0; at < m->block_bytes; at += SECTOR) {
        uint64_t words[SECTOR_WORDS];
        sector_words(m, model_offset(m, block) + at, generation, words);
        memcpy((char *)data + at, words, SECTOR);
    }
}

static void expected_sector(const struct model *m, uint64_t block, uint32_t at, uint64_t *words)
{
    uint32_t generation = m->generation[block];
    uint64_t offset = model_offset(m, block) + at;
    if (generation & MODEL_ZEROED || (generation == 0 && m->initial == INITIAL_ZERO)) {
        memset(words, 0, SECTOR);
    } else if (generation == 0) {
        pattern_fill(words, offset, SECTOR);
    } else {
        sector_words(m, offset, generation, words);
    }
}

static void describe_found(const struct model *m, uint64_t offset, const uint64_t *found, char *text, size_t room)
{
    uint64_t ours[SECTOR_WORDS], zero = 0;
    for (unsigned i = 0; i < SECTOR_WORDS; i++) {
        zero |= found[i];
    }
    if (zero == 0) {
        snprintf(text, room, "zeroes");
        return;
    }
    if (found[0] == (SECTOR_MAGIC ^ m->seed)) {
        sector_words(m, found[1], (uint32_t)found[2], ours);
        bool whole = memcmp(ours, found, SECTOR) == 0;
        snprintf(text, room, "generation %u of offset %llu%s", (uint32_t)found[2] & ~MODEL_ZEROED,
                 (unsigned long long)found[1], whole ? "" : ", damaged");
        return;
    }
    pattern_fill(ours, offset, SECTOR);
    if (memcmp(ours, found, SECTOR) == 0) {
        snprintf(text, room, "the base image's pattern");
    } else {
        snprintf(text, room, "unknown content (%016llx %016llx ...)", (unsigned long long)found[0],
                 (unsigned long long)found[1]);
    }
}

int model_check(const struct model *m, uint64_t block, const void *data, struct errmsg *e)
{
    uint32_t generation = m->generation[block];
    for (uint32_t at = 0; at < m->block_bytes; at += SECTOR) {
        uint64_t expected[SECTOR_WORDS], found[SECTOR_WORDS];
        expected_sector(m, block, at, expected);
        if (memcmp(expected, (const char *)data + at, SECTOR) == 0) continue;
        memcpy(found, (const char *)data + at, SECTOR);
        uint64_t offset = model_offset(m, block) + at;
        char what[128];
        describe_found(m, offset, found, what, sizeof what);
        return errmsg_set(e, EILSEQ, "offset %llu: expected generation %u%s, found %s", (unsigned long long)offset,
                          generation & ~MODEL_ZEROED, generation & MODEL_ZEROED ? " (zeroes)" : "", what);
    }
    return 0;
}
