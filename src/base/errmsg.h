/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A failure that a person will read: what went wrong, where, and what was expected. Functions
 * that can fail for a reason worth explaining take a `struct errmsg *` (may be NULL) and return
 * -errno; the code says what kind of failure it is, the text says which.
 */
#ifndef BASE_ERRMSG_H
#define BASE_ERRMSG_H

struct errmsg {
    char text[512];
};

/* Store the text (cut at the buffer's end) and return -code; code is a positive errno. */
int errmsg_set(struct errmsg *e, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* As errmsg_set, with ": " and strerror(code) appended. */
int errmsg_sys(struct errmsg *e, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Put "context: " in front of the text there is, keeping the code. Returns ret as it was given. */
int errmsg_prefix(struct errmsg *e, int ret, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
