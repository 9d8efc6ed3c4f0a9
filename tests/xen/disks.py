# SPDX-License-Identifier: Apache-2.0
"""What the tests of disks have in common."""

from lib.worker import check_image, content_sha256


def wait_block(guest, name="xvda"):
    guest.check(f"n=0; while [ ! -b /dev/{name} ]; do usleep 50000; [ $((n += 1)) -lt 400 ] || break; done")


def attach(host, guest, what):
    host.lab.attach_disk(guest, what)
    wait_block(guest, what.vdev)


def new_raw(dom0, path, mib):
    dom0.check(f"dd if=/dev/urandom of={path} bs=1M count={mib} 2>/dev/null")


def image_sha256(host, path, kind, size, run_dir):
    """By qemu-img, outside: the image goes through the share."""
    name = path.rpartition("/")[2]
    host.dom0.check(f"cp {path} /share/{name}")
    check_image(host.lab.share / name, kind)
    return content_sha256(host.lab.share / name, kind, size, run_dir)
