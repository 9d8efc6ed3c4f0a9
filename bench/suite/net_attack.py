# SPDX-License-Identifier: Apache-2.0
"""A guest that sends packets made to explode the classifier: what is left for its neighbours.

Three rules that allow one source address, one source port, one destination port make a switch look at as many bits of each as show the
difference: a packet for each combination of (bits of the address, of either port) gives 32 x 16 x 16 = 8,192 masks of megaflows, with less
than a megabit a second (CVE-2019-25076). The neighbours' packets must then be looked for under all of them.
"""

from suite.measure import Check, Row, Section, interleave
from suite.net_pps import OURS, RIVAL, _switch
from suite.net_servers import native
from suite.rules import TCP, record

ALLOWED_ADDRESS, ALLOWED_SPORT, ALLOWED_DPORT = 0x0a000001, 12345, 80
ATTACK_PPS = 20_000
NEIGHBOUR_FLOWS = 65_536


def rules():
    """Ports 1 and 2 are neighbours, 3 attacks; all are under the same access list."""
    lines = [f"priority=100,tcp,nw_src=10.0.0.1,actions=output:{4}", f"priority=90,tcp,tp_src={ALLOWED_SPORT},actions=output:4",
             f"priority=80,tcp,tp_dst={ALLOWED_DPORT},actions=output:4"]
    return lines + ["priority=10,ip,in_port=1,actions=output:2", "priority=10,ip,in_port=2,actions=output:1", "priority=1,actions=drop"]


def attack_frames():
    """One packet for each combination of the first bit that differs."""
    return b"".join(record(ALLOWED_ADDRESS ^ 1 << 31 - i, 0x0a000002 + i, TCP, ALLOWED_SPORT ^ 1 << 15 - j, ALLOWED_DPORT ^ 1 << 15 - k)
                    for i in range(32) for j in range(16) for k in range(16))


def neighbour_frames(swapped):
    """TCP flows of many sources: they must be classified, not found in the exact-match cache."""
    a, b = 0x0a010000, 0x0a020000
    return b"".join(record((b if swapped else a) + (n & 0xff), (a if swapped else b) + (n >> 8), TCP, 40000, 50000)
                    for n in range(NEIGHBOUR_FLOWS))


def _measure(bed, which, files, attacked):
    def once():
        with _switch(bed, which, rules(), ports=4) as switch:
            attack = f"frames={files[2]},rate={ATTACK_PPS}" if attacked else ""
            result = native(bed, switch, [f"frames={files[0]}", f"frames={files[1]}", attack, ""], "--huge",
                            ramp_s=max(2.0, bed.plan.ramp_s))
            result.update(switch.megaflows())
        # What the neighbours received, not what the attacker's packets add.
        received = sum(port["rx_packets"] for port in result["ports"][:2])
        return received / result["seconds"], result
    return once


def run(bed):
    files = [bed.work / f"attack-{n}.frames" for n in range(3)]
    for path, data in zip(files, (neighbour_frames(False), neighbour_frames(True), attack_frames())):
        path.write_bytes(data)
    calm, attacked = "neighbours alone", "with the attack"
    section = Section("8,192 masks from one guest", [OURS, RIVAL])
    rows = {label: Row(label, "pps") for label in (calm, attacked)}
    for which in (OURS, RIVAL):
        both = Row(which, "pps")
        interleave(both, bed.plan.rounds, {calm: _measure(bed, which, files, False), attacked: _measure(bed, which, files, True)})
        for label, row in rows.items():
            row.series[which] = both.series[label]
        kept = both.ratio(attacked, calm) * 100
        each = ", ".join(f"{a / b * 100:.0f}" for a, b in zip(both.series[attacked].samples, both.series[calm].samples))
        masks = max(d["masks"] or 0 for d in both.series[attacked].details)
        section.notes.append(f"{which}: neighbours keep {kept:.1f} % of their rate (round by round: {each}); {masks} masks in the end.")
        if which == OURS:
            section.checks.append(Check("neighbours keep", kept, 90, "%"))
    section.rows = list(rows.values())
    section.notes.append(f"The attacker sends {ATTACK_PPS:,} packets a second of 8,192 kinds, the neighbours as many as get through, "
                         f"in {NEIGHBOUR_FLOWS:,} flows each way.")
    return [section]
