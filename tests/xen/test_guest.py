# SPDX-License-Identifier: Apache-2.0
"""A guest with a disk and a card, both in use: several processors and rings, migration, reboots."""

import pytest

from lib.process import wait_until
from xen.cards import ADDRESSES, connect, ping, switch_pid, wait_card
from xen.disks import image_sha256, wait_block
from xen.host import disk

MIB = 1 << 20
SIZE = 16 * MIB
UNTOUCHED = 128  # of 64 KiB: the writer's part ends there
pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(240), pytest.mark.xdist_group("xen")]


@pytest.fixture
def host(installed_host):
    """With an image."""
    installed_host.cli(f"image create /tmp/a.img {SIZE} --format qcow2")
    return installed_host


def load(guest, seconds, threads, *peers):
    """A writer on the disk that checks what it reads, and steady connections to these; load_is_ok() waits for the end."""
    talks = "".join(f"guest-net steady {ADDRESSES[to]} 5000 {seconds} >/tmp/steady-{n} 2>&1 & pids=\"$pids $!\"; " for n, to in enumerate(peers))
    guest.begin(f"pids=; {talks}guest-writer /dev/xvda {seconds} {threads}; wait $pids; cat /tmp/steady-*")
    guest.wait_for("writer: did", 30)


def load_is_ok(guest, peers):
    status, output = guest.finish(100)
    assert status == 0 and "writer: ok" in output and output.count("net: ok") == peers, output


def content_is_as_seen_by(guest, host, run_dir):
    """What the guest sees on its disk is what is in the image when the disk is gone."""
    inside = guest.check("sha256sum </dev/xvda").split()[0]
    host.dom0.check(f"xl block-detach {guest.name} xvda")
    assert image_sha256(host, "/tmp/a.img", "qcow2", SIZE, run_dir) == inside


def events_of(guest, what):
    """How many interrupts of each of its event channels."""
    lines = guest.check(f"grep {what} /proc/interrupts").splitlines()
    return [sum(int(word) for word in line.split()[1:3]) for line in lines]


def use_all_pairs(guest):
    """Which pair of rings a connection takes is a matter of its port."""

    def look():
        guest.check("guest-net stream {} 5000 both 1000".format(ADDRESSES["dom0"]))
        return all(min(events_of(guest, f"vif0-q{n}-")) > 0 for n in range(2))

    wait_until(look, 40, "connections on both pairs")


def test_several_rings(lab, host, run_dir):
    """Two processors: two rings of the disk, two pairs of the card. Worker and switch are killed while all are in use."""
    guest = lab.create("smp", disks=[disk("qcow2:/tmp/a.img,queues=2")], vcpus=2)
    guest.wait_ready()
    connect(host, "smp")
    front = f"/local/domain/{guest.domid}/device"
    for path in ("vbd/51712", "vif/0"):
        assert lab.dom0.check(f"xenstore-read {front}/{path}/multi-queue-num-queues") == "2\n"
    assert guest.check("ls /sys/block/xvda/mq").split() == ["0", "1"]
    assert guest.check("ls /sys/class/net/eth0/queues").split() == ["rx-0", "rx-1", "tx-0", "tx-1"]

    use_all_pairs(guest)
    load(guest, 8, 8, "dom0", "dom0", "dom0", "dom0")
    name, switch = host.disk_name(guest), switch_pid(host)
    for _ in range(2):
        guest.wait_for("writer: did", 30)
        host.kill_worker(name)
    host.dom0.check(f"kill -9 {switch}")
    guest.wait_for("writer: did", 30)
    load_is_ok(guest, 4)
    counts = events_of(guest, "blkif")
    assert len(counts) == 2 and min(counts) > 50, counts
    content_is_as_seen_by(guest, host, run_dir)


def test_migration_to_the_same_host(lab, host, run_dir):
    """Step by step what xl migrate does: there is the second guest of one image before the first is gone, and it gets the image from
    it. (xl migrate itself keeps a record of what the guest changes, which Debian's Xen cannot for PV guests, and QEMU's SVM not for PVH.)"""
    guest = lab.guests["u1"]
    connect(host, "u1", "u2")
    lab.attach_disk(guest, disk("qcow2:/tmp/a.img"))
    wait_block(guest)
    load(guest, 8, 4, "dom0", "u2")
    old = guest.domid
    lab.dom0.check("xl save -p u1 /tmp/u1.saved && xl rename u1 u1-left && xl restore -p /tmp/u1.saved", 100)
    new = guest.domid
    assert lab.dom0.check(f"xenstore-read /local/domain/0/backend/vbd/{old}/51712/state") == "4\n"
    assert lab.dom0.check(f"xenstore-read /local/domain/0/backend/vbd/{new}/51712/state") == "2\n"
    lab.dom0.check("xl destroy u1-left && xl unpause u1")
    guest.connect()
    load_is_ok(guest, 2)
    assert ping(lab.guests["u2"], "u1")
    assert host.disk_names() == [f"xen-{new}-51712"]
    wait_until(lambda: "null" not in lab.dom0.check("xl list"), 20, "the first guest's pages to be given back")
    content_is_as_seen_by(guest, host, run_dir)


def test_reboots(lab, host, run_dir):
    """By xl, and by the guest itself, both with a disk and a card in use: they are there again, and nothing is left of the old ones."""
    guest = lab.guests["u1"]
    connect(host, "u1")
    lab.attach_disk(guest, disk("qcow2:/tmp/a.img"))
    wait_block(guest)
    for ask in (lambda: lab.dom0.check("xl reboot u1"), lambda: guest.send("reboot -f")):
        old = guest.domid
        guest.check(f"dd if=/dev/urandom of=/tmp/a bs=64k count=16 2>/dev/null; dd if=/tmp/a of=/dev/xvda bs=64k seek={UNTOUCHED} 2>/dev/null; sync")
        guest.check("guest-net steady {} 5000 60 >/tmp/out 2>&1 &".format(ADDRESSES["dom0"]))
        guest.check(f"guest-writer /dev/xvda 60 1 {UNTOUCHED * 65536} >/tmp/out-2 2>&1 &")
        expected = guest.check("sha256sum </tmp/a")
        ask()
        lab.wait_reboot(guest, old)
        guest.wait_ready()
        wait_card(guest)
        wait_block(guest)
        assert ping(guest, "dom0")
        assert guest.check(f"dd if=/dev/xvda bs=64k skip={UNTOUCHED} count=16 2>/dev/null | sha256sum") == expected
    assert host.disk_names() == [host.disk_name(guest)]
    content_is_as_seen_by(guest, host, run_dir)
