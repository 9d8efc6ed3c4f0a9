# SPDX-License-Identifier: Apache-2.0
"""A shell in dom0, with three guests: /usr/bin/python3 -m xen, in tests/. Each line is a command; end it with ^D."""

import sys
import tempfile

from xen.lab import Lab, start_guests


def main():
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as path, Lab(path) as lab:
        start_guests(lab)
        print(f"u1, u2, h1 are there; consoles: {path}/*.console; `NAME: COMMAND` runs in a guest", flush=True)
        for line in sys.stdin:
            name, colon, command = line.strip().partition(": ")
            where = lab.guests.get(name) if colon else None
            status, output = where.run(command, 600) if where else lab.dom0.run(line.strip(), 600)
            print(output + (f"[{status}]" if status else ""), flush=True)


if __name__ == "__main__":
    main()
