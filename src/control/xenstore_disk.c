/* SPDX-License-Identifier: Apache-2.0 */
/* Disks of Xen guests: public io/blkif.h's keys on one side, a vdisk on the other. */
#include "control/xenstore_disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "control/vdisk.h"
#include "control/xenstore_internal.h"
#include "control/xenstore_params.h"

#define RING_ORDER_MAX 4u /* a worker may offer less, not more */
#define LOCKED_TRIES 2u   /* of an image, before the toolstack hears of it: whoever had it may just have ended */

static const char *const published_keys[] = {"sectors",
                                             "sector-size",
                                             "physical-sector-size",
                                             "info",
                                             "feature-flush-cache",
                                             "feature-barrier",
                                             "feature-discard",
                                             "discard-granularity",
                                             "discard-alignment",
                                             "discard-secure",
                                             "feature-persistent",
                                             "feature-max-indirect-segments",
                                             "multi-queue-max-queues",
                                             "max-ring-page-order",
                                             "feature-large-sector-size",
                                             NULL};

json_t *xen_disk_keys(json_t *keys)
{
    return xen_keys_filter(keys, published_keys);
}

static struct vdisk *disk_of(struct xen_device *d)
{
    LIST_FOR_EACH (node, &d->backends->host->disks) {
        struct vdisk *disk = list_entry(node, struct vdisk, node);
        const char *backend = disk->config.xen.backend;
        if (backend && strcmp(backend, d->backend) == 0) return disk;
    }
    return NULL;
}

static enum xen_device_stage stage(struct xen_device *d)
{
    struct vdisk *disk = disk_of(d);
    if (!disk) return d->lent ? XEN_DEVICE_READY : XEN_DEVICE_NONE;
    if (disk->config.xen.connection) return XEN_DEVICE_CONNECTED;
    return vdisk_peer(disk) && !disk->done ? XEN_DEVICE_READY : XEN_DEVICE_NOT_READY;
}

static json_t *offered(struct xen_device *d)
{
    struct vdisk *disk = disk_of(d);
    return disk ? disk->config.xen.offered : d->lent;
}

static const char *identity(struct xen_device *d)
{
    struct vdisk *disk = disk_of(d);
    return disk ? disk->config.xen.identity : NULL;
}

static void op_done(void *arg, int code, const char *why)
{
    bool later = code == RPC_BUSY || code == RPC_TIMEOUT;
    xen_device_done(arg, code == 0 ? 0 : later ? -EAGAIN : -EIO, why);
}

/* ---- attach, detach ---- */

static json_t *xen_part(struct xen_device *d)
{
    char type[XENSTORE_VALUE_MAX];
    bool cdrom = xen_device_read(d, "device-type", type) == 0 && strcmp(type, "cdrom") == 0;
    char discard[XENSTORE_VALUE_MAX]; /* libxl's word for it; without it, yes */
    bool no_discard = xen_device_read(d, "discard-enable", discard) == 0 && strcmp(discard, "0") == 0;
    json_t *xen = json_pack("{s:i, s:b, s:b, s:s, s:s}", "domid", (int)d->domid, "cdrom", cdrom, "discard", !no_discard,
                            "backend", d->backend, "identity", d->identity);
    if (d->backends->settings.world) json_object_set_new(xen, "world", json_string(d->backends->settings.world));
    /* What a guest has seen already stays, even if the disk has to be made anew under it. */
    json_t *seen = d->lent ? json_incref(d->lent) : d->published ? xen_keys_read(d, published_keys) : NULL;
    if (seen) json_object_set_new(xen, "offered", seen);
    return xen;
}

static int read_config(struct xen_device *d, struct disk_config *out, struct errmsg *e)
{
    char params[XENSTORE_VALUE_MAX], mode[XENSTORE_VALUE_MAX], name[DISK_NAME_MAX + 1];
    struct field_error why = {0};
    int ret = xen_device_read(d, "params", params);
    if (ret < 0 && ret != -ENOENT) return errmsg_sys(e, -ret, "params");
    json_t *xen = xen_part(d), *disk = NULL;
    ret = xenstore_params_disk(&disk, xen, params, e);
    if (ret == 0) {
        snprintf(name, sizeof name, "xen-%u-%u", d->domid, d->id);
        if (!json_object_get(disk, "name")) json_object_set_new(disk, "name", json_string(name));
        bool writable = xen_device_read(d, "mode", mode) == 0 && strchr(mode, 'w');
        json_object_set_new(disk, "read_only", json_boolean(!writable));
        json_object_set(disk, "xen", xen);
    }
    if (ret == 0 && d->store_failed) ret = errmsg_set(e, EIO, "xenstore");
    if (ret == 0) {
        ret = disk_config_parse(out, disk, "target", &why);
        if (ret < 0) errmsg_set(e, -ret, "%s", why.failed ? why.message : "out of memory");
    }
    json_decref(disk);
    json_decref(xen);
    return ret;
}

/* done(): when its worker serves, or does not; only if this was 0. c is taken over. */
static int make(struct xen_device *d, struct disk_config *c, vdisk_done done, struct errmsg *e)
{
    struct host *h = d->backends->host;
    if (vdisk_find(h, c->name) || state_has_disk(h->state_dir, c->name)) {
        errmsg_set(e, EEXIST, "there is a disk \"%s\" already", c->name);
        disk_config_free(c);
        return -EEXIST;
    }
    struct vdisk *disk = vdisk_new(h, c);
    if (!disk) return errmsg_set(e, ENOMEM, "out of memory");
    int ret = vdisk_open_and_save(disk, e);
    if (ret < 0) {
        vdisk_free(disk);
        return ret;
    }
    vdisk_attach(disk, done, d);
    return 0;
}

/*
 * A guest that moves to this host from this host (xl migrate to itself): its next domain's disk is announced while the last one's is
 * connected and has the image. It offers the same, and is made when the front end wants it: the last one is gone by then.
 */
static bool is_same_guest(const char *a, const char *b)
{
    size_t len = strcspn(a, "#"); /* xen_identity(): its lasting name */
    return b && strcspn(b, "#") == len && memcmp(a, b, len) == 0;
}

static json_t *lend(struct xen_device *d, const char *leaf)
{
    LIST_FOR_EACH (node, &d->backends->host->disks) {
        const struct disk_config *other = &list_entry(node, struct vdisk, node)->config;
        if (other->xen.used && other->xen.domid != d->domid && other->xen.connection && other->xen.offered &&
            strcmp(other->layers[0].path, leaf) == 0 && is_same_guest(d->identity, other->xen.identity))
            return json_deep_copy(other->xen.offered);
    }
    return NULL;
}

static void attach(struct xen_device *d)
{
    struct errmsg e = {""};
    struct disk_config c;
    char leaf[XENSTORE_VALUE_MAX] = "";
    int ret = read_config(d, &c, &e);
    if (ret == 0) {
        snprintf(leaf, sizeof leaf, "%s", c.layers[0].path);
        ret = make(d, &c, op_done, &e);
    }
    if (ret == 0) return;
    if ((ret == -EAGAIN || ret == -EEXIST) && !d->lent) d->lent = lend(d, leaf);
    if (d->lent) xen_device_done(d, 0, NULL);
    else if (ret == -EAGAIN && d->tries < LOCKED_TRIES) xen_device_done(d, -EAGAIN, NULL);
    else xen_device_done(d, ret == -EAGAIN ? -EIO : ret, e.text[0] ? e.text : strerror(-ret));
}

static void detach(struct xen_device *d)
{
    struct vdisk *disk = disk_of(d);
    json_decref(d->lent);
    d->lent = NULL;
    if (disk) vdisk_detach(disk, VDISK_DETACH_CONNECTED, op_done, d);
    else xen_device_done(d, 0, NULL);
}

/* ---- connect, disconnect ---- */

/* One ring's keys, below a prefix ("" or "queue-N/"). */
static int read_ring(struct xen_device *d, json_t *rings, const char *prefix, bool ordered, unsigned order)
{
    char key[64];
    unsigned value, port;
    json_t *refs = json_array();
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < 1u << order; i++) {
        if (ordered) snprintf(key, sizeof key, "%sring-ref%u", prefix, i);
        else snprintf(key, sizeof key, "%sring-ref", prefix);
        ret = xen_device_front_number(d, key, UINT32_MAX, &value);
        if (ret == -ENOENT && i == 0 && order == 0) { /* one page, by either name */
            snprintf(key, sizeof key, "%s%s", prefix, ordered ? "ring-ref" : "ring-ref0");
            ret = xen_device_front_number(d, key, UINT32_MAX, &value);
        }
        if (ret == 0) json_array_append_new(refs, json_integer(value));
    }
    snprintf(key, sizeof key, "%sevent-channel", prefix);
    if (ret == 0) ret = xen_device_front_number(d, key, UINT32_MAX, &port);
    json_array_append_new(rings, json_pack("{s:o, s:I}", "refs", refs, "port", (json_int_t)(ret == 0 ? port : 0)));
    return ret;
}

static int read_rings(struct xen_device *d, json_t *rings)
{
    unsigned queues = 1, order = 0;
    json_t *keys = offered(d);
    unsigned queues_max = xen_offered_number(keys, "multi-queue-max-queues", 1);
    unsigned order_max = xen_offered_number(keys, "max-ring-page-order", 0);
    if (queues_max > XEN_QUEUES_MAX) queues_max = XEN_QUEUES_MAX;
    if (order_max > RING_ORDER_MAX) order_max = RING_ORDER_MAX;
    int ret = xen_device_front_number_or(d, "multi-queue-num-queues", queues_max, 1, &queues);
    bool ordered = ret == 0 && xen_device_front_number(d, "ring-page-order", order_max, &order) != -ENOENT;
    if (ordered) ret = xen_device_front_number(d, "ring-page-order", order_max, &order);
    if (ret == 0 && queues == 0) ret = -EINVAL;
    for (unsigned i = 0; ret == 0 && i < queues; i++) {
        char prefix[32] = "";
        if (queues > 1) snprintf(prefix, sizeof prefix, "queue-%u/", i);
        ret = read_ring(d, rings, prefix, ordered, order);
    }
    return ret;
}

/* "arm-abi" is what Linux calls the layout of 64-bit x86 on Arm. */
static bool is_protocol(const char *name)
{
    static const char *const names[] = {"", "x86_64-abi", "x86_32-abi", "arm-abi"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(names[i], name) == 0) return true;
    return false;
}

static json_t *read_connection(struct xen_device *d, int *ret)
{
    char protocol[XEN_TEXT_MAX];
    unsigned persistent;
    json_t *rings = json_array();
    xenstore_snapshot_begin(d->backends->store);
    *ret = xen_device_front_text(d, "protocol", protocol, sizeof protocol);
    if (*ret == -ENOENT) *ret = 0;
    if (*ret == 0) *ret = xen_device_front_number_or(d, "feature-persistent", 1, 0, &persistent);
    if (*ret == 0) *ret = read_rings(d, rings);
    xenstore_snapshot_end(d->backends->store);
    if (*ret == 0 && !is_protocol(protocol)) *ret = -EINVAL;
    if (*ret == 0)
        return json_pack("{s:s, s:o, s:b}", "protocol", protocol, "rings", rings, "persistent", (int)persistent);
    json_decref(rings);
    return NULL;
}

static void made(void *arg, int code, const char *why)
{
    struct xen_device *d = arg;
    if (code == 0) {
        json_decref(d->lent);
        d->lent = NULL;
        d->tries = 0;
    } else if (code != RPC_BUSY && !d->backends->ending) {
        xen_device_complain(d, why);
    }
    xen_device_done(d, -EAGAIN, NULL); /* look again: it is there by then, or is tried again */
}

static void make_lent(struct xen_device *d)
{
    struct errmsg e = {""};
    struct disk_config c;
    int ret = read_config(d, &c, &e);
    if (ret == 0) ret = make(d, &c, made, &e);
    if (ret == 0) return;
    if (ret != -EAGAIN && ret != -EEXIST && !d->store_failed) xen_device_complain(d, e.text);
    xen_device_done(d, -EAGAIN, NULL);
}

static void connect(struct xen_device *d, bool resume)
{
    int ret;
    struct vdisk *disk = disk_of(d);
    if (!disk && d->lent) {
        make_lent(d);
        return;
    }
    json_t *connection = read_connection(d, &ret);
    if (connection && disk) {
        vdisk_connect(disk, connection, resume, op_done, d);
        return;
    }
    json_decref(connection);
    /* Nothing is there yet, of a front end that says that it is ready: it may be, in a moment. */
    if (!disk) xen_device_done(d, -EAGAIN, NULL);
    else xen_device_done(d, ret, "what the front end says of its rings cannot be used");
}

static void disconnect(struct xen_device *d)
{
    struct vdisk *disk = disk_of(d);
    if (disk) vdisk_disconnect(disk, op_done, d);
    else xen_device_done(d, 0, NULL);
}

static const char *broken(struct xen_device *d)
{
    const struct vdisk *disk = disk_of(d);
    return disk && strcmp(disk->front_end, "broken") == 0 ? disk->front_end_why : NULL;
}

static bool heard_of(struct xen_device *d)
{
    struct vdisk *disk = disk_of(d);
    return disk && vdisk_peer(disk);
}

const struct xen_device_kind xen_disk_kind = {
    .name = "disk",
    .script_prefix = "block-creedence",
    .stage = stage,
    .attach = attach,
    .connect = connect,
    .disconnect = disconnect,
    .detach = detach,
    .broken = broken,
    .heard_of = heard_of,
    .offered = offered,
    .identity = identity,
};

void xen_disks_expect(struct xen_backends *b)
{
    LIST_FOR_EACH (node, &b->host->disks) {
        const struct disk_xen_config *x = &list_entry(node, struct vdisk, node)->config.xen;
        if (x->backend) xen_backends_expect(b, x->backend);
    }
}
