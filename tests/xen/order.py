# SPDX-License-Identifier: Apache-2.0
"""In which order a guest's transactions (tests/guest/guest-disk.c, "journal") reached storage.

The storage is a block device of dom0's that keeps a record (the kernel's dm-log-writes) of what it was asked to do: writes, in the order in
which they were over, those after a flush behind it; and flushes. What a power cut would have left at any moment is all that
stands before a flush, and any part of what follows.
"""

import hashlib
import struct
from collections import Counter
from dataclasses import dataclass

BLOCK = 4096
SLOTS, DATA = 8, 8
STAMP = struct.Struct("<IIQ")
MAGIC = 0x4a524e4c
LOG_MAGIC = 0x6a736677736872
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


class WrongOrder(Exception):
    """Something was on storage before what it depends on."""


@dataclass
class Entry:
    offset: int
    flags: int
    data: bytes


def read_log(path):
    """The entries of a record, as linux/drivers/md/dm-log-writes.c writes them."""
    with open(path, "rb") as log:
        magic, version, count, sector = SUPER.unpack(log.read(SUPER.size))
        assert magic == LOG_MAGIC and version == 1, (magic, version)
        log.seek(sector)
        for _ in range(count):
            head = log.read(sector)
            at, sectors, flags, _ = ENTRY.unpack_from(head)
            has_data = not flags & (DISCARD | MARK)
            yield Entry(at * sector, flags, log.read(sectors * sector) if has_data else b"")


def image_sha256(entries, before):
    """What all of it leaves of an image that was `before`."""
    image = bytearray(before)
    for entry in entries:
        image[entry.offset:entry.offset + len(entry.data)] = entry.data
    return hashlib.sha256(image).hexdigest()


def check(entries):
    """The transactions that were committed, of all threads; raises WrongOrder."""
    storage = _Storage()
    for entry in entries:
        if entry.flags & FLUSH:
            storage.flush()
        for offset in range(0, len(entry.data), BLOCK):
            storage.write(entry.offset + offset, entry.data[offset:offset + BLOCK], bool(entry.flags & FUA))
    return storage.transactions


class _Storage:
    def __init__(self):
        self.stable = {}  # block: number of the transaction whose data are there, whatever happens
        self.unstable = {}
        self.transactions = 0
        self.committed = Counter()

    def flush(self):
        self.stable.update(self.unstable)
        self.unstable.clear()

    def write(self, offset, block, at_once):
        magic, thread, number = STAMP.unpack_from(block)
        if magic != MAGIC:
            return
        if block != STAMP.pack(magic, thread, number) * (BLOCK // STAMP.size):
            raise WrongOrder(f"byte {offset}: a torn block of transaction {number}")
        first = thread * (SLOTS + SLOTS * DATA)
        index = offset // BLOCK - first
        group = [first + SLOTS + number % SLOTS * DATA + i for i in range(DATA)]
        if index == number % SLOTS:
            missing = [at for at in group if self.stable.get(at) != number]
            if missing:
                raise WrongOrder(f"thread {thread}: transaction {number} is committed without its blocks {missing}, "
                                 f"which have {[self.stable.get(at) for at in missing]}")
            # Again: a worker was killed before it answered.
            self.transactions += number > self.committed[thread]
            self.committed[thread] = max(number, self.committed[thread])
        elif first + index in group:
            before = self.stable.get(first + (number - 1) % SLOTS)
            if number > 1 and before != number - 1:
                raise WrongOrder(f"thread {thread}: transaction {number} begins, and commit block {(number - 1) % SLOTS} has {before}")
        else:
            raise WrongOrder(f"byte {offset}: a block of thread {thread}, transaction {number}, which belongs elsewhere")
        (self.stable if at_once else self.unstable)[offset // BLOCK] = number
        if at_once:
            self.unstable.pop(offset // BLOCK, None)
