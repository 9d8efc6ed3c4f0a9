#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vhost-blk-bench's modes against qemu-storage-daemon: do they work, and do they notice what is wrong?

`meson test bench/vhost-blk-bench` runs it, and so does `make check`. By itself, and under pytest, it takes what the release build made
(or the build in CREEDENCE_BUILD) and the system's qemu-storage-daemon; without them its tests are skipped.

usage: bench_test.py [VHOST-BLK-BENCH QEMU-STORAGE-DAEMON]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("CREEDENCE_BUILD", Path(__file__).resolve().parent.parent / "build" / "release"))
BENCH = shutil.which(BUILD / "bench" / "vhost-blk-bench")
DAEMON = shutil.which("qemu-storage-daemon")
MIB = 1 << 20


class Server:
    """qemu-storage-daemon on a raw file."""

    def __init__(self, image, socket):
        self.image, self.socket, self.process = image, socket, None
        self.start()

    def start(self):
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [DAEMON, "--blockdev", f"driver=file,node-name=disk,filename={self.image}", "--export",
             f"type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path={self.socket},num-queues=2,writable=on"],
            stderr=subprocess.DEVNULL)

    def kill(self):
        self.process.kill()
        self.process.wait()


def bench(*options):
    return subprocess.run([BENCH, *map(str, options)], capture_output=True, text=True, timeout=60)


def last_json(text):
    return json.loads(text.strip().splitlines()[-1])


class VhostBlkBenchTest(unittest.TestCase):
    def setUp(self):
        if not BENCH or not DAEMON:
            self.skipTest(f"{BUILD}/bench/vhost-blk-bench (`make`) or qemu-storage-daemon (package qemu-system-common) is not there")
        self.dir = tempfile.TemporaryDirectory(prefix="creedence-bench-test-")
        self.addCleanup(self.dir.cleanup)
        self.path = Path(self.dir.name)
        self.servers = []

    def tearDown(self):
        for server in self.servers:
            server.kill()

    def server(self, name="disk", size=16 * MIB):
        image = self.path / f"{name}.raw"
        self.assertEqual(bench("--make-pattern", image, size).returncode, 0)
        server = Server(image, self.path / f"{name}.sock")
        self.servers.append(server)
        return server

    def damage(self, server, offset):
        with open(server.image, "r+b") as image:
            image.seek(offset)
            image.write(b"\xee" * 512)

    def load(self, server, *options):
        return bench(f"--socket={server.socket}", "--runtime=0.3", "--ramp=0", "--json", *options)

    def test_load(self):
        server = self.server()
        for options in (["--rw=randread", "--verify=full"], ["--rw=read", "--bs=128k", "--queues=2", "--verify"],
                        ["--rw=randrw", "--verify=block"], ["--rw=write", "--bs=64k", "--segment=4k", "--sleep"],
                        ["--rw=randwrite", "--iodepth=1", "--sleep", "--event-idx", "--indirect"]):
            done = self.load(server, *options)
            self.assertEqual(done.returncode, 0, done.stderr)
            result = last_json(done.stdout)
            self.assertGreater(result["ios"], 0)
            self.assertEqual(result["errors"] + result["mismatches"], 0)
            self.assertAlmostEqual(result["iops"] * result["bs"], result["bytes_per_s"], delta=result["bytes_per_s"] / 100)

    def test_load_notices_wrong_content(self):
        server = self.server(size=MIB)
        self.damage(server, 512 * 1024)
        done = self.load(server, "--verify")
        self.assertEqual(done.returncode, 1)
        self.assertIn("wrong content", done.stderr)
        self.assertGreater(last_json(done.stdout)["mismatches"], 0)

    def test_load_without_a_disk_that_large(self):
        done = self.load(self.server(), "--size=1G")
        self.assertEqual(done.returncode, 2)
        self.assertIn("the disk has 16777216 bytes", done.stderr)

    def test_lost_connection(self):
        server = self.server()
        process = subprocess.Popen([BENCH, f"--socket={server.socket}", "--runtime=30"], stderr=subprocess.PIPE, text=True)
        time.sleep(0.5)
        server.kill()
        self.assertEqual(process.wait(10), 2)
        self.assertIn("closed the connection", process.stderr.read())
        process.stderr.close()

    def verify(self, server, *options):
        return bench(f"--socket={server.socket}", "--verify-writes", "--json", "--size=8M", *options)

    def test_verified_writes(self):
        server, model = self.server(), self.path / "model"
        done = self.verify(server, "--initial=pattern", "--runtime=0.5", f"--model={model}", "--queues=2", "--bs=8k",
                           "--flush-interval=0.1")
        self.assertEqual(done.returncode, 0, done.stderr)
        result = last_json(done.stdout)
        self.assertTrue(result["writes"] and result["reads"] and result["flushes"] and result["zeroes"])
        done = self.verify(server, "--initial=pattern", "--check-only", f"--model={model}", "--bs=8k")
        self.assertEqual(done.returncode, 0, done.stderr)
        done = self.verify(server, "--initial=pattern", "--runtime=0.2", f"--model={model}", "--bs=8k")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.damage(server, 4 * MIB)
        done = self.verify(server, "--initial=pattern", "--check-only", f"--model={model}", "--bs=8k")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"offset 4194304: expected generation \d+")
        done = self.verify(server, "--check-only", f"--model={model}", "--bs=4k")
        self.assertIn("made for 1024 blocks of 8192", done.stderr)

    def test_verified_writes_notice_an_older_generation(self):
        server, model = self.server(), self.path / "model"
        common = ("--initial=pattern", f"--model={model}", "--size=64k")
        self.assertEqual(self.verify(server, "--runtime=0.2", *common).returncode, 0)
        before = server.image.read_bytes()
        self.assertEqual(self.verify(server, "--runtime=0.2", *common).returncode, 0)
        server.image.write_bytes(before)
        done = self.verify(server, "--check-only", *common)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"expected generation \d+( \(zeroes\))?, found (generation \d+ of offset|zeroes)")

    def test_verified_writes_through_kills(self):
        server = self.server()
        process = subprocess.Popen(
            [BENCH, f"--socket={server.socket}", "--verify-writes", "--json", "--size=8M", "--runtime=2", "--reconnect"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3):
            time.sleep(0.4)
            server.kill()
            server.start()
        out, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, err)
        self.assertEqual(last_json(out)["reconnects"], 3)

    def test_attach_many(self):
        for i in range(3):
            self.server(f"disk{i}", MIB)
        for server in self.servers:
            while not server.socket.exists():
                time.sleep(0.01)
        done = bench(f"--attach-many={self.path}", "--count=3", "--idle=0.1", "--verify")
        self.assertEqual(done.returncode, 0, done.stderr)
        states = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([s["state"] for s in states], ["attached", "idle", "done"])
        done = bench(f"--attach-many={self.path}", "--count=4")
        self.assertEqual(done.returncode, 1)
        self.assertIn("has 3 sockets", done.stderr)

    def test_storm(self):
        trace = self.path / "trace"
        for i in range(2):
            self.server(f"disk{i}", 64 * MIB)
        for server in self.servers:
            while not server.socket.exists():
                time.sleep(0.01)
        self.assertEqual(bench("--make-trace", trace, "64M", "8M").returncode, 0)
        done = bench(f"--storm={self.path}", "--count=2", f"--trace={trace}", "--verify=full", "--spread=0.1")
        self.assertEqual(done.returncode, 0, done.stderr)
        result = last_json(done.stdout)
        self.assertGreaterEqual(result["read_bytes"], 16 * MIB)
        self.assertEqual(result["errors"] + result["mismatches"], 0)
        self.damage(self.servers[1], self.first_read(trace))
        self.assertEqual(bench(f"--storm={self.path}", "--count=2", f"--trace={trace}", "--verify=full").returncode, 1)
        trace.write_text("r 0 8\nr 0 x\n")
        done = bench(f"--storm={self.path}", "--count=2", f"--trace={trace}")
        self.assertIn(f"{trace}, line 2: 'r 0 x'", done.stderr)

    def first_read(self, trace):
        for line in trace.read_text().splitlines():
            if line.startswith("r "):
                return int(line.split()[1]) * 512
        self.fail("no reads in the trace")

    def test_bad_options(self):
        for options, complaint in ((["--bs=1000"], "--bs '1000'"), (["--rw=sideways"], "--rw 'sideways'"),
                                   (["--iodepth=0"], "--iodepth '0'"), (["--runtime=-1"], "--runtime '-1'"),
                                   (["--size=1Q"], "--size '1Q'"), ([], "--socket is missing")):
            done = bench(*options)
            self.assertEqual(done.returncode, 2)
            self.assertIn(complaint, done.stderr)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        BENCH, DAEMON = sys.argv[1:]
    elif len(sys.argv) != 1:
        sys.exit(__doc__)
    unittest.main(argv=sys.argv[:1])
