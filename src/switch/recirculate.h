/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets that are looked up again. What is behind a label, an I-TAG or a third VLAN tag is not in the key that a packet comes with. Once
 * the outer header is off it has another key (struct translation_inner), so the outcome of a translation is kept in steps:
 *
 *     key as it came    -> megaflow: these changes, then look up again as number 7
 *     number 7, new key -> megaflow: the actions, all of them, on the packet as it came
 *
 * The changes of a step are made on a copy of the headers, which serves for nothing but to be parsed.
 *
 * Why this is sound. The last megaflow is of a whole translation and depends on all that this one looked at, so it is checked like any other.
 * It is reached only by packets that agree with the translated one in the bits of the first key that were looked at (all of them,
 * whenever that was: the first megaflow covers no more, or it is replaced and gets another number), therefore have the same changes made,
 * and agree in the bits of the next key that were looked at; and so on. Whether the first megaflow is up to date does not matter for this.
 *
 * Subtables for later keys are a set of their own, so their masks do not make the others of the port slower.
 */
#ifndef SWITCH_RECIRCULATE_H
#define SWITCH_RECIRCULATE_H

#include "switch/thread.h"

/* Of a key in the cache; 0: of a packet as it came. */
uint32_t recirculate_number(const struct flow_key *k);
/* The megaflow that a packet ends at which this one (list->again) is for; 0: none that is true, or its headers do not allow the changes. */
uint32_t recirculate_find(struct switch_thread *t, uint64_t port_word, uint32_t line, const struct packet *p);
/* The thread's translation, of inner keys, in steps; a: its outcome. The first step's line, and the last one's, or 0. */
uint32_t recirculate_keep(struct switch_thread *t, struct cache_port *p, const struct cache_add *a, uint32_t *first);

#endif
