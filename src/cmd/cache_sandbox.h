/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_CACHE_SANDBOX_H
#define CMD_CACHE_SANDBOX_H

#include <stdbool.h>

#include "base/errmsg.h"

struct cache_sandbox_args {
    const char *user; /* become this user; NULL: stay */
    bool required;    /* a part that this host does not allow is an error instead of a line in the log */
};

/* Give up what the cache service does not need, for good. Everything that is opened by path is open by now;
 * threads that run already are included. 0 or -errno. */
int cache_sandbox_user(const struct cache_sandbox_args *args, struct errmsg *e);   /* before any thread is started */
int cache_sandbox_filter(const struct cache_sandbox_args *args, struct errmsg *e); /* when all have been */

#endif
