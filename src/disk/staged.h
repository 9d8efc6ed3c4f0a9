/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data path of 6.2, kept to compare against (`--datapath=staged`): between the ring and the disk stands one
 * more party, as the kernel's block device stood between guest and tapdisk then.
 *
 *      queue thread                    stage thread (one per disk)
 *      guest buffer --copy--> slot ==hop==> slot --copy--> own buffer --> the chain
 *      guest buffer <--copy-- slot <==hop== slot <--copy-- own buffer <-- the chain
 *
 * Two copies and two wake-ups for every request. The slots are what a ring of that time held: 32 requests of eleven 4 KiB
 * segments per queue; larger requests go in pieces, more requests wait.
 *
 * The staged layer is opened on top of a chain and its channels are opened alone, not with those of the chain:
 * the stage thread has its own.
 */
#ifndef DISK_STAGED_H
#define DISK_STAGED_H

#include "disk/disk.h"

#define STAGED_SLOTS 32u
#define STAGED_SLOT_BYTES (11u * 4096u)

/* For who has something to do on the stage thread with the channels there. All may be NULL. */
struct staged_hooks {
    int (*opened)(void *arg, struct engine *e, const struct disk_chans *chans); /* before any request; 0 or -errno */
    void (*closed)(void *arg); /* opened() succeeded; engine still there */
    void *arg;
};

/* layers[0] is the leaf; they outlive this layer, which closes none of them. hooks may be NULL.
 * Starts the stage thread. 0 or -errno. */
int layer_staged_open(struct layer **out, struct layer *const *layers, unsigned count, const struct engine_maker *maker,
                      const struct staged_hooks *hooks, struct errmsg *e);

/* Run it on the stage thread, and return when it has. Not from there. */
void layer_staged_call(struct layer *l, void (*run)(void *arg), void *arg);

#endif
