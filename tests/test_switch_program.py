# SPDX-License-Identifier: Apache-2.0
"""creedence-switch as a program: its command line, requests over its link, taps in namespaces, flow files, and its
death under a daemon that holds what must survive."""

import json
import os
import socket
import subprocess
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from lib.front_end import FrontEnd
from lib.net_front_ends import NetFrontEnds
from lib.paths import program, system_program
from lib.process import is_listening, wait_until
from lib.switch import HeldSwitch, LinkError, Namespace, SwitchLink, ip, silent_veth, start_switch


@pytest.fixture(autouse=True)
def nothing_is_reported(processes):
    """By sanitizers, or by assertions."""
    yield
    for process in processes.processes:
        if process.name == "creedence-switch":
            output = process.output()
            assert not any(mark in output for mark in ("Sanitizer", "runtime error:", "Assertion")), output[-6000:]


def switch_fails(*words, status=2):
    done = subprocess.run([program("creedence-switch"), *map(str, words)], capture_output=True, text=True, timeout=30)
    assert done.returncode == status, f"status {done.returncode}: {done.stderr}"
    return done.stderr


def switch_says(*words):
    return subprocess.run([program("creedence-switch"), *words], capture_output=True, text=True, check=True, timeout=30).stdout


# ---- the command line ----


def test_help_version_and_capabilities():
    assert "--socket-path" in switch_says("--help")
    assert "debug=" in switch_says("--version")
    assert json.loads(switch_says("--print-capabilities")) == {"type": "net", "features": []}


@pytest.mark.parametrize("words, expected", [
    ([], "nothing to do"),
    (["--bridge=br0", "stray"], "stray: unexpected argument"),
    (["--vif=a,socket"], "--vif: socket: it needs a value"),
    (["--vif=a,speed=9"], "--vif: speed: there is no such key"),
    (["--vif=a,mtu=many"], "--vif: mtu=many: expected a number"),
    (["--vif=a,packed=maybe"], "--vif: packed=maybe: expected on or off"),
    (["--flow=br0"], "expected a bridge, a comma and more"),
    (["--gro=maybe"], "--gro=maybe: expected on or off"),
    (["--poll-us=soon"], "--poll-us=soon: expected a number"),
    (["--sandbox=none"], "--sandbox=none: expected try, on or off"),
    (["--socket-path=s", "--fd=3"], "expected one of --socket-path and --fd"),
])
def test_wrong_usage(words, expected):
    assert expected in switch_fails(*words)


@pytest.mark.parametrize("words, expected", [
    (["--bridge=12"], "name: got string \"12\""),
    (["--bridge=br0", "--bridge=br0"], "it exists already"),
    (["--bridge=br0,fail-mode=open"], "fail_mode"),
    (["--bridge=br0", "--vif=a,bridge=br1,socket=/dev/null"], "bridge br1: there is no such bridge"),
    (["--bridge=br0", "--vif=a,bridge=br0,mac=01:00:00:00:00:00"], "a unicast MAC address"),
    (["--bridge=br0", "--vif=a,bridge=br0,queues=17"], "queues: got integer 17"),
    (["--bridge=br0", "--vif=a,bridge=br0,allowed-ip=10.0.0.0/33"], "allowed_ips"),
    (["--bridge=br0", "--vif=a,bridge=br0", "--port=a,bridge=br0,type=tap"], "a: there is a"),
    (["--bridge=br0", "--vif=a,bridge=br0,trunks=9+4096"], "trunks"),
    (["--bridge=br0", "--flow=br0,actions=jump"], "--flow=br0,actions=jump: line 1: column"),
    (["--bridge=br0", "--flow-file=br0,/nowhere"], "/nowhere: No such file"),
    (["--bridge=br0", "--flows=some"], "flows: got string \"some\""),
    (["--bridge=br0", "--emc=1000"], "a power of two"),
])
def test_what_cannot_be(words, expected):
    assert expected in switch_fails("--sandbox=off", *words, status=1)


# ---- requests ----


@pytest.fixture
def alone(processes, run_dir):
    def start(*words, **options):
        return start_switch(processes, run_dir, *words, **options)
    return start


def test_bridges_vifs_and_flows_by_request(alone, run_dir):
    process, link = alone()
    link.ask("bridge.add", name="br0", fail_mode="secure")
    socket_path = run_dir / "a.sock"
    a = link.ask("vif.attach", bridge="br0", name="a", socket=str(socket_path))
    assert a["number"] == 1 and a["state"] == "listening" and int(a["mac"][:2], 16) & 3 == 2
    assert is_listening(socket_path)
    assert link.ask("vif.attach", bridge="br0", name="b", mac="", number=7, tag=5)["vlan_mode"] == "access"
    with pytest.raises(LinkError, match="b: there is a VIF of that name on bridge br0"):
        link.ask("vif.attach", bridge="br0", name="b")
    with pytest.raises(LinkError, match="unknown|no such field|nobody|not known|speed"):
        link.ask("vif.attach", bridge="br0", name="c", speed=10)
    with pytest.raises(LinkError, match="bridge br0: VIF a is attached to it"):
        link.ask("bridge.del", name="br0")

    assert link.ask("flow.add", bridge="br0", flows=["in_port=a,actions=output:b", "priority=5,actions=drop"]) == {"changed": 2}
    flows = link.ask("flow.dump", bridge="br0")["flows"]
    assert any("in_port=a" in f["text"] and "b" in f["actions"] for f in flows), flows
    with pytest.raises(LinkError, match="line 2: column"):
        link.ask("flow.add", bridge="br0", flows=["priority=9,actions=drop", "in_port=nobody,actions=drop"])
    assert len(link.ask("flow.dump", bridge="br0")["flows"]) == 2, "the first of a wrong batch was not added"
    assert link.ask("flow.del", bridge="br0", flows=["in_port=a"]) == {"changed": 1}
    assert "text" in link.ask("flow.trace", bridge="br0", packet="in_port=a")

    assert link.ask("vif.set", name="a", link="down", mtu=9000)["link"] == "down"
    assert link.ask("vif.set", name="a", rate_in={"bits_per_s": 1000000})["rate_in"]["bits_per_s"] == 1000000
    assert link.ask("vif.set", name="a", trunks=[1, "5-7"])["trunks"] == [1, "5-7"]
    assert [v["name"] for v in link.ask("vif.list")["vifs"]] == ["a", "b"]
    assert link.ask("vif.stats", name="a")["vifs"][0]["in_packets"] == 0
    assert link.ask("bridge.show", name="br0")["vif_count"] == 2
    for method in ("bridge.list", "port.list", "port.stats", "megaflow.dump", "megaflow.stats", "runner.stats", "net.stats"):
        link.ask(method)
    assert link.ask("mac.show", bridge="br0") == {"macs": []}
    with pytest.raises(LinkError, match="no such method"):
        link.ask("nonsense")

    link.ask("vif.detach", name="a")
    assert not socket_path.exists()
    link.ask("vif.detach", name="b")
    link.ask("bridge.del", name="br0")
    assert process.terminate() == 0


def test_pages(alone):
    """Long lists come in pages, and every entry comes once."""
    _, link = alone("--bridge=br0,fail-mode=secure")
    for base in range(0, 6000, 1000):
        link.ask("flow.add", bridge="br0", flows=[f"priority={1 + i},tcp,tp_dst={i},nw_src=10.0.0.1,actions=drop" for i in range(base, base + 1000)])
    flows = link.ask_all("flow.dump", "flows", bridge="br0")
    assert sorted(f["priority"] for f in flows) == list(range(1, 6001))
    assert len(link.ask("flow.dump", bridge="br0", max=10)["flows"]) == 10


def test_a_front_end_that_leaves_changes_nothing(alone, run_dir):
    _, link = alone("--bridge=br0", f"--vif=a,bridge=br0,socket={run_dir}/a.sock,link=down")
    for _ in range(3):
        front_end = FrontEnd(run_dir / "a.sock")
        wait_until(lambda: link.ask("vif.list")["vifs"][0]["state"] == "connected", 5, "a front end")
        front_end.sock.close()
        wait_until(lambda: link.ask("vif.list")["vifs"][0]["state"] == "listening", 5, "its end")
    assert link.ask("vif.list")["vifs"][0]["link"] == "down"


def test_connecting_to_a_front_end_that_comes_later(alone, run_dir):
    _, link = alone("--bridge=br0", f"--vif=a,bridge=br0,connect={run_dir}/a.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(run_dir / "a.sock"))
        listener.listen(1)
        listener.settimeout(20)
        connection, _ = listener.accept()
        wait_until(lambda: link.ask("vif.list")["vifs"][0]["state"] == "connected", 5, "the connection")
        connection.close()
        again, _ = listener.accept()
        again.close()


@pytest.mark.parametrize("listening", [True, False])
def test_inherited_socket(processes, run_dir, listening):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    if listening:
        theirs = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        theirs.bind(str(run_dir / "fd.sock"))
        theirs.listen(1)
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.connect(str(run_dir / "fd.sock"))
    processes.start([program("creedence-switch"), f"--fd={theirs.fileno()}"], pass_fds=(theirs.fileno(),))
    theirs.close()
    ours.settimeout(30)
    ours.sendall(bytes([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]))  # GET_FEATURES
    assert len(ours.recv(20, socket.MSG_WAITALL)) == 20


def test_a_hostile_ring_breaks_its_card_only(processes, run_dir):
    _, link = start_switch(processes, run_dir, "--bridge=br0", f"--vif=a,bridge=br0,socket={run_dir}/a.sock",
                           f"--vif=b,bridge=br0,socket={run_dir}/b.sock")
    front_ends = {name: FrontEnd(run_dir / f"{name}.sock") for name in "ab"}
    for front_end in front_ends.values():
        front_end.start_ring(1)  # what the guest sends
    front_ends["a"].jump_available_index(1000)
    wait_until(lambda: link.ask("vif.list", name="a")["vifs"][0]["state"] == "broken", 5, "the card being broken")
    assert link.ask("vif.list", name="a")["vifs"][0]["why"]
    assert link.ask("vif.list", name="b")["vifs"][0]["state"] == "connected"
    front_ends["a"].sock.close()
    wait_until(lambda: link.ask("vif.list", name="a")["vifs"][0]["state"] == "listening", 5, "its end")
    again = FrontEnd(run_dir / "a.sock")
    again.start_ring()
    assert link.ask("vif.list", name="a")["vifs"][0]["state"] == "connected"


# ---- packets, between namespaces ----


@pytest.fixture
def two_namespaces(processes, run_dir):
    """(a, b, link): two namespaces with taps on one bridge, 10.9.0.1 and 10.9.0.2."""
    names = [f"crt{i}{os.getpid() % 100000}" for i in range(2)]
    with Namespace("a") as a, Namespace("b") as b:
        process, link = start_switch(processes, run_dir, "--bridge=br0",
                                     *(f"--port={'ab'[i]},type=tap,bridge=br0,device={names[i]}" for i in range(2)))
        a.take(names[0], "10.9.0.1/24", "fd00::1/64")
        b.take(names[1], "10.9.0.2/24", "fd00::2/64")
        yield a, b, link
        assert process.terminate() == 0
        assert names[0] not in ip("-n", a.name, "link"), "the tap is gone with its switch"


def test_namespaces_reach_each_other(two_namespaces):
    a, b, link = two_namespaces
    assert a.reaches("10.9.0.2")
    assert b.reaches("fd00::1")
    ports = {p["name"]: p for p in link.ask("port.stats")["ports"]}
    assert ports["a"]["in_packets"] > 0 and ports["b"]["out_packets"] > 0
    macs = {m["port"]: m["mac"] for m in link.ask("mac.show", bridge="br0")["macs"]}
    assert set(macs) == {"a", "b"}
    link.ask("mac.flush", bridge="br0")
    assert link.ask("mac.show", bridge="br0") == {"macs": []}
    assert a.reaches("10.9.0.2")


def test_a_change_of_flows_counts_when_it_is_answered(two_namespaces):
    a, _, link = two_namespaces
    assert a.reaches("10.9.0.2")
    link.ask("flow.add", bridge="br0", flows=["priority=50000,udp,nw_dst=10.9.0.2,actions=drop"])
    assert not a.reaches("10.9.0.2", tries=2, timeout_s=0.3)
    dropped = [f for f in link.ask("flow.dump", bridge="br0")["flows"] if f["priority"] == 50000]
    assert dropped[0]["packets"] >= 2
    link.ask("flow.del", bridge="br0", flows=["udp,nw_dst=10.9.0.2"])
    assert a.reaches("10.9.0.2")


def test_vlans_of_ports(two_namespaces):
    a, _, link = two_namespaces
    link.ask("port.set", name="a", tag=5)
    assert not a.reaches("10.9.0.2", tries=2, timeout_s=0.3)
    link.ask("port.set", name="b", tag=5)
    assert a.reaches("10.9.0.2")


def test_much_data_between_namespaces(two_namespaces, processes):
    """A stream with checksums and segments unfinished on both sides arrives whole."""
    a, b, link = two_namespaces
    iperf3 = system_program("iperf3", "iperf3")
    processes.start(b.command(iperf3, "-s"), name="iperf3")

    def stream():
        done = subprocess.run(a.command(iperf3, "-c", "10.9.0.2", "-t", "1", "-J"), capture_output=True, text=True)
        return json.loads(done.stdout)["end"].get("sum_received")

    assert wait_until(stream, 10, "a run of iperf3")["bits_per_second"] > 1e8
    ports = {p["name"]: p for p in link.ask("port.stats")["ports"]}
    assert ports["a"]["in_bytes"] / ports["a"]["in_packets"] > 3000, "large segments stay large"


def packets_by_tcpdump(path):
    """A capture's packets, a line each, as another program reads them."""
    done = subprocess.run([system_program("tcpdump", "tcpdump"), "-n", "-e", "-t", "-Z", "root", "-r", path], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and "truncated" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def test_capture_while_it_runs(two_namespaces, run_dir):
    a, _, link = two_namespaces
    with open(run_dir / "a.pcapng", "wb") as file:
        link.ask("capture.start", port="a", snaplen=128, fds={"file": file.fileno()})
        with pytest.raises(LinkError):
            link.ask("capture.start", port="a", fds={"file": file.fileno()})
    assert a.reaches("10.9.0.2")
    said = link.ask("capture.stop", port="a")
    data = (run_dir / "a.pcapng").read_bytes()
    assert said["packets"] >= 2 and said["dropped"] == 0 and said["bytes"] == len(data)
    assert data.startswith(b"\x0a\x0d\x0d\x0a") and bytes([10, 9, 0, 2]) in data
    lines = packets_by_tcpdump(run_dir / "a.pcapng")
    assert len(lines) == said["packets"]
    assert any("ethertype IPv4" in line and "> 10.9.0.2.7: UDP, length 1" in line for line in lines), lines
    assert any("10.9.0.2 > 10.9.0.1: ICMP 10.9.0.2 udp port 7 unreachable" in line for line in lines), lines
    with pytest.raises(LinkError, match="not being captured"):
        link.ask("capture.stop", port="a")
    with open(run_dir / "b.pcapng", "wb") as file:
        link.ask("capture.start", port="b", fds={"file": file.fileno()})
    link.ask("port.del", name="b")  # which ends it


def test_capture_of_a_card(alone, processes, run_dir):
    _, link = alone("--bridge=br0", *(f"--vif={name},bridge=br0,socket={run_dir}/{name}.sock" for name in "ab"))
    load = NetFrontEnds(processes, {run_dir / "a.sock": "flows=4,rate=1000", run_dir / "b.sock": ""})
    load.wait_connected(link, "ab")
    with open(run_dir / "b.pcapng", "wb") as file:
        link.ask("capture.start", port="b", snaplen=64, fds={"file": file.fileno()})
    before = link.ask("vif.stats", name="b")["vifs"][0]["rx_packets"]
    wait_until(lambda: link.ask("vif.stats", name="b")["vifs"][0]["rx_packets"] > before + 200, 20, "packets")
    said = link.ask("capture.stop", port="b")
    load.stop()
    lines = packets_by_tcpdump(run_dir / "b.pcapng")
    assert len(lines) == said["packets"] >= 200 and said["dropped"] == 0
    assert all("ethertype IPv4 (0x0800), length 60: " in line and "UDP" in line for line in lines), lines[:5]
    assert len({line.partition(" > ")[2].partition("length 60")[2] for line in lines}) == 4, "flows"


def test_a_flood_is_copied_once_for_each_guest(alone, processes, run_dir, veth):
    """And for ports of the kernel not at all: it takes frames out of the sender's memory."""
    tap = f"crt{os.getpid() % 100000}"
    receivers = "bcd"
    _, link = alone("--bridge=br0,fail-mode=secure", *(f"--vif={name},bridge=br0,socket={run_dir}/{name}.sock" for name in "abcd"),
                    f"--port=t,type=tap,bridge=br0,device={tap}", f"--port=p,type=af_packet,bridge=br0,device={veth[0]}")
    ip("link", "set", tap, "up")
    link.ask("flow.add", bridge="br0", flows=["in_port=a,actions=FLOOD"])
    load = NetFrontEnds(processes, {run_dir / "a.sock": "flows=16,rate=20000", **{run_dir / f"{name}.sock": "" for name in receivers}},
                        "--frame-bytes=1400")

    def vif(name):
        return link.ask("vif.stats", name=name)["vifs"][0]

    wait_until(lambda: all(vif(name)["rx_packets"] > 2000 for name in receivers), 20, "packets")
    load.stop()
    sent = vif("a")
    assert sent["tx_bytes"] == 1400 * sent["tx_packets"] and sent["tx_copied_bytes"] <= 256 * sent["tx_packets"]
    for name in receivers:
        got = vif(name)
        assert got["rx_copied_bytes"] == got["rx_bytes"] == 1400 * got["rx_packets"]
        assert got["rx_packets"] + got["rx_no_buffer"] <= sent["tx_packets"]
    for name in "tp":
        port = link.ask("port.stats", name=name)["ports"][0]
        assert port["out_copied_bytes"] == 0 and port["out_bytes"] > 1000000, port


def test_threads_of_a_card_run_anywhere(alone, processes, run_dir):
    """One for each pair of queues."""
    process, link = alone("--bridge=br0", f"--vif=a,bridge=br0,socket={run_dir}/a.sock,queues=4")
    tasks = Path(f"/proc/{process.pid}/task")

    def names():
        return [name for task in tasks.iterdir() if (name := (task / "comm").read_text().strip()).startswith("a.")]

    load = NetFrontEnds(processes, {run_dir / "a.sock": ""}, "--pairs=4")
    load.wait_connected(link, "a")
    wait_until(lambda: len(names()) == 4, 5, f"four threads: {names()}")
    for task in tasks.iterdir():
        assert os.sched_getaffinity(int(task.name)) == os.sched_getaffinity(0), (task / "comm").read_text()
    load.stop()


@pytest.mark.alone
def test_idle_costs_nothing(two_namespaces, processes):
    a, _, link = two_namespaces
    assert a.reaches("10.9.0.2")
    switch = next(p for p in processes.processes if p.name == "creedence-switch")
    before = switch.cpu_seconds()
    with pytest.raises(subprocess.TimeoutExpired):
        switch.popen.wait(2)
    assert switch.cpu_seconds() - before <= 0.03


# ---- under a daemon ----


@pytest.fixture
def held(processes, run_dir):
    switch = HeldSwitch(processes, run_dir)
    yield switch.start()
    if switch.process.running():
        switch.link.ask("quit")
        assert switch.process.wait(10) == 0


def listener_at(path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(4)
    return listener


def test_nothing_before_configure(processes, run_dir):
    switch = HeldSwitch(processes, run_dir).start()
    assert switch.said["version"] and "sandbox" in switch.said
    with pytest.raises(LinkError, match="configured already"):
        switch.link.ask("configure")
    switch.link.ask("quit")
    assert switch.process.wait(10) == 0


def test_killed_and_back_under_its_front_end(held, run_dir):
    with listener_at(run_dir / "a.sock") as listener:
        flows_fd = os.open(run_dir / "br0.flows", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        held.want("bridge.add", name="br0", fds={"flows": flows_fd})
        held.want("vif.attach", bridge="br0", name="a", queues=2, fds={"listen": listener.fileno()})
        front_end = FrontEnd(run_dir / "a.sock")
        front_end.start_ring()
        held.link.ask("flow.add", bridge="br0", flows=["priority=9,tcp,actions=drop"])
        wait_until(lambda: held.link.ask("vif.list")["vifs"][0]["queues_running"] == 1, 5, "the ring")
        for _ in range(3):
            held.kill()
            held.start()
            vif = held.link.ask("vif.list")["vifs"][0]
            assert vif["state"] == "connected" and vif["queues_running"] == 1
            flows = [f["text"] for f in held.link.ask("flow.dump", bridge="br0")["flows"]]
            assert len(flows) == 2 and any("tcp" in f for f in flows)
            front_end.order(18, b"\0\0\0\0\1\0\0\0")  # the conversation goes on: SET_VRING_ENABLE
        front_end.sock.close()
        wait_until(lambda: held.link.ask("vif.list")["vifs"][0]["state"] == "listening", 5, "the front end's end")
        assert set(held.held["a"]) == {"state"}
        held.link.ask("vif.detach", name="a")
        held.link.drain()
        assert not held.held["a"]


def test_killed_under_load(held, processes, run_dir):
    """Two cards that send to each other: a gap, no connection lost, nothing wrong."""
    paths = [run_dir / f"{name}.sock" for name in "ab"]
    listeners = [listener_at(path) for path in paths]
    held.want("bridge.add", name="br0")
    for name, listener in zip("ab", listeners):
        held.want("vif.attach", bridge="br0", name=name, fds={"listen": listener.fileno()})
    load = NetFrontEnds(processes, {path: "flows=64,rate=20000" for path in paths}, "--verify")
    for _ in range(3):
        wait_until(lambda: all(v["rx_packets"] > 1000 for v in held.link.ask("vif.stats")["vifs"]), 20, "traffic")
        held.kill()
        held.start()
    wait_until(lambda: all(v["rx_packets"] > 1000 for v in held.link.ask("vif.stats")["vifs"]), 20, "traffic")
    result = load.stop()
    assert result["wrong"] == 0 and all(port["reconnects"] == 0 for port in result["ports"])
    assert result["rx_packets"] > 0.5 * result["tx_packets"]
    for listener in listeners:
        listener.close()


def test_leave_lets_the_next_one_go_on(held, run_dir):
    with listener_at(run_dir / "a.sock") as listener:
        held.want("bridge.add", name="br0")
        held.want("vif.attach", bridge="br0", name="a", fds={"listen": listener.fileno()})
        front_end = FrontEnd(run_dir / "a.sock")
        front_end.start_ring()
        held.link.ask("leave")
        held.link.drain()
        assert held.process.wait(10) == 0
        assert "conn" in held.held["a"]
        held.start()
        assert held.link.ask("vif.list")["vifs"][0]["queues_running"] == 1
        front_end.order(18, b"\0\0\0\0\1\0\0\0")


def test_a_new_daemon_is_told_everything(held, run_dir):
    with listener_at(run_dir / "a.sock") as listener:
        held.want("bridge.add", name="br0")
        held.want("vif.attach", bridge="br0", name="a", fds={"listen": listener.fileno()})
        FrontEnd(run_dir / "a.sock").start_ring()
        held.link.ask("vif.list")
        names = set(held.held["a"])
        for fd in held.held.pop("a").values():
            os.close(fd)
        held.link.close()
        held.link = SwitchLink(run_dir / "switch-link.sock", held.notified)
        said = held.link.ask("adopt")
        assert said["bridges"] == ["br0"] and said["vifs"] == ["a"] and said["ports"] == [] and said["settled"]
        held.link.ask("vif.list")
        assert set(held.held["a"]) == names


def test_a_state_of_another_kind_costs_the_connection_only(held, run_dir):
    with listener_at(run_dir / "a.sock") as listener:
        held.want("bridge.add", name="br0")
        held.want("vif.attach", bridge="br0", name="a", fds={"listen": listener.fileno()})
        front_end = FrontEnd(run_dir / "a.sock")
        front_end.start_ring()
        held.kill()
        os.pwrite(held.held["a"]["state"], b"\xff" * 8, 0)
        held.start()
        assert held.link.ask("vif.list")["vifs"][0]["state"] == "listening"
        with pytest.raises((ConnectionError, IndexError, AssertionError, Exception)):
            front_end.ask(1)
        FrontEnd(run_dir / "a.sock").start_ring()


@pytest.fixture
def veth():
    """A pair of interfaces, up."""
    names = [f"crv{i}{os.getpid() % 100000}" for i in range(2)]
    silent_veth(*names)
    yield names
    ip("link", "del", names[0], check=False)


@pytest.mark.parametrize("words", [(), ("--user=nobody",)], ids=["root", "nobody"])
def test_ports_are_opened_in_the_full_sandbox(processes, run_dir, veth, words):
    before = os.umask(0o077)  # as the daemon has it
    try:
        switch = HeldSwitch(processes, run_dir, sandbox="on", words=words).start()
    finally:
        os.umask(before)
    assert switch.said["sandbox"] == "full"
    root = f"/proc/{switch.process.pid}/root"
    assert not os.path.exists(f"{root}/etc") and os.listdir(f"{root}/dev/net") == ["tun"]
    switch.want("bridge.add", name="br0")
    tap = f"crt{os.getpid() % 100000}"
    ports = {"tap": tap, "af_packet": veth[0], "af_xdp": veth[1]}
    for kind, device in ports.items():
        assert switch.link.ask("port.add", bridge="br0", name=kind, type=kind, device=device)["device"] == device
    switch.link.ask("port.del", name="tap")
    assert tap not in ip("link")
    switch.link.ask("quit")
    assert switch.process.wait(10) == 0


def test_taps_stay_when_the_switch_ends_and_go_with_their_port(held):
    made, found = (f"crt{i}{os.getpid() % 100000}" for i in range(2))
    ip("tuntap", "add", found, "mode", "tap")
    try:
        held.want("bridge.add", name="br0")
        for device in (made, found):
            held.want("port.add", bridge="br0", name=device, type="tap")
        ip("address", "add", "10.99.0.1/24", "dev", made)
        held.kill()
        assert "10.99.0.1" in ip("address")
        held.start()
        for device in (made, found):
            held.link.ask("port.del", name=device)
        assert made not in ip("link") and found in ip("link"), "what was there before is not ours"
    finally:
        ip("link", "del", found, check=False)
        ip("link", "del", made, check=False)


def send_to_port(kind, names):
    """A frame of the host's to a port on names[0]."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((names[0] if kind == "tap" else names[1], 0))
        sender.send(b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + bytes(50))


def test_ports_share_threads(held):
    """One for every two CPUs; each serves its other ports when one goes, and ends with the last."""
    names = [f"crs{os.getpid() % 100000}{n}" for n in range(5)]
    held.want("bridge.add", name="br0")
    for name in names:
        held.want("port.add", bridge="br0", name=name, type="tap", device=name, queues=2)
        ip("link", "set", name, "up")

    def threads():
        return len(held.link.ask("runner.stats")["runners"])

    def received(name):
        return held.link.ask("port.stats", name=name)["ports"][0]["in_packets"]

    most = max(1, len(os.sched_getaffinity(0)) // 2)
    assert threads() == min(most, 2 * len(names))
    for gone in range(len(names)):
        for name in names[gone:]:
            before = received(name)
            send_to_port("tap", [name])
            wait_until(lambda name=name, before=before: received(name) > before, 5, f"a frame at {name}")
        held.link.ask("port.del", name=names[gone])
    assert threads() == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["af_packet", "af_xdp", "tap"])
def test_an_interface_that_is_deleted_and_made_anew(held, veth, run_dir, kind):
    names = veth if kind != "tap" else [f"crt{os.getpid() % 100000}"]
    held.want("bridge.add", name="br0")
    held.want("port.add", bridge="br0", name="out", type=kind, device=names[0], number=77, tag=5, gro=False)
    ip("link", "set", names[0], "up")
    capture = os.open(run_dir / "out.pcapng", os.O_RDWR | os.O_CREAT, 0o600)
    held.link.ask("capture.start", port="out", fds={"file": capture})

    def port():
        return held.link.ask("port.list")["ports"][0]

    def received():
        return held.link.ask("port.stats", name="out")["ports"][0]["in_packets"]

    def frame_comes():
        before = received()
        send_to_port(kind, names)
        wait_until(lambda: received() > before, 5, "a frame")

    whole = port()
    assert "broken" not in whole and whole["number"] == 77
    frame_comes()
    for _ in range(2):
        counted = received()
        ip("link", "del", names[0])
        wait_until(lambda: "broken" in port(), 5, "being told")
        assert names[0] in port()["broken"] and port()["link"] == "down"
        held.link.ask("port.set", name="out", tag=6)
        assert {**port(), "broken": "", "link": "", "tag": 5} == {**whole, "broken": "", "link": ""}
        if kind != "tap":
            assert received() == counted
            wait_until(lambda: "No such device" in port()["broken"], 5, "the next try")
            silent_veth(*names)
        wait_until(lambda: "broken" not in port(), 10, "the port")
        assert received() >= counted and port()["tag"] == 6 and port()["number"] == 77
        ip("link", "set", names[0], "up")
        frame_comes()
    held.link.ask("capture.stop", port="out")
    assert (run_dir / "out.pcapng").read_bytes().count(b"\x88\xb5" + bytes(50)) >= 3
    ip("link", "del", names[0])
    wait_until(lambda: "broken" in port(), 5, "being told")
    held.link.ask("port.del", name="out")
    assert held.link.ask("port.list")["ports"] == []
    output = held.process.output()
    assert output.count("port out is broken") == 3 and output.count("port out works again") == 2


# ---- flow files ----


def open_flows(path):
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)


def texts(switch):
    return sorted(f["text"] for f in switch.link.ask_all("flow.dump", "flows", bridge="br0"))


def test_flow_file_is_a_log_that_is_replayed(held, run_dir):
    held.want("bridge.add", name="br0", fail_mode="secure", fds={"flows": open_flows(run_dir / "f")})
    assert texts(held) == []
    held.link.ask("flow.add", bridge="br0", flows=["table=3,priority=7,cookie=0x5,idle_timeout=600,ip,actions=drop", "actions=NORMAL"])
    held.link.ask("flow.mod", bridge="br0", flows=["table=3,ip,actions=output:9"])
    held.link.ask("flow.add", bridge="br0", flows=["priority=2,actions=drop"])
    held.link.ask("flow.del", bridge="br0", strict=True, flows=["priority=2"])
    before = held.link.ask("flow.dump", bridge="br0")["flows"]
    assert len(before) == 2
    held.kill()
    held.start()
    after = held.link.ask("flow.dump", bridge="br0")["flows"]
    same = ("text", "table", "priority", "cookie", "idle_timeout", "actions")
    assert [[f[k] for k in same] for f in before] == [[f[k] for k in same] for f in after]


def test_all_flows_deleted_stay_deleted(held, run_dir):
    held.want("bridge.add", name="br0", fds={"flows": open_flows(run_dir / "f")})
    assert len(texts(held)) == 1
    held.link.ask("flow.del", bridge="br0", flows=[""])
    held.kill()
    held.start()
    assert texts(held) == []


def test_torn_end_of_a_flow_file(held, run_dir):
    held.want("bridge.add", name="br0", fail_mode="secure", fds={"flows": open_flows(run_dir / "f")})
    held.link.ask("flow.add", bridge="br0", flows=["priority=1,actions=drop"])
    held.kill()
    whole = (run_dir / "f").read_bytes()
    (run_dir / "f").write_bytes(whole + b"add priority=2,act")
    held.start()
    assert len(texts(held)) == 1
    assert (run_dir / "f").read_bytes() == whole


def test_wrong_line_in_a_flow_file(held, run_dir):
    (run_dir / "f").write_text("add priority=1,actions=drop\nadd priority=one,actions=drop\n")
    fd = open_flows(run_dir / "f")
    with pytest.raises(LinkError, match="bridge br0: line 2 of its flow file: column"):
        held.link.ask("bridge.add", name="br0", fds={"flows": fd})
    assert held.link.ask("bridge.list") == {"bridges": []}


def test_a_flow_file_that_grows_is_written_anew(held, run_dir):
    held.want("bridge.add", name="br0", fail_mode="secure", fds={"flows": open_flows(run_dir / "f")})
    for _ in range(6):
        held.link.ask("flow.add", bridge="br0", flows=[f"priority={i},actions=drop" for i in range(1, 101)])
    held.link.wait_notification(lambda m, p: m == "flows" and p == {"bridge": "br0", "compact": True})
    new = os.open(run_dir / "f.new", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    assert held.link.ask("flows.file", bridge="br0", fds={"flows": new}) == {"flows": 100}
    os.rename(run_dir / "f.new", run_dir / "f")
    assert held.link.ask("flows.placed", bridge="br0", fds={"flows": new}) == {}
    held.requests[0] = (*held.requests[0][:2], {"flows": new})
    held.link.ask("flow.add", bridge="br0", flows=["priority=500,actions=drop"])
    assert len((run_dir / "f").read_text().splitlines()) == 103  # with `begin` and `end`
    held.kill()
    held.start()
    assert len(texts(held)) == 101


def test_a_new_flow_file_is_asked_of_the_next_daemon(held, run_dir):
    """The file grew while no daemon was connected: flows timed out."""
    held.want("bridge.add", name="br0", fail_mode="secure", fds={"flows": open_flows(run_dir / "f")})
    held.link.ask("flow.add", bridge="br0", flows=[f"priority={i},hard_timeout=1,actions=drop" for i in range(1, 201)])
    assert not any(method == "flows" for method, _ in held.link.notifications)
    held.link.close()
    wait_until(lambda: len((run_dir / "f").read_text().splitlines()) >= 400, 10, "the flow file")
    for dies in (True, False):  # before it answers
        held.link = SwitchLink(run_dir / "switch-link.sock", held.notified)
        held.link.ask("adopt")
        held.link.wait_notification(lambda m, p: m == "flows" and p["bridge"] == "br0")
        if dies:
            held.link.close()


def test_flows_that_time_out_do_not_come_back(held, run_dir):
    held.want("bridge.add", name="br0", fail_mode="secure", fds={"flows": open_flows(run_dir / "f")})
    held.link.ask("flow.add", bridge="br0", flows=[f"priority={i},hard_timeout=1,tcp,actions=drop" for i in range(1, 201)])
    held.link.ask("flow.add", bridge="br0", flows=["priority=1,actions=drop"])
    wait_until(lambda: len(texts(held)) == 1, 10, "the end of their time")
    wait_until(lambda: len((run_dir / "f").read_text().splitlines()) == 403, 10, "the flow file")
    held.kill()
    held.start()
    assert len(texts(held)) == 1


def test_no_space_for_a_flow(held, run_dir):
    """What could not be saved is said to be so, and is saved when it can be."""

    def is_saved():
        try:
            return held.link.ask("flow.add", bridge="br0", flows=["priority=500,actions=drop"])
        except LinkError:
            return None

    room = run_dir / "small"
    room.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", room], check=True)
    try:
        held.want("bridge.add", name="br0", fail_mode="secure", fds={"flows": open_flows(room / "f")})
        held.link.ask("flow.add", bridge="br0", flows=["priority=1,actions=drop"])
        before = (room / "f").read_bytes()
        (room / "filler").write_bytes(bytes(12288))
        with pytest.raises(LinkError, match="the flows are changed, but cannot be saved: No space left"):
            held.link.ask("flow.add", bridge="br0", flows=[f"priority={i},tcp,tp_dst={i},actions=drop" for i in range(2, 102)])
        assert (room / "f").read_bytes() == before
        (room / "filler").unlink()
        wait_until(is_saved, 10, "room for the flows")
        flows = texts(held)
        assert len(flows) == 102
        held.kill()
        held.start()
        assert texts(held) == flows
    finally:
        held.link.ask("quit")
        held.process.wait(10)
        for _, _, fds in held.requests:
            for fd in fds.values():
                os.close(fd)
        subprocess.run(["umount", room], check=True)


def test_flows_are_shown_as_they_can_be_added(held):
    held.want("bridge.add", name="br0", fail_mode="secure")
    flows = ["table=3,cookie=0x7,idle_timeout=60,priority=5,tcp actions=goto_table:4", "priority=9,arp actions=NORMAL"]
    assert held.link.ask("flow.add", bridge="br0", flows=flows) == {"changed": 2}
    assert sorted(texts(held)) == sorted(flows)


# ---- addresses ----


def dropped_at(link, packet):
    text = link.ask("flow.trace", bridge="br0", packet=f"in_port=a,{packet}")["text"]
    return "guard" in text


def test_addresses_that_are_not_the_guests(held):
    """Whatever the flows say, and as soon as it was said."""
    held.want("bridge.add", name="br0")
    held.want("vif.attach", bridge="br0", name="a", mac="52:54:00:00:00:01", allowed_macs=["52:54:00:00:00:01"],
              allowed_ips=["10.0.0.1", "10.1.0.0/16", "fd00::/64"])
    held.link.ask("flow.add", bridge="br0", flows=["priority=65535,actions=NORMAL"])
    mine = "dl_src=52:54:00:00:00:01"
    for packet in ("ip,nw_src=10.0.0.1", "ip,nw_src=10.1.2.3", "arp,arp_op=1,arp_sha=52:54:00:00:00:01,arp_spa=10.0.0.1",
                   "tcp6,ipv6_src=fd00::5", "udp,nw_src=0.0.0.0,nw_dst=255.255.255.255,tp_src=68,tp_dst=67"):
        assert not dropped_at(held.link, f"{mine},{packet}"), packet
    for packet in ("ip,nw_src=10.0.0.2", "arp,arp_op=1,arp_sha=52:54:00:00:00:02,arp_spa=10.0.0.1",
                   "arp,arp_op=1,arp_sha=52:54:00:00:00:01,arp_spa=10.0.0.9", "tcp6,ipv6_src=fd01::5", "dl_type=0x88cc"):
        assert dropped_at(held.link, f"{mine},{packet}"), packet
    assert dropped_at(held.link, "dl_src=52:54:00:00:00:02,ip,nw_src=10.0.0.1")
    held.link.ask("vif.set", name="a", allowed_ips=["10.0.0.2"])
    assert not dropped_at(held.link, f"{mine},ip,nw_src=10.0.0.2") and dropped_at(held.link, f"{mine},ip,nw_src=10.0.0.1")
    assert held.link.ask("vif.set", name="a", allowed_macs=[], allowed_ips=[])["allowed_macs"] == []
    assert not dropped_at(held.link, "dl_src=52:54:00:00:00:02,dl_type=0x88cc")
    with pytest.raises(LinkError, match="16 entries"):
        held.link.ask("vif.set", name="a", allowed_macs=[f"52:54:00:00:00:{i:02x}" for i in range(17)])


def test_the_rules_of_guards_are_shown_when_asked(held):
    held.want("bridge.add", name="br0")
    held.want("vif.attach", bridge="br0", name="a", mac="52:54:00:00:00:01", allowed_macs=["52:54:00:00:00:01"],
              allowed_ips=["10.0.0.1", "fd00::/64"])
    held.want("vif.attach", bridge="br0", name="b", mac="52:54:00:00:00:02")

    def guards(**match):
        flows = held.link.ask("flow.dump", bridge="br0", guards=True, **match)["flows"]
        return [f for f in flows if "guard" in f]

    assert len(texts(held)) == 1
    assert len(guards()) > 10 and {g["guard"] for g in guards()} == {"a"}
    assert len(guards(match="in_port=a")) == len(guards()) and not guards(match="in_port=b")
    assert 0 < len(guards(match="arp")) < len(guards())
    assert any(g["stage"] == "arp_spa" and "arp,in_port=a,arp_spa=10.0.0.1 " in g["text"] for g in guards())


# ---- many, and all at once ----


def hostile_visit(link, run_dir, name, random):
    """A card that comes, breaks its rings or not, and goes."""
    link.ask("vif.attach", bridge="br0", name=name, socket=str(run_dir / f"{name}.sock"), allowed_macs=["52:54:00:00:00:01"])
    with FrontEnd(run_dir / f"{name}.sock") as front_end:
        front_end.start_ring(random.randrange(2))
        front_end.jump_available_index(random.choice([1, 3, 1000]))
        if random.randrange(2):
            front_end.sock.close()
        link.ask("vif.detach", name=name)


def capture_a_moment(link, run_dir):
    with open(run_dir / "moment.pcapng", "wb") as file:
        link.ask("capture.start", port="b", fds={"file": file.fileno()})
    link.ask("capture.stop", port="b")


@pytest.mark.slow
def test_all_kinds_of_changes_under_load(alone, processes, run_dir):
    _, link = alone("--bridge=br0", *(f"--vif={name},bridge=br0,socket={run_dir}/{name}.sock,queues=2" for name in "ab"))
    load = NetFrontEnds(processes, {run_dir / f"{name}.sock": "flows=1000,rate=50000" for name in "ab"}, "--verify")
    random = Random(1)
    tap = f"crs{os.getpid() % 100000}"

    def some_flows():
        return [f"priority={random.randrange(1, 60000)},udp,nw_dst={random.randrange(1, 255)}.0.0.0/{random.randrange(1, 33)},actions=NORMAL"
                for _ in range(20)]

    changes = [
        lambda: hostile_visit(link, run_dir, f"x{random.randrange(1000)}", random),
        lambda: link.ask("port.add", bridge="br0", name="t", type="tap", device=tap),
        lambda: link.ask("port.del", name="t"),
        lambda: link.ask("flow.add", bridge="br0", flows=some_flows()),
        lambda: link.ask("flow.mod", bridge="br0", flows=["udp,actions=NORMAL"]),
        lambda: link.ask("flow.del", bridge="br0", flows=["udp"]),
        lambda: link.ask("mac.flush", bridge="br0"),
        lambda: link.ask("megaflow.dump", max=50),
        lambda: capture_a_moment(link, run_dir),
        lambda: link.ask("vif.set", name="a", mtu=random.randrange(1400, 1600), link=random.choice(["up", "down"])),
        lambda: link.ask("vif.set", name="a", rate_in={"bits_per_s": random.choice([0, 10**9])},
                         allowed_ips=random.choice([[], ["10.0.0.0/8"]])),
        lambda: (link.ask("net.stats"), link.ask("runner.stats"), link.ask("vif.list")),
        lambda: (link.ask("bridge.add", name="other"), link.ask("bridge.del", name="other")),
    ]
    end = monotonic() + 6
    while monotonic() < end:
        try:
            random.choice(changes)()
        except LinkError:
            pass  # that port is there already, or not there
    assert load.stop()["wrong"] == 0


@pytest.mark.slow
def test_many_vifs(alone, run_dir):
    _, link = alone("--bridge=br0")
    for i in range(300):
        link.ask("vif.attach", bridge="br0", name=f"v{i}", socket=str(run_dir / f"v{i}.sock"))
    front_ends = [FrontEnd(run_dir / f"v{i}.sock") for i in range(300)]
    for front_end in front_ends:
        front_end.start_ring()
    vifs = link.ask_all("vif.stats", "vifs")
    assert len(vifs) == 300 and len({v["name"] for v in vifs}) == 300
    for front_end in front_ends:
        front_end.close()
