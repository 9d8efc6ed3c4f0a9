/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creedence debug status, on, off: which of the two builds installed side by side is in use.
 *
 *     PREFIX/lib/creedence/debug/bin/{creedence,creedenced,creedence-vbd,creedence-cache}
 *     PREFIX/lib/creedence/release/bin/...
 *     PREFIX/lib/creedence/current -> release          switched here, by renaming over it
 *     PREFIX/bin/creedence -> ../lib/creedence/current/bin/creedence, ...
 *
 * The link is switched only to a directory that was seen to hold all programs, each of which ran and said (`--version`)
 * that it is of the kind that is asked for. What runs goes on running: which of it is of the other kind is said.
 */
#include "cmd/cli_debug.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cmd/cli_verbs.h"

#define VERSION_LIMIT_MS 5000u

enum { OPT_PREFIX = CLI_OPT, OPT_XEN, OPT_BOOT_DIR, OPT_IMAGE };

static const struct option debug_options[] = {
    {"prefix", required_argument, NULL, OPT_PREFIX},
    {"xen", no_argument, NULL, OPT_XEN},
    {"boot-dir", required_argument, NULL, OPT_BOOT_DIR},
    {"image", required_argument, NULL, OPT_IMAGE},
    {0},
};

struct debug_args {
    char lib_dir[PATH_MAX];
    const char *boot_dir, *image;
    bool xen;
};

static const char *const programs[] = {"creedence", "creedenced", "creedence-vbd", "creedence-cache",
                                       "creedence-switch"};

/* ---- Arguments ---- */

/* LIB/KIND/bin/creedence is us: LIB. Otherwise where this build was to be installed. */
static void find_lib_dir(char out[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
    static const char *const tails[] = {"/debug/bin/creedence", "/release/bin/creedence"};
    for (int i = 0; i < 2; i++) {
        size_t len = strlen(out), tail = strlen(tails[i]);
        if (len <= tail || strcmp(out + len - tail, tails[i]) != 0) continue;
        out[len - tail] = 0;
        return;
    }
    snprintf(out, PATH_MAX, "%s/lib/creedence", CREEDENCE_PREFIX);
}

static struct debug_args parse(struct cli *c)
{
    struct debug_args a = {.boot_dir = "/boot"};
    find_lib_dir(a.lib_dir);
    for (int opt; (opt = cli_option(c)) != -1;) {
        switch (opt) {
        case OPT_PREFIX: snprintf(a.lib_dir, sizeof a.lib_dir, "%s/lib/creedence", optarg); break;
        case OPT_XEN: a.xen = true; break;
        case OPT_BOOT_DIR: a.boot_dir = optarg; break;
        case OPT_IMAGE: a.image = optarg; break;
        }
    }
    cli_arguments(c, 0);
    if (a.image && !a.xen) cli_usage_error(c, "--image names a Xen image: it goes with --xen");
    return a;
}

/* ---- Builds ---- */

static const char *debug_word(const char *kind)
{
    return strcmp(kind, "debug") == 0 ? "y" : "n";
}

static int check_executable(const char *path, struct errmsg *e)
{
    char magic[4] = "";
    struct stat st;
    if (stat(path, &st) < 0) return errmsg_sys(e, errno, "%s", path);
    autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errmsg_sys(e, errno, "%s", path);
    if (!S_ISREG(st.st_mode) || access(path, X_OK) < 0 || read(fd, magic, 4) != 4 || memcmp(magic, "\177ELF", 4) != 0)
        return errmsg_set(e, ENOEXEC, "%s: not an executable program", path);
    return 0;
}

/* The program runs, and says "NAME VERSION (COMMIT) debug=y|n" with its own name and the kind that it must be of. */
static int check_program(const char *lib_dir, const char *kind, const char *program, struct errmsg *e)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s/bin/%s", lib_dir, kind, program);
    int ret = check_executable(path, e);
    if (ret < 0) return ret;
    autofree char *text = NULL;
    int status = cli_capture((const char *[]){path, "--version", NULL}, VERSION_LIMIT_MS, &text);
    if (status != 0) return errmsg_set(e, ENOEXEC, "%s --version: cannot be run", path);
    size_t len = strlen(program);
    const char *found = strstr(text, " debug=");
    const char *debug = found ? found + strlen(" debug=") : "";
    if (strncmp(text, program, len) != 0 || text[len] != ' ' || (*debug != 'y' && *debug != 'n'))
        return errmsg_set(e, ENOEXEC, "%s --version: does not say what it is", path);
    if (*debug != *debug_word(kind))
        return errmsg_set(e, EINVAL,
                          "%s says debug=%c, expected debug=%s: the builds were installed the wrong way round", path,
                          *debug, debug_word(kind));
    return 0;
}

/* What the build says that it is: {"version", "commit", "debug"}, or NULL with the reason. */
static json_t *check_build(const char *lib_dir, const char *kind, struct errmsg *e)
{
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++)
        if (check_program(lib_dir, kind, programs[i], e) < 0) return NULL;
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s/bin/creedence", lib_dir, kind);
    autofree char *text = NULL;
    int status = cli_capture((const char *[]){path, "version", "--local", "--json", NULL}, VERSION_LIMIT_MS, &text);
    json_t *version = status == 0 ? json_loads(text, 0, NULL) : NULL;
    const char *debug = json_string_value(json_object_get(version, "debug"));
    const char *expected = debug_word(kind);
    if (!debug)
        errmsg_set(e, ENOEXEC, "%s version --json: %s", path,
                   status == 0 ? "does not say what it is" : "cannot be run");
    else if (strcmp(debug, expected) != 0)
        errmsg_set(e, EINVAL, "%s says debug=%s, expected debug=%s: the builds were installed the wrong way round",
                   path, debug, expected);
    else return version;
    json_decref(version);
    return NULL;
}

static json_t *build_json(const char *lib_dir, const char *kind)
{
    struct errmsg e = {""};
    json_t *o = check_build(lib_dir, kind, &e);
    return o ? o : json_pack("{s:s}", "problem", e.text);
}

int debug_replace_link(const char *dir, const char *name, const char *target, struct errmsg *e)
{
    char path[PATH_MAX], tmp[PATH_MAX];
    struct stat st;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, name) >= sizeof path ||
        (size_t)snprintf(tmp, sizeof tmp, "%s/.%s.%d.tmp", dir, name, (int)getpid()) >= sizeof tmp)
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", dir);
    if (lstat(path, &st) == 0 && !S_ISLNK(st.st_mode))
        return errmsg_set(e, EEXIST, "%s is not a symbolic link: it is left alone", path);
    if (symlink(target, tmp) < 0) return errmsg_sys(e, errno, "%s: making a link", tmp);
    if (rename(tmp, path) < 0) {
        int ret = errmsg_sys(e, errno, "%s: replacing the link", path);
        unlink(tmp);
        return ret;
    }
    autoclose int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) return errmsg_sys(e, errno, "%s: sync", dir);
    return 0;
}

/* ---- What is to be done about what runs ---- */

__attribute__((format(printf, 2, 3))) static void add_todo(json_t *todo, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_array_append_new(todo, json_string(text));
}

static void add_switch(struct cli *c, json_t *o, json_t *todo, const char *debug, const char *after)
{
    json_t *status;
    struct errmsg e;
    if (cli_try_call(c, "status", NULL, CLI_QUICK_MS, &status, &e) < 0) return;
    json_t *process = json_object_get(json_object_get(status, "network"), "switch");
    const char *runs = cli_string(process, "debug");
    if (json_is_true(json_object_get(process, "running")))
        json_object_set_new(o, "switch",
                            json_pack("{s:s, s:s}", "version", cli_string(process, "version"), "debug", runs));
    if (*debug && *runs && json_object_get(o, "switch") && strcmp(runs, debug) != 0)
        add_todo(todo, "the switch runs with debug=%s: `creedence upgrade --switch`%s, guests lose some packets", runs,
                 after);
    json_decref(status);
}

/* Adds "daemon", "workers", "switch" and "todo" for a current build of this kind ("y" or "n"; "" when unknown). */
static void add_running(struct cli *c, json_t *o, const char *debug)
{
    json_t *todo = json_array(), *daemon, *list, *d;
    struct errmsg e;
    json_object_set_new(o, "todo", todo);
    if (cli_try_call(c, "version", NULL, CLI_QUICK_MS, &daemon, &e) < 0) {
        json_object_set_new(o, "daemon", json_null());
        return;
    }
    json_object_set_new(o, "daemon", daemon);
    const char *runs = cli_string(daemon, "debug");
    if (*debug && strcmp(runs, debug) != 0)
        add_todo(todo, "creedenced runs with debug=%s: `systemctl restart creedenced`, guests do not notice", runs);
    const char *after = strcmp(runs, debug) != 0 ? " after that" : "";
    add_switch(c, o, todo, debug, after);
    if (cli_try_call(c, "disk.list", NULL, CLI_QUICK_MS, &list, &e) < 0) return;
    unsigned other = 0, total = 0;
    size_t i;
    json_array_foreach(json_object_get(list, "disks"), i, d)
    {
        const char *worker = cli_string(d, "worker_debug");
        total += *worker != 0;
        other += *worker && strcmp(worker, debug) != 0;
    }
    json_decref(list);
    json_object_set_new(o, "workers", json_integer(total));
    if (*debug && other)
        add_todo(todo, "%u of %u disk workers run with debug=%s: `creedence upgrade`%s, guests do not notice", other,
                 total, *debug == 'y' ? "n" : "y", after);
}

/* ---- status ---- */

static json_t *status_json(struct cli *c, const struct debug_args *a)
{
    char path[PATH_MAX + 16], target[PATH_MAX] = "";
    snprintf(path, sizeof path, "%s/current", a->lib_dir);
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n > 0 ? n : 0] = 0;
    json_t *o = json_pack("{s:s, s:s, s:o, s:o}", "directory", a->lib_dir, "current", target, "debug",
                          build_json(a->lib_dir, "debug"), "release", build_json(a->lib_dir, "release"));
    bool known = strcmp(target, "debug") == 0 || strcmp(target, "release") == 0;
    json_t *current = known ? json_object_get(o, target) : NULL;
    if (!*target)
        json_object_set_new(o, "problem", json_pack("s++", path, ": ", n < 0 ? strerror(errno) : "an empty link"));
    else if (!known)
        json_object_set_new(o, "problem",
                            json_pack("s+++", path, " points at ", target, ", expected debug or release"));
    else if (json_object_get(current, "problem")) json_object_set(o, "problem", json_object_get(current, "problem"));
    add_running(c, o, cli_string(current, "debug"));
    return o;
}

static void print_build(json_t *o, const char *kind)
{
    json_t *b = json_object_get(o, kind);
    if (*cli_string(b, "problem")) printf("%-13s not usable: %s\n", kind, cli_string(b, "problem"));
    else
        printf("%-13s version %s (%s) debug=%s\n", kind, cli_string(b, "version"), cli_string(b, "commit"),
               cli_string(b, "debug"));
}

static void print_todo(json_t *o)
{
    json_t *todo = json_object_get(o, "todo"), *line;
    size_t i;
    json_array_foreach(todo, i, line) printf("%-13s %s\n", i ? "" : "to do", json_string_value(line));
}

static void print_status(json_t *o)
{
    json_t *daemon = json_object_get(o, "daemon");
    printf("installed     %s\n", cli_string(o, "directory"));
    print_build(o, "debug");
    print_build(o, "release");
    if (*cli_string(o, "problem")) printf("current       PROBLEM: %s\n", cli_string(o, "problem"));
    else printf("current       %s\n", cli_string(o, "current"));
    if (json_is_object(daemon))
        printf("running       creedenced debug=%s, %lld disk workers%s%s\n", cli_string(daemon, "debug"),
               (long long)cli_integer(o, "workers"), json_object_get(o, "switch") ? ", the switch debug=" : "",
               cli_string(json_object_get(o, "switch"), "debug"));
    else puts("running       no daemon");
    print_todo(o);
}

static void print_xen(json_t *o)
{
    json_t *candidates = json_object_get(o, "candidates"), *x;
    size_t i;
    printf("link          %s\n", cli_string(o, "link"));
    if (*cli_string(o, "problem")) printf("PROBLEM       %s\n", cli_string(o, "problem"));
    if (*cli_string(o, "target"))
        printf("points at     %s (%s)\n", cli_string(o, "target"),
               strcmp(cli_string(o, "debug"), "y") == 0 ? "debug" : "not debug");
    printf("running       %s\n",
           *cli_string(o, "running") ? cli_string(o, "running") : "not known (no `xl dmesg` here that says it)");
    json_array_foreach(candidates, i, x)
    {
        const char *problem = cli_string(x, "problem");
        printf("%-13s %s (%s)%s%s\n", i ? "" : "candidates", cli_string(x, "file"),
               strcmp(cli_string(x, "debug"), "y") == 0 ? "debug" : "not debug", *problem ? ": " : "", problem);
    }
}

static int debug_status(struct cli *c)
{
    struct debug_args a = parse(c);
    json_t *o = a.xen ? xen_status_json(a.boot_dir) : status_json(c, &a);
    int ret = *cli_string(o, "problem") ? CLI_FAILED : CLI_OK;
    if (c->json) {
        cli_print_json(o);
        return ret;
    }
    if (a.xen) print_xen(o);
    else print_status(o);
    json_decref(o);
    return ret;
}

/* ---- on, off ---- */

static int switch_xen(struct cli *c, const struct debug_args *a, bool on)
{
    struct errmsg e = {""};
    autofree char *chosen = NULL;
    if (xen_switch(a->boot_dir, on, a->image, &chosen, &e) < 0) return cli_fail("%s", e.text);
    if (c->json)
        return cli_print_json(json_pack("{s:s, s:s, s:b}", "link", "xen.gz", "target", chosen, "reboot_needed", 1));
    printf("%s/xen.gz points at %s now; it counts from the next boot on (then check with `creedence debug status "
           "--xen`)\n",
           a->boot_dir, chosen);
    return CLI_OK;
}

static int switch_to(struct cli *c, bool on)
{
    struct debug_args a = parse(c);
    if (a.xen) return switch_xen(c, &a, on);
    const char *kind = on ? "debug" : "release";
    struct errmsg e = {""};
    json_t *o = check_build(a.lib_dir, kind, &e);
    if (!o) return cli_fail("%s; nothing was switched (`make install` installs both builds)", e.text);
    if (debug_replace_link(a.lib_dir, "current", kind, &e) < 0) {
        json_decref(o);
        return cli_fail("%s", e.text);
    }
    char kept[2] = "";
    snprintf(kept, sizeof kept, "%s", cli_string(o, "debug"));
    json_object_set_new(o, "current", json_string(kind));
    add_running(c, o, kept);
    if (c->json) return cli_print_json(o);
    printf("current       %s: version %s (%s) debug=%s\n", kind, cli_string(o, "version"), cli_string(o, "commit"),
           cli_string(o, "debug"));
    print_todo(o);
    json_decref(o);
    return CLI_OK;
}

static int debug_on(struct cli *c)
{
    return switch_to(c, true);
}

static int debug_off(struct cli *c)
{
    return switch_to(c, false);
}

#define DEBUG_HELP                                                                                                     \
    "  --prefix DIR            where Creedence is installed (default: where this program is)\n"                        \
    "  --xen                   the same for Xen itself: its link xen.gz\n"                                             \
    "  --boot-dir DIR          where that link is (default /boot)\n"

const struct cli_verb cli_debug_status = {
    .name = "debug status",
    .args = "",
    .summary = "Show which build (debug or release) is installed, chosen and running",
    .options = debug_options,
    .run = debug_status,
    .help = DEBUG_HELP "\nFails (status 1) when what is chosen is not usable.\n"
                       "\nExamples:\n"
                       "  creedence debug status\n"
                       "  creedence debug status --xen\n",
};

const struct cli_verb cli_debug_on = {
    .name = "debug on",
    .args = "",
    .summary = "Choose the debug build, after checking that it is there and is one",
    .options = debug_options,
    .run = debug_on,
    .help = DEBUG_HELP "  --image FILE            with --xen: this image of the boot directory\n"
                       "\nExamples:\n"
                       "  creedence debug on && systemctl restart creedenced && creedence upgrade\n",
};

const struct cli_verb cli_debug_off = {
    .name = "debug off",
    .args = "",
    .summary = "Choose the release build, after checking that it is there and is one",
    .options = debug_options,
    .run = debug_off,
    .help = DEBUG_HELP "  --image FILE            with --xen: this image of the boot directory\n"
                       "\nExamples:\n"
                       "  creedence debug off && systemctl restart creedenced && creedence upgrade\n"
                       "  creedence debug off --xen && reboot\n",
};
