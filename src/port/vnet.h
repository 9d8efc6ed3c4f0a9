/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header that Linux puts before a frame of a tap or of a packet socket (struct virtio_net_hdr, in the host's byte
 * order), and the offloads of packet/packet.h. What the kernel says is checked as if a guest had said it: a tap's other
 * end may be anybody's, and a wrong offset here would be a wrong write later.
 *
 * Source: Virtual I/O Device specification 1.2, section 5.1.6; linux/virtio_net.h.
 *
 * Thread-safety: none needed.
 */
#ifndef PORT_VNET_H
#define PORT_VNET_H

#include <stdbool.h>
#include <stdint.h>

#include "packet/packet.h"

#define VNET_HEADER_BYTES 10u

/* Sets p->offload from the header; the rest of p is filled in already. False: the header is impossible for this frame. */
bool vnet_read(const uint8_t header[VNET_HEADER_BYTES], struct packet *p);
void vnet_write(uint8_t header[VNET_HEADER_BYTES], const struct packet *p);

#endif
