/* SPDX-License-Identifier: Apache-2.0 */
/* Scattered buffers (struct iovec arrays): measuring, cutting, copying. Nothing here allocates. */
#ifndef BASE_IOV_H
#define BASE_IOV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Total bytes. The caller guarantees that the sum fits a size_t. */
size_t iov_bytes(const struct iovec *iov, unsigned count);

/*
 * Describe bytes [offset, offset + length) of src in dst, which holds dst_max entries.
 * Returns the number of entries used, or -1 when the range is not inside src or dst is too small.
 */
int iov_slice(struct iovec *dst, unsigned dst_max, const struct iovec *src, unsigned src_count, size_t offset_bytes,
              size_t length_bytes);

/* Copy to or from bytes [offset, ...) of the scattered buffer; returns the bytes copied, fewer
 * than asked only where the buffer ends. */
size_t iov_copy_from(void *dst, const struct iovec *iov, unsigned count, size_t offset_bytes, size_t length_bytes);
size_t iov_copy_to(const struct iovec *iov, unsigned count, size_t offset_bytes, const void *src, size_t length_bytes);

/* Set bytes [offset, offset + length) to zero; returns the bytes set. */
size_t iov_zero(const struct iovec *iov, unsigned count, size_t offset_bytes, size_t length_bytes);

/* True when every base and every length is a multiple of align (a power of two). */
bool iov_aligned(const struct iovec *iov, unsigned count, size_t align);

#endif
