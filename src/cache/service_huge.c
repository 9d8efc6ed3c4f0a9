/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Huge pages for what is cached whole. A copy of 4 KiB out of a large memory spends a third of its time on finding the
 * page (docs/adr/0006); with one translation for 2 MiB that is gone, and a worker's page tables shrink to a 512th.
 *
 * A memfd has huge pages of its own accord only where the administrator allowed it (shmem_enabled, "never" by default), and
 * filling one block of a sparse layer would then take 2 MiB. So a `span` of 2 MiB is collapsed afterwards, when every block
 * of it is DATA: madvise(MADV_COLLAPSE), Linux 6.1, copies it into a huge page and takes the small ones out of all page
 * tables; readers fault the huge one in. What they copy is the same before, during and after.
 *
 * It costs the copy, and readers of the span wait for it, so it is done when nothing is being fetched, one span after the
 * other, by a thread of its own: the data thread never waits. A cache that is nearly full has to evict, which splits huge pages
 * again; it does not make new ones.
 *
 *   data thread                                     thread "cache-huge"
 *   span complete -> list of candidates
 *   quiet -> take one, hold its base --- job ---->  map the span, collapse, unmap
 *            note the result, next one <--- mail -- done
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/service_internal.h"
#include "loop/thread.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define TRIES_MAX 20u   /* per span, a second apart at least: memory may be fragmented, pages busy */
#define REFUSALS_MAX 3u /* before it has ever worked: this kernel does not */

/* ---- the thread ---- */

/* `window` is room for one span, at a multiple of its size. */
static int collapse(char *window, int fd, uint64_t offset)
{
    void *p = mmap(window, CACHE_HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)offset);
    if (p == MAP_FAILED) return -errno;
    int ret = madvise(p, CACHE_HUGE_BYTES, MADV_COLLAPSE) < 0 ? -errno : 0;
    /* The room stays ours. */
    if (mmap(window, CACHE_HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
        MAP_FAILED)
        return -errno;
    return ret;
}

static void *huge_body(void *arg)
{
    struct cache_service *s = arg;
    struct huge_job *job = &s->huge.job;
    char *room = mmap(NULL, 2 * CACHE_HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (;;) {
        while (sem_wait(&s->huge.wake) < 0)
            ; /* EINTR */
        if (atomic_load(&job->quit)) break;
        if (room == MAP_FAILED) {
            job->ret = -ENOMEM;
        } else {
            char *window = room + (align_up((uintptr_t)room, CACHE_HUGE_BYTES) - (uintptr_t)room);
            job->ret = collapse(window, job->base->data_fd, job->offset_bytes);
        }
        mailbox_post(&s->mailbox, &job->mail);
    }
    if (room != MAP_FAILED) munmap(room, 2 * CACHE_HUGE_BYTES);
    return NULL;
}

/* ---- the data thread ---- */

static bool span_waits(const struct region *r, unsigned span)
{
    const struct span *p = &r->span[span];
    return p->data_blocks == SPAN_BLOCKS && !p->huge && p->tries < TRIES_MAX;
}

static void candidate_add(struct cache_service *s, struct region *r)
{
    if (s->huge.on && list_empty(&r->huge_node)) list_push_back(&s->huge.candidates, &r->huge_node);
}

void service_huge_added(struct region *r, uint64_t block)
{
    struct span *p = &r->span[block % REGION_BLOCKS / SPAN_BLOCKS];
    if (++p->data_blocks < SPAN_BLOCKS) return;
    p->tries = 0;
    candidate_add(r->base->service, r);
}

void service_huge_removed(struct region *r, uint64_t block, unsigned count)
{
    struct span *p = &r->span[block % REGION_BLOCKS / SPAN_BLOCKS];
    struct huge_job *job = &r->base->service->huge.job;
    if (job->base == r->base && job->offset_bytes >> CACHE_HUGE_SHIFT == block / SPAN_BLOCKS) job->disturbed = true;
    if (p->huge) r->base->stats.huge_bytes -= CACHE_HUGE_BYTES;
    p->huge = false;
    p->data_blocks = (uint16_t)(p->data_blocks - count);
}

static void give_up(struct cache_service *s)
{
    log_info("the cache goes on with small pages only: this kernel refuses madvise(MADV_COLLAPSE)");
    s->huge.on = false;
    while (!list_empty(&s->huge.candidates))
        list_remove(s->huge.candidates.next);
}

static void job_end(struct huge_job *job)
{
    job->base->held--;
    job->base = NULL;
}

static void job_done(struct mail *m)
{
    struct huge_job *job = container_of(m, struct huge_job, mail);
    struct base_layer *b = job->base;
    struct cache_service *s = b->service;
    struct region *r = b->regions[job->offset_bytes >> REGION_SHIFT]; /* may have been evicted meanwhile */
    struct span *span = r ? &r->span[job->offset_bytes % REGION_BYTES >> CACHE_HUGE_SHIFT] : NULL;
    job_end(job);
    if (job->ret == 0) s->huge.proven = true;
    if (span && !job->disturbed) {
        if (job->ret == 0) b->stats.huge_bytes += CACHE_HUGE_BYTES;
        span->huge = job->ret == 0;
        span->tries = (uint8_t)(span->tries + (job->ret < 0));
    }
    /* The kernel says EINVAL to what it cannot do ever, and to what changed while it did it. */
    bool refused = job->ret == -EINVAL && !job->disturbed && !s->huge.proven;
    if (refused && ++s->huge.refusals >= REFUSALS_MAX) give_up(s);
    else if (job->ret == 0 || job->disturbed) service_huge_go(s);
    /* Else memory is short, or in pieces, or the pages are busy: at the next tick, with another one. */
}

static bool nearly_full(const struct cache_service *s)
{
    return service_used_bytes(s) > s->budget_bytes - s->budget_bytes / 8;
}

/* The region has a turn: true when a span of it was given to the thread. */
static bool region_go(struct cache_service *s, struct region *r)
{
    struct huge_job *job = &s->huge.job;
    if (r->base->dropping || r->base->broken) return false;
    for (unsigned i = 0; i < SPANS_PER_REGION; i++) {
        if (!span_waits(r, i)) continue;
        job->base = r->base;
        job->offset_bytes = (r->index << REGION_SHIFT) + ((uint64_t)i << CACHE_HUGE_SHIFT);
        job->disturbed = false;
        r->base->held++;
        list_push_back(&s->huge.candidates, &r->huge_node); /* for its other span, or once more */
        sem_post(&s->huge.wake);
        return true;
    }
    return false;
}

void service_huge_go(struct cache_service *s)
{
    if (!s->huge.on || s->huge.job.base || s->fetch_count || nearly_full(s)) return;
    struct list *node;
    while ((node = list_pop_front(&s->huge.candidates)))
        if (region_go(s, list_entry(node, struct region, huge_node))) return;
}

void service_huge_start(struct cache_service *s, bool on)
{
    list_init(&s->huge.candidates);
    s->huge.job.mail.run = job_done;
    if (!on) return;
    sem_init(&s->huge.wake, 0, 0);
    int ret = thread_start(&s->huge.thread, "cache-huge", huge_body, s);
    s->huge.on = s->huge.started = ret == 0;
    if (ret == 0) return;
    log_warn("the cache goes on with small pages only: cannot start a thread: %s", strerror(-ret));
    sem_destroy(&s->huge.wake);
}

void service_huge_stop(struct cache_service *s)
{
    if (!s->huge.started) return;
    atomic_store(&s->huge.job.quit, true);
    sem_post(&s->huge.wake);
    pthread_join(s->huge.thread, NULL);
    sem_destroy(&s->huge.wake);
    s->huge.started = s->huge.on = false;
    if (s->huge.job.base) job_end(&s->huge.job); /* its mail comes too late, or it was not begun */
}
