# SPDX-License-Identifier: Apache-2.0
"""What takes more than one frame: how a select group shares out flows, what meters let through, and what counters say."""

import random
import time

from .cases import apply, act, bucket, drop_band, flow, group, meter, output, remark_band
from .frames import ARP, IP4_TCP, IP6_TCP, Ipv4, Ipv6, Tcp, change, render
from .rig import Wrong


def install(rig, *makes):
    rig.clear()
    for make in makes:
        message = make(rig.of)
        rig.peer.barrier(message)
        rig.compare(message)


def spread(rig, frames):
    """How many of these came out of ports 2 and 3; all of them must."""
    got = {2: 0, 3: 0}
    for i in range(0, len(frames), 16):
        for frame in frames[i:i + 16]:
            rig.wires[1].send(frame)
        end = time.monotonic() + 10
        while sum(got.values()) < min(i + 16, len(frames)) and time.monotonic() < end:
            for port in got:
                while rig.wires[port].receive():
                    got[port] += 1
    if sum(got.values()) != len(frames):
        raise Wrong(f"{len(frames)} frames in, {got} out")
    return got


def flows_of(frame, count, seed=1):
    r = random.Random(seed)
    for _ in range(count):
        if frame is IP4_TCP:
            f = change(frame, Ipv4, src=f"10.{r.randrange(256)}.{r.randrange(256)}.{r.randrange(256)}", dst=f"11.0.0.{r.randrange(256)}")
        else:
            f = change(frame, Ipv6, src=f"fd00::{r.randrange(65536):x}", dst=f"fd01::{r.randrange(65536):x}")
        yield render(change(f, Tcp, src=r.randrange(65536), dst=r.randrange(65536)))


def select_by_weight(rig, frame, weights):
    install(rig, group("select", 1, bucket(output(2), weight=weights[0]), bucket(output(3), weight=weights[1])),
            flow({"in_port": 1}, apply(act("Group", 1))))
    frames = list(flows_of(frame, 2000))
    got = spread(rig, frames)
    share, expected = got[2] / len(frames), weights[0] / sum(weights)
    if abs(share - expected) > 0.05:
        raise Wrong(f"weights {weights}: {share:.3f} to the first, expected {expected:.3f}")


def select_keeps_flows(rig):
    install(rig, group("select", 1, bucket(output(2), weight=1), bucket(output(3), weight=1)), flow({}, apply(act("Group", 1))))
    for frame in flows_of(IP4_TCP, 20):
        got = spread(rig, [frame] * 50)
        if 0 not in got.values():
            raise Wrong(f"one flow went both ways: {got}")


def group_counters(rig):
    install(rig, group("all", 1, bucket(output(2)), bucket(output(3))), flow({}, apply(act("Group", 1))))
    frame = render(IP4_TCP)
    for _ in range(10):
        rig.wires[1].send(frame)
    p, dp = rig.of.parser, rig.of.dp
    wait_counts(lambda: [(g.packet_count, g.byte_count, g.ref_count, [(b.packet_count, b.byte_count) for b in g.bucket_stats])
                         for g in rig.peer.ask(p.OFPGroupStatsRequest(dp, 0, 1))],
                [(10, 10 * len(frame), 1, [(10, 10 * len(frame))] * 2)])


def wait_counts(ask, expected):
    """Counters may be a little late."""
    end = time.monotonic() + 20
    while (got := ask()) != expected:
        if time.monotonic() > end:
            raise Wrong(f"counters: {got}, expected {expected}")
        time.sleep(0.02)


def flow_counters(rig):
    install(rig, flow({"in_port": 1}, apply(output(2))))
    frame = render(IP6_TCP)
    for _ in range(10):
        rig.wires[1].send(frame)
    p, dp = rig.of.parser, rig.of.dp
    wait_counts(lambda: [(f.packet_count, f.byte_count)
                         for f in rig.peer.ask(p.OFPFlowStatsRequest(dp, 0, 0xFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, p.OFPMatch()))],
                [(10, 10 * len(frame))])
    wait_counts(lambda: [(a.packet_count, a.byte_count, a.flow_count)
                         for a in rig.peer.ask(p.OFPAggregateStatsRequest(dp, 0, 0xFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, p.OFPMatch()))],
                [(10, 10 * len(frame), 1)])


def port_counters(rig):
    install(rig, flow({"in_port": 1}, apply(output(2))))
    p, dp, frame = rig.of.parser, rig.of.dp, render(IP4_TCP)

    def ask():
        ports = {s.port_no: s for s in rig.peer.ask(p.OFPPortStatsRequest(dp, 0, 0xFFFFFFFF))}
        return [ports[1].rx_packets, ports[1].rx_bytes, ports[2].tx_packets, ports[2].tx_bytes, ports[3].tx_packets]
    before = ask()
    for _ in range(10):
        rig.wires[1].send(frame)
    wait_counts(ask, [b + more for b, more in zip(before, [10, 10 * len(frame), 10, 10 * len(frame), 0])])


class Rate:
    """Frames sent evenly for a while; what came out is counted after the burst that a meter lets through at first."""

    def __init__(self, rig, frame, per_s, lead_s=1.6, measure_s=2.0):
        self.seen = {}
        start, sent = time.monotonic(), 0
        while (now := time.monotonic() - start) < lead_s + measure_s:
            while sent < now * per_s:
                rig.wires[1].send(frame)
                sent += 1
            while (data := rig.wires[2].receive()):
                if now >= lead_s:
                    self.seen[data] = self.seen.get(data, 0) + 1 / measure_s
            time.sleep(0.002)

    def of(self, frame):
        return self.seen.get(frame, 0.0)


def within(got, expected, what, part=0.1):
    if abs(got - expected) > expected * part:
        raise Wrong(f"{what}: {got:.1f} a second, expected {expected}")


def metered(rig, frame, flags, per_s, band, expected, marked=None):
    """expected: frames a second as they were; marked: (the frame as marked, frames a second). On a machine that has other things
    to do a rate can be measured wrongly; a wrong rate is wrong each time."""
    install(rig, meter(1, flags, band), flow({"in_port": 1}, lambda of: [of.parser.OFPInstructionMeter(1), *apply(output(2))(of)]))
    for last in (False, False, True):
        try:
            return measure(rig, frame, per_s, expected, marked)
        except Wrong:
            if last:
                raise


def measure(rig, frame, per_s, expected, marked):
    bits = render(frame)
    rate = Rate(rig, bits, per_s)
    within(rate.of(bits), expected, "as they were")
    if marked:
        within(rate.of(render(marked[0])), marked[1], "marked")
    others = set(rate.seen) - {bits, render(marked[0]) if marked else bits}
    if others:
        raise Wrong(f"others came out: {[o.hex() for o in others][:3]}")


def padded(frame, bytes_):
    return frame[:-1] + [b"\x11" * (bytes_ - len(render(frame[:-1])))]


def cs3(frame):
    return change(frame, type(frame[1]), dscp=24)


KBPS, PKTPS = 1, 2


def meter_cases():
    """(name, function of the rig): rates of packets and of kilobits, dropped or marked; what has no DSCP passes."""
    big4, big6, big_arp = padded(IP4_TCP, 1500), padded(IP6_TCP, 1500), padded(ARP, 1500)
    yield "drop packets", lambda rig: metered(rig, big4, PKTPS, 200, drop_band(100), 100)
    yield "drop packets, fast", lambda rig: metered(rig, IP6_TCP, PKTPS, 2000, drop_band(1000), 1000)
    yield "drop kilobits", lambda rig: metered(rig, big6, KBPS, 175, drop_band(1000), 1000000 / 8 / 1500)
    yield "drop of ARP", lambda rig: metered(rig, big_arp, PKTPS, 200, drop_band(100), 100)
    for name, frame in (("ip", big4), ("ipv6", big6)):
        af = change(frame, type(frame[1]), dscp=10)  # AF11
        yield f"remark {name}", lambda rig, af=af: metered(
            rig, af, PKTPS, 200, remark_band(100, 1), 100, (change(af, type(af[1]), dscp=12), 100))
        yield f"remark class {name}", lambda rig, frame=frame: metered(
            rig, cs3(frame), PKTPS, 200, remark_band(100, 1), 100, (change(frame, type(frame[1]), dscp=16), 100))
    yield "remark of ARP", lambda rig: metered(rig, big_arp, PKTPS, 200, remark_band(100, 1), 200)
