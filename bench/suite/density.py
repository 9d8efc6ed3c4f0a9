# SPDX-License-Identifier: Apache-2.0
"""What an idle disk costs, and a thousand of them."""

import json
import shutil
import subprocess
import time
from statistics import median

from suite import host
from suite.bed import BenchError
from suite.measure import Check, Row, Section, Series, progress, progress_end
from suite.servers import CacheService, Creedence, Image, QemuStorageDaemon, start

OURS, RIVAL = "creedence", "qemu-storage-daemon"


class DensityBed:
    def __init__(self, bed):
        self.bed = bed
        self.base = bed.make_pattern(bed.work / "density-base.raw", 256 << 20)
        self.folder = bed.work / "density"

    def _clones(self, count):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        first = self.folder / "0.qcow2"
        self.bed.qemu_img("create", "-q", "-f", "qcow2", "-b", self.base, "-F", "raw", first)
        for i in range(1, count):
            shutil.copyfile(first, self.folder / f"{i}.qcow2")

    def _server(self, which, i, cache):
        leaf = self.folder / f"{i}.qcow2"
        if which == OURS:
            return Creedence(Image(leaf, "qcow2", self.base, direct=True, base_direct=True), cache.socket)
        return QemuStorageDaemon(Image(leaf, "qcow2", self.base))

    def _start_all(self, which, count, cache):
        workers, started_s = [], []
        for i in range(count):
            begin = time.monotonic()
            workers.append(start(self.bed, self._server(which, i, cache), self.folder / f"{i}.sock", f"density-{i}"))
            started_s.append(time.monotonic() - begin)
            if i % 50 == 49:
                progress(f"{count} idle disks", f"{which}, {i + 1} started")
        return workers, started_s

    def measure(self, which, count):
        """Start `count` workers, attach to all, look at them while they idle."""
        bed, idle_s = self.bed, self.bed.plan.idle_s
        self._clones(count)
        cache = CacheService(bed, 512 << 20, "density-cache") if which == OURS else None
        begin = time.monotonic()
        workers, started_s = self._start_all(which, count, cache)
        all_started_s = time.monotonic() - begin
        try:
            front_ends = subprocess.Popen(
                bed.pinned(bed.generator_core, [bed.program("vhost-blk-bench"), "--attach-many", self.folder,
                                                f"--count={count}", f"--idle={idle_s + 4}", "--verify", "--event-idx"]),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            attached = json.loads(front_ends.stdout.readline() or "{}")
            if attached.get("state") != "attached":
                why = front_ends.communicate(timeout=120)[1].strip()
                return {"attached": {"count": 0, **attached}, "failed": why}
            time.sleep(1)
            pids = [w.pid for w in workers]
            service_pids = [cache.process.pid] if cache else []
            before, service_before = host.usage(pids), host.usage(service_pids)
            time.sleep(idle_s)
            idle, service_idle = host.usage(pids) - before, host.usage(service_pids) - service_before
            sample = pids if count <= 64 else pids[:: count // 64]
            memory = [host.private_bytes(pid) for pid in sample]
            why = front_ends.communicate(timeout=120)[1]
            if front_ends.returncode != 0:
                raise BenchError(f"{count} idle disks of {which}: {why}")
        finally:
            self._stop(workers, cache)
        return {"attached": attached, "start_s": started_s, "all_started_s": all_started_s, "private_bytes": memory,
                "idle_cpu_s": idle.cpu_s, "idle_s": idle_s, "service_idle_cpu_s": service_idle.cpu_s}

    def _stop(self, workers, cache):
        for worker in workers:
            worker.popen.terminate()
        for worker in workers:
            worker.terminate(30)
            self.bed.group.processes.remove(worker)
        if cache:
            cache.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self):
        self.base.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _rows(count, results):
    if not results:
        return []

    def row(label, unit, pick):
        return Row(f"{count} disks: {label}", unit, {c: Series([pick(r)], [r]) for c, r in results.items()},
                   more_is_better=False)
    return [
        row("private memory per idle worker", "B", lambda r: median(r["private_bytes"])),
        row("processor time of all workers, idle, per second", "s", lambda r: r["idle_cpu_s"] / r["idle_s"]),
        row("start of a worker, median", "s", lambda r: median(r["start_s"])),
        row("attach to first read, median", "s", lambda r: r["attached"]["attach_ms"]["p50"] / 1e3),
        row("attach to first read, slowest", "s", lambda r: r["attached"]["attach_ms"]["max"] / 1e3),
        row("attach all, one after the other", "s", lambda r: r["attached"]["seconds"]),
    ]


def _idle_percent(result, count):
    return result["idle_cpu_s"] / result["idle_s"] / count * 100


def _judge(section, count, result):
    """The goals, for `count` disks of ours."""
    section.checks.append(Check("disks attached at once", result["attached"]["count"], count, "disks"))
    if "failed" in result:
        section.notes.append(f"{count} disks: {result['failed']}")
        return
    section.checks += [
        Check(f"private memory of an idle worker among {count}, the largest seen", max(result["private_bytes"]) / (1 << 20),
              3, "MiB", at_most=True),
        Check(f"processor use of an idle worker among {count}", _idle_percent(result, count), 0.001, "%", at_most=True),
    ]
    section.notes.append(f"The cache service, shared by all {count}, used "
                         f"{result['service_idle_cpu_s'] / result['idle_s'] * 100:.4f} % of a core meanwhile.")


def run(bed):
    density = DensityBed(bed)
    few, many = bed.plan.idle_workers, bed.plan.disks
    section = Section("Idle disks", [OURS, RIVAL])
    try:
        for count, contenders in ((few, (OURS, RIVAL)), (many, (OURS,))):
            results = {which: density.measure(which, count) for which in contenders}
            _judge(section, count, results[OURS])
            section.rows += _rows(count, {which: r for which, r in results.items() if "failed" not in r})
        progress_end()
    finally:
        density.close()
    section.notes.append("Each worker has a front end attached that has read one block. Idle use below 0.001 % of a core "
                         "counts as none.")
    return [section]
