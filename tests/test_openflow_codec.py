# SPDX-License-Identifier: Apache-2.0
"""What os-ken can write about flows, groups and meters is read, and written back as what os-ken reads as the same."""

import struct
import subprocess
import sys

import pytest

from lib.paths import built

pytestmark = pytest.mark.timeout_s(60)

MAC, IP4, IP6 = "02:00:00:00:00:01", "192.0.2.1", "2001:db8::1"
IPV4, ARP, VLAN, IPV6, MPLS, PBB = 0x0800, 0x0806, 0x8100, 0x86DD, 0x8847, 0x88E7

# What each field presupposes, a value, and a mask where there may be one.
FIELDS = [
    ({}, "in_port", 5, None),
    ({"in_port": 5}, "metadata", 0x1234, 0xFFFF),
    ({}, "eth_dst", MAC, "ff:ff:ff:00:00:ff"),
    ({}, "eth_src", MAC, "ff:ff:ff:00:00:ff"),
    ({}, "eth_type", 0x1234, None),
    ({}, "vlan_vid", 0x1005, 0x100F),
    ({"vlan_vid": 0x1005}, "vlan_pcp", 3, None),
    ({"eth_type": IPV4}, "ip_dscp", 10, None),
    ({"eth_type": IPV6}, "ip_ecn", 2, None),
    ({"eth_type": IPV4}, "ip_proto", 47, None),
    ({"eth_type": IPV4}, "ipv4_src", IP4, "255.255.255.1"),
    ({"eth_type": IPV4}, "ipv4_dst", IP4, "255.255.255.1"),
    ({"eth_type": IPV4, "ip_proto": 6}, "tcp_src", 80, None),
    ({"eth_type": IPV6, "ip_proto": 6}, "tcp_dst", 80, None),
    ({"eth_type": IPV4, "ip_proto": 17}, "udp_src", 80, None),
    ({"eth_type": IPV6, "ip_proto": 17}, "udp_dst", 80, None),
    ({"eth_type": IPV4, "ip_proto": 132}, "sctp_src", 80, None),
    ({"eth_type": IPV6, "ip_proto": 132}, "sctp_dst", 80, None),
    ({"eth_type": IPV4, "ip_proto": 1}, "icmpv4_type", 8, None),
    ({"eth_type": IPV4, "ip_proto": 1}, "icmpv4_code", 1, None),
    ({"eth_type": ARP}, "arp_op", 1, None),
    ({"eth_type": ARP}, "arp_spa", IP4, "255.255.255.1"),
    ({"eth_type": ARP}, "arp_tpa", IP4, "255.255.255.1"),
    ({"eth_type": ARP}, "arp_sha", MAC, "ff:ff:ff:00:00:ff"),
    ({"eth_type": ARP}, "arp_tha", MAC, "ff:ff:ff:00:00:ff"),
    ({"eth_type": IPV6}, "ipv6_src", IP6, "ffff:ffff::ffff"),
    ({"eth_type": IPV6}, "ipv6_dst", IP6, "ffff:ffff::ffff"),
    ({"eth_type": IPV6}, "ipv6_flabel", 0x12345, 0xFF0FF),
    ({"eth_type": IPV6, "ip_proto": 58}, "icmpv6_type", 128, None),
    ({"eth_type": IPV6, "ip_proto": 58}, "icmpv6_code", 1, None),
    ({"eth_type": IPV6, "ip_proto": 58, "icmpv6_type": 135}, "ipv6_nd_target", IP6, None),
    ({"eth_type": IPV6, "ip_proto": 58, "icmpv6_type": 135}, "ipv6_nd_sll", MAC, None),
    ({"eth_type": IPV6, "ip_proto": 58, "icmpv6_type": 136}, "ipv6_nd_tll", MAC, None),
    ({"eth_type": MPLS}, "mpls_label", 0xABCDE, None),
    ({"eth_type": MPLS}, "mpls_tc", 5, None),
    ({"eth_type": MPLS}, "mpls_bos", 1, None),
    ({"eth_type": PBB}, "pbb_isid", 0xABCDE, 0xFF0FF),
    ({}, "tunnel_id", 0x123456789, 0xFFFFFFFFF),
    ({"eth_type": IPV6}, "ipv6_exthdr", 0x141, 0x1F1),
]


class Datapath:
    """As much of a connection as os-ken asks for."""

    def __init__(self):
        from os_ken.ofproto import ofproto_v1_3, ofproto_v1_3_parser

        self.ofproto, self.ofproto_parser = ofproto_v1_3, ofproto_v1_3_parser


@pytest.fixture(scope="module")
def dp():
    sys.path.append("/usr/lib/python3/dist-packages")
    pytest.importorskip("os_ken", reason="install the package python3-os-ken")
    return Datapath()


def echo(dp, messages):
    """What the switch would tell of each, as os-ken reads it."""
    sent = b""
    for xid, message in enumerate(messages):
        message.set_xid(xid)
        message.serialize()
        sent += bytes(message.buf)
    got = subprocess.run([str(built("src/openflow/codec_echo"))], input=sent, capture_output=True, check=True).stdout
    answers, at = [], 0
    while at < len(got):
        version, kind, length, xid = struct.unpack_from("!BBHI", got, at)
        answers.append(dp.ofproto_parser.msg_parser(dp, version, kind, length, xid, got[at : at + length]))
        at += length
    assert [a.xid for a in answers] == list(range(len(messages)))
    for a in answers:
        assert a.msg_type == dp.ofproto.OFPT_MULTIPART_REPLY, f"{messages[a.xid]}: error {a.type}, {a.code}"
    return [a.body[0] for a in answers]


def flow(dp, match=None, actions=None, instructions=None, **settings):
    parser, proto = dp.ofproto_parser, dp.ofproto
    if instructions is None:
        instructions = [parser.OFPInstructionActions(proto.OFPIT_APPLY_ACTIONS, actions)] if actions else []
    return parser.OFPFlowMod(dp, match=match or parser.OFPMatch(), instructions=instructions, **settings)


def check_flows(dp, mods):
    for mod, told in zip(mods, echo(dp, mods)):
        assert told.match.to_jsondict() == mod.match.to_jsondict()
        assert str(told.instructions) == str(mod.instructions)
        for name in ("cookie", "priority", "idle_timeout", "hard_timeout", "table_id", "flags"):
            assert getattr(told, name) == getattr(mod, name)


def test_matches(dp):
    mods = []
    for needed, name, value, mask in FIELDS:
        mods.append(flow(dp, dp.ofproto_parser.OFPMatch(**needed, **{name: value})))
        if mask is not None:
            mods.append(flow(dp, dp.ofproto_parser.OFPMatch(**needed, **{name: (value, mask)})))
    mods.append(flow(dp, dp.ofproto_parser.OFPMatch(vlan_vid=0)))
    mods.append(flow(dp, dp.ofproto_parser.OFPMatch(vlan_vid=(0x1000, 0x1000))))
    check_flows(dp, mods)


def test_actions(dp):
    p, o = dp.ofproto_parser, dp.ofproto
    ports = [1, o.OFPP_IN_PORT, o.OFPP_NORMAL, o.OFPP_FLOOD, o.OFPP_ALL, o.OFPP_LOCAL]
    actions = [p.OFPActionOutput(port) for port in ports]
    actions += [p.OFPActionOutput(o.OFPP_CONTROLLER, n) for n in (0, 128, o.OFPCML_MAX, o.OFPCML_NO_BUFFER)]
    actions += [p.OFPActionGroup(7), p.OFPActionSetQueue(3), p.OFPActionSetMplsTtl(64), p.OFPActionDecMplsTtl()]
    actions += [p.OFPActionSetNwTtl(64), p.OFPActionDecNwTtl(), p.OFPActionCopyTtlOut(), p.OFPActionCopyTtlIn()]
    actions += [p.OFPActionPushVlan(VLAN), p.OFPActionPushVlan(0x88A8), p.OFPActionPopVlan(), p.OFPActionPushMpls(MPLS)]
    actions += [p.OFPActionPopMpls(IPV4), p.OFPActionPushPbb(PBB), p.OFPActionPopPbb()]
    fixed = ("in_port", "ipv6_exthdr")
    actions += [p.OFPActionSetField(**{name: value}) for _, name, value, _ in FIELDS if name not in fixed]
    mods = [flow(dp, actions=[a]) for a in actions] + [flow(dp, actions=actions)]
    check_flows(dp, mods)


def test_instructions_and_settings(dp):
    p, o = dp.ofproto_parser, dp.ofproto
    out = [p.OFPActionOutput(1)]
    instructions = [
        p.OFPInstructionMeter(5),
        p.OFPInstructionActions(o.OFPIT_APPLY_ACTIONS, out),
        p.OFPInstructionActions(o.OFPIT_CLEAR_ACTIONS, []),
        p.OFPInstructionActions(o.OFPIT_WRITE_ACTIONS, out),
        p.OFPInstructionWriteMetadata(0x12, 0xFF),
        p.OFPInstructionGotoTable(9),
    ]
    mods = [flow(dp, instructions=[i]) for i in instructions] + [flow(dp, instructions=instructions)]
    mods.append(flow(dp, cookie=1 << 63, priority=7, idle_timeout=5, hard_timeout=6, table_id=8, flags=31))
    check_flows(dp, mods)


def test_groups(dp):
    p, o = dp.ofproto_parser, dp.ofproto
    lists = [[], [p.OFPActionOutput(1)], [p.OFPActionSetField(eth_dst=MAC), p.OFPActionGroup(3)]]
    buckets = [p.OFPBucket(weight, 4, 5, actions) for weight, actions in enumerate(lists)]
    kinds = (o.OFPGT_ALL, o.OFPGT_SELECT, o.OFPGT_INDIRECT, o.OFPGT_FF)
    mods = [p.OFPGroupMod(dp, o.OFPGC_ADD, kind, 7, buckets[:n]) for kind in kinds for n in range(4)]
    for mod, told in zip(mods, echo(dp, mods)):
        assert (told.type, told.group_id) == (mod.type, mod.group_id)
        assert str(told.buckets) == str(mod.buckets)


def test_meters(dp):
    p, o = dp.ofproto_parser, dp.ofproto
    bands = [p.OFPMeterBandDrop(1000, 0), p.OFPMeterBandDscpRemark(2000, 50, 1)]
    kinds = (o.OFPMF_KBPS, o.OFPMF_PKTPS | o.OFPMF_BURST | o.OFPMF_STATS)
    mods = [p.OFPMeterMod(dp, o.OFPMC_ADD, flags, 7, bands[:n]) for flags in kinds for n in range(3)]
    for mod, told in zip(mods, echo(dp, mods)):
        assert (told.flags, told.meter_id) == (mod.flags, mod.meter_id)
        assert str(told.bands) == str(mod.bands)
