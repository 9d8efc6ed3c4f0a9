/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps the read-cache service (creedence-cache) running and asks it for channels on behalf of disks.
 *
 * The service is started, found again after a restart of the daemon, and started anew when it dies; disks
 * are then told, through `up`, that they may ask for new channels. Without it everything works, slower.
 */
#ifndef CONTROL_CACHE_KEEPER_H
#define CONTROL_CACHE_KEEPER_H

#include "control/disk_config.h"
#include "control/host.h"
#include "control/peer.h"

struct cache_keeper;

/* Begins to start (or find) the service when the settings have it enabled. up() is called whenever it can be
 * asked again. 0 or -errno. */
int cache_keeper_new(struct cache_keeper **out, struct host *h, void (*up)(struct host *h));
/* Lets the service run on. */
void cache_keeper_free(struct cache_keeper *k);

/* The host's settings (enabled) changed: start or stop the service. */
void cache_keeper_apply(struct cache_keeper *k);
/* Other settings of the host changed, which the service only reads when it starts: end it, start it again. */
void cache_keeper_restart(struct cache_keeper *k);
/* End the service and do not start it again; done when cache_keeper_running() is false. */
void cache_keeper_stop(struct cache_keeper *k);
bool cache_keeper_running(const struct cache_keeper *k);

/* For requests of its own kind (stats, set, drop); NULL while the service cannot be asked. */
struct peer *cache_keeper_peer(struct cache_keeper *k);
/* {"enabled", "running", "pid", "restarts", "error"?}, a new reference. */
json_t *cache_keeper_json(const struct cache_keeper *k);

/*
 * Channels for a disk: one per queue, seeing layers 1.. of its configuration. One request is
 * outstanding per struct at most; done() comes later, never from inside. fds are the callee's. ret < 0
 * says that there are none (-EAGAIN: the service is not there), with the reason.
 */
struct cache_request {
    struct list node;
    struct cache_keeper *keeper; /* NULL: nothing is outstanding */
    struct loop_timer limit;
    const struct disk_config *config; /* outlives the request, as do: */
    const int *layer_fd;              /* the disk's images, leaf first: the service is given the same files */
    uint64_t serial;
    bool asked;
    void (*done)(struct cache_request *r, int ret, const int *fds, unsigned count, const char *why);
};
/* wait: when the service is just being started, wait for it a little. */
void cache_request_start(struct cache_keeper *k, struct cache_request *r, const struct disk_config *c,
                         const int *layer_fd, bool wait,
                         void (*done)(struct cache_request *, int, const int *, unsigned, const char *));
void cache_request_cancel(struct cache_request *r); /* harmless when nothing is outstanding */

#endif
