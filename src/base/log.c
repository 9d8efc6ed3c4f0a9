/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *log_program = "creedence";
static enum log_level log_most_verbose = LOG_LEVEL_INFO;
static int log_to_terminal;

void log_setup(const char *program, enum log_level most_verbose)
{
    log_program = program;
    log_most_verbose = most_verbose;
    log_to_terminal = isatty(STDERR_FILENO);
}

static const char *level_word(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR: return "error: ";
    case LOG_LEVEL_WARN: return "warning: ";
    case LOG_LEVEL_INFO: return "";
    case LOG_LEVEL_DEBUG: return "debug: ";
    }
    return "";
}

/* One write(2) per line, so that lines of several threads and processes do not mix. */
static void __attribute__((format(printf, 3, 0)))
log_line(enum log_level level, uint64_t suppressed, const char *format, va_list args)
{
    char line[1024];
    size_t room = sizeof line - 1;
    int n = log_to_terminal
                ? snprintf(line, room, "%s: %s", log_program, level_word(level))
                : snprintf(line, room, "<%d>%s[%d]: %s", level, log_program, (int)getpid(), level_word(level));
    size_t used = n < 0 ? 0 : (size_t)n;
    n = vsnprintf(line + used, room - used, format, args);
    if (n > 0) used += (size_t)n;
    if (used >= room) used = room - 1;
    if (suppressed && used + 48 < room) {
        n = snprintf(line + used, room - used, " (%llu more like this)", (unsigned long long)suppressed);
        if (n > 0) used += (size_t)n;
    }
    /* Names and reasons may be a guest's: they make no lines of their own, and give a terminal no orders. */
    for (size_t i = 0; i < used; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) line[i] = '?';
    line[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written; /* nowhere to report a failure to report */
}

void log_write(enum log_level level, const char *format, ...)
{
    if (level > log_most_verbose) return;
    va_list args;
    va_start(args, format);
    log_line(level, 0, format, args);
    va_end(args);
}

void log_write_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
{
    if (level > log_most_verbose) return;
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    uint64_t now_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
    uint64_t last_ns = atomic_load_explicit(&limit->last_ns, memory_order_relaxed);
    if ((last_ns && now_ns - last_ns < 1000000000u) ||
        !atomic_compare_exchange_strong_explicit(&limit->last_ns, &last_ns, now_ns, memory_order_relaxed,
                                                 memory_order_relaxed)) {
        atomic_fetch_add_explicit(&limit->suppressed, 1, memory_order_relaxed);
        return;
    }
    uint64_t suppressed = atomic_exchange_explicit(&limit->suppressed, 0, memory_order_relaxed);
    va_list args;
    va_start(args, format);
    log_line(level, suppressed, format, args);
    va_end(args);
}
