/* SPDX-License-Identifier: Apache-2.0 */
/* The files of a simulated machine: making, opening and forgetting them. */
#include "guest/sim_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DOMAINS 65536u
#define MAPTRACK_DEFAULT 65536u
#define MAPTRACK_MAX (1u << 22)
#define GRANTS_MAX (1u << 20)
#define PAGES_MAX (1u << 24)
#define SPINS 200u /* until the holder of a lock is looked at */

void sim_lock_slow(atomic_int *lock, int pid)
{
    for (unsigned n = 1;; n++) {
        int holder = 0;
        if (atomic_compare_exchange_strong_explicit(lock, &holder, pid, memory_order_acquire, memory_order_relaxed))
            return;
        if (n % 16 == 0) sched_yield();
        if (n % SPINS || kill(holder, 0) == 0 || errno != ESRCH) continue;
        if (atomic_compare_exchange_strong_explicit(lock, &holder, pid, memory_order_acquire, memory_order_relaxed))
            return;
    }
}

static size_t part(size_t *at, size_t bytes)
{
    size_t start = *at;
    *at += (bytes + XEN_PAGE_BYTES - 1) & ~(size_t)(XEN_PAGE_BYTES - 1);
    return start;
}

/* Where everything is; base NULL: how long the file is. */
static size_t lay_out(struct sim_view *v, const struct sim_domain *d, uint8_t *base)
{
    size_t at = 0;
    part(&at, sizeof *d);
    size_t words = part(&at, d->abi == SIM_FIFO ? d->ports * sizeof(uint32_t) : 2 * XEN_PAGE_BYTES);
    size_t channels = part(&at, d->ports * sizeof(struct sim_channel));
    size_t entries = part(&at, d->grants * sizeof(struct sim_entry));
    size_t active = part(&at, d->grants * sizeof(struct sim_active));
    size_t track = part(&at, d->maptrack * sizeof(struct sim_track));
    size_t memory = part(&at, (size_t)d->pages * XEN_PAGE_BYTES);
    if (!base) return at;
    v->fifo = (_Atomic uint32_t *)(base + words);
    v->pending = (_Atomic uint64_t *)(base + words);
    v->mask = (_Atomic uint64_t *)(base + words + XEN_PAGE_BYTES);
    v->channel = (struct sim_channel *)(base + channels);
    v->entry = (struct sim_entry *)(base + entries);
    v->active = (struct sim_active *)(base + active);
    v->track = (struct sim_track *)(base + track);
    v->memory = base + memory;
    v->memory_offset = memory;
    return at;
}

/* Nothing of the domain is left to this process; the structure is used again. */
static void view_close(struct sim_view *v)
{
    for (unsigned i = 0; i < SIM_VCPUS_MAX; i++) {
        if (atomic_load(&v->pipe[i]) >= 0) close(atomic_load(&v->pipe[i]));
        atomic_store(&v->pipe[i], -1);
    }
    if (v->d) munmap(v->d, v->bytes);
    if (v->fd >= 0) close(v->fd);
    v->d = NULL;
    v->fd = -1;
}

/* With the mutex. */
static void view_recycle(struct sim_view *v)
{
    view_close(v);
    v->spare = v->sim->spare;
    v->sim->spare = v;
}

/* With the mutex. One user: whoever made it. */
static struct sim_view *view_new(struct sim *s, int fd)
{
    struct sim_view *v = s->spare;
    if (v) s->spare = v->spare;
    else v = calloc(1, sizeof *v);
    if (!v) {
        close(fd);
        return NULL;
    }
    for (unsigned i = 0; i < SIM_VCPUS_MAX; i++)
        atomic_store(&v->pipe[i], -1);
    v->sim = s;
    v->fd = fd;
    return v;
}

/* Maps a file whose size is what `head` says. */
static int view_map(struct sim_view *v, const struct sim_domain *head)
{
    v->bytes = lay_out(v, head, NULL);
    void *base = mmap(NULL, v->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (base == MAP_FAILED) return -errno;
    v->d = base;
    lay_out(v, head, base);
    return 0;
}

static void domain_path(const struct sim *s, char *path, size_t room, unsigned domid)
{
    snprintf(path, room, "%s/domain-%u", s->dir, domid);
}

/* With the mutex. */
static int view_open(struct sim *s, struct sim_view **out, unsigned domid)
{
    char path[256];
    domain_path(s, path, sizeof path, domid);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return -errno;
    struct sim_view *v = view_new(s, fd);
    if (!v) return -ENOMEM;
    struct sim_domain head;
    struct stat st;
    int ret = -EBADF;
    if (pread(fd, &head, sizeof head, 0) == sizeof head && head.magic == SIM_MAGIC && !fstat(fd, &st) &&
        (size_t)st.st_size == lay_out(v, &head, NULL))
        ret = view_map(v, &head);
    if (ret) {
        view_recycle(v);
        return ret;
    }
    atomic_store(&v->users, 1);
    *out = v;
    return 0;
}

static bool alive(const struct sim_view *v)
{
    return v && !atomic_load_explicit(&v->d->dying, memory_order_acquire);
}

static bool put_locked(struct sim_view *v)
{
    if (atomic_fetch_sub(&v->users, 1) != 1) return false;
    view_recycle(v);
    return true;
}

void sim_view_put(struct sim_view *v)
{
    if (!v || v == v->sim->host) return;
    if (atomic_fetch_sub(&v->users, 1) != 1) return;
    pthread_mutex_lock(&v->sim->mutex);
    view_recycle(v);
    pthread_mutex_unlock(&v->sim->mutex);
}

/* With the mutex: the table's own is another, or none. */
static void view_set(struct sim *s, unsigned domid, struct sim_view *v)
{
    struct sim_view *old = atomic_load(&s->view[domid]);
    if (v) atomic_fetch_add(&v->users, 1);
    atomic_store(&s->view[domid], v);
    if (old) put_locked(old);
}

/* Counted, unless it goes just now. */
static struct sim_view *view_look(struct sim *s, unsigned domid)
{
    for (struct sim_view *v; (v = atomic_load(&s->view[domid]));) {
        unsigned users = atomic_load(&v->users);
        while (users && !atomic_compare_exchange_weak(&v->users, &users, users + 1))
            ;
        if (!users) continue; /* taken out of the table, and perhaps back in it as another's */
        if (v == atomic_load(&s->view[domid]) && alive(v)) return v;
        bool dead = v == atomic_load(&s->view[domid]);
        sim_view_put(v);
        if (dead) return NULL;
    }
    return NULL;
}

struct sim_view *sim_view_get(struct sim *s, xen_domid domid)
{
    if (domid == SIM_HOST && s->host) return s->host;
    struct sim_view *v = view_look(s, domid), *fresh = NULL;
    if (v) return v;
    pthread_mutex_lock(&s->mutex);
    v = atomic_load(&s->view[domid]);
    if (alive(v)) atomic_fetch_add(&v->users, 1); /* another thread was here */
    else {
        if (view_open(s, &fresh, domid) == 0 && !alive(fresh)) {
            put_locked(fresh);
            fresh = NULL;
        }
        view_set(s, domid, fresh);
        v = fresh;
    }
    pthread_mutex_unlock(&s->mutex);
    return v;
}

/* Entries of the map-track table, all free. */
static void track_init(struct sim_view *v)
{
    for (uint32_t i = 0; i < v->d->maptrack; i++)
        v->track[i].next = i + 1 < v->d->maptrack ? i + 2 : 0;
    atomic_store(&v->d->track_free, v->d->maptrack ? 1 : 0);
}

/* The file appears under its name when everything is in it. */
int sim_domain_create(struct sim *s, struct sim_view **out, const struct sim_domain *like, struct errmsg *e)
{
    char path[256], temporary[280];
    domain_path(s, path, sizeof path, like->domid);
    snprintf(temporary, sizeof temporary, "%s.%d", path, s->pid);
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return errmsg_sys(e, errno, "%s", temporary);
    pthread_mutex_lock(&s->mutex);
    struct sim_view *v = view_new(s, fd);
    pthread_mutex_unlock(&s->mutex);
    if (!v) {
        unlink(temporary);
        return errmsg_set(e, ENOMEM, "out of memory");
    }
    int ret = ftruncate(fd, (off_t)lay_out(v, like, NULL)) ? -errno : view_map(v, like);
    if (!ret) {
        memcpy(v->d, like, offsetof(struct sim_domain, dying));
        v->d->magic = SIM_MAGIC;
        atomic_store(&v->d->port_hint, 1);
        track_init(v);
        if (link(temporary, path)) ret = -errno;
    }
    unlink(temporary);
    pthread_mutex_lock(&s->mutex);
    if (ret) view_recycle(v);
    else {
        atomic_store(&v->users, 1); /* the maker's */
        view_set(s, like->domid, v);
    }
    pthread_mutex_unlock(&s->mutex);
    if (ret) return errmsg_sys(e, -ret, "%s", path);
    *out = v;
    return 0;
}

int sim_pipe(struct sim_view *v, unsigned vcpu)
{
    int fd = atomic_load_explicit(&v->pipe[vcpu], memory_order_acquire);
    if (fd >= 0) return fd;
    char path[256];
    snprintf(path, sizeof path, "%s/pipe-%u.%llu.%u", v->sim->dir, v->d->domid, (unsigned long long)v->d->generation,
             vcpu);
    if (mkfifo(path, 0600) && errno != EEXIST) return -errno;
    fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -errno;
    int none = -1;
    if (atomic_compare_exchange_strong(&v->pipe[vcpu], &none, fd)) return fd;
    close(fd);
    return none;
}

static struct sim *sim_new(const char *dir, struct errmsg *e)
{
    struct sim *s = calloc(1, sizeof *s);
    if (s) s->view = calloc(DOMAINS, sizeof *s->view);
    if (!s || !s->view || strlen(dir) >= sizeof s->dir) {
        errmsg_set(e, ENOMEM, "simulated machine %s: out of memory, or its path is too long", dir);
        if (s) free(s->view);
        free(s);
        return NULL;
    }
    s->pid = getpid();
    pthread_mutex_init(&s->mutex, NULL);
    snprintf(s->dir, sizeof s->dir, "%s", dir);
    return s;
}

static uint32_t abi_ports(enum sim_abi abi)
{
    return abi == SIM_FIFO ? FIFO_PORTS : abi == SIM_2L_4096 ? 4096 : 1024;
}

int sim_create(struct sim **out, const char *dir, const struct sim_options *o, struct errmsg *e)
{
    if (o->maptrack > MAPTRACK_MAX) return errmsg_set(e, EINVAL, "map-track table: at most %u entries", MAPTRACK_MAX);
    struct sim *s = sim_new(dir, e);
    if (!s) return -ENOMEM;
    struct sim_domain like = {.domid = SIM_HOST,
                              .abi = o->abi,
                              .ports = abi_ports(o->abi),
                              .maptrack = o->maptrack ? o->maptrack : MAPTRACK_DEFAULT,
                              .one_lock = o->one_lock};
    int ret = sim_domain_create(s, &s->host, &like, e);
    if (ret) sim_detach(s);
    else *out = s;
    return ret;
}

int sim_attach(struct sim **out, const char *dir, struct errmsg *e)
{
    struct sim *s = sim_new(dir, e);
    if (!s) return -ENOMEM;
    s->host = sim_view_get(s, SIM_HOST);
    if (!s->host) {
        sim_detach(s);
        return errmsg_set(e, ENODEV, "%s: no simulated machine", dir);
    }
    *out = s;
    return 0;
}

void sim_detach(struct sim *s)
{
    if (!s) return;
    for (unsigned i = 0; i < DOMAINS; i++) {
        struct sim_view *v = atomic_load(&s->view[i]);
        if (v) view_recycle(v);
    }
    for (struct sim_view *v = s->spare, *next; v; v = next) {
        next = v->spare;
        free(v);
    }
    pthread_mutex_destroy(&s->mutex);
    free(s->view);
    free(s);
}

void sim_remove(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *entry; (entry = readdir(d));)
        if (!strncmp(entry->d_name, "domain-", 7) || !strncmp(entry->d_name, "pipe-", 5))
            unlinkat(dirfd(d), entry->d_name, 0);
    closedir(d);
    rmdir(dir);
}

unsigned sim_maps_used(struct sim *s)
{
    return atomic_load(&s->host->d->tracks_used);
}

unsigned sim_ports_used(struct sim *s, xen_domid domid)
{
    struct sim_view *v = sim_view_get(s, domid);
    unsigned used = v ? atomic_load(&v->d->ports_used) : 0;
    sim_view_put(v);
    return used;
}

/* ---- guests: the domain; the rest of the guest's half is in sim_guest.c ---- */

int sim_guest_domain(struct sim *s, struct sim_view **out, const struct sim_guest_options *o, struct errmsg *e)
{
    if (o->domid == SIM_HOST || o->domid >= 0x7ff0 || o->pages > PAGES_MAX || o->grants > GRANTS_MAX)
        return errmsg_set(e, EINVAL, "domain %u with %u pages and %u grants cannot be", o->domid, o->pages, o->grants);
    struct sim_domain like = {.generation = atomic_fetch_add(&s->host->d->generations, 1) + 1,
                              .domid = o->domid,
                              .abi = o->abi,
                              .ports = abi_ports(o->abi),
                              .grants = o->grants,
                              .pages = o->pages};
    return sim_domain_create(s, out, &like, e);
}

void sim_guest_domain_end(struct sim_view *v)
{
    char path[256];
    atomic_store_explicit(&v->d->dying, 1, memory_order_release);
    pthread_mutex_lock(&v->sim->mutex);
    if (atomic_load(&v->sim->view[v->d->domid]) == v) view_set(v->sim, v->d->domid, NULL);
    pthread_mutex_unlock(&v->sim->mutex);
    for (unsigned port = 1; port < v->d->ports && atomic_load(&v->d->ports_used); port++)
        sim_channel_close(v, port);
    domain_path(v->sim, path, sizeof path, v->d->domid);
    unlink(path);
    snprintf(path, sizeof path, "%s/pipe-%u.%llu.0", v->sim->dir, v->d->domid, (unsigned long long)v->d->generation);
    unlink(path);
}
