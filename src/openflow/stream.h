/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a connection, plain or TLS, without waiting.
 *
 * System calls: getsockopt, setsockopt, fcntl when it begins; recvfrom, sendto; shutdown, close.
 *
 * Thread-safety: the control thread.
 */
#ifndef OPENFLOW_STREAM_H
#define OPENFLOW_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "openflow/tls.h"

struct of_stream;

/* fd, a connected socket, is taken over when it succeeds. 0 or -errno. */
int of_stream_new(struct of_stream **out, int fd, struct of_tls *tls, bool client);
void of_stream_free(struct of_stream *s);
int of_stream_fd(const struct of_stream *s);

/* Bytes; 0: the end (read); -EAGAIN: of_stream_wants() says what to wait for; -errno.
 * A write that said -EAGAIN is repeated with the same bytes, or these and more. */
ssize_t of_stream_read(struct of_stream *s, void *to, size_t max);
ssize_t of_stream_write(struct of_stream *s, const void *from, size_t bytes);
/* EPOLLIN, EPOLLOUT: what a read (write) that said -EAGAIN waits for; TLS may want the other direction. */
uint32_t of_stream_wants(const struct of_stream *s, bool writing);
/* Bytes that were read off the socket already: no event will tell of them. */
bool of_stream_has_more(const struct of_stream *s);
/* What a read or write that failed with `error` (an errno) failed of, for people. */
const char *of_stream_why(const struct of_stream *s, int error);

#endif
