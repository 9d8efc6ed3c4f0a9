/* SPDX-License-Identifier: Apache-2.0 */
/* What bridges, ports and cards may be: what is given is kept as it is, and every field refuses what it cannot be. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "control/network_config.h"
#include "switch/switch.h"

static const char *const full[NETWORK_KINDS] = {
    "{\"name\":\"br-0.x\",\"fail_mode\":\"secure\",\"mac_ageing_s\":60,\"probe_s\":5,\"datapath_id\":\"0x00AF\","
    "\"controllers\":[{\"target\":\"tcp:192.0.2.1\"},{\"target\":\"pssl:7000:[::1]\",\"name\":\"two\"}]}",
    "{\"bridge\":\"b\",\"name\":\"eth0.100\",\"type\":\"af_xdp\",\"device\":\"eth0.100\",\"number\":7,\"queues\":4,"
    "\"vlan_mode\":\"native-tagged\",\"tag\":5,\"trunks\":[0,5,\"100-199\",4095],\"mtu\":9000,\"gro\":false}",
    "{\"bridge\":\"b\",\"name\":\"v\",\"mac\":\"02:00:00:00:aa:FF\",\"mtu\":68,\"queues\":16,\"number\":4294967039,"
    "\"socket\":\"/run/v.sock\",\"packed\":false,\"in_order\":false,\"offloads\":true,\"link\":\"down\",\"tag\":4094,"
    "\"rate_in\":{\"bits_per_s\":1000000000},\"rate_out\":{\"packets_per_s\":1,\"bits_per_s\":0},"
    "\"allowed_macs\":[\"02:00:00:00:aa:ff\"],\"allowed_ips\":[\"10.0.0.5\",\"10.0.0.0/8\",\"::1\",\"fe80::/10\"]}",
};

static json_t *load(const char *text)
{
    json_t *o = json_loads(text, 0, NULL);
    assert_non_null(o);
    return o;
}

static int parse(enum network_kind kind, json_t *o, struct field_error *why)
{
    json_t *out;
    *why = (struct field_error){0};
    int ret = network_config_parse(&out, kind, o, "params", why);
    if (ret == 0) json_decref(out);
    return ret;
}

static void what_is_given_is_kept(void **state)
{
    for (enum network_kind kind = 0; kind < NETWORK_KINDS; kind++) {
        json_t *o = load(full[kind]), *out;
        struct field_error why = {0};
        json_object_set_new(o, "mtu_", json_null());
        json_object_del(o, "mtu_");
        assert_int_equal(network_config_parse(&out, kind, o, "", &why), 0);
        assert_true(json_equal(o, out));
        json_decref(out);
        json_decref(o);
    }
    json_t *o = load("{\"name\":\"b\",\"fail_mode\":null}"), *out;
    struct field_error why = {0};
    assert_int_equal(network_config_parse(&out, NETWORK_BRIDGE, o, "", &why), 0);
    assert_int_equal(json_object_size(out), 1);
    json_decref(out);
    json_decref(o);
}

static void controllers_are_checked(void **state)
{
    static const char *const bad[] = {
        "{\"name\":\"b\",\"datapath_id\":\"0000\"}",
        "{\"name\":\"b\",\"datapath_id\":\"12345678901234567\"}",
        "{\"name\":\"b\",\"datapath_id\":\"0x1g\"}",
        "{\"name\":\"b\",\"controllers\":[{}]}",
        "{\"name\":\"b\",\"controllers\":[{\"target\":\"tcp:host\"}]}",
        "{\"name\":\"b\",\"controllers\":[{\"target\":\"tcp:1.2.3.4\",\"more\":1}]}",
        "{\"name\":\"b\",\"controllers\":[{\"target\":\"tcp:1.2.3.4\",\"name\":\"a b\"}]}",
        "{\"name\":\"b\",\"controllers\":[{\"target\":\"tcp:1.2.3.4\"},{\"target\":\"tcp:1.2.3.4\"}]}",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct field_error why;
        json_t *o = load(bad[i]);
        assert_int_equal(parse(NETWORK_BRIDGE, o, &why), -EINVAL);
        json_decref(o);
    }
}

/* Every field of every kind, with every wrong type. */
static void wrong_types(void **state)
{
    static const char *const wrong[] = {"{}", "[[]]", "[5.5]", "\"?\"",  "\"\"",
                                        "-1", "1e9",  "true",  "[true]", "18446744073709551615"};
    for (enum network_kind kind = 0; kind < NETWORK_KINDS; kind++) {
        json_t *whole = load(full[kind]), *value;
        const char *key;
        json_object_foreach(whole, key, value)
        {
            for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
                struct field_error why;
                json_t *o = json_deep_copy(whole), *bad = json_loads(wrong[i], JSON_DECODE_ANY, NULL);
                if (!bad) bad = json_real(1e19); /* past 64 bits */
                bool fits = json_is_boolean(value) && json_is_boolean(bad);
                fits |= strcmp(key, "device") == 0 &&
                        strcmp(wrong[i], "\"?\"") == 0; /* strange, but the kernel's to refuse */
                fits |= strncmp(key, "rate_", 5) == 0 && json_is_object(bad);
                json_object_set_new(o, key, bad);
                int ret = parse(kind, o, &why);
                if (ret == 0 && !fits) fail_msg("%s: %s is taken", key, wrong[i]);
                if (ret < 0) assert_non_null(strstr(why.message, key));
                json_decref(o);
            }
        }
        json_decref(whole);
    }
}

struct one {
    enum network_kind kind;
    const char *key, *value;
    bool good;
};

static const struct one ones[] = {
    {NETWORK_BRIDGE, "name", "\"a\"", true},
    {NETWORK_BRIDGE, "name", "\"0a\"", true},
    {NETWORK_BRIDGE, "name", "\"10\"", false},
    {NETWORK_BRIDGE, "name", "\"Flood\"", false},
    {NETWORK_BRIDGE, "name", "\"..\"", false},
    {NETWORK_BRIDGE, "name", "\"a/b\"", false},
    {NETWORK_BRIDGE, "name", "\"1234567890123456789012345678901\"", false},
    {NETWORK_BRIDGE, "name", "\"a234567890123456789012345678901\"", true},
    {NETWORK_BRIDGE, "name", "\"a2345678901234567890123456789012\"", false},
    {NETWORK_BRIDGE, "mac_ageing_s", "0", false},
    {NETWORK_BRIDGE, "probe_s", "0", false},
    {NETWORK_BRIDGE, "probe_s", "3601", false},
    {NETWORK_BRIDGE, "number", "1", false},
    {NETWORK_PORT, "device", "\"a234567890123456\"", false},
    {NETWORK_PORT, "device", "\"..\"", false},
    {NETWORK_PORT, "device", "\"a/b\"", false},
    {NETWORK_PORT, "mac", "\"02:00:00:00:00:01\"", false},
    {NETWORK_PORT, "trunks", "[]", true},
    {NETWORK_PORT, "trunks", "[4096]", false},
    {NETWORK_PORT, "trunks", "[\"1-4096\"]", false},
    {NETWORK_PORT, "trunks", "[\"5-1\"]", false},
    {NETWORK_PORT, "trunks", "[\"1-5x\"]", false},
    {NETWORK_PORT, "trunks", "[\"1-\"]", false},
    {NETWORK_PORT, "trunks", "[\" 1-5\"]", false},
    {NETWORK_PORT, "trunks", "[\"1--5\"]", false},
    {NETWORK_PORT, "trunks", "[\"1- 5\"]", false},
    {NETWORK_PORT, "tag", "0", false},
    {NETWORK_PORT, "tag", "4095", false},
    {NETWORK_PORT, "number", "4294967040", false},
    {NETWORK_VIF, "mac", "\"02:00:00:00:00:0g\"", false},
    {NETWORK_VIF, "mac", "\"0200:00:00:00:001\"", false},
    {NETWORK_VIF, "mac", "\"00:00:00:00:00:00\"", false},
    {NETWORK_VIF, "mac", "\"ff:ff:ff:ff:ff:ff\"", false},
    {NETWORK_VIF, "mac", "\"02:00:00:00:00:01:\"", false},
    {NETWORK_VIF, "mac", "\"02:00:00:00:00::1\"", false},
    {NETWORK_VIF, "allowed_ips", "[]", true},
    {NETWORK_VIF, "allowed_ips", "[\"10.0.0.256\"]", false},
    {NETWORK_VIF, "allowed_ips", "[\"10.0.0.0/33\"]", false},
    {NETWORK_VIF, "allowed_ips", "[\"10.0.0.0/\"]", false},
    {NETWORK_VIF, "allowed_ips", "[\"10.0.0.0/+8\"]", false},
    {NETWORK_VIF, "allowed_ips", "[\"10.0.0.0/8/8\"]", false},
    {NETWORK_VIF, "allowed_ips", "[\"::/129\"]", false},
    {NETWORK_VIF, "allowed_ips", "[\"::ffff:10.0.0.1/128\"]", true},
    {NETWORK_VIF, "allowed_ips", "[\"1234567890123456789012345678901234567890123456789\"]", false},
    {NETWORK_VIF, "allowed_macs", "[\"01:00:00:00:00:00\"]", false},
    {NETWORK_VIF, "rate_in", "{\"bits_per_s\":-1}", false},
    {NETWORK_VIF, "rate_in", "{\"bytes_per_s\":1}", false},
    {NETWORK_VIF, "socket", "\"v.sock\"", false},
    {NETWORK_VIF, "announce", "true", false},
};

static void values(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(ones); i++) {
        struct field_error why;
        json_t *o = load(full[ones[i].kind]);
        json_object_set_new(o, ones[i].key, json_loads(ones[i].value, JSON_DECODE_ANY, NULL));
        if ((parse(ones[i].kind, o, &why) == 0) != ones[i].good)
            fail_msg("%s: %s: %s", ones[i].key, ones[i].value, why.message);
        json_decref(o);
    }
}

static void too_many_addresses(void **state)
{
    static const struct {
        const char *key, *address;
        unsigned max;
    } lists[] = {{"allowed_ips", "10.0.0.1", NETWORK_ALLOWED_IPS_MAX},
                 {"allowed_macs", "02:00:00:00:00:01", NETWORK_ALLOWED_MACS_MAX}};
    struct field_error why;
    for (size_t k = 0; k < ARRAY_LEN(lists); k++) {
        json_t *o = load(full[NETWORK_VIF]), *list = json_array();
        for (unsigned i = 0; i < lists[k].max; i++)
            json_array_append_new(list, json_string(lists[k].address));
        json_object_set(o, lists[k].key, list);
        assert_int_equal(parse(NETWORK_VIF, o, &why), 0);
        json_array_append_new(list, json_string(lists[k].address));
        assert_int_equal(parse(NETWORK_VIF, o, &why), -EINVAL);
        json_decref(list);
        json_decref(o);
    }
}

static void changes(void **state)
{
    json_t *config = load(full[NETWORK_VIF]), *before = json_deep_copy(config), *out;
    json_t *good =
        load("{\"name\":\"v\",\"bridge\":null,\"mtu\":1400,\"link\":\"up\",\"allowed_ips\":[],\"announce\":true}");
    struct field_error why = {0};
    assert_int_equal(network_config_change(&out, NETWORK_VIF, config, good, "params", &why), 0);
    assert_int_equal(json_integer_value(json_object_get(out, "mtu")), 1400);
    assert_int_equal(json_array_size(json_object_get(out, "allowed_ips")), 0);
    assert_string_equal(json_string_value(json_object_get(out, "bridge")), "b");
    assert_null(json_object_get(out, "announce"));
    assert_true(json_equal(config, before));
    json_decref(out);
    static const char *const wrong[] = {"{\"queues\":2}",   "{\"socket\":\"/x\"}", "{\"number\":2}", "{\"mtu\":1}",
                                        "{\"announce\":1}", "{\"nonsense\":1}",    "{\"tag\":\"5\"}"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        json_t *o = load(wrong[i]);
        why = (struct field_error){0};
        assert_int_equal(network_config_change(&out, NETWORK_VIF, config, o, "params", &why), -EINVAL);
        json_decref(o);
    }
    assert_true(json_equal(config, before));
    json_decref(good);
    json_decref(before);
    json_decref(config);
}

static void options(void **state)
{
    static const struct {
        const char *text;
        bool good;
    } list[] = {
        {"{}", true},
        {"{\"flows\":\"exact\",\"exact_max\":1,\"emc\":8192,\"poll_us\":\"always\",\"gro\":false,\"tx\":\"copy\"}",
         true},
        {"{\"poll_us\":0,\"megaflows_max\":65536,\"masks_max\":32,\"vif_threads\":2,\"emc\":0}", true},
        {"{\"exact_max\":1000000,\"megaflows_max\":1000000,\"masks_max\":65536,\"vif_threads\":256}", true},
        {"{\"megaflows_max\":1,\"masks_max\":1,\"vif_threads\":0,\"emc\":2}", true},
        {"{\"emc\":16777216}", true},
        {"{\"exact_max\":1000001}", false},
        {"{\"exact_max\":2000000}", false},
        {"{\"megaflows_max\":0}", false},
        {"{\"megaflows_max\":1000001}", false},
        {"{\"masks_max\":0}", false},
        {"{\"masks_max\":65537}", false},
        {"{\"vif_threads\":257}", false},
        {"{\"emc\":1}", false},
        {"{\"emc\":33554432}", false},
        {"{\"flows\":\"fast\"}", false},
        {"{\"emc\":3}", false},
        {"{\"poll_us\":\"never\"}", false},
        {"{\"poll_us\":1000001}", false},
        {"{\"exact_max\":0}", false},
        {"{\"tx\":1}", false},
        {"[]", false},
        {"{\"huge\":true}", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        json_t *o = load(list[i].text), *out = NULL;
        struct field_error why = {0};
        int ret = network_options_parse(&out, o, "switch", &why);
        if ((ret == 0) != list[i].good) fail_msg("%s: %s", list[i].text, why.message);
        if (ret == 0) assert_true(json_equal(o, out));
        json_decref(out);
        json_decref(o);
    }
}

/* What is saved is what the switch is started with, again and again: each accepted value must be one that it takes. */
static bool accepted(const char *key, uint64_t value)
{
    json_t *o = json_pack("{s:I}", key, (json_int_t)value), *out = NULL;
    struct field_error why = {0};
    bool good = network_options_parse(&out, o, "switch", &why) == 0;
    json_decref(out);
    json_decref(o);
    return good;
}

static void the_switch_takes_what_is_accepted(void **state)
{
    static const uint64_t values[] = {0,      1,       2,       3,        64,      65535,    65536,
                                      999999, 1000000, 1000001, 1u << 20, 2000000, 1u << 24, 1u << 25};
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        struct switch_config c[4];
        for (size_t j = 0; j < ARRAY_LEN(c); j++)
            switch_config_default(&c[j]);
        c[0].exact_max = c[1].megaflows_max = c[2].masks_max = c[3].emc_entries = (unsigned)values[i];
        static const char *const keys[] = {"exact_max", "megaflows_max", "masks_max", "emc"};
        for (size_t j = 0; j < ARRAY_LEN(c); j++) {
            if (!accepted(keys[j], values[i])) continue;
            struct net_switch *s;
            if (switch_new(&s, &c[j])) fail_msg("%s: the switch refuses %u", keys[j], (unsigned)values[i]);
            switch_free(s);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_given_is_kept),
        cmocka_unit_test(controllers_are_checked),
        cmocka_unit_test(wrong_types),
        cmocka_unit_test(values),
        cmocka_unit_test(too_many_addresses),
        cmocka_unit_test(changes),
        cmocka_unit_test(options),
        cmocka_unit_test(the_switch_takes_what_is_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
