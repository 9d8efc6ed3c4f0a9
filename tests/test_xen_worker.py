# SPDX-License-Identifier: Apache-2.0
"""The disk worker with a Xen guest: real processes, a simulated machine (src/guest/sim.h) with a blkfront that checks every block."""

import json
import os
import socket

import pytest

from lib.paths import program
from lib.process import Process, wait_until
from lib.xen_guest import BlkGuest
from test_links import Link, refused

BUSY, CONNECTED = -16, -106


class KeepingLink(Link):
    """Also holds what the worker wants to be held for its successor."""

    def __init__(self, path):
        super().__init__(path)
        self.kept = {}

    def receive(self):
        while True:
            data, fds, _flags, _address = socket.recv_fds(self.sock, 1 << 18, 250)
            message = json.loads(data) if data else None
            if message is None or "id" in message:
                return message
            if message["method"] == "keep":
                self.kept[message["params"]["name"]] = fds[0]


class Worker:
    """One process after the other for one disk; the state of the last is handed to the next."""

    def __init__(self, directory, guest, image, **xen):
        self.directory, self.guest, self.image, self.xen, self.count = directory, guest, image, xen, 0
        self.state = None
        self.start()

    def start(self):
        self.count += 1
        path = self.directory / f"link{self.count}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()
            self.process = Process([program("creedence-vbd"), f"--link-fd={listener.fileno()}", "--sandbox=off"], self.directory / "worker.log",
                                   pass_fds=[listener.fileno()])
        self.link = KeepingLink(path)
        fd = os.open(self.image, os.O_RDWR)
        fds = [("layer0", fd)] + ([("held:state", self.state)] if self.state is not None else [])
        xen = {"domid": 7, "world": f"sim:{self.guest.directory}", **self.xen}
        queues = max(2, len(self.guest.place["rings"]))
        params = {"name": "xen-7-51712", "queues": queues, "layers": [{"format": "raw", "path": str(self.image)}], "xen": xen}
        answer = self.link.call("configure", params, fds)
        os.close(fd)
        self.error = answer.get("error")
        if self.error:
            return
        self.state = self.link.kept.get("state", self.state)
        self.backend = answer["result"]["backend"]

    def kill(self):
        assert self.guest.tell(f"kill {self.process.pid}")["ok"]
        self.process.wait(10)

    def end(self):
        self.process.kill()
        assert "Sanitizer" not in self.process.output() and "Assertion" not in self.process.output()


@pytest.fixture
def bed(run_dir):
    """A function that makes a guest and a worker that is configured for it."""
    made = []

    def make(*options, **xen):
        guest = BlkGuest(run_dir / "machine", *options)
        image = run_dir / "image.raw"
        image.write_bytes(bytes(guest.place["bytes"]))
        worker = Worker(run_dir, guest, image, **xen)
        made.extend([worker, guest])
        return guest, worker

    yield make
    for one in made:
        one.end()


def test_kills_under_load(bed):
    """In each way, with rings of several pages and several queues: what was in flight is done again, nothing is lost or torn."""
    guest, worker = bed("--rings=2", "--pages=4", "--segments=24")
    offered = worker.backend
    assert not {"sectors", "feature-persistent", "feature-max-indirect-segments"} - offered.keys()
    for mode in ("persistent", "copy", "map", "auto"):
        worker.xen = {"mode": mode, "offered": offered}
        worker.kill()
        worker.start()
        assert worker.error is None and worker.backend == offered
        guest.done("rest")
        assert "result" in worker.link.call("connect", guest.connect(resume=True))
        assert "result" in worker.link.call("connect", guest.connect(resume=True))  # so it is
        assert worker.link.call("connect", guest.connect())["error"]["code"] == CONNECTED
        guest.done("load")
        for _ in range(5):
            before = guest.done("load")["done"]
            wait_until(lambda: guest.done("load")["done"] > before + 200, 20, "requests to be answered")
            worker.kill()
            worker.start()
            assert "result" in worker.link.call("connect", guest.connect(resume=True))
        stats = worker.link.call("stats")["result"]
        assert stats["state"] == "connected" and stats["xen"]["way"] == {"auto": "persistent"}.get(mode, mode)
        assert guest.done("rest")["open"] == 0
    assert "result" in worker.link.call("disconnect")
    assert worker.link.call("stats")["result"]["xen"]["rings"] == 0


def test_front_ends_come_and_go(bed):
    guest, worker = bed("--pages=2", "--abi32", mode="map", discard=False)
    assert worker.backend["feature-discard"] == "0" and worker.backend["feature-persistent"] == "0"
    call = worker.link.call
    for _ in range(5):
        assert "result" in call("connect", guest.connect(protocol="x86_32-abi"))
        assert call("connect", guest.connect())["error"]["code"] == CONNECTED
        guest.done("load")
        wait_until(lambda: guest.done("load")["done"] > 50, 20, "requests to be answered")
        guest.done("rest")
        assert "result" in call("disconnect")
        assert "result" in call("disconnect")
        guest.done("anew")
    # One that did not rest is not taken for a new one, whoever says so.
    assert "result" in call("connect", guest.connect(protocol="x86_32-abi"))
    before = guest.done("load")["done"]
    wait_until(lambda: guest.done("load")["done"] > before + 200, 20, "requests to be answered")
    worker.kill()
    wait_until(lambda: guest.done("load")["open"] > 0, 20, "requests that are open")
    worker.state = None
    worker.start()
    assert worker.link.call("connect", guest.connect(protocol="x86_32-abi"))["error"]["code"] == BUSY
    assert worker.link.call("connect", guest.connect(protocol="x86_32-abi", resume=True))["error"]["code"] == BUSY


def test_guest_crashes(bed):
    guest, worker = bed("--rings=2", mode="persistent")
    assert "result" in worker.link.call("connect", guest.connect())
    guest.done("load")
    wait_until(lambda: guest.done("load")["done"] > 300, 20, "requests to be answered")
    guest.tell("crash")
    assert "result" in worker.link.call("disconnect")
    assert worker.link.call("stats")["result"]["xen"]["map_entries"] == 0
    assert worker.link.call("quit")["result"] is not None and worker.process.wait(10) == 0


WRONG_RINGS = [
    ({"rings": []}, "rings"), ({"rings": 5}, "rings"), ({"rings": [{}]}, "port"), ({"rings": [{"port": 1}]}, "refs"), ({"rings": [{"port": 1, "refs": []}]}, "refs"),
    ({"rings": [{"port": 1, "refs": [1, 2, 3]}]}, "power of two"), ({"rings": [{"port": 1, "refs": ["1"]}]}, "reference"),
    ({"rings": [{"port": -1, "refs": [1]}]}, "port"), ({"rings": [{"port": 1, "refs": [1 << 40]}]}, "reference"),
    ({"rings": [{"port": 1, "refs": [1] * 32}]}, "refs"), ({"rings": [{"port": 1, "refs": [8]}] * 3}, "rings"),
    ({"protocol": "sparc"}, "protocol"), ({"protocol": 5}, "protocol"), ({"persistent": 1}, "persistent"), ({"resume": "yes"}, "resume"),
]


def test_connections_that_cannot_be(bed):
    """Each is refused by name, and the worker is as it was."""
    guest, worker = bed()
    for change, words in WRONG_RINGS:
        refused(worker.link.call("connect", guest.connect(**change)), words)
    wrong_port = [{**guest.place["rings"][0], "port": 4000}]
    assert "error" in worker.link.call("connect", guest.connect(rings=wrong_port))
    assert "error" in worker.link.call("connect", guest.connect(rings=[{"port": guest.place["rings"][0]["port"], "refs": [4000]}]))
    assert "result" in worker.link.call("connect", guest.connect())
    guest.done("load")
    wait_until(lambda: guest.done("load")["done"] > 50, 20, "requests to be answered")
    guest.done("rest")


@pytest.mark.parametrize("xen,words", [
    ({"domid": "7"}, "domid"), ({"domid": 0x7ff0}, "domid"), ({"mode": "fast"}, "mode"), ({"cdrom": 1}, "cdrom"), ({"world": "mars"}, "world"),
    ({"offered": []}, "offered"), ({"offered": {"sector-size": "4096"}}, "sector-size"), ({"offered": {"feature-max-indirect-segments": "1024"}}, "indirect"),
    ({"offered": {"max-ring-page-order": "x"}}, "max-ring-page-order"), ({"offered": {"multi-queue-max-queues": "64"}}, "multi-queue")])
def test_configurations_that_cannot_be(bed, xen, words):
    _guest, worker = bed(**xen)
    refused({"error": worker.error}, words)
