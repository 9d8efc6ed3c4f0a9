# SPDX-License-Identifier: Apache-2.0
"""The bridges' flow files (src/cmd/switch_keep.h): a new one in the place of the old, whoever ends when; files that cannot be
written; ends that were never finished. The switch is the real one; the daemon is a test, or the switch is a fake one."""

import fcntl
import os
import signal
import time

import pytest

from lib.control import Daemon
from lib.process import wait_until
from lib.switch import HeldSwitch, LinkError, SwitchLink

F_SEAL_GROW = 4
TICKS_S = 2.3  # the switch looks at its files every second

pytestmark = pytest.mark.timeout_s(60)


@pytest.fixture
def held(processes, run_dir):
    """A switch with br0, whose flows are in run_dir/f."""
    switch = HeldSwitch(processes, run_dir).start()
    switch.answers = {}
    switch.want("bridge.add", name="br0", fail_mode="secure", fds={"flows": open_flows(run_dir / "f")})
    yield switch
    if switch.process.running():
        switch.link.ask("quit")
        assert switch.process.wait(10) == 0
    output = switch.process.output()
    assert not any(mark in output for mark in ("Sanitizer", "runtime error:", "Assertion")), output[-6000:]


def open_flows(path):
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)


def answer(switch, request):
    """The answer of that number; others that come before it are kept."""
    while request not in switch.answers:
        if body := switch.link.receive():
            switch.answers[body["id"]] = body
    return switch.answers.pop(request)


def ask(switch, method, fds=None, **params):
    body = answer(switch, switch.link.send(method, params, fds or {}))
    if "error" in body:
        raise LinkError(body["error"])
    return body["result"]


def add(switch, *priorities):
    ask(switch, "flow.add", bridge="br0", flows=[f"priority={p},actions=drop" for p in priorities])


def texts(switch, what="flow", bridge="br0"):
    return sorted(e["text"] for e in switch.link.ask_all(f"{what}.dump", f"{what}s", bridge=bridge))


def has(path, priority):
    return f"priority={priority} " in path.read_text() or f"priority={priority}," in path.read_text()


def send_file(switch, fd):
    """flows.file, whose answer comes later. Its number."""
    return switch.link.send("flows.file", {"bridge": "br0"}, {"flows": fd})


def placed(switch, fd):
    return ask(switch, "flows.placed", bridge="br0", fds={"flows": fd})


def other_daemon(switch):
    """The link ends, and there is another one."""
    switch.link.close()
    switch.answers = {}
    switch.link = SwitchLink(switch.run_dir / "switch-link.sock", switch.notified)
    return switch.link.ask("adopt")


def back_with(switch, fd):
    """Killed; the next one gets that file."""
    switch.requests[0] = (*switch.requests[0][:2], {"flows": fd})
    switch.kill()
    switch.start()


def times_asked(switch):
    return sum(method == "flows" for method, _ in switch.link.notifications)


# ---- a new file ----


def test_a_new_file_goes_with_its_link(held, run_dir):
    """Nobody was told that it is on the disk: nobody gave it the name."""
    add(held, 1)
    send_file(held, open_flows(run_dir / "f.new"))
    other_daemon(held)
    time.sleep(TICKS_S)
    add(held, 2)
    assert has(run_dir / "f", 2) and not has(run_dir / "f.new", 2)
    back_with(held, open_flows(run_dir / "f"))
    assert len(texts(held)) == 2


@pytest.mark.parametrize("renamed", [True, False])
def test_both_files_are_written_until_it_is_said_which(held, run_dir, renamed):
    """The daemon ends after the switch has answered: before it renamed the file, or after."""
    add(held, 1)
    new = open_flows(run_dir / "f.new")
    assert ask(held, "flows.file", bridge="br0", fds={"flows": new}) == {"flows": 1}
    os.rename(run_dir / "f", run_dir / "old")
    os.rename(*(run_dir / name for name in (("f.new", "f") if renamed else ("old", "f"))))
    other, named = (run_dir / name for name in (("old", "f") if renamed else ("f.new", "f")))
    other_daemon(held)
    add(held, 2)
    assert has(named, 2) and has(other, 2)
    held.link.ask("flow.del", bridge="br0", flows=["priority=1"], strict=True)
    named_fd = open_flows(named)
    for _ in range(2):
        assert placed(held, named_fd) == {}
        add(held, 3)
        assert has(named, 3) and not has(other, 3)
    back_with(held, named_fd)
    assert [t.split()[0] for t in texts(held)] == ["priority=2", "priority=3"]


def test_a_file_that_the_switch_has_not_got(held, run_dir):
    add(held, 1)
    with pytest.raises(LinkError, match="another file") as caught:
        placed(held, open_flows(run_dir / "other"))
    assert caught.value.code == -116
    new = open_flows(run_dir / "f.new")
    request = send_file(held, new)
    with pytest.raises(LinkError, match="another file"):  # it cannot have the name before the switch has answered
        placed(held, new)
    add(held, 2)
    assert answer(held, request)["result"] == {"flows": 2}
    assert placed(held, new) == {}
    assert has(run_dir / "f.new", 2)


def test_another_new_file_takes_its_place(held, run_dir):
    add(held, 1)
    old, new = open_flows(run_dir / "first"), open_flows(run_dir / "f.new")
    first, second = send_file(held, old), send_file(held, new)
    assert answer(held, first)["error"]["code"] == -125
    add(held, 2)
    assert not has(run_dir / "first", 2)
    assert answer(held, second)["result"] == {"flows": 2}
    assert placed(held, new) == {}
    back_with(held, new)
    assert len(texts(held)) == 2


def test_given_up_and_its_bridge_deleted(held, run_dir):
    new, old = open_flows(run_dir / "f.new"), open_flows(run_dir / "f")
    request = send_file(held, new)
    said = held.link.send("flows.placed", {"bridge": "br0"}, {"flows": old})
    assert answer(held, request)["error"]["code"] == -125
    assert answer(held, said)["result"] == {}
    request = send_file(held, new)
    gone = held.link.send("bridge.del", {"name": "br0"}, {})
    assert answer(held, request)["error"]["code"] == -125
    assert answer(held, gone)["result"] == {}
    held.link.ask("bridge.add", name="br1", fds={"flows": old})
    with pytest.raises(LinkError, match="no such bridge"):
        placed(held, new)


def test_a_disk_that_refuses_a_new_file_is_asked_again(held, run_dir):
    add(held, *range(1, 101))
    for _ in range(5):
        add(held, *range(1, 101))
    held.link.wait_notification(lambda method, _: method == "flows")
    for times in (1, 2):
        with open("/dev/null", "r+b", buffering=0) as null, pytest.raises(LinkError, match="Invalid argument"):
            ask(held, "flows.file", bridge="br0", fds={"flows": null.fileno()})
        wait_until(lambda: held.link.ask("bridge.list") and times_asked(held) == times + 1, 5, "being asked again")
    new = open_flows(run_dir / "f.new")
    assert ask(held, "flows.file", bridge="br0", fds={"flows": new}) == {"flows": 100}
    placed(held, new)
    add(held, 101)
    time.sleep(TICKS_S)
    held.link.drain()
    assert times_asked(held) == 3 and has(run_dir / "f.new", 101)


def test_a_file_that_cannot_be_written_any_more(held, run_dir):
    """Changes are said to be unsaved, and a new file has them all."""
    add(held, 1)
    old = os.memfd_create("flows", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(old, fcntl.F_SETFL, os.O_APPEND)
    ask(held, "flows.file", bridge="br0", fds={"flows": old})
    placed(held, old)
    add(held, 2)
    fcntl.fcntl(old, fcntl.F_ADD_SEALS, F_SEAL_GROW)
    size = os.fstat(old).st_size
    for priority in range(3, 10):
        with pytest.raises(LinkError, match="the flows are changed, but cannot be saved: Operation not permitted"):
            add(held, priority)
    assert os.fstat(old).st_size == size and times_asked(held) == 1
    new = open_flows(run_dir / "f.new")
    assert ask(held, "flows.file", bridge="br0", fds={"flows": new}) == {"flows": 9}
    with pytest.raises(LinkError, match="cannot be saved"):  # which of the two counts is not said yet
        add(held, 10)
    placed(held, new)
    add(held, 11)
    back_with(held, new)
    assert len(texts(held)) == 11


# ---- ends that were never finished ----


def contents(switch, bridge):
    return [texts(switch, what, bridge) for what in ("flow", "group", "meter")]


def test_everything_anew_counts_when_it_is_finished(held, run_dir):
    """Cut anywhere, a file brings what was before or what came after."""
    ask(held, "group.add", bridge="br0", groups=["group_id=1,type=all,bucket=actions=output:1"])
    ask(held, "flow.add", bridge="br0", flows=["priority=1,actions=drop", "priority=2,ip,actions=group:1"])
    before, old = contents(held, "br0"), (run_dir / "f").read_bytes()
    ask(held, "flow.del", bridge="br0", flows=[""])
    ask(held, "group.del", bridge="br0", groups=["group_id=all"])
    ask(held, "meter.add", bridge="br0", meters=["meter=4,kbps,bands=type=drop,rate=100"])
    ask(held, "group.add", bridge="br0", groups=["group_id=3,type=all,bucket=actions=output:3"])
    ask(held, "flow.add", bridge="br0", flows=["priority=7,ip,actions=group:3", "priority=8,arp,actions=NORMAL"])
    after, new = contents(held, "br0"), open_flows(run_dir / "f.new")
    ask(held, "flows.file", bridge="br0", fds={"flows": new})
    lines = (run_dir / "f.new").read_bytes().splitlines(keepends=True)
    assert lines[0] == b"begin\n" and lines[-1] == b"end\n" and len(lines) == 6 and before != after
    for count in range(len(lines) + 1):
        for half in (b"", b"".join(lines[count:count + 1])[:-2]):
            file = run_dir / "cut"
            file.write_bytes(old + b"".join(lines[:count]) + half)
            fd = open_flows(file)
            ask(held, "bridge.add", name="cut", fail_mode="secure", fds={"flows": fd})
            whole = count == len(lines)
            assert contents(held, "cut") == (after if whole else before), (count, half)
            assert file.read_bytes() == old + (b"".join(lines) if whole else b"")
            ask(held, "bridge.del", name="cut")
            os.close(fd)
            file.unlink()


def test_nothing_but_an_unfinished_beginning(held, run_dir):
    (run_dir / "g").write_text("begin\nadd priority=5,actions=drop\n")
    held.link.ask("bridge.add", name="br1", fds={"flows": open_flows(run_dir / "g")})
    (flow,) = texts(held, bridge="br1")
    assert flow.endswith("priority=0 actions=NORMAL")  # what every bridge begins with
    lines = (run_dir / "g").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["begin", "add", "end"]


def test_what_a_finished_beginning_follows_is_not_even_read(held, run_dir):
    (run_dir / "g").write_text("whatever\nbegin\nadd priority=5,actions=drop\nend\nadd priority=6,actions=drop\nend\nwrong\n")
    with pytest.raises(LinkError, match="line 7 of its flow file"):
        held.link.ask("bridge.add", name="br1", fds={"flows": open_flows(run_dir / "g")})
    assert len((run_dir / "g").read_text().splitlines()) == 7


# ---- the daemon's half ----


@pytest.fixture
def net(run_dir):
    """A daemon with a fake switch that has br0, and flows in it."""
    with Daemon(run_dir, fake=True) as d:
        d.start()
        d.call("bridge.add", name="br0")
        d.call("flow.add", bridge="br0", flows=["priority=1,actions=drop"])
        yield d


def files(net):
    return net.state_dir / "flows/br0.flows", net.state_dir / "flows/br0.flows.new"


def settled(net):
    wait_until(lambda: net.call("status")["network"]["settled"], 10, "the switch to be settled")


def test_the_daemon_ends_before_the_switch_has_answered(net):
    """The new file never came to count; the one with the name has everything."""
    file, new = files(net)
    net.behave_switch(compact="br0", silent="flows.file")
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: net.switch_log("flows.file"), 10, "flows.file")
    inode, pid = file.stat().st_ino, net.switch_pid()
    net.kill()
    assert new.exists()
    net.behave_switch()
    net.start()
    settled(net)
    wait_until(lambda: net.switch_log("flows.placed"), 5, "being told which file counts")
    net.call("flow.add", bridge="br0", flows=["priority=2,actions=drop"])
    assert net.switch_pid() == pid and file.stat().st_ino == inode
    assert "priority=2" in file.read_text() and "priority=2" not in new.read_text()


def test_the_link_ends_before_the_switch_knows_which_file_counts(net):
    file, new = files(net)
    inode = file.stat().st_ino
    net.behave_switch(compact="br0", close="flows.placed")
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: net.switch_log("flows.placed"), 10, "flows.placed")
    net.behave_switch()
    pid = net.switch_log("flows.placed")[-1]["pid"]
    settled(net)
    wait_until(lambda: len(net.switch_log("flows.placed")) >= 2, 5, "flows.placed once more")
    net.call("flow.add", bridge="br0", flows=["priority=2,actions=drop"])
    assert net.switch_pid() == pid and file.stat().st_ino != inode and not new.exists()
    assert file.read_text() == "priority=1,actions=drop\npriority=2,actions=drop\n"


def test_a_file_that_cannot_be_written_anew_is_given_up(net):
    file, new = files(net)
    net.behave_switch(compact="br0", fail={"flows.file": [-28, "no space left"]})
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: net.switch_log("flows.placed"), 10, "flows.placed")
    net.behave_switch()
    net.call("flow.add", bridge="br0", flows=["priority=2,actions=drop"])
    assert "priority=2" in file.read_text() and "no space left" in net.output()


def test_a_file_that_was_removed_is_made_anew(net):
    file, _ = files(net)
    net.kill()
    file.unlink()
    net.start()
    settled(net)
    wait_until(file.exists, 10, "the file")
    net.call("flow.add", bridge="br0", flows=["priority=2,actions=drop"])
    assert file.read_text() == "priority=0,actions=NORMAL\npriority=1,actions=drop\npriority=2,actions=drop\n"


def test_which_file_counts_is_said_to_the_next_switch_by_giving_it(net):
    file, _ = files(net)
    net.behave_switch(compact="br0", die="flows.placed")
    os.kill(net.switch_pid(), signal.SIGKILL)
    wait_until(lambda: net.switch_log("flows.placed"), 10, "flows.placed")
    net.behave_switch()
    dead = net.switch_log("flows.placed")[-1]["pid"]
    wait_until(lambda: net.switch_pid() not in (None, dead), 10, "another switch")
    settled(net)
    net.call("flow.add", bridge="br0", flows=["priority=2,actions=drop"])
    assert file.read_text() == "priority=1,actions=drop\npriority=2,actions=drop\n"
