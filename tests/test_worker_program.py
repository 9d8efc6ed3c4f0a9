# SPDX-License-Identifier: Apache-2.0
"""creedence-vbd as a program of its own: its command line, QEMU's conventions, sockets of every kind, locks, the sandbox.

The native front end of bench/ is the guest here: quick, and every read is verified.
"""

import errno
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import threading

import pytest

from lib.daemon import Daemon
from lib.front_end import GET_FEATURES, RESET_DEVICE, FrontEnd
from lib.paths import BUILD, program, system_program
from lib.process import is_listening, wait_until
from lib.worker import check_image, new_qcow2, new_raw, qemu_img, run, start_worker

MIB = 1 << 20
SIZE = 64 * MIB


def bench(*words, timeout=60):
    words = [str(word) for word in (BUILD / "bench" / "vhost-blk-bench", *words)]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout)


def load(path, *words):
    """A second of verified reads; the figures."""
    done = bench("--socket", path, "--rw", "randread", "--runtime", "1", "--ramp", "0", "--verify", "--json", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def pattern(run_dir):
    path = run_dir / "pattern.raw"
    assert bench("--make-pattern", path, str(SIZE)).returncode == 0
    return path


def worker_fails(*words, status=1):
    done = subprocess.run([program("creedence-vbd"), *map(str, words)], capture_output=True, text=True, timeout=30)
    assert done.returncode == status, f"status {done.returncode}: {done.stderr}"
    return done.stderr


def test_print_capabilities():
    done = run(program("creedence-vbd"), "--print-capabilities")
    assert json.loads(done) == {"type": "block", "features": ["read-only", "blk-file"]}


def test_help_and_version():
    assert "--socket-path" in run(program("creedence-vbd"), "--help")
    assert "debug=" in run(program("creedence-vbd"), "--version")


@pytest.mark.parametrize("words, expected", [
    ([], "no disk given"),
    (["--disk", "x.raw"], "no format given"),
    (["--disk", "x.raw,format=vmdk"], "unknown format 'vmdk', expected raw or qcow2"),
    (["--disk", "x.raw,format=raw,cache=none"], "unknown option 'cache=none'"),
    (["--disk", "x.raw,format=raw,direct=maybe"], "direct=maybe: expected on or off"),
    (["--disk", "x.raw,format=raw"], "expected one of --socket-path, --connect, --fd and --xen"),
    (["--disk", "x.raw,format=raw", "--num-queues=65"], "--num-queues=65: expected a number, 1 to 64"),
    (["--disk", "x.raw,format=raw", "--num-queues=-1"], "--num-queues=-1: expected a number"),
    (["--disk", "x.raw,format=raw", "--num-queues=two"], "--num-queues=two: expected a number"),
    (["--disk", "x.raw,format=raw", "--serial=123456789012345678901"], "at most 20 bytes"),
    (["--disk", "a,format=raw", "--disk", "b,format=raw"], "--disk: given twice"),
    (["--disk", "a,format=raw", "--socket-path=s", "stray"], "stray: unexpected argument"),
])
def test_wrong_usage(words, expected):
    assert expected in worker_fails(*words, status=2)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_images_that_are_not_there(kind, run_dir):
    text = worker_fails(f"--socket-path={run_dir}/s", "--disk", f"{run_dir}/gone.{kind},format={kind}")
    assert f"{run_dir}/gone.{kind}" in text and "No such file" in text


def test_a_raw_image_is_no_qcow2(run_dir):
    image = new_raw(run_dir / "raw", SIZE)
    text = worker_fails(f"--socket-path={run_dir}/s", "--disk", f"{image},format=qcow2")
    assert str(image) in text and "qcow2" in text


def test_the_format_is_never_probed(run_dir, processes):
    """A raw disk into which the guest wrote a qcow2 header stays a raw disk."""
    image = new_qcow2(run_dir / "evil", SIZE)
    os.truncate(image, MIB)
    path = run_dir / "s"
    start_worker(processes, path, ("raw", image))
    done = bench("--socket", path, "--rw", "read", "--runtime", "1", "--ramp", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["errors"] == 0


@pytest.mark.parametrize("other", ["worker", "qemu"])
def test_a_leaf_in_use_is_locked(other, run_dir, processes):
    image = new_qcow2(run_dir / "leaf", SIZE)
    start_worker(processes, run_dir / "s", ("qcow2", image))
    if other == "worker":
        assert "lock" in worker_fails(f"--socket-path={run_dir}/s2", "--disk", f"{image},format=qcow2").lower()
    else:
        with pytest.raises(AssertionError, match='Failed to get .* lock'):
            qemu_img("check", image)


def test_nobody_can_connect_to_a_worker_that_cannot_open_its_images(run_dir, processes):
    """QEMU before 8.2 does not come again when its back end goes in the middle of the handshake."""
    path, image = run_dir / "s", new_qcow2(run_dir / "leaf", SIZE)
    start_worker(processes, run_dir / "other", ("qcow2", image))
    assert "lock" in worker_fails(f"--socket-path={path}", "--disk", f"{image},format=qcow2")
    assert not path.exists()


def test_nobody_can_connect_to_a_worker_whose_image_is_damaged(run_dir):
    """Which it sees when it has its socket, and nothing else of the host any more."""
    path, image = run_dir / "s", new_qcow2(run_dir / "leaf", SIZE)
    with open(image, "r+b") as f:
        f.seek(72)  # incompatible features
        f.write(struct.pack(">Q", 2))  # "it is marked corrupt"
    connected, tries, ended = [], [], threading.Event()

    def connect_all_the_time():
        while not ended.is_set():
            with socket.socket(socket.AF_UNIX) as sock:
                tries.append(sock.connect_ex(str(path)))
                if tries[-1] == 0:
                    connected.append(sock)

    client = threading.Thread(target=connect_all_the_time)
    client.start()
    try:
        for _ in range(10):
            assert "leaf" in worker_fails(f"--socket-path={path}", "--disk", f"{image},format=qcow2")
    finally:
        ended.set()
        client.join()
    assert not connected and errno.ECONNREFUSED in tries


def test_a_handshake_is_finished_before_the_end(run_dir, pattern, processes):
    path = run_dir / "s"
    worker = start_worker(processes, path, ("raw", pattern))
    with socket.socket(socket.AF_UNIX) as sock:
        os.kill(worker.pid, signal.SIGSTOP)  # so that it finds all of this at once
        sock.connect(str(path))
        sock.sendall(2 * struct.pack("<III", GET_FEATURES, 1, 0))
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGCONT)
        assert len(sock.recv(2 * 20, socket.MSG_WAITALL)) == 2 * 20
        assert worker.wait(10) == 0 and sock.recv(1) == b""  # it does not wait for ever


def test_unusual_sector_sizes_are_refused(run_dir):
    image = new_raw(run_dir / "raw", SIZE)
    assert "expected 512 or 4096" in worker_fails(f"--socket-path={run_dir}/s", "--disk", f"{image},format=raw",
                                                  "--sector-size=1024")


@pytest.mark.parametrize("words", [(), ("--packed",), ("--event-idx", "--indirect"), ("--packed", "--event-idx", "--indirect"),
                                   ("--queues", "2"), ("--regions", "8"), ("--regions", "8", "--mem-slots"),
                                   ("--sleep",), ("--queue-size", "1024", "--iodepth", "128"), ("--no-inflight",)])
def test_rings_and_memory(words, run_dir, pattern, processes):
    path = run_dir / "s"
    start_worker(processes, path, ("raw", pattern), num_queues=2)
    figures = load(path, *words)
    assert figures["errors"] == 0 and figures["mismatches"] == 0 and figures["iops"] > 0


@pytest.mark.parametrize("datapath", ["direct", "staged"])
@pytest.mark.parametrize("direct", ["on", "off"])
def test_clones(datapath, direct, run_dir, pattern, processes):
    leaf = new_qcow2(run_dir / "leaf", SIZE, pattern, "raw")
    path = run_dir / "s"
    words = [program("creedence-vbd"), f"--socket-path={path}", "--disk", f"{leaf},format=qcow2,direct={direct}",
             "--backing", f"{pattern},format=raw,direct={direct}", f"--datapath={datapath}", "--once"]
    worker = processes.start(words)
    worker.wait_for_socket(path)
    assert load(path, "--rw", "randrw")["mismatches"] == 0
    assert worker.wait(10) == 0
    qemu_img("compare", "-f", "qcow2", "-F", "raw", leaf, pattern)
    qemu_img("check", leaf)


def test_inherited_listening_socket(run_dir, pattern, processes):
    path = run_dir / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        processes.start([program("creedence-vbd"), f"--fd={listener.fileno()}", f"--blk-file={pattern}"],
                        pass_fds=(listener.fileno(),))
        assert load(path)["mismatches"] == 0


def test_client_mode(run_dir, pattern, processes):
    """The front end listens, the worker connects, and ends when it is left alone."""
    path = run_dir / "s"
    front = processes.start([BUILD / "bench" / "vhost-blk-bench", "--socket", path, "--listen", "--rw", "randread", "--runtime", "1",
                             "--ramp", "0", "--verify", "--json"])
    front.wait_for_socket(path)
    worker = processes.start([program("creedence-vbd"), f"--connect={path}", f"--blk-file={pattern}"])
    assert front.wait(30) == 0, front.output()
    assert worker.wait(10) == 0, worker.output()


def test_sandbox_is_complete(run_dir, pattern, processes):
    """With --sandbox=on nothing may be missing: no file system, no network, no capability, filtered calls."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    path = run_dir / "s"
    worker = start_worker(processes, path, ("raw", pattern), sandbox="on", user="nobody")
    assert load(path)["mismatches"] == 0
    status = dict(line.split(":\t", 1) for line in open(f"/proc/{worker.pid}/status").read().splitlines() if ":\t" in line)
    assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == 0 and int(status["CapBnd"], 16) == 0
    assert status["Uid"].split()[0] != "0"
    assert os.listdir(f"/proc/{worker.pid}/root") == []
    assert os.readlink(f"/proc/{worker.pid}/ns/net") != os.readlink("/proc/self/ns/net")


@pytest.mark.parametrize("datapath", ["direct", "staged"])
def test_sandboxed_rings_take_no_locked_memory(run_dir, processes, datapath):
    """Rings are made while that is allowed: not one is charged to the user's limit, which would end a host at some hundred disks."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    base, middle, leaf = run_dir / "base", run_dir / "middle", run_dir / "leaf"
    new_qcow2(base, SIZE)
    new_qcow2(middle, SIZE, base)
    new_qcow2(leaf, SIZE, middle)
    path = run_dir / "s"
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))
    try:
        start_worker(processes, path, ("qcow2", leaf), ("qcow2", middle), ("qcow2", base), sandbox="on", user="nobody",
                     num_queues=4, datapath=datapath)
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    done = bench("--socket", path, "--verify-writes", "--initial=zero", "--queues", "4", "--runtime", "2")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_writes_survive_workers_killed_under_a_native_front_end(run_dir, processes):
    """No daemon: the front end reconnects and gives the in-flight memory back, twenty times over."""
    leaf = new_qcow2(run_dir / "leaf", SIZE)
    path = run_dir / "s"
    worker = start_worker(processes, path, ("qcow2", leaf), num_queues=2)
    front = processes.start([BUILD / "bench" / "vhost-blk-bench", "--socket", path, "--verify-writes", "--initial=zero", "--reconnect",
                             "--queues", "2", "--iodepth", "16", "--runtime", "12", "--wait", "10"])
    for _ in range(20):
        subprocess.run(["sleep", "0.3"], check=True)
        if not front.running():
            break
        worker.kill()
        worker = start_worker(processes, path, ("qcow2", leaf), num_queues=2)
    assert front.wait(60) == 0, front.output()
    worker.terminate()
    check_image(leaf, leaks_allowed=True)


def test_the_chain_must_be_what_the_image_says(run_dir, pattern, processes):
    """A clone without its base, or on another one, would show zeroes and fill what is written with them."""
    other, plain = new_raw(run_dir / "other.raw", SIZE), new_qcow2(run_dir / "plain", SIZE)
    leaf = new_qcow2(run_dir / "leaf", SIZE, pattern.name, "raw")  # relative to the clone's directory
    before = leaf.read_bytes()
    refused = lambda *words: worker_fails(f"--socket-path={run_dir}/refused", *words)
    clone = ("--disk", f"{leaf},format=qcow2")
    text = refused(*clone)
    assert f"{leaf} says that it is based on {pattern.name}, but nothing is configured below it" in text
    assert f"--backing {pattern.name},format=raw" in text
    assert "nothing is configured" in refused(*clone, "--backing-name=any")
    assert f"is based on {pattern.name}, but {other} is configured below it" in refused(*clone, "--backing", f"{other},format=raw")
    assert "has the format raw, but it is configured as qcow2" in refused(*clone, "--backing", f"{pattern},format=qcow2")
    assert f"{plain} (qcow2) is not based on any image, but {pattern} is configured" in refused(
        "--disk", f"{plain},format=qcow2", "--backing", f"{pattern},format=raw", "--backing-name=any")
    assert "--backing-name=none: expected same or any" in worker_fails("--backing-name=none", status=2)
    assert leaf.read_bytes() == before

    moved = pattern.rename(run_dir / "moved.raw")
    assert "moved.raw is configured" in refused(*clone, "--backing", f"{moved},format=raw")
    path = run_dir / "s"
    start_worker(processes, path, ("qcow2", leaf), ("raw", moved), backing_name="any")
    assert load(path)["mismatches"] == 0


@pytest.mark.parametrize("datapath", ["direct", "staged"])
def test_bases_are_read_through_the_cache(datapath, run_dir, pattern):
    """By the thread that has the channels of the chain, whichever that is, and again when the service is another."""
    with Daemon(run_dir) as daemon:
        leaf = new_qcow2(run_dir / "leaf", SIZE, pattern, "raw")
        path = daemon.attach("disk", ("qcow2", leaf), ("raw", pattern), datapath=datapath, queues=2)
        filled = 0
        for _ in range(2):
            assert load(path, "--queues", "2")["mismatches"] == 0
            counted = daemon.disk("disk")
            assert counted.cache_fill_bytes > filled and counted.cache_hit_bytes > 0 and counted.errors == 0
            filled = counted.cache_fill_bytes
            pid = daemon.call("cache.show")["pid"]
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: daemon.call("cache.show").get("stats", {}).get("channels", 0) > 0
                       and daemon.call("cache.show")["pid"] != pid, 10, "channels of a new service")


def start_cache(processes, path):
    cache = processes.start([program("creedence-cache"), f"--socket={path}", "--budget=256M"])
    cache.wait_for(lambda: is_listening(path), 10, f"socket {path}")
    return cache


def test_alone_without_the_cache_it_was_told_of(run_dir, pattern, processes):
    leaf, path = new_qcow2(run_dir / "leaf", SIZE, pattern, "raw"), run_dir / "s"
    worker = start_worker(processes, path, ("qcow2", leaf), ("raw", pattern), cache_socket=run_dir / "nobody")
    assert load(path)["mismatches"] == 0
    assert "no read cache" in worker.output()


def test_alone_it_goes_on_without_a_cache_that_died(run_dir, pattern, processes):
    """What was cached and what was not is read right while the service dies, and after another took its place."""
    leaf, path, cache_path = new_qcow2(run_dir / "leaf", SIZE, pattern, "raw"), run_dir / "s", run_dir / "cache"
    cache = start_cache(processes, cache_path)
    worker = start_worker(processes, path, ("qcow2", leaf), ("raw", pattern), cache_socket=cache_path)
    front = processes.start([BUILD / "bench" / "vhost-blk-bench", "--socket", path, "--rw", "randread", "--runtime", "4", "--ramp", "0",
                             "--verify", "--json"])
    subprocess.run(["sleep", "0.5"], check=True)
    cache.kill()
    start_cache(processes, cache_path)
    assert front.wait(60) == 0, front.output()
    assert load(path)["mismatches"] == 0
    assert "no read cache" not in worker.output() and worker.running()


@pytest.mark.slow
def test_a_chain_of_32_layers(run_dir, pattern, processes):
    """Every layer has a piece that those below it have differently; written on top, the leaf is what the pattern says."""
    content, piece, layers = pattern.read_bytes(), run_dir / "piece", []
    below, kind = run_dir / "layer-31.raw", "raw"
    below.write_bytes(b"\xff" * (31 * MIB) + content[31 * MIB:])
    layers.append((kind, below))
    for index in range(30, -1, -1):
        image = run_dir / f"layer-{index}"
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", below, "-F", kind, image, SIZE)
        piece.write_bytes(content[index * MIB:(index + 1) * MIB])
        hidden = ["-c", f"write -P 238 0 {index * MIB}"] if index % 5 == 4 else []  # by the layers above
        run(system_program("qemu-io", "qemu-utils"), "-f", "qcow2", *hidden, "-c", f"write -s {piece} {index * MIB} {MIB}", image)
        layers.insert(0, ("qcow2", image))
        below, kind = image, "qcow2"
    assert len(layers) == 32
    path = run_dir / "s"
    worker = start_worker(processes, path, *layers, num_queues=2, once=True)
    done = bench("--socket", path, "--rw", "read", "--bs", "64k", "--runtime", "3", "--ramp", "0", "--verify=full", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["mismatches"] == 0
    assert worker.wait(10) == 0
    worker = start_worker(processes, path, *layers, num_queues=2, once=True)
    assert load(path, "--rw", "randrw", "--queues", "2")["mismatches"] == 0
    assert worker.wait(10) == 0
    qemu_img("compare", "-f", "qcow2", "-F", "raw", layers[0][1], pattern)
    check_image(layers[0][1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raw", "qcow2", "clone"])
def test_the_end_of_a_disk_of_16_tib(kind, run_dir, processes):
    """Written, flushed, and read by another worker; in a clone, the base's own last bytes as well, past 2 TiB."""
    size, part = (16 << 40) - 4096, 16 * MIB  # the largest file that ext4 can have
    try:
        base = new_raw(run_dir / "base", size)
    except OSError:
        pytest.skip("no file of 16 TiB can be made here")
    layers = [("qcow2", new_qcow2(run_dir / "leaf", size))] if kind == "qcow2" else [("raw", base)]
    path, end = run_dir / "s", ("--offset", size - part, "--size", part)

    def serve(*words):
        worker = start_worker(processes, path, *layers, once=True)
        done = bench("--socket", path, *end, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert worker.wait(10) == 0, worker.output()

    serve("--rw", "write", "--bs", "64k", "--verify", "--runtime", "2", "--ramp", "0")
    if kind == "clone":
        layers.insert(0, ("qcow2", new_qcow2(run_dir / "leaf", size, base, "raw")))
    serve("--rw", "read", "--bs", "64k", "--verify=full", "--runtime", "1", "--ramp", "0")
    serve("--verify-writes", "--model", run_dir / "model", "--runtime", "2")
    serve("--verify-writes", "--model", run_dir / "model", "--check-only")
    check_image(layers[0][1], layers[0][0])


def broken_ring(front):
    front.start_ring()
    assert not front.signalled(front.err, 0)
    front.jump_available_index(1000)
    assert front.signalled(front.err), "the error descriptor was not signalled"
    os.eventfd_read(front.err)


def test_a_broken_ring_is_its_front_ends_affair(run_dir, pattern, processes):
    """It says why, in the log and through the error descriptor; the same front end may reset it, the next one finds a sound disk."""
    path = run_dir / "s"
    worker = start_worker(processes, path, ("raw", pattern))
    with open(pattern, "rb") as image:
        image.seek(7 * 512)
        sector = image.read(512)
    with FrontEnd(path) as front:
        broken_ring(front)
        worker.wait_for(lambda: "queue 0 broken by its guest: the available index jumped" in worker.output(), 10, "a line in the log")
        front.order(RESET_DEVICE)
        front.start_ring()
        assert front.read_sector(7) == (0, sector)
    with FrontEnd(path) as front:
        broken_ring(front)
    assert load(path)["mismatches"] == 0
