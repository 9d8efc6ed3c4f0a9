# SPDX-License-Identifier: Apache-2.0
"""What the disk worker and the cache service do with messages of wrong types on their links (control/link.h): say what is wrong."""

import json
import os
import socket

import pytest

from lib.paths import program
from lib.process import Process, is_listening

ERRNO_INVALID = -22


class Link:
    """The asking end: one JSON object per datagram, descriptors named beside it."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(30)
        self.sock.connect(str(path))
        self.last_id = 0

    def send(self, body, fds=()):
        """fds: (name, descriptor), in order."""
        if fds:
            body = {**body, "fds": [name for name, _ in fds]}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        socket.send_fds(self.sock, [data], [fd for _, fd in fds])

    def receive(self):
        """The answer, with the descriptors that came (closed); None when the other end closed. Notifications are passed over."""
        while True:
            try:
                data, fds, _flags, _address = socket.recv_fds(self.sock, 1 << 18, 250)
            except ConnectionResetError:
                return None
            for fd in fds:
                os.close(fd)
            if not data:
                return None
            answer = json.loads(data)
            if "id" in answer:
                return answer

    def call(self, method, params=None, fds=()):
        self.last_id += 1
        self.send({"id": self.last_id, "method": method, **({} if params is None else {"params": params})}, fds)
        answer = self.receive()
        assert answer is None or answer["id"] == self.last_id
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.sock.close()


def refused(answer, *words):
    assert answer is not None and "error" in answer, answer
    assert answer["error"]["code"] == ERRNO_INVALID, answer
    for word in words:
        assert word in answer["error"]["message"], answer


@pytest.fixture
def image(run_dir):
    path = run_dir / "image.raw"
    path.write_bytes(bytes(1 << 20))
    fd = os.open(path, os.O_RDWR)
    yield path, fd
    os.close(fd)


# ---- the worker's configuration ----


@pytest.fixture
def worker(run_dir):
    """A worker that waits to be configured, and a link to it; (process, link)."""
    path = run_dir / "link"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        process = Process([program("creedence-vbd"), f"--link-fd={listener.fileno()}"], run_dir / "worker.log", pass_fds=[listener.fileno()])
    with Link(path) as link:
        yield process, link
    process.kill()
    assert "Sanitizer" not in process.output() and "Assertion" not in process.output()


def config(image, **change):
    whole = {"name": "d", "queues": 1, "layers": [{"format": "raw", "path": str(image)}], **change}
    return {key: value for key, value in whole.items() if value is not ...}


WRONG_CONFIGURATIONS = [
    ({"name": 5}, "name", "an integer"), ({"name": []}, "name", "an array"), ({"name": None}, "name", "null"),
    ({"queues": "4"}, "queues", "a string"), ({"queues": 0}, "queues", "1 to 64"), ({"queues": 65}, "queues", "1 to 64"),
    ({"queues": -1}, "queues", "1 to 64"), ({"queues": 1.5}, "queues", "a real number"), ({"queues": True}, "queues", "true"),
    ({"queues": 1 << 62}, "queues", "1 to 64"), ({"queue_size": {}}, "queue_size", "an object"), ({"queue_size": 1}, "queue_size", "2 to 32768"),
    ({"queue_size": 65536}, "queue_size", "2 to 32768"), ({"sector_bytes": "512"}, "sector_bytes", "a string"),
    ({"sector_bytes": 1 << 40}, "sector_bytes", "512 to 4096"), ({"seg_max": 0}, "seg_max", "1 to"), ({"seg_max": False}, "seg_max", "false"),
    ({"size_max": 1 << 33}, "size_max", "0 to"), ({"poll_us": 1000001}, "poll_us", "0 to 1000000"), ({"read_only": 1}, "read_only", "an integer"),
    ({"packed": "no"}, "packed", "a string"), ({"write_cache": "maybe"}, "write_cache", "maybe"), ({"write_cache": 0}, "write_cache", "an integer"),
    ({"serial": "x" * 21}, "serial", "20"), ({"serial": 7}, "serial", "an integer"), ({"datapath": "sideways"}, "datapath", "sideways"),
    ({"layers": ...}, "layers", "missing"), ({"layers": {}}, "layers", "array"), ({"layers": []}, "no disk", ""), ({"layers": [5]}, "layers", "an integer"),
    ({"layers": [{"format": "raw"}]}, "layers", "path"), ({"layers": [{"path": "/x"}]}, "layers", "format"),
    ({"layers": [{"format": "vmdk", "path": "/x"}]}, "/x", "vmdk"), ({"layers": [{"format": 1, "path": "/x"}]}, "format", "an integer"),
    ({"layers": [{"format": "raw", "path": []}]}, "path", "an array"), ({"layers": [{"format": "raw", "path": "/x", "direct": "on"}]}, "direct", "a string"),
    ({"layers": [{"format": "raw", "path": "/x"}] * 100}, "layers", ""), ({"held": ["conn"]}, "held", "conn"), ({"held": [5]}, "held", "strings"),
]


@pytest.mark.parametrize("change,field,words", WRONG_CONFIGURATIONS)
def test_worker_names_what_is_wrong_with_its_configuration(worker, image, change, field, words):
    process, link = worker
    path, fd = image
    refused(link.call("configure", config(path, **change), [("layer0", fd)]), field, words)
    assert process.wait(10) == 1  # the daemon starts another, with another configuration


def test_worker_takes_a_configuration_that_is_right(worker, image, run_dir):
    """The table above is about its changes, not about what they are made to."""
    process, link = worker
    path, fd = image
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as front:
        front.bind(str(run_dir / "front.sock"))
        front.listen()
        assert "result" in link.call("configure", config(path), [("layer0", fd), ("listen", front.fileno())])
    assert link.call("adopt")["result"]["name"] == "d"
    assert "already" in link.call("configure", config(path))["error"]["message"]
    for method, params, words in [("resize", {"size_bytes": "1G"}, "size_bytes"), ("resize", {"size_bytes": -1}, "size_bytes"), ("resize", {}, "size_bytes"),
                                  ("set", {"poll_us": []}, "poll_us"), ("set", {"poll_us": 1 << 40}, "poll_us")]:
        refused(link.call(method, params), words)
    assert "no such method" in link.call("nothing")["error"]["message"]
    assert link.call("quit")["result"] is not None and process.wait(10) == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b'{"id":1}', b'{"id":-1,"method":"stats"}', b'{"id":"x","method":"stats"}', b'{"id":1,"method":5}',
                                  b'{"id":1,"method":"stats","params":[]}', b'{"method":"stats"}', b'{"id":1,"method":"stats","fds":["a"]}', b"\xff" * 100])
def test_worker_lives_through_what_is_no_request(worker, image, run_dir, body):
    process, link = worker
    if body:
        link.send(body)
    else:
        link.sock.shutdown(socket.SHUT_WR)
    with Link(run_dir / "link") as another:  # as a daemon that comes back does
        assert "not configured" in another.call("stats")["error"]["message"]
    assert process.running()


# ---- the cache service ----


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache")
    path = directory / "cache.sock"
    process = Process([program("creedence-cache"), "--socket", path, "--budget", "16M"], directory / "cache.log")
    process.wait_for(lambda: is_listening(path), 10, "the cache service")
    yield path
    assert process.running()
    process.terminate()
    assert "Sanitizer" not in process.output() and "Assertion" not in process.output()


LAYER = {"format": "raw", "path": "/base"}


@pytest.mark.parametrize("params,words", [
    ({}, "layers"), ({"layers": {}, "count": 1}, "layers"), ({"layers": [], "count": 1}, "layers"), ({"layers": "x", "count": 1}, "layers"),
    ({"layers": [LAYER] * 1000, "count": 1}, "layers"), ({"layers": [5], "count": 1}, "layers[0]"), ({"layers": [None], "count": 1}, "layers[0]"),
    ({"layers": [{"format": "raw"}], "count": 1}, "path"), ({"layers": [{"format": 5, "path": "/x"}], "count": 1}, "format"),
    ({"layers": [{"format": "raw", "path": {}}], "count": 1}, "path"), ({"layers": [{"format": "vmdk", "path": "/x"}], "count": 1}, "vmdk"),
    ({"layers": [LAYER]}, "count"), ({"layers": [LAYER], "count": 0}, "count"), ({"layers": [LAYER], "count": -1}, "count"),
    ({"layers": [LAYER], "count": "1"}, "count"), ({"layers": [LAYER], "count": 1 << 40}, "count"), ({"layers": [LAYER], "count": True}, "count"),
    ({"layers": [LAYER, LAYER], "count": 1}, "layer1")])
def test_cache_names_what_is_wrong_with_a_channel(cache, image, params, words):
    with Link(cache) as link:
        refused(link.call("channel", params, [("layer0", image[1])]), words)
        assert link.call("stats")["result"]["channels"] == 0


@pytest.mark.parametrize("method,params,words", [
    ("set", {}, "budget"), ("set", {"budget": "much"}, "budget"), ("set", {"budget": -1}, "budget"), ("set", {"budget": 1.5}, "budget"),
    ("set", {"budget": None}, "budget"), ("set", {"budget": [1]}, "budget"), ("drop", {"path": 5}, "path"), ("drop", {"path": ["/x"]}, "path")])
def test_cache_names_what_is_wrong_with_other_requests(cache, method, params, words):
    with Link(cache) as link:
        refused(link.call(method, params), words)
        assert link.call("stats")["result"]["budget_bytes"] == 16 << 20


def test_cache_refuses_descriptors_that_are_no_images(cache, run_dir):
    reader, writer = os.pipe()
    directory = os.open(run_dir, os.O_RDONLY)
    path_only = os.open(run_dir, os.O_PATH)
    fds = [reader, writer, directory, path_only]
    try:
        with Link(cache) as link:
            for fd in fds:
                answer = link.call("channel", {"layers": [LAYER], "count": 1}, [("layer0", fd)])
                assert "error" in answer and answer["error"]["message"], answer
            assert link.call("stats")["result"]["channels"] == 0
            assert "unknown method" in link.call("nothing")["error"]["message"]
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"id":1}', b'{"id":-1,"method":"stats"}', b'{"id":1,"method":[]}', b'{"id":1,"method":"stats","params":5}',
                                  b'{"method":"stats"}', b'{"id":1,"method":"stats","fds":["a"]}', b"\xff" * 100])
def test_cache_drops_a_connection_that_breaks_the_rules(cache, body):
    with Link(cache) as link, Link(cache) as other:
        link.send(body)
        assert link.receive() is None
        assert "result" in other.call("stats")
