# SPDX-License-Identifier: Apache-2.0
"""The command line: exit status, tables and JSON, images (read back by qemu-img), switching builds, Xen's link."""

import gzip
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lib.control import Daemon
from lib.paths import program, system_program

pytestmark = pytest.mark.timeout_s(60)


@pytest.fixture
def daemon(run_dir):
    with Daemon(run_dir, fake=True) as d:
        yield d.start()


def cli(*words, status=0, env=None):
    done = subprocess.run([str(program("creedence")), *map(str, words)], capture_output=True, text=True, timeout=30,
                          env={**os.environ, "CREEDENCE_SOCKET": "/nowhere/creedenced.sock", **(env or {})}, stdin=subprocess.DEVNULL)
    assert done.returncode == status, f"{words}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr if status else done.stdout


def new_raw(path, size_bytes=1 << 20):
    with open(path, "wb") as image:
        image.truncate(size_bytes)
    return path


def verbs():
    return re.findall(r"^  ((?:[a-z]+ )?[a-z]+)  ", cli("--help"), re.M)


# ---- using it wrongly ----


def test_every_verb_has_help_with_examples():
    found = verbs()
    assert len(found) >= 20
    for verb in found:
        text = cli(*verb.split(), "--help")
        assert text.startswith(f"Usage: creedence {verb}") and "Examples:" in text and "--json" in text
        assert cli(*verb.split(), "--nonsense", status=2).count("--nonsense") == 1


@pytest.mark.parametrize("words,expected", [
    ((), "Usage"), (("nothing",), "no such verb"), (("disk",), "did you mean creedence disk attach"), (("disk", "atach"), "creedence disk list"),
    (("disk", "attach"), "--leaf"), (("disk", "attach", "x", "--leaf", "/a"), "never guessed"),
    (("disk", "attach", "--leaf", "/a", "--format", "raw"), "argument is missing"),
    (("disk", "attach", "x", "y", "--leaf", "/a", "--format", "raw"), 'unexpected argument "y"'),
    (("disk", "attach", "x", "--backing-format", "raw"), "no --backing before"),
    (("disk", "attach", "x", "--leaf", "/a", "--format", "raw", "--backing", "/b"), "/b: its format"),
    (("disk", "attach", "x", "--queues", "0"), "1 to 64"), (("disk", "attach", "x", "--queues", "two"), "1 to 64"),
    (("disk", "attach", "x", "--queues"), "needs a value"), (("disk", "attach", "x", "--direct", "yes"), "on or off"),
    (("disk", "resize", "x"), "argument is missing"), (("disk", "resize", "x", "10X"), "expected a size"),
    (("disk", "list", "extra"), "unexpected"), (("cache", "set"), "nothing to set"), (("cache", "set", "--budget", "-1"), "size"),
    (("image", "create", "x", "1G"), "never guessed"), (("image", "create", "x", "--format", "raw"), "argument is missing"),
    (("image", "create", "x", "1G", "--format", "vmdk"), "raw or qcow2"), (("image", "clone", "a", "b"), "--backing-format"),
    (("image", "info", "x"), "never guessed"), (("image", "check", "x", "--format", "qcow2", "--repair", "some"), "leaks"),
    (("top", "--delay", "0"), "0.1"), (("top", "-n", "x"), "expected a number"),
    (("completion", "fish"), "bash"), (("debug", "on", "--image", "x"), "--xen")])
def test_wrong_use_ends_with_2(words, expected):
    assert expected in cli(*words, status=2)


def test_no_daemon_is_said_with_what_to_do():
    for verb in (("status",), ("disk", "list"), ("cache", "show"), ("top", "--batch", "-n", "1"), ("upgrade",)):
        text = cli(*verb, status=1)
        assert "not running" in text and "systemctl start" in text
    assert "creedenced is not running" in cli("version")


# ---- disks ----


def test_disks(daemon, run_dir):
    leaf = new_raw(run_dir / "leaf.raw")
    run = daemon.creedence
    out = run("disk", "attach", "d1", "--leaf", os.path.relpath(leaf), "--format", "raw", "--queues", "2", "--sector-size", "512",
              "--write-cache", "writethrough", "--serial", "S", "--seg-max", "8", "--size-max", "64K", "--packed", "on", "--poll-us", "0",
              "--datapath", "staged", "--no-cache", "--direct", "off", "--size-check", "--queue-size", "256").stdout
    assert str(daemon.run_dir / "disks/d1.sock") in out
    config = json.loads(run("disk", "show", "d1", "--json").stdout)["config"]
    assert config == {"name": "d1", "queues": 2, "queue_size": 256, "sector_bytes": 512, "read_only": False, "write_cache": "writethrough",
                      "serial": "S", "seg_max": 8, "size_max": 65536, "packed": True, "poll_us": 0, "datapath": "staged", "cache": False,
                      "size_check": True, "layers": [{"format": "raw", "path": str(leaf), "direct": False}]}
    lines = run("disk", "list").stdout.splitlines()
    assert lines[0].split()[0] == "NAME" and lines[1].split()[:2] == ["d1", "serving"]
    assert lines[0].index("LEAF") == lines[1].index(str(leaf))
    assert run("disk", "list", "--names").stdout == "d1\n"
    assert "writethrough" in run("disk", "show", "d1").stdout
    assert "reads" in run("disk", "stats", "d1").stdout and "reads" in run("disk", "stats").stdout
    assert "1 GiB" in run("disk", "resize", "d1", "1G").stdout
    failed = run("disk", "attach", "d2", "--leaf", leaf, "--format", "raw", check=False)
    assert failed.returncode == 1 and "in use" in failed.stderr and failed.stdout == ""
    failed = run("disk", "show", "nothing", check=False)
    assert failed.returncode == 1 and "disk list" in failed.stderr
    assert "1 serving" in run("status").stdout
    assert "d1" in run("upgrade").stdout and "d1" in run("upgrade", "--disk", "d1").stdout
    assert run("version").stdout.count("debug=") == 3
    assert json.loads(run("version", "--json").stdout)["workers"] == [{"version": "9.9", "debug": "y", "count": 1}]
    assert run("disk", "detach", "d1").returncode == 0
    assert run("disk", "list").stdout == "no disks are attached\n"
    assert "stay served" in run("shutdown").stdout


def test_control_option_before_environment(daemon):
    assert cli("status", "--control", daemon.control_socket)


def test_top(daemon, run_dir):
    daemon.attach("d1", new_raw(run_dir / "leaf.raw"))
    text = daemon.creedence("top", "--batch", "-n", "2", "-d", "0.1").stdout
    assert text.count("DISK") == 2 and text.count("d1 ") == 2 and "read cache" in text


def test_top_as_json(daemon, run_dir):
    daemon.attach("d1", new_raw(run_dir / "leaf.raw"))
    for words in (("--json",), ("--batch", "--json")):
        lines = daemon.creedence("top", *words, "-n", "2", "-d", "0.1").stdout.splitlines()
        looks = [json.loads(line) for line in lines]
        assert len(looks) == 2 and all(look["seconds"] > 0 and "cache" in look for look in looks)
        [disk] = looks[1]["disks"]
        assert disk["name"] == "d1" and disk["state"] == "serving" and disk["writes_per_s"] >= 0


def test_top_on_a_terminal(daemon, run_dir):
    daemon.attach("d1", new_raw(run_dir / "leaf.raw"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", CREEDENCE_SOCKET=str(daemon.control_socket), LINES="24", COLUMNS="100")
        os.execv(program("creedence"), ["creedence", "top", "-d", "0.1"])
    seen, end, asked = b"", time.monotonic() + 20, False
    try:
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    seen += os.read(terminal, 65536)
                except OSError:
                    break
            if b"d1" in seen and b"read cache" in seen and not asked:
                os.write(terminal, b"q")
                asked = True
        assert asked
        _, status = os.waitpid(pid, 0)
        pid = None
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)


def test_completion(daemon, run_dir):
    script = run_dir / "completion.bash"
    script.write_text(cli("completion", "bash"))
    daemon.attach("disk-one", new_raw(run_dir / "leaf.raw"))

    def complete(*words):
        text = f"""source {script}; COMP_WORDS=(creedence {' '.join(repr(w) for w in words)}); COMP_CWORD={len(words)}
            compopt() {{ :; }}; _creedence; printf '%s\\n' "${{COMPREPLY[@]}}" """
        path = f"{program('creedence').parent}:{os.environ['PATH']}"
        done = subprocess.run(["bash", "-uc", text], capture_output=True, text=True, timeout=20,
                              env={**os.environ, "PATH": path, "CREEDENCE_SOCKET": str(daemon.control_socket)})
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.split()

    assert {"disk", "image", "top", "version"} <= set(complete(""))
    assert set(complete("disk", "")) == {"attach", "detach", "list", "show", "resize", "stats"}
    assert complete("disk", "de") == ["detach"]
    assert complete("disk", "show", "") == ["disk-one"]
    assert complete("upgrade", "--disk", "d") == ["disk-one"]
    assert "--backing-format" in complete("disk", "attach", "x", "--b")
    assert complete("disk", "attach", "x", "--format", "q") == ["qcow2"]
    assert complete("completion", "") == ["bash"]
    assert "--budget" in complete("cache", "set", "--")


# ---- images ----


def qemu_info(path, fmt):
    return json.loads(subprocess.check_output([system_program("qemu-img", "qemu-utils"), "info", "-f", fmt, "--output=json", path]))


def test_images(run_dir):
    base, clone, again = run_dir / "base.qcow2", run_dir / "clone.qcow2", run_dir / "again.raw"
    assert "64 MiB" in cli("image", "create", base, "64M", "--format", "qcow2", "--cluster-size", "4K", "--refcount-bits", "32")
    info = qemu_info(base, "qcow2")
    assert (info["virtual-size"], info["cluster-size"], info["format-specific"]["data"]["refcount-bits"]) == (64 << 20, 4096, 32)
    assert str(base) in cli("image", "clone", base, clone, "--backing-format", "qcow2")
    info = qemu_info(clone, "qcow2")
    assert info["virtual-size"] == 64 << 20 and info["full-backing-filename"] == str(base) and info["backing-filename-format"] == "qcow2"
    assert cli("image", "create", run_dir / "c2.qcow2", "--format", "qcow2", "--backing", base, "--backing-format", "qcow2")
    shown = json.loads(cli("image", "info", clone, "--format", "qcow2", "--json"))
    assert shown["backing"] == str(base) and shown["size_bytes"] == 64 << 20
    assert str(base) in cli("image", "info", clone, "--format", "qcow2")
    assert "sound" in cli("image", "check", clone, "--format", "qcow2")
    assert json.loads(cli("image", "check", clone, "--format", "qcow2", "--json"))["errors"] == 0
    cli("image", "create", again, "1.5G", "--format", "raw")
    assert again.stat().st_size == 3 << 29
    assert "exist" in cli("image", "create", again, "1G", "--format", "raw", status=1).lower()
    assert "raw" in cli("image", "check", again, "--format", "raw", status=1)
    assert str(again) in cli("image", "info", again, "--format", "qcow2", status=1)
    assert "nowhere" in cli("image", "clone", run_dir / "nowhere", run_dir / "x", "--backing-format", "raw", status=1)
    assert not (run_dir / "x").exists()


def test_damaged_image_is_reported_and_repaired(run_dir):
    path = run_dir / "d.qcow2"
    cli("image", "create", path, "16M", "--format", "qcow2")
    with open(path, "r+b") as image:  # a refcount of one more cluster than there is use for
        image.seek(0, 2)
        end = image.tell()
        image.truncate(end + 65536)
        image.seek(48)
        table = int.from_bytes(image.read(8), "big")
        image.seek(table)
        block = int.from_bytes(image.read(8), "big")
        image.seek(block + 2 * (end // 65536))
        image.write(b"\0\1")
    assert "leaked" in cli("image", "check", path, "--format", "qcow2")
    assert json.loads(cli("image", "check", path, "--format", "qcow2", "--json"))["leaks"] == 1
    cli("image", "check", path, "--format", "qcow2", "--repair", "leaks")
    assert json.loads(cli("image", "check", path, "--format", "qcow2", "--json"))["leaks"] == 0
    with open(path, "r+b") as image:  # a table entry that points past the end
        image.seek(40)
        image.seek(int.from_bytes(image.read(8), "big"))
        image.write((1 << 63 | 1 << 40).to_bytes(8, "big"))
    assert cli("image", "check", path, "--format", "qcow2", status=1) is not None


def test_images_that_do_not_fit_the_configuration(daemon, run_dir):
    raw, base, clone = new_raw(run_dir / "raw.img"), run_dir / "base.qcow2", run_dir / "clone.qcow2"
    cli("image", "create", base, "1M", "--format", "qcow2")
    cli("image", "clone", base, clone, "--backing-format", "qcow2")

    def refused(*words):
        done = daemon.creedence("disk", "attach", "d", *words, check=False)
        assert done.returncode == 1
        return done.stderr

    text = refused("--leaf", clone, "--format", "qcow2")
    assert str(clone) in text and str(base) in text and "--backing" in text
    text = refused("--leaf", clone, "--format", "qcow2", "--backing", raw, "--backing-format", "raw")
    assert str(clone) in text and str(base) in text and str(raw) in text
    text = refused("--leaf", clone, "--format", "qcow2", "--backing", base, "--backing-format", "raw")
    assert "qcow2" in text and "configured as raw" in text
    text = refused("--leaf", base, "--format", "qcow2", "--backing", raw, "--backing-format", "raw")
    assert "not based on" in text and str(raw) in text
    assert str(raw) in refused("--leaf", raw, "--format", "qcow2")
    large, leaf = new_raw(run_dir / "large.img", 8 << 20), run_dir / "small.qcow2"
    cli("image", "create", leaf, "4M", "--format", "qcow2", "--backing", large, "--backing-format", "raw")
    chain = ["--leaf", leaf, "--format", "qcow2", "--backing", large, "--backing-format", "raw"]
    assert "hides" in refused(*chain, "--size-check")
    daemon.creedence("disk", "attach", "small", *chain)
    # a name relative to the image, through a symbolic link, is the same file
    os.symlink(base, run_dir / "alias.qcow2")
    subprocess.check_call([system_program("qemu-img", "qemu-utils"), "rebase", "-u", "-f", "qcow2", "-b", "alias.qcow2", "-F", "qcow2", clone])
    daemon.creedence("disk", "attach", "d", "--leaf", clone, "--format", "qcow2", "--backing", base, "--backing-format", "qcow2")
    # and locked as other programs lock
    done = subprocess.run([system_program("qemu-img", "qemu-utils"), "check", "-f", "qcow2", clone], capture_output=True, text=True)
    assert done.returncode and "lock" in done.stderr


# ---- builds ----


PROGRAMS = ("creedence", "creedenced", "creedence-vbd", "creedence-cache", "creedence-switch")


@pytest.fixture
def prefix(run_dir):
    """Both builds "installed": really twice the one under test, so one of them is of the wrong kind."""
    mine = "debug" if json.loads(cli("version", "--local", "--json"))["debug"] == "y" else "release"
    for kind in ("debug", "release"):
        bin_dir = run_dir / "prefix/lib/creedence" / kind / "bin"
        bin_dir.mkdir(parents=True)
        for name in PROGRAMS:
            shutil.copy(program(name), bin_dir / name)
    return run_dir / "prefix", mine


def test_switching_builds(prefix):
    prefix, mine = prefix
    other = {"debug": "release", "release": "debug"}[mine]
    words = {"debug": "on", "release": "off"}
    lib = prefix / "lib/creedence"
    assert "PROBLEM" in subprocess.run([program("creedence"), "debug", "status", "--prefix", prefix], capture_output=True, text=True,
                                       env={**os.environ, "CREEDENCE_SOCKET": "/nowhere"}).stdout
    text = cli("debug", words[other], "--prefix", prefix, status=1)
    assert "wrong way round" in text and not (lib / "current").is_symlink()
    assert mine in cli("debug", words[mine], "--prefix", prefix)
    assert os.readlink(lib / "current") == mine
    # the program finds its own installation
    installed = lib / "current/bin/creedence"
    status = json.loads(subprocess.check_output([installed, "debug", "status", "--json"], env={**os.environ, "CREEDENCE_SOCKET": "/nowhere"}))
    assert status["directory"] == str(lib) and status["current"] == mine and "problem" in status[other] and "problem" not in status
    (lib / "current").unlink()
    (lib / "current").mkdir()
    assert "not a symbolic link" in cli("debug", words[mine], "--prefix", prefix, status=1)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_build_is_switched_to_only_when_each_of_its_programs_runs(name, prefix):
    prefix, mine = prefix
    word = {"debug": "on", "release": "off"}[mine]
    lib = prefix / "lib/creedence"
    cli("debug", word, "--prefix", prefix)
    path = lib / mine / "bin" / name
    whole = path.read_bytes()

    def refused(expected):
        text = cli("debug", word, "--prefix", prefix, status=1)
        assert "nothing was switched" in text and expected in text and str(path) in text
        assert os.readlink(lib / "current") == mine

    path.unlink()
    refused("No such file")
    path.write_text("no program")
    refused("not an executable program")
    path.chmod(0o755)
    refused("not an executable program")
    for content, expected in ((Path("/bin/false").read_bytes(), "cannot be run"), (whole[:4096], "cannot be run"),
                              (Path("/bin/true").read_bytes(), "does not say what it is"),
                              (program(PROGRAMS[name == PROGRAMS[0]]).read_bytes(), "does not say what it is")):
        path.write_bytes(content)
        refused(expected)
    path.write_bytes(whole)
    cli("debug", word, "--prefix", prefix)


def test_what_runs_is_said(prefix, daemon):
    prefix, mine = prefix
    words = {"debug": "on", "release": "off"}
    done = daemon.creedence("debug", words[mine], "--prefix", prefix, "--json")
    assert json.loads(done.stdout)["todo"] == []
    new_raw(daemon.dir / "leaf.raw")
    daemon.attach("d1", daemon.dir / "leaf.raw")
    todo = json.loads(daemon.creedence("debug", words[mine], "--prefix", prefix, "--json").stdout)["todo"]
    # the fake worker says debug=y
    assert (todo == []) == (mine == "debug")
    assert all("creedence upgrade" in line for line in todo)
    daemon.call("bridge.add", name="br0")  # and so does the fake switch
    said = json.loads(daemon.creedence("debug", "status", "--prefix", prefix, "--json").stdout)
    assert said["switch"]["debug"] == "y" and any("upgrade --switch" in line for line in said["todo"]) == (mine == "release")
    assert "creedence-switch 9.9 debug=y, running" in daemon.creedence("version").stdout


XEN = b"\x7fELF" + b"\0" * 100_000 + b"(XEN) Xen version" + b"\0" * 1000


@pytest.fixture
def boot(run_dir):
    boot = run_dir / "boot"
    boot.mkdir()
    for name in ("xen-4.4.0-xs1.gz", "xen-4.4.0-xs1-d.gz", "xen-4.10.0.gz", "xen-4.10.0-dbg.gz", "xen-4.9.0-debug.gz"):
        (boot / name).write_bytes(gzip.compress(XEN))
    (boot / "xen-4.4.gz").symlink_to("xen-4.4.0-xs1.gz")
    (boot / "vmlinuz-6.1").write_bytes(b"MZ")
    return boot


def test_xen_link(boot):
    link = boot / "xen.gz"
    link.symlink_to("xen-4.4.0-xs1-d.gz")
    status = json.loads(cli("debug", "status", "--xen", "--boot-dir", boot, "--json"))
    assert status["target"] == "xen-4.4.0-xs1-d.gz" and status["debug"] == "y" and "problem" not in status
    assert [c["file"] for c in status["candidates"]] == ["xen-4.4.0-xs1-d.gz", "xen-4.4.0-xs1.gz", "xen-4.9.0-debug.gz", "xen-4.10.0-dbg.gz", "xen-4.10.0.gz"]
    assert "next boot" in cli("debug", "off", "--xen", "--boot-dir", boot)
    assert os.readlink(link) == "xen-4.4.0-xs1.gz"  # its own counterpart, not the newest
    cli("debug", "on", "--xen", "--boot-dir", boot)
    assert os.readlink(link) == "xen-4.4.0-xs1-d.gz"
    cli("debug", "off", "--xen", "--boot-dir", boot, "--image", "xen-4.10.0.gz")
    assert os.readlink(link) == "xen-4.10.0.gz"
    assert "debug image" in cli("debug", "on", "--xen", "--boot-dir", boot, "--image", "xen-4.10.0.gz", status=1)
    link.unlink()
    cli("debug", "on", "--xen", "--boot-dir", boot)
    assert os.readlink(link) == "xen-4.10.0-dbg.gz"  # no link yet: the newest
    assert sorted(p.name for p in boot.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("content,expected", [
    (None, "No such file"), (b"", "empty"), (b"hello", "ELF"), (gzip.compress(b"hello"), "ELF"), (gzip.compress(XEN)[:-9], "damaged"),
    (b"\x7fELF" + b"\0" * 1000, "not of Xen"), (gzip.compress(b"\x7fELF" + b"\0" * 70000), "not of Xen")],
    ids=["gone", "empty", "text", "packed-text", "cut-off", "another-program", "another-program-packed"])  # gzip puts the time into its output
def test_xen_link_is_never_left_wrong(boot, content, expected):
    link, bad = boot / "xen.gz", boot / "xen-4.4.0-xs1.gz"
    link.symlink_to("xen-4.4.0-xs1-d.gz")
    if content is None:
        bad.unlink()
        bad.symlink_to("nothing")
    else:
        bad.write_bytes(content)
    text = cli("debug", "off", "--xen", "--boot-dir", boot, "--image", bad.name, status=1)
    assert expected in text and bad.name in text
    assert os.readlink(link) == "xen-4.4.0-xs1-d.gz"
    # and one that is wrong already is reported
    link.unlink()
    link.symlink_to(bad.name)
    done = subprocess.run([program("creedence"), "debug", "status", "--xen", "--boot-dir", boot], capture_output=True, text=True)
    assert done.returncode == 1 and "PROBLEM" in done.stdout


def test_xen_without_candidates(run_dir):
    assert "no debug Xen image" in cli("debug", "on", "--xen", "--boot-dir", run_dir, status=1)
    (run_dir / "xen.gz").write_bytes(gzip.compress(XEN))
    (run_dir / "xen-1-d.gz").write_bytes(gzip.compress(XEN))
    assert "not a symbolic link" in cli("debug", "on", "--xen", "--boot-dir", run_dir, status=1)


def test_xen_says_what_runs(boot):
    fake = boot / "bin"
    fake.mkdir()
    (fake / "xl").write_text("#!/bin/sh\necho '(XEN) Xen version 4.17.3 (x@y) (gcc 12) debug=n Fri Nov 22'\n")
    (fake / "xl").chmod(0o755)
    (boot / "xen.gz").symlink_to("xen-4.10.0.gz")
    text = cli("debug", "status", "--xen", "--boot-dir", boot, env={"PATH": f"{fake}:{os.environ['PATH']}"})
    assert "debug=n" in text
