# SPDX-License-Identifier: Apache-2.0
"""What the tests of cards have in common: a bridge, guests with addresses, what they say to each other."""

import re

from lib.process import wait_until
from xen.host import card

MACS = {"u1": "00:16:3e:00:00:01", "u2": "00:16:3e:00:00:02", "h1": "00:16:3e:00:00:03", "smp": "00:16:3e:00:00:04",
        "i686": "00:16:3e:00:00:05"}
ADDRESSES = {"dom0": "10.9.0.100", "u1": "10.9.0.1", "u2": "10.9.0.2", "h1": "10.9.0.3", "smp": "10.9.0.4", "i686": "10.9.0.5"}
STREAM_BYTES = 2_000_000


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
