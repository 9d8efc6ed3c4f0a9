/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ring holds blocks just as they go into the file. Its memory is mapped twice, one after the other, so that a block may pass the
 * end. head and tail count bytes ever; a block begins at a multiple of 4, and its first word is its type, which is
 * never zero in pcapng:
 *
 *     tail ... [ block ][ block ][ type still 0: being written ] ... head ... [ all zero ] ... tail + size
 *
 * A frame's thread moves head on by what it needs, fills that in, and stores the type last (release). The writer takes blocks from
 * tail on as long as their type is there (acquire), writes them, makes them zero, and only then moves tail on.
 *
 * Stopping: `users` counts the threads that are inside. They look at `stopped` after they have counted themselves, and stop
 * looks at `users` after it has set that, so that one of both sees the other.
 */
#include "port/capture.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "loop/thread.h"

#define BLOCK_SECTION 0x0a0d0d0au
#define BLOCK_INTERFACE 1u
#define BLOCK_STATISTICS 5u
#define BLOCK_PACKET 6u
#define BYTE_ORDER_MAGIC 0x1a2b3c4du
#define LINK_ETHERNET 1u
#define OPTION_END 0u
#define OPTION_SECTION_PROGRAM 4u
#define OPTION_INTERFACE_NAME 2u
#define OPTION_INTERFACE_RESOLUTION 9u
#define OPTION_PACKET_FLAGS 2u
#define OPTION_STATISTICS_RECEIVED 4u
#define OPTION_STATISTICS_DROPPED 5u

#define RING_MIN_BYTES (256u * 1024)
#define RING_MAX_BYTES (1u << 30)
#define WRITE_BYTES (256u * 1024) /* at once */
#define LOOK_MS 10                /* the writer looks for blocks this often; nobody wakes it */
#define LAST_NS NS_PER_SECOND     /* for what is left when it is stopped */

/* Everything in the writer's byte order. */
struct packet_block {
    uint32_t type, bytes;
    uint32_t interface;
    uint32_t time_high, time_low;
    uint32_t captured_bytes, frame_bytes;
};
struct packet_block_end { /* after the frame, padded to a multiple of 4 */
    uint16_t flags_option, flags_bytes;
    uint32_t flags; /* 1: came in, 2: went out */
    uint16_t end_option, end_bytes;
    uint32_t bytes;
};

struct port_capture {
    struct port *port;
    char name[PORT_NAME_BYTES]; /* the port's, for the writer: the port may be another by then */
    int fd, stop_fd;
    bool whole_writes; /* a file takes all at once, and nobody waits */
    uint32_t snap_bytes, direction;
    uint8_t *ring;
    uint64_t size; /* a power of two */
    pthread_t thread;
    _Atomic bool stopped;
    _Atomic int error;
    _Atomic uint64_t frames, dropped, written_bytes;
    uint64_t stop_ns; /* the writer's own: when it is over at the latest; 0: not yet known */
    _Alignas(64) _Atomic uint64_t head;
    _Atomic uint32_t users;
    _Alignas(64) _Atomic uint64_t tail;
};

/* ---- the threads that carry frames ---- */

static uint32_t captured_bytes(const struct port_capture *c, const struct packet *p)
{
    return (uint32_t)min_u64(p->length_bytes, c->snap_bytes);
}

static uint32_t block_bytes(uint32_t captured)
{
    return (uint32_t)(sizeof(struct packet_block) + align_up(captured, 4) + sizeof(struct packet_block_end));
}

/* Room for n bytes, in *at. False: there is none. */
static bool reserve(struct port_capture *c, uint64_t n, uint64_t *at)
{
    uint64_t head;
    do {
        /* The tail first: it may be old, but is never beyond the head. Acquire: what the writer made zero is zero. */
        uint64_t tail = atomic_load_explicit(&c->tail, memory_order_acquire);
        head = atomic_load_explicit(&c->head, memory_order_relaxed);
        if (head + n - tail > c->size) return false;
    } while (
        !atomic_compare_exchange_weak_explicit(&c->head, &head, head + n, memory_order_relaxed, memory_order_relaxed));
    *at = head;
    return true;
}

static void put_block(struct port_capture *c, uint64_t at, const struct packet *p, uint64_t time_ns, uint32_t flags)
{
    uint8_t *to = c->ring + (at & (c->size - 1));
    uint32_t captured = captured_bytes(c, p), bytes = block_bytes(captured);
    struct packet_block b = {.bytes = bytes,
                             .time_high = (uint32_t)(time_ns >> 32),
                             .time_low = (uint32_t)time_ns,
                             .captured_bytes = captured,
                             .frame_bytes = p->length_bytes};
    struct packet_block_end end = {.flags_option = OPTION_PACKET_FLAGS,
                                   .flags_bytes = 4,
                                   .flags = flags,
                                   .end_option = OPTION_END,
                                   .bytes = bytes};
    memcpy(to + sizeof b.type, (const uint8_t *)&b + sizeof b.type, sizeof b - sizeof b.type);
    packet_read(p, 0, to + sizeof b, captured);
    memcpy(to + bytes - sizeof end, &end, sizeof end);
    __atomic_store_n((uint32_t *)(void *)to, BLOCK_PACKET, __ATOMIC_RELEASE);
}

static uint64_t wall_clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SECOND + (uint64_t)ts.tv_nsec;
}

static void put_frames(struct port_capture *c, struct packet *const *packets, unsigned count, uint32_t flags)
{
    uint64_t time_ns = wall_clock_ns(), at;
    unsigned put = 0;
    for (unsigned i = 0; i < count; i++) {
        if (!reserve(c, block_bytes(captured_bytes(c, packets[i])), &at)) break;
        put_block(c, at, packets[i], time_ns, flags);
        put++;
    }
    atomic_fetch_add_explicit(&c->frames, put, memory_order_relaxed);
    if (put < count) atomic_fetch_add_explicit(&c->dropped, count - put, memory_order_relaxed);
}

void port_capture_frames(struct port_capture *c, struct packet *const *packets, unsigned count,
                         enum port_capture_direction direction)
{
    if (!(c->direction & direction)) return;
    atomic_fetch_add(&c->users, 1);
    if (!atomic_load(&c->stopped)) put_frames(c, packets, count, direction);
    atomic_fetch_sub(&c->users, 1);
}

/* ---- the writer ---- */

/* 0 when it may be written to; an error, or -ETIMEDOUT after the stop. */
static int wait_writable(struct port_capture *c)
{
    for (;;) {
        bool stopped = atomic_load(&c->stopped);
        if (stopped && c->stop_ns == 0) c->stop_ns = clock_now_ns() + LAST_NS;
        if (stopped && clock_now_ns() >= c->stop_ns) return -ETIMEDOUT;
        struct pollfd polls[] = {{.fd = c->fd, .events = POLLOUT}, {.fd = stopped ? -1 : c->stop_fd, .events = POLLIN}};
        int n = poll(polls, 2, stopped ? LOOK_MS : -1);
        if (n < 0 && errno != EINTR) return -errno;
        if (n > 0 && polls[0].revents) return 0; /* an error shows when it is written to */
    }
}

/* All of it, or the capture has failed. A pipe that poll() found writable takes PIPE_BUF bytes without waiting. */
static void write_out(struct port_capture *c, const uint8_t *data, size_t bytes)
{
    while (bytes && !atomic_load_explicit(&c->error, memory_order_relaxed)) {
        int ret = c->whole_writes ? 0 : wait_writable(c);
        ssize_t n = -1;
        if (ret == 0) {
            n = write(c->fd, data, c->whole_writes ? bytes : min_u64(bytes, 4096));
            if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
            ret = n < 0 ? -errno : 0;
        }
        if (ret < 0) {
            atomic_store(&c->error, -ret);
            return;
        }
        atomic_fetch_add_explicit(&c->written_bytes, (uint64_t)n, memory_order_relaxed);
        data += n;
        bytes -= (size_t)n;
    }
}

/*
 * The blocks that are finished, as many as are written at once. False: there is none. A block's type is looked at where its thread
 * stored it, in the first of both mappings, so the walk ends with the block that passes the end: the memory is the same one
 * behind it, but order between threads is promised for an address (and checked for it, by the thread sanitizer).
 */
static bool write_some(struct port_capture *c)
{
    uint64_t tail = atomic_load_explicit(&c->tail, memory_order_relaxed), start = tail & (c->size - 1), size = 0;
    uint8_t *from = c->ring + start;
    while (size < WRITE_BYTES && start + size < c->size) {
        struct packet_block *b = (struct packet_block *)(void *)(from + size);
        if (__atomic_load_n(&b->type, __ATOMIC_ACQUIRE) == 0) break;
        size += b->bytes;
    }
    if (size == 0) return false;
    write_out(c, from, size);
    memset(from, 0, size);
    atomic_store_explicit(&c->tail, tail + size, memory_order_release);
    return true;
}

struct builder {
    uint8_t data[512];
    size_t bytes;
};

static void put(struct builder *b, const void *data, size_t n)
{
    assert(n <= sizeof b->data - b->bytes);
    memcpy(b->data + b->bytes, data, n);
    b->bytes += n;
}

static void put_u32(struct builder *b, uint32_t v)
{
    put(b, &v, sizeof v);
}

static void put_option(struct builder *b, uint32_t code, const void *data, size_t n)
{
    uint16_t head[] = {(uint16_t)code, (uint16_t)n};
    put(b, head, sizeof head);
    put(b, data, n);
    put(b, "\0\0\0", (4 - n % 4) % 4);
}

/* Begins at `start`, where its type and a place for its length are. */
static void put_end(struct builder *b, size_t start)
{
    put_option(b, OPTION_END, "", 0);
    uint32_t bytes = (uint32_t)(b->bytes - start + 4);
    memcpy(b->data + start + 4, &bytes, 4);
    put_u32(b, bytes);
}

static void write_beginning(struct port_capture *c)
{
    struct builder b = {.bytes = 0};
    static const char program[] = "Creedence";
    put_u32(&b, BLOCK_SECTION);
    put_u32(&b, 0);
    put_u32(&b, BYTE_ORDER_MAGIC);
    put(&b, (const uint16_t[]){1, 0}, 4);
    put(&b, &(const int64_t){-1}, 8);
    put_option(&b, OPTION_SECTION_PROGRAM, program, sizeof program - 1);
    put_end(&b, 0);
    size_t start = b.bytes;
    put_u32(&b, BLOCK_INTERFACE);
    put_u32(&b, 0);
    put_u32(&b, LINK_ETHERNET);
    put_u32(&b, c->snap_bytes);
    put_option(&b, OPTION_INTERFACE_NAME, c->name, strlen(c->name));
    put_option(&b, OPTION_INTERFACE_RESOLUTION, &(const uint8_t){9}, 1);
    put_end(&b, start);
    write_out(c, b.data, b.bytes);
}

static void write_statistics(struct port_capture *c)
{
    struct builder b = {.bytes = 0};
    uint64_t time_ns = wall_clock_ns(), frames = atomic_load(&c->frames), dropped = atomic_load(&c->dropped);
    put_u32(&b, BLOCK_STATISTICS);
    put_u32(&b, 0);
    put_u32(&b, 0);
    put_u32(&b, (uint32_t)(time_ns >> 32));
    put_u32(&b, (uint32_t)time_ns);
    frames += dropped;
    put_option(&b, OPTION_STATISTICS_RECEIVED, &frames, sizeof frames);
    put_option(&b, OPTION_STATISTICS_DROPPED, &dropped, sizeof dropped);
    put_end(&b, 0);
    write_out(c, b.data, b.bytes);
}

static void *writer_main(void *arg)
{
    struct port_capture *c = arg;
    write_beginning(c);
    for (;;) {
        bool stopped = atomic_load(&c->stopped); /* before the last look */
        if (write_some(c)) continue;
        if (stopped && atomic_load(&c->users) == 0 && !write_some(c)) break;
        struct pollfd stop = {.fd = stopped ? -1 : c->stop_fd, .events = POLLIN};
        poll(&stop, 1, LOOK_MS);
    }
    write_statistics(c);
    return NULL;
}

/* ---- starting and stopping ---- */

/* size bytes, and the same once more behind them. */
static uint8_t *map_twice(uint64_t size)
{
    int fd = memfd_create("creedence-capture", MFD_CLOEXEC);
    if (fd < 0) return NULL;
    uint8_t *ring = NULL;
    void *space = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space != MAP_FAILED) {
        ring = space;
        const int how = MAP_SHARED | MAP_FIXED, protection = PROT_READ | PROT_WRITE;
        if (ftruncate(fd, (off_t)size) < 0 || mmap(ring, size, protection, how, fd, 0) == MAP_FAILED ||
            mmap(ring + size, size, protection, how, fd, 0) == MAP_FAILED) {
            int error = errno;
            munmap(space, 2 * size);
            errno = error;
            ring = NULL;
        }
    }
    int error = errno;
    close(fd);
    errno = error;
    return ring;
}

static void let_go(struct port_capture *c)
{
    if (c->ring) munmap(c->ring, 2 * c->size);
    if (c->fd >= 0) close(c->fd);
    if (c->stop_fd >= 0) close(c->stop_fd);
    c->ring = NULL;
    c->fd = c->stop_fd = -1;
}

static int capture_fill(struct port_capture *c, const struct port_capture_config *config, struct errmsg *e)
{
    struct stat st;
    uint64_t wanted = config->ring_bytes ? config->ring_bytes : PORT_CAPTURE_RING_DEFAULT;
    for (c->size = RING_MIN_BYTES; c->size < wanted && c->size < RING_MAX_BYTES;)
        c->size *= 2;
    c->snap_bytes = config->snap_bytes ? config->snap_bytes : PORT_CAPTURE_SNAP_MAX;
    c->snap_bytes = (uint32_t)min_u64(c->snap_bytes, PORT_CAPTURE_SNAP_MAX);
    c->direction = config->direction;
    c->fd = fcntl(config->fd, F_DUPFD_CLOEXEC, 3);
    if (c->fd < 0 || fstat(c->fd, &st) < 0) return errmsg_sys(e, errno, "capture of %s", c->port->name);
    c->whole_writes = S_ISREG(st.st_mode);
    c->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->stop_fd < 0) return errmsg_sys(e, errno, "capture of %s", c->port->name);
    c->ring = map_twice(c->size);
    if (!c->ring)
        return errmsg_sys(e, errno, "capture of %s: a ring of %llu bytes", c->port->name, (unsigned long long)c->size);
    int ret = thread_start(&c->thread, "capture", writer_main, c);
    return ret < 0 ? errmsg_sys(e, -ret, "capture of %s", c->port->name) : 0;
}

int port_capture_start(struct port_capture **out, struct port *p, const struct port_capture_config *config,
                       struct errmsg *e)
{
    if (atomic_load(&p->capture)) return errmsg_set(e, EBUSY, "%s is being captured already", p->name);
    struct port_capture *c = aligned_alloc(64, align_up(sizeof *c, 64));
    if (!c) return errmsg_sys(e, ENOMEM, "capture of %s", p->name);
    memset(c, 0, sizeof *c);
    c->port = p;
    memcpy(c->name, p->name, sizeof c->name);
    c->fd = c->stop_fd = -1;
    int ret = capture_fill(c, config, e);
    if (ret < 0) {
        let_go(c);
        free(c);
        return ret;
    }
    atomic_store_explicit(&p->capture, c, memory_order_release);
    *out = c;
    return 0;
}

void port_capture_move(struct port_capture *c, struct port *to)
{
    atomic_store(&c->port->capture, NULL);
    c->port = to;
    atomic_store(&to->capture, c);
}

void port_capture_stop(struct port_capture *c)
{
    uint64_t one = 1;
    if (atomic_load(&c->stopped)) return;
    atomic_store(&c->port->capture, NULL);
    atomic_store(&c->stopped, true);
    ssize_t n = write(c->stop_fd, &one, sizeof one);
    (void)n;
    pthread_join(c->thread, NULL);
    let_go(c);
}

void port_capture_free(struct port_capture *c)
{
    if (!c) return;
    assert(atomic_load(&c->stopped));
    free(c);
}

void port_capture_stats_read(struct port_capture *c, struct port_capture_stats *out)
{
    *out = (struct port_capture_stats){
        .frames = atomic_load_explicit(&c->frames, memory_order_relaxed),
        .dropped = atomic_load_explicit(&c->dropped, memory_order_relaxed),
        .written_bytes = atomic_load_explicit(&c->written_bytes, memory_order_relaxed),
        .error = atomic_load_explicit(&c->error, memory_order_relaxed),
    };
}
