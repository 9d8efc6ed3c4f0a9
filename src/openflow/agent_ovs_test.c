/* SPDX-License-Identifier: Apache-2.0 */
/* What ovs-ofctl asks is answered so that it understands. Skipped where it is not installed. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "openflow/test_client.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"
#define PATIENCE_NS (20 * NS_PER_SECOND)

struct listener {
    struct loop_watch watch;
    struct world *w;
    enum of_peer peer;
    char path[64];
    int fd;
};

struct shop {
    struct world w;
    struct listener mgmt, snoop;
    char directory[32], output[64];
    char text[1u << 20]; /* what a command printed */
};

static void accept_one(struct loop_watch *watch, uint32_t events)
{
    struct listener *l = container_of(watch, struct listener, watch);
    struct errmsg e;
    (void)events;
    int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fd >= 0);
    const struct of_connection_args args = {.fd = fd, .peer = l->peer, .name = "ovs-ofctl"};
    assert_int_equal(of_agent_connect(l->w->agent, &args, &e), 0);
}

static void listen_at(struct listener *l, struct shop *s, const char *name, enum of_peer peer)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    l->w = &s->w;
    l->peer = peer;
    snprintf(l->path, sizeof l->path, "%s/%s", s->directory, name);
    strcpy(address.sun_path, l->path);
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(l->fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(l->fd, 8), 0);
    assert_int_equal(loop_add(s->w.loop, &l->watch, l->fd, EPOLLIN, accept_one), 0);
}

static void listen_end(struct listener *l)
{
    loop_remove(&l->watch);
    close(l->fd);
    unlink(l->path);
}

static int setup(void **state)
{
    static struct shop s;
    memset(&s, 0, sizeof s);
    *state = &s;
    world_open(&s.w, 4, 0);
    strcpy(s.directory, "/tmp/creedence-of-XXXXXX");
    if (!mkdtemp(s.directory)) return -1;
    snprintf(s.output, sizeof s.output, "%s/output", s.directory);
    listen_at(&s.mgmt, &s, "br0.mgmt", OF_PEER_SERVICE);
    listen_at(&s.snoop, &s, "br0.snoop", OF_PEER_SNOOP);
    return 0;
}

static int teardown(void **state)
{
    struct shop *s = *state;
    listen_end(&s->mgmt);
    listen_end(&s->snoop);
    unlink(s->output);
    rmdir(s->directory);
    world_close(&s->w);
    return 0;
}

/* The switch works until the command has ended. */
static int wait_for(struct shop *s, pid_t child)
{
    int status;
    uint64_t end_ns = clock_now_ns() + PATIENCE_NS;
    while (waitpid(child, &status, WNOHANG) == 0) {
        assert_int_equal(loop_run_once(s->w.loop, 1), 0);
        if (clock_now_ns() > end_ns) kill(child, SIGKILL);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static pid_t start(struct shop *s, const char *command)
{
    char line[1024];
    snprintf(line, sizeof line,
             "exec >%s 2>&1; export OVS_RUNDIR=%s; BR=unix:%s; SNOOP=unix:%s; ofctl=\"ovs-ofctl -O OpenFlow13\"; %s",
             s->output, s->directory, s->mgmt.path, s->snoop.path, command);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    return child;
}

static const char *printed(struct shop *s)
{
    FILE *in = fopen(s->output, "r");
    assert_non_null(in);
    size_t n = fread(s->text, 1, sizeof s->text - 1, in);
    s->text[n] = 0;
    fclose(in);
    return s->text;
}

/* Runs a command of a shell: $ofctl, $BR, $SNOOP. It must succeed; what it printed. */
static const char *run(struct shop *s, const char *command)
{
    int status = wait_for(s, start(s, command));
    const char *text = printed(s);
    if (status) print_error("%s: %d: %s\n", command, status, text);
    assert_int_equal(status, 0);
    return text;
}

/* It must fail. */
static const char *run_refused(struct shop *s, const char *command)
{
    int status = wait_for(s, start(s, command));
    assert_int_equal(status, 1);
    return printed(s);
}

static void has(const char *text, const char *piece)
{
    if (!strstr(text, piece)) print_error("\"%s\" is not in:\n%s\n", piece, text);
    assert_non_null(strstr(text, piece));
}

static void shows(void **state)
{
    struct shop *s = *state;
    const char *t = run(s, "$ofctl show $BR");
    has(t, "dpid:1122334455667788");
    has(t, "n_tables:254");
    has(t, " 1(p1): addr:");
    has(t, "frags=normal");
    has(run(s, "$ofctl dump-desc $BR"), "Creedence");
    has(run(s, "$ofctl dump-ports $BR"), "port  4: rx pkts=0");
    has(run(s, "$ofctl dump-ports $BR 2"), "1 ports");
    has(run(s, "$ofctl dump-ports-desc $BR"), " 4(p4): addr:");
    has(run(s, "$ofctl dump-tables $BR"), "active=0");
    has(run(s, "$ofctl dump-table-features $BR"), "table 253");
    has(run(s, "$ofctl queue-stats $BR"), "0 queues");
    has(run(s, "$ofctl get-frags $BR"), "normal");
    run(s, "$ofctl set-frags $BR normal");
    has(run_refused(s, "$ofctl set-frags $BR drop"), "drop");
    run(s, "$ofctl mod-port $BR 2 no-forward");
    has(run(s, "$ofctl show $BR"), "NO_FWD");
    run(s, "$ofctl probe $BR; $ofctl ping $BR 100");
}

static void flows(void **state)
{
    struct shop *s = *state;
    run(s, "$ofctl add-flow $BR 'priority=5,tcp,nw_dst=10.0.0.0/8,tp_dst=80,idle_timeout=60,actions=set_field:1->reg0,"
           "push_vlan:0x8100,set_field:4099->vlan_vid,output:2'");
    const char *t = run(s, "$ofctl --no-stats dump-flows $BR");
    has(t, "idle_timeout=60, priority=5,tcp,nw_dst=10.0.0.0/8,tp_dst=80 actions=");
    has(t, "set_field:4099->vlan_vid,output:");
    run(s, "i=0; while [ $i -lt 2000 ]; do echo \"table=1,priority=$i,in_port=$i,actions=drop\"; i=$((i+1)); done | "
           "$ofctl add-flows $BR -");
    assert_int_equal(bridge_flow_count(s->w.rig.bridge), 2001);
    has(run(s, "$ofctl dump-aggregate $BR table=1"), "flow_count=2000");
    has(run(s, "$ofctl dump-flows $BR table=1 | grep -c in_port"), "2000");
    run(s, "$ofctl mod-flows $BR table=1,actions=output:1");
    has(run(s, "$ofctl dump-flows $BR table=1,in_port=7"), "actions=output:");
    run(s, "$ofctl --strict del-flows $BR table=1,priority=7,in_port=7");
    run(s, "$ofctl del-flows $BR in_port=8");
    has(run(s, "$ofctl dump-aggregate $BR"), "flow_count=1999");
    has(run_refused(s, "$ofctl add-flow $BR 'actions=group:99'"), "OFPBAC_BAD_OUT_GROUP");
    has(run_refused(s, "$ofctl --bundle add-flow $BR actions=drop"), "OFPBRC_BAD_VENDOR");
    run(s, "$ofctl del-flows $BR");
    assert_int_equal(bridge_flow_count(s->w.rig.bridge), 0);
    run(s, "printf 'in_port=1,actions=2\\n' | $ofctl replace-flows $BR -");
    run(s, "printf 'in_port=1,actions=2\\n' >$OVS_RUNDIR/flows; $ofctl diff-flows $BR $OVS_RUNDIR/flows && "
           "rm $OVS_RUNDIR/flows");
}

static void groups(void **state)
{
    struct shop *s = *state;
    run(s, "$ofctl add-group $BR "
           "group_id=1,type=select,bucket=weight:3,actions=output:1,bucket=weight:1,actions=output:2");
    run(s, "$ofctl add-group $BR group_id=2,type=ff,bucket=watch_port:1,actions=output:1");
    has(run(s, "$ofctl dump-groups $BR"), "group_id=1,type=select,bucket=weight:3,actions=output:");
    has(run(s, "$ofctl dump-group-stats $BR"), "group_id=2,");
    has(run(s, "$ofctl dump-group-features $BR"), "select");
    run(s, "$ofctl mod-group $BR group_id=1,type=all,bucket=actions=output:4");
    has(run(s, "$ofctl dump-groups $BR"), "group_id=1,type=all,");
    has(run_refused(s, "$ofctl mod-group $BR group_id=7,type=all,bucket=actions=output:4"), "OFPGMFC_UNKNOWN_GROUP");
    run(s, "$ofctl del-groups $BR");
    assert_int_equal(bridge_group_count(s->w.rig.bridge), 0);
}

static void meters(void **state)
{
    struct shop *s = *state;
    run(s, "$ofctl add-meter $BR meter=1,kbps,burst,stats,bands=type=drop,rate=1000,burst_size=100");
    run(s, "$ofctl add-meter $BR meter=2,pktps,band=type=dscp_remark,rate=5,prec_level=1");
    has(run(s, "$ofctl dump-meters $BR"), "meter=1 kbps burst stats bands=");
    has(run(s, "$ofctl dump-meter $BR meter=2"), "type=dscp_remark rate=5");
    has(run(s, "$ofctl meter-stats $BR"), "meter:1 flow_count:0");
    has(run(s, "$ofctl meter-features $BR"), "max_bands:16");
    run(s, "$ofctl mod-meter $BR meter=1,pktps,band=type=drop,rate=7");
    has(run(s, "$ofctl dump-meter $BR meter=1"), "pktps");
    run(s, "$ofctl del-meters $BR");
    assert_int_equal(bridge_meter_count(s->w.rig.bridge), 0);
}

static void packets(void **state)
{
    struct shop *s = *state;
    run(s, "$ofctl packet-out $BR 'in_port=controller packet=02000000000b02000000000a080000000000000000000000000000"
           "00000000000000000000000000000000000000000000000000000000000000000000 actions=output:3'");
    assert_int_equal(rig_got(&s->w.rig), 1u << 3);
    /* What is seen by who watches, and by who listens in. */
    struct client controller;
    client_open_controller(&controller, &s->w);
    run(s, "$ofctl add-flow $BR actions=controller");
    pid_t monitor = start(s, "timeout 2 $ofctl monitor $BR 65535 & timeout 2 $ofctl snoop $SNOOP & wait; true");
    for (unsigned i = 0; i < 300; i++)
        loop_run_once(s->w.loop, 1);
    uint8_t f[128];
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    rig_send(&s->w.rig, 1, f, n, 1);
    client_ask(&controller, OFPT_BARRIER_REQUEST, 9);
    assert_int_equal(wait_for(s, monitor), 0);
    const char *t = printed(s);
    has(t, "OFPT_PACKET_IN (OF1.3)");
    has(t, "in_port=1");
    has(t, "OFPT_BARRIER_REQUEST (OF1.3) (xid=0x9)");
    has(t, "OFPT_BARRIER_REPLY (OF1.3) (xid=0x9)");
    close(controller.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(shows, setup, teardown),
        cmocka_unit_test_setup_teardown(flows, setup, teardown),
        cmocka_unit_test_setup_teardown(groups, setup, teardown),
        cmocka_unit_test_setup_teardown(meters, setup, teardown),
        cmocka_unit_test_setup_teardown(packets, setup, teardown),
    };
    if (system("ovs-ofctl --version >/dev/null 2>&1") != 0) return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
