/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an operator asked a disk to be: the parameters of disk.attach, what is saved in the state directory,
 * and (without the daemon's own part) what a worker is configured with. One reader checks all three.
 */
#ifndef CONTROL_DISK_CONFIG_H
#define CONTROL_DISK_CONFIG_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "control/fields.h"
#include "disk/disk.h"

#define DISK_NAME_MAX 64
#define DISK_SERIAL_MAX 20
#define DISK_QUEUES_MAX 64
#define DISK_QUEUE_SIZE_MAX 32768u
#define DISK_QUEUE_SIZE_DEFAULT 1024u
#define DISK_SEG_MAX_LIMIT 494u /* a request's iov (DISK_IOV_MAX) less what the ring adds */
#define DISK_SEG_MAX_DEFAULT 126u
#define DISK_POLL_US_MAX 1000000u
#define DISK_POLL_US_DEFAULT 50u

enum disk_write_cache { DISK_WRITEBACK, DISK_WRITETHROUGH };
enum disk_datapath { DISK_DATAPATH_DIRECT, DISK_DATAPATH_STAGED };

/* O_DIRECT. Automatic: for the leaf, where its storage can and the disk's sectors are large enough. */
enum disk_direct { DISK_DIRECT_AUTO, DISK_DIRECT_ON, DISK_DIRECT_OFF };

/* How the data of a Xen guest's requests is reached. Automatic: as measured to be best. */
enum disk_xen_mode { DISK_XEN_AUTO, DISK_XEN_COPY, DISK_XEN_MAP, DISK_XEN_PERSISTENT };

#define DISK_XEN_DOMID_MAX 0x7fefu /* the first reserved one less one */
#define DISK_XEN_TEXT_MAX 256
#define DISK_XEN_KEYS_MAX 64

/* A guest's disk by blkif instead of vhost-user: there is no socket, the toolstack announces it (control/xenstore.h). */
struct disk_xen_config {
    bool used;
    bool cdrom;
    bool discard; /* offered, where the disk can */
    unsigned domid;
    enum disk_xen_mode mode;
    char *world;     /* "sim:...": of tests and benchmarks; NULL: Xen's own */
    json_t *offered; /* the backend's keys that the guest has seen: a successor offers the same; NULL: none yet */

    /* The daemon's own part. */
    char *backend;      /* where the toolstack announced it, "backend/vbd/7/51712" */
    char *identity;     /* of what was announced there: another guest may have the same number one day */
    json_t *connection; /* the front end's rings, as they were read: a successor is told them; NULL: not connected */
};

struct disk_layer_config {
    enum disk_format format;
    char *path; /* absolute */
    enum disk_direct direct;
};

struct disk_config {
    char name[DISK_NAME_MAX + 1];
    unsigned queues, queue_size, sector_bytes, seg_max, poll_us;
    uint32_t size_max_bytes; /* 0: no limit */
    bool read_only, packed;
    enum disk_write_cache write_cache;
    enum disk_datapath datapath;
    char serial[DISK_SERIAL_MAX + 1];
    struct disk_layer_config *layers; /* leaf first */
    unsigned layer_count;
    struct disk_xen_config xen;

    /* The daemon's own part. */
    bool cache;         /* base layers through the shared read cache */
    bool size_check;    /* refuse a base larger than the layer above it */
    char *socket_path;  /* where a front end connects; NULL: RUNDIR/disks/NAME.sock */
    char *connect_path; /* connect to the front end there instead of listening; NULL: listen */
};

/* 0, -EINVAL with the reason in why, or -ENOMEM. On failure *out needs no freeing. */
int disk_config_parse(struct disk_config *out, json_t *object, const char *where, struct field_error *why);
/* A new reference, NULL when out of memory. The worker's form has no daemon's part. */
json_t *disk_config_json(const struct disk_config *c, bool for_worker);
void disk_config_free(struct disk_config *c);

/* A name is 1..64 of [A-Za-z0-9._-], begins with a letter or digit: it becomes file names. */
bool disk_name_valid(const char *name);
#define DISK_NAME_RULE "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"

#endif
