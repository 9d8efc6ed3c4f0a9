/* SPDX-License-Identifier: Apache-2.0 */
/* Hello, framing, echo, queues, ends, and callbacks that free the connection they are told of. */
#include "openflow/conn_rig.h"

#include <sys/epoll.h>

/* ---- hello ---- */

static void test_hello_names_the_version(void **state)
{
    struct rig *r = rig_new();
    rig_run(r);
    uint8_t m[65536];
    static const uint8_t hello[16] = {4, 0, 0, 16, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0x10};
    assert_int_equal(peer_hear(r, m), sizeof hello);
    assert_memory_equal(m, hello, sizeof hello);
    assert_int_equal(r->established, 0);
    rig_free(r);
}

struct offer {
    uint8_t version;
    uint8_t elements[24];
    size_t bytes;
    bool fits;
};

/* Of every peer from 1.0 to 1.5, with and without a bitmap, and with elements that make no sense. */
static const struct offer offers[] = {
    {1, {0}, 0, false},
    {2, {0}, 0, false},
    {3, {0}, 0, false},
    {4, {0}, 0, true},
    {5, {0}, 0, true},
    {6, {0}, 0, true},
    {0xff, {0}, 0, true},
    {0, {0}, 0, false},
    {6, {0, 1, 0, 8, 0, 0, 0, 0x7e}, 8, true},
    {6, {0, 1, 0, 8, 0, 0, 0, 0x62}, 8, false}, /* 1.0, 1.4, 1.5 */
    {4, {0, 1, 0, 8, 0, 0, 0, 0x0e}, 8, false},
    {1, {0, 1, 0, 8, 0, 0, 0, 0x12}, 8, true}, /* the bitmap counts */
    {4, {0, 1, 0, 12, 0, 0, 0, 0x10, 0xff, 0xff, 0xff, 0xff}, 12, true},
    {6, {0, 9, 0, 5, 1, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0x10}, 16, true}, /* behind one that is not known */
    {6, {0, 9, 0, 5, 1, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0x20}, 16, false},
    {4, {0, 1, 0, 4}, 4, true},             /* an empty bitmap */
    {4, {0, 1, 0, 8, 0, 0}, 6, true},       /* cut off */
    {4, {0, 1, 0, 0, 0, 0, 0, 0}, 8, true}, /* of no length */
    {4, {0, 1, 0xff, 0xff, 0, 0, 0, 0}, 8, true},
    {4, {0, 9, 0, 5, 1}, 5, true}, /* no padding behind the last */
    {4, {1, 2, 3}, 3, true},
    {3, {0, 1, 0, 7, 0, 0, 0}, 7, false},
};

static void test_versions(void **state)
{
    for (size_t i = 0; i < sizeof offers / sizeof *offers; i++) {
        const struct offer *o = &offers[i];
        struct rig *r = rig_new();
        uint8_t m[32] = {o->version, 0, 0, (uint8_t)(8 + o->bytes), 0, 0, 0, 77};
        memcpy(m + 8, o->elements, o->bytes);
        peer_say(r, m, 8 + o->bytes);
        rig_run(r);
        peer_hears(r, OFPT_HELLO, 0, 16);
        if (r->established != o->fits) fail_msg("offer %zu: established %u, fits %d", i, r->established, o->fits);
        assert_int_equal(r->ended, !o->fits);
        if (!o->fits) {
            peer_hears_error(r, OFPET_HELLO_FAILED, OFPHFC_INCOMPATIBLE);
            peer_sees_end(r);
            assert_string_equal(r->reason, "the peer does not speak OpenFlow 1.3 (version 4)");
        }
        rig_free(r);
    }
}

static void test_incompatible_is_told_why(void **state)
{
    struct rig *r = rig_new();
    peer_send(r, 1, OFPT_HELLO, 0x1234, 0);
    rig_run(r);
    uint8_t m[65536];
    peer_hear(r, m);
    size_t bytes = peer_hear(r, m);
    static const uint8_t xid[4] = {0, 0, 0x12, 0x34};
    assert_memory_equal(m + 4, xid, 4);
    m[bytes] = 0;
    assert_string_equal((char *)m + 12, "OpenFlow 1.3 (version 4) only is spoken here");
    rig_free(r);
}

static void strangers(const void *first, size_t bytes, const char *reason, bool answered)
{
    struct rig *r = rig_new();
    peer_say(r, first, bytes);
    rig_run(r);
    assert_int_equal(r->established, 0);
    assert_int_equal(r->messages, 0);
    assert_int_equal(r->ended, 1);
    assert_non_null(strstr(r->reason, reason));
    peer_hears(r, OFPT_HELLO, 0, 16);
    if (answered) peer_hears_error(r, OFPET_HELLO_FAILED, OFPHFC_INCOMPATIBLE);
    peer_sees_end(r);
    rig_free(r);
}

static void test_what_is_no_hello(void **state)
{
    static const uint8_t tls[] = {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc};
    static const uint8_t features[] = {4, 5, 0, 8, 0, 0, 0, 1};
    static const uint8_t error[] = {4, 1, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0};
    strangers(tls, sizeof tls, "the peer speaks TLS", false);
    strangers(features, sizeof features, "no hello of OpenFlow", true);
    strangers(error, sizeof error, "the peer refused", false);
    strangers("GET / HTTP/1.1\r\n\r\n", 18, "no hello of OpenFlow", true);
}

static void test_no_hello_in_time(void **state)
{
    struct rig *r = rig_new();
    rig_pass_s(r, OF_HELLO_S - 1);
    peer_say(r, "\4\0\0", 3); /* half a header, then silence */
    rig_run(r);
    assert_int_equal(r->ended, 0);
    rig_pass_s(r, 1);
    assert_int_equal(r->ended, 1);
    assert_string_equal(r->reason, "the peer did not say hello in time");
    rig_free(r);
}

static void test_later_hellos_mean_nothing(void **state)
{
    struct rig *r = rig_open();
    peer_send(r, 1, OFPT_HELLO, 1, 0);
    peer_send(r, 4, OFPT_BARRIER_REQUEST, 2, 0);
    rig_run(r);
    assert_int_equal(r->messages, 1);
    peer_hears_nothing(r);
    rig_free(r);
}

/* ---- framing ---- */

static void test_together(void **state)
{
    struct rig *r = rig_open();
    unsigned batches = r->batches;
    uint8_t all[1000 * 64] = {0};
    size_t bytes = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        all[bytes] = 4;
        all[bytes + 1] = OFPT_FLOW_MOD;
        all[bytes + 3] = (uint8_t)(8 + i % 57);
        bytes += 8 + i % 57;
    }
    peer_say(r, all, bytes);
    rig_run(r);
    assert_int_equal(r->messages, 1000);
    assert_int_equal(r->message_bytes, bytes);
    assert_int_equal(r->batches, batches + 1); /* of one read */
    rig_free(r);
}

static void test_byte_by_byte(void **state)
{
    struct rig *r = rig_open();
    for (unsigned n = 0; n < 3; n++) {
        uint8_t m[21] = {4, OFPT_FLOW_MOD, 0, sizeof m, 0, 0, 0, (uint8_t)n};
        for (size_t i = 0; i < sizeof m; i++) {
            assert_int_equal(r->messages, n);
            peer_say(r, m + i, 1);
            rig_run(r);
        }
        assert_int_equal(r->messages, n + 1);
        assert_int_equal(r->last[7], n);
    }
    rig_free(r);
}

/* Lengths that leave every alignment behind, the longest too. */
static void test_lengths(void **state)
{
    struct rig *r = rig_open();
    static const size_t lengths[] = {0, 1, 2, 3, 65527, 5, 65526, 7, 65525, 9, 65527};
    size_t n = sizeof lengths / sizeof *lengths, sum = 0;
    for (size_t i = 0; i < n; i++) {
        peer_send(r, 4, OFPT_PACKET_OUT, (uint32_t)i, lengths[i]);
        rig_run(r);
        sum += 8 + lengths[i];
        assert_int_equal(r->message_bytes, sum);
        assert_int_equal(r->last[7], i);
    }
    rig_free(r);
}

static void test_bad_length(void **state)
{
    for (uint8_t length = 0; length < 8; length++) {
        struct rig *r = rig_open();
        uint8_t m[8] = {4, OFPT_FLOW_MOD, 0, length, 0, 0, 0, 9};
        peer_say(r, m, sizeof m);
        peer_send(r, 4, OFPT_FLOW_MOD, 1, 0);
        rig_run(r);
        assert_int_equal(r->messages, 0);
        peer_hears_error(r, OFPET_BAD_REQUEST, OFPBRC_BAD_LEN);
        peer_sees_end(r);
        assert_int_equal(r->ended, 1);
        rig_free(r);
    }
}

static void test_bad_version(void **state)
{
    struct rig *r = rig_open();
    peer_send(r, 1, OFPT_FLOW_MOD, 5, 64);
    peer_send(r, 6, OFPT_ECHO_REQUEST, 6, 0);
    peer_send(r, 1, OFPT_ERROR, 7, 4); /* no error about an error */
    peer_send(r, 4, OFPT_BARRIER_REQUEST, 8, 0);
    rig_run(r);
    assert_int_equal(r->messages, 1);
    peer_hears_error(r, OFPET_BAD_REQUEST, OFPBRC_BAD_VERSION);
    peer_hears_error(r, OFPET_BAD_REQUEST, OFPBRC_BAD_VERSION);
    peer_hears_nothing(r);
    assert_int_equal(r->ended, 0);
    rig_free(r);
}

/* ---- echo ---- */

static void test_echo_is_answered(void **state)
{
    struct rig *r = rig_open();
    static const size_t payloads[] = {0, 1, 8, 1500, 65527};
    for (size_t i = 0; i < sizeof payloads / sizeof *payloads; i++) {
        uint8_t m[65536], back[65536];
        size_t bytes = 8 + payloads[i];
        for (size_t n = 0; n < bytes; n++)
            m[n] = (uint8_t)(n * 7);
        m[0] = 4;
        m[1] = OFPT_ECHO_REQUEST;
        m[2] = (uint8_t)(bytes >> 8);
        m[3] = (uint8_t)bytes;
        peer_say(r, m, bytes);
        rig_run(r);
        assert_int_equal(peer_hear(r, back), bytes);
        m[1] = OFPT_ECHO_REPLY;
        assert_memory_equal(back, m, bytes);
    }
    assert_int_equal(r->messages, 0);
    rig_free(r);
}

static void test_echo_is_asked_for(void **state)
{
    struct rig *r = rig_open();
    for (int i = 0; i < 3; i++) {
        rig_pass_s(r, 14);
        peer_hears_nothing(r);
        rig_pass_s(r, 1);
        peer_hears(r, OFPT_ECHO_REQUEST, 0, 8);
        rig_pass_s(r, 14);
        peer_hears_nothing(r); /* once */
        peer_send(r, 4, OFPT_ECHO_REPLY, 0, 0);
        rig_run(r);
        assert_int_equal(r->ended, 0);
        rig_pass_s(r, 1); /* the tick of before */
        peer_hears_nothing(r);
        peer_send(r, 4, OFPT_ECHO_REPLY, 0, 0);
        rig_run(r);
    }
    assert_int_equal(r->messages, 0);
    rig_free(r);
}

static void test_echo_without_reply(void **state)
{
    struct rig *r = rig_open();
    rig_pass_s(r, 15);
    assert_int_equal(r->ended, 0);
    rig_pass_s(r, 15);
    assert_int_equal(r->ended, 1);
    assert_string_equal(r->reason, "the peer did not answer an echo request");
    rig_free(r);
}

/* While we do not read, silence is ours. */
static void test_no_echo_while_not_reading(void **state)
{
    struct rig *r = rig_open();
    of_conn_read(r->conn, false);
    for (int i = 0; i < 10; i++)
        rig_pass_s(r, 15);
    assert_int_equal(r->ended, 0);
    peer_hears_nothing(r);
    of_conn_read(r->conn, true);
    rig_run(r);
    rig_pass_s(r, 15);
    peer_hears(r, OFPT_ECHO_REQUEST, 0, 8);
    rig_free(r);
}

/* ---- queues ---- */

static void answer(struct rig *r, size_t payload)
{
    struct of_out *o = of_conn_out(r->conn);
    of_out_begin(o, OFPT_BARRIER_REPLY, 3);
    of_out_put(o, payload);
    assert_true(of_out_end(o));
    of_conn_send(r->conn);
}

static void answer_one(struct rig *r, const uint8_t *message, size_t bytes)
{
    answer(r, 0);
}

static void test_answers_leave_in_the_same_pass(void **state)
{
    struct rig *r = rig_open();
    r->on_message = answer_one;
    for (int i = 0; i < 100; i++) {
        peer_send(r, 4, OFPT_BARRIER_REQUEST, 3, 0);
        assert_int_equal(loop_run_once(r->loop, 0), 0);
        peer_hears(r, OFPT_BARRIER_REPLY, 3, 8);
    }
    answer(r, 0); /* from outside of a callback */
    assert_int_equal(loop_run_once(r->loop, 0), 0);
    peer_hears(r, OFPT_BARRIER_REPLY, 3, 8);
    rig_free(r);
}

static void answer_big(struct rig *r, const uint8_t *message, size_t bytes)
{
    answer(r, 60000);
}

static void test_pause(void **state)
{
    struct rig *r = rig_open();
    r->on_message = answer_big;
    for (uint32_t i = 0; i < 100; i++)
        peer_send(r, 4, OFPT_MULTIPART_REQUEST, i, 8);
    rig_run(r);
    unsigned first = r->messages;
    assert_in_range(first, 17, 30); /* a little over 1 MiB */
    assert_in_range(of_conn_queued(r->conn), OF_OUTPUT_PAUSE_BYTES, OF_OUTPUT_PAUSE_BYTES + 65536);
    rig_run(r);
    assert_int_equal(r->messages, first);
    uint8_t m[65536];
    unsigned got = 0;
    for (int i = 0; i < 1000 && got < 100; i++) {
        while (peer_hear(r, m) == 8 + 60000)
            got++;
        rig_run(r);
    }
    assert_int_equal(got, 100);
    assert_int_equal(r->messages, 100);
    assert_true(r->drains > 0);
    rig_free(r);
}

static void test_a_peer_that_does_not_read(void **state)
{
    struct rig *r = rig_open();
    for (unsigned i = 0; i < 20; i++)
        answer(r, 60000);
    rig_run(r);
    assert_int_equal(r->ended, 0);
    rig_pass_s(r, 15);
    assert_int_equal(r->ended, 0);
    rig_pass_s(r, 15);
    assert_int_equal(r->ended, 1);
    assert_string_equal(r->reason, "the peer does not read what it is sent");
    rig_free(r);
}

/* Nor one that asked for much: what is kept for its answer would be kept for ever. */
static void test_a_peer_that_does_not_read_a_long_answer(void **state)
{
    struct rig *r = rig_open();
    for (unsigned i = 0; i < 10; i++)
        answer(r, 60000);
    of_conn_read(r->conn, false);
    rig_run(r);
    assert_true(of_conn_queued(r->conn) > 0);
    rig_pass_s(r, 15);
    assert_int_equal(r->ended, 0);
    uint8_t m[65536];
    while (peer_hear(r, m)) /* it was only slow */
        rig_run(r);
    for (unsigned i = 0; i < 5; i++)
        rig_pass_s(r, 15);
    assert_int_equal(r->ended, 0);
    for (unsigned i = 0; i < 10; i++)
        answer(r, 60000);
    rig_run(r);
    for (unsigned i = 0; i < 3; i++)
        rig_pass_s(r, 15);
    assert_int_equal(r->ended, 1);
    assert_string_equal(r->reason, "the peer does not read what it is sent");
    rig_free(r);
}

static void test_too_much_is_queued(void **state)
{
    struct rig *r = rig_open();
    for (unsigned i = 0; i < OF_OUTPUT_MAX_BYTES / 60000 + 20; i++)
        answer(r, 60000);
    rig_run(r);
    assert_int_equal(r->ended, 1);
    assert_string_equal(r->reason, "the peer does not read what it is sent");
    rig_free(r);
}

static void test_a_flood_of_echo_requests(void **state)
{
    struct rig *r = rig_open();
    uint8_t m[65536] = {4, OFPT_ECHO_REQUEST, 0xff, 0xf8};
    size_t sent = 0;
    for (int i = 0; i < 2000; i++) {
        ssize_t n = send(r->peer, m + sent % 0xfff8, 0xfff8 - sent % 0xfff8, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        loop_run_once(r->loop, 0);
        assert_true(of_conn_queued(r->conn) <= OF_OUTPUT_PAUSE_BYTES + 65536);
    }
    assert_true(sent < (4u << 20)); /* it is not read further */
    rig_free(r);
}

/* A long answer: some of it whenever there is room. */
static void go_on(struct rig *r)
{
    for (int i = 0; i < 3 && r->made < 200 * 60000; i++) {
        answer(r, 60000 - 8);
        r->made += 60000;
    }
    if (r->made == 200 * 60000) of_conn_read(r->conn, true);
}

static void begin_long(struct rig *r, const uint8_t *message, size_t bytes)
{
    r->made = 0;
    r->on_message = NULL;
    of_conn_read(r->conn, false);
    go_on(r);
}

static void test_a_long_answer(void **state)
{
    struct rig *r = rig_open();
    r->on_message = begin_long;
    r->on_drained = go_on;
    peer_send(r, 4, OFPT_MULTIPART_REQUEST, 1, 8);
    peer_send(r, 4, OFPT_BARRIER_REQUEST, 2, 0);
    peer_send(r, 4, OFPT_BARRIER_REQUEST, 3, 0);
    loop_run_once(r->loop, 0);
    size_t got = 0;
    uint8_t m[65536];
    for (int i = 0; i < 10000 && got < 200 * 60000; i++) {
        if (r->made < 200 * 60000) assert_int_equal(r->messages, 1); /* the others wait */
        ssize_t n = recv(r->peer, m, sizeof m, 0);
        if (n > 0) got += (size_t)n;
        else loop_run_once(r->loop, 0);
    }
    rig_run(r);
    assert_int_equal(got, 200 * 60000);
    assert_int_equal(r->messages, 3);
    rig_free(r);
}

/* ---- ends ---- */

static void test_close_sends_what_is_queued(void **state)
{
    struct rig *r = rig_open();
    answer(r, 100);
    of_conn_close(r->conn, "enough");
    assert_int_equal(r->ended, 0); /* not from in there */
    peer_send(r, 4, OFPT_BARRIER_REQUEST, 2, 0);
    rig_run(r);
    assert_int_equal(r->ended, 1);
    assert_string_equal(r->reason, "enough");
    assert_int_equal(r->messages, 0);
    peer_hears(r, OFPT_BARRIER_REPLY, 3, 108);
    rig_free(r);
}

static void test_close_does_not_wait_for_ever(void **state)
{
    struct rig *r = rig_open();
    for (unsigned i = 0; i < 10; i++)
        answer(r, 60000);
    rig_run(r);
    of_conn_close(r->conn, "enough");
    rig_run(r);
    assert_int_equal(r->ended, 0);
    rig_pass_s(r, OF_CLOSE_S);
    assert_int_equal(r->ended, 1);
    rig_free(r);
}

static void test_close_before_hello(void **state)
{
    struct rig *r = rig_new();
    of_conn_close(r->conn, "enough");
    rig_run(r);
    assert_int_equal(r->ended, 1);
    rig_free(r);
}

static void test_peer_closes(void **state)
{
    struct rig *r = rig_open();
    r->on_message = answer_one; /* for which nobody waits */
    for (uint32_t i = 0; i < 50; i++)
        peer_send(r, 4, OFPT_FLOW_MOD, i, 64);
    close(r->peer);
    r->peer = -1;
    rig_run(r);
    assert_int_equal(r->messages, 50);
    assert_int_equal(r->ended, 1);
    assert_string_equal(r->reason, "the peer closed the connection");
    rig_free(r);
}

/* More than one read takes; the first answer fails; all is served. */
static void test_peer_says_much_and_closes(void **state)
{
    struct rig *r = rig_open();
    r->on_message = answer_one;
    int room = 1 << 20;
    setsockopt(r->peer, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    for (uint32_t i = 0; i < 6; i++)
        peer_send(r, 4, OFPT_FLOW_MOD, i, 60000);
    close(r->peer);
    r->peer = -1;
    rig_run(r);
    assert_int_equal(r->messages, 6);
    assert_int_equal(r->ended, 1);
    rig_free(r);
}

static void answer_or_begin_long(struct rig *r, const uint8_t *message, size_t bytes)
{
    if (message[1] == OFPT_MULTIPART_REQUEST) begin_long(r, message, bytes);
    else answer_one(r, message, bytes);
}

/* What it asked for last takes long, and there is nobody to take it. */
static void test_peer_asks_for_much_and_closes(void **state)
{
    struct rig *r = rig_open();
    r->on_message = answer_or_begin_long;
    r->on_drained = go_on;
    r->made = 200 * 60000;
    int room = 1 << 20;
    setsockopt(r->peer, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    for (uint32_t i = 0; i < 3; i++)
        peer_send(r, 4, OFPT_FLOW_MOD, i, 60000);
    peer_send(r, 4, OFPT_MULTIPART_REQUEST, 3, 8);
    peer_send(r, 4, OFPT_FLOW_MOD, 4, 60000);
    close(r->peer);
    r->peer = -1;
    for (int i = 0; i < 200 && !r->ended; i++)
        rig_run(r);
    assert_int_equal(r->messages, 5);
    assert_int_equal(r->ended, 1);
    rig_free(r);
}

static void test_peer_closes_half(void **state)
{
    struct rig *r = rig_open();
    r->on_message = answer_big;
    for (uint32_t i = 0; i < 10; i++)
        peer_send(r, 4, OFPT_MULTIPART_REQUEST, i, 8);
    shutdown(r->peer, SHUT_WR);
    uint8_t m[65536];
    unsigned got = 0;
    for (int i = 0; i < 1000 && got < 10; i++) {
        rig_run(r);
        while (peer_hear(r, m) == 60008)
            got++;
    }
    assert_int_equal(got, 10);
    rig_run(r);
    assert_int_equal(r->ended, 1);
    rig_free(r);
}

static void test_peer_closes_while_not_read(void **state)
{
    struct rig *r = rig_open();
    of_conn_read(r->conn, false);
    rig_run(r);
    close(r->peer);
    r->peer = -1;
    rig_run(r);
    assert_int_equal(r->ended, 0); /* it is not looked at, nor does the loop spin */
    int ready = 0;
    for (int i = 0; i < 5; i++)
        ready += loop_run_once(r->loop, 0);
    assert_int_equal(ready, 0);
    of_conn_read(r->conn, true);
    rig_run(r);
    assert_int_equal(r->ended, 1);
    rig_free(r);
}

/* ---- callbacks that free ---- */

static void free_it(struct rig *r)
{
    rig_free_conn(r);
}

static void free_on_message(struct rig *r, const uint8_t *message, size_t bytes)
{
    rig_free_conn(r);
    assert_int_equal(message[1], OFPT_BARRIER_REQUEST); /* good during the call */
}

static void test_free_in_callbacks(void **state)
{
    for (int which = 0; which < 4; which++) {
        struct rig *r = rig_new();
        if (which == 0) r->on_established = free_it;
        if (which == 1) r->on_message = free_on_message;
        if (which == 2) r->on_batch = free_it;
        if (which == 3) r->on_drained = free_it;
        peer_send(r, 4, OFPT_HELLO, 1, 0);
        peer_send(r, 4, OFPT_BARRIER_REQUEST, 1, 0);
        peer_send(r, 4, OFPT_ECHO_REQUEST, 1, 0);
        peer_send(r, 4, OFPT_BARRIER_REQUEST, 1, 0);
        rig_run(r);
        assert_null(r->conn);
        assert_int_equal(r->ended, 0); /* who frees it knows */
        assert_true(r->messages <= 2);
        rig_free(r);
    }
}

static void close_on_message(struct rig *r, const uint8_t *message, size_t bytes)
{
    answer(r, 0);
    of_conn_close(r->conn, "enough");
}

static void test_close_in_a_callback(void **state)
{
    struct rig *r = rig_open();
    r->on_message = close_on_message;
    peer_send(r, 4, OFPT_BARRIER_REQUEST, 1, 0);
    peer_send(r, 4, OFPT_BARRIER_REQUEST, 2, 0);
    assert_int_equal(loop_run_once(r->loop, 0), 0);
    assert_int_equal(r->messages, 1);
    assert_int_equal(r->ended, 1);
    peer_hears(r, OFPT_BARRIER_REPLY, 3, 8);
    peer_sees_end(r);
    rig_free(r);
}

static void test_free_with_work_pending(void **state)
{
    struct rig *r = rig_open();
    answer(r, 0);
    rig_free_conn(r);
    rig_run(r);
    rig_pass_s(r, 100);
    assert_int_equal(r->ended, 0);
    peer_sees_end(r);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello_names_the_version),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_incompatible_is_told_why),
        cmocka_unit_test(test_what_is_no_hello),
        cmocka_unit_test(test_no_hello_in_time),
        cmocka_unit_test(test_later_hellos_mean_nothing),
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_bad_length),
        cmocka_unit_test(test_bad_version),
        cmocka_unit_test(test_echo_is_answered),
        cmocka_unit_test(test_echo_is_asked_for),
        cmocka_unit_test(test_echo_without_reply),
        cmocka_unit_test(test_no_echo_while_not_reading),
        cmocka_unit_test(test_answers_leave_in_the_same_pass),
        cmocka_unit_test(test_pause),
        cmocka_unit_test(test_a_peer_that_does_not_read),
        cmocka_unit_test(test_a_peer_that_does_not_read_a_long_answer),
        cmocka_unit_test(test_too_much_is_queued),
        cmocka_unit_test(test_a_flood_of_echo_requests),
        cmocka_unit_test(test_a_long_answer),
        cmocka_unit_test(test_close_sends_what_is_queued),
        cmocka_unit_test(test_close_does_not_wait_for_ever),
        cmocka_unit_test(test_close_before_hello),
        cmocka_unit_test(test_peer_closes),
        cmocka_unit_test(test_peer_says_much_and_closes),
        cmocka_unit_test(test_peer_asks_for_much_and_closes),
        cmocka_unit_test(test_peer_closes_half),
        cmocka_unit_test(test_peer_closes_while_not_read),
        cmocka_unit_test(test_free_in_callbacks),
        cmocka_unit_test(test_close_in_a_callback),
        cmocka_unit_test(test_free_with_work_pending),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
