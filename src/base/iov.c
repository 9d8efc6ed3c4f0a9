/* SPDX-License-Identifier: Apache-2.0 */
#include "base/iov.h"

#include <string.h>

size_t iov_bytes(const struct iovec *iov, unsigned count)
{
    size_t sum = 0;
    for (unsigned i = 0; i < count; i++)
        sum += iov[i].iov_len;
    return sum;
}

int iov_slice(struct iovec *dst, unsigned dst_max, const struct iovec *src, unsigned src_count, size_t offset_bytes,
              size_t length_bytes)
{
    unsigned n = 0;
    for (unsigned i = 0; i < src_count && length_bytes > 0; i++) {
        if (offset_bytes >= src[i].iov_len) {
            offset_bytes -= src[i].iov_len;
            continue;
        }
        size_t take = src[i].iov_len - offset_bytes;
        if (take > length_bytes) take = length_bytes;
        if (n == dst_max) return -1;
        dst[n++] = (struct iovec){(char *)src[i].iov_base + offset_bytes, take};
        offset_bytes = 0;
        length_bytes -= take;
    }
    return length_bytes ? -1 : (int)n;
}

enum iov_move { FROM_IOV, TO_IOV, ZERO_IOV };

static inline size_t iov_walk(enum iov_move how, const struct iovec *iov, unsigned count, size_t offset_bytes,
                              char *flat, size_t length_bytes)
{
    size_t moved = 0;
    for (unsigned i = 0; i < count && moved < length_bytes; i++) {
        if (offset_bytes >= iov[i].iov_len) {
            offset_bytes -= iov[i].iov_len;
            continue;
        }
        char *at = (char *)iov[i].iov_base + offset_bytes;
        size_t take = iov[i].iov_len - offset_bytes;
        if (take > length_bytes - moved) take = length_bytes - moved;
        if (how == FROM_IOV) memcpy(flat + moved, at, take);
        else if (how == TO_IOV) memcpy(at, flat + moved, take);
        else memset(at, 0, take);
        offset_bytes = 0;
        moved += take;
    }
    return moved;
}

size_t iov_copy_from(void *dst, const struct iovec *iov, unsigned count, size_t offset_bytes, size_t length_bytes)
{
    return iov_walk(FROM_IOV, iov, count, offset_bytes, dst, length_bytes);
}

size_t iov_copy_to(const struct iovec *iov, unsigned count, size_t offset_bytes, const void *src, size_t length_bytes)
{
    return iov_walk(TO_IOV, iov, count, offset_bytes, (char *)(uintptr_t)src, length_bytes);
}

size_t iov_zero(const struct iovec *iov, unsigned count, size_t offset_bytes, size_t length_bytes)
{
    return iov_walk(ZERO_IOV, iov, count, offset_bytes, NULL, length_bytes);
}

bool iov_aligned(const struct iovec *iov, unsigned count, size_t align)
{
    uintptr_t bits = 0;
    for (unsigned i = 0; i < count; i++)
        bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return (bits & (align - 1)) == 0;
}
