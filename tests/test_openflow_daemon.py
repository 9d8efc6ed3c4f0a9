# SPDX-License-Identifier: Apache-2.0
"""The daemon's half of OpenFlow, against a switch that forwards nothing: what is dialled, kept, said, and what a hostile switch can
do (nothing)."""

import json
import os
import signal
import socket
import time

import pytest

from lib.control import Daemon, RpcError
from lib.process import wait_until

pytestmark = pytest.mark.timeout_s(60)


@pytest.fixture
def daemon(run_dir):
    with Daemon(run_dir, fake=True) as d:
        d.start()
        d.call("bridge.add", name="br0")
        yield d


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as s:
        s.settimeout(30)
        yield s


def target_of(server):
    return f"tcp:127.0.0.1:{server.getsockname()[1]}"


def states(daemon):
    return [c["state"] for c in daemon.call("controller.list")["controllers"]]


def saved(daemon):
    return json.loads((daemon.state_dir / "network.json").read_text())


def test_a_controller_is_dialled_handed_over_and_kept(daemon, server):
    target = target_of(server)
    daemon.call("controller.add", bridge="br0", target=target, name="main")
    first, _ = server.accept()
    wait_until(lambda: states(daemon) == ["established"], 5, "the controller")
    assert daemon.switch_log("bridge.set")[-1]["params"] == {"name": "br0", "controllers": 1, "targets": [target]}
    asked = daemon.switch_log("openflow.connected")[-1]
    assert asked["params"] == {"bridge": "br0", "target": target, "tls": False} and asked["fds"] == ["connection"]
    assert saved(daemon)["bridges"][0]["controllers"] == [{"target": target, "name": "main"}]
    os.kill(daemon.switch_pid(), signal.SIGKILL)
    second, _ = server.accept()
    wait_until(lambda: states(daemon) == ["established"], 5, "the controller")
    assert daemon.switch_log("bridge.add")[-1]["params"]["controllers"] == 1
    assert sorted(daemon.switch_log("bridge.add")[-1]["fds"]) == ["flows", "mgmt", "snoop"]
    daemon.call("controller.del", bridge="br0", target="main")
    assert daemon.switch_log("bridge.set")[-1]["params"] == {"name": "br0", "controllers": 0, "targets": []}
    assert "controllers" not in saved(daemon)["bridges"][0]
    second.settimeout(20)
    assert second.recv(1) == b""
    first.close()
    second.close()


def test_one_that_ends_is_dialled_again_and_not_too_often(daemon, server):
    daemon.behave_switch(controller=["ended"])
    began = time.monotonic()
    daemon.call("controller.add", bridge="br0", target=target_of(server))
    for _ in range(3):
        server.accept()[0].close()
    wait_until(lambda: daemon.call("controller.list")["controllers"][0].get("error") == "it ended", 10, "why")
    daemon.behave_switch()
    server.accept()[0].close()
    assert time.monotonic() - began > 3  # after 0, 0.5, 1.5 and 3.5 s
    wait_until(lambda: states(daemon) == ["established"], 5, "the controller")


def test_nobody_there(daemon):
    with socket.create_server(("127.0.0.1", 0)) as s:
        target = target_of(s)
    daemon.call("controller.add", bridge="br0", target=target)
    wait_until(lambda: "refused" in daemon.call("controller.list")["controllers"][0].get("error", ""), 5, "an error")
    assert not daemon.switch_log("openflow.connected")
    daemon.call("controller.add", bridge="br0", target="unix:/nowhere/at/all")
    wait_until(lambda: len([c for c in daemon.call("controller.list")["controllers"] if "error" in c]) == 2, 5, "two errors")
    daemon.call("controller.del", bridge="br0")
    assert daemon.call("controller.list")["controllers"] == []


def test_a_switch_that_refuses(daemon, server):
    daemon.behave_switch(fail={"openflow.connected": [-126, "there is no \x1b[2Jkey"]})
    daemon.call("controller.add", bridge="br0", target=target_of(server))
    connection, _ = server.accept()
    wait_until(lambda: "there is no ?[2Jkey" in daemon.call("controller.list")["controllers"][0].get("error", ""), 5, "an error")
    connection.close()


def test_passive(daemon, run_dir):
    path = run_dir / "controllers.sock"
    daemon.call("controller.add", bridge="br0", target=f"punix:{path}")
    wait_until(lambda: states(daemon) == ["listening"], 5, "the socket")
    assert daemon.switch_log("bridge.set")[-1]["params"]["controllers"] == 0
    assert daemon.switch_log("openflow.listen")[-1]["fds"] == ["listen"]
    daemon.call("controller.del", bridge="br0")
    assert not path.exists()


def test_files_that_are_no_sockets_of_ours_stay(daemon, run_dir):
    path, target = run_dir / "precious", f"punix:{run_dir}/precious"
    path.write_text("kept")
    daemon.call("controller.add", bridge="br0", target=target)
    wait_until(lambda: "not a socket" in daemon.call("controller.list")["controllers"][0].get("error", ""), 5, "an error")
    daemon.call("controller.del", bridge="br0", target=target)
    assert path.read_text() == "kept"
    # Nor one that took the place of a socket of ours; nor a socket that another program made.
    path.unlink()
    daemon.call("controller.add", bridge="br0", target=target)
    wait_until(lambda: states(daemon) == ["listening"], 5, "the socket")
    path.unlink()
    path.write_text("kept")
    daemon.call("controller.del", bridge="br0")
    assert path.read_text() == "kept"
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen()
        daemon.call("controller.add", bridge="br0", target=target)
        wait_until(lambda: "another program" in daemon.call("controller.list")["controllers"][0].get("error", ""), 5, "an error")
        daemon.call("bridge.del", name="br0")
        assert path.is_socket()


def test_the_daemon_is_killed(daemon, server):
    """The switch that is found says whom it is connected to; only then others are dialled."""
    daemon.call("controller.add", bridge="br0", target=target_of(server))
    connection, _ = server.accept()
    wait_until(lambda: states(daemon) == ["established"], 5, "the controller")
    daemon.kill()
    daemon.start()
    # The fake says nothing of it: so it is dialled again.
    server.accept()[0].close()
    connection.close()


def test_tls_files(daemon, run_dir):
    for name in ("key", "certificate", "ca"):
        (run_dir / name).write_text(f"-----BEGIN {name}-----\n")
    paths = {name: str(run_dir / name) for name in ("key", "certificate", "ca")}
    daemon.call("tls.set", **paths)
    assert daemon.switch_log("openflow.tls")[-1]["params"] == {n: f"-----BEGIN {n}-----\n" for n in paths}
    assert saved(daemon)["tls"] == paths and daemon.call("tls.show") == paths
    os.kill(daemon.switch_pid(), signal.SIGKILL)
    wait_until(lambda: len(daemon.switch_log("openflow.tls")) == 2, 10, "the key, once more")
    os.mkfifo(run_dir / "fifo")  # nobody writes to it: it must not be waited for
    for bad in ({**paths, "key": str(run_dir / "fifo")}, {**paths, "ca": "/dev/zero"}, {**paths, "key": "/nowhere"}, {**paths, "key": str(run_dir)}, {**paths, "ca": "relative"}, {"key": paths["key"]}):
        with pytest.raises(RpcError):
            daemon.call("tls.set", **bad)
    (run_dir / "key").write_bytes(b"\0" * 100)
    with pytest.raises(RpcError):
        daemon.call("tls.set", **paths)
    (run_dir / "key").write_text("-----BEGIN " + "x" * 70000)
    with pytest.raises(RpcError):
        daemon.call("tls.set", **paths)
    wait_until(lambda: daemon.call("status")["network"]["settled"], 10, "the switch")
    daemon.call("tls.del")
    assert daemon.call("tls.show") == {} and "tls" not in saved(daemon)


def test_what_is_saved_and_wrong_is_left_out(daemon, run_dir):
    daemon.call("policy.add", vif="web1", allow=True, direction="in", protocol="tcp", port=80)
    daemon.terminate()
    state = saved(daemon)
    state["bridges"].append({"name": "br1", "controllers": [{"target": "tcp:nobody"}]})
    state["policies"].append({"vif": "web1", "allow": 5, "direction": "in", "id": 9})
    state["tls"] = {"key": "relative"}
    (daemon.state_dir / "network.json").write_text(json.dumps(state))
    daemon.start()
    assert [b["name"] for b in daemon.call("bridge.list")["bridges"]] == ["br0"]
    assert [r["id"] for r in daemon.call("policy.list")["policies"]] == [1]
    assert daemon.call("tls.show") == {}
    assert daemon.call("policy.add", vif="web1", allow=True, direction="in")["id"] == 2


def test_limits(daemon):
    for n in range(16):
        daemon.call("controller.add", bridge="br0", target=f"tcp:127.0.0.1:{n + 1}")
    with pytest.raises(RpcError):
        daemon.call("controller.add", bridge="br0", target="tcp:127.0.0.1:99")
    for n in range(256):
        daemon.call("policy.add", vif="web1", allow=True, direction="in", protocol="tcp", port=n)
    with pytest.raises(RpcError):
        daemon.call("policy.add", vif="web1", allow=True, direction="in")


def test_a_hostile_switch(daemon):
    daemon.call("vif.attach", bridge="br0", name="web1")
    daemon.behave_switch(hostile="types")
    os.kill(daemon.switch_pid(), signal.SIGKILL)
    wait_until(lambda: daemon.call("status")["network"]["settled"], 10, "the switch")
    assert daemon.call("controller.list")["controllers"] == []
    assert daemon.process.running()


def test_policies_go_along(daemon):
    daemon.call("policy.add", vif="web1", allow=True, direction="in", protocol="tcp", port=80)
    daemon.call("policy.add", bridge="br0", allow=False, direction="out", protocol="udp")
    assert daemon.switch_log("policy.set")[-1]["params"] == {"bridge": "br0", "policy": [{"allow": False, "direction": "out", "protocol": "udp"}]}
    daemon.call("vif.attach", bridge="br0", name="web1")
    wanted = [{"allow": True, "direction": "in", "protocol": "tcp", "port": 80}]
    assert daemon.switch_log("vif.attach")[-1]["params"]["policy"] == wanted
    os.kill(daemon.switch_pid(), signal.SIGKILL)
    wait_until(lambda: len(daemon.switch_log("vif.attach")) == 2, 10, "the card")
    assert daemon.switch_log("vif.attach")[-1]["params"]["policy"] == wanted
    assert daemon.switch_log("bridge.add")[-1]["params"]["policy"] == [{"allow": False, "direction": "out", "protocol": "udp"}]
    # One that the switch does not take is not kept.
    wait_until(lambda: daemon.call("status")["network"]["settled"], 10, "the switch")
    daemon.behave_switch(fail={"policy.set": [-28, "too many"]})
    with pytest.raises(RpcError, match="too many"):
        daemon.call("policy.add", vif="web1", allow=True, direction="in")
    assert len(daemon.call("policy.list")["policies"]) == 2


def after_adoption(daemon):
    """What the switch that was found was asked since."""
    log = daemon.switch_log()
    return log[max(i for i, e in enumerate(log) if e["method"] == "adopt") + 1:]


def test_a_switch_that_is_found_is_told_all_policies_again(daemon):
    """An earlier daemon may have ended between telling the switch and saving, or the other way round."""
    for n in range(60):  # more than are asked for at once
        daemon.call("vif.attach", bridge="br0", name=f"web{n}")
    daemon.call("policy.add", vif="web7", allow=True, direction="in", protocol="tcp", port=80)
    daemon.call("policy.add", vif="web8", allow=False, direction="out")
    pid = daemon.switch_pid()
    daemon.kill()
    state = saved(daemon)
    state["policies"] = [p for p in state["policies"] if p["vif"] == "web8"]
    (daemon.state_dir / "network.json").write_text(json.dumps(state))
    daemon.start()
    wait_until(lambda: daemon.call("status")["network"]["settled"], 10, "the switch")
    assert daemon.switch_pid() == pid
    asked = after_adoption(daemon)
    told = {e["params"].get("vif") or e["params"].get("bridge"): e["params"]["policy"] for e in asked if e["method"] == "policy.set"}
    assert told == {"br0": [], **{f"web{n}": [] for n in range(60)}, "web8": [{"allow": False, "direction": "out"}]}
    methods = [e["method"] for e in asked]
    assert methods.index("settled") > max(i for i, m in enumerate(methods) if m == "policy.set")
    # One that does not obey is not gone on with.
    daemon.kill()
    daemon.behave_switch(fail={"policy.set": [-12, "no memory"]})
    daemon.start()
    wait_until(lambda: (n := daemon.call("status")["network"])["settled"] and n["switch"].get("pid") not in (None, pid), 10, "another switch")
    attached = [e["params"] for e in daemon.switch_log("vif.attach") if e["pid"] == daemon.switch_pid()]
    assert [p["policy"] for p in attached if p["name"] == "web8"] == [[{"allow": False, "direction": "out"}]]


def test_changes_of_several_policies_go_on_at_once(daemon):
    for name in ("web1", "web2"):
        daemon.call("vif.attach", bridge="br0", name=name)
    daemon.call("policy.add", vif="web1", allow=True, direction="in")
    daemon.call("policy.add", vif="web2", allow=True, direction="in")
    daemon.call("policy.add", vif="web1", allow=True, direction="out")
    daemon.behave_switch(fail={"policy.set": [-28, "too many"]})
    with pytest.raises(RpcError, match="too many"):
        daemon.call("policy.del", vif="web1")
    assert [(p["id"], p["vif"]) for p in daemon.call("policy.list")["policies"]] == [(1, "web1"), (2, "web2"), (3, "web1")]
    daemon.behave_switch(hang="policy.set")
    with daemon.rpc() as waits:
        waits.send("policy.add", {"vif": "web1", "allow": False, "direction": "in"})
        wait_until(lambda: {"allow": False, "direction": "in"} in daemon.switch_log("policy.set")[-1]["params"]["policy"], 5, "the change to be asked for")
        with pytest.raises(RpcError, match="policy of vif web1"):
            daemon.call("policy.del", vif="web1")
        daemon.call("policy.add", vif="late", allow=True, direction="in")  # nobody has to be asked
        os.kill(daemon.switch_pid(), signal.SIGKILL)
        assert waits.receive()["result"]["id"] == 4  # the next switch has it from the beginning
    assert [p["id"] for p in daemon.call("policy.list")["policies"]] == [1, 2, 3, 4, 5]


def test_a_switch_that_is_found_is_told_who_may_control_it(daemon, server):
    """Whatever became of what an earlier daemon asked: the switch ends every controller that is not configured."""
    target = target_of(server)
    daemon.call("controller.add", bridge="br0", target=target)
    connection, _ = server.accept()
    wait_until(lambda: states(daemon) == ["established"], 5, "the controller")
    daemon.kill()
    state = saved(daemon)
    del state["bridges"][0]["controllers"]
    (daemon.state_dir / "network.json").write_text(json.dumps(state))
    daemon.start()
    wait_until(lambda: daemon.call("status")["network"]["settled"], 10, "the switch")
    assert [e["params"] for e in after_adoption(daemon) if e["method"] == "bridge.set"] == [{"name": "br0", "controllers": 0, "targets": []}]
    connection.settimeout(20)
    assert connection.recv(1) == b""
    connection.close()


def test_a_list_says_what_is_missing(daemon):
    daemon.call("controller.add", bridge="br0", target="unix:/nowhere/at/all")
    daemon.behave_switch(fail={"controller.list": [-5, "it cannot"]})
    assert "what the switch knows is missing: it cannot" in daemon.creedence("controller", "list").stdout
    daemon.behave_switch(die="configure")
    os.kill(daemon.switch_pid(), signal.SIGKILL)
    wait_until(lambda: daemon.call("controller.list").get("error"), 5, "it to be said")
    assert "what the switch knows is missing: " in daemon.creedence("controller", "list").stdout
    daemon.behave_switch()
