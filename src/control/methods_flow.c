/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Methods on flows, the switch's caches, MAC tables and captures: checked and bounded here, carried out by the switch,
 * whose answer is handed on.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "control/methods_network.h"

#define FLOW_TEXT_MAX 8192u
#define FLOWS_MAX 1000u
#define FLOWS_BYTES_MAX 98304u /* of all together: with quotes escaped they fit a message of the link */
#define PAGE_MAX 1000u

struct forward {
    struct network *network;
    struct rpc_call *call;
};

static void forward_answered(void *arg, const struct peer_answer *a)
{
    struct forward *w = arg;
    network_answered(w->network);
    if (a->ret < 0) network_fail(w->network, w->call, "", a);
    else if (json_is_object(a->result)) rpc_answer(w->call, json_incref(a->result));
    else rpc_answer(w->call, json_object());
    free(w);
}

/* params are stolen. */
static void forward(struct network *n, struct rpc_call *call, const char *method, json_t *params, unsigned limit_ms)
{
    struct forward *w = calloc(1, sizeof *w);
    assert(w);
    *w = (struct forward){.network = n, .call = call};
    if (network_ask(n, method, params, limit_ms, forward_answered, w)) return;
    network_not_up(n, call);
    free(w);
}

/* The "bridge" field, and the end of all fields: true, or answered with what is wrong. */
static bool ends_well(struct network *n, struct rpc_call *call, struct fields *f, const char *bridge)
{
    if (fields_end(f) < 0) {
        rpc_fail_field(call, f->error);
        return false;
    }
    return !*bridge || network_need(n, call, NETWORK_BRIDGE, bridge);
}

static void page_fields(struct fields *f)
{
    fields_uint(f, "from", 0, 0, INT64_MAX);
    fields_uint(f, "max", PAGE_MAX, 1, PAGE_MAX);
}

/* ---- Flows ---- */

/* least: of bytes in a flow; what is to be deleted may be everything. */
static void check_texts(struct fields *f, const char *key, size_t least)
{
    json_t *list = fields_array(f, key, 1, FLOWS_MAX), *text;
    size_t index, bytes = 0;
    json_array_foreach(list, index, text)
    {
        size_t len = json_string_length(text);
        const char *s = json_string_value(text);
        if (!s || len < least || len > FLOW_TEXT_MAX || strlen(s) != len || !network_text_valid(s))
            fields_refuse(f, key, "%s of at most %u printable ASCII characters (line %zu is none)", key, FLOW_TEXT_MAX,
                          index + 1);
        bytes += len;
    }
    if (bytes > FLOWS_BYTES_MAX) fields_refuse(f, key, "at most %u bytes of %s at once", FLOWS_BYTES_MAX, key);
}

void network_change_texts(struct daemon *d, struct rpc_call *call, json_t *params, const char *method, const char *key)
{
    struct network *n = d->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *bridge = network_name_field(&f, "bridge");
    bool deletes = strcmp(method + strlen(method) - 4, ".del") == 0;
    if (strcmp(key, "flows") == 0) fields_bool(&f, "strict", false);
    check_texts(&f, key, !deletes);
    if (ends_well(n, call, &f, bridge)) forward(n, call, method, json_incref(params), NETWORK_FLOWS_MS);
}

void method_flow_add(void *arg, struct rpc_call *call, json_t *params)
{
    network_change_texts(arg, call, params, "flow.add", "flows");
}

void method_flow_mod(void *arg, struct rpc_call *call, json_t *params)
{
    network_change_texts(arg, call, params, "flow.mod", "flows");
}

void method_flow_del(void *arg, struct rpc_call *call, json_t *params)
{
    network_change_texts(arg, call, params, "flow.del", "flows");
}

void method_flow_dump(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *bridge = network_name_field(&f, "bridge");
    network_text_field(&f, "match", "", FLOW_TEXT_MAX);
    fields_bool(&f, "guards", false);
    fields_uint(&f, "list", 0, 0, INT64_MAX);
    page_fields(&f);
    if (ends_well(n, call, &f, bridge)) forward(n, call, "flow.dump", json_incref(params), NETWORK_FLOWS_MS);
}

void method_flow_trace(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *bridge = network_name_field(&f, "bridge");
    network_text_field(&f, "packet", FIELD_REQUIRED, FLOW_TEXT_MAX);
    if (ends_well(n, call, &f, bridge)) forward(n, call, "flow.trace", json_incref(params), NETWORK_ASK_MS);
}

/* ---- Caches and MAC tables ---- */

static void bridge_and_page(struct daemon *d, struct rpc_call *call, json_t *params, const char *method, bool required)
{
    struct network *n = d->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *bridge =
        required ? network_name_field(&f, "bridge") : fields_string(&f, "bridge", "", NETWORK_NAME_MAX);
    page_fields(&f);
    if (ends_well(n, call, &f, bridge)) forward(n, call, method, json_incref(params), NETWORK_FLOWS_MS);
}

void method_megaflow_dump(void *arg, struct rpc_call *call, json_t *params)
{
    bridge_and_page(arg, call, params, "megaflow.dump", false);
}

void method_megaflow_stats(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    if (method_no_params(call, params)) forward(n, call, "megaflow.stats", NULL, NETWORK_ASK_MS);
}

void method_runner_stats(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    page_fields(&f);
    if (ends_well(n, call, &f, "")) forward(n, call, "runner.stats", json_incref(params), NETWORK_ASK_MS);
}

void method_mac_show(void *arg, struct rpc_call *call, json_t *params)
{
    bridge_and_page(arg, call, params, "mac.show", true);
}

void method_mac_flush(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *bridge = network_name_field(&f, "bridge");
    if (ends_well(n, call, &f, bridge)) forward(n, call, "mac.flush", json_incref(params), NETWORK_ASK_MS);
}

void network_named_page(struct daemon *d, struct rpc_call *call, json_t *params, const char *method,
                        enum network_kind kind)
{
    struct network *n = d->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *name = network_name_field(&f, network_kind_name(kind));
    page_fields(&f);
    if (ends_well(n, call, &f, "") && network_need(n, call, kind, name))
        forward(n, call, method, json_incref(params), NETWORK_ASK_MS);
}

void network_page(struct daemon *d, struct rpc_call *call, json_t *params, const char *method)
{
    bridge_and_page(d, call, params, method, true);
}

/* ---- Captures ---- */

static struct network_item *find_port(struct network *n, struct rpc_call *call, const char *name)
{
    struct network_item *i = network_find(n, NETWORK_VIF, name);
    if (!i) i = network_find(n, NETWORK_PORT, name);
    if (!i)
        rpc_fail(call, RPC_NOT_FOUND, NULL,
                 "there is no port or vif \"%s\"; `creedence port list` and `creedence vif list` show those there are",
                 name);
    return i;
}

/* What is there already is only written over if it is a file. */
static int open_capture(const char *path, struct errmsg *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    struct stat st;
    if (fd < 0) return errmsg_sys(e, errno, "%s", path);
    int ret = 0;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) ret = errmsg_set(e, EINVAL, "%s: not a regular file", path);
    else if (ftruncate(fd, 0) < 0) ret = errmsg_sys(e, errno, "%s", path);
    if (ret == 0) return fd;
    close(fd);
    return ret;
}

void method_capture_start(void *arg, struct rpc_call *call, json_t *params)
{
    static const char *const name = "file";
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *port = network_name_field(&f, "port");
    const char *path = fields_string(&f, "file", FIELD_REQUIRED, PATH_MAX - 1);
    uint64_t snaplen = fields_uint(&f, "snaplen", NETWORK_SNAPLEN_MAX, 1, NETWORK_SNAPLEN_MAX);
    if (*path != '/') fields_refuse(&f, "file", "an absolute path");
    if (!ends_well(n, call, &f, "") || !find_port(n, call, port)) return;
    struct peer *peer = switch_keeper_peer(n->keeper);
    if (!peer || n->asked >= NETWORK_ASKED_MAX) {
        network_not_up(n, call);
        return;
    }
    struct errmsg e = {""};
    autoclose int fd = open_capture(path, &e);
    if (fd < 0) {
        rpc_fail(call, RPC_INVALID_PARAMS, NULL, "%s", e.text);
        return;
    }
    struct forward *w = calloc(1, sizeof *w);
    assert(w);
    *w = (struct forward){.network = n, .call = call};
    n->asked++;
    peer_ask(peer, "capture.start", json_pack("{s:s, s:I}", "port", port, "snaplen", (json_int_t)snaplen), &name, &fd,
             1, NETWORK_ASK_MS, forward_answered, w);
}

void method_capture_stop(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *port = network_name_field(&f, "port");
    if (!ends_well(n, call, &f, "") || !find_port(n, call, port)) return;
    forward(n, call, "capture.stop", json_incref(params), NETWORK_ASK_MS);
}

/* ---- The switch's options ---- */

void method_switch_set(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    struct network *n = d->host.network;
    struct field_error why = {0};
    json_t *whole = json_copy(n->options), *checked;
    json_object_update(whole, params);
    int ret = network_options_parse(&checked, whole, "params", &why);
    json_decref(whole);
    if (ret < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    bool same = json_equal(checked, n->options);
    json_decref(n->options);
    n->options = checked;
    if (!same) switch_keeper_replace(n->keeper); /* one that is being started may have been told of the old ones */
    network_save(n, call, json_deep_copy(n->options));
}
