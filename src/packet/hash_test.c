/* SPDX-License-Identifier: Apache-2.0 */
/* One flow is one hash; many flows are spread; what is not the flow's does not count. */
#include "packet/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#define QUEUES 7u

struct frame {
    uint8_t bytes[96];
    struct packet packet;
};

static void make(struct frame *f, unsigned tags, unsigned version, unsigned flow)
{
    memset(f, 0, sizeof *f);
    memcpy(f->bytes, "\x02\0\0\0\0\1\x02\0\0\0\0\2", 12);
    unsigned at = 12;
    for (; tags; tags--, at += 4)
        memcpy(f->bytes + at, "\x81\0\0\1", 4);
    memcpy(f->bytes + at, version == 4 ? "\x08\0" : "\x86\xdd", 2);
    uint8_t *ip = f->bytes + at + 2, *l4 = ip + (version == 4 ? 20 : 40);
    ip[0] = version == 4 ? 0x45 : 0x60;
    ip[version == 4 ? 9 : 6] = 6;
    ip[version == 4 ? 15 : 23] = 1;
    l4[2] = (uint8_t)(flow >> 8);
    l4[3] = (uint8_t)flow;
    uint16_t bytes = (uint16_t)(l4 + 20 - f->bytes);
    f->packet = (struct packet){.head = f->bytes, .head_bytes = bytes, .length_bytes = bytes};
}

static void flows_are_spread(void **state)
{
    for (unsigned version = 4; version <= 6; version += 2) {
        unsigned got[QUEUES] = {0};
        for (unsigned flow = 0; flow < 700; flow++) {
            struct frame f, tagged;
            make(&f, 0, version, flow);
            make(&tagged, 2, version, flow);
            assert_true(packet_hash(&f.packet) != 0);
            assert_int_equal(packet_hash(&f.packet), packet_hash(&tagged.packet));
            unsigned queue = packet_queue(&f.packet, QUEUES);
            assert_true(queue < QUEUES);
            got[queue]++;
            f.bytes[0] ^= 4; /* not of the flow */
            assert_int_equal(packet_queue(&f.packet, QUEUES), queue);
        }
        for (unsigned i = 0; i < QUEUES; i++)
            assert_true(got[i] > 50);
    }
}

static void two_queues_are_both_used(void **state)
{
    unsigned got[2] = {0};
    for (unsigned flow = 0; flow < 200; flow++) {
        struct frame f;
        make(&f, 0, 4, flow);
        got[packet_queue(&f.packet, 2)]++;
    }
    assert_true(got[0] > 50 && got[1] > 50);
}

static void a_makers_hash_counts(void **state)
{
    struct frame f;
    make(&f, 0, 4, 1);
    unsigned seen = 0;
    for (unsigned i = 1; i < 100; i++) {
        f.packet.hash = i;
        seen |= 1u << packet_queue(&f.packet, 4);
    }
    assert_int_equal(seen, 15);
}

static void all_fragments_go_one_way(void **state)
{
    struct frame first, later;
    make(&first, 0, 4, 1);
    make(&later, 0, 4, 2); /* other bytes where ports would be */
    first.bytes[14 + 6] = 0x20;
    later.bytes[14 + 7] = 9;
    assert_int_equal(packet_hash(&first.packet), packet_hash(&later.packet));
}

static void short_heads_pass(void **state)
{
    for (unsigned version = 4; version <= 6; version += 2) {
        for (uint16_t n = 0; n < 80; n++) {
            struct frame f;
            make(&f, 1, version, 3);
            uint8_t exact[96];
            memcpy(exact + sizeof exact - n, f.bytes, n);
            f.packet.head = exact + sizeof exact - n;
            f.packet.head_bytes = n;
            assert_true(packet_hash(&f.packet) != 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flows_are_spread),     cmocka_unit_test(two_queues_are_both_used),
        cmocka_unit_test(a_makers_hash_counts), cmocka_unit_test(all_fragments_go_one_way),
        cmocka_unit_test(short_heads_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
