# SPDX-License-Identifier: Apache-2.0
"""Programs of the host are killed, again and again, under a guest that verifies every write.

The guest (lib/worker.py: guest_writer) knows what each block must hold, so a lost write, or an old one
done again over a new one, fails the test; so does any I/O error that it sees.
"""

import hashlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from lib.daemon import Daemon, kill_worker
from lib.guests import GUESTS, QemuGuest, UmlGuest
from lib.worker import check_image, content_sha256, guest_writer, new_qcow2, new_raw, qemu_img, start_worker

MIB = 1 << 20
KILLS = int(os.environ.get("CREEDENCE_KILLS", "100"))  # of the loops over everything; more by hand
SHORT_KILLS = max(KILLS // 4, 1)  # of those that look at one property of one program
SIZE = 256 * MIB
WRITTEN = 128 * MIB  # the writer's part; the rest stays as the base has it
pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(max(900, 9 * KILLS))]

READ_BASE = (f"while [ ! -f /tmp/stop ]; do dd if=/dev/vda bs=1M skip={WRITTEN // MIB} iflag=direct 2>/tmp/dd | sha256sum >>/tmp/sums; "
             "done & echo $! >/tmp/reader")


@pytest.fixture
def pause():
    """Waits of random length, the same in every run."""
    numbers = random.Random(1)
    return lambda most_s: time.sleep(numbers.uniform(0, most_s))


@pytest.fixture
def base(run_dir):
    """An image full of random bytes."""
    raw, image = run_dir / "base.raw", run_dir / "base.qcow2"
    numbers = random.Random(2)
    with open(raw, "wb") as content:
        for _ in range(SIZE // MIB):
            content.write(numbers.randbytes(MIB))
    qemu_img("convert", "-O", "qcow2", raw, image)
    raw.unlink()
    return image


@pytest.fixture
def daemon(run_dir):
    with Daemon(run_dir) as daemon:
        yield daemon


class Load:
    """The verifying writer in the background of a guest, and a reader of what the base holds."""

    def __init__(self, guest, reader=False):
        self.guest = guest
        self.reader = reader
        guest.check(f"guest-writer /dev/vda 100000 8 {WRITTEN} >/tmp/writer 2>&1 & echo $! >/tmp/writer.pid")
        if reader:
            guest.check(READ_BASE)

    def line(self):
        return self.guest.check("tail -n 1 /tmp/writer", 120).strip()

    def assert_alive(self, timeout_s=60):
        """The writer goes on writing, and has seen nothing wrong."""
        before = self.line()
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            now = self.line()
            assert "FAILED" not in now, now
            if now != before:
                return
            time.sleep(0.2)
        self.guest.fail(f"the writer stands still: {before}")

    def finish(self):
        """End the load; everything is read once more."""
        self.guest.check("touch /tmp/stop; kill $(cat /tmp/writer.pid)")
        status, _ = self.guest.run("wait $(cat /tmp/writer.pid)", 120)
        assert status == 0, self.line()
        assert "writer: ok" in self.line()
        if self.reader:
            self.guest.run("wait $(cat /tmp/reader)", 120)
            sums = set(self.guest.check("cut -d ' ' -f 1 /tmp/sums").split())
            assert len(sums) == 1, f"the untouched half of the disk read differently: {sums}"
            return sums.pop()
        return None

    def assert_no_errors(self):
        log = self.guest.check("dmesg")
        assert "I/O error" not in log and "Buffer I/O" not in log, log[-3000:]


def end_guest(guest, load):
    """Stop the load, compare the disk with itself, power off. (hash of the disk, of the base's half)."""
    base_sum = load.finish()
    load.assert_no_errors()
    inside = guest.check("sha256sum /dev/vda", 120).split()[0]
    assert guest.power_off() == 0
    return inside, base_sum


def tail_sha256(image, run_dir):
    copy = run_dir / "tail.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", image, copy)
    with open(copy, "rb") as content:
        content.seek(WRITTEN)
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    copy.unlink()
    return digest


@pytest.mark.parametrize("kind", ["uml", "qemu"])
def test_worker_killed_under_a_guest_that_cannot_reconnect(kind, run_dir, base, daemon, pause):
    leaf = new_qcow2(run_dir / "leaf.qcow2", SIZE, base)
    socket = daemon.attach("disk", ("qcow2", leaf), ("qcow2", base), packed=False)
    with GUESTS[kind](run_dir, [socket], files=guest_writer()) as guest:
        guest.wait_ready()
        load = Load(guest)
        for number in range(KILLS):
            pause(0.25)
            pid = kill_worker(daemon, "disk")
            daemon.wait_worker("disk", other_than=pid, timeout_s=30)
            if number % 20 == 19:
                load.assert_alive()
        inside, _ = end_guest(guest, load)
    daemon.call("disk.detach", name="disk")
    check_image(leaf, leaks_allowed=True)
    assert content_sha256(leaf, "qcow2", SIZE, run_dir) == inside


def serves_a_ring(worker):
    """Does one of its queues run, so that its front end's handshake is over?"""
    try:
        return any(task.read_text() == "vbd-q0\n" for task in Path(f"/proc/{worker.pid}/task").glob("*/comm"))
    except FileNotFoundError:
        return False


def test_worker_without_daemon_killed_under_qemu_that_reconnects(run_dir, base, processes, pause):
    leaf = new_qcow2(run_dir / "leaf.qcow2", SIZE, base)
    socket = run_dir / "disk.sock"
    layers = [("qcow2", leaf), ("qcow2", base)]
    worker = start_worker(processes, socket, *layers)
    with QemuGuest(run_dir, [socket], files=guest_writer(), reconnect_s=1) as guest:
        guest.wait_ready()
        load = Load(guest)
        for number in range(max(KILLS // 2, 1)):
            # QEMU before 8.2 never comes back to a disk that went in the middle of its handshake.
            worker.wait_for(lambda worker=worker: serves_a_ring(worker), 60, "QEMU, which tries once a second")
            pause(0.4)
            worker.kill()
            worker = start_worker(processes, socket, *layers)
            if number % 10 == 9:
                load.assert_alive()
        load.assert_alive()
        inside, _ = end_guest(guest, load)
    worker.terminate()
    check_image(leaf, leaks_allowed=True)
    assert content_sha256(leaf, "qcow2", SIZE, run_dir) == inside


def victims_of(numbers):
    """Whom one round kills: mostly one program, now and then two, or all three."""
    programs = ["worker", "daemon", "cache"]
    return set(numbers.sample(programs, numbers.choices([1, 2, 3], [8, 1, 1])[0]))


def kill_and_wait(daemon, victims):
    """Kill these programs at once; back when each has a successor. The others must be who they were."""
    worker, cache = daemon.wait_worker("disk", timeout_s=30), daemon.wait_cache(timeout_s=30)
    # The daemon first: whom it can still start again does not count as dead with it.
    if "daemon" in victims:
        daemon.kill()
    for name, pid in (("worker", worker), ("cache", cache)):
        if name in victims:
            os.kill(pid, signal.SIGKILL)
    if "daemon" in victims:
        daemon.start()
    new_worker = daemon.wait_worker("disk", other_than=worker if "worker" in victims else None, timeout_s=30)
    new_cache = daemon.wait_cache(other_than=cache if "cache" in victims else None, timeout_s=30)
    assert "worker" in victims or new_worker == worker, f"the worker did not survive the death of {victims}"
    assert "cache" in victims or new_cache == cache, f"the cache service did not survive the death of {victims}"


@pytest.mark.timeout_s(max(600, 6 * KILLS))
def test_random_programs_killed_under_load(run_dir, base, daemon, pause):
    """Worker, daemon and cache service die in any order, also together; the guest goes on each time."""
    leaf = new_qcow2(run_dir / "leaf.qcow2", SIZE, base)
    socket = daemon.attach("disk", ("qcow2", leaf), ("qcow2", base), packed=False)
    numbers = random.Random(3)
    killed = Counter()
    with UmlGuest(run_dir, [socket], files=guest_writer()) as guest:
        guest.wait_ready()
        load = Load(guest, reader=True)
        for number in range(KILLS):
            pause(0.3)
            victims = victims_of(numbers)
            kill_and_wait(daemon, victims)
            killed.update(victims)
            if len(victims) == 3 or number % 20 == 19:
                load.assert_alive()
        inside, base_sum = end_guest(guest, load)
    assert KILLS < 20 or min(killed.values()) >= KILLS // 5, killed
    daemon.call("disk.detach", name="disk")
    check_image(leaf, leaks_allowed=True)
    assert content_sha256(leaf, "qcow2", SIZE, run_dir) == inside
    assert base_sum == tail_sha256(base, run_dir)


def test_daemon_killed_under_load(run_dir, base, daemon, pause):
    """Nobody notices; and a worker that dies while there is no daemon is replaced by the next daemon."""
    leaf = new_qcow2(run_dir / "leaf.qcow2", SIZE, base)
    socket = daemon.attach("disk", ("qcow2", leaf), ("qcow2", base), packed=False)
    with UmlGuest(run_dir, [socket], files=guest_writer()) as guest:
        guest.wait_ready()
        load = Load(guest, reader=True)
        for number in range(SHORT_KILLS):
            pause(0.1)
            before = daemon.worker_pid("disk")
            daemon.kill()
            worker_dies = number % 5 == 4
            if worker_dies:
                os.kill(before, signal.SIGKILL)
            daemon.start()
            after = daemon.wait_worker("disk", other_than=before if worker_dies else None)
            assert worker_dies or after == before, "the daemon's death must not take the worker along"
            if number % 20 == 19:
                load.assert_alive()
        inside, base_sum = end_guest(guest, load)
    daemon.call("disk.detach", name="disk")
    check_image(leaf, leaks_allowed=True)
    assert content_sha256(leaf, "qcow2", SIZE, run_dir) == inside
    assert base_sum == tail_sha256(base, run_dir)


def test_cache_service_killed_under_load(run_dir, base, daemon, pause):
    """Guests go on, reading the base themselves; a new service is picked up."""
    leaf = new_qcow2(run_dir / "leaf.qcow2", SIZE, base)
    socket = daemon.attach("disk", ("qcow2", leaf), ("qcow2", base), packed=False)
    with UmlGuest(run_dir, [socket], files=guest_writer()) as guest:
        guest.wait_ready()
        load = Load(guest, reader=True)
        for number in range(SHORT_KILLS):
            pause(0.2)
            pid = daemon.wait_cache(timeout_s=30)
            os.kill(pid, signal.SIGKILL)
            daemon.wait_cache(other_than=pid, timeout_s=30)
            if number % 20 == 19:
                load.assert_alive()
        hits = daemon.disk("disk").cache_hit_bytes
        deadline = time.monotonic() + 30
        while daemon.disk("disk").cache_hit_bytes == hits:
            assert time.monotonic() < deadline, "the disk does not use the new cache service"
            time.sleep(0.2)
        inside, base_sum = end_guest(guest, load)
    daemon.call("disk.detach", name="disk")
    check_image(leaf, leaks_allowed=True)
    assert content_sha256(leaf, "qcow2", SIZE, run_dir) == inside
    assert base_sum == tail_sha256(base, run_dir)


def test_upgrade_under_load(run_dir, daemon, pause):
    """`creedence upgrade` replaces workers one by one; guests see nothing."""
    disks = {f"disk-{n}": new_raw(run_dir / f"{n}.raw", SIZE) for n in range(2)}
    sockets = [daemon.attach(name, ("raw", image), packed=False) for name, image in disks.items()]
    guests = [UmlGuest(run_dir, [socket], files=guest_writer()) for socket in sockets]
    try:
        for guest in guests:
            guest.start()
        loads = [Load(guest.wait_ready()) for guest in guests]
        for _ in range(5):
            pause(0.3)
            before = [daemon.worker_pid(name) for name in disks]
            daemon.cli("upgrade")
            assert all(daemon.wait_worker(name) != pid for name, pid in zip(disks, before))
        for load in loads:
            load.assert_alive()
        insides = [end_guest(guest, load)[0] for guest, load in zip(guests, loads)]
    finally:
        for guest in guests:
            guest.kill()
    for (name, image), inside in zip(disks.items(), insides):
        daemon.call("disk.detach", name=name)
        assert content_sha256(image, "raw", SIZE, run_dir) == inside
