/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: a switch with an agent, and peers at the other end of socket pairs that write and read messages byte by byte, so that
 * nothing of the codec is tested by itself.
 */
#ifndef OPENFLOW_TEST_CLIENT_H
#define OPENFLOW_TEST_CLIENT_H

#include "openflow/agent.h"
#include "openflow/wire.h"
#include "switch/test_rig.h"

struct noted { /* what the keeper was told */
    unsigned flows, groups, meters, ports, tables, commits, gone;
    enum of_change last;
    enum flow_gone why;
};

struct world {
    struct rig rig;
    struct loop *loop;
    struct of_agents *all;
    struct of_agent *agent;
    struct noted noted;
    unsigned established, ended;
};

/* Ports 1 to count, no flows. */
void world_open(struct world *w, unsigned count, unsigned packet_in_rate);
void world_close(struct world *w);
/* For cmocka: a world of four ports as *state. */
int world_setup(void **state);
int world_teardown(void **state);
/* Everything that can be done now. */
void world_run(struct world *w);

/* A message in the making. */
struct msg {
    size_t bytes;
    uint8_t at[OFP_MESSAGE_MAX + 1];
};
void msg_begin(struct msg *m, uint8_t type, uint32_t xid);
void msg_u8(struct msg *m, unsigned v);
void msg_u16(struct msg *m, unsigned v);
void msg_u32(struct msg *m, uint32_t v);
void msg_u64(struct msg *m, uint64_t v);
void msg_bytes(struct msg *m, const void *from, size_t bytes);
void msg_zeros(struct msg *m, size_t bytes);
/* Multipart header behind msg_begin(). */
void msg_multipart(struct msg *m, unsigned type, unsigned flags, uint32_t xid);
/* An ofp_match with in_port, or (0) without any field. */
void msg_match(struct msg *m, uint32_t in_port);

struct flow_text { /* a flow mod in a few words; what is 0 is left alone */
    unsigned command, table, priority, idle, hard, flags;
    uint64_t cookie, cookie_mask;
    uint32_t buffer, out_port, out_group; /* 0: none */
    uint32_t in_port;                     /* to match */
    uint32_t output;                      /* 0: no instruction */
    unsigned max_len;
};
void msg_flow_mod(struct msg *m, uint32_t xid, const struct flow_text *f);

struct client {
    struct world *w;
    int fd;
    bool over; /* the switch has closed it */
    size_t have;
    uint8_t in[1u << 18];
};
/* Says hello, and has the switch's. */
void client_open(struct client *c, struct world *w, enum of_peer peer);
/* And asks for features, as controllers do. */
void client_open_controller(struct client *c, struct world *w);
void client_close(struct client *c);
void client_send(struct client *c, struct msg *m);
/* A message that is only a header. */
void client_ask(struct client *c, uint8_t type, uint32_t xid);
/* The next message, NULL: there is none now. Good until the next call. */
const uint8_t *client_get(struct client *c, size_t *bytes);
/* It must be of that type. */
const uint8_t *client_expect(struct client *c, uint8_t type, uint32_t xid);
void client_expect_error(struct client *c, uint32_t xid, unsigned type, unsigned code);
void client_expect_nothing(struct client *c);
/* Send, and nothing comes back but the barrier's reply. */
void client_do(struct client *c, struct msg *m);
void client_do_flow(struct client *c, const struct flow_text *f);
/* Send, and be refused. */
void client_refused(struct client *c, struct msg *m, unsigned type, unsigned code);

unsigned get16(const uint8_t *at);
uint32_t get32(const uint8_t *at);
uint64_t get64(const uint8_t *at);

#endif
