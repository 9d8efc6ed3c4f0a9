/* SPDX-License-Identifier: Apache-2.0 */
/* Maps of guest memory: lookups against a naive oracle, every refusal, sharing, and files cut short. */
#include "guest/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/memfd.h>
#include <cmocka.h>

#include "base/checked.h"
#include "base/test_alloc.h"
#include "guest/lookup.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)

static int memory_file(uint64_t size_bytes)
{
    int fd = memfd_create("guest-memory-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size_bytes), 0);
    return fd;
}

static struct guest_region_desc region(uint64_t guest, uint64_t size, uint64_t user, uint64_t offset)
{
    return (struct guest_region_desc){{guest}, size, user, offset};
}

static void refuse(const struct guest_region_desc *d, const int *fds, unsigned count, int code, const char *words)
{
    struct guest_map *m = (void *)1;
    struct errmsg e = {""};
    assert_int_equal(guest_map_new(&m, d, fds, count, NULL, &e), -code);
    assert_null(m);
    if (!strstr(e.text, words)) fail_msg("message \"%s\" does not say \"%s\"", e.text, words);
}

static void test_lookup_edges(void **state)
{
    int fd = memory_file(4 * MIB);
    struct guest_region_desc d[] = {region(MIB * 4, MIB, 0x7f0000000000, 2 * MIB), region(0, MIB, 0x7e0000000000, 0),
                                    region(MIB, MIB, 0x7d0000000000, MIB)};
    int fds[] = {fd, fd, fd};
    struct guest_map *m;
    assert_int_equal(guest_map_new(&m, d, fds, 3, NULL, NULL), 0);
    char *low = guest_map_at(m, (struct gpa){0}, MIB), *mid = guest_map_at(m, (struct gpa){MIB}, MIB);
    char *high = guest_map_at(m, (struct gpa){4 * MIB}, MIB);
    assert_non_null(low);
    assert_non_null(mid);
    assert_non_null(high);
    strcpy(high + 5, "hello");
    char read_back[6];
    assert_int_equal(pread(fd, read_back, 6, 2 * MIB + 5), 6);
    assert_string_equal(read_back, "hello");

    assert_null(guest_map_at(m, (struct gpa){0}, MIB + 1)); /* two regions: not one address */
    assert_null(guest_map_at(m, (struct gpa){2 * MIB}, 1));
    assert_null(guest_map_at(m, (struct gpa){4 * MIB - 1}, 1));
    assert_null(guest_map_at(m, (struct gpa){5 * MIB}, 0));
    assert_null(guest_map_at(m, (struct gpa){UINT64_MAX}, 1));
    assert_null(guest_map_at(m, (struct gpa){4 * MIB + 1}, UINT64_MAX));
    assert_ptr_equal(guest_map_at(m, (struct gpa){5 * MIB - 1}, 1), high + MIB - 1);

    assert_ptr_equal(guest_map_at_user(m, 0x7f0000000010, 16), high + 16);
    assert_ptr_equal(guest_map_at_user(m, 0x7d0000000000, MIB), mid);
    assert_null(guest_map_at_user(m, 0x7d0000000001, MIB));
    assert_null(guest_map_at_user(m, 0x7cffffffffff, 1));
    assert_null(guest_map_at_user(m, 0, UINT64_MAX));

    struct iovec iov[3];
    assert_int_equal(guest_map_iov(m, (struct gpa){MIB - 10}, 20, iov, 3), 2);
    assert_ptr_equal(iov[0].iov_base, low + MIB - 10);
    assert_int_equal(iov[0].iov_len, 10);
    assert_ptr_equal(iov[1].iov_base, mid);
    assert_int_equal(iov[1].iov_len, 10);
    assert_int_equal(guest_map_iov(m, (struct gpa){MIB - 10}, 20, iov, 1), -E2BIG);
    assert_int_equal(guest_map_iov(m, (struct gpa){0}, 2 * MIB, iov, 3), 2);
    assert_int_equal(guest_map_iov(m, (struct gpa){0}, 2 * MIB + 1, iov, 3), -EFAULT); /* into a hole */
    assert_int_equal(guest_map_iov(m, (struct gpa){5 * MIB - 1}, 2, iov, 3), -EFAULT); /* past the last */
    assert_int_equal(guest_map_iov(m, (struct gpa){4 * MIB}, UINT64_MAX, iov, 3), -EFAULT);
    assert_int_equal(guest_map_iov(m, (struct gpa){4 * MIB}, 0, iov, 0), 0);
    assert_false(guest_map_truncated(m));

    struct guest_map *again = guest_map_ref(m);
    guest_map_unref(m);
    assert_ptr_equal(guest_map_at(again, (struct gpa){0}, 1), low);
    guest_map_unref(again);
    guest_map_unref(NULL);
    close(fd);
}

static void test_empty_map(void **state)
{
    struct guest_map *m;
    struct iovec iov[1];
    assert_int_equal(guest_map_new(&m, NULL, NULL, 0, NULL, NULL), 0);
    assert_null(guest_map_at(m, (struct gpa){0}, 0));
    assert_null(guest_map_at_user(m, 0, 1));
    assert_int_equal(guest_map_iov(m, (struct gpa){0}, 1, iov, 1), -EFAULT);
    guest_map_unref(m);
}

static void test_lookup_against_oracle(void **state)
{
    enum { REGIONS = 100, PAGE = 4096 };
    srandom(7);
    int fd = memory_file(REGIONS * PAGE);
    struct guest_region_desc d[REGIONS];
    int fds[REGIONS];
    uint64_t at = 0x100000;
    for (unsigned i = 0; i < REGIONS; i++) {
        at += random() % 2 ? 0 : (uint64_t)(random() % 3) * 100; /* adjacent or with a gap, and not page aligned */
        uint64_t size = 1 + (uint64_t)(random() % PAGE);
        d[i] = region(at, size, 0x600000000000 - i * MIB, i * PAGE);
        fds[i] = fd;
        at += size;
    }
    for (unsigned i = REGIONS - 1; i > 0; i--) { /* in no order */
        unsigned j = (unsigned)random() % (i + 1);
        struct guest_region_desc t = d[i];
        d[i] = d[j], d[j] = t;
    }
    struct guest_map *m;
    assert_int_equal(guest_map_new(&m, d, fds, REGIONS, NULL, NULL), 0);
    struct guest_lookup l = {0};
    for (unsigned n = 0; n < 20000; n++) {
        struct gpa a = {0x100000 - 50 + (uint64_t)random() % (at - 0x100000 + 100)};
        uint64_t length = 1 + (uint64_t)random() % 300;
        char *expected = NULL;
        for (unsigned i = 0; i < m->count; i++)
            if (a.v >= m->region[i].guest_addr.v &&
                range_fits(a.v - m->region[i].guest_addr.v, length, m->region[i].size_bytes))
                expected = m->region[i].host + (a.v - m->region[i].guest_addr.v);
        assert_ptr_equal(guest_map_at(m, a, length), expected);
        assert_ptr_equal(guest_lookup_at(&l, m, a, length), expected);

        struct iovec iov[8];
        int count = guest_map_iov(m, a, length, iov, 8);
        uint64_t covered = 0;
        for (int i = 0; i < count; i++) {
            assert_ptr_equal(iov[i].iov_base, guest_map_at(m, (struct gpa){a.v + covered}, iov[i].iov_len));
            covered += iov[i].iov_len;
        }
        bool inside = true;
        for (uint64_t b = 0; b < length && inside; b++)
            inside = guest_map_at(m, (struct gpa){a.v + b}, 1) != NULL;
        if (count >= 0) assert_int_equal(covered, length);
        assert_true(inside == (count >= 0));
    }
    guest_map_unref(m);
    close(fd);
}

static void test_refusals(void **state)
{
    int fd = memory_file(MIB), fds[] = {fd, fd};
    struct guest_region_desc d[2] = {region(0, 0, 0, 0)};
    refuse(d, fds, 1, EINVAL, "region 0 has no size");
    d[0] = region(UINT64_MAX - 10, 4096, 0, 0);
    refuse(d, fds, 1, EINVAL, "guest address 0xfffffffffffffff5 + size 0x1000 wraps");
    d[0] = region(0, 4096, UINT64_MAX, 0);
    refuse(d, fds, 1, EINVAL, "user address");
    d[0] = region(0, MIB + 1, 0, 0);
    refuse(d, fds, 1, EINVAL, "past the end of its file, which has 0x100000 bytes");
    d[0] = region(0, MIB, 0, 1);
    refuse(d, fds, 1, EINVAL, "past the end");
    d[0] = region(0, 2, 0, UINT64_MAX);
    refuse(d, fds, 1, EINVAL, "past the end");
    d[0] = region(0, UINT64_MAX, 0, 0);
    refuse(d, fds, 1, EINVAL, "past the end");

    d[0] = region(0x1000, 0x1000, 0, 0);
    d[1] = region(0x1fff, 0x1000, 0x100000, 0);
    refuse(d, fds, 2, EINVAL, "overlap in guest addresses: 0x1000 + 0x1000 and 0x1fff");
    d[1] = region(0x1000, 0x1000, 0x100000, 0);
    refuse(d, fds, 2, EINVAL, "overlap in guest");
    d[1] = region(0x2000, 0x1000, 0xfff, 0);
    refuse(d, fds, 2, EINVAL, "overlap in user addresses");

    d[0] = region(0x1000, 0x1000, 0, 0);
    int bad[] = {-1};
    refuse(d, bad, 1, EINVAL, "no file descriptor");
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    refuse(d, pipes, 1, EINVAL, "not a regular file");
    close(pipes[0]);
    close(pipes[1]);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int read_only = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(read_only >= 0);
    refuse(d, &read_only, 1, EACCES, "for reading and writing");
    close(read_only);
    refuse(d, fds, GUEST_REGIONS_MAX + 1, EINVAL, "at most 512");
    close(fd);
}

static void test_most_regions(void **state)
{
    int fd = memory_file(4096), fds[GUEST_REGIONS_MAX];
    struct guest_region_desc d[GUEST_REGIONS_MAX];
    for (unsigned i = 0; i < GUEST_REGIONS_MAX; i++) {
        d[i] = region(i * 2 * MIB, 4096, i * 4 * MIB, 0);
        fds[i] = fd;
    }
    struct guest_map *m, *next;
    assert_int_equal(guest_map_new(&m, d, fds, GUEST_REGIONS_MAX, NULL, NULL), 0);
    assert_int_equal(guest_map_new(&next, d, fds, GUEST_REGIONS_MAX, m, NULL), 0);
    guest_map_unref(m);
    for (unsigned i = 0; i < GUEST_REGIONS_MAX; i++)
        assert_non_null(guest_map_at(next, (struct gpa){i * 2 * MIB}, 4096));
    guest_map_unref(next);
    close(fd);
}

static void test_reuse(void **state)
{
    int fd = memory_file(MIB), other = memory_file(MIB), fds[] = {fd, other};
    struct guest_region_desc d[] = {region(0, MIB, 0x10000000, 0), region(MIB, MIB, 0x20000000, 0)};
    struct guest_map *one, *two, *three;
    assert_int_equal(guest_map_new(&one, d, fds, 1, NULL, NULL), 0);
    assert_int_equal(guest_map_new(&two, d, fds, 2, one, NULL), 0);
    assert_ptr_equal(two->region[0].mapping, one->region[0].mapping);
    assert_ptr_not_equal(two->region[1].mapping, two->region[0].mapping); /* another file */
    char *host = two->region[0].host;
    guest_map_unref(one);
    host[MIB - 1] = 1; /* alive through the second */

    d[0].size_bytes = MIB / 2;
    assert_int_equal(guest_map_new(&three, d, fds, 1, two, NULL), 0);
    assert_ptr_not_equal(three->region[0].mapping, two->region[0].mapping); /* another size */
    guest_map_unref(two);
    guest_map_unref(three);
    close(fd);
    close(other);
}

static void test_unaligned_offset(void **state)
{
    int fd = memory_file(64 * KIB);
    assert_int_equal(pwrite(fd, "here", 4, 5000), 4);
    struct guest_region_desc d = region(0, 64 * KIB - 5000, 0x10000, 5000);
    struct guest_map *m;
    assert_int_equal(guest_map_new(&m, &d, &fd, 1, NULL, NULL), 0);
    assert_memory_equal(guest_map_at(m, (struct gpa){0}, 4), "here", 4);
    guest_map_unref(m);
    close(fd);
}

static void test_huge_pages(void **state)
{
    guest_memory_init(); /* in each test that needs it: cmocka puts a handler of its own in place for every test */
    uint64_t huge = 2 * MIB;
    int fd = memfd_create("guest-memory-test", MFD_CLOEXEC | MFD_HUGETLB | (21u << MFD_HUGE_SHIFT));
    if (fd < 0 || ftruncate(fd, (off_t)(2 * huge))) skip();
    struct guest_region_desc d = region(0, huge + 4096, 0x10000, huge - 4096); /* nothing aligned to a huge page */
    struct guest_map *m;
    struct errmsg e = {""};
    if (guest_map_new(&m, &d, &fd, 1, NULL, &e)) fail_msg("%s", e.text);
    assert_int_equal(((uintptr_t)guest_map_at(m, (struct gpa){0}, 1) & (huge - 1)), huge - 4096);
    /* Without huge pages in the pool the first touch is a SIGBUS: answered like a file cut short. */
    memset(guest_map_at(m, (struct gpa){0}, huge + 4096), 7, huge + 4096);
    assert_int_equal(*(char *)guest_map_at(m, (struct gpa){huge}, 1), 7);
    guest_map_unref(m);
    close(fd);
}

static void test_truncated(void **state)
{
    guest_memory_init();
    int fd = memory_file(MIB), fds[] = {fd, memory_file(MIB)};
    struct guest_region_desc d[] = {region(0, MIB, 0x1000000, 0), region(MIB, MIB, 0x2000000, 0)};
    struct guest_map *both, *second;
    assert_int_equal(guest_map_new(&both, d, fds, 2, NULL, NULL), 0);
    assert_int_equal(guest_map_new(&second, d + 1, fds + 1, 1, both, NULL), 0);
    volatile char *p = guest_map_at(both, (struct gpa){0}, MIB);
    p[MIB - 1] = 'x';
    p[0] = 'y';
    assert_int_equal(ftruncate(fd, MIB / 2), 0);
    assert_int_equal(p[0], 'y');
    assert_false(guest_map_truncated(both));
    assert_int_equal(p[MIB - 1], 0);
    p[MIB - 1] = 'z';
    assert_int_equal(p[MIB - 1], 'z');
    assert_int_equal(p[MIB / 2], 0); /* another page: another fault */
    assert_int_equal(p[0], 'y');     /* what the file still has stays shared */
    assert_true(guest_map_truncated(both));
    assert_false(guest_map_truncated(second));
    guest_map_unref(both);
    guest_map_unref(second);
    close(fds[0]);
    close(fds[1]);
}

/* Threads make and drop maps all the time while others fault. */
static void *churn(void *arg)
{
    _Atomic bool *stop = arg;
    int fd = memory_file(16 * KIB);
    struct guest_region_desc d = region(0, 16 * KIB, 0x1000000, 0);
    while (!atomic_load(stop)) {
        struct guest_map *m;
        if (guest_map_new(&m, &d, &fd, 1, NULL, NULL)) break;
        ((volatile char *)guest_map_at(m, (struct gpa){0}, 1))[0] = 1;
        guest_map_unref(m);
    }
    close(fd);
    return NULL;
}

static void test_truncated_among_threads(void **state)
{
    guest_memory_init();
    _Atomic bool stop = false;
    pthread_t thread[2];
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, churn, &stop), 0);
    for (unsigned n = 0; n < 300; n++) {
        int fd = memory_file(16 * KIB);
        struct guest_region_desc d = region(0, 16 * KIB, 0x1000000, 0);
        struct guest_map *m;
        assert_int_equal(guest_map_new(&m, &d, &fd, 1, NULL, NULL), 0);
        assert_int_equal(ftruncate(fd, 0), 0);
        volatile char *p = guest_map_at(m, (struct gpa){0}, 16 * KIB);
        for (unsigned i = 0; i < 16 * KIB; i += 4096)
            p[i] = 1;
        assert_true(guest_map_truncated(m));
        guest_map_unref(m);
        close(fd);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
}

static sigjmp_buf back;
static volatile sig_atomic_t others_faults;

static void others_handler(int number)
{
    others_faults++;
    siglongjmp(back, 1);
}

static void fault_elsewhere(void)
{
    int fd = memory_file(4096);
    volatile char *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(ftruncate(fd, 0), 0);
    if (sigsetjmp(back, 1) == 0) (void)p[0];
    munmap((void *)p, 4096);
    close(fd);
}

/* Runs in a child: `before` is installed before ours, then a fault that is not ours. */
static int status_of_fault(void (*before)(int))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGBUS, SIG_DFL);
        signal(SIGBUS, before);
        guest_memory_init();
        guest_memory_init(); /* twice does not chain to itself */
        fault_elsewhere();
        _exit(others_faults == 1 ? 42 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void test_faults_of_others(void **state)
{
    int status = status_of_fault(others_handler);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
#ifndef CREEDENCE_SANITIZED /* a sanitizer has its own idea of the default action */
    status = status_of_fault(SIG_DFL);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    status = status_of_fault(SIG_IGN);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
#endif
}

static void test_no_memory(void **state)
{
    int fd = memory_file(MIB), fds[] = {fd, fd};
    struct guest_region_desc d[] = {region(0, 4096, 0, 0), region(MIB, 4096, MIB, 4096)};
    for (unsigned n = 1; n <= 3; n++) {
        struct guest_map *m;
        struct errmsg e = {""};
        alloc_countdown = n;
        assert_int_equal(guest_map_new(&m, d, fds, 2, NULL, &e), -ENOMEM);
        assert_null(m);
        assert_true(e.text[0] != 0);
    }
    alloc_countdown = 0;
    struct guest_map *m;
    assert_int_equal(guest_map_new(&m, d, fds, 2, NULL, NULL), 0);
    guest_map_unref(m);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup_edges),
        cmocka_unit_test(test_empty_map),
        cmocka_unit_test(test_lookup_against_oracle),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_most_regions),
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_unaligned_offset),
        cmocka_unit_test(test_huge_pages),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_truncated_among_threads),
        cmocka_unit_test(test_faults_of_others),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
