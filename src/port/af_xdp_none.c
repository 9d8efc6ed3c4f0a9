/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of af_xdp.c where there is no libxdp. */
#include <errno.h>
#include <stddef.h>

#include "port/af_xdp.h"

int af_xdp_open(struct af_xdp **out, const struct af_xdp_config *c, struct errmsg *e)
{
    (void)out;
    return errmsg_set(e, ENOSYS, "%s: this program was built without libxdp", c->device);
}

struct port *af_xdp_port(struct af_xdp *x)
{
    (void)x;
    return NULL;
}

struct port_source *af_xdp_source(struct af_xdp *x, unsigned queue)
{
    (void)x;
    (void)queue;
    return NULL;
}

enum af_xdp_mode af_xdp_mode(const struct af_xdp *x)
{
    (void)x;
    return AF_XDP_AUTO;
}
