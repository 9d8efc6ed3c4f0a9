# SPDX-License-Identifier: Apache-2.0
"""`make install`: both builds side by side below a DESTDIR, switched there; units that systemd takes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lib.paths import BUILD, SYSTEM_PATH, TOP, system_program

PREFIX = Path("/usr/local")
PROGRAMS = ["creedence", "creedence-cache", "creedence-switch", "creedence-vbd", "creedenced"]
BUILDS = BUILD.parent / "install"  # kept from run to run: `make install` sets a build up for its prefix
OTHERS = """
    etc/xen/scripts/block-creedence
    etc/xen/scripts/vif-creedence
    etc/xen/scripts/vif-creedence-locked
    lib/creedence/uml-xstate.so
    lib/systemd/system/creedence-halt.service
    lib/systemd/system/creedenced.service
    lib/sysusers.d/creedence.conf
    lib/tmpfiles.d/creedence.conf
    share/bash-completion/completions/creedence
    share/man/man1/creedence.1
    share/man/man7/creedence-flows.7
    share/man/man8/creedence-cache.8
    share/man/man8/creedence-switch.8
    share/man/man8/creedence-vbd.8
    share/man/man8/creedenced.8
    share/qemu/vhost-user/50-creedence-switch.json
    share/qemu/vhost-user/50-creedence-vbd.json
""".split()
pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(600), pytest.mark.xdist_group("install")]  # one at a time: they share the builds


def run(*words, status=0, **env):
    done = subprocess.run([str(word) for word in words], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, "CREEDENCE_SOCKET": "/nowhere", "MAKEFLAGS": "", **env}, stdin=subprocess.DEVNULL)
    assert done.returncode == status, f"{words}: status {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def builds():
    for kind in ("release", "debug"):
        if not (BUILDS / kind / "build.ninja").exists():
            run("meson", "setup", BUILDS / kind, f"--buildtype={kind}", f"-Dprefix={PREFIX}", "-Dtests=disabled")
    return BUILDS


@pytest.fixture(scope="module")
def destdir(builds, tmp_path_factory):
    path = tmp_path_factory.mktemp("destdir")
    run("make", "install", f"BUILD={builds}", f"PREFIX={PREFIX}", f"DESTDIR={path}")
    return path


def files_below(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file() or path.is_symlink()}


def test_layout_and_switching(builds, destdir):
    root = destdir / PREFIX.relative_to("/")
    home = root / "lib/creedence"
    own = [f"lib/creedence/{kind}/bin/{name}" for kind in ("release", "debug") for name in PROGRAMS]
    links = ["lib/creedence/current", *(f"bin/{name}" for name in PROGRAMS)]
    assert files_below(destdir) == {str(PREFIX.relative_to("/") / name) for name in own + links + OTHERS}
    assert os.readlink(home / "current") == "release"
    assert all(not os.path.isabs(os.readlink(root / link)) and (root / link).exists() for link in links)

    def said(name):
        """debug=y or debug=n, as the program on the PATH says it."""
        return run(root / "bin" / name, "--version").split()[-1]

    creedence = root / "bin/creedence"
    assert "debug=n" in run(creedence, "version", "--local")
    assert {said(name) for name in PROGRAMS} == {"debug=n"}
    status = json.loads(run(creedence, "debug", "status", "--json"))
    assert status["directory"] == str(home) and status["current"] == "release" and "problem" not in status
    assert (status["release"]["debug"], status["debug"]["debug"]) == ("n", "y")
    run(creedence, "debug", "on")
    assert {said(name) for name in PROGRAMS} == {"debug=y"} and "debug=y" in run(creedence, "version", "--local")

    # one program of the wrong kind spoils a build, and the link stays
    for name in PROGRAMS:
        path, kept = home / "release/bin" / name, home / "kept"
        path.rename(kept)
        shutil.copy(home / "debug/bin" / name, path)
        assert "wrong way round" in run(creedence, "debug", "off", status=1)
        assert os.readlink(home / "current") == "debug"
        path.unlink()
        kept.rename(path)

    # installing again leaves the choice alone
    assert "stays as it is: debug" in run("make", "install", f"BUILD={builds}", f"PREFIX={PREFIX}", f"DESTDIR={destdir}")
    assert os.readlink(home / "current") == "debug"
    run(creedence, "debug", "off")
    assert {said(name) for name in PROGRAMS} == {"debug=n"}


def test_what_is_installed_can_be_read(destdir):
    root = destdir / PREFIX.relative_to("/")
    described = json.loads((root / "share/qemu/vhost-user/50-creedence-vbd.json").read_text())
    assert described["binary"] == str(PREFIX / "bin/creedence-vbd")
    run("bash", "-n", root / "share/bash-completion/completions/creedence")
    for page in (root / "share/man").rglob("*.[18]"):
        assert page.read_text().startswith((".TH", ".\\\""))
    for unit in (root / "lib/systemd/system").iterdir():
        assert "@" not in unit.read_text() and f"{PREFIX}/bin/" in unit.read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze", path=SYSTEM_PATH), reason="no systemd-analyze on this machine")
def test_units_are_as_systemd_wants_them(destdir, run_dir):
    root = destdir / PREFIX.relative_to("/")
    units = []
    for unit in (root / "lib/systemd/system").iterdir():
        units.append(run_dir / unit.name)
        # systemd looks whether the programs are there
        units[-1].write_text(unit.read_text().replace(f"{PREFIX}/bin/", f"{root}/bin/"))
    assert len(units) == 2
    man = ["--man=yes"] if shutil.which("man", path=SYSTEM_PATH) else ["--man=no"]
    text = run(system_program("systemd-analyze", "systemd"), "verify", *man, *units, MANPATH=str(root / "share/man"))
    assert not text.strip(), text


def test_the_workers_user_is_made_on_the_running_system(builds, run_dir):
    """Without a DESTDIR; by a stand-in, which must be given our own file and nothing else."""
    fake = run_dir / "bin"
    fake.mkdir()
    (fake / "systemd-sysusers").write_text(f'#!/bin/sh\necho "$@" >{run_dir}/asked\n')
    (fake / "getent").write_text("#!/bin/sh\nexit 2\n")
    (fake / "id").write_text("#!/bin/sh\necho 0\n")
    for path in fake.iterdir():
        path.chmod(0o755)
    prefix = run_dir / "prefix"
    path = f"{fake}:{os.environ['PATH']}"
    text = run("tools/install.sh", builds, prefix, PATH=path)
    assert (run_dir / "asked").read_text().split() == [str(prefix / "lib/sysusers.d/creedence.conf")]
    assert "Made the user creedence" in text
    (fake / "systemd-sysusers").write_text("#!/bin/sh\nexit 1\n")
    assert "There is no user creedence" in run("tools/install.sh", builds, prefix, PATH=path)
    (fake / "getent").write_text("#!/bin/sh\nexit 0\n")
    assert "which is there" in run("tools/install.sh", builds, prefix, PATH=path)
