# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests in the Xen lab: one boot for all, and for each test a machine of its own that starts from there."""

import tempfile

import pytest

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


@pytest.fixture
def dom0(lab):
    return lab.dom0
