/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines for the operator, on standard error, each with a level in the "<N>" form that systemd's
 * journal understands when it reads the stream (sd-daemon(3)) and plain words on a terminal.
 *
 * Never called on a data path: what a guest can cause goes through log_limited(), which lets one
 * line a second through per call site and counts the rest.
 *
 * Thread-safety: any thread. The level and name are set once at start, before other threads.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARN = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

void log_setup(const char *program, enum log_level most_verbose);
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

struct log_limit {
    _Atomic uint64_t last_ns;
    _Atomic uint64_t suppressed;
};
void log_write_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)
#define log_limited(level, ...)                                                                                        \
    do {                                                                                                               \
        static struct log_limit limit_;                                                                                \
        log_write_limited(&limit_, level, __VA_ARGS__);                                                                \
    } while (0)

#endif
