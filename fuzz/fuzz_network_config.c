/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parameters of bridges, ports and cards, as an operator or a damaged file of saved networks may have them. What is accepted must be
 * accepted again, unchanged (it is saved, and told to every switch), and fit a message of the link.
 *
 * Input: a byte that chooses the reader, then JSON text; for changes the text is an array of a configuration and changes of it.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "control/link.h"
#include "control/network_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void accepted(enum network_kind kind, json_t *config)
{
    json_t *again = NULL;
    struct field_error why = {0};
    assert(network_config_parse(&again, kind, config, "", &why) == 0);
    assert(json_equal(config, again));
    assert(network_name_valid(json_string_value(json_object_get(config, "name"))));
    json_decref(again);
    json_decref(config);
}

static void parse(enum network_kind kind, json_t *o)
{
    json_t *config;
    struct field_error why = {0};
    if (network_config_parse(&config, kind, o, "params", &why) == 0) accepted(kind, config);
    else assert(why.failed && why.message[0]);
}

static void change(enum network_kind kind, json_t *pair)
{
    json_t *config, *changed, *before = json_array_get(pair, 0);
    struct field_error why = {0};
    if (network_config_parse(&config, kind, before, "", &why) < 0) return;
    if (network_config_change(&changed, kind, config, json_array_get(pair, 1), "params", &why) == 0)
        accepted(kind, changed);
    json_decref(config);
}

static void options(json_t *o)
{
    json_t *checked = NULL, *again = NULL;
    struct field_error why = {0};
    if (network_options_parse(&checked, o, "", &why) < 0) return;
    assert(network_options_parse(&again, checked, "", &why) == 0 && json_equal(checked, again));
    json_decref(again);
    json_decref(checked);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    json_t *o = json_loadb((const char *)data + 1, size - 1, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!o) return 0;
    switch (data[0] % 6) {
    case 0: parse(NETWORK_BRIDGE, o); break;
    case 1: parse(NETWORK_PORT, o); break;
    case 2: parse(NETWORK_VIF, o); break;
    case 3: change(NETWORK_PORT, o); break;
    case 4: change(NETWORK_VIF, o); break;
    default: options(o);
    }
    json_decref(o);
    return 0;
}
