# SPDX-License-Identifier: Apache-2.0
"""A guest's flushes and barriers reach storage, in order: by the record of a block device in dom0."""

import pytest

from lib.process import wait_until
from xen import order
from xen.disks import wait_block
from xen.host import disk

MIB = 1 << 20
pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(180), pytest.mark.xdist_group("xen")]
SIZE, RECORD_MAX = 4 * MIB, 160 * MIB
THREADS = 3


@pytest.fixture
def recorded(lab):
    """A block device that keeps a record; entries() ends it."""
    dom0 = lab.dom0
    dom0.check("modprobe loop && modprobe dm-log-writes")
    dom0.check(f"cd /tmp && truncate -s {SIZE} storage && truncate -s {RECORD_MAX} record && losetup /dev/loop0 storage && losetup /dev/loop1 record")
    return RecordedDisk(lab, dom0.check("log-writes create recorded /dev/loop0 /dev/loop1").strip())


class RecordedDisk:
    def __init__(self, lab, minor):
        self.lab = lab
        self.path = f"/dev/dm-{minor}"

    def entries(self):
        # Who looks at new block devices may have it open for a moment.
        wait_until(lambda: self.lab.dom0.run("log-writes remove recorded")[0] == 0, 20, "the record's end")
        self.lab.dom0.check("cp /tmp/record /tmp/storage /share/")
        return list(order.read_log(self.lab.share / "record"))


@pytest.mark.parametrize("offered", ["feature-flush-cache", "feature-barrier"])
def test_journal_is_in_order(offered, lab, host, recorded):
    """Transactions of several threads, with the worker killed under them: what is committed is there, whenever the power goes."""
    guest = lab.guests["u1"]
    lab.dom0.check("xl pause u1")
    lab.attach_disk(guest, disk(f"raw:{recorded.path}"))
    other = "feature-flush-cache" if offered == "feature-barrier" else "feature-barrier"
    lab.dom0.check(f"xenstore-rm /local/domain/0/backend/vbd/{guest.domid}/51712/{other} && xl unpause u1")
    wait_block(guest)
    # What is written so that it is on storage when the write is over: a barrier, or a write and a flush.
    assert guest.check("cat /sys/block/xvda/queue/fua") == ("1\n" if offered == "feature-barrier" else "0\n")
    guest.begin(f"guest-disk journal /dev/xvda 3 {THREADS}")
    name = host.disk_name(guest)
    for _ in range(2):
        guest.wait_for("journal: did", 30)
        host.kill_worker(name)
    status, output = guest.finish(60)
    assert status == 0 and "journal: ok" in output, output
    lab.dom0.check("xl block-detach u1 xvda")
    host.wait_no_disks()

    entries = recorded.entries()
    done = int(output.split("journal: ok ")[1])
    assert order.check(entries) == done > 10 * THREADS
    assert order.image_sha256(entries, bytes(SIZE)) == order.image_sha256([], (lab.share / "storage").read_bytes())
    # Were the flushes nothing, it would be seen.
    with pytest.raises(order.WrongOrder):
        order.check([order.Entry(entry.offset, 0, entry.data) for entry in entries])
