# SPDX-License-Identifier: Apache-2.0
"""Cards of Xen guests: a Debian kernel's own netfront on creedence-switch, guest to guest and guest to dom0.

The switch runs as on a host where Creedence is installed: as a user of its own, in the full sandbox.
"""

import re

import pytest

from lib.process import wait_until
from xen.host import Host, card

pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(180), pytest.mark.xdist_group("xen")]
MACS = {"u1": "00:16:3e:00:00:01", "u2": "00:16:3e:00:00:02", "h1": "00:16:3e:00:00:03"}
ADDRESSES = {"dom0": "10.9.0.100", "u1": "10.9.0.1", "u2": "10.9.0.2", "h1": "10.9.0.3"}
STREAM_BYTES = 2_000_000


@pytest.fixture
def host(lab):
    lab.dom0.check("echo creedence:x:900:900:::/bin/false >>/etc/passwd; echo creedence:x:900: >>/etc/group")
    host = Host(lab).start()
    yield host
    print(host.log())


def switch_pid(host, but=None):
    """Of the switch that runs, when it is another one than `but`."""

    def look():
        process = host.call("status")["network"]["switch"]
        return process["running"] and process["pid"] != but and process

    process = wait_until(look, 20, "a switch")
    assert process["sandbox"] == "full", process
    return process["pid"]


def connect(host, *names, options="bridge=br0"):
    """A bridge with a tap of dom0's, and a card for each of these guests; addresses, and servers for streams."""
    host.cli("bridge add br0")
    host.cli("port add br0 host0 --type tap")
    host.dom0.check(f"ip addr add {ADDRESSES['dom0']}/24 dev host0 && ip link set host0 up")
    host.dom0.check("guest-net serve 5000 >/tmp/serve 2>&1 3>&- &")
    for name in names:
        guest = host.lab.guests[name]
        host.lab.attach_card(guest, card(MACS[name], options))
        wait_card(guest)
        guest.check("guest-net serve 5000 >/dev/null 2>&1 &")
    for name in names:
        assert ping(host.lab.guests[name], "dom0")
    assert "900" in host.dom0.check(f"grep Uid: /proc/{switch_pid(host)}/status")


def replug(host, guest):
    host.dom0.check(f"xl network-detach {guest.name} 0")
    wait_until(lambda: len(host.call("vif list")["vifs"]) == 1, 20, "the card to go")
    host.lab.attach_card(guest, card(MACS[guest.name]))
    wait_card(guest)


def nothing_is_left_of(host, guest, cards):
    host.lab.wait_gone(guest)
    wait_until(lambda: len(host.call("vif list")["vifs"]) == cards, 20, "the card to go")
    # A page that was still mapped would keep the domain as a zombie.
    wait_until(lambda: "null" not in host.dom0.check("xl list"), 20, "the domain's pages to be given back")


def wait_card(guest):
    guest.check("n=0; while [ ! -d /sys/class/net/eth0 ]; do usleep 50000; [ $((n += 1)) -lt 400 ] || break; done")
    guest.check(f"ip addr add {ADDRESSES[guest.name]}/24 dev eth0 && ip link set eth0 up")


def ping(guest, to, count=3):
    status, output = guest.run(f"ping -c {count} -i 0.2 -W 10 {ADDRESSES[to]}")
    return status == 0 and re.search(rf"\b{count} packets received", output)


def stream(guest, to, way="both", size=STREAM_BYTES):
    output = guest.check(f"guest-net stream {ADDRESSES[to]} 5000 {way} {size}", 120)
    assert "net: ok" in output, output


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


def test_reboot_and_save(lab, host):
    """A rebooted guest's card is there again; a guest that is saved and restored has its connections still."""
    connect(host, "u1", "u2")
    u1 = lab.guests["u1"]
    u1.begin(f"guest-net steady {ADDRESSES['dom0']} 5000 8")
    host.dom0.check("sleep 1; xl save u1 /tmp/u1.saved && xl restore /tmp/u1.saved", 120)
    u1.connect()
    status, output = u1.finish(60)
    assert status == 0 and "net: ok" in output, output
    assert ping(u1, "u2")
    u2 = lab.guests["u2"]
    old = u2.domid
    u2.send("reboot -f")
    lab.wait_reboot(u2, old)
    u2.wait_ready()
    wait_card(u2)
    assert ping(u2, "u1")
