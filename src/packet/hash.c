/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/hash.h"

#include <string.h>

#define ETH_BYTES 14u

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ (h >> 32);
}

static uint64_t hash_ports(const struct packet *p, unsigned at, uint8_t protocol, uint64_t h)
{
    uint32_t ports;
    if ((protocol != 6 && protocol != 17) || at + sizeof ports > p->head_bytes) return h;
    memcpy(&ports, p->head + at, sizeof ports);
    return mix(h, ports);
}

static uint64_t hash_ipv4(const struct packet *p, unsigned at)
{
    const uint8_t *ip = p->head + at;
    uint64_t h = mix(ip[9], load64(ip + 12));
    bool fragment = (ip[6] & 0x3f) | ip[7];
    return fragment ? h : hash_ports(p, at + (ip[0] & 15u) * 4, ip[9], h);
}

static uint64_t hash_ipv6(const struct packet *p, unsigned at)
{
    const uint8_t *ip = p->head + at;
    uint64_t h = ip[6];
    for (unsigned i = 8; i < 40; i += 8)
        h = mix(h, load64(ip + i));
    return hash_ports(p, at + 40, ip[6], h);
}

uint32_t packet_hash(const struct packet *p)
{
    if (p->head_bytes < ETH_BYTES) return 1;
    unsigned at = 12, type = (unsigned)(p->head[12] << 8 | p->head[13]);
    while ((type == 0x8100 || type == 0x88a8) && at + 6 <= p->head_bytes) {
        at += 4;
        type = (unsigned)(p->head[at] << 8 | p->head[at + 1]);
    }
    at += 2;
    uint64_t h;
    if (type == 0x0800 && at + 20 <= p->head_bytes) h = hash_ipv4(p, at);
    else if (type == 0x86dd && at + 40 <= p->head_bytes) h = hash_ipv6(p, at);
    else h = mix(load64(p->head), (uint64_t)p->head[8] << 24 | p->head[9] << 16 | p->head[10] << 8 | p->head[11]);
    return (uint32_t)(h ^ (h >> 32)) | 1;
}
