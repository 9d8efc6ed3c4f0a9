# SPDX-License-Identifier: Apache-2.0
"""The daemon with the real switch: frames between two cards go on whatever ends."""

import ctypes
import json
import os
import signal
import time
from pathlib import Path

import pytest

from lib.control import Daemon, alive
from lib.paths import built, program
from lib.process import wait_until
from lib.switch import ip, own_name

pytestmark = pytest.mark.timeout_s(90)


@pytest.fixture
def daemon(run_dir):
    with Daemon(run_dir) as d:
        d.start()
        d.call("bridge.add", name="br0", fail_mode="secure")
        for name in ("a", "b"):
            d.call("vif.attach", bridge="br0", name=name)
        d.call("flow.add", bridge="br0", flows=["in_port=a,actions=output:b", "in_port=b,actions=output:a"])
        yield d


@pytest.fixture
def load(daemon, processes):
    """Frames from a to b, a few thousand a second, from a front end that does not connect again."""
    socket = {v["name"]: v["socket"] for v in daemon.call("vif.list")["vifs"]}
    process = processes.start([built("bench/vhost-net-bench"), f"--port={socket['a']},flows=64,rate=5000", f"--port={socket['b']}", "--runtime=60",
                               "--ramp=0.1", "--verify"])
    flowing(daemon)
    return process


def received(daemon):
    """Frames that b got from the switch there is; None while there is none."""
    entry = daemon.call("vif.stats", name="b")["vifs"][0]
    return entry.get("stats", {}).get("out_packets")


def flowing(daemon, timeout_s=5):
    """Until frames go through, some hundreds more than at the first look."""
    first = wait_until(lambda: received(daemon), timeout_s, "frames")
    wait_until(lambda: (received(daemon) or 0) > first + 200, timeout_s, "more frames")


def end(load):
    """What the front ends saw: all that came was as it was sent."""
    load.popen.terminate()
    load.wait(20)
    return json.loads(load.output().splitlines()[-1])


def another(daemon, old):
    def there():
        network = daemon.call("status")["network"]
        pid = network["switch"].get("pid")
        return network["settled"] and pid not in (None, old) and pid

    return wait_until(there, 5, "another switch")


@pytest.mark.alone
def test_killed_under_load(daemon, load):
    for _ in range(3):
        old = daemon.switch_pid()
        os.kill(old, signal.SIGKILL)
        began = time.monotonic()
        another(daemon, old)
        wait_until(lambda: received(daemon), 5, "frames")
        assert time.monotonic() - began < 1
        flowing(daemon)
    assert load.running()
    assert daemon.call("status")["network"]["switch"]["restarts"] == 3
    end(load)


def test_upgraded_under_load(daemon, load):
    old = daemon.switch_pid()
    answer = daemon.call("upgrade", switch=True)["switch"]
    assert "error" not in answer and answer["pid"] != old and not alive(old)
    flowing(daemon)
    end(load)


def test_the_daemon_is_killed_alone_and_with_the_switch(daemon, load):
    pid = daemon.switch_pid()
    daemon.kill()
    daemon.start()
    assert daemon.switch_pid() == pid
    flowing(daemon)
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), 5, "its end")
    daemon.start()
    flowing(daemon)
    end(load)


def test_flows_obey_and_stay(daemon, load):
    daemon.call("flow.mod", bridge="br0", flows=["in_port=a,actions=drop"])
    before = received(daemon)
    time.sleep(0.3)
    assert received(daemon) == before
    os.kill(old := daemon.switch_pid(), signal.SIGKILL)
    another(daemon, old)
    time.sleep(0.3)
    assert not received(daemon)
    daemon.creedence("flow", "mod", "br0", "in_port=a,actions=output:b")
    flowing(daemon)
    end(load)


def test_what_a_card_may_send_as_is_checked_across_restarts(daemon, load):
    daemon.call("vif.set", name="a", allowed_macs=["02:00:00:00:0f:ff"])
    before = received(daemon)
    time.sleep(0.3)
    assert received(daemon) == before
    os.kill(old := daemon.switch_pid(), signal.SIGKILL)
    another(daemon, old)
    time.sleep(0.3)
    assert not received(daemon)
    daemon.call("vif.set", name="a", allowed_macs=[])
    flowing(daemon)
    end(load)


def test_a_link_that_is_down_stays_down(daemon, load):
    def to_guest():
        return daemon.call("vif.stats", name="b")["vifs"][0].get("stats", {}).get("rx_packets")

    daemon.call("vif.set", name="b", link="down")
    time.sleep(0.1)
    before = to_guest()
    time.sleep(0.3)
    assert to_guest() == before
    os.kill(old := daemon.switch_pid(), signal.SIGKILL)
    another(daemon, old)
    time.sleep(0.5)
    assert to_guest() == 0
    daemon.call("vif.set", name="b", link="up")
    wait_until(lambda: to_guest() > 200, 5, "frames")
    os.kill(old := daemon.switch_pid(), signal.SIGKILL)
    another(daemon, old)
    wait_until(lambda: (to_guest() or 0) > 200, 5, "frames")
    end(load)


def fault_in(pid, thread):
    """SIGSEGV in the thread of that name, as if it had made a fault. False when there is none (yet)."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == thread:
            ctypes.CDLL(None).syscall(234, pid, int(task.name), int(signal.SIGSEGV))  # tgkill
            return True
    return False


def thread_names(pid):
    return [(task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()]


def test_on_one_cpu_all_share_a_thread(daemon, load):
    assert {"a", "b"} <= set(thread_names(daemon.switch_pid()))
    old, allowed = daemon.switch_pid(), os.sched_getaffinity(0)
    daemon.kill()
    os.kill(old, signal.SIGKILL)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        daemon.start()
    finally:
        os.sched_setaffinity(0, allowed)
    pid = another(daemon, old)
    flowing(daemon)
    names = thread_names(pid)
    assert names.count("ports.0") == 1 and not {"a", "b"} & set(names)
    end(load)
    wait_until(lambda: "ports.0" not in thread_names(pid), 5, "the thread's end, as nobody is left who needs it")


def test_the_threads_of_ports_are_called_after_none(daemon, request):
    """One that several share may outlive the port that it was made for, and a card may get that name."""
    tap = own_name("crrs")
    request.addfinalizer(lambda: ip("link", "del", tap, check=False))
    daemon.call("port.add", bridge="br0", name=tap, type="tap")
    pid = daemon.switch_pid()
    wait_until(lambda: "ports.0" in thread_names(pid), 5, "the thread")
    assert tap not in thread_names(pid)


@pytest.mark.skipif(b"__asan_init" in program("creedence-switch").read_bytes(), reason="faults are the sanitizer's to report")
def test_a_guest_that_ends_the_switch_again_and_again_is_left_out(daemon, load):
    for n in range(3):
        old = daemon.switch_pid()
        wait_until(lambda: fault_in(old, "a"), 5, "the thread of a")
        another(daemon, old)
    wait_until(lambda: daemon.call("status")["network"]["settled"], 5, "the switch")
    states = {v["name"]: v["state"] for v in daemon.call("vif.list")["vifs"]}
    assert states == {"a": "left out", "b": "serving"}
    assert "while it served vif a" in daemon.output()
    pid = daemon.switch_pid()
    daemon.call("vif.set", name="a", link="up")
    flowing(daemon)
    assert daemon.switch_pid() == pid
    end(load)


def test_files_of_flows_do_not_grow_for_ever(daemon):
    path = daemon.state_dir / "flows/br0.flows"
    before = daemon.creedence("flow", "dump", "br0", "--no-stats").stdout
    flows = [f"priority=7,tcp,tp_dst={n},actions=drop" for n in range(1, 400)]
    for _ in range(3):
        daemon.call("flow.add", bridge="br0", flows=flows)
        daemon.call("flow.del", bridge="br0", flows=["tcp"])
    wait_until(lambda: len(path.read_text().splitlines()) < 600, 10, "a shorter file")
    wait_until(lambda: not path.with_suffix(".flows.new").exists(), 5, "the file in place")
    daemon.call("flow.add", bridge="br0", flows=["priority=9,udp,actions=drop"])
    os.kill(old := daemon.switch_pid(), signal.SIGKILL)
    another(daemon, old)
    after = daemon.creedence("flow", "dump", "br0", "--no-stats").stdout
    assert sorted(after.splitlines()) == sorted(before.splitlines() + ["priority=9,udp actions=drop"])


def test_the_daemon_ends_while_a_file_of_flows_is_written_anew(daemon):
    path = daemon.state_dir / "flows/br0.flows"
    before = daemon.creedence("flow", "dump", "br0", "--no-stats").stdout
    for _ in range(2):
        daemon.call("flow.add", bridge="br0", flows=[f"priority=7,tcp,tp_dst={n},actions=drop" for n in range(1, 400)])
        daemon.call("flow.del", bridge="br0", flows=["tcp"])
    wait_until(path.with_suffix(".flows.new").exists, 5, "a new file")
    old = daemon.switch_pid()
    daemon.kill()
    time.sleep(2.1)  # the switch's disk has it, and nobody is there to be told
    daemon.start()
    wait_until(lambda: daemon.call("status")["network"]["settled"], 5, "the switch")
    assert daemon.switch_pid() == old
    daemon.call("flow.add", bridge="br0", flows=["priority=9,udp,actions=drop"])
    os.kill(old, signal.SIGKILL)
    another(daemon, old)
    after = daemon.creedence("flow", "dump", "br0", "--no-stats").stdout
    assert sorted(after.splitlines()) == sorted(before.splitlines() + ["priority=9,udp actions=drop"])
