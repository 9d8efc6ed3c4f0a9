# SPDX-License-Identifier: Apache-2.0
"""creedence-switch with cards of Xen guests, on a simulated machine (guest/sim.h): connected, refused, and killed under traffic.

The guests are netif-bench: each answer that is not its request's, or comes twice, is an error there."""

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from lib.paths import built
from lib.process import wait_until
from lib.switch import HeldSwitch, LinkError

FRONT_END = {key: "1" for key in ("request-rx-copy", "feature-rx-notify", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6",
                                  "feature-ipv6-csum-offload")}


class Guests:
    def __init__(self, machine, *options):
        self.process = subprocess.Popen([built("bench/netif-bench"), str(machine), *options], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.fronts = json.loads(self.process.stdout.readline())["fronts"]

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def result(self):
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.say("end")
        assert self.process.wait(20) == 0


@pytest.fixture
def machine():
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="cr-netif-"))
    (folder / "machine").mkdir()
    yield folder / "machine"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def switch(processes, run_dir):
    switch = HeldSwitch(processes, run_dir).start()
    switch.want("bridge.add", name="br0")
    yield switch
    if switch.process.running():
        switch.link.ask("quit")
        assert switch.process.wait(10) == 0


def attach(switch, guests, machine, tx):
    for front in guests.fronts:
        n = front["domid"]
        answer = switch.want("vif.attach", name=f"x{n}", bridge="br0", mac=f"02:00:00:00:00:0{n}",
                             xen={"domid": n, "handle": 0, "tx": tx, "world": f"sim:{machine}"})
        assert answer["state"] == "listening"
        assert answer["backend"]["feature-rx-copy"] == "1" and answer["backend"]["multi-queue-max-queues"] == "1"


def connect(switch, guests, resume=False):
    for front in guests.fronts:
        answer = switch.link.ask("vif.connect", name=f"x{front['domid']}", queues=front["queues"], frontend=FRONT_END, resume=resume)
        assert answer["state"] == "connected"


@pytest.mark.parametrize("tx, options", [("copy", ()), ("map", ("--stream=60000", "--split", "--sleep"))])
def test_killed_under_traffic(switch, machine, tx, options):
    guests = Guests(machine, "--ramp=0", "--runtime=3", *options)
    attach(switch, guests, machine, tx)
    connect(switch, guests)
    guests.say("go")
    for _ in range(3):
        time.sleep(0.2)
        switch.kill()
        switch.start()
        connect(switch, guests, resume=True)
    wait_until(lambda: all(v["rx_packets"] > 100 for v in switch.link.ask("vif.stats")["vifs"]), 3, "frames after the last kill")
    result = guests.result()
    assert result["rx_packets"] > 0 and result["tx_failed"] == result["rx_failed"] == 0
    for front in guests.fronts:
        switch.link.ask("vif.disconnect", name=f"x{front['domid']}")
        switch.link.ask("vif.disconnect", name=f"x{front['domid']}")  # harmless
    guests.end()


def test_refused(switch, machine):
    guests = Guests(machine)
    attach(switch, guests, machine, "auto")
    queue = guests.fronts[0]["queues"][0]

    def refused(expected, name="x1", **changes):
        params = {"queues": [queue], "frontend": FRONT_END, **changes}
        with pytest.raises(LinkError, match=expected):
            switch.link.ask("vif.connect", name=name, **params)
        assert switch.link.ask("vif.list")["vifs"][0]["state"] == "listening"

    refused("request-rx-copy", frontend={})
    refused("request-rx-copy", frontend={"request-rx-copy": "yes"})
    refused("no such VIF", name="x9")
    refused("queues", queues=[])
    refused("expected 1 to 1", queues=[queue, queue])
    refused("grant 99999", queues=[{**queue, "rx-ring-ref": 99999}])
    refused("event channel 99999", queues=[{**queue, "event-channel-tx": 99999}])
    refused("control ring", ctrl={"ring-ref": 99999, "event-channel": 5})
    refused("ring-ref", ctrl={"event-channel": 5})
    with pytest.raises(LinkError, match="no front end"):
        switch.link.ask("vif.follow", name="x1", frontend={})
    connect(switch, guests)
    with pytest.raises(LinkError, match="connected already"):
        connect(switch, guests)
    switch.link.ask("vif.follow", name="x1", frontend={"request-multicast-control": "1"})
    with pytest.raises(LinkError, match="frontend"):
        switch.link.ask("vif.follow", name="x1")
    with pytest.raises(LinkError, match="world"):
        switch.link.ask("vif.attach", name="other", bridge="br0", xen={"domid": 3})
    switch.link.ask("vif.attach", name="plain", bridge="br0")
    with pytest.raises(LinkError, match="not a Xen guest's"):
        switch.link.ask("vif.disconnect", name="plain")
    for front in guests.fronts:
        switch.link.ask("vif.detach", name=f"x{front['domid']}")
    guests.process.kill()
    guests.process.wait()
