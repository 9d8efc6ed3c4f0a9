/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/flow_text.h"

#include <errno.h>
#include <stdarg.h>
#include <strings.h>

#define FOUND_MAX 40 /* characters of a user's text in a message */

/* A message goes to terminals and logs: nothing but printable ASCII. */
static void printable(char out[FOUND_MAX + 4], struct text t)
{
    size_t n = 0;
    for (; n < t.length && n < FOUND_MAX; n++)
        out[n] = t.at[n] >= ' ' && t.at[n] <= '~' ? t.at[n] : '?';
    if (n < t.length) {
        memcpy(out + n, "...", 3);
        n += 3;
    }
    out[n] = 0;
}

int text_fail(const struct text_source *s, struct text found, const char *expected, ...)
{
    char what[FOUND_MAX + 4], wanted[256];
    printable(what, found);
    va_list args;
    va_start(args, expected);
    vsnprintf(wanted, sizeof wanted, expected, args);
    va_end(args);
    size_t column = (size_t)(found.at - s->start) + 1;
    if (found.length == 0) return errmsg_set(s->e, EINVAL, "column %zu: nothing there, expected %s", column, wanted);
    return errmsg_set(s->e, EINVAL, "column %zu: found \"%s\", expected %s", column, what, wanted);
}

int text_refuse(const struct text_source *s, struct text found, const char *reason, ...)
{
    char what[FOUND_MAX + 4], why[256];
    printable(what, found);
    va_list args;
    va_start(args, reason);
    vsnprintf(why, sizeof why, reason, args);
    va_end(args);
    return errmsg_set(s->e, EINVAL, "column %zu: \"%s\": %s", (size_t)(found.at - s->start) + 1, what, why);
}

bool text_is(struct text t, const char *word)
{
    return strlen(word) == t.length && strncasecmp(t.at, word, t.length) == 0;
}

bool text_split(struct text t, char separator, struct text *before, struct text *after)
{
    const char *found = t.length ? memchr(t.at, separator, t.length) : NULL;
    *before = t;
    *after = (struct text){.at = t.at + t.length};
    if (!found) return false;
    before->length = (size_t)(found - t.at);
    *after = (struct text){.at = found + 1, .length = t.length - before->length - 1};
    return true;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 16;
}

bool text_number(struct text t, uint64_t max, uint64_t *out)
{
    unsigned base = 10;
    if (t.length > 2 && t.at[0] == '0' && (t.at[1] == 'x' || t.at[1] == 'X')) {
        base = 16;
        t = (struct text){.at = t.at + 2, .length = t.length - 2};
    } else if (t.length > 1 && t.at[0] == '0') {
        return false;
    }
    uint64_t n = 0;
    if (t.length == 0) return false;
    for (size_t i = 0; i < t.length; i++) {
        unsigned digit = (unsigned)digit_of(t.at[i]);
        if (digit >= base || __builtin_mul_overflow(n, base, &n) || __builtin_add_overflow(n, digit, &n)) return false;
    }
    *out = n;
    return n <= max;
}

/* ---- items ---- */

static bool is_separator(char c)
{
    return c == ',' || c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Where the item that begins t ends. -EINVAL: within parentheses. */
static int item_length(const struct text_source *s, struct text t, size_t *length)
{
    size_t open = 0, last_open = 0, i = 0;
    for (; i < t.length && (open || !is_separator(t.at[i])); i++) {
        if (t.at[i] == '(') {
            open++;
            last_open = i;
        } else if (t.at[i] == ')' && open-- == 0) {
            return text_refuse(s, (struct text){t.at + i, 1}, "there is no '(' for it");
        }
    }
    if (open) return text_refuse(s, (struct text){t.at + last_open, t.length - last_open}, "there is no ')' for it");
    *length = i;
    return 0;
}

int text_next(const struct text_source *s, struct text *rest, struct text_item *out)
{
    while (rest->length && is_separator(rest->at[0]))
        *rest = (struct text){rest->at + 1, rest->length - 1};
    if (rest->length == 0) return 0;
    size_t n = 0;
    int ret = item_length(s, *rest, &n);
    if (ret) return ret;
    struct text whole = {rest->at, n};
    *rest = (struct text){rest->at + n, rest->length - n};

    size_t k = 0;
    while (k < n && whole.at[k] != '=' && whole.at[k] != ':' && whole.at[k] != '(')
        k++;
    *out = (struct text_item){.whole = whole, .key = {whole.at, k}, .value = {whole.at + k, 0}, .has_value = k < n};
    if (k == n) return 1;
    out->value = (struct text){whole.at + k + 1, n - k - 1};
    if (whole.at[k] != '(') return 1;
    if (whole.at[n - 1] != ')') return text_refuse(s, whole, "something follows the ')'");
    out->value.length--;
    return 1;
}

/* ---- ports ---- */

static const struct {
    const char *word;
    uint32_t number;
} reserved[] = {
    {"IN_PORT", SWITCH_PORT_IN_PORT}, {"TABLE", SWITCH_PORT_TABLE}, {"NORMAL", SWITCH_PORT_NORMAL},
    {"FLOOD", SWITCH_PORT_FLOOD},     {"ALL", SWITCH_PORT_ALL},     {"CONTROLLER", SWITCH_PORT_CONTROLLER},
    {"LOCAL", SWITCH_PORT_LOCAL},     {"ANY", SWITCH_PORT_ANY},     {"NONE", SWITCH_PORT_ANY},
};
#define RESERVED (sizeof reserved / sizeof reserved[0])

bool text_port_reserved(struct text t, uint32_t *port)
{
    for (unsigned i = 0; i < RESERVED; i++)
        if (text_is(t, reserved[i].word)) {
            *port = reserved[i].number;
            return true;
        }
    return false;
}

const char *text_port_word(uint32_t port)
{
    for (unsigned i = 0; i < RESERVED; i++)
        if (reserved[i].number == port) return reserved[i].word;
    return NULL;
}

bool text_port(const struct text_source *s, struct text t, uint32_t *port)
{
    uint64_t n;
    if (text_port_reserved(t, port)) return true;
    if (text_number(t, UINT32_MAX, &n)) {
        *port = (uint32_t)n;
        return true;
    }
    return t.length && s->names && s->names->port_number && s->names->port_number(s->names->arg, t.at, t.length, port);
}

/* Would the name be read back as a port's name? Others are written as numbers. */
static bool is_plain_name(const char *name)
{
    size_t n = strlen(name);
    uint32_t port;
    bool letter = (name[0] >= 'a' && name[0] <= 'z') || (name[0] >= 'A' && name[0] <= 'Z');
    if (!letter || strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != n) return false;
    return !text_port_reserved((struct text){name, n}, &port) && !text_is_action_name((struct text){name, n});
}

void text_port_print(FILE *out, uint32_t port, const struct flow_names *names)
{
    const char *word = text_port_word(port);
    if (!word && names && names->port_name) word = names->port_name(names->arg, port);
    if (word && (text_port_word(port) || is_plain_name(word))) fputs(word, out);
    else fprintf(out, "%u", port);
}
