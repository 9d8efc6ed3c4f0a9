/* SPDX-License-Identifier: Apache-2.0 */
/* The meters of a bridge: adding, changing, removing and showing them. */
#include "switch/meter.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "switch/bridge.h"
#include "switch/meter_internal.h"

#define FLAGS_ALL (METER_KBPS | METER_PKTPS | METER_BURST | METER_STATS)

/* ---- finding ---- */

/* Where it is, or would be. */
static unsigned place_of(const struct bridge *b, uint32_t id)
{
    unsigned low = 0, high = b->meter_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (b->meters[middle]->spec.id < id) low = middle + 1;
        else high = middle;
    }
    return low;
}

struct meter *bridge_meter(const struct bridge *b, uint32_t id)
{
    unsigned at = place_of(b, id);
    return at < b->meter_count && b->meters[at]->spec.id == id ? b->meters[at] : NULL;
}

/* Those that no flow names: they are in force by their number. NULL: it is none of them. */
static _Atomic(struct meter *) *special(struct bridge *b, uint32_t id)
{
    if (id == SWITCH_METER_SLOWPATH) return &b->slowpath_meter;
    if (id == SWITCH_METER_CONTROLLER) return &b->controller_meter;
    return NULL;
}

/* ---- what is wrong ---- */

struct check {
    enum meter_wrong why;
    struct errmsg *e;
};

#define WRONG(c, reason, code, ...) ((c)->why = (reason), errmsg_set((c)->e, code, __VA_ARGS__))

static int check_id(struct check *c, uint32_t id)
{
    if ((id >= 1 && id <= SWITCH_METER_MAX) || id == SWITCH_METER_SLOWPATH || id == SWITCH_METER_CONTROLLER) return 0;
    return WRONG(c, METER_INVALID, EINVAL, "%u is no meter's number", id);
}

static int check_spec(struct check *c, const struct meter_spec *m)
{
    int ret = check_id(c, m->id);
    if (ret) return ret;
    if (m->flags & ~FLAGS_ALL)
        return WRONG(c, METER_BAD_FLAGS, EINVAL, "flags 0x%x: there are no such", m->flags & ~FLAGS_ALL);
    if ((m->flags & METER_KBPS) && (m->flags & METER_PKTPS))
        return WRONG(c, METER_BAD_FLAGS, EINVAL, "a meter counts kilobits or packets, not both");
    if (m->count > METER_BANDS_MAX)
        return WRONG(c, METER_OUT_OF_BANDS, EINVAL, "%u bands: no more than %u", m->count, METER_BANDS_MAX);
    for (unsigned i = 0; i < m->count; i++)
        if (m->bands[i].type != METER_DROP && m->bands[i].type != METER_DSCP_REMARK)
            return WRONG(c, METER_BAD_BAND, EINVAL, "there is no band of type %u", m->bands[i].type);
    return 0;
}

static int done(struct check *c, enum meter_wrong *why, int ret)
{
    if (why) *why = c->why;
    return ret;
}

/* ---- adding ---- */

static void meter_free(struct meter *m)
{
    if (!m) return;
    free(atomic_load(&m->config));
    free(m);
}

static struct meter *meter_new(const struct meter_spec *spec)
{
    struct meter *m = aligned_alloc(64, (sizeof *m + 63) / 64 * 64);
    if (!m) return NULL;
    memset(m, 0, sizeof *m);
    m->spec = *spec;
    m->created_ns = clock_now_ns();
    atomic_init(&m->config, meter_config_new(spec));
    if (atomic_load(&m->config)) return m;
    free(m);
    return NULL;
}

/* In the order of numbers. False: no memory. */
static bool put(struct bridge *b, struct meter *m)
{
    if (b->meter_count == b->meter_room) {
        unsigned room = b->meter_room ? 2 * b->meter_room : 16;
        struct meter **list = reallocarray(b->meters, room, sizeof *list);
        if (!list) return false;
        b->meters = list;
        b->meter_room = room;
    }
    unsigned at = place_of(b, m->spec.id);
    memmove(b->meters + at + 1, b->meters + at, (b->meter_count - at) * sizeof(struct meter *));
    b->meters[at] = m;
    b->meter_count++;
    return true;
}

int bridge_meter_add(struct bridge *b, const struct meter_spec *m, enum meter_wrong *why, struct errmsg *e)
{
    struct check c = {.e = e};
    int ret = check_spec(&c, m);
    if (!ret && bridge_meter(b, m->id)) ret = WRONG(&c, METER_EXISTS, EEXIST, "there is a meter %u", m->id);
    if (!ret && b->meter_count == SWITCH_METERS_MAX)
        ret = WRONG(&c, METER_OUT_OF_METERS, ENOSPC, "there are %u meters", SWITCH_METERS_MAX);
    if (ret) return done(&c, why, ret);
    struct meter *new = meter_new(m);
    if (!new || !put(b, new)) {
        meter_free(new);
        return done(&c, why, errmsg_set(e, ENOMEM, "no memory for a meter"));
    }
    _Atomic(struct meter *) *is = special(b, m->id);
    if (is) atomic_store_explicit(is, new, memory_order_release);
    return done(&c, why, 0);
}

/* ---- changing ---- */

static void config_free(struct epoch_node *n)
{
    free(container_of(n, struct meter_config, retired));
}

int bridge_meter_modify(struct bridge *b, const struct meter_spec *m, enum meter_wrong *why, struct errmsg *e)
{
    struct check c = {.e = e};
    struct meter *old = bridge_meter(b, m->id);
    int ret = check_spec(&c, m);
    if (!ret && !old) ret = WRONG(&c, METER_UNKNOWN, ENOENT, "there is no meter %u", m->id);
    if (ret) return done(&c, why, ret);
    struct meter_config *config = meter_config_new(m);
    if (!config) return done(&c, why, errmsg_set(e, ENOMEM, "no memory for a meter"));
    /* Whoever passes it from now on, by whatever megaflow, passes the new bands. (But translation asks whether it remarks.) */
    bool other = config->remarks != meter_remarks(old);
    struct meter_config *before = atomic_exchange_explicit(&old->config, config, memory_order_acq_rel);
    old->spec = *m;
    if (other) change_bridge(&b->sw->log, b->index);
    epoch_retire(&b->sw->epoch, &before->retired, config_free);
    epoch_poll(&b->sw->epoch);
    return done(&c, why, 0);
}

static void retired_free(struct epoch_node *n)
{
    meter_free(container_of(n, struct meter, retired));
}

/* Its flows first: then nobody new can come to it. */
static void remove_at(struct bridge *b, unsigned at)
{
    struct meter *m = b->meters[at];
    _Atomic(struct meter *) *is = special(b, m->spec.id);
    if (is) atomic_store_explicit(is, NULL, memory_order_release);
    bridge_remove_flows_of_meter(b, m->spec.id, m->flows);
    memmove(b->meters + at, b->meters + at + 1, (b->meter_count - at - 1) * sizeof(struct meter *));
    b->meter_count--;
    epoch_retire(&b->sw->epoch, &m->retired, retired_free);
}

static void remove_all(struct bridge *b)
{
    bridge_remove_flows_of_meter(b, SWITCH_METER_ALL, UINT_MAX);
    while (b->meter_count)
        remove_at(b, b->meter_count - 1);
}

int bridge_meter_delete(struct bridge *b, uint32_t id, enum meter_wrong *why, struct errmsg *e)
{
    struct check c = {.e = e};
    int ret = id == SWITCH_METER_ALL ? 0 : check_id(&c, id);
    if (ret) return done(&c, why, ret);
    unsigned at = place_of(b, id);
    if (id == SWITCH_METER_ALL) remove_all(b);
    else if (at < b->meter_count && b->meters[at]->spec.id == id) remove_at(b, at);
    epoch_poll(&b->sw->epoch);
    return done(&c, why, 0);
}

void meters_destroy(struct bridge *b)
{
    for (unsigned i = 0; i < b->meter_count; i++)
        meter_free(b->meters[i]);
    free(b->meters);
}

/* ---- flows ---- */

int meter_check_instructions(const struct bridge *b, const struct instructions *i, enum flow_wrong *why,
                             struct errmsg *e)
{
    if (!i->meter || bridge_meter(b, i->meter)) return 0;
    if (why) *why = FLOW_BAD_METER;
    return errmsg_set(e, EINVAL, "there is no meter %u", i->meter);
}

void meter_refer(struct bridge *b, const struct instructions *i, bool comes)
{
    struct meter *m = i->meter ? bridge_meter(b, i->meter) : NULL;
    if (m) m->flows += comes ? 1u : -1u;
}

/* ---- showing ---- */

unsigned bridge_meter_count(const struct bridge *b)
{
    return b->meter_count;
}

static void stats_of(const struct meter *m, struct meter_stats *s)
{
    const struct meter_config *c = atomic_load_explicit(&m->config, memory_order_relaxed);
    *s = (struct meter_stats){.flows = m->flows, .duration_ns = clock_now_ns() - m->created_ns};
    s->packets = atomic_load_explicit(&m->packets, memory_order_relaxed);
    s->bytes = atomic_load_explicit(&m->bytes, memory_order_relaxed);
    for (unsigned i = 0; i < c->count; i++) {
        s->bands[c->rates[i].band].packets = atomic_load_explicit(&c->rates[i].packets, memory_order_relaxed);
        s->bands[c->rates[i].band].bytes = atomic_load_explicit(&c->rates[i].bytes, memory_order_relaxed);
    }
}

void bridge_meter_each(struct bridge *b, uint32_t id,
                       void (*visit)(void *arg, const struct meter_spec *m, const struct meter_stats *s), void *arg)
{
    for (unsigned i = 0; i < b->meter_count; i++) {
        struct meter_stats s;
        if (id != SWITCH_METER_ALL && b->meters[i]->spec.id != id) continue;
        stats_of(b->meters[i], &s);
        visit(arg, &b->meters[i]->spec, &s);
    }
}
