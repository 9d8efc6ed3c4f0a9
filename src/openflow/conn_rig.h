/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of connections: a connection over a socket pair, what its callbacks were told, and a peer that says what the test
 * says. Time stands still but for rig_pass_s() (link with --wrap=clock_gettime).
 */
#ifndef OPENFLOW_CONN_RIG_H
#define OPENFLOW_CONN_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "openflow/conn.h"
#include "openflow/wire.h"

struct rig {
    struct loop *loop;
    struct of_conn *conn; /* NULL: freed */
    int peer;
    unsigned established, messages, batches, drains, ended;
    size_t message_bytes; /* of all messages */
    uint8_t last[65536];  /* the last message */
    char reason[200];
    size_t made;    /* for the test */
    uint8_t *heard; /* by the peer */
    size_t heard_bytes;
    /* What callbacks do; on_message may free r->conn. */
    void (*on_established)(struct rig *r);
    void (*on_message)(struct rig *r, const uint8_t *message, size_t bytes);
    void (*on_batch)(struct rig *r);
    void (*on_drained)(struct rig *r);
};

static uint64_t rig_now_ns = NS_PER_SECOND;
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
    *ts = (struct timespec){.tv_sec = (time_t)(rig_now_ns / NS_PER_SECOND),
                            .tv_nsec = (long)(rig_now_ns % NS_PER_SECOND)};
    return 0;
}

static void rig_established(void *arg)
{
    struct rig *r = arg;
    r->established++;
    if (r->on_established) r->on_established(r);
}

static void rig_message(void *arg, const uint8_t *message, size_t bytes)
{
    struct rig *r = arg;
    assert_int_equal((uintptr_t)message % 8, 0);
    assert_in_range(bytes, 8, 65535);
    memcpy(r->last, message, bytes);
    r->messages++;
    r->message_bytes += bytes;
    if (r->on_message) r->on_message(r, message, bytes);
}

static void rig_batch(void *arg)
{
    struct rig *r = arg;
    r->batches++;
    if (r->on_batch) r->on_batch(r);
}

static void rig_drained(void *arg)
{
    struct rig *r = arg;
    r->drains++;
    if (r->on_drained) r->on_drained(r);
}

static void rig_free_conn(struct rig *r)
{
    of_conn_free(r->conn);
    r->conn = NULL;
}

static void rig_ended(void *arg, const char *reason)
{
    struct rig *r = arg;
    r->ended++;
    snprintf(r->reason, sizeof r->reason, "%s", reason);
    rig_free_conn(r);
}

static const struct of_conn_ops rig_ops = {.established = rig_established,
                                           .message = rig_message,
                                           .batch_end = rig_batch,
                                           .drained = rig_drained,
                                           .ended = rig_ended};

static inline void rig_run(struct rig *r)
{
    for (int i = 0; i < 20; i++)
        assert_int_equal(loop_run_once(r->loop, 0), 0);
}

static inline void rig_pass_s(struct rig *r, unsigned s)
{
    rig_now_ns += s * NS_PER_SECOND + NS_PER_MS;
    rig_run(r);
}

/* A connection whose peer has said nothing. */
static inline struct rig *rig_new_tls(struct of_tls *tls, bool client)
{
    struct rig *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->loop = loop_new();
    assert_non_null(r->loop);
    int s[2];
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), errno);
    r->peer = s[1];
    struct of_stream *stream;
    assert_int_equal(of_stream_new(&stream, s[0], tls, client), 0);
    struct of_conn_ops ops = rig_ops;
    ops.arg = r;
    assert_int_equal(of_conn_new(&r->conn, r->loop, stream, 15, &ops), 0);
    return r;
}

static inline struct rig *rig_new(void)
{
    return rig_new_tls(NULL, false);
}

static inline void rig_free(struct rig *r)
{
    of_conn_free(r->conn);
    if (r->peer >= 0) close(r->peer);
    loop_free(r->loop);
    free(r->heard);
    free(r);
}

/* ---- the peer ---- */

static inline void peer_say(struct rig *r, const void *bytes, size_t n)
{
    assert_int_equal(send(r->peer, bytes, n, MSG_NOSIGNAL), n);
}

/* A message with a payload of zeros. */
static inline void peer_send(struct rig *r, unsigned version, unsigned type, uint32_t xid, size_t payload)
{
    uint8_t m[65536] = {0};
    struct ofp_header h = {.version = (uint8_t)version,
                           .type = (uint8_t)type,
                           .length = be16_make((uint16_t)(sizeof h + payload)),
                           .xid = be32_make(xid)};
    memcpy(m, &h, sizeof h);
    peer_say(r, m, sizeof h + payload);
}

/* Take what came. */
static inline void peer_listen(struct rig *r)
{
    for (;;) {
        r->heard = realloc(r->heard, r->heard_bytes + 65536);
        assert_non_null(r->heard);
        ssize_t n = recv(r->peer, r->heard + r->heard_bytes, 65536, 0);
        if (n <= 0) return;
        r->heard_bytes += (size_t)n;
    }
}

/* The next whole message that came to the peer: its bytes, 0 if there is none. */
static inline size_t peer_hear(struct rig *r, uint8_t *m)
{
    struct ofp_header h;
    peer_listen(r);
    if (r->heard_bytes < sizeof h) return 0;
    memcpy(&h, r->heard, sizeof h);
    size_t bytes = be16_get(h.length);
    assert_int_equal(h.version, 4);
    assert_true(bytes >= sizeof h);
    if (r->heard_bytes < bytes) return 0;
    memcpy(m, r->heard, bytes);
    r->heard_bytes -= bytes;
    memmove(r->heard, r->heard + bytes, r->heard_bytes);
    return bytes;
}

static inline void peer_hears(struct rig *r, unsigned type, uint32_t xid, size_t bytes)
{
    uint8_t m[65536];
    struct ofp_header h;
    assert_int_equal(peer_hear(r, m), bytes);
    memcpy(&h, m, sizeof h);
    assert_int_equal(h.type, type);
    assert_int_equal(be32_get(h.xid), xid);
}

static inline void peer_hears_error(struct rig *r, unsigned type, unsigned code)
{
    uint8_t m[65536];
    assert_true(peer_hear(r, m) >= 12);
    assert_int_equal(m[1], OFPT_ERROR);
    assert_int_equal(m[8] << 8 | m[9], type);
    assert_int_equal(m[10] << 8 | m[11], code);
}

static inline void peer_hears_nothing(struct rig *r)
{
    uint8_t byte;
    peer_listen(r);
    assert_int_equal(r->heard_bytes, 0);
    assert_int_equal(recv(r->peer, &byte, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

static inline void peer_sees_end(struct rig *r)
{
    uint8_t byte;
    peer_listen(r);
    assert_int_equal(r->heard_bytes, 0);
    assert_int_equal(recv(r->peer, &byte, 1, 0), 0);
}

/* Both said hello. */
static inline struct rig *rig_open(void)
{
    struct rig *r = rig_new();
    peer_send(r, 4, OFPT_HELLO, 1, 0);
    rig_run(r);
    peer_hears(r, OFPT_HELLO, 0, 16);
    assert_int_equal(r->established, 1);
    return r;
}

#endif
