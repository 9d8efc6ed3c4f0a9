#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measure Creedence on this machine, against qemu-storage-daemon, Open vSwitch, the Linux bridge, fio and memcpy, and write a report.

    bench/run.py [--quick] [--only cached,leaf,storm,density,net_pps,...] [--update] [--rounds N] [--build DIR]

Needs root (page cache, other processes' accounts), an otherwise quiet machine with two cores, and about 10 GB of
disk and memory. Writes latest.json, latest.md and latest.svg into bench/results.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "bench"), str(TOP / "tests")]

from suite import (cached, density, host, leaf, net_ablation, net_acl, net_attack, net_density, net_flowmods, net_pps, net_stream,  # noqa: E402
                   net_tap, report, storm, xen_clones, xen_disk, xen_lab, xen_net)
from suite.bed import BenchError, Plan, ProcessError, open_bed  # noqa: E402
from suite.measure import Section, progress_end, section_from  # noqa: E402

PARTS = {"cached": cached.run, "leaf": leaf.run, "storm": storm.run, "density": density.run,
         "net_pps": net_pps.run, "net_acl": net_acl.run, "net_stream": net_stream.run, "net_tap": net_tap.run,
         "net_ablation": net_ablation.run, "net_density": net_density.run, "net_attack": net_attack.run,
         "net_flowmods": net_flowmods.run, "xen_disk": xen_disk.run, "xen_net": xen_net.run,
         "xen_lab": xen_lab.run, "xen_lab_pvh": xen_lab.run_pvh, "xen_clones": xen_clones.run}


def parse_arguments():
    parser = argparse.ArgumentParser(description="Measure Creedence on this machine.")
    parser.add_argument("--quick", action="store_true", help="small and short: does it all work, not how fast it is")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, help="samples of each figure (5)")
    parser.add_argument("--runtime", type=float, help="seconds of each sample (3)")
    parser.add_argument("--build", default=os.environ.get("CREEDENCE_BUILD", TOP / "build" / "release"))
    parser.add_argument("--work", default="/var/tmp", help="where the images are made (on the storage to measure)")
    parser.add_argument("--results", default=TOP / "bench" / "results", type=Path)
    parser.add_argument("--update", action="store_true",
                        help="keep the parts of the last results that are not measured now (each says when it was)")
    parser.add_argument("--debug-anyway", action="store_true", help="measure a debug build, and say so")
    arguments = parser.parse_args()
    unknown = set(arguments.only.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--only: no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return arguments


def plan_from(arguments):
    plan = Plan.quick() if arguments.quick else Plan()
    if arguments.rounds:
        plan.rounds = arguments.rounds
        plan.storm_rounds = min(plan.storm_rounds, arguments.rounds)
    if arguments.runtime:
        plan.runtime_s = arguments.runtime
    return plan


def check_machine(bed, arguments):
    """What must be so, or be said, before anything is measured."""
    if os.geteuid() != 0:
        raise BenchError("bench/run.py needs root: it drops the page cache and reads other processes' accounts")
    version = subprocess.run([bed.program("creedence-vbd"), "--version"], capture_output=True, text=True).stdout.strip()
    machine = host.describe(version)
    if machine["debug"]:
        print(f"\n*** DEBUG BUILD: {version}\n*** Its speed says nothing. Build with --buildtype=release "
              "(`make`), or `creedence debug off`.\n", file=sys.stderr)
        if not arguments.debug_anyway:
            raise BenchError("refusing to measure a debug build (--debug-anyway does it all the same)")
    if machine["cores"] < 2:
        print("*** one core only: worker and generator share it, figures will be far too low", file=sys.stderr)
    if machine["load_at_start"] > 0.5:
        print(f"*** this machine is not idle (load average {machine['load_at_start']:.2f}): figures will vary", file=sys.stderr)
    return machine


def measure_parts(bed, parts, plan, commit):
    """All sections. A part that fails costs only itself, and is in the report."""
    sections = []
    for part in parts:
        try:
            measured = PARTS[part](bed)
        except (BenchError, ProcessError) as error:
            progress_end()
            print(f"bench: {part}: {error}", file=sys.stderr)
            measured = [Section(f"NOT MEASURED: {part}", [], notes=[str(error)], failed=True)]
        for section in measured:
            section.part = part
            section.origin = (f"Part `{part}`, commit {commit}, {time.strftime('%Y-%m-%d')}, {plan.rounds} rounds of "
                              f"{plan.runtime_s:g} s.")
        sections += measured
    return sections


def kept_from(results, parts, sections, commands):
    """The sections of an earlier run that stay, in the suite's order, and its command lines."""
    path = results / "latest.json"
    if not path.exists():
        return sections, commands
    before = json.loads(path.read_text())
    kept = [section_from(data) for data in before["sections"] if data.get("part") and data["part"] not in parts]
    order = list(PARTS)
    return sorted(kept + sections, key=lambda s: order.index(s.part)), {**before["commands"], **commands}


def write_results(arguments, machine, plan, sections, commands):
    results = arguments.results
    results.mkdir(parents=True, exist_ok=True)
    if arguments.update:
        sections, commands = kept_from(results, arguments.only.split(","), sections, commands)
    text = report.markdown(machine, plan, sections, commands)
    (results / "latest.json").write_text(report.as_json(machine, plan, sections, commands))
    (results / "latest.md").write_text(text)
    (results / "latest.svg").write_text(report.svg(machine, sections))
    print(text)
    print(f"written: {results}/latest.md, latest.json, latest.svg", file=sys.stderr)


def main():
    arguments = parse_arguments()
    plan = plan_from(arguments)
    try:
        with open_bed(arguments.build, plan, arguments.work) as bed:
            machine = check_machine(bed, arguments)
            sections = measure_parts(bed, arguments.only.split(","), plan, machine["commit"])
    except (BenchError, ProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress_end()
        return 130
    write_results(arguments, machine, plan, sections, bed.commands)
    return 1 if any(section.failed for section in sections) else 0


if __name__ == "__main__":
    sys.exit(main())
