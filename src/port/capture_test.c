/* SPDX-License-Identifier: Apache-2.0 */
/* A capture's file is read back, block by block; threads put frames in while it starts and stops. */
#include "port/capture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "loop/clock.h"

static void drop_all(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool) {}

static const struct port_ops ops = {.type = "fake", .send = drop_all};

/* A frame whose bytes all follow from its number. */
struct frame {
    struct packet packet;
    struct iovec body;
    uint8_t head[PACKET_BUFFER_BYTES];
    uint8_t rest[3000];
};

static uint8_t byte_of(uint32_t number, uint32_t at)
{
    uint32_t v = at < 4 ? number >> 8 * at : number * 31 + at * 7;
    return (uint8_t)v;
}

static void frame_make(struct frame *f, uint32_t number, uint32_t bytes)
{
    uint16_t head = (uint16_t)min_u64(bytes, 60);
    f->packet = (struct packet){.head = f->head + PACKET_ROOM_BYTES,
                                .head_bytes = head,
                                .length_bytes = bytes,
                                .body = &f->body,
                                .body_count = bytes > head};
    f->body = (struct iovec){f->rest, bytes - head};
    for (uint32_t i = 0; i < bytes; i++)
        *(i < head ? f->packet.head + i : f->rest + i - head) = byte_of(number, i);
}

/* ---- reading ---- */

struct file_seen {
    unsigned frames, in, out, statistics;
    uint64_t received, dropped;
    uint32_t snap_bytes;
    char name[64];
    uint64_t last_ns;
    uint32_t last_number;
};

static uint32_t u32_at(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void check_frame(struct file_seen *seen, const uint8_t *block, uint32_t bytes)
{
    uint32_t captured = u32_at(block + 20), whole = u32_at(block + 24), padded = (captured + 3) / 4 * 4;
    assert_int_equal(u32_at(block + 8), 0);
    assert_int_equal(bytes, 28 + padded + 8 + 4 + 4);
    assert_int_equal(captured, min_u64(whole, seen->snap_bytes));
    const uint8_t *frame = block + 28, *option = frame + padded;
    uint32_t number = u32_at(frame);
    for (uint32_t i = 0; i < captured; i++)
        assert_int_equal(frame[i], byte_of(number, i));
    static const uint8_t flags_head[] = {2, 0, 4, 0};
    assert_memory_equal(option, flags_head, 4);
    uint32_t flags = u32_at(option + 4);
    assert_true(flags == 1 || flags == 2);
    if (flags == 1) seen->in++;
    else seen->out++;
    assert_int_equal(u32_at(option + 8), 0);
    seen->last_ns = (uint64_t)u32_at(block + 12) << 32 | u32_at(block + 16);
    seen->last_number = number;
    seen->frames++;
}

/* The value of an option, of n bytes. */
static const uint8_t *option_of(const uint8_t *at, const uint8_t *end, unsigned code, unsigned *n)
{
    while (at + 4 <= end) {
        unsigned this = at[0] | at[1] << 8;
        *n = at[2] | at[3] << 8;
        if (this == code) return at + 4;
        if (this == 0) break;
        at += 4 + (*n + 3) / 4 * 4;
    }
    fail();
    return NULL;
}

static struct file_seen read_file(int fd)
{
    struct file_seen seen = {0};
    off_t size = lseek(fd, 0, SEEK_END);
    uint8_t *data = malloc((size_t)size);
    assert_int_equal(pread(fd, data, (size_t)size, 0), size);
    unsigned n = 0, blocks = 0;
    for (uint32_t at = 0; at < size; blocks++) {
        const uint8_t *block = data + at;
        assert_true(size - at >= 12);
        uint32_t type = u32_at(block), bytes = u32_at(block + 4);
        assert_true(bytes % 4 == 0 && bytes <= size - at);
        assert_int_equal(u32_at(block + bytes - 4), bytes);
        const uint8_t *end = block + bytes - 4, *value;
        if (type == 0x0a0d0d0a) {
            assert_int_equal(blocks, 0);
            assert_int_equal(u32_at(block + 8), 0x1a2b3c4d);
            value = option_of(block + 24, end, 4, &n);
            assert_memory_equal(value, "Creedence", n);
        } else if (type == 1) {
            assert_int_equal(blocks, 1);
            assert_int_equal(u32_at(block + 8), 1);
            seen.snap_bytes = u32_at(block + 12);
            value = option_of(block + 16, end, 2, &n);
            memcpy(seen.name, value, n);
            value = option_of(block + 16, end, 9, &n);
            assert_int_equal(*value, 9);
        } else if (type == 6) {
            assert_true(blocks >= 2);
            check_frame(&seen, block, bytes);
        } else {
            assert_int_equal(type, 5);
            seen.statistics++;
            memcpy(&seen.received, option_of(block + 20, end, 4, &n), 8);
            memcpy(&seen.dropped, option_of(block + 20, end, 5, &n), 8);
        }
        at += bytes;
    }
    free(data);
    return seen;
}

static int scratch(void)
{
    int fd = memfd_create("capture", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* ---- tests ---- */

static void frames_are_written_with_their_direction(void **state)
{
    struct port port;
    struct errmsg e;
    struct port_capture *c, *other;
    struct frame f;
    struct packet *packets[] = {&f.packet};
    int fd = scratch();
    port_init(&port, &ops, "vif-1");
    assert_int_equal(
        port_capture_start(&c, &port, &(struct port_capture_config){.fd = fd, .direction = PORT_CAPTURE_BOTH}, &e), 0);
    assert_int_equal(port_capture_start(&other, &port, &(struct port_capture_config){.fd = fd}, &e), -EBUSY);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    atomic_store(&port.mtu, 9000);
    for (uint32_t i = 0; i < 300; i++) {
        frame_make(&f, i, 14 + i * 7);
        if (i % 3) port_send(&port, packets, 1, NULL);
        else port_capture_frames(c, packets, 1, PORT_CAPTURE_IN);
    }
    port_capture_stop(c);
    port_capture_stop(c); /* harmless */
    port_send(&port, packets, 1, NULL);
    struct port_capture_stats stats;
    port_capture_stats_read(c, &stats);
    port_capture_free(c);
    assert_int_equal(stats.frames, 300);
    assert_int_equal(stats.dropped + stats.error, 0);
    assert_int_equal(stats.written_bytes, lseek(fd, 0, SEEK_END));
    struct file_seen seen = read_file(fd);
    assert_string_equal(seen.name, "vif-1");
    assert_int_equal(seen.frames, 300);
    assert_int_equal(seen.in, 100);
    assert_int_equal(seen.out, 200);
    assert_int_equal(seen.statistics, 1);
    assert_int_equal(seen.received, 300);
    assert_int_equal(seen.last_number, 299);
    uint64_t started_ns = (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
    assert_true(seen.last_ns - started_ns < 60 * NS_PER_SECOND);
    close(fd);
}

static void frames_are_cut_and_one_direction_left_out(void **state)
{
    struct port port;
    struct errmsg e;
    struct port_capture *c;
    struct frame f;
    struct packet *packets[] = {&f.packet};
    int fd = scratch();
    port_init(&port, &ops, "p");
    assert_int_equal(
        port_capture_start(
            &c, &port, &(struct port_capture_config){.fd = fd, .snap_bytes = 101, .direction = PORT_CAPTURE_OUT}, &e),
        0);
    for (uint32_t bytes = 60; bytes <= 140; bytes++) {
        frame_make(&f, bytes, bytes);
        port_send(&port, packets, 1, NULL);
        port_capture_frames(c, packets, 1, PORT_CAPTURE_IN);
    }
    port_capture_stop(c);
    port_capture_free(c);
    struct file_seen seen = read_file(fd);
    assert_int_equal(seen.snap_bytes, 101);
    assert_int_equal(seen.frames, 81);
    assert_int_equal(seen.in, 0);
    close(fd);
}

struct traffic {
    struct port *port;
    uint32_t first;
    _Atomic bool *quit;
    _Atomic uint64_t sent;
};

static void *make_traffic(void *arg)
{
    struct traffic *t = arg;
    struct frame *frames = calloc(8, sizeof *frames);
    struct packet *packets[8];
    for (uint32_t number = t->first; !atomic_load(t->quit);) {
        for (unsigned i = 0; i < 8; i++, number++) {
            frame_make(&frames[i], number, 60 + number % 1300);
            packets[i] = &frames[i].packet;
        }
        port_send(t->port, packets, 8, NULL);
        atomic_fetch_add(&t->sent, 8);
    }
    free(frames);
    return NULL;
}

/* The ring wraps many times; every frame is whole, and counted either as written or as dropped. */
static void captures_come_and_go_under_traffic(void **state)
{
    struct port port;
    struct errmsg e;
    _Atomic bool quit = false;
    struct traffic traffic[3];
    pthread_t threads[3];
    struct port_capture *captures[10];
    port_init(&port, &ops, "busy");
    for (unsigned i = 0; i < 3; i++) {
        traffic[i] = (struct traffic){.port = &port, .first = i * 100000000, .quit = &quit};
        assert_int_equal(pthread_create(&threads[i], NULL, make_traffic, &traffic[i]), 0);
    }
    for (unsigned i = 0; i < ARRAY_LEN(captures); i++) {
        int fd = scratch();
        struct port_capture_config config = {.fd = fd, .ring_bytes = 1, .direction = PORT_CAPTURE_BOTH};
        assert_int_equal(port_capture_start(&captures[i], &port, &config, &e), 0);
        usleep(30000);
        port_capture_stop(captures[i]);
        struct port_capture_stats stats;
        port_capture_stats_read(captures[i], &stats);
        struct file_seen seen = read_file(fd);
        assert_int_equal(seen.frames, stats.frames);
        assert_int_equal(seen.received, stats.frames + stats.dropped);
        assert_int_equal(seen.dropped, stats.dropped);
        close(fd);
    }
    atomic_store(&quit, true);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < ARRAY_LEN(captures); i++) /* nobody can be inside any more */
        port_capture_free(captures[i]);
}

static void a_reader_that_stands_still_holds_nobody_up(void **state)
{
    struct port port;
    struct errmsg e;
    struct port_capture *c;
    struct frame f;
    struct packet *packets[] = {&f.packet};
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    port_init(&port, &ops, "p");
    struct port_capture_config config = {.fd = ends[1], .ring_bytes = 1, .direction = PORT_CAPTURE_BOTH};
    assert_int_equal(port_capture_start(&c, &port, &config, &e), 0);
    frame_make(&f, 1, 1500);
    uint64_t start_ns = clock_now_ns();
    for (unsigned i = 0; i < 10000; i++)
        port_send(&port, packets, 1, NULL);
    port_capture_stop(c);
    assert_true(clock_now_ns() - start_ns < 5 * NS_PER_SECOND);
    struct port_capture_stats stats;
    port_capture_stats_read(c, &stats);
    assert_true(stats.dropped > 9000);
    assert_int_equal(stats.frames + stats.dropped, 10000);
    assert_int_equal(stats.error, ETIMEDOUT);
    port_capture_free(c);
    close(ends[0]);
    close(ends[1]);
}

static void a_reader_that_is_gone_ends_the_capture(void **state)
{
    struct port port;
    struct errmsg e;
    struct port_capture *c;
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    close(ends[0]);
    port_init(&port, &ops, "p");
    assert_int_equal(
        port_capture_start(&c, &port, &(struct port_capture_config){.fd = ends[1], .direction = PORT_CAPTURE_BOTH}, &e),
        0);
    struct port_capture_stats stats;
    do {
        port_capture_stats_read(c, &stats);
    } while (!stats.error);
    assert_int_equal(stats.error, EPIPE);
    port_capture_stop(c);
    port_capture_free(c);
    close(ends[1]);
    assert_int_equal(port_capture_start(&c, &port, &(struct port_capture_config){.fd = -1}, &e), -EBADF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_written_with_their_direction),
        cmocka_unit_test(frames_are_cut_and_one_direction_left_out),
        cmocka_unit_test(captures_come_and_go_under_traffic),
        cmocka_unit_test(a_reader_that_stands_still_holds_nobody_up),
        cmocka_unit_test(a_reader_that_is_gone_ends_the_capture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
