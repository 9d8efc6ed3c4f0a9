/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The management socket of the cache service: channels, figures and the budget, asked for in control/link.h's
 * messages by whoever may open the socket.
 *
 *   channel {"layers":[{"format","path"},...], "count":N} + layer0.. -> {} + channel0..
 *   stats {} -> figures     set {"budget":"auto"|N} -> {}     drop {"path"?} -> {}
 */
#ifndef CMD_CACHE_MANAGER_H
#define CMD_CACHE_MANAGER_H

#include "cache/budget.h"
#include "cache/service.h"
#include "loop/loop.h"

struct cache_manager;

struct cache_manager_args {
    struct loop *loop;
    int listen_fd; /* SOCK_SEQPACKET, listening; taken over */
    struct cache_service *service;
    struct cache_memory_source *memory;
    struct cache_budget *budget;
};
#define CACHE_MANAGER_CONNECTIONS_MAX 64

/* 0 or -errno. */
int cache_manager_new(struct cache_manager **out, const struct cache_manager_args *args, struct errmsg *e);
void cache_manager_free(struct cache_manager *m);

#endif
