/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same disk shown to a guest through virtqueues and through a blkif ring: random reads that are answered from memory, one queue,
 * guest and device on a thread each. The guest polls; the device does as it does in production.
 *
 *   virtio      split, packed: data in place
 *   copy        the hypervisor copies (here: a memcpy, after the checks that it makes)
 *   map         pages mapped and unmapped for each request: by mmap(2); and "free", by a pointer, as if that cost nothing
 *   persistent  pages that stay mapped
 *
 * The machine is simulated (guest/sim.h): what a hypercall costs, and the flush of a TLB after an unmap, is not in these figures.
 * Only ratios of one run count.
 *
 * usage: blkif-bench [--json] [--only=FRONT] [seconds per figure, default 1]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/iov.h"
#include "guest/sim.h"
#include "loop/clock.h"
#include "ring/blkif_sim.h"
#include "ring/driver_sim.h"
#include "vbd/blkif.h"
#include "vbd/virtio_blk.h"

#define DISK_BYTES (UINT64_C(64) << 20)
#define GUEST 1
#define GUEST_BASE UINT64_C(0x100000000)
#define RING_ENTRIES 128u
#define RING_PAGES 4u  /* blkif: as many entries */
#define SLOT_PAGES 64u /* of data, of each request */
#define DATA_PAGES (RING_ENTRIES * SLOT_PAGES)
#define MEMORY_BYTES ((UINT64_C(1) << 20) + DATA_PAGES * UINT64_C(4096))

static void fail(const char *what)
{
    fprintf(stderr, "blkif-bench: %s\n", what);
    exit(1);
}

/* ---- the disk ---- */

static bool json;
static unsigned figures; /* printed so far */
static const char *only;

static uint8_t *disk_bytes;
static struct layer disk;
static struct layer_chan disk_chan;

static int disk_try_read(struct layer_chan *c, uint64_t offset_bytes, uint64_t length_bytes, const struct iovec *iov,
                         unsigned iov_count)
{
    (void)c;
    iov_copy_to(iov, iov_count, 0, disk_bytes + offset_bytes, length_bytes);
    return 0;
}

static void disk_run(struct engine_task *t)
{
    struct disk_req *r = container_of(t, struct disk_req, task);
    if (r->op == DISK_WRITE) iov_copy_from(disk_bytes + r->offset_bytes, r->iov, r->iov_count, 0, r->length_bytes);
    r->done(r, 0);
}

static void disk_submit(struct layer_chan *c, struct disk_req *r)
{
    r->task.run = disk_run;
    engine_defer(c->engine, &r->task);
}

static const struct layer_ops disk_ops = {.type = "memory", .try_read = disk_try_read, .submit = disk_submit};

static int chains_open(void *arg, unsigned queue, struct engine *e, struct layer_chan **top)
{
    (void)arg, (void)queue;
    disk_chan = (struct layer_chan){.layer = &disk, .engine = e};
    *top = &disk_chan;
    return 0;
}

static void chains_close(void *arg, unsigned queue)
{
    (void)arg, (void)queue;
}

static void chains_call(void *arg, unsigned queue, void *call_arg)
{
    (void)arg, (void)queue, (void)call_arg;
}

static struct vbd *device_new(struct vbd_kept *kept, bool packed)
{
    struct vbd_chains chains = {chains_open, chains_close, chains_call, NULL};
    struct vbd_config c = {.name = "bench", .queues = 1, .sector_bytes = 512, .packed = packed, .seg_max = 126};
    struct vbd *d;
    struct errmsg e;
    c.poll_ns = VBD_POLL_NS_DEFAULT;
    c.kept = kept;
    disk = (struct layer){.ops = &disk_ops, .name = "memory", .writable = true, .size_bytes = DISK_BYTES};
    if (vbd_new(&d, &c, &disk, &chains, &engine_uring_maker, &e)) fail(e.text);
    return d;
}

/* ---- a load, whatever the ring ---- */

struct front {
    void *arg;
    bool (*add)(void *arg, unsigned slot, uint64_t sector, unsigned pages);
    void (*show)(void *arg);
    bool (*get)(void *arg, unsigned *slot);
};

static uint64_t cpu_ns(int who)
{
    struct rusage u;
    getrusage(who, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

/* Of all other threads. */
static uint64_t device_cpu_ns(void)
{
    return cpu_ns(RUSAGE_SELF) - cpu_ns(RUSAGE_THREAD);
}

static void load(const char *name, const struct front *f, unsigned depth, unsigned pages, double seconds)
{
    uint64_t random = 1, done = 0, cpu = device_cpu_ns(), start_ns = clock_now_ns();
    uint64_t end_ns = start_ns + (uint64_t)(seconds * 1e9);
    unsigned free_slot[RING_ENTRIES], free_count = 0, open = 0, slot;
    for (unsigned i = 0; i < depth; i++)
        free_slot[free_count++] = i;
    while (open || clock_now_ns() < end_ns) {
        bool added = false;
        while (free_count && clock_now_ns() < end_ns) {
            random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            uint64_t page = (random >> 33) % (DISK_BYTES / 4096 - pages);
            if (!f->add(f->arg, free_slot[free_count - 1], page * 8, pages)) break;
            free_count--, open++;
            added = true;
        }
        if (added) f->show(f->arg);
        while (f->get(f->arg, &slot)) {
            free_slot[free_count++] = slot;
            open--, done++;
        }
    }
    double took_s = (double)(clock_now_ns() - start_ns) / 1e9;
    if (json) {
        printf("%s{\"front\": \"%s\", \"bytes\": %u, \"depth\": %u, \"iops\": %.0f, \"device_ns\": %.0f}",
               figures++ ? ", " : "", name, pages * 4096, depth, (double)done / took_s,
               (double)(device_cpu_ns() - cpu) / (double)done);
        return;
    }
    printf("%-18s %4u KiB  depth %3u  %8.1f k/s  %7.2f GB/s  device %6.0f ns each\n", name, pages * 4, depth,
           (double)done / took_s / 1e3, (double)done * pages * 4096 / took_s / 1e9,
           (double)(device_cpu_ns() - cpu) / (double)done);
}

static void loads(const char *name, const struct front *f, double seconds)
{
    load(name, f, 1, 1, seconds);
    load(name, f, 32, 1, seconds);
    load(name, f, 32, 11, seconds);
    load(name, f, 8, SLOT_PAGES, seconds);
}

/* ---- virtio ---- */

struct virtio {
    struct driver_sim *driver;
    uint8_t *memory;
    int kick;
};

#define HEADERS_AT (UINT64_C(768) << 10)
#define DATA_AT (UINT64_C(1) << 20)

static bool virtio_add(void *arg, unsigned slot, uint64_t sector, unsigned pages)
{
    struct virtio *v = arg;
    uint64_t header = HEADERS_AT + slot * 64, data = DATA_AT + (uint64_t)slot * SLOT_PAGES * 4096;
    struct virtio_blk_header h = {.type = le32_make(VIRTIO_BLK_T_IN), .sector = le64_make(sector)};
    memcpy(v->memory + header, &h, sizeof h);
    struct driver_sim_buf buf[3] = {{{GUEST_BASE + header}, 16, false},
                                    {{GUEST_BASE + data}, pages * 4096, true},
                                    {{GUEST_BASE + header + 32}, 1, true}};
    return driver_sim_add(v->driver, buf, 3, true, slot);
}

static void virtio_show(void *arg)
{
    struct virtio *v = arg;
    uint64_t one = 1;
    if (driver_sim_publish(v->driver) && write(v->kick, &one, sizeof one) < 0) fail("eventfd");
}

static bool virtio_get(void *arg, unsigned *slot)
{
    struct virtio *v = arg;
    uint64_t token;
    uint32_t written;
    if (!driver_sim_get(v->driver, &token, &written)) return false;
    *slot = (unsigned)token;
    return true;
}

static void run_virtio(const char *name, bool packed, double seconds)
{
    if (only && strcmp(name, only) != 0) return;
    struct vbd_kept kept = {0};
    struct vbd *d = device_new(&kept, packed);
    struct virtio v = {.kick = eventfd(0, EFD_NONBLOCK)};
    struct guest_map *map;
    struct errmsg e;
    int fd = memfd_create("blkif-bench", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)MEMORY_BYTES)) fail("no memory");
    struct guest_region_desc region = {{GUEST_BASE}, MEMORY_BYTES, 0x10000000, 0};
    if (guest_map_new(&map, &region, &fd, 1, NULL, &e)) fail(e.text);
    v.memory = guest_map_at(map, (struct gpa){GUEST_BASE}, MEMORY_BYTES);
    memset(v.memory, 0, MEMORY_BYTES);
    struct guest_queue q = {.kick_fd = v.kick, .call_fd = -1};
    q.setup = (struct virtq_setup){.size = RING_ENTRIES, .packed = packed, .event_idx = true, .indirect = true};
    q.setup.desc = v.memory, q.setup.driver = v.memory + (64 << 10), q.setup.device = v.memory + (128 << 10);
    q.setup.base = packed ? 0x80008000u : 0;
    struct driver_sim_setup s = {.size = RING_ENTRIES, .packed = packed, .event_idx = true, .base = q.setup.base};
    s.desc = q.setup.desc, s.driver = q.setup.driver, s.device = q.setup.device;
    s.indirect = v.memory + (256 << 10), s.indirect_addr.v = GUEST_BASE + (256 << 10), s.indirect_max = 3;
    if (driver_sim_new(&v.driver, &s)) fail("no memory");
    const struct guest_device_ops *ops = vbd_guest_ops(d);
    if (ops->set_features(d, ops->features) || ops->queue_start(d, &q, map)) fail("the queue does not start");
    loads(name, &(struct front){&v, virtio_add, virtio_show, virtio_get}, seconds);
    ops->queue_stop(d, 0);
    vbd_free(d);
    driver_sim_free(v.driver);
    guest_map_unref(map);
    close(fd);
    close(v.kick);
}

/* ---- blkif ---- */

struct xen_front {
    char dir[64];
    struct sim *sim;
    struct sim_guest *guest;
    struct blkif_sim front;
    int port;
    uint32_t ref[DATA_PAGES];
    uint32_t
        indirect_ref[RING_ENTRIES]; /* one page for each slot, written once: the slot's pages are always the same */
};

static struct xen_front x;

static uint32_t grant(void **page)
{
    int64_t frame = sim_page_take(x.guest);
    if (frame < 0) fail("no page");
    *page = sim_guest_page(x.guest, (uint32_t)frame);
    int64_t ref = sim_grant(x.guest, SIM_HOST, (uint32_t)frame, false);
    if (ref < 0) fail("no grant");
    return (uint32_t)ref;
}

static void make_guest(struct vbd_blkif_setup *s)
{
    struct errmsg e;
    void *page, *ring = NULL;
    struct sim_guest_options g = {.domid = GUEST, .abi = SIM_FIFO};
    g.pages = DATA_PAGES + RING_ENTRIES + RING_PAGES + 8;
    g.grants = g.pages + 16;
    if (sim_guest_create(&x.guest, x.sim, &g, &e)) fail(e.text);
    for (unsigned i = 0; i < RING_PAGES; i++) {
        s->ring_ref[i] = grant(&page);
        if (i == 0) ring = page;
    }
    for (unsigned i = 0; i < DATA_PAGES; i++)
        x.ref[i] = grant(&page);
    for (unsigned i = 0; i < RING_ENTRIES; i++) {
        x.indirect_ref[i] = grant(&page);
        memset(page, 0, 4096);
        for (unsigned j = 0; j < SLOT_PAGES; j++) {
            memcpy((uint8_t *)page + j * 8, &x.ref[i * SLOT_PAGES + j], 4);
            ((uint8_t *)page)[j * 8 + 5] = 7;
        }
    }
    x.port = sim_port_alloc(x.guest, SIM_HOST);
    if (x.port < 0) fail("no port");
    s->remote_port = (uint32_t)x.port;
    blkif_sim_init(&x.front, ring, RING_PAGES, BLKIF_ABI_NATIVE);
}

static bool xen_add(void *arg, unsigned slot, uint64_t sector, unsigned pages)
{
    (void)arg;
    struct blkif_segment segment[11];
    struct blkif_request q = {.op = BLKIF_READ, .sector = sector, .segment_count = pages, .segments = segment};
    if (pages > 11) {
        q.indirect_pages = 1;
        q.indirect_ref[0] = x.indirect_ref[slot];
    } else {
        for (unsigned i = 0; i < pages; i++)
            segment[i] = (struct blkif_segment){x.ref[slot * SLOT_PAGES + i], 0, 7};
    }
    return blkif_sim_add(&x.front, &q, slot);
}

static void xen_show(void *arg)
{
    (void)arg;
    if (blkif_sim_publish(&x.front)) sim_port_notify(x.guest, x.port);
}

static bool xen_get(void *arg, unsigned *slot)
{
    (void)arg;
    uint64_t token;
    int status;
    if (!blkif_sim_get(&x.front, &token, &status)) {
        if (x.front.error) fail(x.front.error);
        return false;
    }
    if (status) fail("a request failed");
    *slot = (unsigned)token;
    return true;
}

static void run_blkif(const char *name, enum vbd_blkif_way way, bool direct, double seconds)
{
    if (only && strcmp(name, only) != 0) return;
    struct errmsg e;
    struct vbd_kept kept = {0};
    struct vbd_blkif_setup s = {.domid = GUEST, .ring_pages = RING_PAGES};
    s.segments_max = SLOT_PAGES, s.way = way, s.persistent_max = DATA_PAGES + RING_ENTRIES;
    strcpy(x.dir, "/dev/shm/creedence-blkif-XXXXXX");
    if (!mkdtemp(x.dir)) fail("/dev/shm");
    struct sim_options o = {.abi = SIM_FIFO};
    if (sim_create(&x.sim, x.dir, &o, &e)) fail(e.text);
    make_guest(&s);
    if (sim_xen_open(&s.xen, x.sim, NULL, direct, &e)) fail(e.text);
    struct vbd *d = device_new(&kept, false);
    if (vbd_blkif_start(d, 0, &s, &e)) fail(e.text);
    loads(name, &(struct front){NULL, xen_add, xen_show, xen_get}, seconds);
    vbd_blkif_stop(d, 0);
    vbd_free(d);
    xen_close(s.xen);
    sim_guest_free(x.guest);
    sim_detach(x.sim);
    sim_remove(x.dir);
}

int main(int argc, char **argv)
{
    double seconds = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) json = true;
        else if (strncmp(argv[i], "--only=", 7) == 0) only = argv[i] + 7;
        else seconds = strtod(argv[i], NULL);
    }
    if (json) printf("{\"figures\": [");
    if (!(seconds > 0)) fail("seconds per figure, a number above 0");
    disk_bytes = malloc(DISK_BYTES);
    if (!disk_bytes) fail("no memory");
    memset(disk_bytes, 1, DISK_BYTES);
    run_virtio("virtio split", false, seconds);
    run_virtio("virtio packed", true, seconds);
    run_blkif("blkif copy", VBD_BLKIF_COPY, false, seconds);
    run_blkif("blkif persistent", VBD_BLKIF_PERSISTENT, false, seconds);
    run_blkif("blkif map", VBD_BLKIF_MAP, false, seconds);
    run_blkif("blkif map, free", VBD_BLKIF_MAP, true, seconds);
    if (json) printf("]}\n");
    free(disk_bytes);
    return figures || !json ? 0 : 1;
}
