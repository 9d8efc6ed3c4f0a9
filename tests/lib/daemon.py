# SPDX-License-Identifier: Apache-2.0
"""A creedenced of our own: private directories, its control socket, and the command line against it."""

import json
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lib.paths import program
from lib.process import Process, is_listening, wait_until

ANSWER_TIMEOUT_S = 60


class DaemonError(Exception):
    """The daemon, or the command line, refused or failed; the text says why."""


@dataclass
class DiskStats:
    """What one disk's worker counted; the fields of its `stats`, those that tests look at."""

    reads: int
    read_bytes: int
    writes: int
    write_bytes: int
    errors: int
    leaf_read_bytes: int
    cache_hit_bytes: int
    cache_fill_bytes: int
    base_direct_bytes: int
    memory_bytes: int


def private_memory_bytes(pid):
    """Memory that is there for this process only. Not what it maps shared and read-only: a page of the cache that
    only one worker has touched yet is "private" to /proc, and the cache's all the same."""
    total_kib = 0
    of_others = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):  # ADDRESSES PERMISSIONS ...: the next mapping
            of_others = words[1] == "r--s"
        elif words[0] in ("Private_Clean:", "Private_Dirty:") and not of_others:
            total_kib += int(words[1])
    return total_kib << 10


class Daemon:
    """Starts creedenced in `work`/run and `work`/state. stop() ends the whole host: daemon, workers, cache."""

    def __init__(self, work, options=()):
        self.work = Path(work)
        self.run_dir = self.work / "run"
        self.state_dir = self.work / "state"
        self.socket_path = self.run_dir / "creedenced.sock"
        self.options = list(options)
        self.process = None

    # -- life

    def start(self, timeout_s=30):
        command = [program("creedenced"), f"--state-dir={self.state_dir}", f"--run-dir={self.run_dir}", *self.options]
        self.process = Process(command, self.work / "creedenced.log")
        self.process.wait_for(lambda: is_listening(self.socket_path), timeout_s, f"socket {self.socket_path}")
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *unused):
        self.stop()

    def kill(self):
        """SIGKILL to the daemon alone: the workers go on."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.popen.wait()

    def stop(self):
        """End the daemon, then by process id everything that it left running on purpose."""
        pids = self.program_pids()
        if self.process:
            self.process.terminate()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def program_pids(self):
        """Workers and the cache service, from the daemon's records in its run directory."""
        pids = []
        for record in [*self.run_dir.glob("disks/*.run"), *self.run_dir.glob("*.run")]:
            try:
                pids.append(int(record.read_text().split()[0]))
            except (OSError, ValueError, IndexError):
                continue
        return pids

    # -- asking

    def call(self, method, **params):
        """One JSON-RPC request, on a connection of its own; its result."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT_S)
            try:
                connection.connect(str(self.socket_path))
                request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
                connection.sendall(json.dumps(request).encode() + b"\n")
                line = connection.makefile("rb").readline()
            except OSError as error:
                raise DaemonError(f"{method}: {error}") from error
        if not line:
            raise DaemonError(f"{method}: the daemon closed the connection")
        answer = json.loads(line)
        if "error" in answer:
            raise DaemonError(f"{method}: {answer['error']['message']} ({answer['error']['code']})")
        return answer["result"]

    def cli(self, *words):
        """Run `creedence`; its standard output."""
        command = [str(word) for word in (program("creedence"), *words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S,
                              env={**os.environ, "CREEDENCE_SOCKET": str(self.socket_path)})
        if done.returncode:
            raise DaemonError(f"`creedence {' '.join(map(str, words))}` ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    # -- disks

    def attach(self, name, *layers, **parameters):
        """Attach a disk; layers are (format, path), leaf first. Its socket."""
        described = [{"format": kind, "path": str(Path(path).resolve())} for kind, path in layers]
        return Path(self.call("disk.attach", name=name, layers=described, **parameters)["socket"])

    def socket_of(self, name):
        return Path(self.call("disk.show", name=name)["socket"])

    def worker_pid(self, name):
        return self.call("disk.show", name=name)["pid"]

    def wait_worker(self, name, other_than=None, timeout_s=10):
        """The pid of the disk's worker, once there is one (that is not `other_than`)."""

        def look():
            pid = self.call("disk.show", name=name).get("pid")
            return pid if pid != other_than else None

        return wait_until(look, timeout_s, f"a new worker of {name}")

    def stats(self, name):
        """What the disk's worker says about itself."""
        [entry] = self.call("disk.stats", name=name)["disks"]
        if "stats" not in entry:
            raise DaemonError(f"disk {name}: {entry.get('error')}")
        return entry["stats"]

    def disk(self, name):
        stats = self.stats(name)
        return DiskStats(**{field: stats[field] for field in DiskStats.__dataclass_fields__})

    # -- the cache

    def cache(self):
        """What the cache service says about itself."""
        shown = self.call("cache.show")
        if "stats" not in shown:
            raise DaemonError(f"cache: {shown.get('error', 'not running')}")
        return shown["stats"]

    def wait_cache(self, other_than=None, timeout_s=10):
        """The pid of the cache service, once it runs (and is not `other_than`)."""

        def look():
            try:
                pid = self.cache()["pid"]
            except DaemonError:
                return None
            return pid if pid != other_than else None

        return wait_until(look, timeout_s, "the cache service")


def kill_worker(daemon, name):
    """SIGKILL to the disk's worker; returns the pid that it had."""
    pid = daemon.wait_worker(name)
    os.kill(pid, signal.SIGKILL)
    return pid
