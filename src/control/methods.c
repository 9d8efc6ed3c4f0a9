/* SPDX-License-Identifier: Apache-2.0 */
#include "control/methods.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "control/network.h"
#include "control/xenstore_backends.h"
#include "control/version.h"
#include "loop/clock.h"

bool method_no_params(struct rpc_call *call, json_t *params)
{
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    if (fields_end(&f) == 0) return true;
    rpc_fail_field(call, &why);
    return false;
}

struct vdisk *method_find_disk(struct daemon *d, struct rpc_call *call, struct fields *f)
{
    const char *name = fields_string(f, "name", FIELD_REQUIRED, DISK_NAME_MAX);
    if (fields_end(f) < 0) {
        rpc_fail_field(call, f->error);
        return NULL;
    }
    struct vdisk *disk = vdisk_find(&d->host, name);
    if (!disk)
        rpc_fail(call, RPC_NOT_FOUND, NULL, "there is no disk \"%s\"; `creedence disk list` shows those there are",
                 name);
    return disk;
}

static void method_version(void *arg, struct rpc_call *call, json_t *params)
{
    if (method_no_params(call, params)) rpc_answer(call, version_json("creedenced"));
}

static json_t *count_disks(struct host *h)
{
    unsigned counts[VDISK_GONE + 1] = {0}, connected = 0;
    LIST_FOR_EACH (node, &h->disks) {
        struct vdisk *d = list_entry(node, struct vdisk, node);
        counts[d->state]++;
        connected += d->state == VDISK_SERVING && strcmp(d->front_end, "connected") == 0;
    }
    json_t *o = json_pack("{s:i, s:i}", "total", (int)h->disk_count, "connected", (int)connected);
    for (enum vdisk_state s = 0; s < VDISK_GONE; s++)
        json_object_set_new(o, vdisk_state_name(s), json_integer(counts[s]));
    return o;
}

static void method_status(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    if (!method_no_params(call, params)) return;
    json_t *o = version_json("creedenced");
    json_object_set_new(o, "pid", json_integer(getpid()));
    json_object_set_new(o, "uptime_seconds",
                        json_integer((json_int_t)((clock_now_ns() - d->started_ns) / NS_PER_SECOND)));
    json_object_set_new(o, "state_dir", json_string(d->host.state_dir));
    json_object_set_new(o, "run_dir", json_string(d->host.run_dir));
    json_object_set_new(o, "bin_dir", json_string(d->host.bin_dir));
    json_object_set_new(o, "user", json_string(d->host.user.drop ? d->host.user.name : ""));
    json_object_set_new(o, "disks", count_disks(&d->host));
    json_object_set_new(o, "cache", cache_keeper_json(d->host.cache));
    json_object_set_new(o, "network", network_status_json(d->host.network));
    if (d->host.xen) json_object_set_new(o, "xen", xen_backends_json(d->host.xen));
    rpc_answer(call, o);
}

const struct rpc_method daemon_methods[] = {
    {"version", method_version},
    {"status", method_status},
    {"disk.attach", method_disk_attach},
    {"disk.detach", method_disk_detach},
    {"disk.list", method_disk_list},
    {"disk.show", method_disk_show},
    {"disk.resize", method_disk_resize},
    {"disk.stats", method_disk_stats},
    {"cache.show", method_cache_show},
    {"cache.set", method_cache_set},
    {"cache.drop", method_cache_drop},
    {"upgrade", method_upgrade},
    {"shutdown", method_shutdown},
    {"bridge.add", method_bridge_add},
    {"bridge.del", method_bridge_del},
    {"bridge.list", method_bridge_list},
    {"bridge.show", method_bridge_show},
    {"port.add", method_port_add},
    {"port.del", method_port_del},
    {"port.set", method_port_set},
    {"port.list", method_port_list},
    {"port.stats", method_port_stats},
    {"vif.attach", method_vif_attach},
    {"vif.detach", method_vif_detach},
    {"vif.set", method_vif_set},
    {"vif.list", method_vif_list},
    {"vif.stats", method_vif_stats},
    {"net.stats", method_net_stats},
    {"flow.add", method_flow_add},
    {"flow.mod", method_flow_mod},
    {"flow.del", method_flow_del},
    {"flow.dump", method_flow_dump},
    {"flow.trace", method_flow_trace},
    {"megaflow.dump", method_megaflow_dump},
    {"megaflow.stats", method_megaflow_stats},
    {"mac.show", method_mac_show},
    {"mac.flush", method_mac_flush},
    {"capture.start", method_capture_start},
    {"capture.stop", method_capture_stop},
    {"switch.set", method_switch_set},
    {"runner.stats", method_runner_stats},
    {"controller.add", method_controller_add},
    {"controller.del", method_controller_del},
    {"controller.list", method_controller_list},
    {"bridge.set", method_bridge_set},
    {"tls.set", method_tls_set},
    {"tls.del", method_tls_del},
    {"tls.show", method_tls_show},
    {"group.add", method_group_add},
    {"group.mod", method_group_mod},
    {"group.del", method_group_del},
    {"group.dump", method_group_dump},
    {"meter.add", method_meter_add},
    {"meter.mod", method_meter_mod},
    {"meter.del", method_meter_del},
    {"meter.dump", method_meter_dump},
    {"policy.add", method_policy_add},
    {"policy.del", method_policy_del},
    {"policy.list", method_policy_list},
    {"policy.show", method_policy_show},
    {NULL, NULL},
};

/* ---- Start ---- */

struct restore {
    struct daemon *daemon;
    void (*settled)(struct daemon *d);
    unsigned waiting;
};

static void restore_one_less(struct restore *r)
{
    if (--r->waiting) return;
    r->settled(r->daemon);
    free(r);
}

static void one_restored(void *arg, int code, const char *message)
{
    restore_one_less(arg);
}

static void disk_found(void *arg, struct disk_config *c, json_t *images)
{
    struct daemon *d = arg;
    struct vdisk *disk = vdisk_new(&d->host, c);
    if (!disk) log_error("out of memory: a saved disk is left out");
    else if (images && !image_ids_parse(&disk->images, images))
        log_warn("disk %s: which files its images were is not understood: they are taken as they are",
                 disk->config.name);
}

int daemon_restore(struct daemon *d, void (*settled)(struct daemon *d), struct errmsg *e)
{
    int ret = state_load_disks(d->host.state_dir, disk_found, d, e);
    struct restore *r = ret < 0 ? NULL : calloc(1, sizeof *r);
    if (!r) return ret < 0 ? ret : -ENOMEM;
    *r = (struct restore){.daemon = d, .settled = settled, .waiting = 2};
    network_restore(d->host.network, one_restored, r);
    LIST_FOR_EACH_SAFE (node, &d->host.disks) {
        r->waiting++;
        vdisk_restore(list_entry(node, struct vdisk, node), one_restored, r);
    }
    restore_one_less(r);
    return 0;
}
