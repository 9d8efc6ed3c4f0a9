/* SPDX-License-Identifier: Apache-2.0 */
/* What xl lets a person say of disks and cards: everything that is meant, and much that is not. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/xenstore.h"
#include "control/xenstore_params.h"

static void is_json(json_t *got, const char *expected)
{
    char *text = json_dumps(got, JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(text, expected);
    free(text);
}

static void disk_is(const char *params, const char *disk, const char *xen)
{
    struct errmsg e = {""};
    json_t *out = NULL, *x = json_object();
    assert_int_equal(xenstore_params_disk(&out, x, params, &e), 0);
    is_json(out, disk);
    is_json(x, xen);
    json_decref(out);
    json_decref(x);
}

static void targets(void **state)
{
    disk_is("raw:/x", "{\"layers\":[{\"format\":\"raw\",\"path\":\"/x\"}]}", "{}");
    disk_is("qcow2:/a,raw:/b:c=d,cache=off,direct=on,queues=4,mode=map",
            "{\"cache\":false,\"layers\":[{\"direct\":true,\"format\":\"qcow2\",\"path\":\"/"
            "a\"},{\"format\":\"raw\",\"path\":\"/"
            "b:c=d\"}],\"queues\":4}",
            "{\"mode\":\"map\"}");
    disk_is("raw:/x,discard=off", "{\"layers\":[{\"format\":\"raw\",\"path\":\"/x\"}]}", "{\"discard\":false}");
    disk_is("raw:/a\\,b\\\\c\\d,name=x",
            "{\"layers\":[{\"format\":\"raw\",\"path\":\"/a,b\\\\c\\\\d\"}],\"name\":\"x\"}", "{}");
}

static void no_targets(void **state)
{
    static const char *const bad[] = {
        "",
        "/dev/sda",
        "raw",
        ",",
        "raw:/x,",
        "raw:/x,,name=y",
        "vhd:/x",
        ":/x",
        "=",
        "cache=on",
        "raw:/x,cache=1",
        "raw:/x,foo=1",
        "queues=x,raw:/x",
        "queues=-1,raw:/x",
        "queues=99999999999,raw:/x",
        "qcow2:/\xff,raw:/base", /* else the base would be the leaf */
        "qcow2:/leaf,raw:/\xff",
        "name=\xff,raw:/x",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct errmsg e = {""};
        json_t *out = NULL, *x = json_object();
        if (strcmp(bad[i], "raw:/x,") == 0) { /* a comma at the end is forgiven, as xl does */
            assert_int_equal(xenstore_params_disk(&out, x, bad[i], &e), 0);
            json_decref(out);
        } else {
            assert_int_equal(xenstore_params_disk(&out, x, bad[i], &e), -EINVAL);
            assert_true(e.text[0]);
        }
        json_decref(x);
    }
    char long_text[XENSTORE_VALUE_MAX + 8];
    memset(long_text, 'x', sizeof long_text);
    long_text[sizeof long_text - 1] = 0;
    json_t *out, *x = json_object();
    assert_int_equal(xenstore_params_disk(&out, x, long_text, NULL), -E2BIG);
    json_decref(x);
}

static void card_is(int (*parse)(json_t *, const char *, struct errmsg *), const char *text, int ret,
                    const char *expected)
{
    struct errmsg e = {""};
    json_t *card = json_object();
    assert_int_equal(parse(card, text, &e), ret);
    if (ret == 0) is_json(card, expected);
    else assert_true(e.text[0]);
    json_decref(card);
}

static void bridges(void **state)
{
    card_is(xenstore_params_bridge, "br0", 0, "{\"bridge\":\"br0\"}");
    card_is(xenstore_params_bridge, "br.a", 0, "{\"bridge\":\"br.a\"}");
    card_is(xenstore_params_bridge, "br.a.7", 0, "{\"bridge\":\"br.a\",\"tag\":7,\"vlan_mode\":\"access\"}");
    card_is(xenstore_params_bridge, "br0:1:20", 0, "{\"bridge\":\"br0\",\"trunks\":[1,20]}");
    card_is(xenstore_params_bridge, "br0.5:20", 0,
            "{\"bridge\":\"br0\",\"tag\":5,\"trunks\":[20],\"vlan_mode\":\"native-untagged\"}");
    card_is(xenstore_params_bridge, "br0:", -EINVAL, NULL);
    card_is(xenstore_params_bridge, "br\xff", -EINVAL, NULL);
    card_is(xenstore_params_bridge, "br0:4096", -EINVAL, NULL);
    card_is(xenstore_params_bridge, "br0:1:x", -EINVAL, NULL);
    card_is(xenstore_params_bridge, "a-name-of-a-bridge-that-is-longer-than-can-be", -EINVAL, NULL);
}

static void rates(void **state)
{
    card_is(xenstore_params_rate, "1250000,50000", 0, "{\"rate_in\":{\"bits_per_s\":200000000}}");
    card_is(xenstore_params_rate, "1,4294967295", 0, "{\"rate_in\":{\"bits_per_s\":1}}");
    card_is(xenstore_params_rate, "0,50000", 0, "{}");
    card_is(xenstore_params_rate, "999999999999999999,1", 0, "{}");
    static const char *const bad[] = {"", "1", "1,", ",1", "1,0", "a,b", "-1,1", "1,1,1", "1 ,1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        card_is(xenstore_params_rate, bad[i], -EINVAL, NULL);
}

static void addresses(void **state)
{
    card_is(xenstore_params_addresses, "10.0.0.1  ::1/64 ", 0, "{\"allowed_ips\":[\"10.0.0.1\",\"::1/64\"]}");
    card_is(xenstore_params_addresses, "", 0, "{}");
    card_is(xenstore_params_addresses, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            -EINVAL, NULL);
    card_is(xenstore_params_addresses, "\xff", -EINVAL, NULL);
    card_is(xenstore_params_addresses, "10.0.0.1 \xff", -EINVAL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(targets), cmocka_unit_test(no_targets), cmocka_unit_test(bridges),
        cmocka_unit_test(rates),   cmocka_unit_test(addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
