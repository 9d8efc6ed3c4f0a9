# SPDX-License-Identifier: Apache-2.0
"""Cards of Xen guests: a Debian kernel's own netfront on creedence-switch, guest to guest and guest to dom0."""

import re

import pytest

from lib.process import wait_until
from xen.host import card

pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(180), pytest.mark.xdist_group("xen")]
MACS = {"u1": "00:16:3e:00:00:01", "u2": "00:16:3e:00:00:02", "h1": "00:16:3e:00:00:03"}
ADDRESSES = {"dom0": "10.9.0.100", "u1": "10.9.0.1", "u2": "10.9.0.2", "h1": "10.9.0.3"}
STREAM_BYTES = 3_000_000


def connect(host, *names, options="bridge=br0"):
    """A bridge with a tap of dom0's, and a card for each of these guests; addresses, and servers for streams."""
    host.cli("bridge add br0")
    host.cli("port add br0 host0 --type tap")
    host.dom0.check(f"ip addr add {ADDRESSES['dom0']}/24 dev host0 && ip link set host0 up")
    host.dom0.check("guest-net serve 5000 >/tmp/serve 2>&1 3>&- &")
    for name in names:
        guest = host.lab.guests[name]
        host.lab.attach_card(guest, card(MACS[name], options))
        guest.check("n=0; while [ ! -d /sys/class/net/eth0 ]; do usleep 50000; [ $((n += 1)) -lt 400 ] || break; done")
        guest.check(f"ip addr add {ADDRESSES[name]}/24 dev eth0 && ip link set eth0 up")
        guest.check("guest-net serve 5000 >/dev/null 2>&1 &")
    for name in names:
        assert ping(host.lab.guests[name], "dom0")


def ping(guest, to, count=3):
    status, output = guest.run(f"ping -c {count} -i 0.2 -W 2 {ADDRESSES[to]}")
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
        host.dom0.check(f"guest-net stream {ADDRESSES['u2']} 5000 both {STREAM_BYTES}", 120)
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


def test_switch_is_killed_under_load(lab, host):
    """Connections go on, over the same rings."""
    connect(host, "u1", "u2")
    u1 = lab.guests["u1"]
    u1.begin(f"guest-net steady {ADDRESSES['u2']} 5000 12")
    for _ in range(2):
        host.dom0.check("sleep 2; kill -9 $(pidof creedence-switch)")
    status, output = u1.finish(60)
    assert status == 0 and "net: ok" in output, output
    stream(u1, "u2", size=STREAM_BYTES // 4)


def test_cards_come_and_go(lab, host):
    """Unplugged and plugged again under load, and a guest that crashes while it sends: nothing of it is left."""
    connect(host, "u1", "u2")
    u1, u2 = lab.guests["u1"], lab.guests["u2"]
    u1.check(f"guest-net stream {ADDRESSES['u2']} 5000 both 1000000000 >/tmp/out 2>&1 &")
    for _ in range(2):
        host.dom0.check("xl network-detach u1 0")
        wait_until(lambda: len(host.call("vif list")["vifs"]) == 1, 20, "the card to go")
        lab.attach_card(u1, card(MACS["u1"]))
        u1.check("n=0; while [ ! -d /sys/class/net/eth0 ]; do usleep 50000; [ $((n += 1)) -lt 400 ] || break; done")
        u1.check(f"ip addr add {ADDRESSES['u1']}/24 dev eth0 && ip link set eth0 up")
        assert ping(u1, "u2")
    u2.check(f"guest-net stream {ADDRESSES['u1']} 5000 both 1000000000 >/tmp/out 2>&1 &")
    host.dom0.check("sleep 1")
    u2.send("echo c >/proc/sysrq-trigger")
    lab.wait_gone(u2)
    wait_until(lambda: len(host.call("vif list")["vifs"]) == 1, 20, "the card to go")
    wait_until(lambda: "null" not in host.dom0.check("xl list"), 20, "the domain's pages to be given back")
    assert ping(u1, "dom0")


def test_reboot_and_save(lab, host):
    """A rebooted guest's card is there again; a guest that is saved and restored has its connections still."""
    connect(host, "u1", "u2")
    u1 = lab.guests["u1"]
    u1.begin(f"guest-net steady {ADDRESSES['dom0']} 5000 20")
    host.dom0.check("sleep 1; xl save u1 /tmp/u1.saved && xl restore /tmp/u1.saved", 120)
    u1.connect()
    status, output = u1.finish(60)
    assert status == 0 and "net: ok" in output, output
    assert ping(u1, "u2")
