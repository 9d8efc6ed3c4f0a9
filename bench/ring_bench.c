/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a virtqueue costs per request, nothing done in between: pop and push of chains as virtio-blk drivers make them (a
 * header of 16 bytes, a buffer of 4 KiB, a status byte), published once a batch.
 *
 *   warm    driver and device take turns on one core; only the device's part is timed, and the median batch is shown
 *   across  they run on two threads, each spinning: what a request costs when every line of the ring travels
 *
 * usage: ring-bench [requests per figure, default 4000000]
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "ring/driver_sim.h"
#include "ring/virtq.h"

#define QUEUE_SIZE 256u
#define BATCH 32u
#define BUFFERS_BYTES (64u << 20)
#define GUEST_BASE UINT64_C(0x100000000)

struct shape {
    bool packed, indirect, tracked;
};

struct bench {
    struct shape shape;
    char *mem;
    size_t mem_bytes, buffers;
    struct guest_map *map;
    struct driver_sim *driver;
    struct virtq *q;
    uint64_t requests;
    uint64_t random;
};

static void fail(const char *what)
{
    fprintf(stderr, "ring-bench: %s\n", what);
    exit(1);
}

static void set_up(struct bench *b)
{
    bool packed = b->shape.packed;
    size_t driver = virtq_desc_bytes(QUEUE_SIZE),
           device = driver + align_up(virtq_driver_bytes(QUEUE_SIZE, packed), 64);
    size_t indirect = device + align_up(virtq_device_bytes(QUEUE_SIZE, packed), 64);
    size_t inflight = indirect + QUEUE_SIZE * 3 * 16;
    b->buffers = align_up(inflight + virtq_inflight_bytes(QUEUE_SIZE, packed), 4096);
    b->mem_bytes = b->buffers + BUFFERS_BYTES;
    int fd = memfd_create("ring-bench", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)b->mem_bytes)) fail("no memory");
    struct guest_region_desc region = {{GUEST_BASE}, b->mem_bytes, 0x10000000, 0};
    struct errmsg e;
    if (guest_map_new(&b->map, &region, &fd, 1, NULL, &e)) fail(e.text);
    close(fd);
    b->mem = guest_map_at(b->map, (struct gpa){GUEST_BASE}, b->mem_bytes);
    memset(b->mem, 0, b->mem_bytes);
    struct virtq_setup s = {.size = QUEUE_SIZE, .packed = packed, .event_idx = true, .indirect = true};
    s.desc = b->mem, s.driver = b->mem + driver, s.device = b->mem + device;
    s.base = packed ? 0x80008000 : 0;
    s.inflight = b->shape.tracked ? b->mem + inflight : NULL;
    struct driver_sim_setup d = {.size = QUEUE_SIZE, .packed = packed, .event_idx = true, .base = s.base};
    d.desc = s.desc, d.driver = s.driver, d.device = s.device;
    d.indirect = b->mem + indirect, d.indirect_addr.v = GUEST_BASE + indirect, d.indirect_max = 3;
    if (driver_sim_new(&b->driver, &d)) fail("no memory");
    if (virtq_new(&b->q, &s, b->map, &e)) fail(e.text);
}

static void tear_down(struct bench *b)
{
    virtq_free(b->q);
    driver_sim_free(b->driver);
    guest_map_unref(b->map);
}

/* A read of a random page of memory. The driver writes the header, as a guest does. */
static bool add(struct bench *b, uint64_t n)
{
    b->random = b->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
    uint64_t page = b->buffers + 4096 + (b->random >> 33) % (BUFFERS_BYTES / 4096 - 1) * 4096;
    uint64_t header = b->buffers + n % (4096 / 64) * 64;
    const struct driver_sim_buf buf[3] = {
        {{GUEST_BASE + header}, 16, false}, {{GUEST_BASE + page}, 4096, true}, {{GUEST_BASE + header + 32}, 1, true}};
    if (!driver_sim_add(b->driver, buf, 3, b->shape.indirect, n)) return false;
    uint64_t *fields = (uint64_t *)(void *)(b->mem + header);
    __atomic_store_n(&fields[1], n, __ATOMIC_RELAXED);
    return true;
}

/* The device's half of one batch. Returns how many there were. */
static unsigned serve(struct bench *b)
{
    struct virtq_chain c[BATCH];
    struct iovec iov[8];
    unsigned n = 0;
    while (n < BATCH) {
        int ret = virtq_pop(b->q, &c[n], iov, 8);
        if (ret < 0) fail(virtq_broken(b->q));
        if (ret == 0) break;
        n++;
    }
    for (unsigned i = 0; i < n; i++)
        virtq_push(b->q, c[i].id, 4097);
    if (n) virtq_publish(b->q);
    return n;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The median: on a busy machine the mean is that of the batches in which somebody else ran. */
static double warm_ns(struct bench *b)
{
    uint64_t token, done = 0, batches = 0;
    uint32_t written;
    uint64_t *batch_ns = malloc((b->requests / BATCH + 1) * sizeof *batch_ns);
    if (!batch_ns) fail("no memory");
    while (done < b->requests) {
        for (unsigned i = 0; i < BATCH; i++)
            add(b, done + i);
        driver_sim_publish(b->driver);
        uint64_t start_ns = clock_now_ns();
        done += serve(b);
        batch_ns[batches++] = clock_now_ns() - start_ns;
        while (driver_sim_get(b->driver, &token, &written))
            ;
    }
    qsort(batch_ns, batches, sizeof *batch_ns, by_size);
    uint64_t middle = batches / 2;
    double median_ns = (double)batch_ns[middle] / BATCH;
    free(batch_ns);
    return median_ns;
}

static void *device_thread(void *arg)
{
    struct bench *b = arg;
    virtq_kick_disable(b->q);
    for (uint64_t done = 0; done < b->requests;)
        done += serve(b);
    return NULL;
}

static double across_ns(struct bench *b)
{
    pthread_t thread;
    uint64_t added = 0, done = 0, token;
    uint32_t written;
    driver_sim_calls_off(b->driver);
    if (pthread_create(&thread, NULL, device_thread, b)) fail("no thread");
    uint64_t start_ns = clock_now_ns();
    while (done < b->requests) {
        unsigned n = 0;
        while (added < b->requests && added - done < BATCH && add(b, added))
            added++, n++;
        if (n) driver_sim_publish(b->driver);
        while (driver_sim_get(b->driver, &token, &written))
            done++;
    }
    uint64_t spent_ns = clock_now_ns() - start_ns;
    pthread_join(thread, NULL);
    return (double)spent_ns / (double)done;
}

static void figure(struct shape shape, uint64_t requests)
{
    double best[2] = {1e9, 1e9};
    for (unsigned round = 0; round < 3; round++)
        for (unsigned across = 0; across < 2; across++) {
            struct bench b = {.shape = shape, .requests = requests / 3};
            set_up(&b);
            double ns = across ? across_ns(&b) : warm_ns(&b);
            if (driver_sim_error(b.driver)) fail(driver_sim_error(b.driver));
            if (ns < best[across]) best[across] = ns;
            tear_down(&b);
        }
    printf("%-7s %-9s %-9s %8.1f %8.1f\n", shape.packed ? "packed" : "split", shape.indirect ? "indirect" : "direct",
           shape.tracked ? "tracked" : "-", best[0], best[1]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    uint64_t requests = argc > 1 ? strtoull(argv[1], NULL, 10) : 4000000;
    if (requests < 3 || argc > 2) {
        fprintf(stderr, "usage: ring-bench [requests per figure]\n");
        return 2;
    }
#ifdef CREEDENCE_SANITIZED
    puts("ring-bench: a sanitized build: these are not figures");
#endif
    printf("ns per request of 3 buffers, queue %u, batch %u; best of 3\n", QUEUE_SIZE, BATCH);
    printf("%-7s %-9s %-9s %8s %8s\n", "ring", "table", "in-flight", "warm", "across");
    for (unsigned i = 0; i < 8; i++)
        figure((struct shape){.packed = i & 4, .indirect = i & 2, .tracked = i & 1}, requests);
    return 0;
}
