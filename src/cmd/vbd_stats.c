/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/vbd_stats.h"

#include <inttypes.h>
#include <stdio.h>

static json_t *queue_json(unsigned index, const struct vbd_queue_stats *q)
{
    return json_pack("{s:i, s:b, s:I, s:I, s:I, s:I, s:I}", "index", (int)index, "running", q->running, "requests",
                     (json_int_t)q->requests, "fast_reads", (json_int_t)q->fast_reads, "calls", (json_int_t)q->calls,
                     "sleeps", (json_int_t)q->sleeps, "poll_ns", (json_int_t)q->polls_ns);
}

/* A new reference. */
static json_t *add_up(struct vbd *v, struct vbd_queue_stats *sum)
{
    json_t *queues = json_array();
    for (unsigned i = 0; i < vbd_queues(v); i++) {
        struct vbd_queue_stats q;
        vbd_stats_read(v, i, &q);
        sum->reads += q.reads, sum->read_bytes += q.read_bytes;
        sum->writes += q.writes, sum->write_bytes += q.write_bytes;
        sum->flushes += q.flushes, sum->discards += q.discards, sum->write_zeroes += q.write_zeroes;
        sum->errors += q.errors;
        sum->latency_ns += q.latency_ns, sum->latency_samples += q.latency_samples;
        json_array_append_new(queues, queue_json(i, &q));
    }
    return queues;
}

json_t *stats_json(struct vbd *v, struct chain *chain, const struct vhost_session_info *info, const char *state)
{
    struct vbd_queue_stats sum = {0};
    json_t *queues = add_up(v, &sum);
    char features[24];
    snprintf(features, sizeof features, "0x%" PRIx64, info->features);
    const char *why = vbd_broken(v);
    struct chain_stats c;
    chain_stats_read(chain, &c);
    uint64_t from_base = c.cache_hit_bytes + c.cache_fill_bytes + c.base_direct_bytes + c.zero_bytes;
    json_t *o = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:I, s:i, s:I}", "state",
        why ? "broken" : state, "reads", (json_int_t)sum.reads, "read_bytes", (json_int_t)sum.read_bytes, "writes",
        (json_int_t)sum.writes, "write_bytes", (json_int_t)sum.write_bytes, "flushes", (json_int_t)sum.flushes,
        "discards", (json_int_t)sum.discards, "write_zeroes", (json_int_t)sum.write_zeroes, "errors",
        (json_int_t)sum.errors, "leaf_read_bytes",
        (json_int_t)(sum.read_bytes > from_base ? sum.read_bytes - from_base : 0), "cache_hit_bytes",
        (json_int_t)c.cache_hit_bytes, "cache_fill_bytes", (json_int_t)c.cache_fill_bytes, "base_direct_bytes",
        (json_int_t)c.base_direct_bytes, "zero_bytes", (json_int_t)c.zero_bytes, "latency_ns_mean",
        (json_int_t)(sum.latency_samples ? sum.latency_ns / sum.latency_samples : 0), "queues", queues, "features",
        features, "memory_bytes", (json_int_t)info->memory_bytes, "regions", (int)info->regions, "size_bytes",
        (json_int_t)layer_size(chain_leaf(chain)));
    if (o && why) json_object_set_new(o, "why", json_string(why));
    return o;
}
