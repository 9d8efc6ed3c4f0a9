/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One OpenFlow connection: hello, framing, echo, and the queue of what is to be sent.
 *
 *     of_stream --> whole messages of version 4 --> ops->message        of_conn_send() --> queue --> of_stream
 *
 * Versions: of the hello's bitmap (or header) 4 must be one, else an error OFPHFC_INCOMPATIBLE is sent and it ends. Echo
 * requests are answered, and made when the peer is idle, here. A message whose length is less than a header's gets
 * OFPBRC_BAD_LEN and ends the connection; one with a wrong version gets OFPBRC_BAD_VERSION.
 *
 * While more than OF_OUTPUT_PAUSE_BYTES are queued nothing is read or handed over; over OF_OUTPUT_MAX_BYTES it ends. A peer that
 * closes its end is still served what it had sent.
 *
 * Thread-safety: the control thread. Callbacks come from the loop, one of them may free the connection.
 */
#ifndef OPENFLOW_CONN_H
#define OPENFLOW_CONN_H

#include "loop/loop.h"
#include "openflow/out.h"
#include "openflow/stream.h"

#define OF_OUTPUT_PAUSE_BYTES (1u << 20) /* queued for a peer: its requests are not read until it is less */
#define OF_OUTPUT_MAX_BYTES (16u << 20)  /* then its connection is closed */
#define OF_ECHO_S_DEFAULT 15u
#define OF_HELLO_S 10u /* for the peer's hello, TLS included */
#define OF_CLOSE_S 5u  /* for what is queued when it is closed */

struct of_conn;

struct of_conn_ops {
    void (*established)(void *arg);
    /* A whole message, 8..65535 bytes, version 4; never hello or echo. Good during the call; aligned to 8. */
    void (*message)(void *arg, const uint8_t *message, size_t bytes);
    /* All that could be read for now was handed over. May be NULL. */
    void (*batch_end)(void *arg);
    /* Something was sent, and the queue is below the pause limit: a long answer may go on. May be NULL. */
    void (*drained)(void *arg);
    void (*ended)(void *arg, const char *reason); /* the last; then of_conn_free() */
    void *arg;
};

/* The stream is taken over, whatever happens. echo_s 0: OF_ECHO_S_DEFAULT. No callback comes before it has returned. 0 or -errno. */
int of_conn_new(struct of_conn **out, struct loop *loop, struct of_stream *stream, unsigned echo_s,
                const struct of_conn_ops *ops);
void of_conn_free(struct of_conn *c); /* from anywhere, a callback too; no callback comes after it */

/* Where to write messages; what is complete (of_out_end()) is sent from the loop, together. */
struct of_out *of_conn_out(struct of_conn *c);
/* There is something in it. It is sent at the end of the callback or of this pass of the loop. */
void of_conn_send(struct of_conn *c);
size_t of_conn_queued(const struct of_conn *c);
/* Read no further (a long answer is being made); undone by true. */
void of_conn_read(struct of_conn *c, bool read);
/* Send what is queued, then end: ended() comes from the loop. Nothing is read any more. */
void of_conn_close(struct of_conn *c, const char *reason);

#endif
