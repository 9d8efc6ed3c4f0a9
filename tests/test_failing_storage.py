# SPDX-License-Identifier: Apache-2.0
"""Storage that fails: a guest gets an error for what failed and for nothing else, nothing that was acknowledged is lost, and what could
not be made durable is never said to be, by any queue nor by a worker that comes after.

The disk is a loop device over a sparse file on a file system that is full: what has no room there cannot be written.
"""

import os
import subprocess

import pytest

from lib.daemon import Daemon, kill_worker
from lib.disk_guest import WRITE, DiskGuest, attach
from lib.guests import UmlGuest
from lib.worker import check_image, new_qcow2, new_raw, run

MIB = 1 << 20
SIZE = 16 * MIB
GOOD = 4 * MIB  # at the start of the disk, has room


class Storage:
    """A small file system."""

    def __init__(self, path):
        self.path = path
        self.devices = []

    def fill(self):
        with open(self.path / "filler", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"x" * 4096)

    def free(self):
        (self.path / "filler").unlink()

    def device(self, image):
        self.devices.append(run("losetup", "-f", "--show", image).strip())
        return self.devices[-1]

    def close(self):
        for device in self.devices:
            run("losetup", "-d", device)
        run("umount", "-l", self.path)


@pytest.fixture
def storage(run_dir):
    path = run_dir / "small"
    path.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "creedence-test", path], capture_output=True).returncode:
        pytest.skip("not allowed to mount a tmpfs")
    storage = Storage(path)
    yield storage
    storage.close()


@pytest.fixture
def daemon(run_dir, storage):
    with Daemon(run_dir) as daemon:
        yield daemon


def raw_device(storage):
    """Its first GOOD bytes have room."""
    image = new_raw(storage.path / "image.raw", SIZE)
    with open(image, "r+b") as file:
        file.write(bytes(GOOD))
    return storage.device(image)


@pytest.fixture(params=["raw", "qcow2"])
def failing_disk(request, storage):
    """(leaf, kind, direct)"""
    if request.param == "raw":
        return raw_device(storage), "raw", True
    leaf = new_qcow2(storage.path / "leaf.qcow2", SIZE)
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 0 0 {GOOD}", leaf)
    return leaf, "qcow2", False


@pytest.mark.slow
def test_a_guest_gets_an_error_for_what_failed_only(failing_disk, storage, daemon):
    leaf, kind, direct = failing_disk
    storage.fill()
    path = daemon.call("disk.attach", name="d", packed=False, layers=[{"format": kind, "path": str(leaf), "direct": direct}])["socket"]
    dd, good, bad = "dd of=/dev/vda oflag=direct bs=64k 2>&1", GOOD // 65536, 2 * GOOD // 65536
    with UmlGuest(daemon.work, [path]) as guest:
        guest.wait_ready()
        guest.check(f"dd if=/dev/urandom of=/tmp/data bs=64k count={good} 2>/dev/null")
        guest.check(f"{dd} if=/tmp/data count={good // 2}")
        for _ in range(3):
            status, text = guest.run(f"{dd} if=/tmp/data seek={bad} count=1")
            assert status != 0 and "error" in text, text
        guest.check(f"{dd} if=/tmp/data skip={good // 2} seek={good // 2} count={good // 2}")
        guest.check("sync")
        guest.check(f"dd if=/dev/vda iflag=direct bs=64k count={good} 2>/dev/null | cmp - /tmp/data")
        storage.free()
        guest.check(f"{dd} if=/tmp/data seek={bad} count=1 && sync")
        expected = guest.check("sha256sum </tmp/data").split()[0]
        assert "I/O error" in guest.check("dmesg")
        assert guest.power_off() == 0
    assert daemon.disk("d").errors == 3
    daemon.call("disk.detach", name="d")
    if kind == "qcow2":
        check_image(leaf)
    copy = storage.path / "copy.raw"
    run("qemu-img", "convert", "-f", kind, "-O", "raw", leaf, copy)
    assert run("sh", "-c", f"head -c {GOOD} {copy} | sha256sum").split()[0] == expected
    assert run("sh", "-c", f"cmp -n 65536 {copy} {copy} 0 {2 * GOOD} && echo same").strip() == "same"


def lose_writes(guest, storage):
    """Through the page cache: acknowledged, and then there is no room for them."""
    assert guest.flush() == 0
    storage.fill()
    guest.data = b"A"
    guest.submit(WRITE)
    guest.finish()
    assert guest.flush() == 1


def test_a_failed_flush_is_final(storage, daemon):
    layers = [{"format": "raw", "path": storage.device(new_raw(storage.path / "image.raw", SIZE)), "direct": False}]
    path = daemon.call("disk.attach", name="d", layers=layers)["socket"]
    with DiskGuest(path) as guest:
        guest.start_ring()
        lose_writes(guest, storage)
        kill_worker(daemon, "d")
        assert guest.flush() == 1
        storage.free()
        assert guest.flush() == 1


def again(processes, guest, *words):
    """Its worker is killed, and it connects to another: with the in-flight memory it had."""
    _, successor, _ = attach(processes, *words, guest.inflight)
    successor.take_memory_of(guest)
    successor.keep_inflight()
    successor.start_ring(resume=True)
    return successor


def test_a_failed_flush_is_final_without_a_daemon(run_dir, storage, processes):
    device = storage.device(new_raw(storage.path / "image.raw", SIZE))
    words = run_dir / "s", ("--disk", f"{device},format=raw,direct=off", "--sandbox=on")
    worker, guest, _ = attach(processes, *words)
    guest.keep_inflight()
    guest.start_ring()
    lose_writes(guest, storage)
    worker.kill()
    with again(processes, guest, *words) as guest:
        assert guest.flush() == 1


@pytest.mark.parametrize("read_only", [False, True])
def test_the_cache_mode_stays_without_a_daemon(read_only, run_dir, processes):
    """A driver that has asked for write-through sends no flushes, and does not ask again."""
    words = run_dir / "s", ("--disk", f"{new_raw(run_dir / 'image', SIZE)},format=raw", *["--read-only"] * read_only)
    worker, guest, _ = attach(processes, *words)
    guest.keep_inflight()
    guest.start_ring()
    assert guest.writes_back()
    guest.set_writes_back(False)
    for _ in range(2):
        worker.kill()
        worker, successor, _ = attach(processes, *words, guest.inflight)
        assert successor.writes_back()
        successor.take_memory_of(guest)
        successor.keep_inflight()
        successor.start_ring(resume=True)
        assert not successor.writes_back()
        guest = successor
    guest.set_writes_back(True)
    worker.kill()
    worker, guest = None, again(processes, guest, *words)
    assert guest.writes_back()
