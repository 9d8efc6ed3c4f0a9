/* SPDX-License-Identifier: Apache-2.0 */
/* A runner that does nothing, and as much of a port as a card needs: the test is the thread that asks sources for frames. */
#include <assert.h>
#include <stdio.h>

#include "vif/test_card.h"

struct runner {
    unsigned sources;
};

static struct runner the_runner;

int runner_add(struct runner *r, struct port_source *s)
{
    assert(!s->runner);
    s->runner = r;
    r->sources++;
    return 0;
}

void runner_remove(struct port_source *s)
{
    if (s->runner) s->runner->sources--;
    s->runner = NULL;
}

void runner_call(struct runner *r, void (*fn)(void *arg), void *arg)
{
    fn(arg);
}

void port_init(struct port *p, const struct port_ops *ops, const char *name)
{
    *p = (struct port){.ops = ops};
    snprintf(p->name, sizeof p->name, "%s", name);
}

static int runner_get(void *arg, unsigned pair, struct runner **out)
{
    *out = &the_runner;
    return 0;
}

static void runner_put(void *arg, unsigned pair, struct runner *r)
{
    assert(r == &the_runner);
}

const struct vif_runners card_runners = {runner_get, runner_put, NULL};
