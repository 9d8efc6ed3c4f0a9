# SPDX-License-Identifier: Apache-2.0
"""What the tests of disks have in common."""

from lib.images import INIT, busybox
from lib.worker import check_image, content_sha256, file_tree

# The script of a guest whose root file system is on its disk.
BOOT = ("n=0; while [ ! -b /dev/xvda ] && [ $n -lt 100 ]; do usleep 50000; n=$((n + 1)); done; "
        "mount -t ext4 /dev/xvda /mnt && exec switch_root /mnt /init")


def bootable_tree(directory, script=None):
    """A root file system: a shell, files of known content, and an /init that is like that of the initial RAM disk, with this script."""
    file_tree(directory, 40)
    for name in ("bin", "modules", "proc", "sys", "dev", "tmp", "mnt", "root"):
        (directory / name).mkdir()
    (directory / "bin/busybox").write_bytes(busybox())
    (directory / "bin/busybox").chmod(0o755)
    (directory / "bin/sh").symlink_to("busybox")
    (directory / "modules/order").write_text("")
    (directory / "init").write_text(INIT)
    (directory / "init").chmod(0o755)
    if script:
        (directory / "script").write_text(script)


def wait_block(guest, name="xvda"):
    guest.check(f"n=0; while [ ! -b /dev/{name} ]; do usleep 50000; [ $((n += 1)) -lt 400 ] || break; done")


def attach(host, guest, what):
    host.lab.attach_disk(guest, what)
    wait_block(guest, what.vdev)


def new_raw(dom0, path, mib):
    dom0.check(f"dd if=/dev/urandom of={path} bs=1M count={mib} 2>/dev/null")


def image_sha256(host, path, kind, size, run_dir):
    """By qemu-img, outside: the image goes through the share. What it is based on must be there already."""
    name = path.rpartition("/")[2]
    host.dom0.check(f"cp {path} /share/{name}")
    check_image(host.lab.share / name, kind)
    return content_sha256(host.lab.share / name, kind, size, run_dir)
