# SPDX-License-Identifier: Apache-2.0
"""The test bed: programs, cores, images, and one directory for everything, which goes when it is over."""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from lib.process import ProcessError, ProcessGroup

from suite import host

MIB = 1 << 20
GIB = 1 << 30


@dataclass
class Plan:
    """How much of everything."""
    rounds: int = 5
    runtime_s: float = 3.0
    ramp_s: float = 1.0
    base_bytes: int = 2 * GIB
    leaf_bytes: int = 2 * GIB
    storm_guests: int = 32
    storm_rounds: int = 3
    storm_working_set: int = 150 * MIB
    disks: int = 1000
    idle_workers: int = 32
    idle_s: float = 10.0
    vifs: int = 1000
    acl_rules: int = 10_000

    @staticmethod
    def quick():
        return Plan(rounds=2, runtime_s=1.0, ramp_s=0.5, base_bytes=GIB // 2, leaf_bytes=GIB // 2, storm_guests=8,
                    storm_rounds=1, storm_working_set=50 * MIB, disks=50, idle_workers=8, idle_s=3.0, vifs=100, acl_rules=1000)


class BenchError(Exception):
    """A measurement that could not be made, or whose result is wrong; the text says which."""


@dataclass
class Bed:
    """Where and with what things are measured."""
    build: Path
    plan: Plan
    work: Path
    group: ProcessGroup
    worker_core: int
    generator_core: int
    commands: dict = field(default_factory=dict)  # contender -> its command line, as run

    def program(self, name):
        """A program of ours, as built."""
        for folder in ("src/cmd", "bench"):
            path = self.build / folder / name
            if path.is_file():
                return path
        raise BenchError(f"no {name} under {self.build}: build it with `make`")

    def has(self, name):
        return any((self.build / folder / name).is_file() for folder in ("src/cmd", "bench"))

    def show(self, name, server, listen):
        """Remember a server's command line for the report."""
        self.commands.setdefault(name, self.shown(self.pinned(self.worker_core, server.command(self, listen))))

    def pinned(self, core, command):
        return ["taskset", "-c", str(core), *map(str, command)]

    def run_text(self, command, timeout_s):
        """Run to the end; its output."""
        done = subprocess.run([str(w) for w in command], capture_output=True, text=True, timeout=timeout_s)
        if done.returncode != 0:
            kind = "what came back is wrong" if done.returncode == 1 else "could not run"
            raise BenchError(f"{kind}: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return done.stdout

    def call(self, command):
        self.run_text(command, 600)

    def run_json(self, command, timeout_s):
        """Run to the end and parse the last line of its output."""
        return json.loads(self.run_text(command, timeout_s).strip().splitlines()[-1])

    def generate(self, socket, *options):
        """vhost-blk-bench on the generator's core; its result."""
        p = self.plan
        command = self.pinned(self.generator_core, [self.program("vhost-blk-bench"), f"--socket={socket}", "--json",
                                                    f"--runtime={p.runtime_s}", f"--ramp={p.ramp_s}", *options])
        return self.run_json(command, 60 + p.runtime_s + p.ramp_s)

    def memcpy(self, area_bytes, block_bytes, order):
        command = self.pinned(self.worker_core, [self.program("memcpy-bench"), area_bytes, block_bytes, order,
                                                 self.plan.runtime_s])
        return self.run_json(command, 120)

    def make_pattern(self, path, size_bytes):
        self.call([self.program("vhost-blk-bench"), "--make-pattern", path, size_bytes])
        return path

    def qemu_img(self, *words):
        self.call(["qemu-img", *words])

    def shown(self, command):
        """A command line as a reader wants it: no long paths."""
        text = " ".join(map(str, command))
        return text.replace(str(self.work) + "/", "").replace(str(self.build) + "/src/cmd/", "").replace(
            str(self.build) + "/bench/", "")


class open_bed:
    """`with open_bed(...) as bed`: the directory and every process are gone at the end."""

    def __init__(self, build, plan, parent):
        work = Path(tempfile.mkdtemp(prefix="creedence-bench-", dir=parent))
        worker_core, generator_core = host.cores()
        self.bed = Bed(Path(build).resolve(), plan, work, ProcessGroup(work), worker_core, generator_core)

    def __enter__(self):
        self.bed.group.__enter__()
        return self.bed

    def __exit__(self, *why):
        self.bed.group.__exit__(*why)
        shutil.rmtree(self.bed.work, ignore_errors=True)


__all__ = ["Bed", "BenchError", "GIB", "MIB", "Plan", "ProcessError", "open_bed"]
