/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS for connections with controllers: mutual, TLS 1.2 or later. OpenSSL is used in tls.c only.
 *
 * Thread-safety: the control thread.
 */
#ifndef OPENFLOW_TLS_H
#define OPENFLOW_TLS_H

#include <stddef.h>

#include "base/errmsg.h"

struct of_tls;

/* PEM texts: who starts the process reads the files, for it cannot. Peers must have a certificate of `ca`. 0 or -EINVAL. */
int of_tls_new(struct of_tls **out, const char *key, const char *certificate, const char *ca, struct errmsg *e);
void of_tls_free(struct of_tls *t);

#endif
