/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One attached disk, as the daemon sees it: a configuration that is to be served, whatever happens to the
 * worker that serves it.
 *
 *                      start                 configured
 *      WAITING ------------------> STARTING ------------> SERVING
 *         ^                           |                    | | |
 *         |     the worker died       |                    | | |  leave     exit
 *         +---------------------------+--------------------+ | +--------> LEAVING --> STARTING
 *         ^                                                  |  quit       exit
 *         +----------- ADOPTING ------> SERVING              +---------> QUITTING --> GONE
 *         ^    died       (a worker of an earlier daemon)                   |
 *         +-----------------------------------------------------------------+ failed: what is held is kept
 *
 *   WAITING    no worker; one is started when the timer fires (how long depends on recent crashes), or, for a disk
 *              that connects to its front end, when that can be reached
 *   STARTING   a worker runs; cache channels are asked for, `configure` is sent
 *   ADOPTING   a worker runs already; `adopt` was sent
 *   SERVING    the guest's disk works
 *   LEAVING    asked to make way for a successor (upgrade)
 *   QUITTING   asked to end (detach, shutdown)
 *   GONE       ended; the owner forgets the disk
 *
 * Held in all states but GONE: the images (their locks are in the descriptors), the listening socket, and every
 * descriptor that the worker asked to have kept (the latter also by the holder process). A successor gets all of it.
 */
#ifndef CONTROL_VDISK_H
#define CONTROL_VDISK_H

#include "control/cache_keeper.h"
#include "control/disk_config.h"
#include "control/held.h"
#include "control/host.h"
#include "control/image_ids.h"
#include "control/peer.h"
#include "control/rpc.h"

enum vdisk_state {
    VDISK_WAITING,
    VDISK_STARTING,
    VDISK_ADOPTING,
    VDISK_SERVING,
    VDISK_LEAVING,
    VDISK_QUITTING,
    VDISK_GONE,
};

/* The end of attach, upgrade, detach: code 0, or an rpc_code with the reason. */
typedef void (*vdisk_done)(void *arg, int code, const char *message);

struct vdisk {
    struct list node; /* host's */
    struct host *host;
    struct disk_config config;
    enum vdisk_state state;
    bool attaching;      /* a failed first start is the end */
    bool saved;          /* its configuration is, by this daemon */
    bool serving_before; /* it served once: starting again is a restart */
    bool keep_saved;     /* it ends, but is to be back when the daemon starts again */
    bool stop_asked;     /* by the shutdown that is going on */
    bool flushing;       /* its worker serves nobody: it was started to write what is held, and to end */
    bool discard;        /* it ends, even if what the guest wrote last is lost */
    bool quit_done;      /* the worker said that the image is whole */

    struct process process;
    struct peer *peer;
    struct loop_timer timer; /* next start, or limit of what was asked */

    int listen_fd, connect_fd;
    int layer_fd[DISK_CHAIN_MAX];
    struct image_ids images; /* which files these are, or were */
    unsigned lock_tries;     /* so often one of them was found locked */
    struct held held;        /* and again in the holder process */
    unsigned map_entries;    /* that its worker was given (Xen); 0: none runs */
    struct cache_request cache_request;
    bool cached; /* the worker was given channels */

    char front_end[16]; /* "listening", "connected", "broken": what the worker said last; a guest is there
                            if "conn" is held */
    char front_end_why[256];
    int error_code;        /* rpc_code of: */
    char error[512];       /* why it is not serving */
    char cache_error[256]; /* why it runs without the cache */
    char worker_version[32];
    bool worker_debug;
    char sandbox[16];  /* "full", "partial", "off": how much of it this host lets the worker have; "": not said */
    unsigned restarts; /* not asked for */
    struct crash_log crashes;
    uint64_t serving_since_ns;

    vdisk_done done; /* of the operation going on */
    void *done_arg;
};

/* A disk of this configuration, WAITING, in the host's list. c is taken over. NULL: out of memory. */
struct vdisk *vdisk_new(struct host *h, struct disk_config *c);
/* Forget it; a worker runs on. An operation going on is answered. */
void vdisk_free(struct vdisk *d);
struct vdisk *vdisk_find(struct host *h, const char *name);

/* Open, check and lock the images of one that is to be attached, and save it. 0 or -errno with the rpc_code in d->error_code;
 * -EAGAIN: somebody has locked one. */
int vdisk_open_and_save(struct vdisk *d, struct errmsg *e);
/* Do that, if it is not done yet, and start the worker. done: when it serves, or its first start failed (then the disk is GONE). An
 * image that is locked is tried again for half a second. */
void vdisk_attach(struct vdisk *d, vdisk_done done, void *arg);
/* After a restart of the daemon: go on with the worker there is, or start one. done: when that was decided. */
void vdisk_restore(struct vdisk *d, vdisk_done done, void *arg);
enum vdisk_detach_flags {
    VDISK_DETACH_CONNECTED = 1, /* even with a guest connected */
    VDISK_DETACH_DISCARD = 2,   /* even if what the guest wrote last is lost */
};
/* End the worker, make the leaf durable, GONE. When that fails the disk stays, with all that is held, and its worker is
 * started again; unless it was to be discarded: then it is GONE, and done() says what failed. */
void vdisk_detach(struct vdisk *d, unsigned flags, vdisk_done done, void *arg);
/* It has no worker: would one, started for that alone, write what is held? */
bool vdisk_can_flush(const struct vdisk *d);
/* Whatever it is doing: SIGKILL, GONE. */
void vdisk_destroy(struct vdisk *d, vdisk_done done, void *arg);
/* A guest uses it. */
bool vdisk_connected(const struct vdisk *d);
/* Of a Xen guest's: use the front end's rings (connection is taken over), or complete what is in flight and let go of them.
 * resume: they were in use before. RPC_BUSY: its worker is being started, try again. */
void vdisk_connect(struct vdisk *d, json_t *connection, bool resume, vdisk_done done, void *arg);
void vdisk_disconnect(struct vdisk *d, vdisk_done done, void *arg);
/* It has another size from now on. */
void vdisk_note_size(struct vdisk *d, uint64_t size_bytes);
/* Replace the worker by one of the program that is installed now. */
void vdisk_upgrade(struct vdisk *d, vdisk_done done, void *arg);

/* The cache service can be asked (again). */
void vdisk_cache_up(struct vdisk *d);

/* To ask the worker; NULL when it cannot be asked. */
struct peer *vdisk_peer(struct vdisk *d);

const char *vdisk_state_name(enum vdisk_state s);
json_t *vdisk_summary_json(const struct vdisk *d); /* for lists */
json_t *vdisk_json(const struct vdisk *d);         /* all there is to know without asking the worker */
/* Where front ends connect; NULL in connect mode. buffer is used when it is the default place. */
const char *vdisk_socket_path(const struct vdisk *d, char buffer[PATH_MAX]);

#endif
