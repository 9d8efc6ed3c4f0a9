# SPDX-License-Identifier: Apache-2.0
"""A disk worker without a daemon, and images made and read by programs that are not ours."""

import hashlib
import subprocess
from pathlib import Path

from lib.paths import built, program, system_program
from lib.process import is_listening


def run(*command):
    """A program that must succeed; its output."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with status {done.returncode}:\n{done.stdout[-3000:]}"
    return done.stdout


def qemu_img(*words):
    return run(system_program("qemu-img", "qemu-utils"), *words)


def start_worker(processes, socket, *layers, **options):
    """creedence-vbd on `socket`; layers are (format, path), leaf first; options as on its command line."""
    words = [program("creedence-vbd"), f"--socket-path={socket}"]
    for index, (kind, path) in enumerate(layers):
        words += ["--backing" if index else "--disk", f"{path},format={kind}"]
    for key, value in options.items():
        words.append(f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}"))
    worker = processes.start(words)
    worker.wait_for(lambda: is_listening(socket), 10, f"socket {socket}")
    return worker


def guest_writer():
    """The program that verifies its own writes inside a guest: {where it goes: where it is}."""
    return {"tools/guest-writer": built("tests/guest-writer")}


def new_qcow2(path, size_bytes, backing=None, backing_format="qcow2", **options):
    words = ["create", "-q", "-f", "qcow2"]
    if backing:
        words += ["-b", backing, "-F", backing_format]
    if options:
        words += ["-o", ",".join(f"{key}={value}" for key, value in options.items())]
    qemu_img(*words, path, size_bytes)
    return path


def new_raw(path, size_bytes):
    with open(path, "wb") as image:
        image.truncate(size_bytes)
    return path


def new_image(kind, path, size_bytes):
    return new_raw(path, size_bytes) if kind == "raw" else new_qcow2(path, size_bytes)


def file_tree(directory, count=60):
    """Files of many sizes with content that is known; {relative name: sha256}."""
    sums = {}
    for n in range(count):
        data = hashlib.shake_128(f"file {n}".encode()).digest((n * n * 997) % 300_000 + n)
        path = Path(directory, f"dir-{n % 7}", f"file-{n}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sums[str(path.relative_to(directory))] = hashlib.sha256(data).hexdigest()
    Path(directory, "sums").write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))
    return sums


def new_file_system(path, tree, size_mib=256, block_bytes=None):
    """A raw image with an ext4 file system that holds a copy of `tree`."""
    block = ["-b", block_bytes] if block_bytes else []
    run(system_program("mke2fs", "e2fsprogs"), "-q", "-t", "ext4", *block, "-d", tree, "-E", "root_owner=0:0", path, f"{size_mib}m")
    return path


def check_image(path, kind="qcow2", leaks_allowed=False):
    """qemu-img finds nothing wrong. After a crash clusters may have leaked (status 3), and nothing else."""
    if kind != "qcow2":
        return
    command = [system_program("qemu-img", "qemu-utils"), "check", "-q", "-f", "qcow2", path]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode in ((0, 3) if leaks_allowed else (0,)), f"{path}: qemu-img check: {done.returncode}\n{done.stdout[-3000:]}"


def raw_copy(path, kind, to):
    """The image's content as qemu-img reads it, chain included."""
    qemu_img("convert", "-f", kind, "-O", "raw", path, to)
    return to


def content_sha256(path, kind, length_bytes, scratch):
    """SHA-256 of the first bytes of the disk, as qemu-img reads it."""
    copy = raw_copy(path, kind, Path(scratch, "content.raw"))
    digest = hashlib.sha256()
    with open(copy, "rb") as content:
        left = length_bytes
        while left:
            chunk = content.read(min(left, 1 << 20)) or bytes(min(left, 1 << 20))
            digest.update(chunk)
            left -= len(chunk)
    copy.unlink()
    return digest.hexdigest()
