# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole-system tests. Every test is bounded in time and leaves no process behind."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lib.paths import MissingProgram  # noqa: E402
from lib.process import ProcessGroup  # noqa: E402

DEFAULT_TIMEOUT_S = 180  # and the least: it is there for what hangs, and a machine may stand still for a while


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than a few seconds; left out by `make check-quick`")
    config.addinivalue_line("markers", "alone: looks at the clock or at the whole machine: run with no other test beside it")
    config.addinivalue_line("markers", "xdist_group(name): those of a group run one after the other")
    config.addinivalue_line("markers", f"timeout_s(n): fails after n seconds (default, and least: {DEFAULT_TIMEOUT_S})")
    # Asked to end, end as after an interrupt: fixtures end what they started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """The longest first, those that go one after the other before all: several run at a time (tools/run-tests.py), and none shall
    be left over at the end."""
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("slow", "xdist_group")])


class TestTimeout(Exception):
    """Not an OSError, so that no retry loop swallows it."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """Bound every test: SIGALRM raises in the main thread, where the test and its waits run."""
    marker = item.get_closest_marker("timeout_s")
    limit_s = max(marker.args[0] if marker else 0, DEFAULT_TIMEOUT_S)

    def expired(signum, frame):
        raise TestTimeout(f"the test took longer than {limit_s} s")

    old = signal.signal(signal.SIGALRM, expired)
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A tool of the system that is not installed skips the test that needs it; in `make check`, which installs all of
    them, that would hide whole kinds of guests, so there it fails."""
    outcome = yield
    if os.environ.get("CREEDENCE_CHECK") == "1" or call.excinfo is None:
        return
    if call.excinfo.errisinstance(MissingProgram) and "is not there" not in str(call.excinfo.value):
        report = outcome.get_result()
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, str(call.excinfo.value))


@pytest.fixture
def run_dir():
    """A short private directory: paths of Unix sockets are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def processes(run_dir):
    """Starts programs; whatever still runs at the end of the test is killed, by process id."""
    with ProcessGroup(run_dir) as group:
        yield group
