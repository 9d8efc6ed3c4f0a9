# SPDX-License-Identifier: Apache-2.0
"""Programs in the background: their output in a file, waits that are bounded, and an end for each."""

import itertools
import os
import signal
import socket
import subprocess
import time
import weakref
from pathlib import Path

POLL_S = 0.02
# No wait for something to happen gives up before: it costs nothing where it happens, and a machine that serves others, too, now and then
# stands still for seconds. What must happen fast is measured.
LEAST_S = 30


class ProcessError(Exception):
    """A program ended too early, or did not do in time what was expected; the text has its output."""


def wait_until(condition, timeout_s, what):
    """Call `condition` until it answers something true, and return that. To wait for longer than LEAST_S say so."""
    timeout_s = max(timeout_s, LEAST_S)
    end = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise ProcessError(f"waited {timeout_s} s for {what}")
        time.sleep(POLL_S)


def _first_line(path):
    try:
        return Path(path).read_text().strip().replace("\n", " < ")
    except OSError as error:
        return error.strerror


def what_threads_do():
    """A line for each thread of every program that tests have started and that runs: its state, and where in the kernel it
    is. For messages about something that stands still, with how long the machine's storage makes its users wait."""
    lines = [f"storage pressure: {_first_line('/proc/pressure/io')}"]
    for process in Process.running_ones():
        for task in sorted(Path(f"/proc/{process.pid}/task").glob("*")):
            state = _first_line(task / "stat").rpartition(")")[2].split()[:1]
            lines.append(f"{process.name} {task.name} {_first_line(task / 'comm')} {''.join(state)}: "
                         f"{_first_line(task / 'syscall')}: {_first_line(task / 'stack')}")
    return "\n".join(lines)


class Process:
    """One program. stdout and stderr go to `log`; stdin is empty."""

    all = weakref.WeakSet()

    def __init__(self, command, log, env=None, pass_fds=(), name=None):
        self.command = [str(word) for word in command]
        self.name = name or Path(self.command[0]).name
        self.log = Path(log)
        with open(self.log, "ab") as output:
            self.popen = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, pass_fds=pass_fds,
                env={**os.environ, **(env or {})}, start_new_session=True)
        Process.all.add(self)

    @classmethod
    def running_ones(cls):
        return [process for process in cls.all if process.running()]

    @property
    def pid(self):
        return self.popen.pid

    def output(self):
        return self.log.read_text(errors="replace")

    def running(self):
        return self.popen.poll() is None

    def fail(self, why):
        raise ProcessError(f"{self.name}: {why}\n{self.output()[-4000:]}")

    def wait_for(self, condition, timeout_s, what):
        """wait_until, which also ends when the program does."""
        timeout_s = max(timeout_s, LEAST_S)
        end = time.monotonic() + timeout_s
        while True:
            answer = condition()
            if answer:
                return answer
            if not self.running():
                self.fail(f"ended with status {self.popen.returncode} while waiting for {what}")
            if time.monotonic() > end:
                self.fail(f"waited {timeout_s} s for {what}")
            time.sleep(POLL_S)

    def wait_for_socket(self, path, timeout_s=10):
        """Until the Unix socket exists and accepts (a probe connection is not made: servers of one
        client would take it for theirs)."""
        self.wait_for(lambda: is_listening(path), timeout_s, f"socket {path}")

    def wait(self, timeout_s):
        """The exit status; an error when the program is still running then."""
        timeout_s = max(timeout_s, LEAST_S)
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.fail(f"still running after {timeout_s} s")

    def terminate(self, timeout_s=LEAST_S):
        """SIGTERM, and SIGKILL for the whole session when that is not enough. Returns the status."""
        if self.running():
            self.popen.terminate()
            try:
                return self.popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.returncode

    def kill(self):
        """SIGKILL to the program and whatever it started in its session (UML has helpers)."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()

    def cpu_seconds(self):
        """User plus system time so far, of a running program."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_listening(path):
    """True when a Unix socket at `path` is in the listening state (from /proc/net/unix)."""
    path = str(path)
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if len(words) >= 8 and words[7] == path and int(words[3], 16) & 0x10000:  # SO_ACCEPTCON
            return True
    return False


def free_port():
    """A TCP port that nobody has: none of those that the system gives to whoever asks for any, and hardly one that a
    test beside this one looks at."""
    return next(port for port in _ports if _is_free(port))


_ports = itertools.cycle(range(10000, 30000))
for _ in range(os.getpid() * 97 % 20000):
    next(_ports)


def _is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class ProcessGroup:
    """Everything that a test started; killed when the `with` block ends."""

    def __init__(self, run_dir):
        self.run_dir = Path(run_dir)
        self.processes = []

    def start(self, command, name=None, **kwargs):
        name = name or Path(str(command[0])).name
        log = self.run_dir / f"{name}-{len(self.processes)}.log"
        process = Process(command, log, name=name, **kwargs)
        self.processes.append(process)
        return process

    def add(self, process):
        self.processes.append(process)
        return process

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for process in reversed(self.processes):
            if process.running():
                process.kill()
