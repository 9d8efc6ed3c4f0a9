/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Meters: rates that flows share (OpenFlow 1.3.5, section 5.7). A flow's meter is the first thing that happens to its packets: of
 * the bands whose rate is exceeded the one with the highest rate drops the packet or raises its drop precedence: AFx1 to AFx2 to AFx3
 * (RFC 2597), CS3 to CS2 to CS1 to CS0 (RFC 2474); what has another DSCP, or none, passes as it is.
 *
 * A band is a token bucket, shared by all threads that forward through it.
 *
 * Thread-safety: the control thread, but for meter_pass() (meter_internal.h), which datapath threads call.
 */
#ifndef SWITCH_METER_H
#define SWITCH_METER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/errmsg.h"

#define SWITCH_METER_MAX 0xffff0000u
#define SWITCH_METER_SLOWPATH 0xfffffffdu   /* what goes to a controller because nothing matched */
#define SWITCH_METER_CONTROLLER 0xfffffffeu /* everything that goes to a controller */
#define SWITCH_METER_ALL 0xffffffffu
#define SWITCH_METERS_MAX 65536u
#define METER_BANDS_MAX 16u

#define METER_KBPS 1u /* OFPMF_* */
#define METER_PKTPS 2u
#define METER_BURST 4u
#define METER_STATS 8u

struct bridge;

enum meter_band_type { METER_DROP = 1, METER_DSCP_REMARK = 2 }; /* OFPMBT_* */

struct meter_band {
    uint16_t type;
    uint32_t rate,
        burst; /* kilobits or packets, a second; burst without METER_BURST: kept, and a second's worth is used */
    uint8_t prec_level; /* DSCP_REMARK: drop precedences higher */
};
struct meter_spec {
    uint32_t id;
    uint16_t flags;
    unsigned count;
    struct meter_band bands[METER_BANDS_MAX];
};

enum meter_wrong { /* OFPMMFC_* */
                   METER_RIGHT,
                   METER_EXISTS,
                   METER_INVALID,
                   METER_UNKNOWN,
                   METER_BAD_FLAGS,
                   METER_BAD_RATE,
                   METER_BAD_BURST,
                   METER_BAD_BAND,
                   METER_BAD_BAND_VALUE,
                   METER_OUT_OF_METERS,
                   METER_OUT_OF_BANDS,
};

/* 0 or -errno with the reason; *why may be NULL. */
int bridge_meter_add(struct bridge *b, const struct meter_spec *m, enum meter_wrong *why, struct errmsg *e);
int bridge_meter_modify(struct bridge *b, const struct meter_spec *m, enum meter_wrong *why, struct errmsg *e);
/* And the flows that have it (FLOW_GONE_METER). SWITCH_METER_ALL: every meter. One that is not there is no error. */
int bridge_meter_delete(struct bridge *b, uint32_t id, enum meter_wrong *why, struct errmsg *e);

struct meter_stats {
    unsigned flows;
    uint64_t packets, bytes, duration_ns;
    struct {
        uint64_t packets, bytes;
    } bands[METER_BANDS_MAX];
};
void bridge_meter_each(struct bridge *b, uint32_t id,
                       void (*visit)(void *arg, const struct meter_spec *m, const struct meter_stats *s), void *arg);
unsigned bridge_meter_count(const struct bridge *b);

/* "meter=1,kbps,burst,stats,bands=type=drop,rate=1000,burst_size=100", as ovs-ofctl add-meter has it. */
int meter_parse(struct meter_spec *out, const char *text, struct errmsg *e);
void meter_format(FILE *out, const struct meter_spec *m);

#endif
