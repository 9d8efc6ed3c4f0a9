# SPDX-License-Identifier: Apache-2.0
"""The tests' own ground: what is missing is not passed over in silence."""

import importlib.util
import os
import subprocess
import sys

import pytest

from lib import packages
from lib.images import QEMU_KERNEL_PACKAGE
from lib.paths import TOP, MissingProgram

NEEDS_A_PROGRAM = """
from lib.paths import system_program

def test_it():
    system_program("no-such-program", "no-such-package")
"""


@pytest.mark.parametrize("in_check,expected", [("0", "1 skipped"), ("1", "1 failed")])
def test_a_missing_program_fails_a_full_run(in_check, expected, tmp_path):
    (tmp_path / "test_it.py").write_text(NEEDS_A_PROGRAM)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", "-p", "conftest", "-p", "no:cacheprovider", "test_it.py"],
                          cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(TOP / "tests"), "CREEDENCE_CHECK": in_check})
    assert expected in done.stdout and "no-such-package" in done.stdout


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """An apt whose lists are missing until they are updated; fails to do that when there is a file `offline`."""
    (tmp_path / "apt-cache").write_text(f"#!/bin/sh\ncat {tmp_path}/lists 2>/dev/null || {{ echo E: no packages found >&2; exit 100; }}\n")
    (tmp_path / "apt-get").write_text(f"""#!/bin/sh
echo "$*" >>{tmp_path}/log
[ ! -e {tmp_path}/offline ] || {{ echo "E: no network"; exit 100; }}
case $1 in
update) echo "  Depends: linux-image-6.1.0-9-cloud-amd64" >{tmp_path}/lists ;;
download) grep -q update {tmp_path}/log || exit 100; : >"$3.deb" ;;
indextargets) [ ! -e {tmp_path}/lists ] || printf '%s\\n' 'Else main http://else/ bookworm' 'Debian main http://debian-security/ bookworm-security' \\
                                                       'Debian main http://debian/ bookworm' ;;
esac
""")
    for name in ("apt-cache", "apt-get"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_missing_package_lists_are_fetched(apt):
    assert packages.kernel_package(QEMU_KERNEL_PACKAGE) == "linux-image-6.1.0-9-cloud-amd64"
    assert packages.kernel_package(QEMU_KERNEL_PACKAGE) == "linux-image-6.1.0-9-cloud-amd64"
    assert (apt / "log").read_text().count("update") == 1


def test_stale_package_lists_are_renewed(apt):
    (apt / "lists").write_text("  Depends: linux-image-6.1.0-8-cloud-amd64\n")
    (apt / "to").mkdir()
    assert [path.name for path in packages.download(apt / "to", [], QEMU_KERNEL_PACKAGE)] == ["linux-image-6.1.0-9-cloud-amd64.deb"]


def test_packages_of_another_architecture(apt):
    """apt has lists of its own for them, of the release that this machine has, and no other."""
    environment = packages.foreign("i386", apt / "apt-i386")
    assert (apt / "log").read_text().count("update") == 1
    assert "] http://debian/ bookworm main\n" in (apt / "apt-i386" / "sources.list").read_text()
    options = (apt / "apt-i386" / "apt.conf").read_text()
    assert 'APT::Architectures "i386";' in options and f'Dir::State "{apt}/apt-i386/state";' in options
    assert environment["APT_CONFIG"] == str(apt / "apt-i386" / "apt.conf")


def test_no_network_is_said(apt):
    (apt / "offline").touch()
    with pytest.raises(MissingProgram, match="no network"):
        packages.kernel_package(QEMU_KERNEL_PACKAGE)


@pytest.fixture
def run_tests():
    """tools/run-tests.py as a module."""
    spec = importlib.util.spec_from_file_location("run_tests", TOP / "tools" / "run-tests.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_what_failed_is_tried_once_more(run_tests):
    results, tried = run_tests.Results(), []
    results.settle({"a": ("too late", "way to a"), "b": ("too late", "way to b")}, lambda ways: tried.extend(ways) or {"way to a"})
    assert tried == ["way to a", "way to b"]
    assert (results.passed, results.unstable, results.failed) == (1, ["a"], ["b"])


@pytest.mark.parametrize("said", [
    "WARNING: ThreadSanitizer: data race", "base.c:7:3: runtime error: index 9 out of bounds", "x.c:1: f: Assertion `a' failed.",
    "qemu-img check: corruptions found", "SIGSEGV"])
def test_what_says_that_something_was_wrong_is_not_tried_again(run_tests, said):
    results = run_tests.Results()
    results.settle({"a": (said, "a"), "b": ("too late", "b")}, lambda ways: pytest.fail("tried again"))
    assert (results.passed, results.failed) == (0, ["a", "b"])


def test_many_failures_are_not_tried_again(run_tests):
    results = run_tests.Results()
    results.settle({str(n): ("too late", str(n)) for n in range(run_tests.MOST_AGAIN + 1)}, lambda ways: pytest.fail("tried again"))
    assert len(results.failed) == run_tests.MOST_AGAIN + 1


def test_a_test_of_pytest_that_fails_once_is_unstable(run_tests, tmp_path, monkeypatch, capfd):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("""
import os, pytest
@pytest.mark.parametrize("seen", ["once", "twice"])
def test_it(seen):
    if not os.path.exists(seen):
        open(seen, "w")
        assert seen == "too late"
    assert seen == "once"
def test_good():
    pass
""")
    (tmp_path / "build" / "release").mkdir(parents=True)
    monkeypatch.setattr(run_tests, "TOP", tmp_path)
    monkeypatch.setattr(run_tests, "build", lambda kind, where, results: True)
    results = run_tests.Results()
    run_tests.system_tests(tmp_path / "build", False, results)
    assert (results.passed, results.unstable, results.failed) == (2, ["tests.test_it.test_it[once]"], ["tests.test_it.test_it[twice]"])
