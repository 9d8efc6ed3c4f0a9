/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creedence, the command line: what its verbs share.
 *
 *   creedence.c        the list of verbs, and choosing one
 *   cli_*.c            the verbs, by topic
 *   cli.c, cli_table.c options that all have, asking the daemon, errors, tables
 *
 * Exit status: 0 done, 1 failed, 2 used wrongly. Results go to standard output, as aligned tables or, with --json, as
 * one JSON text; errors go to standard error and say what to do.
 */
#ifndef CMD_CLI_H
#define CMD_CLI_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "control/client.h"

#define CLI_OK 0
#define CLI_FAILED 1
#define CLI_USAGE 2

#define CLI_QUICK_MS 10000u /* for what needs no disk work */
#define CLI_LONG_MS 180000u /* attach, detach, resize, upgrade of one disk */

struct cli;

struct cli_verb {
    const char *name; /* "disk attach" */
    const char *args; /* "NAME --leaf PATH --format FORMAT" */
    const char *summary;
    const char *help;             /* what the options are, and examples */
    const struct option *options; /* ends with a zeroed one; values from CLI_OPT on */
    int (*run)(struct cli *c);
    const char *shorts; /* its one-letter options as for getopt(), NULL: none */
};

#define CLI_ARGUMENTS_MAX 8
#define CLI_OPT 512 /* first value for a verb's own options */

struct cli {
    const struct cli_verb *verb;
    const char *socket_path;
    bool json;
    int argc; /* of the verb: argv[0] is its last word */
    char **argv;
    struct client *client; /* opened by the first cli_call() */
    struct option merged[64];
    json_t *params; /* being made from options */
    char *positional[CLI_ARGUMENTS_MAX];
    int positional_count;
};

extern const struct cli_verb *const cli_verbs[]; /* NULL-terminated */

/*
 * The verb's next option, as getopt_long(): its value, or -1 at the end of options. What all verbs have (--json,
 * --control, --help) is dealt with inside; a wrong option ends the program with CLI_USAGE.
 */
int cli_option(struct cli *c);
/* After the options: exactly `count` arguments must be left; returns them. */
char **cli_arguments(struct cli *c, int count);

/* Ends the program with CLI_USAGE. */
_Noreturn void cli_usage_error(const struct cli *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Values of options; what is wrong is a usage error that names the option. */
bool cli_on_off(const struct cli *c, const char *option, const char *text);
uint64_t cli_number(const struct cli *c, const char *option, const char *text, uint64_t min, uint64_t max);
uint64_t cli_size(const struct cli *c, const char *option, const char *text);
/* An absolute form of a path (which need not exist), without ".." and the like, to be freed. Links stay: /dev/vg/data may
 * be another device next time. */
char *cli_absolute(const char *path);

/* Print "creedence: ..." on standard error and return CLI_FAILED. */
int cli_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ask the daemon: 0 and a new reference, or CLI_FAILED with the error printed. params is stolen. */
int cli_call(struct cli *c, const char *method, json_t *params, unsigned timeout_ms, json_t **result);
/* As cli_call, but nothing is printed: the reason is in e. 0 or -errno. */
int cli_try_call(struct cli *c, const char *method, json_t *params, unsigned timeout_ms, json_t **result,
                 struct errmsg *e);

/* Print a result as JSON, release it, and return CLI_OK. */
int cli_print_json(json_t *result);

/* Fields of what the daemon answered; absent ones read as "" and 0. */
const char *cli_string(json_t *o, const char *key);
json_int_t cli_integer(json_t *o, const char *key);

/* Run a program, its standard output (at most 1 MiB) into *out as a string. Its exit status, or -errno. */
int cli_capture(const char *const *argv, unsigned timeout_ms, char **out);

/* ---- Tables ---- */

#define CLI_COLUMNS_MAX 16

struct cli_table {
    unsigned columns, rows, room;
    bool right[CLI_COLUMNS_MAX]; /* numbers */
    char **cells;                /* headings first */
};

/* Headings separated by '|'; one that begins with '>' is aligned to the right. */
void cli_table_begin(struct cli_table *t, const char *headings);
void cli_table_cell(struct cli_table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cli_table_end(struct cli_table *t); /* print and release */

#endif
