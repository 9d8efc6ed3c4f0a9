# SPDX-License-Identifier: Apache-2.0
"""Guest to guest, 64-byte frames: packets per second of one switching core, ours against OVS-DPDK's one PMD core."""

from statistics import median

from suite.bed import BenchError
from suite.measure import Check, Row, Section, interleave
from suite.net_servers import CreedenceSwitch, OvsDpdk, Testpmd, native

OURS, RIVAL = "creedence-switch", "OVS-DPDK"
BOTH_WAYS = ((1, 2), (2, 1))  # in_port, output
PREFIX = "10.253"  # testpmd's flowgen sends to 10.253.0.0 + n; so do our own generator's flows


def in_port_rules():
    return [f"priority=1,in_port={a},actions=output:{b}" for a, b in BOTH_WAYS]


def exact_rules():
    """A rule that every packet is compared with, and none matches: the caches' entries have more than in_port."""
    return [*in_port_rules(), *[f"priority=10,udp,in_port={a},nw_dst=192.0.2.1,tp_dst=7,actions=drop" for a, _ in BOTH_WAYS]]


def subtable_rules():
    """256 rules of one shape: 65,536 flows become 256 megaflows of one mask for each port."""
    return [f"priority=10,ip,in_port={a},nw_dst={PREFIX}.{n}.0/24,actions=output:{b}" for a, b in BOTH_WAYS for n in range(256)]


def mask_rules():
    """Eight shapes, an eighth of the flows each: destinations of /19, of /20, ... of /26, whose trees do not overlap."""
    rules = []
    for a, b in BOTH_WAYS:
        for block in range(8):
            size = 8192 >> block
            for start in range(block * 8192, (block + 1) * 8192, size):
                rules.append(f"priority={10 + block},ip,in_port={a},nw_dst={PREFIX}.{start >> 8}.{start & 255}/{19 + block},"
                             f"actions=output:{b}")
    return rules


CASES = (
    ("in_port rule", 1024, in_port_rules, 1.0),
    ("1,024 flows a port, in the exact-match cache", 1024, exact_rules, 1.0),
    ("65,536 flows a port, one megaflow subtable", 65536, subtable_rules, 1.5),
    ("65,536 flows a port, eight masks", 65536, mask_rules, 2.0),
)


def _switch(bed, which, rules, **options):
    kind = CreedenceSwitch if which == OURS else OvsDpdk
    return kind(bed, which, flows=rules, **options)


def _with_testpmd(bed, which, flows, rules):
    def measure():
        with _switch(bed, which, rules) as switch:
            return Testpmd(bed, switch, flows).measure()
    return measure


def _with_own(bed, which, flows, rules, *options):
    def measure():
        with _switch(bed, which, rules) as switch:
            result = native(bed, switch, [f"flows={flows}"] * 2, "--huge", *options)
            caches = switch.megaflows()
        result.update(megaflows=caches["count"], masks=caches["masks"])
        return result["rx_packets"] / result["seconds"], result
    return measure


def _row(bed, label, flows, rules, want, how, tool):
    row = Row(f"{label} ({tool})", "pps")
    interleave(row, bed.plan.rounds, {which: how(bed, which, flows, rules) for which in (OURS, RIVAL)})
    noise = 0.03 if want == 1.0 else 0.0
    row.checks.append(Check(f"{want:g}x {RIVAL}", row.ratio(OURS, RIVAL), want, noise=noise))
    return row


def _caches_note(row):
    said = []
    for which in (OURS, RIVAL):
        details = row.series[which].details
        said.append(f"{which} {median(d['megaflows'] or 0 for d in details):.0f} megaflows of "
                    f"{median(d['masks'] or 0 for d in details):.0f} masks")
    return f"{row.label}: at the end, {'; '.join(said)}."


# ---- New megaflows ----

def new_rules():
    """What an action writes is significant: every packet has another source address, so every packet is a megaflow of its own."""
    return [f"priority=10,ip,in_port={a},actions=set_field:10.9.9.9->ip_src,output:{b}" for a, b in BOTH_WAYS]


def _new_megaflows(bed, which):
    def measure():
        options = {"config": ["flow-limit=2000000"]} if which == RIVAL else {}
        with _switch(bed, which, new_rules(), **options) as switch:
            before, made_before = switch.upcalls(), switch.made()
            # The running number is the IP source address.
            result = native(bed, switch, ["flows=1", ""], "--counter=26,4", runtime_s=1.0, ramp_s=0.0)
            result.update(upcalls=switch.upcalls() - before, made=switch.made() - made_before)
        if result["upcalls"] < result["rx_packets"]:
            raise BenchError(f"{which}: {result['rx_packets']} packets arrived of {result['upcalls']} upcalls only: they were not "
                             "megaflows of their own")
        return result["rx_packets"] / result["seconds"], result
    return measure


def _new_row(bed):
    row = Row("packets that each want a megaflow of their own", "pps")
    interleave(row, bed.plan.rounds, {which: _new_megaflows(bed, which) for which in (OURS, RIVAL)})
    row.checks.append(Check(f"10x {RIVAL}", row.ratio(OURS, RIVAL), 10))
    return row


def _generator_note(rows):
    least = min(d["idle_passes"] for row in rows for s in row.series.values() for d in s.details if "idle_passes" in d)
    return (f"Our generator found nothing to do in at least {least * 100:.0f} % of its passes, in every sample: it waits for the "
            "switches.")


def run(bed):
    section = Section("Guest to guest, 64 bytes, one switching core", [OURS, RIVAL])
    for label, flows, rules, want in CASES:
        section.rows.append(_row(bed, label, flows, rules(), want, _with_testpmd, "testpmd"))
    own = [_row(bed, label, flows, rules(), want, _with_own, "own generator") for label, flows, rules, want in CASES]
    section.rows += own
    section.notes = [_caches_note(row) for row in section.rows]
    new = _new_row(bed)
    section.rows.append(new)
    made = {which: median(d["made"] for d in new.series[which].details) for which in (OURS, RIVAL)}
    section.notes += [
        f"{new.label}: every packet was translated and forwarded. As far as limits allow it, the megaflow was put in, too: {made[OURS]:,.0f} "
        f"by {OURS} (its limit is 200,000), {made[RIVAL]:,.0f} by {RIVAL} (which begins with a limit of 10,000 and adapts it).",
        "Packets that arrived, both directions together. The same rules, loaded from the same text, and the same client; each "
        "switch has one core. OVS's other threads run on the generator's core.",
        _generator_note(own)]
    return [section]
