/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One device of a Xen guest: look at both sides' states, carry out what xenstore_state.h says, look again.
 *
 * A guest can write its state all the time. Each look that it causes takes one from a store of the guest's that fills up slowly; when
 * that is empty the watch is taken away (so that the events end, too), and the device is looked at when it is its turn.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "control/text.h"
#include "control/xenstore_internal.h"
#include "loop/clock.h"

#define LOOKS_PER_DEVICE 64.0 /* a guest that starts, through a boot loader, needs a dozen */
#define LOOKS_PER_S 1.0       /* of a guest, with all its devices: a look may cost a save */
#define STEPS_MAX 16u         /* one after the other: more than any device needs */
#define RETRY_MS 250u
#define RETRY_MOST_MS 5000u

static void look(struct xen_device *d);

/* ---- Being looked at ---- */

static void timer_fired(struct loop_timer *t)
{
    look(container_of(t, struct xen_device, timer));
}

static void look_in(struct xen_device *d, uint64_t delay_ns)
{
    loop_timer_arm(d->backends->host->loop, &d->timer, delay_ns, timer_fired);
}

void xen_device_poke(struct xen_device *d)
{
    if (d->backends->started && !d->backends->ending) look_in(d, 0);
}

/* Tokens of its watches: a letter and its number. */
#define STATE_TOKEN 'f'
#define FOLLOWED_TOKEN 'k'

static void watch(struct xen_device *d, struct xen_watch *w, char letter, const char *key)
{
    char path[XENSTORE_PATH_MAX + 64], token[16];
    if (w->there || !d->front[0]) return;
    snprintf(path, sizeof path, "%s/%s", d->front, key);
    snprintf(token, sizeof token, "%c%u", letter, d->serial);
    w->there = w->is_new = xenstore_watch(d->backends->store, path, token) == 0;
}

static void unwatch(struct xen_device *d, struct xen_watch *w, char letter, const char *key)
{
    char path[XENSTORE_PATH_MAX + 64], token[16];
    if (w->there && d->backends->store) {
        snprintf(path, sizeof path, "%s/%s", d->front, key);
        snprintf(token, sizeof token, "%c%u", letter, d->serial);
        xenstore_unwatch(d->backends->store, path, token);
    }
    w->there = false;
}

static void unwatch_front(struct xen_device *d)
{
    unwatch(d, &d->state_watch, STATE_TOKEN, "state");
    if (d->kind->followed) unwatch(d, &d->followed_watch, FOLLOWED_TOKEN, d->kind->followed);
}

void xen_device_unwatched(struct xen_device *d)
{
    d->state_watch.there = d->followed_watch.there = false;
}

/* How long a guest's look must wait; it is taken from what the guest has, which may leave it in debt. */
static uint64_t take_look_ns(struct xen_guest *g)
{
    uint64_t now_ns = clock_now_ns();
    double most = LOOKS_PER_DEVICE * g->devices;
    g->looks += LOOKS_PER_S * (double)(now_ns - g->looked_ns) / (double)NS_PER_SECOND;
    if (g->looks > most) g->looks = most;
    g->looked_ns = now_ns;
    g->looks -= 1.0;
    return g->looks >= 0 ? 0 : (uint64_t)(-g->looks / LOOKS_PER_S * (double)NS_PER_SECOND);
}

void xen_device_front_changed(struct xen_device *d, const char *token)
{
    struct xen_watch *w = token[0] == FOLLOWED_TOKEN ? &d->followed_watch : &d->state_watch;
    if (!w->there) return;
    if (w->is_new) { /* it says so of itself; the key was read after it was made */
        w->is_new = false;
        return;
    }
    uint64_t delay_ns = take_look_ns(d->guest);
    if (delay_ns == 0) {
        xen_device_poke(d);
        return;
    }
    log_limited(LOG_LEVEL_WARN, "xen: %s: the guest changes states all the time: they are looked at once a second",
                d->backend);
    unwatch_front(d);
    look_in(d, delay_ns);
}

/* ---- Coming and going ---- */

/* What the devices of one guest share, as long as there are some. NULL: out of memory. */
static struct xen_guest *join_guest(struct xen_backends *b, unsigned domid)
{
    struct xen_guest *g = NULL;
    LIST_FOR_EACH (node, &b->devices) {
        struct xen_device *other = list_entry(node, struct xen_device, node);
        if (other->domid == domid) g = other->guest;
    }
    if (!g) g = calloc(1, sizeof *g);
    if (!g) return NULL;
    if (g->devices++ == 0) g->looked_ns = clock_now_ns();
    g->looks += LOOKS_PER_DEVICE;
    return g;
}

static void leave_guest(struct xen_guest *g)
{
    if (--g->devices == 0) free(g);
}

struct xen_device *xen_device_new(struct xen_backends *b, unsigned name, unsigned domid, unsigned id)
{
    struct xen_device *d = calloc(1, sizeof *d);
    struct xen_guest *guest = d ? join_guest(b, domid) : NULL;
    if (!guest) {
        free(d);
        return NULL;
    }
    d->backends = b;
    d->guest = guest;
    d->kind = b->names[name].kind;
    d->domid = domid;
    d->id = id;
    d->serial = ++b->next_serial;
    snprintf(d->backend, sizeof d->backend, "backend/%s/%u/%u", b->names[name].name, domid, id);
    snprintf(d->dir, sizeof d->dir, "%s/%s", b->home, d->backend);
    list_push_back(&b->devices, &d->node);
    b->device_count++;
    xen_device_poke(d);
    return d;
}

void xen_device_free(struct xen_device *d)
{
    unwatch_front(d);
    loop_timer_cancel(&d->timer);
    list_remove(&d->node);
    d->backends->device_count--;
    leave_guest(d->guest);
    json_decref(d->lent);
    free(d);
}

/* ---- Writing ---- */

bool xen_device_write(struct xen_device *d, const struct xenstore_key *keys, unsigned count)
{
    int ret = xenstore_write_keys(d->backends->store, d->dir, "frontend", keys, count);
    if (ret < 0 && ret != -ENOENT) /* it is gone, which is noticed soon */
        log_limited(LOG_LEVEL_ERROR, "xen: %s/%s: %s", d->backend, keys[0].key, strerror(-ret));
    return ret == 0;
}

/* The last of these keys, which the caller left for it, is the state. */
static bool write_state(struct xen_device *d, enum xenbus_state s, struct xenstore_key *keys, unsigned count)
{
    char text[4];
    snprintf(text, sizeof text, "%d", (int)s);
    keys[count - 1] = (struct xenstore_key){"state", text};
    if (!xen_device_write(d, keys, count)) return false;
    if (s >= XENBUS_INIT_WAIT) d->published = true;
    log_info("xen: %s: %s", d->backend, xenbus_state_name(s));
    return true;
}

static bool go_to(struct xen_device *d, enum xenbus_state s)
{
    struct xenstore_key state;
    return write_state(d, s, &state, 1);
}

static void content(struct xen_device *d)
{
    d->error[0] = 0;
    if (d->backends->store) xenstore_remove(d->backends->store, d->dir, "hotplug-error");
}

static void publish(struct xen_device *d)
{
    const char *key;
    json_t *value;
    char script[XENSTORE_VALUE_MAX];
    struct xenstore_key keys[DISK_XEN_KEYS_MAX + 2];
    unsigned count = 0;
    json_object_foreach(d->kind->offered(d), key, value)
    {
        if (count < DISK_XEN_KEYS_MAX) keys[count++] = (struct xenstore_key){key, json_string_value(value)};
    }
    /* Toolstacks wait for it; where they were told of no script, it is ours to say. */
    if (xen_device_read(d, "script", script) == -ENOENT)
        keys[count++] = (struct xenstore_key){"hotplug-status", "connected"};
    if (write_state(d, XENBUS_INIT_WAIT, keys, count + 1)) content(d); /* an earlier daemon may have complained */
}

void xen_device_complain(struct xen_device *d, const char *why)
{
    char clean[XEN_TEXT_MAX];
    snprintf(clean, sizeof clean, "%s", why);
    text_clean(clean);
    if (strcmp(clean, d->error) == 0) return;
    snprintf(d->error, sizeof d->error, "%s", clean);
    log_limited(LOG_LEVEL_ERROR, "xen: %s: %s", d->backend, clean);
    /* What xl shows when our hotplug script then fails. */
    if (d->backends->store && !d->foreign) xen_device_write(d, &(struct xenstore_key){"hotplug-error", clean}, 1);
}

/* ---- Broken rings ---- */

/* Where drivers of Linux' own back ends say what is wrong with a device, and toolstacks look for it. */
static const char *error_key(const struct xen_device *d, char out[128])
{
    snprintf(out, 128, "error/%s/error", d->backend);
    return out;
}

static void mended(struct xen_device *d)
{
    char key[128];
    if (d->backends->store && !d->foreign)
        xenstore_remove_deep(d->backends->store, d->backends->home, error_key(d, key));
    d->told_broken = false;
}

/* The device stays Connected, as under Linux' back ends: its guest may close it and begin anew. The log has it already. */
static void tell_broken(struct xen_device *d)
{
    char key[128], guard[128], text[XEN_TEXT_MAX + 16];
    const char *why = d->foreign ? NULL : d->kind->broken(d);
    if ((why != NULL) == d->told_broken) return;
    if (!why) {
        if (d->kind->heard_of(d)) mended(d);
        return;
    }
    snprintf(guard, sizeof guard, "%s/frontend", d->backend);
    snprintf(text, sizeof text, "%d %s", EPROTO, *why ? why : "its guest broke its rings");
    struct xenstore_key error = {error_key(d, key), text};
    d->told_broken = xenstore_write_deep(d->backends->store, d->backends->home, guard, &error) == 0;
}

/* ---- Looking ---- */

/* False: it cannot be said now. */
static bool read_state(struct xen_device *d, const char *dir, enum xenbus_state *out)
{
    char text[8];
    int ret = xen_device_note(d, xenstore_read(d->backends->store, dir, "state", text, sizeof text));
    xenbus_state_parse(out, ret == 0 ? text : "");
    return xen_is_answer(ret);
}

/* An earlier daemon may have told of its rings. False: it cannot be said now. */
static bool read_error(struct xen_device *d)
{
    char key[128], text[XENSTORE_VALUE_MAX];
    int ret =
        xen_device_note(d, xenstore_read(d->backends->store, d->backends->home, error_key(d, key), text, sizeof text));
    d->told_broken = ret != -ENOENT;
    return xen_is_answer(ret);
}

/* Our scripts have one name, whatever options stand behind it; none: whoever announced it meant us. */
static bool is_ours(struct xen_device *d)
{
    char script[XENSTORE_VALUE_MAX];
    if (d->backends->settings.any_script || xen_device_read(d, "script", script) == -ENOENT) return true;
    const char *slash = strrchr(script, '/'), *name = slash ? slash + 1 : script;
    return strncmp(name, d->kind->script_prefix, strlen(d->kind->script_prefix)) == 0;
}

/* The front end must be in the part of the tree that is its guest's. */
static bool is_own_front(const struct xen_device *d, const char *front)
{
    char home[48];
    int len = snprintf(home, sizeof home, "/local/domain/%u/", d->domid);
    static const char path_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/_@";
    return strncmp(front, home, (size_t)len) == 0 && front[strspn(front, path_chars)] == 0 && !strstr(front, "//") &&
           strlen(front) < XENSTORE_PATH_MAX - 64;
}

/* Its directory is new to us. False: it is nothing of ours. */
static bool meet(struct xen_device *d)
{
    char front[XENSTORE_VALUE_MAX], frontend_id[16];
    if (xen_device_read(d, "frontend", front) < 0) return true; /* not there (yet) */
    if (!is_ours(d)) {
        log_info("xen: %s: left alone: its hotplug script is not ours", d->backend);
        d->foreign = true;
        return false;
    }
    unsigned domid = d->domid;
    if (xenstore_read(d->backends->store, d->dir, "frontend-id", frontend_id, sizeof frontend_id) == 0)
        domid = (unsigned)strtoul(frontend_id, NULL, 10);
    if (domid != d->domid || !is_own_front(d, front)) {
        xen_device_complain(d, "its front end's directory is not in the guest's part of xenstore");
        d->foreign = true;
        return false;
    }
    enum xenbus_state state;
    if (!read_state(d, d->dir, &state) || !read_error(d)) return true;
    if (xen_device_note(d, xen_identity(d->backends->store, d->dir, d->identity)) < 0) return true;
    snprintf(d->front, sizeof d->front, "%s", front);
    d->published = state >= XENBUS_INIT_WAIT;
    /* An earlier daemon told the front end that it is connected. One that is back at Initialised has no requests on its rings: it has
     * either not gone on yet, or has begun anew while nobody looked. */
    d->seen_used = state == XENBUS_CONNECTED && d->kind->stage(d) == XEN_DEVICE_CONNECTED;
    return true;
}

/* One that was met is there while it has a front end: others write into its directory, too, and may bring back a part of it. */
static bool is_there(struct xen_device *d)
{
    char value[XENSTORE_VALUE_MAX];
    if (xen_device_read(d, "frontend", value) != -ENOENT) return true;
    return !d->front[0] && xen_device_read(d, "state", value) != -ENOENT;
}

/* False: it cannot be said now. */
static bool view_of(struct xen_device *d, struct xen_device_view *v)
{
    char online[8];
    *v = (struct xen_device_view){.put_down = d->put_down, .announced = is_there(d)};
    if (v->announced && !d->front[0] && !d->foreign) {
        if (meet(d) && !d->front[0]) return false; /* half of it is there */
    }
    if (d->foreign) return !v->announced;
    v->stage = d->kind->stage(d);
    if (!v->announced) return true;
    watch(d, &d->state_watch, STATE_TOKEN, "state");
    if (!read_state(d, d->dir, &v->back) || !read_state(d, d->front, &v->front)) return false;
    int ret = xen_device_note(d, xenstore_read(d->backends->store, d->dir, "online", online, sizeof online));
    if (!xen_is_answer(ret)) return false;
    v->online = ret < 0 || online[0] != '0';
    /* Is another one in its place, or was another one here before? */
    const char *made_of = d->kind->identity(d);
    if (v->back == XENBUS_INITIALISING && d->published) v->announced = false;
    if (made_of && strcmp(made_of, d->identity) != 0) v->announced = false;
    if (v->stage == XEN_DEVICE_CONNECTED && v->front == XENBUS_CONNECTED) d->seen_used = true;
    if (v->front <= XENBUS_INIT_WAIT || v->front == XENBUS_CLOSED) d->failed = false;
    v->failed = d->failed;
    v->seen_used = d->seen_used;
    if (!d->kind->followed || v->stage != XEN_DEVICE_CONNECTED) return true;
    watch(d, &d->followed_watch, FOLLOWED_TOKEN, d->kind->followed);
    v->changed = d->kind->changed(d);
    return !d->store_failed;
}

/* ---- Acting ---- */

static void start(struct xen_device *d, enum xen_device_action action, enum xenbus_state back)
{
    d->busy = action;
    d->store_failed = false;
    switch (action) {
    case XEN_DEVICE_ATTACH: d->kind->attach(d); break;
    case XEN_DEVICE_CONNECT: d->kind->connect(d, back == XENBUS_CONNECTED && !d->let_go); break;
    case XEN_DEVICE_DISCONNECT: d->kind->disconnect(d); break;
    case XEN_DEVICE_DETACH: d->kind->detach(d); break;
    case XEN_DEVICE_FOLLOW: d->kind->follow(d); break;
    default: assert(false);
    }
}

static void forget(struct xen_device *d)
{
    struct xen_backends *b = d->backends;
    bool replaced = is_there(d) && !d->foreign;
    log_debug("xen: %s: gone", d->backend);
    mended(d); /* an earlier daemon may have said so */
    xen_device_free(d);
    if (replaced) xen_backends_scan(b);
}

/* True: look again at once. */
static bool act(struct xen_device *d, enum xen_device_action action, enum xenbus_state back)
{
    switch (action) {
    case XEN_DEVICE_WAIT: return false;
    case XEN_DEVICE_PUBLISH: publish(d); return true;
    case XEN_DEVICE_SERVE: go_to(d, XENBUS_CONNECTED); return true;
    case XEN_DEVICE_CLOSING: go_to(d, XENBUS_CLOSING); return true;
    case XEN_DEVICE_CLOSED: go_to(d, XENBUS_CLOSED); return true;
    case XEN_DEVICE_FORGET: forget(d); return false;
    case XEN_DEVICE_ATTACH:
        if (d->backends->paused) return false;
        break;
    case XEN_DEVICE_CONNECT:
    case XEN_DEVICE_DISCONNECT:
    case XEN_DEVICE_DETACH:
    case XEN_DEVICE_FOLLOW: break;
    }
    start(d, action, back);
    return false; /* xen_device_done() looks */
}

static void retry(struct xen_device *d)
{
    uint64_t ms = (uint64_t)RETRY_MS << (d->tries < 5 ? d->tries : 5);
    d->tries++;
    look_in(d, (ms < RETRY_MOST_MS ? ms : RETRY_MOST_MS) * NS_PER_MS);
}

static void look(struct xen_device *d)
{
    if (!d->backends->store || d->busy) return;
    for (unsigned i = 0; i < STEPS_MAX; i++) {
        struct xen_device_view v;
        d->store_failed = false;
        if (!view_of(d, &v)) {
            if (d->store_failed) retry(d);
            return;
        }
        tell_broken(d);
        if (!act(d, xen_device_next(&v), v.back)) return;
    }
    log_limited(LOG_LEVEL_ERROR, "xen: %s: its states go round and round", d->backend);
    look_in(d, NS_PER_SECOND);
}

void xen_device_done(struct xen_device *d, int ret, const char *why)
{
    enum xen_device_action action = d->busy;
    d->busy = XEN_DEVICE_WAIT;
    if (d->backends->ending) return;
    if (ret == 0) {
        d->tries = 0;
        if (action == XEN_DEVICE_CONNECT || action == XEN_DEVICE_DISCONNECT) d->seen_used = false;
        if (action == XEN_DEVICE_CONNECT) d->let_go = d->kind->stage(d) != XEN_DEVICE_CONNECTED;
        if (action == XEN_DEVICE_CONNECT && d->told_broken) mended(d);
        if (action == XEN_DEVICE_DISCONNECT) d->let_go = true;
        if (action == XEN_DEVICE_DETACH) d->published = d->published && is_there(d);
        if (d->error[0]) content(d);
        xen_device_poke(d);
        return;
    }
    if (d->store_failed) ret = -EAGAIN;
    if (ret != -EAGAIN) xen_device_complain(d, why);
    if (action == XEN_DEVICE_CONNECT && ret != -EAGAIN) {
        d->failed = true;
        xen_device_poke(d);
    } else {
        retry(d);
    }
}
