# SPDX-License-Identifier: Apache-2.0
"""Disks and cards that are announced in xenstore: the daemon, a store of the test's, and guests that are a few lines here."""

import json
import os
import time

import pytest

from lib.control import Daemon
from lib.process import wait_until
from lib.xenstored import XenStore

pytestmark = pytest.mark.timeout_s(60)

VM = "/vm/00000000-0000-0000-0000-000000000007"


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


class Device:
    """What a toolstack and a guest write of one device."""

    def __init__(self, store, name, domid, number, kind="vbd"):
        self.store, self.domid, self.number = store, domid, number
        self.back = f"/local/domain/0/backend/{name}/{domid}/{number}"
        self.front = f"/local/domain/{domid}/device/{kind}/{number}"

    def announce(self, **keys):
        self.store.write(f"/local/domain/{self.domid}/vm", VM)
        self.store.write_all(self.front, state=1, backend=self.back, backend_id=0)
        self.store.write_all(self.back, **{"frontend": self.front, "frontend_id": self.domid, "online": 1, "state": 1, **keys})

    def is_back(self, state, timeout_s=10):
        self.store.wait(self.back + "/state", state, timeout_s)

    def to(self, state):
        self.store.write(self.front + "/state", state)

    def unplug(self):
        """As libxl does."""
        self.store.write_all(self.back, online=0, state=5)

    def remove(self):
        self.store.remove(self.back)
        self.store.remove(self.front)

    def error(self):
        return self.store.read(self.back + "/hotplug-error")


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

    def connect(self, ref=8, port=15):
        self.announce()
        self.is_back(2)
        self.rings(ref, port)
        self.to(3)
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
    assert configured["xen"] == {"domid": 7, "mode": "auto", "cdrom": False} and not configured["read_only"]
    disk.rings()
    disk.to(3)
    disk.is_back(4)
    disk.to(4)
    assert asked(daemon, "connect") == [{"protocol": "x86_64-abi", "rings": [{"refs": [8], "port": 15}],
                                        "persistent": False, "resume": False}]
    assert daemon.show(disk.disk)["front_end"] == "connected"
    disk.unplug()
    disk.to(5)
    disk.to(6)
    disk.is_back(6)
    assert len(asked(daemon, "disconnect")) == 1
    gone(daemon, disk.disk)
    disk.remove()
    wait_until(lambda: store.watch_count() == 2, 5, "only the watches of all devices")
