/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/xen_world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef CREEDENCE_SIM
#include "guest/sim.h"
#endif

struct xen_world {
    struct sim *sim; /* NULL: the host's */
    bool direct;
};

#ifdef CREEDENCE_SIM
static int attach(struct xen_world *w, const char *dir, struct errmsg *e)
{
    return sim_attach(&w->sim, dir, e);
}

static int sim_door(struct xen_world *w, struct xen **out, struct xen_budget *budget, struct errmsg *e)
{
    return sim_xen_open(out, w->sim, budget, w->direct, e);
}

static void detach(struct xen_world *w)
{
    if (w->sim) sim_detach(w->sim);
}
#else
static int attach(struct xen_world *w, const char *dir, struct errmsg *e)
{
    (void)w;
    return errmsg_set(e, EOPNOTSUPP, "%s: built without the simulated machine", dir);
}

static int sim_door(struct xen_world *w, struct xen **out, struct xen_budget *budget, struct errmsg *e)
{
    (void)w, (void)out, (void)budget;
    return errmsg_set(e, EOPNOTSUPP, "built without the simulated machine");
}

static void detach(struct xen_world *w)
{
    (void)w;
}
#endif

int xen_world_open(struct xen_world **out, const char *name, struct errmsg *e)
{
    const char *colon = name ? strchr(name, ':') : NULL;
    struct xen_world *w = calloc(1, sizeof *w);
    if (!w) return errmsg_set(e, ENOMEM, "out of memory");
    int ret = 0;
    if (colon && (strncmp(name, "sim:", 4) == 0 || strncmp(name, "sim-direct:", 11) == 0)) {
        w->direct = name[3] == '-';
        ret = attach(w, colon + 1, e);
    } else if (name && *name) {
        ret = errmsg_set(e, EINVAL, "world: is '%s', expected sim:DIR or sim-direct:DIR", name);
    }
    if (ret < 0) {
        free(w);
        return ret;
    }
    *out = w;
    return 0;
}

int xen_world_door(struct xen_world *w, struct xen **out, struct xen_budget *budget, struct errmsg *e)
{
    return w->sim ? sim_door(w, out, budget, e) : xen_open(out, budget, e);
}

void xen_world_close(struct xen_world *w)
{
    if (!w) return;
    detach(w);
    free(w);
}
