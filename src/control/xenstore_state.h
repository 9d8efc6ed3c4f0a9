/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a backend does next about one device, from what is in xenstore and what there is of the device here. A function
 * without memory: states may be skipped, repeated or come in any order, and a daemon that was just started goes on
 * where the last one ended.
 *
 *     toolstack writes     backend 1, online 1                                        online 0, backend 5
 *     front end writes          1                 3 (rings)          4        5  6 (1 again: a new kernel)
 *     backend writes                 2 (features)         4 (serving)            6 (2)                       6
 *     here              attach ------+           connect -+        disconnect ---+              detach ------+
 *
 * The device here is
 *
 *     NONE        not there (not yet, or not any more)
 *     NOT_READY   there, and its worker (or switch) is being started
 *     READY       there; the front end's rings are not in use
 *     CONNECTED   the front end's rings are in use, or will be again when the next worker runs
 *
 * Each action is carried out to its end, then one looks again. A failed one is not tried again before the front end moved on
 * (CONNECT), or some time has passed (ATTACH, DETACH; the caller's).
 */
#ifndef CONTROL_XENSTORE_STATE_H
#define CONTROL_XENSTORE_STATE_H

#include <stdbool.h>

/* public io/xenbus.h */
enum xenbus_state {
    XENBUS_UNKNOWN = 0, /* also: there is none */
    XENBUS_INITIALISING,
    XENBUS_INIT_WAIT,
    XENBUS_INITIALISED,
    XENBUS_CONNECTED,
    XENBUS_CLOSING,
    XENBUS_CLOSED,
    XENBUS_RECONFIGURING,
    XENBUS_RECONFIGURED,
};
#define XENBUS_STATES 9

const char *xenbus_state_name(enum xenbus_state s);
/* One digit, of a state that there is; everything else is XENBUS_UNKNOWN, and false. */
bool xenbus_state_parse(enum xenbus_state *out, const char *text);

enum xen_device_stage { XEN_DEVICE_NONE, XEN_DEVICE_NOT_READY, XEN_DEVICE_READY, XEN_DEVICE_CONNECTED };

struct xen_device_view {
    bool announced;                /* the backend directory is there */
    bool online;                   /* the toolstack wants it */
    enum xenbus_state back, front; /* as they are in xenstore */
    enum xen_device_stage stage;
    bool failed;    /* the last CONNECT failed, and the front end did not move on */
    bool put_down;  /* an operator detached it: it is not made again */
    bool seen_used; /* the front end was Connected since the last CONNECT */
    bool changed;   /* what it asked for when it connected, and may change, is other now */
};

enum xen_device_action {
    XEN_DEVICE_WAIT,       /* nothing */
    XEN_DEVICE_ATTACH,     /* make it */
    XEN_DEVICE_PUBLISH,    /* write its features, and InitWait */
    XEN_DEVICE_CONNECT,    /* read the front end's rings, use them, write Connected */
    XEN_DEVICE_DISCONNECT, /* complete what is in flight, let go of the rings */
    XEN_DEVICE_DETACH,     /* end it, with everything on storage */
    XEN_DEVICE_SERVE,      /* write Connected: it is */
    XEN_DEVICE_FOLLOW,     /* do as the front end asks now */
    XEN_DEVICE_CLOSING,    /* write Closing */
    XEN_DEVICE_CLOSED,     /* write Closed */
    XEN_DEVICE_FORGET,     /* there is nothing left of it anywhere */
};
#define XEN_DEVICE_ACTIONS 11

const char *xen_device_action_name(enum xen_device_action a);
enum xen_device_action xen_device_next(const struct xen_device_view *v);

#endif
