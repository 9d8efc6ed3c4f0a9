/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines made ahead. The kernel charges a ring's memory to the user's RLIMIT_MEMLOCK unless its maker may lock memory
 * (CAP_IPC_LOCK), and a sandboxed worker may not: with the usual 8 MiB a host would end at some 250 disks. So
 * the rings that a worker's threads will use are made before it gives its rights up, disabled; each thread enables its own.
 *
 * Thread-safety: make() from any thread.
 */
#ifndef CMD_VBD_ENGINES_H
#define CMD_VBD_ENGINES_H

#include "base/errmsg.h"
#include "disk/engine/engine.h"

struct engines;

/* Make `count` engines now. 0 or -errno. */
int engines_new(struct engines **out, unsigned count, struct errmsg *e);
void engines_free(struct engines *p); /* those that nobody took; NULL is harmless */
/* Gives one of them; a new one when none is left. Valid as long as p. */
const struct engine_maker *engines_maker(struct engines *p);

#endif
