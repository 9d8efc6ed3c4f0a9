/* SPDX-License-Identifier: Apache-2.0 */
/* Configurations: defaults, round trips, and every field given every wrong type and value. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/disk_config.h"

#define FULL                                                                                                           \
    "{\"name\":\"d-1.x\",\"queues\":4,\"queue_size\":256,\"sector_bytes\":4096,\"read_only\":true,"                    \
    "\"write_cache\":\"writethrough\",\"serial\":\"S 1\",\"seg_max\":64,\"size_max\":65536,\"packed\":true,"           \
    "\"poll_us\":0,\"datapath\":\"staged\",\"cache\":false,\"size_check\":true,\"socket\":\"/run/x.sock\","            \
    "\"layers\":[{\"format\":\"qcow2\",\"path\":\"/a\",\"direct\":true},{\"format\":\"raw\",\"path\":\"/"              \
    "b\",\"direct\":false}]}"

static json_t *load(const char *text)
{
    json_t *o = json_loads(text, 0, NULL);
    assert_non_null(o);
    return o;
}

static void defaults(void **state)
{
    json_t *o = load("{\"name\":\"a-name-longer-than-any-serial\",\"layers\":[{\"format\":\"raw\",\"path\":\"/x\"}]}");
    struct disk_config c;
    struct field_error why = {0};
    assert_int_equal(disk_config_parse(&c, o, "params", &why), 0);
    assert_int_equal(c.queues, 1);
    assert_int_equal(c.queue_size, 1024);
    assert_int_equal(c.sector_bytes, 512);
    assert_string_equal(c.serial, "a-name-longer-than-a");
    assert_true(c.cache);
    assert_false(c.packed);
    assert_null(c.socket_path);
    assert_int_equal(c.layers[0].direct, DISK_DIRECT_AUTO);
    disk_config_free(&c);
    json_decref(o);
}

#define XEN(more) "{\"name\":\"x\",\"layers\":[{\"format\":\"raw\",\"path\":\"/x\"}],\"xen\":{" more "}}"

static void of_a_xen_guest(void **state)
{
    json_t *o =
        load(XEN("\"domid\":7,\"mode\":\"copy\",\"cdrom\":true,\"discard\":false,\"offered\":{\"sectors\":\"8\"},"
                 "\"backend\":\"backend/vbd/7/51712\",\"identity\":\"/vm/1\",\"connection\":{\"rings\":[]}"));
    struct disk_config c, again;
    struct field_error why = {0};
    assert_int_equal(disk_config_parse(&c, o, "", &why), 0);
    assert_true(c.xen.used && c.xen.cdrom && !c.xen.discard && c.xen.mode == DISK_XEN_COPY && c.xen.domid == 7);
    json_t *saved = disk_config_json(&c, false);
    assert_int_equal(disk_config_parse(&again, saved, "", &why), 0);
    json_t *xen = json_object_get(saved, "xen"), *worker = disk_config_json(&again, true);
    assert_true(json_equal(xen, json_object_get(o, "xen")));
    xen = json_object_get(worker, "xen");
    assert_int_equal(json_object_size(xen), 5);
    assert_non_null(json_object_get(xen, "offered"));
    json_decref(worker);
    json_decref(saved);
    disk_config_free(&c);
    disk_config_free(&again);
    json_decref(o);
    static const char *const bad[] = {XEN(""),
                                      XEN("\"domid\":32752"),
                                      XEN("\"domid\":1,\"offered\":{\"a\":1}"),
                                      XEN("\"domid\":1,\"offered\":{\"a/b\":\"1\"}"),
                                      XEN("\"domid\":1,\"mode\":\"x\""),
                                      XEN("\"domid\":1,\"what\":1")};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        o = load(bad[i]);
        why = (struct field_error){0};
        assert_int_equal(disk_config_parse(&c, o, "", &why), -EINVAL);
        assert_true(strncmp(why.field, "xen", 3) == 0);
        json_decref(o);
    }
}

static void round_trip(void **state)
{
    json_t *o = load(FULL);
    struct disk_config c, again;
    struct field_error why = {0};
    assert_int_equal(disk_config_parse(&c, o, "", &why), 0);
    json_t *saved = disk_config_json(&c, false);
    assert_true(json_equal(saved, o));
    assert_int_equal(disk_config_parse(&again, saved, "", &why), 0);
    json_t *worker = disk_config_json(&again, true);
    assert_null(json_object_get(worker, "cache"));
    assert_null(json_object_get(worker, "socket"));
    assert_int_equal(json_object_size(worker), 13);
    json_decref(worker);
    json_decref(saved);
    json_decref(o);
    disk_config_free(&c);
    disk_config_free(&again);
}

/* Whatever stands in a field, the answer is yes or an error that names it, never a crash or a leak. */
static void every_field_every_type(void **state)
{
    static const char *const values[] = {"null",  "true",  "false", "0",  "1",  "-1",   "9223372036854775807",
                                         "1.5",   "\"\"",  "\"x\"", "[]", "{}", "[[]]", "[{}]",
                                         "\"/\"", "[null]"};
    json_t *full = load(FULL), *unused;
    const char *key;
    json_object_foreach(full, key, unused)
    {
        for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
            json_t *o = json_deep_copy(full), *value = json_loads(values[i], JSON_DECODE_ANY, NULL);
            json_object_set_new(o, key, value);
            struct disk_config c;
            struct field_error why = {0};
            int ret = disk_config_parse(&c, o, "params", &why);
            if (ret == 0) {
                assert_false(why.failed);
                disk_config_free(&c);
            } else {
                assert_int_equal(ret, -EINVAL);
                assert_non_null(strstr(why.message, key));
                assert_true(why.got[0] && why.expected[0]);
            }
            json_decref(o);
        }
    }
    json_decref(full);
}

static void names(void **state)
{
    static const char *const good[] = {"a", "0", "vm1", "a.b", "a-b_c", "A9"};
    static const char *const bad[] = {"", ".", "..", "-a", "_a", ".a", "a/b", "a b", "a\n", "\xc3\xa4", "a:b", "../a"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_true(disk_name_valid(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(disk_name_valid(bad[i]));
    char longest[DISK_NAME_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[DISK_NAME_MAX] = 0;
    assert_true(disk_name_valid(longest));
    longest[DISK_NAME_MAX] = 'a';
    longest[DISK_NAME_MAX + 1] = 0;
    assert_false(disk_name_valid(longest));
}

static void chains(void **state)
{
    json_t *layers = json_array();
    struct disk_config c;
    for (unsigned i = 0; i <= DISK_CHAIN_MAX; i++) {
        char path[32];
        snprintf(path, sizeof path, "/layer/%u", i);
        json_array_append_new(layers, json_pack("{s:s, s:s}", "format", "qcow2", "path", path));
        struct field_error why = {0};
        json_t *o = json_pack("{s:s, s:O}", "name", "x", "layers", layers);
        int ret = disk_config_parse(&c, o, "", &why);
        assert_int_equal(ret, i < DISK_CHAIN_MAX ? 0 : -EINVAL);
        if (ret == 0) disk_config_free(&c);
        json_decref(o);
    }
    json_decref(layers);
}

static void messages(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"[]", "params: got an array of 0, expected an object"},
        {"{\"name\":\"x\"}", "params.layers: got nothing, expected an array of 1 to 64 entries"},
        {"{\"name\":\"x\",\"layers\":[{\"format\":\"raw\",\"path\":\"a\"}]}",
         "params.layers[0].path: got string \"a\", expected an absolute path"},
        {"{\"name\":\"x\",\"layers\":[{\"format\":\"vhd\",\"path\":\"/a\"}]}",
         "params.layers[0].format: got string \"vhd\", expected \"raw\" or \"qcow2\""},
        {"{\"name\":\"x\",\"colour\":1,\"layers\":[{\"format\":\"raw\",\"path\":\"/a\"}]}",
         "params.colour: got integer 1, expected no such field"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *o = load(cases[i].text);
        struct disk_config c;
        struct field_error why = {0};
        assert_int_equal(disk_config_parse(&c, o, "params", &why), -EINVAL);
        assert_string_equal(why.message, cases[i].message);
        json_decref(o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),       cmocka_unit_test(round_trip),
        cmocka_unit_test(of_a_xen_guest), cmocka_unit_test(every_field_every_type),
        cmocka_unit_test(names),          cmocka_unit_test(chains),
        cmocka_unit_test(messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
