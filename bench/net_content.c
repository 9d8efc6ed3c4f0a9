/* SPDX-License-Identifier: Apache-2.0 */
/* The frames that vhost-net-bench sends: see net_bench.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>

#include "base/cleanup.h"
#include "net_bench.h"

#define IP_AT 14u
#define L4_AT 34u
#define SEAL_AT 44u /* number and seal, at the end of a frame of 60 bytes */

static uint32_t sum_words(const void *p, size_t bytes, uint32_t sum)
{
    const uint8_t *b = p;
    for (size_t i = 0; i + 1 < bytes; i += 2) {
        sum += (uint32_t)b[i] << 8 | b[i + 1];
    }
    return sum;
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint16_t)sum;
}

static void put_ethernet(uint8_t *frame, unsigned index, unsigned ports)
{
    struct ether_header *eth = (void *)frame;
    memset(eth, 0, sizeof *eth);
    eth->ether_dhost[0] = eth->ether_shost[0] = 2;
    eth->ether_dhost[5] = (uint8_t)((index + 1) % ports + 1);
    eth->ether_shost[5] = (uint8_t)(index + 1);
    eth->ether_type = htons(ETHERTYPE_IP);
}

static void put_ip(uint8_t *frame, uint32_t length, uint8_t protocol, uint32_t src, uint32_t dst)
{
    struct iphdr ip = {.version = 4,
                       .ihl = 5,
                       .tot_len = htons((uint16_t)(length - IP_AT)),
                       .ttl = 64,
                       .protocol = protocol,
                       .frag_off = htons(0x4000),
                       .saddr = htonl(src),
                       .daddr = htonl(dst)};
    ip.check = htons((uint16_t)~fold(sum_words(&ip, sizeof ip, 0)));
    memcpy(frame + IP_AT, &ip, sizeof ip);
}

int net_frames_flows(struct net_frames *f, unsigned index, unsigned ports, uint32_t flows)
{
    f->record = calloc(flows, NET_RECORD_BYTES);
    if (!f->record) return -ENOMEM;
    f->count = flows;
    for (uint32_t i = 0; i < flows; i++) {
        uint8_t *frame = f->record + (size_t)i * NET_RECORD_BYTES;
        put_ethernet(frame, index, ports);
        /* The addresses that testpmd's flowgen uses: 10.254.0.0 to 10.253.0.0 and on. */
        put_ip(frame, 60, IPPROTO_UDP, 0x0afe0000, 0x0afd0000 + i);
        struct udphdr udp = {.source = htons(1000), .dest = htons(1001), .len = htons(60 - L4_AT)};
        memcpy(frame + L4_AT, &udp, sizeof udp);
    }
    return 0;
}

int net_frames_read(struct net_frames *f, const char *path, struct errmsg *e)
{
    FILE *in = fopen(path, "rb");
    if (!in) return errmsg_sys(e, errno, "%s", path);
    fseek(in, 0, SEEK_END);
    long bytes = ftell(in);
    rewind(in);
    int ret = 0;
    if (bytes < (long)NET_RECORD_BYTES || bytes % (long)NET_RECORD_BYTES)
        ret = errmsg_set(e, EINVAL, "%s: %ld bytes, not a multiple of %u", path, bytes, NET_RECORD_BYTES);
    if (ret == 0) {
        f->count = (uint32_t)((unsigned long)bytes / NET_RECORD_BYTES);
        f->record = malloc((size_t)bytes);
        if (!f->record) ret = errmsg_sys(e, ENOMEM, "%s", path);
        if (ret == 0 && fread(f->record, (size_t)bytes, 1, in) != 1) ret = errmsg_set(e, EIO, "reading %s", path);
    }
    fclose(in);
    return ret;
}

void net_frames_free(struct net_frames *f)
{
    free(f->record);
    *f = (struct net_frames){0};
}

static uint64_t seal_of(uint64_t number)
{
    return (number + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

void net_seal(uint8_t *frame, uint64_t number)
{
    uint64_t words[2] = {number, seal_of(number)};
    memcpy(frame + SEAL_AT, words, sizeof words);
}

bool net_sealed(const uint8_t *frame)
{
    uint64_t words[2];
    memcpy(words, frame + SEAL_AT, sizeof words);
    return words[1] == seal_of(words[0]);
}

/* ---- Streams ---- */

uint64_t net_stream_word(uint32_t at)
{
    uint64_t z = (at + UINT64_C(1)) * UINT64_C(0xd6e8feb86659fd93);
    return z ^ (z >> 29);
}

void net_stream_fill(char *buffer, uint32_t frame_bytes, uint32_t mss, unsigned index, unsigned ports)
{
    struct virtio_net_hdr_v1 h = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                  .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                  .hdr_len = L4_AT + 20,
                                  .gso_size = (uint16_t)mss,
                                  .csum_start = L4_AT,
                                  .csum_offset = offsetof(struct tcphdr, check)};
    uint8_t *frame = (uint8_t *)buffer + NETFE_HEADER_BYTES;
    if (frame_bytes <= L4_AT + 20 + mss) h.gso_type = VIRTIO_NET_HDR_GSO_NONE, h.gso_size = 0;
    memcpy(buffer, &h, NETFE_HEADER_BYTES);
    put_ethernet(frame, index, ports);
    uint32_t addresses[2] = {0x0a000001 + index, 0x0a000001 + (index + 1) % ports};
    put_ip(frame, frame_bytes, IPPROTO_TCP, addresses[0], addresses[1]);
    uint32_t tcp_bytes = frame_bytes - L4_AT;
    struct tcphdr tcp = {.source = htons(5001), .dest = htons(5001), .doff = 5, .ack = 1, .window = htons(65535)};
    uint32_t pseudo[2] = {htonl(addresses[0]), htonl(addresses[1])};
    tcp.check = htons(fold(sum_words(pseudo, sizeof pseudo, IPPROTO_TCP + tcp_bytes)));
    memcpy(frame + L4_AT, &tcp, sizeof tcp);
    for (uint32_t at = NET_STREAM_CONTENT_AT; at + 8 <= frame_bytes; at += 8) {
        uint64_t word = net_stream_word(at);
        memcpy(frame + at, &word, sizeof word);
    }
}
