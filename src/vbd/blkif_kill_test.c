/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's process is killed under a running blkfront, again and again, and another takes over the ring, the grants and the event
 * channel. (ring/blkif_kill_test.c kills the ring alone, at each instruction; here are the thread, the data and the machine.)
 *
 * The guest has at most one request open per block and writes ever larger numbers. Each request is answered exactly once; what was
 * answered is on the disk, and a read brings what was answered last.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "vbd/test_blkfront.h"

#define BLOCKS 100u
#define BLOCK_SECTORS 8u

#ifdef CREEDENCE_SANITIZED
#define KILLS 10
#else
#define KILLS 40
#endif

static struct bed bed;
static _Atomic unsigned *serving; /* shared: how many children have got so far */
static uint64_t random_state;

struct block {
    uint64_t number; /* written last, and answered or open */
    bool open, reads;
};
static struct block block[BLOCKS];
static uint64_t number, answered;

static uint64_t pick(uint64_t below)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (random_state >> 33) % below;
}

static bool holds(const uint8_t *page, uint64_t n)
{
    for (unsigned i = 0; i < XEN_PAGE_BYTES; i += 8)
        if (memcmp(page + i, &n, 8) != 0) return false;
    return true;
}

static const uint8_t *disk_block(unsigned b)
{
    return bed.disk->bytes + b * BLOCK_SECTORS * DISK_SECTOR_BYTES;
}

static void guest_gets(void)
{
    uint64_t token;
    int status;
    while (blkif_sim_get(&bed.front, &token, &status)) {
        struct block *k = &block[token];
        assert_int_equal(status, BLKIF_OKAY);
        assert_true(k->open);
        assert_true(holds(disk_block((unsigned)token), k->number));
        if (k->reads) assert_true(holds(bed.page[token], k->number));
        k->open = false;
        answered++;
    }
    if (bed.front.error) fail_msg("front end: %s", bed.front.error);
}

static void guest_adds(void)
{
    for (unsigned n = (unsigned)pick(16); n > 0; n--) {
        unsigned b = (unsigned)pick(BLOCKS);
        struct block *k = &block[b];
        if (k->open) continue;
        bool reads = k->number && pick(3) == 0;
        uint64_t fill = reads ? 0 : number + 1;
        for (unsigned i = 0; i < XEN_PAGE_BYTES; i += 8)
            memcpy(bed.page[b] + i, &fill, 8);
        struct blkif_segment segment = {bed.ref[b], 0, 7};
        struct blkif_request q = {.sector = b * BLOCK_SECTORS, .segment_count = 1, .segments = &segment};
        q.op = (uint8_t)(reads ? BLKIF_READ : pick(8) ? BLKIF_WRITE : BLKIF_WRITE_BARRIER);
        if (!blkif_sim_add(&bed.front, &q, b)) break;
        k->open = true;
        k->reads = reads;
        if (!reads) k->number = ++number;
    }
    bed_show(&bed);
}

/* ---- the process that serves ---- */

static void serve(void)
{
    struct errmsg e = {""};
    struct vbd_chains chains = {bed_chains_open, bed_chains_close, bed_chains_call, &bed};
    struct vbd_config c = bed_config(&bed);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    atomic_store(&bed.disk->logged, 0);
    if (sim_attach(&bed.sim, bed.dir, &e) || sim_xen_open(&bed.setup.xen, bed.sim, &bed.budget, bed.direct, &e) ||
        vbd_new(&bed.vbd, &c, &bed.disk->layer, &chains, &engine_uring_maker, &e) ||
        vbd_blkif_start(bed.vbd, 0, &bed.setup, &e)) {
        fprintf(stderr, "%s\n", e.text);
        _exit(1);
    }
    atomic_fetch_add(serving, 1);
    for (;;)
        pause();
}

static pid_t start_serving(void)
{
    unsigned before = atomic_load(serving);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) serve();
    uint64_t until_ns = clock_now_ns() + 5000000000;
    while (atomic_load(serving) == before) {
        int status;
        if (waitpid(pid, &status, WNOHANG) == pid) fail_msg("it cannot take over");
        if (clock_now_ns() > until_ns) fail_msg("it does not take over");
        usleep(200);
    }
    return pid;
}

static void stop_serving(pid_t pid)
{
    int status;
    assert_int_equal(sim_kill(bed.sim, pid), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static void run_for(uint64_t ns)
{
    for (uint64_t until_ns = clock_now_ns() + ns; clock_now_ns() < until_ns;) {
        guest_gets();
        guest_adds();
        if (!blkif_sim_final_check(&bed.front)) usleep(20);
    }
}

static void killed(enum vbd_blkif_way way)
{
    bed_open(&bed, way, BLKIF_ABI_NATIVE, 1);
    bed.setup.inflight = bed.table;
    bed.setup.resume = true; /* a table that nobody started is started */
    memset(block, 0, sizeof block);
    number = answered = 0;
    random_state = way + 5;
    for (unsigned i = 0; i < KILLS; i++) {
        pid_t pid = start_serving();
        run_for(100000 + pick(6000000));
        stop_serving(pid);
    }
    pid_t last = start_serving();
    for (int waited = 0; bed.front.in_flight && waited < BED_ANSWER_MS; waited++) {
        guest_gets();
        usleep(1000);
    }
    stop_serving(last);
    guest_gets();
    assert_int_equal(bed.front.in_flight, 0);
    for (unsigned b = 0; b < BLOCKS; b++)
        if (block[b].number) assert_true(holds(disk_block(b), block[b].number));
    print_message("%llu requests through %u processes\n", (unsigned long long)answered, KILLS + 1);
    assert_true(answered > KILLS);
    bed_close(&bed);
}

static void test_killed_copying(void **state)
{
    killed(VBD_BLKIF_COPY);
}

static void test_killed_mapping(void **state)
{
    killed(VBD_BLKIF_MAP);
}

static void test_killed_persistent(void **state)
{
    killed(VBD_BLKIF_PERSISTENT);
}

int main(void)
{
    serving = bed_shared(4096);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_copying),
        cmocka_unit_test(test_killed_mapping),
        cmocka_unit_test(test_killed_persistent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
