/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device as a driver sees it: a simulated driver on one side, a disk in memory on the other, the real
 * queue thread and engine between them. Every test runs on the split and on the packed ring.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/iov.h"
#include "ring/driver_sim.h"
#include "vbd/test_disk.h"
#include "vbd/vbd.h"
#include "vbd/virtio_blk.h"

#define DISK_BYTES (4u << 20)
#define MEMORY_BYTES (64u << 20) /* little of it is touched */
#define GUEST_BASE UINT64_C(0x100000000)
#define RING_AT 0u
#define DRIVER_AT (RING_AT + (512u << 10)) /* room for the largest ring */
#define DEVICE_AT (RING_AT + (640u << 10))
#define INDIRECT_AT (1u << 20)
#define DATA_AT (2u << 20)
#define QUEUE_SIZE 64u
#define INDIRECT_MAX (DISK_IOV_MAX + 1u) /* of 64 tables: 513 KiB */
#define ANSWER_MS 5000

/* ---- the rig ---- */

struct rig {
    bool packed;
    uint16_t queue_size; /* 0: QUEUE_SIZE */
    struct memory_disk *disk;
    uint64_t disk_bytes; /* 0: DISK_BYTES */
    struct layer_chan *chan;
    struct vbd *vbd;
    struct vbd_kept kept;
    uint8_t *memory;
    int memory_fd, kick, call;
    int kick_writer; /* the same as kick for an eventfd */
    enum { KICK_EVENTFD, KICK_PIPE, KICK_SOCKET } kick_kind;
    struct guest_map *map;
    struct driver_sim *driver;
};

static int chains_open(void *arg, unsigned queue, struct engine *e, struct layer_chan **top)
{
    struct rig *g = arg;
    assert_int_equal(queue, 0);
    int ret = memory_open(&g->disk->layer, e, NULL, &g->chan);
    *top = g->chan;
    return ret;
}

static void chains_close(void *arg, unsigned queue)
{
    struct rig *g = arg;
    (void)queue;
    memory_close(g->chan);
}

static void chains_call(void *arg, unsigned queue, void *call_arg)
{
    (void)arg, (void)queue;
    ++*(int *)call_arg;
}

static struct guest_map *map_make(struct rig *g, unsigned pieces)
{
    struct guest_region_desc desc[4];
    int fds[4];
    struct guest_map *map;
    struct errmsg e;
    for (unsigned i = 0; i < pieces; i++) {
        uint64_t at = (uint64_t)i * (MEMORY_BYTES / pieces);
        desc[i] = (struct guest_region_desc){{GUEST_BASE + at}, MEMORY_BYTES / pieces, 0x7000000000 + at, at};
        fds[i] = g->memory_fd;
    }
    if (guest_map_new(&map, desc, fds, pieces, NULL, &e) < 0) fail_msg("%s", e.text);
    return map;
}

static struct guest_queue queue_make(struct rig *g)
{
    uint8_t *host = guest_map_at(g->map, (struct gpa){GUEST_BASE}, INDIRECT_AT);
    return (struct guest_queue){
        .index = 0,
        .setup = {.size = g->queue_size ? g->queue_size : QUEUE_SIZE,
                  .packed = g->packed,
                  .event_idx = true,
                  .indirect = true,
                  .desc = host,
                  .driver = host + DRIVER_AT,
                  .device = host + DEVICE_AT,
                  .base = g->packed ? 0x80008000u : 0},
        .kick_fd = g->kick,
        .call_fd = g->call,
    };
}

static void queue_run(struct rig *g)
{
    struct guest_queue q = queue_make(g);
    struct driver_sim_setup s = {.size = q.setup.size,
                                 .packed = g->packed,
                                 .event_idx = true,
                                 .desc = g->memory + RING_AT,
                                 .driver = g->memory + DRIVER_AT,
                                 .device = g->memory + DEVICE_AT,
                                 .base = q.setup.base,
                                 .indirect = g->memory + INDIRECT_AT,
                                 .indirect_addr = {GUEST_BASE + INDIRECT_AT},
                                 .indirect_max = INDIRECT_MAX};
    if (g->queue_size) s.indirect = NULL;
    assert_int_equal(driver_sim_new(&g->driver, &s), 0);
    assert_int_equal(vbd_guest_ops(g->vbd)->queue_start(g->vbd, &q, g->map), 0);
}

static struct vbd_config config_default(struct rig *g)
{
    return (struct vbd_config){.name = "test",
                               .queues = 1,
                               .sector_bytes = 512,
                               .packed = true,
                               .seg_max = 126,
                               .poll_ns = 20000,
                               .kept = &g->kept,
                               .serial = "serial-0123456789"};
}

static void kick_open(struct rig *g)
{
    int pair[2] = {-1, -1};
    switch (g->kick_kind) {
    case KICK_EVENTFD: pair[0] = pair[1] = eventfd(0, EFD_NONBLOCK); break;
    case KICK_PIPE: assert_int_equal(pipe2(pair, O_NONBLOCK), 0); break;
    case KICK_SOCKET: assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0); break;
    }
    assert_true(pair[0] >= 0);
    g->kick = pair[0];
    g->kick_writer = pair[1];
}

static void rig_open(struct rig *g, const struct vbd_config *c)
{
    struct errmsg e;
    struct vbd_chains chains = {chains_open, chains_close, chains_call, g};
    guest_memory_init(); /* cmocka catches SIGBUS itself, from the start of each test */
    g->kept = (struct vbd_kept){0};
    uint64_t bytes = g->disk_bytes ? g->disk_bytes : DISK_BYTES;
    g->disk = calloc(1, sizeof *g->disk + bytes);
    assert_non_null(g->disk);
    g->disk->layer = (struct layer){.ops = &memory_ops, .name = "memory", .writable = true, .size_bytes = bytes};
    g->memory_fd = memfd_create("test-guest", MFD_CLOEXEC);
    assert_int_equal(ftruncate(g->memory_fd, MEMORY_BYTES), 0);
    g->memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, g->memory_fd, 0);
    assert_ptr_not_equal(g->memory, MAP_FAILED);
    kick_open(g);
    g->call = eventfd(0, EFD_NONBLOCK);
    g->map = map_make(g, 1);
    if (vbd_new(&g->vbd, c, &g->disk->layer, &chains, &engine_uring_maker, &e) < 0) fail_msg("%s", e.text);
    uint64_t features = vbd_guest_ops(g->vbd)->features;
    assert_int_equal(vbd_guest_ops(g->vbd)->set_features(g->vbd, features), 0);
    queue_run(g);
}

static void rig_close(struct rig *g)
{
    assert_null(driver_sim_error(g->driver));
    vbd_guest_ops(g->vbd)->queue_stop(g->vbd, 0);
    vbd_free(g->vbd);
    guest_map_unref(g->map);
    driver_sim_free(g->driver);
    munmap(g->memory, MEMORY_BYTES);
    close(g->memory_fd);
    if (g->kick_writer != g->kick) close(g->kick_writer);
    close(g->kick);
    close(g->call);
    free(g->disk);
}

/* Bytes of the chain's data lie at DATA_AT + slot * 64 KiB: header, then data, then status. */
#define SLOT_BYTES 65536u

static uint8_t *slot_at(struct rig *g, unsigned slot)
{
    return g->memory + DATA_AT + slot * SLOT_BYTES;
}

struct ask {
    uint32_t type;
    uint64_t sector;
    uint32_t data_bytes;
    bool reads;   /* data are for the device to write */
    unsigned cut; /* bytes of the header in a first descriptor of its own; 16: the usual framing */
    bool joined;  /* status in one descriptor with the data */
    bool indirect;
};

static void kick(struct rig *g)
{
    uint64_t one = 1;
    assert_int_equal(write(g->kick_writer, &one, sizeof one), sizeof one);
}

/* What was added is the device's. */
static void show(struct rig *g)
{
    atomic_fetch_add(&g->disk->asked, 1);
    if (driver_sim_publish(g->driver)) kick(g);
}

static void ask_begin(struct rig *g, unsigned slot, const struct ask *a)
{
    uint8_t *p = slot_at(g, slot);
    uint64_t at = GUEST_BASE + DATA_AT + slot * SLOT_BYTES;
    struct virtio_blk_header h = {.type = le32_make(a->type), .sector = le64_make(a->sector)};
    struct driver_sim_buf buf[8];
    unsigned n = 0, cut = a->cut ? a->cut : 16;
    memcpy(p, &h, sizeof h);
    p[16 + a->data_bytes] = 0xee;
    buf[n++] = (struct driver_sim_buf){{at}, cut, false};
    if (cut < 16) buf[n++] = (struct driver_sim_buf){{at + cut}, 16 - cut, false};
    if (a->data_bytes && !a->reads) buf[n++] = (struct driver_sim_buf){{at + 16}, a->data_bytes, false};
    if (a->joined && a->reads) {
        buf[n++] = (struct driver_sim_buf){{at + 16}, a->data_bytes + 1, true};
    } else {
        if (a->data_bytes && a->reads) buf[n++] = (struct driver_sim_buf){{at + 16}, a->data_bytes, true};
        buf[n++] = (struct driver_sim_buf){{at + 16 + a->data_bytes}, 1, true};
    }
    assert_true(driver_sim_add(g->driver, buf, n, a->indirect, slot));
    show(g);
}

static uint64_t wait_any(struct rig *g, uint32_t *written)
{
    uint64_t token;
    uint32_t unused;
    if (!written) written = &unused;
    for (int waited = 0; waited < ANSWER_MS; waited++) {
        if (driver_sim_get(g->driver, &token, written)) {
            (void)atomic_load(&g->disk->ran);
            return token;
        }
        usleep(1000);
    }
    fail_msg("no completion in %d ms (%s)", ANSWER_MS, driver_sim_error(g->driver));
    return 0;
}

static uint8_t ask_status(struct rig *g, unsigned slot, const struct ask *a)
{
    return slot_at(g, slot)[16 + a->data_bytes];
}

/* One request alone; its status. */
static uint8_t ask_now(struct rig *g, const struct ask *a, uint32_t *written)
{
    uint32_t w;
    ask_begin(g, 0, a);
    assert_int_equal(wait_any(g, &w), 0);
    if (written) *written = w;
    return ask_status(g, 0, a);
}

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, ANSWER_MS) == 1;
}

static void fill(uint8_t *p, size_t n, uint8_t seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(seed + i * 7 + i / 256);
}

/* ---- tests ---- */

static void test_read_write_framings(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    const unsigned cuts[] = {16, 1, 8, 15};
    for (unsigned i = 0; i < 16; i++) {
        struct ask w = {
            .type = VIRTIO_BLK_T_OUT, .sector = 100 + i * 8, .data_bytes = 4096, .cut = cuts[i % 4], .indirect = i & 4};
        uint8_t want[4096];
        uint32_t written;
        fill(want, sizeof want, (uint8_t)i);
        memcpy(slot_at(g, 0) + 16, want, sizeof want);
        assert_int_equal(ask_now(g, &w, &written), VIRTIO_BLK_S_OK);
        assert_int_equal(written, 1);
        struct ask r = {.type = VIRTIO_BLK_T_IN,
                        .sector = 100 + i * 8,
                        .data_bytes = 4096,
                        .reads = true,
                        .cut = cuts[i % 4],
                        .joined = i & 8,
                        .indirect = i & 4};
        memset(slot_at(g, 0), 0, SLOT_BYTES);
        assert_int_equal(ask_now(g, &r, &written), VIRTIO_BLK_S_OK);
        assert_int_equal(written, 4097);
        assert_memory_equal(slot_at(g, 0) + 16, want, sizeof want);
    }
    struct vbd_queue_stats stats;
    vbd_stats_read(g->vbd, 0, &stats);
    assert_int_equal(stats.reads, 16);
    assert_int_equal(stats.write_bytes, 16 * 4096);
    rig_close(g);
}

static void test_refusals(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    uint64_t end = DISK_BYTES / 512;
    const struct {
        struct ask ask;
        uint8_t status;
    } cases[] = {
        {{.type = VIRTIO_BLK_T_IN, .sector = end - 1, .data_bytes = 512, .reads = true}, VIRTIO_BLK_S_OK},
        {{.type = VIRTIO_BLK_T_IN, .sector = end, .data_bytes = 512, .reads = true}, VIRTIO_BLK_S_IOERR},
        {{.type = VIRTIO_BLK_T_IN, .sector = end - 1, .data_bytes = 1024, .reads = true}, VIRTIO_BLK_S_IOERR},
        {{.type = VIRTIO_BLK_T_OUT, .sector = UINT64_MAX, .data_bytes = 512}, VIRTIO_BLK_S_IOERR},
        {{.type = VIRTIO_BLK_T_OUT, .sector = UINT64_MAX / 512 + 1, .data_bytes = 512}, VIRTIO_BLK_S_IOERR},
        {{.type = VIRTIO_BLK_T_IN, .sector = 0, .data_bytes = 100, .reads = true}, VIRTIO_BLK_S_IOERR},
        {{.type = 3, .data_bytes = 512, .reads = true}, VIRTIO_BLK_S_UNSUPP},
        {{.type = 0xffffffff}, VIRTIO_BLK_S_UNSUPP},
        {{.type = VIRTIO_BLK_T_GET_ID, .data_bytes = 19, .reads = true}, VIRTIO_BLK_S_IOERR},
        {{.type = VIRTIO_BLK_T_DISCARD, .data_bytes = 15}, VIRTIO_BLK_S_IOERR},
        {{.type = VIRTIO_BLK_T_DISCARD, .data_bytes = 16 * 33}, VIRTIO_BLK_S_IOERR},
        {{.type = VIRTIO_BLK_T_IN, .sector = 5, .data_bytes = 0, .reads = true}, VIRTIO_BLK_S_OK},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memset(slot_at(g, 0), 0, SLOT_BYTES);
        if (ask_now(g, &cases[i].ask, NULL) != cases[i].status) fail_msg("case %u", i);
    }
    assert_null(vbd_broken(g->vbd));
    rig_close(g);
}

static void test_read_only_and_4096(struct rig *g)
{
    struct vbd_config c = config_default(g);
    c.read_only = true;
    c.sector_bytes = 4096;
    rig_open(g, &c);
    struct ask w = {.type = VIRTIO_BLK_T_OUT, .sector = 0, .data_bytes = 4096};
    struct ask r = {.type = VIRTIO_BLK_T_IN, .sector = 8, .data_bytes = 4096, .reads = true};
    struct ask odd = {.type = VIRTIO_BLK_T_IN, .sector = 1, .data_bytes = 4096, .reads = true};
    struct ask f = {.type = VIRTIO_BLK_T_FLUSH};
    assert_int_equal(ask_now(g, &w, NULL), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ask_now(g, &r, NULL), VIRTIO_BLK_S_OK);
    assert_int_equal(ask_now(g, &odd, NULL), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ask_now(g, &f, NULL), VIRTIO_BLK_S_OK);
    assert_string_equal(g->disk->log, "r");
    uint64_t features = vbd_guest_ops(g->vbd)->features;
    assert_true(features & (1u << VIRTIO_BLK_F_RO));
    assert_false(features & (1u << VIRTIO_BLK_F_DISCARD));
    rig_close(g);
}

static void test_id_flush_ranges(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    struct ask id = {.type = VIRTIO_BLK_T_GET_ID, .data_bytes = 20, .reads = true};
    uint32_t written;
    assert_int_equal(ask_now(g, &id, &written), VIRTIO_BLK_S_OK);
    assert_int_equal(written, 21);
    assert_string_equal((char *)slot_at(g, 0) + 16, "serial-0123456789");
    struct ask f = {.type = VIRTIO_BLK_T_FLUSH};
    assert_int_equal(ask_now(g, &f, NULL), VIRTIO_BLK_S_OK);
    memset(g->disk->bytes, 0xaa, DISK_BYTES);
    struct virtio_blk_range range[3] = {{le64_make(8), le32_make(8), le32_make(0)},
                                        {le64_make(64), le32_make(1), le32_make(0)},
                                        {le64_make(128), le32_make(2), le32_make(VIRTIO_BLK_RANGE_UNMAP)}};
    struct ask d = {.type = VIRTIO_BLK_T_DISCARD, .data_bytes = 32};
    memcpy(slot_at(g, 0) + 16, range, 32);
    assert_int_equal(ask_now(g, &d, NULL), VIRTIO_BLK_S_OK);
    assert_int_equal(g->disk->bytes[8 * 512 - 1], 0xaa);
    assert_int_equal(g->disk->bytes[8 * 512], 0);
    assert_int_equal(g->disk->bytes[64 * 512], 0);
    assert_int_equal(g->disk->bytes[65 * 512], 0xaa);
    d.data_bytes = 48; /* UNMAP means nothing to DISCARD: nothing may be done */
    memset(g->disk->bytes, 0xaa, DISK_BYTES);
    memcpy(slot_at(g, 0) + 16, range, 48);
    assert_int_equal(ask_now(g, &d, NULL), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(g->disk->bytes[8 * 512], 0xaa);
    struct ask z = {.type = VIRTIO_BLK_T_WRITE_ZEROES, .data_bytes = 48};
    memcpy(slot_at(g, 0) + 16, range, 48);
    assert_int_equal(ask_now(g, &z, NULL), VIRTIO_BLK_S_OK);
    assert_string_equal(g->disk->log, "fddzzZ");
    rig_close(g);
}

static void test_write_through(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    const struct guest_device_ops *ops = vbd_guest_ops(g->vbd);
    struct ask w = {.type = VIRTIO_BLK_T_OUT, .sector = 0, .data_bytes = 512};
    uint8_t off = 0, on = 1, bad = 2;
    uint32_t at = offsetof(struct virtio_blk_config, writeback);
    assert_int_equal(ask_now(g, &w, NULL), VIRTIO_BLK_S_OK);
    assert_int_equal(ops->set_config(g->vbd, at, 1, &off), 0);
    assert_int_equal(ask_now(g, &w, NULL), VIRTIO_BLK_S_OK);
    assert_int_equal(ops->set_config(g->vbd, at, 1, &on), 0);
    assert_int_equal(ask_now(g, &w, NULL), VIRTIO_BLK_S_OK);
    assert_string_equal(g->disk->log, "wwfw");
    assert_int_equal(ops->set_config(g->vbd, at, 1, &bad), -EINVAL);
    assert_int_equal(ops->set_config(g->vbd, 0, 8, &bad), -EINVAL);
    /* A driver that cannot flush is safe all the same. */
    assert_int_equal(ops->set_features(g->vbd, ops->features & ~(UINT64_C(1) << VIRTIO_BLK_F_FLUSH)), 0);
    assert_int_equal(ask_now(g, &w, NULL), VIRTIO_BLK_S_OK);
    assert_string_equal(g->disk->log, "wwfwwf");
    rig_close(g);
}

/* A chain that reads or writes `bytes` at disk offset 0, in data buffers of odd lengths. */
static uint8_t ask_large(struct rig *g, uint32_t type, uint32_t bytes, uint32_t *written)
{
    uint64_t at = GUEST_BASE + DATA_AT;
    bool in = type == VIRTIO_BLK_T_IN;
    struct virtio_blk_header h = {.type = le32_make(type)};
    struct driver_sim_buf buf[16] = {{{at}, sizeof h, false}};
    unsigned n = 1;
    uint64_t token;
    memcpy(g->memory + DATA_AT, &h, sizeof h);
    at += sizeof h;
    for (uint32_t left = bytes, piece = 5000001; left; left -= piece, at += piece) {
        piece = left < piece ? left : piece;
        buf[n++] = (struct driver_sim_buf){{at}, piece, in};
    }
    buf[n++] = (struct driver_sim_buf){{at}, 1, true};
    assert_true(driver_sim_add(g->driver, buf, n, true, 7));
    show(g);
    token = wait_any(g, written);
    assert_int_equal(token, 7);
    return g->memory[DATA_AT + sizeof h + bytes];
}

static void fill_words(uint8_t *p, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes / 4; i++)
        memcpy(p + i * 4u, &i, sizeof i);
}

/* What the next write does, the features agreed anew: "w", or "wf" through the cache. */
static void writes_as(struct rig *g, const char *log)
{
    const struct guest_device_ops *ops = vbd_guest_ops(g->vbd);
    struct ask w = {.type = VIRTIO_BLK_T_OUT, .sector = 0, .data_bytes = 512};
    struct virtio_blk_config space;
    assert_int_equal(ops->set_features(g->vbd, ops->features), 0);
    memset(g->disk->log, 0, sizeof g->disk->log);
    atomic_store(&g->disk->logged, 0);
    assert_int_equal(ask_now(g, &w, NULL), VIRTIO_BLK_S_OK);
    assert_string_equal(g->disk->log, log);
    ops->get_config(g->vbd, (uint8_t *)&space);
    assert_int_equal(space.writeback, strcmp(log, "w") == 0);
}

static void set_writeback(struct rig *g, uint8_t on)
{
    uint32_t at = offsetof(struct virtio_blk_config, writeback);
    assert_int_equal(vbd_guest_ops(g->vbd)->set_config(g->vbd, at, 1, &on), 0);
}

/* A driver's safer choice lasts over a pause and a new connection, until a driver starts anew. */
static void test_write_through_and_resets(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    const struct guest_device_ops *ops = vbd_guest_ops(g->vbd);
    writes_as(g, "w");
    set_writeback(g, 0);
    writes_as(g, "wf");
    ops->reset(g->vbd, GUEST_RESET_STATUS);
    writes_as(g, "wf");
    ops->reset(g->vbd, GUEST_RESET_END);
    writes_as(g, "wf");
    ops->reset(g->vbd, GUEST_RESET_DEVICE);
    writes_as(g, "w");
    rig_close(g);
}

static void test_write_through_from_the_start(struct rig *g)
{
    struct vbd_config c = config_default(g);
    c.write_through = true;
    rig_open(g, &c);
    const struct guest_device_ops *ops = vbd_guest_ops(g->vbd);
    writes_as(g, "wf");
    set_writeback(g, 1);
    writes_as(g, "w");
    ops->reset(g->vbd, GUEST_RESET_STATUS); /* of the two the safer */
    writes_as(g, "wf");
    set_writeback(g, 1);
    ops->reset(g->vbd, GUEST_RESET_END);
    writes_as(g, "wf");
    rig_close(g);
}

/* A read of `count` data buffers of `each` bytes. */
static uint8_t ask_segments(struct rig *g, unsigned count, uint32_t each)
{
    uint64_t at = GUEST_BASE + DATA_AT;
    struct virtio_blk_header h = {.type = le32_make(VIRTIO_BLK_T_IN)};
    struct driver_sim_buf *buf = calloc(count + 2, sizeof *buf);
    uint8_t *status = g->memory + DATA_AT + sizeof h + count * each;
    assert_non_null(buf);
    memcpy(g->memory + DATA_AT, &h, sizeof h);
    *status = 0xee;
    buf[0] = (struct driver_sim_buf){{at}, sizeof h, false};
    for (unsigned i = 0; i < count; i++)
        buf[i + 1] = (struct driver_sim_buf){{at + sizeof h + i * each}, each, true};
    buf[count + 1] = (struct driver_sim_buf){{at + sizeof h + count * each}, 1, true};
    assert_true(driver_sim_add(g->driver, buf, count + 2, true, 3));
    show(g);
    assert_int_equal(wait_any(g, NULL), 3);
    free(buf);
    return *status;
}

/* More segments than announced: that request fails, the device goes on. More than any request may have break it. */
static void test_seg_max(struct rig *g)
{
    struct vbd_config c = config_default(g);
    c.seg_max = 10;
    rig_open(g, &c);
    assert_int_equal(ask_segments(g, 10, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(ask_segments(g, 11, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ask_segments(g, 60, 512), VIRTIO_BLK_S_IOERR); /* more than a request has room for */
    assert_int_equal(ask_segments(g, DISK_IOV_MAX - 2, 512), VIRTIO_BLK_S_IOERR);
    assert_string_equal(g->disk->log, "r");
    assert_null(vbd_broken(g->vbd));
    struct ask f = {.type = VIRTIO_BLK_T_FLUSH};
    assert_int_equal(ask_now(g, &f, NULL), VIRTIO_BLK_S_OK);
    struct vbd_queue_stats stats;
    vbd_stats_read(g->vbd, 0, &stats);
    assert_int_equal(stats.requests, 5);
    assert_int_equal(stats.errors, 3);
    rig_close(g);
}

static void test_seg_max_hard_bound(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    struct driver_sim_buf *buf = calloc(DISK_IOV_MAX + 1, sizeof *buf);
    assert_non_null(buf);
    for (unsigned i = 0; i <= DISK_IOV_MAX; i++)
        buf[i] = (struct driver_sim_buf){{GUEST_BASE + DATA_AT}, 512, i > 0};
    assert_true(driver_sim_add(g->driver, buf, DISK_IOV_MAX + 1, true, 0));
    show(g);
    assert_true(readable(vbd_broken_fd(g->vbd)));
    assert_string_equal(vbd_broken(g->vbd), "a request of more buffers than the device takes");
    free(buf);
    rig_close(g);
}

/* A buffer at the seam of two regions is one segment. */
static void test_segments_across_regions(struct rig *g)
{
    struct vbd_config c = config_default(g);
    c.seg_max = 1;
    rig_open(g, &c);
    struct guest_map *two = map_make(g, 2);
    vbd_guest_ops(g->vbd)->set_map(g->vbd, two, false);
    guest_map_unref(two);
    uint64_t seam = GUEST_BASE + MEMORY_BYTES / 2;
    struct virtio_blk_header h = {.type = le32_make(VIRTIO_BLK_T_IN)};
    memcpy(g->memory + DATA_AT, &h, sizeof h);
    struct driver_sim_buf buf[] = {{{GUEST_BASE + DATA_AT}, sizeof h, false},
                                   {{seam - 512}, 1024, true},
                                   {{GUEST_BASE + DATA_AT + sizeof h}, 1, true}};
    fill(g->disk->bytes, 1024, 9);
    assert_true(driver_sim_add(g->driver, buf, 3, false, 0));
    show(g);
    wait_any(g, NULL);
    assert_int_equal(g->memory[DATA_AT + sizeof h], VIRTIO_BLK_S_OK);
    assert_memory_equal(g->memory + MEMORY_BYTES / 2 - 512, g->disk->bytes, 1024);
    rig_close(g);
}

/* size_max binds a driver that agreed to it, and no other. */
static void test_size_max(struct rig *g)
{
    struct vbd_config c = config_default(g);
    c.size_max_bytes = 4096;
    rig_open(g, &c);
    const struct guest_device_ops *ops = vbd_guest_ops(g->vbd);
    uint64_t size_max = UINT64_C(1) << VIRTIO_BLK_F_SIZE_MAX;
    assert_true(ops->features & size_max);
    assert_int_equal(ask_segments(g, 2, 4096), VIRTIO_BLK_S_OK);
    assert_int_equal(ask_segments(g, 1, 4608), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ops->set_features(g->vbd, ops->features & ~size_max), 0);
    assert_int_equal(ask_segments(g, 1, 4608), VIRTIO_BLK_S_OK);
    assert_null(vbd_broken(g->vbd));
    rig_close(g);
}

/* Nothing that the driver was told forbids a request larger than the layers take: it is carried out in pieces. */
static void test_large_requests(struct rig *g)
{
    struct vbd_config c = config_default(g);
    const uint32_t bytes = 48u << 20;
    uint32_t written;
    c.write_through = true;
    g->disk_bytes = bytes;
    rig_open(g, &c);
    uint8_t *data = g->memory + DATA_AT + sizeof(struct virtio_blk_header);
    fill_words(data, bytes);
    assert_int_equal(ask_large(g, VIRTIO_BLK_T_OUT, bytes, &written), VIRTIO_BLK_S_OK);
    assert_int_equal(written, 1);
    assert_memory_equal(g->disk->bytes, data, bytes);
    memset(data, 0, bytes);
    assert_int_equal(ask_large(g, VIRTIO_BLK_T_IN, bytes, &written), VIRTIO_BLK_S_OK);
    assert_int_equal(written, bytes + 1);
    assert_memory_equal(g->disk->bytes, data, bytes);
    assert_string_equal(g->disk->log, "wwfrr"); /* one flush, after the last piece */
    atomic_store(&g->disk->fail_with, -EIO);
    assert_int_equal(ask_large(g, VIRTIO_BLK_T_OUT, bytes, &written), VIRTIO_BLK_S_IOERR);
    assert_string_equal(g->disk->log, "wwfrrw"); /* no piece after one that failed */
    atomic_store(&g->disk->fail_with, 0);
    assert_int_equal(ask_large(g, VIRTIO_BLK_T_IN, DISK_REQUEST_MAX_BYTES, &written), VIRTIO_BLK_S_OK);
    assert_int_equal(ask_large(g, VIRTIO_BLK_T_IN, DISK_REQUEST_MAX_BYTES + 512, &written), VIRTIO_BLK_S_OK);
    assert_string_equal(g->disk->log, "wwfrrwrrr");
    rig_close(g);
}

static void test_error_of_one_request(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    struct ask w = {.type = VIRTIO_BLK_T_OUT, .sector = 0, .data_bytes = 512};
    atomic_store(&g->disk->fail_with, -ENOSPC);
    assert_int_equal(ask_now(g, &w, NULL), VIRTIO_BLK_S_IOERR);
    atomic_store(&g->disk->fail_with, -EOPNOTSUPP);
    assert_int_equal(ask_now(g, &w, NULL), VIRTIO_BLK_S_UNSUPP);
    atomic_store(&g->disk->fail_with, 0);
    assert_int_equal(ask_now(g, &w, NULL), VIRTIO_BLK_S_OK);
    struct vbd_queue_stats stats;
    vbd_stats_read(g->vbd, 0, &stats);
    assert_int_equal(stats.errors, 2);
    rig_close(g);
}

static void test_malformed_breaks_device(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    uint64_t at = GUEST_BASE + DATA_AT;
    struct driver_sim_buf no_status[] = {{{at}, 16, false}};
    assert_true(driver_sim_add(g->driver, no_status, 1, false, 1));
    show(g);
    assert_true(readable(vbd_broken_fd(g->vbd)));
    assert_string_equal(vbd_broken(g->vbd), "request without room for a status");
    assert_int_equal(vbd_broken_take(g->vbd), 1); /* queue 0, and only it */
    assert_int_equal(vbd_broken_take(g->vbd), 0);
    /* A reset makes it sound again. */
    vbd_guest_ops(g->vbd)->queue_stop(g->vbd, 0);
    vbd_guest_ops(g->vbd)->reset(g->vbd, GUEST_RESET_DEVICE);
    assert_null(vbd_broken(g->vbd));
    assert_true(readable(vbd_broken_fd(g->vbd))); /* whoever was told hears of this too */
    assert_int_equal(vbd_broken_take(g->vbd), 0);
    driver_sim_free(g->driver);
    queue_run(g);
    struct ask r = {.type = VIRTIO_BLK_T_IN, .data_bytes = 512, .reads = true};
    assert_int_equal(ask_now(g, &r, NULL), VIRTIO_BLK_S_OK);
    rig_close(g);
}

static void cut_short(struct rig *g, uint64_t bytes)
{
    assert_int_equal(ftruncate(g->memory_fd, (off_t)bytes), 0);
}

static void broken_by_cut(struct rig *g)
{
    assert_true(readable(vbd_broken_fd(g->vbd)));
    assert_string_equal(vbd_broken(g->vbd), "the guest's memory was cut short");
    rig_close(g);
}

/* The file behind the guest's memory loses the rings themselves: what is there instead says that there is nothing to do. */
static void test_memory_cut_under_the_ring(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    cut_short(g, 0);
    kick(g);
    broken_by_cut(g);
}

/* A read with its data and its status at these places, the second MiB of data and what follows cut off. */
static void read_cut(struct rig *g, uint64_t data_at, uint64_t status_at)
{
    struct vbd_config c = config_default(g);
    struct virtio_blk_header h = {.type = le32_make(VIRTIO_BLK_T_IN)};
    rig_open(g, &c);
    memcpy(g->memory + DATA_AT, &h, sizeof h);
    struct driver_sim_buf buf[] = {{{GUEST_BASE + DATA_AT}, sizeof h, false},
                                   {{GUEST_BASE + data_at}, 4096, true},
                                   {{GUEST_BASE + status_at}, 1, true}};
    assert_true(driver_sim_add(g->driver, buf, 3, false, 0));
    cut_short(g, DATA_AT + (1u << 20));
    show(g);
    broken_by_cut(g);
}

static void test_memory_cut_under_a_buffer(struct rig *g)
{
    read_cut(g, DATA_AT + (1u << 20) - 512, DATA_AT + sizeof(struct virtio_blk_header));
}

static void test_memory_cut_under_a_status(struct rig *g)
{
    read_cut(g, DATA_AT + 4096, DATA_AT + (3u << 20));
}

struct delayed {
    struct memory_disk *disk;
    unsigned delay_us;
};

static void *release_later(void *arg)
{
    struct delayed *d = arg;
    usleep(d->delay_us);
    atomic_store(&d->disk->hold, false);
    return NULL;
}

/* Stopping and changing the memory wait for what is in flight; nothing is lost on the way. */
static void test_drain(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    const struct guest_device_ops *ops = vbd_guest_ops(g->vbd);
    struct delayed d = {g->disk, 50000};
    struct ask w = {.type = VIRTIO_BLK_T_OUT, .sector = 3, .data_bytes = 512};
    pthread_t thread;
    uint32_t written;
    atomic_store(&g->disk->hold, true);
    ask_begin(g, 0, &w);
    ask_begin(g, 1, &w);
    usleep(20000);
    assert_int_equal(pthread_create(&thread, NULL, release_later, &d), 0);
    struct guest_map *other = map_make(g, 1);
    ops->set_map(g->vbd, other, false);
    assert_false(atomic_load(&g->disk->hold));
    pthread_join(thread, NULL);
    wait_any(g, &written);
    wait_any(g, &written);
    uint32_t base = ops->queue_stop(g->vbd, 0);
    if (!g->packed) assert_int_equal(base, 2);
    guest_map_unref(g->map);
    g->map = other;
    struct guest_queue q = queue_make(g);
    q.setup.base = base;
    assert_int_equal(ops->queue_start(g->vbd, &q, g->map), 0);
    assert_int_equal(ask_now(g, &w, NULL), VIRTIO_BLK_S_OK);
    int calls = 0;
    vbd_call_queues(g->vbd, &calls);
    assert_int_equal(calls, 1);
    rig_close(g);
}

/* Regions are added while requests run: nothing waits, nothing is lost, and the old map may go at once. */
static void test_map_grows_under_io(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    const struct guest_device_ops *ops = vbd_guest_ops(g->vbd);
    struct guest_region_desc half = {{GUEST_BASE}, MEMORY_BYTES / 2, 0x7000000000, 0};
    struct guest_map *small;
    struct errmsg e;
    assert_int_equal(guest_map_new(&small, &half, &g->memory_fd, 1, NULL, &e), 0);
    ops->set_map(g->vbd, small, false);
    guest_map_unref(g->map);
    g->map = small;
    for (unsigned round = 0; round < 20; round++) {
        atomic_store(&g->disk->hold, true);
        for (unsigned i = 0; i < 8; i++) {
            struct ask r = {.type = VIRTIO_BLK_T_IN, .sector = i, .data_bytes = 512, .reads = true};
            memset(g->disk->bytes + i * 512, (int)(round + i), 512);
            ask_begin(g, i, &r);
        }
        usleep(2000);
        /* Both halves, the first through the mapping that there is already; then the first alone, anew. */
        struct guest_region_desc two[2] = {half, half};
        int fds[2] = {g->memory_fd, g->memory_fd};
        two[1].guest_addr.v += MEMORY_BYTES / 2, two[1].user_addr += MEMORY_BYTES / 2;
        two[1].file_offset_bytes = MEMORY_BYTES / 2;
        struct guest_map *large;
        assert_int_equal(guest_map_new(&large, two, fds, 2, g->map, &e), 0);
        ops->set_map(g->vbd, large, true);
        assert_true(atomic_load(&g->disk->hold)); /* it did not wait for what is in flight */
        guest_map_unref(g->map);
        g->map = large;
        atomic_store(&g->disk->hold, false);
        for (unsigned i = 0; i < 8; i++)
            wait_any(g, NULL);
        for (unsigned i = 0; i < 8; i++) {
            assert_int_equal(slot_at(g, i)[16 + 512], VIRTIO_BLK_S_OK);
            assert_int_equal(slot_at(g, i)[16 + 511], (uint8_t)(round + i));
        }
        assert_int_equal(guest_map_new(&small, &half, &g->memory_fd, 1, NULL, &e), 0);
        ops->set_map(g->vbd, small, false);
        guest_map_unref(g->map);
        g->map = small;
    }
    rig_close(g);
}

/* A front end without a kick descriptor has its ring looked at every now and then. */
static void test_queue_without_kick(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    const struct guest_device_ops *ops = vbd_guest_ops(g->vbd);
    ops->queue_stop(g->vbd, 0);
    struct guest_queue q = queue_make(g);
    q.kick_fd = -1;
    assert_int_equal(ops->queue_start(g->vbd, &q, g->map), 0);
    for (unsigned i = 0; i < 3; i++) {
        struct ask r = {.type = VIRTIO_BLK_T_IN, .sector = i, .data_bytes = 512, .reads = true};
        usleep(10000); /* it sleeps */
        assert_int_equal(ask_now(g, &r, NULL), VIRTIO_BLK_S_OK);
    }
    rig_close(g);
}

static uint8_t ask_range(struct rig *g, uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    struct virtio_blk_range good = {le64_make(0), le32_make(8), le32_make(0)};
    struct virtio_blk_range range = {le64_make(sector), le32_make(sectors), le32_make(flags)};
    struct ask a = {.type = type, .data_bytes = 2 * sizeof range};
    memcpy(slot_at(g, 0) + 16, &good, sizeof good);
    memcpy(slot_at(g, 0) + 16 + sizeof good, &range, sizeof range);
    return ask_now(g, &a, NULL);
}

/* One bad range, and none is carried out. */
static void test_bad_ranges(struct rig *g)
{
    struct vbd_config c = config_default(g);
    c.sector_bytes = 4096;
    rig_open(g, &c);
    uint64_t end = DISK_BYTES / 512;
    const struct {
        uint64_t sector;
        uint32_t sectors, flags;
        uint8_t discard, zeroes;
    } cases[] = {
        {end - 8, 16, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {end, 8, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {UINT64_MAX, 8, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {UINT64_MAX / 512 + 1, 8, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {0, UINT32_MAX - 7, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {1, 8, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {8, 1, 0, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {8, 8, 2, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_S_UNSUPP},
        {8, 8, 0x80000001, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_S_UNSUPP},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (ask_range(g, VIRTIO_BLK_T_DISCARD, cases[i].sector, cases[i].sectors, cases[i].flags) != cases[i].discard)
            fail_msg("discard, case %u", i);
        if (ask_range(g, VIRTIO_BLK_T_WRITE_ZEROES, cases[i].sector, cases[i].sectors, cases[i].flags) !=
            cases[i].zeroes)
            fail_msg("write zeroes, case %u", i);
    }
    assert_string_equal(g->disk->log, "");
    assert_int_equal(ask_range(g, VIRTIO_BLK_T_DISCARD, end - 8, 8, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(ask_range(g, VIRTIO_BLK_T_WRITE_ZEROES, end - 8, 8, 1), VIRTIO_BLK_S_OK);
    assert_string_equal(g->disk->log, "ddzZ");
    rig_close(g);
}

static void test_ranges_on_read_only(struct rig *g)
{
    struct vbd_config c = config_default(g);
    c.read_only = true;
    rig_open(g, &c);
    assert_int_equal(ask_range(g, VIRTIO_BLK_T_DISCARD, 8, 8, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ask_range(g, VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0), VIRTIO_BLK_S_IOERR);
    assert_string_equal(g->disk->log, "");
    rig_close(g);
}

static void test_config_space_and_resize(struct rig *g)
{
    struct vbd_config c = config_default(g);
    c.size_max_bytes = 65536;
    rig_open(g, &c);
    struct virtio_blk_config space;
    const struct guest_device_ops *ops = vbd_guest_ops(g->vbd);
    assert_int_equal(ops->config_bytes, sizeof space);
    ops->get_config(g->vbd, (uint8_t *)&space);
    assert_int_equal(le64_get(space.capacity), DISK_BYTES / 512);
    assert_int_equal(le32_get(space.seg_max), 126);
    assert_int_equal(le32_get(space.size_max), 65536);
    assert_int_equal(space.writeback, 1);
    struct ask r = {.type = VIRTIO_BLK_T_IN, .sector = DISK_BYTES / 1024, .data_bytes = 512, .reads = true};
    assert_int_equal(ask_now(g, &r, NULL), VIRTIO_BLK_S_OK);
    atomic_store(&g->disk->layer.size_bytes, DISK_BYTES / 2);
    vbd_size_changed(g->vbd);
    ops->get_config(g->vbd, (uint8_t *)&space);
    assert_int_equal(le64_get(space.capacity), DISK_BYTES / 1024);
    assert_int_equal(ask_now(g, &r, NULL), VIRTIO_BLK_S_IOERR);
    rig_close(g);
}

static void test_many_in_flight(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    bool seen[16] = {0};
    for (unsigned round = 0; round < 200; round++) {
        for (unsigned i = 0; i < 16; i++) {
            struct ask w = {.type = VIRTIO_BLK_T_OUT, .sector = i * 8, .data_bytes = 4096};
            fill(slot_at(g, i) + 16, 4096, (uint8_t)(round + i));
            ask_begin(g, i, &w);
            seen[i] = false;
        }
        for (unsigned i = 0; i < 16; i++) {
            uint32_t written;
            uint64_t token = wait_any(g, &written);
            assert_false(seen[token]);
            seen[token] = true;
        }
        uint8_t want[4096];
        for (unsigned i = 0; i < 16; i++) {
            fill(want, sizeof want, (uint8_t)(round + i));
            assert_memory_equal(g->disk->bytes + i * 4096, want, sizeof want);
        }
    }
    rig_close(g);
}

/* All descriptors are in flight, and the guest says that there is one more: nobody waits for that, at 100 % of a processor. */
static void test_one_more_than_descriptors(struct rig *g)
{
    if (g->packed) return; /* its driver has no index that could say so */
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    atomic_store(&g->disk->hold, true);
    memset(g->memory + DATA_AT, 0, 64);
    g->memory[DATA_AT] = VIRTIO_BLK_T_FLUSH;
    uint64_t at = GUEST_BASE + DATA_AT;
    for (unsigned i = 0; i < QUEUE_SIZE; i++) {
        struct driver_sim_buf flush[] = {{{at}, 16, false}, {{at + 64 + i}, 1, true}};
        assert_true(driver_sim_add(g->driver, flush, 2, true, i));
    }
    show(g);
    usleep(20000);
    assert_null(vbd_broken(g->vbd));
    __atomic_fetch_add((uint16_t *)(void *)(g->memory + DRIVER_AT + 2), 1, __ATOMIC_RELEASE);
    kick(g);
    assert_true(readable(vbd_broken_fd(g->vbd)));
    assert_string_equal(vbd_broken(g->vbd), "more requests than the queue has descriptors");
    atomic_store(&g->disk->hold, false);
    rig_close(g);
}

/* Kicks through a pipe or a socket are taken out, however many: a full one would stop the guest. */
static void kicks_without_end(struct rig *g)
{
    struct vbd_config c = config_default(g);
    rig_open(g, &c);
    uint64_t one = 1;
    struct pollfd p = {.fd = g->kick_writer, .events = POLLOUT};
    for (unsigned i = 0; i < 20000; i++) {
        ssize_t n;
        while ((n = write(g->kick_writer, &one, sizeof one)) < 0 && errno == EAGAIN)
            if (poll(&p, 1, ANSWER_MS) != 1) fail_msg("full after %u kicks", i);
        assert_int_equal(n, sizeof one);
    }
    struct ask r = {.type = VIRTIO_BLK_T_IN, .data_bytes = 512, .reads = true};
    assert_int_equal(ask_now(g, &r, NULL), VIRTIO_BLK_S_OK);
    rig_close(g);
}

static void test_kicks_through_a_pipe(struct rig *g)
{
    g->kick_kind = KICK_PIPE;
    kicks_without_end(g);
}

static void test_kicks_through_a_socket(struct rig *g)
{
    g->kick_kind = KICK_SOCKET;
    kicks_without_end(g);
}

static size_t private_kib(void)
{
    char line[128];
    size_t kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    assert_non_null(f);
    while (kib == 0 && fgets(line, sizeof line, f))
        if (strncmp(line, "RssAnon:", 8) == 0) kib = strtoul(line + 8, NULL, 10);
    fclose(f);
    return kib;
}

/* A ring as large as they come costs what is in use of it. */
static void test_large_ring_costs_little(struct rig *g)
{
    struct vbd_config c = config_default(g);
    const struct guest_device_ops *ops;
    g->queue_size = VIRTQ_SIZE_MAX;
    rig_open(g, &c);
    ops = vbd_guest_ops(g->vbd);
    ops->queue_stop(g->vbd, 0);
    size_t before_kib = private_kib();
    struct guest_queue q = queue_make(g);
    assert_int_equal(ops->queue_start(g->vbd, &q, g->map), 0);
    for (unsigned i = 0; i < 100; i++) {
        struct ask r = {.type = VIRTIO_BLK_T_IN, .data_bytes = 512, .reads = true};
        assert_int_equal(ask_now(g, &r, NULL), VIRTIO_BLK_S_OK);
    }
    size_t after_kib = private_kib();
    if (after_kib > before_kib + (8u << 10)) fail_msg("%zu KiB became %zu KiB", before_kib, after_kib);
    rig_close(g);
}

static void test_config_refused(struct rig *g)
{
    struct vbd_config good = config_default(g), bad;
    struct vbd_chains chains = {0};
    struct layer leaf = {.ops = &memory_ops, .size_bytes = DISK_BYTES};
    struct errmsg e;
    struct vbd *d;
    bad = good, bad.queues = 0;
    assert_int_equal(vbd_new(&d, &bad, &leaf, &chains, &engine_uring_maker, &e), -EINVAL);
    assert_string_equal(e.text, "disk test: 0 queues, expected 1 to 64");
    bad = good, bad.sector_bytes = 1024;
    assert_int_equal(vbd_new(&d, &bad, &leaf, &chains, &engine_uring_maker, &e), -EINVAL);
    bad = good, bad.seg_max = 0;
    assert_int_equal(vbd_new(&d, &bad, &leaf, &chains, &engine_uring_maker, &e), -EINVAL);
    bad = good, bad.size_max_bytes = 512;
    assert_int_equal(vbd_new(&d, &bad, &leaf, &chains, &engine_uring_maker, &e), -EINVAL);
}

#define BOTH_RINGS(name)                                                                                               \
    static void name##_split(void **unused)                                                                            \
    {                                                                                                                  \
        struct rig g = {.packed = false};                                                                              \
        (void)unused;                                                                                                  \
        name(&g);                                                                                                      \
    }                                                                                                                  \
    static void name##_packed(void **unused)                                                                           \
    {                                                                                                                  \
        struct rig g = {.packed = true};                                                                               \
        (void)unused;                                                                                                  \
        name(&g);                                                                                                      \
    }

BOTH_RINGS(test_read_write_framings)
BOTH_RINGS(test_refusals)
BOTH_RINGS(test_read_only_and_4096)
BOTH_RINGS(test_id_flush_ranges)
BOTH_RINGS(test_write_through)
BOTH_RINGS(test_write_through_and_resets)
BOTH_RINGS(test_write_through_from_the_start)
BOTH_RINGS(test_map_grows_under_io)
BOTH_RINGS(test_queue_without_kick)
BOTH_RINGS(test_bad_ranges)
BOTH_RINGS(test_ranges_on_read_only)
BOTH_RINGS(test_large_requests)
BOTH_RINGS(test_memory_cut_under_the_ring)
BOTH_RINGS(test_memory_cut_under_a_buffer)
BOTH_RINGS(test_memory_cut_under_a_status)
BOTH_RINGS(test_kicks_through_a_pipe)
BOTH_RINGS(test_kicks_through_a_socket)
BOTH_RINGS(test_large_ring_costs_little)
BOTH_RINGS(test_seg_max)
BOTH_RINGS(test_seg_max_hard_bound)
BOTH_RINGS(test_segments_across_regions)
BOTH_RINGS(test_size_max)
BOTH_RINGS(test_error_of_one_request)
BOTH_RINGS(test_malformed_breaks_device)
BOTH_RINGS(test_drain)
BOTH_RINGS(test_config_space_and_resize)
BOTH_RINGS(test_many_in_flight)
BOTH_RINGS(test_one_more_than_descriptors)
BOTH_RINGS(test_config_refused)

int main(void)
{
#define BOTH(name) cmocka_unit_test(name##_split), cmocka_unit_test(name##_packed)
    const struct CMUnitTest tests[] = {
        BOTH(test_read_write_framings),
        BOTH(test_refusals),
        BOTH(test_read_only_and_4096),
        BOTH(test_id_flush_ranges),
        BOTH(test_write_through),
        BOTH(test_error_of_one_request),
        BOTH(test_write_through_and_resets),
        BOTH(test_write_through_from_the_start),
        BOTH(test_map_grows_under_io),
        BOTH(test_queue_without_kick),
        BOTH(test_bad_ranges),
        BOTH(test_ranges_on_read_only),
        BOTH(test_large_requests),
        BOTH(test_memory_cut_under_the_ring),
        BOTH(test_memory_cut_under_a_buffer),
        BOTH(test_memory_cut_under_a_status),
        BOTH(test_kicks_through_a_pipe),
        BOTH(test_kicks_through_a_socket),
        BOTH(test_large_ring_costs_little),
        BOTH(test_seg_max),
        BOTH(test_seg_max_hard_bound),
        BOTH(test_segments_across_regions),
        BOTH(test_size_max),
        BOTH(test_malformed_breaks_device),
        BOTH(test_drain),
        BOTH(test_config_space_and_resize),
        BOTH(test_many_in_flight),
        BOTH(test_one_more_than_descriptors),
        BOTH(test_config_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
