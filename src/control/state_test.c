/* SPDX-License-Identifier: Apache-2.0 */
/* Saved state: what is written is read; what is damaged is set aside; a save that is interrupted leaves the old file. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "control/state.h"

struct dir {
    char path[64];
};

static int setup(void **state)
{
    struct dir *d = calloc(1, sizeof *d);
    strcpy(d->path, "/tmp/creedence-state-XXXXXX");
    struct errmsg e;
    if (!mkdtemp(d->path) || state_prepare(d->path, &e) < 0) return -1;
    *state = d;
    return 0;
}

static void remove_all(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        char inner[512];
        snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
        if (unlink(inner) < 0) remove_all(inner);
    }
    if (d) closedir(d);
    rmdir(path);
}

static int teardown(void **state)
{
    struct dir *d = *state;
    remove_all(d->path);
    free(d);
    return 0;
}

static struct disk_config config(const char *name, unsigned queues)
{
    struct disk_config c;
    struct field_error why = {0};
    json_t *o = json_pack("{s:s, s:i, s:[{s:s, s:s}]}", "name", name, "queues", (int)queues, "layers", "format", "raw",
                          "path", "/x");
    assert_int_equal(disk_config_parse(&c, o, "", &why), 0);
    json_decref(o);
    return c;
}

struct found {
    unsigned count, queues;
    char names[256];
    json_int_t images; /* the sum of what was kept under that name */
};

static void found(void *arg, struct disk_config *c, json_t *images)
{
    struct found *f = arg;
    f->images += json_integer_value(images);
    f->count++;
    f->queues = c->queues;
    strcat(strcat(f->names, c->name), " ");
    disk_config_free(c);
}

static void put(const struct dir *d, const char *file, const char *text)
{
    char path[256];
    struct errmsg e;
    snprintf(path, sizeof path, "%s/disks/%s", d->path, file);
    assert_int_equal(state_write_file(path, text, strlen(text), false, &e), 0);
}

static bool there(const struct dir *d, const char *file)
{
    char path[256];
    snprintf(path, sizeof path, "%s/disks/%s", d->path, file);
    return access(path, F_OK) == 0;
}

static void save_and_load(void **state)
{
    const struct dir *d = *state;
    struct errmsg e;
    static const char *const names[] = {"b", "a", "c"};
    for (unsigned i = 0; i < 3; i++) {
        struct disk_config c = config(names[i], 1);
        assert_int_equal(state_save_disk(d->path, &c, NULL, &e), 0);
        disk_config_free(&c);
    }
    struct disk_config c = config("a", 7); /* again, changed */
    assert_int_equal(state_save_disk(d->path, &c, json_integer(5), &e), 0);
    disk_config_free(&c);
    assert_int_equal(state_remove_disk(d->path, "c", &e), 0);
    assert_int_equal(state_remove_disk(d->path, "c", &e), 0);
    struct found f = {0};
    assert_int_equal(state_load_disks(d->path, found, &f, &e), 0);
    assert_string_equal(f.names, "a b ");
    assert_int_equal(f.images, 5);
    char path[256];
    struct stat st;
    snprintf(path, sizeof path, "%s/disks/a.json", d->path);
    assert_return_code(stat(path, &st), errno);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void damaged(void **state)
{
    const struct dir *d = *state;
    struct errmsg e;
    struct disk_config c = config("good", 2);
    assert_int_equal(state_save_disk(d->path, &c, NULL, &e), 0);
    disk_config_free(&c);
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "{}",
                                      "{\"version\":1}",
                                      "{\"version\":\"1\",\"disk\":{}}",
                                      "{\"version\":1,\"disk\":[]}",
                                      "{\"version\":1,\"disk\":{\"name\":\"bad\"}}",
                                      "{\"version\":0,\"disk\":{}}",
                                      "{\"version\":1,\"version\":1,\"disk\":{}}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put(d, "bad.json", bad[i]);
        struct found f = {0};
        assert_int_equal(state_load_disks(d->path, found, &f, &e), 1);
        assert_string_equal(f.names, "good ");
        char aside[32];
        snprintf(aside, sizeof aside, "bad.json.bad-%zu", i + 1);
        assert_false(there(d, "bad.json"));
        assert_true(there(d, aside));
    }
    put(d, "newer.json", "{\"version\":2,\"disk\":{\"name\":\"newer\",\"shape\":\"round\"}}");
    struct found f = {0};
    assert_int_equal(state_load_disks(d->path, found, &f, &e), 1);
    assert_true(there(d, "newer.json"));
}

/* A process that is killed while it saves, over and over: what is read is the old or the new, always whole. */
static void killed_while_saving(void **state)
{
    const struct dir *d = *state;
    struct errmsg e;
    struct disk_config c = config("a", 1);
    assert_int_equal(state_save_disk(d->path, &c, NULL, &e), 0);
    for (unsigned round = 0; round < 30; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            for (;;) {
                c.queues = c.queues % 64 + 1;
                state_save_disk(d->path, &c, NULL, &e);
            }
        }
        usleep(500 + 137 * round);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        struct found f = {0};
        assert_int_equal(state_load_disks(d->path, found, &f, &e), 0);
        assert_string_equal(f.names, "a ");
        assert_in_range(f.queues, 1, 64);
    }
    disk_config_free(&c);
}

static void no_room(void **state)
{
    const struct dir *d = *state;
    struct errmsg e;
    char path[256];
    struct disk_config c = config("a", 1);
    snprintf(path, sizeof path, "%s/disks/a.json.tmp", d->path);
    assert_return_code(mkdir(path, 0700), errno);
    assert_int_equal(state_save_disk(d->path, &c, NULL, &e), -EISDIR);
    assert_non_null(strstr(e.text, "a.json.tmp"));
    assert_int_equal(state_save_disk("/nowhere", &c, NULL, &e), -ENOENT);
    disk_config_free(&c);
}

static void cache_settings(void **state)
{
    const struct dir *d = *state;
    struct errmsg e;
    struct cache_settings s = {.enabled = true, .budget_bytes = 5};
    assert_int_equal(state_load_cache(d->path, &s), -ENOENT);
    assert_int_equal(s.budget_bytes, 5);
    s = (struct cache_settings){.enabled = false, .budget_bytes = UINT64_C(40) << 30};
    assert_int_equal(state_save_cache(d->path, &s, &e), 0);
    struct cache_settings got = {0};
    assert_int_equal(state_load_cache(d->path, &got), 0);
    assert_true(got.budget_bytes == s.budget_bytes && !got.enabled);
    assert_false(got.huge_pages);
    s.budget_bytes = 0;
    s.huge_pages = true;
    assert_int_equal(state_save_cache(d->path, &s, &e), 0);
    assert_int_equal(state_load_cache(d->path, &got), 0);
    assert_true(got.budget_bytes == 0 && got.huge_pages);
}

int main(void)
{
    log_setup("state_test", (enum log_level)0); /* what is set aside is reported; not here */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(save_and_load, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(killed_while_saving, setup, teardown),
        cmocka_unit_test_setup_teardown(no_room, setup, teardown),
        cmocka_unit_test_setup_teardown(cache_settings, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
