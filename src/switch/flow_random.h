/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: random flows that flow_check() takes, mostly. */
#ifndef SWITCH_FLOW_RANDOM_H
#define SWITCH_FLOW_RANDOM_H

#include "switch/flow.h"

static inline uint64_t random_next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 24;
}

static inline bool random_one_in(uint64_t *seed, unsigned n)
{
    return random_next(seed) % n == 0;
}

static inline struct field_value random_value(enum field_id id, uint64_t *seed)
{
    struct field_value v, all = field_all_ones(id);
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        v.raw[i] = (uint8_t)(random_next(seed) & all.raw[i]);
    return v;
}

static inline struct field_value random_and(struct field_value a, struct field_value b)
{
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        a.raw[i] &= b.raw[i];
    return a;
}

static inline void random_put(struct flow_match *m, enum field_id id, struct field_value v, struct field_value mask)
{
    field_set_masked(&m->key, id, v, mask);
    field_set_masked(&m->mask, id, mask, mask);
}

/* Types and protocols that the syntax knows, then fields; whether they go together flow_check() says. */
static inline struct flow_match random_match(uint64_t *seed)
{
    static const uint16_t types[] = {0x0800, 0x86dd, 0x0806, 0x8035, 0x8847, 0x8848, 0x88e7, 0x1234};
    static const uint8_t protos[] = {1, 6, 17, 58, 132, 47}, icmp_types[] = {135, 136, 8};
    struct flow_match m = {0};
    struct field_value type = field_value_of(types[random_next(seed) % (sizeof types / sizeof types[0])]);
    struct field_value proto = field_value_of(protos[random_next(seed) % (sizeof protos / sizeof protos[0])]);
    struct field_value icmp =
        field_value_of(icmp_types[random_next(seed) % (sizeof icmp_types / sizeof icmp_types[0])]);
    if (!random_one_in(seed, 5)) random_put(&m, FIELD_ETH_TYPE, type, field_all_ones(FIELD_ETH_TYPE));
    if (field_is_ensured(FIELD_IP_PROTO, &m)) random_put(&m, FIELD_IP_PROTO, proto, field_all_ones(FIELD_IP_PROTO));
    if (field_is_ensured(FIELD_ICMPV6_TYPE, &m))
        random_put(&m, FIELD_ICMPV6_TYPE, icmp, field_all_ones(FIELD_ICMPV6_TYPE));
    for (unsigned n = (unsigned)random_next(seed) % 12; n > 0; n--) {
        enum field_id id = (enum field_id)(random_next(seed) % FIELD_COUNT);
        struct field_value all = field_all_ones(id), mask = random_one_in(seed, 2) ? all : random_value(id, seed);
        if (id == FIELD_ETH_TYPE || id == FIELD_IP_PROTO || !field_is_ensured(id, &m)) continue;
        if (!fields[id].maskable) mask = all;
        random_put(&m, id, random_value(id, seed), mask);
    }
    return m;
}

static inline struct action random_action(uint64_t *seed)
{
    static const uint16_t types[] = {0x8100, 0x88a8, 0x8847, 0x8848, 0x88e7, 0x0800};
    static const uint32_t ports[] = {1,
                                     10,
                                     12,
                                     77,
                                     SWITCH_PORT_LOCAL,
                                     SWITCH_PORT_NORMAL,
                                     SWITCH_PORT_FLOOD,
                                     SWITCH_PORT_ALL,
                                     SWITCH_PORT_IN_PORT,
                                     SWITCH_PORT_CONTROLLER,
                                     SWITCH_PORT_MAX};
    struct action a = {.type = (uint8_t)(random_next(seed) % ACTION_TYPES)};
    enum field_id id = (enum field_id)(random_next(seed) % FIELD_COUNT);
    switch ((enum action_type)a.type) {
    case ACTION_OUTPUT:
        a.output.port = ports[random_next(seed) % (sizeof ports / sizeof ports[0])];
        if (a.output.port == SWITCH_PORT_CONTROLLER) a.output.max_len = (uint16_t)random_next(seed);
        break;
    case ACTION_SET_FIELD:
        a.set.field = (uint8_t)id;
        a.set.mask = random_one_in(seed, 2) ? field_all_ones(id) : random_value(id, seed);
        a.set.value = random_and(random_value(id, seed), a.set.mask);
        break;
    case ACTION_MOVE:
        a.move.from = (uint8_t)id;
        a.move.to = (uint8_t)(random_next(seed) % FIELD_COUNT);
        a.move.from_bit = (uint8_t)(random_next(seed) % 32);
        a.move.to_bit = (uint8_t)(random_next(seed) % 32);
        a.move.bits = (uint8_t)(random_next(seed) % 33);
        break;
    case ACTION_RESUBMIT:
        a.resubmit.port = ports[random_next(seed) % (sizeof ports / sizeof ports[0])];
        a.resubmit.table = random_one_in(seed, 2) ? SWITCH_TABLE_ALL : (uint8_t)(random_next(seed) % SWITCH_TABLES);
        break;
    case ACTION_SET_QUEUE: a.queue = (uint32_t)random_next(seed); break;
    case ACTION_SET_NW_TTL:
    case ACTION_SET_MPLS_TTL: a.ttl = (uint8_t)random_next(seed); break;
    default: a.eth_type = types[random_next(seed) % (sizeof types / sizeof types[0])]; break;
    }
    return a;
}

static inline void random_add(struct flow_spec *f, struct action_list *l, unsigned most, uint64_t *seed)
{
    struct errmsg e;
    for (unsigned n = (unsigned)random_next(seed) % (most + 1); n > 0; n--) {
        l->list[l->count++] = random_action(seed);
        struct action *a = &l->list[l->count - 1];
        bool endless = a->type == ACTION_RESUBMIT && a->resubmit.table == SWITCH_TABLE_ALL &&
                       a->resubmit.port == SWITCH_PORT_IN_PORT;
        if (endless || flow_check(f, &e)) l->count--;
    }
}

static inline struct flow_spec random_flow(struct action *apply, struct action *write, uint64_t *seed)
{
    struct flow_spec f = {.table = (uint8_t)(random_next(seed) % 20),
                          .priority = random_one_in(seed, 3) ? FLOW_PRIORITY_DEFAULT : (uint16_t)random_next(seed),
                          .idle_timeout_s = random_one_in(seed, 2) ? 0 : (uint16_t)random_next(seed),
                          .hard_timeout_s = random_one_in(seed, 2) ? 0 : (uint16_t)random_next(seed),
                          .flags = (uint16_t)(random_next(seed) % 32),
                          .cookie = random_one_in(seed, 2) ? 0 : random_next(seed),
                          .match = random_match(seed)};
    f.instructions.apply.list = apply;
    f.instructions.write.list = write;
    random_add(&f, &f.instructions.apply, 12, seed);
    random_add(&f, &f.instructions.write, 6, seed);
    f.instructions.has_apply = f.instructions.apply.count > 0;
    f.instructions.has_write = f.instructions.write.count > 0;
    f.instructions.clear = random_one_in(seed, 4);
    if (random_one_in(seed, 3)) {
        f.instructions.has_metadata = true;
        f.instructions.metadata_mask = random_one_in(seed, 2) ? UINT64_MAX : random_next(seed);
        f.instructions.metadata = random_next(seed) & f.instructions.metadata_mask;
    }
    if (random_one_in(seed, 3)) {
        f.instructions.has_goto = true;
        f.instructions.goto_table = (uint8_t)(f.table + 1 + random_next(seed) % 200);
    }
    return f;
}

#endif
