# SPDX-License-Identifier: Apache-2.0
"""Networks from the command line, against a switch that forwards nothing: syntax, tables, JSON, exit status."""

import json
import os
import subprocess

import pytest

from lib.control import Daemon
from lib.paths import program
from lib.process import wait_until

pytestmark = pytest.mark.timeout_s(60)


@pytest.fixture
def daemon(run_dir):
    with Daemon(run_dir, fake=True) as d:
        yield d.start()


@pytest.fixture
def net(daemon):
    daemon.creedence("bridge", "add", "br0")
    daemon.creedence("port", "add", "br0", "eth1", "--type=af_packet")
    daemon.creedence("vif", "attach", "br0", "web1", "--mac=02:00:00:00:00:01", "--allowed-ip=10.0.0.5")
    return daemon


def refused(net, *words, status=1):
    done = net.creedence(*words, check=False)
    assert done.returncode == status, done
    return done.stderr


def as_json(net, *words):
    return json.loads(net.creedence(*words, "--json").stdout)


@pytest.mark.parametrize("words,expected", [
    (("bridge", "add"), "argument is missing"), (("bridge", "add", "a", "b"), 'unexpected argument "b"'),
    (("bridge", "add", "a", "--mac-ageing", "86401"), "1 to 86400"), (("port", "add", "br0", "p"), "--type is missing"),
    (("port", "add", "br0", "p", "--type", "tap", "--queues", "17"), "1 to 16"), (("port", "set", "p"), "nothing to set"),
    (("port", "add", "br0", "p", "--type", "tap", "--gro", "yes"), "on or off"), (("vif", "set", "v"), "nothing to set"),
    (("port", "add", "br0", "p", "--type", "tap", "--trunks", "a"), "0 to 4095"),
    (("vif", "attach", "br0"), "argument is missing"), (("vif", "attach", "br0", "v", "--mtu", "9"), "68 to 65535"),
    (("vif", "attach", "br0", "v", "--rate-in", "fast"), "1Gbps"), (("vif", "attach", "br0", "v", "--rate-in", "5"), "1Gbps"),
    (("vif", "attach", "br0", "v", "--rate-in", "99999999999Tbps"), "1Gbps"), (("vif", "set", "v", "--queues", "2"), "unknown option"),
    (("flow", "add", "br0"), "argument is missing"), (("flow", "dump"), "argument is missing"), (("flow", "trace", "br0"), "argument is missing"),
    (("capture", "web1"), "-w FILE"), (("capture", "web1", "start"), "stop"), (("capture", "web1", "stop", "-w", "x"), "stop"),
    (("mac", "show"), "argument is missing"), (("megaflow", "stats", "x"), "unexpected"), (("flow",), "did you mean creedence flow add"),
    (("switch", "set", "--emc", "x"), "expected a number"), (("switch", "set", "--emc=1"), "a power of two from 2"),
    (("switch", "set", "--emc=3"), "a power of two from 2"), (("switch", "set", "--exact-max=2000000"), "1 to 1000000"),
    (("switch", "set", "--megaflows-max=1000001"), "1 to 1000000"), (("switch", "set", "--masks-max=0"), "1 to 65536"),
    (("switch", "set", "--vif-threads=257"), "0 to 256")])
def test_wrong_use_ends_with_2(words, expected):
    done = subprocess.run([str(program("creedence")), *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and expected in done.stderr, done


def test_bridges_ports_cards(net):
    assert "no bridges" not in net.creedence("bridge", "list").stdout
    lines = net.creedence("bridge", "list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "FAIL", "MODE", "PORTS", "FLOWS", "MACS"]
    assert lines[1].split() == ["br0", "serving", "standalone", "2", "1", "2"]
    lines = net.creedence("port", "list").stdout.splitlines()
    assert lines[1].split() == ["eth1", "br0", "1", "af_packet", "eth1", "serving", "all", "-"]
    lines = net.creedence("vif", "list").stdout.splitlines()
    assert lines[1].split() == ["web1", "br0", "2", "02:00:00:00:00:01", "serving", "listening", "up", "1", "all", f"{net.run_dir}/vifs/web1.sock"]
    shown = net.creedence("bridge", "show", "br0").stdout
    assert "eth1" in shown and "web1" in shown and "standalone" in shown
    for what in ("bridge", "port", "vif"):
        assert net.creedence(what, "list", "--names").stdout == {"bridge": "br0\n", "port": "eth1\n", "vif": "web1\n"}[what]
    assert as_json(net, "vif", "list", "--bridge", "br0")["vifs"][0]["allowed_ips"] == ["10.0.0.5"]
    assert as_json(net, "bridge", "show", "br0")["flow_count"] == 1
    assert "bridge list" in refused(net, "vif", "list", "--bridge", "br7")
    assert "web1: serving" in net.creedence("vif", "stats").stdout and "in_packets" in net.creedence("vif", "stats", "web1").stdout
    assert "out_packets" in net.creedence("port", "stats", "eth1").stdout
    assert as_json(net, "port", "stats")["ports"][0]["stats"]["out_bytes"] == 700
    assert "2 ports" in refused(net, "bridge", "del", "br0")
    assert "is detached" in net.creedence("vif", "detach", "web1").stdout
    assert "is deleted" in net.creedence("port", "del", "br0", "eth1").stdout
    assert "is deleted" in net.creedence("bridge", "del", "br0").stdout
    assert net.creedence("bridge", "list").stdout == "there are no bridges\n"
    assert net.creedence("port", "list").stdout == "there are no ports\n"


def test_every_option_of_a_card_arrives(net, run_dir):
    net.creedence("vif", "attach", "br0", "v", "--mtu=9000", "--queues=4", "--number=9", "--socket", run_dir / "v.sock", "--packed=off",
                  "--in-order=off", "--offloads=off", "--rate-in=1Gbps,200Kpps", "--rate-out", "5000pps", "--vlan-mode=native-untagged",
                  "--tag=7", "--trunks=7,100-199", "--allowed-mac=02:00:00:00:00:09", "--allowed-ip=10.0.0.1,10.1.0.0/16",
                  "--allowed-ip", "fd00::/64", "--link=down")
    assert net.switch_log("vif.attach")[-1]["params"] == {
        "bridge": "br0", "name": "v", "mtu": 9000, "queues": 4, "number": 9, "packed": False, "in_order": False, "offloads": False,
        "rate_in": {"bits_per_s": 10**9, "packets_per_s": 200000}, "rate_out": {"bits_per_s": 0, "packets_per_s": 5000},
        "vlan_mode": "native-untagged", "tag": 7, "trunks": [7, "100-199"], "allowed_macs": ["02:00:00:00:00:09"],
        "allowed_ips": ["10.0.0.1", "10.1.0.0/16", "fd00::/64"], "link": "down"}
    assert "native-untagg" in net.creedence("vif", "list").stdout
    net.creedence("vif", "set", "v", "--rate-in=none", "--allowed-ip=none", "--link", "up", "--announce")
    assert net.switch_log("vif.set")[-1]["params"] == {
        "bridge": "br0", "name": "v", "rate_in": {"bits_per_s": 0, "packets_per_s": 0}, "allowed_ips": [], "link": "up", "announce": True}
    card = next(v for v in as_json(net, "vif", "list")["vifs"] if v["name"] == "v")
    assert card["allowed_ips"] == [] and card["link"] == "up" and "announce" not in card
    net.creedence("port", "add", "br0", "lan", "--type=tap", "--device=tap7", "--tag=5", "--gro=off", "--mtu=1400", "--queues=2")
    assert net.switch_log("port.add")[-1]["params"] == {"bridge": "br0", "name": "lan", "type": "tap", "device": "tap7", "tag": 5, "gro": False,
                                                        "mtu": 1400, "queues": 2}
    net.creedence("port", "set", "lan", "--gro=on", "--trunks=1,2")
    assert net.switch_log("port.set")[-1]["params"] == {"bridge": "br0", "name": "lan", "gro": True, "trunks": [1, 2]}


def test_flows(net, run_dir):
    assert net.creedence("flow", "add", "br0", "priority=100,tcp,tp_dst=80,actions=output:2").stdout == "1 flow added\n"
    assert net.switch_log("flow.add")[-1]["params"]["flows"] == ["priority=100,tcp,tp_dst=80,actions=output:2"]
    rules = run_dir / "rules.txt"
    rules.write_text("# rules\n\n  priority=1,ip,actions=drop  \npriority=2,udp,actions=NORMAL\n")
    assert net.creedence("flow", "add", "br0", rules).stdout == "2 flows added\n"
    assert net.creedence("flow", "dump", "br0", "--no-stats").stdout.splitlines() == [
        "priority=0,actions=NORMAL", "priority=100,tcp,tp_dst=80,actions=output:2", "priority=1,ip,actions=drop",
        "priority=2,udp,actions=NORMAL"]
    assert net.creedence("flow", "dump", "br0", "tcp").stdout == (
        "n_packets=3, n_bytes=180, duration=1.500s, idle=0.2s, priority=100,tcp,tp_dst=80,actions=output:2\n")
    assert net.creedence("flow", "mod", "br0", "tcp,actions=drop", "--strict").stdout == "1 flow changed\n"
    assert net.switch_log("flow.mod")[-1]["params"]["strict"] is True
    assert net.creedence("flow", "del", "br0", "priority=1").stdout == "2 flows deleted\n"
    assert as_json(net, "flow", "del", "br0") == {"changed": 3}
    assert net.switch_log("flow.del")[-1]["params"]["flows"] == [""]
    assert net.creedence("flow", "trace", "br0", "in_port=1,tcp").stdout == (
        "packet: in_port=1,tcp\ntable 0: priority 0: NORMAL\nmegaflow: in_port=1\n")
    assert "no bridge" in refused(net, "flow", "add", "br7", "actions=drop")


def test_flows_from_a_pipe_in_many_requests(net):
    text = "".join(f"priority={n},tcp,tp_dst={n},actions=output:2\n" for n in range(2500))
    environment = {**os.environ, "CREEDENCE_SOCKET": str(net.control_socket)}
    done = subprocess.run([str(program("creedence")), "flow", "add", "br0", "-"], input=text, capture_output=True, text=True, env=environment,
                          timeout=30)
    assert done.stdout == "2500 flows added\n"
    assert len(net.switch_log("flow.add")) == 5
    net.behave_switch(page=100)
    assert len(net.creedence("flow", "dump", "br0").stdout.splitlines()) == 2501
    assert len(as_json(net, "flow", "dump", "br0")["flows"]) == 2501
    done = subprocess.run([str(program("creedence")), "flow", "add", "br0", "-"], input=text + "\n#\nwrong,actions=drop\n", capture_output=True,
                          text=True, env=environment, timeout=30)
    assert done.returncode == 1
    assert "standard input: line 2503: column 1: expected a field" in done.stderr and "before line 2503 has been carried out" in done.stderr


def test_what_is_wrong_with_flows_is_said(net, run_dir):
    assert refused(net, "flow", "add", "br0", "wrong,actions=drop") == "creedence: column 1: expected a field\n"
    text = refused(net, "flow", "add", "br0", "tcp")
    assert "tcp: No such file" in text and "actions=" in text
    rules = run_dir / "rules"
    rules.write_text("actions=drop\n\nactions=wrong\n")
    text = refused(net, "flow", "add", "br0", rules)
    assert f"{rules}: line 3: column 9" in text and "carried out" not in text
    rules.write_bytes(b"actions=drop,\xff\n")
    assert "line 1: not text" in refused(net, "flow", "add", "br0", rules)
    assert "printable" in refused(net, "flow", "add", "br0", "actions=\u00e9")


def test_caches_and_addresses(net):
    assert net.creedence("megaflow", "dump").stdout.splitlines()[1] == (
        "packets=1, bytes=60, idle=0.5s, thread=vif1, bridge=br0, in_port=1,ip actions=output:2")
    assert net.creedence("megaflow", "dump", "br0").stdout == net.creedence("megaflow", "dump").stdout
    net.behave_switch(page=2)
    assert len(as_json(net, "megaflow", "dump")["megaflows"]) == 5
    assert "emc_hits" in net.creedence("megaflow", "stats").stdout and "100.00 %" in net.creedence("megaflow", "stats").stdout
    assert net.creedence("mac", "show", "br0").stdout.splitlines()[1].split() == ["02:00:00:00:00:01", "0", "1", "web1", "4", "s"]
    assert "forgotten" in net.creedence("mac", "flush", "br0").stdout
    assert as_json(net, "mac", "flush", "br0") == {}


def test_captures(net, run_dir):
    path = run_dir / "x.pcapng"
    assert str(path) in net.creedence("capture", "web1", "-w", path, "--snaplen", "96").stdout
    assert path.exists()
    assert net.creedence("capture", "web1", "stop").stdout.startswith("3 packets captured, 200 B; 0")
    assert "no capture" in refused(net, "capture", "web1", "stop")
    net.creedence("capture", "eth1", "-w", path)
    assert as_json(net, "capture", "eth1", "stop")["packets"] == 3
    assert "vif list" in refused(net, "capture", "web9", "-w", path)


@pytest.mark.slow
def test_top_shows_networks(net):
    net.behave_switch()
    text = net.creedence("top", "--batch", "-n", "1", "-d", "1.1").stdout
    assert "exact match 60.0 %, megaflows 30.0 %, tables 10.0 %; 12 megaflows, 3 masks" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith(("web1", "eth1"))}
    assert rows["web1"][1:3] == ["br0", "listening"] and float(rows["web1"][3]) > 500 and rows["eth1"][2] == "serving"
    o = as_json(net, "top", "-n", "1", "-d", "1.1")["networks"]
    assert round(o["exact_percent"]) == 60 and [p["name"] for p in o["ports"]] == ["web1", "eth1"] and o["ports"][0]["kind"] == "vif"
    assert o["ports"][0]["in_packets_per_s"] > 500 and o["ports"][0]["in_bits_per_s"] == 0
    net.behave_switch(hang="net.stats")
    assert "web1" in net.creedence("top", "--batch", "-n", "1", "-d", "0.1").stdout


def test_top_without_networks(daemon):
    assert "switch:" not in daemon.creedence("top", "--batch", "-n", "1", "-d", "0.1").stdout


def test_status_and_the_rest(net):
    text = net.creedence("status").stdout
    assert "1 bridges, 1 ports, 1 cards, 0 connected" in text and "switch        running, process" in text and "version 9.9" in text
    assert as_json(net, "status")["network"]["settled"] is True
    assert net.creedence("switch", "set").stdout == "the switch has its own choice of everything\n"
    pid = net.switch_pid()
    assert net.creedence("switch", "set", "--flows=exact", "--exact-max=4096", "--emc=0", "--gro=off", "--tx=copy",
                         "--poll-us=always").stdout.split() == ["flows", '"exact"', "exact_max", "4096", "emc", "0", "gro", "false", "tx", '"copy"',
                                                                "poll_us", '"always"']
    wait_until(lambda: net.switch_pid() not in (None, pid), 5, "another switch")
    assert "expected" in refused(net, "switch", "set", "--flows=fast")
    rows = net.creedence("upgrade").stdout.splitlines()
    assert rows[0].split() == ["WHAT", "FROM", "TOOK", "RESULT"] and rows[1].startswith("the switch")
    assert "pid" in as_json(net, "upgrade", "--switch")["switch"]
    assert "networks stay served" in net.creedence("shutdown").stdout


def test_completion(net, run_dir):
    script = run_dir / "completion.bash"
    script.write_text(net.creedence("completion", "bash").stdout)

    def complete(*words):
        text = f"""source {script}; COMP_WORDS=(creedence {' '.join(repr(w) for w in words)}); COMP_CWORD={len(words)}
            compopt() {{ :; }}; _creedence; printf '%s\\n' "${{COMPREPLY[@]}}" """
        done = subprocess.run(["bash", "-uc", text], capture_output=True, text=True, timeout=20, cwd=run_dir, env={
            **os.environ, "PATH": f"{program('creedence').parent}:{os.environ['PATH']}", "CREEDENCE_SOCKET": str(net.control_socket)})
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.split()

    assert {"bridge", "port", "vif", "flow", "megaflow", "mac", "capture", "switch"} <= set(complete(""))
    assert set(complete("flow", "")) == {"add", "mod", "del", "dump", "trace"}
    assert complete("flow", "add", "b") == ["br0"] == complete("vif", "attach", "") == complete("port", "list", "--bridge", "")
    assert complete("flow", "add", "br0", "comp") == ["completion.bash"]
    assert complete("vif", "set", "") == ["web1"] and complete("port", "del", "e") == ["eth1"]
    assert complete("capture", "w") == ["web1"] and complete("port", "add", "br0", "p", "--type", "af_x") == ["af_xdp"]
    assert "--allowed-ip" in complete("vif", "attach", "br0", "x", "--al")
    assert {"group", "meter", "controller", "tls", "policy"} <= set(complete(""))
    assert set(complete("group", "")) == {"add", "mod", "del", "dump"} == set(complete("meter", ""))
    assert set(complete("controller", "")) == {"add", "del", "list"} and set(complete("tls", "")) == {"set", "show", "del"}
    assert set(complete("policy", "")) == {"add", "del", "list", "show"}
    for verb in (("group", "add"), ("meter", "dump"), ("controller", "add"), ("controller", "del"), ("bridge", "set"), ("policy", "list", "--bridge")):
        assert complete(*verb, "b") == ["br0"], verb
    assert complete("group", "add", "br0", "comp") == ["completion.bash"] and complete("tls", "set", "--key", "comp") == ["completion.bash"]
    assert complete("policy", "show", "") == ["web1"] == complete("policy", "add", "--vif", "")
    assert complete("policy", "add", "--protocol", "ic") == ["icmp"] and set(complete("policy", "add", "--direction", "")) == {"in", "out", "both"}
    assert {"--masks-max", "--megaflows-max"} <= set(complete("switch", "set", "--m"))


def test_groups_meters_controllers_policies_as_json(net, run_dir):
    for what, text, key in (("group", "group_id=1,type=all,bucket=output:1", "groups"), ("meter", "meter=1,kbps,bands=type=drop,rate=5", "meters")):
        for verb in ("add", "mod"):
            assert as_json(net, what, verb, "br0", text) == {"changed": 1}
        assert net.switch_log(f"{what}.mod")[-1]["params"] == {"bridge": "br0", key: [text]}
        assert as_json(net, what, "dump", "br0")[key][0]["text"] == text
        assert text in net.creedence(what, "dump", "br0", "--no-stats").stdout
        assert as_json(net, what, "del", "br0") == {"changed": 1}
        assert as_json(net, what, "dump", "br0")[key] == []
    assert as_json(net, "bridge", "set", "br0", "--fail-mode=secure") is not None
    assert as_json(net, "controller", "add", "br0", f"punix:{run_dir}/c.sock", "--name=c1") is not None
    assert as_json(net, "controller", "list")["controllers"][0]["name"] == "c1"
    assert as_json(net, "controller", "list", "br0")["others"] == []
    assert as_json(net, "controller", "del", "br0", "c1") is not None
    assert as_json(net, "tls", "show") == {} == as_json(net, "tls", "del")
    rule = as_json(net, "policy", "add", "--vif=web1", "--allow", "--direction=in", "--protocol=tcp", "--port=80")
    assert rule["id"] == 1 and rule["applied"] is True
    assert as_json(net, "policy", "list")["policies"][0]["port"] == 80
    assert "out_port=web1" in as_json(net, "policy", "show", "web1")["flows"][0]["text"]
    assert as_json(net, "policy", "del", "1") is not None and as_json(net, "policy", "list")["policies"] == []
    assert as_json(net, "mac", "show", "br0")["macs"][0]["port"] == "web1" and as_json(net, "megaflow", "stats")["masks"] == 2


def test_what_the_switch_says_is_shown_harmlessly(net):
    net.behave_switch(answer={"flow.dump": {"flows": [{"text": "\x1b[2Jfake"}]}, "flow.trace": {"text": "a\n\x1b[2Jb\n"},
                              "mac.show": {"macs": [{"mac": "\x1b[2J"}]}, "net.stats": {"switch": {"\x1b[2J": 1}, "ports": []}})
    for words in (("flow", "dump", "br0"), ("flow", "trace", "br0", "x"), ("mac", "show", "br0"), ("top", "--batch", "-n", "1", "-d", "0.1")):
        assert "\x1b" not in net.creedence(*words).stdout, words
    assert net.creedence("flow", "trace", "br0", "x").stdout == "a\n?[2Jb\n"
