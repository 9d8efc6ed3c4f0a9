/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moments that chance rarely meets, brought about: a kill between two stores into the stash, a stash that changes hands
 * while clusters of another are still to be freed, a channel that closes while its last answer is still being posted, a
 * request that waits for clusters of its own time, a table that is replaced.
 */
#include "disk/format/qcow2_test_util.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "disk/engine/fault.h"
#include "disk/format/qcow2_stash.h"
#include "loop/clock.h"

#define STASH_BYTES (64u << 10)
#define CLUSTER 4096u

/* Instead of the C library's: slow to return on other threads than the main one, once told so. */
static _Atomic bool slow_writes, inside_write;
static pthread_t main_thread;

ssize_t write(int fd, const void *data, size_t bytes)
{
    bool slow = slow_writes && !pthread_equal(pthread_self(), main_thread);
    if (slow) inside_write = true;
    ssize_t n = syscall(SYS_write, fd, data, bytes);
    if (slow) usleep(100000);
    if (slow) inside_write = false;
    return n;
}

static const struct qcow2_create_args image = {
    .size_bytes = 16 * MiB, .version = 3, .cluster_bits = 12, .refcount_order = 4};

/* Shared with the processes that are to be killed. */
static void *stash_new(void)
{
    void *p = mmap(NULL, STASH_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static struct disk_options with_stash(void *mem)
{
    return (struct disk_options){.flags = DISK_FILE_WRITE | DISK_FILE_NO_LOCK, .stash = {mem, mem ? STASH_BYTES : 0}};
}

static void write_cluster(struct disk *d, uint64_t index)
{
    uint8_t buf[CLUSTER];
    memset(buf, (int)index | 1, sizeof buf);
    disk_write(d, index * CLUSTER, sizeof buf, buf);
}

static int nothing(struct qcow2 *q, void *arg)
{
    (void)q, (void)arg;
    return 0;
}

/* Whatever the keeper was asked for before this is done. */
static void keeper_rests(struct disk *d)
{
    assert_int_equal(qcow2_keeper_call(qcow2_of(d->layer), nothing, NULL), 0);
}

/* The image is sound. A stash (NULL: there is none) is given back. */
static void close_and_check(struct disk *d, const char *path, void *stash, bool exact)
{
    disk_close(d, true);
    image_is_sound(path, exact);
    unlink(path);
    if (stash) munmap(stash, STASH_BYTES);
}

static void killed(int signal)
{
    (void)signal;
    _exit(9);
}

/* Slots lie on two pages; the pool's words are on the first one. Made read-only, a page ends the process at its
 * first store there. */
static void child_dies_at_page(const char *path, char *stash, unsigned page)
{
    struct disk d;
    struct disk_options o = with_stash(stash);
    unsigned slots_of_first = (4096 - offsetof(struct qcow2_stash_head, slots)) / 8;
    if (disk_try_open(&d, path, &o) < 0) _exit(1);
    for (unsigned i = 0; i < slots_of_first; i++)
        write_cluster(&d, i);
    keeper_rests(&d);
    signal(SIGSEGV, killed);
    mprotect(stash + page * 4096, 4096, PROT_READ);
    write_cluster(&d, slots_of_first);
    _exit(2);
}

static void die_and_resume(unsigned page, bool slot_set)
{
    char path[64];
    struct disk d;
    char *stash = stash_new();
    struct disk_options o = with_stash(stash);
    image_make(path, &image);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) child_dies_at_page(path, stash, page);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 9);
    const struct qcow2_stash_head *h = (void *)stash;
    unsigned used = 0;
    for (unsigned i = 0; i < QCOW2_STASH_SLOTS; i++)
        used += h->slots[i] != 0;
    assert_int_equal(used, slot_set);
    disk_open(&d, path, &o);
    close_and_check(&d, path, stash, false);
}

/* Clusters that go from the pool to a write are in its slot before they are out of the pool. */
static void killed_while_taking_from_the_pool(void **state)
{
    (void)state;
    die_and_resume(1, false); /* before the slot is set: they are still in the pool */
    die_and_resume(0, true);  /* after that, before the pool's word is lowered */
}

/* A stash whose process was killed with a write in flight: one cluster in a slot. */
static void leave_a_slot(const char *path, char *stash)
{
    struct disk d;
    struct disk_options o = with_stash(stash);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (disk_try_open(&d, path, &o) < 0) _exit(1);
        write_cluster(&d, 0);
        keeper_rests(&d);
        struct qcow2 *q = qcow2_of(d.layer);
        uint64_t first;
        bool zero;
        uint32_t slot;
        pthread_mutex_lock(&q->lock);
        _exit(qcow2_pool_take(q, 1, &first, &zero, &slot) == 1 && slot != QCOW2_NO_SLOT ? 9 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 9);
}

/* Neither lost nor leaked, by us or in the image, when the next stash comes before they are free. */
static void slots_of_the_old_stash(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    char *a = stash_new(), *b = stash_new();
    image_make(path, &image);
    leave_a_slot(path, a);
    struct disk_options with_a = with_stash(a);
    disk_open(&d, path, &with_a);
    assert_int_equal(d.layer->ops->set_stash(d.layer, with_stash(b).stash, &d.e), 0);
    close_and_check(&d, path, a, false);
    munmap(b, STASH_BYTES);
}

/* The answer is out, and the request over, before the keeper has left mailbox_post(). */
static void channel_closes_behind_the_answer(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    struct disk_options o = with_stash(NULL);
    image_make(path, &image);
    disk_open(&d, path, &o);
    write_cluster(&d, 0);
    keeper_rests(&d);
    slow_writes = true;
    write_cluster(&d, 1); /* without a stash its commit is waited for */
    assert_true(inside_write);
    d.layer->ops->chan_close(d.chan);
    assert_false(inside_write);
    slow_writes = false;
    assert_int_equal(d.layer->ops->close(d.layer, &d.e), 0);
    engine_free(d.engine);
    disk_file_close(&d.file);
    image_is_sound(path, false);
    unlink(path);
}

/* ---- clusters that are hard to come by ---- */

static uint64_t clusters_in_pool(struct disk *d)
{
    struct qcow2 *q = qcow2_of(d->layer);
    keeper_rests(d);
    pthread_mutex_lock(&q->lock);
    uint64_t clusters = q->pool.clusters;
    pthread_mutex_unlock(&q->lock);
    return clusters;
}

/* One cluster is written, and storage ends where the file does, as a block device can. */
static void fill_storage(struct disk *d)
{
    write_cluster(d, 0);
    disk_flush(d);
    keeper_rests(d);
    d->file.size_bytes = qcow2_of(d->layer)->file_clusters * CLUSTER;
    d->file.block_device = true;
}

static void has_room_again(struct disk *d)
{
    keeper_rests(d);
    d->file.block_device = false;
}

static void discard_cluster(struct disk *d, uint64_t index)
{
    assert_int_equal(disk_io(d, DISK_DISCARD, 0, index * CLUSTER, CLUSTER, NULL), 0);
}

/* On storage that is full a write gets one of the two clusters that it needs. The other is one that a discard gave up, and
 * that nobody may have before all requests from before that time have ended, or hold on to nothing, as this one does. */
static void waits_for_what_it_might_have_seen(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    char *stash = stash_new();
    struct disk_options o = with_stash(stash);
    image_make(path, &image);
    disk_open(&d, path, &o);
    fill_storage(&d);
    uint64_t next = 1;
    while (clusters_in_pool(&d) > 1)
        write_cluster(&d, next++);
    discard_cluster(&d, 0);

    uint8_t buf[2 * CLUSTER];
    memset(buf, 'w', sizeof buf);
    struct sync_req s;
    disk_begin(&d, &s, DISK_WRITE, 0, next * CLUSTER, sizeof buf, buf);
    for (unsigned i = 0; i < 600 && !s.finished; i++)
        engine_sleep(d.engine, 100 * NS_PER_MS);
    assert_true(s.finished);
    assert_int_equal(s.res, 0);
    has_room_again(&d);
    close_and_check(&d, path, stash, false);
}

/* What was acknowledged needs a table to be made durable, and there are clusters that are reserved for writes only. */
static void table_on_full_storage(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    char *stash = stash_new();
    struct disk_options o = with_stash(stash);
    image_make(path, &image);
    disk_open(&d, path, &o);
    fill_storage(&d);
    assert_true(clusters_in_pool(&d) > 1);
    write_cluster(&d, CLUSTER / 8); /* the first of the second table */
    disk_flush(&d);
    has_room_again(&d);
    close_and_check(&d, path, stash, false);
}

static struct be64 change_entry(const char *path, off_t at, uint64_t clear, uint64_t set)
{
    struct be64 entry;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &entry, sizeof entry, at), sizeof entry);
    entry = be64_make((be64_get(entry) & ~clear) | set);
    assert_int_equal(pwrite(fd, &entry, sizeof entry, at), sizeof entry);
    close(fd);
    return entry;
}

static off_t l1_of(const char *path)
{
    return (off_t)be64_get(change_entry(path, QCOW2_AT_L1_OFFSET, 0, 0));
}

/* Clear a table's flag that says that it has one reference only: as another program may leave it when it is killed
 * after it has deleted a snapshot. */
static void forget_that_it_is_ours(const char *path)
{
    change_entry(path, l1_of(path), QCOW2_COPIED, 0);
}

/* Such a table is copied before it is changed, and the last reference to the old one goes: its cluster is free like any. */
static void cluster_of_an_old_table(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    uint8_t got[CLUSTER];
    struct disk_options o = {.flags = DISK_FILE_WRITE};
    image_make(path, &image);
    disk_open(&d, path, &o);
    write_cluster(&d, 0);
    write_cluster(&d, 1);
    disk_close(&d, true);
    forget_that_it_is_ours(path);
    disk_open(&d, path, &o);
    write_cluster(&d, 0);
    write_cluster(&d, 1);
    disk_flush(&d);
    keeper_rests(&d);
    for (uint64_t i = 2; i < 100; i++)
        write_cluster(&d, i);
    disk_flush(&d);
    assert_false(atomic_load(&qcow2_of(d.layer)->broken));
    for (uint64_t i = 0; i < 100; i++) {
        disk_read(&d, i * CLUSTER, CLUSTER, got);
        assert_int_equal(got[0], i | 1);
    }
    close_and_check(&d, path, NULL, false);
}

#define LARGE (128u << 10)  /* clusters whose tables are read in two parts ... */
#define PART UINT64_C(8192) /* ... of so many entries */

/* A table that a snapshot shares is replaced by one of our own while a part of it is being read. What was read says of a
 * cluster that it is the disk's alone: it is not. */
static void table_replaced_while_it_is_read(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    uint8_t buf[CLUSTER];
    image_make(path, &(struct qcow2_create_args){
                         .size_bytes = 2 * PART * LARGE, .version = 3, .cluster_bits = 17, .refcount_order = 4});
    disk_open(&d, path, &(struct disk_options){.flags = DISK_FILE_WRITE});
    memset(buf, 'o', sizeof buf);
    disk_write(&d, 0, sizeof buf, buf);
    disk_write(&d, PART * LARGE, sizeof buf, buf);
    disk_close(&d, true);
    run_ok("qemu-img snapshot -c old %s", path);
    off_t table = (off_t)(be64_get(change_entry(path, l1_of(path), 0, 0)) & QCOW2_OFFSET_MASK);
    change_entry(path, table + (off_t)PART * 8, 0, QCOW2_COPIED);

    struct fault_plan *plan = fault_plan_new(1);
    fault_plan_add(plan, &(struct fault_rule){.action = FAULT_DELAY,
                                              .ops = FAULT_READS,
                                              .offset_bytes = (uint64_t)table + PART * 8,
                                              .length_bytes = 512,
                                              .delay_ns = NS_PER_SECOND});
    disk_open(&d, path, &(struct disk_options){.flags = DISK_FILE_WRITE, .maker = fault_plan_maker(plan)});
    struct sync_req s;
    disk_begin(&d, &s, DISK_READ, 0, PART * LARGE, sizeof buf, buf);
    uint8_t new[CLUSTER];
    memset(new, 'n', sizeof new);
    disk_write(&d, 0, sizeof new, new);
    disk_flush(&d);
    assert_int_equal(disk_wait(&d, &s), 0);
    disk_write(&d, PART * LARGE, sizeof new, new);
    disk_close(&d, true);
    fault_plan_free(plan);
    run_ok("qemu-img snapshot -a old %s", path);
    disk_open(&d, path, &(struct disk_options){0});
    disk_read(&d, PART * LARGE, sizeof buf, buf);
    assert_int_equal(buf[0], 'o');
    disk_close(&d, true);
    unlink(path);
}

/* ---- an entry that changes more than once between two commits ---- */

static void fill_cluster(struct disk *d, uint64_t index, uint8_t with)
{
    uint8_t buf[CLUSTER];
    memset(buf, with, sizeof buf);
    disk_write(d, index * CLUSTER, sizeof buf, buf);
}

#define CHANGED 8u /* clusters 0 to 7 */

/* Write what is there already and once more, at new places: a discard lies between. Then a flush, in which it dies. */
static void child_dies_in_flush(const char *path, char *stash, const char *point, uint8_t with)
{
    struct disk d;
    struct disk_options o = with_stash(stash);
    struct fault_plan *plan = fault_plan_new(1);
    o.maker = fault_plan_maker(plan);
    fault_plan_add(plan, &(struct fault_rule){.action = FAULT_KILL, .point = point});
    if (disk_try_open(&d, path, &o) < 0) _exit(1);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < CHANGED; i++) {
            if (round) discard_cluster(&d, i);
            fill_cluster(&d, i, (uint8_t)(with + round));
        }
    }
    disk_io(&d, DISK_FLUSH, 0, 0, 0, NULL);
    keeper_rests(&d); /* what the flush made free is freed after it */
    _exit(0);         /* it did not come to that point */
}

static void run_child(const char *path, char *stash, const char *point, uint8_t with)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) child_dies_in_flush(path, stash, point, with);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static void dies_and_is_resumed(const char *first, const char *second)
{
    char path[64];
    struct disk d;
    char *stash = stash_new();
    struct disk_options o = with_stash(stash);
    image_make(path, &image);
    run_child(path, stash, first, 10);
    if (second) run_child(path, stash, second, 20);
    uint8_t want[CLUSTER], got[CLUSTER];
    memset(want, second ? 22 : 12, sizeof want);
    disk_open(&d, path, &o);
    for (unsigned again = 0; again < 3; again++) {
        for (unsigned i = 0; i < CHANGED; i++) {
            disk_read(&d, i * CLUSTER, CLUSTER, got);
            assert_memory_equal(got, want, CLUSTER);
        }
        /* What was taken for free is written over now. */
        disk_flush(&d);
        for (unsigned i = 0; i < 64; i++)
            fill_cluster(&d, CHANGED + again * 64 + i, 0xee);
        disk_flush(&d);
        keeper_rests(&d);
    }
    close_and_check(&d, path, stash, true);
}

/* Entries are in the image already, and their records, with all that was before, still in the stash. */
static void killed_between_the_entries_and_their_records(void **state)
{
    (void)state;
    static const char *const points[] = {"qcow2-commit-copied", "qcow2-commit-synced", "qcow2-commit-written",
                                         "qcow2-reclaim-punched", "qcow2-reclaim-written"};
    for (size_t i = 0; i < ARRAY_LEN(points); i++) {
        dies_and_is_resumed(points[i], NULL);
        for (size_t j = 0; j < ARRAY_LEN(points); j++)
            dies_and_is_resumed(points[i], points[j]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_while_taking_from_the_pool),
        cmocka_unit_test(slots_of_the_old_stash),
        cmocka_unit_test(channel_closes_behind_the_answer),
        cmocka_unit_test(waits_for_what_it_might_have_seen),
        cmocka_unit_test(table_on_full_storage),
        cmocka_unit_test(cluster_of_an_old_table),
        cmocka_unit_test(table_replaced_while_it_is_read),
        cmocka_unit_test(killed_between_the_entries_and_their_records),
    };
    main_thread = pthread_self();
    if (!getenv("VERBOSE")) log_setup("test", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
