/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: tags and labels pushed and popped in the most obvious way, on a frame of bytes. Each returns false, with nothing done, where
 * the frame has no such thing, or not all of it.
 */
#ifndef SWITCH_NAIVE_FRAME_H
#define SWITCH_NAIVE_FRAME_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NAIVE_FRAME_BYTES 512u

struct naive_frame {
    unsigned length;
    unsigned inserted; /* bytes, in all: the switch has room for some only */
    unsigned type_at;  /* behind the VLAN tags that the key knows */
    uint8_t bytes[NAIVE_FRAME_BYTES];
};

static inline unsigned naive_u16(const struct naive_frame *f, unsigned at)
{
    return at + 2 <= f->length ? (unsigned)(f->bytes[at] << 8 | f->bytes[at + 1]) : 0;
}

static inline void naive_put(struct naive_frame *f, unsigned at, uint32_t v, unsigned bytes)
{
    while (bytes-- > 0) {
        f->bytes[at + bytes] = (uint8_t)v;
        v >>= 8;
    }
}

static inline bool naive_is_vlan(unsigned type)
{
    return type == 0x8100 || type == 0x88a8;
}

static inline bool naive_insert(struct naive_frame *f, unsigned at, unsigned n)
{
    if (at > f->length || f->length + n > NAIVE_FRAME_BYTES) return false;
    memmove(f->bytes + at + n, f->bytes + at, f->length - at);
    f->length += n;
    f->inserted += n;
    return true;
}

static inline bool naive_remove(struct naive_frame *f, unsigned at, unsigned n)
{
    if (at + n > f->length) return false;
    memmove(f->bytes + at, f->bytes + at + n, f->length - at - n);
    f->length -= n;
    return true;
}

static inline bool naive_push_vlan(struct naive_frame *f, unsigned type, unsigned tci)
{
    if (!naive_insert(f, 12, 4)) return false;
    naive_put(f, 12, type, 2);
    naive_put(f, 14, tci & 0xefff, 2);
    f->type_at += 4;
    return true;
}

/* A tag with no type behind it is none. */
static inline bool naive_pop_vlan(struct naive_frame *f)
{
    if (!naive_is_vlan(naive_u16(f, 12)) || f->length < 18 || !naive_remove(f, 12, 4)) return false;
    f->type_at -= 4;
    return true;
}

/* The outermost label's entry; 0: none. */
static inline unsigned naive_label_at(const struct naive_frame *f)
{
    unsigned at = f->type_at, type = naive_u16(f, at);
    return (type == 0x8847 || type == 0x8848) && at + 6 <= f->length ? at + 2 : 0;
}

static inline bool naive_push_mpls(struct naive_frame *f, unsigned type, uint32_t entry)
{
    unsigned at = f->type_at;
    if (at + 2 > f->length || !naive_insert(f, at + 2, 4)) return false;
    naive_put(f, at, type, 2);
    naive_put(f, at + 2, entry, 4);
    return true;
}

static inline bool naive_pop_mpls(struct naive_frame *f, unsigned type)
{
    unsigned at = naive_label_at(f);
    if (!at) return false;
    naive_put(f, at - 2, type, 2);
    return naive_remove(f, at, 4);
}

static inline bool naive_push_pbb(struct naive_frame *f, uint32_t tci)
{
    if (!naive_insert(f, 12, 18)) return false;
    naive_put(f, 12, 0x88e7, 2);
    naive_put(f, 14, tci, 4);
    memcpy(f->bytes + 18, f->bytes, 12);
    return true;
}

static inline bool naive_pop_pbb(struct naive_frame *f)
{
    unsigned at = f->type_at;
    if (naive_u16(f, at) != 0x88e7 || at + 18 > f->length) return false;
    memcpy(f->bytes, f->bytes + at + 6, 12);
    return naive_remove(f, at, 18);
}

/* The TTL below the outermost label: another label's, or IP's; 0: none. */
static inline unsigned naive_ttl_below(const struct naive_frame *f)
{
    unsigned at = naive_label_at(f);
    if (!at) return 0;
    unsigned below = at + 4;
    if (!(f->bytes[at + 2] & 1)) return below + 4 <= f->length ? below + 3 : 0;
    if (below < f->length && f->bytes[below] >> 4 == 4 && below + 20 <= f->length) return below + 8;
    if (below < f->length && f->bytes[below] >> 4 == 6 && below + 40 <= f->length) return below + 7;
    return 0;
}

static inline bool naive_copy_ttl(struct naive_frame *f, bool out)
{
    unsigned ttl = naive_label_at(f) + 3, below = naive_ttl_below(f);
    if (!below) return false;
    if (out) f->bytes[ttl] = f->bytes[below];
    else f->bytes[below] = f->bytes[ttl];
    return true;
}

#endif
