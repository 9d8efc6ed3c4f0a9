/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-net-bench: what its parts share. vhost_net_bench.c reads the options and calls one of the modes; each
 * returns the program's exit code (0 good, 1 a failure of what was tested, 2 could not run).
 */
#ifndef BENCH_NET_BENCH_H
#define BENCH_NET_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "net_frontend.h"

#define NET_PORTS_MAX 64
#define NET_RECORD_BYTES 64u /* of a file of frames; the first frame_bytes of each are sent */

/* What a port sends. */
struct net_frames {
    uint8_t *record; /* count of them, NET_RECORD_BYTES each */
    uint32_t count;
    uint32_t frame_bytes;
};

struct net_port_options {
    const char *socket_path;
    const char *frames_path; /* records made by somebody else */
    uint32_t flows;          /* or so many UDP flows, told apart by their destination address */
    uint32_t stream_bytes;   /* or TCP segments of so many bytes, to be cut by whoever needs that */
    double rate;             /* frames a second at most; 0: as many as it takes */
};

struct net_options {
    struct netfe_args card;
    struct net_port_options port[NET_PORTS_MAX];
    unsigned ports;
    uint32_t frame_bytes;
    uint32_t mss;
    unsigned counter_at, counter_bytes; /* a running number in each frame; 0 bytes: none */
    double runtime_s, ramp_s;
    bool verify, verify_full;
    bool reconnect;
    unsigned relax_us; /* sleep so long when there is nothing to do: leaves the processor to the switch */
    bool drain;        /* count what arrives shortly after the end: then sent and received can be compared */
    bool json;
    const char *socket_dir;
    unsigned count;
    double idle_s;
};

int net_load(const struct net_options *o);
int net_attach_many(const struct net_options *o);

/* net_content.c */
/* Records from a file, or UDP flows of port `index` of `ports` (which sends to the next one). 0 or -errno. */
int net_frames_read(struct net_frames *f, const char *path, struct errmsg *e);
int net_frames_flows(struct net_frames *f, unsigned index, unsigned ports, uint32_t flows);
void net_frames_free(struct net_frames *f);
/* Make a UDP frame's payload say that it is whole; and whether it does. Frames of at least 60 bytes. */
void net_seal(uint8_t *frame, uint64_t number);
bool net_sealed(const uint8_t *frame);

/* A large TCP segment with its virtio-net header, into a transmit buffer. */
void net_stream_fill(char *buffer, uint32_t frame_bytes, uint32_t mss, unsigned index, unsigned ports);
/* What stands in it at frame byte `at`, a multiple of 8 from NET_STREAM_CONTENT_AT on. */
#define NET_STREAM_CONTENT_AT 56u
uint64_t net_stream_word(uint32_t at);

#endif
