# SPDX-License-Identifier: Apache-2.0
"""creedence-switch by itself, its link as a daemon sees it, and network namespaces at the ends of its taps."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

from .paths import program, system_program
from .process import LEAST_S, is_listening, wait_until

ANSWER_S = 20


class LinkError(Exception):
    def __init__(self, error):
        super().__init__(error["message"])
        self.code = error["code"]


class SwitchLink:
    """The asking end of a link; notifications are handed to `notified(method, params, fds)`, which owns the descriptors."""

    def __init__(self, path, notified=None):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(str(path))
        self.last_id = 0
        self.notified = notified or self.forget
        self.notifications = []

    def forget(self, method, params, fds):
        for fd in fds.values():
            os.close(fd)

    def send(self, method, params, fds):
        self.last_id += 1
        body = {"id": self.last_id, "method": method, "params": params}
        if fds:
            body["fds"] = list(fds)
        socket.send_fds(self.sock, [json.dumps(body).encode()], list(fds.values()))
        return self.last_id

    def receive(self):
        """The next answer, or None for a notification (handed on)."""
        data, fds, _flags, _address = socket.recv_fds(self.sock, 1 << 18, 250)
        if not data:
            raise ConnectionError("the switch closed the link")
        body = json.loads(data)
        if "id" in body:
            assert not fds
            return body
        self.notifications.append((body["method"], body["params"]))
        self.notified(body["method"], body["params"], dict(zip(body.get("fds", []), fds)))
        return None

    def ask(self, method, fds=None, **params):
        request = self.send(method, params, fds or {})
        while True:
            answer = self.receive()
            if answer is None:
                continue
            assert answer["id"] == request
            if "error" in answer:
                raise LinkError(answer["error"])
            return answer["result"]

    def ask_all(self, method, key, **params):
        """Every entry of a list that comes in pages."""
        entries, at = [], 0
        while at is not None:
            answer = self.ask(method, **{**params, "from": at})
            entries += answer[key]
            at = answer.get("next")
        return entries

    def wait_notification(self, wanted, timeout_s=10):
        """Until `wanted(method, params)` holds for one, those that came already included."""
        end = time.monotonic() + max(timeout_s, LEAST_S)
        while not any(wanted(*n) for n in self.notifications):
            self.sock.settimeout(max(0.01, end - time.monotonic()))
            assert self.receive() is None
        self.sock.settimeout(ANSWER_S)

    def drain(self):
        self.sock.setblocking(False)
        try:
            while True:
                self.receive()
        except (BlockingIOError, ConnectionError):
            pass
        self.sock.settimeout(ANSWER_S)

    def close(self):
        self.sock.close()


def start_switch(processes, run_dir, *words, control=True, sandbox="off"):
    """creedence-switch alone; (process, link or None)."""
    command = [program("creedence-switch"), f"--sandbox={sandbox}", *words]
    path = run_dir / "switch-control.sock"
    if control:
        command.append(f"--control={path}")
    process = processes.start(command)
    if not control:
        return process, None
    process.wait_for(lambda: is_listening(path), 10, "the control socket")
    link = SwitchLink(path)
    process.wait_for(lambda: link.ask("net.stats")["settled"], 10, "being settled")
    return process, link


class HeldSwitch:
    """creedence-switch under a daemon of a few lines: it holds what it is given and gives it to the next process."""

    def __init__(self, processes, run_dir, options=None, sandbox="off", words=()):
        self.processes, self.run_dir, self.sandbox = processes, run_dir, sandbox
        self.options, self.words = options or {}, words
        self.held = {}      # vif: {name: fd}
        self.requests = []  # [(method, params, {name: fd})], in their order
        self.vif_states = {}
        self.process = self.link = None

    def notified(self, method, params, fds):
        if method == "hold":
            held = self.held.setdefault(params["vif"], {})
            if params["name"] in held:
                os.close(held[params["name"]])
            held[params["name"]] = fds.pop(params["name"])
        elif method == "unhold":
            os.close(self.held[params["vif"]].pop(params["name"]))
        elif method == "vif":
            self.vif_states[params["name"]] = params["front_end"]
        assert not fds

    def start(self):
        path = self.run_dir / "switch-link.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen(1)
            os.set_inheritable(listener.fileno(), True)
            fd = listener.fileno()
            self.process = self.processes.start(
                [program("creedence-switch"), f"--sandbox={self.sandbox}", f"--link-fd={fd}", *self.words], pass_fds=(fd,))
            self.link = SwitchLink(path, self.notified)
        self.said = self.link.ask("configure", **self.options)
        for method, params, fds in self.requests:
            mine = dict(fds)
            if method == "vif.attach":
                mine.update(self.held.get(params["name"], {}))
            self.link.ask(method, fds=mine, **params)
        self.link.ask("settled")
        return self

    def want(self, method, fds=None, **params):
        """Ask now, and of every successor."""
        answer = self.link.ask(method, fds=fds, **params)
        self.requests.append((method, params, fds or {}))
        return answer

    def kill(self):
        self.link.drain()
        self.process.kill()
        self.link.close()


def ip(*words, check=True):
    done = subprocess.run([system_program("ip", "iproute2"), *map(str, words)], capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"ip {' '.join(map(str, words))}: {done.stderr}")
    return done.stdout


def silent_veth(*names):
    """A pair of interfaces, up, on which the kernel says nothing of its own (multicast reports of IPv6, whenever it likes)."""
    ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
    for name in names:
        switch = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        if switch.exists():  # there is IPv6
            switch.write_text("1")
        ip("link", "set", name, "up")


def own_name(prefix):
    """For an interface out here: another run, or a test beside this one, has another."""
    return f"{prefix}{os.getpid() % 100000}"


class Namespace:
    """A network namespace of its own, with what is moved into it; gone at the end of the block."""

    def __init__(self, name):
        self.name = f"cr-{name}-{os.getpid()}"
        self.far_ends = []

    def __enter__(self):
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *unused):
        # The kernel takes a deleted namespace to pieces when it has the time: until then the far ends keep their names.
        for name in self.far_ends:
            ip("link", "del", name, check=False)
        ip("netns", "del", self.name, check=False)

    def veth(self, far, near, *addresses):
        """A pair of interfaces: `far` out here, `near` in the namespace, both up."""
        ip("link", "add", far, "type", "veth", "peer", "name", near, "netns", self.name)
        self.far_ends.append(far)
        ip("link", "set", far, "up")
        self.set_up(near, *addresses)

    def take(self, device, *addresses):
        """The device, up, with these addresses."""
        ip("link", "set", device, "netns", self.name)
        self.set_up(device, *addresses)

    def set_up(self, device, *addresses):
        """A device that is here already. Its own address must not meet DAD."""
        subprocess.run(self.command("sysctl", "-qw", f"net.ipv6.conf.{device}.accept_dad=0"), capture_output=True)
        for address in addresses:
            ip("-n", self.name, "address", "add", address, "dev", device)
        ip("-n", self.name, "link", "set", device, "up")

    def command(self, *words):
        return [system_program("ip", "iproute2"), "netns", "exec", self.name, *map(str, words)]

    def python(self, text, timeout_s=20):
        """The output of a few lines of Python in here."""
        done = subprocess.run(self.command("/usr/bin/python3", "-c", text), capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def reaches(self, address, port=7, timeout_s=1.0, tries=5):
        """Does somebody at that address refuse our datagram (so it came there and the answer back)?"""
        text = f"""
import socket
s = socket.socket(socket.AF_INET6 if ":" in "{address}" else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout({timeout_s})
for _ in range({tries}):
    try:
        s.connect(("{address}", {port})); s.send(b"x"); s.recv(1)
    except ConnectionRefusedError:
        print("yes"); break
    except (TimeoutError, OSError):
        pass
"""
        return "yes" in self.python(text, timeout_s * tries + 20)


def echo_server(processes, space, port=7777):
    """A TCP server in `space` that says its connections' bytes back."""
    text = f"""
import socket, threading
s = socket.create_server(("0.0.0.0", {port}))
def serve(c):
    while d := c.recv(1 << 16):
        c.sendall(d)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""
    return processes.start(space.command("/usr/bin/python3", "-c", text), name=f"echo-{space.name}")


__all__ = ["HeldSwitch", "LinkError", "Namespace", "SwitchLink", "echo_server", "ip", "own_name", "start_switch", "wait_until"]
