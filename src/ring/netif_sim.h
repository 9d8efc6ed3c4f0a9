/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network front end's half of the two rings, as Xen's public io/netif.h asks it to behave. Tests, fuzzers and load generators put
 * it opposite a backend (netif.h) on plain shared memory; no program of the product uses it. It also watches the backend: an answer
 * that is not its request's, an index that jumps, a second answer are kept in `error`.
 *
 * The struct is all that there is to it: a copy of it is a second front end in the same state.
 *
 * Thread-safety: one thread per ring; the backend may be in any thread or process.
 */
#ifndef RING_NETIF_SIM_H
#define RING_NETIF_SIM_H

#include "ring/netif.h"
#include "ring/netif_wire.h"

struct netif_sim {
    void *ring;
    bool transmit;
    uint32_t req_prod; /* added up to here; the ring's may be behind */
    uint32_t published;
    uint32_t rsp_cons;
    const char *error;          /* NULL: the backend behaved */
    uint16_t id[NETIF_ENTRIES]; /* by index; of an extra info: NETIF_SIM_EXTRA */
};
#define NETIF_SIM_EXTRA UINT16_MAX

/* Clears the indices. */
void netif_sim_init(struct netif_sim *s, void *ring, bool transmit);
unsigned netif_sim_free(const struct netif_sim *s); /* entries that could be added */

/* Entries as they are; false: the ring is full. Ids are below NETIF_SIM_EXTRA. */
bool netif_sim_add_tx(struct netif_sim *s, const struct netif_wire_tx *w);
bool netif_sim_add_extra(struct netif_sim *s, const struct netif_wire_extra *x);
bool netif_sim_add_rx(struct netif_sim *s, uint16_t id, uint32_t ref);
/* Make visible what was added. True: the backend is to be notified. */
bool netif_sim_publish(struct netif_sim *s);

/* The next answer; false when there is none, or after an error. An extra info's is passed over. */
bool netif_sim_get_tx(struct netif_sim *s, uint16_t *id, int *status);
/* As it is (an extra info too: who reads knows from the flags before it); *id: what its request was given. */
bool netif_sim_get_rx(struct netif_sim *s, struct netif_wire_rx_response *w, uint16_t *id);
/* Ask for an event with the next answer. True: one is there already. */
bool netif_sim_final_check(struct netif_sim *s);

#endif
