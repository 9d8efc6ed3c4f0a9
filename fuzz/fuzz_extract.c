/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a frame's head. The first three of the input: how much of the rest is in the head, and how long the frame is. */
#include <stddef.h>
#include <stdint.h>

#include "packet/packet.h"
#include "switch/extract_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    size_t head = size - 3 < PACKET_HEAD_BYTES ? size - 3 : PACKET_HEAD_BYTES;
    if (data[0] < head) head -= data[0];
    uint32_t length = (uint32_t)head + (data[1] < 128 ? 0 : (uint32_t)data[1] << 8 | data[2]);
    extract_check(data + 3, (uint16_t)head, length);
    return 0;
}
