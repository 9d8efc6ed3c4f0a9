/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "cmd/switch_net.h"

int request_capture_start(struct net *n, struct net_request *r)
{
    return errmsg_set(r->e, EOPNOTSUPP, "capture.start: this build has no captures");
}

int request_capture_stop(struct net *n, struct net_request *r)
{
    return errmsg_set(r->e, EOPNOTSUPP, "capture.stop: this build has no captures");
}

void net_capture_end(struct attachment *a)
{
    (void)a;
}
