# SPDX-License-Identifier: Apache-2.0
"""Disks of a daemon under real guests: resize that reaches the guest, reading through the shared cache, clones."""

import subprocess
import sys
import time

import pytest

from lib.daemon import Daemon
from lib.guests import GUESTS, UmlGuest
from lib.paths import TOP
from lib.worker import check_image, file_tree, new_file_system, new_qcow2, new_raw, qemu_img

MIB = 1 << 20
pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(run_dir):
    with Daemon(run_dir) as daemon:
        yield daemon


@pytest.mark.parametrize("image_kind", ["raw", "qcow2"])
@pytest.mark.parametrize("kind", ["uml", "qemu"])
def test_resize_reaches_the_running_guest(kind, image_kind, run_dir, daemon):
    image = run_dir / "d.img"
    (new_raw if image_kind == "raw" else new_qcow2)(image, 64 * MIB)
    socket = daemon.attach("disk", (image_kind, image), packed=False)
    with GUESTS[kind](run_dir, [socket]) as guest:
        guest.wait_ready()
        daemon.call("disk.resize", name="disk", size_bytes=160 * MIB)
        wanted = str(160 * MIB // 512)
        guest.check(f"n=0; while [ $(cat /sys/block/vda/size) != {wanted} ] && [ $n -lt 100 ]; do usleep 50000; n=$((n + 1)); done")
        assert guest.check("cat /sys/block/vda/size").strip() == wanted
        guest.check("printf end | dd of=/dev/vda bs=1M seek=159 2>/dev/null && sync")
        assert guest.check("dd if=/dev/vda bs=1M skip=159 2>/dev/null | head -c 3") == "end"
        assert guest.power_off() == 0
    daemon.call("disk.detach", name="disk")
    check_image(image, image_kind)


def test_clones_share_what_was_read_once(run_dir, daemon):
    """Two guests read the same files of one base: the storage is asked for them once."""
    (run_dir / "tree").mkdir()
    file_tree(run_dir / "tree", 150)
    raw, base = new_file_system(run_dir / "base.raw", run_dir / "tree"), run_dir / "base.qcow2"
    qemu_img("convert", "-O", "qcow2", raw, base)
    read = []
    for name in ("first", "second"):
        leaf = new_qcow2(run_dir / f"{name}.qcow2", 256 * MIB, base)
        socket = daemon.attach(name, ("qcow2", leaf), ("qcow2", base), packed=False)
        with UmlGuest(run_dir, [socket]) as guest:
            guest.wait_ready()
            guest.check("mount -t ext4 -o ro /dev/vda /mnt && (cd /mnt && sha256sum -c -s sums)")
            guest.check("umount /mnt")
            assert guest.power_off() == 0
        [layer] = daemon.cache()["layers"]
        read.append(layer["storage_read_bytes"])
        assert daemon.disk(name).errors == 0
    first, second = daemon.disk("first"), daemon.disk("second")
    assert first.base_direct_bytes == second.base_direct_bytes == 0
    assert second.cache_hit_bytes >= 0.98 * (second.cache_hit_bytes + second.cache_fill_bytes)
    assert read[1] <= 1.02 * read[0]


def test_broken_image_breaks_one_disk_only(run_dir, daemon):
    """A leaf that is cut behind our back while it is open: what its guest lost reads as zeroes (as with QEMU; who opens the image
    anew gets errors there), and the neighbour and the daemon go on."""
    good, bad = new_raw(run_dir / "good.raw", 32 * MIB), new_raw(run_dir / "bad.qcow2", 0)
    new_qcow2(bad, 32 * MIB)
    sockets = [daemon.attach("good", ("raw", good), packed=False), daemon.attach("bad", ("qcow2", bad), packed=False)]
    with UmlGuest(run_dir, sockets) as guest:
        guest.wait_ready()
        guest.check("dd if=/dev/urandom of=/dev/vdb bs=1M count=8 2>/dev/null && sync")
        with open(bad, "r+b") as image:
            image.truncate(128 << 10)  # the tables stay, the data are gone
        guest.run("dd if=/dev/vdb of=/dev/null bs=1M count=8 iflag=direct 2>&1")
        guest.check("dd if=/dev/urandom of=/dev/vda bs=1M count=8 2>/dev/null && sync")
        guest.check("dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null")
        guest.power_off()
    assert daemon.disk("good").errors == 0
    assert {disk["name"] for disk in daemon.call("disk.list")["disks"]} == {"good", "bad"}


@pytest.mark.timeout_s(400)
def test_demo():
    """The demo, as `make demo` runs it, with two guests."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, TOP / "tools" / "demo", "--guests", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Everything was as it must be." in done.stdout
    assert "(once, for all guests)" in done.stdout, done.stdout[-3000:]
    print(f"{time.monotonic() - started:.0f} s")
