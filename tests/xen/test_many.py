# SPDX-License-Identifier: Apache-2.0
"""Twenty guests boot from clones of one image, and read it through the read cache."""

import pytest

from lib.process import wait_until
from lib.worker import new_file_system
from xen.disks import BOOT, bootable_tree
from xen.host import disk

GUESTS = 20
GUEST_MIB = 96
MIB = 1 << 20
pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(400), pytest.mark.xdist_group("xen")]
# Run by the root file system's /init.
VERIFY = "sha256sum -c -s sums && echo all-files-are-right; echo mine >/mine; sync; poweroff -f\n"


def test_twenty_guests_of_one_base(lab, host, run_dir):
    (run_dir / "tree").mkdir()
    bootable_tree(run_dir / "tree", VERIFY)
    new_file_system(lab.share / "base.raw", run_dir / "tree", 16)
    host.dom0.check("cp /share/base.raw /tmp/")
    for guest in list(lab.guests.values()):
        lab.destroy(guest)
    names = [f"g{n}" for n in range(GUESTS)]
    for name in names:
        host.cli(f"image clone /tmp/base.raw /tmp/{name}.qcow2 --backing-format raw")
        lab.create(name, disks=[disk(f"qcow2:/tmp/{name}.qcow2,raw:/tmp/base.raw")], mem_mib=GUEST_MIB, console=False, script=BOOT)
    wait_until(lambda: not host.disk_names(), 240, "all guests to have ended")
    right = host.dom0.check("grep -l all-files-are-right /var/log/xen/console/guest-g*.log | wc -l")
    assert int(right) == GUESTS, host.dom0.check("tail -n 5 /var/log/xen/console/guest-g*.log")
    [base] = host.call("cache show")["stats"]["layers"]
    # The base was read once, and nineteen times from memory.
    assert base["filled_bytes"] <= 16 * MIB, base
