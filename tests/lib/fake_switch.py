#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A switch that forwards nothing and does what a test wants: the daemon's side of the link is under test.

Installed by tests as DIR/creedence-switch. How to behave stands in DIR/switch.json:

    {"die": "method", "hang": "method", "close": "method", "fail": {"method": [code, "message"]}, "hostile": "garbage" | ...,
     "connected": ["vif", ...], "extra": N, "forget": ["vif/name", ...], "page": N, "version": "fail", "unknown": "bridge",
     "fault": "vif", "fault_thread": "name", "fault_port": "name", "silent": "method", "wait": "method" (as long as that stands there),
     "broken": "why, when asked for statistics"}

Every request received goes to DIR/switch.jsonl with the names of its descriptors.
"""

import os
import signal
import sys
import time

from fake_link import Fake, send


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Switch(Fake):
    BEHAVIOUR, LOG = "switch.json", "switch.jsonl"

    def __init__(self, listener):
        super().__init__(listener)
        self.configured = False
        self.settled = False
        self.bridges = {}  # name -> {"file": fd, "flows": [text]}
        self.ports = {}
        self.vifs = {}  # name -> {"params", "held": {name: fd}}
        self.ahead = {}  # vif -> held descriptors that came ahead
        self.captures = {}
        self.controllers = {}  # (bridge, target): fd

    # ---- to the daemon ----

    def tell(self, method, params, name=None, fd=None):
        body = {"method": method, "params": params}
        if name is not None:
            body["fds"] = [name]
        send(self.sock, body, [] if fd is None else [fd])

    def hold(self, vif, name, fd):
        self.tell("hold", {"vif": vif, "name": name}, name, fd)

    # ---- requests: each returns its result ----

    def configure(self, params, fds):
        self.configured = True
        return self.version()

    def version(self):
        return {"version": self.behaviour().get("release", "9.9"), "debug": True, "sandbox": "full"}

    def adopt(self, params, fds):
        if not self.configured:
            raise Refused(-19, "not configured")
        names = {"bridges": list(self.bridges), "ports": list(self.ports), "vifs": list(self.vifs)}
        if self.behaviour().get("unknown"):
            names["bridges"].append(self.behaviour()["unknown"])
        return {**self.version(), **names}

    def resend(self):
        for vif, v in self.vifs.items():
            for name, fd in v["held"].items():
                if f"{vif}/{name}" not in self.behaviour().get("forget", []):
                    self.hold(vif, name, fd)
            if (why := self.behaviour().get("broken")) and v.get("connected"):
                self.tell("vif", {"name": vif, "front_end": "broken", "why": why})

    def next_number(self, wanted):
        used = {o["number"] for o in [*self.ports.values(), *[v["params"] for v in self.vifs.values()]]}
        if wanted and wanted in used:
            raise Refused(-17, f"port number {wanted} is taken")
        return wanted or next(n for n in range(1, 10000) if n not in used)

    def bridge_add(self, params, fds):
        if params["name"] in self.bridges:
            raise Refused(-17, "there is such a bridge")
        fd = fds["flows"]
        lines = [line for line in os.pread(fd, 1 << 20, 0).decode().splitlines() if line]
        if not lines:
            lines = [] if params.get("fail_mode") == "secure" else ["priority=0,actions=NORMAL"]
        self.bridges[params["name"]] = {"file": fd, "flows": lines}

    def bridge_del(self, params, fds):
        b = self.bridges.pop(params["name"])
        for fd in (b["file"], b.get("next")):
            if fd is not None:
                os.close(fd)

    def bridge_show(self, params, fds):
        b = self.bridges[params["name"]]
        return {"flow_count": len(b["flows"]), "mac_count": 0, "ports": [{"name": n, "packets": 1} for n in [*self.ports, *self.vifs]]}

    def bridge_list(self, params, fds):
        return {"bridges": [{"name": n, "flow_count": len(b["flows"]), "mac_count": 2} for n, b in self.bridges.items()]}

    def bridge_set(self, params, fds):
        if params["name"] not in self.bridges:
            raise Refused(-2, "no such bridge")
        for bridge, target in list(self.controllers):
            if bridge == params["name"] and target not in params.get("targets", [target]):
                os.close(self.controllers.pop((bridge, target)))

    def openflow_connected(self, params, fds):
        """A real connection, kept open; what is said of it is what the test wants."""
        self.controllers[params["bridge"], params["target"]] = fds["connection"]
        for state in self.behaviour().get("controller", ["established"]):
            self.tell("controller", {"bridge": params["bridge"], "target": params["target"], "state": state})

    def openflow_listen(self, params, fds):
        self.controllers[params["bridge"], params["target"]] = fds["listen"]

    def openflow_drop(self, params, fds):
        fd = self.controllers.pop((params["bridge"], params["target"]), None)
        if fd is not None:
            os.close(fd)

    def controller_list(self, params, fds):
        return self.paged("connections", [{"bridge": b, "target": t, "role": "equal", "packet_ins": 5} for b, t in self.controllers], params)

    def openflow_tls(self, params, fds):
        return {}

    def policy_set(self, params, fds):
        return {}

    def port_add(self, params, fds):
        if params["bridge"] not in self.bridges:
            raise Refused(-2, "no such bridge")
        if params.get("device", params["name"]) == "absent0":
            raise Refused(-19, "absent0: no such interface")
        number = self.next_number(params.get("number", 0))
        self.ports[params["name"]] = {**params, "number": number}
        return {"number": number}

    def port_del(self, params, fds):
        del self.ports[params["name"]]

    def port_set(self, params, fds):
        self.ports[params["name"]].update(params)

    def paged(self, key, entries, params):
        start, size = params.get("from", 0), self.behaviour().get("page", 1000)
        answer = {key: entries[start:start + size]}
        if start + size < len(entries):
            answer["next"] = start + size
        return answer

    def port_list(self, params, fds):
        return self.paged("ports", [{"name": n, "link": True} for n in self.ports], params)

    def counters(self, name):
        return {"name": name, "in_packets": 1000 * (1 + int(time.monotonic())), "in_bytes": 64000, "in_dropped": 1, "out_packets": 7,
                "out_bytes": 700, "out_dropped": 0}

    def port_stats(self, params, fds):
        return self.paged("ports", [self.counters(n) for n in self.ports], params)

    def vif_held(self, params, fds):
        self.ahead.setdefault(params["name"], {}).update(fds)

    def vif_attach(self, params, fds):
        name = params["name"]
        if params["bridge"] not in self.bridges:
            raise Refused(-2, "no such bridge")
        number = self.next_number(params.get("number", 0))
        listen = fds.pop("listen", None)  # none of a Xen guest's
        held = {**self.ahead.pop(name, {}), **fds}
        if "state" not in held:
            held["state"] = os.memfd_create("state")
            os.write(held["state"], b"0")
            self.hold(name, "state", held["state"])
        os.pwrite(held["state"], str(int(os.pread(held["state"], 20, 0)) + 1).encode(), 0)
        if name in self.behaviour().get("connected", []) and "conn" not in held:
            held["conn"] = os.memfd_create("conn")
            self.hold(name, "conn", held["conn"])
        for i in range(self.behaviour().get("extra", 0)):
            if f"extra{i}" not in held:
                held[f"extra{i}"] = os.dup(held["state"])
                self.hold(name, f"extra{i}", held[f"extra{i}"])
        self.vifs[name] = {"params": {**params, "number": number}, "held": held, "listen": listen}
        self.tell("vif", {"name": name, "front_end": "connected" if "conn" in held else "listening"})
        backend = self.backend()
        return {"number": number, "mac": params.get("mac", "02:00:00:aa:bb:%02x" % number), **(backend if "xen" in params else {})}

    def backend(self):
        return {"backend": {"feature-sg": "1", "multi-queue-max-queues": "2", **self.behaviour().get("offer", {})}}

    def vif_connect(self, params, fds):
        if self.vifs[params["name"]].get("connected"):
            raise Refused(-106, "it is connected already")
        self.vifs[params["name"]]["connected"] = True

    def vif_follow(self, params, fds):
        if not self.vifs[params["name"]].get("connected"):
            raise Refused(-107, "it has no front end")

    def vif_disconnect(self, params, fds):
        self.vifs[params["name"]]["connected"] = False

    def vif_detach(self, params, fds):
        v = self.vifs.pop(params["name"])
        for fd in [v["listen"], *v["held"].values()]:
            if fd is not None:
                os.close(fd)

    def vif_set(self, params, fds):
        self.vifs[params["name"]]["params"].update(params)

    def vif_list(self, params, fds):
        wanted = [n for n in self.vifs if params.get("name") in (None, n)]
        return self.paged("vifs", [{"name": n, "queues_running": 1, **(self.backend() if "xen" in self.vifs[n]["params"] else {})}
                                   for n in wanted], params)

    def vif_stats(self, params, fds):
        if why := self.behaviour().get("broken"):
            self.tell("vif", {"name": next(iter(self.vifs)), "front_end": "broken", "why": why})
        wanted = [n for n in self.vifs if params.get("name") in (None, n)]
        return self.paged("vifs", [{**self.counters(n), "generation": int(os.pread(self.vifs[n]["held"]["state"], 20, 0))} for n in wanted],
                          params)

    def net_stats(self, params, fds):
        answer = self.paged("ports", [self.counters(n) for n in [*self.ports, *self.vifs]], params)
        answer["bridges"] = [{"name": n, "flow_count": len(b["flows"])} for n, b in self.bridges.items()]
        now = 100 * int(time.monotonic())
        answer["switch"] = {"packets": 10 * now, "emc_hits": 6 * now, "megaflow_hits": 3 * now, "translations": now, "dropped": 5,
                            "megaflows": 12, "masks": 3, "threads": 2}
        return answer

    def flow_change(self, params, kind):
        b = self.bridges[params["bridge"]]
        changed = 0
        for number, text in enumerate(params["flows"], 1):
            if "wrong" in text:
                raise Refused(-22, f"line {number}, column {text.index('wrong') + 1}: expected a field")
            if kind == "del":
                left = [f for f in b["flows"] if text and not f.startswith(text)]
                changed += len(b["flows"]) - len(left)
                b["flows"] = left
            else:
                b["flows"].append(text)
                changed += 1
            for fd in (b["file"], b.get("next")):
                if fd is not None:
                    os.write(fd, f"{text}\n".encode())
        return {"changed": changed}

    def flow_add(self, params, fds):
        return self.flow_change(params, "add")

    def flow_mod(self, params, fds):
        return self.flow_change(params, "mod")

    def flow_del(self, params, fds):
        return self.flow_change(params, "del")

    def flow_dump(self, params, fds):
        match = params.get("match", "")
        flows = [{"text": f, "table": 0, "packets": 3, "bytes": 180, "duration_s": 1.5, "idle_s": 0.25} for f in self.bridges[params["bridge"]]["flows"] if match in f]
        return self.paged("flows", flows, params)

    def flow_trace(self, params, fds):
        return {"text": f"packet: {params['packet']}\ntable 0: priority 0: NORMAL\nmegaflow: in_port=1\n"}

    # ---- groups and meters: taken, and told of ----

    def group_add(self, params, fds):
        return self.texts_change(params, "groups", True)

    def group_mod(self, params, fds):
        return self.texts_change(params, "groups", True)

    def group_del(self, params, fds):
        return self.texts_change(params, "groups", False)

    def meter_add(self, params, fds):
        return self.texts_change(params, "meters", True)

    def meter_mod(self, params, fds):
        return self.texts_change(params, "meters", True)

    def meter_del(self, params, fds):
        return self.texts_change(params, "meters", False)

    def texts_change(self, params, key, there):
        self.bridges[params["bridge"]][key] = params[key] if there else []
        return {"changed": len(params[key])}

    def group_dump(self, params, fds):
        return self.texts_dump(params, "groups", {"flows": 1, "buckets": [{"packets": 2, "bytes": 120}]})

    def meter_dump(self, params, fds):
        return self.texts_dump(params, "meters", {"flows": 1, "bands": [{"packets": 2, "bytes": 120}]})

    def texts_dump(self, params, key, counters):
        texts = self.bridges[params["bridge"]].get(key, [])
        return self.paged(key, [{"text": text, "packets": 3, "bytes": 180, "duration_s": 1.5, **counters} for text in texts], params)

    def policy_show(self, params, fds):
        return self.paged("flows", [{"text": "priority=32768,out_port=web1,tcp actions=allow"}], params)

    def megaflow_dump(self, params, fds):
        return self.paged("megaflows", [{"match": f"in_port={i},ip", "bridge": "br0", "actions": "output:2", "packets": i, "bytes": 60 * i, "idle_s": 0.5,
                                         "thread": "vif1"} for i in range(5)], params)

    def megaflow_stats(self, params, fds):
        return {"megaflows": 5, "masks": 2, "emc_hits": 10}

    def mac_show(self, params, fds):
        return self.paged("macs", [{"mac": "02:00:00:00:00:01", "vlan": 0, "number": 1, "port": "web1", "age_s": 4}], params)

    def mac_flush(self, params, fds):
        return {}

    def capture_start(self, params, fds):
        self.captures[params["port"]] = fds["file"]
        os.write(fds["file"], b"pcapng")

    def capture_stop(self, params, fds):
        if params["port"] not in self.captures:
            raise Refused(-2, "no capture of that port is going on")
        os.close(self.captures.pop(params["port"]))
        return {"packets": 3, "bytes": 200, "dropped": 0}

    def flows_file(self, params, fds):
        b = self.bridges[params["bridge"]]
        self.forget_next(b)
        os.write(fds["flows"], "".join(f"{f}\n" for f in b["flows"]).encode())
        b["next"] = fds["flows"]

    def flows_placed(self, params, fds):
        b = self.bridges[params["bridge"]]
        placed = os.fstat(fds["flows"]).st_ino
        os.close(fds["flows"])
        if placed == os.fstat(b["file"]).st_ino:
            self.forget_next(b)
        elif b.get("next") is not None and placed == os.fstat(b["next"]).st_ino:
            os.close(b["file"])
            b["file"] = b.pop("next")
        else:
            raise Refused(-116, "the flows are in another file")

    def forget_next(self, b):
        if b.get("next") is not None:
            os.close(b.pop("next"))

    def settled_(self, params, fds):
        self.settled = True

    # ---- mischief ----

    def hostile(self, how):
        if how == "garbage":
            self.sock.send(b"not json")
        elif how == "flood":
            fd = os.memfd_create("x")
            for i in range(5000):
                self.hold(next(iter(self.vifs)), f"flood{i}", fd)
        elif how == "types":
            self.tell("hold", {"vif": 5, "name": []})
            self.tell("hold", {"vif": next(iter(self.vifs)), "name": "x" * 60}, "x", os.memfd_create("x"))
            self.tell("hold", {"vif": next(iter(self.vifs)), "name": "listen"}, "listen", os.memfd_create("x"))
            self.tell("hold", {"vif": "nobody", "name": "conn"}, "conn", os.memfd_create("x"))
            self.tell("unhold", {"vif": {}, "name": 1})
            self.tell("unhold", {"vif": next(iter(self.vifs)), "name": "never held"})
            self.tell("vif", {"name": [], "front_end": 1})
            self.tell("vif", {"name": next(iter(self.vifs)), "front_end": "owned"})
            self.tell("flows", {"bridge": "../../etc/passwd", "compact": True})
            self.tell("fault", {"thread": 5})
            bridge = next(iter(self.bridges))
            for params in ({}, {"bridge": 5, "target": [], "state": {}}, {"bridge": bridge, "target": "tcp:127.0.0.1:1", "state": "established"},
                           {"bridge": bridge, "target": "tcp:127.0.0.1:1", "state": "ended", "why": 7},
                           {"bridge": "nobody", "target": "x" * 5000, "state": "ended", "why": "y"}):
                self.tell("controller", params)
            self.tell("fault", {})
            self.tell("nonsense", {})
        elif how == "escapes":
            self.tell("vif", {"name": next(iter(self.vifs)), "front_end": "broken", "why": "\x1b[2J\nfake \u009b2J"})
            self.tell("\x1b[2J\nfake", {})
        elif how == "answer":
            send(self.sock, {"id": 99999, "result": {}})
        elif how == "compact":
            for _ in range(2000):
                self.tell("flows", {"bridge": next(iter(self.bridges)), "compact": True})

    # ---- life ----

    def dispatch(self, request, fds):
        method, how = request["method"], self.behaviour()
        self.note({"method": method, "params": request.get("params"), "fds": sorted(fds)})
        if how.get("die") == method:
            os.kill(os.getpid(), signal.SIGKILL)
        if how.get("hang") == method:
            time.sleep(1000)
        while self.behaviour().get("wait") == method:
            time.sleep(0.01)
        if how.get("close") == method:
            self.sock.close()
            self.sock = None
            return
        result, error = None, None
        try:
            if method in how.get("fail", {}):
                raise Refused(*how["fail"][method])
            names = {"settled": "settled_", "leave": "mac_flush", "quit": "mac_flush"}
            result = getattr(self, names.get(method, method.replace(".", "_")))(request.get("params", {}), fds)
        except Refused as refused:
            error = {"code": refused.code, "message": str(refused)}
        except KeyError as missing:
            error = {"code": -2, "message": f"there is no {missing}"}
        if how.get("answer", {}).get(method) is not None:
            result = how["answer"][method]
        if how.get("silent") == method:
            return
        send(self.sock, {"id": request["id"], **({"error": error} if error else {"result": result if result is not None else {}})})
        if method in ("leave", "quit"):
            sys.exit(0)
        if method == "adopt" and not error:
            self.resend()
        if method == "settled":
            self.hostile(how.get("hostile"))
            if how.get("fault") in self.vifs or how.get("fault_thread"):
                self.tell("fault", {"thread": how.get("fault_thread", how.get("fault")), "port": how.get("fault_port", "")})
                os.kill(os.getpid(), signal.SIGSEGV)
            if how.get("compact"):
                self.tell("flows", {"bridge": how["compact"], "compact": True})


Switch.main()
