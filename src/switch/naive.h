/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: flows carried out in the most obvious way. A list of flows, looked through from its beginning for each
 * table; no masks, no caches. MPLS, PBB and NORMAL are not among what it can do.
 */
#ifndef SWITCH_NAIVE_H
#define SWITCH_NAIVE_H

#include "switch/flow.h"

#define NAIVE_FLOWS 512u
#define NAIVE_OUTPUTS 512u

struct naive {
    struct flow_spec flows[NAIVE_FLOWS]; /* the oldest first */
    unsigned count;
    uint32_t ports; /* a bit per number */
};

struct naive_result {
    unsigned count;
    struct {
        uint32_t port;
        struct flow_key key; /* of the frame that leaves */
    } out[NAIVE_OUTPUTS];
    bool deep;   /* more tags than a key shows */
    bool unsure; /* a header was to be read anew below tags that the key has no room for: none of it may be relied on */
};

/* The same as bridge_flow_*(). False: full. */
bool naive_add(struct naive *n, const struct flow_spec *f);
unsigned naive_delete(struct naive *n, const struct flow_spec *f, bool strict);
unsigned naive_modify(struct naive *n, const struct flow_spec *f, bool strict);
void naive_clear(struct naive *n);
void naive_run(const struct naive *n, const struct flow_key *k, struct naive_result *out);

#endif
