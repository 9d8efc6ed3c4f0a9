/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper: one thread per layer that does what blocks (tables, refcounts, commits, frees), so that
 * queue threads never do. It is started by the first request that needs it; an idle or fully
 * mapped disk has none.
 *
 * Mail only sorts requests into lists; the work is done from the main loop, one kind after the
 * other. While it sleeps in its engine for a blocking step, completions of loads run, mail does not.
 */
#include "disk/format/qcow2_impl.h"

#include <string.h>

#include "loop/clock.h"
#include "loop/thread.h"

#define GRACE_POLL_NS (2 * NS_PER_MS) /* how often to look whether old requests have ended */

static struct list *list_for(struct qcow2_keeper *k, enum qcow2_want want)
{
    switch (want) {
    case QCOW2_WANT_LOAD: return &k->load_waiters;
    case QCOW2_WANT_POOL: return &k->pool_waiters;
    case QCOW2_WANT_LOG: return &k->log_waiters;
    case QCOW2_WANT_COMMIT: return &k->commit_waiters;
    case QCOW2_WANT_FLUSH: return &k->flush_waiters;
    }
    return NULL;
}

static void op_arrived(struct mail *m)
{
    struct qcow2_op *op = container_of(m, struct qcow2_op, mail);
    list_push_back(list_for(&qcow2_of_chan(op->chan)->keeper, op->want), &op->wait_node);
}

static void op_answered(struct mail *m)
{
    qcow2_op_resume(container_of(m, struct qcow2_op, mail));
}

void qcow2_keeper_answer(struct qcow2_op *op, int ret)
{
    struct qcow2_chan *c = op->chan; /* the request may be over, and its channel on its way out, before post returns */
    op->want_error = ret;
    op->mail.run = op_answered;
    pthread_mutex_lock(&c->posting);
    mailbox_post(&c->box, &op->mail);
    pthread_mutex_unlock(&c->posting);
}

void qcow2_keeper_send(struct qcow2_op *op, enum qcow2_want want, uint64_t index)
{
    struct qcow2 *q = qcow2_of_chan(op->chan);
    op->want = want;
    op->want_index = index;
    op->mail.run = op_arrived;
    int ret = qcow2_keeper_start(q);
    if (ret < 0) qcow2_keeper_answer(op, ret);
    else mailbox_post(&q->keeper.box, &op->mail);
}

static void answer_all(struct list *waiters, int ret)
{
    struct list *node;
    while ((node = list_pop_front(waiters)))
        qcow2_keeper_answer(list_entry(node, struct qcow2_op, wait_node), ret);
}

/* ---- asked for by queue threads, under the lock ---- */

/* From here on the mail may be posted again, and not before. */
static void taken_out(struct qcow2_keeper *k, bool *asked)
{
    struct qcow2 *q = container_of(k, struct qcow2, keeper);
    pthread_mutex_lock(&q->lock);
    *asked = false;
    pthread_mutex_unlock(&q->lock);
}

static void refill_arrived(struct mail *m)
{
    struct qcow2_keeper *k = container_of(m, struct qcow2_keeper, refill_mail);
    taken_out(k, &k->refill_asked);
    k->refill_wanted = true;
}

static void commit_arrived(struct mail *m)
{
    struct qcow2_keeper *k = container_of(m, struct qcow2_keeper, commit_mail);
    taken_out(k, &k->commit_asked);
    k->commit_wanted = true;
}

static int start_locked(struct qcow2 *q);

void qcow2_keeper_ask_refill(struct qcow2 *q)
{
    struct qcow2_keeper *k = &q->keeper;
    if (k->refill_asked || start_locked(q) < 0) return;
    k->refill_asked = true;
    mailbox_post(&k->box, &k->refill_mail);
}

void qcow2_keeper_ask_commit(struct qcow2 *q)
{
    struct qcow2_keeper *k = &q->keeper;
    if (k->commit_asked || start_locked(q) < 0) return;
    k->commit_asked = true;
    mailbox_post(&k->box, &k->commit_mail);
}

/* ---- the thread's work ---- */

static void start_loads(struct qcow2 *q)
{
    struct list *node;
    if (!list_empty(&q->keeper.load_waiters)) qcow2_map_evict(q);
    while ((node = list_pop_front(&q->keeper.load_waiters)))
        qcow2_load_start(q, list_entry(node, struct qcow2_op, wait_node));
}

static bool more_will_be_free(struct qcow2 *q)
{
    struct qcow2_keeper *k = &q->keeper;
    pthread_mutex_lock(&q->lock);
    bool after_commit = q->log.half[0].freed_count || q->log.half[1].freed_count;
    pthread_mutex_unlock(&q->lock);
    if (after_commit && !k->commit_failed) k->commit_wanted = true;
    return k->commit_wanted || !list_empty(&k->free_batches);
}

/* Clusters that become free soon are waited for before a write is told that there is no space. */
static void refill(struct qcow2 *q)
{
    struct qcow2_keeper *k = &q->keeper;
    struct list waiters;
    list_init(&waiters);
    list_splice_back(&waiters, &k->pool_waiters);
    k->refill_wanted = false;
    int ret = qcow2_pool_refill(q);
    if (ret == -ENOSPC && more_will_be_free(q)) {
        list_splice_back(&k->pool_waiters, &waiters);
        return;
    }
    answer_all(&waiters, ret);
}

/* Whoever came before the commit began is covered by it; whoever comes later waits for the next. */
static void commit(struct qcow2 *q)
{
    struct qcow2_keeper *k = &q->keeper;
    struct list waiters, flushers;
    list_init(&waiters);
    list_init(&flushers);
    list_splice_back(&waiters, &k->commit_waiters);
    list_splice_back(&waiters, &k->log_waiters);
    list_splice_back(&flushers, &k->flush_waiters);
    k->commit_wanted = false;
    int ret = qcow2_commit(q, !list_empty(&flushers));
    k->commit_failed = ret < 0;
    answer_all(&waiters, ret);
    answer_all(&flushers, ret);
}

static bool commit_is_due(const struct qcow2_keeper *k)
{
    return k->commit_wanted || !list_empty(&k->commit_waiters) || !list_empty(&k->log_waiters) ||
           !list_empty(&k->flush_waiters);
}

static void call_arrived(struct mail *m)
{
    struct qcow2_call *call = container_of(m, struct qcow2_call, mail);
    list_push_back(&call->q->keeper.calls, &call->node);
}

static void run_calls(struct qcow2 *q)
{
    struct list *node;
    while ((node = list_pop_front(&q->keeper.calls))) {
        struct qcow2_call *call = list_entry(node, struct qcow2_call, node);
        int ret = call->run(q, call->arg);
        pthread_mutex_lock(&call->lock);
        call->ret = ret;
        call->finished = true;
        pthread_cond_signal(&call->done); /* the caller's stack may be gone once the lock is */
        pthread_mutex_unlock(&call->lock);
    }
}

/* One pass over all there is to do; true when something may be left. */
static bool work(struct qcow2 *q, bool *waiting)
{
    struct qcow2_keeper *k = &q->keeper;
    bool did = mailbox_has_mail(&k->box) && mailbox_run(&k->box) > 0;
    start_loads(q);
    *waiting = qcow2_reclaim(q, false);
    if (k->refill_wanted || (!list_empty(&k->pool_waiters) && (did || !*waiting))) refill(q);
    if (commit_is_due(k)) {
        commit(q);
        did = true;
    }
    run_calls(q);
    return did;
}

static void box_ready(struct engine_watch *w)
{
    (void)w; /* it has ended the sleep, which is all that is needed */
}

static void *thread_body(void *arg)
{
    struct qcow2 *q = arg;
    struct qcow2_keeper *k = &q->keeper;
    while (!k->stop) {
        bool waiting;
        bool did = work(q, &waiting);
        /* Mail that came while a blocking step slept has had its signal already. */
        did = did || mailbox_has_mail(&k->box);
        int ret = engine_sleep(k->engine, did ? 0 : waiting ? GRACE_POLL_NS : UINT64_MAX);
        assert(ret >= 0);
    }
    engine_unwatch(k->engine, &k->watch);
    engine_free(k->engine);
    k->engine = NULL;
    return NULL;
}

/* ---- life ---- */

int qcow2_keeper_init(struct qcow2 *q)
{
    struct qcow2_keeper *k = &q->keeper;
    struct list *lists[] = {&k->loads,       &k->load_waiters,   &k->pool_waiters,
                            &k->log_waiters, &k->commit_waiters, &k->flush_waiters,
                            &k->calls,       &k->free_batches,   &k->tables_to_free};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        list_init(lists[i]);
    k->refill_mail.run = refill_arrived;
    k->commit_mail.run = commit_arrived;
    return mailbox_init(&k->box);
}

void qcow2_keeper_destroy(struct qcow2 *q)
{
    assert(!q->keeper.thread_running);
    mailbox_destroy(&q->keeper.box);
}

/* The engine is made here, so that whoever needs the keeper learns why there is none. */
static int start_locked(struct qcow2 *q)
{
    struct qcow2_keeper *k = &q->keeper;
    struct errmsg e = {""};
    if (k->thread_running) return 0;
    int ret = q->maker->make(q->maker->arg, &k->engine, &e);
    if (ret < 0) {
        log_limited(LOG_LEVEL_ERROR, "%s: no I/O engine for metadata: %s", q->layer.name, e.text);
        return ret;
    }
    k->watch = (struct engine_watch){.fd = mailbox_fd(&k->box), .ready = box_ready};
    k->stop = false;
    ret = engine_watch(k->engine, &k->watch);
    if (ret == 0) ret = thread_start(&k->thread, "qcow2-keeper", thread_body, q);
    if (ret < 0) {
        log_limited(LOG_LEVEL_ERROR, "%s: no thread for metadata: %s", q->layer.name, strerror(-ret));
        engine_free(k->engine);
        k->engine = NULL;
        return ret;
    }
    k->thread_running = true;
    return 0;
}

int qcow2_keeper_start(struct qcow2 *q)
{
    pthread_mutex_lock(&q->lock);
    int ret = start_locked(q);
    pthread_mutex_unlock(&q->lock);
    return ret;
}

int qcow2_keeper_call(struct qcow2 *q, int (*run)(struct qcow2 *q, void *arg), void *arg)
{
    int ret = qcow2_keeper_start(q);
    if (ret < 0) return ret;
    struct qcow2_call call = {.mail.run = call_arrived, .q = q, .run = run, .arg = arg};
    pthread_mutex_init(&call.lock, NULL);
    pthread_cond_init(&call.done, NULL);
    mailbox_post(&q->keeper.box, &call.mail);
    pthread_mutex_lock(&call.lock);
    while (!call.finished)
        pthread_cond_wait(&call.done, &call.lock);
    pthread_mutex_unlock(&call.lock);
    pthread_cond_destroy(&call.done);
    pthread_mutex_destroy(&call.lock);
    return call.ret;
}

static int stop_call(struct qcow2 *q, void *arg)
{
    (void)arg;
    q->keeper.stop = true;
    return 0;
}

void qcow2_keeper_stop(struct qcow2 *q)
{
    if (!q->keeper.thread_running) return;
    qcow2_keeper_call(q, stop_call, NULL);
    pthread_join(q->keeper.thread, NULL);
    q->keeper.thread_running = false;
}
