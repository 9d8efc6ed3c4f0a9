# SPDX-License-Identifier: Apache-2.0
"""What controllers do, or do not do, while guests' frames go through the switch."""

import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import time
from pathlib import Path

import pytest

from lib.control import Daemon, RpcError
from lib.openflow import EQUAL, MASTER, PACKET_IN, ROLE_REPLY, SLAVE, Client, Controller
from lib.paths import built, system_program
from lib.process import free_port, wait_until
from lib.tls import make_certificates

pytestmark = pytest.mark.timeout_s(90)

NO_FLOWS_S = 0.4  # so long nothing comes where nothing may


@pytest.fixture
def daemon(run_dir):
    with Daemon(run_dir) as d:
        d.start()
        d.call("bridge.add", name="br0", fail_mode="secure")
        yield d


def attach(daemon, bridge, *names):
    """Cards; their numbers."""
    return [daemon.call("vif.attach", bridge=bridge, name=name)["number"] for name in names]


def load(daemon, processes, *ports, words=()):
    """Front ends of these cards: NAME, or NAME with how it sends. They come back to whatever switch there is."""
    sockets = {v["name"]: v["socket"] for v in daemon.call("vif.list")["vifs"]}
    ports = [port.partition(",") for port in ports]
    return processes.start([built("bench/vhost-net-bench"), *(f"--port={sockets[name]}{comma}{how}" for name, comma, how in ports), "--runtime=80",
                            "--ramp=0.1", "--relax=200", "--reconnect", *words])


def stats(daemon, name):
    entry = daemon.call("vif.stats", name=name)["vifs"][0]
    return entry.get("stats", {})


def received(daemon, name):
    return stats(daemon, name).get("out_packets") or 0


def flows(daemon, name):
    first = received(daemon, name)
    wait_until(lambda: received(daemon, name) > first + 100, 20, f"frames for {name}")


def stopped(daemon, name):
    first = received(daemon, name)
    time.sleep(NO_FLOWS_S)
    return received(daemon, name) == first


def dump(daemon, bridge):
    return daemon.creedence("flow", "dump", bridge, "--no-stats").stdout


def kill_switch(daemon):
    old = daemon.switch_pid()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: (n := daemon.call("status")["network"])["settled"] and n["switch"].get("pid") not in (None, old), 20, "another switch")


def listen(port=0):
    return socket.create_server(("127.0.0.1", port))


def target_of(listener):
    return f"tcp:127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.slow
def test_what_bridges_do_without_their_controllers(daemon, processes):
    """A secure one goes on by its flows, a standalone one by addresses, while frames come in."""
    daemon.call("bridge.add", name="br1", fail_mode="standalone")
    (a, b, _), (d, _) = attach(daemon, "br0", "a", "b", "c"), attach(daemon, "br1", "d", "e")
    port = free_port()
    listener = listen(port)
    for bridge in ("br0", "br1"):
        daemon.call("bridge.set", name=bridge, probe_s=1)
        daemon.call("controller.add", bridge=bridge, target=f"tcp:127.0.0.1:{port}")
    controllers = [Controller(listener), Controller(listener)]
    client = Client(daemon.run_dir / "br0.mgmt")
    client.output(a, b)
    client.barrier()
    wait_until(lambda: dump(daemon, "br1") == "", 10, "the bridge's own flow to go")
    load(daemon, processes, "a,flows=64,rate=3000", "b", "c")
    load(daemon, processes, "d,flows=64,rate=3000", "e")
    flows(daemon, "b")
    assert stopped(daemon, "e")
    before = dump(daemon, "br0")
    listener.close()
    for controller in controllers:
        controller.close()
    wait_until(lambda: received(daemon, "e") > 100, 30, "a learning switch")
    assert "NORMAL" in dump(daemon, "br1")
    flows(daemon, "b")  # it has been without one for as long
    assert received(daemon, "c") == 0 and dump(daemon, "br0") == before
    kill_switch(daemon)
    flows(daemon, "b")
    flows(daemon, "e")
    assert daemon.call("bridge.show", name="br0")["probe_s"] == 1
    with listen(port) as listener:
        controllers = [Controller(listener, 30), Controller(listener, 30)]
        wait_until(lambda: dump(daemon, "br1") == "", 10, "the bridge's own flow to go")
        assert stopped(daemon, "e")
        flows(daemon, "b")
    assert received(daemon, "c") == 0 and dump(daemon, "br0") == before


def memory_kib(pid):
    return int(next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1])


def take_packet_ins(controller, seconds):
    """{in_port: how many}"""
    got, end = {}, time.monotonic() + seconds
    while time.monotonic() < end:
        kind, _, body = controller.receive()
        if kind == PACKET_IN:
            in_port = struct.unpack_from("!I", body, 16 + 8)[0]  # the first field of the match
            got[in_port] = got.get(in_port, 0) + 1
    return got


def test_a_controller_that_does_not_read_holds_nobody_up(daemon, processes):
    """Every frame of a flood is for controllers, too. One of them is deaf: forwarding goes on, the other controller hears what it is
    allowed to, of a quiet port as well, and memory does not grow."""
    a, b, c = attach(daemon, "br0", "a", "b", "c")
    daemon.call("flow.add", bridge="br0", flows=["in_port=a,actions=output:b,controller", "in_port=c,actions=controller"])
    with listen() as at_deaf, listen() as at_good:
        at_deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for listener in (at_deaf, at_good):
            daemon.call("controller.add", bridge="br0", target=target_of(listener))
        deaf, good = Controller(at_deaf), Controller(at_good)
        before_kib = memory_kib(daemon.switch_pid())
        load(daemon, processes, "a,flows=64,rate=40000", "b", words=("--frame-bytes=1000",))
        load(daemon, processes, "c,flows=4,rate=100")
        flows(daemon, "b")
        first, began = stats(daemon, "a")["in_packets"], time.monotonic()
        out = received(daemon, "b")
        got = take_packet_ins(good, 3)
        took = time.monotonic() - began
        came, went = stats(daemon, "a")["in_packets"] - first, received(daemon, "b") - out
        assert came > 3000 and went > 0.9 * came
        assert 0 < got[a] <= 256 + 1000 * took * 1.1 and got[c] > 0, got
        good.barrier()
        connections = {x["target"]: x for x in daemon.call("controller.list", bridge="br0")["controllers"]}
        assert connections[target_of(at_deaf)]["packet_ins_dropped"] > 0
        assert memory_kib(daemon.switch_pid()) < before_kib + (64 << 10)
        deaf.close()
        good.close()


def hears_no_packets(controller):
    controller.sock.settimeout(NO_FLOWS_S)
    try:
        while True:
            assert controller.receive()[0] != PACKET_IN
    except TimeoutError:
        return True


def test_roles(daemon, processes):
    """Three controllers at once: who may change something, and who hears of frames."""
    a, b = attach(daemon, "br0", "a", "b")
    daemon.call("flow.add", bridge="br0", flows=["in_port=a,actions=controller"])
    with listen() as at_first, listen() as at_second, listen() as at_third:
        listeners = (at_first, at_second, at_third)
        for listener in listeners:
            daemon.call("controller.add", bridge="br0", target=target_of(listener))
        first, second, third = (Controller(listener) for listener in listeners)
        first.answer(first.role(MASTER, 5), ROLE_REPLY)
        second.answer(second.role(MASTER, 6), ROLE_REPLY)  # the first is a slave now
        assert first.refused(first.role(MASTER, 5)) == (11, 0)  # stale
        first.output(b, a)
        assert first.refused(first.xid) == (1, 10)  # OFPBRC_IS_SLAVE
        load(daemon, processes, "a,flows=4,rate=200")
        assert take_packet_ins(second, 1)[a] > 0 and take_packet_ins(third, 0.5)[a] > 0
        assert hears_no_packets(first)
        roles = {x["target"]: x["role"] for x in daemon.call("controller.list", bridge="br0")["controllers"]}
        assert [roles[target_of(listener)] for listener in listeners] == ["slave", "master", "equal"]
        second.close()
        third.output(b, a)
        third.barrier()
        third.answer(third.role(EQUAL, 0), ROLE_REPLY)
        third.answer(third.role(SLAVE, 7), ROLE_REPLY)
        third.output(b, a)
        assert third.refused(third.xid) == (1, 10)


# ---- ways to a controller ----


class Said(Client):
    """A connection that somebody else made."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(30)
        self.begin()


def context(directory, who, server, authority="ca.pem"):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_REQUIRED
    c.load_verify_locations(directory / authority)
    if who:
        c.load_cert_chain(directory / f"{who}.pem", directory / f"{who}-key.pem")
    return c


def with_tls(daemon, run_dir):
    make_certificates(run_dir)
    daemon.call("tls.set", key=f"{run_dir}/switch-key.pem", certificate=f"{run_dir}/switch.pem", ca=f"{run_dir}/ca.pem")


def drives(client, daemon):
    client.output(1, 2, priority=77)
    client.barrier()
    assert "priority=77" in dump(daemon, "br0")
    client.close()


@pytest.mark.parametrize("kind", ["tcp:127.0.0.1", "tcp:[::1]", "ssl:127.0.0.1", "ssl:[::1]", "unix"])
def test_the_bridge_connects(daemon, run_dir, kind):
    scheme, _, address = kind.partition(":")
    if scheme == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(run_dir / "controller"))
        listener.listen()
        target = f"unix:{run_dir}/controller"
    else:
        family = socket.AF_INET6 if "[" in address else socket.AF_INET
        listener = socket.create_server((address.strip("[]"), 0), family=family)
        target = f"{scheme}:{address}:{listener.getsockname()[1]}"
    if scheme == "ssl":
        with_tls(daemon, run_dir)
    with listener:
        listener.settimeout(30)
        daemon.call("controller.add", bridge="br0", target=target)
        sock = listener.accept()[0]
        if scheme == "ssl":
            sock = context(run_dir, "controller", True).wrap_socket(sock, server_side=True)
        drives(Said(sock), daemon)


@pytest.mark.parametrize("kind", ["ptcp:127.0.0.1", "ptcp:[::1]", "pssl:127.0.0.1", "pssl:[::1]", "punix"])
def test_controllers_connect(daemon, run_dir, kind):
    scheme, _, address = kind.partition(":")
    if scheme == "punix":
        target = f"punix:{run_dir}/passive"
    else:
        port = free_port()
        target = f"{scheme}:{port}:{address}"
    if scheme == "pssl":
        with_tls(daemon, run_dir)
    daemon.call("controller.add", bridge="br0", target=target)
    wait_until(lambda: daemon.call("controller.list")["controllers"][0]["state"] == "listening", 10, "the socket")
    if scheme == "punix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"{run_dir}/passive")
    else:
        sock = socket.create_connection((address.strip("[]"), port), timeout=30)
    if scheme == "pssl":
        sock = context(run_dir, "controller", False).wrap_socket(sock)
    drives(Said(sock), daemon)


@pytest.mark.parametrize("who", ["stranger", None])
def test_tls_is_for_those_whom_the_authority_knows(daemon, run_dir, who):
    with_tls(daemon, run_dir)
    make_certificates(run_dir, "other-ca", ["stranger"])
    port = free_port()
    daemon.call("controller.add", bridge="br0", target=f"pssl:{port}:127.0.0.1")
    wait_until(lambda: daemon.call("controller.list")["controllers"][0]["state"] == "listening", 10, "the socket")
    with pytest.raises(OSError):  # TLS 1.3 tells a client that it is refused after the handshake
        sock = context(run_dir, who, False).wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30))
        assert sock.recv(8)
        raise AssertionError("a stranger was heard")


# ---- what is bounded ----


def test_limits_have_their_errors(daemon, run_dir):
    """What a bridge can hold, to the last one; then the specification's error, and nothing has changed."""
    client = Client(daemon.run_dir / "br0.mgmt", timeout_s=60)
    for n in range(65536):
        client.group(n, [None])
        if n % 1000 == 0:
            client.barrier()
    assert client.refused(client.group(65536, [None])) == (6, 3)  # OFPGMFC_OUT_OF_GROUPS
    wrong = daemon.creedence("group", "add", "br0", "group_id=65536,type=all", check=False)
    assert wrong.returncode == 1 and "65536 groups" in wrong.stderr
    for n in range(1, 65537):
        client.meter(n, 1000)
        if n % 1000 == 0:
            client.barrier()
    assert client.refused(client.meter(65537, 1000)) == (12, 10)  # OFPMMFC_OUT_OF_METERS
    wrong = daemon.creedence("meter", "add", "br0", "meter=65537,pktps,bands=type=drop,rate=10", check=False)
    assert wrong.returncode == 1 and "65536 meters" in wrong.stderr
    shown = daemon.call("bridge.show", name="br0")
    assert (shown["group_count"], shown["meter_count"]) == (65536, 65536)
    # Buckets: 1,024 in a group, 1,048,576 in all.
    assert client.refused(client.group(0, [None] * 1025, command=1)) == (6, 4)  # OFPGMFC_OUT_OF_BUCKETS
    for n in range(960):
        client.group(n, [None] * 1024, command=1)
    left = (1 << 20) - 960 * 1024 - (65536 - 960)
    assert client.refused(client.group(1000, [None] * (1 + left + 1), command=1)) == (6, 4)
    client.group(1000, [None] * (1 + left), command=1)
    assert client.refused(client.group(1001, [None] * 2, command=1)) == (6, 4)
    wrong = daemon.creedence("group", "mod", "br0", "group_id=1001,type=all,bucket=actions=output:1,bucket=actions=output:2", check=False)
    assert wrong.returncode == 1 and "1048576 in all" in wrong.stderr


def test_connections_are_counted(daemon, run_dir):
    """Whoever connects gets so many and no more; the bridge's own way to a controller stays open."""
    path = daemon.run_dir / "br0.mgmt"
    clients = [Client(path) for _ in range(56)]
    with pytest.raises((ConnectionError, AssertionError, OSError)):
        Client(path)
    wait_until(lambda: "there are 56 connections" in daemon.output(), 5, "a line about it")
    with listen() as listener:
        daemon.call("controller.add", bridge="br0", target=target_of(listener))
        Controller(listener).barrier()
    clients.pop().close()
    wait_until(lambda: reaches(path), 10, "room for another")


def reaches(path):
    try:
        Client(path).close()
    except (ConnectionError, AssertionError, OSError):
        return False
    return True


# ---- restarts ----


def test_no_frame_passes_before_groups_and_meters_are_there(daemon, processes):
    """The switch is killed under load: every frame that the next one forwards was counted by its meter and its group."""
    a, b, c = attach(daemon, "br0", "a", "b", "c")
    client = Client(daemon.run_dir / "br0.mgmt")
    client.group(7, [b], kind=2)
    client.meter(3, 500)
    client.barrier()
    daemon.call("flow.add", bridge="br0", flows=["priority=9,in_port=a,actions=meter:3,group:7", "priority=0,actions=output:c"])
    sender = load(daemon, processes, "a,flows=64,rate=20000", "b", "c")
    flows(daemon, "b")
    kill_switch(daemon)
    flows(daemon, "b")
    sender.terminate()

    def said(command, words):
        done = subprocess.run([system_program("ovs-ofctl", "openvswitch-common"), "-O", "OpenFlow13", command, daemon.run_dir / "br0.mgmt"],
                              check=True, capture_output=True, text=True)
        return [int(n) for n in re.search(words, done.stdout, re.DOTALL).groups()]

    def counted():
        [of_flow] = said("dump-flows", r"n_packets=(\d+)[^\n]*meter:3")
        [of_group] = said("dump-group-stats", r"group_id=7,.*?packet_count=(\d+)")
        of_meter, dropped = said("meter-stats", r"meter:3 .*?packet_in_count:(\d+).*?packet_count:(\d+)")
        return dropped and of_flow == of_meter and of_group == of_meter - dropped and received(daemon, "b") <= of_group

    wait_until(counted, 5, "counters that agree")
    assert received(daemon, "c") == 0


# ---- policies ----


def frame(n):
    """UDP to 10.0.0.2, from an address and a card that nobody else has."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 50, 0, 0, 64, 17, 0, struct.pack("!I", 0x0B000000 + n * 4001), bytes([10, 0, 0, 2]))
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~total & 0xFFFF) + ip[12:]
    return b"\2\0\0\0\0\2" + struct.pack("!HI", 0x0206, n * 104729) + b"\x08\x00" + ip + struct.pack("!HHHH", 1000 + n % 60000, 53, 30, 0) + bytes(22)


def test_no_address_gets_past_a_policy(daemon, processes, run_dir):
    """4,096 cards and addresses, each in its turn, and what may pass between them."""
    attach(daemon, "br0", "a", "b")
    daemon.call("flow.add", bridge="br0", flows=["in_port=a,actions=output:b"])
    (run_dir / "frames").write_bytes(b"".join(frame(n) for n in range(4096)))
    daemon.call("policy.add", vif="a", allow=False, direction="out", protocol="udp", priority=9)
    load(daemon, processes, f"a,frames={run_dir}/frames,rate=20000", "b", words=("--frame-bytes=64",))
    wait_until(lambda: (stats(daemon, "a").get("in_packets") or 0) > 9000, 20, "every frame twice")
    assert received(daemon, "b") == 0
    daemon.call("policy.add", vif="b", allow=False, direction="in", protocol="udp", range="11.0.0.0/8", priority=9)
    daemon.call("policy.del", vif="a")
    at = stats(daemon, "a")["in_packets"]
    wait_until(lambda: stats(daemon, "a")["in_packets"] > at + 9000, 20, "every frame twice")
    assert received(daemon, "b") == 0
    daemon.call("policy.del", vif="b")
    flows(daemon, "b")


def test_wrong_probes(daemon):
    for wrong in (0, 3601, "5"):
        with pytest.raises(RpcError):
            daemon.call("bridge.set", name="br0", probe_s=wrong)
