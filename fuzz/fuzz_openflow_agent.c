/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer says anything to a bridge's agent: whatever that is, the agent lives, answers the barrier that follows, and has let
 * go of everything in the end.
 *
 * Input: who the peer is (one byte), then messages: a type, two bytes of length (modulo 1024), a body. Header, version and length are made
 * right, so that what is tried is what is behind them.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "openflow/agent.h"
#include "openflow/wire.h"

#define PORTS 3u
#define BODY_MAX 1024u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
    struct net_switch *sw;
    struct bridge *bridge;
    struct loop *loop;
    struct of_agents *all;
    struct port ports[PORTS];
} world;

static void drop(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool)
{
    (void)p;
    (void)packets;
    (void)count;
    (void)pool;
}

static const struct port_ops ops = {.type = "test", .send = drop};

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) abort();                                                                                     \
    } while (0)

static void begin(void)
{
    struct switch_config c;
    struct switch_port *sp;
    if (world.sw) return;
    switch_config_default(&c);
    MUST(switch_new(&world.sw, &c) == 0);
    MUST(bridge_new(&world.bridge, world.sw, "br0", BRIDGE_SECURE, NULL) == 0);
    for (unsigned i = 0; i < PORTS; i++) {
        port_init(&world.ports[i], &ops, "p");
        atomic_store(&world.ports[i].mtu, 1500);
        MUST(bridge_add_port(world.bridge, &world.ports[i], i + 1, NULL, &sp, NULL) == 0);
    }
    world.loop = loop_new();
    MUST(world.loop && of_agents_new(&world.all, world.sw, world.loop) == 0);
}

static void run(int fd, bool *barrier)
{
    static uint8_t answers[1u << 16];
    ssize_t n;
    size_t left = 0;
    for (unsigned i = 0; i < 4; i++)
        MUST(loop_run_once(world.loop, 0) == 0);
    while ((n = recv(fd, answers + left, sizeof answers - left, 0)) > 0) {
        size_t end = left + (size_t)n, at = 0;
        while (end - at >= 8 && end - at >= (size_t)(answers[at + 2] << 8 | answers[at + 3])) {
            size_t bytes = (size_t)(answers[at + 2] << 8 | answers[at + 3]);
            MUST(bytes >= 8 && answers[at] == OFP_VERSION);
            *barrier |= answers[at + 1] == OFPT_BARRIER_REPLY;
            at += bytes;
        }
        left = end - at;
        memmove(answers, answers + at, left);
        MUST(loop_run_once(world.loop, 0) == 0);
    }
}

static void say(int fd, uint8_t type, const uint8_t *body, size_t bytes)
{
    uint8_t m[8 + BODY_MAX] = {OFP_VERSION, type, (uint8_t)((8 + bytes) >> 8), (uint8_t)(8 + bytes), 0, 0, 0, 1};
    if (bytes) memcpy(m + 8, body, bytes);
    MUST(send(fd, m, 8 + bytes, MSG_NOSIGNAL) == (ssize_t)(8 + bytes));
}

static void clear(void)
{
    const struct flow_spec all = {.table = SWITCH_TABLE_ALL, .out_port = SWITCH_PORT_ANY, .out_group = SWITCH_PORT_ANY};
    bridge_flow_delete(world.bridge, &all, false, NULL, NULL, NULL);
    bridge_group_delete(world.bridge, SWITCH_GROUP_ALL, NULL, NULL);
    bridge_meter_delete(world.bridge, SWITCH_METER_ALL, NULL, NULL);
    MUST(bridge_flow_count(world.bridge) == 0 && bridge_group_count(world.bridge) == 0);
    MUST(bridge_meter_count(world.bridge) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct of_agent *agent;
    bool barrier = false;
    int ends[2];
    if (size < 1) return 0;
    begin();
    const struct of_agent_args args = {.loop = world.loop, .bridge = world.bridge, .packet_in_rate = 1000000};
    MUST(of_agent_new(&agent, world.all, &args, NULL) == 0);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    const struct of_connection_args c = {
        .fd = ends[1], .peer = data[0] % 2 ? OF_PEER_SERVICE : OF_PEER_CONTROLLER, .name = "fuzz"};
    MUST(of_agent_connect(agent, &c, NULL) == 0);
    say(ends[0], OFPT_HELLO, NULL, 0);
    run(ends[0], &barrier);
    for (size_t at = 1; size - at >= 3;) {
        size_t bytes = (size_t)(data[at + 1] | data[at + 2] << 8) % BODY_MAX;
        if (bytes > size - at - 3) bytes = size - at - 3;
        say(ends[0], data[at] % 32, data + at + 3, bytes);
        at += 3 + bytes;
        if (data[at - 1] % 4 == 0) run(ends[0], &barrier);
    }
    run(ends[0], &barrier);
    barrier = false;
    say(ends[0], OFPT_BARRIER_REQUEST, NULL, 0);
    run(ends[0], &barrier);
    MUST(barrier);
    close(ends[0]);
    of_agent_free(agent);
    clear();
    return 0;
}
