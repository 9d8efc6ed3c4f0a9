# SPDX-License-Identifier: Apache-2.0
"""The cases on a switch, with all that goes wrong: python3 -m openflow creedence|ovs [PATTERN[//N]], in tests/ (N: every
Nth of them). That of others shows whether the cases make sense."""

import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from lib.paths import program
from lib.switch import SwitchLink

from . import cases
from .rig import creedence, openvswitch


@contextmanager
def started(run_dir, namespace):
    path = Path(run_dir) / "link.sock"
    switch = subprocess.Popen([program("creedence-switch"), "--sandbox=off", f"--control={path}"])
    try:
        while not path.exists():
            time.sleep(0.02)
        link = SwitchLink(path)
        while not link.ask("net.stats")["settled"]:
            time.sleep(0.02)
        with creedence(link, run_dir, namespace) as rig:
            yield rig
    finally:
        switch.terminate()
        switch.wait()


def main():
    which, pattern = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    pattern, _slashes, every = pattern.partition("//")
    namespace = "cr-of-cases"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        with tempfile.TemporaryDirectory(prefix="cr-of") as run_dir, {"creedence": started, "ovs": openvswitch}[which](
                run_dir, namespace) as rig:
            start = time.monotonic()
            tried = [case for case in cases.all_cases() if pattern in case.name][::int(every or 1)]
            wrong = 0
            for case in tried:
                why = rig.run(case)
                wrong += why is not None
                if why:
                    print(f"{case.name}: {why[:600]}", flush=True)
            print(f"{len(tried) - wrong} of {len(tried)} in {time.monotonic() - start:.1f} s")
    finally:
        subprocess.run(["ip", "netns", "del", namespace])


if __name__ == "__main__":
    main()
