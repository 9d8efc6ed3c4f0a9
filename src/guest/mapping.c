/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mappings of guest memory, and SIGBUS.
 *
 * A front end may cut its file short while we use it; a touch of a page past the new end raises
 * SIGBUS in the thread that touches. The handler puts a page of zeroes there and marks the
 * mapping, the access is repeated and succeeds, and the device finds the mark and breaks itself. (The kernel's own
 * accesses, in io_uring or read(2), return EFAULT and need nothing from here.)
 *
 * The handler needs to know which addresses are ours. They are in a registry of slots that is only ever
 * added to, so that the handler follows no pointer that may be freed. A slot is written under a sequence
 * number, odd while it changes. The thread that faults holds a reference to the mapping it touches, so that slot cannot
 * be changing: one that is cannot be the one looked for and is skipped. No lock is taken.
 */
#include "guest/mapping.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/magic.h>

#include "base/checked.h"
#include "guest/memory.h"

#define SLOTS_PER_CHUNK 128

struct slot {
    _Atomic unsigned sequence;
    _Atomic uintptr_t start;
    _Atomic size_t length; /* 0: free */
    _Atomic size_t page_bytes;
    _Atomic bool truncated;
};

struct chunk {
    struct slot slot[SLOTS_PER_CHUNK];
    struct chunk *_Atomic next;
};

struct guest_mapping {
    _Atomic unsigned refs;
    struct guest_mapping_key key;
    char *start; /* of the mmap; the region begins at key.offset_bytes within its page */
    size_t length;
    struct slot *slot;
};

static struct chunk first_chunk;
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER; /* writers only */
static _Atomic bool any_truncated;
static struct sigaction previous_sigbus;

static struct slot *free_slot_locked(void)
{
    struct chunk *c = &first_chunk;
    for (;;) {
        for (unsigned i = 0; i < SLOTS_PER_CHUNK; i++)
            if (atomic_load_explicit(&c->slot[i].length, memory_order_relaxed) == 0) return &c->slot[i];
        struct chunk *next = atomic_load_explicit(&c->next, memory_order_relaxed);
        if (!next) {
            next = calloc(1, sizeof *next);
            if (!next) return NULL;
            atomic_store_explicit(&c->next, next, memory_order_release);
        }
        c = next;
    }
}

static void slot_write_locked(struct slot *s, uintptr_t start, size_t length, size_t page_bytes)
{
    atomic_fetch_add_explicit(&s->sequence, 1, memory_order_seq_cst);
    atomic_store_explicit(&s->start, start, memory_order_seq_cst);
    atomic_store_explicit(&s->length, length, memory_order_seq_cst);
    atomic_store_explicit(&s->page_bytes, page_bytes, memory_order_seq_cst);
    atomic_store_explicit(&s->truncated, false, memory_order_seq_cst);
    atomic_fetch_add_explicit(&s->sequence, 1, memory_order_seq_cst);
}

static int registry_add(struct guest_mapping *m)
{
    pthread_mutex_lock(&registry_lock);
    m->slot = free_slot_locked();
    if (m->slot) slot_write_locked(m->slot, (uintptr_t)m->start, m->length, m->key.page_bytes);
    pthread_mutex_unlock(&registry_lock);
    return m->slot ? 0 : -ENOMEM;
}

static void registry_remove(struct guest_mapping *m)
{
    pthread_mutex_lock(&registry_lock);
    slot_write_locked(m->slot, 0, 0, 0);
    pthread_mutex_unlock(&registry_lock);
}

/* Async-signal-safe: replaces the page at `fault` if it is in this slot's mapping. */
static bool slot_repair(struct slot *s, uintptr_t fault)
{
    unsigned sequence = atomic_load(&s->sequence);
    uintptr_t start = atomic_load(&s->start);
    size_t length = atomic_load(&s->length), page_bytes = atomic_load(&s->page_bytes);
    if (sequence % 2 || atomic_load(&s->sequence) != sequence) return false;
    if (fault < start || fault - start >= length) return false;
    void *page = (void *)align_down(fault, page_bytes);
    void *got =
        mmap(page, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) return false;
    atomic_store(&s->truncated, true);
    atomic_store(&any_truncated, true);
    return true;
}

static bool repair(uintptr_t fault)
{
    for (struct chunk *c = &first_chunk; c; c = atomic_load_explicit(&c->next, memory_order_acquire))
        for (unsigned i = 0; i < SLOTS_PER_CHUNK; i++)
            if (slot_repair(&c->slot[i], fault)) return true;
    return false;
}

/* Not ours: as if this handler had never been installed. */
static void pass_on(int signal_number, siginfo_t *info, void *context)
{
    if (previous_sigbus.sa_flags & SA_SIGINFO) {
        previous_sigbus.sa_sigaction(signal_number, info, context);
    } else if (previous_sigbus.sa_handler != SIG_DFL && previous_sigbus.sa_handler != SIG_IGN) {
        previous_sigbus.sa_handler(signal_number);
    } else if (info->si_code > 0 || previous_sigbus.sa_handler == SIG_DFL) {
        /* A fault cannot be ignored. Returning repeats it, now with the default action; one that
         * somebody sent is sent again. */
        signal(signal_number, SIG_DFL);
        if (info->si_code <= 0) raise(signal_number);
    }
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    /* si_addr is an address only in a fault (positive codes), not in a signal that was sent. */
    if (info->si_code <= 0 || !repair((uintptr_t)info->si_addr)) pass_on(signal_number, info, context);
    errno = saved_errno;
}

void guest_mapping_catch_sigbus(void)
{
    struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    sigemptyset(&sa.sa_mask);
    struct sigaction old;
    int ret = sigaction(SIGBUS, NULL, &old);
    assert(ret == 0);
    if ((old.sa_flags & SA_SIGINFO) && old.sa_sigaction == on_sigbus) return;
    previous_sigbus = old;
    ret = sigaction(SIGBUS, &sa, NULL);
    assert(ret == 0);
}

int guest_mapping_key(struct guest_mapping_key *key, int fd, uint64_t offset_bytes, uint64_t size_bytes,
                      struct errmsg *e)
{
    struct stat st;
    struct statfs fs;
    if (fd < 0) return errmsg_set(e, EINVAL, "no file descriptor came with it");
    if (fstat(fd, &st) || fstatfs(fd, &fs)) return errmsg_sys(e, errno, "cannot look at its file");
    if (!S_ISREG(st.st_mode))
        return errmsg_set(e, EINVAL, "its descriptor is not a regular file or memfd (mode 0%o)", (unsigned)st.st_mode);
    if (!range_fits(offset_bytes, size_bytes, (uint64_t)st.st_size))
        return errmsg_set(e, EINVAL, "offset 0x%llx + size 0x%llx is past the end of its file, which has 0x%llx bytes",
                          (unsigned long long)offset_bytes, (unsigned long long)size_bytes,
                          (unsigned long long)st.st_size);
    uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    if (fs.f_type == HUGETLBFS_MAGIC) page_bytes = (uint64_t)fs.f_bsize;
    *key = (struct guest_mapping_key){st.st_dev, st.st_ino, offset_bytes, size_bytes, page_bytes};
    return 0;
}

int guest_memory_check_file(int fd, struct errmsg *e)
{
    /* Files of memory alone have seals; and to ask for them asks no file system, as fstatfs(2) would. */
    if (fcntl(fd, F_GET_SEALS) >= 0) return 0;
    return errmsg_set(e, EINVAL,
                      "its file is not of memory: expected a memfd, or one on tmpfs (/dev/shm) or hugetlbfs");
}

int guest_mapping_new(struct guest_mapping **out, const struct guest_mapping_key *key, int fd, struct errmsg *e)
{
    uint64_t first = align_down(key->offset_bytes, key->page_bytes);
    uint64_t length = align_up(key->offset_bytes - first + key->size_bytes, key->page_bytes);
    struct guest_mapping *m = malloc(sizeof *m);
    if (!m) return errmsg_sys(e, ENOMEM, "cannot map it");
    *m = (struct guest_mapping){.refs = 1, .key = *key, .length = length};
    m->start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)first);
    if (m->start == MAP_FAILED) {
        int code = errno;
        free(m);
        return errmsg_sys(e, code, "cannot map 0x%llx bytes of its file at offset 0x%llx for reading and writing",
                          (unsigned long long)length, (unsigned long long)first);
    }
    /* A guest's memory is no part of our core dump. Old kernels may refuse: no harm. */
    madvise(m->start, length, MADV_DONTDUMP);
    if (registry_add(m)) {
        munmap(m->start, length);
        free(m);
        return errmsg_sys(e, ENOMEM, "cannot map it");
    }
    *out = m;
    return 0;
}

struct guest_mapping *guest_mapping_ref(struct guest_mapping *m)
{
    unsigned before = atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    assert(before > 0 && before < UINT32_MAX);
    return m;
}

void guest_mapping_unref(struct guest_mapping *m)
{
    if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1) return;
    registry_remove(m);
    munmap(m->start, m->length);
    free(m);
}

bool guest_mapping_is(const struct guest_mapping *m, const struct guest_mapping_key *key)
{
    return m->key.device == key->device && m->key.inode == key->inode && m->key.offset_bytes == key->offset_bytes &&
           m->key.size_bytes == key->size_bytes;
}

char *guest_mapping_host(const struct guest_mapping *m)
{
    return m->start + m->key.offset_bytes % m->key.page_bytes;
}

bool guest_mapping_truncated(const struct guest_mapping *m)
{
    return atomic_load_explicit(&m->slot->truncated, memory_order_acquire);
}

bool guest_mapping_any_truncated(void)
{
    return atomic_load_explicit(&any_truncated, memory_order_acquire);
}
