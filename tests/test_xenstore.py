# SPDX-License-Identifier: Apache-2.0
"""Disks and cards that are announced in xenstore: the daemon, a store of the test's, and guests that are a few lines here."""

import json
import os
import subprocess
import time

import pytest

from lib.control import Daemon
from lib.paths import BUILD, program
from lib.process import wait_until
from lib.xen_guest import Device
from lib.xenstored import XenStore

pytestmark = pytest.mark.timeout_s(60)


@pytest.fixture
def store(run_dir, monkeypatch):
    monkeypatch.setenv("XENSTORED_PATH", str(run_dir / "xs"))
    s = XenStore(run_dir / "xs")
    s.write("/local/domain/0/domid", 0)
    yield s
    s.stop()


@pytest.fixture
def daemon(run_dir, store):
    with Daemon(run_dir, fake=True, options=["--xen=on"]) as d:
        yield d.start()


@pytest.fixture
def image(run_dir):
    path = run_dir / "disk.raw"
    with open(path, "wb") as f:
        f.truncate(1 << 20)
    return path


class Disk(Device):
    def __init__(self, store, image, domid=7, vdev=51712, name="vbd"):
        super().__init__(store, name, domid, vdev)
        self.image = image
        self.disk = f"xen-{domid}-{vdev}"

    def announce(self, **keys):
        super().announce(**{"params": f"raw:{self.image}", "mode": "w", "device_type": "disk",
                            "script": "/etc/xen/scripts/block-creedence", **keys})

    def rings(self, ref=8, port=15):
        self.store.write_all(self.front, **{"ring_ref": ref, "event_channel": port, "protocol": "x86_64-abi"})

    def ready(self, ref=8, port=15):
        """The front end is, and waits for the back end."""
        self.announce()
        self.is_back(2)
        self.rings(ref, port)
        self.to(3)

    def connect(self, ref=8, port=15):
        self.ready(ref, port)
        self.is_back(4)
        self.to(4)


@pytest.fixture
def disk(store, image):
    return Disk(store, image)


def asked(daemon, method):
    try:
        lines = (daemon.fake_dir / "log.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [entry["params"] for entry in map(json.loads, lines) if entry["method"] == method]


def gone(daemon, name):
    wait_until(lambda: all(d["name"] != name for d in daemon.call("disk.list")["disks"]), 10, f"the end of {name}")


def test_a_disk_from_its_announcement_to_its_end(daemon, store, disk):
    disk.announce()
    disk.is_back(2)
    assert store.read(disk.back + "/sectors") == "2048"
    shown = daemon.show(disk.disk)
    assert shown["xen"] == {"domid": 7, "vdev": "51712", "backend": "backend/vbd/7/51712"}
    assert "socket" not in shown and shown["front_end"] == "listening"
    [configured] = asked(daemon, "configure")
    assert configured["xen"] == {"domid": 7, "mode": "auto", "cdrom": False, "discard": True, "map_entries": 6144} and not configured["read_only"]
    disk.rings()
    disk.to(3)
    disk.is_back(4)
    disk.to(4)
    assert asked(daemon, "connect") == [{"protocol": "x86_64-abi", "rings": [{"refs": [8], "port": 15}],
                                        "persistent": False, "resume": False}]
    assert daemon.show(disk.disk)["front_end"] == "connected"
    assert "domain 7, device 51712 (xvda)" in daemon.creedence("disk", "show", disk.disk).stdout
    assert "\nxen           1 devices\n" in daemon.creedence("status").stdout
    disk.unplug()
    disk.to(5)
    disk.to(6)
    disk.is_back(6)
    assert len(asked(daemon, "disconnect")) == 1
    gone(daemon, disk.disk)
    disk.remove()
    wait_until(lambda: store.watch_count() == 3, 5, "only the watches of all devices")


def test_an_unplugged_disk_is_closed_when_it_is_on_storage(daemon, store, disk):
    """Whoever waits for Closed finds the image free."""
    daemon.behave(quit="error")
    disk.connect()
    disk.unplug()
    disk.to(6)
    wait_until(lambda: "no space" in (disk.error() or ""), 5, "the reason")
    assert store.read(disk.back + "/state") == "5"
    daemon.behave()
    disk.is_back(6)
    gone(daemon, disk.disk)


def test_a_guest_that_is_destroyed(daemon, store, disk):
    disk.connect()
    store.remove(disk.front)  # libxl: the front end's first
    disk.unplug()
    disk.is_back(6)
    gone(daemon, disk.disk)
    disk.remove()

    disk.connect()
    disk.remove()  # all at once
    gone(daemon, disk.disk)
    assert len(asked(daemon, "disconnect")) == 2

    disk.connect()
    store.remove(disk.back)  # and there again before anybody looked
    disk.announce()
    disk.is_back(2)
    assert len(asked(daemon, "configure")) == 4


def test_a_directory_that_is_removed_meanwhile_does_not_come_back(daemon, store, disk):
    """Between the daemon's look and what it writes then."""
    disk.connect()
    store.before_commit = lambda writes: store.delete(disk.back)
    disk.to(6)
    gone(daemon, disk.disk)
    assert store.under(disk.back) == {} and store.read(disk.back) is None
    store.before_commit = None
    disk.connect()
    disk.remove()
    store.write(disk.back + "/hotplug-status", "")  # as a script may
    store.write(disk.back + "/state", 6)
    gone(daemon, disk.disk)
    disk.connect()


def test_somebody_else_writes_at_the_same_time(daemon, store, disk):
    commits = []

    def change(writes):
        commits.append(writes)
        if len(commits) < 3:
            store.set(disk.back + "/frontend", disk.front + "/" * (len(commits) % 2))

    store.before_commit = change
    disk.announce()
    disk.is_back(2)
    assert len(commits) > 2 and store.read(disk.back + "/sectors") == "2048"


def test_a_guest_that_starts_anew(daemon, store, disk):
    disk.connect()
    disk.to(5)
    disk.is_back(5)
    disk.to(6)
    disk.is_back(6)
    assert daemon.show(disk.disk)["front_end"] == "listening"
    disk.to(1)
    disk.is_back(2)
    disk.rings(9, 16)
    disk.to(3)
    disk.is_back(4)
    assert [c["rings"] for c in asked(daemon, "connect")] == [[{"refs": [8], "port": 15}], [{"refs": [9], "port": 16}]]
    assert len(asked(daemon, "configure")) == 1


@pytest.mark.parametrize("down", [False, True])
def test_a_front_end_that_starts_anew_and_says_so_late(daemon, store, disk, down):
    """Its rings are new, even where they lie where the last ones did."""
    disk.connect()
    wait_until(lambda: daemon.show(disk.disk)["front_end"] == "connected", 5, "connected")
    time.sleep(0.1)  # that it is used was seen
    if down:
        daemon.kill()
    disk.to(3)
    if down:
        daemon.start()
    wait_until(lambda: len(asked(daemon, "connect")) == 2, 5, "new rings")
    assert len(asked(daemon, "disconnect")) == 1 and not asked(daemon, "connect")[1]["resume"]


def test_states_are_skipped_and_repeated(daemon, store, disk):
    disk.rings()
    disk.announce()
    disk.to(4)
    disk.is_back(4)
    for state in (3, 3, 4, 4, 8, 7, 99, "", "x", 4):
        disk.to(state)
    time.sleep(0.2)
    assert len([c for c in asked(daemon, "connect")]) <= 3 and store.read(disk.back + "/state") == "4"
    disk.to(6)
    disk.is_back(6)


def test_each_disk_has_a_part_of_the_pages_that_can_be_mapped(daemon, store, run_dir):
    disks, given = [], []
    for i in range(4):
        path = run_dir / f"{i}.raw"
        path.write_bytes(bytes(1 << 20))
        disks.append(Disk(store, path, vdev=51712 + 16 * i))
        disks[i].announce()
        disks[i].is_back(2)
        given.append(asked(daemon, "configure")[i]["xen"]["map_entries"])
        assert given[i] == (262144 * 3 // 4 - sum(given[:i])) // 32
    daemon.kill()
    disks[0].unplug()
    disks[0].to(6)
    daemon.start()
    gone(daemon, disks[0].disk)
    disks[0].remove()
    disks[0].announce()  # others still have what they were given
    disks[0].is_back(2)
    assert asked(daemon, "configure")[4]["xen"]["map_entries"] == (262144 * 3 // 4 - sum(given[1:])) // 32


def test_several_pages_and_queues(daemon, store, disk):
    disk.announce()
    disk.is_back(2)
    keys = {"multi_queue_num_queues": 2, "ring_page_order": 1, "feature_persistent": 1}
    for q in range(2):
        for page in range(2):
            keys[f"queue_{q}/ring_ref{page}"] = 10 * q + page
        keys[f"queue_{q}/event_channel"] = 40 + q
    store.write_all(disk.front, **keys)
    disk.to(3)
    disk.is_back(4)
    assert asked(daemon, "connect") == [{
        "protocol": "", "persistent": True, "resume": False,
        "rings": [{"refs": [0, 1], "port": 40}, {"refs": [10, 11], "port": 41}]}]


NONSENSE = [
    {"ring_ref": ""}, {"ring_ref": "-1"}, {"ring_ref": "4294967296"}, {"ring_ref": "8 "}, {"ring_ref": "0x8"},
    {"event_channel": "x" * 300}, {"event_channel": "\x01"}, {"event_channel": "99999999999999999999"},
    {"protocol": "x86_16-abi"}, {"protocol": "x86_64-abi\x00"}, {"multi_queue_num_queues": 0},
    {"multi_queue_num_queues": 5}, {"multi_queue_num_queues": 2}, {"ring_page_order": 3}, {"ring_page_order": "x"},
    {"ring_page_order": 31}, {"feature_persistent": 2},
]


def test_nonsense_of_a_front_end(daemon, store, disk):
    """It is closed, with a reason; and served when it begins anew and says what can be used."""
    disk.announce()
    for keys in NONSENSE:
        disk.is_back(2)
        store.write_all(disk.front, **{"ring_ref": 8, "event_channel": 15, "protocol": "x86_64-abi", **keys})
        disk.to(3)
        disk.is_back(5)
        assert "cannot be used" in disk.error(), keys
        for key in keys:
            store.remove(f"{disk.front}/{key.replace('_', '-')}")
        disk.to(6)
        disk.is_back(6)
        disk.to(1)
    assert asked(daemon, "connect") == []
    disk.is_back(2)
    disk.rings()
    store.write(disk.front + "/protocol", "arm-abi")
    disk.to(3)
    disk.is_back(4)
    assert disk.error() is None and asked(daemon, "connect")[0]["protocol"] == "arm-abi"


def test_rings_that_the_worker_cannot_use(daemon, store, disk):
    daemon.behave(connect="error")
    disk.ready()
    disk.is_back(5)
    assert "cannot map" in disk.error()
    assert len(asked(daemon, "connect")) == 1
    daemon.behave()
    disk.to(6)
    disk.is_back(6)
    disk.to(1)
    disk.is_back(2)
    disk.to(3)
    disk.is_back(4)


def test_rings_with_requests_that_are_open_from_before(daemon, store, disk):
    """The guest writes its ring: it may say so whenever it likes, and is refused once."""
    daemon.behave(connect="busy")
    disk.ready()
    disk.is_back(5)
    assert "open from before" in disk.error()
    assert len(asked(daemon, "connect")) == 1 and asked(daemon, "disconnect") == []


@pytest.mark.parametrize("front", ["/local/domain/8/device/vbd/51712", "/local/domain/7/../8/x", "/local/domain/70/device/vbd/1",
                                   "/vm/x", "device/vbd/51712", "/local/domain/7//device"])
def test_a_front_end_that_is_not_its_own(daemon, store, disk, front):
    disk.announce(frontend=front)
    wait_until(disk.error_in_log(daemon, "not in the guest's part"), 5, "a reason")
    assert store.read(disk.back + "/state") == "1" and store.watch_count() == 3


def test_devices_of_others_are_left_alone(daemon, store, disk):
    disk.announce(script="/etc/xen/scripts/block")
    time.sleep(0.3)
    assert store.read(disk.back + "/state") == "1" and daemon.call("disk.list")["disks"] == []
    disk.remove()
    other = Disk(store, disk.image, domid=8, name="vbd3")
    other.announce()
    other.is_back(2)


@pytest.mark.parametrize("params, words", [
    ("", "target="), ("/dev/sda", "FORMAT:PATH"), ("vmdk:/x", "vmdk"), ("raw:disk", "absolute"), ("raw:/nowhere/x", "/nowhere/x"),
    ("cache=maybe,raw:/x", "on or off"), ("colour=red,raw:/x", "colour"), ("raw:/x,raw:/x", "layer"), ("cache=on", "FORMAT:PATH"),
])
def test_targets_that_cannot_be(daemon, store, disk, params, words):
    disk.announce(params=params)
    wait_until(lambda: words in (disk.error() or ""), 5, f"a reason with {words}")
    assert store.read(disk.back + "/state") == "1" and daemon.call("disk.list")["disks"] == []
    store.write(disk.back + "/params", f"raw:{disk.image}")  # once the cause is removed it is there
    disk.is_back(2)
    assert disk.error() is None


def test_what_the_last_daemon_could_not_serve(daemon, store, disk, image):
    disk.announce(params="raw:/nowhere/x")
    wait_until(lambda: "/nowhere/x" in (disk.error() or ""), 10, "a reason")
    daemon.kill()
    store.write(disk.back + "/params", f"raw:{image}")
    daemon.start()
    disk.is_back(2)
    wait_until(lambda: disk.error() is None, 10, "the reason's end")


def test_options_of_a_target(daemon, store, disk, run_dir):
    odd = run_dir / "a,b.raw"
    odd.write_bytes(bytes(1 << 20))
    target = str(odd).replace(",", "\\,")
    disk.announce(params=f"raw:{target},direct=off,name=system,write-cache=writethrough,mode=copy,queues=2,cache=off", mode="r",
                  device_type="cdrom")
    disk.is_back(2)
    config = daemon.show("system")["config"]
    assert config["layers"] == [{"format": "raw", "path": str(odd), "direct": False}]
    assert (config["read_only"], config["write_cache"], config["queues"], config["cache"]) == (True, "writethrough", 2, False)
    assert config["xen"]["mode"] == "copy" and config["xen"]["cdrom"]


# ---- what survives ----


def test_a_killed_worker_is_replaced_under_its_guest(daemon, store, disk):
    disk.connect()
    daemon.behave(sectors="4096", offer={"feature-discard": "1"})
    pid = daemon.show(disk.disk)["pid"]
    os.kill(pid, 9)
    wait_until(lambda: len(asked(daemon, "connect")) == 2, 10, "the rings' next worker")
    first, second = asked(daemon, "configure")
    assert "offered" not in first["xen"] and second["xen"]["offered"]["sectors"] == "2048"
    assert asked(daemon, "connect")[1] == {**asked(daemon, "connect")[0], "resume": True}
    wait_until(lambda: daemon.show(disk.disk)["front_end"] == "connected", 5, "connected")
    assert store.read(disk.back + "/state") == "4" and store.read(disk.back + "/feature-discard") is None


def test_a_worker_killed_while_it_is_connected(daemon, store, disk):
    daemon.behave(connect="crash")
    disk.ready()
    wait_until(lambda: asked(daemon, "connect"), 5, "connect")
    daemon.behave()
    disk.is_back(4)


def test_the_daemon_is_killed(daemon, store, disk):
    disk.connect()
    pid = daemon.show(disk.disk)["pid"]
    daemon.kill()
    daemon.start()
    shown = daemon.wait_state(disk.disk)
    assert shown["pid"] == pid and shown["front_end"] == "connected"
    assert len(asked(daemon, "connect")) == 1 and store.read(disk.back + "/state") == "4"
    daemon.kill()
    os.kill(pid, 9)  # and the worker with it
    daemon.start()
    wait_until(lambda: len(asked(daemon, "connect")) == 2, 10, "the rings' next worker")
    assert asked(daemon, "connect")[1]["resume"]
    disk.unplug()
    disk.to(6)
    disk.is_back(6)


def test_the_daemon_is_killed_before_it_saved_a_connection(daemon, store, disk):
    daemon.behave(connect="lost")
    disk.ready()
    wait_until(lambda: asked(daemon, "connect"), 5, "connect")
    daemon.kill()
    daemon.behave()
    daemon.start()
    disk.is_back(4)
    assert len(asked(daemon, "configure")) == 1 and len(asked(daemon, "disconnect")) == 1


def test_the_daemon_is_killed_before_it_told_a_worker_of_the_rings(daemon, store, disk):
    disk.connect()
    daemon.behave(connect="hang")
    os.kill(daemon.show(disk.disk)["pid"], 9)
    wait_until(lambda: len(asked(daemon, "connect")) == 2, 5, "the next worker")
    daemon.kill()
    daemon.behave()
    daemon.start()
    wait_until(lambda: len(asked(daemon, "connect")) == 3, 5, "that it is told")
    assert asked(daemon, "connect")[2]["resume"] and len(asked(daemon, "configure")) == 2
    assert daemon.wait_state(disk.disk)["front_end"] == "connected" and store.read(disk.back + "/state") == "4"


def test_the_daemon_ends_while_a_disk_is_made(daemon, store, disk):
    """The toolstack waits for the next one: a reason in hotplug-error would be the end of its patience."""
    daemon.behave(configure="lost")
    disk.announce()
    wait_until(lambda: asked(daemon, "configure"), 5, "a worker")
    daemon.terminate()
    assert disk.error() is None
    daemon.behave()
    daemon.start()
    disk.is_back(2)


def test_the_daemon_is_killed_before_it_heard_what_a_worker_offers(daemon, store, disk):
    daemon.behave(configure="lost")
    disk.announce()
    wait_until(lambda: asked(daemon, "configure"), 5, "a worker")
    daemon.kill()
    daemon.behave()
    daemon.start()
    disk.is_back(2)
    assert store.read(disk.back + "/sectors") == "2048" and len(asked(daemon, "configure")) == 1


def reopened(run_dir, store):
    """Another store with the same tree, at the same place."""
    again = XenStore(run_dir / "xs")
    with again.lock:
        again.tree.update(store.tree)
    return again


def test_a_daemon_that_starts_while_the_store_cannot_be_reached(daemon, store, disk, run_dir):
    disk.connect()
    daemon.kill()
    store.stop()
    daemon.start()
    assert daemon.wait_state(disk.disk)["front_end"] == "connected"
    again = reopened(run_dir, store)
    try:
        wait_until(lambda: again.watch_count() >= 4, 10, "watches")
        time.sleep(0.2)
        assert again.read(disk.back + "/state") == "4"
        assert len(asked(daemon, "connect")) == 1 and asked(daemon, "disconnect") == []
    finally:
        again.stop()
        store.__init__(run_dir / "xs")


def start_without_connection(daemon, disk):
    path = daemon.state_dir / "disks" / f"{disk.disk}.json"
    saved = json.loads(path.read_text())
    del saved["disk"]["xen"]["connection"]
    path.write_text(json.dumps(saved))
    daemon.start()


def test_a_connection_that_was_not_saved_is_of_other_rings(daemon, store, disk):
    disk.connect()
    daemon.kill()
    disk.rings(9, 16)
    start_without_connection(daemon, disk)
    wait_until(lambda: len(asked(daemon, "connect")) == 3, 5, "connect")
    assert [c["resume"] for c in asked(daemon, "connect")] == [False, True, False] and len(asked(daemon, "disconnect")) == 1


def test_a_connection_that_was_not_saved_goes_on(daemon, store, disk):
    """The guest is busy on its rings: they cannot be begun anew under it."""
    disk.connect()
    daemon.kill()
    start_without_connection(daemon, disk)
    wait_until(lambda: len(asked(daemon, "connect")) == 2, 5, "connect")
    wait_until(lambda: daemon.show(disk.disk)["front_end"] == "connected", 5, "connected")
    assert asked(daemon, "disconnect") == [] and store.read(disk.back + "/state") == "4"


def test_what_happened_while_there_was_no_daemon(daemon, store, image, run_dir):
    disks = []
    for vdev in (51712, 51728, 51744):
        path = run_dir / f"{vdev}.raw"
        path.write_bytes(bytes(1 << 20))
        disks.append(Disk(store, path, vdev=vdev))
    for d in disks:
        d.connect()
    daemon.kill()
    disks[0].remove()
    disks[1].remove()  # another guest has its number now
    disks[1].announce(params=f"raw:{image}")
    disks[2].to(6)
    daemon.start()
    gone(daemon, disks[0].disk)
    disks[1].is_back(2)
    wait_until(lambda: daemon.show(disks[1].disk)["config"]["layers"][0]["path"] == str(image), 5, "the new disk")
    disks[2].is_back(6)
    assert len(asked(daemon, "connect")) == 3


def test_rings_of_another_guest_are_not_gone_on_with(daemon, store, disk):
    """The host was started again: there is a domain 7 again, with another disk."""
    disk.connect()
    pid = daemon.show(disk.disk)["pid"]
    daemon.kill()
    os.kill(pid, 9)
    store.write("/local/domain/7/vm", "/vm/another")
    daemon.start()
    wait_until(lambda: any("offered" in c["xen"] for c in asked(daemon, "configure")), 10, "a disk of the new guest")
    connects = asked(daemon, "connect")
    assert all(not c["resume"] for c in connects[:1])


@pytest.mark.slow
def test_the_store_goes_and_comes_back(daemon, store, disk, run_dir):
    disk.connect()
    tree = dict(store.tree)
    store.stop()
    wait_until(lambda: "connection to xenstore is gone" in daemon.output(), 15, "that it was noticed")
    assert daemon.show(disk.disk)["front_end"] == "connected"
    again = XenStore(run_dir / "xs")
    try:
        with again.lock:
            again.tree.update(tree)
        disk.store = again
        wait_until(lambda: again.watch_count() >= 4, 10, "watches")
        disk.to(6)
        disk.is_back(6)
    finally:
        again.stop()
        store.__init__(run_dir / "xs")


def test_a_store_that_fails_for_a_moment(daemon, store, disk):
    """It is no answer: neither of the toolstack (a disk without a mode is read-only), nor of the guest."""
    store.faults = {disk.back + "/mode": 2, disk.back + "/online": 1, disk.front + "/ring-ref": 1, disk.front + "/protocol": 1}
    disk.announce()
    disk.is_back(2)
    assert not daemon.show(disk.disk)["config"]["read_only"]
    disk.rings()
    disk.to(3)
    disk.is_back(4)
    assert disk.error() is None and not any(store.faults.values())


def test_a_guest_that_moves_to_its_own_host(daemon, store, disk):
    """Its next domain's disk is there before the last one's has gone, and offers what the guest has seen."""
    disk.connect()
    daemon.behave(sectors="4096", offer={"feature-discard": "1"})
    after = Disk(store, disk.image, domid=8)
    after.announce()
    after.is_back(2)
    assert store.read(after.back + "/sectors") == "2048" and store.read(after.back + "/feature-discard") is None
    assert [d["name"] for d in daemon.call("disk.list")["disks"]] == [disk.disk]
    after.rings(20, 21)
    after.to(3)
    time.sleep(0.3)
    assert store.read(after.back + "/state") == "2"
    store.remove(disk.front)
    disk.unplug()
    disk.is_back(6)
    after.is_back(4)
    assert asked(daemon, "connect")[1]["rings"] == [{"refs": [20], "port": 21}]
    assert asked(daemon, "configure")[1]["xen"]["offered"]["sectors"] == "2048"
    gone_too = Disk(store, disk.image, domid=9)
    gone_too.announce()
    gone_too.is_back(2)
    gone_too.remove()
    after.unplug()
    after.to(6)
    after.is_back(6)
    assert daemon.call("disk.list")["disks"] == []


def test_an_image_that_another_guest_has(daemon, store, disk):
    disk.connect()
    other = Disk(store, disk.image, domid=8)
    other.vm = "/vm/another"
    other.announce()
    wait_until(lambda: str(disk.image) in (other.error() or ""), 5, "a reason")
    assert store.read(other.back + "/state") == "1"
    store.remove(disk.front)
    disk.unplug()
    disk.is_back(6)
    other.is_back(2)
    assert other.error() is None


def test_a_guest_that_moved_and_cannot_be_served(daemon, store, disk):
    disk.connect()
    after = Disk(store, disk.image, domid=8)
    after.announce()
    after.is_back(2)
    daemon.behave(configure="error")
    store.remove(disk.front)
    disk.unplug()
    disk.is_back(6)
    after.rings(20, 21)
    after.to(3)
    wait_until(lambda: "told to fail" in (after.error() or ""), 5, "a reason")
    daemon.behave()
    after.is_back(4)
    assert after.error() is None


def place_of_error(device):
    return device.back.replace("/backend/", "/error/backend/") + "/error"


def test_the_next_daemon_learns_that_a_disks_rings_are_broken(daemon, store, disk):
    disk.connect()
    pid = daemon.show(disk.disk)["pid"]
    daemon.kill()
    daemon.behave(broken="its request\x1b index jumps")
    daemon.start()
    wait_until(lambda: store.read(place_of_error(disk)) == "71 its request? index jumps", 10, "an error")
    shown = daemon.wait_state(disk.disk)
    assert (shown["pid"], shown["front_end"], shown["front_end_why"]) == (pid, "broken", "its request? index jumps")
    assert store.read(disk.back + "/state") == "4"
    daemon.behave()
    os.kill(pid, 9)  # the next worker goes on with them: what it says counts
    wait_until(lambda: store.read(place_of_error(disk)) is None, 10, "the end of the error")
    shown = daemon.wait_state(disk.disk)
    assert shown["front_end"] == "connected" and "front_end_why" not in shown


def test_an_error_that_is_none_any_more_is_removed_by_the_next_daemon(daemon, store, disk):
    """With the directories that were made for it, and no other's."""
    errors = "/local/domain/0/error"
    store.write(errors + "/backend/vif/9/0/error", "of somebody else's")
    others = store.under(errors)
    disk.connect()
    daemon.kill()
    daemon.behave(broken="its request index jumps")
    daemon.start()
    wait_until(lambda: store.read(place_of_error(disk)), 10, "an error")
    daemon.kill()
    daemon.behave(adopt="hang")
    daemon.start()
    wait_until(lambda: len(asked(daemon, "adopt")) == 4, 10, "the worker being asked")  # of its version, too, when it was new
    assert store.read(place_of_error(disk))  # nobody knows yet
    daemon.kill()
    daemon.behave()
    daemon.start()
    wait_until(lambda: store.read(place_of_error(disk)) is None, 10, "the end of the error")
    assert store.under(errors) == others and store.read(disk.back + "/state") == "4"


def test_directories_of_errors_with_something_of_others(daemon, store, disk):
    errors = "/local/domain/0/error"
    disk.connect()
    daemon.kill()
    daemon.behave(broken="its request index jumps")
    daemon.start()
    wait_until(lambda: store.read(place_of_error(disk)), 10, "an error")
    came = [errors + "/backend/vbd/8/51712/error", errors + "/backend/vbd/7/51728/error"]
    store.write(came[0], "of somebody else's")
    store.before_commit = lambda writes: None if store.read(came[1]) else store.set(came[1], "at the same time")
    disk.remove()
    gone(daemon, disk.disk)
    wait_until(lambda: store.read(place_of_error(disk)) is None, 10, "the end of the error")
    left = {"backend", "backend/vbd", *(part for path in came for part in ancestors(path[len(errors) + 1:]))}
    assert set(store.under(errors)) == left


def ancestors(path):
    words = path.split("/")
    return {"/".join(words[:i]) for i in range(1, len(words) + 1)}


# ---- operators ----


def test_resize_under_the_guest(daemon, store, disk):
    disk.connect()
    with open(disk.image, "ab") as f:
        f.truncate(2 << 20)
    store.writes.clear()
    daemon.call("disk.resize", name=disk.disk, size_bytes=2 << 20)
    assert [w for w in store.writes if w[0].startswith(disk.back)] == [(disk.back + "/sectors", "4096"), (disk.back + "/state", "4")]


def test_an_operator_takes_a_disk_away(daemon, store, disk):
    disk.connect()
    with pytest.raises(Exception, match="guest is connected"):
        daemon.call("disk.detach", name=disk.disk)
    daemon.call("disk.detach", name=disk.disk, force=True)
    disk.is_back(5)
    disk.to(6)
    disk.is_back(6)
    time.sleep(0.3)
    assert daemon.call("disk.list")["disks"] == []
    disk.unplug()
    disk.remove()
    disk.connect()  # the toolstack may announce another one there


def test_operators_attach_no_xen_disks(daemon, image):
    with pytest.raises(Exception, match="toolstack"):
        daemon.attach("x", image, xen={"domid": 7})


# ---- hostile guests ----


def test_a_worker_in_the_hands_of_its_guest_publishes_no_other_keys(daemon, store, disk):
    """xl runs what the backend's "script" says, as root."""
    daemon.behave(offer={"script": "/tmp/evil", "state": "6", "online": "0", "frontend": "/x", "a/b": "1", "info": "\x1b[2J",
                         "feature-barrier": 5, "feature-discard": "x" * 300})
    disk.announce()
    disk.is_back(2)
    keys = store.under(disk.back)
    assert keys["script"] == "/etc/xen/scripts/block-creedence" and keys["frontend"] == disk.front and keys["online"] == "1"
    assert "a" not in keys and "feature-barrier" not in keys and "feature-discard" not in keys and keys["info"] == "?[2J"


def test_a_flood_of_states(daemon, store, disk):
    """XSA-349: a guest that writes what is watched faster than anybody can look makes nothing grow: it is not watched meanwhile."""
    disk.connect()

    def flood(until):
        """How often the daemon read, and in how many seconds."""
        start, before = time.monotonic(), store.counts.get(2, 0)
        while not until(time.monotonic() - start):
            for _ in range(1000):
                disk.to(4)
        return store.counts.get(2, 0) - before, time.monotonic() - start

    reads, took_s = flood(lambda passed_s: "all the time" in daemon.output() or passed_s > 30)
    assert "all the time" in daemon.output() and reads < 1500 + 50 * took_s, (reads, took_s)
    reads, took_s = flood(lambda passed_s: passed_s > 2)
    assert reads < 50 * took_s, (reads, took_s)
    assert daemon.show(disk.disk)["front_end"] == "connected"
    disk.to(6)
    disk.is_back(6)


def footprint(daemon, store):
    fds = [os.readlink(f"/proc/{daemon.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{daemon.process.pid}/fd")]
    return sorted(fd.split("[")[0] for fd in fds), store.watch_count()


def at_rest(daemon, store):
    """What has just been answered or saved may still be open."""
    def look():
        first = footprint(daemon, store)
        time.sleep(0.1)
        return first if footprint(daemon, store) == first else None

    return wait_until(look, 5, "a rest")


def test_connecting_again_and_again_leaks_nothing(daemon, store, disk):
    disk.announce()
    before = None
    for i in range(16):  # more, and it is looked at less often
        disk.is_back(2)
        disk.rings(i, i + 1)
        disk.to(3)
        disk.is_back(4)
        disk.to(6)
        disk.is_back(6)
        disk.to(1)
        if i == 2:
            before = at_rest(daemon, store)
    disk.is_back(2)
    wait_until(lambda: footprint(daemon, store) == before, 5, "the same as before")
    assert len(asked(daemon, "disconnect")) == 16


# ---- cards ----


class Card(Device):
    def __init__(self, store, domid=7, handle=0, name="vif"):
        super().__init__(store, name, domid, handle, kind="vif")
        self.card = f"xen-{domid}-{handle}"

    def announce(self, **keys):
        super().announce(**{"mac": "00:16:3e:00:00:01", "bridge": "br0", "handle": self.number, "type": "vif",
                            "script": "/etc/xen/scripts/vif-creedence", **keys})

    def rings(self, **keys):
        self.store.write_all(self.front, **{"tx_ring_ref": 8, "rx_ring_ref": 9, "event_channel_tx": 15, "event_channel_rx": 16,
                                            "request_rx_copy": 1, "feature_sg": 1, "feature_gso_tcpv4": 1, **keys})

    def connect(self):
        self.announce()
        self.is_back(2)
        self.rings()
        self.to(4)
        self.is_back(4)


@pytest.fixture
def card(daemon, store):
    daemon.call("bridge.add", name="br0")
    return Card(store)


def told(daemon, method):
    return [e["params"] for e in daemon.switch_log(method)]


def shown_card(daemon, name):
    return next((v for v in daemon.call("vif.list")["vifs"] if v["name"] == name), None)


CONNECT = {"name": "xen-7-0", "resume": False,
           "queues": [{"tx-ring-ref": 8, "rx-ring-ref": 9, "event-channel-tx": 15, "event-channel-rx": 16}],
           "frontend": {"request-rx-copy": "1", "feature-sg": "1", "feature-gso-tcpv4": "1"}}


def test_a_card_from_its_announcement_to_its_end(daemon, store, card):
    card.connect()
    [attached] = told(daemon, "vif.attach")
    assert attached["xen"] == {"domid": 7, "handle": 0} and attached["mac"] == "00:16:3e:00:00:01"
    assert store.read(card.back + "/feature-sg") == "1"
    assert told(daemon, "vif.connect") == [CONNECT]
    shown = shown_card(daemon, card.card)
    assert shown["alias"] == "vif7.0" and shown["front_end"] == "connected" and "socket" not in shown
    card.unplug()
    card.to(5)
    card.to(6)
    card.is_back(6)
    assert len(told(daemon, "vif.disconnect")) == len(told(daemon, "vif.detach")) == 1
    assert shown_card(daemon, card.card) is None
    card.remove()
    wait_until(lambda: store.watch_count() == 3, 5, "only the watches of all devices")


def test_options_of_a_card(daemon, store, card):
    card.announce(bridge="br0.100:200:300", rate="1250000,50000", ip="10.0.0.1 2001:db8::/64", mtu=9000, vifname="web0", tx="copy")
    card.is_back(2)
    shown = shown_card(daemon, "web0")
    assert told(daemon, "vif.attach")[0]["xen"]["tx"] == "copy"
    assert (shown["vlan_mode"], shown["tag"], shown["trunks"]) == ("native-untagged", 100, [200, 300])
    assert shown["rate_in"] == {"bits_per_s": 200_000_000} and shown["mtu"] == 9000
    assert shown["allowed_ips"] == ["10.0.0.1", "2001:db8::/64"] and shown["allowed_macs"] == ["00:16:3e:00:00:01"]
    locked = Card(store, domid=8)
    locked.announce(script="/etc/xen/scripts/vif-creedence-locked")
    locked.is_back(2)
    assert shown_card(daemon, locked.card)["allowed_macs"] == ["00:16:3e:00:00:01"]


def test_queues_of_a_card(run_dir, store):
    with Daemon(run_dir, fake=True, options=["--xen=on", "--xen-card-queues=3"]) as daemon:
        daemon.start()
        daemon.call("bridge.add", name="br0")
        card = Card(store)
        card.announce()
        card.is_back(2)
        assert told(daemon, "vif.attach")[0]["queues"] == 3
    for value in ("0", "17", "x", "", "1x", "-1"):
        refused = subprocess.run([program("creedenced"), f"--xen-card-queues={value}"], capture_output=True, text=True, timeout=10)
        assert refused.returncode == 2 and "1 to 16" in refused.stderr


@pytest.mark.parametrize("keys, words", [
    ({"bridge": "nowhere"}, "nowhere"), ({"bridge": ""}, "bridge"), ({"rate": "fast"}, "rate"), ({"ip": "here"}, "allowed_ips"),
    ({"tx": "flip"}, "tx"), ({"mac": "01:00:00:00:00:00"}, "mac"), ({"bridge": "br0.5000"}, "br0.5000"), ({"bridge": "br0:x"}, "TRUNK"),
])
def test_cards_that_cannot_be(daemon, store, card, keys, words):
    card.announce(**keys)
    wait_until(lambda: words in (card.error() or ""), 5, f"a reason with {words}")
    assert store.read(card.back + "/state") == "1"


@pytest.mark.parametrize("keys", [
    {"tx_ring_ref": "x"}, {"rx_ring_ref": ""}, {"event_channel_rx": "-1"}, {"multi_queue_num_queues": 3},
    {"multi_queue_num_queues": 2}, {"feature_sg": "1" * 400}, {"request_rx_copy": "\x02"},
])
def test_nonsense_of_a_cards_front_end(daemon, store, card, keys):
    card.announce()
    card.is_back(2)
    card.rings(**keys)
    card.to(4)
    card.is_back(5)
    assert "cannot be used" in card.error() and told(daemon, "vif.connect") == []


def multicast_of(request):
    return request["frontend"].get("request-multicast-control")


def test_multicast_control_is_followed(daemon, store, card):
    """At any time while it is connected, if that is offered; the next switch is told of it, too."""
    daemon.behave_switch(offer={"feature-dynamic-multicast-control": "1"})
    card.connect()
    key = card.front + "/request-multicast-control"
    for count, value in enumerate(("1", "0", "1", None, "nonsense"), 1):
        store.write(key, value) if value else store.remove(key)
        wait_until(lambda: len(told(daemon, "vif.follow")) == count, 30, f"{value} to be followed")
        assert multicast_of(told(daemon, "vif.follow")[-1]) == value
    store.write(key, "\x02")  # no text: as if there were none
    wait_until(lambda: multicast_of(told(daemon, "vif.follow")[-1]) is None, 30, "what cannot be read")
    store.write(key, "1")
    wait_until(lambda: multicast_of(told(daemon, "vif.follow")[-1]) == "1", 30, "the next value")
    os.kill(daemon.switch_log()[-1]["pid"], 9)
    wait_until(lambda: len(told(daemon, "vif.connect")) == 2, 30, "the rings' next switch")
    assert multicast_of(told(daemon, "vif.connect")[1]) == "1"
    assert store.read(card.back + "/state") == "4" and card.error() is None
    card.to(6)
    card.is_back(6)
    asked_for = len(told(daemon, "vif.follow"))
    store.write(key, "0")
    card.to(1)
    card.is_back(2)
    assert len(told(daemon, "vif.follow")) == asked_for


def test_multicast_control_that_is_not_offered_to_be_followed(daemon, store, card):
    card.connect()
    store.write(card.front + "/request-multicast-control", 1)
    card.to(6)
    card.is_back(6)
    assert told(daemon, "vif.follow") == []


def test_multicast_control_that_changes_all_the_time(daemon, store, card):
    """It is looked at once a second then, like states; what it ends with is what is done."""
    daemon.behave_switch(offer={"feature-dynamic-multicast-control": "1"})
    card.connect()
    for i in range(3000):
        store.write(card.front + "/request-multicast-control", i % 2)
    store.write(card.front + "/request-multicast-control", "last")
    wait_until(lambda: told(daemon, "vif.follow") and multicast_of(told(daemon, "vif.follow")[-1]) == "last", 30, "the last value")
    assert len(told(daemon, "vif.follow")) < 200
    card.to(6)
    card.is_back(6, 30)


def test_what_a_guest_did_to_its_rings_is_said_to_the_toolstack(daemon, store, card):
    """Where drivers of Linux say it; the device stays as it is until its guest begins anew."""
    card.connect()
    place = "/local/domain/0/error/backend/vif/7/0/error"
    assert store.read(place) is None
    daemon.behave_switch(broken="its request\x1b index jumps")
    daemon.call("vif.stats")
    wait_until(lambda: store.read(place), 30, "an error")
    assert store.read(place) == "71 its request? index jumps" and store.read(card.back + "/state") == "4"
    assert shown_card(daemon, card.card)["front_end"] == "broken"
    daemon.behave_switch()
    for state in (5, 6):
        card.to(state)
        card.is_back(state)
    wait_until(lambda: store.read(place) is None, 30, "its end")
    assert store.under("/local/domain/0/error") == {}
    card.to(1)
    card.is_back(2)
    assert shown_card(daemon, card.card)["front_end"] == "listening"


def test_one_event_channel_and_several_queues(daemon, store, card):
    card.announce()
    card.is_back(2)
    store.write_all(card.front, **{"multi_queue_num_queues": 2, "request_rx_copy": 1, **{
        f"queue_{q}/{key}": 10 * q + i for q in range(2) for i, key in enumerate(("tx_ring_ref", "rx_ring_ref", "event_channel"))}})
    card.to(4)
    card.is_back(4)
    assert told(daemon, "vif.connect")[0]["queues"] == [{"tx-ring-ref": 10 * q, "rx-ring-ref": 10 * q + 1, "event-channel": 10 * q + 2}
                                                        for q in range(2)]


def test_a_store_that_fails_for_a_moment_under_a_card(daemon, store, card):
    store.faults = {card.back + "/ip": 1, card.front + "/rx-ring-ref": 1, card.front + "/feature-sg": 1}
    card.announce(ip="10.0.0.1")
    card.is_back(2)
    assert shown_card(daemon, card.card)["allowed_ips"] == ["10.0.0.1"]
    card.rings()
    card.to(4)
    card.is_back(4)
    assert card.error() is None and not any(store.faults.values())


def test_a_killed_switch_goes_on_with_cards(daemon, store, card):
    card.connect()
    os.kill(daemon.switch_log()[-1]["pid"], 9)
    wait_until(lambda: len(told(daemon, "vif.connect")) == 2, 30, "the rings' next switch")
    assert told(daemon, "vif.connect")[1] == {**CONNECT, "resume": True}
    wait_until(lambda: shown_card(daemon, card.card)["front_end"] == "connected", 5, "connected")
    assert store.read(card.back + "/state") == "4"


def test_the_daemon_of_a_card_is_killed(daemon, store, card):
    card.connect()
    daemon.kill()
    daemon.start()
    wait_until(lambda: shown_card(daemon, card.card)["state"] == "serving", 10, "the card")
    wait_until(lambda: len(told(daemon, "vif.connect")) == 2, 5, "that it is said once more")  # it is connected already
    assert shown_card(daemon, card.card)["front_end"] == "connected" and told(daemon, "vif.disconnect") == []
    daemon.kill()
    card.remove()
    daemon.start()
    wait_until(lambda: shown_card(daemon, card.card) is None, 10, "its end")


def test_the_next_daemon_learns_that_rings_are_broken(daemon, store, card):
    card.connect()
    daemon.kill()
    daemon.behave_switch(broken="its request index jumps")  # with nobody there to hear of it
    daemon.start()
    wait_until(lambda: len(told(daemon, "vif.connect")) == 2, 10, "that it is said once more")
    daemon.behave_switch()
    daemon.call("vif.stats")  # answered behind it
    assert shown_card(daemon, card.card)["front_end"] == "broken"
    place = "/local/domain/0/error/backend/vif/7/0/error"
    wait_until(lambda: store.read(place) == "71 its request index jumps", 10, "an error")


def test_the_daemon_is_killed_before_it_told_the_switch_of_the_rings(daemon, store, card):
    card.connect()
    daemon.behave_switch(silent="vif.connect")
    os.kill(daemon.switch_log()[-1]["pid"], 9)
    wait_until(lambda: len(told(daemon, "vif.connect")) == 2, 10, "the next switch")
    daemon.kill()
    daemon.behave_switch()
    daemon.start()
    wait_until(lambda: len(told(daemon, "vif.connect")) == 3, 5, "that it is told")
    assert told(daemon, "vif.connect")[2] == {**CONNECT, "resume": True}


def test_the_daemon_is_killed_before_it_heard_what_a_card_offers(daemon, store, card):
    daemon.behave_switch(silent="vif.attach")
    card.announce()
    wait_until(lambda: told(daemon, "vif.attach"), 5, "a card")
    daemon.kill()
    daemon.behave_switch()
    daemon.start()
    card.is_back(2)
    assert store.read(card.back + "/feature-sg") == "1" and len(told(daemon, "vif.attach")) == 1


def test_rings_of_another_guests_card_are_not_gone_on_with(daemon, store, card):
    card.connect()
    daemon.kill()
    os.kill(daemon.switch_log()[-1]["pid"], 9)
    store.write("/local/domain/7/vm", "/vm/another")
    store.write(card.back + "/state", 1)
    store.write(card.front + "/state", 1)
    daemon.start()
    card.is_back(2)
    assert len(told(daemon, "vif.connect")) == 1


def test_an_operator_takes_a_card_away(daemon, store, card):
    card.connect()
    daemon.call("vif.detach", name=card.card, **({"force": True}))
    card.is_back(5)
    card.to(6)
    card.is_back(6)
    assert shown_card(daemon, card.card) is None


def test_many_cards_come_and_go(daemon, store, card):
    before, memory = None, None
    for i in range(150):
        card.connect()
        card.remove()
        wait_until(lambda: shown_card(daemon, card.card) is None, 5, "its end")
        if i == 50:
            before, memory = at_rest(daemon, store), resident_kib(daemon)
    wait_until(lambda: footprint(daemon, store) == before, 5, "the same as before")
    assert BUILD.name == "asan" or resident_kib(daemon) < memory + 1024  # which keeps what was freed


def resident_kib(daemon):
    with open(f"/proc/{daemon.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
