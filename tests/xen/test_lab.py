# SPDX-License-Identifier: Apache-2.0
"""The lab itself: what the hypervisor gives, and guests on the kernel's own back ends, which are also what ours are
compared with. And guest/xen.c, the lowest layer, on a real hypervisor."""

import re

import pytest

from xen.lab import Card, Disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(180), pytest.mark.xdist_group("xen")]

CHANNELS = 4000  # more than the 1,023 of the old ABI for 32 bits, about what it has for 64


def test_events_are_of_the_fifo_abi(lab, dom0):
    assert "Using FIFO-based ABI" in dom0.check("dmesg | grep events:")
    for guest in lab.guests.values():
        assert "Using FIFO-based ABI" in guest.check("dmesg | grep events:")


def test_thousands_of_channels_wake_one_loop(dom0):
    assert "xen-check: ok" in dom0.check(f"xen-check events {CHANNELS}", 100)
    # Closing the handle has closed all: there is place for as many again.
    assert "xen-check: ok" in dom0.check("xen-check events 100")


def test_grants_are_mapped_and_copied(dom0):
    assert "xen-check: ok" in dom0.check("xen-check grants 500")


@pytest.mark.parametrize("name", ["u1", "h1"])
def test_kernel_back_ends(lab, dom0, name):
    """xen-blkback on a loop device, xen-netback in a bridge."""
    guest = lab.guests[name]
    dom0.check("modprobe xen-blkback && modprobe xen-netback && modprobe loop && modprobe bridge")
    dom0.check("ip link add xenbr0 type bridge && ip addr add 10.9.0.1/24 dev xenbr0 && ip link set xenbr0 up")
    dom0.check("head -c 8388608 /dev/urandom >/tmp/disk && losetup /dev/loop0 /tmp/disk")
    lab.attach_disk(guest, Disk("/dev/loop0"))
    lab.attach_card(guest, Card("00:16:3e:00:00:01"))

    expected = dom0.check("sha256sum </tmp/disk")
    assert guest.check("while [ ! -b /dev/xvda ]; do usleep 50000; done; sha256sum </dev/xvda") == expected
    assert "writer: ok" in guest.check("guest-writer /dev/xvda 2 4")
    inside = guest.check("sha256sum </dev/xvda")
    assert inside != expected and dom0.check("sync; sha256sum </tmp/disk") == inside

    guest.check("ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up")
    assert re.search(r"\b3 packets received", guest.check("ping -c 3 -i 0.2 -W 2 10.9.0.1"))
    dom0.check("guest-net serve 5000 >/dev/null 2>&1 & usleep 200000")
    assert "net: ok" in guest.check("guest-net stream 10.9.0.1 5000 both 2000000")
