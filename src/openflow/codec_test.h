/* SPDX-License-Identifier: Apache-2.0 */
/* For the codec's tests: messages in buffers of just their size, so that whoever reads behind an end is seen. */
#ifndef OPENFLOW_CODEC_TEST_H
#define OPENFLOW_CODEC_TEST_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "openflow/codec.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

struct bytes {
    uint8_t *at;
    size_t count;
};

static inline struct bytes bytes_copy(const void *from, size_t count)
{
    struct bytes b = {malloc(count ? count : 1), count};
    assert_non_null(b.at);
    if (count) memcpy(b.at, from, count);
    return b;
}

/* "0004 0018 .." */
static inline struct bytes bytes_of_hex(const char *hex)
{
    struct bytes b = {calloc(strlen(hex) / 2 + 1, 1), 0};
    assert_non_null(b.at);
    for (unsigned digits = 0; *hex; hex++) {
        if (*hex == ' ' || *hex == '\n') continue;
        unsigned n = (unsigned)(*hex <= '9' ? *hex - '0' : *hex - 'a' + 10);
        assert_true(n < 16);
        b.at[b.count] = (uint8_t)(b.at[b.count] << 4 | n);
        b.count += digits++ % 2;
    }
    struct bytes exact = bytes_copy(b.at, b.count);
    free(b.at);
    return exact;
}

static inline struct of_msg msg_of(const struct bytes *b)
{
    struct ofp_header h = {0};
    memcpy(&h, b->at, b->count < sizeof h ? b->count : sizeof h);
    return (struct of_msg){.at = b->at, .bytes = b->count, .type = h.type, .xid = be32_get(h.xid)};
}

/* What was put into o, which is emptied. */
static inline struct bytes bytes_taken(struct of_out *o)
{
    struct bytes b = bytes_copy(o->bytes, o->count);
    of_out_clear(o);
    return b;
}

static inline struct bytes flow_mod_of(const struct flow_spec *f, uint8_t command)
{
    struct of_out o;
    of_out_init(&o);
    of_out_begin(&o, OFPT_FLOW_MOD, 7);
    struct ofp_flow_mod m = {.cookie = be64_make(f->cookie),
                             .cookie_mask = be64_make(f->cookie_mask),
                             .table_id = f->table,
                             .command = command,
                             .idle_timeout = be16_make(f->idle_timeout_s),
                             .hard_timeout = be16_make(f->hard_timeout_s),
                             .priority = be16_make(f->priority),
                             .buffer_id = be32_make(OFP_NO_BUFFER),
                             .out_port = be32_make(f->out_port),
                             .out_group = be32_make(f->out_group),
                             .flags = be16_make(f->flags)};
    of_out_put_bytes(&o, &m, sizeof m);
    of_put_match(&o, &f->match);
    of_put_instructions(&o, &f->instructions);
    assert_true(of_out_end(&o));
    return bytes_taken(&o);
}

#endif
