/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest with a blkfront on a simulated machine (guest/sim.h), and the disk that is shown to it: what the tests of the blkif side
 * have in common. The guest's pages are granted once, for good, in order: page i of `page` has reference ref[i].
 */
#ifndef VBD_TEST_BLKFRONT_H
#define VBD_TEST_BLKFRONT_H

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/sim.h"
#include "ring/blkif_sim.h"
#include "vbd/blkif.h"
#include "vbd/test_disk.h"

#define BED_DISK_BYTES (8u << 20)
#define BED_PAGES 600u /* of data */
#define BED_GUEST 7
#define BED_ANSWER_MS 30000
#define BED_TABLE_BYTES (128u << 10)

struct bed {
    char dir[64];
    struct sim *sim;
    struct xen_budget budget;
    bool direct; /* maps are pointers into the guest's memory */
    struct sim_guest *guest;
    struct blkif_sim front;
    int port;
    uint32_t ref[BED_PAGES];
    uint8_t *page[BED_PAGES];
    struct vbd_blkif_setup setup;

    struct memory_disk *disk; /* shared with children */
    void *table;
    struct layer_chan *chan;
    struct vbd *vbd;
    struct vbd_kept kept;
};

static inline int bed_chains_open(void *arg, unsigned queue, struct engine *e, struct layer_chan **top)
{
    struct bed *b = arg;
    assert_int_equal(queue, 0);
    int ret = memory_open(&b->disk->layer, e, NULL, &b->chan);
    *top = b->chan;
    return ret;
}

static inline void bed_chains_close(void *arg, unsigned queue)
{
    struct bed *b = arg;
    (void)queue;
    memory_close(b->chan);
}

static inline void bed_chains_call(void *arg, unsigned queue, void *call_arg)
{
    (void)arg, (void)queue, (void)call_arg;
}

/* The door of whoever serves the disk now. */
static inline void bed_open_xen(struct bed *b)
{
    struct errmsg e = {""};
    if (sim_xen_open(&b->setup.xen, b->sim, &b->budget, b->direct, &e)) fail_msg("%s", e.text);
}

static inline void bed_close_xen(struct bed *b)
{
    xen_close(b->setup.xen);
    b->setup.xen = NULL;
}

static inline void *bed_shared(size_t bytes)
{
    void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(mem != MAP_FAILED);
    return mem;
}

/* A page of the guest's, granted. */
static inline uint32_t bed_grant(struct bed *b, uint8_t **page)
{
    int64_t frame = sim_page_take(b->guest);
    assert_true(frame >= 0);
    *page = sim_guest_page(b->guest, (uint32_t)frame);
    int64_t ref = sim_grant(b->guest, SIM_HOST, (uint32_t)frame, false);
    assert_true(ref >= 0);
    return (uint32_t)ref;
}

/* A machine, a guest, its ring and pages, a disk; nobody serves it yet. */
static inline void bed_open(struct bed *b, enum vbd_blkif_way way, enum blkif_abi abi, unsigned ring_pages)
{
    struct errmsg e = {""};
    uint8_t *ring = NULL, *page;
    *b = (struct bed){.budget = {.max = 65536}};
    strcpy(b->dir, "/tmp/creedence-blkif-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    struct sim_options o = {.abi = SIM_FIFO};
    if (sim_create(&b->sim, b->dir, &o, &e)) fail_msg("%s", e.text);
    struct sim_guest_options g = {
        .domid = BED_GUEST, .pages = BED_PAGES + 32, .grants = BED_PAGES + 64, .abi = SIM_FIFO};
    if (sim_guest_create(&b->guest, b->sim, &g, &e)) fail_msg("%s", e.text);
    b->setup = (struct vbd_blkif_setup){.domid = BED_GUEST,
                                        .ring_pages = ring_pages,
                                        .abi = abi,
                                        .segments_max = BLKIF_SEGMENTS_MAX,
                                        .way = way,
                                        .persistent_max = BED_PAGES};
    for (unsigned i = 0; i < ring_pages; i++) {
        b->setup.ring_ref[i] = bed_grant(b, &page);
        if (i == 0) ring = page;
        assert_ptr_equal(page, ring + i * XEN_PAGE_BYTES); /* one after the other: the front end sees one ring */
    }
    for (unsigned i = 0; i < BED_PAGES; i++)
        b->ref[i] = bed_grant(b, &b->page[i]);
    b->port = sim_port_alloc(b->guest, SIM_HOST);
    assert_true(b->port > 0);
    b->setup.remote_port = (uint32_t)b->port;
    blkif_sim_init(&b->front, ring, ring_pages, abi);
    b->table = bed_shared(BED_TABLE_BYTES);
    b->disk = bed_shared(sizeof *b->disk + BED_DISK_BYTES);
    b->disk->layer =
        (struct layer){.ops = &memory_ops, .name = "memory", .writable = true, .size_bytes = BED_DISK_BYTES};
}

static inline struct vbd_config bed_config(struct bed *b)
{
    return (struct vbd_config){
        .name = "test", .queues = 1, .sector_bytes = 512, .seg_max = 126, .poll_ns = 20000, .kept = &b->kept};
}

static inline void bed_serve(struct bed *b, const struct vbd_config *c)
{
    struct errmsg e = {""};
    struct vbd_chains chains = {bed_chains_open, bed_chains_close, bed_chains_call, b};
    bed_open_xen(b);
    if (vbd_new(&b->vbd, c, &b->disk->layer, &chains, &engine_uring_maker, &e)) fail_msg("%s", e.text);
    if (vbd_blkif_start(b->vbd, 0, &b->setup, &e)) fail_msg("%s", e.text);
}

static inline void bed_unserve(struct bed *b)
{
    vbd_blkif_stop(b->vbd, 0);
    vbd_free(b->vbd);
    b->vbd = NULL;
    /* Closing the door is not what releases them. */
    assert_int_equal(sim_maps_used(b->sim), 0);
    assert_int_equal(sim_ports_used(b->sim, SIM_HOST), 0);
    bed_close_xen(b);
    assert_int_equal(sim_maps_used(b->sim), 0);
    assert_int_equal(sim_ports_used(b->sim, SIM_HOST), 0);
    assert_int_equal(atomic_load(&b->budget.used), 0);
    assert_int_equal(atomic_load(&b->budget.rings), 0);
}

static inline void bed_close(struct bed *b)
{
    if (b->vbd) bed_unserve(b);
    assert_null(b->front.error);
    sim_guest_free(b->guest);
    sim_detach(b->sim);
    sim_remove(b->dir);
    munmap(b->table, BED_TABLE_BYTES);
    munmap(b->disk, sizeof *b->disk + BED_DISK_BYTES);
}

static inline void bed_show(struct bed *b)
{
    if (blkif_sim_publish(&b->front)) sim_port_notify(b->guest, b->port);
}

/* The next answer, its status; token may be NULL. */
static inline int bed_wait(struct bed *b, uint64_t *token)
{
    uint64_t unused;
    int status;
    for (int waited = 0; waited < BED_ANSWER_MS * 10; waited++) {
        if (blkif_sim_get(&b->front, token ? token : &unused, &status)) {
            /* The ring lies at two addresses: by it the thread sanitizer does not see what came before the answer. */
            (void)atomic_load(&b->disk->ran);
            return status;
        }
        usleep(100);
    }
    fail_msg("no answer in %d ms (%s)", BED_ANSWER_MS, b->front.error ? b->front.error : "no error");
    return 0;
}

#endif
