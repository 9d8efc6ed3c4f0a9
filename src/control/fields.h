/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the fields of a JSON object that somebody else wrote: parameters of a request, saved state, a
 * worker's answer. Every getter checks the type and the range; the first thing wrong is remembered
 * in a `field_error` that says which field it was, what it held and what was expected, and later getters
 * return their defaults. So a reader pulls all fields in a row and tests once:
 *
 *     struct field_error why = {0};
 *     struct fields f = fields_begin(params, "params", &why);
 *     const char *name = fields_string(&f, "name", NULL, 64);
 *     uint64_t queues = fields_uint(&f, "queues", 1, 1, 64);
 *     if (fields_end(&f) < 0) ... why.message ...
 *
 * fields_end() also refuses fields that nobody asked for: a misspelt option must not pass in silence.
 */
#ifndef CONTROL_FIELDS_H
#define CONTROL_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FIELDS_MAX 40 /* different fields read from one object */

struct field_error {
    bool failed;
    char field[96];     /* "layers[1].format" */
    char got[96];       /* "string \"four\"", "nothing" */
    char expected[160]; /* "an integer from 1 to 64" */
    char message[384];  /* all of it in one line */
};

struct fields {
    json_t *object;
    const char *where; /* prefix of field names, "" for none */
    struct field_error *error;
    const char *seen[FIELDS_MAX];
    unsigned seen_count;
};

/* object may be NULL or of another type: that is the first error. */
struct fields fields_begin(json_t *object, const char *where, struct field_error *error);
int fields_end(struct fields *f); /* 0 or -EINVAL */
/* For formats that later versions extend: unknown fields are left alone. */
int fields_end_lenient(struct fields *f);

/* An absent field is an error unless the getter was given a default. JSON null counts as absent. */
#define FIELD_REQUIRED NULL
/* 1..max_bytes bytes. fallback: FIELD_REQUIRED or the default (of any length). Borrowed from the object. */
const char *fields_string(struct fields *f, const char *key, const char *fallback, size_t max_bytes);
bool fields_bool(struct fields *f, const char *key, bool fallback);
uint64_t fields_uint(struct fields *f, const char *key, uint64_t fallback, uint64_t min, uint64_t max);
uint64_t fields_uint_required(struct fields *f, const char *key, uint64_t min, uint64_t max);
/* One of `names` (NULL-terminated), as its index. fallback -1: required. */
int fields_choice(struct fields *f, const char *key, int fallback, const char *const *names);
/* Any type, NULL when absent and not required. Borrowed. */
json_t *fields_any(struct fields *f, const char *key);
json_t *fields_array(struct fields *f, const char *key, size_t min_entries, size_t max_entries);
json_t *fields_object(struct fields *f, const char *key);

/* Report something about a field that no getter checks. expected is a printf format. */
void fields_refuse(struct fields *f, const char *key, const char *expected, ...) __attribute__((format(printf, 3, 4)));

/* "string \"x\"", "integer 5", "an array of 3", "nothing": for messages. */
void fields_describe(json_t *value, char *out, size_t room);

#endif
