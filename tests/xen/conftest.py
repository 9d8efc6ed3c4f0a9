# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests in the Xen lab: one boot for all, and for each test a machine of its own that starts from there."""

import tempfile

import pytest

from xen.host import Host
from xen.lab import Lab, start_guests

@pytest.fixture(scope="session")
def snapshot():
    """Xen, dom0, and the guests of start_guests()."""
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as path:
        with Lab(path) as lab:
            start_guests(lab)
            saved = lab.save()
        yield saved
        saved.close()


@pytest.fixture
def lab(snapshot, run_dir):
    with Lab(run_dir, snapshot) as lab:
        yield lab
        for guest in lab.guests.values():  # shown when the test fails
            print(f"-- {guest.name}\n{guest.console()[-1500:]}")
        print(f"-- Xen\n{lab.console_of_xen()[-1500:]}")


@pytest.fixture
def dom0(lab):
    return lab.dom0


@pytest.fixture
def host(lab):
    """creedenced in dom0. When the test fails, what it logged is shown."""
    host = Host(lab).start()
    yield host
    print(host.log())
