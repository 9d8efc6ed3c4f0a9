/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/vbd_engines.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct engines {
    struct engine_maker maker;
    pthread_mutex_t lock;
    unsigned count;
    struct engine *engine[];
};

static int take(void *arg, struct engine **out, struct errmsg *e)
{
    struct engines *p = arg;
    struct engine *got = NULL;
    pthread_mutex_lock(&p->lock);
    if (p->count) got = p->engine[--p->count];
    pthread_mutex_unlock(&p->lock);
    if (!got) return engine_uring_new(out, ENGINE_URING_DEPTH, e);
    *out = got;
    return 0;
}

int engines_new(struct engines **out, unsigned count, struct errmsg *e)
{
    struct engines *p = calloc(1, sizeof *p + count * sizeof p->engine[0]);
    if (!p) return errmsg_set(e, ENOMEM, "out of memory");
    p->maker = (struct engine_maker){.make = take, .arg = p};
    pthread_mutex_init(&p->lock, NULL);
    for (; p->count < count; p->count++) {
        int ret = engine_uring_new(&p->engine[p->count], ENGINE_URING_DEPTH, e);
        if (ret < 0) {
            engines_free(p);
            return ret;
        }
    }
    *out = p;
    return 0;
}

void engines_free(struct engines *p)
{
    if (!p) return;
    while (p->count)
        engine_free(p->engine[--p->count]);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

const struct engine_maker *engines_maker(struct engines *p)
{
    return &p->maker;
}
