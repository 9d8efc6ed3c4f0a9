# SPDX-License-Identifier: Apache-2.0
"""Disks and cards of real guests on a real hypervisor, in the lab (tests/xen): ours and the kernel's own back ends.

Each sample is a machine of its own, which starts from one snapshot of Xen, dom0 and two PV guests: the kernel's back ends take every device
there is, so both cannot be in one. The load runs in the guests. dom0's processor time is the hypervisor's account of it. dom0 is
paravirtual, or has the processor's help (PVH): what a system call costs there is another matter.
"""

import re
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from lib import paths
from lib.console import GuestError
from lib.cpio import Archive
from lib.images import guest_archive
from lib.process import ProcessError, wait_until
from xen import images
from xen.disks import wait_block
from xen.host import Host, disk
from xen.lab import Card, Disk, Lab

from suite.bed import BenchError
from suite.measure import Check, Row, Section, Series, progress, progress_end

KERNEL_DISK, DISKS = "xen-blkback", {"copied": "copy", "mapped": "map", "persistent": "persistent", "auto": "auto"}
KERNEL_CARD, CARDS = "xen-netback, bridge", {"copied": "copy", "mapped": "map", "auto": "auto"}
DISK_MIB = 64
DISK_LOADS = {(way, size, depth): f"{label} random {way}s, {depth} at a time"
              for way in ("read", "write") for size, label, depth in ((4096, "4 KiB", 1), (4096, "4 KiB", 16), (1 << 20, "1 MiB", 4))}
WARM_UP = 0.3  # of the runtime: the emulator translates code when it is run for the first time
PORT, ECHO_PORT = 5000, 5001
QEMU_MMU_MODES = 8  # of an x86 in QEMU 7.2: a full flush is counted once for each
TRIES = 3  # of a sample
STREAM_BYTES_PER_S = 6_000_000  # when nothing else runs, it is over sooner
ADDRESSES = {"dom0": "10.9.0.100", "u1": "10.9.0.1", "u2": "10.9.0.2"}
MACS = {"u1": "00:16:3e:00:00:01", "u2": "00:16:3e:00:00:02"}
# A card as libxl announces it, with a key that it has no word for. Children of a front end's directory are the guest's, as that is.
ANNOUNCE = ("B=/local/domain/0/backend/vif/{domid}/0; F=/local/domain/{domid}/device/vif/0; "
            "xenstore-write $F ''; xenstore-chmod $F n{domid} r0; xenstore-write $B ''; xenstore-chmod $B n0 r{domid}; "
            "xenstore-write $B/frontend $F $B/frontend-id {domid} $B/online 1 $B/state 1 $B/script vif-creedence $B/mac {mac} "
            "$B/bridge br0 $B/handle 0 $B/tx {tx} $F/backend $B $F/backend-id 0 $F/state 1 $F/handle 0 $F/mac {mac}")


class MachineEnded(BenchError):
    """QEMU is gone. With a PVH dom0 that happens once in some hundred samples: Xen tells of a triple fault of dom0, at an address and with
    a code segment that are Xen's own. QEMU's SVM has run on in the guest with what it had saved of the host."""


class BenchLab(Lab):
    """Its guests have guest-load, its dom0 xen-cpu."""

    def __init__(self, run_dir, load=None, account=None, snapshot=None, dom0_kind="pv"):
        self.load, self.account = load, account
        super().__init__(run_dir, snapshot, dom0_kind)

    def _make_initrd(self):
        super()._make_initrd()
        later = Archive()
        later.file("lab/initrd", images.guest_initrd() + guest_archive({"tools/guest-load": self.load}, disks=0))
        later.file("bin/xen-cpu", self.account.read_bytes(), executable=True)
        with open(self._initrd(), "ab") as whole:
            whole.write(later.bytes())


@contextmanager
def told_apart(lab):
    """A machine that ended, from whatever else fails in it."""
    try:
        yield
    except GuestError as error:
        try:
            wait_until(lambda: not lab.process.running(), 5, "QEMU's end")
        except ProcessError:
            raise BenchError(str(error)) from error
        raise MachineEnded(f"{error}\n{lab.process.output()[-2000:]}\n{lab.console_of_xen()[-2000:]}") from error


def again_if_it_ends(what, do, note=lambda text: None):
    for left in reversed(range(TRIES)):
        try:
            return do()
        except MachineEnded as error:
            if not left:
                raise
            print(f"{what}: once more: {error}", file=sys.stderr)
            note(f"{what}: a machine ended under a sample (see the part's code), which was taken again.")


def _save(bed, path, dom0_kind):
    with BenchLab(path, bed.program("guest-load"), bed.program("xen-cpu"), dom0_kind=dom0_kind) as lab, told_apart(lab):
        for guest in [lab.create(name) for name in MACS]:
            guest.wait_ready(120)
        return lab.save()


@contextmanager
def saved_lab(bed, dom0_kind="pv"):
    paths.BUILD = bed.build
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as path:
        saved = again_if_it_ends("the snapshot", lambda: _save(bed, path, dom0_kind))
        yield saved
        saved.close()


@contextmanager
def machine(bed, snapshot):
    """From the snapshot. What fails in there is a measurement that could not be made."""
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as path:
        try:
            with BenchLab(path, snapshot=snapshot) as lab, told_apart(lab):
                yield lab
        except GuestError as error:
            raise BenchError(str(error)) from error


def dom0_seconds(lab):
    return int(lab.dom0.check("xen-cpu 0")) / 1e9


def tlb_flushes(lab):
    """How often the emulator emptied a processor's TLB since it started: each time it looks at all of its modes, most of which are empty."""
    told = lab.qmp.call("human-monitor-command", **{"command-line": "info jit"})
    return sum(int(n) for n in re.findall(r"TLB (?:partial|elided) flushes\s+(\d+)", told)) / QEMU_MMU_MODES


def _price_of_looking(lab):
    """What a look and a command take of dom0's processor time, once their code has been translated."""
    looks = [dom0_seconds(lab) for _ in range(12)]
    return (looks[-1] - looks[3]) / 8


def _loaded(lab, price_s, load):
    """(answer of the load, dom0's processor time for it, how often QEMU emptied a TLB)."""
    before, flushes = dom0_seconds(lab), tlb_flushes(lab)
    answer = load()
    flushes = tlb_flushes(lab) - flushes
    return answer, max(0, dom0_seconds(lab) - before - price_s), flushes


def _last_line(output, pattern):
    found = re.search(pattern, output)
    if not found:
        raise BenchError(f"a load in a guest failed: {output}")
    return int(found[1]), float(found[2])


# ---- Disks ----

def _attach_disk(lab, mode):
    guest = lab.guests["u1"]
    lab.dom0.check(f"dd if=/dev/urandom of=/tmp/disk bs=1M count={DISK_MIB} 2>/dev/null", 120)
    if mode:
        Host(lab).start()
        lab.attach_disk(guest, disk(f"raw:/tmp/disk,mode={mode}"))
    else:
        lab.dom0.check("modprobe xen-blkback && modprobe loop && losetup /dev/loop0 /tmp/disk")
        lab.attach_disk(guest, Disk("/dev/loop0"))
    wait_block(guest)
    return guest


def _disk_samples(bed, snapshot, mode):
    """{load: (operations per second, dom0's seconds per operation, TLB flushes per operation)}."""
    samples = {}
    with machine(bed, snapshot) as lab:
        guest = _attach_disk(lab, mode)
        price_s = _price_of_looking(lab)
        for way, size, depth in DISK_LOADS:
            words = f"guest-load disk /dev/xvda {way} {size} {depth} "
            guest.check(f"{words}{bed.plan.runtime_s * WARM_UP}", 120)
            words += str(bed.plan.runtime_s)
            bed.commands.setdefault("guest-load", words)
            output, cpu_s, flushes = _loaded(lab, price_s, lambda words=words: guest.check(words, 120))
            count, seconds = _last_line(output, r"load: ok (\d+) in ([\d.]+)")
            samples[way, size, depth] = (count / seconds, cpu_s / count, flushes / count)
    return samples


# ---- Cards ----

def _attach_cards(lab, transmit):
    dom0 = lab.dom0
    if transmit:
        host = Host(lab).start()
        host.cli("bridge add br0")
        host.cli("port add br0 host0 --type tap")
    else:
        dom0.check("modprobe xen-netback && modprobe bridge && ip link add host0 type bridge")
    dom0.check(f"ip addr add {ADDRESSES['dom0']}/24 dev host0 && ip link set host0 up; guest-net serve {PORT} >/dev/null 2>&1 3>&- &")
    for name, mac in MACS.items():
        guest = lab.guests[name]
        if transmit:
            dom0.check(ANNOUNCE.format(domid=guest.domid, mac=mac, tx=transmit))
        else:
            lab.attach_card(guest, Card(mac, "script=vif-lab,bridge=host0"))
        guest.check("n=0; while [ ! -d /sys/class/net/eth0 ]; do usleep 50000; [ $((n += 1)) -lt 400 ] || break; done")
        guest.check(f"ip addr add {ADDRESSES[name]}/24 dev eth0 && ip link set eth0 up")
        guest.check(f"guest-net serve {PORT} >/dev/null 2>&1 & guest-load echo {ECHO_PORT} >/dev/null 2>&1 &")
    for to in ("dom0", "u2"):
        lab.guests["u1"].check(f"n=0; until ping -c 1 -W 1 {ADDRESSES[to]} >/dev/null; do [ $((n += 1)) -lt 20 ] || break; done")


def _stream(seconds, source, to, way):
    size = int(seconds * STREAM_BYTES_PER_S)
    output = source.check(f"guest-net stream {ADDRESSES[to]} {PORT} {way} {size}", 180)
    up, down, seconds = re.search(r"net: ok up (\d+) down (\d+) seconds ([\d.]+)", output).groups()
    return int(up) + int(down), float(seconds)


def _datagrams(seconds, source, to):
    output = source.check(f"guest-load ask {ADDRESSES[to]} {ECHO_PORT} 64 32 {seconds}", 120)
    count, seconds = _last_line(output, r"load: ok (\d+) in ([\d.]+)")
    return 2 * count, seconds


CARD_LOADS = {
    "TCP, guest to guest": ("B/s", 1e6, lambda seconds, u1: _stream(seconds, u1, "u2", "up")),
    "TCP, guest to dom0": ("B/s", 1e6, lambda seconds, u1: _stream(seconds, u1, "dom0", "up")),
    "TCP, dom0 to guest": ("B/s", 1e6, lambda seconds, u1: _stream(seconds, u1, "dom0", "down")),
    "datagrams of 64 bytes, guest to guest and back, 32 at a time": ("pps", 1, lambda seconds, u1: _datagrams(seconds, u1, "u2")),
}


def _card_samples(bed, snapshot, transmit):
    """{load: (bytes or packets per second, dom0's seconds and TLB flushes for a megabyte or a packet)}."""
    samples = {}
    with machine(bed, snapshot) as lab:
        _attach_cards(lab, transmit)
        price_s = _price_of_looking(lab)
        for label, (_unit, scale, load) in CARD_LOADS.items():
            load(bed.plan.runtime_s * WARM_UP, lab.guests["u1"])
            (count, seconds), cpu_s, flushes = _loaded(lab, price_s,
                                                       lambda load=load: load(bed.plan.runtime_s, lab.guests["u1"]))
            samples[label] = (count / seconds, cpu_s / count * scale, flushes / count * scale)
    return samples


# ---- The report ----

def _measure(bed, section, modes, rows, samples_of):
    """rows: {load: its rows, in the order of the samples}. modes: {contender: mode}."""
    for turn in range(bed.plan.rounds):
        for contender in modes if turn % 2 == 0 else reversed(modes):
            progress(section.title, f"{contender}, round {turn + 1} of {bed.plan.rounds}")
            mode = modes[contender]
            for load, values in again_if_it_ends(contender, lambda mode=mode: samples_of(mode), section.notes.append).items():
                for row, value in zip(rows[load], values):
                    row.series[contender].samples.append(value)
    progress_end()
    section.rows = [row for several in rows.values() for row in several]


def _rows(label, unit, per, modes):
    def empty():
        return {contender: Series() for contender in modes}
    return (Row(label, unit, empty()), Row(f"{label}: dom0's processor time for {per}", "s", empty(), more_is_better=False),
            Row(f"{label}: TLBs emptied for {per}", "", empty(), more_is_better=False))


EVEN = 0.05  # two machines in a row differ by that
DEFAULT = "auto"


def judge(section):
    """By the rows, of which there are three for each load: the rate, what it costs, and how much of that is the emulator's."""
    kernel, *ours = section.contenders
    for rate, cost, flushes in zip(section.rows[::3], section.rows[1::3], section.rows[2::3]):
        best = max(ours, key=lambda c: rate.series[c].median())
        rate.checks = [Check(f"{DEFAULT}: as much as {kernel}", rate.ratio(DEFAULT, kernel), 1, noise=EVEN)]
        cost.checks = [Check(f"{DEFAULT}: for no more time than {kernel}", cost.ratio(DEFAULT, kernel), 1, at_most=True, noise=EVEN)]
        section.notes.append(f"{rate.label}: the best of ours is {best}, {rate.ratio(best, kernel):.2f} of {kernel}.")
        more_s, more = (row.series[DEFAULT].median() - row.series[kernel].median() for row in (cost, flushes))
        if more_s > 0 and more > 0:
            section.notes.append(f"{flushes.label}: {more:.1f} more with {DEFAULT}; its processor time is {more_s / more * 1e6:.0f} us more for each.")
    section.notes.append("Under QEMU without KVM every instruction is emulated, and each change of address spaces empties a TLB (`info jit`, all of "
                         "the machine): these compare two back ends in one run, and say nothing of hardware. dom0's processor time is the "
                         "hypervisor's account.")


def _sections(bed, dom0_kind, title_end):
    sections = []
    parts = ((KERNEL_DISK, DISKS, _disk_samples, {load: ("IOPS", "an operation", label) for load, label in DISK_LOADS.items()},
              f"A Xen guest's disk in the lab (raw, in dom0's memory{title_end})"),
             (KERNEL_CARD, CARDS, _card_samples,
              {label: (unit, "a packet" if unit == "pps" else "a megabyte", label) for label, (unit, *_rest) in CARD_LOADS.items()},
              f"Xen guests' cards in the lab (PV guests, offloads on{title_end})"))
    with saved_lab(bed, dom0_kind) as snapshot:
        for kernel, ours, samples, loads, title in parts:
            modes = {kernel: None, **ours}
            section = Section(title, list(modes))
            rows = {load: _rows(label, unit, per, modes) for load, (unit, per, label) in loads.items()}
            _measure(bed, section, modes, rows, lambda mode, samples=samples: samples(bed, snapshot, mode))
            judge(section)
            sections.append(section)
    return sections


def run(bed):
    return _sections(bed, "pv", "")


def run_pvh(bed):
    return _sections(bed, "pvh", "; PVH dom0")
