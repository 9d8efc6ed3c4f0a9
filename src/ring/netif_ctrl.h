/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TRUST BOUNDARY 2, on Xen: the control ring of a netfront (Xen's public io/netif.h), backend side: small requests, each copied out once
 * and answered in the order in which it came. What a killed process had taken and not answered is asked again.
 *
 * Thread-safety: a ring belongs to one thread.
 */
#ifndef RING_NETIF_CTRL_H
#define RING_NETIF_CTRL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"

#define NETIF_CTRL_ENTRIES 128u

enum netif_ctrl_type {
    NETIF_CTRL_GET_HASH_FLAGS = 1,
    NETIF_CTRL_SET_HASH_FLAGS = 2,
    NETIF_CTRL_SET_HASH_KEY = 3,
    NETIF_CTRL_GET_HASH_MAPPING_SIZE = 4,
    NETIF_CTRL_SET_HASH_MAPPING_SIZE = 5,
    NETIF_CTRL_SET_HASH_MAPPING = 6,
    NETIF_CTRL_SET_HASH_ALGORITHM = 7,
    NETIF_CTRL_GET_GREF_MAPPING_SIZE = 8,
    NETIF_CTRL_ADD_GREF_MAPPING = 9,
    NETIF_CTRL_DEL_GREF_MAPPING = 10,
};
enum netif_ctrl_status {
    NETIF_CTRL_SUCCESS = 0,
    NETIF_CTRL_NOT_SUPPORTED = 1,
    NETIF_CTRL_INVALID_PARAMETER = 2,
    NETIF_CTRL_BUFFER_OVERFLOW = 3,
};

/* As on the ring, both. */
struct netif_ctrl_request {
    uint16_t id, type;
    uint32_t data[3];
};
struct netif_ctrl_response {
    uint16_t id, type;
    uint32_t status, data;
};

/* An entry of a list of grants that are to stay mapped, in a page of the guest's. */
#define NETIF_GREF_READONLY 1u
struct netif_gref {
    uint32_t ref;
    uint16_t flags, status;
};

struct netif_ctrl {
    void *shared;
    uint32_t req_cons, rsp_prod;
    const char *broken;
};

/* ring: mapped, a page. It goes on where the ring itself says that answers end. */
void netif_ctrl_init(struct netif_ctrl *c, void *ring);
/* 1: taken; 0: none; -EPROTO: broken says why. */
int netif_ctrl_pop(struct netif_ctrl *c, struct netif_ctrl_request *out);
/* Answer the one popped last. True: the guest is to be notified. */
bool netif_ctrl_answer(struct netif_ctrl *c, const struct netif_ctrl_response *r);
/* Ask for an event with the next request; true: one is there already. */
bool netif_ctrl_final_check(struct netif_ctrl *c);

#endif
