/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a blkif ring needs when it is started fails once: nothing is left of it then, and the next start works. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timerfd.h>

#include <cmocka.h>

#include "base/test_alloc.h"
#include "base/test_fds.h"
#include "guest/test_failing_xen.h"
#include "vbd/test_blkfront.h"

static struct bed bed;

/* ---- what fails beside allocations ---- */

void *__real_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
int __real_timerfd_create(int clock, int flags);
int __wrap_timerfd_create(int clock, int flags);

void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    if (!alloc_fails()) return __real_mmap(at, bytes, prot, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

int __wrap_timerfd_create(int clock, int flags)
{
    if (!alloc_fails()) return __real_timerfd_create(clock, flags);
    errno = EMFILE;
    return -1;
}

/* ---- */

static int start_failing(unsigned n)
{
    struct errmsg e = {""};
    alloc_failed = false;
    alloc_countdown = n;
    int ret = vbd_blkif_start(bed.vbd, 0, &bed.setup, &e);
    alloc_countdown = 0;
    if (ret < 0) assert_int_not_equal(e.text[0], 0);
    return ret;
}

static void use(void)
{
    struct blkif_segment segment = {bed.ref[0], 0, 7};
    struct blkif_request q = {.op = BLKIF_WRITE, .segment_count = 1, .segments = &segment};
    assert_true(blkif_sim_add(&bed.front, &q, 1));
    bed_show(&bed);
    assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
}

static void check_nothing_is_left(unsigned descriptors_before)
{
    assert_int_equal(sim_maps_used(bed.sim), 0);
    assert_int_equal(sim_ports_used(bed.sim, SIM_HOST), 0);
    assert_int_equal(atomic_load(&bed.budget.used), 0);
    assert_int_equal(atomic_load(&bed.budget.rings), 0);
    assert_int_equal(open_fds(), descriptors_before);
}

static void all_fail_once(enum vbd_blkif_way way)
{
    bed_open(&bed, way, BLKIF_ABI_NATIVE, 2);
    struct vbd_config c = bed_config(&bed);
    bed_serve(&bed, &c);
    use();
    vbd_blkif_stop(bed.vbd, 0);
    const struct xen_ops *real = bed.setup.xen->ops;
    struct xen_ops failing = failing_xen(real);
    failing.map = real->map; /* by the queue's thread: the count is this one's */
    bed.setup.xen->ops = &failing;
    unsigned before = open_fds(), failures = 0;
    for (unsigned n = 1;; n++) {
        int ret = start_failing(n);
        if (ret == 0) {
            use();
            vbd_blkif_stop(bed.vbd, 0);
            check_nothing_is_left(before);
            if (!alloc_failed) break;
        } else {
            assert_true(alloc_failed);
            failures++;
            check_nothing_is_left(before);
        }
    }
    print_message("%u failures\n", failures);
    assert_true(failures > 5);
    bed.setup.xen->ops = real;
    assert_int_equal(start_failing(0), 0);
    use();
    bed_close(&bed);
}

static void test_copying(void **state)
{
    all_fail_once(VBD_BLKIF_COPY);
}

static void test_mapping(void **state)
{
    all_fail_once(VBD_BLKIF_MAP);
}

static void test_persistent(void **state)
{
    all_fail_once(VBD_BLKIF_PERSISTENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copying),
        cmocka_unit_test(test_mapping),
        cmocka_unit_test(test_persistent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
