/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fault-injecting engine. Every request of the layer is wrapped in one of ours (allocated: this is for tests), judged
 * by the plan when it is submitted, and either answered here or handed to the inner engine. The plan and its model of
 * the disks are behind one lock, which is never held across a callback.
 */
#include "disk/engine/fault.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "disk/engine/fault_disk.h"
#include "loop/clock.h"

#define POINTS_MAX 64u

struct rule_state {
    struct fault_rule rule;
    uint64_t seen, hits;
};

struct point {
    char *name;
    uint64_t passed;
};

struct fault_plan {
    pthread_mutex_t lock;
    uint64_t seed;
    uint64_t torn; /* how many writes were; each is torn in a way of its own */
    bool cut;
    unsigned rule_count, point_count;
    struct rule_state rules[FAULT_RULES_MAX];
    struct point points[POINTS_MAX];
    uint64_t counts[ENGINE_OP_COUNT];
    struct list disks; /* fault_disk */
    struct engine_maker maker;
};

struct fault_engine {
    struct engine base;
    struct engine *inner;
    struct fault_plan *plan;
    struct list finished; /* fault_io whose result is known */
    struct list delayed;  /* fault_io, soonest first */
};

struct fault_io {
    struct engine_io inner;
    struct engine_io *outer;
    struct fault_engine *engine;
    struct fault_disk *disk; /* of a request that the model knows */
    uint64_t sequence;       /* of a write; of a sync, the mark */
    uint64_t delay_ns, due_ns;
    int res;
    struct list node;
};

/* ---- The plan ---- */

struct fault_plan *fault_plan_new(uint64_t seed)
{
    struct fault_plan *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    pthread_mutex_init(&p->lock, NULL);
    p->seed = seed;
    list_init(&p->disks);
    return p;
}

static void forget_rules(struct fault_plan *p)
{
    p->rule_count = 0;
    for (unsigned i = 0; i < p->point_count; i++)
        free(p->points[i].name);
    p->point_count = 0;
    memset(p->counts, 0, sizeof p->counts);
}

void fault_plan_free(struct fault_plan *p)
{
    if (!p) return;
    forget_rules(p);
    LIST_FOR_EACH_SAFE (node, &p->disks)
        fault_disk_free(list_entry(node, struct fault_disk, node));
    pthread_mutex_destroy(&p->lock);
    free(p);
}

unsigned fault_plan_add(struct fault_plan *p, const struct fault_rule *rule)
{
    pthread_mutex_lock(&p->lock);
    assert(p->rule_count < FAULT_RULES_MAX && (!rule->point || rule->action >= FAULT_CUT));
    unsigned number = p->rule_count++;
    p->rules[number] = (struct rule_state){.rule = *rule};
    pthread_mutex_unlock(&p->lock);
    return number;
}

void fault_plan_end_rules(struct fault_plan *p)
{
    pthread_mutex_lock(&p->lock);
    forget_rules(p);
    pthread_mutex_unlock(&p->lock);
}

uint64_t fault_plan_hits(struct fault_plan *p, unsigned rule)
{
    pthread_mutex_lock(&p->lock);
    assert(rule < p->rule_count);
    uint64_t hits = p->rules[rule].hits;
    pthread_mutex_unlock(&p->lock);
    return hits;
}

uint64_t fault_plan_count(struct fault_plan *p, unsigned ops)
{
    uint64_t sum = 0;
    pthread_mutex_lock(&p->lock);
    for (unsigned op = 0; op < ENGINE_OP_COUNT; op++)
        if (ops == FAULT_ALL || ops & FAULT_OP(op)) sum += p->counts[op];
    pthread_mutex_unlock(&p->lock);
    return sum;
}

uint64_t fault_plan_passed(struct fault_plan *p, const char *point)
{
    uint64_t passed = 0;
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < p->point_count; i++)
        if (strcmp(p->points[i].name, point) == 0) passed = p->points[i].passed;
    pthread_mutex_unlock(&p->lock);
    return passed;
}

void fault_plan_cut_now(struct fault_plan *p)
{
    pthread_mutex_lock(&p->lock);
    p->cut = true;
    pthread_mutex_unlock(&p->lock);
}

bool fault_plan_is_cut(struct fault_plan *p)
{
    pthread_mutex_lock(&p->lock);
    bool cut = p->cut;
    pthread_mutex_unlock(&p->lock);
    return cut;
}

/* ---- Judging (under the lock) ---- */

static bool matches(const struct fault_rule *r, const struct engine_io *io)
{
    if (r->point || (r->file && r->file != io->file)) return false;
    if (r->ops != FAULT_ALL && !(r->ops & FAULT_OP(io->op))) return false;
    if (r->action == FAULT_TEAR && io->op != ENGINE_WRITE) return false;
    if (r->length_bytes == 0 || io->op == ENGINE_SYNC) return true;
    return range_overlaps(io->offset_bytes, io->length_bytes, r->offset_bytes, r->length_bytes);
}

static bool count_hit(struct rule_state *s)
{
    uint64_t first = max_u64(s->rule.nth, 1), count = max_u64(s->rule.count, 1);
    s->seen++;
    if (s->seen < first || s->seen - first >= count) return false;
    s->hits++;
    return true;
}

/* Every rule sees the request, so that one does not shift the numbers of another; the first that hits decides. */
static const struct fault_rule *judge(struct fault_plan *p, const struct engine_io *io)
{
    const struct fault_rule *verdict = NULL;
    p->counts[io->op]++;
    for (unsigned i = 0; i < p->rule_count; i++) {
        struct rule_state *s = &p->rules[i];
        if (matches(&s->rule, io) && count_hit(s) && !verdict) verdict = &s->rule;
    }
    return verdict;
}

static int disk_of(struct fault_plan *p, const struct engine_file *f, bool make, struct fault_disk **out)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0) return -errno;
    LIST_FOR_EACH (node, &p->disks) {
        struct fault_disk *d = list_entry(node, struct fault_disk, node);
        if (d->device != st.st_dev || d->inode != st.st_ino) continue;
        *out = d;
        return 0;
    }
    *out = NULL;
    if (!make) return 0;
    int ret = fault_disk_new(out, f);
    if (ret == 0) list_push_back(&p->disks, &(*out)->node);
    return ret;
}

/* Runs of sectors of random length that land, between runs that do not; the last sector never does. */
static int tear(struct fault_plan *p, struct fault_disk *d, const struct engine_io *io)
{
    uint64_t sectors = div_round_up(io->length_bytes, FAULT_SECTOR_BYTES);
    uint64_t way = fault_random(p->seed, p->torn++);
    for (uint64_t i = 0; i + 1 < sectors; i++) {
        if (!(fault_random(way, i) & 1)) continue;
        int ret = fault_disk_add_run(d, io, io->offset_bytes + i * FAULT_SECTOR_BYTES, FAULT_SECTOR_BYTES);
        if (ret < 0) return ret;
    }
    return 0;
}

/* Tell the model. 0 or -errno. */
static int enter_model(struct fault_plan *p, struct fault_io *f, const struct fault_rule *verdict)
{
    const struct engine_io *io = f->outer;
    if (io->op == ENGINE_READ || (verdict && verdict->action == FAULT_FAIL)) return 0;
    if (!io->file->writable && io->op != ENGINE_SYNC) return 0; /* the kernel will refuse it */
    int ret = disk_of(p, io->file, io->op != ENGINE_SYNC, &f->disk);
    if (ret < 0 || !f->disk) return ret;
    if (io->op == ENGINE_SYNC) {
        f->sequence = fault_disk_sync_begin(f->disk);
        return 0;
    }
    if (!verdict || verdict->action != FAULT_TEAR) return fault_disk_begin(f->disk, io, &f->sequence);
    ret = tear(p, f->disk, io);
    f->disk = NULL;
    return ret;
}

/* ---- Requests ---- */

static void finish(struct fault_io *f, int res)
{
    struct fault_engine *fe = f->engine;
    f->res = res;
    if (f->delay_ns == 0) {
        list_push_back(&fe->finished, &f->node);
        return;
    }
    f->due_ns = clock_now_ns() + f->delay_ns;
    struct list *at = &fe->delayed;
    LIST_FOR_EACH (node, &fe->delayed) {
        if (list_entry(node, struct fault_io, node)->due_ns <= f->due_ns) continue;
        at = node;
        break;
    }
    list_insert_before(at, &f->node);
}

static void inner_done(struct engine_io *io, int res)
{
    struct fault_io *f = container_of(io, struct fault_io, inner);
    finish(f, res);
}

/* The layer learns of it now: only what it was told before the cut has happened for it. */
static void report(struct fault_io *f)
{
    struct fault_plan *p = f->engine->plan;
    struct engine_io *outer = f->outer;
    int res = f->res;
    pthread_mutex_lock(&p->lock);
    if (p->cut) res = -EIO;
    else if (f->disk && res == 0 && outer->op == ENGINE_SYNC) fault_disk_synced(f->disk, f->sequence);
    else if (f->disk && outer->op != ENGINE_SYNC) fault_disk_complete(f->disk, f->sequence);
    pthread_mutex_unlock(&p->lock);
    f->engine->base.inflight--;
    free(f);
    outer->done(outer, res);
}

/* Returns true when the inner engine is to do it, false when *res is the answer. */
static bool decide(struct fault_plan *p, struct fault_io *f, int *res)
{
    pthread_mutex_lock(&p->lock);
    const struct fault_rule *verdict = p->cut ? NULL : judge(p, f->outer);
    if (verdict && verdict->action == FAULT_KILL) raise(SIGKILL);
    *res = p->cut ? -EIO : enter_model(p, f, verdict);
    bool inner = *res == 0 && f->outer->op != ENGINE_SYNC;
    if (verdict && *res == 0) {
        if (verdict->action == FAULT_DELAY) f->delay_ns = verdict->delay_ns;
        else inner = false;
        if (verdict->action == FAULT_CUT) p->cut = true;
        if (verdict->action != FAULT_DELAY) *res = verdict->error > 0 ? -verdict->error : -EIO;
        if (verdict->action == FAULT_TEAR && verdict->error == -1) *res = 0;
    }
    pthread_mutex_unlock(&p->lock);
    return inner;
}

static void fault_submit(struct engine *e, struct engine_io *io)
{
    struct fault_engine *fe = container_of(e, struct fault_engine, base);
    struct fault_io *f = calloc(1, sizeof *f);
    assert(f); /* tests only */
    f->outer = io;
    f->engine = fe;
    e->inflight++;
    int res;
    if (!decide(fe->plan, f, &res)) {
        finish(f, res);
        return;
    }
    f->inner = (struct engine_io){.op = io->op,
                                  .file = io->file,
                                  .offset_bytes = io->offset_bytes,
                                  .length_bytes = io->length_bytes,
                                  .iov = io->iov,
                                  .iov_count = io->iov_count,
                                  .done = inner_done};
    engine_submit(fe->inner, &f->inner);
}

/* ---- The engine ---- */

static void ripen(struct fault_engine *fe)
{
    if (list_empty(&fe->delayed)) return;
    uint64_t now_ns = clock_now_ns();
    while (!list_empty(&fe->delayed)) {
        struct fault_io *f = list_entry(fe->delayed.next, struct fault_io, node);
        if (f->due_ns > now_ns) return;
        list_remove(&f->node);
        list_push_back(&fe->finished, &f->node);
    }
}

/* What is finished when it begins: callbacks may submit what finishes at once. */
static unsigned run_finished(struct fault_engine *fe)
{
    unsigned ran = 0, budget = 0;
    LIST_FOR_EACH (node, &fe->finished)
        budget++;
    for (; budget > 0 && !list_empty(&fe->finished); budget--, ran++)
        report(list_entry(list_pop_front(&fe->finished), struct fault_io, node));
    return ran;
}

static int fault_poll(struct engine *e, uint64_t wait_ns)
{
    struct fault_engine *fe = container_of(e, struct fault_engine, base);
    ripen(fe);
    if (!list_empty(&fe->finished) || !list_empty(&e->deferred)) wait_ns = 0;
    if (wait_ns && !list_empty(&fe->delayed)) {
        uint64_t due_ns = list_entry(fe->delayed.next, struct fault_io, node)->due_ns, now_ns = clock_now_ns();
        wait_ns = min_u64(wait_ns, due_ns > now_ns ? due_ns - now_ns : 0);
    }
    int ret = fe->inner->ops->poll(fe->inner, wait_ns);
    if (ret < 0) return ret;
    ripen(fe);
    unsigned ran = (unsigned)ret + run_finished(fe);
    return (int)(ran + engine_run_deferred(e));
}

static int fault_watch(struct engine *e, struct engine_watch *w)
{
    return engine_watch(container_of(e, struct fault_engine, base)->inner, w);
}

static void fault_unwatch(struct engine *e, struct engine_watch *w)
{
    engine_unwatch(container_of(e, struct fault_engine, base)->inner, w);
}

static void count_pass(struct fault_plan *p, const char *name)
{
    for (unsigned i = 0; i < p->point_count; i++) {
        if (strcmp(p->points[i].name, name) != 0) continue;
        p->points[i].passed++;
        return;
    }
    assert(p->point_count < POINTS_MAX);
    p->points[p->point_count++] = (struct point){.name = strdup(name), .passed = 1};
}

static void fault_point(struct engine *e, const char *name)
{
    struct fault_plan *p = container_of(e, struct fault_engine, base)->plan;
    pthread_mutex_lock(&p->lock);
    if (!p->cut) count_pass(p, name);
    for (unsigned i = 0; i < p->rule_count && !p->cut; i++) {
        struct rule_state *s = &p->rules[i];
        if (!s->rule.point || strcmp(s->rule.point, name) != 0 || !count_hit(s)) continue;
        if (s->rule.action == FAULT_KILL) raise(SIGKILL);
        p->cut = true;
    }
    pthread_mutex_unlock(&p->lock);
}

static void fault_free(struct engine *e)
{
    struct fault_engine *fe = container_of(e, struct fault_engine, base);
    assert(e->inflight == 0);
    engine_free(fe->inner);
    free(fe);
}

static const struct engine_ops fault_ops = {
    .submit = fault_submit,
    .poll = fault_poll,
    .watch = fault_watch,
    .unwatch = fault_unwatch,
    .free = fault_free,
    .point = fault_point,
};

int engine_fault_new(struct engine **out, struct engine *inner, struct fault_plan *p)
{
    struct fault_engine *fe = calloc(1, sizeof *fe);
    if (!fe) {
        engine_free(inner);
        return -ENOMEM;
    }
    fe->base.ops = &fault_ops;
    fe->inner = inner;
    fe->plan = p;
    list_init(&fe->base.deferred);
    list_init(&fe->finished);
    list_init(&fe->delayed);
    *out = &fe->base;
    return 0;
}

static int make_wrapped(void *arg, struct engine **out, struct errmsg *e)
{
    struct engine *inner;
    int ret = engine_uring_maker.make(engine_uring_maker.arg, &inner, e);
    return ret < 0 ? ret : engine_fault_new(out, inner, arg);
}

const struct engine_maker *fault_plan_maker(struct fault_plan *p)
{
    p->maker = (struct engine_maker){.make = make_wrapped, .arg = p};
    return &p->maker;
}

/* ---- After the cut ---- */

int fault_plan_after_cut(struct fault_plan *p, uint64_t seed)
{
    int ret = 0;
    pthread_mutex_lock(&p->lock);
    LIST_FOR_EACH (node, &p->disks) {
        struct fault_disk *d = list_entry(node, struct fault_disk, node);
        int one = fault_disk_outcome(d, d->fd, seed);
        if (ret == 0) ret = one;
        fault_disk_settle(d);
    }
    forget_rules(p);
    p->cut = false;
    pthread_mutex_unlock(&p->lock);
    return ret;
}

/* Holes stay holes, so that a copy of a large sparse image costs what it holds. */
static int copy_file(int from, int to)
{
    struct stat st;
    if (fstat(from, &st) < 0) return -errno;
    for (off_t at = 0; at < st.st_size;) {
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) break;
        off_t hole = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
        if (hole < 0) return -errno;
        for (at = data; at < hole;) {
            ssize_t n = copy_file_range(from, &(off_t){at}, to, &(off_t){at}, (size_t)(hole - at), 0);
            if (n <= 0) return n < 0 ? -errno : -EIO;
            at += n;
        }
    }
    return ftruncate(to, st.st_size) < 0 ? -errno : 0;
}

/* Copied once more when a request came meanwhile: of an image whose keeper works the copy would have what came late, and
 * not what had to be there before. */
static int copy_undisturbed(struct fault_plan *p, int from, int to)
{
    for (;;) {
        uint64_t before = fault_plan_count(p, FAULT_ALL);
        int ret = copy_file(from, to);
        if (ret < 0 || fault_plan_count(p, FAULT_ALL) == before) return ret;
        if (ftruncate(to, 0) < 0) return -errno;
    }
}

int fault_plan_copy_after_cut(struct fault_plan *p, const struct engine_file *f, const char *path, uint64_t seed)
{
    char source[32];
    snprintf(source, sizeof source, "/proc/self/fd/%d", f->fd);
    autoclose int from = open(source, O_RDONLY | O_CLOEXEC);
    autoclose int to = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (from < 0 || to < 0) return -errno;
    int ret = copy_undisturbed(p, from, to);
    if (ret < 0) return ret;
    pthread_mutex_lock(&p->lock);
    struct fault_disk *d = NULL;
    ret = disk_of(p, f, false, &d);
    if (ret == 0 && d) ret = fault_disk_outcome(d, to, seed);
    pthread_mutex_unlock(&p->lock);
    return ret;
}
