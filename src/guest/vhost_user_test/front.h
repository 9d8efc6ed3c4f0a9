/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A front end for tests, at the other end of a socket pair, and what the session needs around it: a loop, a
 * device that only takes notes, somebody who holds descriptors, a state. Everything runs on the
 * test's own thread: front_pump() lets the session work until it has nothing to do.
 */
#ifndef GUEST_VHOST_USER_TEST_FRONT_H
#define GUEST_VHOST_USER_TEST_FRONT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "guest/vhost_user.h"
#include "guest/vhost_user_session.h"

#define QUEUES 4u
#define RING_SIZE 16u
#define MEM_BYTES (UINT64_C(1) << 20)
#define MEM_GUEST UINT64_C(0x40000000)
#define MEM_USER UINT64_C(0x7f1200000000)
#define CONFIG_BYTES 60u
#define STASH_BYTES 8192u

/* What the session told the device. */
struct fake_queue {
    bool running;
    struct guest_queue q;
    struct guest_map *map;
    unsigned starts, stops, calls_set;
    int call_fd;
};

struct fake {
    struct guest_device_ops ops;
    uint64_t features;
    int refuse_features, refuse_start, refuse_config;
    uint8_t config[CONFIG_BYTES];
    uint32_t stop_base; /* what queue_stop answers */
    struct fake_queue queue[QUEUES];
    unsigned resets, maps_set, maps_grown;
    enum guest_reset last_reset;
    void *stash;
    bool stash_resumed;
};

struct held {
    char name[32];
    int fd;
};

struct front {
    int sock; /* the front end's end */
    struct loop *loop;
    struct vhost_session *session;
    struct vhost_args args;
    struct fake fake;
    struct held held[1024];
    unsigned held_count;
    bool ended;
    char why[512];
    int mem_fd;
    char *mem;
    unsigned inbox; /* answers received */
};

void front_new(struct front *f);
/* Another connection to the same device (the old session must be gone). */
void front_connect(struct front *f);
void front_free(struct front *f);
/* The process ends without a word: its session, its descriptors, its device's queues. The state and what is held stay. */
void front_kill(struct front *f);
/* The next process. */
int front_resume(struct front *f, struct errmsg *e);
int front_held(const struct front *f, const char *name);

void front_send(struct front *f, uint32_t request, uint32_t flags, const void *payload, size_t bytes, const int *fds,
                unsigned count);
void front_pump(struct front *f);
/* The next answer: its payload's size, or -1 when there is none. The header is checked against request. */
int front_answer(struct front *f, uint32_t request, void *payload, size_t bytes, int *fd);

/* Send and pump, then: nothing came back and the session lives. */
void front_tell(struct front *f, uint32_t request, const void *payload, size_t bytes, const int *fds, unsigned count);
/* Ask for an acknowledgement and return it. */
uint64_t front_ack(struct front *f, uint32_t request, const void *payload, size_t bytes, const int *fds,
                   unsigned count);
uint64_t front_get_u64(struct front *f, uint32_t request);
/* The session has ended, and its reason contains text. */
void front_assert_ended(struct front *f, const char *text);

/* Common pieces of a conversation. */
uint64_t front_ack_u64(struct front *f, uint32_t request, uint64_t value);
uint64_t front_ack_state(struct front *f, uint32_t request, uint32_t index, uint32_t num);
uint64_t front_ack_ring_fd(struct front *f, uint32_t request, uint64_t value, int fd);
uint64_t front_ack_addr(struct front *f, uint32_t index, uint64_t user_base);
void front_negotiate(struct front *f, uint64_t features, uint64_t protocol_features);
void front_share_memory(struct front *f);
/* Size, base, addresses, call, kick and enable of a ring whose parts lie in its own page of memory. */
void front_start_ring(struct front *f, uint32_t index);
uint32_t front_get_base(struct front *f, uint32_t index);

#define ALL_PROTOCOL_FEATURES                                                                                          \
    (BIT64(VU_PROTOCOL_F_MQ) | BIT64(VU_PROTOCOL_F_REPLY_ACK) | BIT64(VU_PROTOCOL_F_BACKEND_REQ) |                     \
     BIT64(VU_PROTOCOL_F_CONFIG) | BIT64(VU_PROTOCOL_F_INFLIGHT_SHMFD) | BIT64(VU_PROTOCOL_F_RESET_DEVICE) |           \
     BIT64(VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS) | BIT64(VU_PROTOCOL_F_STATUS))
#define USUAL_FEATURES (BIT64(VHOST_USER_F_PROTOCOL_FEATURES) | BIT64(VIRTIO_F_VERSION_1))

unsigned count_open_fds(void);

/* For cmocka: a front end made before and freed after each test, and no descriptor lost in between. */
int front_setup(void **state);
int front_teardown(void **state);
#define FRONT_TEST(name) cmocka_unit_test_setup_teardown(name, front_setup, front_teardown)

#endif
