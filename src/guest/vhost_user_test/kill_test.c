/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill -9 of the device's process at any moment, again and again, under a front end that notices everything: it
 * cannot reconnect, waits for each answer, checks it, and does verified I/O meanwhile.
 *
 * The test's process is the front end and also who holds descriptors and state for the next worker; a worker is a
 * fork of it with a RAM disk (ramdisk.h). A timer's signal handler kills the worker at a random moment. For more
 * than the usual number of times: vhost_user_kill KILLS SEED.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/log.h"
#include "guest/vhost_user_session.h"
#include "guest/vhost_user_test/ramdisk.h"
#include "loop/clock.h"

#define PATIENCE_MS 10000
#define MEM_BYTES (1u << 20)
#define MEM_GUEST UINT64_C(0x10000)
#define MEM_USER UINT64_C(0x550000000000)
#define EXTRA_GUEST UINT64_C(0x80000000)
#define EXTRA_USER UINT64_C(0x660000000000)
#define DISK_BYTES (1u << 20)
#define QUEUE_SIZE 16u
#define SLOTS 5u /* requests of three descriptors each */
#define DATA_BYTES 1024u

struct ring_desc {
    struct le64 addr;
    struct le32 length;
    struct le16 flags, next;
};
#define DESC_F_NEXT 1
#define DESC_F_WRITE 2

struct ring_used_elem {
    struct le32 id, length;
};

/* One queue's part of memory. */
struct ring_mem {
    struct ring_desc desc[QUEUE_SIZE];
    _Alignas(64) struct {
        uint16_t flags;
        _Atomic uint16_t idx;
        uint16_t ring[QUEUE_SIZE];
        uint16_t event;
    } avail;
    _Alignas(64) struct {
        uint16_t flags;
        _Atomic uint16_t idx;
        struct ring_used_elem ring[QUEUE_SIZE];
        uint16_t event;
    } used;
    struct {
        struct le32 type, reserved;
        struct le64 sector;
    } head[SLOTS];
    uint8_t status[SLOTS];
    uint8_t data[SLOTS][DATA_BYTES];
};

struct slot {
    bool busy, write;
    uint64_t at;
};

struct held {
    char name[32];
    int fd;
};

struct keep_message {
    char drop;
    char name[32];
};

static struct {
    int sock, worker_sock; /* the connection's ends; the worker's is given away once */
    int keep_fd;
    volatile pid_t worker;
    int worker_fd;
    struct held held[800];
    unsigned held_count;
    struct vhost_state *state;
    char *inflight, *disk, *model;
    int mem_fd;
    char *mem;
    int call_fd, kick_fd;
    uint16_t avail, used;
    struct slot slot[SLOTS];
    bool extra;
    unsigned kills, kills_wanted, seed, messages, requests;
} t;

static struct ring_mem *ring(void)
{
    return (struct ring_mem *)(void *)t.mem;
}

static unsigned chance(unsigned n)
{
    return (unsigned)random() % n;
}

/* ---- the worker ---- */

static void worker_tell(char drop, const char *name, int fd)
{
    struct keep_message m = {.drop = drop};
    snprintf(m.name, sizeof m.name, "%s", name);
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec iov = {&m, sizeof m};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    if (!drop) {
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
        h.msg_control = control.room;
        h.msg_controllen = sizeof control.room;
    }
    if (sendmsg(t.keep_fd, &h, MSG_NOSIGNAL) < 0) _exit(3);
}

static void worker_keep(void *arg, const char *name, int fd)
{
    (void)arg;
    worker_tell(0, name, fd);
}

static void worker_drop(void *arg, const char *name)
{
    (void)arg;
    worker_tell(1, name, -1);
}

static void worker_ended(void *owner, const char *why)
{
    (void)owner;
    log_error("worker: the session ended: %s", why);
    _exit(4);
}

static _Noreturn void worker_main(bool resume)
{
    struct ramdisk disk;
    struct vhost_session *s;
    struct errmsg e;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    guest_memory_init();
    struct loop *l = loop_new();
    ramdisk_init(&disk, l, t.disk, DISK_BYTES, 0);
    struct vhost_args args = {
        .loop = l,
        .ops = &disk.ops,
        .device = &disk,
        .state = t.state,
        .hold = {worker_keep, worker_drop, NULL},
        .inflight = t.inflight,
        .inflight_bytes = RAMDISK_QUEUES * virtq_inflight_bytes(256, false),
        .ended = worker_ended,
    };
    int ret;
    if (resume) {
        const char *names[800];
        int fds[800];
        for (unsigned i = 0; i < t.held_count; i++) {
            names[i] = t.held[i].name;
            fds[i] = t.held[i].fd;
        }
        ret = vhost_session_resume(&s, &args, names, fds, t.held_count, &e);
    } else {
        ret = vhost_session_new(&s, &args, t.worker_sock, &e);
    }
    if (ret < 0) {
        log_error("worker: %s", e.text);
        _exit(5);
    }
    loop_run(l);
    _exit(6);
}

/* ---- who holds ---- */

static void take_kept(void)
{
    for (;;) {
        struct keep_message m;
        union {
            struct cmsghdr head;
            char room[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec iov = {&m, sizeof m};
        struct msghdr h = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
        ssize_t n = recvmsg(t.keep_fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        unsigned i = 0;
        while (i < t.held_count && strcmp(t.held[i].name, m.name) != 0)
            i++;
        if (i < t.held_count) close(t.held[i].fd);
        if (m.drop) {
            assert_true(i < t.held_count);
            t.held[i] = t.held[--t.held_count];
            continue;
        }
        if (i == t.held_count) t.held_count++;
        memcpy(t.held[i].name, m.name, sizeof m.name);
        memcpy(&t.held[i].fd, CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof(int));
    }
}

static void worker_start(bool resume)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    if (t.keep_fd >= 0) close(t.keep_fd);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(pair[0]);
        close(t.sock);
        t.keep_fd = pair[1];
        worker_main(resume);
    }
    close(pair[1]);
    t.keep_fd = pair[0];
    t.worker_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    assert_true(t.worker_fd >= 0);
    t.worker = pid;
}

static void worker_died(void)
{
    int status;
    pid_t pid = t.worker;
    t.worker = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_msg("the worker ended by itself: status 0x%x, after %u kills and %u messages", status, t.kills,
                 t.messages);
    close(t.worker_fd);
    take_kept();
    t.kills++;
    worker_start(true);
}

/* Often at once: while it resumes. From the signal handler, so it has a random generator of its own. */
static void arm_killer(void)
{
    static uint32_t seed = 2014;
    seed = seed * 1664525 + 1013904223;
    unsigned r = seed >> 8;
    struct itimerval when = {.it_value = {0, 1 + (r % 3 ? r % 3000 : r % 300)}};
    setitimer(ITIMER_REAL, &when, NULL);
}

static void on_alarm(int signal_number)
{
    (void)signal_number;
    int saved = errno;
    if (t.worker > 0) kill(t.worker, SIGKILL);
    errno = saved;
    if (t.kills < t.kills_wanted) arm_killer();
}

/* Until fd is readable (or -1: a moment), keeping the worker alive. */
static void wait_readable(int fd)
{
    uint64_t start_ns = clock_now_ns();
    for (;;) {
        struct pollfd p[3] = {{fd, POLLIN, 0}, {t.keep_fd, POLLIN, 0}, {t.worker_fd, POLLIN, 0}};
        int n = poll(p, 3, PATIENCE_MS);
        if (n < 0) {
            assert_int_equal(errno, EINTR);
            p[0].revents = p[1].revents = p[2].revents = 0;
        }
        if (p[1].revents) take_kept();
        if (p[2].revents) worker_died();
        if ((p[0].revents & POLLIN) || (fd == t.keep_fd && p[1].revents)) return;
        if (clock_now_ns() - start_ns > PATIENCE_MS * NS_PER_MS)
            fail_msg("nothing comes any more, after %u kills, %u messages, %u requests", t.kills, t.messages,
                     t.requests);
    }
}

/* ---- the front end: messages ---- */

static void tell(uint32_t request, uint32_t flags, const void *payload, size_t bytes, int fd)
{
    struct vu_header head = {request, VU_VERSION | flags, (uint32_t)bytes};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec iov[2] = {{&head, sizeof head}, {(void *)(uintptr_t)payload, bytes}};
    struct msghdr h = {.msg_iov = iov, .msg_iovlen = 2};
    if (fd >= 0) {
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
        h.msg_control = control.room;
        h.msg_controllen = sizeof control.room;
    }
    ssize_t n;
    do
        n = sendmsg(t.sock, &h, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    assert_int_equal(n, sizeof head + bytes);
    t.messages++;
}

static void receive(void *to, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        wait_readable(t.sock);
        ssize_t n = recv(t.sock, (char *)to + done, bytes - done, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        assert_true(n > 0);
        done += (size_t)n;
    }
}

/* The answer must be the one that is due, and whole. */
static void answer(uint32_t request, void *payload, size_t bytes)
{
    struct vu_header head;
    receive(&head, sizeof head);
    if (head.request != request || head.size != bytes || head.flags != (VU_VERSION | VU_FLAG_REPLY))
        fail_msg("answer to message %u of %u bytes, flags 0x%x, where one to %u of %zu was due (%u kills)",
                 head.request, head.size, head.flags, request, bytes, t.kills);
    receive(payload, bytes);
}

static uint64_t acked(uint32_t request, const void *payload, size_t bytes, int fd)
{
    uint64_t v = 0;
    tell(request, VU_FLAG_NEED_REPLY, payload, bytes, fd);
    answer(request, &v, sizeof v);
    return v;
}

static void ack_u64(uint32_t request, uint64_t v, int fd)
{
    assert_int_equal(acked(request, &v, sizeof v, fd), 0);
}

static void ack_state(uint32_t request, uint32_t num)
{
    struct vu_vring_state v = {0, num};
    assert_int_equal(acked(request, &v, sizeof v, -1), 0);
}

static void set_table(uint64_t bytes)
{
    struct {
        struct vu_mem_table_head head;
        struct vu_region region[1];
    } table = {{1, 0}, {{MEM_GUEST, bytes, MEM_USER, 0}}};
    assert_int_equal(acked(VU_SET_MEM_TABLE, &table, sizeof table, t.mem_fd), 0);
}

static void new_call(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ack_u64(VU_SET_VRING_CALL, 0, fd);
    close(t.call_fd);
    t.call_fd = fd;
}

static void ring_addresses(void)
{
    struct vu_vring_addr a = {.descriptor = MEM_USER + offsetof(struct ring_mem, desc),
                              .available = MEM_USER + offsetof(struct ring_mem, avail),
                              .used = MEM_USER + offsetof(struct ring_mem, used)};
    ack_state(VU_SET_VRING_NUM, QUEUE_SIZE);
    assert_int_equal(acked(VU_SET_VRING_ADDR, &a, sizeof a, -1), 0);
}

static void stop_and_start(void)
{
    struct vu_vring_state v = {0, 0};
    tell(VU_GET_VRING_BASE, 0, &v, sizeof v, -1);
    answer(VU_GET_VRING_BASE, &v, sizeof v);
    /* Everything that it had taken it has given back. */
    assert_int_equal(v.num, atomic_load(&ring()->used.idx));
    if (chance(2)) ring_addresses();
    ack_state(VU_SET_VRING_BASE, v.num);
    if (chance(2)) {
        close(t.kick_fd);
        t.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    ack_u64(VU_SET_VRING_KICK, 0, t.kick_fd);
}

static void toggle_extra(void)
{
    struct vu_single_region r = {.region = {EXTRA_GUEST, 4096, EXTRA_USER, 4096}};
    uint32_t request = t.extra ? VU_REM_MEM_REG : VU_ADD_MEM_REG;
    assert_int_equal(acked(request, &r, sizeof r, t.extra ? -1 : t.mem_fd), 0);
    /* Done once is done: again is refused. */
    if (chance(3) == 0 && acked(request, &r, sizeof r, t.extra ? -1 : t.mem_fd) == 0)
        fail_msg("%s was done twice (%u kills)", vu_request_name(request), t.kills);
    t.extra = !t.extra;
}

/* Several without an answer, some of them the same, and one with. */
static void in_a_row(void)
{
    uint64_t zero = 0, v;
    for (unsigned i = chance(4); i-- > 0;) {
        int fd = eventfd(0, EFD_CLOEXEC);
        tell(VU_SET_VRING_ERR, 0, &zero, sizeof zero, fd);
        close(fd);
        if (chance(2)) tell(VU_SET_VRING_ERR, 0, &(uint64_t){VU_RING_NO_FD}, sizeof zero, -1);
    }
    tell(VU_GET_FEATURES, 0, NULL, 0, -1);
    answer(VU_GET_FEATURES, &v, sizeof v);
    assert_true(v & BIT64(VHOST_USER_F_PROTOCOL_FEATURES));
}

static void read_config(void)
{
    struct {
        struct vu_config_head head;
        struct le64 capacity;
        uint8_t rest[52];
    } c = {.head = {0, 60, 0}};
    tell(VU_GET_CONFIG, 0, &c, sizeof c, -1);
    memset(&c, 0xee, sizeof c);
    answer(VU_GET_CONFIG, &c, sizeof c);
    assert_int_equal(le64_get(c.capacity), DISK_BYTES / 512);
}

static void some_message(void)
{
    switch (chance(10)) {
    case 0: new_call(); break;
    case 1: stop_and_start(); break;
    case 2: toggle_extra(); break;
    case 3:
        set_table(MEM_BYTES - (chance(3) == 0) * 65536); /* another size: the ring moves */
        t.extra = false;
        break;
    case 4:
        ack_state(VU_SET_VRING_ENABLE, 0);
        if (chance(2)) read_config();
        ack_state(VU_SET_VRING_ENABLE, 1);
        break;
    case 5: ack_u64(VU_SET_STATUS, 15, -1); break;
    case 6: read_config(); break;
    default: in_a_row(); break;
    }
}

/* ---- the front end: I/O ---- */

static struct ring_desc descriptor(const void *part, uint32_t length, unsigned flags, unsigned next)
{
    uint64_t addr = MEM_GUEST + (uint64_t)((const char *)part - t.mem);
    return (struct ring_desc){le64_make(addr), le32_make(length), le16_make((uint16_t)flags),
                              le16_make((uint16_t)next)};
}

static void submit(unsigned i)
{
    struct ring_mem *r = ring();
    struct slot *s = &t.slot[i];
    /* Of its own part of the disk, so that requests in flight do not meet. */
    s->at = (i * (DISK_BYTES / 8) + chance(DISK_BYTES / 8 / DATA_BYTES) * DATA_BYTES);
    s->write = chance(2);
    s->busy = true;
    r->head[i].type = le32_make(s->write);
    r->head[i].sector = le64_make(s->at / 512);
    r->status[i] = 0xff;
    for (unsigned k = 0; k < DATA_BYTES; k++)
        r->data[i][k] = (uint8_t)random();
    if (s->write) memcpy(t.model + s->at, r->data[i], DATA_BYTES);
    r->desc[3 * i] = descriptor(&r->head[i], 16, DESC_F_NEXT, 3 * i + 1);
    r->desc[3 * i + 1] = descriptor(r->data[i], DATA_BYTES, DESC_F_NEXT | (s->write ? 0 : DESC_F_WRITE), 3 * i + 2);
    r->desc[3 * i + 2] = descriptor(&r->status[i], 1, DESC_F_WRITE, 0);
    r->avail.ring[t.avail++ % QUEUE_SIZE] = (uint16_t)(3 * i);
    t.requests++;
}

static void complete(void)
{
    struct ring_mem *r = ring();
    while (t.used != atomic_load(&r->used.idx)) {
        const struct ring_used_elem *u = &r->used.ring[t.used++ % QUEUE_SIZE];
        unsigned i = le32_get(u->id) / 3;
        assert_true(le32_get(u->id) % 3 == 0 && i < SLOTS);
        struct slot *s = &t.slot[i];
        if (!s->busy) fail_msg("request %u was given back twice (%u kills)", i, t.kills);
        s->busy = false;
        assert_int_equal(r->status[i], 0);
        if (!s->write) assert_memory_equal(r->data[i], t.model + s->at, DATA_BYTES);
    }
}

static bool anything_in_flight(void)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (t.slot[i].busy) return true;
    return false;
}

static void some_requests(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < SLOTS; i++)
        if (!t.slot[i].busy && chance(2)) {
            submit(i);
            n++;
        }
    atomic_store(&ring()->avail.idx, t.avail);
    if (n) assert_int_equal(write(t.kick_fd, &(uint64_t){1}, 8), 8);
}

/* Sleeps on the call descriptor: a lost notification shows. */
static void wait_requests(void)
{
    uint64_t v;
    for (complete(); anything_in_flight(); complete()) {
        wait_readable(t.call_fd);
        if (read(t.call_fd, &v, sizeof v) < 0) assert_int_equal(errno, EAGAIN);
    }
}

/* ---- the test ---- */

static void *shared(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    return p;
}

static void set_up(void)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    t.sock = pair[0];
    t.worker_sock = pair[1];
    t.keep_fd = -1;
    t.state = shared(vhost_state_bytes());
    t.inflight = shared(RAMDISK_QUEUES * virtq_inflight_bytes(256, false));
    t.disk = shared(DISK_BYTES);
    t.model = calloc(1, DISK_BYTES);
    t.mem_fd = memfd_create("guest", MFD_CLOEXEC);
    assert_int_equal(ftruncate(t.mem_fd, MEM_BYTES), 0);
    t.mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, t.mem_fd, 0);
    assert_ptr_not_equal(t.mem, MAP_FAILED);
    t.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    t.call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    worker_start(false);
    close(t.worker_sock);
    while (t.held_count < 2) /* from here on it can be replaced */
        wait_readable(t.keep_fd);
}

static void shake_hands(void)
{
    ack_u64(VU_SET_PROTOCOL_FEATURES,
            BIT64(VU_PROTOCOL_F_REPLY_ACK) | BIT64(VU_PROTOCOL_F_CONFIG) | BIT64(VU_PROTOCOL_F_STATUS) |
                BIT64(VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS),
            -1);
    ack_u64(VU_SET_FEATURES, BIT64(VIRTIO_F_VERSION_1) | BIT64(VHOST_USER_F_PROTOCOL_FEATURES), -1);
    set_table(MEM_BYTES);
    ring_addresses();
    ack_state(VU_SET_VRING_BASE, 0);
    ack_u64(VU_SET_VRING_CALL, 0, t.call_fd);
    ack_u64(VU_SET_VRING_KICK, 0, t.kick_fd);
    ack_state(VU_SET_VRING_ENABLE, 1);
}

static void killed_all_the_time(void **state)
{
    (void)state;
    srandom(t.seed);
    set_up();
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = 0};
    sigaction(SIGALRM, &sa, NULL);
    arm_killer();
    shake_hands();
    while (t.kills < t.kills_wanted) {
        some_requests();
        if (chance(3)) some_message();
        if (chance(3)) wait_requests();
    }
    wait_requests();
    in_a_row();
    assert_memory_equal(t.disk, t.model, DISK_BYTES);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    print_message("%u kills, %u messages, %u requests\n", t.kills, t.messages, t.requests);
    kill(t.worker, SIGKILL);
    waitpid(t.worker, NULL, 0);
    free(t.model);
}

/* [KILLS [SEED]] */
int main(int argc, char **argv)
{
    t.kills_wanted = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 300;
    t.seed = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 20;
    const struct CMUnitTest tests[] = {cmocka_unit_test(killed_all_the_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
