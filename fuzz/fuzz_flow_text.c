/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flow texts, and groups' and meters', from anybody. input: a byte that says how it is read, then the text. Whatever is taken, and is right by
 * flow_check(), is written in a form that is read as the same flow and written the same way.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "switch/flow.h"
#include "switch/group.h"
#include "switch/guard.h"
#include "switch/meter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) abort();
}

static bool port_number(void *arg, const char *name, size_t length, uint32_t *number)
{
    *number = 5;
    return length == 4 && memcmp(name, "tap0", 4) == 0;
}

static const char *port_name(void *arg, uint32_t number)
{
    return number == 5 ? "tap0" : number == 6 ? "a,b" : NULL;
}

static const struct flow_names names = {.port_number = port_number, .port_name = port_name};

static char *written(const struct flow_spec *f)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    check(out);
    flow_format_all(out, f, &names);
    fclose(out);
    return text;
}

static void check_round_trip(const struct flow_spec *f, enum flow_parse how)
{
    struct flow_spec again;
    struct errmsg e;
    char *first = written(f);
    check(flow_parse(&again, first, how, &names, &e) == 0);
    check(memcmp(&f->match, &again.match, sizeof again.match) == 0);
    check(instructions_equal(&f->instructions, &again.instructions));
    check(f->table == again.table && f->priority == again.priority && f->cookie == again.cookie);
    check(f->flags == again.flags && f->cookie_mask == again.cookie_mask);
    char *second = written(&again);
    check(strcmp(first, second) == 0);
    instructions_clear(&again.instructions);
    free(first);
    free(second);
}

static void as_flow(const char *text, enum flow_parse how)
{
    struct flow_spec f;
    struct errmsg e;
    if (flow_parse(&f, text, how, &names, &e)) return;
    if (how <= FLOW_PARSE_MOD && flow_check(&f, &e) == 0) check_round_trip(&f, how);
    instructions_clear(&f.instructions);
}

static char *group_written(const struct group_spec *g)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    check(out);
    group_format(out, g, &names);
    fclose(out);
    return text;
}

/* A group, whose buckets flow_check_bucket() likes, is read back as it was written. */
static void as_group(const char *text)
{
    struct group_spec g, again;
    struct errmsg e;
    bool right = true;
    if (group_parse(&g, text, &names, &e)) return;
    for (unsigned i = 0; i < g.count && right; i++)
        right = flow_check_bucket(&g.buckets[i].actions, NULL, &e) == 0;
    if (right) {
        char *first = group_written(&g);
        check(group_parse(&again, first, &names, &e) == 0);
        check(again.id == g.id && again.type == g.type && again.count == g.count);
        for (unsigned i = 0; i < g.count; i++)
            check(again.buckets[i].weight == g.buckets[i].weight);
        char *second = group_written(&again);
        check(strcmp(first, second) == 0);
        group_spec_clear(&again);
        free(first);
        free(second);
    }
    group_spec_clear(&g);
}

static void as_meter(const char *text)
{
    struct meter_spec m, again;
    struct errmsg e;
    char first[4096], second[4096];
    if (meter_parse(&m, text, &e)) return;
    FILE *out = fmemopen(first, sizeof first, "w");
    check(out);
    meter_format(out, &m);
    fclose(out);
    check(meter_parse(&again, first, &e) == 0 && memcmp(&m, &again, sizeof m) == 0);
    out = fmemopen(second, sizeof second, "w");
    check(out);
    meter_format(out, &again);
    fclose(out);
    check(strcmp(first, second) == 0);
}

/* A packet, and what the guard of a port that its text also describes says to it. */
static void as_packet(const char *text)
{
    struct flow_key k, used = {0}, other, again = {0};
    struct errmsg e;
    struct guard_config c = {0};
    struct guard *g;
    if (flow_parse_key(&k, text, &names, &e)) return;
    memcpy(c.mac[0], k.eth_src, 6);
    c.mac[0][5] ^= k.eth_dst[0];
    c.macs = 1;
    c.prefix[0] = (struct guard_prefix){.length = k.eth_dst[1] % 33};
    memcpy(c.prefix[0].address, &k.ipv4_src, 4);
    c.prefix[1] = (struct guard_prefix){.ipv6 = true, .length = k.eth_dst[2] % 129};
    memcpy(c.prefix[1].address, k.ipv6_src, 16);
    c.prefixes = k.eth_dst[3] % 3;
    if (guard_new(&g, &c, &e)) return;
    bool allowed = guard_allows(g, &k, &used);
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        other.words[i] = k.words[i] ^ ~used.words[i];
    check(guard_allows(g, &other, &again) == allowed);
    guard_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    char *text = malloc(size);
    check(text);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    unsigned how = data[0] % 7;
    if (how < 4) as_flow(text, (enum flow_parse)how);
    else if (how == 4) as_packet(text);
    else if (how == 6) as_meter(text);
    else as_group(text);
    free(text);
    return 0;
}
