/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/map.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t maps_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list maps = {&maps, &maps};

static void need_bytes(uint64_t size_bytes, uint64_t *out)
{
    uint64_t blocks = div_round_up(size_bytes, CACHE_BLOCK_BYTES);
    out[0] = max_u64(blocks, 1) * CACHE_BLOCK_BYTES;
    out[1] = max_u64(blocks, 1) * sizeof(cache_word);
    out[2] = max_u64(div_round_up(size_bytes, CACHE_CHUNK_BYTES), 1);
}

/* Of the size that is needed, and sealed so that it stays: a shorter one would be a SIGBUS to come. */
static int check_fd(int fd, uint64_t bytes, ino_t *inode)
{
    struct stat st;
    if (fstat(fd, &st) < 0) return -errno;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || (uint64_t)st.st_size < bytes) return -EPROTO;
    *inode = st.st_ino;
    return 0;
}

static void unmap_all(const struct cache_map *m)
{
    if (m->data) munmap((void *)(uintptr_t)m->data, m->map_bytes[0]);
    if (m->words) munmap((void *)(uintptr_t)m->words, m->map_bytes[1]);
    if (m->touched) munmap((void *)m->touched, m->map_bytes[2]);
}

/* At an address that lets the kernel map huge pages of the file as such. MAP_FAILED with errno set. */
static void *map_aligned(uint64_t bytes, int prot, int fd)
{
    bytes = align_up(bytes, (uint64_t)sysconf(_SC_PAGESIZE));
    char *room = mmap(NULL, bytes + CACHE_HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return MAP_FAILED;
    uint64_t before = align_up((uintptr_t)room, CACHE_HUGE_BYTES) - (uintptr_t)room;
    void *p = mmap(room + before, bytes, prot, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
    if (p == MAP_FAILED) {
        int code = errno;
        munmap(room, bytes + CACHE_HUGE_BYTES);
        errno = code;
        return MAP_FAILED;
    }
    if (before) munmap(room, before);
    munmap(room + before + bytes, CACHE_HUGE_BYTES - before);
    return p;
}

static int map_all(struct cache_map *m, const int *fds)
{
    void *p[CACHE_FDS_PER_LAYER];
    for (unsigned i = 0; i < CACHE_FDS_PER_LAYER; i++) {
        int prot = i == 2 ? PROT_READ | PROT_WRITE : PROT_READ;
        p[i] = map_aligned(m->map_bytes[i], prot, fds[i]);
        if (p[i] == MAP_FAILED) {
            int code = errno;
            while (i-- > 0)
                munmap(p[i], m->map_bytes[i]);
            return -code;
        }
    }
    m->data = p[0];
    m->words = p[1];
    m->touched = p[2];
    return 0;
}

static struct cache_map *find(uint64_t size_bytes, const ino_t *inode)
{
    LIST_FOR_EACH (node, &maps) {
        struct cache_map *m = list_entry(node, struct cache_map, node);
        if (m->size_bytes == size_bytes && m->inode[0] == inode[0] && m->inode[1] == inode[1] &&
            m->inode[2] == inode[2])
            return m;
    }
    return NULL;
}

static int get_locked(struct cache_map **out, uint64_t size_bytes, const int *fds, const uint64_t *bytes,
                      const ino_t *inode)
{
    struct cache_map *m = find(size_bytes, inode);
    if (m) {
        m->refs++;
        *out = m;
        return 0;
    }
    m = calloc(1, sizeof *m);
    if (!m) return -ENOMEM;
    m->size_bytes = size_bytes;
    m->refs = 1;
    for (unsigned i = 0; i < CACHE_FDS_PER_LAYER; i++) {
        m->map_bytes[i] = bytes[i];
        m->inode[i] = inode[i];
    }
    int ret = map_all(m, fds);
    if (ret < 0) {
        free(m);
        return ret;
    }
    list_push_back(&maps, &m->node);
    *out = m;
    return 0;
}

int cache_map_get(struct cache_map **out, uint64_t size_bytes, const int *fds)
{
    uint64_t bytes[CACHE_FDS_PER_LAYER];
    ino_t inode[CACHE_FDS_PER_LAYER];
    if (size_bytes > INT64_MAX) return -EPROTO;
    need_bytes(size_bytes, bytes);
    for (unsigned i = 0; i < CACHE_FDS_PER_LAYER; i++) {
        int ret = check_fd(fds[i], bytes[i], &inode[i]);
        if (ret < 0) return ret;
    }
    pthread_mutex_lock(&maps_lock);
    int ret = get_locked(out, size_bytes, fds, bytes, inode);
    pthread_mutex_unlock(&maps_lock);
    return ret;
}

void cache_map_put(struct cache_map *m)
{
    if (!m) return;
    pthread_mutex_lock(&maps_lock);
    bool last = --m->refs == 0;
    if (last) list_remove(&m->node);
    pthread_mutex_unlock(&maps_lock);
    if (!last) return;
    unmap_all(m);
    free(m);
}
