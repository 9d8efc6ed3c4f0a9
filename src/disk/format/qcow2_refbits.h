/* SPDX-License-Identifier: Apache-2.0 */
/* Refcounts of 1 to 64 bits inside a refcount block (or a piece of one). `order` is log2 of the width. */
#ifndef DISK_FORMAT_QCOW2_REFBITS_H
#define DISK_FORMAT_QCOW2_REFBITS_H

#include <stdint.h>

#include "base/endian.h"

static inline uint64_t qcow2_ref_max(unsigned order)
{
    return order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
}

static inline uint64_t qcow2_ref_get(const void *block, unsigned order, uint64_t i)
{
    const uint8_t *data = block;
    switch (order) {
    case 0:
    case 1:
    case 2: {
        unsigned bits = 1u << order, per_byte = 8 >> order;
        return (data[i / per_byte] >> ((i % per_byte) * bits)) & ((1u << bits) - 1);
    }
    case 3: return data[i];
    case 4: return be16_get(((const struct be16 *)block)[i]);
    case 5: return be32_get(((const struct be32 *)block)[i]);
    default: return be64_get(((const struct be64 *)block)[i]);
    }
}

/* value is at most qcow2_ref_max(order). */
static inline void qcow2_ref_set(void *block, unsigned order, uint64_t i, uint64_t value)
{
    uint8_t *data = block;
    switch (order) {
    case 0:
    case 1:
    case 2: {
        unsigned bits = 1u << order, per_byte = 8 >> order;
        unsigned shift = (unsigned)(i % per_byte) * bits;
        unsigned kept = data[i / per_byte] & ~(((1u << bits) - 1) << shift);
        data[i / per_byte] = (uint8_t)(kept | (unsigned)value << shift);
        break;
    }
    case 3: data[i] = (uint8_t)value; break;
    case 4: ((struct be16 *)block)[i] = be16_make((uint16_t)value); break;
    case 5: ((struct be32 *)block)[i] = be32_make((uint32_t)value); break;
    default: ((struct be64 *)block)[i] = be64_make(value); break;
    }
}

#endif
