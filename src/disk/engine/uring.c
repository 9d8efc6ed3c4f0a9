/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The production engine: io_uring (Linux 6.1 and later).
 *
 * Theory of operation
 *
 * One ring per thread. The ring is made disabled and enabled by the first thread that polls it, which is from
 * then on the only one that the kernel accepts (SINGLE_ISSUER). Completions are left in the kernel until we ask
 * (DEFER_TASKRUN), so nothing interrupts the thread; the kernel raises a flag in shared memory when there is
 * something to ask for (TASKRUN_FLAG). A poll that finds no flag, no completion and nothing to submit is
 * therefore a few loads and no system call: spinning on an engine is cheap. Any other poll is one system call, that
 * submits, waits and collects at once. Between polls requests are submitted a few at a time; nothing completes then.
 *
 * A request is in one of these states:
 *
 *   in the kernel   has a submission entry or is being worked on; in_kernel counts them, at most depth
 *   waiting         for room in the kernel; in order
 *   no_bounce       for a bounce slot; in order, and not in the way of those that need none
 *   finished        its result is known without asking the kernel; reported by the next poll
 *
 * One that goes in pieces (short result, bounced in parts) passes through the kernel once per piece.
 *
 * Files in memory. Linux' io_uring (6.1 at least) makes no write to a page cache within the call that submits it: a thread of
 * its own does, whose two switches cost a lone 4 KiB write more than all the rest. A file that is nothing but page cache
 * does not wait for storage, so its transfers are made at once where they come one by one. Where several come together
 * that thread is an advantage: the queue's thread goes on taking requests, and answers them many at a time.
 *
 * A watch is a multishot poll request. What the kernel knows is a slot of ours, never the caller's structure, so
 * engine_unwatch() can cut the two apart at once: the slot stays until the kernel has said its last word.
 *
 * System calls, for whoever writes the sandbox: io_uring_setup, io_uring_register and mmap when made and enabled;
 * io_uring_enter; preadv and pwritev for files in memory; fcntl in watch; mmap, munmap for bounce memory; munmap and
 * close when freed.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "base/iov.h"
#include "base/log.h"
#include "disk/engine/bounce.h"
#include "disk/engine/engine.h"
#include "disk/engine/piece.h"

#define URING_DEPTH_MAX 32768u
/* The kernel holds a batch back until all of it is prepared. So many are sent off without waiting for the thread's next poll:
 * larger ones kept the device idle (4 KiB random reads at depth 32: 93 k IOPS, 108 k with 4; as many with 1). */
#define URING_SUBMIT_AT 4u
/* So many transfers in a row had the engine to themselves: they come one by one. */
#define URING_ALONE_AT 64u
#define URING_RETRIES_MAX 1000u /* of one piece, on EINTR, EAGAIN and ECANCELED */
#define URING_BOUNCE_LINGER_NS (UINT64_C(1000000000))

/* BLOCK_URING_CMD_DISCARD of linux/blkdev.h, which distributions of our age do not have. */
#define BLOCK_DISCARD_COMMAND _IO(0x12, 0)

/* user_data: a pointer to the request, or to the watch's slot with this bit; 0: nobody wants to know. */
#define URING_IS_WATCH UINT64_C(1)

struct uring {
    struct engine base;
    struct io_uring ring;
    unsigned depth;
    unsigned in_kernel;
    unsigned alone; /* transfers in a row that had the engine to themselves */
    bool enabled;
    struct list waiting, no_bounce, finished; /* engine_io */
    unsigned finished_count;
    struct list watches; /* uring_watch: every slot */
    unsigned unarmed;    /* how many of them the kernel is to be told of */
    struct bounce_pool bounce;
};

struct uring_watch {
    struct list node;
    struct engine_watch *watch; /* NULL: cut off, waiting for the kernel's last word */
    bool armed;                 /* the kernel has it */
};

static struct uring *uring_of(struct engine *e)
{
    return container_of(e, struct uring, base);
}

/* ---- Requests ---- */

static void finish(struct uring *u, struct engine_io *io, int res)
{
    if (io->priv.bounce) {
        bounce_give(&u->bounce, io->priv.bounce);
        io->priv.bounce = NULL;
    }
    io->priv.res = res;
    list_push_back(&u->finished, &io->priv.node);
    u->finished_count++;
}

static void prep_transfer(struct engine_io *io, struct io_uring_sqe *sqe)
{
    struct piece p = piece_next(io);
    int fd = io->file->fd;
    if (io->op == ENGINE_WRITE) {
        if (p.iov_count > 1) io_uring_prep_writev(sqe, fd, p.iov, p.iov_count, p.offset_bytes);
        else io_uring_prep_write(sqe, fd, p.one.iov_base, (unsigned)p.one.iov_len, p.offset_bytes);
    } else {
        if (p.iov_count > 1) io_uring_prep_readv(sqe, fd, p.iov, p.iov_count, p.offset_bytes);
        else io_uring_prep_read(sqe, fd, p.one.iov_base, (unsigned)p.one.iov_len, p.offset_bytes);
    }
}

static void prep_range(struct engine_io *io, struct io_uring_sqe *sqe, int mode)
{
    io_uring_prep_fallocate(sqe, io->file->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)io->offset_bytes,
                            (off_t)io->length_bytes);
}

/* The block layer's discard, as a command to the device (Linux 6.12; earlier ones answer -EOPNOTSUPP). */
static void prep_device_discard(struct engine_io *io, struct io_uring_sqe *sqe)
{
    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, io->file->fd, (void *)(uintptr_t)io->offset_bytes, 0, 0);
    sqe->cmd_op = BLOCK_DISCARD_COMMAND;
    sqe->addr3 = io->length_bytes;
}

static void prep(struct engine_io *io, struct io_uring_sqe *sqe)
{
    switch (io->op) {
    case ENGINE_READ:
    case ENGINE_WRITE: prep_transfer(io, sqe); break;
    case ENGINE_SYNC: io_uring_prep_fsync(sqe, io->file->fd, IORING_FSYNC_DATASYNC); break;
    case ENGINE_PUNCH: prep_range(io, sqe, FALLOC_FL_PUNCH_HOLE); break;
    case ENGINE_ZERO: prep_range(io, sqe, FALLOC_FL_ZERO_RANGE); break;
    case ENGINE_DISCARD:
        if (io->file->block_device) prep_device_discard(io, sqe);
        else prep_range(io, sqe, FALLOC_FL_PUNCH_HOLE);
        break;
    case ENGINE_OP_COUNT: break;
    }
    io_uring_sqe_set_data(sqe, io);
}

/* True when the kernel's queue took it; on false nothing has changed. */
static bool try_issue(struct uring *u, struct engine_io *io)
{
    if (u->in_kernel == u->depth) return false;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe) return false;
    u->in_kernel++;
    prep(io, sqe);
    return true;
}

static void issue(struct uring *u, struct engine_io *io)
{
    if (!list_empty(&u->waiting) || !try_issue(u, io)) list_push_back(&u->waiting, &io->priv.node);
}

/* Get a slot for the request, and then issue it; or let it wait. */
static void issue_bounced(struct uring *u, struct engine_io *io)
{
    int ret = bounce_take(&u->bounce, &io->priv.bounce);
    if (ret == -EAGAIN) list_push_back(&u->no_bounce, &io->priv.node);
    else if (ret < 0) finish(u, io, ret);
    else issue(u, io);
}

static void retry(struct uring *u, struct engine_io *io, int res)
{
    if (io->priv.retries++ < URING_RETRIES_MAX) list_push_back(&u->waiting, &io->priv.node);
    else finish(u, io, res);
}

static void transfer_returned(struct uring *u, struct engine_io *io, uint64_t got)
{
    io->priv.retries = 0;
    switch (piece_returned(io, got)) {
    case PIECE_LAST: finish(u, io, 0); break;
    case PIECE_MORE: issue(u, io); break;
    case PIECE_STUCK: finish(u, io, -EIO); break;
    }
}

static void io_returned(struct uring *u, struct engine_io *io, int res)
{
    u->in_kernel--;
    /* Nobody here cancels a piece: the kernel does when it could not start a thread for it (signals, memory). */
    if (res == -EINTR || res == -EAGAIN || res == -ECANCELED) retry(u, io, res);
    else if (res < 0) finish(u, io, res == -ENOSYS ? -EOPNOTSUPP : res);
    else if (io->op == ENGINE_READ || io->op == ENGINE_WRITE) transfer_returned(u, io, (uint64_t)res);
    else finish(u, io, 0);
}

/* Without the ring, where that is better (see above). False: nothing was done, and the ring will say why if it cannot. */
static bool move_now(struct uring *u, struct engine_io *io)
{
    if (!io->file->in_memory || u->alone < URING_ALONE_AT) return false;
    struct piece p = piece_next(io);
    const struct iovec *iov = p.iov_count > 1 ? p.iov : &p.one;
    ssize_t got = io->op == ENGINE_WRITE ? pwritev(io->file->fd, iov, (int)p.iov_count, (off_t)p.offset_bytes)
                                         : preadv(io->file->fd, iov, (int)p.iov_count, (off_t)p.offset_bytes);
    if (got < 0) return false;
    transfer_returned(u, io, (uint64_t)got);
    return true;
}

static void start_transfer(struct uring *u, struct engine_io *io)
{
    assert(io->iov_count <= ENGINE_IOV_MAX && iov_bytes(io->iov, io->iov_count) == io->length_bytes);
    u->alone = u->base.inflight > 1 ? 0 : (unsigned)min_u64(u->alone + 1, URING_ALONE_AT);
    if (io->length_bytes == 0) {
        finish(u, io, 0);
    } else if (piece_buffers_fit(io)) {
        if (!move_now(u, io)) issue(u, io);
    } else if (io->op == ENGINE_WRITE && ((io->offset_bytes | io->length_bytes) & (io->file->io_align - 1))) {
        finish(u, io, -EINVAL);
    } else {
        issue_bounced(u, io);
    }
}

static void start_io(struct uring *u, struct engine_io *io)
{
    io->priv.bounce = NULL;
    io->priv.moved_bytes = 0;
    io->priv.retries = 0;
    u->base.inflight++;
    if (io->op == ENGINE_READ || io->op == ENGINE_WRITE) start_transfer(u, io);
    else issue(u, io);
}

static void uring_submit(struct engine *e, struct engine_io *io)
{
    struct uring *u = uring_of(e);
    start_io(u, io);
    /* What the kernel does not take now (EAGAIN, EBUSY) it is offered by the next poll. */
    if (u->enabled && io_uring_sq_ready(&u->ring) >= URING_SUBMIT_AT) io_uring_submit(&u->ring);
}

/* Slots and room in the kernel may have become free. */
static void start_waiting(struct uring *u)
{
    while (!list_empty(&u->no_bounce)) {
        struct engine_io *io = list_entry(u->no_bounce.next, struct engine_io, priv.node);
        int ret = bounce_take(&u->bounce, &io->priv.bounce);
        if (ret == -EAGAIN) break;
        list_remove(&io->priv.node);
        if (ret < 0) finish(u, io, ret);
        else issue(u, io);
    }
    while (!list_empty(&u->waiting)) {
        struct engine_io *io = list_entry(u->waiting.next, struct engine_io, priv.node);
        if (!try_issue(u, io)) break;
        list_remove(&io->priv.node);
    }
}

/* Only those finished when it begins: a callback that submits what fails at once cannot hold the thread. */
static unsigned run_finished(struct uring *u)
{
    unsigned ran = 0;
    for (unsigned budget = u->finished_count; budget > 0 && u->finished_count > 0; budget--) {
        struct engine_io *io = list_entry(list_pop_front(&u->finished), struct engine_io, priv.node);
        u->finished_count--;
        u->base.inflight--;
        io->done(io, io->priv.res);
        ran++;
    }
    return ran;
}

/* ---- Watches ---- */

static void slot_free(struct uring_watch *slot)
{
    list_remove(&slot->node);
    free(slot);
}

static void arm_watches(struct uring *u)
{
    LIST_FOR_EACH (node, &u->watches) {
        if (u->unarmed == 0) return;
        struct uring_watch *slot = list_entry(node, struct uring_watch, node);
        if (slot->armed) continue;
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        if (!sqe) return;
        io_uring_prep_poll_multishot(sqe, slot->watch->fd, POLLIN);
        io_uring_sqe_set_data64(sqe, (uintptr_t)slot | URING_IS_WATCH);
        slot->armed = true;
        u->unarmed--;
    }
}

static int uring_watch(struct engine *e, struct engine_watch *w)
{
    struct uring *u = uring_of(e);
    if (fcntl(w->fd, F_GETFD) < 0) return -errno;
    struct uring_watch *slot = malloc(sizeof *slot);
    if (!slot) return -ENOMEM;
    *slot = (struct uring_watch){.watch = w};
    list_push_back(&u->watches, &slot->node);
    u->unarmed++;
    return 0;
}

static void watch_remove(struct uring *u, struct uring_watch *slot)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe) {
        io_uring_submit(&u->ring);
        sqe = io_uring_get_sqe(&u->ring);
    }
    if (!sqe) return; /* the kernel takes nothing now: it keeps the slot, and the ring's end is its end */
    io_uring_prep_poll_remove(sqe, (uintptr_t)slot | URING_IS_WATCH);
    io_uring_sqe_set_data64(sqe, 0);
    /* Now, so that the kernel lets go of the descriptor even if this thread polls no more. */
    io_uring_submit_and_get_events(&u->ring);
}

static void uring_unwatch(struct engine *e, struct engine_watch *w)
{
    struct uring *u = uring_of(e);
    struct uring_watch *slot = NULL;
    LIST_FOR_EACH (node, &u->watches)
        if (list_entry(node, struct uring_watch, node)->watch == w) slot = list_entry(node, struct uring_watch, node);
    if (!slot) return;
    slot->watch = NULL;
    if (!slot->armed) {
        u->unarmed--;
        slot_free(slot);
        return;
    }
    watch_remove(u, slot);
}

/* Returns how many callbacks ran. */
static unsigned watch_returned(struct uring *u, struct uring_watch *slot, int res, unsigned flags)
{
    struct engine_watch *w = slot->watch;
    if (!(flags & IORING_CQE_F_MORE)) { /* the kernel is done with it */
        slot->armed = false;
        if (!w) slot_free(slot);
        else u->unarmed++;
    } else if (!w) {
        /* The kernel refuses to remove what it is about to report (EALREADY): this is that report, so once more. */
        watch_remove(u, slot);
    }
    if (!w) return 0;
    if (res < 0) {
        if (res != -ECANCELED) log_limited(LOG_LEVEL_ERROR, "cannot watch descriptor %d: %s", w->fd, strerror(-res));
        return 0;
    }
    w->ready(w);
    return 1;
}

/* ---- Polling ---- */

static int enable(struct uring *u)
{
    /* Not io_uring_enable_rings(): liburing 2.3 declares it and does not export it. */
    int ret = io_uring_register((unsigned)u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (ret < 0) return ret;
    /* Saves looking the ring's descriptor up in every call; one that cannot be had is no loss. */
    (void)io_uring_register_ring_fd(&u->ring);
    u->enabled = true;
    return 0;
}

static bool kernel_wants_a_call(const struct uring *u)
{
    unsigned flags = __atomic_load_n(u->ring.sq.kflags, __ATOMIC_RELAXED);
    return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) || io_uring_sq_ready(&u->ring);
}

/* One system call at most. 0, -ETIME when the wait ended with nothing, other -errno when the ring is broken. */
static int enter(struct uring *u, uint64_t wait_ns)
{
    int ret = 0;
    if (wait_ns == 0) {
        if (kernel_wants_a_call(u)) ret = io_uring_submit_and_get_events(&u->ring);
    } else if (wait_ns >= INT64_MAX) {
        ret = io_uring_submit_and_wait(&u->ring, 1);
    } else {
        struct __kernel_timespec ts = {.tv_sec = (int64_t)(wait_ns / 1000000000),
                                       .tv_nsec = (int64_t)(wait_ns % 1000000000)};
        struct io_uring_cqe *cqe;
        ret = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
    }
    /* EAGAIN: the kernel is short of memory; EBUSY: completions must be taken first. Both pass. */
    if (ret >= 0 || ret == -EINTR || ret == -EAGAIN || ret == -EBUSY) return 0;
    return ret;
}

/* Sleep, but not for ever on top of bounce memory that nobody uses any more. */
static int enter_asleep(struct uring *u, uint64_t wait_ns)
{
    if (!bounce_is_idle(&u->bounce) || wait_ns <= URING_BOUNCE_LINGER_NS) return enter(u, wait_ns);
    int ret = enter(u, URING_BOUNCE_LINGER_NS);
    if (ret != -ETIME) return ret;
    bounce_trim(&u->bounce);
    return enter(u, wait_ns == UINT64_MAX ? wait_ns : wait_ns - URING_BOUNCE_LINGER_NS);
}

/* Those that were there when it began. An entry is given back before its callback runs, which may poll itself. */
static unsigned reap(struct uring *u)
{
    unsigned ran = 0;
    for (unsigned budget = io_uring_cq_ready(&u->ring); budget > 0 && io_uring_cq_ready(&u->ring) > 0; budget--) {
        const struct io_uring_cqe *cqe = &u->ring.cq.cqes[*u->ring.cq.khead & u->ring.cq.ring_mask];
        uint64_t data = cqe->user_data;
        int res = cqe->res;
        unsigned flags = cqe->flags;
        io_uring_cq_advance(&u->ring, 1);
        if (data == 0) continue;
        void *whose = (void *)(uintptr_t)(data & ~URING_IS_WATCH);
        if (data & URING_IS_WATCH) ran += watch_returned(u, whose, res, flags);
        else io_returned(u, whose, res);
    }
    return ran + run_finished(u);
}

/* Nothing can be run without the kernel, and the kernel is about to know all that it can be told: what is left
 * over because the submission queue was full must not wait for a completion that it is to cause. */
static bool may_sleep(const struct uring *u)
{
    bool untold = u->unarmed || (!list_empty(&u->waiting) && u->in_kernel < u->depth);
    return !untold && u->finished_count == 0 && list_empty(&u->base.deferred) && io_uring_cq_ready(&u->ring) == 0;
}

static int uring_poll(struct engine *e, uint64_t wait_ns)
{
    struct uring *u = uring_of(e);
    if (!u->enabled) {
        int ret = enable(u);
        if (ret < 0) return ret;
    }
    if (u->unarmed) arm_watches(u);
    start_waiting(u);
    int ret = wait_ns && may_sleep(u) ? enter_asleep(u, wait_ns) : enter(u, 0);
    if (ret < 0 && ret != -ETIME) return ret;
    unsigned ran = reap(u);
    ran += engine_run_deferred(e);
    return (int)ran;
}

static void uring_free(struct engine *e)
{
    struct uring *u = uring_of(e);
    assert(e->inflight == 0);
    io_uring_queue_exit(&u->ring);
    LIST_FOR_EACH_SAFE (node, &u->watches)
        slot_free(list_entry(node, struct uring_watch, node));
    bounce_trim(&u->bounce);
    free(u);
}

static const struct engine_ops uring_ops = {
    .submit = uring_submit,
    .poll = uring_poll,
    .watch = uring_watch,
    .unwatch = uring_unwatch,
    .free = uring_free,
};

static int ring_error(struct errmsg *e, int code)
{
    if (code == EPERM)
        return errmsg_sys(e, code, "io_uring is not permitted (see sysctl kernel.io_uring_disabled, and seccomp)");
    if (code == EINVAL)
        return errmsg_sys(e, code, "io_uring lacks what is needed (DEFER_TASKRUN): Linux 6.1 or later is expected");
    return errmsg_sys(e, code, "cannot make an io_uring");
}

int engine_uring_new(struct engine **out, unsigned depth, struct errmsg *e)
{
    assert(is_power_of_2(depth) && depth <= URING_DEPTH_MAX);
    struct uring *u = calloc(1, sizeof *u);
    if (!u) return errmsg_sys(e, ENOMEM, "cannot make an I/O engine");
    struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                         IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED};
    int ret = io_uring_queue_init_params(depth, &u->ring, &p);
    if (ret < 0) {
        free(u);
        return ring_error(e, -ret);
    }
    u->base.ops = &uring_ops;
    u->depth = depth;
    list_init(&u->base.deferred);
    list_init(&u->waiting);
    list_init(&u->no_bounce);
    list_init(&u->finished);
    list_init(&u->watches);
    *out = &u->base;
    return 0;
}

static int uring_make(void *arg, struct engine **out, struct errmsg *e)
{
    return engine_uring_new(out, ENGINE_URING_DEPTH, e);
}

const struct engine_maker engine_uring_maker = {.make = uring_make};
