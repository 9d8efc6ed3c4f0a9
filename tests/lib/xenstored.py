# SPDX-License-Identifier: Apache-2.0
"""xenstored for tests: the wire protocol of public/io/xs_wire.h on a Unix socket, the tree in memory.

Runs on a thread of the test, which reads and writes the tree by calling it. Enough for libxenstore: read, write, mkdir, rm, directory,
watch, unwatch, transactions (which see a copy of the tree as it was, and fail when what they read or wrote was changed meanwhile), and
nothing of permissions.
"""

import os
import selectors
import socket
import struct
import threading
import time

DIRECTORY, READ, WATCH, UNWATCH, BEGIN, END, WRITE, MKDIR, RM, EVENT, ERROR = 1, 2, 4, 5, 6, 7, 11, 12, 13, 15, 16
HEADER = struct.Struct("<IIII")  # type, request, transaction, length
PAYLOAD_MAX = 4096


class Transaction:
    def __init__(self, tree):
        self.before = dict(tree)
        self.tree = dict(tree)
        self.seen = set()  # paths read and written
        self.listed = {}  # directories, and what was in them
        self.writes = []  # (path, value)
        self.removed = []


class Client:
    def __init__(self, sock):
        self.sock = sock
        self.input = b""
        self.output = b""
        self.watches = []  # (path, token)
        self.transactions = {}


class XenStore:
    """Started at once; stop() ends it. Paths are absolute, values text."""

    def __init__(self, path):
        self.path = str(path)
        self.tree = {"/": ""}
        self.lock = threading.RLock()
        self.clients = {}
        self.counts = {}  # type of request: how many
        self.events = 0
        self.transactions = 0
        self.writes = []  # (path, value) of clients
        self.before_commit = None  # called with (path, value) of what is to be written
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.wake_r, self.wake_w = os.pipe()
        os.set_blocking(self.wake_r, False)
        self.running = True
        self.frozen = False
        self.faults = {}  # path: how many reads of it fail
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    # ---- for tests ----

    def read(self, path):
        with self.lock:
            return self.tree.get(path)

    def write(self, path, value):
        with self.lock:
            self.set(path, str(value))
        self.wake()

    def write_all(self, directory, **values):
        """All at one moment; '_' in names stands for '-'."""
        with self.lock:
            for key, value in values.items():
                self.tree_set(f"{directory}/{key.replace('_', '-')}", str(value))
            for key in values:
                self.changed(f"{directory}/{key.replace('_', '-')}")
        self.wake()

    def remove(self, path):
        with self.lock:
            self.delete(path)
        self.wake()

    def under(self, path):
        with self.lock:
            return {p[len(path) + 1:]: v for p, v in self.tree.items() if p.startswith(path + "/")}

    def wait(self, path, value, timeout_s=30):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.read(path) == (None if value is None else str(value)):
                return
            time.sleep(0.002)
        raise AssertionError(f"{path} is {self.read(path)!r}, not {value!r}, after {timeout_s} s; "
                             f"{self.under(path.rsplit('/', 1)[0])}")

    def watch_count(self):
        with self.lock:
            return sum(len(c.watches) for c in self.clients.values())

    def stop(self):
        self.running = False
        self.wake()
        self.thread.join()
        for client in list(self.clients.values()):
            client.sock.close()
        self.listener.close()
        os.close(self.wake_r)
        os.close(self.wake_w)
        os.unlink(self.path)

    # ---- the tree ----

    def tree_set(self, path, value, tree=None):
        tree = self.tree if tree is None else tree
        parent = path.rsplit("/", 1)[0] or "/"
        if parent not in tree:
            self.tree_set(parent, "", tree)
        tree[path] = value

    def set(self, path, value):
        self.tree_set(path, value)
        self.changed(path)

    def delete(self, path):
        if path not in self.tree:
            return False
        for below in [p for p in self.tree if p == path or p.startswith(path + "/")]:
            del self.tree[below]
        self.changed(path, gone=True)
        return True

    def changed(self, path, gone=False):
        """Watches at or above fire with the path; those below it, when all of it goes, with their own."""
        for client in self.clients.values():
            for watched, token in client.watches:
                whole = self.absolute(watched)
                if path == whole or path.startswith(whole + "/"):
                    self.send_event(client, watched + path[len(whole):], token)
                elif gone and whole.startswith(path + "/"):
                    self.send_event(client, watched, token)

    def send_event(self, client, path, token):
        self.events += 1
        self.send(client, EVENT, 0, 0, path.encode() + b"\0" + token.encode() + b"\0")

    # ---- the wire ----

    def wake(self):
        os.write(self.wake_w, b"x")

    @staticmethod
    def absolute(path):
        return path if path.startswith(("/", "@")) else "/local/domain/0/" + path

    @staticmethod
    def send(client, kind, request, transaction, payload):
        client.output += HEADER.pack(kind, request, transaction, len(payload)) + payload

    def run(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            selector.register(self.wake_r, selectors.EVENT_READ)
            while self.running:
                ready = selector.select(0.5)
                with self.lock:
                    for key, _events in ready:
                        self.serve(key.fileobj, selector)
                    self.flush(selector)

    def serve(self, fileobj, selector):
        if fileobj is self.listener:
            sock, _ = self.listener.accept()
            sock.setblocking(False)
            self.clients[sock] = Client(sock)
            selector.register(sock, selectors.EVENT_READ)
        elif fileobj == self.wake_r:
            os.read(self.wake_r, 65536)
        elif fileobj in self.clients:
            self.receive(self.clients[fileobj], selector)

    def receive(self, client, selector):
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop(client, selector)
            return
        client.input += data
        while len(client.input) >= HEADER.size and not self.frozen:
            kind, request, transaction, length = HEADER.unpack_from(client.input)
            if len(client.input) < HEADER.size + length:
                break
            payload = client.input[HEADER.size:HEADER.size + length]
            client.input = client.input[HEADER.size + length:]
            self.counts[kind] = self.counts.get(kind, 0) + 1
            answer = self.answer(client, kind, transaction, payload)
            if isinstance(answer, str):
                self.send(client, ERROR, request, transaction, answer.encode() + b"\0")
            else:
                self.send(client, kind, request, transaction, answer)
            for watched, token in client.watches[len(client.watches) if kind != WATCH else -1:]:
                self.send_event(client, watched, token)

    def drop(self, client, selector):
        selector.unregister(client.sock)
        del self.clients[client.sock]
        client.sock.close()

    def flush(self, selector):
        for client in list(self.clients.values()):
            try:
                while client.output:
                    client.output = client.output[client.sock.send(client.output):]
            except BlockingIOError:
                pass
            except OSError:
                self.drop(client, selector)
                continue
            selector.modify(client.sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if client.output else 0))

    def commit(self, transaction):
        if self.before_commit:
            self.before_commit(transaction.writes)
        if any(self.tree.get(path) != transaction.before.get(path) for path in transaction.seen):
            return "EAGAIN"
        if any(self.names(path, self.tree) != names for path, names in transaction.listed.items()):
            return "EAGAIN"
        self.writes += transaction.writes
        for path, value in transaction.writes:
            self.tree_set(path, value)
        for path, _value in transaction.writes:
            self.changed(path)
        for path in transaction.removed:
            self.delete(path)
        return b"OK\0"

    @staticmethod
    def names(path, tree):
        return {p[len(path) + 1:].split("/")[0] for p in tree if p.startswith(path + "/")}

    def answer(self, client, kind, transaction, payload):
        """Bytes, or the name of an error."""
        words = payload.split(b"\0")
        path = self.absolute(words[0].decode())
        going_on = client.transactions.get(transaction)
        if transaction and not going_on:
            return "ENOENT"
        tree = going_on.tree if going_on else self.tree
        if going_on:
            going_on.seen.add(path)
        if kind == READ and self.faults.get(path):
            self.faults[path] -= 1
            return "EIO"
        if kind == READ:
            return tree[path].encode("latin-1") if path in tree else "ENOENT"
        if kind == DIRECTORY:
            if path not in tree:
                return "ENOENT"
            below = self.names(path, tree)
            if going_on:
                going_on.listed[path] = self.names(path, going_on.before)
            listing = b"".join(name.encode() + b"\0" for name in sorted(below))
            return listing if len(listing) <= PAYLOAD_MAX else "E2BIG"
        if kind == MKDIR and transaction:
            return "ENOSYS"
        if kind == RM and transaction:
            if path not in tree:
                return "ENOENT"
            going_on.removed.append(path)
            going_on.tree = {p: value for p, value in tree.items() if p != path and not p.startswith(path + "/")}
            return b"OK\0"
        if kind == WRITE:
            value = payload[len(words[0]) + 1:].decode("latin-1")
            if going_on:
                going_on.writes.append((path, value))
                self.tree_set(path, value, tree)
            else:
                self.writes.append((path, value))
                self.set(path, value)
        elif kind == MKDIR:
            if path not in self.tree:
                self.set(path, "")
        elif kind == RM:
            if not self.delete(path):
                return "ENOENT"
        elif kind == WATCH:
            client.watches.append((words[0].decode(), words[1].decode()))
        elif kind == UNWATCH:
            try:
                client.watches.remove((words[0].decode(), words[1].decode()))
            except ValueError:
                return "ENOENT"
        elif kind == BEGIN:
            self.transactions += 1
            client.transactions[self.transactions] = Transaction(self.tree)
            return str(self.transactions).encode() + b"\0"
        elif kind == END:
            del client.transactions[transaction]
            if words[0] == b"T":
                return self.commit(going_on)
        else:
            return "ENOSYS"
        return b"OK\0"
