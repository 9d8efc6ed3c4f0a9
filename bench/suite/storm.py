# SPDX-License-Identifier: Apache-2.0
"""A boot storm: many clones of one base replay a boot at once; how often is the base read from storage?"""

import shutil
from statistics import median

from suite import host
from suite.bed import BenchError
from suite.measure import Check, Row, Section, Series, progress, progress_end
from suite.servers import CacheService, Creedence, Image, QemuStorageDaemon, settle, start

CACHED, UNCACHED, STORE_DIRECT, STORE_PAGES = ("creedence, shared cache", "creedence, cache off",
                                               "qemu-storage-daemon, O_DIRECT", "qemu-storage-daemon, page cache")


class StormBed:
    def __init__(self, bed):
        p = bed.plan
        self.bed = bed
        size = max(p.base_bytes, 2 * p.storm_working_set)
        self.base = bed.make_pattern(bed.work / "storm-base.raw", size)
        self.trace = bed.work / "boot.trace"
        bed.call([bed.program("vhost-blk-bench"), "--make-trace", self.trace, size, p.storm_working_set])
        self.budget_bytes = size

    def _clones(self, folder, count):
        """Fresh clones: one made, the others copied from it."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        first = folder / "0.qcow2"
        self.bed.qemu_img("create", "-q", "-f", "qcow2", "-b", self.base, "-F", "raw", first)
        for i in range(1, count):
            shutil.copyfile(first, folder / f"{i}.qcow2")
        return [folder / f"{i}.qcow2" for i in range(count)]

    def _server(self, which, clone, cache):
        if which == CACHED:
            return Creedence(Image(clone, "qcow2", self.base, direct=True, base_direct=True), cache.socket)
        if which == UNCACHED:
            return Creedence(Image(clone, "qcow2", self.base, direct=True, base_direct=True))
        direct = which == STORE_DIRECT
        return QemuStorageDaemon(Image(clone, "qcow2", self.base, direct=direct, base_direct=direct))

    def storm(self, which, count):
        """One storm. What the front ends saw, and what the servers used."""
        bed = self.bed
        folder = bed.work / "storm"
        clones = self._clones(folder, count)
        host.drop_page_cache()
        cache = CacheService(bed, self.budget_bytes, "storm-cache") if which == CACHED else None
        servers = [self._server(which, clone, cache) for clone in clones]
        bed.show(f"boot storm: {which}", servers[0], folder / "0.sock")
        workers = [start(bed, server, folder / f"{i}.sock", f"storm-{i}") for i, server in enumerate(servers)]
        try:
            pids = [w.pid for w in workers]
            service = [cache.process.pid] if cache else []
            before, service_before = host.usage(pids), host.usage(service)
            result = bed.run_json(bed.pinned(bed.generator_core, [
                bed.program("vhost-blk-bench"), "--storm", folder, f"--count={count}", f"--trace={self.trace}",
                "--event-idx", "--verify"]), 600)
            used, service_used = host.usage(pids) - before, host.usage(service) - service_before
            result["host_cpu_s"] = used.cpu_s + service_used.cpu_s
            result["worker_read_bytes"] = used.read_bytes
            result["service_read_bytes"] = service_used.read_bytes
            result["storage_read_bytes"] = used.read_bytes + service_used.read_bytes
            if cache:
                result["cache_used_bytes"] = cache.ask("stats")["used_bytes"]
        finally:
            for worker in workers:
                worker.popen.terminate()
            for worker in workers:
                worker.terminate(30)
                bed.group.processes.remove(worker)
            if cache:
                cache.stop()
            shutil.rmtree(folder, ignore_errors=True)
        settle()
        return result

    def close(self):
        self.base.unlink(missing_ok=True)
        self.trace.unlink(missing_ok=True)


def _series(results, key):
    return Series([r[key] for r in results], results)


def _boot_series(results):
    return Series([r["boot_s"]["median"] for r in results], results)


def _verdicts(section, one, many, count, storm_bytes):
    base_one = median(r["service_read_bytes"] for r in one[CACHED])
    base_many = median(r["service_read_bytes"] for r in many[CACHED])
    if base_one < storm_bytes / 2:
        raise BenchError(f"one boot of {storm_bytes} bytes made the cache service read {base_one} bytes of the base: "
                         "the workers do not use it")
    bypassed = median(r["worker_read_bytes"] for r in many[CACHED]) / count
    section.checks.append(Check(f"base bytes read for {count} boots, against one boot", base_many / base_one, 1.02,
                                at_most=True))
    section.notes.append(
        f"Shared cache: {base_one / 1e6:.1f} MB of the base read from storage for one boot, {base_many / 1e6:.1f} MB for "
        f"{count}. Each worker itself read {bypassed / 1e6:.2f} MB, of its own leaf. "
        f"The cache held {median(r['cache_used_bytes'] for r in many[CACHED]) / 1e6:.1f} MB.")
    for rival in (UNCACHED, STORE_DIRECT, STORE_PAGES):
        time = median(a["seconds"] / b["seconds"] for a, b in zip(many[rival], many[CACHED]))
        cpu = median(a["host_cpu_s"] / b["host_cpu_s"] for a, b in zip(many[rival], many[CACHED]))
        section.notes.append(f"{rival} takes {time:.2f}x the time and {cpu:.2f}x the processor time of the shared cache.")


def run(bed):
    storm = StormBed(bed)
    count = bed.plan.storm_guests
    contenders = [CACHED, UNCACHED, STORE_DIRECT, STORE_PAGES]
    one, many = {c: [] for c in contenders}, {c: [] for c in contenders}
    try:
        for turn in range(bed.plan.storm_rounds):
            for which in contenders if turn % 2 == 0 else reversed(contenders):
                progress("boot storm", f"{which}, round {turn + 1} of {bed.plan.storm_rounds}")
                one[which].append(storm.storm(which, 1))
                many[which].append(storm.storm(which, count))
        progress_end()
    finally:
        storm.close()
    section = Section(f"Boot storm: {count} clones of one base, all at once, storage cold", contenders)
    section.notes.append(f"One boot reads {bed.plan.storm_working_set >> 20} MiB of the base in bursts and writes a little of "
                         "its own; all servers share one core. Every read is checked.")
    for label, unit, source in (("one boot alone", "s", one), (f"{count} boots, all done after", "s", many)):
        section.rows.append(Row(label, unit, {c: _series(source[c], "seconds") for c in contenders}, more_is_better=False))
    section.rows += [
        Row("median boot", "s", {c: _boot_series(many[c]) for c in contenders}, more_is_better=False),
        Row("read from storage, all", "B", {c: _series(many[c], "storage_read_bytes") for c in contenders},
            more_is_better=False),
        Row("processor time of the servers", "s", {c: _series(many[c], "host_cpu_s") for c in contenders},
            more_is_better=False),
    ]
    _verdicts(section, one, many, count, bed.plan.storm_working_set)
    return [section]
