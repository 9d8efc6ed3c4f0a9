/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON-RPC 2.0 over a Unix stream socket, one JSON text per line each way (jsonrpc.org/specification).
 *
 * Parameters are by name (an object). Batches and notifications are served. Requests of one
 * connection may be answered in another order than they came: the id tells.
 *
 * Nobody can stall the daemon: reads and writes never wait; a line, a connection's unanswered requests and unread
 * answers, and the connections are bounded (below). A client that does not read its answers is not
 * read from either, until it does; when connections run out, the longest idle one is closed.
 *
 * Thread-safety: none; everything on the loop's thread.
 */
#ifndef CONTROL_RPC_H
#define CONTROL_RPC_H

#include <jansson.h>

#include "control/fields.h"
#include "loop/loop.h"

#define RPC_LINE_MAX_BYTES (1u << 20)
#define RPC_CONNECTIONS_MAX 64u
#define RPC_UNANSWERED_MAX 16u               /* per connection; a batch counts as one */
#define RPC_BATCH_MAX 64u                    /* requests in a batch */
#define RPC_OUTPUT_PAUSE_BYTES (256u * 1024) /* unsent output above which nothing more is read */

/* The specification's codes, and ours from its range for implementations. */
enum rpc_code {
    RPC_PARSE_ERROR = -32700,
    RPC_INVALID_REQUEST = -32600,
    RPC_METHOD_NOT_FOUND = -32601,
    RPC_INVALID_PARAMS = -32602, /* data: {"field", "got", "expected"} */
    RPC_INTERNAL = -32603,
    RPC_NOT_FOUND = -32001, /* nothing of that name */
    RPC_EXISTS = -32002,    /* there is one of that name */
    RPC_BUSY = -32003,      /* not in this state; the message says what to do */
    RPC_IMAGE = -32004,     /* an image cannot be opened, locked or used as configured */
    RPC_WORKER = -32005,    /* a disk worker failed; data: {"errno"} */
    RPC_CACHE = -32006,     /* the cache service failed or is not running */
    RPC_STATE = -32007,     /* the state directory cannot be written */
    RPC_TIMEOUT = -32008,
    RPC_SWITCH = -32009, /* the switch failed or is not running; data: {"errno"} */
};

struct rpc_server;
struct rpc_call; /* a request on its way to its answer */

struct rpc_method {
    const char *name;
    /* params is an object, borrowed for the call. Each call is answered exactly once, now or later. */
    void (*run)(void *arg, struct rpc_call *call, json_t *params);
};

/* listen_fd is taken over. methods end with a NULL name. 0 or -errno. */
int rpc_server_new(struct rpc_server **out, struct loop *l, int listen_fd, const struct rpc_method *methods, void *arg);
/* Answers not given yet are lost, but their calls must still be answered (to nobody). */
void rpc_server_free(struct rpc_server *s);
/* Give the kernel what is still unsent, waiting at most wait_ms in all. For the end of the program. */
void rpc_server_flush(struct rpc_server *s, unsigned wait_ms);

void rpc_answer(struct rpc_call *call, json_t *result /* stolen; NULL: out of memory */);
void rpc_fail(struct rpc_call *call, enum rpc_code code, json_t *data /* stolen, may be NULL */, const char *format,
              ...) __attribute__((format(printf, 4, 5)));
void rpc_fail_field(struct rpc_call *call, const struct field_error *why);

#endif
