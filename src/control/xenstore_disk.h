/* SPDX-License-Identifier: Apache-2.0 */
/* What of blkif's keys a disk's worker may have published: others are no worker's to write. */
#ifndef CONTROL_XENSTORE_DISK_H
#define CONTROL_XENSTORE_DISK_H

#include <jansson.h>

json_t *xen_disk_keys(json_t *keys); /* a new reference; of keys, which may be NULL or of another type */

#endif
