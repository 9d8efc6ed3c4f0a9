# SPDX-License-Identifier: Apache-2.0
"""A stream of large segments from guest to guest: how near to one copy, and how near to memcpy."""

from suite.bed import BenchError
from suite.measure import Check, Row, Section, interleave
from suite.net_pps import OURS, RIVAL, in_port_rules
from suite.net_servers import CreedenceSwitch, OvsDpdk, native

MEMCPY = "memcpy"
FRAME_BYTES = 65226  # 45 segments of 1,448 bytes, their header once
# Receive buffers of 4 KiB are what a guest's kernel gives with mergeable buffers; of 64 KiB, the largest.
RINGS = (("4 KiB receive buffers", ("--rx-buffer=4096", "--queue-size=1024")),
         ("64 KiB receive buffers", ("--rx-buffer=65552", "--queue-size=256")))


def stream(bed, which, *options, switch_options=None):
    """A function that measures once: bytes per second that arrived, and what the switch says that it copied."""
    def measure():
        if which == RIVAL:
            kind = OvsDpdk(bed, f"{which}, userspace-tso", flows=in_port_rules(), tso=True)
        else:
            kind = CreedenceSwitch(bed, which, flows=in_port_rules(), **({"options": switch_options} if switch_options else {}))
        with kind as switch:
            result = native(bed, switch, [f"stream={FRAME_BYTES}", ""], "--offloads", "--verify", "--huge", *options)
            if which != RIVAL:
                result["copies"] = copies(switch)
        if result["wrong"]:
            raise BenchError(f"{which}: {result['wrong']} segments did not arrive as they were sent")
        return result["bytes_per_s"], result
    return measure


def copies(switch):
    """How often each byte was copied on its way from the first port to the second."""
    vifs = {vif["name"]: vif for vif in switch.ask("vif.stats")["vifs"]}
    copied = sum(vif["rx_copied_bytes"] + vif["tx_copied_bytes"] for vif in vifs.values())
    return copied / vifs["v1"]["rx_bytes"] if vifs["v1"]["rx_bytes"] else 0.0


def memcpy(bed):
    def measure():
        # The working set of the stream: the sender's 256 buffers and the receiver's.
        result = bed.memcpy(32 << 20, 65536, "sequential")
        return result["bytes_per_s"], result
    return measure


def run(bed):
    section = Section("Large segments from guest to guest, one switching core", [OURS, RIVAL, MEMCPY])
    for label, options in RINGS:
        row = Row(label, "B/s")
        interleave(row, bed.plan.rounds, {OURS: stream(bed, OURS, *options), RIVAL: stream(bed, RIVAL, *options), MEMCPY: memcpy(bed)})
        row.checks += [Check("70 % of memcpy", row.ratio(OURS, MEMCPY) * 100, 70, "%"), Check(f"1x {RIVAL}", row.ratio(OURS, RIVAL), 1)]
        section.rows.append(row)
        per_byte = max(d["copies"] for d in row.series[OURS].details)
        section.checks.append(Check(f"copies of each byte, {label}", per_byte, 1.01, "", at_most=True))
    section.notes.append(f"TCP segments of {FRAME_BYTES} bytes with a virtio-net header (TSO); what arrives is looked at. {RIVAL} runs with "
                         "userspace-tso-enable. Copies: bytes that creedence-switch says it copied, of those sent.")
    return [section]
