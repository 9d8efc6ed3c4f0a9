/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shutdown: the daemon ends. With stop_workers every disk is first made durable and ended; each keeps its saved state.
 * Then the switch ends, if all disks could: networks are there as long as a guest may be.
 *
 * A disk that cannot be ended keeps no other from being made durable: the host may be about to lose its power. Then the
 * daemon goes on with that one, and the answer is an error that says which they are and why. By force it is
 * discarded, in the end by SIGKILL, and the daemon ends; the answer is still an error.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/methods.h"
#include "control/network.h"
#include "control/xenstore_backends.h"
#include "loop/clock.h"

#define LOOK_MS 100u
#define SETTLE_MS 10000u /* for disks in the middle of something else */
#define KILLED_MS 5000u

static void look(struct daemon *d);

static void look_fired(struct loop_timer *t)
{
    look(container_of(t, struct daemon, shutdown.timer));
}

static void look_again(struct daemon *d, unsigned ms)
{
    loop_timer_arm(d->host.loop, &d->shutdown.timer, ms * NS_PER_MS, look_fired);
}

static void note_problem(struct shutdown *s, const char *name, const char *why)
{
    size_t used = strlen(s->problems);
    log_error("shutdown: disk %s: %s", name, why);
    snprintf(s->problems + used, sizeof s->problems - used, "%sdisk %s: %s", used ? "; " : "", name, why);
    s->failed = true;
}

/* ---- The end ---- */

static void end_now(struct daemon *d)
{
    struct shutdown *s = &d->shutdown;
    struct rpc_call *call = s->call;
    s->call = NULL;
    loop_timer_cancel(&s->timer);
    if (s->failed)
        rpc_fail(call, RPC_WORKER, NULL, "creedenced has ended, but not every disk in order: %s", s->problems);
    else rpc_answer(call, json_object());
    loop_stop(d->host.loop);
}

/* Not all could be ended: the daemon is there for the others. */
static void go_on(struct daemon *d)
{
    struct shutdown *s = &d->shutdown;
    LIST_FOR_EACH (node, &d->host.disks) {
        struct vdisk *disk = list_entry(node, struct vdisk, node);
        disk->stop_asked = false;
        if (disk->state != VDISK_QUITTING) disk->keep_saved = false;
    }
    rpc_fail(
        s->call, RPC_BUSY, NULL,
        "%s. The daemon goes on with these; %u others are ended and are back when it starts again. Remove the cause "
        "and try again, or use force and lose what their guests wrote last",
        s->problems, s->stopped);
    loop_timer_cancel(&s->timer);
    network_go_on(d->host.network);
    xen_backends_pause(d->host.xen, false);
    *s = (struct shutdown){0};
    d->shutting_down = false;
}

void daemon_shutdown_cut_short(struct daemon *d)
{
    loop_timer_cancel(&d->shutdown.timer);
    if (d->shutdown.call) rpc_fail(d->shutdown.call, RPC_BUSY, NULL, "the daemon ends before all disks have");
    d->shutdown.call = NULL;
}

/* ---- Disk by disk ---- */

struct stopping {
    struct daemon *daemon;
    bool killed;
    char name[DISK_NAME_MAX + 1];
};

static void stop(struct daemon *d, struct vdisk *disk, bool kill);

static void stopped(void *arg, int code, const char *message)
{
    struct stopping *one = arg;
    struct daemon *d = one->daemon;
    struct shutdown *s = &d->shutdown;
    struct vdisk *disk = vdisk_find(&d->host, one->name);
    s->outstanding--;
    s->killed -= one->killed;
    if (!disk) s->stopped++;
    if (code == RPC_TIMEOUT && disk && s->force) stop(d, disk, true);
    else if (code) note_problem(s, one->name, message);
    free(one);
    if (s->call) look_again(d, 0);
}

static void stop(struct daemon *d, struct vdisk *disk, bool kill)
{
    struct shutdown *s = &d->shutdown;
    struct stopping *one = calloc(1, sizeof *one);
    assert(one);
    one->daemon = d;
    memcpy(one->name, disk->config.name, sizeof one->name);
    disk->stop_asked = disk->keep_saved = true;
    s->outstanding++;
    one->killed = kill;
    if (kill) {
        s->killed++;
        s->killed_ns = clock_now_ns();
        vdisk_destroy(disk, stopped, one);
    } else {
        vdisk_detach(disk, VDISK_DETACH_CONNECTED | (s->force ? VDISK_DETACH_DISCARD : 0), stopped, one);
    }
}

/* Can it be asked now? */
static bool is_settled(struct vdisk *disk)
{
    return !disk->done && (vdisk_peer(disk) || disk->state == VDISK_WAITING);
}

static void give_up_on(struct daemon *d, struct vdisk *disk)
{
    char why[640];
    if (d->shutdown.force) {
        stop(d, disk, true);
        return;
    }
    snprintf(why, sizeof why, "it is %s%s%s", vdisk_state_name(disk->state), disk->error[0] ? ": " : "", disk->error);
    disk->stop_asked = true;
    note_problem(&d->shutdown, disk->config.name, why);
}

/* Ask every disk that can be asked. True: others may be able to be soon. */
static bool stop_settled(struct daemon *d)
{
    struct shutdown *s = &d->shutdown;
    bool late = clock_now_ns() - s->began_ns > SETTLE_MS * NS_PER_MS, wait = false;
    LIST_FOR_EACH_SAFE (node, &d->host.disks) {
        struct vdisk *disk = list_entry(node, struct vdisk, node);
        if (disk->stop_asked) continue;
        bool lost = disk->state == VDISK_WAITING && disk->held.count && !vdisk_can_flush(disk) && !s->force;
        if (is_settled(disk) && !lost) stop(d, disk, false);
        else if (late || lost) give_up_on(d, disk);
        else wait = true;
    }
    return wait;
}

static void look(struct daemon *d)
{
    struct shutdown *s = &d->shutdown;
    bool wait = stop_settled(d);
    /* Others may still be writing: they are waited for, as long as their own limits let them. */
    if (s->killed && s->killed == s->outstanding && clock_now_ns() - s->killed_ns > KILLED_MS * NS_PER_MS) {
        note_problem(s, "(killed)", "a worker does not end: its storage hangs");
        network_stop(d->host.network);
        switch_keeper_kill(d->host.network->keeper);
        end_now(d);
    } else if (wait || s->outstanding) {
        look_again(d, LOOK_MS);
    } else if (!list_empty(&d->host.disks)) {
        go_on(d);
    } else if (!network_stop(d->host.network)) { /* it is asked to end, and killed when it does not */
        look_again(d, LOOK_MS);
    } else {
        cache_keeper_stop(d->host.cache);
        end_now(d);
    }
}

void method_shutdown(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    bool stop_workers = fields_bool(&f, "stop_workers", false), force = fields_bool(&f, "force", false);
    if (fields_end(&f) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    if (d->shutting_down) {
        rpc_fail(call, RPC_BUSY, NULL, "the daemon is shutting down already");
        return;
    }
    d->shutting_down = true;
    d->shutdown = (struct shutdown){.call = call, .force = force, .began_ns = clock_now_ns()};
    xen_backends_pause(d->host.xen, stop_workers);
    if (stop_workers) look(d);
    else end_now(d);
}
