/* SPDX-License-Identifier: Apache-2.0 */
/* The host's half of a simulated machine: what guest/xen.c is on Xen. */
#include "guest/sim_machine.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What this process has mapped, by its entry of the map-track table. */
struct mapping {
    struct sim_view *guest; /* NULL: not ours */
    uint32_t ref;
    bool writable, ring;
    void *page;
};

struct sim_xen {
    struct xen xen;
    struct sim *sim;
    struct sim_cpu cpu;
    struct xen_budget *budget;
    bool direct, confined;
    xen_domid domid; /* to which it is confined */
    uint32_t mapped;
    struct mapping *mapping; /* as many as the map-track table has */
};

static struct sim_xen *from_xen(struct xen *x)
{
    return (struct sim_xen *)x;
}

static struct sim_view *host_of(struct sim_xen *s)
{
    return s->sim->host;
}

static struct sim_vcpu *vcpu_of(struct sim_xen *s)
{
    return &host_of(s)->d->vcpu[s->cpu.vcpu];
}

/* At this address, or anywhere. NULL and *ret. */
static void *map_frame(struct sim_xen *s, struct sim_view *g, uint32_t frame, bool writable, void *at, int *ret)
{
    if (s->direct && !at) return g->memory + (size_t)frame * XEN_PAGE_BYTES;
    off_t offset = (off_t)(g->memory_offset + (size_t)frame * XEN_PAGE_BYTES);
    void *page = mmap(at, XEN_PAGE_BYTES, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED | (at ? MAP_FIXED : 0),
                      g->fd, offset);
    if (page != MAP_FAILED) return page;
    *ret = -errno;
    return NULL;
}

static bool budget_take(struct sim_xen *s, bool ring)
{
    if (!ring) return xen_budget_take(s->budget, 1);
    xen_budget_take_ring(s->budget, 1);
    return true;
}

static void budget_give(struct sim_xen *s, bool ring)
{
    (ring ? xen_budget_give_ring : xen_budget_give)(s->budget, 1);
}

/* Acquires, notes and maps. The handle or -errno. */
static int64_t map_one(struct sim_xen *s, struct sim_view *g, uint32_t ref, bool writable, void *at)
{
    uint32_t frame;
    bool ring = at != NULL;
    if (!budget_take(s, ring)) return -ENOSPC;
    int ret = sim_grant_acquire(g, SIM_HOST, ref, writable, &frame);
    if (ret) {
        budget_give(s, ring);
        return ret;
    }
    int64_t handle = sim_track_take(host_of(s), s->cpu.vcpu, g, ref, writable);
    if (handle >= 0) {
        void *page = map_frame(s, g, frame, writable, at, &ret);
        if (page) {
            sim_view_hold(g);
            s->mapping[handle] = (struct mapping){g, ref, writable, ring, page};
            s->mapped++;
            return handle;
        }
        sim_track_give(host_of(s), (uint32_t)handle);
        handle = ret;
    }
    sim_grant_release(g, ref, writable);
    budget_give(s, ring);
    return handle;
}

/* Its address stays reserved if it is a page of a ring: that is unmapped as a whole. */
static void unmap_one(struct sim_xen *s, uint32_t handle)
{
    struct mapping *m = &s->mapping[handle];
    if (!m->ring && !s->direct) munmap(m->page, XEN_PAGE_BYTES);
    sim_grant_release(m->guest, m->ref, m->writable);
    sim_view_put(m->guest);
    m->guest = NULL;
    m->page = NULL;
    s->mapped--;
    sim_track_give(host_of(s), handle);
    budget_give(s, m->ring);
}

static void op_map(struct xen *x, xen_domid domid, struct xen_map *maps, unsigned count, bool writable)
{
    struct sim_xen *s = from_xen(x);
    struct sim_view *g = domid == SIM_HOST ? NULL : sim_view_get(s->sim, domid);
    sim_enter(vcpu_of(s));
    for (unsigned i = 0; i < count; i++) {
        int64_t handle = g ? map_one(s, g, maps[i].ref, writable, NULL) : -ESRCH;
        maps[i].status = handle < 0 ? (int)handle : 0;
        maps[i].cookie = handle < 0 ? 0 : (uint64_t)handle;
        maps[i].page = handle < 0 ? NULL : s->mapping[handle].page;
    }
    sim_exit(vcpu_of(s));
    sim_view_put(g);
}

static void op_unmap(struct xen *x, struct xen_map *maps, unsigned count)
{
    struct sim_xen *s = from_xen(x);
    sim_enter(vcpu_of(s));
    for (unsigned i = 0; i < count; i++) {
        if (!maps[i].page) continue;
        assert(maps[i].cookie < host_of(s)->d->maptrack && s->mapping[maps[i].cookie].page == maps[i].page);
        unmap_one(s, (uint32_t)maps[i].cookie);
        maps[i].page = NULL;
    }
    sim_exit(vcpu_of(s));
}

/* Pages of the ring by address: a ring is unmapped once, a search is good enough. */
static void unmap_pages(struct sim_xen *s, uint8_t *ring, unsigned count)
{
    unsigned left = count;
    for (uint32_t i = 0; left && s->mapped && i < host_of(s)->d->maptrack; i++) {
        const struct mapping *m = &s->mapping[i];
        if (!m->guest || !m->ring) continue;
        uint8_t *page = m->page;
        if (page < ring || page >= ring + (size_t)count * XEN_PAGE_BYTES) continue;
        unmap_one(s, i);
        left--;
    }
    munmap(ring, (size_t)count * XEN_PAGE_BYTES);
}

static void *op_map_ring(struct xen *x, xen_domid domid, const uint32_t *refs, unsigned count, int *ret)
{
    struct sim_xen *s = from_xen(x);
    struct sim_view *g = domid == SIM_HOST ? NULL : sim_view_get(s->sim, domid);
    *ret = !g ? -ESRCH : count ? 0 : -EINVAL;
    if (*ret) {
        sim_view_put(g);
        return NULL;
    }
    uint8_t *ring = mmap(NULL, (size_t)count * XEN_PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED) *ret = -errno;
    sim_enter(vcpu_of(s));
    for (unsigned i = 0; !*ret && i < count; i++) {
        int64_t handle = map_one(s, g, refs[i], true, ring + (size_t)i * XEN_PAGE_BYTES);
        if (handle >= 0) continue;
        unmap_pages(s, ring, count);
        *ret = (int)handle;
    }
    sim_exit(vcpu_of(s));
    sim_view_put(g);
    return *ret ? NULL : ring;
}

static void op_unmap_ring(struct xen *x, void *ring, unsigned count)
{
    struct sim_xen *s = from_xen(x);
    if (!ring) return;
    sim_enter(vcpu_of(s));
    unmap_pages(s, ring, count);
    sim_exit(vcpu_of(s));
}

#ifdef __SANITIZE_THREAD__
/* What a guest does with its pages before it asks and after it is answered is ordered by its ring, which lies at one address for the
 * guest and at another for the host: the sanitizer cannot see that both are the same. So it is told of our side only. (Races that are
 * suppressed instead are looked up each time, and a test with threads does nothing else.) */
void __tsan_read_range(void *at, long bytes);
void __tsan_write_range(void *at, long bytes);

__attribute__((no_sanitize("thread"))) static void copy_bytes(volatile uint8_t *to, const volatile uint8_t *from,
                                                              size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = from[i];
}

static void copy_local(const struct xen_copy *c, uint8_t *page)
{
    (c->to_guest ? __tsan_read_range : __tsan_write_range)(c->local, c->length);
    copy_bytes(c->to_guest ? page : c->local, c->to_guest ? c->local : page, c->length);
}
#else
static void copy_local(const struct xen_copy *c, uint8_t *page)
{
    if (c->to_guest) memcpy(page, c->local, c->length);
    else memcpy(c->local, page, c->length);
}
#endif

static int copy_one(struct sim_view *g, const struct xen_copy *c)
{
    uint32_t frame;
    if (c->length > XEN_PAGE_BYTES || c->offset > XEN_PAGE_BYTES - c->length) return -EINVAL;
    int ret = sim_grant_acquire(g, SIM_HOST, c->ref, c->to_guest, &frame);
    if (ret) return ret;
    uint8_t *page = g->memory + (size_t)frame * XEN_PAGE_BYTES + c->offset;
    copy_local(c, page);
    sim_grant_release(g, c->ref, c->to_guest);
    return 0;
}

static void op_copy(struct xen *x, xen_domid domid, struct xen_copy *copies, unsigned count)
{
    struct sim_xen *s = from_xen(x);
    struct sim_view *g = domid == SIM_HOST ? NULL : sim_view_get(s->sim, domid);
    sim_enter(vcpu_of(s));
    for (unsigned i = 0; i < count; i++)
        copies[i].status = g ? copy_one(g, &copies[i]) : -ESRCH;
    sim_exit(vcpu_of(s));
    sim_view_put(g);
}

static int op_bind(struct xen *x, xen_domid domid, uint32_t remote_port)
{
    struct sim_xen *s = from_xen(x);
    if (s->confined && s->domid != domid) return -EACCES;
    sim_enter(vcpu_of(s));
    int port = sim_channel_bind(host_of(s), s->cpu.vcpu, domid, remote_port);
    sim_exit(vcpu_of(s));
    if (port > 0) sim_cpu_own(&s->cpu, port, true);
    return port;
}

static void op_unbind(struct xen *x, int port)
{
    struct sim_xen *s = from_xen(x);
    if (!sim_cpu_owns(&s->cpu, port)) return;
    sim_cpu_own(&s->cpu, port, false);
    sim_enter(vcpu_of(s));
    sim_channel_close(host_of(s), (unsigned)port);
    sim_exit(vcpu_of(s));
}

static void op_notify(struct xen *x, int port)
{
    struct sim_xen *s = from_xen(x);
    if (!sim_cpu_owns(&s->cpu, port)) return;
    sim_enter(vcpu_of(s));
    sim_channel_send(host_of(s), (unsigned)port);
    sim_exit(vcpu_of(s));
}

static int op_event_fd(struct xen *x)
{
    struct sim_xen *s = from_xen(x);
    return sim_pipe(host_of(s), s->cpu.vcpu);
}

static unsigned op_pending(struct xen *x, int *ports, unsigned max)
{
    return sim_cpu_pending(&from_xen(x)->cpu, ports, max);
}

static void op_unmask(struct xen *x, int port)
{
    struct sim_xen *s = from_xen(x);
    if (sim_cpu_owns(&s->cpu, port)) sim_channel_unmask(host_of(s), (unsigned)port);
}

static int op_confine(struct xen *x, xen_domid domid)
{
    struct sim_xen *s = from_xen(x);
    if (s->confined && s->domid != domid) return -EACCES;
    s->confined = true;
    s->domid = domid;
    return 0;
}

static void op_free(struct xen *x)
{
    struct sim_xen *s = from_xen(x);
    struct sim_vcpu *own = vcpu_of(s);
    sim_enter(own);
    for (uint32_t i = 0; s->mapped && i < host_of(s)->d->maptrack; i++) {
        struct mapping *m = &s->mapping[i];
        if (!m->guest) continue;
        if (m->ring) munmap(m->page, XEN_PAGE_BYTES);
        unmap_one(s, i);
    }
    sim_cpu_free(&s->cpu);
    sim_exit(own);
    atomic_store(&own->owner, 0);
    free(s->mapping);
    free(s);
}

static const struct xen_ops sim_ops = {.map = op_map,
                                       .unmap = op_unmap,
                                       .map_ring = op_map_ring,
                                       .unmap_ring = op_unmap_ring,
                                       .copy = op_copy,
                                       .bind = op_bind,
                                       .unbind = op_unbind,
                                       .notify = op_notify,
                                       .event_fd = op_event_fd,
                                       .pending = op_pending,
                                       .unmask = op_unmask,
                                       .confine = op_confine,
                                       .free = op_free};

/* ---- processes ---- */

/* The state's letter, after the name, which may have anything in it but ends with the last bracket. */
static bool is_thread_in(const char *stat_path, const char *states)
{
    char line[512] = "";
    FILE *f = fopen(stat_path, "re");
    if (!f) return true; /* it has ended */
    size_t n = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    line[n] = 0;
    const char *bracket = strrchr(line, ')');
    return !bracket || !bracket[1] || strchr(states, bracket[2]);
}

/* Every thread of it is in one of these states, or it is not there. */
static bool is_process_in(int pid, const char *states)
{
    char path[300];
    bool all = true;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *d = opendir(path);
    if (!d) return kill(pid, 0) && errno == ESRCH;
    for (struct dirent *entry; all && (entry = readdir(d));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.200s/stat", pid, entry->d_name);
        all = is_thread_in(path, states);
    }
    closedir(d);
    return all;
}

/* Whether its parent has noticed does not matter. */
static bool is_gone(int pid)
{
    return is_process_in(pid, "ZX");
}

static bool is_stopped(int pid)
{
    return is_process_in(pid, "TtZX");
}

/* ---- opening ---- */

/* What the kernel does when a process ends. */
static void reap(struct sim *s)
{
    struct sim_view *host = s->host;
    for (unsigned i = 0; i < SIM_VCPUS_MAX; i++) {
        int owner = atomic_load(&host->d->vcpu[i].owner);
        if (!owner || !is_gone(owner)) continue;
        if (!atomic_compare_exchange_strong(&host->d->vcpu[i].owner, &owner, s->pid)) continue;
        struct sim_cpu cpu;
        atomic_store(&host->d->vcpu[i].busy, 0); /* it may have been killed inside */
        sim_enter(&host->d->vcpu[i]);
        sim_track_reap(s, i);
        if (sim_cpu_init(&cpu, host, i) == 0) sim_cpu_free(&cpu);
        sim_exit(&host->d->vcpu[i]);
        atomic_store(&host->d->vcpu[i].owner, 0);
    }
}

static int vcpu_take(struct sim *s)
{
    for (unsigned i = 0; i < SIM_VCPUS_MAX; i++) {
        int none = 0;
        if (atomic_compare_exchange_strong(&s->host->d->vcpu[i].owner, &none, s->pid)) return (int)i;
    }
    return -EBUSY;
}

int sim_xen_open(struct xen **out, struct sim *sim, struct xen_budget *budget, bool direct, struct errmsg *e)
{
    reap(sim);
    int vcpu = vcpu_take(sim);
    if (vcpu < 0) return errmsg_set(e, -vcpu, "%s: all %u virtual CPUs are in use", sim->dir, SIM_VCPUS_MAX);
    struct sim_xen *s = calloc(1, sizeof *s);
    int ret = -ENOMEM;
    if (s) {
        *s = (struct sim_xen){.xen.ops = &sim_ops, .sim = sim, .budget = budget, .direct = direct};
        s->mapping = calloc(sim->host->d->maptrack, sizeof *s->mapping);
        if (s->mapping) ret = sim_cpu_init(&s->cpu, sim->host, (unsigned)vcpu);
    }
    if (!ret) {
        *out = &s->xen;
        return 0;
    }
    atomic_store(&sim->host->d->vcpu[vcpu].owner, 0);
    if (s) free(s->mapping);
    free(s);
    return errmsg_sys(e, -ret, "%s", sim->dir);
}

/* ---- killing ---- */

static bool is_inside(const struct sim *s, int pid)
{
    for (unsigned i = 0; i < SIM_VCPUS_MAX; i++) {
        const struct sim_vcpu *v = &s->host->d->vcpu[i];
        if (atomic_load(&v->owner) == pid && atomic_load(&v->busy)) return true;
    }
    return false;
}

int sim_kill(struct sim *s, int pid)
{
    for (;;) {
        if (kill(pid, SIGSTOP)) return -errno;
        while (!is_stopped(pid))
            usleep(20);
        if (!is_inside(s, pid)) return kill(pid, SIGKILL) ? -errno : 0;
        if (kill(pid, SIGCONT)) return -errno;
        usleep(20);
    }
}
