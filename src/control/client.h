/* SPDX-License-Identifier: Apache-2.0 */
/* Asking the daemon (JSON-RPC, control/rpc.h) and waiting for the answer: for the command line. */
#ifndef CONTROL_CLIENT_H
#define CONTROL_CLIENT_H

#include <jansson.h>

#include "base/errmsg.h"

struct client;

/* Connect to the daemon's socket. 0 or -errno; the message says what to do. */
int client_open(struct client **out, const char *socket_path, struct errmsg *e);
void client_close(struct client *c);

/*
 * One request. params is stolen (NULL: none). 0: *result is a new reference. -EREMOTEIO: the daemon answered with
 * an error, whose message is in e, and whose code in *code when code is not NULL. Other -errno: no answer
 * (-ETIMEDOUT after timeout_ms), the connection is of no more use.
 */
int client_call(struct client *c, const char *method, json_t *params, unsigned timeout_ms, json_t **result, int *code,
                struct errmsg *e);

#endif
