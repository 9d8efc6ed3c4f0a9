# SPDX-License-Identifier: Apache-2.0
"""Reads and writes of the leaf on O_DIRECT storage: against fio on the file itself, and qemu-storage-daemon."""

import json
import subprocess
from contextlib import contextmanager

from suite import host
from suite.measure import Check, Row, Section, interleave
from suite.servers import Creedence, Image, QemuStorageDaemon, running

OURS_RAW, OURS_QCOW2 = "creedence, raw", "creedence, qcow2"
STAGED = "creedence, raw, staged"
QSD_RAW, QSD_QCOW2 = "qemu-storage-daemon, raw", "qemu-storage-daemon, qcow2"
FIO, FIO_BUSY, FIO_OWN = "fio on the file", "fio, other core busy", "fio, memory of its own"
NOISE = 0.03


class LeafBed:
    """One raw file and one qcow2 of the same content, all allocated; they are used in turns."""

    def __init__(self, bed):
        self.bed = bed
        self.raw = bed.make_pattern(bed.work / "leaf.raw", bed.plan.leaf_bytes)
        self.qcow2 = bed.work / "leaf.qcow2"
        bed.qemu_img("convert", "-f", "raw", "-O", "qcow2", "-t", "none", self.raw, self.qcow2)
        host.drop_page_cache()
        self.servers = {
            OURS_RAW: (Creedence(Image(self.raw, "raw", direct=True)), "creedence-leaf-raw"),
            OURS_QCOW2: (Creedence(Image(self.qcow2, "qcow2", direct=True)), "creedence-leaf-qcow2"),
            STAGED: (Creedence(Image(self.raw, "raw", direct=True), options=["--datapath=staged"]), "creedence-leaf-staged"),
            QSD_RAW: (QemuStorageDaemon(Image(self.raw, "raw", direct=True)), "qsd-leaf-raw"),
            QSD_QCOW2: (QemuStorageDaemon(Image(self.qcow2, "qcow2", direct=True)), "qsd-leaf-qcow2"),
        }

    def server(self, which, rw, bs, depth, verify):
        server, name = self.servers[which]
        options = [f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}", "--event-idx"] + (["--verify"] if verify else [])

        def measure():
            with running(self.bed, server, name) as (socket, _):
                result = self.bed.generate(socket, *options)
            return result["iops"], result
        return measure

    @contextmanager
    def busy_generator_core(self):
        """Where a guest runs, interrupts of the disk have to share."""
        with subprocess.Popen(self.bed.pinned(self.bed.generator_core, ["sh", "-c", "while :; do :; done"])) as spinning:
            try:
                yield
            finally:
                spinning.kill()

    def fio_busy(self, rw, bs, depth):
        measure = self.fio(rw, bs, depth, "mmapshared")

        def beside_a_guest():
            with self.busy_generator_core():
                return measure()
        return beside_a_guest

    def fio(self, rw, bs, depth, memory):
        """memory: mmapshared is what the guest's is, shared and in pages of 4 KiB; malloc may get huge pages, and an
        I/O of 128 KiB is then one piece instead of 32."""
        p = self.bed.plan
        command = self.bed.pinned(self.bed.worker_core, [
            "fio", "--name=leaf", f"--filename={self.raw}", "--direct=1", "--ioengine=io_uring", f"--rw={rw}",
            f"--bs={bs}", f"--iodepth={depth}", "--time_based", f"--runtime={p.runtime_s}", f"--ramp_time={p.ramp_s}",
            "--norandommap", "--randrepeat=0", "--allow_file_create=0", f"--iomem={memory}",
            "--output-format=json"])
        self.bed.commands.setdefault("fio", self.bed.shown(command))

        def measure():
            text = self.bed.run_text(command, 60 + p.runtime_s + p.ramp_s)
            job = json.loads(text[text.index("{"):])["jobs"][0]
            side = job["write" if "write" in rw else "read"]
            return side["iops"], {"iops": side["iops"], "latency_us": side["clat_ns"]["mean"] / 1000}
        return measure

    def close(self):
        self.raw.unlink(missing_ok=True)
        self.qcow2.unlink(missing_ok=True)


def _cell(leaf, rw, bs, depth, verify):
    row = Row(f"{bs} {rw}, depth {depth}", "IOPS")
    tasks = {which: leaf.server(which, rw, bs, depth, verify) for which in (OURS_RAW, OURS_QCOW2, QSD_RAW, QSD_QCOW2)}
    tasks[FIO] = leaf.fio(rw, bs, depth, "mmapshared")
    tasks[FIO_BUSY] = leaf.fio_busy(rw, bs, depth)
    tasks[FIO_OWN] = leaf.fio(rw, bs, depth, "malloc")
    interleave(row, leaf.bed.plan.rounds, tasks)
    row.checks = [
        Check("raw: within 5 % of fio", row.ratio(OURS_RAW, FIO), 0.95, noise=NOISE),
        Check("qcow2: within 5 % of fio", row.ratio(OURS_QCOW2, FIO), 0.95, noise=NOISE),
        Check("raw: within 5 % of fio, other core busy", row.ratio(OURS_RAW, FIO_BUSY), 0.95, noise=NOISE),
        Check("qcow2: within 5 % of fio, other core busy", row.ratio(OURS_QCOW2, FIO_BUSY), 0.95, noise=NOISE),
        Check("raw: not behind qemu-storage-daemon", row.ratio(OURS_RAW, QSD_RAW), 1, noise=NOISE),
        Check("qcow2: not behind qemu-storage-daemon", row.ratio(OURS_QCOW2, QSD_QCOW2), 1, noise=NOISE),
    ]
    return row


def _staged(leaf):
    section = Section("The leaf: direct data path against the staged one", [OURS_RAW, STAGED])
    for rw, bs in (("randread", "4k"), ("read", "128k")):
        row = Row(f"{bs} {rw}, depth 32", "IOPS")
        interleave(row, leaf.bed.plan.rounds, {w: leaf.server(w, rw, bs, 32, True) for w in (OURS_RAW, STAGED)})
        section.notes.append(f"{row.label}: direct is {row.ratio(OURS_RAW, STAGED):.2f}x staged.")
        section.rows.append(row)
    return section


def run(bed):
    leaf = LeafBed(bed)
    try:
        section = Section("The leaf on O_DIRECT storage, one queue", [OURS_RAW, OURS_QCOW2, QSD_RAW, QSD_QCOW2, FIO, FIO_BUSY, FIO_OWN])
        staged = _staged(leaf)
        # Reads first, checked: fio's writes leave other content.
        for kind, verify in (("read", True), ("write", False)):
            for rw, bs in ((f"rand{kind}", "4k"), (kind, "128k")):
                section.rows += [_cell(leaf, rw, bs, depth, verify) for depth in (1, 32)]
        section.notes = ["fio reads into memory of the kind that the guest has (mmapshared: pages of 4 KiB, so that 128 KiB are 32 pieces "
                         "for the storage), and, for comparison, into memory of its own (malloc, which may be huge pages).",
                         f"Files of {bed.plan.leaf_bytes >> 20} MiB, all allocated and written. fio 3 runs on the worker's "
                         "core with io_uring on the raw file, with the other core idle and with it busy: a guest keeps it busy, and it "
                         "may be the one that serves the disk's interrupts. Ratios within 3 % of a goal count as even with it."]
        return [section, staged]
    finally:
        leaf.close()
