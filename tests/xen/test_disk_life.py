# SPDX-License-Identifier: Apache-2.0
"""Disks of Xen guests that come, go, and lose one end, while they are written to."""

import pytest

from lib.process import wait_until
from xen.disks import attach, image_sha256, new_raw
from xen.host import disk

MIB = 1 << 20
pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(180), pytest.mark.xdist_group("xen")]


def loaded(host, guest, seconds, kind="qcow2", size=16 * MIB, options=""):
    """xvda, and a writer on it that checks what it reads; finish() waits for it."""
    host.cli(f"image create /tmp/a.img {size} --format {kind}")
    attach(host, guest, disk(f"{kind}:/tmp/a.img{options}"))
    guest.begin(f"guest-writer /dev/xvda {seconds} 4")
    guest.wait_for("writer: did", 30)


def writer_is_ok(guest, timeout_s=90):
    status, output = guest.finish(timeout_s)
    assert status == 0 and "writer: ok" in output, output


@pytest.mark.parametrize("mode", ["copy", "map", "persistent"])
def test_workers_are_killed_under_load(mode, lab, host, run_dir):
    guest = lab.guests["u1"]
    loaded(host, guest, 10, options=f",mode={mode}")
    name = host.disk_name(guest)
    for _ in range(3):
        host.kill_worker(name)
        guest.wait_for("writer: did", 30)
        guest.wait_for("writer: did", 30)
    writer_is_ok(guest)
    assert host.show(name)["restarts"] >= 3
    inside = guest.check("sha256sum </dev/xvda").split()[0]
    lab.dom0.check(f"xl block-detach {guest.name} xvda")
    assert image_sha256(host, "/tmp/a.img", "qcow2", 16 * MIB, run_dir) == inside


def test_daemon_is_killed_under_load(lab, host):
    """The next one finds the disk by what it kept, and goes on with it: the guest's detach works."""
    guest = lab.guests["u1"]
    loaded(host, guest, 4)
    name = host.disk_name(guest)
    pid = host.worker_pid(name)
    host.kill_daemon()
    guest.wait_for("writer: did", 30)
    host.start()
    assert host.worker_pid(name) == pid
    writer_is_ok(guest)
    lab.dom0.check("xl block-detach u1 xvda")
    host.wait_no_disks()


def test_another_disk_comes_and_goes_under_load(lab, host):
    guest = lab.guests["u1"]
    loaded(host, guest, 8)
    new_raw(lab.dom0, "/tmp/b.raw", 4)
    expected = lab.dom0.check("sha256sum </tmp/b.raw").split()[0]
    for _ in range(3):
        lab.attach_disk(guest, disk("raw:/tmp/b.raw", "xvdb", "ro"))
        wait_until(lambda: host.show(host.disk_name(guest, 51728))["front_end"] == "connected", 20, "the front end")
        assert host.stats(host.disk_name(guest, 51728))["errors"] == 0
        lab.dom0.check(f"xl block-detach {guest.name} xvdb")
        wait_until(lambda: len(host.disk_names()) == 1, 20, "the end of xvdb")
    writer_is_ok(guest)
    attach(host, guest, disk("raw:/tmp/b.raw", "xvdb", "ro"))
    assert guest.check("sha256sum </dev/xvdb").split()[0] == expected
    # Its user is told before a disk goes: one that is open stays until it is closed.
    lab.dom0.check(f"xl block-detach {guest.name} xvda && xl block-detach {guest.name} xvdb")
    host.wait_no_disks()
    assert guest.run("ls /dev/xvd*")[0] != 0


@pytest.mark.parametrize("end", ["crash", "destroy"])
def test_guest_ends_under_load(end, lab, host, run_dir):
    """Nothing is left of it, in the daemon, in xenstore and in Xen, and the image is another guest's at once."""
    guest = lab.guests["u1"]
    guest.check("echo 1 >/proc/sys/kernel/sysrq")
    loaded(host, guest, 60, options=",mode=persistent")
    if end == "crash":
        lab.dom0.check("xl sysrq u1 c")
        lab.wait_gone(guest)
    else:
        lab.destroy(guest)
    host.wait_no_disks()
    wait_until(lambda: lab.dom0.run("xenstore-ls /local/domain/0/backend/vbd 2>/dev/null | grep -q state")[0], 20, "its backend to go")
    # A page that was still mapped would keep the domain as a zombie.
    wait_until(lambda: "null" not in lab.dom0.check("xl list"), 20, "the domain's pages to be given back")
    other = lab.guests["u2"]
    attach(host, other, disk("qcow2:/tmp/a.img"))
    assert "writer: ok" in other.check("guest-writer /dev/xvda 1 2")


def test_save_and_restore_under_load(lab, host, run_dir):
    """The guest goes to a file and comes back as another domain, with the same disk, in the middle of its writes."""
    guest = lab.guests["u1"]
    loaded(host, guest, 8)
    lab.dom0.check("xl save u1 /tmp/u1.saved", 60)
    host.wait_no_disks()
    lab.dom0.check("xl restore /tmp/u1.saved", 60)
    guest.connect()
    guest.wait_for("writer: did", 30)
    writer_is_ok(guest)
    inside = guest.check("sha256sum </dev/xvda").split()[0]
    lab.dom0.check("xl block-detach u1 xvda")
    assert image_sha256(host, "/tmp/a.img", "qcow2", 16 * MIB, run_dir) == inside


def test_resize_under_a_running_guest(lab, host):
    guest = lab.guests["u2"]
    host.cli(f"image create /tmp/a.img {8 * MIB} --format qcow2")
    attach(host, guest, disk("qcow2:/tmp/a.img"))
    host.cli(f"disk resize {host.disk_name(guest)} {12 * MIB}")
    guest.check(f"n=0; until [ $(cat /sys/block/xvda/size) = {12 * MIB // 512} ]; do usleep 50000; [ $((n += 1)) -lt 200 ] || break; done")
    assert guest.check("cat /sys/block/xvda/size").strip() == str(12 * MIB // 512)
    assert "writer: ok" in guest.check("guest-writer /dev/xvda 1 2")
