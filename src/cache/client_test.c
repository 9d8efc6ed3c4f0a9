/* SPDX-License-Identifier: Apache-2.0 */
/* Readers against a service that evicts, dies, stands still or lies; and a service against clients that do harm. */
#include "cache/test_util.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* ---- eviction at full speed under readers ---- */

struct race {
    struct cache_service *service;
    const struct image *image;
    const uint8_t *whole;
    _Atomic bool stop;
};

struct race_reader {
    struct race *race;
    struct reader reader;
    uint64_t seed;
    uint64_t reads;
};

static void *evict_body(void *arg)
{
    struct race *race = arg;
    while (!atomic_load(&race->stop))
        cache_service_drop(race->service, NULL);
    return NULL;
}

static void *read_body(void *arg)
{
    struct race_reader *rr = arg;
    uint8_t *buf = malloc(256 * KIB);
    while (!atomic_load(&rr->race->stop)) {
        uint64_t size = rr->race->image->size_bytes;
        uint64_t offset = rnd(&rr->seed) % (size / 512) * 512;
        uint64_t most = rnd(&rr->seed) % 8 == 0 ? 256 * KIB : 8 * KIB;
        uint64_t bytes = min_u64((rnd(&rr->seed) % (most / 512) + 1) * 512, size - offset);
        assert_int_equal(reader_read(&rr->reader, buf, offset, bytes), 0);
        assert_memory_equal(buf, rr->race->whole + offset, bytes);
        rr->reads++;
    }
    free(buf);
    return NULL;
}

/* Every byte equals the uncached one although what is read is thrown out all the time. */
static void test_reads_race_with_eviction(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 6 * MIB, 21);
    image_write(&im, 0, 3 * MIB);
    image_write(&im, 4 * MIB + 20 * KIB, MIB);
    uint8_t *whole = calloc(1, im.size_bytes);
    int fd = open(im.path, O_RDONLY);
    assert_int_equal(pread(fd, whole, im.size_bytes, 0), im.size_bytes);
    close(fd);
    struct race race = {.service = service_make(16 * MIB, NULL), .image = &im, .whole = whole};
    struct race_reader rr[3];
    pthread_t readers[3], evictor;
    for (unsigned i = 0; i < 3; i++) {
        rr[i] = (struct race_reader){.race = &race, .seed = i + 1};
        reader_open(&rr[i].reader, im.path, service_channel(race.service, im.path));
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_create(&readers[i], NULL, read_body, &rr[i]);
    pthread_create(&evictor, NULL, evict_body, &race);
    sleep(3);
    atomic_store(&race.stop, true);
    uint64_t hits = 0, reads = 0;
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(readers[i], NULL);
        hits += atomic_load(&reader_counters(&rr[i].reader)->hit_bytes);
        reads += rr[i].reads;
        reader_close(&rr[i].reader);
    }
    pthread_join(evictor, NULL);
    struct cache_base_stats b = service_base_stats(race.service, NULL);
    assert_true(b.evicted_bytes > 0 && hits > 0 && reads > 100);
    cache_service_stop(race.service);
    image_drop(&im);
    free(whole);
}

/* ---- a service in a process of its own ---- */

struct process {
    pid_t pid;
    int control; /* a byte asks for a channel */
};

static void send_fd(int sock, int fd)
{
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
    assert_int_equal(sendmsg(sock, &msg, 0), 1);
}

static int recv_fd(int sock)
{
    int fd = -1;
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    assert_int_equal(recvmsg(sock, &msg, 0), 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
    return fd;
}

/* No other thread may run. */
static struct process process_start(const char *path)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        struct cache_service *s = service_make(64 * MIB, NULL);
        for (char byte; read(pair[1], &byte, 1) == 1;) {
            int fd = service_channel(s, path);
            send_fd(pair[1], fd);
            close(fd);
        }
        cache_service_stop(s);
        _exit(0);
    }
    close(pair[1]);
    return (struct process){pid, pair[0]};
}

static int process_channel(const struct process *p)
{
    assert_int_equal(write(p->control, "c", 1), 1);
    return recv_fd(p->control);
}

static void process_end(struct process *p, int signal)
{
    if (signal) kill(p->pid, signal);
    close(p->control);
    assert_int_equal(waitpid(p->pid, NULL, 0), p->pid);
}

static void test_service_killed_and_back(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 16 * MIB, 22);
    image_write(&im, 0, im.size_bytes);
    struct process p = process_start(im.path);
    struct reader r;
    static uint8_t buf[32][64 * KIB];
    struct reader_req q[32];
    reader_open(&r, im.path, process_channel(&p));
    assert_int_equal(reader_read(&r, buf[0], 0, MIB / 16), 0);
    for (unsigned round = 0; round < 5; round++) {
        /* Thirty-two reads under way when it is killed: all end well. */
        kill(p.pid, SIGSTOP);
        for (unsigned i = 0; i < 32; i++)
            reader_submit(&r, &q[i], buf[i], (round * 32 + i + 1) % 250 * 64 * KIB, 64 * KIB);
        process_end(&p, SIGKILL);
        assert_int_equal(reader_wait(&r), 0);
        for (unsigned i = 0; i < 32; i++)
            assert_true(pattern_check(buf[i], (round * 32 + i + 1) % 250 * 64 * KIB, 64 * KIB, 22));
        assert_false(cache_client_connected(r.client));
        assert_true(atomic_load(&reader_counters(&r)->direct_bytes) > 0);
        /* What was mapped still answers; what was not is read directly. */
        assert_int_equal(reader_try(&r, buf[0], 0, 64 * KIB), 0);
        assert_true(pattern_check(buf[0], 0, 64 * KIB, 22));
        assert_int_equal(reader_read(&r, buf[0], 15 * MIB + round * 128 * KIB, 64 * KIB), 0);
        assert_true(pattern_check(buf[0], 15 * MIB + round * 128 * KIB, 64 * KIB, 22));
        /* It is back, empty, and used. */
        p = process_start(im.path);
        assert_int_equal(cache_client_attach(r.client, process_channel(&p)), 0);
        uint64_t direct = atomic_load(&reader_counters(&r)->direct_bytes);
        assert_true(cache_client_connected(r.client));
        assert_int_equal(reader_try(&r, buf[0], 0, 64 * KIB), -EAGAIN);
        assert_int_equal(reader_read(&r, buf[0], 0, 64 * KIB), 0);
        assert_true(pattern_check(buf[0], 0, 64 * KIB, 22));
        assert_int_equal(atomic_load(&reader_counters(&r)->direct_bytes), direct);
    }
    reader_close(&r);
    process_end(&p, 0);
    image_drop(&im);
}

/* Attaching another channel while answers of the first are awaited. */
static void test_attach_in_the_midst(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 8 * MIB, 23);
    image_write(&im, 0, im.size_bytes);
    struct process p = process_start(im.path);
    struct reader r;
    static uint8_t buf[16][64 * KIB];
    struct reader_req q[16];
    reader_open(&r, im.path, process_channel(&p));
    for (unsigned round = 0; round < 10; round++) {
        int next = process_channel(&p);
        for (unsigned i = 0; i < 16; i++)
            reader_submit(&r, &q[i], buf[i], (round * 16 + i) % 128 * 64 * KIB, 64 * KIB);
        assert_int_equal(cache_client_attach(r.client, next), 0);
        assert_int_equal(reader_wait(&r), 0);
        for (unsigned i = 0; i < 16; i++)
            assert_true(pattern_check(buf[i], (round * 16 + i) % 128 * 64 * KIB, 64 * KIB, 23));
    }
    assert_int_equal(cache_client_attach(r.client, -1), 0);
    assert_false(cache_client_connected(r.client));
    assert_int_equal(reader_read(&r, buf[0], 0, 64 * KIB), 0);
    reader_close(&r);
    process_end(&p, 0);
    image_drop(&im);
}

/* A service that is there but does nothing costs seconds once, and is used again when it goes on. */
static void test_service_stands_still(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 4 * MIB, 24);
    image_write(&im, 0, im.size_bytes);
    struct process p = process_start(im.path);
    struct reader r;
    static uint8_t buf[64 * KIB];
    reader_open(&r, im.path, process_channel(&p));
    kill(p.pid, SIGSTOP);
    uint64_t start_ns = clock_now_ns();
    assert_int_equal(reader_read(&r, buf, 0, sizeof buf), 0);
    assert_true(pattern_check(buf, 0, sizeof buf, 24));
    assert_in_range((clock_now_ns() - start_ns) / NS_PER_MS, 1000, 8000);
    start_ns = clock_now_ns();
    for (uint64_t offset = MIB; offset < 2 * MIB; offset += sizeof buf)
        assert_int_equal(reader_read(&r, buf, offset, sizeof buf), 0);
    assert_in_range((clock_now_ns() - start_ns) / NS_PER_MS, 0, 1000);
    assert_false(cache_client_connected(r.client));
    kill(p.pid, SIGCONT);
    for (unsigned i = 0; i < 500 && !cache_client_connected(r.client); i++)
        engine_sleep(r.engine, 10 * NS_PER_MS);
    assert_true(cache_client_connected(r.client));
    uint64_t direct = atomic_load(&reader_counters(&r)->direct_bytes);
    assert_int_equal(reader_read(&r, buf, 3 * MIB, sizeof buf), 0);
    assert_int_equal(atomic_load(&reader_counters(&r)->direct_bytes), direct);
    reader_close(&r);
    process_end(&p, 0);
    image_drop(&im);
}

/* ---- more requests than a channel and a layer take at once ---- */

static void test_many_requests(void **state)
{
    (void)state;
    enum { COUNT = 1000 };
    struct image im;
    image_make(&im, 64 * MIB, 25);
    for (uint64_t offset = 0; offset < im.size_bytes; offset += 512 * KIB)
        image_write(&im, offset, 192 * KIB);
    struct cache_service *s = service_make(32 * MIB, NULL);
    struct reader r;
    reader_open(&r, im.path, service_channel(s, im.path));
    struct reader_req *q = calloc(COUNT, sizeof *q);
    uint8_t *buf = malloc(COUNT * 64 * KIB);
    for (unsigned round = 0; round < 3; round++) {
        uint64_t seed = round;
        for (unsigned i = 0; i < COUNT; i++)
            reader_submit(&r, &q[i], buf + i * 64 * KIB, rnd(&seed) % 1023 * 64 * KIB + 4096, 64 * KIB);
        assert_int_equal(reader_wait(&r), 0);
        for (unsigned i = 0; i < COUNT; i++) {
            uint64_t offset = q[i].req.offset_bytes;
            for (unsigned n = 0; n < 16; n++, offset += 4096) {
                const uint8_t *at = buf + i * 64 * KIB + n * 4096;
                bool data = offset % (512 * KIB) < 192 * KIB;
                assert_true(data ? pattern_check(at, offset, 4096, 25) : all_zero(at, 4096));
            }
        }
    }
    /* One request over everything: many runs of both kinds. */
    reader_submit(&r, &q[0], buf, 0, 32 * MIB);
    assert_int_equal(reader_wait(&r), 0);
    for (uint64_t offset = 0; offset < 32 * MIB; offset += 64 * KIB) {
        bool data = offset % (512 * KIB) < 192 * KIB;
        assert_true(data ? pattern_check(buf + offset, offset, 64 * KIB, 25) : all_zero(buf + offset, 64 * KIB));
    }
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
    free(q);
    free(buf);
}

/* ---- clients that do harm ---- */

/* Take the greeting off the channel; returns the three descriptors of the first layer. */
static void take_hello(int channel, int *fds)
{
    struct cache_hello hello;
    char control[CMSG_SPACE(3 * sizeof(int))];
    struct iovec iov = {&hello, sizeof hello};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    assert_int_equal(recvmsg(channel, &msg, 0), sizeof hello);
    assert_int_equal(hello.type, CACHE_MSG_HELLO);
    assert_int_equal(hello.layer_count, 1);
    memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&msg)), 3 * sizeof(int));
}

static void close_all(const int *fds)
{
    for (unsigned i = 0; i < 3; i++)
        close(fds[i]);
}

static bool closed_within(int channel, int timeout_ms)
{
    struct pollfd p = {.fd = channel, .events = POLLRDHUP};
    uint64_t end_ns = clock_now_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    while (clock_now_ns() < end_ns)
        if (poll(&p, 1, 10) > 0 && p.revents & (POLLHUP | POLLRDHUP)) return true;
    return false;
}

static void test_malformed_messages(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, MIB, 26);
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(16 * MIB, NULL);
    struct reader good;
    static uint8_t buf[64 * KIB];
    reader_open(&good, im.path, service_channel(s, im.path));
    const struct cache_fill ok = {.type = CACHE_MSG_FILL, .block_count = 1};
    struct cache_fill bad[7] = {ok, ok, ok, ok, ok, ok, ok};
    bad[0].type = 77;
    bad[1].layer = 1;
    bad[2].block_count = 0;
    bad[3].block_count = CACHE_FILL_MAX_BLOCKS + 1;
    bad[4].first_block = MIB / 4096;
    bad[5].first_block = UINT64_MAX;
    bad[6].first_block = MIB / 4096 - 1, bad[6].block_count = 2;
    for (unsigned i = 0; i < ARRAY_LEN(bad) + 3; i++) {
        int fds[3], channel = service_channel(s, im.path);
        take_hello(channel, fds);
        char large[4096] = {0};
        if (i < ARRAY_LEN(bad)) assert_int_equal(send(channel, &bad[i], sizeof bad[i], 0), sizeof bad[i]);
        else if (i == ARRAY_LEN(bad)) assert_int_equal(send(channel, &ok, sizeof ok - 1, 0), sizeof ok - 1);
        else if (i == ARRAY_LEN(bad) + 1) assert_int_equal(send(channel, large, sizeof large, 0), sizeof large);
        else assert_int_equal(send(channel, large, 0, 0), 0);
        assert_true(closed_within(channel, 2000));
        close(channel);
        close_all(fds);
        assert_int_equal(reader_read(&good, buf, i * 64 * KIB, sizeof buf), 0);
        assert_true(pattern_check(buf, i * 64 * KIB, sizeof buf, 26));
    }
    struct cache_service_stats whole;
    service_base_stats(s, &whole);
    assert_int_equal(whole.channels_refused, ARRAY_LEN(bad) + 2); /* an empty message is just an end */
    assert_int_equal(whole.channels, 1);
    assert_int_equal(atomic_load(&reader_counters(&good)->direct_bytes), 0);
    reader_close(&good);
    cache_service_stop(s);
    image_drop(&im);
}

/* It asks and asks, and reads no answer. The service neither waits for it nor keeps anything for it. */
static void test_client_that_does_not_read(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, MIB, 27);
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(16 * MIB, NULL);
    struct reader good;
    static uint8_t buf[64 * KIB];
    reader_open(&good, im.path, service_channel(s, im.path));
    int fds[3], channel = service_channel(s, im.path);
    take_hello(channel, fds);
    const struct cache_fill fill = {.type = CACHE_MSG_FILL, .block_count = 1};
    for (unsigned i = 0; i < 100000; i++) {
        if (send(channel, &fill, sizeof fill, MSG_NOSIGNAL) == (ssize_t)sizeof fill) continue;
        if (errno != EAGAIN) break;
        usleep(1000);
    }
    assert_true(closed_within(channel, 2000));
    close(channel);
    close_all(fds);
    assert_int_equal(reader_read(&good, buf, 0, sizeof buf), 0);
    assert_true(pattern_check(buf, 0, sizeof buf, 27));
    struct cache_service_stats whole;
    service_base_stats(s, &whole);
    assert_int_equal(whole.channels_refused, 1);
    reader_close(&good);
    cache_service_stop(s);
    image_drop(&im);
}

/* It leaves in the midst of everything, again and again. */
static void test_clients_that_leave(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 32 * MIB, 28);
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(16 * MIB, NULL);
    for (uint64_t i = 0; i < 200; i++) {
        int fds[3], channel = service_channel(s, im.path);
        take_hello(channel, fds);
        for (uint64_t n = 0; n < 8; n++) {
            const struct cache_fill fill = {
                .type = CACHE_MSG_FILL, .block_count = 256, .cookie = n, .first_block = (i * 8 + n) * 509 % 7900};
            assert_int_equal(send(channel, &fill, sizeof fill, 0), sizeof fill);
        }
        if (i % 3 == 0) usleep(500);
        close(channel);
        close_all(fds);
    }
    struct reader r;
    static uint8_t buf[64 * KIB];
    reader_open(&r, im.path, service_channel(s, im.path));
    for (uint64_t offset = 0; offset < im.size_bytes; offset += sizeof buf) {
        assert_int_equal(reader_read(&r, buf, offset, sizeof buf), 0);
        assert_true(pattern_check(buf, offset, sizeof buf, 28));
    }
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
}

static void test_what_clients_hold_is_read_only(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, MIB, 29);
    struct cache_service *s = service_make(16 * MIB, NULL);
    int fds[3], channel = service_channel(s, im.path);
    take_hello(channel, fds);
    for (unsigned i = 0; i < 3; i++) {
        void *rw = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
        assert_true(i == 2 ? rw != MAP_FAILED : rw == MAP_FAILED);
        if (rw != MAP_FAILED) munmap(rw, 4096);
        void *ro = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fds[i], 0);
        assert_true(ro != MAP_FAILED);
        assert_int_equal(mprotect(ro, 4096, PROT_READ | PROT_WRITE), i == 2 ? 0 : -1);
        munmap(ro, 4096);
        assert_int_equal(ftruncate(fds[i], 0), -1);
        assert_int_equal(fcntl(fds[i], F_ADD_SEALS, F_SEAL_WRITE), -1);
        if (i < 2) assert_int_equal(fallocate(fds[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
        struct stat st;
        fstat(fds[i], &st);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    close(channel);
    close_all(fds);
    cache_service_stop(s);
    image_drop(&im);
}

/* A client reads all of a sparse mapping into being; the memory is taken back, and what is cached stays. */
static void test_holes_read_into_memory(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 96 * MIB, 30);
    image_write(&im, 0, 2 * MIB);
    struct cache_service *s = service_make(64 * MIB, NULL);
    struct reader r;
    static uint8_t buf[64 * KIB];
    reader_open(&r, im.path, service_channel(s, im.path));
    for (uint64_t offset = 0; offset < 2 * MIB; offset += 3 * sizeof buf)
        assert_int_equal(reader_read(&r, buf, offset, sizeof buf), 0);
    int fds[3], channel = service_channel(s, im.path);
    take_hello(channel, fds);
    const volatile uint8_t *data = mmap(NULL, im.size_bytes, PROT_READ, MAP_SHARED, fds[0], 0);
    uint64_t sum = 0;
    for (uint64_t offset = 0; offset < im.size_bytes; offset += 4096)
        sum += data[offset];
    (void)sum;
    struct stat st;
    uint64_t cached = service_base_stats(s, NULL).cached_bytes;
    for (unsigned i = 0; i < 1000; i++) {
        fstat(fds[0], &st);
        if ((uint64_t)st.st_blocks * 512 == cached) break;
        usleep(10000);
    }
    assert_int_equal((uint64_t)st.st_blocks * 512, cached);
    assert_true(service_base_stats(s, NULL).stray_bytes >= im.size_bytes - cached);
    for (uint64_t offset = 0; offset < 2 * MIB; offset += 3 * sizeof buf) {
        assert_int_equal(reader_try(&r, buf, offset, sizeof buf), 0);
        assert_true(pattern_check(buf, offset, sizeof buf, 30));
    }
    munmap((void *)(uintptr_t)data, im.size_bytes);
    close(channel);
    close_all(fds);
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
}

/* ---- a service that lies ---- */

static void hello_send(int sock, const struct cache_hello *hello, size_t bytes, const int *fds, unsigned count)
{
    char control[CMSG_SPACE(16 * sizeof(int))] = {0};
    struct iovec iov = {(void *)(uintptr_t)hello, bytes};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count) {
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
    }
    assert_int_equal(sendmsg(sock, &msg, 0), bytes);
}

static int sealed_memfd(uint64_t bytes, int seals)
{
    int fd = memfd_create("test", MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void test_greetings_that_lie(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, MIB, 31);
    image_write(&im, 0, im.size_bytes);
    struct reader r;
    static uint8_t buf[64 * KIB];
    reader_open(&r, im.path, -1);
    const struct cache_hello ok = {
        .type = CACHE_MSG_HELLO, .version = CACHE_PROTOCOL_VERSION, .layer_count = 1, .layer_size_bytes = {MIB}};
    int sealed[3] = {sealed_memfd(MIB, F_SEAL_SHRINK), sealed_memfd(4096, F_SEAL_SHRINK),
                     sealed_memfd(4096, F_SEAL_SHRINK)};
    int loose[3] = {sealed_memfd(MIB, 0), sealed[1], sealed[2]};
    int tiny[3] = {sealed_memfd(MIB - 4096, F_SEAL_SHRINK), sealed[1], sealed[2]};
    struct cache_hello type = ok, version = ok, layers = ok, huge = ok, size = ok;
    type.type = 9;
    version.version = 99;
    layers.layer_count = 64;
    huge.layer_size_bytes[0] = UINT64_MAX;
    size.layer_size_bytes[0] = MIB / 2;
    const struct {
        const struct cache_hello *hello;
        size_t bytes;
        const int *fds;
        unsigned count;
        bool useless;
    } cases[] = {
        {&ok, sizeof ok, sealed, 3, false},     {&type, sizeof ok, sealed, 3, true},
        {&version, sizeof ok, sealed, 3, true}, {&layers, sizeof ok, sealed, 3, true},
        {&ok, sizeof ok, sealed, 2, true},      {&ok, sizeof ok, sealed, 0, true},
        {&ok, sizeof ok - 1, sealed, 3, true},  {&ok, sizeof ok, loose, 3, true},
        {&ok, sizeof ok, tiny, 3, true},        {&huge, sizeof ok, sealed, 3, true},
        {&size, sizeof ok, sealed, 3, false}, /* taken, but not for a layer of another size */
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
        hello_send(pair[0], cases[i].hello, cases[i].bytes, cases[i].fds, cases[i].count);
        assert_int_equal(cache_client_attach(r.client, pair[1]), cases[i].useless ? -EPROTO : 0);
        close(pair[0]);
        for (unsigned n = 0; n < 3; n++)
            engine_poll(r.engine);
        assert_int_equal(reader_read(&r, buf, 0, sizeof buf), 0);
        assert_true(pattern_check(buf, 0, sizeof buf, 31));
    }
    for (unsigned i = 0; i < 3; i++)
        close(sealed[i]);
    close(loose[0]);
    close(tiny[0]);
    reader_close(&r);
    image_drop(&im);
}

/* Answers that nobody asked for, of the wrong size, twice, or that say "done" when nothing is. */
static void test_answers_that_lie(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, MIB, 32);
    image_write(&im, 0, im.size_bytes);
    struct reader r;
    static uint8_t buf[64 * KIB];
    reader_open(&r, im.path, -1);
    const struct cache_hello hello = {
        .type = CACHE_MSG_HELLO, .version = CACHE_PROTOCOL_VERSION, .layer_count = 1, .layer_size_bytes = {MIB}};
    int sealed[3] = {sealed_memfd(MIB, F_SEAL_SHRINK), sealed_memfd(4096, F_SEAL_SHRINK),
                     sealed_memfd(4096, F_SEAL_SHRINK)};
    for (unsigned i = 0; i < 7; i++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
        hello_send(pair[0], &hello, sizeof hello, sealed, 3);
        assert_int_equal(cache_client_attach(r.client, pair[1]), 0);
        struct reader_req q;
        reader_submit(&r, &q, buf, i * 64 * KIB, sizeof buf);
        for (unsigned rounds = 0; r.pending && rounds < 20; rounds++) {
            struct cache_fill fill;
            if (recv(pair[0], &fill, sizeof fill, MSG_DONTWAIT) != (ssize_t)sizeof fill) {
                engine_sleep(r.engine, 10 * NS_PER_MS);
                continue;
            }
            struct cache_filled answer = {.type = CACHE_MSG_FILLED, .cookie = fill.cookie};
            size_t bytes = sizeof answer;
            if (i == 1) answer.cookie++;
            if (i == 2) answer.cookie ^= UINT64_C(1) << 40;
            if (i == 3) bytes--;
            if (i == 4) answer.type = 3333;
            if (i == 5) answer.result = 5;
            send(pair[0], &answer, bytes, MSG_NOSIGNAL); /* the client may have hung up */
            if (i == 6) send(pair[0], &answer, bytes, MSG_NOSIGNAL);
            engine_sleep(r.engine, 10 * NS_PER_MS);
        }
        assert_int_equal(reader_wait(&r), 0);
        assert_true(pattern_check(buf, i * 64 * KIB, sizeof buf, 32));
        close(pair[0]);
    }
    for (unsigned i = 0; i < 3; i++)
        close(sealed[i]);
    reader_close(&r);
    image_drop(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* These fork, so they come before anything that might have left a thread. */
        cmocka_unit_test(test_service_killed_and_back),
        cmocka_unit_test(test_attach_in_the_midst),
        cmocka_unit_test(test_service_stands_still),
        cmocka_unit_test(test_greetings_that_lie),
        cmocka_unit_test(test_answers_that_lie),
        cmocka_unit_test(test_reads_race_with_eviction),
        cmocka_unit_test(test_many_requests),
        cmocka_unit_test(test_malformed_messages),
        cmocka_unit_test(test_client_that_does_not_read),
        cmocka_unit_test(test_clients_that_leave),
        cmocka_unit_test(test_what_clients_hold_is_read_only),
        cmocka_unit_test(test_holes_read_into_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
