# SPDX-License-Identifier: Apache-2.0
"""Files out of Debian packages that are not installed here: kernels of guests, Xen.

apt's lists may be absent (a container image) or old (they name packages that are no longer there): they are fetched
when that shows, once.

`environment`, where a function takes it, is that of apt: foreign() makes one for packages of another architecture, which are
not known to this machine's apt and need not be.
"""

import os
import re
import shutil
import subprocess

from lib.paths import TOP, MissingProgram, system_program

PACKAGES = TOP / "tools" / "packages.txt"


def group(name):
    """The packages of a group of tools/packages.txt."""
    lines = (line.split() for line in PACKAGES.read_text().splitlines())
    return [words[1] for words in lines if words and words[0] == name]


def _known_kernel(metapackage, environment):
    """The package of the kernel of the day, as apt's lists name it; None when they do not."""
    shown = subprocess.run(["apt-cache", "depends", metapackage], capture_output=True, text=True, check=False, env=environment)
    found = re.search(r"Depends: (linux-image-\d\S+)", shown.stdout)
    return found and found[1]


def _update_lists(environment=None):
    done = subprocess.run(["apt-get", "update", "-q"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if done.returncode:
        raise MissingProgram(f"packages for guests cannot be fetched; `apt-get update` says: {done.stdout[-1000:]}")


def _debian_here():
    """(URI, code name) of the Debian release that this machine's packages come from; None when apt's lists are not there."""
    words = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(REPO_URI) $(CODENAME)", "Created-By: Packages"]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)
    found = re.search(r"^Debian main (\S+) ([a-z]+)$", shown.stdout, re.MULTILINE)  # not its updates: NAME-updates, NAME-security
    return found and found.groups()


def foreign(architecture, directory):
    """apt's environment for packages of another architecture. Its lists (of one component of one release) are in the directory."""
    here = _debian_here()
    if not here:
        _update_lists()
        here = _debian_here()
    if not here:
        raise MissingProgram("apt knows no Debian release whose packages for guests could be fetched")
    for name in ("state/lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "status").write_text("")
    (directory / "sources.list").write_text("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {} main\n".format(*here))
    options = {"APT::Architecture": architecture, "APT::Architectures": architecture, "Acquire::Languages": "none",
               "Dir::State": directory / "state", "Dir::State::status": directory / "status", "Dir::Cache": directory / "cache",
               "Dir::Etc::sourcelist": directory / "sources.list", "Dir::Etc::sourceparts": "/dev/null"}
    (directory / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))
    return {**os.environ, "APT_CONFIG": str(directory / "apt.conf")}


def kernel_package(metapackage, environment=None):
    """The kernel that a metapackage stands for today."""
    package = _known_kernel(metapackage, environment)
    if not package:
        _update_lists(environment)
        package = _known_kernel(metapackage, environment)
    if not package:
        raise MissingProgram(f"apt knows no package {metapackage}")
    return package


def download(directory, names, kernel=None, environment=None):
    """The files of the packages, and of the kernel that a metapackage stands for, fetched into the directory."""
    for lists_are_new in (False, True):
        wanted = [*names, *([kernel_package(kernel, environment)] if kernel else [])]
        # apt drops its rights to fetch, which needs a directory that its user can write: it may warn, not fail.
        done = subprocess.run(["apt-get", "download", "-q", *wanted], cwd=directory, text=True, env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode == 0:
            return sorted(directory.glob("*.deb"))
        if not lists_are_new:
            _update_lists(environment)
    raise MissingProgram(f"packages for guests cannot be fetched; `apt-get download` says: {done.stdout[-1000:]}")


def unpack(directory, names, kernel=None, environment=None):
    """Download and unpack the packages into a directory, which is there whole or not at all; nothing is installed."""
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for package in download(partial, names, kernel, environment):
        subprocess.run(["dpkg-deb", "-x", package, partial], check=True)
        package.unlink()
    for modules in (partial / "lib" / "modules").iterdir():
        subprocess.run([system_program("depmod", "kmod"), "-b", partial, modules.name], check=True)
    partial.rename(directory)
