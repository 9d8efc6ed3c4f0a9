/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Xen without Xen: grant tables and event channels in shared memory, between processes of one machine or threads of one process.
 *
 * A *machine* is a directory (best on a tmpfs): a file for each domain, with its grant table, its event channels and, of guests,
 * the memory; and a named pipe for each virtual CPU, which is how a sleeping one is woken. Domain 0 is the host's.
 *
 *     guest (this header)        the "hypervisor": code that both       host (xen.h)
 *     grant, revoke, alloc port  sides run on the shared files          map, copy, bind, notify, pending
 *
 * What is kept as Xen has it, because what stands above must be tested against it: entries of grant tables (version 1) and when
 * their bits of use are set and cleared; a grant in use cannot be revoked; the map-track table and its end; states of channels,
 * and that a closed one's peer can be bound again; both ABIs of events (see sim_events.c), with their bounds. Guests' memory,
 * grant entries and event words may be written with anything by the guest's side, and are read accordingly. The hypervisor's own
 * tables lie in the same files and are trusted: this is for tests, fuzzing and benchmarks, and protects nobody.
 *
 * Sources: Xen's public headers grant_table.h and event_channel.h; the design "FIFO-based event channels" (D. Vrabel, 2013).
 *
 * On Xen a process that is killed has had each of its calls carried out whole, or not at all. Here the calls are the process's own
 * code: who means to kill it on purpose, and go on with the machine, does it by sim_kill().
 *
 * Thread-safety: a `struct sim` may be used by all threads of the process that opened it (a child attaches anew). A `struct
 * sim_guest` and a `struct xen` belong to one thread each.
 */
#ifndef GUEST_SIM_H
#define GUEST_SIM_H

#include "guest/xen.h"

#define SIM_HOST ((xen_domid)0)
#define SIM_VCPUS_MAX 64u

enum sim_abi {
    SIM_2L_1023, /* two levels of 32 bits: ports 1 to 1,023 */
    SIM_2L_4096, /* two levels of 64 bits: ports 1 to 4,095 */
    SIM_FIFO,    /* queues of 16 priorities: ports 1 to 131,071 */
};

struct sim_options {
    enum sim_abi abi;  /* of the host's channels */
    unsigned maptrack; /* entries of the map-track table; 0: 65,536 */
    bool one_lock; /* all grants of the machine under one lock, as in XenServer 6.2 (Xen 4.1), to be compared with */
};

struct sim;
struct sim_guest;

/* A new machine in a directory that is there, and empty; or one that another process made. */
int sim_create(struct sim **out, const char *dir, const struct sim_options *o, struct errmsg *e);
int sim_attach(struct sim **out, const char *dir, struct errmsg *e);
/* Every `struct xen` and `struct sim_guest` of it is closed before. The machine stays. */
void sim_detach(struct sim *s);
/* Removes the machine's files, and the directory. */
void sim_remove(const char *dir);

/*
 * The host's half: takes one of domain 0's virtual CPUs. `direct`: a map is a pointer into the guest's memory as a whole: no system
 * call, no protection of read-only pages, and a use after the unmap is not noticed. What a process that was killed had mapped and
 * bound is released when the next one opens.
 */
int sim_xen_open(struct xen **out, struct sim *s, struct xen_budget *budget, bool direct, struct errmsg *e);

/* SIGKILL, at a moment when no thread of the process is inside of one of the calls of a `struct xen`. 0 or -errno. */
int sim_kill(struct sim *s, int pid);

struct sim_guest_options {
    xen_domid domid;
    unsigned pages;  /* of memory */
    unsigned grants; /* entries of the grant table */
    enum sim_abi abi;
};

int sim_guest_create(struct sim_guest **out, struct sim *s, const struct sim_guest_options *o, struct errmsg *e);
/* The domain is destroyed: its channels are closed, nothing can be mapped any more; what is mapped stays until it is unmapped. */
void sim_guest_free(struct sim_guest *g);

void *sim_guest_page(struct sim_guest *g, uint32_t frame);
uint32_t sim_guest_frame(struct sim_guest *g, const void *page); /* that this address is in */
/* Pages, from low to high. -ENOSPC. */
int64_t sim_page_take(struct sim_guest *g);
/* A reference, or -ENOSPC: from low to high, and the last one given back first. The first eight are Xen's own and never given out. */
int64_t sim_grant(struct sim_guest *g, xen_domid to, uint32_t frame, bool readonly);
/* 0, or -EBUSY while somebody has it mapped: then it stays granted. */
int sim_revoke(struct sim_guest *g, uint32_t ref);
/* Both: what a guest that starts again does. The same, and then nothing has changed. */
int sim_grant_anew(struct sim_guest *g, uint32_t *ref, xen_domid to, uint32_t frame, bool readonly);
/* An entry as it stands, to be spoilt: flags in the lower half of the first word, the domain in the upper; then the frame. */
_Atomic uint32_t *sim_grant_entry(struct sim_guest *g, uint32_t ref);

/* A port that `to` may bind, or -ENOSPC. */
int sim_port_alloc(struct sim_guest *g, xen_domid to);
void sim_port_free(struct sim_guest *g, int port);
void sim_port_notify(struct sim_guest *g, int port);
/* As of xen.h. */
int sim_event_fd(struct sim_guest *g);
unsigned sim_pending(struct sim_guest *g, int *ports, unsigned max);
void sim_mask(struct sim_guest *g, int port);
void sim_unmask(struct sim_guest *g, int port);
/* 0 (lowest is 15) on FIFO; -EINVAL elsewhere. */
int sim_port_priority(struct sim_guest *g, int port, unsigned priority);

/* Leaks: entries of the map-track table, ports of the host, in use now. */
unsigned sim_maps_used(struct sim *s);
unsigned sim_ports_used(struct sim *s, xen_domid domid);

#endif
