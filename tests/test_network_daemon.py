# SPDX-License-Identifier: Apache-2.0
"""Networks in creedenced and in the command line, against a switch that forwards nothing (lib/fake_switch.py): what is
kept and comes back, and what a hostile switch can do to the daemon (nothing)."""

import json
import os
import signal
import socket
import stat
import subprocess
import time

import pytest

from lib.control import Daemon, RpcError, alive
from lib.process import is_listening, wait_until

pytestmark = pytest.mark.timeout_s(60)


@pytest.fixture
def daemon(run_dir):
    with Daemon(run_dir, fake=True) as d:
        yield d.start()


@pytest.fixture
def net(daemon):
    """A daemon with a bridge, a port and a card."""
    daemon.call("bridge.add", name="br0")
    daemon.call("port.add", bridge="br0", name="eth1", type="af_packet")
    daemon.call("vif.attach", bridge="br0", name="web1", mac="02:00:00:00:00:01")
    return daemon


def fails(code, call, *words):
    """The call must fail with that code and all these words in its message; returns the error."""
    with pytest.raises(RpcError) as caught:
        call()
    assert caught.value.code == code, caught.value
    for word in words:
        assert str(word) in str(caught.value)
    return caught.value


def status(daemon):
    return daemon.call("status")["network"]


def settled(daemon, timeout_s=5):
    return wait_until(lambda: (s := status(daemon))["settled"] and not s["absent"] and s, timeout_s, "the switch to be settled")


def saved(daemon):
    return json.loads((daemon.state_dir / "network.json").read_text())


def vif(daemon, name="web1"):
    return next(v for v in daemon.call("vif.list")["vifs"] if v["name"] == name)


def of_switch(daemon, pid, method=None):
    return [entry for entry in daemon.switch_log(method) if entry["pid"] == pid]


# ---- life ----


def test_the_switch_runs_while_there_are_bridges(daemon):
    assert status(daemon)["switch"]["state"] == "off" and not daemon.switch_log()
    daemon.call("bridge.add", name="br0")
    pid = settled(daemon)["switch"]["pid"]
    assert alive(pid) and (daemon.run_dir / "switch.link").exists()
    assert [e["method"] for e in daemon.switch_log()] == ["(start)", "configure", "bridge.add", "settled"]
    daemon.call("bridge.add", name="br1", fail_mode="secure", mac_ageing_s=60)
    assert daemon.switch_pid() == pid
    daemon.call("bridge.del", name="br0")
    assert alive(pid)
    daemon.call("bridge.del", name="br1")
    wait_until(lambda: not alive(pid), 5, "the switch to end")
    assert daemon.switch_log()[-1]["method"] == "quit"
    assert status(daemon)["switch"]["state"] == "off" and status(daemon)["switch"]["restarts"] == 0
    daemon.call("bridge.add", name="br0")
    assert daemon.switch_pid() not in (None, pid)


def test_what_was_made_is_listed_and_saved(net):
    bridges = net.call("bridge.list")["bridges"]
    assert [(b["name"], b["state"], b["port_count"], b["flow_count"]) for b in bridges] == [("br0", "serving", 2, 1)]
    port = net.call("port.list")["ports"][0]
    assert (port["name"], port["type"], port["number"], port["link"], port["state"]) == ("eth1", "af_packet", 1, True, "serving")
    card = vif(net)
    assert card["number"] == 2 and card["front_end"] == "listening" and card["socket"] == f"{net.run_dir}/vifs/web1.sock"
    assert is_listening(card["socket"]) and stat.S_IMODE(os.stat(card["socket"]).st_mode) == 0o660
    shown = net.call("bridge.show", name="br0")
    assert [p["name"] for p in shown["ports"]] == ["eth1"] and shown["ports"][0]["packets"] == 1
    assert [v["name"] for v in shown["vifs"]] == ["web1"] and shown["flow_count"] == 1 and shown["vifs"][0]["packets"] == 1
    assert saved(net) == {
        "version": 1, "switch": {}, "bridges": [{"name": "br0"}],
        "ports": [{"bridge": "br0", "name": "eth1", "type": "af_packet", "number": 1}],
        "vifs": [{"bridge": "br0", "name": "web1", "mac": "02:00:00:00:00:01", "number": 2}]}
    attach = net.switch_log("vif.attach")[0]
    assert attach["fds"] == ["listen"] and "socket" not in attach["params"]


def test_what_the_switch_chose_stays(daemon):
    daemon.call("bridge.add", name="br0")
    answer = daemon.call("vif.attach", bridge="br0", name="v1")
    assert answer["mac"] == "02:00:00:aa:bb:01" and answer["number"] == 1
    daemon.call("vif.attach", bridge="br0", name="v2", number=7)
    daemon.call("vif.detach", name="v1")
    daemon.call("vif.attach", bridge="br0", name="v0")
    os.kill(daemon.switch_pid(), signal.SIGKILL)
    wait_until(lambda: len(daemon.switch_log("settled")) == 2, 5, "another switch")
    again = {e["params"]["name"]: e["params"] for e in of_switch(daemon, daemon.switch_pid(), "vif.attach")}
    assert again["v2"]["number"] == 7 and again["v0"] == {"bridge": "br0", "name": "v0", "number": 1, "mac": "02:00:00:aa:bb:01"}


@pytest.mark.alone
def test_a_switch_that_dies_is_back_within_a_second_with_everything(net):
    net.behave_switch(connected=["web1"])
    net.call("vif.attach", bridge="br0", name="web2")
    net.behave_switch(connected=["web1", "web2"])
    net.call("flow.add", bridge="br0", flows=["priority=5,actions=drop", "priority=6,actions=drop"])
    net.call("vif.set", name="web1", link="down", rate_in={"bits_per_s": 1000000})
    old = settled(net)["switch"]["pid"]
    os.kill(old, signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: len(net.switch_log("settled")) == 2, 5, "another switch")
    assert time.monotonic() - began < 1
    new = settled(net)["switch"]
    assert new["pid"] != old and new["restarts"] == 1 and new["version"] == "9.9" and new["debug"] == "y"
    assert [e["method"] for e in of_switch(net, new["pid"])[:7]] == [
        "(start)", "configure", "bridge.add", "port.add", "vif.attach", "vif.attach", "settled"]
    attach = of_switch(net, new["pid"], "vif.attach")
    assert attach[0]["fds"] == ["listen", "state"] and attach[0]["params"]["rate_in"] == {"bits_per_s": 1000000}
    assert attach[0]["params"]["link"] == "down"
    # the state memory is the same one
    assert net.call("vif.stats", name="web1")["vifs"][0]["stats"]["generation"] == 2
    flows = [f["text"] for f in net.call("flow.dump", bridge="br0")["flows"]]
    assert flows == ["priority=5,actions=drop", "priority=6,actions=drop"]
    assert vif(net)["front_end"] == "connected" and vif(net)["held"] == 2


def test_switches_that_keep_dying_are_started_with_longer_and_longer_pauses(net):
    net.behave_switch(die="settled")
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: status(net)["switch"]["restarts"] >= 8, 10, "restarts")
    assert status(net)["switch"]["restarts"] < 40
    wait_until(lambda: "ended" in net.call("net.stats").get("error", ""), 5, "the reason to be said")
    net.behave_switch()
    settled(net, 10)


def test_a_new_daemon_goes_on_with_the_switch_there_is(net):
    net.behave_switch(connected=["web2"])
    net.call("vif.attach", bridge="br0", name="web2")
    pid = settled(net)["switch"]["pid"]
    wait_until(lambda: vif(net, "web2")["held"] == 2, 5, "what is held")
    net.kill()
    net.start()
    assert settled(net)["switch"]["pid"] == pid
    assert [e["method"] for e in net.switch_log() if e["method"] in ("adopt", "configure")] == ["configure", "adopt"]
    assert len(net.switch_log("bridge.add")) == 1
    assert vif(net, "web2")["front_end"] == "connected" and vif(net, "web2")["held"] == 2 and vif(net)["held"] == 1
    # and can replace it, with what it was sent again
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: net.switch_pid() not in (None, pid), 5, "another switch")
    settled(net)
    assert of_switch(net, net.switch_pid(), "vif.attach")[1]["fds"] == ["conn", "listen", "state"]
    net.call("vif.detach", name="web2", force=True)
    net.call("bridge.add", name="br9")


def test_what_an_adopted_switch_does_not_confirm_is_dropped(net):
    net.behave_switch(connected=["web2"])
    net.call("vif.attach", bridge="br0", name="web2")
    net.kill()
    net.behave_switch(connected=["web2"], forget=["web2/conn"])
    net.start()
    settled(net)
    wait_until(lambda: vif(net, "web2")["held"] == 1, 5, "the connection to be dropped")
    assert vif(net, "web2")["front_end"] == "listening"


def test_daemon_and_switch_killed_together(net):
    net.behave_switch(connected=["web2"])
    net.call("vif.attach", bridge="br0", name="web2")
    net.call("flow.add", bridge="br0", flows=["priority=5,actions=drop"])
    pid = settled(net)["switch"]["pid"]
    wait_until(lambda: vif(net, "web2")["held"] == 2, 5, "what is held")
    net.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), 5, "the switch's end")
    net.start()
    settled(net)
    assert of_switch(net, net.switch_pid(), "vif.attach")[1]["fds"] == ["conn", "listen", "state"]
    assert vif(net, "web2")["front_end"] == "connected"
    assert [v["stats"]["generation"] for v in net.call("vif.stats")["vifs"]] == [2, 2]
    assert [f["text"] for f in net.call("flow.dump", bridge="br0")["flows"]] == ["priority=5,actions=drop"]


def test_a_holder_that_is_killed_has_cards_descriptors_again(net):
    net.behave_switch(connected=["web2"])
    net.call("vif.attach", bridge="br0", name="web2")
    wait_until(lambda: vif(net, "web2")["held"] == 2, 5, "what is held")
    old = net.holder_pid()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: net.holder_pid() not in (None, old), 5, "another holder")
    pid = net.switch_pid()
    net.kill()
    os.kill(pid, signal.SIGKILL)
    net.start()
    settled(net)
    assert of_switch(net, net.switch_pid(), "vif.attach")[1]["fds"] == ["conn", "listen", "state"]


def test_a_switch_that_has_more_than_is_configured_is_replaced(net):
    pid = net.switch_pid()
    net.kill()
    net.behave_switch(unknown="ghost")
    net.start()
    wait_until(lambda: not alive(pid), 5, "the switch's end")
    assert net.switch_log("leave")
    settled(net)


@pytest.mark.parametrize("how", [{"hang": "adopt"}, {"fail": {"adopt": [-95, "adopt: no such method"]}}, {"close": "adopt"}])
def test_a_switch_that_cannot_be_gone_on_with_is_replaced(net, how):
    pid = net.switch_pid()
    net.kill()
    net.behave_switch(**how)
    net.start()
    wait_until(lambda: not alive(pid), 15, "its end")
    settled(net)


def test_more_is_held_than_fits_a_message(net):
    net.behave_switch(extra=600)
    net.call("vif.attach", bridge="br0", name="web2")
    wait_until(lambda: vif(net, "web2")["held"] == 601, 5, "what is held")
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: len(net.switch_log("settled")) == 2, 5, "another switch")
    pid = net.switch_pid()
    ahead = of_switch(net, pid, "vif.held")
    got = {name for e in [*ahead, *of_switch(net, pid, "vif.attach")[1:]] for name in e["fds"]}
    assert got >= {f"extra{i}" for i in range(600)} | {"state", "listen"}


def test_many_cards_at_once(daemon):
    daemon.call("bridge.add", name="br0")
    with daemon.rpc() as rpc:
        for i in range(300):
            rpc.send("vif.attach", {"bridge": "br0", "name": f"v{i}"})
            if i >= 10:
                assert "result" in rpc.receive()
        for i in range(10):
            assert "result" in rpc.receive()
    assert len(saved(daemon)["vifs"]) == 300
    numbers = {v["name"]: v["number"] for v in daemon.call("vif.list")["vifs"]}
    assert len(set(numbers.values())) == 300
    os.kill(daemon.switch_pid(), signal.SIGKILL)
    wait_until(lambda: len(daemon.switch_log("settled")) == 2, 10, "another switch")
    settled(daemon)
    assert numbers == {v["name"]: v["number"] for v in daemon.call("vif.list")["vifs"]}
    daemon.behave_switch(page=7)
    assert len([v for v in daemon.call("vif.stats")["vifs"] if v["stats"]["in_packets"]]) == 300
    assert len([v for v in daemon.call("net.stats")["vifs"] if v["stats"]["in_packets"]]) == 300


# ---- upgrade, shutdown ----


def test_upgrade_replaces_the_switch(net):
    net.behave_switch(connected=["web2"])
    net.call("vif.attach", bridge="br0", name="web2")
    old = settled(net)["switch"]["pid"]
    net.behave_switch(connected=["web2"], release="10.0")
    answer = net.call("upgrade")
    assert answer["disks"] == [] and answer["switch"]["from"] == "9.9" and answer["switch"]["pid"] != old and not alive(old)
    assert of_switch(net, old)[-1]["method"] == "leave"
    assert settled(net)["switch"]["version"] == "10.0" and status(net)["switch"]["restarts"] == 0
    assert of_switch(net, net.switch_pid(), "vif.attach")[1]["fds"] == ["conn", "listen", "state"]
    assert "process" in net.creedence("upgrade", "--switch").stdout


def started_anew_up_to(net, method):
    """A switch that its keeper has started after the death of the one before, and that has got to `method`."""
    net.behave_switch(wait=method)
    old = net.switch_pid()
    os.kill(old, signal.SIGKILL)
    return wait_until(lambda: [e["pid"] for e in net.switch_log(method) if e["pid"] != old], 20, method)[-1]


def upgrade_switch(net, rpc):
    """Ask for it; back when the new program was tried, and it goes on."""
    rpc.send("upgrade", {"switch": True})
    trial = net.fake_dir / "switch.tried"
    wait_until(lambda: trial.exists() and trial.read_text().endswith("\n") and not alive(int(trial.read_text())), 20, "the trial")
    assert "already" in net.call("upgrade", switch=True)["switch"]["error"]


@pytest.mark.parametrize("method", ["configure", "bridge.add", "settled"])
def test_an_upgrade_waits_for_a_switch_that_is_being_started(net, method):
    between = started_anew_up_to(net, method)
    with net.rpc() as upgrade:
        upgrade_switch(net, upgrade)
        net.behave_switch()
        answer = upgrade.receive()["result"]["switch"]
    assert "error" not in answer and answer["pid"] != between and not alive(between)
    assert settled(net)["switch"]["pid"] == answer["pid"] and vif(net)["state"] == "serving"


def test_an_upgrade_ends_with_the_last_network(net):
    started_anew_up_to(net, "configure")
    with net.rpc() as upgrade:
        upgrade_switch(net, upgrade)
        net.call("vif.detach", name="web1")
        for port in net.call("port.list")["ports"]:
            net.call("port.del", name=port["name"])
        net.call("bridge.del", name="br0")
        assert "not needed" in upgrade.receive()["result"]["switch"]["error"]
    net.behave_switch()


def test_options_reach_a_switch_that_is_being_started(net):
    between = started_anew_up_to(net, "configure")
    net.call("switch.set", emc=0)
    net.behave_switch()
    wait_until(lambda: net.switch_log("configure")[-1]["params"].get("emc") == 0, 20, "a switch that has them")
    assert settled(net)["switch"]["pid"] == net.switch_log("configure")[-1]["pid"] != between


def test_an_upgrade_to_a_switch_that_does_not_load_changes_nothing(net):
    pid = net.switch_pid()
    net.behave_switch(version="fail")
    assert "--version" in net.call("upgrade")["switch"]["error"]
    assert net.switch_pid() == pid and alive(pid)
    done = net.creedence("upgrade", check=False)
    assert done.returncode == 1 and "failed" in done.stdout


def test_an_upgrade_to_a_switch_that_fails_says_so(net):
    net.behave_switch(fail={"configure": [-22, "the fake switch was told to fail"]})
    error = net.call("upgrade")["switch"]["error"]
    assert "told to fail" in error
    net.behave_switch()
    settled(net, 10)


@pytest.mark.slow
def test_a_switch_that_does_not_leave_is_killed(net):
    pid = net.switch_pid()
    net.behave_switch(hang="leave")
    assert "pid" in net.call("upgrade")["switch"]
    assert not alive(pid)
    settled(net)


def test_shutdown_leaves_or_ends_the_switch(net):
    pid = net.switch_pid()
    net.call("shutdown")
    net.process.wait(10)
    assert alive(pid)
    net.control_socket.unlink(missing_ok=True)
    net.start()
    assert settled(net)["switch"]["pid"] == pid
    net.call("shutdown", stop_workers=True)
    net.process.wait(10)
    assert not alive(pid) and net.switch_log()[-1]["method"] == "quit"
    assert not (net.run_dir / "vifs/web1.sock").exists()
    net.control_socket.unlink(missing_ok=True)
    net.start()
    settled(net)
    assert status(net)["vifs"] == 1 and vif(net)["state"] == "serving"


# ---- what cannot be made ----


def test_a_port_whose_interface_comes_later(net):
    fails(-32009, lambda: net.call("port.add", bridge="br0", name="p1", type="tap", device="absent0"), "p1", "no such interface")
    assert len(net.call("port.list")["ports"]) == 1
    net.behave_switch(fail={"port.add": [-19, "eth1: no such interface"]})
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: net.call("port.list")["ports"][0]["state"] == "failed", 5, "the port to fail")
    assert "no such interface" in net.call("port.list")["ports"][0]["error"]
    assert status(net)["settled"] and vif(net)["state"] == "serving"  # the others work
    net.behave_switch()
    settled(net)
    assert net.call("port.list")["ports"][0]["state"] == "serving"


def test_a_switch_that_cannot_be_started(daemon):
    (daemon.fake_dir / "creedence-switch").unlink()
    fails(-32009, lambda: daemon.call("bridge.add", name="br0"), "creedence-switch", "No such file")
    assert daemon.call("bridge.list")["bridges"] == []
    assert status(daemon)["switch"]["state"] == "off"


@pytest.mark.parametrize("how", ["die", pytest.param("hang", marks=pytest.mark.slow)])
def test_what_kills_the_switch_is_not_added(net, how):
    net.behave_switch(**{how: "port.add"})
    if how == "die":
        fails(-32009, lambda: net.call("port.add", bridge="br0", name="p1", type="tap"), "p1")
    else:
        with net.rpc(timeout_s=40) as rpc:
            fails(-32009, lambda: rpc.call("port.add", bridge="br0", name="p1", type="tap"), "p1")
    net.behave_switch()
    settled(net, 10)
    assert len(net.call("port.list")["ports"]) == 1


def test_what_is_wrong_is_said(net, run_dir):
    def call(method, **params):
        return lambda: net.call(method, **params)
    fails(-32602, call("bridge.add", name="a/b"), "name")
    fails(-32602, call("bridge.add", name="b", fail_mode="open"), "fail_mode", "standalone")
    fails(-32602, call("bridge.add", name="b", colour="red"), "colour")
    for name in ("x" * 32, "12", "ALL", "in_port"):
        fails(-32602, call("bridge.add", name=name), "name")
    fails(-32002, call("bridge.add", name="br0"), "br0")
    fails(-32602, call("port.add", bridge="br0", name="p", type="e1000"), "type")
    fails(-32602, call("port.add", bridge="br0", name="p", type="tap", device="a b"), "device")
    fails(-32602, call("port.add", bridge="br0", name="p" * 20, type="tap"), "device")
    fails(-32001, call("port.add", bridge="br7", name="p", type="tap"), "br7", "bridge list")
    fails(-32002, call("port.add", bridge="br0", name="web1", type="tap"), "web1")
    fails(-32602, call("port.add", bridge="br0", name="p", type="tap", vlan_mode="access"), "tag")
    fails(-32602, call("port.add", bridge="br0", name="p", type="tap", trunks=[1, 5000]), "trunks")
    fails(-32602, call("port.add", bridge="br0", name="p", type="tap", trunks=["9-5"]), "trunks")
    fails(-32002, call("vif.attach", bridge="br0", name="eth1"), "eth1")
    fails(-32602, call("vif.attach", bridge="br0", name="v", mac="01:00:00:00:00:01"), "mac")
    fails(-32602, call("vif.attach", bridge="br0", name="v", mac="2:0:0:0:0:1"), "mac")
    fails(-32602, call("vif.attach", bridge="br0", name="v", queues=17), "queues")
    fails(-32602, call("vif.attach", bridge="br0", name="v", mtu=67), "mtu")
    fails(-32602, call("vif.attach", bridge="br0", name="v", allowed_ips=["10.0.0.0/33"]), "allowed_ips")
    fails(-32602, call("vif.attach", bridge="br0", name="v", allowed_ips=["fe80::1%eth0"]), "allowed_ips")
    fails(-32602, call("vif.attach", bridge="br0", name="v", allowed_macs=[5]), "allowed_macs")
    fails(-32602, call("vif.attach", bridge="br0", name="v", rate_in={"bits": 5}), "bits")
    fails(-32602, call("vif.attach", bridge="br0", name="v", socket="relative"), "socket")
    fails(-32602, call("vif.set", name="web1", queues=2), "queues", "cannot be changed")
    fails(-32001, call("vif.set", name="web9", mtu=1400), "vif list")
    fails(-32602, call("port.set", name="eth1", type="tap"), "type")
    fails(-32001, call("port.del", name="eth1", bridge="br1"), "of bridge br0")
    fails(-32003, call("bridge.del", name="br0"), "2 ports")
    (run_dir / "file").write_text("mine")
    fails(-32009, call("vif.attach", bridge="br0", name="v", socket=str(run_dir / "file")), "not a socket")
    assert (run_dir / "file").read_text() == "mine"
    net.call("vif.attach", bridge="br0", name="v", socket=str(run_dir / "vm.sock"))
    fails(-32002, call("vif.attach", bridge="br0", name="w", socket=str(run_dir / "vm.sock")), "vif v")
    net.call("vif.detach", name="v")
    assert not (run_dir / "vm.sock").exists()
    assert len(saved(net)["vifs"]) == 1 and len(saved(net)["ports"]) == 1


def test_without_a_bridge_nothing_can_be_asked(daemon):
    fails(-32001, lambda: daemon.call("flow.add", bridge="br0", flows=["actions=drop"]), "br0")
    fails(-32009, lambda: daemon.call("megaflow.stats"), "bridge add")
    assert daemon.call("vif.stats") == {"vifs": []} and daemon.call("net.stats")["ports"] == []


def test_a_connected_card_is_detached_by_force_only(net):
    net.behave_switch(connected=["web2"])
    net.call("vif.attach", bridge="br0", name="web2")
    wait_until(lambda: vif(net, "web2")["front_end"] == "connected", 5, "its guest")
    fails(-32003, lambda: net.call("vif.detach", name="web2"), "connected", "force")
    net.call("vif.detach", name="web2", force=True)
    assert not (net.run_dir / "vifs/web2.sock").exists()
    assert [v["name"] for v in net.call("vif.list")["vifs"]] == ["web1"]


def test_changes_are_kept(net):
    answer = net.call("vif.set", name="web1", mtu=9000, tag=5, allowed_ips=["10.0.0.5", "2001:db8::/64"])
    assert answer["mtu"] == 9000 and answer["state"] == "serving"
    net.call("port.set", bridge="br0", name="eth1", trunks=[1, 2, "5-9"])
    assert net.switch_log("vif.set")[-1]["params"]["tag"] == 5
    net.call("vif.set", name="web1", announce=True)
    assert net.switch_log("vif.set")[-1]["params"]["announce"] and "announce" not in vif(net)
    fails(-32602, lambda: net.call("vif.set", name="web1", vlan_mode="up"), "vlan_mode")
    net.behave_switch(fail={"vif.set": [-22, "it has no room"]})
    fails(-32602, lambda: net.call("vif.set", name="web1", mtu=1280), "no room")
    assert vif(net)["mtu"] == 9000 and saved(net)["vifs"][0]["mtu"] == 9000 and saved(net)["ports"][0]["trunks"] == [1, 2, "5-9"]


# ---- saved state ----


def test_entries_that_are_not_understood_are_left_out(run_dir):
    state = run_dir / "state"
    state.mkdir()
    (state / "network.json").write_text(json.dumps({
        "version": 1, "bridges": [{"name": "br0"}, {"name": "../x"}],
        "ports": [{"bridge": "br0", "name": "eth1", "type": "tap"}, {"bridge": "nowhere", "name": "eth2", "type": "tap"}],
        "vifs": [{"bridge": "br0", "name": "web1"}, {"bridge": "br0", "name": "eth1"}, 5, {"bridge": "br0", "name": "web1"}]}))
    with Daemon(run_dir, fake=True) as daemon:
        daemon.start()
        s = settled(daemon)
        assert (s["bridges"], s["ports"], s["vifs"]) == (1, 1, 1)
        assert (state / "network.json.bad-1").exists() and len(saved(daemon)["vifs"]) == 1
        assert "left out" in daemon.output()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": "1"}', '{"version": 1, "bridges": {}}', "\0" * 100])
def test_a_file_that_is_not_understood_is_set_aside(run_dir, text):
    (run_dir / "state").mkdir()
    (run_dir / "state/network.json").write_text(text)
    with Daemon(run_dir, fake=True) as daemon:
        daemon.start()
        if text == "{}" or "version" not in text or "bridges" in text or '"1"' in text:
            assert (run_dir / "state/network.json.bad-1").read_text() == text
        daemon.call("bridge.add", name="br0")


def test_a_newer_file_is_left_alone(run_dir):
    (run_dir / "state").mkdir()
    (run_dir / "state/network.json").write_text('{"version": 2, "clouds": []}')
    with Daemon(run_dir, fake=True) as daemon:
        daemon.start()
        fails(-32007, lambda: daemon.call("bridge.add", name="br0"), "network.json", "move it away")
        assert (run_dir / "state/network.json").read_text() == '{"version": 2, "clouds": []}'


def test_state_that_cannot_be_saved(net):
    os.mkdir(net.state_dir / "network.json.tmp")  # in the way of the next one
    fails(-32007, lambda: net.call("port.add", bridge="br0", name="p1", type="tap"), "is done", "starts again")
    os.rmdir(net.state_dir / "network.json.tmp")
    net.call("port.add", bridge="br0", name="p2", type="tap")
    assert len(saved(net)["ports"]) == 3


def test_flow_files_belong_to_their_bridge(net):
    path = net.state_dir / "flows/br0.flows"
    net.call("flow.add", bridge="br0", flows=["priority=5,actions=drop"])
    assert path.read_text() == "priority=5,actions=drop\n" and stat.S_IMODE(path.stat().st_mode) == 0o600
    net.call("vif.detach", name="web1")
    net.call("port.del", bridge="br0", name="eth1")
    net.call("bridge.del", name="br0")
    assert not path.exists()
    path.write_text("of another life\n")
    net.call("bridge.add", name="br0")
    assert [f["text"] for f in net.call("flow.dump", bridge="br0")["flows"]] == ["priority=0,actions=NORMAL"]


def test_flow_files_are_written_anew_when_the_switch_asks(net):
    path = net.state_dir / "flows/br0.flows"
    net.call("flow.add", bridge="br0", flows=["priority=5,actions=drop"] * 50)
    net.call("flow.del", bridge="br0", flows=["priority=5"])
    net.call("flow.add", bridge="br0", flows=["priority=7,actions=drop"])
    assert len(path.read_text().splitlines()) == 52
    net.behave_switch(compact="br0")
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: net.switch_log("flows.file"), 5, "flows.file")
    wait_until(lambda: not (net.state_dir / "flows/br0.flows.new").exists(), 5, "the file to be in place")
    before = path.read_text()
    net.call("flow.add", bridge="br0", flows=["priority=8,actions=drop"])
    assert path.read_text() == before + "priority=8,actions=drop\n"


def test_flow_files_that_cannot_be_written_anew_stay(net):
    path = net.state_dir / "flows/br0.flows"
    net.call("flow.add", bridge="br0", flows=["priority=5,actions=drop"])
    net.behave_switch(compact="br0", fail={"flows.file": [-28, "no space left"]})
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: "no space left" in net.output(), 5, "the failure")
    assert path.read_text() == "priority=5,actions=drop\n"
    net.call("flow.add", bridge="br0", flows=["priority=6,actions=drop"])
    assert path.read_text() == "priority=5,actions=drop\npriority=6,actions=drop\n"


# ---- flows and the rest ----


def test_flows_are_forwarded_with_what_is_wrong(net):
    assert net.call("flow.add", bridge="br0", flows=["priority=1,actions=drop"], strict=False) == {"changed": 1}
    error = fails(-32602, lambda: net.call("flow.add", bridge="br0", flows=["actions=drop", "wrong=1"]), "line 2, column 1")
    assert error.data["errno"] == 22
    fails(-32602, lambda: net.call("flow.add", bridge="br0", flows=[]), "flows")
    fails(-32602, lambda: net.call("flow.add", bridge="br0", flows=["a" * 9000]), "flows", "line 1")
    fails(-32602, lambda: net.call("flow.add", bridge="br0", flows=["actions=drop", "a\nb"]), "flows", "line 2")
    fails(-32602, lambda: net.call("flow.add", bridge="br0", flows=["\u00e9"]), "flows")
    fails(-32602, lambda: net.call("flow.add", bridge="br0", flows=["a" * 5000] * 30), "bytes")
    fails(-32602, lambda: net.call("flow.add", bridge="br0", flows="actions=drop"), "flows")
    fails(-32001, lambda: net.call("flow.add", bridge="br1", flows=["actions=drop"]), "br1")
    assert net.call("flow.add", bridge="br0", flows=['"' * 96] * 1000)["changed"] == 1000  # doubled on its way
    assert "table 0" in net.call("flow.trace", bridge="br0", packet="in_port=1,tcp")["text"]
    assert len(net.call("megaflow.dump", bridge="br0")["megaflows"]) == 5
    assert net.call("megaflow.stats")["masks"] == 2
    assert net.call("mac.show", bridge="br0")["macs"][0]["port"] == "web1"
    net.call("mac.flush", bridge="br0")
    assert status(net)["switch"]["restarts"] == 0


def test_captures(net, run_dir):
    path = run_dir / "x.pcapng"
    net.call("capture.start", port="web1", file=str(path), snaplen=96)
    assert net.switch_log("capture.start")[0]["params"] == {"port": "web1", "snaplen": 96}
    assert path.read_text() == "pcapng" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert net.call("capture.stop", port="web1")["packets"] == 3
    fails(-32001, lambda: net.call("capture.stop", port="web1"), "no capture")
    fails(-32001, lambda: net.call("capture.start", port="web9", file=str(path)), "web9")
    fails(-32602, lambda: net.call("capture.start", port="web1", file="x"), "absolute")
    os.mkfifo(run_dir / "fifo")
    for wrong in ("fifo", "."):
        fails(-32602, lambda: net.call("capture.start", port="web1", file=str(run_dir / wrong)))
    path.unlink()
    path.symlink_to(run_dir / "elsewhere")
    fails(-32602, lambda: net.call("capture.start", port="web1", file=str(path)))
    assert not (run_dir / "elsewhere").exists()


def test_options_of_the_switch(net):
    pid = net.switch_pid()
    assert net.call("switch.set", flows="exact", exact_max=1000) == {"flows": "exact", "exact_max": 1000}
    wait_until(lambda: net.switch_pid() not in (None, pid), 5, "another switch")
    settled(net)
    assert net.switch_log("configure")[-1]["params"] == {"flows": "exact", "exact_max": 1000}
    assert saved(net)["switch"] == {"flows": "exact", "exact_max": 1000}
    fails(-32602, lambda: net.call("switch.set", flows="fast"), "flows")


# ---- hostile switches ----


@pytest.mark.alone
@pytest.mark.parametrize("how", ["garbage", "flood", "types", "escapes", "answer", "compact"])
def test_a_hostile_switch_hurts_networks_only(net, run_dir, how):
    leaf = run_dir / "leaf.raw"
    leaf.write_bytes(bytes(1 << 20))
    net.attach("d1", leaf)
    pid = net.switch_pid()
    net.behave_switch(hostile=how)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: net.switch_pid() not in (None, pid), 5, "another switch")
    time.sleep(0.5)
    began = time.monotonic()
    assert net.show("d1")["state"] == "serving" and time.monotonic() - began < 1
    assert vif(net)["front_end"] in ("listening", "broken") and vif(net)["held"] <= 1024
    assert len(os.listdir(f"/proc/{net.process.pid}/fd")) < 1200
    assert "\x1b" not in net.creedence("vif", "list").stdout
    if how == "compact":
        assert len(net.switch_log("flows.file")) <= 3
    net.behave_switch()
    os.kill(net.switch_pid(), signal.SIGKILL)
    settled(net, 10)
    net.call("port.add", bridge="br0", name="p1", type="tap")
    assert net.process.running()


@pytest.mark.parametrize("answer", [[], 5, {"vifs": 5}, {"vifs": [5, {"name": []}, {"name": "nobody"}], "next": -1}, {"next": 1, "vifs": []},
                                    {"vifs": [{"name": "web1", "state": "owned", "socket": "/etc/passwd"}]}])
def test_answers_are_not_believed(net, answer):
    net.behave_switch(answer={"vif.list": answer, "vif.stats": answer, "net.stats": answer, "flow.dump": answer, "vif.attach": answer})
    assert vif(net)["state"] == "serving" and vif(net)["socket"].startswith(str(net.run_dir))
    assert len(net.call("vif.stats")["vifs"]) == 1 and len(net.call("net.stats")["vifs"]) == 1
    assert isinstance(net.call("flow.dump", bridge="br0"), dict)
    assert net.call("vif.attach", bridge="br0", name="v1")["state"] == "serving"


@pytest.mark.parametrize("number, mac", [(-1, "x"), (0xffffff00, 5), ("1", "01:00:00:00:00:00"), (1 << 40, "02:00:00:00:00:01\n")])
def test_choices_are_checked(net, number, mac):
    net.behave_switch(answer={"vif.attach": {"number": number, "mac": mac}})
    answer = net.call("vif.attach", bridge="br0", name="v1")
    assert "number" not in answer and "mac" not in answer
    assert saved(net)["vifs"][0] == {"bridge": "br0", "name": "v1"}


@pytest.mark.alone
def test_a_switch_that_does_not_answer_keeps_nobody_waiting(net, run_dir):
    net.behave_switch(hang="flow.dump")
    with net.rpc() as slow, net.rpc() as other:
        slow.send("flow.dump", {"bridge": "br0"})
        began = time.monotonic()
        assert other.call("status")["network"]["vifs"] == 1
        leaf = run_dir / "leaf.raw"
        leaf.write_bytes(bytes(1 << 20))
        net.attach("d1", leaf)
        assert time.monotonic() - began < 2
        assert "vifs" in other.call("vif.list")  # after its own time limit, without the switch's words


def test_a_card_whose_guest_ends_the_switch_again_and_again_is_left_out(net):
    net.behave_switch(connected=["web2"])
    net.call("vif.attach", bridge="br0", name="web2")
    net.behave_switch(fault="web2")
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: vif(net, "web2")["state"] == "left out", 10, "the card to be left out")
    assert wait_until(lambda: (s := status(net))["settled"] and s, 5, "the others")["absent"] == 1
    assert vif(net)["state"] == "serving" and vif(net, "web2")["held"] == 2
    assert "3 times in a minute" in vif(net, "web2")["error"] and "vif web2" in net.output()
    pid = net.switch_pid()
    assert [e["params"]["name"] for e in of_switch(net, pid, "vif.attach")] == ["web1"]
    net.behave_switch()
    assert net.call("vif.set", name="web2", link="up")["state"] != "left out"
    wait_until(lambda: vif(net, "web2")["state"] == "serving", 5, "the card")
    assert net.switch_pid() == pid and of_switch(net, pid, "vif.attach")[-1]["fds"] == ["conn", "listen", "state"]


@pytest.mark.parametrize("thread, port, blamed", [
    ("web1", "", "web1"), ("nobody", "", None), ("a-name-that-is-cut-0", "", None), ("ports.0", "", None), ("?", "", None),
    ("ports.0", "a-name-that-is-cut-1", "a-name-that-is-cut-1"), ("web1", "host0", None)])
def test_faults_blame_who_can_be_known(net, thread, port, blamed):
    for n in range(2):
        net.call("vif.attach", bridge="br0", name=f"a-name-that-is-cut-{n}")
    net.call("vif.attach", bridge="br0", name="ports", queues=2)
    net.behave_switch(fault_thread=thread[:15], fault_port=port)
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: status(net)["switch"]["restarts"] > 5, 10, "faults")
    net.behave_switch()
    wait_until(lambda: status(net)["settled"], 10, "the switch to be settled")
    assert [v["name"] for v in net.call("vif.list")["vifs"] if v["state"] == "left out"] == ([blamed] if blamed else [])
    if blamed:
        net.call("vif.detach", name=blamed)
        assert len(net.call("vif.list")["vifs"]) == 3


@pytest.mark.slow
def test_a_switch_that_hangs_is_replaced(net):
    pid = net.switch_pid()
    net.behave_switch(hang="settled")
    wait_until(lambda: not alive(pid), 50, "its end")
    net.behave_switch()
    wait_until(lambda: net.switch_pid() not in (None, pid), 20, "another switch")
    assert "does not answer any more" in net.output()


def test_more_than_the_link_takes_is_refused(net):
    net.behave_switch(hang="mac.flush")
    connections = [net.rpc() for _ in range(6)]
    for rpc in connections:
        for _ in range(14):
            rpc.send("mac.flush", {"bridge": "br0"})
    answers = []
    wait_until(lambda: net.switch_log("mac.flush"), 5, "the first")
    connections[-1].sock.settimeout(20)
    answers = [connections[-1].receive() for _ in range(14)]
    assert all(a["error"]["code"] == -32003 and "at once" in a["error"]["message"] for a in answers)
    for rpc in connections:
        rpc.close()
    assert net.process.running()
