# SPDX-License-Identifier: Apache-2.0
"""Writing "newc" archives, the form of a Linux initial RAM disk (Documentation/driver-api/early-userspace).

Several archives one after another are one file tree to the kernel, so a guest's own script is a small
archive appended to one that all guests share.
"""

import stat

ALIGN = 4


def _pad(data):
    return data + bytes(-len(data) % ALIGN)


def _member(inode, name, mode, data, device=(0, 0)):
    name = name.encode() + b"\0"
    fields = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0]
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad(header + name) + _pad(data)


class Archive:
    """Collects members; parents of a path are added by themselves."""

    def __init__(self):
        self.members = []
        self.directories = set()

    def _add(self, name, mode, data=b"", device=(0, 0)):
        parent = name.rpartition("/")[0]
        if parent:
            self.directory(parent)
        self.members.append(_member(len(self.members) + 1, name, mode, data, device))

    def directory(self, name):
        if name not in self.directories:
            self.directories.add(name)
            self._add(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, executable=False):
        self._add(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def symlink(self, name, target):
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name, major, minor):
        self._add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def bytes(self):
        return b"".join(self.members) + _member(0, "TRAILER!!!", 0, b"")
