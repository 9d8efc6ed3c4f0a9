/* SPDX-License-Identifier: Apache-2.0 */
#include "control/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define STATE_FILE_MAX_BYTES (1u << 20)
#define STATE_BAD_MAX 100 /* files set aside under one name */

/* ---- Whole files ---- */

int state_sync_dir_of(const char *path, struct errmsg *e)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (slash) slash[slash == dir] = 0;
    autoclose int fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) return errmsg_sys(e, errno, "%s: sync of its directory", path);
    return 0;
}

static int write_all(int fd, const char *text, size_t len)
{
    while (len) {
        ssize_t n = write(fd, text, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        text += n;
        len -= (size_t)n;
    }
    return 0;
}

int state_write_file(const char *path, const char *text, size_t len, bool durable, struct errmsg *e)
{
    char tmp[PATH_MAX];
    if ((size_t)snprintf(tmp, sizeof tmp, "%s.tmp", path) >= sizeof tmp)
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", path);
    autoclose int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return errmsg_sys(e, errno, "%s: creating it", tmp);
    int ret = write_all(fd, text, len);
    if (ret == 0 && durable && fsync(fd) < 0) ret = -errno;
    if (ret == 0 && rename(tmp, path) < 0) ret = -errno;
    if (ret < 0) {
        unlink(tmp);
        return errmsg_sys(e, -ret, "%s: writing it", path);
    }
    return durable ? state_sync_dir_of(path, e) : 0;
}

static int write_json(const char *path, json_t *o, struct errmsg *e)
{
    autofree char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (!text) return errmsg_sys(e, ENOMEM, "%s", path);
    return state_write_file(path, text, strlen(text), true, e);
}

int state_read_file(json_t **out, const char *path, size_t most_bytes, struct errmsg *e)
{
    *out = NULL;
    autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errmsg_sys(e, errno, "%s", path);
    struct stat st;
    if (fstat(fd, &st) < 0) return errmsg_sys(e, errno, "%s", path);
    if (!S_ISREG(st.st_mode) || st.st_size > (off_t)most_bytes)
        return errmsg_set(e, EINVAL, "%s: not a regular file of at most %zu bytes", path, most_bytes);
    json_error_t why;
    *out = json_loadfd(fd, JSON_REJECT_DUPLICATES, &why);
    return *out ? 0 : errmsg_set(e, EINVAL, "%s: line %d: %s", path, why.line, why.text);
}

/* The object under `key` of a versioned file, as a new reference. -EINVAL: not ours; -ENOTSUP: newer.
 * images (may be NULL) gets another, to what is under that name, if anything. */
static int read_json(json_t **out, json_t **images, const char *path, const char *key, struct errmsg *e)
{
    json_t *whole;
    int ret = state_read_file(&whole, path, STATE_FILE_MAX_BYTES, e);
    if (ret < 0) return ret;
    struct field_error bad = {0};
    struct fields f = fields_begin(whole, "", &bad);
    uint64_t version = fields_uint_required(&f, "version", 1, INT64_MAX);
    *out = json_incref(fields_object(&f, key));
    ret = fields_end_lenient(&f);
    if (ret < 0) ret = errmsg_set(e, EINVAL, "%s: %s", path, bad.message);
    else if (version > STATE_VERSION)
        ret = errmsg_set(e, ENOTSUP, "%s: version %llu, this program knows %d", path, (unsigned long long)version,
                         STATE_VERSION);
    else if (!*out) ret = errmsg_set(e, EINVAL, "%s: no \"%s\" in it", path, key);
    if (ret == 0 && images) *images = json_incref(json_object_get(whole, "images"));
    json_decref(whole);
    if (ret < 0) {
        json_decref(*out);
        *out = NULL;
    }
    return ret;
}

void state_set_aside(const char *path, const char *why)
{
    for (int i = 1; i <= STATE_BAD_MAX; i++) {
        char bad[PATH_MAX];
        snprintf(bad, sizeof bad, "%s.bad-%d", path, i);
        /* link() fails on an existing name, where rename() would replace it. */
        if (link(path, bad) < 0) {
            if (errno == EEXIST) continue;
            log_error("%s; and it cannot be set aside as %s: %s", why, bad, strerror(errno));
            return;
        }
        unlink(path);
        log_error("%s; set aside as %s", why, bad);
        return;
    }
    log_error("%s; left where it is: %d files of that name were set aside already", why, STATE_BAD_MAX);
}

/* ---- Disks ---- */

int state_prepare(const char *state_dir, struct errmsg *e)
{
    static const char *const dirs[] = {"", "/disks", "/flows"};
    for (int i = 0; i < 3; i++) {
        char dir[PATH_MAX];
        if ((size_t)snprintf(dir, sizeof dir, "%s%s", state_dir, dirs[i]) >= sizeof dir)
            return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", state_dir);
        if (mkdir(dir, 0700) < 0 && errno != EEXIST) return errmsg_sys(e, errno, "%s: making the directory", dir);
        if (i && access(dir, R_OK | W_OK | X_OK) < 0) return errmsg_sys(e, errno, "%s", dir);
    }
    return 0;
}

static int disk_path(char *out, const char *state_dir, const char *name, struct errmsg *e)
{
    if ((size_t)snprintf(out, PATH_MAX, "%s/disks/%s.json", state_dir, name) >= PATH_MAX)
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", state_dir);
    return 0;
}

int state_save_disk(const char *state_dir, const struct disk_config *c, json_t *images, struct errmsg *e)
{
    char path[PATH_MAX];
    int ret = disk_path(path, state_dir, c->name, e);
    if (ret < 0) {
        json_decref(images);
        return ret;
    }
    json_t *o = json_pack("{s:i, s:o}", "version", STATE_VERSION, "disk", disk_config_json(c, false));
    if (o && images) json_object_set_new(o, "images", images);
    else json_decref(images);
    return write_json(path, o, e);
}

int state_remove_disk(const char *state_dir, const char *name, struct errmsg *e)
{
    char path[PATH_MAX];
    int ret = disk_path(path, state_dir, name, e);
    if (ret < 0) return ret;
    if (unlink(path) < 0 && errno != ENOENT) return errmsg_sys(e, errno, "%s: removing it", path);
    return state_sync_dir_of(path, e);
}

bool state_has_disk(const char *state_dir, const char *name)
{
    char path[PATH_MAX];
    struct stat st;
    return disk_path(path, state_dir, name, NULL) == 0 && lstat(path, &st) == 0;
}

static bool has_ending(const char *name, const char *ending)
{
    size_t a = strlen(name), b = strlen(ending);
    return a > b && strcmp(name + a - b, ending) == 0;
}

static int load_disk(const char *path, const char *file, struct disk_config *out, json_t **images)
{
    struct errmsg e = {""};
    json_t *disk = NULL;
    int ret = read_json(&disk, images, path, "disk", &e);
    if (ret == 0) {
        struct field_error why = {0};
        ret = disk_config_parse(out, disk, "disk", &why);
        json_decref(disk);
        if (ret == -EINVAL) errmsg_set(&e, EINVAL, "%s: %s", path, why.message);
        size_t stem = strlen(file) - strlen(".json");
        if (ret == 0 && (strlen(out->name) != stem || strncmp(out->name, file, stem) != 0)) {
            ret = errmsg_set(&e, EINVAL, "%s: describes the disk \"%s\"", path, out->name);
            disk_config_free(out);
        }
    }
    if (ret == -EINVAL) state_set_aside(path, e.text);
    else if (ret < 0) log_error("%s; left where it is", e.text[0] ? e.text : strerror(-ret));
    return ret;
}

static int only_json(const struct dirent *d)
{
    return d->d_name[0] != '.' && has_ending(d->d_name, ".json");
}

int state_load_disks(const char *state_dir, void (*found)(void *arg, struct disk_config *c, json_t *images), void *arg,
                     struct errmsg *e)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s/disks", state_dir);
    struct dirent **list = NULL;
    int n = scandir(dir, &list, only_json, alphasort), skipped = 0;
    if (n < 0) return errmsg_sys(e, errno, "%s", dir);
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX];
        struct disk_config c;
        json_t *images = NULL;
        if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, list[i]->d_name) < sizeof path &&
            load_disk(path, list[i]->d_name, &c, &images) == 0)
            found(arg, &c, images);
        else skipped++;
        json_decref(images);
        free(list[i]);
    }
    free(list);
    return skipped;
}

/* ---- The read cache's settings ---- */

uint64_t cache_budget_parse(struct fields *f, uint64_t fallback)
{
    json_t *value = fields_any(f, "budget");
    if (!value) return fallback;
    if (json_is_string(value) && strcmp(json_string_value(value), "auto") == 0) return 0;
    if (json_is_integer(value) && json_integer_value(value) > 0) return (uint64_t)json_integer_value(value);
    fields_refuse(f, "budget", "\"auto\" or a positive number of bytes");
    return fallback;
}

json_t *cache_budget_json(uint64_t budget_bytes)
{
    return budget_bytes ? json_integer((json_int_t)budget_bytes) : json_string("auto");
}

static int cache_path(char *out, const char *state_dir, struct errmsg *e)
{
    if ((size_t)snprintf(out, PATH_MAX, "%s/cache.json", state_dir) >= PATH_MAX)
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", state_dir);
    return 0;
}

int state_save_cache(const char *state_dir, const struct cache_settings *s, struct errmsg *e)
{
    char path[PATH_MAX];
    int ret = cache_path(path, state_dir, e);
    if (ret < 0) return ret;
    return write_json(path,
                      json_pack("{s:i, s:{s:b, s:o, s:b}}", "version", STATE_VERSION, "cache", "enabled", s->enabled,
                                "budget", cache_budget_json(s->budget_bytes), "huge_pages", s->huge_pages),
                      e);
}

int state_load_cache(const char *state_dir, struct cache_settings *s)
{
    char path[PATH_MAX];
    struct errmsg e = {""};
    json_t *o = NULL;
    int ret = cache_path(path, state_dir, &e);
    if (ret == 0) ret = read_json(&o, NULL, path, "cache", &e);
    if (ret == 0) {
        struct field_error why = {0};
        struct fields f = fields_begin(o, "cache", &why);
        struct cache_settings got = {.enabled = fields_bool(&f, "enabled", true),
                                     .huge_pages = fields_bool(&f, "huge_pages", true),
                                     .budget_bytes = cache_budget_parse(&f, 0)};
        ret = fields_end(&f);
        if (ret < 0) errmsg_set(&e, EINVAL, "%s: %s", path, why.message);
        else *s = got;
        json_decref(o);
    }
    if (ret == 0 || ret == -ENOENT) return ret;
    if (ret == -EINVAL) state_set_aside(path, e.text);
    else log_error("%s; left where it is", e.text);
    return -ENOENT;
}
