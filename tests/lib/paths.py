# SPDX-License-Identifier: Apache-2.0
"""Where things are: the source tree, the programs under test, and what is kept between runs."""

import os
import shutil
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("CREEDENCE_BUILD", TOP / "build" / "release")).resolve()
CACHE = Path(os.environ.get("CREEDENCE_TEST_CACHE", TOP / ".cache")).resolve()
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MissingProgram(Exception):
    """A program that is needed is not there; the text says which and where it comes from."""


def built(name):
    """The path of something that the build made."""
    path = BUILD / name
    if not path.is_file():
        raise MissingProgram(f"{path} is not there: build it with `make` (or set CREEDENCE_BUILD)")
    return path


def program(name):
    """The path of a program of this project, as built."""
    return built(Path("src/cmd") / name)


def system_program(name, package):
    """The path of a program of the system."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if not found:
        raise MissingProgram(f"no `{name}` on this machine: install the package {package}")
    return found
