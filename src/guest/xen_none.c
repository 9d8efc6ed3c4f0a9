/* SPDX-License-Identifier: Apache-2.0 */
/* Built in the place of xen.c where Xen's libraries are not there. */
#include "guest/xen.h"

#include <errno.h>

int xen_open(struct xen **out, struct xen_budget *budget, struct errmsg *e)
{
    (void)out;
    (void)budget;
    return errmsg_set(e, ENODEV, "built without Xen's libraries (libxen-dev)");
}
