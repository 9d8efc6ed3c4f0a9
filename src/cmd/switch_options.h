/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of creedence-switch. What sets up a switch without a daemon becomes requests, the very same that a daemon
 * sends, so that one reader checks both.
 */
#ifndef CMD_SWITCH_OPTIONS_H
#define CMD_SWITCH_OPTIONS_H

#include <jansson.h>

#include "base/errmsg.h"
#include "cmd/sandbox.h"

struct switch_options {
    json_t *configure;                              /* parameters of the request of that name */
    json_t *requests;                               /* [{"method", "params", "option"}], bridges first, flows last */
    json_t *flow_files;                             /* [{"bridge", "path"}] */
    const char *socket_path;                        /* the conventions: one VIF on bridge br0 */
    int fd;                                         /* the same, inherited; -1: none */
    int link_fd;                                    /* -1: no daemon */
    const char *control;                            /* path for a link socket, or NULL */
    const char *openflow_dir;                       /* where tools find bridges, or NULL */
    json_t *controllers;                            /* [{"bridge", "target"}] */
    const char *tls_key, *tls_certificate, *tls_ca; /* files; all or none */
    bool verbose, sandbox_off;
    struct sandbox_args sandbox;
};

/* 0; 1: everything is done (--help and its like); -EINVAL with the reason. */
int switch_options_parse(struct switch_options *o, int argc, char **argv, struct errmsg *e);
void switch_options_free(struct switch_options *o);

#endif
