/* SPDX-License-Identifier: Apache-2.0 */
#include "ring/test_rig.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"

static void must(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "test rig: %s\n", what);
    abort();
}

struct layout {
    size_t desc, driver, device, indirect, buffers, inflight, end;
};

static struct layout lay_out(const struct rig_options *o)
{
    struct layout l = {0};
    l.driver = align_up(virtq_desc_bytes(o->size), 64);
    l.device = align_up(l.driver + virtq_driver_bytes(o->size, o->packed), 64);
    l.indirect = align_up(l.device + virtq_device_bytes(o->size, o->packed), 64);
    l.buffers = align_up(l.indirect + (size_t)o->size * RIG_INDIRECT_MAX * 16, 4096);
    l.inflight = l.buffers + RIG_BUFFERS_BYTES;
    l.end = align_up(l.inflight + virtq_inflight_bytes(o->size, o->packed), 4096);
    return l;
}

/* Two regions that continue one another, so that a buffer may lie in both. */
static void map_memory(struct rig *r, const struct layout *l)
{
    size_t middle = l->buffers + RIG_BUFFERS_BYTES / 2;
    struct guest_region_desc d[2] = {{{RIG_BASE}, middle, 0x10000000, 0},
                                     {{RIG_BASE + middle}, l->inflight - middle, 0x70000000, middle}};
    int fds[2] = {r->fd, r->fd};
    must(guest_map_new(&r->map, d, fds, 2, NULL, NULL) == 0, "map");
}

static void attach(struct rig *r)
{
    struct errmsg e = {""};
    if (virtq_new(&r->q, &r->setup, r->map, &e)) must(false, e.text);
}

void rig_open(struct rig *r, const struct rig_options *o)
{
    struct layout l = lay_out(o);
    *r = (struct rig){.mem_bytes = l.end, .fd = memfd_create("ring-test", MFD_CLOEXEC)};
    must(r->fd >= 0 && ftruncate(r->fd, (off_t)l.end) == 0, "memory");
    r->mem = mmap(NULL, l.end, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
    must(r->mem != MAP_FAILED, "memory");
    map_memory(r, &l);
    r->indirect = r->mem + l.indirect;
    r->indirect_gpa = RIG_BASE + l.indirect;
    r->buffers = r->mem + l.buffers;
    r->buffers_gpa = RIG_BASE + l.buffers;
    r->setup = (struct virtq_setup){.size = o->size, .packed = o->packed, .event_idx = o->event_idx, .indirect = true};
    r->setup.desc = guest_map_at(r->map, (struct gpa){RIG_BASE}, 1);
    r->setup.driver = guest_map_at(r->map, (struct gpa){RIG_BASE + l.driver}, 1);
    r->setup.device = guest_map_at(r->map, (struct gpa){RIG_BASE + l.device}, 1);
    r->setup.base = o->base;
    r->setup.inflight = o->tracked ? r->mem + l.inflight : NULL;
    r->setup.place = o->placed ? (uint32_t *)(void *)(r->mem + l.inflight) : NULL;
    r->setup.in_order = o->in_order;
    struct driver_sim_setup d = {.size = o->size, .packed = o->packed, .event_idx = o->event_idx};
    d.in_order = o->in_order;
    d.desc = r->mem, d.driver = r->mem + l.driver, d.device = r->mem + l.device, d.base = o->base;
    d.indirect = r->indirect, d.indirect_addr.v = r->indirect_gpa, d.indirect_max = RIG_INDIRECT_MAX;
    must(driver_sim_new(&r->driver, &d) == 0, "driver");
    attach(r);
}

void rig_close(struct rig *r)
{
    virtq_free(r->q);
    driver_sim_free(r->driver);
    guest_map_unref(r->map);
    munmap(r->mem, r->mem_bytes);
    close(r->fd);
}

void rig_restart(struct rig *r)
{
    virtq_free(r->q);
    r->setup.resume = true;
    attach(r);
}

uint64_t rig_random(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}
