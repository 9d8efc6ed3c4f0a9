# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests in the Xen lab: one boot for all, and for each test a machine of its own that starts from there."""

import tempfile

import pytest
from _pytest.runner import runtestprotocol

from xen.host import Host
from xen.lab import Lab, start_guests

EMULATOR_LOST_A_GUEST = pytest.StashKey()


def pytest_runtest_protocol(item, nextitem):
    """QEMU's emulation of SVM resets a PVH guest once in several minutes of load ("Triple fault" in Xen's log, on the kernel's
    own back ends too): a test that failed so is run once more."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports) and item.stash.get(EMULATOR_LOST_A_GUEST, False):
        print(f"\n{item.nodeid}: QEMU lost a guest by a triple fault; once more")
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


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
def lab(request, snapshot, run_dir):
    with Lab(run_dir, snapshot) as lab:
        yield lab
        request.node.stash[EMULATOR_LOST_A_GUEST] = "Triple fault" in lab.console_of_xen()
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


@pytest.fixture
def installed_host(lab):
    """As `host`, with a user: workers and the switch run as on a host where Creedence is installed, in the full sandbox. Guests' cards have
    two queues, if they have two processors."""
    lab.dom0.check("echo creedence:x:900:900:::/bin/false >>/etc/passwd; echo creedence:x:900: >>/etc/group")
    host = Host(lab, "--xen-card-queues=2").start()
    yield host
    print(host.log())
