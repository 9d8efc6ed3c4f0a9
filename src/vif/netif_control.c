/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control ring of a Xen guest's card (control thread): which queue frames go to (netif_hash.c), and pages that stay mapped
 * (netif_static.c). What was set is in what survives.
 *
 * Tables that senders look at are replaced, and freed after config.barrier(): no thread is in a batch then that began before. So each
 * request that changes something has its price, and only so many are carried out without a pause, however they come. Grants have a
 * price of their own: each is a map or an unmap.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "loop/clock.h"
#include "vif/netif_impl.h"

#define PORTS_AT_ONCE 4u

static void barrier(const struct netif_card *c)
{
    if (c->config.barrier) c->config.barrier(c->config.arg);
}

/* Bytes of a page that the guest granted, to or from `local`. */
static bool copy_page(struct netif_card *c, uint32_t ref, void *local, size_t bytes, bool to_guest)
{
    struct xen *x = c->control.xen;
    struct xen_copy copy = {.ref = ref, .length = (uint16_t)bytes, .local = local, .to_guest = to_guest};
    if (bytes == 0) return true;
    x->ops->copy(x, c->config.domid, &copy, 1);
    return copy.status == 0;
}

/* ---- hashing ---- */

/* 0, or -ENOMEM: as it was. */
static int hash_renew(struct netif_card *c)
{
    const struct netif_hash_settings *s = &c->config.state->hash;
    bool on = s->algorithm == NETIF_HASH_TOEPLITZ && s->flags;
    struct netif_hash *new = on ? netif_hash_new(s) : NULL;
    if (on && !new) return -ENOMEM;
    struct netif_hash *old = atomic_exchange(&c->hash, new);
    if (!old) return 0;
    barrier(c);
    free(old);
    return 0;
}

static uint32_t set_key(struct netif_card *c, const uint32_t *data, struct netif_hash_settings *s)
{
    uint8_t key[NETIF_HASH_KEY_MAX] = {0};
    if (data[1] > sizeof key) return NETIF_CTRL_BUFFER_OVERFLOW;
    if (!copy_page(c, data[0], key, data[1], false)) return NETIF_CTRL_INVALID_PARAMETER;
    memcpy(s->key, key, sizeof key);
    return NETIF_CTRL_SUCCESS;
}

static uint32_t set_mapping(struct netif_card *c, const uint32_t *data, struct netif_hash_settings *s)
{
    uint32_t part[NETIF_HASH_MAPPING_MAX];
    uint32_t count = data[1], at = data[2];
    if (count > NETIF_HASH_MAPPING_MAX) return NETIF_CTRL_BUFFER_OVERFLOW;
    if (at > s->mapping_count || count > s->mapping_count - at) return NETIF_CTRL_INVALID_PARAMETER;
    if (!copy_page(c, data[0], part, count * sizeof part[0], false)) return NETIF_CTRL_INVALID_PARAMETER;
    for (uint32_t i = 0; i < count; i++)
        if (part[i] >= c->queues) return NETIF_CTRL_INVALID_PARAMETER;
    memcpy(s->mapping + at, part, count * sizeof part[0]);
    return NETIF_CTRL_SUCCESS;
}

static uint32_t set_mapping_count(const uint32_t *data, struct netif_hash_settings *s)
{
    if (data[0] > NETIF_HASH_MAPPING_MAX) return NETIF_CTRL_INVALID_PARAMETER;
    s->mapping_count = data[0];
    memset(s->mapping, 0, sizeof s->mapping);
    return NETIF_CTRL_SUCCESS;
}

static uint32_t set_flags(const uint32_t *data, struct netif_hash_settings *s)
{
    if (s->algorithm == NETIF_HASH_NONE) return NETIF_CTRL_NOT_SUPPORTED;
    if (data[0] & ~NETIF_HASH_ALL) return NETIF_CTRL_INVALID_PARAMETER;
    s->flags = data[0];
    return NETIF_CTRL_SUCCESS;
}

static uint32_t set_algorithm(const uint32_t *data, struct netif_hash_settings *s)
{
    if (data[0] > NETIF_HASH_TOEPLITZ) return NETIF_CTRL_INVALID_PARAMETER;
    s->algorithm = data[0];
    return NETIF_CTRL_SUCCESS;
}

static uint32_t set_hash(struct netif_card *c, const struct netif_ctrl_request *q)
{
    struct netif_hash_settings *s = &c->config.state->hash, old = *s;
    uint32_t status = NETIF_CTRL_NOT_SUPPORTED;
    switch (q->type) {
    case NETIF_CTRL_SET_HASH_FLAGS: status = set_flags(q->data, s); break;
    case NETIF_CTRL_SET_HASH_KEY: status = set_key(c, q->data, s); break;
    case NETIF_CTRL_SET_HASH_MAPPING_SIZE: status = set_mapping_count(q->data, s); break;
    case NETIF_CTRL_SET_HASH_MAPPING: status = set_mapping(c, q->data, s); break;
    case NETIF_CTRL_SET_HASH_ALGORITHM: status = set_algorithm(q->data, s); break;
    }
    if (status != NETIF_CTRL_SUCCESS || hash_renew(c) == 0) return status;
    *s = old;
    return NETIF_CTRL_INVALID_PARAMETER;
}

/* ---- static grants ---- */

/* Who was killed after a change and before its answer is asked for it again by the same request, and answers that it is done: a guest
 * that heard otherwise would not know which of its pages are mapped. */
#define RESTORED UINT64_C(0) /* no request at all */

static uint64_t request_now(const struct netif_card *c)
{
    return UINT64_C(1) << 32 | c->control.ring.rsp_prod;
}

static bool is_again(const struct netif_card *c, unsigned queue, uint64_t by)
{
    return by == RESTORED || c->config.state->queue[queue].changed_by == by;
}

/* Whoever is killed in the middle of it has left all that stays in the list: what is added is behind its end until the last moment, and
 * what takes the place of something that goes comes from further behind, where it still is. (It may be there twice.) */
static void keep_list(struct netif_card *c, unsigned queue, const struct netif_static *s)
{
    struct netif_state_queue *k = &c->config.state->queue[queue];
    for (unsigned i = 0; i < netif_static_count(s); i++) {
        const struct netif_static_page *p = netif_static_at(s, i);
        struct netif_gref g = {p->map.ref, p->writable ? 0 : NETIF_GREF_READONLY, 0};
        uint64_t word; /* never a reference with another's access */
        memcpy(&word, &g, sizeof word);
        __atomic_store_n((uint64_t *)(void *)&k->static_grant[i], word, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&k->static_count, netif_static_count(s), __ATOMIC_RELEASE);
}

_Static_assert(offsetof(struct netif_state_queue, static_grant) % 8 == 0 && sizeof(struct netif_gref) == 8,
               "a word each");

/* Takes `new` over. */
static void static_replace(struct netif_card *c, unsigned queue, struct netif_static *new, uint64_t by)
{
    struct netif_static *old = atomic_exchange(&c->queue[queue].pages, new);
    if (by != RESTORED) __atomic_store_n(&c->config.state->queue[queue].changed_by, by, __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
    keep_list(c, queue, new);
    barrier(c);
    free(old);
}

static int static_add(struct netif_card *c, unsigned queue, const struct netif_gref *list, unsigned count, uint64_t by)
{
    struct netif_static *new = netif_static_copy(atomic_load(&c->queue[queue].pages));
    bool again = is_again(c, queue, by);
    int ret = new ? netif_static_add(new, c->control.xen, c->config.domid, list, count, again) : -ENOMEM;
    if (ret == 0) static_replace(c, queue, new, by);
    else free(new);
    return ret;
}

/* How many went, now or the first time. */
static unsigned static_del(struct netif_card *c, unsigned queue, struct netif_gref *list, unsigned count, uint64_t by)
{
    struct xen_map gone[NETIF_STATIC_MAX];
    unsigned n = 0, done = 0;
    bool again = is_again(c, queue, by);
    struct netif_static *new = netif_static_copy(atomic_load(&c->queue[queue].pages));
    for (unsigned i = 0; i < count; i++) {
        bool found = new &&netif_static_take(new, list[i].ref, &gone[n]), ok = found || (new &&again);
        list[i].status = ok ? NETIF_CTRL_SUCCESS : NETIF_CTRL_INVALID_PARAMETER;
        n += found;
        done += ok;
    }
    if (!new) return 0;
    static_replace(c, queue, new, by); /* nobody looks at the pages any more */
    for (unsigned i = 0; i < n; i++)
        c->control.xen->ops->unmap(c->control.xen, &gone[i], 1);
    return done;
}

static uint32_t change_static(struct netif_card *c, const struct netif_ctrl_request *q, uint32_t *data)
{
    struct netif_gref list[NETIF_STATIC_MAX];
    uint32_t queue = q->data[0], ref = q->data[1], count = q->data[2];
    uint64_t by = request_now(c);
    if (queue >= c->queues || count > NETIF_STATIC_MAX) return NETIF_CTRL_INVALID_PARAMETER;
    if (!copy_page(c, ref, list, count * sizeof list[0], false)) return NETIF_CTRL_INVALID_PARAMETER;
    if (q->type == NETIF_CTRL_ADD_GREF_MAPPING)
        return static_add(c, queue, list, count, by) == 0 ? NETIF_CTRL_SUCCESS : NETIF_CTRL_INVALID_PARAMETER;
    *data = static_del(c, queue, list, count, by);
    return copy_page(c, ref, list, count * sizeof list[0], true) ? NETIF_CTRL_SUCCESS : NETIF_CTRL_INVALID_PARAMETER;
}

/* ---- requests ---- */

static struct netif_ctrl_response answer_to(struct netif_card *c, const struct netif_ctrl_request *q)
{
    struct netif_ctrl_response r = {.id = q->id, .type = q->type};
    switch (q->type) {
    case NETIF_CTRL_GET_HASH_FLAGS:
        if (c->config.state->hash.algorithm == NETIF_HASH_NONE) r.status = NETIF_CTRL_NOT_SUPPORTED;
        else r.data = NETIF_HASH_ALL;
        break;
    case NETIF_CTRL_GET_HASH_MAPPING_SIZE: r.data = NETIF_HASH_MAPPING_MAX; break;
    case NETIF_CTRL_GET_GREF_MAPPING_SIZE:
        if (q->data[0] >= c->queues) r.status = NETIF_CTRL_INVALID_PARAMETER;
        else r.data = NETIF_STATIC_MAX;
        break;
    case NETIF_CTRL_ADD_GREF_MAPPING:
    case NETIF_CTRL_DEL_GREF_MAPPING: r.status = change_static(c, q, &r.data); break;
    default: r.status = set_hash(c, q);
    }
    return r;
}

int netif_control_fd(const struct vif *v)
{
    const struct netif_control *t = &v->netif->control;
    return t->page ? t->xen->ops->event_fd(t->xen) : -1;
}

/* Grants that are to be mapped or unmapped for it. */
static unsigned grants_of(const struct netif_ctrl_request *q)
{
    bool changes = q->type == NETIF_CTRL_ADD_GREF_MAPPING || q->type == NETIF_CTRL_DEL_GREF_MAPPING;
    return changes && q->data[2] <= NETIF_STATIC_MAX ? q->data[2] : 0;
}

/* A few, until there was a pause, in which others had their turn. True: there may be more. */
static bool serve_some(struct vif *v)
{
    struct netif_control *t = &v->netif->control;
    struct netif_ctrl_request q;
    bool notify = false;
    int ret = 1;
    if (clock_now_ns() - t->served_ns >= NETIF_CONTROL_PAUSE_NS) t->requests = t->grants = 0;
    while (t->requests < NETIF_CONTROL_REQUESTS && t->grants < NETIF_CONTROL_GRANTS &&
           (ret = netif_ctrl_pop(&t->ring, &q)) > 0) {
        struct netif_ctrl_response r = answer_to(v->netif, &q);
        notify = netif_ctrl_answer(&t->ring, &r) || notify;
        t->grants += grants_of(&q);
        t->requests++;
        t->served_ns = clock_now_ns();
    }
    if (notify) t->xen->ops->notify(t->xen, t->port);
    if (ret < 0 && !t->told) {
        log_limited(LOG_LEVEL_ERROR, "network card %s: its control ring is not served any more: %s", v->config.name,
                    t->ring.broken);
        t->told = true;
    }
    return ret > 0;
}

bool netif_control_serve(struct vif *v)
{
    struct netif_control *t = &v->netif->control;
    int ports[PORTS_AT_ONCE];
    if (!t->page) return false;
    t->xen->ops->pending(t->xen, ports, PORTS_AT_ONCE);
    if (serve_some(v)) return true; /* its event stays taken until then */
    if (t->ring.broken) return false;
    t->xen->ops->unmask(t->xen, t->port);
    return netif_ctrl_final_check(&t->ring);
}

/* ---- life ---- */

static void settings_restore(struct netif_card *c)
{
    struct netif_state *s = c->config.state;
    s->hash.flags &= NETIF_HASH_ALL;
    if (s->hash.mapping_count > NETIF_HASH_MAPPING_MAX) s->hash.mapping_count = 0;
    hash_renew(c);
    for (unsigned i = 0; i < c->queues; i++) {
        struct netif_gref list[NETIF_STATIC_MAX];
        uint32_t count = s->queue[i].static_count;
        if (count == 0 || count > NETIF_STATIC_MAX) continue;
        memcpy(list, s->queue[i].static_grant, count * sizeof list[0]);
        static_add(c, i, list, count, RESTORED); /* without them frames are copied by calls */
    }
}

int netif_control_open(struct vif *v, const struct netif_control_setup *s, bool resume, struct errmsg *e)
{
    struct netif_card *c = v->netif;
    struct netif_control *t = &c->control;
    int ret = 0;
    if (!resume) {
        memset(&c->config.state->hash, 0, sizeof c->config.state->hash);
        for (unsigned i = 0; i < c->queues; i++)
            c->config.state->queue[i].static_count = 0;
    }
    if (!s) return 0;
    t->page = t->xen->ops->map_ring(t->xen, c->config.domid, &s->ref, 1, &ret);
    if (!t->page) return errmsg_sys(e, -ret, "network card %s: its control ring (grant %u)", v->config.name, s->ref);
    t->port = t->xen->ops->bind(t->xen, c->config.domid, s->port);
    if (t->port <= 0)
        return errmsg_sys(e, t->port ? -t->port : EINVAL, "network card %s: its control ring's event channel %u",
                          v->config.name, s->port);
    netif_ctrl_init(&t->ring, t->page);
    t->told = false;
    settings_restore(c);
    /* Was the guest told of the last process's answers? */
    if (resume) t->xen->ops->notify(t->xen, t->port);
    return 0;
}

void netif_control_close(struct vif *v)
{
    struct netif_card *c = v->netif;
    struct netif_control *t = &c->control;
    struct netif_hash *hash = atomic_exchange(&c->hash, NULL);
    struct netif_static *pages[VIF_QUEUE_PAIRS_MAX];
    bool any = hash != NULL;
    for (unsigned i = 0; i < c->queues; i++) {
        pages[i] = atomic_exchange(&c->queue[i].pages, NULL);
        any = any || pages[i];
    }
    if (any) barrier(c);
    free(hash);
    for (unsigned i = 0; i < c->queues; i++)
        netif_static_free(pages[i], t->xen);
    if (t->port > 0) t->xen->ops->unbind(t->xen, t->port);
    if (t->page) t->xen->ops->unmap_ring(t->xen, t->page, 1);
    t->port = 0;
    t->page = NULL;
}
