# SPDX-License-Identifier: Apache-2.0
"""The controller's end of a connection, in os_ken's codec, which is nobody's of those tested."""

import socket
import struct
import time

from os_ken.ofproto import ofproto_parser
from os_ken.ofproto.ofproto_protocol import ProtocolDesc


class Datapath(ProtocolDesc):
    def __init__(self):
        super().__init__(4)
        self.id = 1

    def set_xid(self, message):
        message.set_xid(0)


class Codec:
    def __init__(self):
        self.dp = Datapath()
        self.parser, self.ofproto = self.dp.ofproto_parser, self.dp.ofproto

    def bytes(self, message, xid):
        message.xid = None
        message.set_xid(xid)
        message.serialize()
        return bytes(message.buf)

    def message(self, data):
        version, kind, length, xid = struct.unpack("!BBHI", data[:8])
        return ofproto_parser.msg(self.dp, version, kind, length, xid, data)


class Refused(Exception):
    """OpenFlow errors that came: [(type, code)]."""

    def __init__(self, errors):
        super().__init__(", ".join(f"error {t}/{c}" for t, c in errors))
        self.errors = errors


class Peer:
    def __init__(self, path, timeout_s=10):
        self.of = Codec()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout_s)
        self.sock.connect(str(path))
        self.buffer = b""
        self.xid = 0
        self.waiting = []  # messages that came while something else was waited for
        self.sock.sendall(struct.pack("!BBHI", 4, 0, 8, 0))
        assert self.receive_raw()[1] == 0, "a hello comes first"
        # A tool's connection is told of nothing until it asks to be.
        self.say(self.of.parser.OFPSetAsync(self.of.dp, [7, 7], [7, 7], [15, 15]))

    def close(self):
        self.sock.close()

    def receive_raw(self, timeout_s=10):
        self.sock.settimeout(timeout_s)
        while len(self.buffer) < 8 or len(self.buffer) < struct.unpack("!H", self.buffer[2:4])[0]:
            data = self.sock.recv(1 << 16)
            if not data:
                raise ConnectionError("the switch closed the connection")
            self.buffer += data
        length = struct.unpack("!H", self.buffer[2:4])[0]
        data, self.buffer = self.buffer[:length], self.buffer[length:]
        return data

    def receive(self, timeout_s=10):
        """The next message that is not an echo request."""
        while True:
            data = self.receive_raw(timeout_s)
            if data[1] == 2:
                self.sock.sendall(bytes([4, 3]) + data[2:])
            else:
                return self.of.message(data)

    def next_xid(self):
        self.xid += 1
        return self.xid

    def say(self, *messages):
        """Messages of os_ken's, or bytes, whose xid is filled in."""
        data = b""
        for message in messages:
            xid = self.next_xid()
            if isinstance(message, bytes):
                data += message[:4] + struct.pack("!I", xid) + message[8:]
            else:
                data += self.of.bytes(message, xid)
        self.sock.sendall(data)
        return self.xid

    def barrier(self, *messages):
        """Say these and a barrier; errors that came before its reply are raised."""
        first = self.xid + 1
        last = self.say(*messages, self.of.parser.OFPBarrierRequest(self.of.dp))
        errors = []
        while True:
            message = self.receive()
            if message.msg_type == 21 and message.xid == last:
                break
            if message.msg_type == 1 and first <= message.xid <= last:
                errors.append((message.type, message.exp_type if message.type == 0xFFFF else message.code))
            else:
                self.waiting.append(message)
        if errors:
            raise Refused(errors)

    def ask(self, request):
        """All parts of a multipart reply, one list; or a single reply."""
        xid = self.say(request)
        body = []
        while True:
            message = self.receive()
            if message.xid != xid:
                self.waiting.append(message)
                continue
            if message.msg_type == 1:
                raise Refused([(message.type, message.code)])
            if message.msg_type != 19:
                return message
            body += message.body if isinstance(message.body, list) else [message.body]
            if not message.flags & 1:
                return body

    def wait_for(self, kind, timeout_s=10):
        """The next message of this type, those that came already included; None: there is none."""
        end = time.monotonic() + timeout_s
        while True:
            for message in self.waiting:
                if message.msg_type == kind:
                    self.waiting.remove(message)
                    return message
            left = end - time.monotonic()
            if left <= 0:
                return None
            try:
                self.waiting.append(self.receive(left))
            except TimeoutError:
                return None
