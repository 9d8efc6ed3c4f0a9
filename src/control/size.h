/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes as people write and read them: a number with an optional suffix K, M, G, T, P or E (powers of 1024). */
#ifndef CONTROL_SIZE_H
#define CONTROL_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "512", "10G", "1.5T"; a fraction needs a suffix and must come to whole bytes or is cut to them. False: not
 * a size, or past 2^63 - 1. */
bool size_parse(const char *text, uint64_t *out_bytes);

#define SIZE_TEXT_MAX 16
/* "512 B", "1.5 KiB", "10 GiB": at most four digits. Returns out. */
const char *size_format(uint64_t bytes, char out[SIZE_TEXT_MAX]);

#endif
