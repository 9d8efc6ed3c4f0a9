/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header before a frame of a tap or packet socket, and the frame, both of them hostile: what is accepted goes out of a port that
 * takes nothing, so that its checksums and segments are made here.
 *
 * input: the header (10 bytes), the port's MTU and takes (2 bytes, 1 byte), the frame.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "port/frame.h"
#include "port/port.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t buffer[FRAME_BUFFER_BYTES];
static uint8_t out[PACKET_MAX_BYTES];

static void check(bool ok)
{
    if (!ok) abort();
}

static void receive(struct port *port, struct packet *const *packets, unsigned count, struct packet_pool *pool)
{
    uint32_t takes = atomic_load(&port->takes);
    check(count >= 1 && count <= PACKET_BATCH);
    for (unsigned i = 0; i < count; i++) {
        const struct packet *p = packets[i];
        check(p->length_bytes >= p->head_bytes && p->length_bytes <= PACKET_MAX_BYTES);
        check(!p->offload.csum_partial || takes & PORT_TAKES_CSUM);
        check(!p->offload.gso || takes & ~PORT_TAKES_CSUM);
        packet_read(p, 0, out, p->length_bytes);
    }
}

static const struct port_ops ops = {.type = "fuzz", .send = receive};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct packet_pool *pool;
    if (!pool) pool = packet_pool_new();
    const size_t before = VNET_HEADER_BYTES + 3;
    if (size < before || size - before > PACKET_MAX_BYTES) return 0;
    uint8_t *frame = buffer + PACKET_ROOM_BYTES;
    memcpy(frame - VNET_HEADER_BYTES, data, VNET_HEADER_BYTES);
    memcpy(frame, data + before, size - before);
    struct packet p, *packets[] = {&p};
    struct iovec body;
    if (!frame_packet(&p, &body, frame, size - before)) return 0;
    if (!vnet_read(frame - VNET_HEADER_BYTES, &p)) return 0;
    struct port port;
    port_init(&port, &ops, "fuzz");
    atomic_store(&port.mtu, (uint32_t)(data[10] | data[11] << 8));
    atomic_store(&port.takes, data[12] & PORT_TAKES_ALL);
    port_send(&port, packets, 1, pool);
    packet_pool_reset(pool);
    return 0;
}
