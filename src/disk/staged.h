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

/* layers[0] is the leaf; they outlive this layer, which closes none of them. Starts the stage thread. 0 or -errno. */
int layer_staged_open(struct layer **out, struct layer *const *layers, unsigned count, const struct engine_maker *maker,
                      struct errmsg *e);

#endif
