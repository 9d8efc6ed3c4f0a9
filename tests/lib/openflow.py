# SPDX-License-Identifier: Apache-2.0
"""The little of OpenFlow 1.3 that a test says itself, over a bridge's Unix socket or as a controller."""

import socket
import struct

HELLO, ERROR, FEATURES_REQUEST, FEATURES_REPLY, PACKET_IN, FLOW_MOD, GROUP_MOD, TABLE_MOD, METER_MOD = 0, 1, 5, 6, 10, 14, 15, 17, 29
MULTIPART_REQUEST, MULTIPART_REPLY, BARRIER_REQUEST, BARRIER_REPLY, ROLE_REQUEST, ROLE_REPLY = 18, 19, 20, 21, 24, 25
EQUAL, MASTER, SLAVE = 1, 2, 3
PORT_STATS, TABLE_FEATURES, ANY, NO_BUFFER, ADD, DELETE = 4, 12, 0xFFFFFFFF, 0xFFFFFFFF, 0, 3
NORMAL = 0xFFFFFFFA


class Client:
    def __init__(self, path, timeout_s=10):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(str(path))
        self.begin()

    def begin(self):
        self.file = self.sock.makefile("rb")
        self.xid = 0
        self.send(HELLO)
        assert self.receive()[0] == HELLO

    def send(self, kind, body=b""):
        self.xid += 1
        self.sock.sendall(struct.pack("!BBHI", 4, kind, 8 + len(body), self.xid) + body)
        return self.xid

    def receive(self):
        """(type, xid, body)"""
        head = self.file.read(8)
        if len(head) < 8:
            raise ConnectionError("the switch closed the connection")
        _version, kind, length, xid = struct.unpack("!BBHI", head)
        return kind, xid, self.file.read(length - 8)

    def answer(self, xid, wanted):
        while True:
            kind, got, body = self.receive()
            if got != xid:
                continue
            assert kind == wanted, (kind, body)
            return body

    def refused(self, xid):
        """(type, code) of the error that answers it."""
        return struct.unpack_from("!HH", self.answer(xid, ERROR))

    def role(self, role, generation):
        return self.send(ROLE_REQUEST, struct.pack("!IxxxxQ", role, generation))

    def group(self, number, buckets, kind=0, command=0):
        """buckets: each the port that it puts out to, or None: none."""
        return self.send(GROUP_MOD, struct.pack("!HBxI", command, kind, number) + b"".join(self.bucket(port) for port in buckets))

    @staticmethod
    def bucket(port):
        action = b"" if port is None else struct.pack("!HHIHxxxxxx", 0, 16, port, 0xFFFF)
        return struct.pack("!HHIIxxxx", 16 + len(action), 0, ANY, ANY) + action

    def meter(self, number, per_s):
        """Drops what is more than so many packets a second."""
        return self.send(METER_MOD, struct.pack("!HHI", 0, 2, number) + struct.pack("!HHIIxxxx", 1, 16, per_s, 0))

    def table_mod(self, table, config):
        return self.send(TABLE_MOD, struct.pack("!BxxxI", table, config))

    def table_configs(self):
        """{table: config} of those whose is not 0."""
        xid, configs, more = self.send(MULTIPART_REQUEST, struct.pack("!HHxxxx", TABLE_FEATURES, 0)), {}, True
        while more:
            body = self.answer(xid, MULTIPART_REPLY)
            more, at = struct.unpack_from("!H", body, 2)[0], 8
            while at < len(body):
                length, table = struct.unpack_from("!HB", body, at)
                configs[table] = struct.unpack_from("!I", body, at + 56)[0]
                at += length
        return {table: config for table, config in configs.items() if config}

    def output(self, in_port, out_port, priority=100):
        """Whatever comes in at in_port goes out at out_port."""
        self.add(struct.pack("!HHIIxxxx", 1, 12, 0x80000004, in_port), out_port, priority)

    def normal(self):
        """For what is not known: as a learning switch."""
        self.add(struct.pack("!HHxxxx", 1, 4), NORMAL, 0)

    def add(self, match, out_port, priority):
        action = struct.pack("!HHIHxxxxxx", 0, 16, out_port, 0xFFFF)
        apply = struct.pack("!HHxxxx", 4, 8 + len(action)) + action
        self.send(FLOW_MOD, struct.pack("!QQBBHHHIIIHxx", 0, 0, 0, ADD, 0, 0, priority, NO_BUFFER, ANY, ANY, 0) + match + apply)

    def barrier(self):
        self.answer(self.send(BARRIER_REQUEST), BARRIER_REPLY)

    def sent_to(self, port):
        """Packets that the switch has sent to the port."""
        body = self.answer(self.send(MULTIPART_REQUEST, struct.pack("!HHxxxxIxxxx", PORT_STATS, 0, port)), MULTIPART_REPLY)
        return struct.unpack_from("!Q", body, 8 + 8 + 8)[0]

    def close(self):
        self.file.close()
        self.sock.close()


class Controller(Client):
    """The other end of a bridge's connection, taken from a listening socket and established."""

    def __init__(self, listener, timeout_s=10):
        listener.settimeout(timeout_s)
        self.sock, _ = listener.accept()
        self.sock.settimeout(timeout_s)
        self.begin()
        self.answer(self.send(FEATURES_REQUEST), FEATURES_REPLY)
