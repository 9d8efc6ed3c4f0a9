/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest with a card does, for tests that use cmocka: frames out of buffers of any shape, and into them.
 */
#ifndef VIF_TEST_TRAFFIC_H
#define VIF_TEST_TRAFFIC_H

#include "vif/test_card.h"

#define TRAFFIC_PIECES_MAX 128u
#define TRAFFIC_ROOM 70000u /* of a slot for a frame */

extern uint64_t traffic_state; /* of the generator */
uint64_t traffic_pick(uint64_t below);

/* Put header and frame (bytes) into slot's buffer of the transmit queue and make a chain of at most `pieces` pieces of it. */
bool traffic_send_bytes(struct card *c, unsigned pair, unsigned slot, const void *bytes, size_t length, unsigned pieces,
                        bool indirect);
/* On the first pair, published. */
void traffic_send_frame(struct card *c, const struct virtio_net_hdr *h, const void *frame, size_t length,
                        unsigned pieces);
/* How many chains came back. */
unsigned traffic_sent_back(struct card *c, unsigned pair);
/* The frame's bytes as the packet has them, checked for what any packet must be. */
size_t traffic_packet_bytes(const struct packet *p, uint8_t *out);

/* Make a receive buffer of `bytes` in at most `pieces` pieces, named by where it is. */
bool traffic_post(struct card *c, unsigned pair, size_t at, size_t bytes, unsigned pieces, bool indirect);
/* The next frame that came: its header, and its bytes in out. 0: none. */
size_t traffic_get(struct card *c, unsigned pair, struct virtio_net_hdr *h, uint8_t *out, unsigned *buffers);

void traffic_deliver(struct card *c, struct packet *const *packets, unsigned count);
struct vif_stats traffic_stats(struct card *c);

#endif
