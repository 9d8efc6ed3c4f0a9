# SPDX-License-Identifier: Apache-2.0
"""Large rule sets with the shapes that real ones have, and packets that meet them.

Three kinds, as filters in the wild fall into: access lists (acl: specific source and destination prefixes, a service's port), firewalls
(fw: many wildcards, port ranges, few sources) and IP chains (ipc: between the two). What a kind looks like is in SHAPES; the rules
themselves come from a seed. A port range is written as OpenFlow can match it, as masked prefixes: a range that is no prefix becomes
several rules, and all of them count.
"""

import random
import struct
from dataclasses import dataclass

TCP, UDP, ICMP = 6, 17, 1
NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp", None: "ip"}

# Of each kind: how often a field has which form. Prefix lengths: (weight, least, most). Ports: weights of any, one, a range
# above 1023, an arbitrary range. Protocols: weights of tcp, udp, icmp, any.
SHAPES = {
    "acl": {"src": [(20, 0, 0), (15, 8, 16), (35, 17, 24), (30, 25, 32)], "dst": [(2, 0, 0), (8, 8, 16), (30, 17, 27), (60, 28, 32)],
            "sport": (97, 1, 2, 0), "dport": (20, 62, 8, 10), "protocol": (70, 20, 3, 7), "networks": 400, "services": 110, "pairs": 40, "ranges": 8},
    "fw": {"src": [(45, 0, 0), (5, 8, 16), (20, 17, 24), (30, 25, 32)], "dst": [(35, 0, 0), (5, 8, 16), (15, 17, 24), (45, 25, 32)],
           "sport": (60, 15, 22, 3), "dport": (25, 50, 15, 10), "protocol": (60, 28, 6, 6), "networks": 80, "services": 40, "pairs": 30, "ranges": 6},
    "ipc": {"src": [(10, 0, 0), (15, 8, 16), (45, 17, 24), (30, 25, 32)], "dst": [(12, 0, 0), (15, 8, 16), (40, 17, 24), (33, 25, 32)],
            "sport": (75, 17, 6, 2), "dport": (40, 45, 8, 7), "protocol": (55, 30, 5, 10), "networks": 250, "services": 80, "pairs": 50, "ranges": 8},
}


@dataclass(frozen=True)
class Rule:
    priority: int
    src: tuple  # (address, prefix length)
    dst: tuple
    protocol: int  # or None
    sport: tuple  # (value, mask)
    dport: tuple

    def text(self, actions):
        words = [f"priority={self.priority}", NAMES[self.protocol]]
        for name, (address, length) in (("nw_src", self.src), ("nw_dst", self.dst)):
            if length:
                words.append(f"{name}={dotted(address)}" + (f"/{length}" if length < 32 else ""))
        for name, (value, mask) in (("tp_src", self.sport), ("tp_dst", self.dport)):
            if mask:
                words.append(f"{name}={value}" if mask == 0xffff else f"{name}={value:#x}/{mask:#x}")
        return ",".join(words) + f",actions={actions}"


def dotted(address):
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))


def prefixes(low, high):
    """The (value, mask) pairs that make up the ports from low to high."""
    out = []
    while low <= high:
        size = low & -low or 65536
        while low + size - 1 > high:
            size >>= 1
        out.append((low, 0xffff & ~(size - 1)))
        low += size
    return out


class Generator:
    def __init__(self, kind, seed=1):
        self.shape = SHAPES[kind]
        self.random = random.Random(f"{kind} {seed}")
        # Rules speak of the same few networks and services again and again: prefixes nest and repeat.
        self.networks = [self.random.getrandbits(32) for _ in range(self.shape["networks"])]
        self.services = [self.random.choice((self.random.randrange(1, 1024), self.random.randrange(1024, 65536)))
                         for _ in range(self.shape["services"])]
        self.pairs = [(self._length(self.shape["src"]), self._length(self.shape["dst"])) for _ in range(self.shape["pairs"])]
        self.pairs = [pair for pair in self.pairs if sum(pair)]
        self.pair_weights = [1 / (n + 1) ** 1.3 for n in range(len(self.pairs))]
        self.ranges = []
        for _ in range(self.shape["ranges"]):
            low = self.random.choice(self.services)
            self.ranges.append((low, min(65535, low + self.random.choice((1, 4, 10, 50, 255)))))

    def _weighted(self, weights):
        return self.random.choices(range(len(weights)), weights)[0]

    def _length(self, forms):
        _, least, most = forms[self._weighted([form[0] for form in forms])]
        return self.random.randint(least, most)

    def _prefix(self, length):
        # Below its network, an address is anywhere in the last bits.
        address = self.random.choice(self.networks) ^ self.random.getrandbits(8 + self.random.randrange(8))
        return address & (0xffffffff << 32 - length) & 0xffffffff, length

    def _ports(self, weights):
        form = self._weighted(weights)
        if form == 0:
            return [(0, 0)]
        if form == 1:
            return [(self.random.choice(self.services), 0xffff)]
        if form == 2:
            return prefixes(1024, 65535)
        return prefixes(*self.random.choice(self.ranges))

    def _rules(self):
        while True:
            protocol = (TCP, UDP, ICMP, None)[self._weighted(self.shape["protocol"])]
            has_ports = protocol in (TCP, UDP)
            [(src_length, dst_length)] = self.random.choices(self.pairs, self.pair_weights)
            src, dst = self._prefix(src_length), self._prefix(dst_length)
            sports = self._ports(self.shape["sport"]) if has_ports else [(0, 0)]
            dports = self._ports(self.shape["dport"]) if has_ports else [(0, 0)]
            if len(sports) * len(dports) > 12:
                continue
            for sport in sports:
                for dport in dports:
                    yield src, dst, protocol, sport, dport

    def rules(self, count):
        """The first has the highest priority. No two have the same match."""
        seen, out = set(), []
        for match in self._rules():
            if match in seen:
                continue
            seen.add(match)
            out.append(Rule(count - len(out) + 1, *match))
            if len(out) == count:
                return out


class Packets:
    """Packets that meet a rule set: each is made to match a rule drawn at random (a more specific one may take it)."""

    def __init__(self, rules, seed=1):
        self.rules = rules
        self.random = random.Random(seed)

    def _within(self, value, mask, bits):
        return value | self.random.getrandbits(bits) & ~mask & (1 << bits) - 1

    def _address(self, prefix):
        address, length = prefix
        return self._within(address, 0xffffffff << 32 - length & 0xffffffff, 32)

    def headers(self):
        """(source, destination, protocol, source port, destination port)."""
        rule = self.random.choice(self.rules)
        protocol = rule.protocol or self.random.choice((TCP, UDP))
        return (self._address(rule.src), self._address(rule.dst), protocol, self._within(*rule.sport, 16), self._within(*rule.dport, 16))

    def records(self, count):
        """Frames for vhost-net-bench --port=...,frames=FILE: 64 bytes each, of which 60 are sent."""
        return b"".join(record(*self.headers()) for _ in range(count))


def _sum16(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total


def record(src, dst, protocol, sport, dport, src_mac=bytes((2, 0, 0, 0, 0, 1)), dst_mac=bytes((2, 0, 0, 0, 0, 2))):
    """One frame of 60 bytes, padded to 64."""
    ip = bytearray(struct.pack(">BBHHHBBHII", 0x45, 0, 46, 0, 0x4000, 64, protocol, 0, src, dst))
    struct.pack_into(">H", ip, 10, 0xffff & ~_sum16(bytes(ip)))
    if protocol == TCP:
        l4 = struct.pack(">HHIIBBHHH", sport, dport, 1, 1, 0x50, 0x10, 65535, 0, 0)
    elif protocol == UDP:
        l4 = struct.pack(">HHHH", sport, dport, 26, 0)
    else:
        l4 = struct.pack(">BBHI", 8, 0, 0, 1)
    frame = dst_mac + src_mac + b"\x08\x00" + bytes(ip) + l4
    return frame + bytes(64 - len(frame))
