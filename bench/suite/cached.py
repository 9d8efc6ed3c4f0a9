# SPDX-License-Identifier: Apache-2.0
"""Reads of a base layer that is in memory: our shared cache against qemu-storage-daemon and the page cache."""

import time

from suite.measure import Check, Row, Section, interleave
from suite.servers import CacheService, Creedence, Image, QemuStorageDaemon, running

SPLIT, PACKED, STAGED = "creedence, split ring", "creedence, packed ring", "creedence, staged"
QSD_QCOW2, QSD_RAW, MEMCPY = "qemu-storage-daemon, qcow2 + backing", "qemu-storage-daemon, raw", "memcpy"
SEQUENTIAL = ("--rw=read", "--bs=128k")
RANDOM = ("--rw=randread", "--bs=4k")


class CachedBed:
    """A base with a known content in our cache and in the page cache, and clones of it."""

    def __init__(self, bed):
        self.bed = bed
        size = bed.plan.base_bytes
        self.base = bed.make_pattern(bed.work / "base.raw", size)
        self.clones = {}
        for name in ("ours", "qemu"):
            self.clones[name] = bed.work / f"clone-{name}.qcow2"
            bed.qemu_img("create", "-q", "-f", "qcow2", "-b", self.base, "-F", "raw", self.clones[name])
        self.cache = CacheService(bed, size + size // 4)
        ours = Image(self.clones["ours"], "qcow2", self.base, "raw", direct=True, base_direct=True)
        self.ours = Creedence(ours, self.cache.socket)
        self.staged = Creedence(ours, self.cache.socket, ["--datapath=staged"])
        self.qsd_qcow2 = QemuStorageDaemon(Image(self.clones["qemu"], "qcow2", self.base, "raw"))
        self.qsd_raw = QemuStorageDaemon(Image(self.base, "raw", read_only=True))
        self._warm()

    def _warm(self):
        """Every block into our cache and into the page cache."""
        with running(self.bed, self.ours, "warm") as (socket, _):
            blocks = self.bed.plan.base_bytes >> 17
            while True:
                done = self.bed.generate(socket, *SEQUENTIAL, "--iodepth=8", "--runtime=2", "--ramp=0", "--verify=full")
                if done["ios"] >= blocks or self.cached("cached_bytes") >= self.bed.plan.base_bytes:
                    break
            self._wait_huge()
        with open(self.base, "rb") as base:
            while base.read(1 << 20):
                pass

    def cached(self, what):
        return sum(layer[what] for layer in self.cache.ask("stats")["layers"])

    def _wait_huge(self):
        """The cache makes huge pages when it has nothing else to do: until it has stopped."""
        before, since = -1, time.monotonic()
        while time.monotonic() - since < 3:
            now = self.cached("huge_bytes")
            if now != before:
                before, since = now, time.monotonic()
            if now == self.bed.plan.base_bytes:
                break
            time.sleep(0.1)
        self.huge_bytes = now

    def reader(self, server, name, *options):
        """A function that measures once. The sample is requests a second, or bytes for sequential reads."""
        key = "bytes_per_s" if "--rw=read" in options else "iops"

        def measure():
            with running(self.bed, server, name) as (socket, process):
                result = self.bed.generate(socket, *options, "--verify=sectors")
            return result[key], result
        return measure

    def copier(self, block_bytes, order):
        key = "bytes_per_s" if order == "sequential" else "copies_per_s"

        def measure():
            result = self.bed.memcpy(self.bed.plan.base_bytes, block_bytes, order)
            return result[key], result
        return measure

    def close(self):
        self.cache.stop()
        for path in (self.base, *self.clones.values()):
            path.unlink(missing_ok=True)


def _random_qd32(c, rounds):
    row = Row("4 KiB random read, depth 32", "IOPS")
    interleave(row, rounds, {
        SPLIT: c.reader(c.ours, "creedence-split", *RANDOM, "--iodepth=32", "--event-idx"),
        PACKED: c.reader(c.ours, "creedence-packed", *RANDOM, "--iodepth=32", "--event-idx", "--packed"),
        QSD_QCOW2: c.reader(c.qsd_qcow2, "qsd-qcow2", *RANDOM, "--iodepth=32", "--event-idx"),
        QSD_RAW: c.reader(c.qsd_raw, "qsd-raw", *RANDOM, "--iodepth=32", "--event-idx"),
        MEMCPY: c.copier(4096, "random"),
    })
    want = min(1.2e6, 0.65 * row.series[MEMCPY].median())
    for name in (SPLIT, PACKED):
        row.checks += [
            Check(f"{name}: at least 1.2 M IOPS or 65 % of memcpy's rate, whichever is lower",
                  row.series[name].median(), want, "IOPS"),
            Check(f"{name}: 8x qemu-storage-daemon on qcow2 + backing", row.ratio(name, QSD_QCOW2), 8),
            Check(f"{name}: 3x qemu-storage-daemon on raw", row.ratio(name, QSD_RAW), 3),
        ]
    return row


def _random_qd1(c, rounds):
    row = Row("4 KiB random read, depth 1", "IOPS")
    return interleave(row, rounds, {
        SPLIT: c.reader(c.ours, "creedence-split", *RANDOM, "--iodepth=1", "--event-idx"),
        PACKED: c.reader(c.ours, "creedence-packed", *RANDOM, "--iodepth=1", "--event-idx", "--packed"),
        QSD_QCOW2: c.reader(c.qsd_qcow2, "qsd-qcow2", *RANDOM, "--iodepth=1", "--event-idx"),
        QSD_RAW: c.reader(c.qsd_raw, "qsd-raw", *RANDOM, "--iodepth=1", "--event-idx"),
    })


def _sequential(c, rounds):
    row = Row("128 KiB sequential read, depth 32", "B/s")
    options = (*SEQUENTIAL, "--iodepth=32", "--event-idx")
    interleave(row, rounds, {
        SPLIT: c.reader(c.ours, "creedence-split", *options),
        PACKED: c.reader(c.ours, "creedence-packed", *options, "--packed"),
        QSD_QCOW2: c.reader(c.qsd_qcow2, "qsd-qcow2", *options),
        QSD_RAW: c.reader(c.qsd_raw, "qsd-raw", *options),
        MEMCPY: c.copier(131072, "sequential"),
    })
    for name in (SPLIT, PACKED):
        for rival in (QSD_QCOW2, QSD_RAW):
            row.checks.append(Check(f"{name}: 2x {rival}", row.ratio(name, rival), 2))
    return row


def _staged(c, rounds):
    section = Section("Direct data path against the staged one (two more hops and copies)", [SPLIT, STAGED])
    for label, unit, options in (("4 KiB random read, depth 32", "IOPS", RANDOM),
                                 ("128 KiB sequential read, depth 32", "B/s", SEQUENTIAL)):
        row = interleave(Row(label, unit), rounds, {
            SPLIT: c.reader(c.ours, "creedence-split", *options, "--iodepth=32", "--event-idx"),
            STAGED: c.reader(c.staged, "creedence-staged", *options, "--iodepth=32", "--event-idx"),
        })
        section.notes.append(f"{label}: direct is {row.ratio(SPLIT, STAGED):.2f}x staged.")
        section.rows.append(row)
    return section


def _ceiling_note(row, unit_bytes):
    """What the goals against the rival come to, beside what this machine's memory gives one core."""
    rival, copies = row.series[QSD_QCOW2].median(), row.series[MEMCPY].median()
    return (f"{row.label}: 8x qemu-storage-daemon on qcow2 + backing would be {8 * rival / 1e6:.2f} M IOPS, "
            f"{8 * rival * unit_bytes / 1e9:.1f} GB/s; memcpy of the same blocks alone reaches {copies / 1e6:.2f} M, "
            f"{copies * unit_bytes / 1e9:.1f} GB/s, from memory in pages of 4 KiB and without looking ahead.")


def _generator_note(section):
    """Is it the server that is measured?"""
    least = min(d["idle_passes"] for row in section.rows for name, s in row.series.items() if name != MEMCPY
                for d in s.details)
    return (f"The generator found nothing to do in at least {least * 100:.0f} % of its looks at the ring, in every sample: "
            "it waits for the servers.")


def run(bed):
    c = CachedBed(bed)
    try:
        rounds = bed.plan.rounds
        section = Section("Reads of a cached base layer, one queue", [SPLIT, PACKED, QSD_QCOW2, QSD_RAW, MEMCPY])
        section.rows = [_random_qd32(c, rounds), _random_qd1(c, rounds), _sequential(c, rounds)]
        section.notes = [
            f"Base of {bed.plan.base_bytes >> 20} MiB, in creedence-cache and in the page cache; the clone is empty. "
            "Every read is checked (first and last word of each sector). memcpy: one core copying blocks of an area "
            "of the same size. "
            f"{c.huge_bytes >> 20} MiB of the cache are huge pages.",
            _ceiling_note(section.rows[0], 4096), _generator_note(section)]
        return [section, _staged(c, rounds)]
    finally:
        c.close()
