/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: random frames with few values of everything, so that flows meet them, and with all that a key can tell. */
#ifndef SWITCH_ORACLE_FRAME_H
#define SWITCH_ORACLE_FRAME_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define ORACLE_FRAME_BYTES 256u

struct oracle_frame {
    uint8_t bytes[ORACLE_FRAME_BYTES];
    unsigned length;
    bool broken; /* what is not in it whole, or lies behind extension headers, setting fails on, or has more effects */
    uint64_t *seed;
};

static inline unsigned oracle_random(uint64_t *seed, unsigned below)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return (unsigned)(*seed >> 33) % below;
}

static inline unsigned oracle_pick(struct oracle_frame *f, unsigned below)
{
    return oracle_random(f->seed, below);
}

static inline void oracle_put(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void oracle_icmp(struct oracle_frame *f, uint8_t *p, unsigned proto)
{
    p[0] = (uint8_t)(oracle_pick(f, 2) * 8);
    p[1] = (uint8_t)oracle_pick(f, 2);
    if (proto != 58 || oracle_pick(f, 2)) return;
    p[0] = (uint8_t)(135 + oracle_pick(f, 2)); /* neighbour discovery, if the code is 0 */
    p[8] = 0xfd;
    p[23] = (uint8_t)oracle_pick(f, 3);
    if (oracle_pick(f, 4) == 0) return;
    p[24] = (uint8_t)(1 + oracle_pick(f, 2));
    p[25] = 1;
    p[26] = 2;
    p[31] = (uint8_t)oracle_pick(f, 3);
}

static inline void oracle_l4(struct oracle_frame *f, uint8_t *p, unsigned proto)
{
    if (proto == 1 || proto == 58) {
        oracle_icmp(f, p, proto);
        return;
    }
    oracle_put(p, 1000 + oracle_pick(f, 4));
    oracle_put(p + 2, 80 + oracle_pick(f, 4));
    if (proto == 6) {
        p[12] = 0x50;
        p[13] = (uint8_t)(oracle_pick(f, 2) ? 2 : 16);
    } else {
        oracle_put(p + 4, 40);
    }
}

static inline unsigned oracle_ipv4(struct oracle_frame *f, uint8_t *p)
{
    static const uint8_t protos[] = {6, 6, 17, 17, 1, 132, 47, 0};
    unsigned proto = protos[oracle_pick(f, 8)];
    p[0] = 0x45;
    p[1] = (uint8_t)(oracle_pick(f, 3) * 4);
    oracle_put(p + 2, 60);
    if (oracle_pick(f, 8) == 0) oracle_put(p + 6, oracle_pick(f, 2) ? 0x2000 : 0x2005);
    p[8] = (uint8_t)(oracle_pick(f, 3) ? 64 : oracle_pick(f, 3));
    p[9] = (uint8_t)proto;
    p[12] = p[16] = 10;
    p[14] = (uint8_t)oracle_pick(f, 2);
    p[15] = (uint8_t)oracle_pick(f, 4);
    p[18] = (uint8_t)oracle_pick(f, 2);
    p[19] = (uint8_t)(oracle_pick(f, 2) ? oracle_pick(f, 4) : 128 + oracle_pick(f, 4));
    if (!(p[7] & 5)) oracle_l4(f, p + 20, proto);
    if (p[6] && proto == 132) f->broken = true; /* nobody can make the CRC of a part anew */
    if (oracle_pick(f, 24) == 0) {              /* it says that it ends in its L4 header, or before that of its own */
        f->broken = true;
        oracle_put(p + 2, oracle_pick(f, 40));
    }
    return 60;
}

/* Hop-by-hop, destination options, routing, fragment, with nothing in them. Where the last one ends. */
static inline unsigned oracle_extensions(struct oracle_frame *f, uint8_t *p, unsigned proto)
{
    static const uint8_t types[] = {0, 60, 43, 44};
    unsigned at = 40;
    uint8_t *next = &p[6];
    for (unsigned i = oracle_pick(f, 3); i > 0; i--, at += 8) {
        *next = types[oracle_pick(f, 4)];
        if (*next == 44) oracle_put(p + at + 2, oracle_pick(f, 3) * (oracle_pick(f, 2) ? 1 : 8));
        next = &p[at];
        f->broken = true;
    }
    *next = (uint8_t)proto;
    return at;
}

static inline unsigned oracle_ipv6(struct oracle_frame *f, uint8_t *p)
{
    static const uint8_t protos[] = {6, 17, 58, 58, 132, 59, 0};
    unsigned proto = protos[oracle_pick(f, 7)], at = 40;
    p[0] = 0x60;
    p[3] = (uint8_t)oracle_pick(f, 2);
    p[6] = (uint8_t)proto;
    p[7] = 64;
    p[8] = p[24] = 0xfd;
    p[23] = (uint8_t)oracle_pick(f, 3);
    p[39] = (uint8_t)oracle_pick(f, 3);
    if (proto == 59 || proto == 0) f->broken = true; /* they are extension headers themselves */
    if (oracle_pick(f, 4) == 0) at = oracle_extensions(f, p, proto);
    oracle_l4(f, p + at, proto);
    oracle_put(p + 4, at);
    if (oracle_pick(f, 24) == 0) {
        f->broken = true;
        oracle_put(p + 4, oracle_pick(f, at + 30));
    }
    return at + 40;
}

static inline unsigned oracle_arp(struct oracle_frame *f, uint8_t *p)
{
    memcpy(p, "\0\1\x08\0\6\4\0\1", 8);
    p[7] = (uint8_t)(1 + oracle_pick(f, 2));
    p[14] = p[24] = 10;
    p[17] = (uint8_t)oracle_pick(f, 4);
    p[27] = (uint8_t)oracle_pick(f, 4);
    return 28;
}

/* At `at`, where a type will be. Where it is then. */
static inline unsigned oracle_tags(struct oracle_frame *f, unsigned at)
{
    for (unsigned tags = oracle_pick(f, 3) ? 0 : 1 + (oracle_pick(f, 3) == 0); tags > 0; tags--, at += 4) {
        oracle_put(f->bytes + at, oracle_pick(f, 4) ? 0x8100 : 0x88a8);
        oracle_put(f->bytes + at + 2, oracle_pick(f, 2) << 13 | oracle_pick(f, 4));
    }
    return at;
}

static inline void oracle_addresses(struct oracle_frame *f, uint8_t *p)
{
    p[0] = p[6] = 2;
    p[5] = (uint8_t)oracle_pick(f, 4);
    p[11] = (uint8_t)oracle_pick(f, 4);
}

/* IP, ARP or something else, seldom what is said. */
static inline unsigned oracle_payload(struct oracle_frame *f, uint8_t *p, unsigned *type)
{
    unsigned kind = oracle_pick(f, 8);
    *type = kind < 4 ? 0x0800 : kind < 6 ? 0x86dd : kind < 7 ? 0x0806 : 0x1234;
    return kind < 4 ? oracle_ipv4(f, p) : kind < 6 ? oracle_ipv6(f, p) : kind < 7 ? oracle_arp(f, p) : 20;
}

static inline unsigned oracle_mpls(struct oracle_frame *f, uint8_t *p)
{
    unsigned labels = 1 + oracle_pick(f, 4), unused;
    for (unsigned i = 0; i < labels; i++, p += 4) {
        bool bottom = i + 1 == labels;
        p[1] = (uint8_t)oracle_pick(f, 2); /* the label: 0, 16 and so on */
        p[2] = (uint8_t)(oracle_pick(f, 3) << 1 | (oracle_pick(f, 16) ? bottom : !bottom));
        p[3] = (uint8_t)(oracle_pick(f, 3) ? 64 : oracle_pick(f, 3));
    }
    return labels * 4 + oracle_payload(f, p, &unused);
}

/* From the type at `at` on: one kind of kinds (0: none) has labels, one an I-TAG. Where the frame ends. */
static inline unsigned oracle_from_type(struct oracle_frame *f, unsigned at, unsigned kinds)
{
    unsigned type, end = at + 2, kind = kinds ? oracle_pick(f, kinds) : 2;
    if (kind == 0) {
        type = oracle_pick(f, 4) ? 0x8847 : 0x8848;
        end += oracle_mpls(f, f->bytes + end);
    } else if (kind == 1) {
        type = 0x88e7;
        f->bytes[end] = (uint8_t)(oracle_pick(f, 2) << 5);
        f->bytes[end + 3] = (uint8_t)oracle_pick(f, 3);
        oracle_addresses(f, f->bytes + end + 4);
        end = oracle_from_type(f, oracle_tags(f, end + 16), oracle_pick(f, 3) == 0 && at < 24 ? 5 : 0);
    } else {
        end += oracle_payload(f, f->bytes + end, &type);
    }
    oracle_put(f->bytes + at, type);
    return end;
}

/* shims: most have labels or an I-TAG. */
static inline void oracle_frame(struct oracle_frame *f, uint64_t *seed, bool shims)
{
    memset(f, 0, sizeof *f);
    f->seed = seed;
    oracle_addresses(f, f->bytes);
    f->length = oracle_from_type(f, oracle_tags(f, 12), shims && oracle_pick(f, 8) ? 2 : 5);
    if (oracle_pick(f, 8) == 0) { /* padding, which is not to be taken for anything */
        unsigned bytes = oracle_pick(f, 18);
        memset(f->bytes + f->length, 0x50, bytes);
        f->length += bytes;
    }
    if (oracle_pick(f, 24) == 0) {
        f->broken = true;
        f->length = 14 + oracle_pick(f, f->length - 14);
    }
}

#endif
