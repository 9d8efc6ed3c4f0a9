# SPDX-License-Identifier: Apache-2.0
"""A switch with three ports whose other ends are raw sockets in a network namespace, and how a case is tried on it."""

import ctypes
import os
import select
import shutil
import socket
import struct
import subprocess
import time
from contextlib import contextmanager

from .cases import Bad
from .peer import Peer, Refused

CLONE_NEWNET = 0x40000000
PACKET_AUXDATA, PACKET_IGNORE_OUTGOING, SOL_PACKET = 8, 23, 263
TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 0x10, 0x40
libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(namespace):
    """In that network namespace: sockets that are made here stay in it."""
    with open("/proc/self/ns/net") as before, open(f"/run/netns/{namespace}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(before.fileno(), CLONE_NEWNET)


class Wire:
    """The other end of a port."""

    def __init__(self, namespace, device):
        with inside(namespace):
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            self.sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            self.sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            self.sock.bind((device, 3))  # ETH_P_ALL

    def send(self, frame):
        self.sock.send(frame)

    def receive(self):
        """A frame as it was on the wire (the kernel takes a VLAN tag off), or None."""
        try:
            data, control, _flags, _address = self.sock.recvmsg(1 << 16, 256)
        except BlockingIOError:
            return None
        for _level, kind, body in control:
            if kind != PACKET_AUXDATA:
                continue
            status, _len, _snap, _mac, _net, tci, tpid = struct.unpack("IIIHHHH", body[:20])
            if status & TP_STATUS_VLAN_VALID:
                data = data[:12] + struct.pack("!HH", tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100, tci) + data[12:]
        return data

    def close(self):
        self.sock.close()


class Wrong(Exception):
    pass


def diff(got, expected):
    at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
    return f"byte {at}: got {got.hex()} ({len(got)}), expected {expected.hex()} ({len(expected)})"


class Rig:
    def __init__(self, peer, wires, settle_s=0):
        self.peer, self.of, self.wires = peer, peer.of, wires  # wires: {port number: Wire}
        self.settle_s = settle_s  # how long old rules live on after a barrier

    def close(self):
        self.peer.close()
        for wire in self.wires.values():
            wire.close()

    def drain(self):
        for wire in self.wires.values():
            while wire.receive():
                pass
        self.peer.waiting.clear()

    def clear(self):
        p, dp = self.of.parser, self.of.dp
        self.peer.barrier(p.OFPFlowMod(dp, command=3, table_id=0xFF, out_port=0xFFFFFFFF, out_group=0xFFFFFFFF),
                          p.OFPGroupMod(dp, 2, 0, 0xFFFFFFFC), p.OFPMeterMod(dp, 2, 0, 0xFFFFFFFF))
        self.drain()

    def wait_links(self, timeout_s=30):
        """Until the switch knows that all ports are up: fast failover goes by that."""
        end = time.monotonic() + timeout_s
        request = self.of.parser.OFPPortDescStatsRequest(self.of.dp, 0)
        while any(port.state & 1 for port in self.peer.ask(request)):  # OFPPS_LINK_DOWN
            if time.monotonic() > end:
                raise Wrong("a port stays down")
            time.sleep(0.05)

    # ---- configuration ----

    def compare(self, message):
        """What was written is there, word for word."""
        p, dp = self.of.parser, self.of.dp
        if isinstance(message, p.OFPFlowMod):
            there = self.peer.ask(p.OFPFlowStatsRequest(dp, 0, 0xFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, p.OFPMatch()))
            keys = ["cookie", "priority", "hard_timeout", "idle_timeout", "table_id", "match", "instructions"]
        elif isinstance(message, p.OFPGroupMod):
            there, keys = self.peer.ask(p.OFPGroupDescStatsRequest(dp, 0)), ["type", "group_id", "buckets"]
        else:
            there, keys = self.peer.ask(p.OFPMeterConfigStatsRequest(dp, 0, 0xFFFFFFFF)), ["flags", "meter_id", "bands"]

        def view(thing):
            instructions = {"instructions": sorted(thing.instructions, key=lambda i: i.type)} if hasattr(thing, "instructions") else {}
            match = {"match": thing.match.to_jsondict()} if hasattr(thing, "match") else {}  # in its order, with masks and length
            return str([instructions.get(k) or match.get(k) or getattr(thing, k) for k in keys])
        if view(message) not in [view(t) for t in there]:
            raise Wrong(f"configuration: wrote {view(message)}, read {[view(t) for t in there]}")

    def write(self, case):
        for message in [make(self.of) for make in case.messages]:
            self.peer.barrier(message)
            if case.compared:
                self.compare(message)

    def snapshot(self):
        """All flows, groups and meters."""
        p, dp = self.of.parser, self.of.dp
        requests = [p.OFPFlowStatsRequest(dp, 0, 0xFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, p.OFPMatch()), p.OFPGroupDescStatsRequest(dp, 0),
                    p.OFPMeterConfigStatsRequest(dp, 0, 0xFFFFFFFF)]
        parts = [self.peer.ask(request) for request in requests]
        for flow in parts[0]:
            flow.duration_sec = flow.duration_nsec = 0
        return [str(part) for part in parts]

    def refuse(self, case):
        for make in case.messages:
            self.peer.barrier(make(self.of))
        before = self.snapshot()
        try:
            self.peer.barrier(case.refused(self.of))
        except Refused as e:
            if e.errors != [case.error]:
                raise Wrong(f"{e}, expected error {case.error[0]}/{case.error[1]}") from None
        else:
            raise Wrong(f"it was taken, expected error {case.error[0]}/{case.error[1]}")
        after = self.snapshot()
        if after != before and not case.changes:
            raise Wrong(f"it was refused, and changed something: {before} -> {after}")

    # ---- frames ----

    def counts(self, table):
        body = self.peer.ask(self.of.parser.OFPTableStatsRequest(self.of.dp, 0))
        return next(((t.lookup_count, t.matched_count) for t in body if t.table_id == table), (0, 0))

    def collect(self, want, timeout_s=10.0):
        """Frames by port, until there are as many as wanted; a little longer for those that should not come."""
        got = {port: [] for port in self.wires}
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            select.select([w.sock for w in self.wires.values()], [], [], min(0.003, timeout_s))
            quiet = True
            for port, wire in self.wires.items():
                frame = wire.receive()
                if frame is not None:
                    got[port].append(frame)
                    quiet = False
            if quiet and all(len(got[port]) >= len(want.get(port, [])) for port in got):
                break
        return got

    def packet_in(self, step):
        message = self.peer.wait_for(10)
        if step.packet_in is None:
            if message:
                raise Wrong(f"a packet-in that should not be (reason {message.reason})")
        elif message is None:
            raise Wrong("no packet-in")
        elif message.reason != step.reason:
            raise Wrong(f"packet-in: reason {message.reason}, expected {step.reason}")
        elif message.data != step.packet_in:
            raise Wrong("packet-in: " + diff(message.data, step.packet_in))
        elif message.match.get("in_port") != 1 or message.total_len != len(step.packet_in) or message.buffer_id != 0xFFFFFFFF:
            raise Wrong(f"packet-in: in_port {message.match.get('in_port')}, length {message.total_len}, buffer {message.buffer_id:#x}")

    def try_step(self, step):
        before = self.counts(step.table) if step.table is not None else None
        self.wires[1].send(step.frame)
        if step.packet_in is not None:
            self.packet_in(step)
        got = self.collect(step.out)
        if step.table is not None:
            self.unmatched(step.table, before)
            got = {port: got[port] + more for port, more in self.collect(step.out, 0.004).items()}
        elif step.packet_in is None and not any(step.out.values()):
            time.sleep(0.02)
            got = {port: got[port] + more for port, more in self.collect(step.out, 0.004).items()}
        for port, frames in got.items():
            expected = step.out.get(port, [])
            if len(frames) != len(expected):
                raise Wrong(f"port {port}: {len(frames)} frames, expected {len(expected)}: {[f.hex() for f in frames]}")
            for frame, wanted in zip(frames, expected):
                if frame != wanted:
                    raise Wrong(f"port {port}: {diff(frame, wanted)}")

    def unmatched(self, table, before):
        end = time.monotonic() + 10
        while True:
            lookups, matches = self.counts(table)
            if matches != before[1]:
                raise Wrong(f"table {table}: it matched")
            if lookups > before[0]:
                return
            if time.monotonic() > end:
                raise Wrong(f"table {table}: nothing was looked up")
            time.sleep(0.005)

    def run(self, case):
        """None, or what was wrong."""
        try:
            self.clear()
            if isinstance(case, Bad):
                self.refuse(case)
                return None
            self.write(case)
            time.sleep(self.settle_s)
            for step in case.steps:
                self.try_step(step)
        except (Wrong, Refused) as e:
            return f"{type(e).__name__}: {e}"
        return None


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True)


def quieten(namespace, device):
    """Nothing of the kernel's own is to be on the wire."""
    subprocess.run(["ip", "netns", "exec", namespace, "sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1"], capture_output=True)
    ip("-n", namespace, "link", "set", device, "arp", "off", "mtu", "9000", "up")


@contextmanager
def creedence(link, run_dir, namespace, bridge="of0"):
    """creedence-switch with taps; link: as the daemon's (lib.switch.SwitchLink). Yields a Rig."""
    path = os.path.join(run_dir, f"{bridge}.mgmt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(8)
        listener.setblocking(False)
        link.ask("bridge.add", fds={"mgmt": listener.fileno()}, name=bridge, fail_mode="secure")
        wires = {}
        for number in (1, 2, 3):
            device = f"cr{os.getpid() % 100000}p{number}"
            link.ask("port.add", bridge=bridge, name=device, type="tap", device=device, number=number, gro=False, mtu=9000)
            ip("link", "set", device, "netns", namespace)
            quieten(namespace, device)
            wires[number] = Wire(namespace, device)
        rig = Rig(Peer(path), wires)
        rig.wait_links()
        rig.clear()
        try:
            yield rig
        finally:
            rig.close()


@contextmanager
def openvswitch(run_dir, namespace, bridge="crovs"):
    """The other switch's userspace datapath, for a comparison."""
    where = os.path.join(run_dir, "ovs")
    shutil.rmtree(where, ignore_errors=True)
    os.makedirs(where)
    env = dict(os.environ, OVS_RUNDIR=where, OVS_LOGDIR=where, OVS_DBDIR=where, OVS_SYSCONFDIR=where)

    def call(*words):
        subprocess.run(words, check=True, env=env, capture_output=True)
    db = f"unix:{where}/db.sock"
    call("ovsdb-tool", "create", f"{where}/conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
    server = subprocess.Popen(["ovsdb-server", f"{where}/conf.db", f"--remote=p{db}", f"--log-file={where}/db.log"], env=env,
                              stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    call("ovs-vsctl", f"--db={db}", "--no-wait", "init")
    daemon = subprocess.Popen(["ovs-vswitchd", db, f"--log-file={where}/vswitchd.log"], env=env, stderr=subprocess.DEVNULL)
    wires = {}
    try:
        call("ovs-vsctl", f"--db={db}", "add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev",
             "protocols=OpenFlow13", "fail-mode=secure")
        for number in (1, 2, 3):
            here, there = f"crov{number}", f"crow{number}"
            subprocess.run(["ip", "link", "del", here], capture_output=True)
            ip("link", "add", here, "type", "veth", "peer", "name", there)
            ip("link", "set", there, "netns", namespace)
            subprocess.run(["sysctl", "-qw", f"net.ipv6.conf.{here}.disable_ipv6=1"], capture_output=True)
            subprocess.run(["ethtool", "-K", here, "tx", "off", "rxvlan", "off", "txvlan", "off"], capture_output=True)
            ip("link", "set", here, "mtu", "9000", "up")
            quieten(namespace, there)
            call("ovs-vsctl", f"--db={db}", "add-port", bridge, here, "--", "set", "interface", here, f"ofport_request={number}")
            wires[number] = Wire(namespace, there)
        time.sleep(1)
        rig = Rig(Peer(f"{where}/{bridge}.mgmt"), wires, settle_s=0.6)
        rig.clear()
        yield rig
        rig.close()
    finally:
        for process in (daemon, server):
            process.terminate()
            process.wait()
        for number in (1, 2, 3):
            subprocess.run(["ip", "link", "del", f"crov{number}"], capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)
