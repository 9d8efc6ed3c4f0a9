# SPDX-License-Identifier: Apache-2.0
"""OpenFlow 1.3.5, case by case (tests/openflow): what is configured reads back as it was written, frames come out as the
specification says to the byte, and what is wrong is refused with the right error. The codec is os_ken's."""

import importlib.util

import pytest

from lib.switch import Namespace, start_switch

if not importlib.util.find_spec("os_ken"):
    pytest.skip("no os_ken in this Python: install the package python3-os-ken", allow_module_level=True)

from openflow import cases, rig as rigs, traffic  # noqa: E402

SHOWN_MAX = 20
CHAPTERS = {"match": cases.match_cases, "set field": cases.set_field_cases, "tags": cases.tag_action_cases, "ttl": cases.ttl_cases,
            "output": cases.output_cases, "groups": cases.group_cases, "configuration": cases.config_cases,
            "refused": cases.bad_cases}


@pytest.fixture
def rig(processes, run_dir):
    with Namespace("of") as namespace:
        process, link = start_switch(processes, run_dir)
        with rigs.creedence(link, run_dir, namespace.name) as rig:
            yield rig
        link.close()
        output = process.output()
        assert not any(mark in output for mark in ("Sanitizer", "runtime error:", "Assertion")), output[-6000:]


@pytest.mark.timeout_s(300)
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter(rig, chapter):
    tried = [(case.name, rig.run(case)) for case in CHAPTERS[chapter]()]
    wrong = [f"{name}: {why}" for name, why in tried if why]
    assert not wrong, f"{len(wrong)} of {len(tried)} cases:\n" + "\n".join(wrong[:SHOWN_MAX])


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (0, 1)])
@pytest.mark.parametrize("frame", [traffic.IP4_TCP, traffic.IP6_TCP], ids=["ip", "ipv6"])
def test_select_by_weight(rig, frame, weights):
    traffic.select_by_weight(rig, frame, weights)


def test_select_keeps_flows_together(rig):
    traffic.select_keeps_flows(rig)


@pytest.mark.parametrize("counters", [traffic.flow_counters, traffic.group_counters, traffic.port_counters])
def test_counters(rig, counters):
    counters(rig)


@pytest.mark.slow
@pytest.mark.parametrize("case", traffic.meter_cases(), ids=lambda case: case[0])
def test_meter(rig, case):
    case[1](rig)
