# SPDX-License-Identifier: Apache-2.0
"""One disk through virtqueues and through a blkif ring, side by side, on a simulated Xen machine."""

from suite.measure import Row, Section, Series, progress, progress_end

FRONTS = ["virtio split", "virtio packed", "blkif copy", "blkif persistent", "blkif map", "blkif map, free"]
LOADS = {(4096, 1): "4 KiB random read, depth 1", (4096, 32): "4 KiB random read, depth 32", (45056, 32): "44 KiB random read, depth 32",
         (262144, 8): "256 KiB random read, depth 8"}


def _measure(bed, front, seconds):
    """{load: a figure} of one front end."""
    command = [bed.program("blkif-bench"), "--json", f"--only={front}", seconds]
    bed.commands.setdefault("blkif-bench", bed.shown(command))
    return {(f["bytes"], f["depth"]): f for f in bed.run_json(command, 120)["figures"]}


def run(bed):
    section = Section("A disk for a guest of Xen's and one of QEMU's (reads from memory, one queue, no hypervisor)", FRONTS)
    rows = {load: Row(label, "IOPS", {front: Series() for front in FRONTS}) for load, label in LOADS.items()}
    for turn in range(bed.plan.rounds):
        for front in FRONTS if turn % 2 == 0 else reversed(FRONTS):
            progress("blkif and virtio", f"{front}, round {turn + 1} of {bed.plan.rounds}")
            for load, figure in _measure(bed, front, bed.plan.runtime_s / 4).items():
                rows[load].series[front].samples.append(figure["iops"])
                rows[load].series[front].details.append(figure)
    progress_end()
    section.rows = list(rows.values())
    section.notes.append("The machine is simulated: a copy is a memcpy with the checks that the hypervisor makes, a map is mmap(2) and munmap(2) (\"free\": "
                         "a pointer, as if that cost nothing). What a hypercall costs, and the flush of a TLB, is not in it: the lab (`tests/xen`) has that.")
    return [section]
