/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Xen's own debug and non-debug builds. Distributions install both beside each other in /boot and boot whichever the link
 * xen.gz points at; debug images are told by their name: xen-VERSION-d.gz, -dbg.gz or -debug.gz.
 *
 * The link is never left dangling, and never points at something that is not a Xen image: an ELF file (or one
 * compressed by gzip) that names Xen.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/cleanup.h"
#include "cmd/cli_debug.h"

#define XEN_LINK "xen.gz"
#define IMAGE_MAX_BYTES (256u << 20) /* uncompressed; real ones have 2 to 30 MiB */
#define DMESG_LIMIT_MS 5000u
#define STEP_BYTES 65536

/* ---- Images ---- */

/* "-d", "-dbg" or "-debug" before the ending. The stem without it goes to `stem` when that is not NULL. */
static bool is_debug_name(const char *file, char stem[NAME_MAX + 1])
{
    static const char *const marks[] = {"-d.gz", "-dbg.gz", "-debug.gz", "-dbg", "-debug"};
    size_t len = strlen(file);
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        size_t mark = strlen(marks[i]);
        if (len <= mark || strcmp(file + len - mark, marks[i]) != 0) continue;
        if (stem) snprintf(stem, NAME_MAX + 1, "%.*s", (int)(len - mark), file);
        return true;
    }
    size_t ending = len > 3 && strcmp(file + len - 3, ".gz") == 0 ? 3 : 0;
    if (stem) snprintf(stem, NAME_MAX + 1, "%.*s", (int)(len - ending), file);
    return false;
}

/* gzread() passes uncompressed files through, so one loop does for both kinds. */
static int check_content(gzFile z, const char *path, struct errmsg *e)
{
    autofree char *step = malloc(STEP_BYTES + 8);
    if (!step) return errmsg_sys(e, ENOMEM, "%s", path);
    size_t total = 0, carried = 0;
    bool found = false;
    int n;
    while ((n = gzread(z, step + carried, STEP_BYTES)) > 0) {
        size_t have = carried + (size_t)n;
        if (total == 0 && (n < 4 || memcmp(step, "\177ELF", 4) != 0))
            return errmsg_set(e, EINVAL, "%s: not an ELF image, compressed or not", path);
        total += (size_t)n;
        if (total > IMAGE_MAX_BYTES)
            return errmsg_set(e, EFBIG, "%s: more than %u MiB uncompressed", path, IMAGE_MAX_BYTES >> 20);
        found = found || memmem(step, have, "Xen", 3);
        carried = have < 2 ? have : 2; /* the word may lie across two steps */
        memmove(step, step + have - carried, carried);
    }
    int code = Z_OK;
    const char *why = gzerror(z, &code);
    if (n < 0 || code < Z_OK)
        return errmsg_set(e, EINVAL, "%s: damaged: %s", path, code == Z_ERRNO ? strerror(errno) : why);
    if (total == 0) return errmsg_set(e, EINVAL, "%s: empty", path);
    return found ? 0 : errmsg_set(e, EINVAL, "%s: an ELF image, but not of Xen", path);
}

static int check_image(const char *dir, const char *file, struct errmsg *e)
{
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s%s%s", *file == '/' ? "" : dir, *file == '/' ? "" : "/", file) >=
        sizeof path)
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0) return errmsg_sys(e, errno, "%s", path);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return errmsg_set(e, EINVAL, "%s: not a regular file", path);
    }
    gzFile z = gzdopen(fd, "rb");
    if (!z) {
        close(fd);
        return errmsg_sys(e, ENOMEM, "%s", path);
    }
    int ret = check_content(z, path, e);
    gzclose(z);
    return ret;
}

/* ---- Candidates ---- */

static int is_candidate(const struct dirent *d)
{
    const char *n = d->d_name;
    size_t len = strlen(n);
    bool dbg = len > 4 && (strcmp(n + len - 4, "-dbg") == 0 || strstr(n, "-debug"));
    return strncmp(n, "xen-", 4) == 0 && ((len > 3 && strcmp(n + len - 3, ".gz") == 0) || dbg);
}

/* Files named xen-*, newest version last; links among them (xen-4.gz -> xen-4.17.gz) are left out. */
static int find_candidates(const char *dir, char ***out)
{
    struct dirent **list = NULL;
    int n = scandir(dir, &list, is_candidate, versionsort), kept = 0;
    *out = calloc(n > 0 ? (size_t)n : 1, sizeof **out);
    if (!*out) abort();
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX];
        struct stat st;
        if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, list[i]->d_name) < sizeof path && lstat(path, &st) == 0 &&
            S_ISREG(st.st_mode)) {
            (*out)[kept] = strdup(list[i]->d_name);
            if (!(*out)[kept++]) abort();
        }
        free(list[i]);
    }
    free(list);
    return kept;
}

static void free_candidates(char **list, int n)
{
    for (int i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

/* Where the link points: false when there is none. */
static bool read_target(const char *dir, char target[PATH_MAX])
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/" XEN_LINK, dir);
    ssize_t n = readlink(path, target, PATH_MAX - 1);
    target[n > 0 ? n : 0] = 0;
    return n > 0;
}

/* ---- What runs ---- */

/* "debug=y" or "debug=n" out of the hypervisor's first lines; "" when it cannot be known. */
static void find_running(char out[16])
{
    autofree char *text = NULL;
    out[0] = 0;
    if (cli_capture((const char *[]){"xl", "dmesg", NULL}, DMESG_LIMIT_MS, &text) != 0) return;
    for (const char *p = text; (p = strstr(p, "debug=")); p++) {
        if (p[6] != 'y' && p[6] != 'n') continue;
        snprintf(out, 16, "debug=%c", p[6]);
        return;
    }
}

json_t *xen_status_json(const char *boot_dir)
{
    char link[PATH_MAX], target[PATH_MAX], running[16];
    struct errmsg e = {""};
    struct stat st;
    snprintf(link, sizeof link, "%s/" XEN_LINK, boot_dir);
    json_t *o = json_pack("{s:s}", "link", link);
    if (read_target(boot_dir, target)) {
        json_object_set_new(o, "target", json_string(target));
        json_object_set_new(o, "debug", json_string(is_debug_name(target, NULL) ? "y" : "n"));
        if (check_image(boot_dir, target, &e) < 0) json_object_set_new(o, "problem", json_string(e.text));
    } else if (lstat(link, &st) == 0) {
        json_object_set_new(o, "problem", json_string("it is not a symbolic link, so there is nothing to switch"));
    } else {
        json_object_set_new(o, "problem", json_string(strerror(errno)));
    }
    find_running(running);
    if (*running) json_object_set_new(o, "running", json_string(running));
    json_t *list = json_array();
    char **files;
    int n = find_candidates(boot_dir, &files);
    for (int i = 0; i < n; i++) {
        json_t *x = json_pack("{s:s, s:s}", "file", files[i], "debug", is_debug_name(files[i], NULL) ? "y" : "n");
        if (check_image(boot_dir, files[i], &e) < 0) json_object_set_new(x, "problem", json_string(e.text));
        json_array_append_new(list, x);
    }
    free_candidates(files, n);
    json_object_set_new(o, "candidates", list);
    return o;
}

/* ---- Switching ---- */

/* The image of the same version as the one in use; without one, the newest of the right kind. */
static const char *choose(char **files, int n, bool debug, const char *target)
{
    char wanted[NAME_MAX + 1] = "", stem[NAME_MAX + 1];
    const char *newest = NULL, *base = strrchr(target, '/');
    if (*target) is_debug_name(base ? base + 1 : target, wanted);
    for (int i = 0; i < n; i++) {
        if (is_debug_name(files[i], stem) != debug) continue;
        if (strcmp(stem, wanted) == 0) return files[i];
        newest = files[i];
    }
    return newest;
}

int xen_switch(const char *boot_dir, bool debug, const char *image, char **chosen, struct errmsg *e)
{
    char target[PATH_MAX];
    char **files;
    int n = find_candidates(boot_dir, &files), ret = 0;
    read_target(boot_dir, target);
    const char *pick = image ? image : choose(files, n, debug, target);
    if (!pick)
        ret = errmsg_set(e, ENOENT, "%s: no %s Xen image there (xen-VERSION%s.gz); the link is left as it is", boot_dir,
                         debug ? "debug" : "non-debug", debug ? "-d" : "");
    else if (strchr(pick, '/'))
        ret = errmsg_set(e, EINVAL, "--image %s: expected the name of a file in %s", pick, boot_dir);
    else if (is_debug_name(pick, NULL) != debug)
        ret = errmsg_set(e, EINVAL, "%s: by its name, this is %s debug image", pick, debug ? "not a" : "a");
    else ret = check_image(boot_dir, pick, e);
    if (ret == 0) ret = debug_replace_link(boot_dir, XEN_LINK, pick, e);
    if (ret == 0 && !(*chosen = strdup(pick))) ret = -ENOMEM;
    free_candidates(files, n);
    return ret;
}
