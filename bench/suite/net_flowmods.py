# SPDX-License-Identifier: Apache-2.0
"""Rules over OpenFlow: how fast they are taken with a barrier after each and after a thousand, what they cost in memory, how fast they
are told; and what groups and meters cost packets."""

import re
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median

from suite.measure import Check, Row, Section, Series, interleave, progress
from suite.net_servers import CreedenceSwitch, NetworkBed, native
from suite.net_tap import ADDRESSES, OvsUserspace, _move

OURS, OVS = "creedence-switch", "OVS userspace"
SIZES = (10_000, 100_000)
BARRIERS = (1, 1000)
CHANGED = 10_000  # of the rules: the last ones, whose adding, changing and deleting is measured
FLOWS = (1024, 65_536)  # of the packets that go through groups and meters


def resident_bytes(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1)) * 1024


class Contender:
    """A switch with two taps in name spaces, and its OpenFlow socket."""

    def __init__(self, bed, switch, socket, process):
        self.bed, self.switch, self.socket, self.process = bed, switch, socket, process

    def ask(self, op, rules, barrier=1000, first=0):
        command = [self.bed.program("openflow-bench"), f"--socket={self.socket}", f"--op={op}", f"--rules={rules}", f"--from={first}",
                   f"--barrier={barrier}"]
        self.bed.commands.setdefault("openflow-bench", self.bed.shown([str(w).replace(str(self.switch.folder) + "/", "") for w in command]))
        return self.bed.run_json(command, 300)

    def memory(self):
        return resident_bytes(self.process.popen.pid)


@contextmanager
def contender(bed, which, net, ends):
    if which == OURS:
        taps = [f"crfm{n}" for n in range(2)]
        more = [f"--port={tap},bridge=br0,type=tap" for tap in taps]
        switch = CreedenceSwitch(bed, OURS, ports=0, flows=["priority=1,actions=normal"], more=more, anywhere=True, options=())
        switch.options = [f"--openflow-dir={switch.folder}"]
        with switch:
            for tap, space, address in zip(taps, ends, ADDRESSES):
                _move(net, None, tap, space, address)
            yield Contender(bed, switch, switch.folder / "br0.mgmt", switch.process)
    else:
        middle = net.add("ovs")
        taps = ["ovs-t0", "ovs-t1"]
        switch = OvsUserspace(bed, OVS, net, middle, taps, False)
        switch.flows = ["priority=1,actions=normal"]
        with switch:
            for tap, space, address in zip(taps, ends, ADDRESSES):
                _move(net, middle, tap, space, address)
            yield Contender(bed, switch, switch.folder / "br0.mgmt", switch.processes[-1])


@contextmanager
def traffic(bed, net, ends):
    """TCP through the switch for as long as it takes."""
    server = bed.group.start(net.inside(ends[1], ["iperf3", "-s", "-p", "5201"]), name="iperf3-s")
    client = bed.group.start(net.inside(ends[0], ["sh", "-c", f"sleep 0.3; iperf3 -c {ADDRESSES[1]} -t 600 >/dev/null"]), name="iperf3-c")
    try:
        yield
    finally:
        for process in (client, server):
            process.terminate(5)
            if process in bed.group.processes:
                bed.group.processes.remove(process)


def measure(bed, which, rules, barrier, busy):
    """Flow mods a second, for adding; the other figures are its details."""
    def once():
        with NetworkBed(bed) as net:
            ends = [net.add("a"), net.add("b")]
            with contender(bed, which, net, ends) as c:
                progress(which, f"{rules:,} rules, barrier every {barrier}{', traffic' if busy else ''}")
                empty, first = c.memory(), rules - CHANGED
                if first:
                    c.ask("add", first)
                with traffic(bed, net, ends) if busy else nullcontext():
                    added = c.ask("add", CHANGED, barrier, first)
                    modified = c.ask("modify", CHANGED, barrier, first)
                grown = c.memory() - empty
                dumped = c.ask("dump", rules)
                deleted = c.ask("delete", CHANGED, barrier, first)
        return added["per_s"], {"modify": modified["per_s"], "delete": deleted["per_s"], "dump": dumped["per_s"], "dumped": dumped["rules"],
                                "rule_bytes": grown / rules}
    return once


def of_details(row, label, unit, key, more_is_better=True):
    series = {which: Series([d[key] for d in row.series[which].details]) for which in (OURS, OVS)}
    return Row(label, unit, series, more_is_better=more_is_better)


def rules_section(bed):
    section = Section("Rules over one OpenFlow connection", [OURS, OVS])
    for rules in SIZES:
        for barrier in BARRIERS:
            for busy in (False, True):
                row = Row(f"the last {CHANGED:,} of {rules:,} rules added, barrier every {barrier:,}{', under traffic' if busy else ''}", "/s")
                interleave(row, bed.plan.rounds, {which: measure(bed, which, rules, barrier, busy) for which in (OURS, OVS)})
                row.checks.append(Check(f"2x {OVS}", row.ratio(OURS, OVS), 2))
                section.rows.append(row)
                changed = of_details(row, "... modified", "/s", "modify")
                changed.checks.append(Check(f"2x {OVS}", changed.ratio(OURS, OVS), 2))
                section.rows += [changed, of_details(row, "... deleted", "/s", "delete")]
        memory = of_details(row, f"memory of a rule ({rules:,})", "B", "rule_bytes", more_is_better=False)
        memory.checks.append(Check(f"at most {OVS}'s", memory.ratio(OURS, OVS), 1, at_most=True))
        dump = of_details(row, f"{rules:,} rules dumped", "/s", "dump")
        dump.checks.append(Check(f"1x {OVS}", dump.ratio(OURS, OVS), 1))
        section.rows += [memory, dump]
    section.notes.append("openflow-bench sends messages that were made before over the bridge's Unix socket, and waits for the reply of each "
                         "barrier. Traffic is a TCP stream between two taps. Memory is what the process has grown by.")
    return section


def forward(bed, connections, flows, setup):
    def once():
        switch = CreedenceSwitch(bed, OURS, flows=["priority=1,actions=drop"])
        switch.options = [*switch.options, f"--openflow-dir={switch.folder}"]
        with switch:
            for command in [*setup, *(["add-flow", flow] for flow in flows)]:
                bed.call(["ovs-ofctl", "-O", "OpenFlow13", command[0], switch.folder / "br0.mgmt", *command[1:]])
            result = native(bed, switch, [f"flows={connections}", ""], "--huge")
            result["megaflows"] = switch.megaflows()["count"]
        return result["rx_packets"] / result["seconds"], result
    return once


# What a select group chooses by, read by a flow that only outputs: megaflows of the same masks, and as many.
HASHED = ("ETH_SRC[0..31]", "ETH_DST[0..31]", "IP_SRC[]", "IP_DST[]", "UDP_SRC[]", "UDP_DST[]")


def looking_at_hashed():
    moves = "".join(f"move:NXM_OF_{field}->NXM_NX_REG{n}[{'0..15' if 'UDP' in field else ''}]," for n, field in enumerate(HASHED))
    return f"priority=9,udp,in_port=1,actions={moves}output:2"


def forwarding_section(bed):
    plain, alike = "output", "output, by the fields that a group hashes"
    cases = {
        plain: (["priority=9,in_port=1,actions=output:2"], []),
        alike: ([looking_at_hashed()], []),
        "indirect group": (["priority=9,in_port=1,actions=group:1"], [["add-group", "group_id=1,type=indirect,bucket=actions=output:2"]]),
        "select group, 4 buckets": (["priority=9,in_port=1,actions=group:1"],
                                    [["add-group", "group_id=1,type=select," + ",".join(["bucket=actions=output:2"] * 4)]]),
        "meter": (["priority=9,in_port=1,actions=meter:1,output:2"], [["add-meter", "meter=1,pktps,bands=type=drop,rate=4000000000"]]),
    }
    section = Section("Groups and meters, 64-byte packets, one switching core", list(cases))
    for connections in FLOWS:
        row = Row(f"guest to guest, {connections:,} flows", "pps")
        interleave(row, bed.plan.rounds, {name: forward(bed, connections, *case) for name, case in cases.items()})
        for name in cases:
            if name not in (plain, alike):
                row.checks.append(Check(f"{name}: 90 % of {plain}", row.ratio(name, plain) * 100, 90, "%"))
            if "select" in name:
                row.checks.append(Check(f"{name}: 90 % of {alike}", row.ratio(name, alike) * 100, 90, "%"))
        section.rows.append(row)
    masks = {name: median(d["megaflows"] for d in section.rows[0].series[name].details) for name in cases}
    section.notes.append(f"Megaflows at the end, of {FLOWS[0]:,} flows: "
                         f"{', '.join(f'{name} {count:,.0f}' for name, count in masks.items())}. A flow that only looks at in_port is one "
                         "megaflow, which is obeyed without a key being read. So is a select group, but that each packet's addresses and "
                         "ports are hashed to choose a bucket; a flow that looks at the same fields has a megaflow for each connection.")
    return section


def run(bed):
    return [rules_section(bed), forwarding_section(bed)]
