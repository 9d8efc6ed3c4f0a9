/* SPDX-License-Identifier: Apache-2.0 */
/* What a disk worker has counted, in all and by queue, as it is told to the daemon. */
#ifndef CMD_VBD_STATS_H
#define CMD_VBD_STATS_H

#include <jansson.h>

#include "cmd/vbd_chain.h"
#include "guest/vhost_user.h"
#include "vbd/vbd.h"

/* A new reference. state: of a device that its front end did not break. */
json_t *stats_json(struct vbd *v, struct chain *chain, const struct vhost_session_info *info, const char *state);

#endif
