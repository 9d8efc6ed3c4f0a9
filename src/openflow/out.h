/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growing buffer of messages, and how they are written: begin, fields, end. No memory is noticed at the end.
 *
 * Thread-safety: its owner's.
 */
#ifndef OPENFLOW_OUT_H
#define OPENFLOW_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct of_out {
    uint8_t *bytes;
    size_t start, count, room; /* sent up to start */
    size_t message;            /* where the message that is being written begins */
    bool failed;               /* no memory */
};

void of_out_init(struct of_out *o);
void of_out_clear(struct of_out *o);
/* Room for that many zero bytes, or NULL. Good until the next call. */
void *of_out_put(struct of_out *o, size_t bytes);
void of_out_put_bytes(struct of_out *o, const void *from, size_t bytes);
void of_out_pad8(struct of_out *o, size_t since); /* zeros, to a multiple of 8 counted from offset `since` */
static inline size_t of_out_at(const struct of_out *o)
{
    return o->count;
}
void *of_out_ptr(struct of_out *o, size_t offset); /* what was put there, to be filled in later */

/* Whole messages that wait. */
static inline size_t of_out_queued(const struct of_out *o)
{
    return o->count - o->start;
}
/* So many bytes from `start` were sent. Not between begin and end. */
void of_out_sent(struct of_out *o, size_t bytes);

/* A header of version 4. */
void of_out_begin(struct of_out *o, uint8_t type, uint32_t xid);
/* Its length is filled in. False: no memory, or it is longer than 65,535 bytes: it is taken back. */
bool of_out_end(struct of_out *o);

#endif
