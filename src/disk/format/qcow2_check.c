/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include "disk/format/qcow2_image.h"
int qcow2_rebuild_refcounts(struct engine *engine, const struct engine_file *file, struct errmsg *e)
{
    return errmsg_set(e, ENOTSUP, "%s: not yet", file->name);
}
