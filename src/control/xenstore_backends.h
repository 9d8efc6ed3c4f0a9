/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks and network cards of Xen guests: what a toolstack announces in xenstore is made, connected to its front end, and taken
 * down, as the states of both sides ask for.
 *
 *     backend/vbd, vbd3, vif --watch--> xenstore_backends.c   which devices there are
 *     a device's front end ---watch-->  xenstore_device.c     what is to be done about one (xenstore_state.h says)
 *                                          |            |
 *                           xenstore_disk.c --> vdisk   xenstore_card.c --> network
 *
 * Nothing about a device is remembered that is not in xenstore, in the disk's saved state or in the network's: a daemon that was
 * just started looks, and goes on.
 *
 * Trust: backend directories are the toolstack's. Front ends' are guests': each value is read once, in one snapshot, bounded and
 * checked; a directory that is not the guest's own is not read; one that changes all the time is not looked at for a while.
 *
 * Thread-safety: none; the daemon has one thread.
 */
#ifndef CONTROL_XENSTORE_BACKENDS_H
#define CONTROL_XENSTORE_BACKENDS_H

#include <jansson.h>
#include <stdbool.h>

#include "base/errmsg.h"

struct host;
struct vdisk;
struct xen_backends;

enum xen_wanted { XEN_AUTO, XEN_ON, XEN_OFF };

struct xen_settings {
    enum xen_wanted wanted;    /* AUTO: if this is a Xen host */
    const char *disks, *cards; /* names below backend/, with commas between */
    bool any_script;           /* also devices whose hotplug script is none of ours */
    unsigned card_queues;      /* rings for each direction that a card's guest may use */
    unsigned map_entries;      /* of the hypervisor's map-track table, for all there is in this domain */
    const char *world;         /* "sim:...": of tests; NULL: Xen's own */
};

/* 0: *out is NULL when there is no Xen, or none is wanted. -errno with the reason. */
int xen_backends_new(struct xen_backends **out, struct host *h, const struct xen_settings *s, struct errmsg *e);
/* Devices stay as they are: what is cut short from here on is nobody's failure. Before disks and cards are freed. */
void xen_backends_end(struct xen_backends *b);
/* After that. */
void xen_backends_free(struct xen_backends *b);
/* Begin to look, when what was saved is loaded. */
void xen_backends_start(struct xen_backends *b);
/* The host goes down, or does not: nothing new is made meanwhile. */
void xen_backends_pause(struct xen_backends *b, bool paused);

/*
 * May a saved disk or card of a Xen guest go on with the rings it had? NO: nobody announces it any more, or it is another's.
 * UNKNOWN: xenstore cannot be asked now. (What is then gone on with is looked at when it can be.)
 */
enum xen_vouch { XEN_VOUCH_NO, XEN_VOUCH_YES, XEN_VOUCH_UNKNOWN };
enum xen_vouch xen_backends_vouch(struct xen_backends *b, const char *backend, const char *identity);
/* Something about a disk or card changed: it serves, it is gone, ... b may be NULL. */
void xen_backends_changed(struct xen_backends *b, const char *backend);
/* An operator, not the toolstack, took it away. */
void xen_backends_put_down(struct xen_backends *b, const char *backend);
/* The guest is to see its disk's new size. */
void xen_backends_resized(struct xen_backends *b, const struct vdisk *d);
unsigned xen_backends_map_entries(const struct xen_backends *b); /* 0: not known, there is no Xen */
json_t *xen_backends_json(const struct xen_backends *b);         /* how it is; NULL: there is no Xen */

#endif
