/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS for connections with controllers: mutual, TLS 1.2 or later. OpenSSL is used in tls.c only.
 *
 * Thread-safety: the control thread.
 */
#ifndef OPENFLOW_TLS_H
#define OPENFLOW_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/errmsg.h"

struct of_tls;

/* PEM texts: who starts the process reads the files, for it cannot. Peers must have a certificate of `ca`. 0 or -EINVAL. */
int of_tls_new(struct of_tls **out, const char *key, const char *certificate, const char *ca, struct errmsg *e);
void of_tls_free(struct of_tls *t);
/* Is it of these very texts? */
bool of_tls_is_of(const struct of_tls *t, const char *key, const char *certificate, const char *ca);

/* One connection, for stream.c: as of_stream_*. The descriptor stays the caller's; `t` outlives it. */
struct of_tls_session;
int of_tls_session_new(struct of_tls_session **out, struct of_tls *t, int fd, bool client);
void of_tls_session_free(struct of_tls_session *s); /* says goodbye, if there is room for it */
ssize_t of_tls_session_read(struct of_tls_session *s, void *to, size_t max);
ssize_t of_tls_session_write(struct of_tls_session *s, const void *from, size_t bytes);
uint32_t of_tls_session_wants(const struct of_tls_session *s, bool writing);
bool of_tls_session_has_more(const struct of_tls_session *s);
/* What failed and what to do about it, once a read or write has failed of TLS itself; else NULL. */
const char *of_tls_session_why(const struct of_tls_session *s);

#endif
