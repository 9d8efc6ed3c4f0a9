/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-user on the wire: numbers and layouts (QEMU's docs/interop/vhost-user.rst, "Message
 * Specification", "Front-end message types", "Back-end message types").
 *
 * All numbers are in the host's byte order: both ends run on one machine. Payloads are copied in and
 * out of these structs, never cast to, so their alignment does not matter.
 */
#ifndef GUEST_VHOST_USER_PROTO_H
#define GUEST_VHOST_USER_PROTO_H

#include <assert.h>
#include <stdint.h>

#define VU_VERSION 1u
#define VU_FLAG_VERSION_MASK 3u
#define VU_FLAG_REPLY 4u
#define VU_FLAG_NEED_REPLY 8u

#define VU_RING_INDEX_MASK 0xffu
#define VU_RING_NO_FD 0x100u

#define VU_FDS_MAX 253u /* what one message can carry: SCM_MAX_FD */
#define VU_PAYLOAD_MAX 8192u
#define VU_REPLY_MAX 512u

enum vu_protocol_feature {
    VU_PROTOCOL_F_MQ = 0,
    VU_PROTOCOL_F_RARP = 2,
    VU_PROTOCOL_F_REPLY_ACK = 3,
    VU_PROTOCOL_F_BACKEND_REQ = 5,
    VU_PROTOCOL_F_CONFIG = 9,
    VU_PROTOCOL_F_INFLIGHT_SHMFD = 12,
    VU_PROTOCOL_F_RESET_DEVICE = 13,
    VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15,
    VU_PROTOCOL_F_STATUS = 16,
};

enum vu_request {
    VU_GET_FEATURES = 1,
    VU_SET_FEATURES = 2,
    VU_SET_OWNER = 3,
    VU_RESET_OWNER = 4,
    VU_SET_MEM_TABLE = 5,
    VU_SET_LOG_BASE = 6,
    VU_SET_LOG_FD = 7,
    VU_SET_VRING_NUM = 8,
    VU_SET_VRING_ADDR = 9,
    VU_SET_VRING_BASE = 10,
    VU_GET_VRING_BASE = 11,
    VU_SET_VRING_KICK = 12,
    VU_SET_VRING_CALL = 13,
    VU_SET_VRING_ERR = 14,
    VU_GET_PROTOCOL_FEATURES = 15,
    VU_SET_PROTOCOL_FEATURES = 16,
    VU_GET_QUEUE_NUM = 17,
    VU_SET_VRING_ENABLE = 18,
    VU_SEND_RARP = 19,
    VU_NET_SET_MTU = 20,
    VU_SET_BACKEND_REQ_FD = 21,
    VU_IOTLB_MSG = 22,
    VU_SET_VRING_ENDIAN = 23,
    VU_GET_CONFIG = 24,
    VU_SET_CONFIG = 25,
    VU_CREATE_CRYPTO_SESSION = 26,
    VU_CLOSE_CRYPTO_SESSION = 27,
    VU_POSTCOPY_ADVISE = 28,
    VU_POSTCOPY_LISTEN = 29,
    VU_POSTCOPY_END = 30,
    VU_GET_INFLIGHT_FD = 31,
    VU_SET_INFLIGHT_FD = 32,
    VU_GPU_SET_SOCKET = 33,
    VU_RESET_DEVICE = 34,
    VU_VRING_KICK = 35,
    VU_GET_MAX_MEM_SLOTS = 36,
    VU_ADD_MEM_REG = 37,
    VU_REM_MEM_REG = 38,
    VU_SET_STATUS = 39,
    VU_GET_STATUS = 40,
    VU_REQUEST_COUNT
};

/* Requests of ours, on the back-end channel. */
enum vu_backend_request {
    VU_BACKEND_CONFIG_CHANGE_MSG = 2,
};

struct vu_header {
    uint32_t request;
    uint32_t flags;
    uint32_t size; /* of the payload, bytes */
};

struct vu_vring_state {
    uint32_t index;
    uint32_t num;
};

struct vu_vring_addr {
    uint32_t index;
    uint32_t flags; /* bit 0: log writes to the used ring */
    uint64_t descriptor;
    uint64_t used;
    uint64_t available;
    uint64_t log;
};

struct vu_region {
    uint64_t guest_addr;
    uint64_t size_bytes;
    uint64_t user_addr;
    uint64_t file_offset_bytes;
};

struct vu_mem_table_head {
    uint32_t count;
    uint32_t padding;
};

struct vu_single_region {
    uint64_t padding;
    struct vu_region region;
};

struct vu_config_head {
    uint32_t offset;
    uint32_t size_bytes;
    uint32_t flags; /* 0: the driver writes, 1: a migration writes */
};

struct vu_inflight {
    uint64_t size_bytes;
    uint64_t offset_bytes;
    uint16_t queues;
    uint16_t queue_size;
    uint32_t tail; /* some front ends send the padding of their C struct, some do not */
};
#define VU_INFLIGHT_PACKED_BYTES 20u

static_assert(sizeof(struct vu_header) == 12, "vhost-user message header");
static_assert(sizeof(struct vu_vring_addr) == 40, "vhost-user vring address description");
static_assert(sizeof(struct vu_region) == 32, "vhost-user memory region");
static_assert(sizeof(struct vu_single_region) == 40, "vhost-user single memory region");
static_assert(sizeof(struct vu_config_head) == 12, "vhost-user config space");
static_assert(sizeof(struct vu_inflight) == 24, "vhost-user inflight description");
static_assert(sizeof(struct vu_mem_table_head) + VU_FDS_MAX * sizeof(struct vu_region) <= VU_PAYLOAD_MAX,
              "a memory table with as many regions as descriptors fits");

/* "SET_VRING_NUM"; NULL for a number that is not in the specification. */
const char *vu_request_name(uint32_t request);

#endif
