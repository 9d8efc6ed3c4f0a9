/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a toolstack writes of a Xen guest's disk or card, as a person typed it. What is accepted names every image that was named, in that
 * order, and an address for every one that was given: nothing is left out without a word. And it goes on to the readers of disks and
 * cards, as in the daemon.
 *
 * Input: a byte that chooses the reader, then the text.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "control/disk_config.h"
#include "control/network_config.h"
#include "control/xenstore.h"
#include "control/xenstore_params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Items whose first mark is a colon. */
static size_t images_in(const char *text)
{
    size_t count = 0;
    bool fresh = true;
    for (; *text; text++) {
        if (*text == '\\' && (text[1] == ',' || text[1] == '\\')) text++;
        else if (*text == ',') fresh = true;
        else if (fresh && (*text == ':' || *text == '=')) count += *text == ':', fresh = false;
    }
    return count;
}

static size_t words_in(const char *text)
{
    size_t count = 0;
    while (*(text += strspn(text, " "))) {
        count++;
        text += strcspn(text, " ");
    }
    return count;
}

static void read_disk(const char *text)
{
    struct errmsg e = {""};
    struct field_error why = {0};
    struct disk_config c;
    json_t *disk = NULL, *xen = json_pack("{s:i}", "domid", 7);
    if (xenstore_params_disk(&disk, xen, text, &e) == 0) {
        json_t *layers = json_object_get(disk, "layers"), *layer;
        size_t i;
        assert(json_array_size(layers) == images_in(text));
        json_array_foreach(layers, i, layer) assert(json_string_value(json_object_get(layer, "path")));
        if (!json_object_get(disk, "name")) json_object_set_new(disk, "name", json_string("x"));
        json_object_set(disk, "xen", xen);
        if (disk_config_parse(&c, disk, "target", &why) == 0) disk_config_free(&c);
        else assert(why.message[0]);
        json_decref(disk);
    } else {
        assert(e.text[0]);
    }
    json_decref(xen);
}

static void read_card(int (*parse)(json_t *card, const char *text, struct errmsg *e), const char *text)
{
    struct errmsg e = {""};
    struct field_error why = {0};
    json_t *config = NULL, *card = json_pack("{s:s, s:{s:i}}", "name", "x", "xen", "domid", 7);
    if (parse(card, text, &e) == 0) {
        if (parse == xenstore_params_addresses)
            assert(json_array_size(json_object_get(card, "allowed_ips")) == words_in(text));
        if (parse == xenstore_params_bridge) assert(json_object_get(card, "bridge"));
        if (network_config_parse(&config, NETWORK_VIF, card, "vif", &why) == 0) json_decref(config);
        else assert(why.message[0]);
    } else {
        assert(e.text[0]);
    }
    json_decref(card);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[2 * XENSTORE_VALUE_MAX];
    if (size < 1 || size > sizeof text) return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    switch (data[0] % 4) {
    case 0: read_disk(text); break;
    case 1: read_card(xenstore_params_bridge, text); break;
    case 2: read_card(xenstore_params_rate, text); break;
    default: read_card(xenstore_params_addresses, text);
    }
    return 0;
}
