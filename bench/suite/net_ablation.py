# SPDX-License-Identifier: Apache-2.0
"""What each improvement of the network's design is worth: the design that it replaced, and it, in turns."""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from lib.guests import Card, UmlGuest

from suite import host, net_stream
from suite.bed import MIB
from suite.measure import Check, Row, Section, Series, interleave
from suite.net_pps import subtable_rules
from suite.net_servers import CreedenceSwitch, NetworkBed, native

BEFORE, AFTER = "the design before", "creedence-switch"
PUBLISHED = {
    "gro": "GRO: 4x (single-stream receive, +300 %)",
    "single": "grant mapping: 3.5x (single stream, +250 %)",
    "aggregate": "grant mapping: 3x (aggregate, +200 %)",
    "threads": "a thread per VIF: no figure was published",
    "flows": "megaflows: no figure was published",
}


def _compare(bed, section, label, unit, key, tasks):
    row = interleave(Row(label, unit), bed.plan.rounds, tasks)
    section.rows.append(row)
    section.notes.append(f"{label}: {row.ratio(AFTER, BEFORE):.2f}x. The post says of {PUBLISHED[key]}.")
    return row


# ---- GRO: from a wire into a real guest ----

class Wire:
    """A sender in a name space whose frames are as long as a wire has them (it cuts its segments itself), an af_packet port, a guest."""

    GUEST, SENDER, PORT = "10.79.0.2", "10.79.0.1", 7

    def __init__(self, bed):
        self.bed = bed
        self.stack = ExitStack()

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *unused):
        self.stack.close()

    def _build(self):
        bed = self.bed
        self.net = self.stack.enter_context(NetworkBed(bed))
        self.sender, self.middle = self.net.add("sender"), self.net.add("switch")
        self.net.ip("-n", self.sender, "link", "add", "eth0", "type", "veth", "peer", "name", "wire0", "netns", self.middle)
        for space, device in ((self.sender, "eth0"), (self.middle, "wire0")):
            self.net.ip("-n", space, "link", "set", device, "up")
        self.net.ip("-n", self.sender, "addr", "add", f"{self.SENDER}/24", "dev", "eth0")
        bed.call(self.net.inside(self.sender, ["ethtool", "-K", "eth0", "tso", "off"]))
        self.switch = self.stack.enter_context(SwitchInside(bed, self.net, self.middle))
        self.guest = UmlGuest(bed.work, [], cards=[Card(self.switch.sockets[0])], files={"tools/guest-net": bed.build / "tests/guest-net"})
        self.stack.callback(self.guest.kill)
        self.guest.start().wait_ready(120)
        self.guest.check(f"ip addr add {self.GUEST}/24 dev eth0 && ip link set eth0 up")
        self.guest.check(f"guest-net serve {self.PORT} >/tmp/serve 2>&1 &")
        self.guest.check("n=0; until grep -q serving /tmp/serve || [ $n = 100 ]; do usleep 50000; n=$((n + 1)); done; grep serving /tmp/serve")

    def _counters(self):
        """Processor seconds of the guest (a kernel and its programs, as processes) and of the switch's thread that receives (the guest's own
        thread carries acknowledgements, and with them the sender's next segments, through the kernel); frames that came off the wire, and
        that the guest was given."""
        ports = {p["name"]: p for p in self.switch.ask("port.stats")["ports"] + self.switch.ask("vif.stats")["vifs"]}
        return {"guest_s": host.usage(_group(self.guest.pid)).cpu_s, "switch_s": host.thread_seconds(self.switch.process.pid, "wire0"),
                "wire_frames": ports["wire0"]["in_packets"], "guest_frames": ports["v0"]["out_packets"]}

    def measure(self, gro, guest_merges=True):
        def once():
            self.guest.check(f"guest-net offloads eth0 {'on' if guest_merges else 'off'}")
            self.switch.ask("port.set", bridge="br0", name="wire0", gro=gro)
            amount = int(256 * MIB * self.bed.plan.runtime_s)
            before = self._counters()
            text = self.bed.run_text(self.net.inside(self.sender, [self.bed.build / "tests/guest-net", "stream", self.GUEST, self.PORT,
                                                                   "up", amount]), 300)
            seconds = float(re.search(r"net: ok .* seconds ([\d.]+)", text)[1])
            after = self._counters()
            spent = {key: (after[key] - before[key]) / amount * 1e9 for key in before}  # for a gigabyte
            return amount * 8 / seconds, {"seconds": seconds, **spent}
        return once


def _group(leader):
    """The processes of a process group."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and os.getpgid(int(path.name)) == leader:
                found.append(int(path.name))
        except ProcessLookupError:
            continue
    return found


class SwitchInside(CreedenceSwitch):
    """In a name space, with the end of a wire; free to run on any core, as sender and guest are."""

    def __init__(self, bed, net, space):
        super().__init__(bed, "creedence-switch, receiving", ports=1, flows=["actions=normal"], options=(),
                         more=["--port=wire0,bridge=br0,type=af_packet,number=9"], anywhere=True)
        self.prefix = net.inside(space, [])


def _cost(section, row, label, key):
    """What a gigabyte took of something, from the samples of a row."""
    series = {which: Series([d[key] for d in row.series[which].details], row.series[which].details) for which in (BEFORE, AFTER)}
    cost = Row(f"{label}: {row.label}", "s", series, more_is_better=False)
    section.rows.append(cost)
    section.notes.append(f"{cost.label}: {cost.ratio(BEFORE, AFTER):.2f}x less.")
    return cost


def _frames_note(section, row):
    said = [f"{which}: {median(d['wire_frames'] for d in row.series[which].details):,.0f} frames of the wire became "
            f"{median(d['guest_frames'] for d in row.series[which].details):,.0f} for the guest" for which in (BEFORE, AFTER)]
    section.notes.append(f"{row.label}, for a gigabyte: {'; '.join(said)}.")


def _gro(bed, section):
    """The rate is that of the slowest of sender, switch and guest, which share the machine. So what a gigabyte costs is shown, too: the
    guest, whose work GRO saves, and the switch, which does it instead."""
    labels = {True: "GRO off / on: TCP from an af_packet port into a guest",
              False: "GRO off / on: the same into a guest that does not merge by itself"}
    with Wire(bed) as wire:
        wire.measure(True)()  # addresses learnt, windows opened
        for guest_merges, label in labels.items():
            row = _compare(bed, section, label, "b/s", "gro", {BEFORE: wire.measure(False, guest_merges), AFTER: wire.measure(True, guest_merges)})
            guest = _cost(section, row, "the guest's processor time for 1 GB", "guest_s")
            if not guest_merges:
                guest.checks.append(Check("less of the guest's time", guest.ratio(BEFORE, AFTER), 1))
            _cost(section, row, "the receiving thread's processor time for 1 GB", "switch_s")
            _frames_note(section, row)


# ---- transmit: copied or mapped ----

def _pairs(count):
    return [f"priority=1,in_port={n},actions=output:{n + 1}" for n in range(1, 2 * count, 2)]


def _aggregate(bed, mode, pairs=4):
    def once():
        options = [f"--tx={mode}", "--vif-threads=1", "--poll-us=always"]
        with CreedenceSwitch(bed, f"creedence-switch, {pairs} pairs, --tx={mode}", ports=2 * pairs, flows=_pairs(pairs),
                             options=options) as switch:
            what = [f"stream={net_stream.FRAME_BYTES}" if n % 2 == 0 else "" for n in range(2 * pairs)]
            result = native(bed, switch, what, "--offloads", "--verify", "--huge", "--rx-buffer=4096", "--queue-size=256")
        return result["bytes_per_s"], result
    return once


def _single(bed, mode):
    return net_stream.stream(bed, f"creedence-switch, --tx={mode}", "--rx-buffer=4096", "--queue-size=1024",
                             switch_options=[f"--tx={mode}", "--vif-threads=1", "--poll-us=always"])


def _tx(bed, section):
    _compare(bed, section, "transmit copied / mapped, one stream", "B/s", "single",
             {BEFORE: _single(bed, "copy"), AFTER: _single(bed, "map")})
    _compare(bed, section, "transmit copied / mapped, four streams", "B/s", "aggregate",
             {BEFORE: _aggregate(bed, "copy"), AFTER: _aggregate(bed, "map")})


# ---- threads: hashed or one each ----

def _thread_of(name, threads):
    """Where --vif-threads puts a card's first queue (src/cmd/switch_runners.c)."""
    value = 2166136261
    for byte in (*name.encode(), 0):
        value = (value ^ byte) * 16777619 & 0xffffffff
    return (value ^ value >> 16) % threads


def _threads(bed, section, cards=8):
    """The busy cards are those that hashing puts on one of two threads; the others are nearly idle."""
    rules = [f"priority=1,in_port={n},actions=output:{n + cards}" for n in range(1, cards + 1)]
    busy = f"stream={net_stream.FRAME_BYTES}"  # costs a switch much and the generator little: both cores are the switch's
    what = [busy if _thread_of(f"v{n}", 2) == 0 else "flows=64,rate=1000" for n in range(cards)] + [""] * cards

    def measure(threads):
        def once():
            with CreedenceSwitch(bed, f"creedence-switch, threads {threads}", ports=2 * cards, flows=rules,
                                 options=[f"--vif-threads={threads}"], anywhere=True) as switch:
                result = native(bed, switch, what, "--relax=50", "--offloads", "--rx-buffer=4096", "--queue-size=256")
            return result["bytes_per_s"], result
        return once
    _compare(bed, section, "VIFs hashed onto a thread per core / a thread each, uneven load", "B/s", "threads",
             {BEFORE: measure(2), AFTER: measure(0)})


# ---- flows: exact or megaflows ----

def _flows(bed, section):
    def measure(mode):
        def once():
            with CreedenceSwitch(bed, f"creedence-switch, --flows={mode}", flows=subtable_rules(),
                                 options=[f"--flows={mode}", "--vif-threads=1", "--poll-us=always"]) as switch:
                result = native(bed, switch, ["flows=65536"] * 2, "--huge")
            return result["rx_packets"] / result["seconds"], result
        return once
    _compare(bed, section, "exact flows / megaflows, 131,072 connections", "pps", "flows", {BEFORE: measure("exact"), AFTER: measure("mega")})


def run(bed):
    section = Section("What each improvement is worth", [BEFORE, AFTER])
    for part in (_gro, _tx, _threads, _flows):
        part(bed, section)
    for row in section.rows:
        if row.more_is_better:
            row.checks.append(Check("no worse than before", row.ratio(AFTER, BEFORE), 1, noise=0.03))
    return [section]

