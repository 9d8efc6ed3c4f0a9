/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an agent is made of, shared by agent*.c only.
 *
 *     of_agents        of the process: packets on their way from datapath threads (agent_packet_in.c)
 *       of_agent       of a bridge: its sessions, buffered packets, what controllers agreed on
 *         of_session   a connection and what its peer has asked for
 *
 * Everything is the control thread's but what is _Atomic, which datapath threads read or count.
 */
#ifndef OPENFLOW_AGENT_INTERNAL_H
#define OPENFLOW_AGENT_INTERNAL_H

#include <stdatomic.h>

#include "base/list.h"
#include "loop/mailbox.h"
#include "openflow/agent.h"
#include "openflow/codec.h"
#include "openflow/conn.h"
#include "openflow/wire.h"

#define BARRIERS_TOGETHER 64u                 /* answered after one wait */
#define TURN_NS (2 * UINT64_C(1000000))       /* then others may be heard */
#define MULTIPART_BYTES_MAX (1u << 20)        /* a request in parts */
#define PACKET_IN_BYTES_MAX 65280u            /* what fits into a message with any match */
#define PACKET_IN_OUTPUT_MAX_BYTES (1u << 18) /* queued for a peer: then it is told of no more packets */
#define PACKET_INS_BYTES_MAX (16u << 20)      /* of a bridge, on their way to the control thread */
#define PACKET_IN_GATES 1024u                 /* ports whose numbers differ by a multiple of it share one */
#define BUFFERED_BYTES_MAX (4u << 20)         /* of a bridge */
#define BUFFERED_AGE_NS (10 * UINT64_C(1000000000))

/* Asynchronous messages that a peer can choose by reason. */
enum async { ASYNC_PACKET_IN, ASYNC_PORT_STATUS, ASYNC_FLOW_REMOVED };

#define ANSWER_QUEUED_BYTES (1u << 18) /* enough is queued: the rest of a long answer is made later */
#define ANSWER_ENTRIES 2048u           /* at a time: others want the loop, too */

/* A long answer in the making. more() puts some entries into the part that was begun, until it is full; false: there are no
 * more. */
struct answer {
    bool (*more)(struct of_agent *a, struct answer *answer, struct of_out *o); /* NULL: nothing is being answered */
    uint16_t type;                                                             /* OFPMP_* */
    uint32_t xid;
    uint32_t number;  /* what was asked for: of a port, a group, a meter, or all of them */
    unsigned entries; /* since others had the loop */
    uint64_t next;    /* number of the next */
    struct flow_list *flows;
    struct {
        uint64_t packets, bytes;
        uint32_t flows;
    } sum;
};

/* To be asked before every entry. */
static inline bool answer_is_full(struct answer *a, const struct of_out *o)
{
    return a->entries++ >= ANSWER_ENTRIES || of_out_queued(o) >= ANSWER_QUEUED_BYTES;
}

/* A request that comes in parts: for table features. */
struct assembly {
    bool is_open;
    uint32_t xid;
    uint64_t since_ns;
    uint8_t *bytes;
    size_t count;
};

/* Why nothing is read from a peer for now. */
enum held { HELD_ANSWER = 1, HELD_TURN = 2 };

struct of_session {
    struct list node;
    struct of_agent *agent;
    struct of_conn *conn;
    struct of_connection_args args; /* name: its own copy; fd, tls: the stream's */
    bool has_tls, established, announced;
    uint64_t since_ns, received, sent, packet_ins, packet_ins_dropped;
    uint32_t role; /* OFPCR_* */
    uint16_t miss_send_len;
    bool chose_async;
    struct of_async async;
    unsigned barriers; /* received, their replies not yet made */
    uint32_t barrier_xids[BARRIERS_TOGETHER];
    struct assembly assembly;
    struct answer answer;
    unsigned held; /* enum held */
    uint64_t turn_ns;
    unsigned turn_messages;
    struct loop_timer again;
};

struct buffered {
    uint32_t id;
    const struct of_session *owner;
    uint8_t *data; /* NULL: none, or it was used */
    uint32_t bytes, in_port;
    uint64_t since_ns;
};

/* Packets of a port (or some), on their way to the control thread. */
struct packet_in_gate {
    _Atomic uint64_t due_ns; /* when the next would be due if they came evenly */
    _Atomic unsigned queued;
};

struct of_agent {
    struct of_agents *all;
    struct of_agent_args args;
    struct list sessions;
    unsigned count, snoops;
    bool changed; /* since the keeper's last commit */
    bool told;    /* somebody hears of such a change without having asked, when this batch is over */
    bool has_generation;
    uint64_t generation;
    uint32_t table_config[SWITCH_TABLES];
    struct buffered buffers[OF_BUFFERS_MAX];
    uint32_t next_buffer;
    size_t buffered_bytes;
    struct loop_timer age;
    /* Datapath threads. */
    uint64_t packet_in_interval_ns;
    _Atomic unsigned wanted; /* a bit per reason: some session wants such packets */
    _Atomic size_t queued_bytes;
    _Atomic uint64_t dropped;
    struct packet_in_gate gates[PACKET_IN_GATES];
};

struct of_agents {
    struct net_switch *sw;
    struct loop *loop;
    struct mailbox box;
    struct loop_watch watch;
    struct loop_timer more;
    struct list pending;      /* packets that came out of the mailbox */
    struct packet_pool *pool; /* for large ones, that are cut up: made when the first comes */
    uint8_t segment[PACKET_IN_BYTES_MAX];
    _Atomic(struct of_agent *) by_bridge[SWITCH_BRIDGES_MAX];
};

/* ---- agent.c ---- */

/* Where to write a reply: what was changed before is committed, and barriers before it are answered. */
struct of_out *session_reply(struct of_session *s);
/* What was written from there on: send it. Not whole: there was no memory; that ends the connection, for its peer would wait for
 * ever. */
void session_said(struct of_session *s, size_t from, bool whole);
void session_said_one(struct of_session *s, bool whole); /* one message */
void session_hold(struct of_session *s, enum held why);
void session_release(struct of_session *s, enum held why);
void session_flush_barriers(struct of_session *s);
bool session_wants(const struct of_session *s, enum async kind, unsigned reason);
void session_announce(struct of_session *s); /* the handshake is over */
/* Somebody's role or choice has changed. */
void agent_see_wants(struct of_agent *a);
void agent_commit(struct of_agent *a);

/* ---- requests ---- */

/* 0, or -EINVAL and e says what is wrong. */
#define REQUEST_HANDLER(name) int name(struct of_session *s, const struct of_msg *m, struct of_error *e)

/* agent_config.c */
REQUEST_HANDLER(agent_features);
REQUEST_HANDLER(agent_get_config);
REQUEST_HANDLER(agent_set_config);
REQUEST_HANDLER(agent_role);
REQUEST_HANDLER(agent_get_async);
REQUEST_HANDLER(agent_set_async);
REQUEST_HANDLER(agent_port_mod);
REQUEST_HANDLER(agent_table_mod);
REQUEST_HANDLER(agent_queue_get_config);
REQUEST_HANDLER(agent_experimenter);
bool agent_is_port(struct of_agent *a, uint32_t number);

/* agent_change.c */
REQUEST_HANDLER(agent_flow_mod);
REQUEST_HANDLER(agent_group_mod);
REQUEST_HANDLER(agent_meter_mod);
REQUEST_HANDLER(agent_packet_out);

/* ---- agent_multipart.c ---- */

REQUEST_HANDLER(agent_multipart);
void session_answer_more(struct of_session *s);
void session_multipart_clear(struct of_session *s);

/* ---- agent_stats.c ---- */

/* A multipart request that is whole: its body. */
struct of_request {
    uint16_t type;
    uint32_t xid;
    const uint8_t *body;
    size_t bytes;
};
/* 0: *out makes the answer; what it holds is the caller's to free (answer_clear()). */
int agent_answer_to(struct of_session *s, const struct of_request *r, struct answer *out, struct of_error *e);
void answer_clear(struct answer *a);

/* ---- agent_packet_in.c ---- */

void packet_ins_forget(struct of_agent *a);

/* ---- agent_buffer.c ---- */

/* OFP_NO_BUFFER: none is free. */
uint32_t buffer_put(struct of_agent *a, const struct of_session *owner, uint32_t in_port, const uint8_t *data,
                    uint32_t bytes);
/* The caller frees out->data. */
int buffer_take(struct of_session *s, uint32_t id, struct buffered *out, struct of_error *e);
void buffers_forget(struct of_agent *a, const struct of_session *owner); /* NULL: all */

/* ---- agent_event.c ---- */

void agent_flow_gone(void *arg, const struct flow_spec *f, const struct flow_stats *s, enum flow_gone why);
void agent_port_event(void *arg, enum port_event what, const struct switch_port_info *p);

#endif
