# SPDX-License-Identifier: Apache-2.0
"""Kernels and initial RAM disks of the guests, from Debian packages, kept in .cache between runs.

The initial RAM disk is one statically linked busybox, the modules that a virtio disk and a virtio network card need, and an
/init that turns the console into a small remote shell (lib/guests.py speaks to it): each line is run, then
answered by a line with a mark and the exit status.
"""

import fcntl
import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

from lib import packages
from lib.cpio import Archive
from lib.paths import CACHE, MissingProgram, system_program

UML_MODULES = Path("/usr/lib/uml/modules")
QEMU_KERNEL_PACKAGE = "linux-image-cloud-amd64"  # a metapackage: it depends on the kernel of the day
READY_MARK = "guest-is-ready"
DONE_MARK = "guest-has-run"

INIT = f"""#!/bin/sh
export PATH=/bin:/tools
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt /root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
stty -echo -onlcr
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "cannot load $module"
done
n=0
while [ -f /has-disk ] && [ ! -b /dev/vda ] && [ $n -lt 100 ]; do usleep 50000; n=$((n + 1)); done
while [ -f /has-card ] && [ ! -d /sys/class/net/eth0 ] && [ $n -lt 100 ]; do usleep 50000; n=$((n + 1)); done
ip link set lo up
[ -f /script ] && . /script
echo "{READY_MARK}"
while read -r line; do
    eval "$line" </dev/null
    echo "{DONE_MARK} $?"
done
poweroff -f
"""


@contextmanager
def building(name):
    """Serialise builders of one thing in the cache, across processes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_whole(path, data):
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.rename(path)


def busybox():
    path = Path("/bin/busybox")
    if not path.is_file():
        raise MissingProgram("no /bin/busybox on this machine: install the package busybox-static")
    return path.read_bytes()


def initrd(name, modules, shell=None):
    """An initial RAM disk that loads these modules, in this order; its path. `shell`: a busybox that is not this machine's."""
    shell = shell or busybox()
    inputs = hashlib.sha256(INIT.encode() + shell)
    loaded = [(Path(module).name, Path(module).read_bytes()) for module in modules]
    for module, data in loaded:
        inputs.update(module.encode() + data)
    path = CACHE / f"initrd-{name}-{inputs.hexdigest()[:16]}.cpio"
    with building("initrd"):
        if not path.exists():
            archive = Archive()
            archive.file("bin/busybox", shell, executable=True)
            archive.symlink("bin/sh", "busybox")
            archive.character_device("dev/console", 5, 1)
            for module, data in loaded:
                archive.file(f"modules/{module}", data)
            archive.file("modules/order", "\n".join(module for module, _ in loaded).encode())
            archive.file("init", INIT.encode(), executable=True)
            write_whole(path, archive.bytes())
    return path


def module_files(directory, names):
    """The modules, each after those that it depends on (modules.dep, as depmod writes it)."""
    dependencies = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        module, _, needed = line.partition(":")
        dependencies[Path(module).name.removesuffix(".ko").replace("-", "_")] = [module, *needed.split()]
    built_in = {Path(line).name.removesuffix(".ko").replace("-", "_")
                for line in (directory / "modules.builtin").read_text().splitlines()}
    ordered = []
    for name in names:
        if name in built_in:
            continue
        # modules.dep lists what is needed last first.
        for relative in reversed(dependencies[name]):
            if directory / relative not in ordered:
                ordered.append(directory / relative)
    return ordered


def uml_kernel():
    """(kernel, initial RAM disk) of a User-mode Linux guest."""
    kernel = Path(system_program("linux.uml", "user-mode-linux"))
    versions = sorted(UML_MODULES.iterdir())
    return kernel, initrd("uml", module_files(versions[-1], ["virtio_blk", "virtio_net", "ipv6"]))


def qemu_kernel():
    """(kernel, initial RAM disk) of a QEMU guest: Debian's kernel for clouds."""
    directory = CACHE / "qemu-kernel"
    with building("qemu-kernel"):
        if not directory.exists():
            packages.unpack(directory, [], QEMU_KERNEL_PACKAGE)
    [modules] = (directory / "lib" / "modules").iterdir()
    [kernel] = (directory / "boot").glob("vmlinuz-*")
    return kernel, initrd("qemu", module_files(modules, ["virtio_pci", "virtio_blk", "virtio_net", "af_packet", "ipv6", "ext4"]))


def guest_archive(files, script=None, disks=1, cards=0):
    """What is added to the initial RAM disk for one guest: {name in the guest: bytes or path}; what its /init waits for."""
    archive = Archive()
    if disks:
        archive.file("has-disk", b"")
    if cards:
        archive.file("has-card", b"")
    for name, content in files.items():
        data = content if isinstance(content, bytes) else Path(content).read_bytes()
        archive.file(name.lstrip("/"), data, executable=True)
    if script is not None:
        archive.file("script", script.encode())
    return archive.bytes()
