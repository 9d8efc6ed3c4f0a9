# SPDX-License-Identifier: Apache-2.0
"""Name space to name space through taps, iperf3: ours, the Linux bridge, Open vSwitch's userspace datapath. And a guest to the host."""

import json
import os
import re
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from lib.guests import Card, UmlGuest

from suite import host
from suite.measure import Check, Row, Section, interleave
from suite.net_servers import CreedenceSwitch, NetworkBed, OvsDpdk, iperf3

OURS, BRIDGE, OVS, OVS_TSO = "creedence-switch", "Linux bridge", "OVS userspace", "OVS userspace, userspace-tso"
ADDRESSES = ("10.78.0.1", "10.78.0.2")


class OvsUserspace(OvsDpdk):
    """DPDK is built in (userspace-tso-enable wants that) and not used: taps, served by the main thread."""

    def __init__(self, bed, name, net, space, taps, tso):
        super().__init__(bed, name, ports=0, flows=["actions=normal"], tso=tso)
        self.net, self.space, self.taps = net, space, taps

    def settings(self):
        return ["userspace-tso-enable=true"] if self.tso else ["userspace-tso-enable=false"]

    def _prefix(self):
        return self.net.inside(self.space, [])

    def start(self):
        super().start()
        for tap in self.taps:
            self._vsctl("add-port", "br0", tap, "--", "set", "Interface", tap, "type=tap")


def _move(net, source, tap, space, address):
    """A tap into a name space of its own, with an address."""
    inside = ("-n", source) if source else ()
    net.ip(*inside, "link", "set", tap, "netns", space)
    net.ip("-n", space, "addr", "add", f"{address}/24", "dev", tap)
    net.ip("-n", space, "link", "set", tap, "up")


@contextmanager
def _ours(bed, net, ends, options=()):
    taps = [f"cr-t{os.getpid() % 100000}{n}" for n in range(2)]
    more = [f"--port={tap},bridge=br0,type=tap,queues=2" for tap in taps]
    with CreedenceSwitch(bed, OURS, ports=0, flows=["actions=normal"], options=options, more=more, anywhere=True):
        for tap, space, address in zip(taps, ends, ADDRESSES):
            _move(net, None, tap, space, address)
        yield


@contextmanager
def _bridge(bed, net, ends):
    middle = net.add("bridge")
    net.ip("-n", middle, "link", "add", "br0", "type", "bridge")
    net.ip("-n", middle, "link", "set", "br0", "up")
    for n, (space, address) in enumerate(zip(ends, ADDRESSES)):
        net.ip("-n", middle, "link", "add", f"p{n}", "type", "veth", "peer", "name", "eth0", "netns", space)
        net.ip("-n", middle, "link", "set", f"p{n}", "master", "br0", "up")
        net.ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        net.ip("-n", space, "link", "set", "eth0", "up")
    yield


@contextmanager
def _ovs(bed, net, ends, name, tso):
    middle = net.add("ovs")
    taps = ["ovs-t0", "ovs-t1"]
    with OvsUserspace(bed, name, net, middle, taps, tso):
        for tap, space, address in zip(taps, ends, ADDRESSES):
            _move(net, middle, tap, space, address)
        yield


def _measure(bed, make, algorithm, *iperf_options):
    def once():
        with NetworkBed(bed) as net:
            ends = [net.add("a"), net.add("b")]
            for space in ends:
                # Not iperf3's -C: a socket that was made with BBR goes on pacing when it is given another.
                bed.run_text(net.inside(space, ["sh", "-c", f"echo {algorithm} >/proc/sys/net/ipv4/tcp_congestion_control"]), 10)
            with make(bed, net, ends):
                before = host.machine_seconds()
                bits_per_s, result = iperf3(bed, net, ends[1], ends[0], ADDRESSES[1], *iperf_options)
                # With the second that iperf3 leaves out at its beginning: the rate is the same, near enough.
                seconds = max(1, round(bed.plan.runtime_s)) + 1
                result["cpu_s_per_gb"] = (host.machine_seconds() - before) / (bits_per_s / 8e9 * seconds)
                return bits_per_s, result
    return once


@contextmanager
def _algorithms():
    """The machine's own congestion control; and CUBIC, Linux's default, where it is another one. A name space may choose only what the machine
    allows, so that is allowed meanwhile."""
    own, available, allowed = (Path("/proc/sys/net/ipv4") / f"tcp_{name}congestion_control" for name in ("", "available_", "allowed_"))
    names = [own.read_text().strip()]
    before = allowed.read_text()
    if "cubic" in available.read_text().split() and "cubic" not in names:
        names.append("cubic")
        allowed.write_text(" ".join({*before.split(), "cubic"}))
    try:
        yield names
    finally:
        allowed.write_text(before)


def _cost_note(row):
    said = [f"{name} {median(d['cpu_s_per_gb'] for d in series.details):.2f} s" for name, series in row.series.items()]
    return f"{row.label}: processor time of the whole machine for 1 GB: {', '.join(said)}."


def _copies_note(bed):
    """What two copies more for each byte cost at least."""
    rate = bed.memcpy(256 << 20, 65536, "random")["bytes_per_s"]
    return (f"Through taps and user space every byte is copied four times by the kernel (from the sender, to the switch, from the switch, to the "
            f"receiver), through the bridge twice. This machine's memcpy takes {1e9 / rate:.2f} s for 1 GB in blocks of 64 KiB: with all "
            "cores busy, no more than the bridge's processor time and two of that is left to reach. Where the time goes: docs/adr/0009.")


def _rows(bed, section, makers, algorithm):
    for label, options in (("one stream", ()), ("four streams", ("-P", "4"))):
        row = Row(f"{label}, {algorithm}", "b/s")
        interleave(row, bed.plan.rounds, {which: _measure(bed, make, algorithm, *options) for which, make in makers.items()})
        row.checks += [Check(f"1x {BRIDGE}, or within 5 %", row.ratio(OURS, BRIDGE), 1, noise=0.05),
                       Check(f"1x {OVS}", row.ratio(OURS, OVS), 1), Check(f"1x {OVS_TSO}", row.ratio(OURS, OVS_TSO), 1)]
        section.rows.append(row)
        section.notes.append(_cost_note(row))


# ---- a guest and the host ----

GUEST, HOST = "guest sends", "guest receives"


def _iperf3_files(bed):
    """The host's iperf3 and what it is linked with: the guest's initial RAM disk has no libraries."""
    program = shutil.which("iperf3")
    libraries = re.findall(r"(/\S+\.so\S*) \(", bed.run_text(["ldd", program], 10))
    return {"tools/iperf3": Path(program), **{library.lstrip("/"): Path(library) for library in libraries}}


class GuestBed:
    """User-mode Linux on a card, the host in a name space behind a tap, the switch between them; once for all samples."""

    def __init__(self, bed):
        self.bed = bed
        self.stack = ExitStack()

    def __enter__(self):
        try:
            bed, tap = self.bed, f"cr-t{os.getpid() % 100000}h"
            self.net = self.stack.enter_context(NetworkBed(bed))
            self.host = self.net.add("host")
            switch = self.stack.enter_context(CreedenceSwitch(bed, OURS, ports=1, flows=["actions=normal"], options=(), anywhere=True,
                                                              more=[f"--port={tap},bridge=br0,type=tap,number=9"]))
            _move(self.net, None, tap, self.host, ADDRESSES[0])
            self.guest = UmlGuest(bed.work, [], cards=[Card(switch.sockets[0])], files=_iperf3_files(bed))
            self.stack.callback(self.guest.kill)
            self.guest.start().wait_ready(120)
            self.guest.check(f"ip addr add {ADDRESSES[1]}/24 dev eth0 && ip link set eth0 up")
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *unused):
        self.stack.close()

    def measure(self, *options):
        def once():
            server = self.bed.group.start(self.net.inside(self.host, ["iperf3", "-s", "-1", "-p", "5201"]), name="iperf3-s")
            try:
                seconds = max(1, round(self.bed.plan.runtime_s))
                words = " ".join(["iperf3", "-c", ADDRESSES[0], "-t", str(seconds), "-O", "1", "-J", *options])
                tries = "n=0; until ping -c 1 -W 1 %s >/dev/null || [ $n = 10 ]; do n=$((n + 1)); done" % ADDRESSES[0]
                text = self.guest.check(f"{tries}; {words}", 60 + seconds)
                result = json.loads(text[text.index("{"):text.rindex("}") + 1])
                return result["end"]["sum_received"]["bits_per_second"], {}
            finally:
                server.terminate(5)
                if server in self.bed.group.processes:
                    self.bed.group.processes.remove(server)
        return once


def _guest_section(bed):
    section = Section("A guest (User-mode Linux) and the host, TCP (iperf3)", [GUEST, HOST])
    with GuestBed(bed) as guest:
        row = Row("one stream", "b/s")
        interleave(row, bed.plan.rounds, {GUEST: guest.measure(), HOST: guest.measure("-R")})
    section.rows.append(row)
    section.notes.append("The guest's card is a vhost-user socket of creedence-switch, the host is behind a tap. A guest of this kind has one processor, and "
                         "every interrupt and system call of it costs two switches of the host's: it says how fast such a guest is, not the switch.")
    return section


def run(bed):
    makers = {OURS: _ours, BRIDGE: _bridge, OVS: lambda *a: _ovs(*a, OVS, False), OVS_TSO: lambda *a: _ovs(*a, OVS_TSO, True)}
    section = Section("Name space to name space, TCP (iperf3)", list(makers))
    with _algorithms() as algorithms:
        for algorithm in algorithms:
            _rows(bed, section, makers, algorithm)
    section.notes.append(_copies_note(bed))
    section.notes.append("Nothing is pinned from outside: sender, receiver and switch share the cores as the machine's scheduler likes, "
                         "but that creedence-switch's busy thread stays on a core by itself, for 100 ms at a time. The bridge is "
                         "reached through veth, the others through taps; ours have two queues.")
    return [section, _guest_section(bed)]
