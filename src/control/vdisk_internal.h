/* SPDX-License-Identifier: Apache-2.0 */
/* Between vdisk.c (what an operator asks for), vdisk_start.c (starting a worker) and vdisk_worker.c (its life). */
#ifndef CONTROL_VDISK_INTERNAL_H
#define CONTROL_VDISK_INTERNAL_H

#include "control/vdisk.h"

#define VDISK_ADOPT_LIMIT_MS 5000u
#define VDISK_EXIT_LIMIT_MS 5000u /* from its last answer to its end */
#define VDISK_FRONT_END_RETRY_MS 200u
#define VDISK_LOCK_RETRY_MS 20u /* of an image, whose last user may still be ending */
#define VDISK_LOCK_TRIES 25u

/* ---- vdisk_start.c ---- */

/* Start a worker now. Failing is dealt with inside: d may be gone afterwards. */
void vdisk_worker_start(struct vdisk *d);
bool vdisk_has_images(const struct vdisk *d);
/* All images are open: keep in mind, and on storage, which files they are. */
void vdisk_note_images(struct vdisk *d);
/* Ask for channels of the read cache and give them to the worker that serves. */
void vdisk_refresh_cache(struct vdisk *d);

/* ---- vdisk_worker.c ---- */

/* No worker runs: start one when this time has passed. */
void vdisk_wait_then_start(struct vdisk *d, uint64_t delay_ns);
/* No worker runs, and the last one was not asked to end: start one when it is time. d may be gone afterwards. */
void vdisk_start_again(struct vdisk *d, bool served, const char *why);
/* Kill the worker unless something else happens first. */
void vdisk_limit_ms(struct vdisk *d, unsigned ms);
/* Kill it now. What follows is decided when it has ended; if that takes long it is said. */
void vdisk_worker_kill(struct vdisk *d);
void vdisk_worker_exited(struct process *p, int status);
/* Connect to the worker's link. 0 or -errno. */
int vdisk_link_up(struct vdisk *d, struct errmsg *e);
void vdisk_is_serving(struct vdisk *d);
void vdisk_version_came(void *arg, const struct peer_answer *a); /* to `adopt` */
/* Look for a worker of an earlier daemon. False: there is none, or it was killed and will be replaced. */
bool vdisk_worker_adopt(struct vdisk *d);
/* Ask it to leave (upgrade) or to quit. */
void vdisk_worker_leave(struct vdisk *d);
void vdisk_worker_quit(struct vdisk *d);
/* Let go of the worker, which runs on, and of all descriptors. */
void vdisk_worker_release(struct vdisk *d);
bool vdisk_holds(const struct vdisk *d, const char *name);

/* ---- vdisk_xen.c ---- */

/* What the worker, as it is configured now, offers a Xen guest. */
void vdisk_note_offered(struct vdisk *d, json_t *result);
/* As much of the hypervisor's map-track table as its worker may use, of what others have left. */
void vdisk_share_map_entries(struct vdisk *d, json_t *xen);
/* Before it serves: the rings that are in use. False: there are none. */
bool vdisk_resume(struct vdisk *d);
/* The last daemon may have ended before it had told or heard all. True: as vdisk_resume(). */
bool vdisk_adopted_xen(struct vdisk *d, json_t *answer);

/* ---- vdisk.c ---- */

/* Answer the operation going on, if any. */
void vdisk_finish_operation(struct vdisk *d, int code, const char *message);
/* The worker is gone for good: answer, remove what is left of the disk, free it. */
void vdisk_gone(struct vdisk *d, int code, const char *message);

#endif
