# SPDX-License-Identifier: Apache-2.0
"""Disks that are not like most: large sectors, CD-ROMs."""

import pytest

from lib.paths import system_program
from lib.worker import file_tree, new_file_system, qemu_img, raw_copy, run
from xen.disks import attach, image_sha256, new_raw
from xen.host import disk

MIB = 1 << 20
pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(180), pytest.mark.xdist_group("xen")]


def test_sectors_of_4096_bytes(lab, host, run_dir):
    """A file system in a qcow2 image, and a raw disk, both verified inside and outside."""
    guest = lab.guests["u1"]
    (run_dir / "tree").mkdir()
    file_tree(run_dir / "tree", 40)
    new_file_system(run_dir / "a.raw", run_dir / "tree", 24, block_bytes=4096)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", run_dir / "a.raw", lab.share / "a.qcow2")
    host.dom0.check("cp /share/a.qcow2 /tmp/")
    new_raw(lab.dom0, "/tmp/b.raw", 8)
    attach(host, guest, disk("qcow2:/tmp/a.qcow2,sector-size=4096"))
    attach(host, guest, disk("raw:/tmp/b.raw,sector-size=4096", "xvdb"))
    for name, size in (("xvda", 24 * MIB), ("xvdb", 8 * MIB)):
        queue = f"/sys/block/{name}/queue"
        shown = guest.check(f"cat {queue}/logical_block_size {queue}/physical_block_size /sys/block/{name}/size").split()
        assert shown == ["4096", "4096", str(size // 512)]

    guest.check("mount -t ext4 /dev/xvda /mnt && cd /mnt && sha256sum -c -s sums")
    guest.check("cp -r dir-3 copy && rm -r dir-5 && sync && echo 3 >/proc/sys/vm/drop_caches && diff -r dir-3 copy")
    guest.check("cd / && umount /mnt")
    assert "writer: ok" in guest.check("guest-writer /dev/xvdb 2 4")
    inside = [guest.check(f"sha256sum </dev/{name}").split()[0] for name in ("xvda", "xvdb")]
    lab.dom0.check("xl block-detach u1 xvda && xl block-detach u1 xvdb")
    host.wait_no_disks()
    assert image_sha256(host, "/tmp/b.raw", "raw", 8 * MIB, run_dir) == inside[1]
    assert image_sha256(host, "/tmp/a.qcow2", "qcow2", 24 * MIB, run_dir) == inside[0]
    run(system_program("e2fsck", "e2fsprogs"), "-fn", raw_copy(lab.share / "a.qcow2", "qcow2", run_dir / "a.raw"))


def test_cdrom(lab, host):
    """Both names that guests' configurations have for one; the guest's kernel calls it a CD-ROM, and cannot write."""
    guest = lab.guests["u1"]
    new_raw(lab.dom0, "/tmp/cd.iso", 4)
    new_raw(lab.dom0, "/tmp/a.raw", 4)
    expected = lab.dom0.check("sha256sum </tmp/cd.iso")
    attach(host, guest, disk("raw:/tmp/a.raw", "xvda"))
    lab.attach_disk(guest, disk("raw:/tmp/cd.iso", "hdc", "ro", "cdrom"))
    attach(host, guest, disk("raw:/tmp/cd.iso", "xvdd", "ro", "cdrom"))
    for name in ("xvdc", "xvdd"):
        guest.check(f"guest-disk cdrom /dev/{name}")
        assert guest.check(f"cat /sys/block/{name}/ro") == "1\n"
        assert guest.run(f"echo x >/dev/{name}")[0] != 0
        assert guest.check(f"sha256sum </dev/{name}") == expected
    assert guest.run("guest-disk cdrom /dev/xvda")[0] != 0
    lab.dom0.check("xl block-detach u1 hdc && xl block-detach u1 xvdd")
    assert lab.dom0.check("sha256sum </tmp/cd.iso") == expected
