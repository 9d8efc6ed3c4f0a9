# SPDX-License-Identifier: Apache-2.0
"""What a real guest's disk driver sees of a disk worker, and what is in the image afterwards."""

import subprocess

import pytest

from lib.guests import GUESTS, QemuGuest, UmlGuest
from lib.paths import system_program
from lib.worker import (check_image, content_sha256, file_tree, guest_writer, new_file_system, new_image, new_qcow2, new_raw, qemu_img,
                        raw_copy, run, start_worker)

MIB = 1 << 20
pytestmark = pytest.mark.slow

# User-mode Linux 6.1 cannot drive a packed ring.
WORKER_OPTIONS = {"uml": {"packed": "off"}, "qemu": {}}


@pytest.fixture(params=["uml", "qemu"])
def kind(request):
    return request.param


def boot(kind, processes, run_dir, *layers, guest=None, **options):
    """A worker and a guest on it, ready."""
    socket = run_dir / "disk.sock"
    start_worker(processes, socket, *layers, **{**WORKER_OPTIONS[kind], **options})
    return GUESTS[kind](run_dir, [socket], **(guest or {}))


def queue_file(guest, name):
    return guest.check(f"cat /sys/block/vda/queue/{name}").strip()


def test_driver_sees_the_disk_as_configured(kind, processes, run_dir):
    image = new_raw(run_dir / "d.raw", 100 * MIB)
    with boot(kind, processes, run_dir, ("raw", image), serial="number-one") as guest:
        guest.wait_ready()
        assert guest.check("cat /sys/block/vda/size").strip() == str(100 * MIB // 512)
        assert guest.check("cat /sys/block/vda/serial").strip() == "number-one"
        assert queue_file(guest, "logical_block_size") == "512"
        assert queue_file(guest, "write_cache") == "write back"
        assert int(queue_file(guest, "discard_max_bytes")) > 0
        assert int(queue_file(guest, "write_zeroes_max_bytes")) > 0
        assert guest.check("cat /sys/block/vda/ro").strip() == "0"
        assert guest.power_off() == 0


def test_large_sectors(kind, processes, run_dir):
    image = new_raw(run_dir / "d.raw", 64 * MIB)
    with boot(kind, processes, run_dir, ("raw", image), guest={"files": guest_writer()}, sector_size=4096) as guest:
        guest.wait_ready()
        assert queue_file(guest, "logical_block_size") == "4096"
        assert guest.check("cat /sys/block/vda/size").strip() == str(64 * MIB // 512)
        assert "writer: ok" in guest.check("guest-writer /dev/vda 2 4")


def test_read_only_disk_refuses_writes(kind, processes, run_dir):
    image = new_raw(run_dir / "d.raw", 64 * MIB)
    image.write_bytes(b"untouched" + bytes(64 * MIB - 9))
    with boot(kind, processes, run_dir, ("raw", image), read_only=True) as guest:
        guest.wait_ready()
        assert guest.check("cat /sys/block/vda/ro").strip() == "1"
        assert guest.run("echo x >/dev/vda")[0] != 0
        assert guest.check("head -c 9 /dev/vda") == "untouched"
        guest.power_off()
    assert image.read_bytes()[:9] == b"untouched"


@pytest.mark.parametrize("image_kind", ["raw", "qcow2"])
def test_every_write_is_read_back(kind, image_kind, processes, run_dir):
    """A writer in the guest that knows what every block must hold; then the same content, read by qemu-img."""
    size = 96 * MIB
    image = new_image(image_kind, run_dir / "d.img", size)
    with boot(kind, processes, run_dir, (image_kind, image), guest={"files": guest_writer()}) as guest:
        guest.wait_ready()
        assert "writer: ok" in guest.check("guest-writer /dev/vda 5")
        inside = guest.check("sha256sum /dev/vda", 120).split()[0]
        assert guest.power_off() == 0
    processes.processes[0].terminate()
    check_image(image, image_kind)
    assert content_sha256(image, image_kind, size, run_dir) == inside


@pytest.mark.parametrize("packed", ["off", "on"])
@pytest.mark.parametrize("queues", [1, 4])
def test_rings_and_queues(packed, queues, processes, run_dir):
    size = 96 * MIB
    image = new_qcow2(run_dir / "d.img", size)
    guest = {"files": guest_writer(), "queues": queues, "cpus": 2, "device_args": f",packed={packed}"}
    with boot("qemu", processes, run_dir, ("qcow2", image), guest=guest, num_queues=queues) as guest:
        guest.wait_ready()
        hardware_queues = guest.check("ls /sys/block/vda/mq").split()
        assert len(hardware_queues) == min(queues, 2)  # the driver takes one per CPU
        assert "writer: ok" in guest.check("guest-writer /dev/vda 4")
        assert guest.power_off() == 0
    processes.processes[0].terminate()
    check_image(image)


def test_file_system_on_a_clone(kind, processes, run_dir):
    """Files of the base are read through two layers, new ones end up in the leaf, and the base stays as it is."""
    (run_dir / "tree").mkdir()
    sums = file_tree(run_dir / "tree")
    raw = new_file_system(run_dir / "base.raw", run_dir / "tree")
    base, middle, leaf = run_dir / "base.qcow2", run_dir / "middle.qcow2", run_dir / "leaf.qcow2"
    qemu_img("convert", "-O", "qcow2", "-c", raw, base)
    new_qcow2(middle, 256 * MIB, base)
    new_qcow2(leaf, 256 * MIB, middle)
    before = [path.read_bytes() for path in (base, middle)]
    with boot(kind, processes, run_dir, ("qcow2", leaf), ("qcow2", middle), ("qcow2", base)) as guest:
        guest.wait_ready()
        guest.check("mount -t ext4 /dev/vda /mnt")
        guest.check("(cd /mnt && sha256sum -c -s sums)")
        guest.check("cp -r /mnt/dir-3 /mnt/copy && echo mine >/mnt/mine && rm -r /mnt/dir-2 && sync")
        guest.check("umount /mnt")
        assert guest.power_off() == 0
    processes.processes[0].terminate()
    assert [path.read_bytes() for path in (base, middle)] == before
    check_image(leaf)
    copy = raw_copy(leaf, "qcow2", run_dir / "copy.raw")
    run(system_program("e2fsck", "e2fsprogs"), "-f", "-n", copy)
    debugfs = system_program("debugfs", "e2fsprogs")
    assert subprocess.run([debugfs, "-R", "cat /mine", copy], capture_output=True, check=True).stdout == b"mine\n"
    for name in [name for name in sums if name.startswith("dir-3/")]:
        out = run_dir / "file"
        run(debugfs, "-R", f"dump /copy/{name.split('/')[1]} {out}", copy)
        assert out.read_bytes() == (run_dir / "tree" / name).read_bytes()


@pytest.mark.parametrize("image_kind", ["raw", "qcow2"])
def test_discard_gives_space_back(kind, image_kind, processes, run_dir):
    size = 64 * MIB
    image = new_image(image_kind, run_dir / "d.img", size)
    with boot(kind, processes, run_dir, (image_kind, image)) as guest:
        guest.wait_ready()
        guest.check("dd if=/dev/urandom of=/dev/vda bs=1M count=64 2>&1 && sync")
        full = image.stat().st_blocks * 512
        assert full >= size
        guest.check("blkdiscard -o 0 -l 50331648 /dev/vda && sync")
        tail = guest.check("dd if=/dev/vda bs=1M skip=48 2>/dev/null | sha256sum").split()[0]
        assert guest.check("head -c 50331648 /dev/vda | tr -d '\\000' | wc -c").strip() == "0"
        assert guest.power_off() == 0
    processes.processes[0].terminate()
    check_image(image, image_kind)
    assert image.stat().st_blocks * 512 <= full - 40 * MIB
    copy = raw_copy(image, image_kind, run_dir / "copy.raw")
    assert run("sh", "-c", f"tail -c +{48 * MIB + 1} {copy} | sha256sum").split()[0] == tail


def test_driver_chooses_the_cache_mode(processes, run_dir):
    image = new_raw(run_dir / "d.raw", 64 * MIB)
    with boot("qemu", processes, run_dir, ("raw", image), guest={"device_args": ",config-wce=on"}) as guest:
        guest.wait_ready()
        guest.check("echo 'write through' >/sys/block/vda/cache_type")
        assert guest.check("cat /sys/block/vda/cache_type").strip() == "write through"
        guest.check("dd if=/dev/urandom of=/dev/vda bs=64k count=100 2>&1")
        guest.check("echo 'write back' >/sys/block/vda/cache_type")
        assert queue_file(guest, "write_cache") == "write back"


def test_two_disks_in_one_guest(kind, processes, run_dir):
    """Each disk has its own worker; what is written to one is not on the other."""
    sockets = [run_dir / f"{n}.sock" for n in range(2)]
    images = [new_raw(run_dir / f"{n}.raw", 32 * MIB) for n in range(2)]
    for socket, image in zip(sockets, images):
        start_worker(processes, socket, ("raw", image), **WORKER_OPTIONS[kind], serial=image.name)
    with GUESTS[kind](run_dir, sockets) as guest:
        guest.wait_ready()
        for name in ("vda", "vdb"):
            serial = guest.check(f"cat /sys/block/{name}/serial").strip()
            guest.check(f"printf 'on {serial}' >/dev/{name} && sync")
        assert guest.power_off() == 0
    for image in images:
        assert image.read_bytes()[:8] == f"on {image.name}".encode()[:8]


@pytest.mark.parametrize("guest_class", [UmlGuest, QemuGuest])
def test_worker_serves_one_guest_after_another(guest_class, processes, run_dir):
    image = new_raw(run_dir / "d.raw", 32 * MIB)
    socket = run_dir / "disk.sock"
    start_worker(processes, socket, ("raw", image), packed="off")
    for number in range(3):
        with guest_class(run_dir, [socket]) as guest:
            guest.wait_ready()
            if number:
                assert guest.check("head -c 7 /dev/vda") == f"guest {number - 1}"
            guest.check(f"printf 'guest {number}' >/dev/vda && sync")
            if number == 1:
                guest.kill()  # no farewell: the worker must get over it
            else:
                assert guest.power_off() == 0
