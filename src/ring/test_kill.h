/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices that are killed: what the tests of all ways to survive have in common. A test says what its guest and its device
 * do; here is how the device dies.
 *
 * stepped: the device is a child run one machine instruction at a time, and wherever it has changed the shared memory the
 * test supposes that it is killed there: a driver (a copy, either as it stands or after it has taken all that it could see
 * and added more) and a new device must go on to an end without fault. Some of these kills are carried out, so that a
 * recovery is interrupted too.
 * racing: child and driver run at the same time, and SIGKILL comes when it comes.
 */
#ifndef RING_TEST_KILL_H
#define RING_TEST_KILL_H

#include "ring/test_rig.h"

struct kill_world {
    struct rig *rig;    /* its memory, and its driver; without one (NULL) `guest` below is all of the driver */
    size_t rings_bytes; /* from rig->mem on, that anybody writes */
    void *kept;         /* shared, outside of the rings: what a device survives by */
    size_t kept_bytes;
    void *guest; /* the guest's own memory */
    size_t guest_bytes;
    uint64_t *random_state;
    unsigned stops;    /* 1: a child is stepped through attaching, too; 2: mostly from there on */
    unsigned steps;    /* of a child that is stepped */
    unsigned add_most; /* the guest's requests at a time */
    unsigned race_ns;  /* a racing child lives that long at most, of a processor's time */

    void (*guest_gets)(struct driver_sim *d);
    void (*guest_adds)(struct driver_sim *d, unsigned at_most);
    /* In a child, whose device is a static one of the test: */
    void (*attach)(void);
    void (*live)(unsigned steps);
    void (*rest)(void); /* publish, if there is nothing else to do */
    /* Another device takes over and everything comes to an end. */
    void (*finish)(struct driver_sim *d);
};

/* Is this process such a child? Then a fault is its exit code. */
bool kill_in_child(void);

/* The world comes to its end. KILL_TEST_LIVES in the environment: for a longer look. False: tracing is not allowed here. */
bool kill_stepped(const struct kill_world *w, unsigned lives);
void kill_racing(const struct kill_world *w, unsigned kills);

#endif
