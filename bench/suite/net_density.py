# SPDX-License-Identifier: Apache-2.0
"""A thousand network cards attached at once, what an idle one costs, and what an event costs among many open channels."""

import json
import subprocess
import time
from statistics import median

from suite import host
from suite.bed import BenchError
from suite.measure import Check, Row, Section, Series, progress, progress_end
from suite.net_servers import CreedenceSwitch

OURS = "creedence-switch"
VIF_MEMORY_MIB = 1


def _attach(bed, count):
    """Attach to all, look at the switch while they idle."""
    idle_s = bed.plan.idle_s
    with CreedenceSwitch(bed, OURS, ports=count, options=()) as switch:  # one thread for each card, asleep when idle
        empty = host.private_bytes(switch.process.pid)
        front_ends = subprocess.Popen(
            bed.pinned(bed.generator_core, [bed.program("vhost-net-bench"), f"--attach-many={switch.folder}", f"--count={count}",
                                            f"--idle={idle_s + 4}", "--queue-size=256", "--rx-buffer=512", "--event-idx"]),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        attached = json.loads(front_ends.stdout.readline() or "{}")
        if attached.get("state") != "attached":
            raise BenchError(f"{count} cards: {attached}: {front_ends.communicate(timeout=120)[1].strip()}")
        time.sleep(2)
        pid = [switch.process.pid]
        before = host.usage(pid)
        time.sleep(idle_s)
        idle = host.usage(pid) - before
        memory = host.private_bytes(switch.process.pid)
        why = front_ends.communicate(timeout=120)[1]
        if front_ends.returncode:
            raise BenchError(f"{count} idle cards: {why}")
    return {"attached": attached, "memory_bytes": memory, "vif_bytes": (memory - empty) / count, "empty_bytes": empty,
            "whole_vif_bytes": memory / count, "idle_cpu_s": idle.cpu_s, "idle_s": idle_s}


def _cards(bed):
    count = bed.plan.vifs
    progress(f"{count} idle cards", OURS)
    result = _attach(bed, count)
    section = Section(f"{count:,} network cards in one switch", [OURS])
    attached = result["attached"]["attach_ms"]

    def row(label, unit, value):
        section.rows.append(Row(label, unit, {OURS: Series([value], [result])}, more_is_better=False))
    row("attach to first frame taken, median", "s", attached["p50"] / 1e3)
    row("attach to first frame taken, slowest", "s", attached["max"] / 1e3)
    row("attach all, one after the other", "s", result["attached"]["seconds"])
    row("private memory of the switch, by card", "B", result["whole_vif_bytes"])
    row("processor time of the switch, idle, per second", "s", result["idle_cpu_s"] / result["idle_s"])
    section.checks += [
        Check("cards attached at once", result["attached"]["count"], count, "cards"),
        Check("private memory of the switch, by card", result["whole_vif_bytes"] / (1 << 20), VIF_MEMORY_MIB, "MiB", at_most=True),
        Check("processor use of the switch, by idle card", result["idle_cpu_s"] / result["idle_s"] / count * 100, 0.001, "%", at_most=True),
    ]
    progress_end()
    return section


def _events(bed):
    """loop-bench: the same thousand channels busy, among more and more that are open."""
    counts = (1000, 10_000, 100_000, 131_071)
    label = "src/loop"
    section = Section("An event among open channels", [label])
    rows = {count: Row(f"{count:,} channels open", "s", {label: Series()}, more_is_better=False) for count in counts}
    for turn in range(bed.plan.rounds):
        progress("events", f"round {turn + 1} of {bed.plan.rounds}")
        lines = bed.run_text(bed.pinned(bed.worker_core, [bed.program("loop-bench"), *counts]), 300).splitlines()
        for result in map(json.loads, lines):
            rows[result["channels"]].series[label].samples.append(result["event_ns"] / 1e9)
            rows[result["channels"]].series[label].details.append(result)
    section.rows = list(rows.values())
    # The least of the rounds: whatever else runs on this machine only ever adds.
    first, last = (rows[count].series[label].low() for count in (counts[0], counts[-1]))
    section.checks.append(Check("cost with 131,071 channels, of that with 1,000 (least of each)", last / first, 1.0, at_most=True,
                                noise=0.1))
    any_of = rows[counts[-1]].series[label].details
    section.notes.append(f"The same 1,000 channels are signalled in every row. Any of {any_of[0]['of']:,} among 131,071, so that caches of "
                         f"processor and kernel miss: {median(d['any_event_ns'] for d in any_of):.0f} ns.")
    progress_end()
    return section


def run(bed):
    return [_cards(bed), _events(bed)]
