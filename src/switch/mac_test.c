/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: learnt, moved, aged, and bounded, whoever makes them up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "switch/mac.h"

#define MAX 256u

static uint64_t key(unsigned n)
{
    uint8_t mac[6] = {2, 0, 0, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    return mac_key(7, mac);
}

static bool learn(struct mac_table *t, unsigned n, uint32_t port, uint32_t now_s)
{
    uint64_t evicted;
    return mac_learn(t, key(n), port, now_s, &evicted);
}

static void count_key(void *arg, uint64_t k)
{
    (void)k;
    ++*(unsigned *)arg;
}

static void learns(void **state)
{
    uint8_t mac[6];
    unsigned gone = 0;
    struct mac_table *t = mac_new(MAX);
    (void)state;
    assert_int_equal(mac_lookup(t, key(1)), 0);
    assert_true(learn(t, 1, 5, 100));
    assert_false(learn(t, 1, 5, 101)); /* nothing new */
    assert_int_equal(mac_lookup(t, key(1)), 5);
    assert_true(learn(t, 1, 6, 102)); /* moved */
    assert_int_equal(mac_lookup(t, key(1)), 6);
    mac_refresh(t, key(1), 5, 500); /* it is not there any more */
    mac_refresh(t, key(1), 6, 200);
    mac_remove(t, 200, 0, count_key, &gone);
    assert_int_equal(gone, 0);
    mac_remove(t, 201, 0, count_key, &gone);
    assert_int_equal(gone, 1);
    assert_int_equal(mac_lookup(t, key(1)), 0);
    assert_int_equal(mac_key_vlan(key(3)), 7);
    mac_key_address(key(0x010203), mac);
    assert_memory_equal(mac, "\2\0\0\1\2\3", 6);
    mac_free(t);
}

/* Two ports that send from one address. */
static void moves_once_a_second(void **state)
{
    struct mac_table *t = mac_new(MAX);
    unsigned moves = 0;
    (void)state;
    assert_true(learn(t, 1, 5, 100));
    assert_true(learn(t, 1, 6, 100)); /* where it has really moved to is known at once */
    for (unsigned i = 0; i < 1000; i++)
        moves += learn(t, 1, 5 + i % 2, 100);
    assert_int_equal(moves, 0);
    assert_int_equal(mac_lookup(t, key(1)), 6);
    assert_true(learn(t, 1, 5, 101));
    assert_false(learn(t, 1, 6, 101));
    assert_true(learn(t, 2, 6, 101)); /* others are not concerned */
    assert_int_equal(mac_lookup(t, key(1)), 5);
    assert_int_equal(t->behind[5], 1);
    assert_int_equal(t->behind[6], 1);
    mac_free(t);
}

static unsigned known(struct mac_table *t, unsigned from, unsigned count, uint32_t port)
{
    unsigned n = 0;
    for (unsigned i = from; i < from + count; i++)
        n += mac_lookup(t, key(i)) == port;
    return n;
}

static void bounded(void **state)
{
    unsigned gone = 0;
    struct mac_table *t = mac_new(MAX);
    (void)state;
    for (unsigned i = 0; i < 10; i++)
        learn(t, i, 1, 1);
    for (unsigned i = 1000; i < 5000; i++)
        learn(t, i, 2, 2 + i);
    for (unsigned i = 10000; i < 15000; i++)
        learn(t, i, 3, 2 + i);
    assert_true(t->count <= MAX);
    assert_true(known(t, 1000, 4000, 2) <= MAX / 2 && known(t, 10000, 5000, 3) <= MAX / 2);
    unsigned left = known(t, 0, 10, 1);
    assert_true(left >= 8);            /* a full bucket of eight may have cost one */
    for (unsigned i = 20; i < 40; i++) /* a full table has room for a port with few */
        learn(t, i, 1, 99999);
    assert_true(known(t, 20, 20, 1) >= 15);
    assert_true(t->count <= MAX);
    mac_remove(t, UINT32_MAX, 2, count_key, &gone);
    assert_int_equal(known(t, 1000, 4000, 2), 0);
    mac_remove(t, UINT32_MAX, 0, count_key, &gone);
    assert_int_equal(t->count, 0);
    for (unsigned i = 0; i < MAC_PORT_COUNTS; i++)
        assert_int_equal(t->behind[i], 0);
    mac_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(learns), cmocka_unit_test(moves_once_a_second),
                                       cmocka_unit_test(bounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
