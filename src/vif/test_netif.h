/* SPDX-License-Identifier: Apache-2.0 */
/* A simulated machine with one guest, its front end, and its card: what the tests of a Xen guest's card begin with. */
#ifndef VIF_TEST_NETIF_H
#define VIF_TEST_NETIF_H

#include "vif/netif_impl.h"
#include "vif/test_card.h"
#include "vif/test_netfront.h"

#define BED_DOMID 7

struct netif_bed {
    char dir[64];
    struct sim *sim;
    struct xen_budget budget;
    atomic_uint mappers;
    struct vif_kept kept;
    struct netif_state *state;
    struct vif *vif;
    struct netfront front;
    void (*barrier)(void *arg); /* of cards to come; NULL: there are no threads */
};

extern const struct netif_front bed_takes_all;

/* What does not work ends the test program. */
void bed_open(struct netif_bed *b, unsigned queues, bool split, enum netif_transmit transmit,
              const struct netif_front *front);
/* And nothing is left: no page mapped, no port bound. */
void bed_close(struct netif_bed *b);
int bed_card_try(struct netif_bed *b, unsigned queues, enum netif_transmit transmit, struct errmsg *e);
void bed_card_new(struct netif_bed *b, unsigned queues, enum netif_transmit transmit);
/* The card's process ends, another one takes its place; it is not connected. */
void bed_restart(struct netif_bed *b, enum netif_transmit transmit);
void bed_connect(struct netif_bed *b, const struct netif_front *front, bool resume);
/* As a runner would; then bed_release(), when there were any. */
int bed_receive(struct netif_bed *b, unsigned queue, struct packet **out);
void bed_release(struct netif_bed *b, unsigned queue);
void bed_deliver(struct netif_bed *b, struct packet *const *packets, unsigned count);

#endif
