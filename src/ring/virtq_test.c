/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random chains through both kinds of ring and back: what the device pops is compared with what the driver added, and what the
 * driver gets back with what the device pushed. Sizes from 1 to the maximum, far past the wrap of every counter.
 */
#include "ring/virtq.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ring/test_rig.h"

#define BUFS_MAX 6u

struct request {
    struct driver_sim_buf buf[BUFS_MAX];
    unsigned count;
    uint32_t written;
    bool popped, finished;
};

/* One run: requests are numbered; [returned, added) are known to the driver, and popped in order. */
struct run {
    struct rig rig;
    uint64_t random;
    struct request *request; /* by number modulo size + 1 */
    uint64_t *held;          /* popped: the request's number, by the chain's id */
    uint16_t *ids;           /* popped ids, in no order */
    unsigned held_count;
    uint64_t added, popped, returned, waits;
};

static uint64_t pick(struct run *t, uint64_t below)
{
    return rig_random(&t->random) % below;
}

static struct request *request_of(struct run *t, uint64_t number)
{
    return &t->request[number % (t->rig.setup.size + 1u)];
}

static void make_request(struct run *t, struct request *r)
{
    unsigned size = t->rig.setup.size;
    r->count = 1 + (unsigned)pick(t, size < BUFS_MAX ? size : BUFS_MAX);
    unsigned out = (unsigned)pick(t, r->count + 1);
    for (unsigned i = 0; i < r->count; i++) {
        uint32_t length = (uint32_t)(1 + pick(t, pick(t, 8) ? 100 : 5000));
        uint64_t at = pick(t, 4) ? pick(t, RIG_BUFFERS_BYTES - length) : RIG_BUFFERS_BYTES / 2 - pick(t, length);
        if (at > RIG_BUFFERS_BYTES - length) at = RIG_BUFFERS_BYTES - length;
        r->buf[i] = (struct driver_sim_buf){{t->rig.buffers_gpa + at}, length, i >= out};
    }
    r->popped = r->finished = false;
}

static void driver_adds(struct run *t)
{
    for (uint64_t n = pick(t, t->rig.setup.size + 1u) + 1; n > 0 && t->added - t->returned <= t->rig.setup.size; n--) {
        struct request *r = request_of(t, t->added);
        make_request(t, r);
        if (!driver_sim_add(t->rig.driver, r->buf, r->count, pick(t, 3) == 0, t->added)) break;
        t->added++;
    }
    driver_sim_publish(t->rig.driver);
}

/* The iovec is the request's buffers, cut where the regions meet. */
static void compare(struct run *t, const struct request *r, const struct virtq_chain *c, const struct iovec *iov)
{
    unsigned n = 0, out_count = 0;
    uint64_t bytes[2] = {0};
    for (unsigned i = 0; i < r->count; i++) {
        struct iovec part[2];
        int parts = guest_map_iov(t->rig.map, r->buf[i].addr, r->buf[i].length, part, 2);
        assert_true(parts > 0);
        for (int k = 0; k < parts; k++, n++) {
            assert_ptr_equal(iov[n].iov_base, part[k].iov_base);
            assert_int_equal(iov[n].iov_len, part[k].iov_len);
        }
        if (!r->buf[i].device_writes) out_count = n;
        bytes[r->buf[i].device_writes] += r->buf[i].length;
    }
    assert_int_equal(c->out_count, out_count);
    assert_int_equal(c->in_count, n - out_count);
    assert_int_equal(c->out_bytes, bytes[0]);
    assert_int_equal(c->in_bytes, bytes[1]);
}

static void device_pops(struct run *t)
{
    for (uint64_t n = pick(t, t->rig.setup.size) + 1; n > 0; n--) {
        struct virtq_chain c;
        struct iovec iov[BUFS_MAX * 2];
        int ret = virtq_pop(t->rig.q, &c, iov, BUFS_MAX * 2);
        if (ret < 0) fail_msg("broken: %s", virtq_broken(t->rig.q));
        assert_int_equal(ret, t->popped < t->added);
        if (ret == 0) break;
        compare(t, request_of(t, t->popped), &c, iov);
        assert_true(c.id < t->rig.setup.size);
        request_of(t, t->popped)->popped = true;
        t->held[c.id] = t->popped++;
        t->ids[t->held_count++] = c.id;
        assert_int_equal(virtq_in_flight(t->rig.q), t->held_count);
    }
}

static void device_pushes(struct run *t)
{
    for (uint64_t n = pick(t, t->held_count + 1u); n > 0; n--) {
        unsigned which = (unsigned)pick(t, t->held_count);
        uint16_t id = t->ids[which];
        t->ids[which] = t->ids[--t->held_count];
        struct request *r = request_of(t, t->held[id]);
        uint64_t room = 0;
        for (unsigned i = 0; i < r->count; i++)
            room += r->buf[i].device_writes ? r->buf[i].length : 0;
        r->written = (uint32_t)pick(t, room + 1);
        r->finished = true;
        virtq_push(t->rig.q, id, r->written);
        if (pick(t, 4) == 0) device_pops(t); /* between a push and its publication */
    }
    if (pick(t, 4)) virtq_publish(t->rig.q);
}

static void driver_gets(struct run *t)
{
    uint64_t token;
    uint32_t written;
    while (driver_sim_get(t->rig.driver, &token, &written)) {
        struct request *r = request_of(t, token);
        assert_true(r->popped && r->finished);
        assert_int_equal(written, r->written);
        r->popped = false;
        t->waits++;
    }
    if (driver_sim_error(t->rig.driver)) fail_msg("driver: %s", driver_sim_error(t->rig.driver));
    while (t->returned < t->added && request_of(t, t->returned)->finished && !request_of(t, t->returned)->popped)
        t->returned++;
}

/* A request's number is reused only after all before it: the window of open ones is at most size + 1 wide. */
static void run(const struct rig_options *o, uint64_t requests, uint64_t seed)
{
    struct run t = {.random = seed};
    rig_open(&t.rig, o);
    t.request = calloc(o->size + 1u, sizeof t.request[0]);
    t.held = calloc(o->size, sizeof t.held[0]);
    t.ids = calloc(o->size, sizeof t.ids[0]);
    while (t.returned < requests || t.returned < t.added) {
        if (t.added < requests) driver_adds(&t);
        device_pops(&t);
        if (pick(&t, 3)) device_pushes(&t);
        driver_gets(&t);
        if (o->tracked && t.held_count == 0 && pick(&t, 50) == 0) {
            virtq_publish(t.rig.q);
            rig_restart(&t.rig); /* nothing in flight: goes on where it was */
        }
    }
    assert_int_equal(virtq_in_flight(t.rig.q), 0);
    assert_int_equal(driver_sim_in_flight(t.rig.driver), 0);
    free(t.request);
    free(t.held);
    free(t.ids);
    rig_close(&t.rig);
}

#ifdef CREEDENCE_SANITIZED
#define SCALE 8
#else
#define SCALE 1
#endif

static void test_every_shape(void **state)
{
    static const uint16_t sizes[] = {1, 2, 4, 16, 256};
    uint64_t seed = 1;
    for (unsigned i = 0; i < 5; i++)
        for (unsigned kind = 0; kind < 8; kind++) {
            struct rig_options o = {.size = sizes[i], .packed = kind & 1, .event_idx = kind & 2, .tracked = kind & 4};
            o.base = o.packed ? 0x80008000 : 65500;
            run(&o, 20000 / SCALE, seed++);
        }
}

static void test_packed_sizes_not_powers_of_two(void **state)
{
    static const uint16_t sizes[] = {3, 5, 7, 100, 1001};
    for (unsigned i = 0; i < 5; i++) {
        struct rig_options o = {.size = sizes[i], .packed = true, .event_idx = true, .tracked = i & 1, .base = 0};
        o.base = (sizes[i] - 1u) | (sizes[i] - 1u) << 16; /* at the last slot, second time round */
        run(&o, 10000 / SCALE, i);
    }
}

static void test_counters_wrap(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig_options o = {.size = 64, .packed = packed, .event_idx = true, .tracked = true};
        o.base = packed ? 0x80008000 : 0;
        run(&o, 200000 / SCALE, 3);
    }
}

static void test_largest(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig_options o = {.size = VIRTQ_SIZE_MAX, .packed = packed, .event_idx = true, .tracked = true};
        o.base = packed ? 0x80008000 : 40000;
        run(&o, 150000 / SCALE, 4);
    }
}

static void test_base_is_where_it_stands(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig r;
        struct rig_options o = {.size = 8, .packed = packed, .base = packed ? 0x80078007 : 65535};
        rig_open(&r, &o);
        assert_int_equal(virtq_base(r.q), o.base);
        struct driver_sim_buf b = {{r.buffers_gpa}, 512, true};
        for (unsigned i = 0; i < 5; i++)
            assert_true(driver_sim_add(r.driver, &b, 1, false, i));
        driver_sim_publish(r.driver);
        struct virtq_chain c;
        struct iovec iov[1];
        for (unsigned i = 0; i < 2; i++) {
            assert_int_equal(virtq_pop(r.q, &c, iov, 1), 1);
            virtq_push(r.q, c.id, 512);
        }
        virtq_publish(r.q);
        r.setup.base = virtq_base(r.q);
        assert_int_equal(r.setup.base, packed ? 0x00010001 : 1);
        virtq_free(r.q); /* stopped, and started again from its base */
        assert_int_equal(virtq_new(&r.q, &r.setup, r.map, NULL), 0);
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(virtq_pop(r.q, &c, iov, 1), 1);
            virtq_push(r.q, c.id, 512);
        }
        assert_int_equal(virtq_pop(r.q, &c, iov, 1), 0);
        virtq_publish(r.q);
        uint64_t token;
        uint32_t written;
        for (uint64_t i = 0; i < 5; i++) {
            assert_true(driver_sim_get(r.driver, &token, &written));
            assert_int_equal(token, i);
        }
        rig_close(&r);
    }
}

/* The driver is told exactly when it asked to be. */
static void test_calls(void **state)
{
    for (unsigned kind = 0; kind < 4; kind++) {
        struct rig r;
        struct rig_options o = {.size = 4, .packed = kind & 1, .event_idx = kind & 2};
        o.base = o.packed ? 0x80008000 : 65534;
        rig_open(&r, &o);
        struct driver_sim_buf b = {{r.buffers_gpa}, 512, true};
        struct virtq_chain c;
        struct iovec iov[1];
        uint64_t token;
        uint32_t written;
        assert_false(virtq_publish(r.q));
        for (unsigned n = 0; n < 30; n++) {
            for (unsigned i = 0; i < 3; i++)
                assert_true(driver_sim_add(r.driver, &b, 1, false, i));
            bool kick = driver_sim_publish(r.driver);
            assert_int_equal(kick, n % 2 == 0);
            if (n % 3 == 0) driver_sim_calls_off(r.driver);
            else assert_false(driver_sim_calls_on(r.driver));
            for (unsigned i = 0; i < 3; i++)
                assert_int_equal(virtq_pop(r.q, &c, iov, 1), 1), virtq_push(r.q, c.id, 1);
            assert_int_equal(virtq_publish(r.q), n % 3 != 0);
            assert_false(virtq_publish(r.q)); /* nothing new */
            if (n % 2) assert_false(virtq_kick_enable(r.q));
            else virtq_kick_disable(r.q);
            assert_true(driver_sim_calls_on(r.driver)); /* and it finds them when it looks */
            for (unsigned i = 0; i < 3; i++)
                assert_true(driver_sim_get(r.driver, &token, &written));
        }
        rig_close(&r);
    }
}

static void test_kick_enable_finds_work(void **state)
{
    for (unsigned kind = 0; kind < 4; kind++) {
        struct rig r;
        struct rig_options o = {.size = 4, .packed = kind & 1, .event_idx = kind & 2};
        o.base = o.packed ? 0x80008000 : 0;
        rig_open(&r, &o);
        virtq_kick_disable(r.q);
        assert_false(virtq_has_work(r.q));
        struct driver_sim_buf b = {{r.buffers_gpa}, 512, true};
        assert_true(driver_sim_add(r.driver, &b, 1, false, 0));
        driver_sim_publish(r.driver);
        assert_true(virtq_has_work(r.q));
        assert_true(virtq_kick_enable(r.q));
        virtq_break(r.q, "for a reason");
        virtq_break(r.q, "for another");
        assert_false(virtq_has_work(r.q));
        assert_false(virtq_kick_enable(r.q));
        assert_string_equal(virtq_broken(r.q), "for a reason");
        struct virtq_chain c;
        struct iovec iov[1];
        assert_int_equal(virtq_pop(r.q, &c, iov, 1), -EPROTO);
        rig_close(&r);
    }
}

/* The same memory behind other host addresses: rings and buffers move with the map. */
static void test_set_map(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig r;
        struct rig_options o = {.size = 4, .packed = packed, .base = packed ? 0x80008000 : 0};
        rig_open(&r, &o);
        struct driver_sim_buf b = {{r.buffers_gpa + 100}, 512, true};
        struct virtq_chain c;
        struct iovec iov[1];
        uint64_t token;
        uint32_t written;
        struct guest_region_desc d[2];
        for (unsigned i = 0; i < 2; i++)
            d[i] = (struct guest_region_desc){r.map->region[i].guest_addr, r.map->region[i].size_bytes,
                                              r.map->region[i].user_addr, i ? r.map->region[0].size_bytes : 0};
        int fds[2] = {r.fd, r.fd};
        struct guest_map *next;
        assert_int_equal(guest_map_new(&next, d, fds, 2, NULL, NULL), 0);
        assert_ptr_not_equal(next->region[0].host, r.map->region[0].host);
        virtq_set_map(r.q, next);
        guest_map_unref(r.map); /* only the new one is mapped now */
        r.map = next;
        assert_null(virtq_broken(r.q));
        for (unsigned i = 0; i < 10; i++) {
            assert_true(driver_sim_add(r.driver, &b, 1, false, i));
            driver_sim_publish(r.driver);
            assert_int_equal(virtq_pop(r.q, &c, iov, 1), 1);
            assert_ptr_equal(iov[0].iov_base, guest_map_at(next, b.addr, 1));
            virtq_push(r.q, c.id, 1);
            virtq_publish(r.q);
            assert_true(driver_sim_get(r.driver, &token, &written));
        }
        struct guest_map *without;
        assert_int_equal(guest_map_new(&without, d + 1, fds, 1, NULL, NULL), 0);
        virtq_set_map(r.q, without);
        assert_non_null(strstr(virtq_broken(r.q), "not in the new memory table"));
        guest_map_unref(without);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_shape),
        cmocka_unit_test(test_packed_sizes_not_powers_of_two),
        cmocka_unit_test(test_counters_wrap),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_base_is_where_it_stands),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_kick_enable_finds_work),
        cmocka_unit_test(test_set_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
