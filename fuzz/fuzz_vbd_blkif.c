/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A blkfront that writes anything: into its ring, its indirect pages, its grant entries, its indices; while the device serves it with
 * its own thread, in each way to get data. The input is a list of operations. The disk below checks that it is asked for nothing that it
 * does not have; at the end nothing may be left mapped, bound or in flight.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/iov.h"
#include "guest/sim.h"
#include "vbd/blkif.h"

#define GUEST 1
#define PAGES 48u
#define RING_PAGES 2u
#define DISK_BYTES (1u << 20)
#define PERSISTENT 20u
#define LOOKS 60u /* at whether the device has seen everything, 10 us apart */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- the disk ---- */

static uint8_t bytes[DISK_BYTES];

static void disk_run(struct engine_task *t)
{
    struct disk_req *r = container_of(t, struct disk_req, task);
    assert(r->offset_bytes <= DISK_BYTES && r->length_bytes <= DISK_BYTES - r->offset_bytes);
    if (r->op == DISK_READ || r->op == DISK_WRITE) assert(iov_bytes(r->iov, r->iov_count) == r->length_bytes);
    if (r->op == DISK_READ) iov_copy_to(r->iov, r->iov_count, 0, bytes + r->offset_bytes, r->length_bytes);
    if (r->op == DISK_WRITE) iov_copy_from(bytes + r->offset_bytes, r->iov, r->iov_count, 0, r->length_bytes);
    r->done(r, r->offset_bytes % 16384 == 4096 ? -EIO : 0);
}

static void disk_submit(struct layer_chan *c, struct disk_req *r)
{
    r->task.run = disk_run;
    engine_defer(c->engine, &r->task);
}

static const struct layer_ops disk_ops = {.type = "memory", .submit = disk_submit};
static struct layer disk = {.ops = &disk_ops, .name = "memory", .writable = true, .size_bytes = DISK_BYTES};
static struct layer_chan channel;

static int chains_open(void *arg, unsigned queue, struct engine *e, struct layer_chan **top)
{
    channel = (struct layer_chan){.layer = &disk, .engine = e};
    *top = &channel;
    return 0;
}

static void chains_close(void *arg, unsigned queue) {}
static void chains_call(void *arg, unsigned queue, void *call_arg) {}

/* ---- the machine ---- */

static struct {
    char dir[64];
    struct sim *sim;
    struct sim_guest *guest;
    struct xen *xen;
    struct xen_budget budget;
    struct vbd *vbd;
    struct vbd_kept kept;
    int port;
    uint32_t ring_ref[RING_PAGES], ref[PAGES], entry[PAGES];
    uint8_t *ring, *page[PAGES];
    void *table;
} w;

static void leave(void)
{
    vbd_free(w.vbd);
    xen_close(w.xen);
    sim_guest_free(w.guest);
    sim_detach(w.sim);
    sim_remove(w.dir);
    free(w.table);
}

static uint32_t grant(uint8_t **page)
{
    int64_t frame = sim_page_take(w.guest);
    assert(frame >= 0);
    *page = sim_guest_page(w.guest, (uint32_t)frame);
    int64_t ref = sim_grant(w.guest, SIM_HOST, (uint32_t)frame, false);
    assert(ref >= 0);
    return (uint32_t)ref;
}

static void enter(void)
{
    struct sim_options o = {.abi = SIM_FIFO, .maptrack = 64};
    struct sim_guest_options g = {.domid = GUEST, .pages = PAGES + RING_PAGES, .grants = 128, .abi = SIM_FIFO};
    struct vbd_chains chains = {chains_open, chains_close, chains_call, NULL};
    struct vbd_config c = {.name = "fuzz", .queues = 1, .sector_bytes = 512, .seg_max = 126, .kept = &w.kept};
    strcpy(w.dir, "/dev/shm/fuzz-blkif-XXXXXX");
    assert(mkdtemp(w.dir));
    assert(sim_create(&w.sim, w.dir, &o, NULL) == 0 && sim_guest_create(&w.guest, w.sim, &g, NULL) == 0);
    assert(sim_xen_open(&w.xen, w.sim, &w.budget, false, NULL) == 0);
    assert(vbd_new(&w.vbd, &c, &disk, &chains, &engine_uring_maker, NULL) == 0);
    for (unsigned i = 0; i < RING_PAGES; i++) {
        uint8_t *page;
        w.ring_ref[i] = grant(&page);
        if (i == 0) w.ring = page;
    }
    for (unsigned i = 0; i < PAGES; i++) {
        w.ref[i] = grant(&w.page[i]);
        w.entry[i] = atomic_load(sim_grant_entry(w.guest, w.ref[i]));
    }
    w.port = sim_port_alloc(w.guest, SIM_HOST);
    assert(w.port > 0);
    w.table = aligned_alloc(64, 1 << 17);
    assert(w.table && blkif_inflight_bytes(BLKIF_ABI_X86_64, RING_PAGES) <= 1 << 17);
    atexit(leave);
}

/* ---- the guest ---- */

static uint32_t *index_at(unsigned which)
{
    return (uint32_t *)(void *)w.ring + which; /* req_prod, req_event, rsp_prod, rsp_event */
}

static void wait_seen(void)
{
    struct timespec t = {.tv_nsec = 10000};
    for (unsigned i = 0; i < LOOKS; i++) {
        if (__atomic_load_n(index_at(1), __ATOMIC_ACQUIRE) == __atomic_load_n(index_at(0), __ATOMIC_ACQUIRE) + 1)
            return;
        if (vbd_broken(w.vbd)) return;
        nanosleep(&t, NULL);
    }
}

static struct vbd_blkif_setup setup_of(uint8_t how)
{
    struct vbd_blkif_setup s = {.xen = w.xen, .domid = GUEST, .remote_port = (uint32_t)w.port, .inflight = w.table};
    memcpy(s.ring_ref, w.ring_ref, sizeof w.ring_ref);
    s.way = (enum vbd_blkif_way)(how % 3);
    s.abi = (enum blkif_abi)(how / 3 % 3);
    s.ring_pages = 1 + (how >> 5 & 1);
    s.segments_max = how & 64 ? BLKIF_SEGMENTS_MAX : 20;
    s.persistent_max = PERSISTENT;
    return s;
}

static void stop(void)
{
    vbd_blkif_stop(w.vbd, 0);
    assert(sim_maps_used(w.sim) == 0 && sim_ports_used(w.sim, SIM_HOST) == 0 && atomic_load(&w.budget.used) == 0);
    vbd_guest_ops(w.vbd)->reset(w.vbd, GUEST_RESET_DEVICE);
}

/* What is well formed but for what the input says: otherwise little would come as far as the data. */
static void put_request(const struct vbd_blkif_setup *s, const uint8_t *in, unsigned size)
{
    unsigned entry_bytes = s->abi == BLKIF_ABI_X86_32 ? 108 : 112, segments = s->abi == BLKIF_ABI_X86_32 ? 20 : 24;
    unsigned entries = blkif_ring_entries(s->abi, s->ring_pages);
    uint32_t at = __atomic_load_n(index_at(0), __ATOMIC_RELAXED);
    uint8_t *e = w.ring + 64 + (size_t)(at % entries) * entry_bytes, raw[112] = {0};
    memcpy(raw, in, size < sizeof raw ? size : sizeof raw);
    if (size > 4 && in[0] % 8 == 6) { /* indirect */
        memcpy(raw + segments, &w.ref[in[3] % PAGES], 4);
        memset(raw + segments - 8 + 1, 0, 7);
    } else if (size > 4) {
        for (unsigned i = 0; i < 11; i++) {
            unsigned pick = size > 8 + i * 2 ? in[8 + i * 2] : i, shape = size > 9 + i * 2 ? in[9 + i * 2] : 0x70;
            uint8_t segment[8] = {0};
            memcpy(segment, &w.ref[pick % PAGES], 4);
            segment[4] = shape & 7, segment[5] = (uint8_t)(shape >> 4);
            memcpy(raw + segments + i * 8, segment, 8);
        }
        memset(raw + segments - 8 + 2, 0, 6);
    }
    raw[0] = size ? in[0] % 8 : 0;
    memcpy(e, raw, entry_bytes);
    __atomic_store_n(index_at(0), at + 1, __ATOMIC_RELEASE);
}

static void put_raw(const struct vbd_blkif_setup *s, const uint8_t *in, unsigned size)
{
    unsigned at = size ? in[0] * 32u : 0, room = s->ring_pages * 4096 - 64;
    for (unsigned i = 1; i < size; i++)
        w.ring[64 + (at + i) % room] = in[i];
}

/* Segments of indirect requests. */
static void put_page(const uint8_t *in, unsigned size)
{
    uint8_t *page = w.page[size ? in[0] % PAGES : 0];
    for (unsigned i = 1; i + 1 < size; i += 2) {
        uint8_t *segment = page + (i / 2 * 8) % 4096;
        memcpy(segment, &w.ref[in[i] % PAGES], 4);
        segment[4] = in[i + 1] & 15, segment[5] = in[i + 1] >> 4;
    }
}

static void spoil_grant(const uint8_t *in, unsigned size)
{
    unsigned i = size ? in[0] % PAGES : 0;
    uint32_t change = 0;
    memcpy(&change, in, size < 4 ? size : 4);
    atomic_fetch_xor(sim_grant_entry(w.guest, w.ref[i]), change);
}

static void run(const uint8_t *data, size_t size, struct vbd_blkif_setup s)
{
    while (size >= 2) {
        unsigned op = data[0] % 8, length = data[1] % 64;
        data += 2, size -= 2;
        if (length > size) length = (unsigned)size;
        switch (op) {
        case 0:
        case 1:
        case 2: put_request(&s, data, length); break;
        case 3: put_raw(&s, data, length); break;
        case 4: put_page(data, length); break;
        case 5: spoil_grant(data, length); break;
        case 6:
            if (length >= 5) memcpy(w.ring + data[0] % 4 * 4, data + 1, 4);
            break;
        case 7:
            sim_port_notify(w.guest, w.port);
            if (length % 2) wait_seen();
            if (length % 8 == 7) {
                stop();
                s.resume = true;
                if (vbd_blkif_start(w.vbd, 0, &s, NULL)) return;
            }
            break;
        }
        data += length, size -= length;
    }
    sim_port_notify(w.guest, w.port);
    wait_seen();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!w.sim) enter();
    if (size < 2) return 0;
    struct vbd_blkif_setup s = setup_of(data[0]);
    w.budget.max = data[1] % 80;
    memset(w.ring, 0, RING_PAGES * 4096);
    for (unsigned i = 0; i < PAGES; i++)
        atomic_store(sim_grant_entry(w.guest, w.ref[i]), w.entry[i]);
    blkif_inflight_forget(w.table);
    assert(vbd_blkif_start(w.vbd, 0, &s, NULL) == 0);
    run(data + 2, size - 2, s);
    stop();
    return 0;
}
