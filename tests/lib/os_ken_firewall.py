# SPDX-License-Identifier: Apache-2.0
"""An application for os-ken's manager: a firewall. Nothing passes but ARP, and what the file CREEDENCE_RULES allows.

A line of it is `NUMBER SOURCE DESTINATION`. The number is the cookie of the rule's flow, by which it is deleted when its
line goes, and by which its packets are asked for: these are in the file CREEDENCE_COUNTS, as `NUMBER PACKETS`.
"""

import os
from pathlib import Path

from os_ken.base import app_manager
from os_ken.controller import ofp_event
from os_ken.controller.handler import CONFIG_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from os_ken.lib import hub
from os_ken.ofproto import ofproto_v1_3

RULES = Path(os.environ["CREEDENCE_RULES"])
COUNTS = Path(os.environ["CREEDENCE_COUNTS"])
PERIOD_S = 0.1
ALL_BITS = (1 << 64) - 1
OF_RULES = 1 << 32  # in their cookies


class Firewall(app_manager.OSKenApp):
    OFP_VERSIONS = [ofproto_v1_3.OFP_VERSION]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.there = {}  # number: (source, destination), of the rules that the switch has

    def add_flow(self, datapath, priority, match, out_port, cookie=0):
        parser, ofproto = datapath.ofproto_parser, datapath.ofproto
        actions = [] if out_port is None else [parser.OFPActionOutput(out_port)]
        instructions = [parser.OFPInstructionActions(ofproto.OFPIT_APPLY_ACTIONS, actions)]
        datapath.send_msg(parser.OFPFlowMod(datapath=datapath, cookie=cookie, priority=priority, match=match, instructions=instructions))

    @set_ev_cls(ofp_event.EventOFPSwitchFeatures, CONFIG_DISPATCHER)
    def switch_is_there(self, event):
        datapath = event.msg.datapath
        parser, ofproto = datapath.ofproto_parser, datapath.ofproto
        self.add_flow(datapath, 1, parser.OFPMatch(), None)
        self.add_flow(datapath, 100, parser.OFPMatch(eth_type=0x0806), ofproto.OFPP_NORMAL)
        hub.spawn(self.follow, datapath)

    def allow(self, datapath, number, source, destination):
        match = datapath.ofproto_parser.OFPMatch(eth_type=0x0800, ipv4_src=source, ipv4_dst=destination)
        self.add_flow(datapath, 200, match, datapath.ofproto.OFPP_NORMAL, OF_RULES | number)

    def forbid(self, datapath, number):
        ofproto = datapath.ofproto
        datapath.send_msg(datapath.ofproto_parser.OFPFlowMod(
            datapath=datapath, cookie=OF_RULES | number, cookie_mask=ALL_BITS, table_id=ofproto.OFPTT_ALL,
            command=ofproto.OFPFC_DELETE, out_port=ofproto.OFPP_ANY, out_group=ofproto.OFPG_ANY))

    def follow(self, datapath):
        while True:
            lines = [line.split() for line in RULES.read_text().splitlines()]
            wanted = {int(number): (source, destination) for number, source, destination in lines}
            for number in self.there.keys() - wanted.keys():
                self.forbid(datapath, number)
            for number in wanted.keys() - self.there.keys():
                self.allow(datapath, number, *wanted[number])
            self.there = wanted
            datapath.send_msg(datapath.ofproto_parser.OFPFlowStatsRequest(datapath, cookie=OF_RULES, cookie_mask=OF_RULES))
            hub.sleep(PERIOD_S)

    @set_ev_cls(ofp_event.EventOFPFlowStatsReply, MAIN_DISPATCHER)
    def counts_came(self, event):
        text = "".join(f"{flow.cookie - OF_RULES} {flow.packet_count}\n" for flow in event.msg.body)
        new = COUNTS.with_suffix(".new")
        new.write_text(text)
        new.rename(COUNTS)
