# SPDX-License-Identifier: Apache-2.0
"""Real guests on a daemon's networks: what is killed or upgraded under them comes back, and their connections go on."""

import os
import re
import signal

import pytest

from lib.daemon import Daemon
from lib.guests import Card, UmlGuest
from lib.paths import built
from lib.process import wait_until
from test_guests_net import MIB, PORT, address, bring_up, mac, ping, serve, stream

pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(240)]
STANDSTILL_S = 3  # a second for the switch, the rest for TCP to try again


class Net:
    """A daemon, a bridge and guests on it."""

    def __init__(self, run_dir, guests=2, options=()):
        self.daemon = Daemon(run_dir)
        self.run_dir = run_dir
        self.count = guests
        self.guests = {}

    def __enter__(self):
        self.daemon.start()
        self.daemon.cli("bridge", "add", "br0")
        for n in range(1, self.count + 1):
            self.daemon.cli("vif", "attach", "br0", f"v{n}", f"--mac={mac(n)}")
            card = Card(self.run_dir / "run" / "vifs" / f"v{n}.sock")
            self.guests[n] = UmlGuest(self.run_dir, [], cards=[card], files={"tools/guest-net": built("tests/guest-net")}).start()
        for n, guest in self.guests.items():
            guest.wait_ready(90)
            bring_up(guest, n)
        return self

    def __exit__(self, *unused):
        for guest in self.guests.values():
            guest.kill()
        pid = self.switch_pid()
        self.daemon.stop()
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def switch_pid(self):
        for record in self.daemon.run_dir.glob("*switch*.run"):
            return int(record.read_text().split()[0])
        return None

    def vif(self, n):
        [numbers] = self.daemon.call("vif.stats", name=f"v{n}")["vifs"]
        return numbers["stats"]


def steady_through(net, disturb, seconds=10):
    """A connection between the guests while something is done to what carries it."""
    serve(net.guests[2])
    net.guests[1].begin(f"guest-net steady {address(2)} {PORT} {seconds}")
    wait_until(lambda: "steady: " in net.guests[1].console(), 20, "the connection")
    disturb()
    status, out = net.guests[1].finish(seconds + 60)
    assert status == 0, out
    longest_s = float(re.search(r"longest ([\d.]+)", out)[1])
    assert longest_s < STANDSTILL_S, f"the connection stood still for {longest_s} s"
    stream(net.guests[1], address(2), 32)


def test_a_killed_switch_is_back_under_its_guests(run_dir):
    with Net(run_dir) as net:
        pid = net.switch_pid()

        def kill():
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: net.switch_pid() not in (None, pid), 10, "a new switch")
        steady_through(net, kill)


def test_an_upgraded_switch_drops_no_connection(run_dir):
    with Net(run_dir) as net:
        pid = net.switch_pid()

        def upgrade():
            net.daemon.cli("upgrade")
            assert net.switch_pid() != pid
        steady_through(net, upgrade)


def test_a_killed_daemon_and_then_the_switch(run_dir):
    """The new daemon finds the running switch, and can bring it back afterwards."""
    with Net(run_dir) as net:
        pid = net.switch_pid()

        def kill_both():
            net.daemon.kill()
            net.daemon.start()
            assert net.switch_pid() == pid
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: net.switch_pid() not in (None, pid), 10, "a new switch")
        steady_through(net, kill_both, 14)


def test_flows_and_link_from_the_command_line(run_dir):
    """What a person says reaches the guests: a drop rule, its removal, the link."""
    with Net(run_dir) as net:
        ping(net.guests[1], address(2))
        net.daemon.cli("flow", "add", "br0", "priority=100,icmp,actions=drop")
        assert net.guests[1].run(f"ping -c 2 -W 1 {address(2)}", 30)[0] != 0
        net.daemon.cli("flow", "del", "br0", "icmp")
        ping(net.guests[1], address(2))
        net.daemon.cli("vif", "set", "v1", "--link=down")
        wait_until(lambda: net.guests[1].check("cat /sys/class/net/eth0/carrier").strip() == "0", 10, "the link to go down")
        net.daemon.cli("vif", "set", "v1", "--link=up")
        wait_until(lambda: net.guests[1].check("cat /sys/class/net/eth0/carrier").strip() == "1", 10, "the link to come up")
        serve(net.guests[2])
        stream(net.guests[1], address(2), 16)
        assert net.vif(1)["rx_bytes"] > 16 * MIB
