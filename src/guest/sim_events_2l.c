/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 2-level ABI: a bit for each port that is pending, and one that is masked, in words; a selector for each virtual CPU says in
 * which words to look. As many ports as a word's bits squared. Taking events costs a look at each word that the selector names, of
 * which other CPUs' ports are left out.
 *
 * Order. Sender: pending, (mask), selector, upcall. Taker: upcall off, selector exchanged for 0, then the words.
 */
#include "guest/sim_machine.h"

static unsigned word_bits(const struct sim_view *v)
{
    return v->d->abi == SIM_2L_4096 ? 64 : 32;
}

static bool bit_set(_Atomic uint64_t *words, unsigned bits, unsigned port)
{
    uint64_t bit = UINT64_C(1) << (port % bits);
    return atomic_fetch_or(&words[port / bits], bit) & bit;
}

static bool bit_clear(_Atomic uint64_t *words, unsigned bits, unsigned port)
{
    uint64_t bit = UINT64_C(1) << (port % bits);
    return atomic_fetch_and(&words[port / bits], ~bit) & bit;
}

static bool bit_test(_Atomic uint64_t *words, unsigned bits, unsigned port)
{
    return atomic_load(&words[port / bits]) >> (port % bits) & 1;
}

static void select_word(struct sim_view *v, unsigned port)
{
    unsigned vcpu = v->channel[port].vcpu;
    uint64_t bit = UINT64_C(1) << (port / word_bits(v));
    if (!(atomic_fetch_or(&v->d->info[vcpu].selector, bit) & bit)) sim_upcall(v, vcpu);
}

void sim_2l_set_pending(struct sim_view *v, unsigned port)
{
    unsigned bits = word_bits(v);
    if (bit_set(v->pending, bits, port)) return;
    if (!bit_test(v->mask, bits, port)) select_word(v, port);
}

void sim_2l_unmask(struct sim_view *v, unsigned port)
{
    unsigned bits = word_bits(v);
    if (bit_clear(v->mask, bits, port) && bit_test(v->pending, bits, port)) select_word(v, port);
}

void sim_2l_mask(struct sim_view *v, unsigned port)
{
    bit_set(v->mask, word_bits(v), port);
}

void sim_2l_reset(struct sim_view *v, unsigned port)
{
    bit_clear(v->pending, word_bits(v), port);
    bit_clear(v->mask, word_bits(v), port);
}

/* Ports of this CPU in a word. */
static uint64_t own_bits(const struct sim_cpu *c, unsigned word)
{
    if (word_bits(c->view) == 64) return c->mine[word];
    return c->mine[word / 2] >> (word % 2 * 32) & UINT32_MAX;
}

unsigned sim_2l_take(struct sim_cpu *c, int *ports, unsigned max, bool *more)
{
    struct sim_view *v = c->view;
    _Atomic uint64_t *selector = &v->d->info[c->vcpu].selector;
    unsigned n = 0, bits = word_bits(v);
    uint64_t words = atomic_exchange(selector, 0);
    if (bits == 32) words &= UINT32_MAX; /* the domain itself may have written more */
    for (; words; words &= words - 1) {
        unsigned word = (unsigned)__builtin_ctzll(words);
        uint64_t ready = atomic_load(&v->pending[word]) & ~atomic_load(&v->mask[word]) & own_bits(c, word);
        for (; ready && n < max; ready &= ready - 1) {
            unsigned port = word * bits + (unsigned)__builtin_ctzll(ready);
            bit_set(v->mask, bits, port);
            bit_clear(v->pending, bits, port);
            ports[n++] = (int)port;
        }
        if (ready) break; /* this word and those after it: again */
    }
    if (words) {
        atomic_fetch_or(selector, words);
        *more = true;
    }
    return n;
}
