# SPDX-License-Identifier: Apache-2.0
"""Frames as lists of headers, to bytes: every length, type and checksum follows from what lies behind a header, so that the frame
that a switch should make of another is the same list with one header changed."""

import socket
import struct
from dataclasses import dataclass, replace


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def ip4(text):
    return socket.inet_aton(text)


def ip6(text):
    return socket.inet_pton(socket.AF_INET6, text)


def ones_sum(data):
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _bit in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@dataclass(frozen=True)
class Eth:
    dst: str = "22:22:22:22:22:22"
    src: str = "12:11:11:11:11:11"
    type: int = None  # None: by what follows

    def bytes(self, rest, payload, ip):
        return mac(self.dst) + mac(self.src) + struct.pack("!H", type_of(rest) if self.type is None else self.type) + payload


@dataclass(frozen=True)
class Vlan:
    vid: int = 100
    pcp: int = 3
    cfi: int = 0
    tpid: int = 0x8100

    def ethertype(self):
        return self.tpid

    def bytes(self, rest, payload, ip):
        return struct.pack("!HH", self.pcp << 13 | self.cfi << 12 | self.vid, type_of(rest)) + payload


@dataclass(frozen=True)
class Mpls:
    label: int = 100
    tc: int = 3
    bos: int = 1
    ttl: int = 64
    type: int = 0x8847

    def ethertype(self):
        return self.type

    def bytes(self, rest, payload, ip):
        return struct.pack("!I", self.label << 12 | self.tc << 9 | self.bos << 8 | self.ttl) + payload


@dataclass(frozen=True)
class Itag:
    isid: int = 100
    pcp: int = 0
    dei: int = 0
    uca: int = 0

    def ethertype(self):
        return 0x88E7

    def bytes(self, rest, payload, ip):
        return struct.pack("!I", self.pcp << 29 | self.dei << 28 | self.uca << 27 | self.isid) + payload


@dataclass(frozen=True)
class Arp:
    op: int = 1
    sha: str = "12:11:11:11:11:11"
    spa: str = "192.168.10.10"
    tha: str = "22:22:22:22:22:22"
    tpa: str = "192.168.20.20"

    def ethertype(self):
        return 0x0806

    def bytes(self, rest, payload, ip):
        return (struct.pack("!HHBBH", 1, 0x0800, 6, 4, self.op) + mac(self.sha) + ip4(self.spa) + mac(self.tha) + ip4(self.tpa)
                + payload)


@dataclass(frozen=True)
class Ipv4:
    src: str = "192.168.10.10"
    dst: str = "192.168.20.20"
    dscp: int = 8
    ecn: int = 0
    ttl: int = 64
    proto: int = None
    frag: int = 0  # flags and offset as they stand in the header

    def ethertype(self):
        return 0x0800

    def number(self, rest):
        return number_of(rest) if self.proto is None else self.proto

    def pseudo(self, rest, length):
        return ip4(self.src) + ip4(self.dst) + struct.pack("!BBH", 0, self.number(rest), length)

    def bytes(self, rest, payload, ip):
        head = struct.pack("!BBHHHBBH", 0x45, self.dscp << 2 | self.ecn, 20 + len(payload), 0x1234, self.frag, self.ttl,
                           self.number(rest), 0) + ip4(self.src) + ip4(self.dst)
        return head[:10] + struct.pack("!H", ones_sum(head)) + head[12:] + payload


@dataclass(frozen=True)
class Ipv6:
    src: str = "10::10"
    dst: str = "20::20"
    dscp: int = 8
    ecn: int = 0
    flow: int = 100
    ttl: int = 64
    proto: int = None

    def ethertype(self):
        return 0x86DD

    def pseudo(self, rest, length):
        last = next((h for h in rest if not isinstance(h, Ext)), None)
        number = self.proto if self.proto is not None else number_of([last] if last is not None else [])
        return ip6(self.src) + ip6(self.dst) + struct.pack("!II", length, number)

    def bytes(self, rest, payload, ip):
        number = number_of(rest) if self.proto is None else self.proto
        return (struct.pack("!IHBB", 6 << 28 | (self.dscp << 2 | self.ecn) << 20 | self.flow, len(payload), number, self.ttl)
                + ip6(self.src) + ip6(self.dst) + payload)


@dataclass(frozen=True)
class Ext:
    """An extension header of IPv6: 0 hop by hop, 43 routing, 44 fragment, 51 authentication, 60 destination; 59 ends the chain."""
    kind: int

    def number(self):
        return self.kind

    def bytes(self, rest, payload, ip):
        if self.kind == 59:
            return payload
        length, body = {44: (0, b"\0" * 6), 51: (1, b"\0" * 10)}.get(self.kind, (0, b"\1\4\0\0\0\0"))
        return struct.pack("!BB", number_of(rest), length) + body + payload


@dataclass(frozen=True)
class Tcp:
    src: int = 11111
    dst: int = 2222

    def number(self):
        return 6

    def bytes(self, rest, payload, ip):
        head = struct.pack("!HHIIBBHHH", self.src, self.dst, 1, 2, 5 << 4, 0x10, 8192, 0, 0)
        return checked(head, 16, payload, ip)


@dataclass(frozen=True)
class Udp:
    src: int = 11111
    dst: int = 2222

    def number(self):
        return 17

    def bytes(self, rest, payload, ip):
        head = struct.pack("!HHHH", self.src, self.dst, 8 + len(payload), 0)
        return checked(head, 6, payload, ip)


@dataclass(frozen=True)
class Sctp:
    src: int = 11111
    dst: int = 2222

    def number(self):
        return 132

    def bytes(self, rest, payload, ip):
        chunk = struct.pack("!BBH", 0, 3, 16 + len(payload)) + b"\0" * 12 + payload  # DATA
        chunk += b"\0" * (-len(chunk) % 4)
        head = struct.pack("!HHII", self.src, self.dst, 7, 0)
        return head[:8] + struct.pack("<I", crc32c(head + chunk)) + chunk


@dataclass(frozen=True)
class Icmp4:
    type: int = 8
    code: int = 0

    def number(self):
        return 1

    def bytes(self, rest, payload, ip):
        head = struct.pack("!BBHHH", self.type, self.code, 0, 1, 2)
        return head[:2] + struct.pack("!H", ones_sum(head + payload)) + head[4:] + payload


@dataclass(frozen=True)
class Icmp6:
    type: int = 128
    code: int = 0

    def number(self):
        return 58

    def bytes(self, rest, payload, ip):
        return checked(struct.pack("!BBHHH", self.type, self.code, 0, 1, 2), 2, payload, ip)


@dataclass(frozen=True)
class Nd:
    """Neighbour solicitation (135, option 1) or advertisement (136, option 2)."""
    type: int = 135
    target: str = "10::20"
    lladdr: str = "12:11:11:11:11:11"

    def number(self):
        return 58

    def bytes(self, rest, payload, ip):
        body = struct.pack("!BBHI", self.type, 0, 0, 0) + ip6(self.target) + bytes([self.type - 134, 1]) + mac(self.lladdr)
        return checked(body, 2, payload, ip)


def checked(head, at, payload, ip):
    layer, behind = ip
    total = ones_sum(layer.pseudo(behind, len(head) + len(payload)) + head + payload)
    return head[:at] + struct.pack("!H", total or (0xFFFF if at == 6 else 0)) + head[at + 2:] + payload


def type_of(rest):
    return rest[0].ethertype() if rest and not isinstance(rest[0], bytes) else 0x88B5  # local experiment


def number_of(rest):
    return rest[0].number() if rest and rest[0] is not None and not isinstance(rest[0], bytes) else 59


def render(frame):
    """To bytes; each header is given what lies behind it and, for checksums, the IP header before it."""
    data, after = b"", []
    ips = {}
    ip = None
    for i, header in enumerate(frame):
        if isinstance(header, (Ipv4, Ipv6)):
            ip = (header, frame[i + 1:])
        ips[i] = ip
    for i in range(len(frame) - 1, -1, -1):
        header = frame[i]
        data = header + data if isinstance(header, bytes) else header.bytes(after, data, ips[i])
        after = [header] + after
    return data


def change(frame, kind, **values):
    """The same frame with its outermost header of this kind changed."""
    for i, header in enumerate(frame):
        if isinstance(header, kind):
            return frame[:i] + [replace(header, **values)] + frame[i + 1:]
    raise LookupError(f"no {kind} in {frame}")


PAYLOAD = bytes(range(1, 32))

IP4_TCP = [Eth(), Ipv4(), Tcp(), PAYLOAD]
IP4_UDP = [Eth(), Ipv4(), Udp(), PAYLOAD]
IP4_SCTP = [Eth(), Ipv4(), Sctp(), PAYLOAD]
IP4_ICMP = [Eth(), Ipv4(), Icmp4(), PAYLOAD]
IP6_TCP = [Eth(), Ipv6(), Tcp(), PAYLOAD]
IP6_UDP = [Eth(), Ipv6(), Udp(), PAYLOAD]
IP6_SCTP = [Eth(), Ipv6(), Sctp(), PAYLOAD]
IP6_ICMP = [Eth(), Ipv6(), Icmp6(), PAYLOAD]
IP6_NS = [Eth(), Ipv6(), Nd()]  # its TTL is no business of a match
IP6_NA = [Eth(), Ipv6(ttl=255), Nd(type=136)]
ARP = [Eth(), Arp(), b"\0" * 18]
