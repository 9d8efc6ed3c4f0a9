/* SPDX-License-Identifier: Apache-2.0 */
#include "control/xenstore_state.h"

#include <assert.h>
#include <stddef.h>

static const char *const state_names[] = {
    [XENBUS_UNKNOWN] = "Unknown",
    [XENBUS_INITIALISING] = "Initialising",
    [XENBUS_INIT_WAIT] = "InitWait",
    [XENBUS_INITIALISED] = "Initialised",
    [XENBUS_CONNECTED] = "Connected",
    [XENBUS_CLOSING] = "Closing",
    [XENBUS_CLOSED] = "Closed",
    [XENBUS_RECONFIGURING] = "Reconfiguring",
    [XENBUS_RECONFIGURED] = "Reconfigured",
};
static_assert(sizeof state_names / sizeof state_names[0] == XENBUS_STATES, "every state has a name");

static const char *const action_names[] = {
    [XEN_DEVICE_WAIT] = "wait",       [XEN_DEVICE_ATTACH] = "attach",         [XEN_DEVICE_PUBLISH] = "publish",
    [XEN_DEVICE_CONNECT] = "connect", [XEN_DEVICE_DISCONNECT] = "disconnect", [XEN_DEVICE_DETACH] = "detach",
    [XEN_DEVICE_SERVE] = "serve",     [XEN_DEVICE_FOLLOW] = "follow",         [XEN_DEVICE_CLOSING] = "closing",
    [XEN_DEVICE_CLOSED] = "closed",   [XEN_DEVICE_FORGET] = "forget",
};
static_assert(sizeof action_names / sizeof action_names[0] == XEN_DEVICE_ACTIONS, "every action has a name");

const char *xenbus_state_name(enum xenbus_state s)
{
    return state_names[s];
}

const char *xen_device_action_name(enum xen_device_action a)
{
    return action_names[a];
}

bool xenbus_state_parse(enum xenbus_state *out, const char *text)
{
    bool good = text[0] >= '0' && text[0] < '0' + XENBUS_STATES && !text[1];
    *out = good ? (enum xenbus_state)(text[0] - '0') : XENBUS_UNKNOWN;
    return good;
}

/* Step by step down to nothing. */
static enum xen_device_action take_down(const struct xen_device_view *v, enum xen_device_action at_last)
{
    switch (v->stage) {
    case XEN_DEVICE_CONNECTED: return XEN_DEVICE_DISCONNECT;
    case XEN_DEVICE_NOT_READY:
    case XEN_DEVICE_READY: return XEN_DEVICE_DETACH;
    case XEN_DEVICE_NONE: break;
    }
    return at_last;
}

/* Does the front end, in this state, leave rings alone? */
static bool front_is_away(enum xenbus_state front)
{
    return front == XENBUS_UNKNOWN || front == XENBUS_INITIALISING || front == XENBUS_INIT_WAIT ||
           front == XENBUS_CLOSED;
}

/* The toolstack does not want it any more. A front end that is connected is given the time to end (it sees the
 * backend's Closing); how long, the toolstack decides. */
static enum xen_device_action next_offline(const struct xen_device_view *v)
{
    if (front_is_away(v->front)) return take_down(v, v->back == XENBUS_CLOSED ? XEN_DEVICE_WAIT : XEN_DEVICE_CLOSED);
    bool told = v->back == XENBUS_CLOSING || v->back == XENBUS_CLOSED;
    return told ? XEN_DEVICE_WAIT : XEN_DEVICE_CLOSING;
}

static enum xen_device_action next_front_end(const struct xen_device_view *v)
{
    bool connected = v->stage == XEN_DEVICE_CONNECTED;
    switch (v->front) {
    case XENBUS_UNKNOWN: /* its directory may not be there yet, or is not any more */
    case XENBUS_CLOSED:
        if (connected) return XEN_DEVICE_DISCONNECT;
        return v->back == XENBUS_CLOSED || v->back == XENBUS_INIT_WAIT ? XEN_DEVICE_WAIT : XEN_DEVICE_CLOSED;
    case XENBUS_INITIALISING:
    case XENBUS_INIT_WAIT:
        if (connected) return XEN_DEVICE_DISCONNECT; /* a new kernel, which knows nothing of rings */
        return v->back == XENBUS_INIT_WAIT ? XEN_DEVICE_WAIT : XEN_DEVICE_PUBLISH;
    case XENBUS_INITIALISED:
        if (connected && v->seen_used) return XEN_DEVICE_DISCONNECT; /* it has closed and begun anew meanwhile */
        break;
    case XENBUS_CLOSING:
        return v->back == XENBUS_CLOSING || v->back == XENBUS_CLOSED ? XEN_DEVICE_WAIT : XEN_DEVICE_CLOSING;
    case XENBUS_CONNECTED:
    case XENBUS_RECONFIGURING:
    case XENBUS_RECONFIGURED: break;
    }
    if (connected && v->back != XENBUS_CONNECTED) return XEN_DEVICE_SERVE;
    if (connected) return v->changed ? XEN_DEVICE_FOLLOW : XEN_DEVICE_WAIT;
    if (!v->failed) return XEN_DEVICE_CONNECT;
    return v->back == XENBUS_CLOSING ? XEN_DEVICE_WAIT : XEN_DEVICE_CLOSING;
}

enum xen_device_action xen_device_next(const struct xen_device_view *v)
{
    if (!v->announced) return take_down(v, XEN_DEVICE_FORGET);
    if (!v->online) return next_offline(v);
    if (v->stage == XEN_DEVICE_NONE && v->put_down) {
        if (front_is_away(v->front)) return v->back == XENBUS_CLOSED ? XEN_DEVICE_WAIT : XEN_DEVICE_CLOSED;
        return v->back == XENBUS_CLOSING ? XEN_DEVICE_WAIT : XEN_DEVICE_CLOSING;
    }
    if (v->stage == XEN_DEVICE_NONE) return XEN_DEVICE_ATTACH;
    if (v->stage == XEN_DEVICE_NOT_READY) return XEN_DEVICE_WAIT;
    /* What was just announced is published, whatever the front end does already. */
    if (v->stage == XEN_DEVICE_READY && v->back == XENBUS_INITIALISING) return XEN_DEVICE_PUBLISH;
    return next_front_end(v);
}
