/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk on the wire: Virtual I/O Device specification 1.2, section 5.2. */
#ifndef VBD_VIRTIO_BLK_H
#define VBD_VIRTIO_BLK_H

#include "base/endian.h"

/* Feature bits (5.2.3). */
#define VIRTIO_BLK_F_SIZE_MAX 1
#define VIRTIO_BLK_F_SEG_MAX 2
#define VIRTIO_BLK_F_RO 5
#define VIRTIO_BLK_F_BLK_SIZE 6
#define VIRTIO_BLK_F_FLUSH 9
#define VIRTIO_BLK_F_TOPOLOGY 10
#define VIRTIO_BLK_F_CONFIG_WCE 11
#define VIRTIO_BLK_F_MQ 12
#define VIRTIO_BLK_F_DISCARD 13
#define VIRTIO_BLK_F_WRITE_ZEROES 14

/* Configuration space (5.2.4). */
struct virtio_blk_config {
    struct le64 capacity; /* 512-byte units, whatever blk_size */
    struct le32 size_max;
    struct le32 seg_max;
    struct le16 cylinders;
    uint8_t heads;
    uint8_t sectors;
    struct le32 blk_size;
    uint8_t physical_block_exp;
    uint8_t alignment_offset;
    struct le16 min_io_size; /* logical blocks */
    struct le32 opt_io_size; /* logical blocks */
    uint8_t writeback;
    uint8_t unused0;
    struct le16 num_queues;
    struct le32 max_discard_sectors;
    struct le32 max_discard_seg;
    struct le32 discard_sector_alignment;
    struct le32 max_write_zeroes_sectors;
    struct le32 max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap;
    uint8_t unused1[3];
};
_Static_assert(sizeof(struct virtio_blk_config) == 60, "virtio 1.2, 5.2.4");

/* Request header, read by the device (5.2.6). Data follow, then one status byte to be written. */
struct virtio_blk_header {
    struct le32 type;
    struct le32 reserved;
    struct le64 sector; /* 512-byte units */
};

enum virtio_blk_type {
    VIRTIO_BLK_T_IN = 0,
    VIRTIO_BLK_T_OUT = 1,
    VIRTIO_BLK_T_FLUSH = 4,
    VIRTIO_BLK_T_GET_ID = 8,
    VIRTIO_BLK_T_DISCARD = 11,
    VIRTIO_BLK_T_WRITE_ZEROES = 13,
};

enum virtio_blk_status { VIRTIO_BLK_S_OK = 0, VIRTIO_BLK_S_IOERR = 1, VIRTIO_BLK_S_UNSUPP = 2 };

struct virtio_blk_range {
    struct le64 sector;
    struct le32 num_sectors;
    struct le32 flags;
};
#define VIRTIO_BLK_RANGE_UNMAP 1u

#define VIRTIO_BLK_ID_BYTES 20

#endif
