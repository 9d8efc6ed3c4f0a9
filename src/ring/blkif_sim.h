/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block front end: the guest's half of a blkif ring, in all layouts, as Xen's public io/blkif.h asks it to behave. Tests, fuzzers
 * and load generators put it opposite a backend (blkif.h) on plain shared memory; no program of the product links it. It also
 * watches the backend: what no correct one does (an answer to nothing, a second answer, another operation's, an index that
 * jumps) is kept in `error`.
 *
 * The struct is all that there is to it: a copy of it is a second front end in the same state.
 *
 * Thread-safety: one thread per front end; the backend may be in any thread or process.
 */
#ifndef RING_BLKIF_SIM_H
#define RING_BLKIF_SIM_H

#include "ring/blkif.h"

#define BLKIF_SIM_ENTRIES_MAX 512u

struct blkif_sim {
    void *ring;
    enum blkif_abi abi;
    unsigned entries;
    uint32_t req_prod; /* added up to here; the ring's may be behind */
    uint32_t published;
    uint32_t rsp_cons;
    unsigned in_flight;
    const char *error; /* NULL: the backend behaved */
    struct {
        uint32_t generation; /* in the ids that the backend sees: an old one is found out */
        uint8_t op;
        bool open;
        uint64_t token;
    } slot[BLKIF_SIM_ENTRIES_MAX];
};

/* A request to be added: `op`, `sector`, and segments, or indirect pages (indirect_pages, indirect_ref; segment_count is what they
 * hold), or discard_sectors and discard_flags. The rest is not looked at. */

/* Clears the indices. */
void blkif_sim_init(struct blkif_sim *s, void *ring, unsigned pages, enum blkif_abi abi);

/* Add one under a name of the caller's. False: the ring is full. */
bool blkif_sim_add(struct blkif_sim *s, const struct blkif_request *q, uint64_t token);
/* Make visible what was added. True: the backend is to be notified. */
bool blkif_sim_publish(struct blkif_sim *s);
/* The next answer; false when there is none, or after an error. */
bool blkif_sim_get(struct blkif_sim *s, uint64_t *token, int *status);
/* Ask for an event with the next answer. True: one is there already. */
bool blkif_sim_final_check(struct blkif_sim *s);

#endif
