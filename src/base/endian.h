/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Integers with a byte order. A value read from a wire, an image or a guest is a struct of one
 * member, so that using it without converting it does not compile. All are byte arrays inside:
 * no alignment is needed and any packed structure may be built from them.
 */
#ifndef BASE_ENDIAN_H
#define BASE_ENDIAN_H

#include <stdint.h>
#include <string.h>

struct be16 {
    uint8_t raw[2];
};
struct be32 {
    uint8_t raw[4];
};
struct be64 {
    uint8_t raw[8];
};
struct le16 {
    uint8_t raw[2];
};
struct le32 {
    uint8_t raw[4];
};
struct le64 {
    uint8_t raw[8];
};

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ENDIAN_BE(bits, v) ((uint##bits##_t)__builtin_bswap##bits(v))
#define ENDIAN_LE(bits, v) (v)
#else
#define ENDIAN_BE(bits, v) (v)
#define ENDIAN_LE(bits, v) ((uint##bits##_t)__builtin_bswap##bits(v))
#endif

#define ENDIAN_DEFINE(order, ORDER, bits)                                                                              \
    static inline uint##bits##_t order##bits##_get(struct order##bits x)                                               \
    {                                                                                                                  \
        uint##bits##_t v;                                                                                              \
        memcpy(&v, x.raw, sizeof v);                                                                                   \
        return ENDIAN_##ORDER(bits, v);                                                                                \
    }                                                                                                                  \
    static inline struct order##bits order##bits##_make(uint##bits##_t v)                                              \
    {                                                                                                                  \
        struct order##bits x;                                                                                          \
        v = ENDIAN_##ORDER(bits, v);                                                                                   \
        memcpy(x.raw, &v, sizeof v);                                                                                   \
        return x;                                                                                                      \
    }

ENDIAN_DEFINE(be, BE, 16)
ENDIAN_DEFINE(be, BE, 32)
ENDIAN_DEFINE(be, BE, 64)
ENDIAN_DEFINE(le, LE, 16)
ENDIAN_DEFINE(le, LE, 32)
ENDIAN_DEFINE(le, LE, 64)

#endif
