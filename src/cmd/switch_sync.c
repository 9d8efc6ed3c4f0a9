/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that waits for the disk, so that nobody else does: what OpenFlow changed is in the bridges' files, and about once a
 * second they are synced. One descriptor for each bridge waits at most.
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
#include "cmd/switch_net.h"
#include "loop/thread.h"

struct net_sync {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    bool end;
    int fds[SWITCH_BRIDGES_MAX]; /* by the bridge's number; -1: nothing is to be done */
    int new_fds[SWITCH_BRIDGES_MAX];
    int new_states[SWITCH_BRIDGES_MAX]; /* 0 or -errno */
};

/* Locked. -1: nothing waits. *state: where the result goes, or NULL. */
static int take_one(struct net_sync *s, int **state)
{
    *state = NULL;
    for (unsigned i = 0; i < SWITCH_BRIDGES_MAX; i++) {
        int fd = s->fds[i];
        s->fds[i] = -1;
        if (fd >= 0) return fd;
    }
    for (unsigned i = 0; i < SWITCH_BRIDGES_MAX; i++) {
        int fd = s->new_fds[i];
        s->new_fds[i] = -1;
        *state = &s->new_states[i];
        if (fd >= 0) return fd;
    }
    return -1;
}

static void *sync_main(void *arg)
{
    struct net_sync *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        int *state, ret = 0, fd = take_one(s, &state);
        if (fd < 0 && s->end) break;
        if (fd < 0) {
            pthread_cond_wait(&s->work, &s->lock);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        if (fdatasync(fd) < 0) ret = -errno;
        if (ret < 0) log_limited(LOG_LEVEL_ERROR, "syncing a bridge's flow file: %s", strerror(-ret));
        close(fd);
        pthread_mutex_lock(&s->lock);
        if (state) *state = ret;
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

int net_sync_new(struct net_sync **out)
{
    struct net_sync *s = calloc(1, sizeof *s);
    if (!s) return -ENOMEM;
    memset(s->fds, -1, sizeof s->fds);
    memset(s->new_fds, -1, sizeof s->new_fds);
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

bool net_sync_soon(struct net_sync *s, unsigned bridge, int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return false;
    pthread_mutex_lock(&s->lock);
    int before = s->fds[bridge];
    s->fds[bridge] = copy;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    if (before >= 0) close(before); /* the disk is slow; the file may be another one by now */
    return true;
}

int net_sync_new_file(struct net_sync *s, unsigned bridge, int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return -errno;
    pthread_mutex_lock(&s->lock);
    int before = s->new_fds[bridge];
    s->new_fds[bridge] = copy;
    s->new_states[bridge] = -EINPROGRESS;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    if (before >= 0) close(before);
    return 0;
}

int net_sync_new_file_state(struct net_sync *s, unsigned bridge)
{
    pthread_mutex_lock(&s->lock);
    int state = s->new_states[bridge];
    pthread_mutex_unlock(&s->lock);
    return state;
}
