/* SPDX-License-Identifier: Apache-2.0 */
/*
 * XSA-155: a front end that changes what it wrote between any two looks at it. Each access to the shared page traps and is carried out
 * by itself, and after the Nth the page holds something else, for N = 1, 2, ... until there are no more. What comes out keeps within
 * its bounds whatever was read when, and the answer is that of what was taken. (Another thread that writes all the time, as in
 * blkif_race_test.c, only hits such a moment by chance.)
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

#include "ring/blkif.h"
#include "ring/blkif_wire.h"
#include "ring/netif.h"
#include "ring/netif_wire.h"

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)

#define PAGE 4096u
#define STEP INT64_C(0x100) /* a trap after the next instruction */

static uint8_t *page;  /* as the backend sees it ... */
static uint8_t *guest; /* ... and its guest */
static uint8_t before[PAGE], after[PAGE];
static unsigned looks, change_at;
static struct sigaction others;

static void on_access(int number, siginfo_t *info, void *context)
{
    uint8_t *at = info->si_addr;
    (void)number;
    if (at < page || at >= page + PAGE) {
        sigaction(SIGSEGV, &others, NULL); /* and once more */
        return;
    }
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= STEP;
}

static void on_step(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~STEP;
    if (++looks == change_at) memcpy(guest, after, PAGE);
    mprotect(page, PAGE, PROT_NONE);
}

/* From now on, until trap_end(), which says how often it was looked. */
static void trap_begin(unsigned at)
{
    struct sigaction access = {.sa_sigaction = on_access, .sa_flags = SA_SIGINFO},
                     step = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    looks = 0;
    change_at = at;
    assert_int_equal(sigaction(SIGSEGV, &access, &others), 0);
    assert_int_equal(sigaction(SIGTRAP, &step, NULL), 0);
    assert_int_equal(mprotect(page, PAGE, PROT_NONE), 0);
}

static unsigned trap_end(void)
{
    assert_int_equal(mprotect(page, PAGE, PROT_READ | PROT_WRITE), 0);
    sigaction(SIGSEGV, &others, NULL);
    signal(SIGTRAP, SIG_DFL);
    return looks;
}

static int page_open(void **state)
{
    int fd = memfd_create("ring", MFD_CLOEXEC);
    (void)state;
    if (fd < 0 || ftruncate(fd, PAGE)) return -1;
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    guest = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED || guest == MAP_FAILED ? -1 : 0;
}

static int page_close(void **state)
{
    (void)state;
    return munmap(page, PAGE) || munmap(guest, PAGE);
}

/* An index that jumps, which nobody looks at twice either. */
static void ring_init(uint8_t *ring, uint32_t req_prod)
{
    memset(ring, 0, PAGE);
    ((struct xen_ring *)(void *)ring)->req_prod = req_prod;
}

#define JUMPS 0x80000000u

/* ---- block ---- */

#define SEGMENTS_MAX 64u

static const struct {
    uint8_t op, second; /* a count, or what is indirect */
    uint16_t count;
    uint8_t first_sect, last_sect;
} requests[] = {
    {BLKIF_READ, 1, 0, 0, 7},
    {BLKIF_WRITE, 255, 0, 0, 7},
    {BLKIF_READ, 0, 0, 0, 7},
    {BLKIF_READ, 11, 0, 7, 0},
    {BLKIF_WRITE_BARRIER, 11, 0, 0, 255},
    {BLKIF_INDIRECT, BLKIF_READ, 64, 0, 7},
    {BLKIF_INDIRECT, BLKIF_INDIRECT, 3, 0, 7},
    {BLKIF_INDIRECT, BLKIF_WRITE, 65535, 0, 7},
    {BLKIF_FLUSH_DISKCACHE, 0, 0, 0, 0},
    {255, 255, 65535, 255, 255},
};
#define REQUESTS (sizeof requests / sizeof requests[0])

static const struct blkif_layout *layout;

static void put_request(uint8_t *ring, unsigned which)
{
    uint8_t *entry = ring + sizeof(struct xen_ring);
    entry[0] = requests[which].op;
    entry[1] = requests[which].second;
    memcpy(entry + 2, &requests[which].count, 2);
    memset(entry + layout->id, (int)which + 1, 8);
    for (unsigned i = 0; i < BLKIF_DIRECT_MAX; i++) {
        struct blkif_wire_segment s = {which, requests[which].first_sect, requests[which].last_sect, 0};
        memcpy(entry + layout->segment + i * sizeof s, &s, sizeof s);
    }
}

static void check_segments(const struct blkif_request *q)
{
    for (unsigned i = 0; i < q->segment_count; i++)
        assert_true(q->segments[i].first_sect <= q->segments[i].last_sect && q->segments[i].last_sect < 8);
}

static void check_request(const struct blkif_request *q)
{
    assert_int_not_equal(q->op, BLKIF_INDIRECT);
    assert_true(q->segment_count <= (q->indirect_pages ? SEGMENTS_MAX : BLKIF_DIRECT_MAX));
    assert_true(q->indirect_pages <= 1);
    if (q->invalid) assert_true(q->segment_count == 0 && q->indirect_pages == 0);
    else if (q->op == BLKIF_READ || q->op == BLKIF_WRITE) assert_true(q->segment_count > 0);
    if (!q->indirect_pages) check_segments(q);
}

static void check_answer(const struct blkif_request *q)
{
    const uint8_t *answer = guest + sizeof(struct xen_ring);
    uint64_t id;
    memcpy(&id, answer, sizeof id);
    assert_true(id == q->id);
    uint8_t op = answer[8] == BLKIF_FLUSH_DISKCACHE && q->op == BLKIF_WRITE_BARRIER ? q->op : answer[8];
    if (!q->invalid) assert_int_equal(op, q->op);
}

static unsigned block_pop(enum blkif_abi abi, unsigned at)
{
    struct blkif_segment segments[SEGMENTS_MAX];
    struct blkif_request q = {.segments = segments};
    struct blkif_setup s = {.ring = page, .pages = 1, .abi = abi, .segments_max = SEGMENTS_MAX};
    struct blkif_ring *ring;
    memcpy(guest, before, PAGE);
    assert_int_equal(blkif_new(&ring, &s, NULL), 0);
    trap_begin(at);
    int ret = blkif_pop(ring, &q);
    unsigned n = trap_end();
    assert_int_equal(ret, 1);
    check_request(&q);
    blkif_push(ring, q.slot, BLKIF_OKAY);
    blkif_publish(ring);
    check_answer(&q);
    blkif_free(ring);
    return n;
}

static void test_block_requests(void **state)
{
    (void)state;
    for (enum blkif_abi abi = BLKIF_ABI_X86_32; abi <= BLKIF_ABI_X86_64; abi++) {
        layout = abi == BLKIF_ABI_X86_32 ? &blkif_layout32 : &blkif_layout64;
        for (unsigned i = 0; i < REQUESTS * REQUESTS; i++) {
            ring_init(before, 1);
            ring_init(after, JUMPS);
            put_request(before, i / REQUESTS);
            put_request(after, i % REQUESTS);
            for (unsigned at = 1; block_pop(abi, at) >= at; at++)
                ;
        }
    }
}

/* The page of an indirect request's segments, which stays mapped with persistent grants. */
static void test_block_segments(void **state)
{
    static const struct blkif_wire_segment kinds[] = {{1, 0, 7, 0}, {2, 7, 0, 0}, {3, 0, 255, 0}, {4, 3, 3, 0}};
    (void)state;
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned k = 0; k < SEGMENTS_MAX; k++) {
            memcpy(before + k * 8, &kinds[i / 4], 8);
            memcpy(after + k * 8, &kinds[i % 4], 8);
        }
        unsigned n = 1;
        for (unsigned at = 1; n >= at; at++) {
            struct blkif_segment segments[SEGMENTS_MAX];
            struct blkif_request q = {.segments = segments, .segment_count = 3, .indirect_pages = 1};
            memcpy(guest, before, PAGE);
            trap_begin(at);
            bool ok = blkif_add_segments(&q, page, PAGE);
            n = trap_end();
            assert_int_equal(q.segment_count, ok ? 3 : 0);
            check_segments(&q);
        }
    }
}

/* ---- network ---- */

#define ENTRIES 4u
#define MORE NETIF_TX_MORE_DATA
#define EXTRA NETIF_TX_EXTRA_INFO

static const struct {
    struct {
        uint16_t size, offset, flags;
    } entry[ENTRIES];
    uint8_t extra, extra_flags, gso; /* in the second's place */
} frames[] = {
    {{{60, 0, 0}}, 0, 0, 0},
    {{{300, 0, MORE}, {100, 0, 0}}, 0, 0, 0},
    {{{300, 0, MORE}, {100, 0, MORE}, {100, 0, MORE}, {50, 0, 0}}, 0, 0, 0},
    {{{4000, 96, MORE}, {4096, 0, 0}}, 0, 0, 0}, /* more than the whole */
    {{{5000, 0, MORE}, {1000, 4000, 0}}, 0, 0, 0},
    {{{65535, 0, 0}}, 0, 0, 0},
    {{{9, 0, MORE}, {9, 0, MORE}, {9, 0, MORE}, {9, 0, MORE}}, 0, 0, 0},
    {{{2000, 0, EXTRA}}, NETIF_EXTRA_GSO, 0, NETIF_GSO_TCP4},
    {{{2000, 0, EXTRA}}, NETIF_EXTRA_GSO, 0, 255},
    {{{2000, 0, EXTRA | MORE}, {0}, {500, 0, 0}}, NETIF_EXTRA_GSO, 0, NETIF_GSO_NONE},
    {{{0, 0, EXTRA}}, NETIF_EXTRA_MCAST_ADD, 0, 0},
    {{{60, 0, EXTRA}}, NETIF_EXTRA_HASH, NETIF_EXTRA_FLAG_MORE, 0},
    {{{60, 0, EXTRA}}, 255, 0, 0},
};
#define FRAMES (sizeof frames / sizeof frames[0])

static void put_frame(uint8_t *ring, unsigned which)
{
    uint8_t *entry = ring + sizeof(struct xen_ring);
    for (unsigned i = 0; i < ENTRIES; i++) {
        struct netif_wire_tx w = {.ref = which, .id = (uint16_t)i};
        w.size = frames[which].entry[i].size;
        w.offset = frames[which].entry[i].offset;
        w.flags = frames[which].entry[i].flags;
        memcpy(entry + i * sizeof w, &w, sizeof w);
    }
    struct netif_wire_extra x = {.type = frames[which].extra, .flags = frames[which].extra_flags};
    x.gso.type = frames[which].gso, x.gso.size = x.gso.type ? 1000 : 0;
    if (x.type) memcpy(entry + sizeof(struct netif_wire_tx), &x, sizeof x);
}

static void check_frame(const struct netif_tx_frame *f, const struct netif_slot *slots)
{
    uint32_t sum = 0;
    assert_in_range(f->entries, 1, ENTRIES);
    assert_true(f->slot_count <= ENTRIES);
    if (f->invalid) return;
    for (unsigned i = 0; i < f->slot_count; i++) {
        assert_true(slots[i].offset + slots[i].length <= NETIF_PAGE_BYTES);
        sum += slots[i].length;
    }
    assert_int_equal(sum, f->length);
    assert_true(f->gso_type <= NETIF_GSO_TCP6 && (f->gso_type == NETIF_GSO_NONE) == (f->gso_size == 0));
    assert_true(f->mcast == 0 || f->mcast == NETIF_EXTRA_MCAST_ADD || f->mcast == NETIF_EXTRA_MCAST_DEL);
}

static unsigned frame_pop(unsigned at)
{
    struct netif_slot slots[NETIF_SLOTS_MAX];
    struct netif_tx_frame f;
    struct netif_setup s = {.ring = page};
    struct netif_tx *t;
    memcpy(guest, before, PAGE);
    assert_int_equal(netif_tx_new(&t, &s, NULL), 0);
    trap_begin(at);
    int ret = netif_tx_pop(t, &f, slots);
    unsigned n = trap_end();
    if (ret == 1) {
        check_frame(&f, slots);
        netif_tx_push(t, f.entries, NETIF_OKAY);
        netif_tx_publish(t);
        assert_int_equal(((struct xen_ring *)(void *)guest)->rsp_prod, f.entries);
    } else {
        assert_int_equal(ret, -EPROTO); /* one without an end */
        assert_non_null(strstr(netif_tx_broken(t), "without an end"));
    }
    netif_tx_free(t);
    return n;
}

static void test_frames(void **state)
{
    (void)state;
    for (unsigned i = 0; i < FRAMES * FRAMES; i++) {
        ring_init(before, ENTRIES);
        ring_init(after, JUMPS);
        put_frame(before, i / FRAMES);
        put_frame(after, i % FRAMES);
        for (unsigned at = 1; frame_pop(at) >= at; at++)
            ;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_block_requests),
        cmocka_unit_test(test_block_segments),
        cmocka_unit_test(test_frames),
    };
    return cmocka_run_group_tests(tests, page_open, page_close);
}

#else /* single steps are this processor's; the thread sanitizer has signals of its own */

static void test_none(void **state)
{
    (void)state;
    skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
