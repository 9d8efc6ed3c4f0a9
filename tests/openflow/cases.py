# SPDX-License-Identifier: Apache-2.0
"""Cases, written from OpenFlow 1.3.5: what a controller says, a frame that comes in at port 1, and what must become of it.

A case is (name, messages, [Step]). Messages are functions of the codec `of` (peer.Codec). All matching and setting is
tried on plain frames, behind a VLAN tag, and after an MPLS label or a PBB header was taken off."""

import struct
from dataclasses import dataclass, field

from .frames import (ARP, IP4_ICMP, IP4_SCTP, IP4_TCP, IP4_UDP, IP6_ICMP, IP6_NA, IP6_NS, IP6_SCTP, IP6_TCP, IP6_UDP, PAYLOAD, Arp,
                     Eth, Ext, Icmp4, Icmp6, Ipv4, Ipv6, Itag, Mpls, Nd, Sctp, Tcp, Udp, Vlan, change, render)

CONTROLLER = 0xFFFFFFFD


@dataclass
class Step:
    """A frame into port 1: `out` = {port: [frames]} must come out and nothing else; `packet_in`: these bytes come to the controller."""
    frame: bytes
    out: dict = field(default_factory=dict)
    packet_in: bytes = None
    reason: int = 1  # OFPR_ACTION
    table: int = None  # the table in which nothing must match


@dataclass
class Case:
    name: str
    messages: list
    steps: list
    compared: bool = True  # what was written is read back


@dataclass
class Bad:
    """What is refused, and how (7.4.4); after it the switch is as it was."""
    name: str
    messages: list
    refused: object  # a message
    error: tuple
    changes: bool = False  # it was carried out before what was wrong with it was met


def apply(*actions):
    """Instructions: carry these out."""
    return lambda of: [of.parser.OFPInstructionActions(4, [a(of) for a in actions])]


def write(*actions):
    return lambda of: [of.parser.OFPInstructionActions(3, [a(of) for a in actions])]


def goto(table):
    return lambda of: [of.parser.OFPInstructionGotoTable(table)]


def both(*parts):
    return lambda of: [i for part in parts for i in part(of)]


def output(port, max_len=65509):
    return lambda of: of.parser.OFPActionOutput(port, 65535 if port == CONTROLLER else max_len)


def set_field(**fields):
    return lambda of: of.parser.OFPActionSetField(**fields)


def act(name, *args):
    return lambda of: getattr(of.parser, "OFPAction" + name)(*args)


def flow(match, instructions, table=0, priority=32768, **more):
    return lambda of: of.parser.OFPFlowMod(of.dp, match=of.parser.OFPMatch(**match), instructions=instructions(of), table_id=table,
                                           priority=priority, **more)


def group(kind, number, *buckets, command=0):
    """Buckets: (weight, watch port, watch group, actions)."""
    kinds = {"all": 0, "select": 1, "indirect": 2, "ff": 3}

    def make(of):
        return of.parser.OFPGroupMod(of.dp, command, kinds[kind], number, [
            of.parser.OFPBucket(weight=w, watch_port=p, watch_group=g, actions=[a(of) for a in actions])
            for w, p, g, actions in buckets])
    return make


def bucket(*actions, weight=0, port=0xFFFFFFFF, watch=0xFFFFFFFF):
    return (weight, port, watch, actions)


def meter(number, flags, *bands, command=0):
    def make(of):
        return of.parser.OFPMeterMod(of.dp, command, flags, number, [band(of) for band in bands])
    return make


def drop_band(rate, burst=0):
    return lambda of: of.parser.OFPMeterBandDrop(rate, burst)


def remark_band(rate, level, burst=0):
    return lambda of: of.parser.OFPMeterBandDscpRemark(rate, burst, level)


# ---- where a frame's headers may lie ----


def with_vlan(frame):
    return frame[:1] + [Vlan()] + frame[1:]


def with_mpls(frame):
    return frame[:1] + [Mpls()] + frame[1:]


def with_pbb(frame):
    return [Eth(dst="22:22:22:22:22:33", src="12:11:11:11:11:33"), Itag()] + frame


def inner_type(frame):
    return frame[1].ethertype()


def wrapped(name, match, make_instructions, frame, expected):
    """(name, messages, frame as sent, frame as expected, table that decides), for each way to wrap the frame."""
    first = {"table": 0}
    yield name, [flow(match, make_instructions, **first)], frame, expected, 0
    yield f"vlan/{name}", [flow(match, make_instructions)], with_vlan(frame), expected and with_vlan(expected), 0
    pop = flow({"eth_type": 0x8847}, both(apply(act("PopMpls", inner_type(frame))), goto(1)))
    yield f"mpls/{name}", [pop, flow(match, make_instructions, table=1)], with_mpls(frame), expected, 1
    pop = flow({"eth_type": 0x88E7}, both(apply(act("PopPbb")), goto(1)))
    yield f"pbb/{name}", [pop, flow(match, make_instructions, table=1)], with_pbb(frame), expected, 1


def matching(name, match, yes, no):
    """Out of port 2, to the controller, and not at all."""
    for label, messages, frame, expected, _table in wrapped(name, match, apply(output(2)), yes, yes):
        yield Case(f"match {label} -> port", messages, [Step(render(frame), {2: [render(expected)]})])
    for label, messages, frame, expected, _table in wrapped(name, match, apply(output(CONTROLLER)), yes, yes):
        yield Case(f"match {label} -> controller", messages, [Step(render(frame), packet_in=render(expected))])
    for label, messages, frame, _expected, table in wrapped(name, match, apply(output(2)), no, None):
        yield Case(f"match {label} -> miss", messages, [Step(render(frame), table=table)])


IP4, IP6 = {"eth_type": 0x0800}, {"eth_type": 0x86DD}
TCP4, TCP6 = {**IP4, "ip_proto": 6}, {**IP6, "ip_proto": 6}
UDP4, UDP6 = {**IP4, "ip_proto": 17}, {**IP6, "ip_proto": 17}
SCTP4, SCTP6 = {**IP4, "ip_proto": 132}, {**IP6, "ip_proto": 132}
ICMP4, ICMP6 = {**IP4, "ip_proto": 1}, {**IP6, "ip_proto": 58}
NS, NA = {**ICMP6, "icmpv6_type": 135}, {**ICMP6, "icmpv6_type": 136}
ARPS = {"eth_type": 0x0806}


def match_cases():
    for word, frame in (("ip", IP4_TCP), ("ipv6", IP6_TCP), ("arp", ARP)):
        kind = inner_type(frame)
        yield from matching(f"{word} eth_type", {"eth_type": kind}, frame, IP4_UDP if word != "ip" else IP6_UDP)
        for name, key in (("eth_dst", "dst"), ("eth_src", "src")):
            value = getattr(frame[0], key)
            yield from matching(f"{word} {name}", {name: value}, frame, change(frame, Eth, **{key: "22:22:22:22:22:99"}))
            yield from matching(f"{word} {name}/mask", {name: (value[:8] + ":00:00:00", "ff:ff:ff:00:00:00")}, frame,
                                change(frame, Eth, **{key: "44:22:22:22:22:99"}))
    table = [
        ("ip_dscp 4", {**IP4, "ip_dscp": 8}, IP4_TCP, Ipv4, {"dscp": 16}),
        ("ip_dscp 6", {**IP6, "ip_dscp": 8}, IP6_TCP, Ipv6, {"dscp": 16}),
        ("ip_ecn 4", {**IP4, "ip_ecn": 2}, change(IP4_TCP, Ipv4, ecn=2), Ipv4, {"ecn": 1}),
        ("ip_ecn 6", {**IP6, "ip_ecn": 2}, change(IP6_TCP, Ipv6, ecn=2), Ipv6, {"ecn": 1}),
        ("ipv4_src", {**IP4, "ipv4_src": "192.168.10.10"}, IP4_TCP, Ipv4, {"src": "192.168.10.11"}),
        ("ipv4_src/mask", {**IP4, "ipv4_src": ("192.168.10.0", "255.255.255.0")}, IP4_TCP, Ipv4, {"src": "192.168.11.10"}),
        ("ipv4_src/odd mask", {**IP4, "ipv4_src": ("192.0.10.0", "255.0.255.0")}, IP4_TCP, Ipv4, {"src": "192.168.11.10"}),
        ("ipv4_dst", {**IP4, "ipv4_dst": "192.168.20.20"}, IP4_TCP, Ipv4, {"dst": "192.168.20.21"}),
        ("ipv4_dst/mask", {**IP4, "ipv4_dst": ("192.168.20.0", "255.255.255.0")}, IP4_TCP, Ipv4, {"dst": "192.168.21.20"}),
        ("ipv6_src", {**IP6, "ipv6_src": "10::10"}, IP6_TCP, Ipv6, {"src": "10::11"}),
        ("ipv6_src/mask", {**IP6, "ipv6_src": ("10::", "ffff:ffff:ffff:ffff::")}, IP6_TCP, Ipv6, {"src": "11::10"}),
        ("ipv6_dst", {**IP6, "ipv6_dst": "20::20"}, IP6_TCP, Ipv6, {"dst": "20::21"}),
        ("ipv6_dst/mask", {**IP6, "ipv6_dst": ("20::", "ffff:ffff:ffff:ffff::")}, IP6_TCP, Ipv6, {"dst": "21::20"}),
        ("ipv6_flabel", {**IP6, "ipv6_flabel": 100}, IP6_TCP, Ipv6, {"flow": 101}),
        ("ipv6_flabel/mask", {**IP6, "ipv6_flabel": (0x60, 0xFFFF0)}, IP6_TCP, Ipv6, {"flow": 0x160}),
        ("tcp_src 4", {**TCP4, "tcp_src": 11111}, IP4_TCP, Tcp, {"src": 12345}),
        ("tcp_src 6", {**TCP6, "tcp_src": 11111}, IP6_TCP, Tcp, {"src": 12345}),
        ("tcp_dst 4", {**TCP4, "tcp_dst": 2222}, IP4_TCP, Tcp, {"dst": 6789}),
        ("tcp_dst 6", {**TCP6, "tcp_dst": 2222}, IP6_TCP, Tcp, {"dst": 6789}),
        ("udp_src 4", {**UDP4, "udp_src": 11111}, IP4_UDP, Udp, {"src": 12345}),
        ("udp_src 6", {**UDP6, "udp_src": 11111}, IP6_UDP, Udp, {"src": 12345}),
        ("udp_dst 4", {**UDP4, "udp_dst": 2222}, IP4_UDP, Udp, {"dst": 6789}),
        ("udp_dst 6", {**UDP6, "udp_dst": 2222}, IP6_UDP, Udp, {"dst": 6789}),
        ("sctp_src 4", {**SCTP4, "sctp_src": 11111}, IP4_SCTP, Sctp, {"src": 12345}),
        ("sctp_src 6", {**SCTP6, "sctp_src": 11111}, IP6_SCTP, Sctp, {"src": 12345}),
        ("sctp_dst 4", {**SCTP4, "sctp_dst": 2222}, IP4_SCTP, Sctp, {"dst": 6789}),
        ("sctp_dst 6", {**SCTP6, "sctp_dst": 2222}, IP6_SCTP, Sctp, {"dst": 6789}),
        ("icmpv4_type", {**ICMP4, "icmpv4_type": 8}, IP4_ICMP, Icmp4, {"type": 0}),
        ("icmpv4_code", {**ICMP4, "icmpv4_code": 0}, IP4_ICMP, Icmp4, {"code": 1}),
        ("icmpv6_type", {**ICMP6, "icmpv6_type": 128}, IP6_ICMP, Icmp6, {"type": 129}),
        ("icmpv6_code", {**ICMP6, "icmpv6_code": 0}, IP6_ICMP, Icmp6, {"code": 1}),
        ("ipv6_nd_target", {**NS, "ipv6_nd_target": "10::20"}, IP6_NS, Nd, {"target": "10::21"}),
        ("ipv6_nd_sll", {**NS, "ipv6_nd_sll": "12:11:11:11:11:11"}, IP6_NS, Nd, {"lladdr": "12:11:11:11:11:12"}),
        ("ipv6_nd_tll", {**NA, "ipv6_nd_tll": "12:11:11:11:11:11"}, IP6_NA, Nd, {"lladdr": "12:11:11:11:11:12"}),
        ("arp_op", {**ARPS, "arp_op": 1}, ARP, Arp, {"op": 2}),
        ("arp_spa", {**ARPS, "arp_spa": "192.168.10.10"}, ARP, Arp, {"spa": "192.168.10.11"}),
        ("arp_spa/mask", {**ARPS, "arp_spa": ("192.168.10.0", "255.255.255.0")}, ARP, Arp, {"spa": "192.168.11.10"}),
        ("arp_tpa", {**ARPS, "arp_tpa": "192.168.20.20"}, ARP, Arp, {"tpa": "192.168.20.21"}),
        ("arp_tpa/mask", {**ARPS, "arp_tpa": ("192.168.20.0", "255.255.255.0")}, ARP, Arp, {"tpa": "192.168.21.20"}),
        ("arp_sha", {**ARPS, "arp_sha": "12:11:11:11:11:11"}, ARP, Arp, {"sha": "12:11:11:11:11:12"}),
        ("arp_sha/mask", {**ARPS, "arp_sha": ("12:11:11:00:00:00", "ff:ff:ff:00:00:00")}, ARP, Arp, {"sha": "12:12:11:11:11:12"}),
        ("arp_tha", {**ARPS, "arp_tha": "22:22:22:22:22:22"}, ARP, Arp, {"tha": "22:22:22:22:22:23"}),
        ("arp_tha/mask", {**ARPS, "arp_tha": ("22:22:22:00:00:00", "ff:ff:ff:00:00:00")}, ARP, Arp, {"tha": "22:23:22:22:22:22"}),
    ]
    for name, match, yes, kind, values in table:
        yield from matching(name, match, yes, change(yes, kind, **values))
    yield from matching("ip_proto 4", TCP4, IP4_TCP, IP4_UDP)
    yield from matching("ip_proto 6", TCP6, IP6_TCP, IP6_UDP)
    yield from exthdr_cases()
    yield from tag_match_cases()
    for name, match in [("ipv4_src", {**IP4, "ipv4_src": ("192.168.10.10", "255.255.255.255")}),
                        ("eth_dst", {"eth_dst": ("22:22:22:22:22:22", "ff:ff:ff:ff:ff:ff")})]:
        yield Case(f"match {name}/every bit", [flow(match, apply(output(2)))], [Step(render(IP4_TCP), {2: [render(IP4_TCP)]})],
                   compared=False)  # no mask says the same (7.2.3.5), and that comes back
    yield from pipeline_match_cases()


# IPv6 extension headers (7.2.3.8): OFPIEH_NONEXT 1, ESP 2, AUTH 4, DEST 8, FRAG 16, ROUTER 32, HOP 64, UNREP 128, UNSEQ 256
def exthdr_cases():
    def behind(*kinds):
        return [Eth(), Ipv6(), *[Ext(kind) for kind in kinds], Tcp(), PAYLOAD]
    plain = IP6_TCP
    for name, kinds, value in [("hop", [0], 64), ("hop auth", [0, 51], 68), ("dest", [60], 8), ("router", [43], 32), ("auth", [51], 4),
                               ("hop router dest", [0, 43, 60], 104), ("dest router dest", [60, 43, 60], 40),
                               ("auth hop", [51, 0], 68 + 256), ("frag", [44], 16),
                               ("dest three times", [60, 60, 60], 8 + 128)]:
        yield from matching(f"ipv6_exthdr {name}", {**IP6, "ipv6_exthdr": value}, behind(*kinds), plain)
    yield from matching("ipv6_exthdr/mask", {**IP6, "ipv6_exthdr": (64, 64)}, behind(0, 51), behind(51))
    yield from matching("ipv6_exthdr none", {**IP6, "ipv6_exthdr": 0}, plain, behind(0))
    none = [Eth(), Ipv6(), Ext(59), PAYLOAD]
    yield from matching("ipv6_exthdr no next", {**IP6, "ipv6_exthdr": 1}, none, plain)
    yield from matching("tcp behind headers", {**TCP6, "tcp_dst": 2222}, behind(0, 43, 60), change(behind(0, 43, 60), Tcp, dst=1))


def tag_match(name, match, yes, no):
    yield Case(f"match {name} -> port", [flow(match, apply(output(2)))], [Step(render(yes), {2: [render(yes)]})])
    yield Case(f"match {name} -> controller", [flow(match, apply(output(CONTROLLER)))], [Step(render(yes), packet_in=render(yes))])
    yield Case(f"match {name} -> miss", [flow(match, apply(output(2)))], [Step(render(no), table=0)])


def tag_match_cases():
    for word, frame in (("ip", IP4_TCP), ("ipv6", IP6_TCP), ("arp", ARP)):
        tagged, label, bridged = with_vlan(frame), with_mpls(frame), with_pbb(frame)
        service = frame[:1] + [Vlan(tpid=0x88A8), Vlan(vid=200)] + frame[1:]
        yield from tag_match(f"{word} vlan_vid", {"vlan_vid": 0x1000 | 100}, tagged, change(tagged, Vlan, vid=101))
        yield from tag_match(f"{word} vlan_vid none", {"vlan_vid": 0}, frame, tagged)
        yield from tag_match(f"{word} vlan_vid any", {"vlan_vid": (0x1000, 0x1000)}, tagged, frame)
        yield from tag_match(f"{word} vlan_vid/mask", {"vlan_vid": (0x1000 | 96, 0x1FF0)}, tagged, change(tagged, Vlan, vid=112))
        yield from tag_match(f"{word} vlan_vid/mask, not whether there is one", {"vlan_vid": (96, 0xF0)}, tagged,
                             change(tagged, Vlan, vid=203))
        yield from tag_match(f"{word} vlan_vid 0", {"vlan_vid": 0x1000}, change(tagged, Vlan, vid=0), frame)
        yield from tag_match(f"{word} vlan_pcp", {"vlan_vid": 0x1000 | 100, "vlan_pcp": 3}, tagged, change(tagged, Vlan, pcp=5))
        yield from tag_match(f"{word} outer vlan_vid", {"vlan_vid": 0x1000 | 100}, service, change(service, Vlan, vid=200))
        yield from tag_match(f"{word} mpls_label", {"eth_type": 0x8847, "mpls_label": 100}, label, change(label, Mpls, label=101))
        yield from tag_match(f"{word} mpls_tc", {"eth_type": 0x8847, "mpls_tc": 3}, label, change(label, Mpls, tc=4))
        two = frame[:1] + [Mpls(bos=0), Mpls(label=200)] + frame[1:]
        yield from tag_match(f"{word} mpls_bos", {"eth_type": 0x8847, "mpls_bos": 1}, label, two)
        yield from tag_match(f"{word} mpls_bos 0", {"eth_type": 0x8847, "mpls_bos": 0}, two, label)
        yield from tag_match(f"{word} pbb_isid", {"eth_type": 0x88E7, "pbb_isid": 100}, bridged, change(bridged, Itag, isid=101))
        yield from tag_match(f"{word} pbb_isid/mask", {"eth_type": 0x88E7, "pbb_isid": (0x60, 0xFFFFF0)}, bridged,
                             change(bridged, Itag, isid=0x70))
        behind = bridged[:1] + [Vlan(tpid=0x88A8)] + bridged[1:]
        yield from tag_match(f"{word} pbb_isid behind a tag", {"eth_type": 0x88E7, "pbb_isid": 100}, behind,
                             change(behind, Itag, isid=101))
        multicast = frame[:1] + [Mpls(type=0x8848)] + frame[1:]
        yield from tag_match(f"{word} mpls multicast", {"eth_type": 0x8848, "mpls_label": 100}, multicast, label)


def pipeline_match_cases():
    for word, frame in (("ip", IP4_TCP), ("ipv6", IP6_TCP), ("arp", ARP)):
        bits = render(frame)
        yield Case(f"match {word} in_port -> port", [flow({"in_port": 1}, apply(output(2)))], [Step(bits, {2: [bits]})])
        yield Case(f"match {word} in_port -> miss", [flow({"in_port": 2}, apply(output(3)))], [Step(bits, table=0)])
        yield Case(f"match {word} in_phy_port", [flow({"in_port": 1, "in_phy_port": 1}, apply(output(2)))], [Step(bits, {2: [bits]})],
                   compared=False)  # it is in_port, and comes back as that
        meta = lambda of: [of.parser.OFPInstructionWriteMetadata(0x1122334455667788, 0xFFFFFFFFFFFFFFFF)]  # noqa: E731
        for label, match, hit in [("", 0x1122334455667788, True), (" other", 0x1122334455667789, False),
                                  ("/mask", (0x1122334400000000, 0xFFFFFFFF00000000), True),
                                  ("/mask other", (0x1122334500000000, 0xFFFFFFFF00000000), False)]:
            for to, step in ((2, Step(bits, {2: [bits]})), (CONTROLLER, Step(bits, packet_in=bits))):
                if not hit:
                    step = Step(bits, table=1)
                yield Case(f"match {word} metadata{label} -> {to:#x}", [
                    flow({"in_port": 1}, both(meta, goto(1))), flow({"metadata": match}, apply(output(to)), table=1)], [step])
        for label, match, hit in [("", 12345, True), (" other", 6666, False), ("/mask", (0x3000, 0xF000), True),
                                  ("/mask other", (0x4000, 0xF000), False)]:
            for to, step in ((2, Step(bits, {2: [bits]})), (CONTROLLER, Step(bits, packet_in=bits))):
                if not hit:
                    step = Step(bits, table=1)
                yield Case(f"match {word} tunnel_id{label} -> {to:#x}", [
                    flow({"in_port": 1}, both(apply(set_field(tunnel_id=12345)), goto(1))),
                    flow({"tunnel_id": match}, apply(output(to)), table=1)], [step])


# ---- actions ----


def set_field_cases():
    table = [("eth_dst", {}, IP4_TCP, Eth, "dst", "44:44:44:44:44:44"), ("eth_src", {}, IP6_TCP, Eth, "src", "44:44:44:44:44:44"),
             ("eth_dst", ARPS, ARP, Eth, "dst", "44:44:44:44:44:44"),
             ("ip_dscp", IP4, IP4_TCP, Ipv4, "dscp", 40), ("ip_dscp", IP6, IP6_TCP, Ipv6, "dscp", 40),
             ("ip_ecn", IP4, IP4_TCP, Ipv4, "ecn", 1), ("ip_ecn", IP6, IP6_TCP, Ipv6, "ecn", 1),
             ("ip_proto", TCP4, IP4_TCP, Ipv4, "proto", 17), ("ip_proto", TCP6, IP6_TCP, Ipv6, "proto", 17),
             ("ipv4_src", IP4, IP4_TCP, Ipv4, "src", "10.0.0.1"), ("ipv4_dst", IP4, IP4_TCP, Ipv4, "dst", "10.0.0.2"),
             ("ipv4_src", IP4, IP4_UDP, Ipv4, "src", "10.0.0.1"), ("ipv4_dst", IP4, IP4_SCTP, Ipv4, "dst", "10.0.0.2"),
             ("ipv6_src", IP6, IP6_TCP, Ipv6, "src", "fd00::1"), ("ipv6_dst", IP6, IP6_TCP, Ipv6, "dst", "fd00::2"),
             ("ipv6_src", IP6, IP6_UDP, Ipv6, "src", "fd00::1"), ("ipv6_dst", IP6, IP6_ICMP, Ipv6, "dst", "fd00::2"),
             ("ipv6_flabel", IP6, IP6_TCP, Ipv6, "flow", 0xABCDE),
             ("tcp_src", TCP4, IP4_TCP, Tcp, "src", 12345), ("tcp_src", TCP6, IP6_TCP, Tcp, "src", 12345),
             ("tcp_dst", TCP4, IP4_TCP, Tcp, "dst", 6789), ("tcp_dst", TCP6, IP6_TCP, Tcp, "dst", 6789),
             ("udp_src", UDP4, IP4_UDP, Udp, "src", 12345), ("udp_src", UDP6, IP6_UDP, Udp, "src", 12345),
             ("udp_dst", UDP4, IP4_UDP, Udp, "dst", 6789), ("udp_dst", UDP6, IP6_UDP, Udp, "dst", 6789),
             ("sctp_src", SCTP4, IP4_SCTP, Sctp, "src", 12345), ("sctp_src", SCTP6, IP6_SCTP, Sctp, "src", 12345),
             ("sctp_dst", SCTP4, IP4_SCTP, Sctp, "dst", 6789), ("sctp_dst", SCTP6, IP6_SCTP, Sctp, "dst", 6789),
             ("icmpv4_type", ICMP4, IP4_ICMP, Icmp4, "type", 0), ("icmpv4_code", ICMP4, IP4_ICMP, Icmp4, "code", 3),
             ("icmpv6_type", ICMP6, IP6_ICMP, Icmp6, "type", 135), ("icmpv6_code", ICMP6, IP6_ICMP, Icmp6, "code", 3),
             ("arp_op", ARPS, ARP, Arp, "op", 2), ("arp_spa", ARPS, ARP, Arp, "spa", "10.0.0.1"),
             ("arp_tpa", ARPS, ARP, Arp, "tpa", "10.0.0.2"), ("arp_sha", ARPS, ARP, Arp, "sha", "44:44:44:44:44:44"),
             ("arp_tha", ARPS, ARP, Arp, "tha", "44:44:44:44:44:44"),
             ("ipv6_nd_target", NS, IP6_NS, Nd, "target", "fd00::9"), ("ipv6_nd_sll", NS, IP6_NS, Nd, "lladdr", "44:44:44:44:44:44"),
             ("ipv6_nd_tll", NA, IP6_NA, Nd, "lladdr", "44:44:44:44:44:44")]
    for name, match, frame, kind, key, value in table:
        instructions = apply(set_field(**{name: value}), output(2))
        word = type(frame[1]).__name__.lower() + "/" + type(frame[2]).__name__.lower()
        expected = change(frame, kind, **{key: value})
        for label, messages, sent, out, _table in wrapped(f"{word} {name}", match, instructions, frame, expected):
            yield Case(f"set {label}", messages, [Step(render(sent), {2: [render(out)]})])
    yield from set_tag_cases()
    yield from write_cases(table)


def one(name, match, actions, frame, expected):
    return Case(name, [flow(match, apply(*actions, output(2)))], [Step(render(frame), {2: [render(expected)] if expected else []})])


def set_tag_cases():
    for word, frame in (("ip", IP4_TCP), ("ipv6", IP6_TCP), ("arp", ARP)):
        kind = {"eth_type": inner_type(frame)}
        yield one(f"set {word} eth_type", kind, [set_field(eth_type=0x8848)], frame, change(frame, Eth, type=0x8848))
        tagged, label, bridged = with_vlan(frame), with_mpls(frame), with_pbb(frame)
        yield one(f"set {word} vlan_vid", {"vlan_vid": 0x1064}, [set_field(vlan_vid=0x1000 | 203)], tagged, change(tagged, Vlan, vid=203))
        yield one(f"set {word} vlan_pcp", {"vlan_vid": 0x1064}, [set_field(vlan_pcp=5)], tagged, change(tagged, Vlan, pcp=5))
        yield one(f"set {word} mpls_label", {"eth_type": 0x8847}, [set_field(mpls_label=203)], label, change(label, Mpls, label=203))
        yield one(f"set {word} mpls_tc", {"eth_type": 0x8847}, [set_field(mpls_tc=5)], label, change(label, Mpls, tc=5))
        yield one(f"set {word} mpls_bos", {"eth_type": 0x8847}, [set_field(mpls_bos=0)], label, change(label, Mpls, bos=0))
        yield one(f"set {word} pbb_isid", {"eth_type": 0x88E7}, [set_field(pbb_isid=203)], bridged, change(bridged, Itag, isid=203))
        behind = [bridged[0], Vlan(vid=10, pcp=0, tpid=0x88A8), bridged[1], bridged[2], Vlan(vid=10, pcp=0, tpid=0x88A8), Vlan()]
        behind += frame[1:]
        yield one(f"set {word} pbb_isid between tags", {"eth_type": 0x88E7, "pbb_isid": 100}, [set_field(pbb_isid=203)], behind,
                  change(behind, Itag, isid=203))


def write_cases(table):
    """By the action set; what is written last counts, whatever else is in it."""
    for name, match, frame, kind, key, value in table[3:8] + [row for row in table if row[0] == "tcp_src"]:
        first = {"ip_dscp": 1, "ip_ecn": 2, "ip_proto": 50, "ipv4_src": "9.9.9.9", "tcp_src": 7}[name]
        yield Case(f"write {kind.__name__.lower()} {name}", [
            flow(match, both(write(set_field(**{name: first}), output(2)), goto(1))),
            flow(match, write(set_field(**{name: value})), table=1)],
            [Step(render(frame), {2: [render(change(frame, kind, **{key: value}))]})])


def tag_action_cases():
    for word, frame in (("ip", IP4_TCP), ("ipv6", IP6_TCP), ("arp", ARP)):
        kind = {"eth_type": inner_type(frame)}
        tagged, label, bridged = with_vlan(frame), with_mpls(frame), with_pbb(frame)
        push = lambda tag: frame[:1] + [tag] + frame[1:]  # noqa: E731
        yield one(f"push_vlan {word}", kind, [act("PushVlan", 0x8100)], frame, push(Vlan(vid=0, pcp=0)))
        yield one(f"push_vlan 0x88a8 {word}", kind, [act("PushVlan", 0x88A8)], frame, push(Vlan(vid=0, pcp=0, tpid=0x88A8)))
        yield one(f"push_vlan, set {word}", kind, [act("PushVlan", 0x8100), set_field(vlan_vid=0x10C8), set_field(vlan_pcp=6)], frame,
                  push(Vlan(vid=200, pcp=6)))
        yield one(f"push_vlan twice {word}", kind, [act("PushVlan", 0x88A8)], tagged,
                  tagged[:1] + [Vlan(tpid=0x88A8)] + tagged[1:])
        yield one(f"pop_vlan {word}", {"vlan_vid": 0x1064}, [act("PopVlan")], tagged, frame)
        double = tagged[:1] + [Vlan(vid=7, pcp=1, tpid=0x88A8)] + tagged[1:]
        yield one(f"pop_vlan outer {word}", {"vlan_vid": 0x1007}, [act("PopVlan")], double, tagged)
        ttl = frame[1].ttl if word != "arp" else 0
        yield one(f"push_mpls {word}", kind, [act("PushMpls", 0x8847)], frame, push(Mpls(label=0, tc=0, bos=1, ttl=ttl)))
        yield one(f"push_mpls 0x8848 {word}", kind, [act("PushMpls", 0x8848)], frame,
                  push(Mpls(label=0, tc=0, bos=1, ttl=ttl, type=0x8848)))
        yield one(f"push_mpls twice {word}", {"eth_type": 0x8847}, [act("PushMpls", 0x8847)], label,
                  label[:1] + [Mpls(bos=0)] + label[1:])
        yield one(f"push_mpls, set {word}", kind, [act("PushMpls", 0x8847), set_field(mpls_label=77), set_field(mpls_tc=2)], frame,
                  push(Mpls(label=77, tc=2, ttl=ttl)))
        yield one(f"pop_mpls {word}", {"eth_type": 0x8847}, [act("PopMpls", inner_type(frame))], label, frame)
        two = frame[:1] + [Mpls(label=200, bos=0), Mpls()] + frame[1:]
        yield one(f"pop_mpls one of two {word}", {"eth_type": 0x8847}, [act("PopMpls", 0x8847)], two, label)
        yield one(f"pop_mpls twice {word}", {"eth_type": 0x8847}, [act("PopMpls", 0x8847), act("PopMpls", inner_type(frame))], two, frame)
        tagged_label = frame[:1] + [Vlan(), Mpls()] + frame[1:]
        yield one(f"pop_mpls behind a tag {word}", {"eth_type": 0x8847}, [act("PopMpls", inner_type(frame))], tagged_label, tagged)
        yield one(f"push_mpls behind a tag {word}", kind, [act("PushMpls", 0x8847)], tagged,
                  tagged[:2] + [Mpls(label=0, tc=0, bos=1, ttl=ttl)] + tagged[2:])
        yield one(f"push_pbb {word}", kind, [act("PushPbb", 0x88E7)], frame, [Eth(), Itag(isid=0)] + frame)
        yield one(f"push_pbb, set {word}", kind, [act("PushPbb", 0x88E7), set_field(pbb_isid=77), set_field(eth_dst="44:44:44:44:44:44")],
                  frame, [Eth(dst="44:44:44:44:44:44"), Itag(isid=77)] + frame)
        yield one(f"push_pbb behind a tag {word}", kind, [act("PushPbb", 0x88E7)], tagged,
                  [Eth(), Itag(isid=0, pcp=3)] + tagged)
        yield one(f"push_pbb twice {word}", {"eth_type": 0x88E7}, [act("PushPbb", 0x88E7)], bridged,
                  [bridged[0], Itag(isid=100)] + bridged)
        yield one(f"pop_pbb {word}", {"eth_type": 0x88E7}, [act("PopPbb")], bridged, frame)
        backbone = bridged[:1] + [Vlan(tpid=0x88A8, vid=9)] + bridged[1:]
        yield one(f"pop_vlan, pop_pbb {word}", {"vlan_vid": 0x1009, "eth_type": 0x88E7}, [act("PopVlan"), act("PopPbb")], backbone, frame)
        yield one(f"push_pbb, push_vlan {word}", kind, [act("PushPbb", 0x88E7), act("PushVlan", 0x88A8)], frame,
                  [Eth(), Vlan(vid=0, pcp=0, tpid=0x88A8), Itag(isid=0)] + frame)
        yield one(f"push all, pop all {word}", kind, [act("PushPbb", 0x88E7), act("PushVlan", 0x88A8), act("PopVlan"),
                                                      act("PopPbb")], frame, frame)
        inner = bridged[:2] + [Eth(), Vlan(vid=10, pcp=0, tpid=0x88A8), Vlan()] + frame[1:]
        yield one(f"pop_pbb to tags {word}", {"eth_type": 0x88E7}, [act("PopPbb")], inner, inner[2:])
        yield one(f"set_mpls_ttl {word}", {"eth_type": 0x8847}, [act("SetMplsTtl", 9)], label, change(label, Mpls, ttl=9))
        yield one(f"dec_mpls_ttl {word}", {"eth_type": 0x8847}, [act("DecMplsTtl")], label, change(label, Mpls, ttl=63))
        yield one(f"dec_mpls_ttl outer {word}", {"eth_type": 0x8847}, [act("DecMplsTtl")], two, change(two, Mpls, ttl=63))
        yield one(f"copy_ttl_out of mpls {word}", {"eth_type": 0x8847}, [act("CopyTtlOut")], change(two, Mpls, ttl=5), two)
        yield one(f"copy_ttl_in of mpls {word}", {"eth_type": 0x8847}, [act("CopyTtlIn")], change(two, Mpls, ttl=5),
                  frame[:1] + [Mpls(label=200, bos=0, ttl=5), Mpls(ttl=5)] + frame[1:])
        yield Case(f"dec_mpls_ttl at 1 {word}", [flow({"eth_type": 0x8847}, apply(act("DecMplsTtl"), output(2)))],
                   [Step(render(change(label, Mpls, ttl=1)))])


def ttl_cases():
    for word, frame, kind in (("ip", IP4_TCP, Ipv4), ("ipv6", IP6_TCP, Ipv6)):
        match = {"eth_type": inner_type(frame)}
        for label, wrap in (("", lambda f: f), (" behind a tag", with_vlan)):
            sent = wrap(frame)
            yield one(f"set_nw_ttl {word}{label}", match, [act("SetNwTtl", 33)], sent, wrap(change(frame, kind, ttl=33)))
            yield one(f"dec_nw_ttl {word}{label}", match, [act("DecNwTtl")], sent, wrap(change(frame, kind, ttl=63)))
            for ttl in (0, 1):
                yield Case(f"dec_nw_ttl at {ttl} {word}{label}", [flow(match, apply(act("DecNwTtl"), output(2)))],
                           [Step(render(wrap(change(frame, kind, ttl=ttl))))])
        inside = with_mpls(change(frame, kind, ttl=32))
        yield one(f"copy_ttl_out {word}", {"eth_type": 0x8847}, [act("CopyTtlOut")], inside, change(inside, Mpls, ttl=32))
        yield one(f"copy_ttl_in {word}", {"eth_type": 0x8847}, [act("CopyTtlIn")], inside, change(inside, kind, ttl=64))
        yield one(f"push_mpls, dec, copy in, pop {word}", match,
                  [act("PushMpls", 0x8847), act("DecMplsTtl"), act("CopyTtlIn"), act("PopMpls", match["eth_type"])], frame,
                  change(frame, kind, ttl=63))


def output_cases():
    for word, frame in (("ip", IP4_TCP), ("ipv6", IP6_TCP), ("arp", ARP)):
        bits = render(frame)
        marked = render(change(frame, Eth, src="44:44:44:44:44:44"))
        pushed = frame[:1] + [Vlan(vid=0, pcp=0)] + frame[1:]
        if word != "arp":
            pushed = change(pushed, type(frame[1]), ttl=63)
        for name, actions, out in [
                ("port", [output(2)], {2: [bits]}), ("two ports", [output(2), output(3)], {2: [bits], 3: [bits]}),
                ("a port twice", [output(2), output(2)], {2: [bits, bits]}), ("IN_PORT", [output(0xFFFFFFF8)], {1: [bits]}),
                ("own port", [output(1)], {}), ("ALL", [output(0xFFFFFFFC)], {2: [bits], 3: [bits]}),
                ("FLOOD", [output(0xFFFFFFFB)], {2: [bits], 3: [bits]}), ("nothing", [], {}),
                ("change in between", [output(2), set_field(eth_src="44:44:44:44:44:44"), output(3)], {2: [bits], 3: [marked]}),
                ("set_queue", [act("SetQueue", 0), output(2)], {2: [bits]})]:
            yield Case(f"output {name} {word}", [flow({"in_port": 1}, apply(*actions))], [Step(bits, out)])
        yield Case(f"output CONTROLLER {word}", [flow({"in_port": 1}, apply(output(CONTROLLER)))], [Step(bits, packet_in=bits)])
        yield Case(f"table-miss flow {word}", [flow({}, apply(output(CONTROLLER)), priority=0)], [Step(bits, packet_in=bits, reason=0)])
        yield Case(f"goto {word}", [flow({}, goto(5)), flow({}, goto(200), table=5), flow({}, apply(output(2)), table=200)],
                   [Step(bits, {2: [bits]})])
        yield Case(f"priorities {word}", [flow({"in_port": 1}, apply(output(3)), priority=5), flow({}, apply(output(2)), priority=9)],
                   [Step(bits, {2: [bits]})])
        yield Case(f"write then clear {word}", [
            flow({}, both(write(output(3)), goto(1))),
            flow({}, both(lambda of: [of.parser.OFPInstructionActions(5, [])], write(output(2))), table=1)], [Step(bits, {2: [bits]})])
        yield Case(f"set is in the end {word}", [
            flow({}, both(write(output(2), set_field(eth_src="44:44:44:44:44:44")), goto(1))), flow({}, apply(output(3)), table=1)],
            [Step(bits, {2: [marked], 3: [bits]})])
        yield Case(f"set in its order {word}", [  # pushed first, whatever was written first
            flow({"eth_type": inner_type(frame)}, write(output(2), act("DecNwTtl"), act("PushVlan", 0x8100))) if word != "arp" else
            flow({}, write(output(2), act("PushVlan", 0x8100)))],
            [Step(bits, {2: [render(pushed)]})])
        yield Case(f"set without output {word}", [flow({}, write(set_field(eth_src="44:44:44:44:44:44")))], [Step(bits)])


def group_cases():
    for word, frame in (("ip", IP4_TCP), ("ipv6", IP6_TCP), ("arp", ARP)):
        bits = render(frame)
        marked = render(change(frame, Eth, src="44:44:44:44:44:44"))
        mark = set_field(eth_src="44:44:44:44:44:44")
        to_group = flow({"in_port": 1}, apply(act("Group", 1)))
        yield Case(f"group all {word}", [group("all", 1, bucket(output(2)), bucket(output(3))), to_group],
                   [Step(bits, {2: [bits], 3: [bits]})])
        yield Case(f"group all, each its own {word}", [group("all", 1, bucket(mark, output(2)), bucket(output(3))), to_group],
                   [Step(bits, {2: [marked], 3: [bits]})])
        yield Case(f"group all without buckets {word}", [group("all", 1), to_group], [Step(bits)])
        yield Case(f"group all and on {word}", [group("all", 1, bucket(mark, output(2))),
                                                flow({"in_port": 1}, apply(act("Group", 1), output(3)))],
                   [Step(bits, {2: [marked], 3: [bits]})])
        yield Case(f"group all of number 0 {word}", [group("all", 0, bucket(output(2))), flow({}, apply(act("Group", 0)))],
                   [Step(bits, {2: [bits]})])
        yield Case(f"group indirect {word}", [group("indirect", 1, bucket(mark, output(2))), to_group], [Step(bits, {2: [marked]})])
        yield Case(f"group in a set {word}", [group("all", 1, bucket(output(2))), flow({}, write(mark, act("Group", 1)))],
                   [Step(bits, {2: [marked]})])
        yield Case(f"group before output in a set {word}", [group("all", 1, bucket(output(2))),
                                                            flow({}, write(output(3), act("Group", 1)))], [Step(bits, {2: [bits]})])
        yield Case(f"group of groups {word}", [group("all", 2, bucket(output(2))), group("all", 3, bucket(mark, output(3))),
                                               group("all", 1, bucket(act("Group", 2)), bucket(act("Group", 3))), to_group],
                   [Step(bits, {2: [bits], 3: [marked]})])
        yield Case(f"group select of one {word}", [group("select", 1, bucket(output(2), weight=1)), to_group], [Step(bits, {2: [bits]})])
        yield Case(f"group select by weight 0 {word}", [group("select", 1, bucket(output(3), weight=0), bucket(output(2), weight=1)),
                                                        to_group], [Step(bits, {2: [bits]})])
        yield Case(f"group fast failover {word}", [group("ff", 1, bucket(output(2), port=2), bucket(output(3), port=3)), to_group],
                   [Step(bits, {2: [bits]})])
        yield Case(f"group fast failover to the living {word}", [
            group("ff", 1, bucket(output(2), port=77), bucket(output(3), port=3)), to_group], [Step(bits, {3: [bits]})])
        yield Case(f"group fast failover by group {word}", [
            group("ff", 2, bucket(output(2), port=77)), group("all", 3, bucket(output(3))),
            group("ff", 1, bucket(act("Group", 2), watch=2), bucket(act("Group", 3), watch=3)), to_group], [Step(bits, {3: [bits]})])
        yield Case(f"group modified {word}", [group("all", 1, bucket(output(3))), to_group,
                                              group("all", 1, bucket(output(2)), command=1)], [Step(bits, {2: [bits]})])


def config_cases():
    """Written, and read back as it was written; traffic is not needed."""
    yield Case("config flow", [meter(3, 1, drop_band(1000)), flow(
        {"in_port": 1, "eth_type": 0x0800, "ip_proto": 6, "tcp_dst": 80},
        both(lambda of: [of.parser.OFPInstructionMeter(3)], lambda of: [of.parser.OFPInstructionActions(5, [])],
             write(set_field(ipv4_dst="1.2.3.4"), act("DecNwTtl"), output(2)),
             lambda of: [of.parser.OFPInstructionWriteMetadata(5, 0xFF)], goto(9)),
        cookie=0x1122334455667788, idle_timeout=77, hard_timeout=99, priority=7)], [])
    for max_len in (0, 128, 65509, 65535):
        yield Case(f"config max_len {max_len}", [flow({}, apply(output(2, max_len), output(3, max_len)))], [])
    for flags, bands in [(1, [drop_band(1000)]), (2, [drop_band(1000)]), (5, [drop_band(1000, 77)]), (13, [drop_band(9, 1), drop_band(10, 2)]),
                         (2, [remark_band(100, 1)]), (6, [remark_band(100, 2, 50), drop_band(200, 100)])]:
        yield Case(f"config meter {flags}", [meter(1, flags, *bands)], [])
    yield Case("config groups", [group("select", 1, bucket(output(2), weight=3), bucket(set_field(eth_dst="44:44:44:44:44:44"),
                                                                                      act("PushVlan", 0x8100), output(3), weight=5)),
                                 group("ff", 2, bucket(output(2), port=2), bucket(act("Group", 1), watch=1)), group("all", 3)], [])


def raw(kind, body):
    return lambda of: struct.pack("!BBHI", 4, kind, 8 + len(body), 0) + body


def raw_flow(match=b"\0\1\0\4\0\0\0\0", instructions=b"", table=0, command=0, buffer=0xFFFFFFFF, flags=0, priority=5):
    return raw(14, struct.pack("!QQBBHHHIIIHH", 0, 0, table, command, 0, 0, priority, buffer, 0xFFFFFFFF, 0xFFFFFFFF, flags, 0)
               + match + instructions)


def oxm(number, value, mask=b"", cls=0x8000):
    return struct.pack("!HBB", cls, number << 1 | bool(mask), len(value) + len(mask)) + value + mask


def raw_match(*fields):
    body = b"".join(fields)
    length = 4 + len(body)
    return struct.pack("!HH", 1, length) + body + b"\0" * (-length % 8)


def raw_apply(actions, kind=4):
    return struct.pack("!HHI", kind, 8 + len(actions), 0) + actions


def bad_cases():
    ip_type = oxm(5, b"\x08\0")
    out2 = struct.pack("!HHIH6x", 0, 16, 2, 0)
    add = lambda name, error, **kw: Bad(f"bad flow: {name}", [], raw_flow(**kw), error)  # noqa: E731
    # matches
    yield add("match of an unknown type", (4, 0), match=b"\0\7\0\4\0\0\0\0")
    yield add("match longer than the message", (4, 1), match=b"\0\1\0\x40\0\0\0\0")
    yield add("unknown field", (4, 6), match=raw_match(oxm(99, b"\0\0")))
    yield add("field of a wrong length", (4, 1), match=raw_match(oxm(5, b"\x08")))
    yield add("prerequisite missing", (4, 9), match=raw_match(oxm(11, b"\1\2\3\4")))
    yield add("prerequisite of another value", (4, 9), match=raw_match(oxm(5, b"\x86\xdd"), oxm(11, b"\1\2\3\4")))
    yield add("field twice", (4, 10), match=raw_match(ip_type, ip_type))
    yield add("mask where none may be", (4, 8), match=raw_match(oxm(5, b"\x08\0", b"\xff\xff")))
    yield add("bits outside of the mask", (4, 5), match=raw_match(oxm(3, b"\1\2\3\4\5\6", b"\xff\0\0\0\0\0")))
    yield add("value out of range", (4, 7), match=raw_match(ip_type, oxm(8, b"\x40")))
    # flow mods
    yield add("table that is not there", (5, 2), table=0xFE)
    yield add("every table", (5, 2), table=0xFF)
    yield add("unknown command", (5, 6), command=9)
    # As a flow mod and a packet-out after it (7.3.4.2): the flow is there.
    yield Bad("bad flow: buffer that is not there", [], raw_flow(buffer=0x12345), (1, 8), changes=True)
    yield Bad("bad flow: overlap", [flow({"in_port": 1}, apply(output(2)), priority=5)], raw_flow(flags=2), (5, 3))
    # instructions
    yield add("unknown instruction", (3, 0), instructions=b"\0\x63\0\x08\0\0\0\0")
    yield add("instruction of length 0", (3, 7), instructions=b"\0\4\0\0\0\0\0\0")
    yield add("instruction longer than the message", (3, 7), instructions=b"\0\4\0\x40\0\0\0\0")
    yield add("instruction twice", (0xFFFF, 2600), instructions=raw_apply(out2) * 2)
    yield add("goto backwards", (3, 2), table=5, instructions=struct.pack("!HHB3x", 1, 8, 5))
    yield add("goto nowhere", (3, 2), instructions=struct.pack("!HHB3x", 1, 8, 0xFF))
    yield add("meter that is not there", (12, 3), instructions=struct.pack("!HHI", 6, 8, 77))
    # actions
    yield add("unknown action", (2, 0), instructions=raw_apply(struct.pack("!HHI", 99, 8, 0)))
    yield add("action of length 0", (2, 1), instructions=raw_apply(struct.pack("!HHI", 0, 0, 2)))
    yield add("action that is too long", (2, 1), instructions=raw_apply(struct.pack("!HHI", 0, 64, 2)))
    yield add("output to port 0", (2, 4), instructions=raw_apply(struct.pack("!HHIH6x", 0, 16, 0, 0)))
    yield add("output to ANY", (2, 4), instructions=raw_apply(struct.pack("!HHIH6x", 0, 16, 0xFFFFFFFF, 0)))
    yield add("group that is not there", (2, 9), instructions=raw_apply(struct.pack("!HHI", 22, 8, 77)))
    yield add("push_vlan of another type", (2, 5), instructions=raw_apply(struct.pack("!HHHxx", 17, 8, 0x0800)))
    yield add("push_mpls of another type", (2, 5), instructions=raw_apply(struct.pack("!HHHxx", 19, 8, 0x0800)))
    yield add("push_pbb of another type", (2, 5), instructions=raw_apply(struct.pack("!HHHxx", 26, 8, 0x0800)))
    yield add("dec_nw_ttl without IP", (2, 10), instructions=raw_apply(struct.pack("!HHI", 24, 8, 0)))
    yield add("experimenter", (2, 2), instructions=raw_apply(struct.pack("!HHI", 0xFFFF, 8, 0x123456)))

    def setting(*fields):
        body = b"".join(fields)
        length = 4 + len(body) + -(4 + len(body)) % 8
        return raw_apply(struct.pack("!HH", 25, length) + body + b"\0" * (length - 4 - len(body)))
    yield add("set of an unknown field", (2, 13), instructions=setting(oxm(99, b"\0\0")))
    yield add("set of in_port", (2, 13), instructions=setting(oxm(0, b"\0\0\0\2")))
    yield add("set without its prerequisite", (2, 10), instructions=setting(oxm(11, b"\1\2\3\4")))
    yield add("set out of range", (2, 15), match=raw_match(ip_type), instructions=setting(oxm(8, b"\x40")))
    yield add("set of a wrong length", (2, 14), instructions=setting(oxm(3, b"\1\2\3")))
    # groups
    yield Bad("bad group: it exists", [group("all", 1)], group("all", 1), (6, 0))
    yield Bad("bad group: modify one that is not there", [], group("all", 1, command=1), (6, 8))
    yield Bad("bad group: number", [], group("all", 0xFFFFFF01), (6, 1))
    yield Bad("bad group: itself", [], group("all", 1, bucket(act("Group", 1))), (6, 7))
    yield Bad("bad group: a circle", [group("all", 1), group("all", 2, bucket(act("Group", 1)))],
              group("all", 1, bucket(act("Group", 2)), command=1), (6, 7))
    yield Bad("bad group: indirect with two buckets", [], group("indirect", 1, bucket(output(2)), bucket(output(3))), (6, 1))
    yield Bad("bad group: chained to one that is not there", [], group("all", 1, bucket(act("Group", 9))), (2, 9))
    yield Bad("bad group: type", [], raw(15, struct.pack("!HBxI", 0, 9, 1)), (6, 10))
    yield Bad("bad group: command", [], raw(15, struct.pack("!HBxI", 9, 0, 1)), (6, 11))
    yield Bad("bad group: deleted while another has it", [group("all", 1), group("all", 2, bucket(act("Group", 1)))],
              group("all", 1, command=2), (6, 9))
    # meters
    yield Bad("bad meter: it exists", [meter(1, 1, drop_band(9))], meter(1, 1, drop_band(9)), (12, 1))
    yield Bad("bad meter: modify one that is not there", [], meter(1, 1, drop_band(9), command=1), (12, 3))
    yield Bad("bad meter: number", [], meter(0, 1, drop_band(9)), (12, 2))
    yield Bad("bad meter: flags", [], meter(1, 3, drop_band(9)), (12, 5))
    yield Bad("bad meter: command", [], raw(29, struct.pack("!HHI", 9, 1, 1)), (12, 4))
    yield Bad("bad meter: band", [], raw(29, struct.pack("!HHIHHIII", 0, 1, 1, 9, 16, 9, 0, 0)), (12, 8))
    # messages
    yield Bad("bad message: type", [], raw(99, b""), (1, 1))
    yield Bad("bad message: length of a flow mod", [], raw(14, b"\0" * 8), (1, 6))
    yield Bad("bad message: multipart", [], raw(18, struct.pack("!HH4x", 99, 0)), (1, 2))
    yield Bad("bad message: experimenter", [], raw(4, struct.pack("!II", 0x123456, 1)), (1, 3))
    yield Bad("bad message: role", [], raw(24, struct.pack("!I4xQ", 9, 0)), (11, 2))
    yield Bad("bad packet-out: port", [], raw(13, struct.pack("!IIH6x", 0xFFFFFFFF, 0, 0)), (1, 11))
    yield Bad("bad packet-out: buffer", [], raw(13, struct.pack("!IIH6x", 0x12345, 1, 0)), (1, 8))
    yield Bad("bad port mod: port", [], raw(16, struct.pack("!I4x6s2xIII4x", 999, b"\0" * 6, 0, 0, 0)), (7, 0))
    yield Bad("bad table mod: table", [], raw(17, struct.pack("!B3xI", 0xFE, 0)), (8, 0))


def all_cases():
    yield from match_cases()
    yield from set_field_cases()
    yield from tag_action_cases()
    yield from ttl_cases()
    yield from output_cases()
    yield from group_cases()
    yield from config_cases()
    yield from bad_cases()
