# SPDX-License-Identifier: Apache-2.0
"""What a Debian kernel's own blkfront sees of a disk of Creedence's, and what is in the image afterwards."""

import pytest

from lib.worker import new_file_system
from xen.disks import BOOT, attach, bootable_tree, image_sha256, new_raw
from xen.host import disk

MIB = 1 << 20
pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(180), pytest.mark.xdist_group("xen")]
KINDS = {"u1": "pv", "h1": "pvh"}


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_boot_from_a_clone(kind, lab, host, run_dir):
    """The root file system is a clone's. It survives the guest's reboot, and the base image stays as it is."""
    (run_dir / "tree").mkdir()
    bootable_tree(run_dir / "tree")
    new_file_system(lab.share / "base.raw", run_dir / "tree", 24)
    host.dom0.check("cp /share/base.raw /tmp/ && sha256sum /tmp/base.raw >/tmp/sum")
    host.cli("image clone /tmp/base.raw /tmp/clone.qcow2 --backing-format raw")
    what = disk("qcow2:/tmp/clone.qcow2,raw:/tmp/base.raw")
    guest = lab.create("clone", kind, [what], script=BOOT)
    guest.wait_ready()
    assert "/dev/xvda / ext4" in guest.check("grep ' / ' /proc/mounts | tail -n 1")
    guest.check("cd / && sha256sum -c -s sums")
    guest.check("cp -r /dir-3 /copy && echo mine >/mine && sync")

    domid = guest.domid
    guest.send("reboot -f")
    lab.wait_reboot(guest, domid)
    guest.wait_ready()
    guest.check("cd / && sha256sum -c -s sums")
    assert guest.check("cat /mine && cmp /copy/file-3 /dir-3/file-3") == "mine\n"
    guest.send("sync; poweroff -f")
    lab.wait_gone(guest)
    host.wait_no_disks()
    host.dom0.check("sha256sum -c -s /tmp/sum")


def test_driver_sees_the_disk_as_configured(lab, host):
    new_raw(host.dom0, "/tmp/a.raw", 8)
    for name in KINDS:
        guest = lab.guests[name]
        attach(host, guest, disk("raw:/tmp/a.raw", access="ro"))
        queue = "/sys/block/xvda/queue/"
        assert guest.check("cat /sys/block/xvda/size /sys/block/xvda/ro").split() == [str(8 * MIB // 512), "1"]
        assert guest.check(f"cat {queue}logical_block_size {queue}write_cache").split("\n")[:2] == ["512", "write back"]
        assert guest.run("echo x >/dev/xvda")[0] != 0
        assert guest.check("sha256sum </dev/xvda") == host.dom0.check("sha256sum </tmp/a.raw")
        # An image that is written is one guest's; this one is only read.


@pytest.mark.parametrize("name", KINDS)
def test_verified_load_in_every_mode(name, lab, host, run_dir):
    """Pages are copied, mapped, or stay mapped: a disk of each kind at the same time, raw and qcow2."""
    guest = lab.guests[name]
    size = 16 * MIB
    for vdev, kind, mode in (("xvda", "raw", "copy"), ("xvdb", "qcow2", "map"), ("xvdc", "qcow2", "persistent")):
        host.cli(f"image create /tmp/{vdev} {size} --format {kind}")
        attach(host, guest, disk(f"{kind}:/tmp/{vdev},mode={mode}", vdev))
    guest.check("for d in a b c; do guest-writer /dev/xvd$d 2 2 >/tmp/out-$d & done; wait; cat /tmp/out-*", 120)
    assert guest.check("grep -l 'writer: ok' /tmp/out-* | wc -l") == "3\n"
    guest.check("dd if=/dev/urandom of=/dev/xvdb bs=1M count=8 oflag=direct 2>/dev/null; sync")
    guest.check("blkdiscard -o 1048576 -l 2097152 /dev/xvdb")
    for vdev, number, kind in (("xvda", 51712, "raw"), ("xvdb", 51728, "qcow2"), ("xvdc", 51744, "qcow2")):
        stats = host.stats(host.disk_name(guest, number))
        assert stats["flushes"] > 0 and stats["errors"] == 0
        inside = guest.check(f"sha256sum </dev/{vdev}").split()[0]
        lab.dom0.check(f"xl block-detach {guest.name} {vdev}")
        assert image_sha256(host, f"/tmp/{vdev}", kind, size, run_dir) == inside
    host.wait_no_disks()
