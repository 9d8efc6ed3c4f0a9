/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs inside a guest:
 *
 *     guest-disk journal DEVICE SECONDS THREADS      transactions, as a journal makes them, for whoever looks at the storage's record
 *     guest-disk cdrom DEVICE                        is it a CD-ROM drive? Exit status 0, or 1
 *
 * Each thread has its own part of the device: SLOTS commit blocks, then SLOTS groups of DATA blocks. Transaction n (from 1) writes the
 * DATA blocks of group n % SLOTS, all at once; flushes; writes commit block n % SLOTS, and when that is on storage the next
 * begins. So whatever reaches storage, in whatever state it is left: a commit block there means that the
 * transaction's data are there too, and data of transaction n that the one before is committed.
 *
 * A block is 4 KiB: in every 16 bytes MAGIC, thread, number of the transaction. tests/xen/order.py looks at them.
 *
 * One line a second says how far it got; the last starts with "journal: ok" or "journal: FAILED".
 *
 * Statically linked: the initial RAM disk has no C library.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/cdrom.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK_BYTES 4096u
#define MAGIC 0x4a524e4cu
#define THREADS_MAX 16u

enum { SLOTS = 8, DATA = 8 };

struct stamp {
    uint32_t magic, thread;
    uint64_t number;
};

struct writer {
    pthread_t thread;
    int fd;
    uint32_t index;
    aio_context_t aio;
    struct stamp *buffer; /* DATA blocks */
};

static atomic_ulong transactions;
static atomic_bool stop, failed;

static bool fail(const char *what)
{
    if (!atomic_exchange(&failed, true)) printf("journal: FAILED %s: %s\n", what, strerror(errno));
    fflush(stdout);
    return false;
}

/* In blocks of the device. */
static uint64_t commit_at(const struct writer *w, uint64_t number)
{
    return w->index * (uint64_t)(SLOTS + SLOTS * DATA) + number % SLOTS;
}

static uint64_t data_at(const struct writer *w, uint64_t number)
{
    return w->index * (uint64_t)(SLOTS + SLOTS * DATA) + SLOTS + number % SLOTS * DATA;
}

/* So many writes of a block each, from the start of the buffer on. */
static bool write_blocks(struct writer *w, struct iocb *iocb, unsigned count)
{
    struct iocb *each[DATA];
    struct io_event event[DATA];
    for (unsigned i = 0; i < count; i++) {
        iocb[i].aio_lio_opcode = IOCB_CMD_PWRITE;
        iocb[i].aio_fildes = (uint32_t)w->fd;
        iocb[i].aio_buf = (uintptr_t)w->buffer + (uintptr_t)i * BLOCK_BYTES;
        iocb[i].aio_nbytes = BLOCK_BYTES;
        each[i] = &iocb[i];
    }
    if (syscall(SYS_io_submit, w->aio, count, each) != count) return fail("submitting");
    if (syscall(SYS_io_getevents, w->aio, count, count, event, NULL) != count) return fail("waiting");
    for (unsigned i = 0; i < count; i++) {
        if (event[i].res == BLOCK_BYTES) continue;
        errno = event[i].res < 0 ? (int)-event[i].res : EIO;
        return fail("writing");
    }
    return true;
}

static bool flush(const struct writer *w)
{
    return fdatasync(w->fd) == 0 || fail("flushing");
}

/* Not in the order of the device: they would become one request. */
static bool write_data(struct writer *w, uint64_t number)
{
    struct iocb iocb[DATA] = {0};
    for (unsigned i = 0; i < DATA; i++)
        iocb[i].aio_offset = (int64_t)((data_at(w, number) + i * 3 % DATA) * BLOCK_BYTES);
    return write_blocks(w, iocb, DATA);
}

/* By one way and the other: a write that is on storage when it is over (FUA: a barrier, where there are no flushes), and a flush after it.
 * A synchronous pwritev2() would do both. */
static bool write_commit(struct writer *w, uint64_t number)
{
    bool fua = number % 2;
    struct iocb iocb = {.aio_rw_flags = fua ? RWF_DSYNC : 0};
    iocb.aio_offset = (int64_t)(commit_at(w, number) * BLOCK_BYTES);
    return write_blocks(w, &iocb, 1) && (fua || flush(w));
}

static void *work(void *arg)
{
    struct writer *w = arg;
    for (uint64_t number = 1; !atomic_load(&stop) && !atomic_load(&failed); number++) {
        for (unsigned i = 0; i < DATA * BLOCK_BYTES / sizeof w->buffer[0]; i++)
            w->buffer[i] = (struct stamp){MAGIC, w->index, number};
        if (!write_data(w, number) || !flush(w) || !write_commit(w, number)) break;
        atomic_fetch_add(&transactions, 1);
    }
    return NULL;
}

static bool start(struct writer *w, uint32_t index, const char *device)
{
    *w = (struct writer){.index = index};
    w->fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
    w->buffer = aligned_alloc(BLOCK_BYTES, (size_t)DATA * BLOCK_BYTES);
    if (w->fd < 0 || !w->buffer || syscall(SYS_io_setup, DATA, &w->aio) < 0) return fail("opening");
    return pthread_create(&w->thread, NULL, work, w) == 0;
}

static int journal(const char *device, unsigned seconds, unsigned count)
{
    static struct writer writers[THREADS_MAX];
    if (count == 0 || count > THREADS_MAX) return 2;
    for (unsigned i = 0; i < count; i++)
        if (!start(&writers[i], i, device)) return 1;
    for (unsigned s = 0; s < seconds && !atomic_load(&failed); s++) {
        sleep(1);
        printf("journal: did %lu\n", atomic_load(&transactions));
        fflush(stdout);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < count; i++)
        pthread_join(writers[i].thread, NULL);
    if (atomic_load(&failed)) return 1;
    printf("journal: ok %lu\n", atomic_load(&transactions));
    return 0;
}

static int cdrom(const char *device)
{
    int fd = open(device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int ret = fd < 0 ? fd : ioctl(fd, CDROM_GET_CAPABILITY, 0);
    if (ret < 0) printf("%s: %s\n", device, strerror(errno));
    return ret < 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "journal") == 0)
        return journal(argv[2], (unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]));
    if (argc == 3 && strcmp(argv[1], "cdrom") == 0) return cdrom(argv[2]);
    fprintf(stderr, "usage: guest-disk journal DEVICE SECONDS THREADS | cdrom DEVICE\n");
    return 2;
}
