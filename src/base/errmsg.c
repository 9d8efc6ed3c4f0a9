/* SPDX-License-Identifier: Apache-2.0 */
#include "base/errmsg.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int errmsg_set(struct errmsg *e, int code, const char *format, ...)
{
    if (!e) return -code;
    va_list args;
    va_start(args, format);
    vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
    return -code;
}

int errmsg_sys(struct errmsg *e, int code, const char *format, ...)
{
    if (!e) return -code;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof e->text) snprintf(e->text + n, sizeof e->text - (size_t)n, ": %s", strerror(code));
    return -code;
}

int errmsg_prefix(struct errmsg *e, int ret, const char *format, ...)
{
    if (!e) return ret;
    struct errmsg old = *e;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n + 3 >= sizeof e->text) return ret;
    size_t used = (size_t)n;
    size_t room = sizeof e->text - used - 3; /* for ": " and the end */
    size_t keep = strnlen(old.text, room);
    memcpy(e->text + used, ": ", 2);
    memcpy(e->text + used + 2, old.text, keep);
    e->text[used + 2 + keep] = 0;
    return ret;
}
