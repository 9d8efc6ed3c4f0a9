# SPDX-License-Identifier: Apache-2.0
"""Ten thousand access-list rules and packets that meet them at random: the same rules to both switches."""

from suite.measure import Check, Row, Section, Series, interleave
from suite.net_pps import OURS, RIVAL, _switch
from suite.net_servers import native
from suite.rules import Generator, Packets

PACKETS, MANY_PACKETS = 65_536, 1_048_576  # the latter are more than any cache of either switch holds


class AclBed:
    def __init__(self, bed, kind, packets):
        self.bed = bed
        rules = Generator(kind).rules(bed.plan.acl_rules)
        # All lead to the other port: what arrives is what was classified.
        self.flows = [rule.text("output:2") for rule in rules] + ["priority=1,in_port=1,actions=output:2"]
        self.frames = bed.work / f"{kind}-{packets}.frames"
        self.frames.write_bytes(Packets(rules).records(packets))

    def measure(self, which):
        def once():
            with _switch(self.bed, which, self.flows) as switch:
                # A pass over all packets before anything is counted: what is measured is forwarding, not the first look.
                result = native(self.bed, switch, [f"frames={self.frames}", ""], "--huge", ramp_s=max(2.0, self.bed.plan.ramp_s))
                result.update(switch.megaflows())
            return result["rx_packets"] / result["seconds"], result
        return once


def run(bed):
    section = Section(f"{bed.plan.acl_rules:,} rules, different packets by the thousands, one switching core", [OURS, RIVAL])
    for kind, packets in (("acl", PACKETS), ("fw", PACKETS), ("ipc", PACKETS), ("acl", MANY_PACKETS)):
        acl = AclBed(bed, kind, packets)
        row = Row(f"{kind}, {packets:,} packets", "pps")
        interleave(row, bed.plan.rounds, {which: acl.measure(which) for which in (OURS, RIVAL)})
        row.checks.append(Check(f"2x {RIVAL}", row.ratio(OURS, RIVAL), 2))
        section.rows.append(row)
        for what, name in (("count", "megaflows"), ("masks", "masks")):
            values = {which: [d[what] or 0 for d in row.series[which].details] for which in (OURS, RIVAL)}
            section.rows.append(Row(f"... {name} at the end", "", {which: Series(values[which]) for which in (OURS, RIVAL)},
                                    more_is_better=False))
        acl.frames.unlink()
    section.notes.append("Rules and packets come from our own generator (bench/suite/rules.py), the same text and the same file to both; each "
                         "packet is made to meet a rule drawn at random. Every rule forwards to the other port, so that what arrives was "
                         "classified.")
    return [section]
