/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Internet checksum (RFC 1071, 1624), and SCTP's CRC32c (RFC 9260, appendix B).
 *
 * A sum is kept as a uint64_t of 16-bit words in the order in which they lie in memory, with its carries: sums may be added up,
 * 2^31 of them, before they are folded. That the order is the machine's does not matter: the folded sum is stored the
 * same way (RFC 1071, section 2 B).
 */
#ifndef PACKET_CHECKSUM_H
#define PACKET_CHECKSUM_H

#include "base/endian.h"
#include "packet/packet.h"

/* Of n bytes; an odd last byte has a zero after it. */
uint64_t csum_memory(const void *data, size_t n);

/* Of frame bytes [at, at + n), which must exist. */
uint64_t packet_csum(const struct packet *p, uint32_t at, uint32_t n);

static inline uint16_t csum_fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* Of bytes that follow an odd number of others. */
static inline uint64_t csum_shift(uint64_t sum)
{
    return __builtin_bswap16(csum_fold(sum));
}

/* Words as terms of a sum. */
static inline uint64_t csum_of_be16(struct be16 v)
{
    uint16_t word;
    memcpy(&word, v.raw, sizeof word);
    return word;
}

static inline uint64_t csum_of_be32(struct be32 v)
{
    uint32_t words;
    memcpy(&words, v.raw, sizeof words);
    return words;
}

static inline uint64_t csum_of_u16(uint16_t v)
{
    return csum_of_be16(be16_make(v));
}

static inline uint64_t csum_of_u32(uint32_t v)
{
    return csum_of_be32(be32_make(v));
}

/* What is stored where a checksum is missing (offload.csum_partial), and the finished one. */
static inline struct be16 csum_unfinished(uint64_t sum)
{
    struct be16 field;
    uint16_t word = csum_fold(sum);
    memcpy(field.raw, &word, sizeof word);
    return field;
}

static inline struct be16 csum_finished(uint64_t sum)
{
    return csum_unfinished((uint16_t)~csum_fold(sum));
}

/* The checksum after words that sum up to `removed` were replaced by others (RFC 1624, equation 3). Right stays right and
 * wrong stays wrong. */
static inline struct be16 csum_update(struct be16 field, uint64_t removed, uint64_t added)
{
    return csum_finished((uint16_t)~csum_of_be16(field) + (uint64_t)(uint16_t)~csum_fold(removed) + csum_fold(added));
}

/* The same for a field that is unfinished. */
static inline struct be16 csum_update_unfinished(struct be16 field, uint64_t removed, uint64_t added)
{
    return csum_unfinished(csum_of_be16(field) + (uint64_t)(uint16_t)~csum_fold(removed) + csum_fold(added));
}

/* Pseudo headers; `bytes` of the L4 header and its payload. */
static inline uint64_t csum_pseudo_ipv4(struct be32 src, struct be32 dst, uint8_t proto, uint32_t bytes)
{
    return csum_of_be32(src) + csum_of_be32(dst) + csum_of_u16(proto) + csum_of_u32(bytes);
}

/* The one of the IPv4 or IPv6 header at l3_at, which lies in the head. */
uint64_t packet_csum_pseudo(const struct packet *p, uint16_t l3_at, uint8_t version, uint8_t proto, uint32_t bytes);

/* Do what offload.csum_partial says is missing, and clear it. False: the field does not lie within the frame, or too far
 * back to be written (PACKET_HEAD_BYTES), or the pool is empty: drop the packet. */
bool packet_finish_csum(struct packet_pool *pool, struct packet *p);

/* CRC32c: the register after n more bytes. It begins as ~0, and its complement is stored, least significant byte first. */
uint32_t crc32c_bytes(uint32_t crc, const void *data, size_t n);
uint32_t crc32c_zeros(uint32_t crc, size_t n); /* n zero bytes */
/* Finished, of frame bytes [at, at + n), taking the four bytes at frame byte field_at as zeros. */
uint32_t packet_crc32c(const struct packet *p, uint32_t at, uint32_t n, uint32_t field_at);

#endif
