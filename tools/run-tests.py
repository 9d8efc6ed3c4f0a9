#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run the project's tests and say, in one last line, how many passed, failed and were skipped.

Steps: unit tests of the release build, the same under sanitizers, every fuzz target for a short
while, and the whole-system tests (pytest). Each step adds its results; logs of what failed are
printed where it failed. Exit status 1 when something failed.

What failed is tried once more with nothing beside it, unless it says that memory, data or a program's own
assertions were wrong, or more than a few tests failed: so a machine that stood still for some seconds is told from a fault. What passes then
counts as passed and is named as UNSTABLE, with the first failure's text above: somebody should find out why.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
FUZZ_SECONDS_IN_CHECK = 10
# Whole-system tests mostly wait, for guests to boot and for programs to be missed: some more of them than processors.
TESTS_TOGETHER = (os.cpu_count() or 1) + 1

# kind: (environment, meson options)
BUILDS = {
    "release": ({}, ["--buildtype=release"]),
    "asan": ({}, ["--buildtype=debugoptimized", "-Db_sanitize=address,undefined"]),
    "tsan": ({}, ["--buildtype=debugoptimized", "-Db_sanitize=thread"]),
    "fuzz": (
        {"CC": "clang"},
        ["--buildtype=debugoptimized", "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dfuzz=true"],
    ),
}
# How much longer than on an idle machine a test may take.
TIME_FACTOR = {"release": 3, "asan": 8, "tsan": 12}
# Suites that a build leaves out: those that fill memory, those that would take minutes.
LEFT_OUT = {"release": [], "asan": ["big"], "tsan": ["big", "slow"]}
LEFT_OUT_IF_QUICK = ["big", "long"]
# What `make check` runs longer than a developer would wait for.
LONG_ENV = {"release": {"CREEDENCE_ORACLE_S": "60"}}
# A failure that says one of these is never tried again, and none is when there are more than so many.
FINAL = re.compile(r"Sanitizer|runtime error:|Assertion .* failed|SIGSEGV|SIGABRT|corrupt|sha256|read differently|(writer|xen-check): FAILED")
MOST_AGAIN = 4
# Undefined behaviour must end the program, or the test would pass over it.
SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


@dataclass
class Results:
    passed: int = 0
    failed: list = field(default_factory=list)
    unstable: list = field(default_factory=list)
    skipped: list = field(default_factory=list)

    def settle(self, failures, again):
        """`failures`: name: (what it said, what to run it by). `again(ways)` runs those once more; it says which of them passed."""
        ways = [way for text, way in failures.values() if not FINAL.search(text)]
        passed = again(ways) if 0 < len(ways) == len(failures) <= MOST_AGAIN else set()
        for name, (_, way) in failures.items():
            if way in passed:
                self.passed += 1
                self.unstable.append(name)
            else:
                self.failed.append(name)


def heading(text):
    print(f"== {text}", flush=True)


def run(command, **kwargs):
    return subprocess.run([str(word) for word in command], cwd=TOP, **kwargs)


def build(kind, where, results):
    """Configure build/KIND once and bring it up to date. False when that fails, which counts."""
    directory = where / kind
    environment, options = BUILDS[kind]
    log = subprocess.DEVNULL if (directory / "build.ninja").exists() else None
    if not (directory / "build.ninja").exists():
        done = run(["meson", "setup", directory, *options], env={**os.environ, **environment}, stdout=log)
        if done.returncode:
            results.failed.append(f"{kind}: meson setup")
            return False
    done = run(["ninja", "-C", directory], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout)
        results.failed.append(f"{kind}: build")
        return False
    return True


def unit_tests(kind, where, results, quick=False):
    heading(f"unit tests, {kind} build")
    if not build(kind, where, results):
        return
    extra = {} if quick else LONG_ENV.get(kind, {})
    failures = {}
    left_out = LEFT_OUT_IF_QUICK if quick else LEFT_OUT[kind]
    words = [f"--no-suite={suite}" for suite in left_out] + ([f"--num-processes={TESTS_TOGETHER}"] if quick else [])
    for test in meson_test(kind, where, words, extra):
        name, result = f"{kind}: {test['name']}", test["result"]
        if result in ("OK", "EXPECTEDFAIL"):
            results.passed += 1
            print(f"  passed  {name} ({test['duration']:.1f} s)")
        elif result == "SKIP":
            results.skipped.append(name)
            print(f"  skipped {name}")
        else:
            text = f"{test.get('stdout', '')}{test.get('stderr', '')}"
            failures[f"{name} ({result.lower()})"] = (text, test["name"].rpartition(" / ")[2])
            print(f"  FAILED  {name} ({result.lower()})\n{text}")
    results.settle(failures, lambda names: {test["name"].rpartition(" / ")[2] for test in meson_test(kind, where, ["-j1", *names], extra)
                                            if test["result"] == "OK"})
    sys.stdout.flush()


def meson_test(kind, where, words, environment):
    """What `meson test` with these words says of each test."""
    directory = where / kind
    log = directory / "meson-logs" / "testlog.json"
    log.unlink(missing_ok=True)
    run(["meson", "test", "-C", directory, "--no-rebuild", "--quiet", "--timeout-multiplier", TIME_FACTOR[kind], *words],
        stdout=subprocess.DEVNULL, env={**SANITIZER_ENV, **environment, **os.environ})
    # No log: meson has nothing to run.
    return [json.loads(line) for line in log.read_text(errors="replace").splitlines()] if log.exists() else []


def fuzz_targets(where, seconds, results):
    """One target on each processor."""
    heading(f"fuzzing, {seconds} s each")
    if not build("fuzz", where, results):
        return
    targets = [path for path in sorted((where / "fuzz" / "fuzz").glob("fuzz_*")) if path.is_file() and os.access(path, os.X_OK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for target, (failed, text) in zip(targets, pool.map(lambda target: fuzz_one(target, where, seconds), targets)):
            if failed:
                results.failed.append(f"fuzz: {target.name}")
            else:
                results.passed += 1
            print(text, flush=True)


def fuzz_one(target, where, seconds):
    """(has it failed, what to say). New inputs go to a directory of the build; the seeds of the source tree are only read."""
    found = where / "fuzz" / "corpus" / target.name
    found.mkdir(parents=True, exist_ok=True)
    seeds = TOP / "fuzz" / "corpus" / target.name
    command = [target, f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1",
               f"-artifact_prefix={found.parent}/{target.name}-", found, *([seeds] if seeds.is_dir() else [])]
    started = time.monotonic()
    try:
        done = run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + 120,
                   env={**SANITIZER_ENV, **os.environ})
        output, failed = done.stdout.decode(errors="replace"), done.returncode != 0
    except subprocess.TimeoutExpired as expired:
        output, failed = (expired.stdout or b"").decode(errors="replace") + "\nstuck", True
    if failed:
        return True, f"  FAILED  {target.name}\n" + "\n".join(output.splitlines()[-60:])
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
    count = f"{int(runs[1]):,} inputs" if runs else "no statistics"
    return False, f"  passed  {target.name}: {count} in {time.monotonic() - started:.0f} s"


def system_tests(where, quick, results):
    """Several at a time, each in a process of pytest-xdist; then, with nothing beside them, those that look at the clock."""
    heading("whole-system tests")
    if not build("release", where, results):
        return
    # A full run does not pass over a program that is listed in tools/packages.txt and not there (tests/conftest.py).
    environment = {**os.environ, "CREEDENCE_BUILD": str(where / "release"), **({} if quick else {"CREEDENCE_CHECK": "1"})}
    fast = " and not slow" if quick else ""
    together = TESTS_TOGETHER * 2 if quick else TESTS_TOGETHER  # no guests among them: they wait even more
    some = [f"--numprocesses={together}", "--dist=loadgroup"] if importlib.util.find_spec("xdist") else []
    failures = {}
    for name, words in (("together", ["tests", "-m", f"not alone{fast}", *some]), ("alone", ["tests", "-m", f"alone{fast}"])):
        failures |= pytest_run(words, where / "release" / f"pytest-{name}.xml", environment, results)

    def again(nodes):
        once_more = Results()
        failed = pytest_run(nodes, where / "release" / "pytest-again.xml", environment, once_more)
        return set(nodes) - {node for _, node in failed.values()} if once_more.passed else set()

    results.settle(failures, again)


def pytest_run(words, report, environment, results):
    """Adds to the results what passed and what was skipped; what failed comes back: name: (what it said, pytest's name of it)."""
    report.unlink(missing_ok=True)
    done = run([sys.executable, "-m", "pytest", "-q", "-rs", "--durations=5", f"--junitxml={report}", "-p", "no:cacheprovider",
                *words], env=environment)
    if not report.exists():
        results.failed.append(f"pytest (exit status {done.returncode})")
        return {}
    failures = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        wrong = [part for part in case if part.tag in ("failure", "error")]
        if wrong:
            failures[name] = ("".join(told(part) for part in wrong), pytest_node(case))
        elif case.find("skipped") is not None:
            results.skipped.append(name)
        else:
            results.passed += 1
    return failures


def told(failure):
    """What a failure says, without the test's own source about it."""
    return "\n".join(line for line in f"{failure.get('message')}\n{failure.text}".splitlines() if line.startswith("E ")) \
        or failure.get("message", "")


def pytest_node(case):
    """xdist adds the name of a test's group to its name."""
    return case.get("classname").replace(".", "/") + ".py::" + re.sub(r"@\w+$", "", case.get("name"))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build"), help="directory of the builds")
    parser.add_argument("--quick", action="store_true", help="release unit tests and the fast whole-system tests only")
    parser.add_argument("--only", choices=["unit", "asan", "tsan", "fuzz", "system"], help="one step only")
    parser.add_argument("--fuzz-seconds", type=int, default=FUZZ_SECONDS_IN_CHECK)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    where = (TOP / arguments.build).resolve()
    results = Results()
    started = time.monotonic()
    steps = {
        "unit": lambda: unit_tests("release", where, results, arguments.quick),
        "asan": lambda: unit_tests("asan", where, results),
        "tsan": lambda: unit_tests("tsan", where, results),
        "fuzz": lambda: fuzz_targets(where, arguments.fuzz_seconds, results),
        "system": lambda: system_tests(where, arguments.quick, results),
    }
    if arguments.only:
        chosen = [arguments.only]
    else:
        chosen = ["unit", "system"] if arguments.quick else list(steps)
    for step in chosen:
        steps[step]()
    heading(f"done in {time.monotonic() - started:.0f} s")
    for name in results.skipped:
        print(f"skipped: {name}")
    for name in results.unstable:
        print(f"UNSTABLE: {name}: failed, and passed with nothing beside it")
    for name in results.failed:
        print(f"FAILED: {name}")
    print(f"{results.passed} passed, {len(results.failed)} failed, {len(results.skipped)} skipped")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
