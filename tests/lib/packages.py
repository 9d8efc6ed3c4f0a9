# SPDX-License-Identifier: Apache-2.0
"""Files out of Debian packages that are not installed here: kernels of guests, Xen.

apt's lists may be absent (a container image) or old (they name packages that are no longer there): they are fetched
when that shows, once.
"""

import re
import shutil
import subprocess

from lib.paths import TOP, MissingProgram, system_program

PACKAGES = TOP / "tools" / "packages.txt"


def group(name):
    """The packages of a group of tools/packages.txt."""
    lines = (line.split() for line in PACKAGES.read_text().splitlines())
    return [words[1] for words in lines if words and words[0] == name]


def _known_kernel(metapackage):
    """The package of the kernel of the day, as apt's lists name it; None when they do not."""
    shown = subprocess.run(["apt-cache", "depends", metapackage], capture_output=True, text=True, check=False)
    found = re.search(r"Depends: (linux-image-\d\S+)", shown.stdout)
    return found and found[1]


def _update_lists():
    done = subprocess.run(["apt-get", "update", "-q"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise MissingProgram(f"packages for guests cannot be fetched; `apt-get update` says: {done.stdout[-1000:]}")


def kernel_package(metapackage):
    """The kernel that a metapackage stands for today."""
    package = _known_kernel(metapackage)
    if not package:
        _update_lists()
        package = _known_kernel(metapackage)
    if not package:
        raise MissingProgram(f"apt knows no package {metapackage}")
    return package


def download(directory, names, kernel=None):
    """The files of the packages, and of the kernel that a metapackage stands for, fetched into the directory."""
    for lists_are_new in (False, True):
        wanted = [*names, *([kernel_package(kernel)] if kernel else [])]
        # apt drops its rights to fetch, which needs a directory that its user can write: it may warn, not fail.
        done = subprocess.run(["apt-get", "download", "-q", *wanted], cwd=directory, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode == 0:
            return sorted(directory.glob("*.deb"))
        if not lists_are_new:
            _update_lists()
    raise MissingProgram(f"packages for guests cannot be fetched; `apt-get download` says: {done.stdout[-1000:]}")


def unpack(directory, names, kernel=None):
    """Download and unpack the packages into a directory, which is there whole or not at all; nothing is installed."""
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for package in download(partial, names, kernel):
        subprocess.run(["dpkg-deb", "-x", package, partial], check=True)
        package.unlink()
    for modules in (partial / "lib" / "modules").iterdir():
        subprocess.run([system_program("depmod", "kmod"), "-b", partial, modules.name], check=True)
    partial.rename(directory)
