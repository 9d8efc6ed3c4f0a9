#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A disk worker that serves nothing and does what a test wants: the daemon's side of the link is under test.

Installed by tests as DIR/creedence-vbd. How to behave stands in DIR/behaviour.json:

    {"configure": "ok" | "error" | "hang" | "crash" | "lost", "hostile": "garbage" | "flood" | "swap" | ...,
     "connected": true, "connect": "error" | "busy" | "crash" | "hang" | "lost", "sectors": "N"}

Every request received goes to DIR/log.jsonl with the names of its descriptors.
"""

import os
import signal
import sys
import time

from fake_link import Fake, send


class Worker(Fake):
    BEHAVIOUR, LOG = "behaviour.json", "log.jsonl"

    def __init__(self, listener):
        super().__init__(listener)
        self.config = None
        self.held = {}
        self.layers = {}
        self.connected = False

    def keep(self, name, fd):
        send(self.sock, {"method": "keep", "params": {"name": name}, "fds": [name]}, [fd])

    def answer(self, request, result=None, error=None):
        body = {"id": request["id"]}
        if error:
            body["error"] = {"code": error[0], "message": error[1]}
        else:
            body["result"] = {} if result is None else result
        send(self.sock, body)

    def configure(self, request, fds):
        how = self.behaviour()
        mode = how.get("configure", "ok")
        if mode == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if mode == "hang":
            time.sleep(1000)
        if mode == "error":
            self.answer(request, error=(-5, "the fake worker was told to fail"))
            sys.exit(1)
        self.config = request["params"]
        for name, fd in fds.items():
            if name.startswith("held:"):
                self.held[name[5:]] = fd
            elif name.startswith("layer"):
                self.layers[name] = fd
        if "state" not in self.held:
            self.held["state"] = os.memfd_create("state")
            os.write(self.held["state"], b"0")
            self.keep("state", self.held["state"])
        generation = int(os.pread(self.held["state"], 20, 0)) + 1
        os.pwrite(self.held["state"], str(generation).encode(), 0)
        if how.get("connected") and "conn" not in self.held:
            self.held["conn"] = os.memfd_create("conn")
            self.keep("conn", self.held["conn"])
        for i in range(how.get("extra", 0)):
            if f"extra{i}" not in self.held:
                self.held[f"extra{i}"] = os.dup(self.held["state"])
                self.keep(f"extra{i}", self.held[f"extra{i}"])
        state = how.get("state") or ("connected" if "conn" in self.held else "listening")
        send(self.sock, {"method": "state", "params": {"state": state}})
        if mode == "lost":
            return
        self.answer(request, {"backend": self.offered(how)} if "xen" in self.config else None)
        self.hostile(how.get("hostile"))

    def offered(self, how):
        """What a Xen guest is to see: the same as the last time, except for the size."""
        return {"sectors": how.get("sectors", "2048"), "sector-size": "512", "info": "0",
                "multi-queue-max-queues": "4", "max-ring-page-order": "2", "feature-flush-cache": "1",
                **how.get("offer", {})}

    def connect(self, request):
        how = self.behaviour().get("connect")
        if self.connected and request["params"] == {**self.rings, "resume": True}:
            self.answer(request)
            return
        if self.connected:
            self.answer(request, error=(-106, "connected already"))
            return
        self.connected, self.rings = how in (None, "lost"), request["params"]
        if how == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "busy":
            self.answer(request, error=(-16, "requests are open from before"))
        elif how == "error":
            self.answer(request, error=(-14, "the fake worker cannot map these rings"))
        elif how not in ("hang", "lost"):
            self.answer(request)

    def hostile(self, how):
        if how == "garbage":
            self.sock.send(b"not json")
        elif how == "fd-names":
            fd = os.memfd_create("x")
            send(self.sock, {"method": "keep", "params": {"name": "x"}, "fds": ["a", "b"]}, [fd])
        elif how == "flood":
            fd = os.memfd_create("x")
            for i in range(3000):
                self.keep(f"flood{i}", fd)
        elif how == "types":
            send(self.sock, {"method": "keep", "params": {"name": 5}})
            send(self.sock, {"method": "drop", "params": {"name": []}})
            send(self.sock, {"method": "state", "params": {"state": {}}})
            send(self.sock, {"method": "nonsense"})
        elif how == "escapes":
            send(self.sock, {"method": "state", "params": {"state": "\x1b[2J\nfake", "why": "\x1b[2J\nfake \u009b2J"}})
            send(self.sock, {"method": "\x1b[2J\nfake"})
        elif how == "answer":
            send(self.sock, {"id": 99999, "result": {}})
        elif how == "layer":
            self.keep("layer0", os.open("/dev/null", os.O_RDWR))
        elif how == "close":
            self.sock.close()
            self.sock = None

    def dispatch(self, request, fds):
        method = request["method"]
        self.note({"method": method, "params": request.get("params"), "fds": sorted(fds)})
        if method == "configure":
            self.configure(request, fds)
        elif method == "held":
            self.held.update({name[5:]: fd for name, fd in fds.items()})
            self.answer(request)
        elif method == "connect":
            self.connect(request)
        elif method == "disconnect":
            self.connected = False
            self.answer(request)
        elif method == "adopt":
            if self.config is None:
                self.answer(request, error=(-19, "not configured"))
                return
            if self.behaviour().get("adopt") == "hang":
                return
            xen = {"backend": self.offered(self.behaviour()), "connected": self.connected} if "xen" in self.config else {}
            if why := self.behaviour().get("broken"):
                xen["broken"] = why
            self.answer(request, {"name": self.config["name"], "pid": os.getpid(), "version": "9.9", "debug": True,
                                  "sandbox": self.behaviour().get("sandbox", "full"),
                                  "config": self.config, **xen})
            for name in self.behaviour().get("forget", []):
                self.held.pop(name, None)
            for name, fd in {**self.held, **self.layers}.items():
                self.keep(name, fd)
        elif method == "stats":
            if self.behaviour().get("stats") == "hang":
                return
            generation = int(os.pread(self.held["state"], 20, 0))
            self.answer(request, {"state": "connected", "reads": 10 * generation, "read_bytes": 40960, "writes": 0,
                                  "generation": generation, "queues": []})
        elif method == "resize" and request["params"]["size_bytes"] > 1 << 40:
            self.answer(request, error=(-27, "too large"))
        elif method == "quit" and self.behaviour().get("quit") == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif method == "quit" and self.behaviour().get("quit") == "error":
            self.answer(request, error=(-28, "no space left for what was written last"))
            sys.exit(1)
        elif method == "leave" and self.behaviour().get("leave") == "hang":
            time.sleep(1000)
        elif method in ("leave", "quit"):
            self.answer(request)
            sys.exit(0)
        else:
            self.answer(request)


Worker.main()
