# SPDX-License-Identifier: Apache-2.0
"""What the fake programs of the daemon's tests have in common: a file that says how to behave, a log, and the link.

It is copied beside them, so that they import nothing of the tests.
"""

import array
import json
import os
import socket
import sys
from pathlib import Path

HERE = Path(sys.argv[0]).resolve().parent


def send(sock, body, fds=()):
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps(body).encode()], ancillary)


def receive(sock):
    data, ancillary, _flags, _address = sock.recvmsg(1 << 18, socket.CMSG_SPACE(4 * 253))
    fds = array.array("i")
    for _level, _kind, payload in ancillary:
        fds.frombytes(payload[:len(payload) - len(payload) % 4])
    return (json.loads(data) if data else None), list(fds)


class Fake:
    """One daemon's link after the other. A kind of program says what it does with a request: dispatch(request, fds)."""

    BEHAVIOUR = LOG = None  # file names

    def __init__(self, listener):
        self.listener = listener
        self.sock = None

    @classmethod
    def behaviour(cls):
        try:
            return json.loads((HERE / cls.BEHAVIOUR).read_text())
        except FileNotFoundError:
            return {}

    @classmethod
    def note(cls, entry):
        with open(HERE / cls.LOG, "a") as log:
            log.write(json.dumps({"pid": os.getpid(), **entry}) + "\n")

    def run(self):
        while True:
            if self.sock is None:
                self.sock, _ = self.listener.accept()
            try:
                request, fds = receive(self.sock)
                if request is not None:
                    self.dispatch(request, dict(zip(request.get("fds", []), fds)))
                    continue
            except (BrokenPipeError, ConnectionResetError):
                pass  # the daemon is gone; another one will come
            self.sock = None

    @classmethod
    def main(cls):
        if "--version" in sys.argv:
            (HERE / cls.BEHAVIOUR).with_suffix(".tried").write_text(f"{os.getpid()}\n")
            sys.exit(1 if cls.behaviour().get("version") == "fail" else 0)
        fd = int(next(a for a in sys.argv if a.startswith("--link-fd=")).split("=")[1])
        cls.note({"method": "(start)", "argv": sys.argv[1:]})
        listener = socket.socket(fileno=fd)
        listener.setblocking(True)
        cls(listener).run()
