# SPDX-License-Identifier: Apache-2.0
"""Boot of many clones of one base in the Xen lab, with the shared read cache and without.

Each guest is a real one: it mounts its clone over blkfront, becomes what is there, reads and checks every file and ends.
"""

import tempfile
import time
from pathlib import Path

from lib.process import wait_until
from lib.worker import new_file_system
from xen.disks import BOOT, bootable_tree
from xen.host import Host, disk

from suite.bed import BenchError
from suite.measure import Row, Section, Series, progress, progress_end
from suite.xen_lab import dom0_seconds, machine, saved_lab

CACHES = {"cache on": "on", "cache off": "off"}
GUESTS, GUEST_MIB, BASE_MIB = 10, 96, 16
VERIFY = "sha256sum -c -s sums && echo all-files-are-right; sync; poweroff -f\n"


def _make_base(path):
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as folder:
        bootable_tree(Path(folder), VERIFY)
        new_file_system(path, Path(folder), BASE_MIB)


def _boot_all(lab, host, cache):
    for n in range(GUESTS):
        what = disk(f"qcow2:/tmp/g{n}.qcow2,raw:/tmp/base.raw,cache={cache}")
        lab.create(f"g{n}", disks=[what], mem_mib=GUEST_MIB, console=False, script=BOOT)
    wait_until(lambda: not host.disk_names(), 240, "all guests to have ended")
    right = lab.dom0.check("grep -l all-files-are-right /var/log/xen/console/guest-g*.log | wc -l")
    if int(right) != GUESTS:
        raise BenchError(f"{GUESTS} clones: {right.strip()} read what they should have")


def _measure(lab, base, cache):
    """(seconds from the first guest's start to the last one's end, dom0's processor time)."""
    lab.share.joinpath("base.raw").write_bytes(base.read_bytes())
    for guest in list(lab.guests.values()):
        lab.destroy(guest)
    host = Host(lab).start()
    lab.dom0.check("cp /share/base.raw /tmp/")
    for n in range(GUESTS):
        host.cli(f"image clone /tmp/base.raw /tmp/g{n}.qcow2 --backing-format raw")
    begin_s, cpu_s = time.monotonic(), dom0_seconds(lab)
    _boot_all(lab, host, cache)
    return time.monotonic() - begin_s, dom0_seconds(lab) - cpu_s


def run(bed):
    base = bed.work / "xen-base.raw"
    _make_base(base)
    rows = [Row(label, "s", {which: Series() for which in CACHES}, more_is_better=False)
            for label in ("the first started to the last ended", "... dom0's processor time")]
    with saved_lab(bed) as snapshot:
        for turn in range(bed.plan.rounds):
            for which in CACHES if turn % 2 == 0 else reversed(CACHES):
                progress("clones", f"{which}, round {turn + 1} of {bed.plan.rounds}")
                with machine(bed, snapshot) as lab:
                    for row, value in zip(rows, _measure(lab, base, CACHES[which])):
                        row.series[which].samples.append(value)
    progress_end()
    return [Section(f"Boot of {GUESTS} clones in the lab ({BASE_MIB} MiB in dom0's memory, every file checked)", list(CACHES), rows,
                    notes=["The base is in dom0's memory: there is no storage to be spared, and the time is the emulator's and xl's, which starts "
                           "one guest after another. What the cache spares of storage is in the boot storm."])]
