/* SPDX-License-Identifier: Apache-2.0 */
/* Between cli_debug.c (our own builds) and cli_xen.c (Xen's). */
#ifndef CMD_CLI_DEBUG_H
#define CMD_CLI_DEBUG_H

#include "cmd/cli.h"

/*
 * Xen's link in boot_dir: {"link", "target"?, "debug"?: "y"|"n", "problem"?, "candidates": [{"file", "debug",
 * "problem"?}], "running"?: "debug=y"}; a new reference.
 */
json_t *xen_status_json(const char *boot_dir);

/* Point the link at a debug (on) or non-debug image: `image` when not NULL, else the counterpart of the one that it
 * points at now, else the newest. 0 and the new target's name in *chosen (to be freed), or -errno. */
int xen_switch(const char *boot_dir, bool debug, const char *image, char **chosen, struct errmsg *e);

/* Replace the symbolic link dir/name atomically. An existing dir/name must be a symbolic link. 0 or -errno. */
int debug_replace_link(const char *dir, const char *name, const char *target, struct errmsg *e);

#endif
