/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine that breaks things, for tests: it wraps another engine and, by the rules of a plan, fails requests, delays
 * them, tears writes, and cuts the power.
 *
 * A plan may be shared by the engines of several threads, as the layers of one disk are. It counts requests in the order
 * in which they are submitted, so a test with one thread is exactly repeatable.
 *
 * Power cuts. The plan keeps a model of a disk with a volatile write cache: per file, what was stable at the last
 * sync, and every write since. (Syncs end in the model; the kernel is not asked, which keeps tests fast.) When the power
 * is cut every request fails with -EIO, those in flight too. When the layers have been closed and the engines freed,
 * fault_plan_after_cut() gives the file a content that such a disk could be found with: every write since the last
 * completed sync is lost, kept, or torn at sectors, each on its own and by the seed, applied in the order of submission.
 * The file's length is that of the last sync or of the last write that survived, whichever is larger. fault_plan_copy_after_cut()
 * does so on a copy, so that one run serves many seeds.
 *
 *      struct fault_plan *plan = fault_plan_new(1);
 *      fault_plan_add(plan, &(struct fault_rule){.action = FAULT_CUT, .ops = FAULT_WRITES, .nth = 7});
 *      ... open with the engines of fault_plan_maker(plan), work until all fails, close ...
 *      for (seed = 0; seed < 100; seed++) {
 *          fault_plan_copy_after_cut(plan, &file, "copy", seed);
 *          ... open the copy with an ordinary engine and check it ...
 *      }
 *
 * Not seen: what does not go through an engine (ftruncate and fdatasync called directly). The content of a file at
 * its first write through the plan counts as stable.
 *
 * Thread-safety: the plan's functions may be called by any thread; an engine belongs to one thread.
 */
#ifndef DISK_ENGINE_FAULT_H
#define DISK_ENGINE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "disk/engine/engine.h"

#define FAULT_SECTOR_BYTES 512u

enum fault_action {
    FAULT_FAIL,  /* the request has no effect and completes with -error */
    FAULT_DELAY, /* the request takes effect now, and completes delay_ns later */
    FAULT_TEAR,  /* a WRITE: some sectors of it, at least one less than all, take effect; completes with -error */
    FAULT_CUT,   /* the power goes while this request is on its way */
    FAULT_KILL,  /* the process ends here, as by kill -9, with what it has submitted before on its way */
};

#define FAULT_OP(op) (1u << (op))
#define FAULT_ALL 0u
#define FAULT_READS FAULT_OP(ENGINE_READ)
#define FAULT_SYNCS FAULT_OP(ENGINE_SYNC)
/* All that changes content. */
#define FAULT_WRITES                                                                                                   \
    (FAULT_OP(ENGINE_WRITE) | FAULT_OP(ENGINE_PUNCH) | FAULT_OP(ENGINE_ZERO) | FAULT_OP(ENGINE_DISCARD))

struct fault_rule {
    enum fault_action action;
    /* Which requests match: all conditions together. */
    unsigned ops;                        /* set of FAULT_OP(); FAULT_ALL: any */
    const struct engine_file *file;      /* NULL: any */
    uint64_t offset_bytes, length_bytes; /* touches this range; length 0: anywhere. A SYNC touches everything */
    const char
        *point; /* not NULL: no request matches, but passing engine_point() with this name does (CUT and KILL only) */
    /* Which of those that match are hit. */
    uint64_t nth;   /* from this one on; the first is 1 (0 means 1 too) */
    uint64_t count; /* so many; 0: one; UINT64_MAX: all */
    /* What happens to them. */
    int error; /* positive errno; 0: EIO. For TEAR, -1 reports success: a disk that lies */
    uint64_t delay_ns;
};
#define FAULT_RULES_MAX 32u

struct fault_plan;

/* The seed chooses which sectors a TEAR lets through. NULL: no memory. To be freed after its engines. */
struct fault_plan *fault_plan_new(uint64_t seed);
void fault_plan_free(struct fault_plan *p);

/* Copies the rule; returns its number. The first rule that hits decides. At most FAULT_RULES_MAX. */
unsigned fault_plan_add(struct fault_plan *p, const struct fault_rule *rule);
uint64_t fault_plan_hits(struct fault_plan *p, unsigned rule);
/* From now on nothing goes wrong any more (power that is gone stays gone). */
void fault_plan_end_rules(struct fault_plan *p);
/* Requests (of these kinds) submitted so far: run once to count, then again for N = 1, 2, ... */
uint64_t fault_plan_count(struct fault_plan *p, unsigned ops);
/* How often a point was passed. */
uint64_t fault_plan_passed(struct fault_plan *p, const char *point);

void fault_plan_cut_now(struct fault_plan *p);
bool fault_plan_is_cut(struct fault_plan *p);

#define FAULT_SEED_LOSE_ALL UINT64_C(0) /* nothing that was not synced survives */
#define FAULT_SEED_KEEP_ALL UINT64_MAX  /* everything does */

/* No request may be in flight. Gives every file that was written its content after the cut; then the power is back,
 * rules and counters are cleared, and the plan can be used again. 0 or -errno. */
int fault_plan_after_cut(struct fault_plan *p, uint64_t seed);
/* The same for one file (f may be opened anew for it) and on a copy at `path`, which is made or overwritten; changes
 * nothing in the plan. Layers may go on meanwhile. A file that was never written is copied as it is. */
int fault_plan_copy_after_cut(struct fault_plan *p, const struct engine_file *f, const char *path, uint64_t seed);

/* Takes `inner` over, also on failure. */
int engine_fault_new(struct engine **out, struct engine *inner, struct fault_plan *p);

/* Makes io_uring engines wrapped for this plan; valid as long as the plan. */
const struct engine_maker *fault_plan_maker(struct fault_plan *p);

#endif
