/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that waits for the disk, so that nobody else does: what OpenFlow changed is in the bridges' files, and about
 * once a second they are synced. At most one descriptor for each file waits; they get their turns in a circle.
 *
 * Thread-safety: net_sync_* on the control thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/switch_keep.h"
#include "loop/thread.h"

#define SLOTS (SWITCH_BRIDGES_MAX * NET_SYNC_SLOTS)

struct slot {
    int fd;         /* -1: nothing waits */
    int result;     /* of the last that was begun */
    unsigned begun; /* how often something was begun or forgotten: only the last of them has a result */
};

struct net_sync {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    bool end;
    unsigned turn;
    struct slot slots[SLOTS];
};

/* Locked. NULL: nothing waits. */
static struct slot *next_waiting(struct net_sync *s)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *k = &s->slots[(s->turn + i) % SLOTS];
        if (k->fd < 0) continue;
        s->turn = (s->turn + i + 1) % SLOTS;
        return k;
    }
    return NULL;
}

/* Locked, but while it waits. */
static void sync_one(struct net_sync *s, struct slot *k)
{
    int fd = k->fd;
    unsigned begun = k->begun;
    k->fd = -1;
    pthread_mutex_unlock(&s->lock);
    int ret = fdatasync(fd) < 0 ? -errno : 0;
    if (ret < 0) log_limited(LOG_LEVEL_ERROR, "syncing a bridge's flow file: %s", strerror(-ret));
    close(fd);
    pthread_mutex_lock(&s->lock);
    if (k->begun == begun) k->result = ret;
}

static void *sync_main(void *arg)
{
    struct net_sync *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        struct slot *k = next_waiting(s);
        if (k) sync_one(s, k);
        else if (s->end) break;
        else pthread_cond_wait(&s->work, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

int net_sync_new(struct net_sync **out)
{
    struct net_sync *s = calloc(1, sizeof *s);
    if (!s) return -ENOMEM;
    for (unsigned i = 0; i < SLOTS; i++)
        s->slots[i].fd = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    int ret = thread_start(&s->thread, "sync", sync_main, s);
    if (ret == 0) {
        *out = s;
        return 0;
    }
    free(s);
    return ret;
}

void net_sync_free(struct net_sync *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->end = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->work);
    free(s);
}

static void put(struct net_sync *s, unsigned bridge, unsigned slot, int fd, int result)
{
    struct slot *k = &s->slots[bridge * NET_SYNC_SLOTS + slot];
    pthread_mutex_lock(&s->lock);
    int before = k->fd;
    k->fd = fd;
    k->result = result;
    k->begun++;
    if (fd >= 0) pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    if (before >= 0) close(before);
}

int net_sync_begin(struct net_sync *s, unsigned bridge, unsigned slot, int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return -errno;
    put(s, bridge, slot, copy, -EINPROGRESS);
    return 0;
}

void net_sync_forget(struct net_sync *s, unsigned bridge, unsigned slot)
{
    put(s, bridge, slot, -1, 0);
}

int net_sync_result(struct net_sync *s, unsigned bridge, unsigned slot)
{
    pthread_mutex_lock(&s->lock);
    int result = s->slots[bridge * NET_SYNC_SLOTS + slot].result;
    pthread_mutex_unlock(&s->lock);
    return result;
}
