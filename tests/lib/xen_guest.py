# SPDX-License-Identifier: Apache-2.0
"""Xen guests without Xen: what a toolstack and a guest write of a device into xenstore, and the programs that play a guest on a
simulated machine (src/guest/sim.h)."""

import json
import subprocess

from .paths import built

VM = "/vm/00000000-0000-0000-0000-000000000007"


class Device:
    """What a toolstack and a guest write of one device."""

    def __init__(self, store, name, domid, number, kind="vbd"):
        self.store, self.domid, self.number, self.vm = store, domid, number, VM
        self.back = f"/local/domain/0/backend/{name}/{domid}/{number}"
        self.front = f"/local/domain/{domid}/device/{kind}/{number}"

    def announce(self, **keys):
        self.store.write(f"/local/domain/{self.domid}/vm", self.vm)
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

    @staticmethod
    def error_in_log(daemon, words):
        return lambda: words in daemon.output()

    def error(self):
        return self.store.read(self.back + "/hotplug-error")


class SimGuest:
    """A program that makes a simulated machine with guests, and is told what they do by lines."""

    program = None

    def __init__(self, directory, *options):
        directory.mkdir()
        self.directory = directory
        self.popen = subprocess.Popen([built(self.program), *options, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.place = json.loads(self.popen.stdout.readline())

    def tell(self, command):
        self.popen.stdin.write(command + "\n")
        self.popen.stdin.flush()
        return json.loads(self.popen.stdout.readline())

    def done(self, command):
        """Carried out, and nothing has gone wrong so far."""
        said = self.tell(command)
        assert said["ok"] and not said["errors"] and not said["wrong"], said
        return said

    def kill(self, pid):
        """Between two of its calls of the hypervisor (sim_kill)."""
        assert self.tell(f"kill {pid}")["ok"]

    def end(self):
        if self.popen.poll() is None:
            self.popen.stdin.close()
        assert self.popen.wait(10) == 0
        self.popen.stdout.close()


class BlkGuest(SimGuest):
    """One guest with a blkfront."""

    program = "bench/xen-blk-guest"

    def connect(self, **change):
        """What a worker is told of it."""
        return {"protocol": "x86_64-abi", "rings": self.place["rings"], "persistent": True, "resume": False, **change}


class NetGuests(SimGuest):
    """Two guests with a netfront each, which send to each other."""

    program = "bench/xen-net-guest"
