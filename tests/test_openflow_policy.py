# SPDX-License-Identifier: Apache-2.0
"""Policies with real programs: what they stop, whom they follow, and that nothing takes them away by accident."""

import json
import os
import signal
import time

import pytest

from lib.control import Daemon, RpcError
from lib.openflow import Client
from lib.paths import built
from lib.process import wait_until

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
    """UDP frames from a to b, a few thousand a second; both come back to whatever switch there is."""
    socket = {v["name"]: v["socket"] for v in daemon.call("vif.list")["vifs"]}
    return processes.start([built("bench/vhost-net-bench"), f"--port={socket['a']},flows=64,rate=5000", f"--port={socket['b']}", "--runtime=60",
                            "--ramp=0.1", "--reconnect"])


def received(daemon):
    entry = daemon.call("vif.stats", name="b")["vifs"][0]
    return entry.get("stats", {}).get("out_packets") or 0


def flows(daemon):
    first = received(daemon)
    wait_until(lambda: received(daemon) > first + 100, 10, "frames")


def stopped(daemon):
    first = received(daemon)
    time.sleep(0.4)
    return received(daemon) == first


def kill_switch(daemon):
    old = daemon.switch_pid()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: (n := daemon.call("status")["network"])["settled"] and n["switch"].get("pid") not in (None, old), 10, "another switch")


def test_a_policy_is_obeyed_and_kept(daemon, load):
    flows(daemon)
    drop = daemon.call("policy.add", vif="b", allow=False, direction="in", protocol="udp")
    assert drop["applied"] and stopped(daemon)
    # Nor do flows or controllers open it.
    client = Client(daemon.run_dir / "br0.mgmt")
    number = {v["name"]: v["number"] for v in daemon.call("vif.list")["vifs"]}
    client.output(number["a"], number["b"], priority=65535)
    client.barrier()
    assert stopped(daemon)
    kill_switch(daemon)
    assert stopped(daemon)
    daemon.kill()
    daemon.start()
    assert stopped(daemon)
    kill_switch(daemon)
    assert stopped(daemon)
    assert [r["id"] for r in daemon.call("policy.list")["policies"]] == [drop["id"]]
    daemon.call("policy.del", id=drop["id"])
    flows(daemon)


def test_what_is_saved_is_what_a_switch_that_was_found_obeys(daemon, load):
    """A daemon may end between the switch's answer and the disk's, or before it hears an answer."""
    flows(daemon)
    daemon.call("policy.add", vif="b", allow=False, direction="in", protocol="udp")
    assert stopped(daemon)
    pid, file = daemon.switch_pid(), daemon.state_dir / "network.json"
    daemon.kill()
    with_rule = file.read_text()
    file.write_text(json.dumps({**json.loads(with_rule), "policies": []}))
    daemon.start()
    flows(daemon)
    daemon.kill()
    file.write_text(with_rule)
    daemon.start()
    assert stopped(daemon) and daemon.switch_pid() == pid


def test_allow_lists(daemon, load):
    flows(daemon)
    daemon.call("policy.add", vif="a", allow=True, direction="out", protocol="tcp")
    assert stopped(daemon)
    daemon.call("policy.add", vif="a", allow=True, direction="out", protocol="udp", range="0.0.0.0/0")
    flows(daemon)
    daemon.call("policy.add", bridge="br0", allow=False, direction="both", protocol="ip", priority=40000)
    assert stopped(daemon)
    daemon.call("policy.del", bridge="br0")
    flows(daemon)
    text = daemon.creedence("policy", "show", "a").stdout
    assert "in_port=a,priority=" in text and "udp" in text and "actions=drop" in text
    assert "drop" in daemon.creedence("flow", "trace", "br0", "in_port=a,sctp").stdout


def test_a_policy_follows_its_card(daemon):
    kept = daemon.call("policy.add", vif="late", allow=False, direction="both")
    assert not kept["applied"]
    daemon.call("bridge.add", name="br1")
    daemon.call("vif.attach", bridge="br1", name="late")
    assert "actions=drop" in daemon.creedence("policy", "show", "late").stdout
    daemon.call("vif.detach", name="late")
    daemon.call("vif.attach", bridge="br0", name="late", mac="02:00:00:00:00:77")
    assert "actions=drop" in daemon.creedence("policy", "show", "late").stdout
    daemon.call("policy.add", bridge="br1", allow=True, direction="in", protocol="icmp")
    daemon.call("bridge.del", name="br1")
    assert [r.get("vif") for r in daemon.call("policy.list")["policies"]] == ["late"]


def test_the_command_line(daemon):
    done = daemon.creedence("policy", "add", "--vif=a", "--allow", "--direction=in", "--range=10.0.0.0/8", "--protocol=tcp", "--port=80", "--priority=7")
    assert "rule 1 of vif a is obeyed" in done.stdout
    table = daemon.creedence("policy", "list").stdout
    assert "10.0.0.0/8" in table and "80" in table and "allow" in table
    assert "nw_src=10.0.0.0/8" in daemon.creedence("policy", "show", "a").stdout
    assert "1 rule deleted" in daemon.creedence("policy", "del", "--vif=a").stdout
    assert daemon.creedence("policy", "show", "a").stdout == ""
    for words in (["--vif=a", "--direction=in"], ["--allow", "--direction=in"], ["--vif=a", "--allow"], ["--vif=a", "--bridge=br0", "--allow", "--direction=in"]):
        assert daemon.creedence("policy", "add", *words, check=False).returncode == 2


def test_what_is_wrong_is_refused(daemon):
    good = {"vif": "a", "allow": True, "direction": "in"}
    for more in ({"direction": "up"}, {"protocol": "gre"}, {"port": 80}, {"protocol": "tcp", "port": 65536}, {"range": "10.0.0.0/33"},
                 {"range": "host"}, {"protocol": "arp", "range": "2001:db8::/32"}, {"allow": None}, {"priority": 65536}, {"id": 3},
                 {"vif": None}, {"bridge": "br0"}, {"unknown": 1}):
        with pytest.raises(RpcError):
            daemon.call("policy.add", **{**good, **more})
    for more in ({}, {"id": 99}, {"id": 1, "vif": "a"}, {"vif": "nobody"}):
        with pytest.raises(RpcError):
            daemon.call("policy.del", **more)
    assert daemon.call("policy.list")["policies"] == []
