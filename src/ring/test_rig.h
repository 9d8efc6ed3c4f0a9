/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory with a virtqueue in it, for tests of the rings: a driver (driver_sim.h) on one side and a device
 * (virtq.h) on the other, in one process or in several that share the memory.
 */
#ifndef RING_TEST_RIG_H
#define RING_TEST_RIG_H

#include "ring/driver_sim.h"
#include "ring/virtq.h"

#define RIG_BASE UINT64_C(0x40000000)   /* guest address of everything */
#define RIG_BUFFERS_BYTES (256u * 1024) /* room for buffers; the regions meet in its middle */
#define RIG_INDIRECT_MAX 8u             /* descriptors of an indirect table */

struct rig_options {
    uint16_t size;
    bool packed, event_idx, tracked; /* tracked: with an in-flight table */
    bool placed, in_order;           /* placed: completing in order, with a place where the table would be */
    uint32_t base;
};

struct rig {
    struct virtq_setup setup;
    struct guest_map *map;
    struct driver_sim *driver;
    struct virtq *q;
    char *mem; /* everything shared: the rings, the tables, the buffers, the in-flight table */
    size_t mem_bytes;
    char *indirect;
    uint64_t indirect_gpa;
    char *buffers;
    uint64_t buffers_gpa;
    int fd;
};

/* A device is attached at once. What cannot be set up ends the test program. */
void rig_open(struct rig *r, const struct rig_options *o);
void rig_close(struct rig *r);

/* The device dies (its process's memory is gone, the shared memory is not) and another resumes. */
void rig_restart(struct rig *r);

/* A small generator of our own: the same sequence everywhere. */
uint64_t rig_random(uint64_t *state);

#endif
