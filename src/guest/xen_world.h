/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which Xen a program serves: the host's, or, for tests and benchmarks, a machine that is simulated (guest/sim.h). A program that
 * shuts itself in opens its world, and as many doors as it will have threads, before it does.
 *
 * Thread-safety: none; a door belongs to one thread at a time.
 */
#ifndef GUEST_XEN_WORLD_H
#define GUEST_XEN_WORLD_H

#include "guest/xen.h"

struct xen_world;

/* name: NULL or "": the host's. "sim:DIR", "sim-direct:DIR" (maps are pointers into the guest's memory): a simulated machine that
 * another process made, in builds that have it. 0 or -errno with the reason. */
int xen_world_open(struct xen_world **out, const char *name, struct errmsg *e);
/* budget may be NULL. Every door is closed (xen_close()) before the world. */
int xen_world_door(struct xen_world *w, struct xen **out, struct xen_budget *budget, struct errmsg *e);
void xen_world_close(struct xen_world *w);

#endif
