/* SPDX-License-Identifier: Apache-2.0 */
/* Captures of ports and VIFs, one at a time each, into a file that whoever asks has opened. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/switch_net.h"
#include "port/capture.h"

static struct attachment *request_attachment(struct net *n, struct fields *f, struct errmsg *e, int *ret)
{
    const char *name = fields_string(f, "port", FIELD_REQUIRED, PORT_NAME_BYTES - 1);
    struct attachment *a = f->error->failed ? NULL : net_attachment_find(n, name);
    *ret = a                  ? 0
           : f->error->failed ? errmsg_set(e, EINVAL, "%s", f->error->message)
                              : errmsg_set(e, ENOENT, "%s: there is no such port or VIF", name);
    return a;
}

int request_capture_start(struct net *n, struct net_request *r)
{
    static const char *const directions[] = {"both", "in", "out", NULL};
    static const enum port_capture_direction values[] = {PORT_CAPTURE_BOTH, PORT_CAPTURE_IN, PORT_CAPTURE_OUT};
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct port_capture_config c = {.fd = request_take_fd(r, "file")};
    int ret;
    struct attachment *a = request_attachment(n, &f, r->e, &ret);
    if (ret == 0) {
        c.snap_bytes = (uint32_t)fields_uint(&f, "snaplen", 0, 0, PORT_CAPTURE_SNAP_MAX);
        c.direction = values[fields_choice(&f, "direction", 0, directions)];
        ret = fields_done(&f, r->e);
    }
    if (ret == 0 && c.fd < 0) ret = errmsg_set(r->e, EINVAL, "file: the descriptor is missing");
    if (ret == 0) ret = port_capture_start(&a->capture, a->port, &c, r->e);
    if (c.fd >= 0) close(c.fd); /* it has a duplicate */
    return ret;
}

/* What it came to; a->capture is NULL then. */
static void stop(struct attachment *a, struct port_capture_stats *s)
{
    port_capture_stop(a->capture);
    port_capture_stats_read(a->capture, s);
    switch_barrier(a->bridge->net->sw);
    port_capture_free(a->capture);
    a->capture = NULL;
}

int request_capture_stop(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct port_capture_stats s;
    int ret;
    struct attachment *a = request_attachment(n, &f, r->e, &ret);
    if (ret == 0) ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    if (!a->capture) return errmsg_set(r->e, ENOENT, "%s: it is not being captured", a->name);
    stop(a, &s);
    r->result = json_pack("{s:I, s:I, s:I}", "packets", (json_int_t)s.frames, "bytes", (json_int_t)s.written_bytes,
                          "dropped", (json_int_t)s.dropped);
    if (s.error) json_object_set_new(r->result, "error", json_string(strerror(s.error)));
    return 0;
}

void net_capture_end(struct attachment *a)
{
    struct port_capture_stats s;
    if (a->capture) stop(a, &s);
}
