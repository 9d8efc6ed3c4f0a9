# SPDX-License-Identifier: Apache-2.0
"""The machine that is measured on, and what processes cost on it."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent


def cores():
    """The core for what is measured, and the one for what drives it."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[min(1, len(usable) - 1)]


def drop_page_cache():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def _first_line(path, pattern):
    for line in Path(path).read_text().splitlines():
        found = re.match(pattern, line)
        if found:
            return found.group(1).strip()
    return "?"


def _commit():
    def git(*words):
        return subprocess.run(["git", "-C", str(TOP), *words], capture_output=True, text=True).stdout.strip()
    commit = git("rev-parse", "--short=12", "HEAD") or "?"
    changed = git("status", "--porcelain", "--untracked-files=no", "src", "bench/*.c", "meson.build")
    return commit + (" with uncommitted changes" if changed else "")


def describe(worker_version):
    """What a reader must know of the machine; `worker_version` is `creedence-vbd --version`."""
    kib = int(_first_line("/proc/meminfo", r"MemTotal:\s*(\d+)"))
    return {
        "cpu": _first_line("/proc/cpuinfo", r"model name\s*:\s*(.*)"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": kib * 1024,
        "kernel": os.uname().release,
        "commit": _commit(),
        "worker": worker_version,
        "debug": "debug=n" not in worker_version,
        "load_at_start": os.getloadavg()[0],
    }


@dataclass
class Usage:
    """What some processes have used so far, or between two looks."""
    cpu_s: float
    read_bytes: int
    write_bytes: int

    def __sub__(self, other):
        return Usage(self.cpu_s - other.cpu_s, self.read_bytes - other.read_bytes, self.write_bytes - other.write_bytes)


def _cpu_seconds(pid):
    """All threads of a process, to the nanosecond (a thread that ended meanwhile is not counted)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            continue
    return total / 1e9


def thread_seconds(pid, name):
    """Of the threads of that name."""
    return sum(int((task / "schedstat").read_text().split()[0]) / 1e9 for task in Path(f"/proc/{pid}/task").iterdir()
               if (task / "comm").read_text().strip() == name)


def machine_seconds():
    """Processor time of everything on this machine, the kernel's own work included."""
    busy = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]]
    return (sum(busy) - busy[3] - busy[4]) / os.sysconf("SC_CLK_TCK")


def usage(pids):
    """Processor time and bytes of storage (not page cache) of these processes."""
    total = Usage(0.0, 0, 0)
    for pid in pids:
        io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        total.cpu_s += _cpu_seconds(pid)
        total.read_bytes += int(io["read_bytes"])
        total.write_bytes += int(io["write_bytes"])
    return total


def private_bytes(pid):
    """Memory that this process alone has: what one more of its kind costs."""
    kib = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        words = line.split()
        if words[0] in ("Private_Clean:", "Private_Dirty:"):
            kib += int(words[1])
    return kib * 1024
