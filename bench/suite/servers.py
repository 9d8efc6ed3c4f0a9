# SPDX-License-Identifier: Apache-2.0
"""The vhost-user-blk servers that are compared: ours and qemu-storage-daemon."""

import json
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lib.process import is_listening


@dataclass
class Image:
    """One disk: the leaf, and the base that it was cloned from (or None)."""
    leaf: Path
    leaf_format: str = "raw"
    base: Path = None
    base_format: str = "raw"
    direct: bool = False       # O_DIRECT for the leaf
    base_direct: bool = False
    read_only: bool = False


@dataclass
class Creedence:
    """creedence-vbd, alone."""
    image: Image
    cache_socket: Path = None
    options: list = field(default_factory=list)

    def command(self, bed, listen):
        i = self.image
        words = [bed.program("creedence-vbd"), f"--socket-path={listen}", "--disk",
                 f"{i.leaf},format={i.leaf_format},direct={'on' if i.direct else 'off'}"]
        if i.base:
            words += ["--backing", f"{i.base},format={i.base_format},direct={'on' if i.base_direct else 'off'}"]
        if i.read_only:
            words += ["--read-only"]
        if self.cache_socket:
            words += ["--cache-socket", self.cache_socket]
        return words + self.options


@dataclass
class QemuStorageDaemon:
    """qemu-storage-daemon with an iothread and io_uring, its quickest set-up for one disk."""
    image: Image
    queues: int = 1

    def _file(self, name, path, direct, read_only):
        return ["--blockdev", f"driver=file,node-name={name},filename={path},aio=io_uring,cache.direct="
                f"{'on' if direct else 'off'},read-only={'on' if read_only else 'off'}"]

    def command(self, bed, listen):
        i = self.image
        words = ["qemu-storage-daemon", "--object", "iothread,id=io0"]
        backing = ""
        if i.base:
            words += self._file("basefile", i.base, i.base_direct, True)
            words += ["--blockdev", f"driver={i.base_format},node-name=base,file=basefile,read-only=on"]
            backing = ",backing=base"
        words += self._file("leaffile", i.leaf, i.direct, i.read_only)
        words += ["--blockdev", f"driver={i.leaf_format},node-name=disk,file=leaffile{backing},discard=unmap,"
                  f"read-only={'on' if i.read_only else 'off'}"]
        return words + ["--export", f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={listen},"
                        f"num-queues={self.queues},writable={'off' if i.read_only else 'on'},iothread=io0"]


def start(bed, server, listen, name=None):
    """Start a server on the worker's core, and wait until it listens."""
    listen = Path(listen)
    listen.unlink(missing_ok=True)
    process = bed.group.start(bed.pinned(bed.worker_core, server.command(bed, listen)), name=name)
    wait_listening(process, listen)
    return process


def wait_listening(process, listen, timeout_s=30):
    """Until the server accepts, to the millisecond: how long that takes is a figure too."""
    end = time.monotonic() + timeout_s
    while not (listen.exists() and is_listening(listen)):
        if not process.running() or time.monotonic() > end:
            process.fail(f"does not listen on {listen}")
        time.sleep(0.001)


@contextmanager
def running(bed, server, name):
    """A server for the time of one measurement. Gives its socket and process."""
    listen = bed.work / f"{name}.sock"
    bed.show(name, server, listen)
    process = start(bed, server, listen, name)
    try:
        yield listen, process
    finally:
        process.terminate(30)
        bed.group.processes.remove(process)
        listen.unlink(missing_ok=True)


class CacheService:
    """creedence-cache, on the worker's core."""

    def __init__(self, bed, budget_bytes, name="cache"):
        self.socket = bed.work / f"{name}.seqpacket"
        command = [bed.program("creedence-cache"), "--socket", self.socket, "--budget", budget_bytes]
        bed.commands.setdefault("creedence-cache", bed.shown(bed.pinned(bed.worker_core, command)))
        self.process = bed.group.start(bed.pinned(bed.worker_core, command), name=name)
        wait_listening(self.process, self.socket)

    def ask(self, method, **params):
        if not self.process.running():
            self.process.fail(f"ended with status {self.process.popen.returncode} before it was asked for {method}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(10)
            s.connect(str(self.socket))
            s.send(json.dumps({"id": 1, "method": method, "params": params}).encode())
            answer = json.loads(s.recv(1 << 18))
        if "error" in answer:
            self.process.fail(f"answered {method} with {answer['error']}")
        return answer["result"]

    def stop(self):
        self.process.terminate(30)
        self.socket.unlink(missing_ok=True)


def settle(seconds=0.2):
    """Let what was just stopped leave the processor."""
    time.sleep(seconds)
