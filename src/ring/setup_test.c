/* SPDX-License-Identifier: Apache-2.0 */
/* Setting a queue up: what a transport may get wrong, in-flight tables that are not ours or spoilt, no memory. */
#include "ring/virtq.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ring/inflight.h"
#include "ring/test_rig.h"
#include "ring/wire.h"

#define SIZE 8u
#define FOR_BOTH(packed) for (int packed = 0; packed < 2; packed++)

/* Linked with --wrap: the allocation that fails, counting down; 0 means none. */
static unsigned fail_alloc_in;
/* ... and the one at which the front end writes into the in-flight table. */
static unsigned flip_in;
static struct inflight_packed *flip_table;
static bool flip_lists;
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);

static bool fails_now(void)
{
    return fail_alloc_in && --fail_alloc_in == 0;
}

static void flip_now(void)
{
    if (!flip_in || --flip_in > 0) return;
    flip_table->used = (struct inflight_packed_used){65535, 65535, 255, 254, {0}};
    if (flip_lists) flip_table->free_head = flip_table->old_free_head = 65535;
}

void *__wrap_malloc(size_t size)
{
    flip_now();
    return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails_now() ? NULL : __real_calloc(count, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    return fails_now() ? NULL : __real_aligned_alloc(align, size);
}

static struct rig rig;

static void open_rig(bool packed, bool tracked)
{
    struct rig_options o = {.size = SIZE, .packed = packed, .tracked = tracked, .base = packed ? 0x80008000 : 0};
    rig_open(&rig, &o);
}

static void refuse(const struct virtq_setup *s, const char *words)
{
    struct virtq *q;
    struct errmsg e = {""};
    assert_int_equal(virtq_new(&q, s, rig.map, &e), -EINVAL);
    assert_null(q);
    if (!strstr(e.text, words)) fail_msg("\"%s\" does not say \"%s\"", e.text, words);
}

static void test_bad_setups(void **state)
{
    FOR_BOTH(packed)
    {
        open_rig(packed, false);
        struct virtq_setup good = rig.setup, s = good;
        s.size = 0;
        refuse(&s, "0 entries");
        s.size = 32769;
        refuse(&s, "expected 1 to 32768");
        s.size = 6;
        if (!packed) refuse(&s, "power of two");
        s = good;
        s.desc = (char *)s.desc + 8;
        refuse(&s, "multiple of 16");
        s.desc = NULL;
        refuse(&s, "descriptors");
        s = good;
        s.driver = (char *)s.driver + 1;
        refuse(&s, "driver area");
        s = good;
        s.device = (char *)s.device + 2;
        refuse(&s, "device area");
        s = good;
        s.inflight = rig.buffers + 4;
        refuse(&s, "in-flight region");
        s = good;
        s.base = packed ? SIZE : 0x10000;
        refuse(&s, "base");
        if (packed) s.base = SIZE << 16;
        refuse(&s, "base");
        struct virtq *q;
        struct errmsg e;
        assert_int_equal(virtq_new(&q, &good, NULL, &e), -EINVAL);
        rig_close(&rig);
        virtq_free(NULL);
    }
}

static void test_no_memory(void **state)
{
    for (unsigned kind = 0; kind < 4; kind++) {
        open_rig(kind & 1, kind & 2);
        rig.setup.resume = true;
        unsigned failures = 0;
        for (;; failures++) {
            struct virtq *q;
            struct errmsg e = {""};
            fail_alloc_in = failures + 1;
            int ret = virtq_new(&q, &rig.setup, rig.map, &e);
            bool all = fail_alloc_in > 0;
            fail_alloc_in = 0;
            if (all) {
                assert_int_equal(ret, 0);
                virtq_free(q);
                break;
            }
            assert_int_equal(ret, -ENOMEM);
            assert_null(q);
            assert_true(e.text[0] != 0);
        }
        assert_true(failures >= 3);
        rig_close(&rig);
    }
}

static void test_foreign_tables(void **state)
{
    FOR_BOTH(packed)
    {
        open_rig(packed, true);
        rig.setup.resume = true;
        struct inflight_split *t = rig.setup.inflight; /* both begin alike */
        t->version = 2;
        refuse(&rig.setup, "version 2");
        t->version = 1;
        t->features = 1;
        refuse(&rig.setup, "features 0x1");
        t->features = 0;
        t->desc_num = 2 * SIZE;
        refuse(&rig.setup, "queue of 16 entries, this one has 8");
        t->desc_num = SIZE;
        if (packed) {
            ((struct inflight_packed *)t)->used.old_used_idx = SIZE;
            refuse(&rig.setup, "used index 0 or 8");
        }
        t->version = 0; /* never started: begins anew, from the base given */
        rig.setup.base = packed ? 0x80038003 : 7;
        rig_restart(&rig);
        assert_int_equal(virtq_base(rig.q), rig.setup.base);
        assert_int_equal(t->version, 1);
        assert_int_equal(t->desc_num, SIZE);
        assert_true(virtq_publish(rig.q)); /* the driver may be waiting for what the last process published */
        assert_false(virtq_publish(rig.q));
        rig_close(&rig);
    }
}

static void resume_breaks(const char *words)
{
    struct virtq_chain chain;
    struct iovec iov[1];
    rig_restart(&rig);
    assert_int_equal(virtq_pop(rig.q, &chain, iov, 1), -EPROTO);
    if (!strstr(virtq_broken(rig.q), words)) fail_msg("\"%s\" does not say \"%s\"", virtq_broken(rig.q), words);
    rig_close(&rig);
}

static void test_spoilt_split_tables(void **state)
{
    open_rig(false, true);
    ring_store16((char *)rig.setup.device + SPLIT_IDX, SIZE + 1); /* the guest's doing */
    resume_breaks("used index");

    open_rig(false, true);
    ring_store16((char *)rig.setup.device + SPLIT_IDX, 1);
    ((struct inflight_split *)rig.setup.inflight)->last_batch_head = SIZE;
    resume_breaks("used index");
}

static void test_spoilt_packed_tables(void **state)
{
    struct inflight_packed *t;
    open_rig(true, true);
    t = rig.setup.inflight;
    t->desc[3].next = 0; /* a free list that loops */
    resume_breaks("contradicts itself");

    open_rig(true, true);
    t = rig.setup.inflight;
    t->old_free_head = 2; /* entries that are neither free nor in flight */
    resume_breaks("contradicts itself");

    const uint16_t bad_num[] = {0, 2, SIZE, 65535};
    for (unsigned i = 0; i < 4; i++) {
        open_rig(true, true);
        t = rig.setup.inflight;
        t->old_free_head = 1;
        t->desc[0].inflight = 1;
        t->desc[0].num = bad_num[i];
        resume_breaks("contradicts itself");
    }
    open_rig(true, true); /* one id for two chains */
    t = rig.setup.inflight;
    t->old_free_head = 2;
    t->desc[0].inflight = t->desc[1].inflight = 1;
    t->desc[0].num = t->desc[1].num = 1;
    t->desc[1].last = 1;
    resume_breaks("contradicts itself");
}

/* Until the table has been checked, it is refused; from then on the index that was checked is what counts. Returns
 * false when the set-up ended before the change. */
static bool change_table_at(unsigned nth, bool lists, unsigned *resumed)
{
    open_rig(true, true);
    rig.setup.resume = true;
    flip_table = rig.setup.inflight;
    flip_lists = lists;
    struct virtq *q;
    struct errmsg e = {""};
    flip_in = nth;
    int ret = virtq_new(&q, &rig.setup, rig.map, &e);
    bool changed = flip_in == 0;
    flip_in = 0;
    if (ret == 0) {
        if (lists && changed) assert_non_null(virtq_broken(q));
        else assert_int_equal(virtq_base(q), rig.setup.base);
        if (changed) (*resumed)++;
        virtq_free(q);
    } else {
        assert_int_equal(ret, -EINVAL);
    }
    rig_close(&rig);
    return changed;
}

/* The front end changes the table while a queue resumes. */
static void test_packed_table_changed_meanwhile(void **state)
{
    for (int lists = 0; lists < 2; lists++) {
        unsigned resumed = 0;
        for (unsigned nth = 1; change_table_at(nth, lists, &resumed); nth++)
            continue;
        assert_int_equal(resumed, 2); /* between the check and the use memory is allocated twice */
    }
}

/* The same, step by step: settling goes by the word that was checked, in both directions. */
static void test_packed_settles_what_was_checked(void **state)
{
    for (int published = 0; published < 2; published++) {
        open_rig(true, true);
        struct inflight_packed *t = rig.setup.inflight;
        struct inflight_packed_used used;
        struct inflight_chain chains[SIZE];
        uint16_t links[SIZE], free_head;
        struct errmsg e = {""};
        t->used = (struct inflight_packed_used){3, 2, 1, 1, {0}};
        assert_int_equal(inflight_packed_check(t, SIZE, &used, &e), 0);
        t->used = (struct inflight_packed_used){65535, 65534, 1, 1, {0}};
        assert_int_equal(inflight_packed_resume(t, SIZE, &used, published, chains, links, &free_head), 0);
        assert_int_equal(used.used_idx, published ? 3 : 2);
        assert_int_equal(used.old_used_idx, used.used_idx);
        assert_memory_equal(&t->used, &used, sizeof used);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_setups),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_foreign_tables),
        cmocka_unit_test(test_spoilt_split_tables),
        cmocka_unit_test(test_spoilt_packed_tables),
        cmocka_unit_test(test_packed_table_changed_meanwhile),
        cmocka_unit_test(test_packed_settles_what_was_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
