/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums over memory. Large ones are memory-bound or nearly so: 32-bit words are added into 64-bit lanes of vectors, which
 * needs no carries.
 */
#include "packet/checksum.h"
#include "packet/wire.h"

#include <assert.h>
#include <string.h>

/* CHECKSUM_PORTABLE: as on any other processor, for its test. */
#if defined(__x86_64__) && !defined(CHECKSUM_PORTABLE)
#define HAVE_X86 1
#else
#define HAVE_X86 0
#endif

#define BLOCK_BYTES 64u
/* gcc's and clang's vectors: one AVX2 register, or two of SSE2 or NEON. */
typedef uint64_t vector __attribute__((vector_size(BLOCK_BYTES / 2)));

/* Whole blocks of 64 bytes; lanes cannot overflow below 2^32 blocks. */
static inline __attribute__((always_inline)) uint64_t sum_blocks(const uint8_t *at, size_t blocks)
{
    vector low0 = {0}, low1 = {0}, high0 = {0}, high1 = {0};
    for (; blocks > 0; blocks--, at += BLOCK_BYTES) {
        vector a, b;
        memcpy(&a, at, sizeof a);
        memcpy(&b, at + sizeof a, sizeof b);
        low0 += a & 0xffffffff;
        high0 += a >> 32;
        low1 += b & 0xffffffff;
        high1 += b >> 32;
    }
    vector all = low0 + low1 + high0 + high1;
    return all[0] + all[1] + all[2] + all[3];
}

#if HAVE_X86
__attribute__((target("avx2"))) static uint64_t sum_blocks_avx2(const uint8_t *at, size_t blocks)
{
    return sum_blocks(at, blocks);
}
#endif

static uint64_t sum_large(const uint8_t *at, size_t blocks)
{
#if HAVE_X86
    if (__builtin_cpu_supports("avx2")) return sum_blocks_avx2(at, blocks);
#endif
    return sum_blocks(at, blocks);
}

/* Headers, and what is left of a payload. No more than 2^31 words: no carries. */
static inline uint64_t sum_small(const uint8_t *at, size_t n)
{
    uint64_t sum = 0;
    uint32_t words;
    uint16_t word;
    for (; n >= 4; n -= 4, at += 4) {
        memcpy(&words, at, 4);
        sum += words;
    }
    if (n & 2) {
        memcpy(&word, at, 2);
        sum += word;
        at += 2;
    }
    if (n & 1) {
        word = 0;
        memcpy(&word, at, 1);
        sum += word;
    }
    return sum;
}

uint64_t csum_memory(const void *data, size_t n)
{
    const uint8_t *at = data;
    if (n < 2 * BLOCK_BYTES) return sum_small(at, n);
    size_t blocks = n / BLOCK_BYTES;
    uint64_t sum = sum_large(at, blocks) + sum_small(at + blocks * BLOCK_BYTES, n % BLOCK_BYTES);
    return (sum & 0xffffffff) + (sum >> 32);
}

/* Visits the pieces of frame bytes [at, at + n). */
struct pieces {
    const struct packet *packet;
    uint32_t at, left;
    unsigned entry; /* of the body */
    size_t skip;    /* in that entry */
};

static struct pieces pieces_of(const struct packet *p, uint32_t at, uint32_t n)
{
    assert(at <= p->length_bytes && n <= p->length_bytes - at);
    struct pieces s = {.packet = p, .at = at, .left = n};
    if (at < p->head_bytes) return s;
    s.skip = at - p->head_bytes;
    while (s.entry < p->body_count && s.skip >= p->body[s.entry].iov_len)
        s.skip -= p->body[s.entry++].iov_len;
    return s;
}

static bool pieces_next(struct pieces *s, struct iovec *piece)
{
    if (s->left == 0) return false;
    const struct packet *p = s->packet;
    if (s->at < p->head_bytes) {
        *piece = (struct iovec){p->head + s->at, p->head_bytes - s->at};
    } else {
        assert(s->entry < p->body_count);
        const struct iovec *e = &p->body[s->entry++];
        *piece = (struct iovec){(char *)e->iov_base + s->skip, e->iov_len - s->skip};
        s->skip = 0;
    }
    if (piece->iov_len > s->left) piece->iov_len = s->left;
    s->at += (uint32_t)piece->iov_len;
    s->left -= (uint32_t)piece->iov_len;
    return true;
}

uint64_t packet_csum(const struct packet *p, uint32_t at, uint32_t n)
{
    struct pieces s = pieces_of(p, at, n);
    struct iovec piece;
    uint64_t sum = 0;
    bool odd = false;
    while (pieces_next(&s, &piece)) {
        uint64_t part = csum_memory(piece.iov_base, piece.iov_len);
        sum += odd ? csum_shift(part) : part;
        odd ^= piece.iov_len & 1;
    }
    return sum;
}

uint64_t packet_csum_pseudo(const struct packet *p, uint16_t l3_at, uint8_t version, uint8_t proto, uint32_t bytes)
{
    /* Source and destination are neighbours in both headers. */
    uint32_t at = version == 4 ? offsetof(struct wire_ipv4, src) : offsetof(struct wire_ipv6, src);
    return csum_memory(p->head + l3_at + at, version == 4 ? 8 : 32) + csum_of_u16(proto) + csum_of_u32(bytes);
}

bool packet_finish_csum(struct packet_pool *pool, struct packet *p)
{
    const struct packet_offload *o = &p->offload;
    if (!o->csum_partial) return true;
    uint32_t field_at = (uint32_t)o->csum_start + o->csum_offset;
    if (field_at + 2 > p->length_bytes || field_at + 2 > PACKET_BUFFER_BYTES) return false;
    if (!packet_pull(pool, p, (uint16_t)(field_at + 2))) return false;
    struct be16 field = csum_finished(packet_csum(p, o->csum_start, p->length_bytes - o->csum_start));
    /* Zero means "no checksum" in UDP, which alone has the field there. */
    if (o->csum_offset == UDP_CSUM_OFFSET && csum_of_be16(field) == 0) field = be16_make(0xffff);
    memcpy(p->head + field_at, field.raw, sizeof field.raw);
    p->offload.csum_partial = false;
    return true;
}

/* ---- CRC32c ---- */

/* The table's entries for bits 0..7; all others are their sums (the reflected polynomial 0x82f63b78). */
#define CRC_ENTRY(i)                                                                                                   \
    (((i)&1 ? 0xf26b8303 : 0) ^ ((i)&2 ? 0xe13b70f7 : 0) ^ ((i)&4 ? 0xc79a971f : 0) ^ ((i)&8 ? 0x8ad958cf : 0) ^       \
     ((i)&16 ? 0x105ec76f : 0) ^ ((i)&32 ? 0x20bd8ede : 0) ^ ((i)&64 ? 0x417b1dbc : 0) ^ ((i)&128 ? 0x82f63b78 : 0))
#define CRC_4(i) CRC_ENTRY(i), CRC_ENTRY((i) + 1), CRC_ENTRY((i) + 2), CRC_ENTRY((i) + 3)
#define CRC_16(i) CRC_4(i), CRC_4((i) + 4), CRC_4((i) + 8), CRC_4((i) + 12)
#define CRC_64(i) CRC_16(i), CRC_16((i) + 16), CRC_16((i) + 32), CRC_16((i) + 48)
static const uint32_t crc_table[256] = {CRC_64(0), CRC_64(64), CRC_64(128), CRC_64(192)};

static uint32_t crc_bytes_by_table(uint32_t crc, const uint8_t *at, size_t n)
{
    for (; n > 0; n--)
        crc = crc >> 8 ^ crc_table[(uint8_t)(crc ^ *at++)];
    return crc;
}

#if HAVE_X86
__attribute__((target("sse4.2"))) static uint32_t crc_bytes_by_instruction(uint32_t crc, const uint8_t *at, size_t n)
{
    uint64_t wide = crc;
    for (; n >= 8; n -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; n > 0; n--)
        crc = __builtin_ia32_crc32qi(crc, *at++);
    return crc;
}
#endif

uint32_t crc32c_bytes(uint32_t crc, const void *data, size_t n)
{
#if HAVE_X86
    if (__builtin_cpu_supports("sse4.2")) return crc_bytes_by_instruction(crc, data, n);
#endif
    return crc_bytes_by_table(crc, data, n);
}

uint32_t crc32c_zeros(uint32_t crc, size_t n)
{
    static const uint8_t zeros[256];
    for (; n > sizeof zeros; n -= sizeof zeros)
        crc = crc32c_bytes(crc, zeros, sizeof zeros);
    return crc32c_bytes(crc, zeros, n);
}

uint32_t packet_crc32c(const struct packet *p, uint32_t at, uint32_t n, uint32_t field_at)
{
    assert(field_at >= at && n >= 4 && field_at - at <= n - 4);
    uint32_t crc = ~0u;
    struct iovec piece;
    for (struct pieces s = pieces_of(p, at, field_at - at); pieces_next(&s, &piece);)
        crc = crc32c_bytes(crc, piece.iov_base, piece.iov_len);
    crc = crc32c_zeros(crc, 4);
    for (struct pieces s = pieces_of(p, field_at + 4, at + n - (field_at + 4)); pieces_next(&s, &piece);)
        crc = crc32c_bytes(crc, piece.iov_base, piece.iov_len);
    return ~crc;
}
