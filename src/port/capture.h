/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What passes through a port, as a pcapng file, while it runs.
 *
 *     runner threads --blocks--> ring --> writer thread --> fd
 *
 * The threads that carry frames put finished blocks into a ring, without a lock or a system call; one thread writes them out.
 * When the ring is full, because the file is slow, frames are left out and counted: nobody waits for a capture.
 * Frames are as the port gets and gives them: a large segment is one frame, an unfinished checksum is not finished.
 *
 * Source: pcapng (draft-ietf-opsawg-pcapng), sections 4.1 (section header), 4.2 (interface), 4.3 (enhanced packet), 4.6
 * (interface statistics).
 *
 * Thread-safety: port_capture_frames() on any thread; the others on the control thread, statistics on any.
 */
#ifndef PORT_CAPTURE_H
#define PORT_CAPTURE_H

#include "base/errmsg.h"
#include "port/port.h"

#define PORT_CAPTURE_SNAP_MAX 262144u
#define PORT_CAPTURE_RING_DEFAULT (4u << 20)

enum port_capture_direction {
    PORT_CAPTURE_IN = 1,
    PORT_CAPTURE_OUT = 2,
    PORT_CAPTURE_BOTH = 3
}; /* seen from the switch */

struct port_capture_config {
    int fd;              /* a file, pipe or socket; duplicated */
    uint32_t snap_bytes; /* of each frame at most; 0: all */
    uint32_t ring_bytes; /* 0: PORT_CAPTURE_RING_DEFAULT; rounded up to a power of two */
    enum port_capture_direction direction;
};

struct port_capture_stats {
    uint64_t frames, dropped; /* put into the ring; left out */
    uint64_t written_bytes;
    int error; /* errno of the write that failed: nothing was written after it. 0: none */
};

/* From now on. -EBUSY: the port is being captured already. */
int port_capture_start(struct port_capture **out, struct port *p, const struct port_capture_config *c,
                       struct errmsg *e);
/* Of that port from now on, which takes the other's place. No thread may use either of them. */
void port_capture_move(struct port_capture *c, struct port *to);
/* Nothing is put in after it returned; what is in the ring has been written, or given up when the reader of a pipe takes longer than
 * a second. */
void port_capture_stop(struct port_capture *c);
/* Stopped, and every runner thread has passed a quiescent state since. */
void port_capture_free(struct port_capture *c);
void port_capture_stats_read(struct port_capture *c, struct port_capture_stats *out);

/* For port_send() and runners. */
void port_capture_frames(struct port_capture *c, struct packet *const *packets, unsigned count,
                         enum port_capture_direction direction);

#endif
