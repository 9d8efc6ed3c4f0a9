/* SPDX-License-Identifier: Apache-2.0 */
/* Between vdisk.c (what an operator asks for) and vdisk_worker.c (the worker's life). */
#ifndef CONTROL_VDISK_INTERNAL_H
#define CONTROL_VDISK_INTERNAL_H

#include "control/vdisk.h"

/* Start a worker now. Failing is dealt with inside: d may be gone afterwards. */
void vdisk_worker_start(struct vdisk *d);
/* Look for a worker of an earlier daemon. False: there is none, or it was killed and will be replaced. */
bool vdisk_worker_adopt(struct vdisk *d);
/* Ask it to leave (upgrade) or to quit. */
void vdisk_worker_leave(struct vdisk *d);
void vdisk_worker_quit(struct vdisk *d);
/* Let go of the worker, which runs on, and of all descriptors. */
void vdisk_worker_release(struct vdisk *d);
void vdisk_refresh_cache(struct vdisk *d);
bool vdisk_holds(const struct vdisk *d, const char *name);

/* Answer the operation going on, if any. */
void vdisk_finish_operation(struct vdisk *d, int code, const char *message);
/* The worker is gone for good: answer, remove what is left of the disk, free it. */
void vdisk_gone(struct vdisk *d, int code, const char *message);

#endif
