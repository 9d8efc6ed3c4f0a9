# SPDX-License-Identifier: Apache-2.0
"""Xen without Xen, as a whole: a toolstack's keys in a store of the test's, the daemon, the real disk worker and switch, and guests on a
simulated machine (src/guest/sim.h) that read their keys from the store, write theirs, and check every byte.

The sandbox of worker and switch is off: a simulated guest's memory is a file, which they open when they first map of it."""

import json
import os
import shlex
import time

import pytest

from lib.control import Daemon
from lib.paths import program
from lib.process import wait_until
from lib.xen_guest import BlkGuest, Device, NetGuests
from lib.xenstored import XenStore

pytestmark = pytest.mark.timeout_s(90)


class Host:
    """A daemon whose programs are started without their sandboxes; a store; simulated machines."""

    def __init__(self, run_dir, *options):
        self.dir = run_dir
        self.store = XenStore(run_dir / "xs")
        self.store.write("/local/domain/0/domid", 0)
        self.ends = []
        bin_dir = run_dir / "bin"
        bin_dir.mkdir()
        for name in ("creedence-vbd", "creedence-switch"):
            (bin_dir / name).write_text(f'#!/bin/sh\nexec {shlex.quote(str(program(name)))} --sandbox=off "$@"\n')
            (bin_dir / name).chmod(0o755)
        self.daemon = Daemon(run_dir, options=["--xen=on", f"--xen-world=sim:{run_dir / 'cards'}", f"--bin-dir={bin_dir}", "--cache=off", *options])
        self.daemon.start()

    def end(self):
        """The guests last: until then the host has something of theirs."""
        print(self.store.under("/local/domain/0/backend"), self.daemon.output()[-6000:])
        self.daemon.clean_up()
        for end in self.ends:
            end()
        self.store.stop()

    def disk(self, *options, target="", **keys):
        guest = BlkGuest(self.dir / f"machine{len(self.ends)}", *options)
        image = self.dir / f"image{len(self.ends)}.raw"
        image.write_bytes(bytes(guest.place["bytes"]))
        self.ends.append(guest.end)
        return Disk(self, guest, f"raw:{image},world=sim:{guest.directory}{target}", **keys)


    def cards(self, *options):
        """Of the two guests that send to each other."""
        guests = NetGuests(self.dir / "cards", *options)
        self.ends.append(guests.end)
        self.daemon.call("bridge.add", name="br0")
        return [Card(self, guests, which) for which in (0, 1)]


@pytest.fixture
def host(run_dir, monkeypatch):
    monkeypatch.setenv("XENSTORED_PATH", str(run_dir / "xs"))
    made = []

    def make(*options):
        made.append(Host(run_dir, *options))
        return made[0]

    yield make
    for one in made:
        one.end()


class Disk(Device):
    """A guest's disk, as Linux' blkfront goes about it."""

    def __init__(self, host, guest, params, **keys):
        super().__init__(host.store, "vbd", guest.place["domid"], 51712)
        self.host, self.guest, self.params, self.keys = host, guest, params, keys

    @property
    def name(self):
        return f"xen-{self.domid}-{self.number}"

    def shown(self):
        return self.host.daemon.show(self.name)

    def offers(self, key):
        return int(self.store.read(f"{self.back}/{key}"))

    def plug(self):
        self.announce(params=self.params, mode="w", device_type="disk", script="/etc/xen/scripts/block-creedence", **self.keys)
        self.connect()

    def connect(self):
        self.is_back(2)
        assert self.offers("sectors") * 512 == self.guest.place["bytes"]
        self.store.write_all(self.front, **self.front_keys())
        self.to(3)
        self.is_back(4)
        self.to(4)

    def front_keys(self):
        rings = self.guest.place["rings"]
        pages = len(rings[0]["refs"])
        assert len(rings) <= self.offers("multi-queue-max-queues") and pages <= 1 << self.offers("max-ring-page-order")
        keys = {"protocol": self.guest.place["protocol"], "feature_persistent": 1}
        if len(rings) > 1:
            keys["multi_queue_num_queues"] = len(rings)
        if pages > 1:
            keys["ring_page_order"] = pages.bit_length() - 1
        for i, ring in enumerate(rings):
            place = f"queue-{i}/" if len(rings) > 1 else ""
            keys[place + "event-channel"] = ring["port"]
            for k, ref in enumerate(ring["refs"]):
                keys[place + (f"ring-ref{k}" if pages > 1 else "ring-ref")] = ref
        return keys

    def works(self, more=200):
        """The load goes on."""
        before = self.guest.done("load")["done"]
        deadline = time.monotonic() + 20
        while self.guest.done("say")["done"] <= before + more:
            assert time.monotonic() < deadline, "requests are not answered"
            time.sleep(0.002)

    def close(self):
        self.guest.done("rest")
        self.to(5)
        self.is_back(5)
        self.to(6)
        self.is_back(6)

    def anew(self):
        """What was the host's is the guest's again."""
        self.guest.place.update(self.guest.done("anew"))

    def gone(self):
        """Nothing is left of it."""
        wait_until(lambda: self.host.daemon.call("disk.list")["disks"] == [], 10, "its end")
        said = self.guest.done("say")
        assert said["maps"] == 0 and said["ports"] == 0, said


FRONT_ENDS = {
    "plain": ([], ""),
    "pages-and-queues": (["--rings=2", "--pages=4", "--segments=24"], ",queues=2,mode=map"),
    "abi32": (["--abi32", "--pages=2"], ",mode=copy"),
}


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_a_disk_from_plug_to_unplug(host, kind):
    """Loaded all the time, while its worker and the daemon are killed, and its guest starts anew."""
    options, target = FRONT_ENDS[kind]
    disk = host("--verbose").disk("--discard", *options, target=target)
    disk.plug()
    disk.works()
    for _ in range(2):
        pid = disk.shown()["pid"]
        disk.guest.kill(pid)
        disk.works()
        assert disk.shown()["pid"] != pid
    disk.host.daemon.kill()
    disk.works()
    disk.host.daemon.start()
    disk.host.daemon.wait_state(disk.name)
    assert disk.shown()["pid"] != pid and disk.shown()["front_end"] == "connected"
    pid = disk.shown()["pid"]
    disk.host.daemon.kill()  # and the worker with it
    disk.guest.kill(pid)
    disk.host.daemon.start()
    disk.works()
    disk.close()
    disk.anew()
    disk.to(1)
    disk.connect()
    disk.works()
    disk.unplug()
    disk.close()
    disk.gone()
    disk.anew()
    assert disk.guest.done("say")["discarded"] > 10


def test_a_guest_crashes_and_comes_back(host):
    """What had been answered is there, under the guest's next number."""
    disk = host().disk("--rings=2", target=",queues=2")
    disk.plug()
    disk.works()
    disk.guest.tell("crash")
    disk.store.remove(disk.front)
    disk.unplug()
    disk.is_back(6)
    disk.gone()
    disk.remove()
    disk.guest.place.update(disk.guest.done("boot 8"))
    again = Disk(disk.host, disk.guest, disk.params)
    assert again.domid == 8
    again.plug()
    again.works(1000)
    again.guest.tell("crash")
    again.remove()
    again.gone()


def error_of(device):
    """Where toolstacks look for what is wrong with it."""
    return device.store.read(device.back.replace("/backend/", "/error/backend/") + "/error")


def test_a_disks_guest_breaks_its_ring(host):
    """It is said to whoever asks, nothing else happens, and what begins anew works."""
    disk = host().disk()
    disk.plug()
    disk.works()
    disk.guest.done("rest")
    disk.guest.done("spoil")
    wait_until(lambda: error_of(disk), 30, "an error")
    shown = disk.shown()
    assert shown["front_end"] == "broken" and error_of(disk) == f"71 {shown['front_end_why']}"
    assert disk.store.read(disk.back + "/state") == "4"
    disk.host.daemon.kill()
    disk.host.daemon.start()
    assert disk.host.daemon.wait_state(disk.name)["front_end"] == "broken"
    disk.close()
    disk.anew()
    disk.to(1)
    disk.connect()
    disk.works()
    assert disk.shown()["front_end"] == "connected" and error_of(disk) is None


@pytest.mark.parametrize("target, keys, offered", [("", {}, 1), ("", {"discard_enable": 1}, 1), ("", {"discard_enable": 0}, 0),
                                                   (",discard=on", {"discard_enable": 0}, 1), (",discard=off", {}, 0)])
def test_discard_is_offered_or_not(host, target, keys, offered):
    disk = host().disk(target=target, **keys)
    disk.plug()
    assert disk.offers("feature-discard") == offered
    disk.guest.kill(disk.shown()["pid"])
    disk.works()
    assert disk.shown()["config"]["xen"]["discard"] == bool(offered)


@pytest.mark.slow
def test_rings_again_and_again(host):
    """Nothing is left of any: neither descriptors, nor ports, nor pages that the guest could not take back."""
    disk = host().disk("--pages=2", target=",mode=persistent")
    before = None
    for plug in range(15):
        disk.plug()
        for connect in range(10):  # more, and it is looked at less often
            disk.works(20)
            disk.close()
            disk.anew()
            assert disk.guest.done("say")["maps"] == 0
            disk.to(1)
            if (plug, connect) == (2, 9):
                disk.is_back(2)
                before = footprint(disk)
            disk.connect()
        if plug % 2:
            disk.unplug()
            disk.close()
            disk.remove()
        else:
            disk.close()
            disk.remove()  # by force
        disk.gone()
        disk.anew()
    disk.plug()
    disk.works(20)
    disk.close()
    after = footprint(disk)
    assert after == before


def descriptors(pid):
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}").split("[")[0])
        except FileNotFoundError:  # the directory's own
            pass
    return sorted(found)


def at_rest(look):
    def same():
        first = look()
        time.sleep(0.05)
        return first if look() == first else None

    return wait_until(same, 5, "a rest")


def footprint(disk):
    return at_rest(lambda: (descriptors(disk.host.daemon.process.pid), descriptors(disk.shown()["pid"]), disk.store.watch_count()))


# ---- cards ----


class Card(Device):
    """A guest's network card, as Linux' netfront goes about it."""

    def __init__(self, host, guests, which):
        super().__init__(host.store, "vif", guests.place["guests"][which]["domid"], 0, kind="vif")
        self.host, self.guests, self.which = host, guests, which

    @property
    def name(self):
        return f"xen-{self.domid}-0"

    @property
    def place(self):
        return self.guests.place["guests"][self.which]

    def tell(self, command, *more):
        self.guests.place = self.guests.done(" ".join(map(str, (command, self.which, *more))))
        return self.place

    def shown(self):
        return next((v for v in self.host.daemon.call("vif.list")["vifs"] if v["name"] == self.name), None)

    def plug(self):
        self.announce(mac=f"02:00:00:00:00:0{1 + self.which}", bridge="br0", handle=0, type="vif", script="/etc/xen/scripts/vif-creedence")
        self.connect()

    def connect(self):
        self.is_back(2)
        self.store.write_all(self.front, **self.front_keys())
        self.to(4)
        self.is_back(4)

    def front_keys(self):
        queues = self.place["queues"]
        assert len(queues) <= int(self.store.read(self.back + "/multi-queue-max-queues"))
        keys = {key: 1 for key in ("request-rx-copy", "feature-rx-notify", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6",
                                   "feature-ipv6-csum-offload")}
        if len(queues) > 1:
            keys["multi-queue-num-queues"] = len(queues)
        for i, queue in enumerate(queues):
            place = f"queue-{i}/" if len(queues) > 1 else ""
            keys.update({place + key: value for key, value in queue.items()})
        return keys

    def asks_for(self, key):
        """What the daemon has of its front end's keys."""
        saved = json.loads((self.host.daemon.state_dir / "network.json").read_text())
        xen = next(v["xen"] for v in saved["vifs"] if v["name"] == self.name)
        return xen["connection"]["frontend"].get(key)

    def close(self):
        self.tell("rest")
        self.to(5)
        self.is_back(5)
        self.to(6)
        self.is_back(6)

    def gone(self):
        wait_until(lambda: self.shown() is None, 10, "its end")


def talk(cards, more=20):
    """Frames of each queue of each guest come to the other."""
    def came():
        cards[0].guests.place = cards[0].guests.done("say")
        return [n for card in cards for n in card.place["came"]]

    before = came()
    for card in cards:
        card.tell("load")
    deadline = time.monotonic() + 20
    while not all(now > then + more for now, then in zip(came(), before)):
        assert time.monotonic() < deadline, f"frames do not come: {cards[0].guests.place}"
        time.sleep(0.002)


def switch_pid(host):
    return int((host.daemon.run_dir / "switch.run").read_text().split()[0])


@pytest.mark.parametrize("options", [(), ("--queues=4", "--split")], ids=["plain", "queues"])
def test_cards_from_plug_to_unplug(host, options):
    """Traffic all the time, while the switch and the daemon are killed, and a guest starts anew."""
    host = host("--xen-card-queues=4")
    cards = host.cards(*options)
    for card in cards:
        card.plug()
    talk(cards, 200)
    assert cards[0].guests.place["repeated"] == 0
    for _ in range(2):
        pid = switch_pid(host)
        cards[0].guests.kill(pid)
        talk(cards)
        assert switch_pid(host) != pid
    host.daemon.kill()
    talk(cards)
    host.daemon.start()
    wait_until(lambda: cards[0].shown()["front_end"] == "connected", 10, "the card")
    talk(cards)
    host.daemon.kill()  # and the switch with it
    cards[0].guests.kill(switch_pid(host))
    host.daemon.start()
    talk(cards)
    cards[0].close()
    cards[0].tell("anew")
    cards[0].to(1)
    cards[0].connect()
    talk(cards)
    for card in cards:
        card.unplug()
        card.close()
        card.gone()
        card.tell("anew")
    assert cards[0].guests.place["maps"] == 0 and cards[0].guests.place["ports"] == 0


def test_a_cards_guest_crashes_and_comes_back(host):
    """The other one goes on."""
    host = host()
    cards = host.cards()
    for card in cards:
        card.plug()
    talk(cards)
    cards[0].tell("crash")
    cards[0].store.remove(cards[0].front)
    cards[0].unplug()
    cards[0].is_back(6)
    cards[0].gone()
    cards[0].remove()
    cards[1].tell("rest")
    cards[0].tell("boot", 9)
    cards[0] = Card(host, cards[0].guests, 0)
    assert cards[0].domid == 9
    cards[0].plug()
    talk(cards)
    for card in cards:
        card.tell("crash")
        card.remove()
        card.gone()
    guests = cards[0].guests.done("say")
    assert guests["maps"] == 0 and guests["ports"] == 0


def test_a_cards_guest_breaks_its_ring(host):
    """As a disk's; and it may want its groups only, or all, whenever it likes."""
    cards = host().cards()
    for card in cards:
        card.plug()
    talk(cards)
    assert card.store.read(card.back + "/feature-dynamic-multicast-control") == "1"
    for value in (1, 0):
        cards[0].store.write(cards[0].front + "/request-multicast-control", value)
        wait_until(lambda: cards[0].asks_for("request-multicast-control") == str(value), 30, "what it asks for")
        talk(cards)
    cards[0].tell("rest")
    cards[0].tell("spoil")
    wait_until(lambda: error_of(cards[0]), 30, "an error")
    assert cards[0].shown()["front_end"] == "broken" and error_of(cards[0]) == f"71 {cards[0].shown()['front_end_why']}"
    assert cards[0].store.read(cards[0].back + "/state") == "4" and error_of(cards[1]) is None
    cards[0].close()
    cards[0].tell("anew")
    cards[0].to(1)
    cards[0].connect()
    talk(cards)
    assert cards[0].shown()["front_end"] == "connected" and error_of(cards[0]) is None
    cards[0].tell("rest")
    cards[0].tell("spoil")
    wait_until(lambda: error_of(cards[0]), 30, "an error")
    cards[0].remove()  # by force, and nothing is left of it
    cards[0].gone()
    wait_until(lambda: error_of(cards[0]) is None, 30, "its end")


@pytest.mark.slow
def test_cards_again_and_again(host):
    """As with a disk's rings."""
    host = host("--xen-card-queues=2")
    cards = host.cards("--queues=2")
    cards[1].plug()
    before = None
    for plug in range(10):
        cards[0].plug()
        for connect in range(10):
            talk(cards, 2)
            cards[0].close()
            cards[0].tell("anew")
            cards[0].to(1)
            if (plug, connect) == (2, 9):
                cards[0].is_back(2)
                before = rest_of(host)
            cards[0].connect()
        cards[0].unplug()
        cards[0].close()
        cards[0].remove()
        cards[0].gone()
        cards[0].tell("anew")
    cards[0].plug()
    talk(cards, 2)
    cards[0].close()
    after = rest_of(host)
    assert after == before


def rest_of(host):
    return at_rest(lambda: (descriptors(host.daemon.process.pid), descriptors(switch_pid(host)), host.store.watch_count()))
