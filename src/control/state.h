/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the daemon must still know after a power cut, as JSON files in its state directory:
 *
 *     STATEDIR/disks/NAME.json    {"version": 1, "disk": {parameters of disk.attach}, "images": {image_ids.h}}
 *     STATEDIR/network.json: network_state.c; STATEDIR/flows/: network_flows.c
 *     STATEDIR/cache.json         {"version": 1, "cache": {"enabled": true, "budget": "auto", "huge_pages": true}}
 *
 * A file is replaced whole: written under another name, synced, renamed over, and the directory synced; so
 * after a crash it holds the old content or the new. A file that cannot be understood is renamed to
 * NAME.json.bad-N, reported, and the others are loaded. One of a newer version is reported and left alone.
 */
#ifndef CONTROL_STATE_H
#define CONTROL_STATE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/errmsg.h"
#include "control/disk_config.h"

#define STATE_VERSION 1

struct cache_settings {
    bool enabled;
    bool huge_pages;       /* what is cached whole becomes huge pages */
    uint64_t budget_bytes; /* 0: "auto" */
};

/* Make the state directory and what belongs into it. 0 or -errno. */
int state_prepare(const char *state_dir, struct errmsg *e);

/* images (taken over; NULL: nothing is known) is kept with it. */
int state_save_disk(const char *state_dir, const struct disk_config *c, json_t *images, struct errmsg *e);
int state_remove_disk(const char *state_dir, const char *name, struct errmsg *e);

/* Is there a file for a disk of this name, of whatever content? */
bool state_has_disk(const char *state_dir, const char *name);

/* Call found() for every disk, in the order of their names; it takes the configuration over, not images (which may be
 * NULL, or of any type). Problems with
 * single files go to the log. Returns how many files were set aside or skipped, or -errno. */
int state_load_disks(const char *state_dir, void (*found)(void *arg, struct disk_config *c, json_t *images), void *arg,
                     struct errmsg *e);

int state_save_cache(const char *state_dir, const struct cache_settings *s, struct errmsg *e);
/* Leaves *s alone and returns -ENOENT when there is none (or it was set aside). */
int state_load_cache(const char *state_dir, struct cache_settings *s);

/* "auto" or a positive number of bytes, as the field `budget` of parameters and of the saved file. */
uint64_t cache_budget_parse(struct fields *f, uint64_t fallback);
json_t *cache_budget_json(uint64_t budget_bytes);

/* The JSON text in a regular file. 0, -ENOENT, -EINVAL: not such a thing, another -errno; with the reason. */
int state_read_file(json_t **out, const char *path, size_t most_bytes, struct errmsg *e);
/* Make a rename of path durable. */
int state_sync_dir_of(const char *path, struct errmsg *e);
/* Rename a file that cannot be understood to NAME.bad-N, and report it. */
void state_set_aside(const char *path, const char *why);

/* Replace path atomically with this text. 0 or -errno. */
int state_write_file(const char *path, const char *text, size_t len, bool durable, struct errmsg *e);

#endif
