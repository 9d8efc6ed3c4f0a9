/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/cli.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/size.h"
#include "control/text.h"
#include "loop/clock.h"

#define CAPTURE_MAX_BYTES (1u << 20)

enum { OPT_JSON = 256, OPT_CONTROL, OPT_HELP };

static const struct option common[] = {
    {"json", no_argument, NULL, OPT_JSON},
    {"control", required_argument, NULL, OPT_CONTROL},
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

/* ---- Options ---- */

static void merge_options(struct cli *c)
{
    unsigned n = 0;
    for (const struct option *o = c->verb->options; o && o->name; o++)
        c->merged[n++] = *o;
    for (const struct option *o = common; o->name; o++)
        c->merged[n++] = *o;
    assert(n < sizeof c->merged / sizeof c->merged[0]);
    c->merged[n] = (struct option){0};
}

static void print_help(const struct cli *c)
{
    printf("Usage: creedence %s%s%s [OPTION]...\n%s.\n\n%s%s"
           "  --json                  the result as JSON\n"
           "  --control=PATH          where creedenced listens (default $CREEDENCE_SOCKET, or\n"
           "                          /run/creedence/creedenced.sock)\n",
           c->verb->name, *c->verb->args ? " " : "", c->verb->args, c->verb->summary, c->verb->help,
           "\nOptions of all verbs:\n");
}

int cli_option(struct cli *c)
{
    if (!c->merged[0].name) {
        merge_options(c);
        optind = 0; /* the main program parsed before us */
        opterr = 0;
    }
    char shorts[32];
    snprintf(shorts, sizeof shorts, "-:h%s", c->verb->shorts ? c->verb->shorts : "");
    for (;;) {
        int opt = getopt_long(c->argc, c->argv, shorts, c->merged, NULL);
        switch (opt) {
        case OPT_JSON: c->json = true; continue;
        case OPT_CONTROL: c->socket_path = optarg; continue;
        case 'h':
        case OPT_HELP: print_help(c); exit(CLI_OK);
        case ':': cli_usage_error(c, "%s needs a value", c->argv[optind - 1]);
        case '?':
            if (optopt && optopt < 256) cli_usage_error(c, "unknown option -%c", optopt);
            cli_usage_error(c, "unknown option %s", c->argv[optind - 1]);
        case 1: /* an argument among the options */
            if (c->positional_count == CLI_ARGUMENTS_MAX) cli_usage_error(c, "unexpected argument \"%s\"", optarg);
            c->positional[c->positional_count++] = optarg;
            continue;
        default: return opt;
        }
    }
}

char **cli_arguments(struct cli *c, int count)
{
    while (optind < c->argc && c->positional_count < CLI_ARGUMENTS_MAX)
        c->positional[c->positional_count++] = c->argv[optind++]; /* behind "--" */
    if (c->positional_count < count) cli_usage_error(c, "an argument is missing: expected %s", c->verb->args);
    if (c->positional_count > count) cli_usage_error(c, "unexpected argument \"%s\"", c->positional[count]);
    return c->positional;
}

void cli_usage_error(const struct cli *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "creedence %s: ", c->verb->name);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\nTry `creedence %s --help`.\n", c->verb->name);
    va_end(args);
    exit(CLI_USAGE);
}

bool cli_on_off(const struct cli *c, const char *option, const char *text)
{
    bool on = strcmp(text, "on") == 0;
    if (!on && strcmp(text, "off") != 0) cli_usage_error(c, "%s %s: expected on or off", option, text);
    return on;
}

uint64_t cli_number(const struct cli *c, const char *option, const char *text, uint64_t min, uint64_t max)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || *end || *text < '0' || *text > '9' || v < min || v > max)
        cli_usage_error(c, "%s %s: expected a number from %llu to %llu", option, text, (unsigned long long)min,
                        (unsigned long long)max);
    return v;
}

uint64_t cli_size(const struct cli *c, const char *option, const char *text)
{
    uint64_t bytes;
    if (!size_parse(text, &bytes))
        cli_usage_error(c, "%s %s: expected a size, such as 512M, 20G or 1.5T (powers of 1024)", option, text);
    return bytes;
}

static bool has_dots(const char *path)
{
    for (const char *p = path; p; p = strchr(p, '/')) {
        p += *p == '/';
        size_t len = strcspn(p, "/");
        if ((len == 1 || len == 2) && strncmp(p, "..", len) == 0) return true;
    }
    return false;
}

char *cli_absolute(const char *path)
{
    char *cwd = *path == '/' ? NULL : getcwd(NULL, 0), *whole = NULL;
    if (asprintf(&whole, "%s%s%s", cwd ? cwd : "", cwd ? "/" : "", path) < 0) abort();
    free(cwd);
    const char *name = strrchr(whole, '/') + 1;
    if (!has_dots(whole) || has_dots(name)) return whole;
    autofree char *dir = strndup(whole, (size_t)(name - whole));
    autofree char *real = dir ? realpath(dir, NULL) : NULL;
    char *better = NULL;
    if (!real || asprintf(&better, "%s%s%s", real, real[1] ? "/" : "", name) < 0) return whole;
    free(whole);
    return better;
}

/* ---- Errors and answers ---- */

int cli_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "creedence: ");
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return CLI_FAILED;
}

/* Names and reasons in an answer may come from a worker: nothing in them may reach the terminal as a command. */
static void clean_strings(json_t *value)
{
    const char *key;
    json_t *inner;
    size_t i;
    if (json_is_string(value)) {
        autofree char *text = strdup(json_string_value(value));
        if (!text) abort();
        text_clean(text);
        if (strcmp(text, json_string_value(value)) != 0) json_string_set(value, text);
    }
    json_object_foreach(value, key, inner) clean_strings(inner);
    json_array_foreach(value, i, inner) clean_strings(inner);
}

int cli_try_call(struct cli *c, const char *method, json_t *params, unsigned timeout_ms, json_t **result,
                 struct errmsg *e)
{
    *result = NULL;
    int ret = c->client ? 0 : client_open(&c->client, c->socket_path, e);
    if (ret < 0) {
        json_decref(params);
        return ret;
    }
    ret = client_call(c->client, method, params, timeout_ms, result, NULL, e);
    if (e) text_clean(e->text);
    if (ret == 0 && !c->json) clean_strings(*result); /* JSON escapes them */
    return ret;
}

int cli_call(struct cli *c, const char *method, json_t *params, unsigned timeout_ms, json_t **result)
{
    struct errmsg e = {""};
    int ret = cli_try_call(c, method, params, timeout_ms, result, &e);
    return ret < 0 ? cli_fail("%s", e.text) : CLI_OK;
}

int cli_print_json(json_t *result)
{
    json_dumpf(result, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(result);
    return CLI_OK;
}

const char *cli_string(json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

json_int_t cli_integer(json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

/* ---- Other programs ---- */

static int read_output(int fd, uint64_t end_ns, char **out)
{
    size_t used = 0;
    char *text = malloc(CAPTURE_MAX_BYTES + 1);
    if (!text) return -ENOMEM;
    for (;;) {
        uint64_t now_ns = clock_now_ns();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int ready = now_ns < end_ns ? poll(&p, 1, (int)((end_ns - now_ns) / NS_PER_MS) + 1) : 0;
        ssize_t n = ready > 0 ? read(fd, text + used, CAPTURE_MAX_BYTES - used) : -1;
        if (n > 0) {
            used += (size_t)n;
            continue;
        }
        text[used] = 0;
        *out = text;
        return n == 0 ? 0 : -ETIMEDOUT;
    }
}

int cli_capture(const char *const *argv, unsigned timeout_ms, char **out)
{
    int fds[2];
    *out = NULL;
    if (pipe2(fds, O_CLOEXEC) < 0) return -errno;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(fds[1], STDOUT_FILENO) < 0 ||
            dup2(null, STDERR_FILENO) < 0)
            _exit(126);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(fds[1]);
    int ret = pid < 0 ? -errno : read_output(fds[0], clock_now_ns() + timeout_ms * NS_PER_MS, out);
    close(fds[0]);
    if (pid < 0) return ret;
    if (ret < 0) kill(pid, SIGKILL);
    int status = 0;
    waitpid(pid, &status, 0);
    if (ret < 0) {
        free(*out);
        *out = NULL;
        return ret;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
