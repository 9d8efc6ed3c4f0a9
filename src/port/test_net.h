/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of ports: network name spaces of the test's own, a hub between two ports, and streams between two hosts. */
#ifndef PORT_TEST_NET_H
#define PORT_TEST_NET_H

#include "port/source.h"

/* Whether this process may make name spaces, taps and packet sockets. Moves it into a name space of its own. */
bool net_permitted(void);
/* A name space; close it. */
int net_new(void);
int net_here(void); /* the one that this thread is in; close it too */
/* This thread is in it from now on. */
void net_enter(int net);
/* A shell command there; it must succeed. */
void net_run(int net, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whatever comes from one of two ports leaves through the other. */
struct hub {
    struct runner_sink sink;
    struct port *ports[2];
    struct runner *runners[8];
    struct port_source *sources[8];
    unsigned count;
    _Atomic uint64_t large, partial, largest_bytes; /* frames beyond 2000 bytes; with an unfinished checksum */
};
void hub_init(struct hub *h, struct port *a, struct port *b);
/* On a runner of its own. */
void hub_add(struct hub *h, struct port_source *s);
void hub_stop(struct hub *h);
bool hub_broken(struct hub *h, unsigned i); /* the source that was added as number i */

/* Send bytes through TCP from one name space to an address (IPv4 or IPv6) in another, and compare them there. */
void net_stream(int from, int to, const char *address, uint64_t bytes);
/* Datagrams of that size, each echoed; how many came back right. segment: cut up by UDP_SEGMENT (0: not). */
unsigned net_echo(int from, int to, const char *address, unsigned count, unsigned bytes, unsigned segment);
/* A datagram to an address whose link-layer address is made up: it leaves at once, and nobody answers. */
void net_shout(int net, const char *device, const char *address);
/* TCP and UDP segments and datagrams that were thrown away there for their checksum. */
uint64_t net_bad_checksums(int net);
/* Call make() with room for 0, 1, 2, ... more descriptors until it succeeds (returns 0): each failure must leave none open. */
void net_few_descriptors(int (*make)(void *arg), void *arg);
/* A batch of datagrams' frames, of as many flows, through the port. */
void net_send_flows(struct port *p);
/* An ethtool command that takes a value (ETHTOOL_STSO, ...). */
void net_ethtool(int net, const char *device, uint32_t command, uint32_t value);

#endif
