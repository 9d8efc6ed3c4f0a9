/* SPDX-License-Identifier: Apache-2.0 */
#include "control/xenstore_backends.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "control/vdisk.h"
#include "control/xenstore_internal.h"
#include "loop/clock.h"

#define REACH_RETRY_MS 2000u
#define ALIVE_MS 5000u
#define EVENTS_AT_ONCE 4096u
#define LIST_MAX 65536u

static void connect_store(struct xen_backends *b);

/* ---- Devices ---- */

struct xen_device *xen_backends_find(struct xen_backends *b, const char *backend)
{
    LIST_FOR_EACH (node, &b->devices) {
        struct xen_device *d = list_entry(node, struct xen_device, node);
        if (strcmp(d->backend, backend) == 0) return d;
    }
    return NULL;
}

static struct xen_device *find_serial(struct xen_backends *b, unsigned serial)
{
    LIST_FOR_EACH (node, &b->devices) {
        struct xen_device *d = list_entry(node, struct xen_device, node);
        if (d->serial == serial) return d;
    }
    return NULL;
}

static bool number(const char *text, unsigned max, unsigned *out)
{
    char *end;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 10) return false;
    unsigned long value = strtoul(text, &end, 10);
    *out = (unsigned)value;
    return value <= max;
}

static void device_seen(struct xen_backends *b, unsigned name, unsigned domid, unsigned id)
{
    char backend[64];
    snprintf(backend, sizeof backend, "backend/%s/%u/%u", b->names[name].name, domid, id);
    struct xen_device *d = xen_backends_find(b, backend);
    if (d) {
        xen_device_poke(d);
        return;
    }
    if (b->device_count >= XEN_DEVICES_MAX || !xen_device_new(b, name, domid, id))
        log_limited(LOG_LEVEL_ERROR, "xen: %s: there are too many devices, or memory is short", backend);
}

/* ---- Looking ---- */

struct scan {
    struct xen_backends *b;
    unsigned name, domid;
};

static void id_found(void *arg, const char *text)
{
    struct scan *s = arg;
    unsigned id;
    if (number(text, INT32_MAX, &id)) device_seen(s->b, s->name, s->domid, id);
}

static void domid_found(void *arg, const char *text)
{
    struct scan *s = arg;
    char dir[XENSTORE_PATH_MAX];
    if (!number(text, DISK_XEN_DOMID_MAX, &s->domid)) return;
    snprintf(dir, sizeof dir, "%s/backend/%s/%u", s->b->home, s->b->names[s->name].name, s->domid);
    xenstore_list(s->b->store, dir, LIST_MAX, id_found, s);
}

static void scan_name(struct xen_backends *b, unsigned name)
{
    char dir[XENSTORE_PATH_MAX];
    struct scan s = {.b = b, .name = name};
    snprintf(dir, sizeof dir, "%s/backend/%s", b->home, b->names[name].name);
    xenstore_list(b->store, dir, LIST_MAX, domid_found, &s);
    LIST_FOR_EACH (node, &b->devices) {
        struct xen_device *d = list_entry(node, struct xen_device, node);
        size_t len = strlen(b->names[name].name);
        if (strncmp(d->backend + 8, b->names[name].name, len) == 0 && d->backend[8 + len] == '/') xen_device_poke(d);
    }
}

void xen_backends_scan(struct xen_backends *b)
{
    for (unsigned i = 0; b->store && i < b->name_count; i++)
        scan_name(b, i);
}

void xen_backends_expect(struct xen_backends *b, const char *backend)
{
    char name[sizeof b->names[0].name];
    unsigned domid, id;
    int used = 0;
    if (sscanf(backend, "backend/%31[^/]/%9u/%9u%n", name, &domid, &id, &used) == 3 && !backend[used])
        for (unsigned i = 0; i < b->name_count; i++)
            if (strcmp(b->names[i].name, name) == 0) {
                device_seen(b, i, domid, id);
                return;
            }
    log_warn("xen: %s: it was served, but is not looked at any more (--xen-disks, --xen-cards)", backend);
}

/* Something below backend/NAME: of one device, or of more than one. */
static void backend_changed(struct xen_backends *b, unsigned name, const char *path)
{
    char prefix[XENSTORE_PATH_MAX];
    unsigned domid, id;
    int used = 0;
    int len = snprintf(prefix, sizeof prefix, "%s/backend/%s/", b->home, b->names[name].name);
    if (strncmp(path, prefix, (size_t)len) == 0 && sscanf(path + len, "%9u/%9u%n", &domid, &id, &used) == 2 && used &&
        (!path[len + used] || path[len + used] == '/') && domid <= DISK_XEN_DOMID_MAX)
        device_seen(b, name, domid, id);
    else scan_name(b, name);
}

static void take_events(struct xen_backends *b);

static void more_fired(struct loop_timer *t)
{
    take_events(container_of(t, struct xen_backends, more));
}

static void take_events(struct xen_backends *b)
{
    char path[XENSTORE_PATH_MAX], token[XENSTORE_PATH_MAX];
    unsigned value;
    for (unsigned i = 0; b->store && i < EVENTS_AT_ONCE; i++) {
        if (!xenstore_event(b->store, path, token)) return;
        if (!number(token + 1, UINT32_MAX, &value)) continue;
        if (token[0] == 'b' && value < b->name_count) backend_changed(b, value, path);
        struct xen_device *d = token[0] == 'b' ? NULL : find_serial(b, value);
        if (d) xen_device_front_changed(d, token);
    }
    /* The library may say only once that there are some. */
    loop_timer_arm(b->host->loop, &b->more, 0, more_fired);
}

static void events_came(struct loop_watch *w, uint32_t events)
{
    take_events(container_of(w, struct xen_backends, watch));
}

/* ---- The store ---- */

static void disconnect_store(struct xen_backends *b)
{
    loop_remove(&b->watch);
    xenstore_close(b->store);
    b->store = NULL;
    LIST_FOR_EACH (node, &b->devices)
        xen_device_unwatched(list_entry(node, struct xen_device, node));
}

static void alive_fired(struct loop_timer *t)
{
    struct xen_backends *b = container_of(t, struct xen_backends, timer);
    if (!b->store) {
        connect_store(b);
        return;
    }
    if (xenstore_is_alive(b->store)) {
        loop_timer_arm(b->host->loop, &b->timer, ALIVE_MS * NS_PER_MS, alive_fired);
        return;
    }
    log_error("xen: the connection to xenstore is gone: devices go on as they are; it is looked for");
    disconnect_store(b);
    loop_timer_arm(b->host->loop, &b->timer, REACH_RETRY_MS * NS_PER_MS, alive_fired);
}

static int open_store(struct xen_backends *b, struct errmsg *e)
{
    char domid[16] = "";
    int ret = xenstore_open(&b->store, e);
    if (ret < 0) return ret;
    ret = xenstore_read(b->store, "domid", NULL, domid, sizeof domid);
    unsigned own = 0;
    if (ret == -ENOENT) ret = 0; /* the control domain's own */
    else if (ret == 0 && !number(domid, DISK_XEN_DOMID_MAX, &own)) ret = -EINVAL;
    if (ret < 0) {
        xenstore_close(b->store);
        b->store = NULL;
        return errmsg_sys(e, -ret, "xenstore: our own domain's number");
    }
    snprintf(b->home, sizeof b->home, "/local/domain/%u", own);
    return 0;
}

static int watch_store(struct xen_backends *b, struct errmsg *e)
{
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < b->name_count; i++) {
        char dir[XENSTORE_PATH_MAX], token[16];
        snprintf(dir, sizeof dir, "%s/backend/%s", b->home, b->names[i].name);
        snprintf(token, sizeof token, "b%u", i);
        ret = xenstore_watch(b->store, dir, token);
    }
    if (ret == 0) ret = loop_add(b->host->loop, &b->watch, xenstore_fd(b->store), EPOLLIN, events_came);
    return ret < 0 ? errmsg_sys(e, -ret, "xenstore: watching devices") : 0;
}

static void connect_store(struct xen_backends *b)
{
    struct errmsg e = {""};
    bool was_there = b->store != NULL;
    int ret = was_there ? 0 : open_store(b, &e);
    if (ret == 0) ret = watch_store(b, &e);
    if (ret < 0) {
        log_limited(LOG_LEVEL_WARN, "xen: %s; it is tried again", e.text);
        if (b->store) disconnect_store(b);
        loop_timer_arm(b->host->loop, &b->timer, REACH_RETRY_MS * NS_PER_MS, alive_fired);
        return;
    }
    xen_backends_scan(b);
    xen_disks_expect(b);
    xen_cards_expect(b);
    loop_timer_arm(b->host->loop, &b->timer, ALIVE_MS * NS_PER_MS, alive_fired);
}

/* ---- Life ---- */

static int add_names(struct xen_backends *b, const char *list, const struct xen_device_kind *kind, struct errmsg *e)
{
    while (*list) {
        size_t len = strcspn(list, ",");
        if (b->name_count >= XEN_BACKENDS_MAX || len == 0 || len >= sizeof b->names[0].name ||
            strspn(list, "abcdefghijklmnopqrstuvwxyz0123456789_-") < len)
            return errmsg_set(e, EINVAL, "backends \"%s\": names such as vbd3, with commas between", list);
        memcpy(b->names[b->name_count].name, list, len);
        b->names[b->name_count++].kind = kind;
        list += len + (list[len] == ',');
    }
    return 0;
}

static bool is_xen_host(void)
{
    return getenv("XENSTORED_PATH") || access("/proc/xen/capabilities", F_OK) == 0 ||
           access("/dev/xen/xenbus", F_OK) == 0 || access("/run/xenstored/socket", F_OK) == 0;
}

int xen_backends_new(struct xen_backends **out, struct host *h, const struct xen_settings *s, struct errmsg *e)
{
    *out = NULL;
    if (s->wanted == XEN_OFF || (s->wanted == XEN_AUTO && !is_xen_host())) return 0;
    struct xen_backends *b = calloc(1, sizeof *b);
    if (!b) return errmsg_sys(e, ENOMEM, "xen");
    b->host = h;
    b->settings = *s;
    list_init(&b->devices);
    int ret = add_names(b, s->disks, &xen_disk_kind, e);
    if (ret == 0) ret = add_names(b, s->cards, &xen_card_kind, e);
    if (ret == 0) {
        ret = open_store(b, e);
        if (ret < 0 && ret != -ENODEV) {
            log_warn("xen: %s; it is tried again", e->text);
            ret = 0;
        }
        if (ret == -ENODEV && s->wanted == XEN_AUTO) {
            log_warn("xen: %s: its guests' devices are not served", e->text);
            free(b);
            return 0;
        }
    }
    if (ret == 0) *out = b;
    else xen_backends_free(b);
    return ret;
}

void xen_backends_end(struct xen_backends *b)
{
    if (b) b->ending = true;
}

void xen_backends_free(struct xen_backends *b)
{
    if (!b) return;
    b->ending = true;
    LIST_FOR_EACH_SAFE (node, &b->devices)
        xen_device_free(list_entry(node, struct xen_device, node));
    loop_timer_cancel(&b->timer);
    loop_timer_cancel(&b->more);
    loop_remove(&b->watch);
    xenstore_close(b->store);
    free(b);
}

void xen_backends_start(struct xen_backends *b)
{
    if (!b) return;
    b->started = true;
    connect_store(b);
}

void xen_backends_pause(struct xen_backends *b, bool paused)
{
    if (!b) return;
    b->paused = paused;
    if (!paused) xen_backends_scan(b);
}

/* ---- For the rest of the daemon ---- */

enum xen_vouch xen_backends_vouch(struct xen_backends *b, const char *backend, const char *identity)
{
    char dir[XENSTORE_PATH_MAX], now[XEN_TEXT_MAX];
    if (!b || !backend || !identity) return XEN_VOUCH_NO;
    if (!b->store) return XEN_VOUCH_UNKNOWN;
    snprintf(dir, sizeof dir, "%s/%s", b->home, backend);
    int ret = xen_identity(b->store, dir, now);
    if (ret < 0 && !xen_is_answer(ret)) return XEN_VOUCH_UNKNOWN;
    return ret == 0 && strcmp(now, identity) == 0 ? XEN_VOUCH_YES : XEN_VOUCH_NO;
}

void xen_backends_changed(struct xen_backends *b, const char *backend)
{
    struct xen_device *d = b && backend && !b->ending ? xen_backends_find(b, backend) : NULL;
    if (d) xen_device_poke(d);
}

void xen_backends_put_down(struct xen_backends *b, const char *backend)
{
    struct xen_device *d = b && backend && !b->ending ? xen_backends_find(b, backend) : NULL;
    if (!d || d->busy || b->paused) return;
    d->put_down = true;
    xen_device_poke(d);
}

void xen_backends_resized(struct xen_backends *b, const struct vdisk *disk)
{
    char state[8];
    struct xen_device *d =
        b && b->store && disk->config.xen.backend ? xen_backends_find(b, disk->config.xen.backend) : NULL;
    const char *sectors = json_string_value(json_object_get(disk->config.xen.offered, "sectors"));
    if (!d || !sectors || xenstore_read(b->store, d->dir, "state", state, sizeof state) < 0) return;
    /* The front end looks at the size again when it sees the state written, even the same. */
    struct xenstore_key keys[] = {{"sectors", sectors}, {"state", state}};
    xen_device_write(d, keys, strcmp(state, "4") == 0 ? 2 : 1);
}

unsigned xen_backends_map_entries(const struct xen_backends *b)
{
    return b ? b->settings.map_entries : 0;
}

json_t *xen_backends_json(const struct xen_backends *b)
{
    if (!b) return NULL;
    unsigned foreign = 0;
    LIST_FOR_EACH (node, &b->devices)
        foreign += list_entry(node, struct xen_device, node)->foreign;
    return json_pack("{s:b, s:i, s:i}", "reached", b->store != NULL, "devices", (int)(b->device_count - foreign),
                     "of_others", (int)foreign);
}
