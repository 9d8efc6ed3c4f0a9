# SPDX-License-Identifier: Apache-2.0
"""The C sources are as `make fmt` leaves them (`make fmt-check`)."""

import re
import subprocess

import pytest

from lib.paths import TOP, system_program

VERSION = 14  # Debian 12's; others lay some lines out differently
FOLDERS = ("src", "bench", "contrib", "fuzz", "tests")


def test_c_sources_are_formatted():
    clang_format = system_program("clang-format", "clang-format")
    version = subprocess.run([clang_format, "--version"], capture_output=True, text=True, check=True).stdout
    if int(re.search(r"version (\d+)", version)[1]) != VERSION:
        pytest.skip(f"the sources are formatted by clang-format {VERSION}, here is {version.strip()}")
    files = sorted(path for folder in FOLDERS for path in (TOP / folder).rglob("*.[ch]"))
    assert len(files) > 100
    done = subprocess.run([clang_format, "--dry-run", "-Werror", *files], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"run `make fmt`:\n{done.stdout[-3000:]}"
