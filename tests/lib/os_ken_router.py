# SPDX-License-Identifier: Apache-2.0
"""An application for os-ken's manager: a router between two subnets, one at each of the ports 1 and 2.

It answers ARP and ICMP echo for its own addresses by packet-out. Where a host's hardware address is it learns from the host's
ARP; from then on a flow takes packets there.
"""

from os_ken.base import app_manager
from os_ken.controller import ofp_event
from os_ken.controller.handler import CONFIG_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from os_ken.lib.packet import arp, ethernet, icmp, ipv4, packet
from os_ken.ofproto import ofproto_v1_3

INTERFACES = {1: ("10.98.1.254", "02:00:00:98:01:fe"), 2: ("10.98.2.254", "02:00:00:98:02:fe")}  # port: (address, hardware address)
TYPE_IP, TYPE_ARP, PROTOCOL_ICMP = 0x0800, 0x0806, 1


class Router(app_manager.OSKenApp):
    OFP_VERSIONS = [ofproto_v1_3.OFP_VERSION]

    def add_flow(self, datapath, priority, match, actions):
        parser, ofproto = datapath.ofproto_parser, datapath.ofproto
        instructions = [parser.OFPInstructionActions(ofproto.OFPIT_APPLY_ACTIONS, actions)]
        datapath.send_msg(parser.OFPFlowMod(datapath=datapath, priority=priority, match=match, instructions=instructions))

    def send(self, datapath, port, *layers):
        parser, ofproto = datapath.ofproto_parser, datapath.ofproto
        frame = packet.Packet()
        for layer in layers:
            frame.add_protocol(layer)
        frame.serialize()
        datapath.send_msg(parser.OFPPacketOut(datapath=datapath, buffer_id=ofproto.OFP_NO_BUFFER, in_port=ofproto.OFPP_CONTROLLER,
                                              actions=[parser.OFPActionOutput(port)], data=frame.data))

    def ask(self, datapath, port, address):
        ours, hardware = INTERFACES[port]
        self.send(datapath, port, ethernet.ethernet("ff:ff:ff:ff:ff:ff", hardware, TYPE_ARP),
                  arp.arp(opcode=arp.ARP_REQUEST, src_mac=hardware, src_ip=ours, dst_mac="00:00:00:00:00:00", dst_ip=address))

    @set_ev_cls(ofp_event.EventOFPSwitchFeatures, CONFIG_DISPATCHER)
    def switch_is_there(self, event):
        datapath = event.msg.datapath
        parser, ofproto = datapath.ofproto_parser, datapath.ofproto
        up = [parser.OFPActionOutput(ofproto.OFPP_CONTROLLER, ofproto.OFPCML_NO_BUFFER)]
        self.add_flow(datapath, 10, parser.OFPMatch(eth_type=TYPE_ARP), up)
        for _, hardware in INTERFACES.values():
            self.add_flow(datapath, 10, parser.OFPMatch(eth_type=TYPE_IP, eth_dst=hardware), up)
            for address, _ in INTERFACES.values():
                match = parser.OFPMatch(eth_type=TYPE_IP, eth_dst=hardware, ip_proto=PROTOCOL_ICMP, ipv4_dst=address, icmpv4_type=8)
                self.add_flow(datapath, 100, match, up)

    def route(self, datapath, port, host):
        """To that host, whichever interface of ours the packet was sent to."""
        parser = datapath.ofproto_parser
        for in_port, (_, hardware) in INTERFACES.items():
            match = parser.OFPMatch(in_port=in_port, eth_dst=hardware, eth_type=TYPE_IP, ipv4_dst=host.src_ip)
            actions = [parser.OFPActionDecNwTtl(), parser.OFPActionSetField(eth_src=INTERFACES[port][1]),
                       parser.OFPActionSetField(eth_dst=host.src_mac), parser.OFPActionOutput(port)]
            if in_port != port:
                self.add_flow(datapath, 50, match, actions)

    def arp_came(self, datapath, port, request):
        ours, hardware = INTERFACES[port]
        self.route(datapath, port, request)
        if request.opcode == arp.ARP_REQUEST and request.dst_ip == ours:
            self.send(datapath, port, ethernet.ethernet(request.src_mac, hardware, TYPE_ARP),
                      arp.arp(opcode=arp.ARP_REPLY, src_mac=hardware, src_ip=ours, dst_mac=request.src_mac, dst_ip=request.src_ip))

    def echo_came(self, datapath, port, frame, ip, echo):
        answer = icmp.icmp(icmp.ICMP_ECHO_REPLY, 0, 0, echo.data)
        self.send(datapath, port, ethernet.ethernet(frame.src, INTERFACES[port][1], TYPE_IP),
                  ipv4.ipv4(src=ip.dst, dst=ip.src, proto=PROTOCOL_ICMP, ttl=64), answer)

    @set_ev_cls(ofp_event.EventOFPPacketIn, MAIN_DISPATCHER)
    def packet_came(self, event):
        datapath, port = event.msg.datapath, event.msg.match["in_port"]
        layers = packet.Packet(event.msg.data)
        frame, ip, echo = (layers.get_protocol(kind) for kind in (ethernet.ethernet, ipv4.ipv4, icmp.icmp))
        if request := layers.get_protocol(arp.arp):
            self.arp_came(datapath, port, request)
        elif ip and echo and ip.dst in [address for address, _ in INTERFACES.values()]:
            self.echo_came(datapath, port, frame, ip, echo)
        elif ip:  # to a host that we do not know yet
            for out, (address, _) in INTERFACES.items():
                if address.rpartition(".")[0] == ip.dst.rpartition(".")[0]:
                    self.ask(datapath, out, ip.dst)
