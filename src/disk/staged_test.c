/* SPDX-License-Identifier: Apache-2.0 */
/* The staged data path: what goes through it comes out right, from two queue threads at once, large and small. */
#include "disk/test_util.h"

#include <pthread.h>

#include "base/cleanup.h"
#include "disk/engine/fault.h"
#include "disk/staged.h"

#define DISK_BYTES (16u << 20)
#define REQUESTS 48u /* more than there are slots */

struct fixture {
    struct scratch s;
    struct layer *raw, *staged;
    struct fault_plan *plan;
    struct errmsg msg;
};

static void fixture_open(struct fixture *x, const struct fault_rule *rule)
{
    x->plan = fault_plan_new(1);
    if (rule) fault_plan_add(x->plan, rule);
    scratch_open(&x->s, DISK_BYTES, DISK_FILE_WRITE | DISK_FILE_DIRECT);
    struct layer_args args = {.file = &x->s.file, .writable = true};
    assert_int_equal(layer_raw_open(&x->raw, &args, &x->msg), 0);
    if (layer_staged_open(&x->staged, &x->raw, 1, fault_plan_maker(x->plan), NULL, &x->msg) < 0)
        fail_msg("%s", x->msg.text);
}

static void fixture_close(struct fixture *x)
{
    assert_int_equal(x->staged->ops->close(x->staged, &x->msg), 0);
    assert_int_equal(x->raw->ops->close(x->raw, &x->msg), 0);
    fault_plan_free(x->plan);
    scratch_drop(&x->s);
}

struct request {
    struct disk_req req;
    struct iovec iov[2];
    char *buf;
    bool done;
    int res;
};

static void request_done(struct disk_req *req, int ret)
{
    struct request *r = container_of(req, struct request, req);
    if (r->done) abort();
    r->done = true;
    r->res = ret;
}

struct queue {
    struct engine *e;
    struct disk_chans chans;
};

static void queue_open(struct queue *q, struct layer *l)
{
    if (engine_uring_new(&q->e, 64, NULL) < 0) abort();
    q->chans.count = 1;
    if (l->ops->chan_open(l, q->e, NULL, &q->chans.chan[0]) < 0) abort();
}

static void queue_close(struct queue *q)
{
    q->chans.chan[0]->layer->ops->chan_close(q->chans.chan[0]);
    engine_free(q->e);
}

static void start(struct queue *q, struct request *r, enum disk_op op, uint64_t offset, uint64_t length)
{
    r->done = false;
    r->req.op = op;
    r->req.offset_bytes = offset;
    r->req.length_bytes = length;
    r->iov[0] = (struct iovec){r->buf, length / 3};
    r->iov[1] = (struct iovec){r->buf + length / 3, length - length / 3};
    r->req.iov = r->iov;
    r->req.iov_count = 2;
    r->req.done = request_done;
    layer_submit(q->chans.chan[0], &r->req);
    if (r->done) abort();
}

static int finish(struct queue *q, struct request *r)
{
    while (!r->done)
        if (engine_sleep(q->e, UINT64_MAX) < 0) abort();
    return r->res;
}

struct thread_arg {
    struct fixture *x;
    uint64_t base, seed;
};

/* Each request writes a range of its own, reads it back, and so on; all of them at once. */
static void *write_and_read(void *arg)
{
    struct thread_arg *t = arg;
    struct queue q;
    struct request r[REQUESTS] = {0};
    uint64_t length[REQUESTS];
    const uint64_t span = DISK_BYTES / 2 / REQUESTS / 4096 * 4096;
    queue_open(&q, t->x->staged);
    for (unsigned i = 0; i < REQUESTS; i++)
        r[i].buf = malloc(span);
    for (int round = 0; round < 20; round++) {
        for (unsigned i = 0; i < REQUESTS; i++) {
            length[i] = (1 + rnd_below(&t->seed, span / 512)) * 512;
            for (uint64_t k = 0; k < length[i]; k++)
                r[i].buf[k] = (char)(t->base + k / 512 + i + (uint64_t)round);
            start(&q, &r[i], DISK_WRITE, t->base + i * span, length[i]);
        }
        for (unsigned i = 0; i < REQUESTS; i++) {
            if (finish(&q, &r[i]) != 0) abort();
            memset(r[i].buf, 0xee, length[i]);
            start(&q, &r[i], DISK_READ, t->base + i * span, length[i]);
        }
        for (unsigned i = 0; i < REQUESTS; i++) {
            if (finish(&q, &r[i]) != 0) abort();
            for (uint64_t k = 0; k < length[i]; k++)
                if (r[i].buf[k] != (char)(t->base + k / 512 + i + (uint64_t)round)) abort();
        }
    }
    for (unsigned i = 0; i < REQUESTS; i++)
        free(r[i].buf);
    queue_close(&q);
    return NULL;
}

static void test_two_queues(void **state)
{
    struct fixture x;
    fixture_open(&x, NULL);
    struct thread_arg arg[2] = {{&x, 0, 1}, {&x, DISK_BYTES / 2, 2}};
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, write_and_read, &arg[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    fixture_close(&x);
}

static int run(struct queue *q, enum disk_op op, uint64_t offset, void *buf, uint64_t length, struct disk_extent *map)
{
    struct request r = {.buf = buf};
    start(q, &r, op, offset, length);
    int ret = finish(q, &r);
    if (map) *map = r.req.map;
    return ret;
}

static void test_every_operation(void **state)
{
    struct fixture x;
    struct queue q;
    struct disk_extent map;
    fixture_open(&x, NULL);
    queue_open(&q, x.staged);
    autofree char *buf = malloc(1 << 20);
    memset(buf, 'a', 1 << 20);
    assert_int_equal(run(&q, DISK_WRITE, 0, buf, 1 << 20, NULL), 0);
    assert_int_equal(run(&q, DISK_FLUSH, 0, NULL, 0, NULL), 0);
    assert_int_equal(run(&q, DISK_WRITE_ZEROES, 4096, NULL, 8192, NULL), 0);
    assert_int_equal(run(&q, DISK_DISCARD, 512 << 10, NULL, 512 << 10, NULL), 0);
    assert_int_equal(run(&q, DISK_READ, 0, buf, 1 << 20, NULL), 0);
    assert_true(buf[0] == 'a' && buf[4096] == 0 && buf[12288] == 'a' && buf[(512 << 10) - 1] == 'a' &&
                buf[512 << 10] == 0);
    assert_int_equal(run(&q, DISK_MAP, 512 << 10, NULL, 1 << 20, &map), 0);
    assert_true(map.kind == DISK_EXTENT_ZERO && map.length_bytes == 1 << 20);
    assert_int_equal(x.staged->ops->resize(x.staged, DISK_BYTES + 4096, &x.msg), 0);
    assert_int_equal(layer_size(x.staged), DISK_BYTES + 4096);
    assert_int_equal(run(&q, DISK_WRITE, DISK_BYTES, buf, 4096, NULL), 0);
    queue_close(&q);
    fixture_close(&x);
}

/* One piece of a large request fails: the request does, once, with that error. */
static void test_error(void **state)
{
    struct fixture x;
    struct queue q;
    fixture_open(
        &x, &(struct fault_rule){
                .action = FAULT_FAIL, .offset_bytes = 500000, .length_bytes = 1, .count = UINT64_MAX, .error = ENOSPC});
    queue_open(&q, x.staged);
    autofree char *buf = calloc(1, 4 << 20);
    assert_int_equal(run(&q, DISK_WRITE, 0, buf, 4 << 20, NULL), -ENOSPC);
    assert_int_equal(run(&q, DISK_WRITE, 1 << 20, buf, 1 << 20, NULL), 0);
    assert_int_equal(run(&q, DISK_READ, 0, buf, 1 << 20, NULL), -ENOSPC);
    queue_close(&q);
    fixture_close(&x);
}

/* Opened and closed many times: the end of a channel must not overtake the last signal to it. */
static void test_open_and_close(void **state)
{
    struct fixture x;
    char buf[512];
    fixture_open(&x, NULL);
    for (int i = 0; i < 100; i++) {
        struct queue q;
        queue_open(&q, x.staged);
        assert_int_equal(run(&q, DISK_READ, 0, buf, 512, NULL), 0);
        queue_close(&q);
    }
    fixture_close(&x);
}

/* ---- Hooks ---- */

struct hooked {
    pthread_t thread;
    unsigned opened, called, closed;
    int refuse;
};

static int hook_opened(void *arg, struct engine *e, const struct disk_chans *chans)
{
    struct hooked *h = arg;
    if (!e || chans->count != 1) abort();
    h->thread = pthread_self();
    h->opened++;
    return h->refuse;
}

static void hook_called(void *arg)
{
    struct hooked *h = arg;
    if (!pthread_equal(h->thread, pthread_self())) abort();
    h->called++;
}

static void hook_closed(void *arg)
{
    struct hooked *h = arg;
    if (!pthread_equal(h->thread, pthread_self())) abort();
    h->closed++;
}

static void test_hooks(void **state)
{
    struct fixture x = {.plan = fault_plan_new(1)};
    struct hooked h = {.refuse = -ENOMEM};
    struct staged_hooks hooks = {.opened = hook_opened, .closed = hook_closed, .arg = &h};
    scratch_open(&x.s, DISK_BYTES, DISK_FILE_WRITE);
    struct layer_args args = {.file = &x.s.file, .writable = true};
    assert_int_equal(layer_raw_open(&x.raw, &args, &x.msg), 0);
    assert_int_equal(layer_staged_open(&x.staged, &x.raw, 1, fault_plan_maker(x.plan), &hooks, &x.msg), -ENOMEM);
    assert_true(h.opened == 1 && h.closed == 0);
    h.refuse = 0;
    assert_int_equal(layer_staged_open(&x.staged, &x.raw, 1, fault_plan_maker(x.plan), &hooks, &x.msg), 0);
    for (unsigned i = 1; i <= 10; i++) {
        layer_staged_call(x.staged, hook_called, &h);
        assert_int_equal(h.called, i);
    }
    assert_false(pthread_equal(h.thread, pthread_self()));
    assert_int_equal(h.closed, 0);
    fixture_close(&x);
    assert_true(h.opened == 2 && h.closed == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_queues),     cmocka_unit_test(test_every_operation), cmocka_unit_test(test_error),
        cmocka_unit_test(test_open_and_close), cmocka_unit_test(test_hooks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
