# SPDX-License-Identifier: Apache-2.0
"""A guest whose kernel and programs are of 32 bits: its blkfront lays out requests in another way (`protocol` = "x86_32-abi")."""

import pytest

from xen import images
from xen.cards import connect, ping, stream
from xen.disks import attach, image_sha256
from xen.host import disk
from xen.lab import create_pvh

MIB = 1 << 20
SIZE = 16 * MIB
NAME = "i686"
SEGMENTS_ON_RING = 11  # of a request that has no indirect pages
pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(400), pytest.mark.xdist_group("xen")]


@pytest.fixture
def guest(lab, run_dir):
    """PVH: for PV, Linux has no 32 bits any more."""
    if not images.takes_32_bits():
        pytest.skip("this Xen runs no 32-bit guest on QEMU's SVM (tests/xen/images.py, RESERVED_PAE)")
    for name, file in zip(("kernel", "initrd"), images.guest_32(run_dir)):
        (lab.share / name).write_bytes(file.read_bytes())
    lab.dom0.check("cp /share/kernel /share/initrd /tmp/")
    guest = create_pvh(lab, NAME, boot=("/tmp/kernel", "/tmp/initrd"))
    assert guest.check("uname -m") == "i686\n"
    return guest


def large_requests(guest):
    """As large as the driver makes them: their segments are in pages of their own."""
    assert int(guest.check("cat /sys/block/xvda/queue/max_segments")) > SEGMENTS_ON_RING
    expected = guest.check("dd if=/dev/urandom of=/tmp/a bs=1M count=4 2>/dev/null; sha256sum </tmp/a")
    guest.check("dd if=/tmp/a of=/dev/xvda bs=1M seek=8 oflag=direct conv=fsync 2>/dev/null")
    assert guest.check("dd if=/dev/xvda bs=1M skip=8 count=4 iflag=direct 2>/dev/null | sha256sum") == expected


def discard(guest):
    guest.check(f"blkdiscard -o {9 * MIB} -l {2 * MIB} /dev/xvda")
    assert guest.check("dd if=/dev/xvda bs=1M skip=9 count=2 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c") == "0\n"


def test_disk_and_card(lab, installed_host, guest, run_dir):
    """Verified reads and writes with the worker killed under them, large requests, discard; then streams whose every byte is checked."""
    host = installed_host
    host.cli(f"image create /tmp/a.img {SIZE} --format qcow2")
    attach(host, guest, disk("qcow2:/tmp/a.img"))
    assert lab.dom0.check(f"xenstore-read /local/domain/{guest.domid}/device/vbd/51712/protocol") == "x86_32-abi\n"
    name = host.disk_name(guest)
    guest.begin("guest-writer /dev/xvda 3 4")
    guest.wait_for("writer: did", 30)
    host.kill_worker(name)
    status, output = guest.finish(90)
    assert status == 0 and "writer: ok" in output, output
    large_requests(guest)
    discard(guest)
    # By the second worker.
    stats = host.stats(name)
    assert stats["flushes"] > 0 and stats["errors"] == 0, stats
    inside = guest.check("sha256sum </dev/xvda").split()[0]
    lab.dom0.check(f"xl block-detach {NAME} xvda")
    assert image_sha256(host, "/tmp/a.img", "qcow2", SIZE, run_dir) == inside

    connect(host, NAME, "u1")
    assert ping(guest, "u1")
    stream(guest, "u1")
    stream(guest, "dom0")
