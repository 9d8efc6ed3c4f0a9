/* SPDX-License-Identifier: Apache-2.0 */
/* What of netif's keys the switch may have published: others are not its to write. */
#ifndef CONTROL_XENSTORE_CARD_H
#define CONTROL_XENSTORE_CARD_H

#include <jansson.h>

json_t *xen_card_keys(json_t *keys); /* a new reference; of keys, which may be NULL or of another type */

#endif
