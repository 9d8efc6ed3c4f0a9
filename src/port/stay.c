/* SPDX-License-Identifier: Apache-2.0 */
#include "port/stay.h"

#include <string.h>

#include "loop/clock.h"

#define STAY_NS (100 * NS_PER_MS)
#define STAY_FREE_NS NS_PER_MS
#define STAY_PACKETS_PER_MS 8u

/* All that the thread's cpuset lets it have, now and after the cpuset has changed: any other affinity, once set, is kept by the kernel as
 * what was asked for, so that CPUs which come into a cpuset (or online) later would never be used. */
static bool set_all(cpu_set_t *got)
{
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    return sched_setaffinity(0, sizeof all, &all) == 0 && sched_getaffinity(0, sizeof *got, got) == 0;
}

/* Is `set`, which the thread may use now, somebody's choice? Then it is set again; else the thread is left with all. */
static bool is_chosen(const cpu_set_t *set)
{
    cpu_set_t all;
    if (!set_all(&all)) return true;
    if (CPU_EQUAL(&all, set)) return false;
    sched_setaffinity(0, sizeof *set, set);
    return true;
}

static void release(struct stay *s)
{
    cpu_set_t now, ours;
    CPU_ZERO(&ours);
    CPU_SET((unsigned)s->cpu, &ours);
    s->bound = false;
    if (sched_getaffinity(0, sizeof now, &now) < 0) return;
    if (!CPU_EQUAL(&now, &ours)) s->chosen = is_chosen(&now); /* somebody else has set it, or its cpuset is another */
    else if (s->chosen) sched_setaffinity(0, sizeof s->allowed, &s->allowed);
    else set_all(&now);
}

/* A failure only costs speed: more CPUs than a cpu_set_t has, a filter that does not know the call. */
static void bind_here(struct stay *s)
{
    cpu_set_t now, ours;
    int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= CPU_SETSIZE) return;
    if (sched_getaffinity(0, sizeof now, &now) < 0 || CPU_COUNT(&now) < 2) return;
    if (!CPU_ISSET((unsigned)cpu, &now)) return; /* it is being moved away at this moment */
    if (!s->chosen || !CPU_EQUAL(&now, &s->allowed)) s->chosen = is_chosen(&now);
    s->allowed = now;
    CPU_ZERO(&ours);
    CPU_SET((unsigned)cpu, &ours);
    s->cpu = cpu;
    s->bound = sched_setaffinity(0, sizeof ours, &ours) == 0;
}

static void be_free(struct stay *s, uint64_t now_ns, uint64_t packets)
{
    s->since_ns = now_ns;
    s->packets = packets;
    s->until_ns = now_ns + STAY_FREE_NS;
}

void stay_set(struct stay *s, bool wanted)
{
    s->wanted = wanted;
    s->until_ns = s->since_ns = 0;
    if (s->bound) release(s);
}

void stay_look(struct stay *s, uint64_t now_ns, uint64_t packets)
{
    if (s->bound) {
        release(s);
        be_free(s, now_ns, packets);
        return;
    }
    uint64_t free_ms = (now_ns - s->since_ns) / NS_PER_MS;
    if (s->since_ns != 0 && packets - s->packets >= free_ms * STAY_PACKETS_PER_MS) bind_here(s);
    be_free(s, now_ns, packets);
    if (s->bound) s->until_ns = now_ns + STAY_NS;
}
