/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parsers and formatters of flow texts share: pieces of a text, items of a list, values of fields.
 *
 * A text is a list of items, separated by commas or white space outside of parentheses; an item is KEY, KEY=VALUE,
 * KEY:VALUE or KEY(VALUE). Texts come from users: their length is bounded, and no function reads behind a piece's end.
 */
#ifndef SWITCH_FLOW_TEXT_H
#define SWITCH_FLOW_TEXT_H

#include "switch/flow.h"

#define FLOW_TEXT_MAX 65536u

struct text { /* a piece of a text */
    const char *at;
    size_t length;
};

struct text_source {
    const char *start;
    const struct flow_names *names; /* may be NULL */
    struct errmsg *e;
};

struct text_item {
    struct text whole, key, value; /* no value: of length 0 at the end of the key */
    bool has_value;
};

/* Store "column N: found "..", expected .." and return -EINVAL. */
int text_fail(const struct text_source *s, struct text found, const char *expected, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for "column N: "..": reason". */
int text_refuse(const struct text_source *s, struct text found, const char *reason, ...)
    __attribute__((format(printf, 3, 4)));

bool text_is(struct text t, const char *word); /* whatever the case */
/* The pieces before and after the first `separator`; false: there is none, and before is the whole. */
bool text_split(struct text t, char separator, struct text *before, struct text *after);
/* Decimal, or hexadecimal with 0x; no sign, no leading zeros (others take them for octal). */
bool text_number(struct text t, uint64_t max, uint64_t *out);
/* Takes the next item from *rest. 1: there is one; 0: the end; -EINVAL: parentheses do not match. */
int text_next(const struct text_source *s, struct text *rest, struct text_item *out);

/* ---- ports ---- */

/* A reserved name, a number or a port's name. */
bool text_port(const struct text_source *s, struct text t, uint32_t *port);
bool text_port_reserved(struct text t, uint32_t *port);
/* NULL: no name is reserved for that number. */
const char *text_port_word(uint32_t port);
void text_port_print(FILE *out, uint32_t port, const struct flow_names *names);
bool text_is_action_name(struct text t); /* then it is no port's name */

/* ---- fields ---- */

/* VALUE or VALUE/MASK, in the notation of the field. Bits outside the mask are cleared. Whether the field may have a
 * mask is the caller's business. */
int text_field(const struct text_source *s, enum field_id id, struct text t, struct field_value *value,
               struct field_value *mask);
/* May a part of the field be matched? More than OpenFlow 1.3 has: what OVS has. */
bool text_field_maskable(enum field_id id);
/* In a match (`dl_src`=..) and in set_field (..->`eth_src`). */
void text_field_print(FILE *out, enum field_id id, struct field_value value, struct field_value mask);
void text_field_print_set(FILE *out, enum field_id id, struct field_value value, struct field_value mask);
bool text_field_is_full(enum field_id id, struct field_value mask);
bool text_field_is_zero(struct field_value v);

/* "tcp or tcp6" */
const char *text_needs(enum field_needs needs);

/* ---- actions ---- */

/* The part after "actions=". */
int text_actions(const struct text_source *s, struct text t, const struct flow_match *m, struct instructions *out);
void text_action_list_print(FILE *out, const struct action_list *l, const struct flow_names *names);

#endif
