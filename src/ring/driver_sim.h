/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver for virtqueues: the guest's half, split and packed, as the specification asks it to behave. Tests, fuzzers and
 * load generators put it opposite a device; no program of the product links it. It also watches the device: what
 * no correct device does (an unknown id, an index that jumps, more bytes written than there is room for) is
 * kept in driver_sim_error().
 *
 * Thread-safety: one thread per driver; the device may be in any thread or process.
 */
#ifndef RING_DRIVER_SIM_H
#define RING_DRIVER_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/memory.h"

struct driver_sim;

struct driver_sim_setup {
    uint16_t size;
    bool packed, event_idx;
    bool in_order;                /* the device may give back several chains at once */
    void *desc, *driver, *device; /* ring memory; sizes as virtq_desc_bytes() and its sisters say */
    uint32_t base;                /* where the queue starts, as virtq_setup.base */
    /* Room for `size` indirect tables of indirect_max descriptors (16 bytes) each, or NULL. */
    void *indirect;
    struct gpa indirect_addr;
    unsigned indirect_max;
};

struct driver_sim_buf {
    struct gpa addr;
    uint32_t length;
    bool device_writes; /* those that the device reads come first */
};

/* Clears the rings. 0 or -ENOMEM. */
int driver_sim_new(struct driver_sim **out, const struct driver_sim_setup *s);
void driver_sim_free(struct driver_sim *d);
/* Another driver in the same state on the same ring memory (of which the caller keeps copies). 0 or -ENOMEM. */
int driver_sim_clone(struct driver_sim **out, const struct driver_sim *d);

/* Add a chain under a name of the caller's. False when the ring has no room for it. */
bool driver_sim_add(struct driver_sim *d, const struct driver_sim_buf *buf, unsigned count, bool indirect,
                    uint64_t token);
/* Make what was added available. True when the device asks to be kicked. */
bool driver_sim_publish(struct driver_sim *d);
/* The next chain that the device has finished; false when there is none, or after an error. */
bool driver_sim_get(struct driver_sim *d, uint64_t *token, uint32_t *written_bytes);

/* Ask the device not to notify, or to do so at the next chain. The second returns true when one came meanwhile. */
void driver_sim_calls_off(struct driver_sim *d);
bool driver_sim_calls_on(struct driver_sim *d);

unsigned driver_sim_in_flight(const struct driver_sim *d);
const char *driver_sim_error(const struct driver_sim *d); /* NULL: the device behaved */

#endif
