# SPDX-License-Identifier: Apache-2.0
"""What real guests' network drivers see of creedence-switch: their own TCP through it, to each other and to the host."""

import os
import re
import threading
import time
from pathlib import Path

import pytest

from lib.guests import Card, QemuGuest, UmlGuest
from lib.net_front_ends import NetFrontEnds
from lib.paths import built
from lib.process import wait_until
from lib.switch import HeldSwitch, Namespace, start_switch

MIB = 1 << 20
PORT = 7
GUEST_KILLS = int(os.environ.get("CREEDENCE_GUEST_KILLS", "4"))  # of two guests each; more by hand
pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(240)]
TOOLS = {"tools/guest-net": "tests/guest-net"}


def guest_files():
    return {name: built(path) for name, path in TOOLS.items()}


def mac(n):
    return f"52:54:00:cc:00:{n:02x}"


def address(n):
    return f"10.77.0.{n}"


class Lan:
    """One bridge, `vifs` cards (named v1, v2, ...) and, when asked for, a tap of the host in a name space (address .100)."""

    def __init__(self, processes, run_dir, vifs, tap=False, vif_options=None, options=()):
        self.processes, self.run_dir, self.vifs, self.tap = processes, run_dir, vifs, tap
        self.vif_options = vif_options or {}
        self.options = list(options)
        self.guests = {}
        self.host = None

    def socket(self, n):
        return self.run_dir / f"v{n}.sock"

    def words(self):
        words = ["--bridge=br0", *self.options]
        for n in range(1, self.vifs + 1):
            more = "".join(f",{key}={value}" for key, value in self.vif_options.get(n, {}).items())
            words.append(f"--vif=v{n},bridge=br0,socket={self.socket(n)},mac={mac(n)}{more}")
        if self.tap:
            words.append(f"--port=cr-tap{self.run_dir.name[-4:]},bridge=br0,type=tap")
        return words

    def __enter__(self):
        self.process, self.link = start_switch(self.processes, self.run_dir, *self.words())
        if self.tap:
            self.host = Namespace("lan").__enter__()
            self.host.take(f"cr-tap{self.run_dir.name[-4:]}", f"{address(100)}/24")
        return self

    def __exit__(self, *unused):
        for guest in self.guests.values():
            guest.kill()
        if self.host:
            self.host.__exit__()

    def boot(self, kinds, **options):
        """Guests on the cards 1, 2, ... of these kinds, all at once, with their addresses."""
        for n, kind in enumerate(kinds, 1):
            card = Card(self.socket(n), mac=mac(n), **(options.get("card", {}) if kind is QemuGuest else {}))
            self.guests[n] = kind(self.run_dir, [], cards=[card], files=guest_files(),
                                  **(options.get("qemu", {}) if kind is QemuGuest else {})).start()
        for n, guest in self.guests.items():
            guest.wait_ready(90)
            bring_up(guest, n)
        return self.guests

    def vif(self, n):
        [numbers] = self.link.ask("vif.stats", name=f"v{n}")["vifs"]
        return numbers

    def host_run(self, *words, timeout_s=60):
        process = self.processes.start(self.host.command(*words))
        status = process.wait(timeout_s)
        assert status == 0, process.output()
        return process.output()


def bring_up(guest, n, device="eth0"):
    guest.check(f"ip addr add {address(n)}/24 dev {device} && ip link set {device} up")


def ping(guest, to, extra=""):
    guest.check(f"ping -c 3 -W 2 {extra} {to}", 30)


def cannot_ping(guest, to):
    assert guest.run(f"ping -c 2 -W 1 {to}", 30)[0] != 0, f"{guest.name} reaches {to}"


def serve(guest):
    guest.check(f"guest-net serve {PORT} >/tmp/serve 2>&1 &")
    wait_until(lambda: guest.run("grep -q serving /tmp/serve")[0] == 0, 20, "guest-net serve")


def stream(guest, to, mib, way="both"):
    """Both directions, every byte checked; the seconds it took."""
    out = guest.check(f"guest-net stream {to} {PORT} {way} {mib * MIB}", 120)
    return float(re.search(r"net: ok .* seconds ([\d.]+)", out)[1])


# ---- Who reaches whom ----

def test_guests_of_two_kinds_and_the_host_talk_to_each_other(processes, run_dir):
    with Lan(processes, run_dir, 3, tap=True) as lan:
        guests = lan.boot([UmlGuest, UmlGuest, QemuGuest])
        host = processes.start(lan.host.command(built("tests/guest-net"), "serve", PORT))
        host.wait_for(lambda: "serving" in host.output(), 10, "guest-net serve")
        for n, guest in guests.items():
            for other in (*(m for m in guests if m != n), 100):
                ping(guest, address(other))
            serve(guest)
        for offloads in ("on", "off"):
            for guest in guests.values():
                guest.check(f"guest-net offloads eth0 {offloads}")
            stream(guests[1], address(2), 64)
            stream(guests[1], address(3), 8)
            stream(guests[3], address(2), 8)
            stream(guests[2], address(100), 64)
            stream(guests[3], address(100), 8)
            assert "net: ok" in lan.host_run(built("tests/guest-net"), "stream", address(1), PORT, "both", 64 * MIB)
        for n in guests:
            stats = lan.vif(n)
            assert stats["tx_invalid"] == 0, stats
        for guest in guests.values():
            assert guest.power_off() == 0


def test_one_offloading_end_meets_one_that_does_not(processes, run_dir):
    """A guest's large segments are cut, and its checksums made, for a card that takes neither."""
    with Lan(processes, run_dir, 2, vif_options={2: {"offloads": "off"}}) as lan:
        guests = lan.boot([UmlGuest, UmlGuest])
        serve(guests[2])
        stream(guests[1], address(2), 32)
        serve(guests[1])
        stream(guests[2], address(1), 32)


# ---- What the device says ----

def test_mtu_reaches_the_driver(processes, run_dir):
    with Lan(processes, run_dir, 2, vif_options={1: {"mtu": 1400}, 2: {"mtu": 1400}}) as lan:
        guests = lan.boot([UmlGuest, QemuGuest], card={"mtu": 1400})
        for guest in guests.values():
            assert guest.check("cat /sys/class/net/eth0/mtu").strip() == "1400"
        serve(guests[2])
        stream(guests[1], address(2), 4)


def test_jumbo_frames(processes, run_dir):
    with Lan(processes, run_dir, 2, vif_options={1: {"mtu": 9000}, 2: {"mtu": 9000}}) as lan:
        guests = lan.boot([UmlGuest, UmlGuest])
        for guest in guests.values():
            guest.check("ip link set eth0 mtu 9000")
            guest.check("guest-net offloads eth0 off")  # so that the frames themselves are long
        ping(guests[1], address(2), "-s 8900")
        serve(guests[2])
        stream(guests[1], address(2), 32)


def test_link_down_and_up_reach_the_guest(processes, run_dir):
    with Lan(processes, run_dir, 2) as lan:
        guests = lan.boot([UmlGuest, UmlGuest])
        ping(guests[1], address(2))

        def carrier(state):
            return lambda: guests[1].check("cat /sys/class/net/eth0/carrier").strip() == state
        lan.link.ask("vif.set", name="v1", link="down")
        wait_until(carrier("0"), 10, "the link to go down in the guest")
        cannot_ping(guests[2], address(1))
        lan.link.ask("vif.set", name="v1", link="up")
        wait_until(carrier("1"), 10, "the link to come up in the guest")
        ping(guests[2], address(1))


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_rings_and_queues_under_qemu(packed, processes, run_dir):
    with Lan(processes, run_dir, 2, vif_options={1: {"queues": 4}}) as lan:
        guests = lan.boot([QemuGuest, UmlGuest], card={"queues": 4, "packed": packed}, qemu={"cpus": 4})
        # The driver takes a pair of queues for each CPU, as far as there are any.
        queues = guests[1].check("ls /sys/class/net/eth0/queues").split()
        assert len([queue for queue in queues if queue.startswith("tx-")]) == 4
        serve(guests[1])
        guests[2].check("(for n in 1 2 3 4; do guest-net stream "
                        f"{address(1)} {PORT} both {4 * MIB} >/tmp/stream-$n & done; wait)", 120)
        for n in range(1, 5):
            assert "net: ok" in guests[2].check(f"cat /tmp/stream-{n}")
        assert lan.vif(1)["pairs_running"] >= 2
        # Each pair that the guest's CPUs use has a thread of its own, which took what came by it.
        taken = [runner["packets"] for runner in lan.link.ask("runner.stats")["runners"] if runner["name"].startswith("v1.")]
        assert sum(count > 100 for count in taken) >= 2, taken
        assert sum(taken) >= lan.vif(1)["tx_packets"], (taken, lan.vif(1))


# ---- How much ----

MBIT = 1_000_000
FRAMES_PER_S = 2000


def limit(lan, **rates):
    """Of the card 1: `rate_in` is what its guest may send, `rate_out` what it is given; the other way without a limit."""
    none = {"bits_per_s": 0, "packets_per_s": 0}
    lan.link.ask("vif.set", name="v1", **{way: {**none, **rates.get(way, {})} for way in ("rate_in", "rate_out")})


def udp_frame(to, source):
    return hex_frame(mac(to), mac(source), "0800", "4500002a000000004011" + "0000" + ipv4_hex(source) + ipv4_hex(to)
                     + "27102710" + "0016" + "0000" + "55" * 14)


def frames_per_s(sender, receiver, frame, count):
    """What comes through of a flood of UDP, by the receiver's own counter and clock."""
    before, since = frames_seen(receiver), time.monotonic()
    sender.check(f"guest-net frame eth0 {frame} {count}", 60)
    last = -1
    while frames_seen(receiver) != last:
        last = frames_seen(receiver)
        time.sleep(0.1)
    return (last - before) / (time.monotonic() - since), last - before


def test_rates_bind_a_guest_in_both_directions(processes, run_dir):
    """TCP by bits, UDP by packets, each way: what is limited comes at that rate, near enough, and what is not is much faster."""
    with Lan(processes, run_dir, 2) as lan:
        guests = lan.boot([UmlGuest, UmlGuest])
        serve(guests[2])
        for rate, limited, other in (("rate_in", "up", "down"), ("rate_out", "down", "up")):
            limit(lan, **{rate: {"bits_per_s": 80 * MBIT}})
            seconds = stream(guests[1], address(2), 16, limited)
            assert 0.6 < 16 * MIB * 8 / seconds / (80 * MBIT) <= 1.05, (limited, seconds)
            assert stream(guests[1], address(2), 16, other) < seconds / 2, other
        limit(lan, rate_in={"packets_per_s": FRAMES_PER_S})
        rate, came = frames_per_s(guests[1], guests[2], udp_frame(2, 1), 4000)
        assert 0.5 * FRAMES_PER_S < rate <= 1.05 * FRAMES_PER_S and came >= 3900, (rate, came)  # the guest waits
        limit(lan, rate_out={"packets_per_s": FRAMES_PER_S})
        rate, came = frames_per_s(guests[2], guests[1], udp_frame(1, 2), 40000)
        assert rate <= 1.05 * FRAMES_PER_S and came < 40000, (rate, came)  # nobody waits for a guest that is given less
        numbers = lan.vif(1)
        assert numbers["tx_throttled"] > 0 and numbers["rx_limited"] > 0, numbers


# ---- Who may say what ----

def frames_seen(guest):
    return int(guest.check("cat /sys/class/net/eth0/statistics/rx_packets"))


def hex_frame(dst, src, kind, payload):
    return (dst + src).replace(":", "") + kind + payload + "00" * max(0, 46 - len(payload) // 2)


def ipv4_hex(n):
    return "".join(f"{int(part):02x}" for part in address(n).split("."))


def test_a_guest_cannot_pass_for_another(processes, run_dir):
    """Allowed are its own MAC and IP address; everything else it says it is does not come through, ARP included."""
    allowed = {1: {"allowed-mac": mac(1), "allowed-ip": address(1)}}
    with Lan(processes, run_dir, 2, vif_options=allowed) as lan:
        guests = lan.boot([UmlGuest, UmlGuest])
        ping(guests[1], address(2))
        guests[2].check("ip neigh flush dev eth0; ip -6 addr flush dev eth0; true")
        guests[1].check("ip -6 addr flush dev eth0; true")
        other = "52:54:00:cc:00:99"
        arp = "0001080006040002" + "{mac}{ip}" + mac(2).replace(":", "") + ipv4_hex(2)
        spoofed = {
            "another source address": hex_frame(mac(2), other, "88b5", "00" * 46),
            "ARP: another sender's MAC": hex_frame(mac(2), mac(1), "0806", arp.format(mac=other.replace(":", ""), ip=ipv4_hex(1))),
            "ARP: another sender's IP": hex_frame(mac(2), mac(1), "0806", arp.format(mac=mac(1).replace(":", ""), ip=ipv4_hex(9))),
            "IPv4 of somebody else": hex_frame(mac(2), mac(1), "0800", "4500001c000000004011" + "0000" + ipv4_hex(9) + ipv4_hex(2)),
            "IPv6 of somebody else": hex_frame(mac(2), mac(1), "86dd", "6000000000003b40" + "fe80" + "00" * 13 + "09"
                                               + "fe80" + "00" * 13 + "02"),
        }
        time.sleep(0.5)
        for what, frame in spoofed.items():
            before = frames_seen(guests[2])
            guests[1].check(f"guest-net frame eth0 {frame} 10")
            time.sleep(0.2)
            assert frames_seen(guests[2]) - before < 5, what
        ping(guests[1], address(2))  # what it really is still comes through


def test_vlans_keep_guests_apart(processes, run_dir):
    tags = {1: {"tag": 10}, 2: {"tag": 20}}
    with Lan(processes, run_dir, 2, vif_options=tags) as lan:
        guests = lan.boot([UmlGuest, UmlGuest])
        cannot_ping(guests[1], address(2))
        lan.link.ask("vif.set", name="v2", tag=10)
        ping(guests[1], address(2))


# ---- Coming and going ----

def test_connections_survive_the_switch(processes, run_dir):
    """The switch is killed and started again under running guests, its descriptors held for it: TCP goes on."""
    switch = HeldSwitch(processes, run_dir).start()
    switch.want("bridge.add", name="br0")
    guests = {}
    try:
        for n in (1, 2):
            listen = _listener(run_dir / f"v{n}.sock")
            switch.want("vif.attach", bridge="br0", name=f"v{n}", mac=mac(n), fds={"listen": listen})
            guests[n] = UmlGuest(run_dir, [], cards=[Card(run_dir / f"v{n}.sock")], files=guest_files()).start()
        draining = _Draining(switch)
        for n, guest in guests.items():
            guest.wait_ready(90)
            bring_up(guest, n)
        serve(guests[2])
        guests[1].begin(f"guest-net steady {address(2)} {PORT} 12")
        for _ in range(2):
            time.sleep(3)
            draining.stop()
            switch.kill()
            switch.start()
            draining = _Draining(switch)
        status, out = guests[1].finish(60)
        assert status == 0, out
        longest_s = float(re.search(r"longest ([\d.]+)", out)[1])
        assert longest_s < 3, f"the connection stood still for {longest_s} s"
        stream(guests[1], address(2), 32)
        draining.stop()
    finally:
        for guest in guests.values():
            guest.kill()


def _listener(path):
    import socket
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(4)
    return listener.detach()


class _Draining:
    """Takes the switch's notifications (descriptors to hold) while the test does something else."""

    def __init__(self, switch):
        self.switch, self.ended = switch, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.ended.wait(0.05):
            self.switch.link.drain()

    def stop(self):
        self.ended.set()
        self.thread.join()


def test_qemu_comes_back_after_the_switch_was_away(processes, run_dir):
    with Lan(processes, run_dir, 2) as lan:
        guests = lan.boot([QemuGuest, QemuGuest], qemu={"reconnect_s": 1})
        serve(guests[2])
        stream(guests[1], address(2), 4)
        lan.process.kill()
        lan.link.close()
        (run_dir / "switch-control.sock").unlink(missing_ok=True)
        lan.process, lan.link = start_switch(processes, run_dir, *lan.words())
        wait_until(lambda: guests[1].run(f"ping -c 1 -W 1 {address(2)}")[0] == 0, 30, "QEMU to come back")
        stream(guests[1], address(2), 4)


def resources(pid):
    """What a process has: descriptors, mappings, threads."""
    proc = Path(f"/proc/{pid}")
    return {"descriptors": len(list((proc / "fd").iterdir())), "mappings": len((proc / "maps").read_text().splitlines()),
            "threads": len(list((proc / "task").iterdir()))}


@pytest.mark.timeout_s(max(240, 40 * GUEST_KILLS))
def test_guests_that_are_killed_leave_nothing_behind(processes, run_dir):
    """Killed under load and replaced, again and again; the switch has in the end what it had, and the neighbours saw nothing."""
    with Lan(processes, run_dir, 4) as lan:
        neighbours = NetFrontEnds(processes, {lan.socket(3): "flows=64,rate=20000", lan.socket(4): "flows=64,rate=20000"}, "--verify")
        before = None
        for turn in range(GUEST_KILLS):
            guests = lan.boot([UmlGuest, UmlGuest])
            serve(guests[2])
            guests[1].begin(f"guest-net stream {address(2)} {PORT} both {4096 * MIB}")
            time.sleep(1)
            for guest in guests.values():
                guest.kill()
            wait_until(lambda: all(lan.vif(n)["state"] == "listening" for n in (1, 2)), 10, "the switch to see it")
            time.sleep(0.3)
            now = resources(lan.process.pid)
            if turn == 0:
                before = now  # what is made at the first use stays
        assert now["descriptors"] <= before["descriptors"], (before, now)
        assert now["threads"] <= before["threads"], (before, now)
        assert now["mappings"] <= before["mappings"] + 8, (before, now)  # an allocator's
        result = neighbours.stop()
        assert result["wrong"] == 0
        lost = result["tx_packets"] - result["rx_packets"]
        assert lost <= result["tx_packets"] * 0.001 + 256, result
