/* SPDX-License-Identifier: Apache-2.0 */
/* Group mods and meter mods (OpenFlow 1.3.5, sections 7.3.4.2, 7.3.4.4). */
#include <stdlib.h>

#include "openflow/codec_internal.h"

/* ---- groups ---- */

static int bad_bucket(struct of_error *e)
{
    return of_wrong(e, OFPET_GROUP_MOD_FAILED, OFPGMFC_BAD_BUCKET, "a bucket's length");
}

static size_t bucket_length(const uint8_t *at, size_t left)
{
    struct ofp_bucket b;
    if (left < sizeof b) return 0;
    memcpy(&b, at, sizeof b);
    size_t length = be16_get(b.len);
    return length < sizeof b || length % 8 || length > left ? 0 : length;
}

static int count_buckets(const uint8_t *at, size_t bytes, unsigned *count, struct of_error *e)
{
    *count = 0;
    for (size_t done = 0, length; done < bytes; done += length) {
        length = bucket_length(at + done, bytes - done);
        if (!length) return bad_bucket(e);
        if (++*count > GROUP_BUCKETS_MAX)
            return of_wrong(e, OFPET_GROUP_MOD_FAILED, OFPGMFC_OUT_OF_BUCKETS, "more than %u buckets",
                            GROUP_BUCKETS_MAX);
    }
    return 0;
}

static int get_bucket(const uint8_t *at, size_t bytes, struct group_bucket *out, struct of_error *e)
{
    struct ofp_bucket b;
    memcpy(&b, at, sizeof b);
    out->weight = be16_get(b.weight);
    out->watch_port = be32_get(b.watch_port);
    out->watch_group = be32_get(b.watch_group);
    return of_get_actions(at + sizeof b, bytes - sizeof b, &out->actions, e);
}

static void clear_buckets(struct group_spec *g)
{
    for (unsigned i = 0; i < g->count; i++)
        of_actions_clear(&g->buckets[i].actions);
    free(g->buckets);
    g->buckets = NULL;
    g->count = 0;
}

static int get_buckets(const uint8_t *at, size_t bytes, struct group_spec *out, struct of_error *e)
{
    unsigned count;
    int ret = count_buckets(at, bytes, &count, e);
    if (ret || !count) return ret;
    out->buckets = calloc(count, sizeof *out->buckets);
    if (!out->buckets) return of_no_memory(e);
    while (out->count < count) {
        size_t length = bucket_length(at, bytes);
        ret = get_bucket(at, length, &out->buckets[out->count], e);
        if (ret) {
            clear_buckets(out);
            return ret;
        }
        out->count++;
        at += length;
        bytes -= length;
    }
    return 0;
}

/* Buckets of a group that is to be deleted say nothing, and are not looked at. */
int of_get_group_mod(const struct of_msg *m, struct of_group_mod *out, struct of_error *e)
{
    struct cursor c = of_body(m);
    const struct ofp_group_mod *g = cursor_pull(&c, sizeof *g);
    if (!g) return WRONG_LENGTH(e, "group_mod");
    *out =
        (struct of_group_mod){.command = be16_get(g->command), .group = {.id = be32_get(g->group_id), .type = g->type}};
    if (out->command > OFPGC_DELETE)
        return of_wrong(e, OFPET_GROUP_MOD_FAILED, OFPGMFC_BAD_COMMAND, "group_mod: command %u", out->command);
    if (out->command == OFPGC_DELETE) return 0;
    if (out->group.type >= GROUP_TYPES)
        return of_wrong(e, OFPET_GROUP_MOD_FAILED, OFPGMFC_BAD_TYPE, "group_mod: type %u", g->type);
    if (out->group.id > SWITCH_GROUP_MAX)
        return of_wrong(e, OFPET_GROUP_MOD_FAILED, OFPGMFC_INVALID_GROUP, "group 0x%x", out->group.id);
    return get_buckets(c.at, c.left_bytes, &out->group, e);
}

/* ---- meters ---- */

static int get_band(struct cursor *c, struct meter_band *out, struct of_error *e)
{
    struct ofp_meter_band b;
    const struct ofp_meter_band *at = cursor_pull(c, sizeof b);
    if (!at) return WRONG_LENGTH(e, "a meter's band");
    memcpy(&b, at, sizeof b);
    *out = (struct meter_band){.type = be16_get(b.type), .rate = be32_get(b.rate), .burst = be32_get(b.burst_size)};
    if (out->type != METER_DROP && out->type != METER_DSCP_REMARK)
        return of_wrong(e, OFPET_METER_MOD_FAILED, OFPMMFC_BAD_BAND, "a meter's band of type %u", out->type);
    if (be16_get(b.len) != sizeof b) return WRONG_LENGTH(e, "a meter's band");
    if (out->type == METER_DSCP_REMARK) out->prec_level = b.prec_level;
    return 0;
}

int of_get_meter_mod(const struct of_msg *m, struct of_meter_mod *out, struct of_error *e)
{
    struct cursor c = of_body(m);
    const struct ofp_meter_mod *h = cursor_pull(&c, sizeof *h);
    if (!h) return WRONG_LENGTH(e, "meter_mod");
    memset(out, 0, sizeof *out);
    out->command = be16_get(h->command);
    out->meter.id = be32_get(h->meter_id);
    out->meter.flags = be16_get(h->flags);
    if (out->command > OFPMC_DELETE)
        return of_wrong(e, OFPET_METER_MOD_FAILED, OFPMMFC_BAD_COMMAND, "meter_mod: command %u", out->command);
    while (out->command != OFPMC_DELETE && c.left_bytes) {
        if (out->meter.count == METER_BANDS_MAX)
            return of_wrong(e, OFPET_METER_MOD_FAILED, OFPMMFC_OUT_OF_BANDS, "more than %u bands", METER_BANDS_MAX);
        int ret = get_band(&c, &out->meter.bands[out->meter.count], e);
        if (ret) return ret;
        out->meter.count++;
    }
    return 0;
}
