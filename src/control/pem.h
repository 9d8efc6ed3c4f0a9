/* SPDX-License-Identifier: Apache-2.0 */
/* Files with keys and certificates, and the memory that a key was in. */
#ifndef CONTROL_PEM_H
#define CONTROL_PEM_H

#include <jansson.h>

#include "base/errmsg.h"

#define PEM_MAX_BYTES 65536u

/* What is in the regular file at `path` becomes object[key]. 0, -EINVAL: it is no PEM file; or another -errno with the reason. */
int pem_read(json_t *object, const char *key, const char *path, struct errmsg *e);
/* Wipe the key that is in it, and release it. Nobody needs it any more, whoever else may hold it. */
void pem_release(json_t *object);

#endif
