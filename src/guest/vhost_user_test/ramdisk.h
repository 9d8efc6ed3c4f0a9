/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest disk there is: memory, served on the loop's own thread, straight from the ring. For tests that need a
 * device which really answers: real front ends, and processes that are killed.
 */
#ifndef GUEST_VHOST_USER_TEST_RAMDISK_H
#define GUEST_VHOST_USER_TEST_RAMDISK_H

#include "guest/vhost_user.h"
#include "loop/loop.h"

#define RAMDISK_QUEUES 4u

struct ramdisk;

struct ramdisk_queue {
    struct ramdisk *disk;
    struct virtq *vq; /* NULL: stopped */
    struct loop_watch kick;
    int call_fd;
};

struct ramdisk {
    struct guest_device_ops ops;
    struct loop *loop;
    char *data;
    uint64_t size_bytes;
    struct ramdisk_queue queue[RAMDISK_QUEUES];
};

/* data: size_bytes of it, the caller's. extra_features: the packed ring, if it is to be offered. */
void ramdisk_init(struct ramdisk *d, struct loop *loop, char *data, uint64_t size_bytes, uint64_t extra_features);

#endif
