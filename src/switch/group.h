/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups: what several flows do in common, and choices that the switch makes (OpenFlow 1.3.5, section 5.6).
 *
 * Translation takes a group apart: all and indirect are followed bucket by bucket, each on the packet as it came to the group;
 * select takes one by a hash of the packet's addresses and ports among the buckets that are alive, by weight: all of them are written down
 * for each packet to choose from, or, where that cannot be (translate_select.c), what is hashed is looked at; fast failover takes the first that is alive. A bucket is alive when the port or the group that it watches is, or when it
 * watches nothing. A megaflow remembers which groups it asked, and a change of one of them (or of a port's link) is a change of it.
 *
 * Thread-safety: the control thread, but for what translation reads.
 */
#ifndef SWITCH_GROUP_H
#define SWITCH_GROUP_H

#include <stdio.h>

#include "base/errmsg.h"
#include "switch/action.h"

#define SWITCH_GROUP_MAX 0xffffff00u /* highest number */
#define SWITCH_GROUP_ALL 0xfffffffcu /* to delete */
#define SWITCH_GROUP_ANY 0xffffffffu
#define SWITCH_GROUPS_MAX 65536u /* of a bridge */
#define GROUP_BUCKETS_MAX 1024u
#define GROUP_DEPTH_MAX 32u /* chained */

struct bridge;

enum group_type { GROUP_ALL, GROUP_SELECT, GROUP_INDIRECT, GROUP_FAST_FAILOVER, GROUP_TYPES }; /* OFPGT_* */

struct group_bucket {
    uint16_t weight;                  /* select */
    uint32_t watch_port, watch_group; /* SWITCH_PORT_ANY, SWITCH_GROUP_ANY: none */
    struct action_list actions;       /* a set */
};

struct group_spec {
    uint32_t id;
    uint8_t type; /* enum group_type */
    unsigned count;
    struct group_bucket *buckets;
};
bool group_spec_copy(struct group_spec *out, const struct group_spec *in); /* false: no memory, and nothing is there */
void group_spec_clear(struct group_spec *g);

enum group_wrong { /* OFPGMFC_*, and of a bucket's actions */
                   GROUP_RIGHT,
                   GROUP_EXISTS,
                   GROUP_INVALID,
                   GROUP_OUT_OF_GROUPS,
                   GROUP_OUT_OF_BUCKETS,
                   GROUP_CHAINING_UNSUPPORTED,
                   GROUP_WATCH_UNSUPPORTED,
                   GROUP_LOOP,
                   GROUP_UNKNOWN,
                   GROUP_CHAINED,
                   GROUP_BAD_TYPE,
                   GROUP_BAD_BUCKET,
                   GROUP_BAD_WATCH,
                   GROUP_BAD_ACTION, /* flow_wrong says which */
};
struct group_why {
    enum group_wrong wrong;
    int flow_wrong; /* enum flow_wrong */
};

/* 0 or -errno with the reason, *why (may be NULL) by OpenFlow's name; nothing has changed then. The specification is copied. */
int bridge_group_add(struct bridge *b, const struct group_spec *g, struct group_why *why, struct errmsg *e);
int bridge_group_modify(struct bridge *b, const struct group_spec *g, struct group_why *why, struct errmsg *e);
/* And the flows that have it (their flow_gone is called, FLOW_GONE_GROUP). SWITCH_GROUP_ALL: every group. One that is not there is
 * no error. -EBUSY: another group sends to it, or watches it. */
int bridge_group_delete(struct bridge *b, uint32_t id, struct group_why *why, struct errmsg *e);

struct group_stats {
    unsigned references; /* flows and groups */
    uint64_t packets, bytes, duration_ns;
    const struct group_bucket_stats {
        uint64_t packets, bytes;
    } * buckets;
};
/* Group id, or all in rising order. */
void bridge_group_each(struct bridge *b, uint32_t id,
                       void (*visit)(void *arg, const struct group_spec *g, const struct group_stats *s), void *arg);
unsigned bridge_group_count(const struct bridge *b);

/* "group_id=1,type=select,bucket=weight:1,actions=output:2,bucket=..", as ovs-ofctl add-group has it. (flow.h: flow_names.) */
struct flow_names;
int group_parse(struct group_spec *out, const char *text, const struct flow_names *names, struct errmsg *e);
void group_format(FILE *out, const struct group_spec *g, const struct flow_names *names);

#endif
