# SPDX-License-Identifier: Apache-2.0
"""creedenced: what operators ask of it, what survives, and what a hostile client or worker can do to it (nothing)."""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import time

import pytest

from lib.control import Daemon, Rpc, RpcError, alive
from lib.front_end import RESET_DEVICE, FrontEnd
from lib.process import Process, ProcessError, is_listening, wait_until
from lib.paths import built, program

pytestmark = pytest.mark.timeout_s(60)


@pytest.fixture
def daemon(run_dir):
    """With workers that serve nothing."""
    with Daemon(run_dir, fake=True) as d:
        yield d.start()


@pytest.fixture
def leaf(run_dir):
    return new_raw(run_dir / "leaf.raw")


def new_raw(path, size_bytes=1 << 20):
    with open(path, "wb") as image:
        image.truncate(size_bytes)
    return path


def fails(code, call, *words):
    """The call must fail with that code and all these words in its message; returns the error."""
    with pytest.raises(RpcError) as caught:
        call()
    assert caught.value.code == code, caught.value
    for word in words:
        assert str(word) in str(caught.value)
    return caught.value


def raw_exchange(path, data, expect_lines=1, shut=False):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        sock.sendall(data)
        if shut:
            sock.shutdown(socket.SHUT_WR)
        lines = sock.makefile("rb")
        return [json.loads(lines.readline()) for _ in range(expect_lines)]


# ---- disks ----


def test_nothing_already_there_is_taken_over(daemon, leaf, run_dir):
    daemon.attach("d1", leaf, socket=str(run_dir / "vm.sock"))
    other = new_raw(run_dir / "other.raw")
    fails(-32002, lambda: daemon.attach("d2", other, socket=str(run_dir / "vm.sock")), "d1", "vm.sock")
    (daemon.state_dir / "disks/d2.json").write_text('{"version": 9}')
    fails(-32002, lambda: daemon.attach("d2", other), "d2.json")
    assert (daemon.state_dir / "disks/d2.json").read_text() == '{"version": 9}'
    (run_dir / "file").write_text("mine")
    fails(-32005, lambda: daemon.attach("d3", other, socket=str(run_dir / "file")), "not a socket")
    assert (run_dir / "file").read_text() == "mine"


def test_what_workers_say_is_shown_harmlessly(daemon, leaf):
    daemon.behave(hostile="escapes")
    daemon.attach("d1", leaf)
    wait_until(lambda: daemon.show("d1")["front_end"] == "\x1b[2J\nfake", 5, "the worker's words")
    for words in (("disk", "list"), ("disk", "show", "d1"), ("disk", "stats")):
        text = daemon.creedence(*words).stdout
        assert "\x1b" not in text and "\nfake" not in text and "\x9b" not in text
    assert "\x1b" not in daemon.output() and "\nfake" not in daemon.output() and "?[2J?fake" in daemon.output()


def test_life_of_a_disk(daemon, leaf):
    shown = daemon.attach("d1", leaf, queues=3, serial="abc")
    assert shown["state"] == "serving" and shown["config"]["queues"] == 3 and shown["config"]["serial"] == "abc"
    assert is_listening(shown["socket"])
    [configure] = [entry for entry in daemon.worker_log() if entry["method"] == "configure"]
    assert configure["fds"] == ["layer0", "listen"]
    assert configure["params"]["layers"] == [{"format": "raw", "path": str(leaf)}]
    assert [d["name"] for d in daemon.call("disk.list")["disks"]] == ["d1"]
    [stats] = daemon.call("disk.stats", name="d1")["disks"]
    assert stats["stats"]["generation"] == 1
    daemon.call("disk.resize", name="d1", size_bytes=1 << 30)
    assert json.loads((daemon.state_dir / "disks/d1.json").read_text())["version"] == 1
    daemon.call("disk.detach", name="d1")
    assert daemon.call("disk.list")["disks"] == []
    assert list((daemon.state_dir / "disks").iterdir()) == list((daemon.run_dir / "disks").iterdir()) == []
    wait_until(lambda: not alive(shown["pid"]), 5, "the worker's end")
    daemon.attach("d1", leaf)  # unlocked


def test_names_and_states_are_checked(daemon, leaf, run_dir):
    fails(-32001, lambda: daemon.show("nothing"), "nothing")
    fails(-32001, lambda: daemon.call("disk.detach", name="nothing"))
    daemon.attach("d1", leaf)
    fails(-32002, lambda: daemon.attach("d1", new_raw(run_dir / "other.raw")), "d1")
    fails(-32004, lambda: daemon.attach("d2", leaf), leaf, "in use")
    fails(-32004, lambda: daemon.attach("d2", run_dir / "nowhere.raw"), "nowhere.raw")
    fails(-32004, lambda: daemon.attach("d2", run_dir), run_dir)
    assert len(daemon.call("disk.list")["disks"]) == 1
    fails(-32005, lambda: daemon.call("disk.resize", name="d1", size_bytes=1 << 50), "too large")


@contextlib.contextmanager
def locked(path):
    """As QEMU locks an image that it writes to, by a description of its own."""
    with open(path, "r+b") as f:
        for byte in (100, 101, 103, 201, 203):
            fcntl.fcntl(f, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
        yield


F_OFD_SETLK = 37


def test_a_lock_is_waited_for_while_others_are_served(daemon, leaf):
    """Whoever had it may just have ended."""
    seen = set()
    with locked(leaf), Rpc(daemon.control_socket) as first, Rpc(daemon.control_socket) as second:
        for _ in range(20):  # until it was looked at within that time
            first.send("disk.attach", {"name": "d1", "layers": [{"format": "raw", "path": str(leaf)}]})
            seen.update(d["state"] for d in second.call("disk.list")["disks"])
            answer = first.receive()["error"]
            assert answer["code"] == -32004 and str(leaf) in answer["message"] and "in use" in answer["message"]
            assert daemon.call("disk.list")["disks"] == []
            assert list((daemon.state_dir / "disks").iterdir()) == []
            if seen:
                break
    assert seen == {"waiting"}
    with locked(leaf):
        first = Rpc(daemon.control_socket)
        first.send("disk.attach", {"name": "d1", "layers": [{"format": "raw", "path": str(leaf)}]})
        daemon.call("disk.list")
    answer = first.receive()
    first.close()
    assert "in use" in answer["error"]["message"] if "error" in answer else answer["result"]["state"] == "serving"


def test_images_that_are_locked_when_the_daemon_starts_again(daemon, run_dir):
    """It does not stand still for each of them."""
    images = [new_raw(run_dir / f"{i}.raw") for i in range(32)]
    pids = [daemon.attach(f"d{i}", image)["pid"] for i, image in enumerate(images)]
    daemon.kill()
    for pid in pids:
        kill_and_wait(pid)
    with contextlib.ExitStack() as locks:
        for image in images:
            locks.enter_context(locked(image))
        start = time.monotonic()
        daemon.start()
        assert "in use" in daemon.show("d31")["error"]
        assert time.monotonic() - start < 12, "half a second for each would be sixteen"
    for i in range(32):
        daemon.wait_state(f"d{i}", timeout_s=30)


LAYER = {"format": "raw", "path": "/nowhere"}
WRONG = [
    ({}, "name", "nothing", "string"),
    ({"name": 5}, "name", "integer 5", "string"),
    ({"name": "../x"}, "name", "../x", "letters"),
    ({"name": ""}, "name", "string", "1 to 64"),
    ({"name": "x" * 65}, "name", "string", "1 to 64"),
    ({"name": "a\0b"}, None, None, None),
    ({"queues": "4"}, "queues", 'string "4"', "integer from 1 to 64"),
    ({"queues": 65}, "queues", "integer 65", "integer from 1 to 64"),
    ({"queues": -1}, "queues", "integer -1", "integer from 1 to 64"),
    ({"queues": 1.5}, "queues", "number 1.5", "integer from 1 to 64"),
    ({"queue_size": 100}, "queue_size", "integer 100", "power of two"),
    ({"sector_bytes": 1024}, "sector_bytes", "integer 1024", "512 or 4096"),
    ({"seg_max": 1 << 40}, "seg_max", "integer", "494"),
    ({"read_only": 1}, "read_only", "integer 1", "true or false"),
    ({"write_cache": "maybe"}, "write_cache", "maybe", "writethrough"),
    ({"serial": "x" * 21}, "serial", "string", "20"),
    ({"socket": "relative"}, "socket", "relative", "absolute"),
    ({"socket": "/a", "connect": "/b"}, "connect", "/b", "not both"),
    ({"layers": []}, "layers", "array of 0", "1 to 64"),
    ({"layers": {}}, "layers", "object", "array"),
    ({"layers": [5]}, "layers[0]", "integer 5", "object"),
    ({"layers": [{**LAYER, "format": "vmdk"}]}, "layers[0].format", "vmdk", "qcow2"),
    ({"layers": [LAYER, {**LAYER, "path": 7}]}, "layers[1].path", "integer 7", "string"),
    ({"layers": [LAYER, LAYER]}, "layers[1].path", "/nowhere", "layer 0"),
    ({"layers": [{**LAYER, "formt": 1}]}, "layers[0].formt", "integer 1", "no such field"),
    ({"qeues": 4}, "qeues", "integer 4", "no such field"),
]


@pytest.mark.parametrize("change,field,got,expected", WRONG)
def test_wrong_parameters_are_named(daemon_for_all, change, field, got, expected):
    params = {"name": "d", "layers": [LAYER], **change} if change else {"layers": [LAYER]}
    with daemon_for_all.rpc() as rpc:
        rpc.send("disk.attach", params)
        error = rpc.receive()["error"]
    if field is None:  # not even JSON that we take
        assert error["code"] == -32700
        return
    assert error["code"] == -32602
    assert error["data"]["field"] == f"params.{field}"
    assert got in error["data"]["got"] and expected in error["data"]["expected"]
    assert all(error["data"][key] in error["message"] for key in ("field", "got", "expected"))


@pytest.fixture(scope="module")
def daemon_for_all(tmp_path_factory):
    with Daemon(tmp_path_factory.mktemp("daemon"), fake=True) as d:
        yield d.start()


@pytest.mark.parametrize("method,params", [
    ("disk.show", {"name": []}), ("disk.detach", {"name": "x", "force": "yes"}), ("disk.resize", {"name": "x", "size_bytes": "1G"}),
    ("disk.resize", {"name": "x", "size_bytes": -5}), ("disk.stats", {"name": 1}), ("cache.set", {"budget": "much"}),
    ("cache.set", {"huge_pages": "on"}), ("cache.set", {"budget": 0}), ("cache.drop", {"path": "relative"}), ("status", {"x": 1}), ("upgrade", {"name": {}}),
    ("shutdown", {"stop_workers": "no"}), ("disk.list", [1])])
def test_wrong_parameters_of_other_methods(daemon_for_all, method, params):
    with daemon_for_all.rpc() as rpc:
        rpc.send(method, params)
        error = rpc.receive()["error"]
        assert error["code"] == -32602 and error["data"]["field"].startswith("params")


def test_connected_disks_are_not_detached_by_mistake(daemon, leaf):
    daemon.behave(connected=True)
    daemon.attach("d1", leaf)
    fails(-32003, lambda: daemon.call("disk.detach", name="d1"), "guest", "force")
    daemon.call("disk.detach", name="d1", force=True)


def test_a_disk_that_a_guest_broke_is_not_detached_by_mistake(daemon, leaf):
    daemon.behave(connected=True, state="broken")
    assert daemon.attach("d1", leaf)["front_end"] == "broken"
    fails(-32003, lambda: daemon.call("disk.detach", name="d1"), "guest", "force")
    daemon.call("disk.detach", name="d1", force=True)


@pytest.mark.parametrize("how,words", [("error", "no space left"), ("crash", "signal 9")])
def test_detaching_keeps_what_could_not_be_written(daemon, leaf, how, words):
    daemon.behave(quit=how)
    pid = daemon.attach("d1", leaf)["pid"]
    for n in range(2, 4):
        fails(-32005, lambda: daemon.call("disk.detach", name="d1"), words, "kept", "force")
        assert not alive(pid) and (daemon.state_dir / "disks/d1.json").exists()
        shown = daemon.wait_state("d1")
        assert shown["pid"] != pid and shown["held"] == ["state"] and generation(daemon) == n
        pid = shown["pid"]
    daemon.behave()
    daemon.call("disk.detach", name="d1")
    assert daemon.call("disk.list")["disks"] == []


@pytest.mark.parametrize("how,words", [("error", "no space left"), ("crash", "signal 9")])
def test_detaching_by_force_says_what_could_not_be_written(daemon, leaf, how, words):
    daemon.behave(quit=how)
    pid = daemon.attach("d1", leaf)["pid"]
    fails(-32005, lambda: daemon.call("disk.detach", name="d1", force=True), words)
    assert daemon.call("disk.list")["disks"] == [] and not alive(pid)
    daemon.attach("d1", leaf)
    assert generation(daemon) == 1


@pytest.mark.parametrize("sandbox", ["partial", "off"])
def test_a_sandbox_that_is_not_whole_is_shown(daemon, leaf, run_dir, sandbox):
    daemon.behave(sandbox=sandbox)
    daemon.attach("d1", leaf)
    daemon.attach("d2", new_raw(run_dir / "2.raw"))
    for name in ("d1", "d2"):
        wait_until(lambda: daemon.show(name).get("sandbox") == sandbox, 5, "the worker's words")
    assert f"sandbox       {sandbox}" in daemon.creedence("disk", "show", "d2").stdout
    assert daemon.output().count(f"the sandbox of its worker is {sandbox}") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_workers_that_stay_root_are_told_of(daemon):
    import pwd
    known = "creedence" in [user.pw_name for user in pwd.getpwall()]
    assert daemon.output().count("stay root") == (0 if known else 1)


# ---- workers that die ----


def test_a_dead_worker_is_replaced_with_all_that_was_held(daemon, leaf):
    daemon.behave(connected=True)
    daemon.attach("d1", leaf)
    for generation in range(2, 12):
        shown = daemon.show("d1")
        assert sorted(shown["held"]) == ["conn", "state"] and shown["front_end"] == "connected"
        os.kill(shown["pid"], signal.SIGKILL)
        wait_until(lambda: daemon.show("d1").get("pid") not in (None, shown["pid"]), 10, "a new worker")
        daemon.wait_state("d1")
        [entry] = daemon.call("disk.stats")["disks"]
        assert entry["stats"]["generation"] == generation and entry["restarts"] == generation - 1
    configured = [entry for entry in daemon.worker_log() if entry["method"] == "configure"]
    assert configured[-1]["fds"] == ["held:conn", "held:state", "layer0", "listen"]
    assert sorted(configured[-1]["params"]["held"]) == ["conn", "state"]


@contextlib.contextmanager
def held_at_its_end(pid):
    """When it is killed it stays in the kernel, as one does whose storage hangs, until this is left."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    seize, trace_exit, go_on = 0x4206, 0x40, 7
    if libc.ptrace(seize, pid, None, trace_exit) < 0:
        pytest.skip("no process may be traced here")
    try:
        yield
        os.waitpid(pid, 0x40000000)  # __WALL: it has stopped
    finally:
        libc.ptrace(go_on, pid, None, None)


@pytest.mark.slow
def test_a_killed_worker_that_does_not_end_is_told_of(daemon, leaf):
    """It may have writes on their way: no other is started before it has ended."""
    pid = daemon.attach("d1", leaf)["pid"]
    daemon.kill()
    with held_at_its_end(pid):
        (daemon.run_dir / "disks/d1.link").unlink()  # it cannot be reached, and is to be replaced
        daemon.start()
        shown = wait_until(lambda: "has not ended" in (d := daemon.show("d1")).get("error", "") and d, 40, "the report")
        assert f"process {pid}" in shown["error"] and shown["pid"] == pid and alive(pid)
    assert daemon.wait_state("d1")["pid"] != pid


def test_a_first_start_that_fails_leaves_nothing(daemon, leaf):
    for mode, words in (("crash", ["signal 11"]), ("error", ["told to fail"])):
        daemon.behave(configure=mode)
        fails(-32005, lambda: daemon.attach("d1", leaf), *words)
        assert daemon.call("disk.list")["disks"] == []
        assert list((daemon.state_dir / "disks").iterdir()) == list((daemon.run_dir / "disks").iterdir()) == []
    daemon.behave()
    daemon.attach("d1", leaf)


def test_restarts_slow_down_and_never_end(daemon, leaf):
    daemon.behave(connected=True)
    pid = daemon.attach("d1", leaf)["pid"]
    daemon.behave(configure="crash")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: daemon.show("d1")["restarts"] > 9, 20, "restarts")
    error = fails(-32003, lambda: daemon.call("disk.detach", name="d1"))
    assert "no worker" in str(error) or "starting" in str(error)
    daemon.behave(connected=True)
    daemon.wait_state("d1", timeout_s=15)
    [entry] = daemon.call("disk.stats")["disks"]
    assert entry["stats"]["generation"] == 2  # what was held before all the crashes is still there


@pytest.mark.alone
def test_a_worker_that_does_not_answer_stalls_nobody(daemon, leaf):
    daemon.attach("d1", leaf)
    daemon.behave(stats="hang")
    with daemon.rpc() as slow:
        slow.send("disk.stats")
        started = time.monotonic()
        daemon.call("status")
        assert time.monotonic() - started < 1
        [entry] = slow.receive()["result"]["disks"]
        assert "did not answer" in entry["error"]


@pytest.mark.parametrize("how", ["garbage", "fd-names", "flood", "types", "answer", "layer", "close"])
def test_hostile_workers_hurt_only_their_disk(daemon, leaf, run_dir, how):
    daemon.behave(connected=True)
    good = daemon.attach("good", new_raw(run_dir / "good.raw"))["pid"]
    daemon.behave(hostile=how)
    bad = daemon.attach("bad", leaf)["pid"]
    daemon.behave()
    fds = f"/proc/{daemon.process.pid}/fd"
    wait_until(lambda: daemon.show("bad")["state"] == "serving" and len(os.listdir(fds)) < 1200, 10, "the daemon to go on")
    assert daemon.show("good")["pid"] == good and alive(good)
    assert alive(daemon.process.pid) and daemon.process.running()
    if how == "layer":
        os.kill(bad, signal.SIGKILL)
        wait_until(lambda: daemon.show("bad").get("pid") not in (None, bad), 10, "a new worker")
    daemon.wait_state("bad")

    def detached():
        try:
            return daemon.call("disk.detach", name="bad", force=True) == {}
        except RpcError as error:  # the daemon drops the link of one that breaks the rules, and makes it anew
            assert error.code in (-32003, -32005, -32001)
            return error.code != -32003

    wait_until(detached, 10, "the disk to be detached")
    wait_until(lambda: len(os.listdir(fds)) < 60, 5, "descriptors to be closed")


# ---- the daemon's own death ----


def test_workers_survive_the_daemon(daemon, leaf, run_dir):
    daemon.behave(connected=True)
    pids = [daemon.attach(f"d{i}", new_raw(run_dir / f"{i}.raw"))["pid"] for i in range(3)]
    for end in (daemon.kill, daemon.kill, daemon.terminate, daemon.kill):
        end()
        assert all(map(alive, pids))
        daemon.start()
        assert [d["pid"] for d in daemon.call("disk.list")["disks"]] == pids
    # what they hold came back, so that a worker can still be replaced
    wait_until(lambda: sorted(daemon.show("d1")["held"]) == ["conn", "state"], 5, "held descriptors")
    os.kill(pids[1], signal.SIGKILL)
    wait_until(lambda: daemon.show("d1").get("pid") not in (None, pids[1]), 10, "a new worker")
    daemon.wait_state("d1")
    [entry] = daemon.call("disk.stats", name="d1")["disks"]
    assert entry["stats"]["generation"] == 2
    fails(-32004, lambda: daemon.attach("other", run_dir / "1.raw"), "in use")  # the lock survived, too


def generation(daemon, name="d1"):
    [entry] = daemon.call("disk.stats", name=name)["disks"]
    return entry["stats"]["generation"]


def kill_and_wait(pid):
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), 5, f"the end of {pid}")


def test_daemon_and_workers_killed_together(daemon, leaf):
    """What was held for the worker survives both."""
    daemon.behave(connected=True)
    pid = daemon.attach("d1", leaf)["pid"]
    for expected in range(2, 6):
        daemon.kill()
        kill_and_wait(pid)
        daemon.start()
        new = daemon.wait_state("d1")
        assert new["pid"] != pid and sorted(new["held"]) == ["conn", "state"] and generation(daemon) == expected
        pid = new["pid"]
    daemon.call("disk.detach", name="d1", force=True)
    daemon.attach("d1", leaf)
    assert generation(daemon) == 1  # nothing of the old disk was left


def test_more_descriptors_than_fit_into_a_message(daemon, leaf):
    daemon.behave(extra=700)
    pid = daemon.attach("d1", leaf)["pid"]
    wait_until(lambda: len(daemon.show("d1")["held"]) == 701, 10, "all to be kept")
    for kill_daemon in (False, True):
        if kill_daemon:
            daemon.kill()
        kill_and_wait(pid)
        if kill_daemon:
            daemon.start()
        pid = wait_until(lambda: (d := daemon.wait_state("d1"))["pid"] != pid and d["pid"], 10, "a new worker")
        given = [fd for entry in daemon.worker_log() if entry["pid"] == pid for fd in entry.get("fds", []) if fd.startswith("held:")]
        assert sorted(given) == sorted(["held:state"] + [f"held:extra{i}" for i in range(700)])


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/cgroup.procs", os.W_OK), reason="no cgroup v2 to be written to")
def test_a_cgroup_for_each_worker(run_dir):
    parent = f"/sys/fs/cgroup/creedence-test-{os.getpid()}"
    os.mkdir(parent)
    try:
        with Daemon(run_dir, fake=True, options=[f"--cgroup={parent}"]) as daemon:
            daemon.start()
            pid = daemon.attach("d1", new_raw(run_dir / "leaf.raw"))["pid"]
            assert open(f"{parent}/disk-d1/cgroup.procs").read().split() == [str(pid)]
            daemon.call("disk.detach", name="d1")
            wait_until(lambda: not os.path.exists(f"{parent}/disk-d1"), 5, "the cgroup to be removed")
    finally:
        for name in os.listdir(parent):
            if os.path.isdir(f"{parent}/{name}"):
                os.rmdir(f"{parent}/{name}")
        os.rmdir(parent)


def test_the_holder_is_replaced_and_filled_again(daemon, leaf):
    daemon.behave(connected=True)
    pid = daemon.attach("d1", leaf)["pid"]
    for _ in range(2):
        holder = daemon.holder_pid()
        kill_and_wait(holder)
        wait_until(lambda: daemon.holder_pid() not in (None, holder), 5, "a new holder")
    daemon.call("disk.stats")  # it is filled by the time that the daemon answers
    daemon.kill()
    kill_and_wait(pid)
    daemon.start()
    daemon.wait_state("d1")
    assert generation(daemon) == 2


def test_the_holder_ends_when_nobody_needs_it(daemon, leaf):
    daemon.attach("d1", leaf)
    holder = daemon.holder_pid()
    daemon.terminate()
    time.sleep(2.5)
    assert alive(holder)  # the worker is still there
    daemon.start()
    assert daemon.holder_pid() == holder
    daemon.call("shutdown", stop_workers=True)
    wait_until(lambda: not alive(holder), 10, "the holder's end")


def test_what_a_worker_dropped_meanwhile_is_dropped(daemon, leaf):
    """A worker that lost its front end while there was no daemon."""
    daemon.behave(connected=True)
    daemon.attach("d1", leaf)
    daemon.behave(connected=True, forget=["conn"])
    daemon.kill()
    daemon.start()
    wait_until(lambda: daemon.show("d1")["held"] == ["state"], 5, "the connection to be dropped")
    assert daemon.show("d1")["front_end"] == "listening"


def test_killed_while_attaching(daemon, run_dir):
    for n in range(8):
        with daemon.rpc() as rpc:
            rpc.send("disk.attach", {"name": f"d{n}", "layers": [{"format": "raw", "path": str(new_raw(run_dir / f"{n}.raw"))}]})
            time.sleep(n * 0.008)
            daemon.kill()
        daemon.start()
        names = [d["name"] for d in daemon.call("disk.list")["disks"]]
        if f"d{n}" in names:  # either it was saved, and is served, or nothing of it is left
            daemon.wait_state(f"d{n}")
        else:
            daemon.attach(f"d{n}", run_dir / f"{n}.raw")


def test_saved_state_that_is_not_ours_is_set_aside(daemon, leaf, run_dir):
    daemon.attach("good", leaf)
    daemon.call("shutdown", stop_workers=True)
    daemon.process.wait(10)
    disks = daemon.state_dir / "disks"
    good = json.loads((disks / "good.json").read_text())
    bad = {
        "cut": json.dumps(good)[:40],
        "types": json.dumps({"version": 1, "disk": {**good["disk"], "name": "types", "queues": "x"}}),
        "other": json.dumps(good),
        "empty": "",
        "list": "[]",
        "noversion": json.dumps({"disk": good["disk"]}),
        "binary": "\0\xff",
    }
    for name, text in bad.items():
        (disks / f"{name}.json").write_text(text)
    (disks / "newer.json").write_text(json.dumps({**good, "version": 2}))
    (disks / "x.json.tmp").write_text("half")
    (disks / "dir.json").mkdir()
    (daemon.state_dir / "cache.json").write_text('{"version": 1, "cache": {"enabled": "yes"}}')
    daemon.control_socket.unlink(missing_ok=True)
    daemon.start()
    assert [d["name"] for d in daemon.call("disk.list")["disks"]] == ["good"]
    for name in bad:
        assert not (disks / f"{name}.json").exists()
        assert (disks / f"{name}.json.bad-1").read_text() == bad[name]
        assert f"{name}.json" in daemon.output()
    assert (disks / "newer.json").exists() and "version 2" in daemon.output()
    assert (daemon.state_dir / "cache.json.bad-1").exists()
    # and again under the same name
    daemon.kill()
    (disks / "cut.json").write_text("{")
    daemon.start()
    assert (disks / "cut.json.bad-2").read_text() == "{" and (disks / "cut.json.bad-1").read_text() == bad["cut"]


def test_state_that_cannot_be_written(daemon, leaf):
    (daemon.state_dir / "disks/d1.json.tmp").mkdir()
    fails(-32007, lambda: daemon.attach("d1", leaf), "d1.json.tmp")
    assert daemon.call("disk.list")["disks"] == []
    (daemon.state_dir / "disks/d1.json.tmp").rmdir()
    daemon.attach("d1", leaf)


def test_one_daemon_per_directory(daemon, run_dir):
    second = Process([program("creedenced"), f"--state-dir={daemon.state_dir}", f"--run-dir={run_dir / 'run2'}"], run_dir / "second.log")
    assert second.wait(10) == 1
    assert "another creedenced" in second.output()
    assert daemon.call("status")["disks"]["total"] == 0


def test_shutdown_with_workers(daemon, leaf, run_dir):
    pids = [daemon.attach("d1", leaf)["pid"], daemon.attach("d2", new_raw(run_dir / "2.raw"))["pid"]]
    daemon.call("shutdown", stop_workers=True)
    assert daemon.process.wait(10) == 0
    assert not any(map(alive, pids))
    daemon.control_socket.unlink(missing_ok=True)
    daemon.start()
    assert [d["state"] for d in daemon.call("disk.list")["disks"]] == ["serving", "serving"]


def attach_three(daemon, run_dir):
    return {name: daemon.attach(name, new_raw(run_dir / f"{name}.raw"))["pid"] for name in ("a", "b", "c")}


def test_shutdown_says_which_disks_could_not_be_ended(daemon, run_dir):
    pids = attach_three(daemon, run_dir)
    daemon.behave(configure="crash")
    kill_and_wait(pids["b"])  # it has no worker, but what it must not lose is held
    wait_until(lambda: daemon.show("b")["restarts"] > 3, 10, "restarts")
    daemon.behave(configure="crash", quit="error")
    error = fails(-32003, lambda: daemon.call("shutdown", stop_workers=True), "disk a", "no space left", "disk b", "disk c", "goes on")
    assert "0 others" in str(error)
    daemon.behave()
    for name in pids:
        daemon.wait_state(name)
    assert generation(daemon, "b") == 2
    daemon.behave(quit="error")
    done = daemon.creedence("shutdown", "--stop-workers", check=False)
    assert done.returncode == 1 and "no space left" in done.stderr
    daemon.behave()
    for name in pids:
        daemon.wait_state(name)
    daemon.call("shutdown", stop_workers=True)
    assert daemon.process.wait(10) == 0


def test_shutdown_stops_what_can_be_stopped(daemon, run_dir):
    pids = attach_three(daemon, run_dir)
    daemon.behave(configure="crash")
    kill_and_wait(pids["b"])
    wait_until(lambda: daemon.show("b")["restarts"] > 3, 10, "restarts")
    fails(-32003, lambda: daemon.call("shutdown", stop_workers=True), "disk b", "2 others")
    assert [d["name"] for d in daemon.call("disk.list")["disks"]] == ["b"]
    assert len(list((daemon.state_dir / "disks").glob("*.json"))) == 3
    daemon.behave(configure="crash")
    end_by_force(daemon)
    daemon.behave()
    daemon.control_socket.unlink(missing_ok=True)
    daemon.start()
    for name in pids:
        daemon.wait_state(name)
    assert generation(daemon, "b") == 1


def end_by_force(daemon):
    """A disk without a worker is discarded at once; with one that was just being started that is said."""
    try:
        daemon.call("shutdown", stop_workers=True, force=True)
    except RpcError as error:
        assert error.code == -32005 and "disk b" in str(error)
    assert daemon.process.wait(10) == 0, daemon.output()[-2000:]


@pytest.mark.slow
def test_shutdown_by_force_waits_for_nobody_for_ever(daemon, run_dir):
    pids = attach_three(daemon, run_dir)
    daemon.behave(leave="hang")
    with daemon.rpc() as upgrade:
        upgrade.send("upgrade", {"name": "b"})
        wait_until(lambda: daemon.show("b")["state"] == "upgrading", 5, "the upgrade")
        error = fails(-32005, lambda: daemon.call("shutdown", stop_workers=True, force=True), "disk b", "upgrading", "killed")
        assert "disk a" not in str(error)
    assert daemon.process.wait(10) == 0
    assert not any(map(alive, pids.values()))
    assert len(list((daemon.state_dir / "disks").glob("*.json"))) == 3


def test_upgrade(daemon, leaf, run_dir):
    daemon.behave(connected=True)
    before = {name: daemon.attach(name, new_raw(run_dir / f"{name}.raw"))["pid"] for name in ("a", "b", "c")}
    result = daemon.call("upgrade", name="b")["disks"]
    assert [d["name"] for d in result] == ["b"] and result[0]["pid"] != before["b"]
    result = daemon.call("upgrade")["disks"]
    assert [d["name"] for d in result] == ["a", "b", "c"] and not any("error" in d for d in result)
    for entry in daemon.call("disk.stats")["disks"]:
        assert entry["stats"]["generation"] == (3 if entry["name"] == "b" else 2)
        assert entry["restarts"] == 0 and entry["front_end"] == "connected"
    assert not any(alive(pid) for pid in before.values())


def test_upgrade_stops_at_the_first_failure(daemon, leaf, run_dir):
    before = {name: daemon.attach(name, new_raw(run_dir / f"{name}.raw"))["pid"] for name in ("a", "b", "c")}
    daemon.behave(configure="error")
    done = daemon.creedence("upgrade", "--json", check=False)
    assert done.returncode == 1
    result = json.loads(done.stdout)["disks"]
    assert [d["name"] for d in result] == ["a", "b", "c"]
    assert "told to fail" in result[0]["error"] and [d.get("skipped") for d in result] == [None, True, True]
    assert all(daemon.show(name)["pid"] == before[name] and alive(before[name]) for name in ("b", "c"))
    # a disk without a worker has nothing to be replaced, and keeps no other from it
    daemon.creedence("upgrade", "--disk", "a", check=False)
    daemon.wait_state("a", "waiting")
    done = daemon.creedence("upgrade", check=False)
    assert done.returncode == 1 and "not touched" in done.stdout and alive(before["c"])
    daemon.behave()
    daemon.wait_state("a")
    assert json.loads(daemon.creedence("upgrade", "--json").stdout)["disks"][2]["pid"] != before["c"]


def test_upgrade_to_a_broken_program_touches_nothing(daemon, leaf):
    pid = daemon.attach("d1", leaf)["pid"]
    daemon.behave(version="fail")
    fails(-32005, lambda: daemon.call("upgrade"), "--version", "keep the workers")
    (daemon.fake_dir / "creedence-vbd").chmod(0o644)
    fails(-32005, lambda: daemon.call("upgrade"), "creedence-vbd", "keep the workers")
    assert daemon.show("d1")["pid"] == pid and alive(pid)


def test_connecting_to_the_front_end(daemon, leaf, run_dir):
    path = run_dir / "front-end.sock"
    shown = daemon.attach("d1", leaf, connect=str(path))
    assert shown["state"] == "waiting" and "front-end.sock" in shown["error"] and "socket" not in shown
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.settimeout(30)
        listener.bind(str(path))
        listener.listen()
        listener.accept()[0].close()
        daemon.wait_state("d1")
        configured = [entry for entry in daemon.worker_log() if entry["method"] == "configure"]
        assert configured[-1]["fds"] == ["connect", "layer0"]
    path.unlink()
    daemon.call("disk.detach", name="d1")


# ---- clients ----


def test_json_rpc_errors(daemon):
    path = daemon.control_socket
    for text, code in [(b"{", -32700), (b"\xff\xfe", -32700), (b'{"a":1,"a":2}', -32700), (b"[" * 5000, -32700), (b"[]", -32600),
                       (b"5", -32600), (b'"x"', -32600), (b"{}", -32600), (b'{"jsonrpc":"1.0","id":1,"method":"status"}', -32600),
                       (b'{"jsonrpc":"2.0","id":{},"method":"status"}', -32600), (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
                       (b'{"jsonrpc":"2.0","id":1,"method":"nothing"}', -32601),
                       (b'{"jsonrpc":"2.0","id":1,"method":"status","params":[]}', -32602)]:
        [answer] = raw_exchange(path, text + b"\n")
        assert answer["error"]["code"] == code, text
        assert answer["jsonrpc"] == "2.0" and "id" in answer


def test_batches_and_notifications(daemon):
    path = daemon.control_socket
    note = {"jsonrpc": "2.0", "method": "status"}
    ask = {**note, "id": "a"}
    [answers, single] = raw_exchange(path, json.dumps([ask, note, 7, {**ask, "id": None}]).encode() + b"\n\n  \n" +
                                     json.dumps(note).encode() + b"\n" + json.dumps({**ask, "id": 9}).encode() + b"\n", 2)
    assert sorted((str(a["id"]), "result" in a) for a in answers) == [("None", False), ("None", True), ("a", True)]
    assert single["id"] == 9
    [answer] = raw_exchange(path, json.dumps([ask] * 65).encode() + b"\n")
    assert answer["error"]["code"] == -32600


def test_a_client_that_ends_its_side_early_is_answered(daemon, leaf):
    request = {"jsonrpc": "2.0", "id": 1, "method": "disk.attach", "params": {"name": "d1", "layers": [{"format": "raw", "path": str(leaf)}]}}
    [answer] = raw_exchange(daemon.control_socket, json.dumps(request).encode(), shut=True)  # not even a newline
    assert answer["result"]["state"] == "serving"


def test_clients_that_vanish(daemon, leaf):
    for n in range(5):
        rpc = daemon.rpc()
        rpc.send("disk.attach", {"name": f"d{n}", "layers": [{"format": "raw", "path": str(leaf)}]})
        rpc.close()
        wait_until(lambda: [d for d in daemon.call("disk.list")["disks"] if d["state"] == "serving"], 10, "the disk")
        daemon.call("disk.detach", name=f"d{n}")


def test_a_line_without_end(daemon):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        sock.connect(str(daemon.control_socket))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # the rest is not even read
            for _ in range(100):
                sock.sendall(b"[" + b" " * (1 << 20))
        assert b"-32600" in sock.recv(4096)
    daemon.call("status")


def test_a_client_that_does_not_read(daemon):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(daemon.control_socket))
        sock.settimeout(0.5)
        request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "status"}).encode() + b"\n"
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1 << 28:
                sent += sock.send(request * 1000)
        assert sent < 1 << 23  # it is not read from for ever
        daemon.call("status")  # others are answered while it still does not read
        memory_kib = int(next(line for line in open(f"/proc/{daemon.process.pid}/status") if line.startswith("VmRSS")).split()[1])
        assert memory_kib < 200 << 10


def test_many_idle_clients_do_not_lock_others_out(daemon):
    idle = []
    try:
        for n in range(200):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(str(daemon.control_socket))
            sock.sendall(b'{"half')
            idle.append(sock)
        for n in range(5):
            daemon.call("status")
    finally:
        for sock in idle:
            sock.close()


def test_ready_and_watchdog_notifications(run_dir):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(run_dir / "notify"))
        notify.settimeout(30)
        os.environ["NOTIFY_SOCKET"] = str(run_dir / "notify")
        os.environ["WATCHDOG_USEC"] = "400000"
        try:
            with Daemon(run_dir, fake=True) as daemon:
                daemon.start(wait=False)
                seen = ""
                while "READY=1" not in seen or seen.count("WATCHDOG=1") < 3:
                    seen += notify.recv(4096).decode() + "\n"
                daemon.process.terminate()
        finally:
            del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]


def test_control_socket_is_not_for_everybody(daemon):
    assert (daemon.control_socket.stat().st_mode & 0o777) == 0o660
    assert (daemon.state_dir.stat().st_mode & 0o777) == 0o700


def test_long_directories(run_dir):
    deep = run_dir / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    with Daemon(deep, fake=True) as daemon:
        daemon.start(wait=False)
        daemon.process.wait_for(lambda: "ready" in daemon.output(), 10, "the daemon")
        daemon_dir = os.open(daemon.run_dir, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(f"/proc/self/fd/{daemon_dir}/creedenced.sock")
                leaf = new_raw(run_dir / "leaf.raw")
                request = {"jsonrpc": "2.0", "id": 1, "method": "disk.attach", "params": {"name": "d1", "layers": [{"format": "raw", "path": str(leaf)}]}}
                sock.sendall(json.dumps(request).encode() + b"\n")
                assert json.loads(sock.makefile("rb").readline())["result"]["state"] == "serving"
        finally:
            os.close(daemon_dir)
        assert daemon.creedence("disk", "list", "--names").stdout == "d1\n"


def test_usage_errors(run_dir):
    for words, expected in ((["--nothing"], "--help"), (["x"], "unexpected"), (["--cache=maybe"], "on or off"),
                            (["--cache-budget=much"], "size")):
        process = Process([program("creedenced"), *words], run_dir / "usage.log")
        assert process.wait(10) == 2
        assert expected in process.output()
    for words, expected in (([f"--user=nobody-of-that-name"], "nobody-of-that-name"), (["--group=none-of-that-name"], "none-of-that-name"),
                            ([f"--bin-dir={run_dir}/none"], "none")):
        process = Process([program("creedenced"), f"--state-dir={run_dir}/s", f"--run-dir={run_dir}/r", *words], run_dir / "usage.log")
        assert process.wait(10) == 1
        assert expected in process.output()


# ---- with the programs themselves ----


@pytest.fixture
def real(run_dir):
    with Daemon(run_dir) as d:
        yield d.start()


@pytest.fixture
def chain(real, run_dir):
    """A clone of a raw base; (clone, base)."""
    base, clone = new_raw(run_dir / "base.raw", 8 << 20), run_dir / "clone.qcow2"
    real.creedence("image", "clone", base, clone, "--backing-format", "raw")
    return clone, base


def attach_chain(daemon, chain, name="d1", **more):
    clone, base = chain
    return daemon.attach(name, clone, "qcow2", [(base, "raw")], **more)


def test_read_cache_comes_and_goes(real, chain):
    assert attach_chain(real, chain)["cached"]
    shown = real.call("cache.show")
    assert shown["enabled"] and shown["running"] and shown["stats"]["layers"][0]["path"] == str(chain[1])
    for _ in range(4):
        pid = real.call("cache.show")["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: real.call("cache.show").get("pid") not in (None, pid), 10, "a new service")
        wait_until(lambda: real.call("cache.show").get("stats", {}).get("channels") == 1, 10, "the disk's new channel")
        assert real.show("d1")["cached"]
    real.call("cache.set", budget=64 << 20)
    assert real.call("cache.show")["stats"]["budget_bytes"] == 64 << 20
    real.call("cache.drop")
    real.call("cache.drop", path=str(chain[1]))
    fails(-32006, lambda: real.call("cache.drop", path="/nowhere"), "/nowhere")
    real.call("cache.set", enabled=False)
    wait_until(lambda: "pid" not in real.call("cache.show"), 10, "the service's end")
    assert not real.show("d1")["cached"]
    fails(-32006, lambda: real.call("cache.drop"), "--on")
    real.kill()
    real.start()
    shown = real.call("cache.show")  # the settings were saved
    assert not shown["enabled"] and not shown["running"] and shown["budget"] == 64 << 20
    real.call("cache.set", enabled=True, budget="auto")
    wait_until(lambda: real.show("d1")["cached"], 10, "the disk to use the cache")


def test_a_broken_device_is_reported_until_it_is_reset(real, chain):
    def shown(state):
        return wait_until(lambda: real.show("d1")["front_end"] == state, 10, f"front end {state}")

    attach_chain(real, chain)
    with FrontEnd(real.run_dir / "disks" / "d1.sock") as front:
        shown("connected")
        front.start_ring()
        front.jump_available_index(1000)
        shown("broken")
        assert "available index" in real.show("d1")["front_end_why"]
        real.kill()
        real.start()
        real.wait_state("d1")
        wait_until(lambda: "conn" in real.show("d1")["held"], 10, "the front end's connection")
        assert real.show("d1")["front_end"] == "broken" and "available index" in real.show("d1")["front_end_why"]
        front.order(RESET_DEVICE)
        shown("connected")
        assert "front_end_why" not in real.show("d1")
        front.start_ring()
        assert front.read_sector(3)[0] == 0
    shown("listening")


PATTERN_MIB = 16


@pytest.fixture
def patterned(real, run_dir):
    """A clone of a raw base whose content the native front end knows; (clone, base)."""
    base, clone = run_dir / "base.raw", run_dir / "clone.qcow2"
    subprocess.run([bench(), "--make-pattern", base, f"{PATTERN_MIB}M"], check=True)
    real.creedence("image", "clone", base, clone, "--backing-format", "raw")
    return clone, base


def bench():
    return built("bench/vhost-blk-bench")


def replace_base(base):
    """Another image of the same size takes the name."""
    other = base.with_suffix(".other")
    other.write_bytes(b"\xee" * base.stat().st_size)
    os.rename(other, base)


def read_all(socket_path):
    """Each word that comes back is checked."""
    done = subprocess.run([bench(), "--socket", socket_path, "--rw=read", "--bs=128k", "--iodepth=2", "--verify=full", "--ramp=0", "--runtime=1", "--json"],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def new_cache_service(daemon):
    pid = daemon.call("cache.show")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: daemon.call("cache.show").get("pid") not in (None, pid), 10, "a new service")
    wait_until(lambda: daemon.call("cache.show").get("stats", {}).get("channels") == 1 and daemon.show("d1")["cached"], 10, "the disk's new channel")


def new_worker(daemon, name="d1"):
    pid = daemon.show(name)["pid"]
    kill_and_wait(pid)
    return wait_until(lambda: (d := daemon.wait_state(name))["pid"] != pid and d, 10, "a new worker")


def test_a_replaced_base_is_not_read_through_the_cache(real, patterned):
    shown = attach_chain(real, patterned)
    replace_base(patterned[1])
    new_cache_service(real)
    read_all(shown["socket"])
    new_worker(real)
    new_cache_service(real)
    wait_until(lambda: real.show("d1")["cached"], 10, "the new worker's channel")
    read_all(shown["socket"])
    [entry] = real.call("disk.stats")["disks"]
    assert entry["stats"]["cache_hit_bytes"] > 0


def test_a_replaced_base_outlives_daemon_and_worker(real, patterned):
    """The next daemon takes the images from the running worker, whatever has their names by now."""
    clone, base = patterned
    shown = attach_chain(real, patterned)
    replace_base(base)
    clone.rename(clone.with_suffix(".moved"))
    real.kill()
    real.start()
    wait_until(lambda: real.show("d1")["cached"], 5, "the disk to use the cache")
    read_all(shown["socket"])
    new_worker(real)
    read_all(shown["socket"])


def test_a_base_deleted_under_its_clone_goes_on(real, patterned):
    """Workers and the cache service have it open, and so have those who replace them."""
    shown = attach_chain(real, patterned)
    patterned[1].unlink()
    read_all(shown["socket"])
    new_cache_service(real)
    new_worker(real)
    read_all(shown["socket"])
    real.kill()
    real.start()
    real.wait_state("d1")
    read_all(shown["socket"])


def test_a_base_that_vanished_while_nothing_ran(real, patterned, run_dir):
    """Its disk waits for it and says so; others are served."""
    base = patterned[1]
    shown = attach_chain(real, patterned)
    real.attach("other", new_raw(run_dir / "other.raw", 1 << 20), "raw")
    pids = [real.show(name)["pid"] for name in ("d1", "other")]
    real.kill()
    for pid in pids:
        kill_and_wait(pid)
    aside = base.with_suffix(".aside")
    base.rename(aside)
    real.start()
    stopped = wait_until(lambda: "No such file" in (d := real.show("d1")).get("error", "") and d, 10, "the disk to be refused")
    assert str(base) in stopped["error"] and "pid" not in stopped
    real.wait_state("other")
    aside.rename(base)
    real.wait_state("d1")
    read_all(shown["socket"])


def test_a_base_replaced_while_nothing_ran_is_refused(real, patterned):
    clone, base = patterned
    shown = attach_chain(real, patterned)
    real.kill()
    kill_and_wait(shown["pid"])
    aside = base.with_suffix(".aside")
    base.rename(aside)
    base.write_bytes(b"\xee" * aside.stat().st_size)
    real.start()
    stopped = wait_until(lambda: "another file" in (d := real.show("d1")).get("error", "") and d, 10, "the disk to be refused")
    assert str(base) in stopped["error"] and "pid" not in stopped
    aside.rename(base)
    real.wait_state("d1")
    read_all(shown["socket"])
    # after a restart of the host files may have other numbers, but bases do not change their size
    saved = real.state_dir / "disks/d1.json"
    state = json.loads(saved.read_text())
    real.kill()
    kill_and_wait(recorded_pid(real))
    state["images"]["boot"] = "earlier"
    state["images"]["layers"][1]["size_bytes"] += 512
    saved.write_text(json.dumps(state))
    real.start()
    wait_until(lambda: "it had" in real.show("d1").get("error", ""), 10, "the disk to be refused")
    state["images"]["layers"][1]["size_bytes"] -= 512
    state["images"]["layers"][1]["mtime_ns"] += 1  # nor are they written to
    real.kill()
    saved.write_text(json.dumps(state))
    real.start()
    wait_until(lambda: "was written to" in real.show("d1").get("error", ""), 10, "the disk to be refused")
    state["images"]["layers"][1]["mtime_ns"] -= 1
    for layer in state["images"]["layers"]:
        layer["inode"] += 1
    real.kill()
    saved.write_text(json.dumps(state))
    real.start()
    real.wait_state("d1")
    assert json.loads(saved.read_text())["images"]["boot"] != "earlier"
    read_all(shown["socket"])


def test_a_link_to_the_base_that_moved_on(real, patterned, run_dir):
    """New clones are made of a newer base, by way of a link; the old clone goes on with the base that it was attached with."""
    _, base = patterned
    link, clone = run_dir / "current.raw", run_dir / "linked.qcow2"
    link.symlink_to(base)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", link, "-F", "raw", clone], check=True)
    shown = attach_chain(real, (clone, base))
    real.call("shutdown", stop_workers=True)
    assert real.process.wait(10) == 0
    newer = run_dir / "newer.raw"
    newer.write_bytes(b"\xdd" * base.stat().st_size)
    link.unlink()
    link.symlink_to(newer)
    real.control_socket.unlink(missing_ok=True)
    real.start()
    real.wait_state("d1")
    read_all(shown["socket"])


def test_images_of_a_disk_that_was_ended_in_order(real, patterned):
    """Its storage may have been mounted anew meanwhile; another file is refused all the same."""
    shown = attach_chain(real, patterned)
    saved = real.state_dir / "disks/d1.json"

    def end_and_change(key):
        real.call("shutdown", stop_workers=True)
        assert real.process.wait(10) == 0
        state = json.loads(saved.read_text())
        for layer in state["images"]["layers"]:
            layer[key] += 1
        saved.write_text(json.dumps(state))
        real.control_socket.unlink(missing_ok=True)
        real.start()

    end_and_change("device")
    real.wait_state("d1")
    read_all(shown["socket"])
    wait_until(lambda: "conn" not in real.show("d1")["held"], 5, "the guest to be gone")
    end_and_change("inode")
    wait_until(lambda: "another file" in real.show("d1").get("error", ""), 10, "the disk to be refused")
    wait_until(lambda: real.call("disk.detach", name="d1") == {}, 5, "the disk to be detached")  # nothing is lost by that
    attach_chain(real, patterned)


def recorded_pid(daemon, name="d1"):
    """Of the worker, from its record: there may be no daemon to be asked."""
    return int((daemon.run_dir / f"disks/{name}.run").read_text().split()[0])


def test_upgrade_of_a_clone_under_load(real, patterned, run_dir):
    shown = attach_chain(real, patterned)
    command = [bench(), "--socket", shown["socket"], "--verify-writes", "--initial=pattern", f"--model={run_dir / 'model'}"]
    load = Process([*command, "--runtime=2"], run_dir / "load.log", name="load")
    pids = {shown["pid"]}
    while load.running():
        for entry in json.loads(real.creedence("upgrade", "--json").stdout)["disks"]:
            assert entry["pid"] not in pids
            pids.add(entry["pid"])
        time.sleep(0.2)
    assert load.wait(30) == 0, load.output()
    assert len(pids) > 1
    done = subprocess.run([*command, "--check-only"], timeout=30, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: "conn" not in real.show("d1")["held"], 5, "the guest to be gone")
    real.call("disk.detach", name="d1")
    assert "sound" in real.creedence("image", "check", patterned[0], "--format", "qcow2").stdout


def test_a_worker_killed_while_it_is_detached(real, run_dir):
    """What was acknowledged and never flushed is in the worker's memory, and what the daemon holds."""
    leaf, model = run_dir / "leaf.qcow2", run_dir / "model"
    real.creedence("image", "create", leaf, "8M", "--format", "qcow2")
    shown = real.attach("d1", leaf, "qcow2")
    command = [bench(), "--socket", shown["socket"], "--verify-writes", "--initial=zero", f"--model={model}", "--runtime=1"]
    subprocess.run([*command, "--flush-interval=1000"], check=True, timeout=30, capture_output=True)
    wait_until(lambda: "conn" not in real.show("d1")["held"], 5, "the guest to be gone")
    os.kill(shown["pid"], signal.SIGSTOP)
    with real.rpc() as rpc:
        rpc.send("disk.detach", {"name": "d1"})
        wait_until(lambda: real.show("d1")["state"] == "ending", 5, "the disk to end")
        os.kill(shown["pid"], signal.SIGKILL)
        error = rpc.receive()["error"]
    assert error["code"] == -32005 and "signal 9" in error["message"] and "kept" in error["message"]
    shown = real.wait_state("d1")
    done = subprocess.run([*command, "--check-only"], timeout=30, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: "conn" not in real.show("d1")["held"], 5, "the guest to be gone")
    real.call("disk.detach", name="d1")
    assert "sound" in real.creedence("image", "check", leaf, "--format", "qcow2").stdout


@pytest.fixture
def small_storage(run_dir):
    """A file system that is soon full."""
    path = run_dir / "small"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "creedence-test", path], capture_output=True).returncode:
        pytest.skip("not allowed to mount a tmpfs")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def fill(directory):
    with open(directory / "fill", "wb", buffering=0) as file:
        with pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"x" * 4096)
    return directory / "fill"


def test_detaching_from_full_storage(real, small_storage, run_dir):
    leaf = small_storage / "leaf.qcow2"
    real.creedence("image", "create", leaf, "8M", "--format", "qcow2")
    shown = real.attach("d1", leaf, "qcow2")
    command = [bench(), "--socket", shown["socket"], "--verify-writes", "--initial=zero", f"--model={run_dir / 'model'}", "--runtime=0.5"]
    subprocess.run([*command, "--pace=30", "--flush-interval=1000"], check=True, timeout=30, capture_output=True)
    filler = fill(small_storage)
    wait_until(lambda: "conn" not in real.show("d1")["held"], 5, "the guest to be gone")
    fails(-32005, lambda: real.call("disk.detach", name="d1"), "leaf.qcow2", "No space left", "kept")
    real.wait_state("d1")
    filler.unlink()
    done = subprocess.run([*command, "--check-only"], timeout=30, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: "conn" not in real.show("d1")["held"], 5, "the guest to be gone")
    real.call("disk.detach", name="d1")
    assert "sound" in real.creedence("image", "check", leaf, "--format", "qcow2").stdout


def test_full_storage_when_the_front_end_that_was_connected_to_has_gone(real, small_storage, run_dir):
    leaf, front_end = small_storage / "leaf.qcow2", run_dir / "front.sock"
    real.creedence("image", "create", leaf, "8M", "--format", "qcow2")
    guest = Process([bench(), "--listen", "--socket", front_end, "--verify-writes", "--initial=zero", "--pace=30", "--flush-interval=1000"], run_dir / "guest.log")
    real.attach("d1", leaf, "qcow2", connect=str(front_end))
    wait_until(lambda: real.call("disk.stats")["disks"][0].get("stats", {}).get("writes", 0) > 20, 10, "writes")
    os.kill(guest.pid, signal.SIGSTOP)
    filler = fill(small_storage)
    guest.kill()
    front_end.unlink(missing_ok=True)
    waiting = wait_until(lambda: "waiting for the front end" in (d := real.show("d1")).get("error", "") and d, 10, "the worker's end")
    assert waiting["held"] == ["state"]
    assert "No space left" in real.output()
    fails(-32005, lambda: real.call("disk.detach", name="d1"), "No space left", "kept")
    wait_until(lambda: "waiting for the front end" in (d := real.show("d1")).get("error", "") and d["held"] == ["state"], 10, "the disk to wait again")
    filler.unlink()
    real.call("disk.detach", name="d1")  # there is no guest any more, but what it wrote goes into the image
    text = real.creedence("image", "check", leaf, "--format", "qcow2").stdout
    assert "sound" in text and not text.startswith("0 of"), text


def test_cache_service_survives_the_daemon(real, chain):
    attach_chain(real, chain)
    pid = real.call("cache.show")["pid"]
    real.kill()
    real.start()
    assert real.call("cache.show")["pid"] == pid
    wait_until(lambda: real.show("d1")["cached"], 5, "the disk to use it")


def test_real_worker_is_replaced_upgraded_and_ended(real, chain):
    pid = attach_chain(real, chain)["pid"]
    kill_and_wait(pid)
    shown = wait_until(lambda: (d := real.wait_state("d1"))["pid"] != pid and d, 5, "a new worker")
    assert shown["held"] == ["state"] and shown["worker_version"] == real.call("version")["version"]
    [entry] = real.call("upgrade")["disks"]
    assert "error" not in entry and entry["pid"] != shown["pid"]
    real.call("disk.resize", name="d1", size_bytes=16 << 20)
    [entry] = real.call("disk.stats")["disks"]
    assert entry["stats"]["size_bytes"] == 16 << 20
    real.call("disk.detach", name="d1")
    assert "sound" in real.creedence("image", "check", chain[0], "--format", "qcow2").stdout


def test_huge_pages_of_the_cache(real, chain):
    def of_service(pid):
        """The option that service PID runs with; the daemon knows the process before it executes the program."""
        def words():
            with open(f"/proc/{pid}/cmdline") as file:
                return file.read().split("\0")
        wait_until(lambda: "--huge-pages" in words(), 5, "the service's command line")
        return words()[words().index("--huge-pages") + 1]

    attach_chain(real, chain)
    before = real.call("cache.show")
    assert before["huge_pages"] and of_service(before["pid"]) == "on"
    real.creedence("cache", "set", "--huge-pages", "on")
    assert real.call("cache.show")["pid"] == before["pid"]  # nothing changed
    real.creedence("cache", "set", "--huge-pages", "off")
    now = wait_until(lambda: (s := real.call("cache.show")).get("pid") not in (None, before["pid"]) and s, 10, "a new service")
    assert not now["huge_pages"] and of_service(now["pid"]) == "off" and now["restarts"] == 0
    wait_until(lambda: real.call("cache.show").get("stats", {}).get("channels") == 1, 10, "the disk's new channel")
    assert "huge pages    off" in real.creedence("cache", "show").stdout
    real.kill()
    os.kill(now["pid"], signal.SIGKILL)
    real.start()
    again = wait_until(lambda: (s := real.call("cache.show")).get("pid") and s, 10, "the service")
    assert not again["huge_pages"] and of_service(again["pid"]) == "off"
    done = real.creedence("cache", "set", "--huge-pages", "maybe", check=False)
    assert done.returncode == 2 and "on or off" in done.stderr


def test_no_cache_when_not_wanted(real, chain):
    assert not attach_chain(real, chain, cache=False)["cached"]
    assert real.call("cache.show")["stats"]["channels"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_workers_become_another_user(run_dir):
    import grp
    import pwd
    nobody, group = pwd.getpwnam("nobody"), grp.getgrgid(pwd.getpwnam("nobody").pw_gid)
    with Daemon(run_dir, options=["--user=nobody", f"--vm-group={group.gr_name}", f"--group={group.gr_name}"]) as daemon:
        daemon.start()
        shown = daemon.attach("d1", new_raw(run_dir / "leaf.raw"))
        for pid in (shown["pid"], daemon.call("cache.show")["pid"]):
            status = dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status").read().splitlines() if ":\t" in line)
            assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
            assert int(status["CapEff"], 16) == 0 and int(status["CapPrm"], 16) == 0
        for path in (shown["socket"], daemon.control_socket):
            info = os.stat(path)
            assert info.st_gid == group.gr_gid and info.st_mode & 0o777 == 0o660
            assert int(status["Seccomp"]) == 2 and status["NoNewPrivs"] == "1"
            assert os.listdir(f"/proc/{pid}/root") == []
        wait_until(lambda: daemon.show("d1").get("sandbox") == "full", 5, "the worker to say that it is sandboxed")
        assert "sandbox       full" in daemon.creedence("disk", "show", "d1").stdout
        assert "sandbox" not in daemon.output() and "stay root" not in daemon.output()
        # a worker that is no longer root is restarted and goes on all the same
        kill_and_wait(shown["pid"])
        wait_until(lambda: daemon.show("d1").get("pid") not in (None, shown["pid"]), 5, "a new worker")
        daemon.wait_state("d1")
