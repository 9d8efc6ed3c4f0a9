# SPDX-License-Identifier: Apache-2.0
"""A real golden image: a Debian that boots with systemd, and a list of the SHA-256 sum of every file in it.

Made from Debian packages with mmdebstrap and mke2fs, converted to qcow2 by qemu-img (so that not one byte
of it was written by our code), and kept in .cache: the second use takes no time.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lib.images import UML_MODULES, building
from lib.paths import CACHE, system_program

SUITE = "bookworm"
PACKAGES = ["systemd-sysv", "udev", "kmod", "python3", "perl", "gcc"]
SIZE_BYTES = 4 << 30
FILE_SYSTEM_UUID = "c4eede9c-e000-4000-8000-000000000001"
WORK_ROOM_BYTES = 3 << 30  # the tree and the raw image, while they are made
GUEST_DIR = "usr/share/creedence-demo"
# What a booting system writes itself, so that it has no fixed content.
CHANGING = ("etc/machine-id", "etc/.updated", "etc/ld.so.cache", "var/.updated", "var/log/", "var/lib/systemd/",
            "var/cache/ldconfig/", "run/", "tmp/", "var/tmp/", GUEST_DIR + "/manifest")

# What each guest does, run by systemd. The marks are for whoever reads the console.
VERIFY = f"""#!/bin/sh
# Verify every file of the base image, then write and sync data of this guest's own.
mark() {{ echo "demo: $*" >/dev/console; }}
name=$(sed -n 's/.*demo\\.guest=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
mark booted
files=$(wc -l </{GUEST_DIR}/manifest)
if (cd / && sha256sum --quiet --strict --check {GUEST_DIR}/manifest) >/run/verify.log 2>&1; then
    mark verified "$files"
else
    mark different "$(tail -n 3 /run/verify.log | tr '\\n' ' ')"
fi
mkdir -p /srv/own
echo "written by $name" >/srv/own/name
head -c 16777216 /dev/urandom >/srv/own/random
for n in $(seq 200); do echo "$name file $n" >"/srv/own/small-$n"; done
rm -rf /usr/share/doc
fstrim /
sync -f /srv/own && mark wrote "$(cd /srv/own && sha256sum random | cut -d ' ' -f 1)"
systemctl poweroff
"""

# systemd boots to a target of our own instead of multi-user.target: starting a process takes User-mode Linux
# tens of milliseconds, and none of the some forty processes of a full boot would be about disks.
TARGET = """[Unit]
Description=A guest of the demo
Requires=creedence-demo.service
"""
SERVICE = f"""[Unit]
Description=Verify the base image and write something
DefaultDependencies=no

[Service]
Type=oneshot
ExecStart=/{GUEST_DIR}/verify
"""
GENERATORS = "usr/lib/systemd/system-generators"


@dataclass
class BaseImage:
    path: Path  # qcow2
    sha256: str  # of the image file
    files: int  # in the list of sums
    content_bytes: int  # of those files


def file_sha256(path):
    with open(path, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def manifest(root):
    """Lines for sha256sum --check, and how many bytes they cover."""
    lines, total_bytes = [], 0
    for directory, subdirectories, names in os.walk(root):
        subdirectories.sort()
        for name in sorted(names):
            path = Path(directory, name)
            relative = str(path.relative_to(root))
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or relative.startswith(CHANGING):
                continue
            # sha256sum marks names that it must escape with a backslash in front of the line
            if "\n" in relative or "\\" in relative:
                continue
            lines.append(f"{file_sha256(path)}  {relative}\n")
            total_bytes += status.st_size
    return lines, total_bytes


def customise(root):
    """Turn a plain Debian tree into one that boots as a guest and runs VERIFY."""
    [modules] = sorted(UML_MODULES.iterdir())[-1:]
    shutil.copytree(modules, root / "usr/lib/modules" / modules.name, dirs_exist_ok=True)
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    own = root / GUEST_DIR
    own.mkdir(parents=True)
    (own / "verify").write_text(VERIFY)
    (own / "verify").chmod(0o755)
    units = root / "etc/systemd/system"
    (units / "creedence-demo.service").write_text(SERVICE)
    (units / "creedence-demo.target").write_text(TARGET)
    masked = root / "etc/systemd/system-generators"
    masked.mkdir(parents=True, exist_ok=True)
    for generator in (root / GENERATORS).iterdir():
        (masked / generator.name).symlink_to("/dev/null")
    lines, total_bytes = manifest(root)
    (own / "manifest").write_text("".join(lines))
    return len(lines), total_bytes


def run_quietly(command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with status {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def work_directory():
    """In memory when there is room: unpacking tens of thousands of small files is what takes the time."""
    memory = os.statvfs("/dev/shm") if Path("/dev/shm").is_dir() else None
    in_memory = memory and memory.f_bavail * memory.f_frsize > 2 * WORK_ROOM_BYTES
    return tempfile.TemporaryDirectory(prefix="creedence-base-", dir="/dev/shm" if in_memory else CACHE)


def _build(directory, say):
    for older in CACHE.glob("base-*"):
        shutil.rmtree(older)
    mmdebstrap = system_program("mmdebstrap", "mmdebstrap")
    mke2fs = system_program("mke2fs", "e2fsprogs")
    qemu_img = system_program("qemu-img", "qemu-utils")
    with work_directory() as work:
        os.chmod(work, 0o755)  # apt's own user must reach what is in it
        root, raw = Path(work, "root"), Path(work, "base.raw")
        say(f"Debian {SUITE} with {', '.join(PACKAGES)} (mmdebstrap)")
        run_quietly(["env", f"TMPDIR={work}", mmdebstrap, "--variant=minbase", "--format=directory",
                     f"--include={','.join(PACKAGES)}", SUITE, root])
        say("SHA-256 sums of all files")
        files, content_bytes = customise(root)
        say("file system image (mke2fs), qcow2 (qemu-img)")
        run_quietly([mke2fs, "-q", "-t", "ext4", "-d", root, "-L", "creedence-demo", "-U", FILE_SYSTEM_UUID,
                     "-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0", raw, f"{SIZE_BYTES >> 10}k"])
        partial = directory.with_name(f"{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        image = partial / "base.qcow2"
        run_quietly([qemu_img, "convert", "-f", "raw", "-O", "qcow2", raw, image])
        image.chmod(0o444)
        facts = {"sha256": file_sha256(image), "files": files, "content_bytes": content_bytes}
        (partial / "facts.json").write_text(json.dumps(facts))
        partial.rename(directory)


def base_image(say=lambda what: None):
    """The image, made when it is not there yet; `say` is told what is being done."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    directory = CACHE / f"base-{recipe}"
    with building("base"):
        if not directory.exists():
            _build(directory, say)
    facts = json.loads((directory / "facts.json").read_text())
    return BaseImage(directory / "base.qcow2", facts["sha256"], facts["files"], facts["content_bytes"])
