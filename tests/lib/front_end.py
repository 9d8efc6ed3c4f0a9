# SPDX-License-Identifier: Apache-2.0
"""A vhost-user front end that can lie: one split ring in shared memory, written word by word."""

import mmap
import os
import select
import socket
import struct

MEMORY_BYTES = 1 << 20
USER_BASE = 0x7000_0000_0000  # what we say our addresses are
RING_SIZE = 16
AVAILABLE, USED = 4096, 8192  # after the descriptor table at 0

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 8, 9, 10, 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE, RESET_DEVICE = 15, 16, 18, 34

VERSION_1, PROTOCOL_FEATURES = 1 << 32, 1 << 30
REPLY_ACK, RESET = 1 << 3, 1 << 13


class FrontEnd:
    """Connected, features agreed, memory shared; start_ring() does the rest."""

    FEATURES = VERSION_1 | PROTOCOL_FEATURES

    def __init__(self, path, timeout_s=10):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(str(path))
        self.memory_fd = os.memfd_create("front-end", os.MFD_CLOEXEC)
        os.ftruncate(self.memory_fd, MEMORY_BYTES)
        self.memory = mmap.mmap(self.memory_fd, MEMORY_BYTES)
        self.kick, self.call, self.err = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(3))
        assert self.ask(GET_FEATURES) & PROTOCOL_FEATURES
        self.ask(GET_PROTOCOL_FEATURES)
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", REPLY_ACK | RESET))
        self.order(SET_OWNER)
        self.order(SET_MEM_TABLE, struct.pack("<II4Q", 1, 0, 0, MEMORY_BYTES, USER_BASE, 0), self.memory_fd)

    def send(self, request, payload=b"", *fds, flags=1):
        socket.send_fds(self.sock, [struct.pack("<III", request, flags, len(payload)) + payload], fds)

    def receive(self):
        request, flags, size = struct.unpack("<III", self.sock.recv(12, socket.MSG_WAITALL))
        return struct.unpack("<Q", self.sock.recv(size, socket.MSG_WAITALL))[0]

    def ask(self, request):
        self.send(request)
        return self.receive()

    def order(self, request, payload=b"", *fds):
        """A message that must succeed."""
        self.send(request, payload, *fds, flags=1 | 8)
        assert self.receive() == 0, f"request {request} failed"

    def start_ring(self, index=0, resume=False):
        """A ring, empty, at its beginning; or as the memory says."""
        if not resume:
            self.memory[:USED + 4096] = bytes(USED + 4096)
        self.order(SET_FEATURES, struct.pack("<Q", self.FEATURES))
        self.order(SET_VRING_NUM, struct.pack("<II", index, RING_SIZE))
        self.order(SET_VRING_BASE, struct.pack("<II", index, 0))
        self.order(SET_VRING_ADDR, struct.pack("<II4Q", index, 0, USER_BASE, USER_BASE + USED, USER_BASE + AVAILABLE, 0))
        self.order(SET_VRING_ERR, struct.pack("<Q", index), self.err)
        self.order(SET_VRING_CALL, struct.pack("<Q", index), self.call)
        self.order(SET_VRING_KICK, struct.pack("<Q", index), self.kick)
        self.order(SET_VRING_ENABLE, struct.pack("<II", index, 1))

    def jump_available_index(self, to):
        struct.pack_into("<H", self.memory, AVAILABLE + 2, to)
        os.eventfd_write(self.kick, 1)

    def read_sector(self, sector, timeout_s=10):
        """One request on a ring that has had none yet; (status, 512 bytes)."""
        header, data, status = 16384, 20480, 24576
        struct.pack_into("<IIQ", self.memory, header, 0, 0, sector)
        self.memory[status] = 0xee
        for i, (at, size, flags, following) in enumerate([(header, 16, 1, 1), (data, 512, 3, 2), (status, 1, 2, 0)]):
            struct.pack_into("<QIHH", self.memory, 16 * i, at, size, flags, following)
        self.jump_available_index(1)
        assert self.signalled(self.call, timeout_s), "no answer"
        return self.memory[status], self.memory[data:data + 512]

    def signalled(self, fd, timeout_s=10):
        poll = select.poll()  # select() takes no descriptor past 1,023
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def close(self):
        self.sock.close()
        self.memory.close()
        for fd in (self.memory_fd, self.kick, self.call, self.err):
            os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()
