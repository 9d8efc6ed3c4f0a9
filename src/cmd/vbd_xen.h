/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's front end when its guest is Xen's: rings in pages that the guest granted, by references and ports that the daemon read
 * in xenstore. (A worker itself never talks to xenstore.)
 *
 * What a disk says about itself (`backend`, keys for xenstore) is what its guest was offered first, for as long as the daemon hands
 * that back (`offered`): a front end does not look again when a worker is restarted.
 *
 * What survives a worker are the tables of requests in flight, one per ring, behind a note of which rings those were.
 *
 * Thread-safety: control thread.
 */
#ifndef CMD_VBD_XEN_H
#define CMD_VBD_XEN_H

#include <jansson.h>

#include "ring/blkif.h"
#include "vbd/blkif.h"

enum worker_xen_mode { XEN_MODE_AUTO, XEN_MODE_COPY, XEN_MODE_MAP, XEN_MODE_PERSISTENT };

struct worker_xen_config {
    bool there;
    xen_domid domid;
    enum worker_xen_mode mode;
    bool cdrom, no_discard; /* the latter: not to be offered, whatever the disk can do */
    unsigned map_entries;   /* of the hypervisor's map-track table, for rings and all their data together */
    char *world;            /* guest/xen_world.h; NULL: the host's Xen */
    json_t *offered;        /* what an earlier worker's `backend` was, or NULL */
};
#define XEN_MAP_ENTRIES_DEFAULT 8192u

/* `configure`'s "xen" object. 0 or -EINVAL with the field. */
int worker_xen_config_from_json(struct worker_xen_config *c, const json_t *o, struct errmsg *e);
json_t *worker_xen_config_to_json(const struct worker_xen_config *c);
void worker_xen_config_free(struct worker_xen_config *c);

/* Where a front end's rings are. */
struct worker_xen_front {
    enum blkif_abi abi;
    bool persistent; /* it keeps its pages granted, if it was offered that */
    bool resume;     /* another worker served these rings, and may have been killed */
    unsigned rings, pages;
    struct {
        uint32_t port;
        uint32_t ref[BLKIF_RING_PAGES_MAX];
    } ring[VBD_QUEUES_MAX];
};
int worker_xen_front_from_json(struct worker_xen_front *f, const json_t *params, struct errmsg *e);

/* The command line's: "domid=7,mode=copy,protocol=x86_64-abi,persistent=on", and "refs=8+9,port=15" for each ring. */
int worker_xen_config_from_text(struct worker_xen_config *c, struct worker_xen_front *f, const char *list,
                                struct errmsg *e);
int worker_xen_ring_from_text(struct worker_xen_front *f, const char *list, struct errmsg *e);

struct worker_xen;

/* Opens the devices: before the worker shuts itself in. c stays the caller's, and there. */
int worker_xen_open(struct worker_xen **out, const struct worker_xen_config *c, unsigned queues, struct errmsg *e);
void worker_xen_close(struct worker_xen *x); /* after vbd_free() */
/* state: worker_xen_state_bytes() long, zeroed when new. -EINVAL: what was offered is not what this disk can do. */
int worker_xen_set_device(struct worker_xen *x, struct vbd *vbd, void *state, struct errmsg *e);
size_t worker_xen_state_bytes(unsigned queues);

/* A new reference to the keys as they are now. */
json_t *worker_xen_backend(const struct worker_xen *x);
/* All of its rings, or none. */
int worker_xen_connect(struct worker_xen *x, const struct worker_xen_front *f, struct errmsg *e);
/* What is in flight completes, then nothing of the guest's is held; whether there is a guest or not. */
void worker_xen_disconnect(struct worker_xen *x);
/* The same, for a successor that is to go on with the same rings. */
void worker_xen_leave(struct worker_xen *x);
bool worker_xen_connected(const struct worker_xen *x);
json_t *worker_xen_stats(const struct worker_xen *x);

#endif
