/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk worker: where guest/, vbd/, disk/ and cache/ meet. One virtual disk, one front end at a time.
 *
 *   vbd_options.c  configuration from the command line or from the daemon, and its checks
 *   vbd_worker.c   opens the chain, makes the device, takes front ends, keeps what survives
 *   vbd_state.c    the memory that survives
 *   vbd_link.c     the daemon's requests
 *   vbd_stats.c    what was counted
 *   vbd_xen.c      a front end of Xen's: its rings instead of a session
 *   vbd_chain.c    the layers and every thread's channels of them
 *   vbd_cache.c    asks the cache service when there is no daemon to do it
 *   sandbox.c      gives up every right that is not needed
 *
 * Thread-safety: everything here runs on the control thread, except the chain callbacks.
 */
#ifndef CMD_VBD_WORKER_H
#define CMD_VBD_WORKER_H

#include <jansson.h>

#include "base/errmsg.h"
#include "cmd/sandbox.h"
#include "cmd/vbd_xen.h"
#include "disk/disk.h"
#include "disk/file.h"
#include "loop/loop.h"
#include "vbd/vbd.h"

struct worker_layer {
    char *path;
    enum disk_format format;
    bool direct;
    int fd; /* opened by the daemon, or -1 */
};

/* Are the names of backing files in the images compared with the chain? */
enum worker_backing_names {
    BACKING_NAMES_CHECKED, /* by whoever configured us: the daemon */
    BACKING_NAMES_SAME,    /* by us; they must be the same */
    BACKING_NAMES_ANY,     /* by us; only whether there is a base at all must agree */
};

enum worker_datapath { DATAPATH_DIRECT, DATAPATH_STAGED };

struct worker_config {
    char *name;
    struct vbd_config device;
    uint16_t queue_size_max;
    struct worker_xen_config xen; /* there: the guest is Xen's, and no front end connects to a socket */
    enum worker_datapath datapath;
    enum worker_backing_names backing_names;
    unsigned layer_count;
    struct worker_layer layer[DISK_CHAIN_MAX];
};

void worker_config_init(struct worker_config *c);
void worker_config_free(struct worker_config *c);

/* From a `configure` request's params. Descriptors are set by the caller. 0 or -EINVAL with the field, what
 * it is and what was expected. */
int worker_config_from_json(struct worker_config *c, const json_t *params, struct errmsg *e);
json_t *worker_config_to_json(const struct worker_config *c);

/* "PATH,format=F[,direct=on|off]"; a comma in the path is doubled. Appends a layer. */
int worker_config_add_layer(struct worker_config *c, const char *text, struct errmsg *e);
/* Fill in what was left open and check the whole. */
int worker_config_finish(struct worker_config *c, struct errmsg *e);

/* Descriptors kept for the next process (and sent to the daemon, when there is one). */
struct worker_held {
    char name[32];
    int fd;
};
#define WORKER_HELD_MAX (GUEST_REGIONS_MAX + 3 * VHOST_QUEUES_MAX + 16)

struct worker;

/* How what is to be kept reaches whoever keeps it; NULL members: nobody does. */
struct worker_keeper {
    void (*keep)(void *arg, const char *name, int fd);
    void (*drop)(void *arg, const char *name);
    void (*state)(void *arg, const char *state, const char *why);
    void *arg;
};

struct worker_args {
    struct loop *loop;
    struct worker_config *config; /* taken over */
    struct worker_keeper keeper;
    bool survives;                  /* keep state in a memfd of our own (the daemon holds it) */
    int listen_fd;                  /* -1: none; taken over */
    const char *socket_path;        /* ... or to be made here: nobody can connect before the disk is open; NULL: none */
    int connected_fd;               /* a front end already there, or -1; taken over */
    const struct worker_held *held; /* from a process before us; descriptors taken over */
    unsigned held_count;
    int cache_fd[VBD_QUEUES_MAX]; /* channels of the read cache, or -1; taken over */
    bool one_front_end;           /* stop the loop when the first front end leaves */
    /* Entered once all files are open, and the names in them compared. NULL: not at all. */
    const struct sandbox_args *sandbox;
};

/* Open the disk. On failure everything taken over is closed. 0 or -errno. */
int worker_open(struct worker **out, const struct worker_args *args, struct errmsg *e);
/* Serve: go on with the front end that is held, or wait for one. */
int worker_serve(struct worker *w, struct errmsg *e);

/* A front end has connected just now, and may not have come to the end of its handshake. A short time at most. */
bool worker_greets(const struct worker *w);

/* End: the session is ended and the leaf made durable. 0 or -errno. w is gone. */
int worker_quit(struct worker *w, struct errmsg *e);
/* Make way for a successor: what is held stays as it is. w is gone. */
int worker_leave(struct worker *w, struct errmsg *e);

/* Of a worker that has a Xen guest: begin to serve its rings, and cease to. 0 or -errno, and then all is as before. */
int worker_connect(struct worker *w, const struct worker_xen_front *f, struct errmsg *e);
int worker_disconnect(struct worker *w, struct errmsg *e);
const struct worker_xen *worker_xen(const struct worker *w); /* NULL: it has none */

int worker_resize(struct worker *w, uint64_t size_bytes, struct errmsg *e);
/* Channels of a service that came back, one per queue; taken over. */
int worker_cache_channels(struct worker *w, const int *fds, unsigned count);
json_t *worker_stats(struct worker *w);
const struct worker_config *worker_config(const struct worker *w);
struct vbd *worker_device(struct worker *w);
/* Everything held, for a daemon that came back. */
unsigned worker_held(const struct worker *w, const struct worker_held **out);

/* The open image of layer i (its lock lives in it), for the daemon. Stays the worker's. */
int worker_layer_fd(const struct worker *w, unsigned i);

/* vbd_cache.c: get a channel per queue from the cache service at path, for a worker without a daemon. */
int cache_connect(const char *path, const struct worker_config *c, int *out, struct errmsg *e);

/* vbd_link.c: serve the daemon on this listening socket until told to go. Returns the exit status. */
int link_worker_run(int listen_fd, const struct sandbox_args *sandbox);

#endif
