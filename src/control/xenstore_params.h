/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few words that a toolstack lets a person say of a Xen guest's disk or card, as the parameters that disks and cards have
 * otherwise (disk_config.h, network_config.h), which check them.
 *
 *     xl's target=, xenstore's params    ITEM[,ITEM...]
 *         FORMAT:PATH                    an image: the leaf first, then what it is based on. A comma in it is written \,
 *         OPTION=VALUE                   see the table in xenstore_params.c
 *     xl's bridge=                       BRIDGE[.VLAN][:TRUNK[:TRUNK...]]
 *     xl's rate=, xenstore's rate        BYTES,MICROSECONDS
 *     xl's ip=                           ADDRESS[ ADDRESS...]
 *
 * docs/xen.md has the whole.
 */
#ifndef CONTROL_XENSTORE_PARAMS_H
#define CONTROL_XENSTORE_PARAMS_H

#include <jansson.h>

#include "base/errmsg.h"

/* A new reference in *out: the disk's parameters without "name" (unless it is given) and "xen"; into xen go the options that
 * are of a Xen disk's. 0, or -errno with the reason. */
int xenstore_params_disk(json_t **out, json_t *xen, const char *params, struct errmsg *e);

/* Into the card's parameters. 0, or -errno with the reason. */
int xenstore_params_bridge(json_t *card, const char *text, struct errmsg *e);
int xenstore_params_rate(json_t *card, const char *text, struct errmsg *e);
int xenstore_params_addresses(json_t *card, const char *text, struct errmsg *e);

#endif
