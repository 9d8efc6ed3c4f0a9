# SPDX-License-Identifier: Apache-2.0
"""Cards of Xen guests: a Debian kernel's own netfront on creedence-switch, guest to guest and guest to dom0.

The switch runs as on a host where Creedence is installed: as a user of its own, in the full sandbox.
"""

import pytest

from lib.process import wait_until
from xen.cards import ADDRESSES, STREAM_BYTES, connect, nothing_is_left_of, ping, replug, stream, switch_pid, wait_card

pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(180), pytest.mark.xdist_group("xen")]


@pytest.fixture
def host(installed_host):
    return installed_host


def test_guests_talk(lab, host):
    """Ping and TCP between two PV guests, a PVH guest and dom0, with offloads and without. Every byte is checked."""
    connect(host, "u1", "u2", "h1")
    u1, u2 = lab.guests["u1"], lab.guests["u2"]
    assert ping(u1, "u2") and ping(u2, "h1")
    for state in ("on", "off"):
        for guest in (u1, u2):
            guest.check(f"guest-net offloads eth0 {state}")
        stream(u1, "u2")
        stream(u1, "dom0")
    assert "net: ok" in host.dom0.check(f"guest-net stream {ADDRESSES['u2']} 5000 both {STREAM_BYTES}", 120)
    stream(lab.guests["h1"], "u1", size=STREAM_BYTES // 4)


def test_large_packets_and_small(lab, host):
    """Segments to be cut go from guest to guest as they are; and pings of all sizes are answered."""
    connect(host, "u1", "u2")
    u1 = lab.guests["u1"]
    for size in (0, 1, 17, 500, 1472, 1473, 4000, 9000, 30000):
        assert u1.run(f"ping -c 1 -W 3 -s {size} {ADDRESSES['u2']}")[0] == 0, size
    u1.check("ip addr add fd00::1/64 dev eth0")
    lab.guests["u2"].check("ip addr add fd00::2/64 dev eth0")
    wait_until(lambda: u1.run("ping -6 -c 1 -W 2 fd00::2")[0] == 0, 20, "IPv6")


def test_switch_and_daemon_are_killed_under_load(lab, host):
    """One, the other, and both at once: connections go on, over the same rings, and cards can still be unplugged."""
    connect(host, "u1", "u2")
    u1 = lab.guests["u1"]
    u1.begin(f"guest-net steady {ADDRESSES['u2']} 5000 9")
    old = switch_pid(host)
    host.dom0.check(f"sleep 1; kill -9 {old}")
    old = switch_pid(host, but=old)
    host.kill_daemon()
    host.dom0.check("sleep 1")
    host.start()
    assert switch_pid(host) == old
    host.kill_daemon()
    host.dom0.check(f"kill -9 {old}")
    host.start()
    status, output = u1.finish(60)
    assert status == 0 and "net: ok" in output, output
    stream(u1, "u2")
    switch_pid(host, but=old)
    replug(host, u1)
    assert ping(u1, "u2")


def test_cards_come_and_go(lab, host):
    """Unplugged and plugged again under load; a guest that crashes, and one that is destroyed, while they send: nothing is left."""
    connect(host, "u1", "u2")
    u1, u2 = lab.guests["u1"], lab.guests["u2"]
    u1.check(f"guest-net stream {ADDRESSES['u2']} 5000 both 1000000000 >/tmp/out 2>&1 &")
    for _ in range(2):
        replug(host, u1)
        assert ping(u1, "u2")
    u2.check(f"guest-net stream {ADDRESSES['u1']} 5000 both 1000000000 >/tmp/out 2>&1 &")
    host.dom0.check("sleep 1")
    u2.send("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
    nothing_is_left_of(host, u2, 1)
    assert ping(u1, "dom0")
    u1.check(f"guest-net stream {ADDRESSES['dom0']} 5000 both 1000000000 >/tmp/out 2>&1 &")
    host.dom0.check("sleep 1; xl destroy u1")
    nothing_is_left_of(host, u1, 0)


def test_save_and_restore(lab, host):
    """A guest that is saved and restored has its connections still."""
    connect(host, "u1", "u2")
    u1 = lab.guests["u1"]
    u1.begin(f"guest-net steady {ADDRESSES['dom0']} 5000 6")
    host.dom0.check("sleep 1; xl save u1 /tmp/u1.saved && xl restore /tmp/u1.saved", 120)
    u1.connect()
    status, output = u1.finish(60)
    assert status == 0 and "net: ok" in output, output
    assert ping(u1, "u2")
