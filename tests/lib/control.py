# SPDX-License-Identifier: Apache-2.0
"""creedenced in a private directory, and a client of its control socket."""

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from .paths import BUILD, TOP, program
from .process import Process, is_listening, wait_until

FAKE_WORKER = TOP / "tests" / "lib" / "fake_vbd.py"
FAKE_SWITCH = TOP / "tests" / "lib" / "fake_switch.py"
FAKE_LINK = TOP / "tests" / "lib" / "fake_link.py"


class RpcError(Exception):
    def __init__(self, error):
        super().__init__(error["message"])
        self.code = error["code"]
        self.data = error.get("data")


class Rpc:
    """One connection of the control socket."""

    def __init__(self, path, timeout_s=30):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(str(path))
        self.file = self.sock.makefile("rb")
        self.next_id = 0

    def send(self, method, params=None):
        self.next_id += 1
        request = {"jsonrpc": "2.0", "id": self.next_id, "method": method}
        if params is not None:
            request["params"] = params
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        return self.next_id

    def receive(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError("the daemon closed the connection")
        return json.loads(line)

    def call(self, method, **params):
        request_id = self.send(method, params)
        answer = self.receive()
        assert answer["id"] == request_id
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    def close(self):
        self.file.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()


class Daemon:
    """creedenced. With `fake`, its workers are tests/lib/fake_vbd.py and fake_switch.py, and there is no cache."""

    def __init__(self, directory, fake=False, options=()):
        self.dir = Path(directory)
        self.state_dir, self.run_dir = self.dir / "state", self.dir / "run"
        self.fake_dir = self.dir / "fake"
        self.fake = fake
        self.options = list(options)
        self.process = None
        self.seen_pids = set()
        self.started = 0
        if fake:
            self.fake_dir.mkdir()
            for source, name in ((FAKE_WORKER, "creedence-vbd"), (FAKE_SWITCH, "creedence-switch")):
                shutil.copy(source, self.fake_dir / name)
                (self.fake_dir / name).chmod(0o755)
            shutil.copy(FAKE_LINK, self.fake_dir)

    # ---- life ----

    def start(self, wait=True):
        self.started += 1
        command = [program("creedenced"), f"--state-dir={self.state_dir}", f"--run-dir={self.run_dir}"]
        command += [f"--bin-dir={self.fake_dir}", "--cache=off"] if self.fake else [f"--bin-dir={BUILD / 'src' / 'cmd'}"]
        self.process = Process(command + self.options, self.dir / "creedenced.log", name="creedenced")
        if wait:
            # The name was removed when the last daemon ended; its socket may live on for a moment in a child.
            self.process.wait_for(lambda: self.control_socket.exists() and is_listening(self.control_socket), 20, "the control socket")
        return self

    @property
    def control_socket(self):
        return self.run_dir / "creedenced.sock"

    def kill(self):
        """SIGKILL to the daemon alone: workers have sessions of their own."""
        self.note_pids()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.popen.wait()
        self.control_socket.unlink(missing_ok=True)  # so that a wait for the next one waits

    def terminate(self):
        self.note_pids()
        status = self.process.terminate()
        self.control_socket.unlink(missing_ok=True)
        return status

    def output(self):
        return (self.dir / "creedenced.log").read_text(errors="replace")

    def note_pids(self):
        """Whom to end if the daemon does not: from the records in the run directory."""
        for record in [*self.run_dir.glob("disks/*.run"), *self.run_dir.glob("cache.run"),
                       *self.run_dir.glob("switch.run"), *self.run_dir.glob("holder.pid")]:
            try:
                words = record.read_text().split()
            except FileNotFoundError:  # it ended just now
                words = []
            if words:
                self.seen_pids.add((int(words[0]), words[1]))

    def holder_pid(self):
        """None while there is none."""
        try:
            return int((self.run_dir / "holder.pid").read_text().split()[0])
        except FileNotFoundError:
            return None

    def clean_up(self):
        self.note_pids()
        if self.process and self.process.running():
            self.process.terminate()
        self.note_pids()
        for pid, start_time in self.seen_pids:
            if start_time_of(pid) == start_time:
                os.kill(pid, signal.SIGKILL)
        for mark in ("Sanitizer", "runtime error:", "Assertion"):
            if self.process and mark in self.output():
                raise AssertionError(f"creedenced: {self.output()[-6000:]}")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.clean_up()

    # ---- asking ----

    def rpc(self, timeout_s=30):
        return Rpc(self.control_socket, timeout_s)

    def call(self, method, **params):
        with self.rpc() as rpc:
            return rpc.call(method, **params)

    def attach(self, name, leaf, fmt="raw", backing=(), **more):
        layers = [{"format": fmt, "path": str(leaf)}]
        layers += [{"format": f, "path": str(p)} for p, f in backing]
        return self.call("disk.attach", name=name, layers=layers, **more)

    def show(self, name):
        return self.call("disk.show", name=name)

    def wait_state(self, name, state="serving", timeout_s=10):
        return wait_until(lambda: (d := self.show(name))["state"] == state and d, timeout_s, f"disk {name} {state}")

    def creedence(self, *words, check=True, timeout_s=60, env=None):
        """The command line; its subprocess.CompletedProcess."""
        environment = {**os.environ, "CREEDENCE_SOCKET": str(self.control_socket), **(env or {})}
        done = subprocess.run([str(program("creedence")), *map(str, words)], env=environment, timeout=timeout_s,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if check and done.returncode:
            raise AssertionError(f"creedence {' '.join(map(str, words))}: status {done.returncode}\n{done.stderr}")
        return done

    # ---- the fake worker, the fake switch ----

    def behave(self, file="behaviour.json", **how):
        new = self.fake_dir / "behaviour.new"
        new.write_text(json.dumps(how))
        new.rename(self.fake_dir / file)

    def behave_switch(self, **how):
        self.behave(file="switch.json", **how)

    def switch_log(self, method=None):
        """What every fake switch was asked so far, in order; of one method only."""
        path = self.fake_dir / "switch.jsonl"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [entry for entry in entries if method in (None, entry["method"])]

    def switch_pid(self):
        return self.call("status")["network"]["switch"].get("pid")

    def worker_log(self):
        path = self.fake_dir / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def start_time_of(pid):
    """What identifies a process besides its pid: its start time, as text; None when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
