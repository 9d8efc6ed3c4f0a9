/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold of the key of any frame: for the fuzzer and for tests. */
#ifndef SWITCH_EXTRACT_CHECK_H
#define SWITCH_EXTRACT_CHECK_H

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "switch/cache.h"
#include "switch/extract.h"

static inline bool only_short_words(const struct flow_key *k)
{
    static const bool is_short[FLOW_KEY_WORDS] = {
        [0] = true, [1] = true, [2] = true, [3] = true, [6] = true, [7] = true, [8] = true};
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        if (!is_short[i] && k->words[i]) return false;
    return true;
}

/* A frame of length_bytes whose head are these bytes. */
static inline void extract_check(const uint8_t *head, uint16_t head_bytes, uint32_t length_bytes)
{
    uint8_t *copy = malloc(head_bytes ? head_bytes : 1); /* of that size exactly: the address sanitizer sees the end */
    assert(copy);
    memcpy(copy, head, head_bytes);
    struct packet p = {.head = copy, .head_bytes = head_bytes, .length_bytes = length_bytes};
    struct flow_key k = {{{0}}}, possible;
    enum extract e = extract_key(&p, &k);
    assert(memcmp(copy, head, head_bytes) == 0);
    if (e == EXTRACT_INVALID) {
        assert(head_bytes < 14 || length_bytes < 14);
        free(copy);
        return;
    }
    assert(p.l3_at == PACKET_NO_LAYER || (p.l3_at >= 14 && p.l3_at <= head_bytes));
    assert(p.l4_at == PACKET_NO_LAYER || (p.l4_at > p.l3_at && p.l4_at + 8u <= head_bytes));
    if (e == EXTRACT_SHORT) assert(only_short_words(&k));
    for (unsigned i = FLOW_KEY_PACKET_WORDS; i < FLOW_KEY_WORDS; i++)
        assert(k.words[i] == 0);
    /* What a mask need not have is nothing that this frame has. */
    memset(&possible, 0xff, sizeof possible);
    extract_trim_mask(&k, &possible);
    for (unsigned i = 1; i < FLOW_KEY_PACKET_WORDS; i++)
        assert((k.words[i] & ~possible.words[i]) == 0);
    struct packet q = {.head = copy, .head_bytes = head_bytes, .length_bytes = length_bytes};
    uint32_t word = extract_simple_word(&q);
    assert(word == 0 || (word == cache_simple_word(&k) && q.l4_at == p.l4_at && q.l3_at == p.l3_at));
    free(copy);
}

#endif
