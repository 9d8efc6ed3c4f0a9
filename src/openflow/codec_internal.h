/* SPDX-License-Identifier: Apache-2.0 */
/* Between the codec's files. */
#ifndef OPENFLOW_CODEC_INTERNAL_H
#define OPENFLOW_CODEC_INTERNAL_H

#include <errno.h>
#include <stddef.h>

#include "base/cursor.h"
#include "openflow/codec.h"

#define WRONG_LENGTH(e, what) of_wrong((e), OFPET_BAD_REQUEST, OFPBRC_BAD_LEN, "%s: a wrong length", what)

static inline size_t round_up_8(size_t n)
{
    return (n + 7) & ~(size_t)7;
}

/* Behind the header. */
static inline struct cursor of_body(const struct of_msg *m)
{
    struct cursor c = cursor_over(m->at, m->bytes);
    cursor_pull(&c, sizeof(struct ofp_header));
    return c;
}

/* No memory for what was asked for. */
int of_no_memory(struct of_error *e);

/* ---- fields (oxm.c) ---- */

/* Where a field was found decides how what is wrong with it is called. */
enum oxm_place { OXM_IN_MATCH, OXM_IN_SET_FIELD, OXM_IN_LOAD };

struct oxm { /* what a header says */
    enum field_id id;
    uint8_t bytes;    /* of a value */
    uint8_t spare;    /* least significant bits that the field does not have */
    uint8_t bits;     /* with these */
    bool masked;      /* a mask follows the value */
    bool narrow_port; /* 16 bits wide */
};

struct oxm_value {
    struct oxm field;
    struct field_value value, mask; /* no 1 bit outside of the mask */
};

int oxm_get_header(struct cursor *c, enum oxm_place where, struct oxm *out, struct of_error *e);
int oxm_get(struct cursor *c, enum oxm_place where, struct oxm_value *out, struct of_error *e);

/* A header that only names a field, as table features have it: with a mask it may have either length. False: no such
 * field. */
bool oxm_get_id(struct cursor *c, enum field_id *id, bool *masked);

/* OpenFlow's headers where there is one, else Nicira's. */
size_t oxm_header_bytes(enum field_id id);
void oxm_put_header(struct of_out *o, enum field_id id, bool masked);
void oxm_put(struct of_out *o, enum field_id id, const struct field_value *value, const struct field_value *mask);
size_t oxm_bytes(enum field_id id); /* of a value */

/* Ports of 16 bits, as OpenFlow 1.0 and Nicira's extensions have them. */
static inline uint32_t port_of_16(uint16_t port)
{
    return port >= 0xff00 ? port | 0xffff0000u : port;
}

/* ---- actions ---- */

/* One of Nicira's, all of it, at least 16 bytes (nicira.c). */
int nicira_get_action(const uint8_t *at, size_t bytes, struct action *out, struct of_error *e);
/* For what OpenFlow has no action (encode_action.c uses them). */
void nicira_put_load(struct of_out *o, const struct action *set);
void nicira_put_move(struct of_out *o, const struct action *move);
void nicira_put_resubmit(struct of_out *o, const struct action *resubmit);

static inline struct field_value of_ones_at(unsigned at, unsigned count)
{
    struct field_value v = {0};
    for (unsigned bit = at; bit < at + count; bit++)
        v.raw[FIELD_VALUE_BYTES - 1 - bit / 8] |= (uint8_t)(1u << bit % 8);
    return v;
}

/* ---- answers (encode.c) ---- */

/* An entry of a multipart answer that was begun at `at` is complete. */
void of_multipart_entry(struct of_out *o, size_t at);

/* Seconds and the rest. */
static inline struct be32 of_seconds(uint64_t ns)
{
    return be32_make((uint32_t)(ns / 1000000000u));
}
static inline struct be32 of_nanoseconds(uint64_t ns)
{
    return be32_make((uint32_t)(ns % 1000000000u));
}

#endif
