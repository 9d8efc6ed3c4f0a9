# SPDX-License-Identifier: Apache-2.0
"""A worker is killed with direct I/O in the kernel, which a limit on bandwidth holds back there: none of it may land after its
successor has begun. The disk is a loop device, and whoever is put into the group waits for it."""

import os
import time
from pathlib import Path

import pytest

from lib.daemon import Daemon, kill_worker
from lib.disk_guest import READ, WRITE, DiskGuest, attach
from lib.process import wait_until
from lib.worker import new_qcow2, run

MIB = 1 << 20
SIZE = 16 * MIB
CONTROLLER = Path("/sys/fs/cgroup/blkio")
HELD_BACK_S = 1.0  # what SLOW_BYTES take in the group
SLOW_BYTES = DiskGuest.ALL_BYTES
BASE = b"\xa5"


class SlowDisk:
    """A loop device, and a control group for which it is slow."""

    def __init__(self, image):
        self.device = run("losetup", "-f", "--show", image).strip()
        self.group = CONTROLLER / f"late-io-{os.getpid()}"
        self.group.mkdir()
        number = Path(f"/sys/class/block/{Path(self.device).name}/dev").read_text().strip()
        for way in ("read", "write"):
            (self.group / f"blkio.throttle.{way}_bps_device").write_text(f"{number} {int(SLOW_BYTES / HELD_BACK_S)}")

    def slow_down(self, pid):
        """All its threads."""
        (self.group / "cgroup.procs").write_text(str(pid))

    def close(self):
        wait_until(lambda: not (self.group / "cgroup.procs").read_text(), 10, "the end of the group's processes")
        self.group.rmdir()
        run("losetup", "-d", self.device)


@pytest.fixture
def disk(run_dir):
    if os.geteuid() != 0 or not (CONTROLLER / "blkio.throttle.read_bps_device").exists():
        pytest.skip("this host has no block device that can be slowed down")
    image = run_dir / "image.raw"
    image.write_bytes(BASE * SIZE)
    disk = SlowDisk(image)
    yield disk
    disk.close()


@pytest.fixture
def daemon(run_dir):
    with Daemon(run_dir) as daemon:
        yield daemon


def leave_reads(guest, disk, pid, kill):
    """Killed with reads on their way. The time at which that was."""
    guest.data = b"-"
    disk.slow_down(pid)
    guest.submit(READ)
    time.sleep(0.1)
    assert not guest.answered()
    kill()
    return time.monotonic()


def no_read_lands_late(guest, killed_at):
    guest.finish()
    took_s = time.monotonic() - killed_at
    assert guest.data == BASE * SLOW_BYTES
    guest.data = b"X"
    time.sleep(HELD_BACK_S)
    assert guest.data == b"X" * SLOW_BYTES
    assert took_s > HELD_BACK_S / 4  # it had something to wait for


def test_reads_of_a_base(run_dir, disk, daemon):
    leaf = new_qcow2(run_dir / "leaf", SIZE, disk.device, "raw")
    layers = [{"format": "qcow2", "path": str(leaf)}, {"format": "raw", "path": disk.device, "direct": True}]
    path = daemon.call("disk.attach", name="d", layers=layers, cache=False)["socket"]
    with DiskGuest(path) as guest:
        guest.start_ring()
        for again in range(2):
            killed_at = leave_reads(guest, disk, daemon.wait_worker("d"), lambda: kill_worker(daemon, "d"))
            no_read_lands_late(guest, killed_at)
            if not again:  # the next one gets the images from the worker, and must not hold what the worker reads through
                daemon.kill()
                daemon.start()
                daemon.wait_worker("d")


def leave_a_write(guest, disk, pid, kill):
    """Of As, held back by the device, by a worker that is killed."""
    guest.data = b"A"
    disk.slow_down(pid)
    guest.submit(WRITE)
    time.sleep(0.1)
    kill()


def write_over(guest):
    """Bs, and what was held back has the time to land on them."""
    guest.at += SLOW_BYTES  # it takes its data when it is let go
    guest.data = b"B"
    guest.submit(WRITE)
    guest.finish()
    time.sleep(HELD_BACK_S)


def on_device(disk):
    return run("dd", f"if={disk.device}", f"bs={SLOW_BYTES}", "count=1", "iflag=direct", "status=none")


def test_writes_to_a_leaf(disk, daemon):
    layers = [{"format": "raw", "path": disk.device, "direct": True}]
    path = daemon.call("disk.attach", name="d", layers=layers)["socket"]
    with DiskGuest(path) as guest:
        guest.start_ring()
        leave_a_write(guest, disk, daemon.wait_worker("d"), lambda: kill_worker(daemon, "d"))
        guest.finish()
        write_over(guest)
    assert on_device(disk) == "B" * SLOW_BYTES


def test_reads_without_a_daemon(run_dir, disk, processes):
    """Which mark its descriptions have, a worker says in the in-flight memory."""
    path, words = run_dir / "s", ("--disk", f"{disk.device},format=raw,direct=on", "--read-only", "--sandbox=on")
    worker, first, _ = attach(processes, path, words)
    first.keep_inflight()
    first.start_ring()
    killed_at = leave_reads(first, disk, worker.pid, worker.kill)
    _, guest, _ = attach(processes, path, words, first.inflight)
    with guest:
        guest.take_memory_of(first)
        guest.keep_inflight()
        guest.start_ring(resume=True)
        no_read_lands_late(guest, killed_at)


def test_writes_without_a_daemon(run_dir, disk, processes):
    """Until they have landed the dead worker has its lock on the leaf."""
    path, words = run_dir / "s", ("--disk", f"{disk.device},format=raw,direct=on")
    worker, guest, _ = attach(processes, path, words)
    with guest:
        guest.start_ring()
        leave_a_write(guest, disk, worker.pid, worker.kill)
    _, guest, refusals = attach(processes, path, words)
    assert all("in use" in refusal for refusal in refusals)
    with guest:
        guest.start_ring()
        write_over(guest)
    assert on_device(disk) == "B" * SLOW_BYTES
