/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses a VIF may use as its own: its lists, compiled to the guard of its port (switch/guard.h). */
#include <errno.h>

#include "cmd/switch_net.h"
#include "switch/guard.h"

static_assert(NET_ALLOWED_MACS_MAX <= GUARD_MACS_MAX && NET_ALLOWED_IPS_MAX <= GUARD_PREFIXES_MAX,
              "what is allowed fits a guard");

int net_guard_new(struct guard **out, const struct vif_settings *s, struct errmsg *e)
{
    struct guard_config c = {.macs = s->mac_count, .prefixes = s->ip_count};
    *out = NULL;
    if (!c.macs && !c.prefixes) return 0;
    for (unsigned i = 0; i < c.macs; i++)
        memcpy(c.mac[i], s->allowed_mac[i], sizeof c.mac[i]);
    for (unsigned i = 0; i < c.prefixes; i++) {
        c.prefix[i] = (struct guard_prefix){.ipv6 = s->allowed_ip[i].v6, .length = s->allowed_ip[i].prefix};
        memcpy(c.prefix[i].address, s->allowed_ip[i].addr, sizeof c.prefix[i].address);
    }
    return guard_new(out, &c, e);
}
