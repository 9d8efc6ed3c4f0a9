/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that change flows, groups and meters, and that trace a packet. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/switch_net.h"

#define TEXT_MAX 65536u

/* ---- requests that change something ---- */

struct batch {
    enum of_change what;
    struct net_change *list;
    unsigned count;
};

static void batch_clear(struct batch *batch)
{
    for (unsigned i = 0; i < batch->count; i++)
        net_change_clear(&batch->list[i]);
    free(batch->list);
}

/* Every text is read before the first thing is changed. */
static int batch_parse(struct batch *batch, struct net_bridge *b, json_t *texts, struct errmsg *e)
{
    size_t i;
    json_t *v;
    batch->list = calloc(json_array_size(texts) + 1, sizeof *batch->list);
    if (!batch->list) return errmsg_set(e, ENOMEM, "out of memory");
    json_array_foreach(texts, i, v)
    {
        const char *text = json_string_value(v);
        if (!text || json_string_length(v) > TEXT_MAX || strlen(text) != json_string_length(v))
            return errmsg_set(e, EINVAL, "line %zu: expected text", i + 1);
        int ret = net_change_parse(&batch->list[i], batch->what, text, &b->names, e);
        if (ret < 0) return errmsg_prefix(e, ret, "line %zu", i + 1);
        batch->count++;
    }
    return 0;
}

/* Whole or up to its first error; acknowledged when every thread obeys and the disk has it. */
static int batch_apply(struct batch *batch, struct net_bridge *b, unsigned *changed, struct errmsg *e)
{
    struct errmsg save = {""};
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < batch->count; i++) {
        ret = net_change_apply(b, &batch->list[i], changed, e);
        if (ret < 0) errmsg_prefix(e, ret, "line %u", i + 1);
        else net_change_note(b, &batch->list[i]);
    }
    switch_barrier(b->net->sw);
    int saved = net_keep(b, true, &save);
    if (ret == 0 && saved < 0) {
        *e = save;
        return saved;
    }
    return ret;
}

static int change_request(struct net *n, struct net_request *r, const char *key, enum of_change what,
                          enum of_change strictly)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    if (ret < 0) return ret;
    json_t *texts = fields_array(&f, key, 0, LINK_MESSAGE_MAX);
    bool strict = what != strictly && fields_bool(&f, "strict", false);
    if (what == OF_FLOW_ADD) fields_bool(&f, "strict", false); /* it makes no difference */
    ret = fields_done(&f, r->e);
    struct batch batch = {.what = strict ? strictly : what};
    unsigned changed = 0;
    if (ret == 0) ret = batch_parse(&batch, b, texts, r->e);
    if (ret == 0) ret = batch_apply(&batch, b, &changed, r->e);
    batch_clear(&batch);
    if (ret == 0) r->result = json_pack("{s:I}", "changed", (json_int_t)changed);
    return ret;
}

int request_flow_add(struct net *n, struct net_request *r)
{
    return change_request(n, r, "flows", OF_FLOW_ADD, OF_FLOW_ADD);
}

int request_flow_mod(struct net *n, struct net_request *r)
{
    return change_request(n, r, "flows", OF_FLOW_MODIFY, OF_FLOW_MODIFY_STRICT);
}

int request_flow_del(struct net *n, struct net_request *r)
{
    return change_request(n, r, "flows", OF_FLOW_DELETE, OF_FLOW_DELETE_STRICT);
}

int request_group_add(struct net *n, struct net_request *r)
{
    return change_request(n, r, "groups", OF_GROUP_ADD, OF_GROUP_ADD);
}

int request_group_mod(struct net *n, struct net_request *r)
{
    return change_request(n, r, "groups", OF_GROUP_MODIFY, OF_GROUP_MODIFY);
}

int request_group_del(struct net *n, struct net_request *r)
{
    return change_request(n, r, "groups", OF_GROUP_DELETE, OF_GROUP_DELETE);
}

int request_meter_add(struct net *n, struct net_request *r)
{
    return change_request(n, r, "meters", OF_METER_ADD, OF_METER_ADD);
}

int request_meter_mod(struct net *n, struct net_request *r)
{
    return change_request(n, r, "meters", OF_METER_MODIFY, OF_METER_MODIFY);
}

int request_meter_del(struct net *n, struct net_request *r)
{
    return change_request(n, r, "meters", OF_METER_DELETE, OF_METER_DELETE);
}

int request_flow_trace(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct flow_key key;
    int ret;
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    if (ret < 0) return ret;
    const char *packet = fields_string(&f, "packet", FIELD_REQUIRED, TEXT_MAX);
    ret = fields_done(&f, r->e);
    if (ret == 0) ret = flow_parse_key(&key, packet, &b->names, r->e);
    if (ret < 0) return ret;
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return errmsg_set(r->e, ENOMEM, "out of memory");
    bridge_trace(b->bridge, &key, &b->names, out);
    fclose(out);
    r->result = json_pack("{s:s}", "text", text);
    free(text);
    return 0;
}
