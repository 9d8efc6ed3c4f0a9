# SPDX-License-Identifier: Apache-2.0
"""A Xen guest's card against a virtio-net card on the same switch, guest to guest, without Xen (guest/sim.h).

What the hypervisor takes for a copy or a map is not in it, except in the last contender, where a map is a system call: the figures say what
netif's rings and grants cost by themselves, and how much there is to be had by mapping where maps are free."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from suite.bed import BenchError
from suite.measure import Row, Section, interleave
from suite.net_pps import in_port_rules
from suite.net_servers import CreedenceSwitch, native

VIRTIO, COPY, MAP, MAP_CALLS = "virtio-net", "netif, copied", "netif, mapped", "netif, mapped by system calls"
WAYS = {COPY: ("copy", "sim"), MAP: ("map", "sim-direct"), MAP_CALLS: ("map", "sim")}
FRONT_END = {key: "1" for key in ("request-rx-copy", "feature-rx-notify", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6",
                                  "feature-ipv6-csum-offload")}
FRAME_BYTES = 65226
CASES = (
    ("64-byte frames, both ways", "pps", ["flows=1", "flows=1"], ("--frame-bytes=60",), ()),
    ("1,514-byte frames, both ways", "pps", ["flows=1", "flows=1"], ("--frame-bytes=1514",), ("--frame-bytes=1514",)),
    ("64 KiB segments, one way", "B/s", [f"stream={FRAME_BYTES}", ""], (f"--stream={FRAME_BYTES}", "--one-way"),
     ("--offloads", "--rx-buffer=4096", "--queue-size=256")),
)


def _value(unit, result):
    return result["rx_packets" if unit == "pps" else "rx_bytes"] / result["seconds"]


def _virtio(bed, unit, ports, options):
    def measure():
        with CreedenceSwitch(bed, VIRTIO, flows=in_port_rules()) as switch:
            result = native(bed, switch, ports, *options)
        return (result["rx_packets"] / result["seconds"] if unit == "pps" else result["bytes_per_s"]), result
    return measure


def _connect(switch, machine, fronts, way):
    transmit, world = WAYS[way]
    for front in fronts:
        name = f"x{front['domid']}"
        switch.ask("vif.attach", name=name, bridge="br0", number=front["domid"],
                   xen={"domid": front["domid"], "tx": transmit, "world": f"{world}:{machine}"})
        switch.ask("vif.connect", name=name, queues=front["queues"], frontend=FRONT_END)


def _drive(bed, switch, machine, options, way):
    p = bed.plan
    words = [bed.program("netif-bench"), machine, *options, f"--runtime={p.runtime_s}", f"--ramp={p.ramp_s}"]
    command = [str(word) for word in bed.pinned(bed.generator_core, words)]
    bed.commands.setdefault("netif-bench", bed.shown(command))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        fronts = json.loads(process.stdout.readline())["fronts"]
        _connect(switch, machine, fronts, way)
        process.stdin.write("go\n")
        process.stdin.flush()
        result = json.loads(process.stdout.readline())
        for front in fronts:
            switch.ask("vif.detach", name=f"x{front['domid']}")
        process.stdin.write("end\n")
        process.stdin.flush()
        if process.wait(20) != 0:
            raise BenchError(f"{way}: frames failed: {result}")
    return result


def _netif(bed, unit, way, options):
    def measure():
        folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="cr-netif-"))
        machine = folder / "machine"
        machine.mkdir()
        try:
            with CreedenceSwitch(bed, way, ports=0, flows=in_port_rules(),
                                 options=("--vif-threads=1", "--poll-us=always", "--sandbox=off")) as switch:
                result = _drive(bed, switch, machine, options, way)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return _value(unit, result), result
    return measure


def run(bed):
    section = Section("Cards of Xen guests without Xen, one switching core", [VIRTIO, *WAYS])
    for label, unit, ports, netif_options, virtio_options in CASES:
        row = Row(label, unit)
        interleave(row, bed.plan.rounds, {VIRTIO: _virtio(bed, unit, ports, virtio_options),
                                          **{way: _netif(bed, unit, way, netif_options) for way in WAYS}})
        section.rows.append(row)
        section.notes.append(f"{label}: {COPY} reaches {row.ratio(COPY, VIRTIO):.2f} of {VIRTIO}, {MAP} {row.ratio(MAP, VIRTIO):.2f}, "
                             f"{MAP_CALLS} {row.ratio(MAP_CALLS, VIRTIO):.2f}.")
    idle = min(median(d["idle_passes"] for d in row.series[way].details) for row in section.rows for way in WAYS)
    section.notes.append(f"The simulated guests found nothing to do in at least {idle * 100:.0f} % of their passes: they wait for the switch. Rings of "
                         "256 entries, pages of 4 KiB, as netfront has them; the virtio-net rings have 1,024 (256 for segments).")
    return [section]
