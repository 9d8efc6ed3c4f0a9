/* SPDX-License-Identifier: Apache-2.0 */
/* Network cards of Xen guests: public io/netif.h's keys on one side, a card of the network's on the other. */
#include "control/xenstore_card.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "control/network.h"
#include "control/xenstore_internal.h"
#include "control/xenstore_params.h"

#define MULTICAST_KEY "request-multicast-control"
#define LOCKED_SUFFIX "-locked" /* of the hotplug script's name: the guest sends from its own address only */

static const char *const published_keys[] = {"feature-sg",
                                             "feature-gso-tcpv4",
                                             "feature-gso-tcpv6",
                                             "feature-ipv6-csum-offload",
                                             "feature-no-csum-offload",
                                             "feature-rx-copy",
                                             "feature-rx-flip",
                                             "feature-rx-notify",
                                             "feature-multicast-control",
                                             "feature-dynamic-multicast-control",
                                             "feature-split-event-channels",
                                             "multi-queue-max-queues",
                                             "feature-ctrl-ring",
                                             "feature-staging-grants",
                                             NULL};

/* Of a front end, passed on as they are. */
static const char *const front_keys[] = {"request-rx-copy",
                                         "feature-rx-notify",
                                         "feature-sg",
                                         "feature-gso-tcpv4",
                                         "feature-gso-tcpv4-prefix",
                                         "feature-gso-tcpv6",
                                         "feature-gso-tcpv6-prefix",
                                         "feature-no-csum-offload",
                                         "feature-ipv6-csum-offload",
                                         MULTICAST_KEY,
                                         NULL};

json_t *xen_card_keys(json_t *keys)
{
    return xen_keys_filter(keys, published_keys);
}

static struct network_item *card_of(struct xen_device *d)
{
    LIST_FOR_EACH (node, &d->backends->host->network->items[NETWORK_VIF]) {
        struct network_item *i = list_entry(node, struct network_item, node);
        const char *backend = network_xen_backend(i);
        if (backend && strcmp(backend, d->backend) == 0) return i;
    }
    return NULL;
}

static enum xen_device_stage stage(struct xen_device *d)
{
    struct network_item *i = card_of(d);
    if (!i) return XEN_DEVICE_NONE;
    if (network_xen_connection(i)) return XEN_DEVICE_CONNECTED;
    if (i->state == NETWORK_PRESENT && !i->busy && i->network->settled && network_xen_offered(i))
        return XEN_DEVICE_READY;
    if (i->error[0]) xen_device_complain(d, i->error);
    return XEN_DEVICE_NOT_READY;
}

static json_t *offered(struct xen_device *d)
{
    struct network_item *i = card_of(d);
    return i ? network_xen_offered(i) : NULL;
}

static const char *identity(struct xen_device *d)
{
    struct network_item *i = card_of(d);
    return i ? json_string_value(json_object_get(json_object_get(i->config, "xen"), "identity")) : NULL;
}

static void op_done(void *arg, int code, const char *why)
{
    xen_device_done(arg, code == 0 ? 0 : code == RPC_BUSY ? -EAGAIN : -EIO, why);
}

/* ---- attach, detach ---- */

/* Who may send what: what the toolstack says the card's addresses are, and only those. */
static int read_locks(struct xen_device *d, json_t *card, const char *mac, struct errmsg *e)
{
    char ip[XENSTORE_VALUE_MAX], script[XENSTORE_VALUE_MAX];
    int ret = 0;
    bool locked = xen_device_read(d, "script", script) == 0 && strlen(script) > strlen(LOCKED_SUFFIX) &&
                  strcmp(script + strlen(script) - strlen(LOCKED_SUFFIX), LOCKED_SUFFIX) == 0;
    if (xen_device_read(d, "ip", ip) == 0 && *ip) {
        ret = xenstore_params_addresses(card, ip, e);
        locked = true;
    }
    if (!locked) return ret;
    if (!*mac) return errmsg_set(e, EINVAL, "there is no mac= to lock the card to");
    json_object_set_new(card, "allowed_macs", json_pack("[s]", mac));
    return ret;
}

static int read_settings(struct xen_device *d, json_t *card, struct errmsg *e)
{
    char value[XENSTORE_VALUE_MAX], mac[XENSTORE_VALUE_MAX];
    unsigned mtu;
    int used = 0;
    if (xen_device_read(d, "mac", mac) < 0) *mac = 0;
    if (*mac && json_object_set_new(card, "mac", json_string(mac)) < 0)
        return errmsg_set(e, EINVAL, "mac= is not UTF-8");
    if (xen_device_read(d, "bridge", value) < 0 || !*value) return errmsg_set(e, EINVAL, "there is no bridge=");
    int ret = xenstore_params_bridge(card, value, e);
    if (ret == 0 && xen_device_read(d, "rate", value) == 0 && *value) ret = xenstore_params_rate(card, value, e);
    if (ret == 0) ret = read_locks(d, card, mac, e);
    if (xen_device_read(d, "mtu", value) == 0 && sscanf(value, "%5u%n", &mtu, &used) == 1 && !value[used])
        json_object_set_new(card, "mtu", json_integer(mtu));
    if (ret == 0 && xen_device_read(d, "tx", value) == 0 && *value &&
        json_object_set_new(json_object_get(card, "xen"), "tx", json_string(value)) < 0)
        return errmsg_set(e, EINVAL, "tx is not UTF-8");
    return ret;
}

static json_t *xen_part(struct xen_device *d)
{
    json_t *xen = json_pack("{s:i, s:i, s:s, s:s}", "domid", (int)d->domid, "handle", (int)d->id, "backend", d->backend,
                            "identity", d->identity);
    /* What a guest has seen already stays, even if the card has to be made anew under it. */
    json_t *seen = d->published ? xen_keys_read(d, published_keys) : NULL;
    if (seen) json_object_set_new(xen, "offered", seen);
    if (d->backends->settings.world) json_object_set_new(xen, "world", json_string(d->backends->settings.world));
    return xen;
}

static int read_config(struct xen_device *d, json_t **out, struct errmsg *e)
{
    char name[XENSTORE_VALUE_MAX];
    struct field_error why = {0};
    if (xen_device_read(d, "vifname", name) < 0 || !network_name_valid(name))
        snprintf(name, sizeof name, "xen-%u-%u", d->domid, d->id);
    json_t *xen = xen_part(d);
    unsigned queues = xen_offered_number(json_object_get(xen, "offered"), "multi-queue-max-queues",
                                         d->backends->settings.card_queues);
    json_t *card = json_pack("{s:s, s:o, s:i}", "name", name, "xen", xen, "queues", (int)queues);
    int ret = read_settings(d, card, e);
    if (ret == 0 && d->store_failed) ret = errmsg_set(e, EIO, "xenstore");
    if (ret == 0) {
        ret = network_config_parse(out, NETWORK_VIF, card, "vif", &why);
        if (ret < 0) errmsg_set(e, -ret, "%s", why.failed ? why.message : "out of memory");
    }
    json_decref(card);
    return ret;
}

/* What an operator would be refused (methods_network.c). */
static int check_place(struct network *n, json_t *config, struct errmsg *e)
{
    const char *name = json_string_value(json_object_get(config, "name"));
    const char *bridge = json_string_value(json_object_get(config, "bridge"));
    const struct network_item *b = network_find(n, NETWORK_BRIDGE, bridge);
    if (!b || b->adding) return errmsg_set(e, ENOENT, "there is no bridge \"%s\"", bridge);
    if (n->load_failed) return errmsg_set(e, EIO, "network.json was not understood");
    if (network_find(n, NETWORK_VIF, name) || network_find(n, NETWORK_PORT, name))
        return errmsg_set(e, EEXIST, "there is a port or card \"%s\" already", name);
    if (n->count[NETWORK_PORT] + n->count[NETWORK_VIF] >= NETWORK_PORTS_MAX)
        return errmsg_set(e, ENOSPC, "there are %u ports and cards, the most that there can be", NETWORK_PORTS_MAX);
    return 0;
}

static void attach(struct xen_device *d)
{
    struct errmsg e = {""};
    json_t *config = NULL;
    struct network *n = d->backends->host->network;
    int ret = read_config(d, &config, &e);
    if (ret == 0) ret = check_place(n, config, &e);
    struct network_item *i = ret == 0 ? network_item_new(n, NETWORK_VIF, json_incref(config)) : NULL;
    json_decref(config);
    if (i) {
        network_save(n, NULL, NULL);
        network_sync(n);
    }
    xen_device_done(d, ret < 0 ? ret : i ? 0 : -ENOMEM, e.text[0] ? e.text : "out of memory");
}

static void detach(struct xen_device *d)
{
    struct network_item *i = card_of(d);
    if (i) network_xen_detach(i, op_done, d);
    else xen_device_done(d, 0, NULL);
}

/* ---- connect, disconnect ---- */

static int read_number(struct xen_device *d, json_t *into, const char *prefix, const char *key)
{
    char path[64];
    unsigned value;
    snprintf(path, sizeof path, "%s%s", prefix, key);
    int ret = xen_device_front_number(d, path, UINT32_MAX, &value);
    if (ret == 0) json_object_set_new(into, key, json_integer(value));
    return ret;
}

/* One queue's keys, below a prefix ("" or "queue-N/"): two event channels, or one for both directions. */
static int read_queue(struct xen_device *d, json_t *queues, const char *prefix)
{
    json_t *queue = json_object();
    int ret = read_number(d, queue, prefix, "tx-ring-ref");
    if (ret == 0) ret = read_number(d, queue, prefix, "rx-ring-ref");
    int split = ret == 0 ? read_number(d, queue, prefix, "event-channel-tx") : ret;
    if (split == -ENOENT) ret = read_number(d, queue, prefix, "event-channel");
    else if (split == 0) ret = read_number(d, queue, prefix, "event-channel-rx");
    else ret = split;
    json_array_append_new(queues, queue);
    return ret;
}

static int read_queues(struct xen_device *d, json_t *list)
{
    unsigned count, most = xen_offered_number(offered(d), "multi-queue-max-queues", 1);
    if (most > NETWORK_QUEUES_MAX) most = NETWORK_QUEUES_MAX;
    int ret = xen_device_front_number_or(d, "multi-queue-num-queues", most, 1, &count);
    if (ret == 0 && count == 0) ret = -EINVAL;
    for (unsigned i = 0; ret == 0 && i < count; i++) {
        char prefix[32] = "";
        if (count > 1) snprintf(prefix, sizeof prefix, "queue-%u/", i);
        ret = read_queue(d, list, prefix);
    }
    return ret;
}

static int read_front(struct xen_device *d, json_t *front)
{
    char value[XEN_TEXT_MAX];
    for (const char *const *key = front_keys; *key; key++) {
        int ret = xen_device_front_text(d, *key, value, sizeof value);
        if (ret == 0) json_object_set_new(front, *key, json_string(value));
        else if (ret != -ENOENT) return ret;
    }
    return 0;
}

static int read_control(struct xen_device *d, json_t *connection)
{
    unsigned ref, port;
    if (!xen_offered_number(offered(d), "feature-ctrl-ring", 0)) return 0;
    int ret = xen_device_front_number(d, "ctrl-ring-ref", UINT32_MAX, &ref);
    if (ret < 0) return ret == -ENOENT ? 0 : ret;
    ret = xen_device_front_number(d, "event-channel-ctrl", UINT32_MAX, &port);
    if (ret == 0)
        json_object_set_new(connection, "ctrl",
                            json_pack("{s:I, s:I}", "ring-ref", (json_int_t)ref, "event-channel", (json_int_t)port));
    return ret;
}

static void connect(struct xen_device *d, bool resume)
{
    struct network_item *i = card_of(d);
    json_t *queues = json_array(), *front = json_object();
    json_t *connection = json_pack("{s:o, s:o}", "queues", queues, "frontend", front);
    xenstore_snapshot_begin(d->backends->store);
    int ret = read_queues(d, queues);
    if (ret == 0) ret = read_front(d, front);
    if (ret == 0) ret = read_control(d, connection);
    xenstore_snapshot_end(d->backends->store);
    if (ret == 0 && i) {
        network_xen_connect(i, connection, resume, op_done, d);
        return;
    }
    json_decref(connection);
    if (!i) xen_device_done(d, -EAGAIN, NULL);
    else xen_device_done(d, ret, "what the front end says of its rings cannot be used");
}

/* ---- what the front end may change ---- */

/* A new reference; NULL: nothing that can be used is there. */
static json_t *multicast_control(struct xen_device *d)
{
    char value[XEN_TEXT_MAX];
    return xen_device_front_text(d, MULTICAST_KEY, value, sizeof value) == 0 ? json_string(value) : NULL;
}

static bool changed(struct xen_device *d)
{
    if (!xen_offered_number(offered(d), "feature-dynamic-multicast-control", 0)) return false;
    json_t *now = multicast_control(d);
    json_t *used = json_object_get(json_object_get(network_xen_connection(card_of(d)), "frontend"), MULTICAST_KEY);
    bool same = now && used ? json_equal(now, used) : !now && !used;
    json_decref(now);
    return !same && !d->store_failed;
}

static void follow(struct xen_device *d)
{
    struct network_item *i = card_of(d);
    json_t *now = multicast_control(d);
    if (i && !d->store_failed) {
        network_xen_follow(i, MULTICAST_KEY, now, op_done, d);
        return;
    }
    json_decref(now);
    xen_device_done(d, -EAGAIN, NULL);
}

static const char *broken(struct xen_device *d)
{
    struct network_item *i = card_of(d);
    return i && strcmp(i->front_end, "broken") == 0 ? i->front_end_why : NULL;
}

static bool heard_of(struct xen_device *d)
{
    struct network_item *i = card_of(d);
    return i && i->state == NETWORK_PRESENT && (i->linked || !network_xen_connection(i));
}

static void disconnect(struct xen_device *d)
{
    struct network_item *i = card_of(d);
    if (i) network_xen_disconnect(i, op_done, d);
    else xen_device_done(d, 0, NULL);
}

const struct xen_device_kind xen_card_kind = {
    .name = "card",
    .script_prefix = "vif-creedence",
    .stage = stage,
    .attach = attach,
    .connect = connect,
    .disconnect = disconnect,
    .detach = detach,
    .followed = MULTICAST_KEY,
    .changed = changed,
    .follow = follow,
    .broken = broken,
    .heard_of = heard_of,
    .offered = offered,
    .identity = identity,
};

void xen_cards_expect(struct xen_backends *b)
{
    LIST_FOR_EACH (node, &b->host->network->items[NETWORK_VIF]) {
        const struct network_item *i = list_entry(node, struct network_item, node);
        if (network_is_xen(i) && network_xen_backend(i)) xen_backends_expect(b, network_xen_backend(i));
    }
}
