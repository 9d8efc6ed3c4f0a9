# SPDX-License-Identifier: Apache-2.0
"""A guest of one disk that is no machine: requests on a ring in shared memory, which it keeps when its back end is replaced."""

import socket
import struct
import time

from lib.front_end import (AVAILABLE, MEMORY_BYTES, REPLY_ACK, RESET, RING_SIZE, SET_FEATURES, SET_MEM_TABLE, SET_PROTOCOL_FEATURES,
                           USED, USER_BASE, FrontEnd)
from lib.paths import program
from lib.process import wait_until

READ, WRITE, FLUSH_REQUEST = 0, 1, 4
FLUSH, CONFIG_WCE = 1 << 9, 1 << 11
GET_CONFIG, SET_CONFIG, GET_INFLIGHT_FD, SET_INFLIGHT_FD = 24, 25, 31, 32
CONFIG, INFLIGHT_SHMFD = 1 << 9, 1 << 12
WCE_OFFSET = 32  # in struct virtio_blk_config


class DiskGuest(FrontEnd):
    """Reads or writes COUNT * 64 KiB at the start of the disk, all at once. `at`: where its data are."""

    COUNT, BYTES, STATUS = 4, 64 << 10, 20480
    ALL_BYTES = COUNT * BYTES
    FEATURES = FrontEnd.FEATURES | FLUSH | CONFIG_WCE

    def __init__(self, path, inflight=None):
        super().__init__(path)
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", REPLY_ACK | RESET | INFLIGHT_SHMFD | CONFIG))
        self.inflight = inflight
        self.done, self.at = 0, 256 << 10

    def take_memory_of(self, other):
        """Connected again: the memory, and in it the ring, is what it was."""
        self.memory, self.memory_fd, self.done = other.memory, other.memory_fd, other.done
        self.order(SET_MEM_TABLE, struct.pack("<II4Q", 1, 0, 0, MEMORY_BYTES, USER_BASE, 0), self.memory_fd)

    def keep_inflight(self):
        """In-flight memory: the back end makes it, the front end keeps it."""
        self.order(SET_FEATURES, struct.pack("<Q", self.FEATURES))
        if not self.inflight:
            self.send(GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, 1, RING_SIZE, 0))
            data, fds, _, _ = socket.recv_fds(self.sock, 4096, 1)
            self.inflight = data[12:], fds[0]
        self.order(SET_INFLIGHT_FD, *self.inflight)

    def submit(self, kind):
        for i in range(self.COUNT):  # three descriptors each, in a ring of 16
            header, data = 16384 + 16 * i, self.at + i * self.BYTES
            struct.pack_into("<IIQ", self.memory, header, kind, 0, i * self.BYTES // 512)
            self.memory[self.STATUS + i] = 0xee
            parts = [(header, 16, 1), (data, self.BYTES, 1 if kind == WRITE else 3), (self.STATUS + i, 1, 2)]
            for k, (at, size, flags) in enumerate(parts):
                struct.pack_into("<QIHH", self.memory, 16 * (3 * i + k), at, size, flags, 3 * i + k + 1)
            struct.pack_into("<H", self.memory, AVAILABLE + 4 + 2 * ((self.done + i) % RING_SIZE), 3 * i)
        self.done += self.COUNT
        self.jump_available_index(self.done)

    def flush(self):
        """The status."""
        header, status = 16384 + 16 * self.COUNT, self.STATUS + self.COUNT
        struct.pack_into("<IIQ", self.memory, header, FLUSH_REQUEST, 0, 0)
        self.memory[status] = 0xee
        for i, (at, size, flags) in enumerate([(header, 16, 1), (status, 1, 2)]):
            struct.pack_into("<QIHH", self.memory, 16 * (14 + i), at, size, flags, 15)
        struct.pack_into("<H", self.memory, AVAILABLE + 4 + 2 * (self.done % RING_SIZE), 14)
        self.done += 1
        self.jump_available_index(self.done)
        wait_until(self.answered, 15, "the answer to a flush")
        return self.memory[status]

    def writes_back(self):
        """Does the device cache writes? (What the driver reads there.)"""
        self.send(GET_CONFIG, struct.pack("<III", WCE_OFFSET, 1, 0) + b"\0")
        _, _, size = struct.unpack("<III", self.sock.recv(12, socket.MSG_WAITALL))
        return bool(self.sock.recv(size, socket.MSG_WAITALL)[12])

    def set_writes_back(self, on):
        self.order(SET_CONFIG, struct.pack("<III", WCE_OFFSET, 1, 0) + bytes([on]))

    def answered(self):
        return struct.unpack_from("<H", self.memory, USED + 2)[0] == self.done

    def finish(self):
        wait_until(self.answered, 15, "the answers")
        assert self.memory[self.STATUS:self.STATUS + self.COUNT] == bytes(self.COUNT)

    @property
    def data(self):
        return self.memory[self.at:self.at + self.ALL_BYTES]

    @data.setter
    def data(self, byte):
        self.memory[self.at:self.at + self.ALL_BYTES] = byte * self.ALL_BYTES


def attach(processes, path, words, *more):
    """(worker, guest), as soon as a worker opens the disk; it may refuse to, and is started again, as a supervisor would."""
    refusals = []
    while True:
        worker = processes.start([program("creedence-vbd"), f"--socket-path={path}", *words])
        while worker.running():
            try:
                return worker, DiskGuest(path, *more), refusals
            except (OSError, struct.error):
                time.sleep(0.01)
        refusals.append(worker.output())
