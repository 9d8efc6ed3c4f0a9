# SPDX-License-Identifier: Apache-2.0
"""The arrows between parts that must never exist (docs/architecture.md), read off the #include lines."""

import re
from pathlib import Path

import pytest

from lib.paths import TOP

SRC = TOP / "src"
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)

DATA_PLANE = {"base", "loop", "guest", "ring", "vbd", "disk", "cache", "packet", "vif", "port", "switch"}
PARTS = DATA_PLANE | {"openflow", "control", "cmd"}

# part: the parts that it must not include
FORBIDDEN = {
    "base": PARTS - {"base"},
    "loop": PARTS - {"base", "loop"},
    "disk": {"guest", "ring", "vbd", "cache", "vif", "packet", "port", "switch"},
    "cache": {"guest", "ring", "vbd", "vif", "packet", "port", "switch"},
    "ring": {"vbd", "vif", "disk", "cache"},
    "guest": {"vbd", "vif", "disk", "cache"},
    "packet": {"guest", "ring", "vif", "vbd", "disk", "cache"},
    "switch": {"guest", "ring", "vif", "vbd", "disk", "cache"},
    "port": {"guest", "ring", "vif", "vbd", "disk", "cache"},
    "vbd": {"cache", "vif", "packet", "port", "switch"},
    "vif": {"vbd", "disk", "cache", "switch"},
}
# (part, part that it may include): by these headers only
DOORS = {
    ("guest", "ring"): {"ring/virtq.h"},
    ("ring", "guest"): {"guest/memory.h", "guest/lookup.h"},
    ("cache", "disk"): {"disk/disk.h", "disk/file.h", "disk/engine/engine.h"},
    ("vif", "port"): {"port/port.h", "port/source.h"},
}
for _part in DATA_PLANE:
    FORBIDDEN[_part] = FORBIDDEN.get(_part, set()) | {"control", "openflow", "cmd"}
FORBIDDEN["control"] = PARTS - {"control", "base", "loop", "disk"}

# A platform's header: the files that may include it.
PLATFORM = {
    r"liburing(\.h|/.*)": {"disk/engine/uring.c"},
    r"xen(gnttab|evtchn|foreignmemory|call)\.h|xen/.*": {"guest/xen.c"},
    r"xenstore(_lib)?\.h": {"control/xenstore.c"},
    r"openssl/.*": {"openflow/tls.c"},
    r"(xdp/.*|linux/if_xdp\.h|bpf/.*)": {"port/af_xdp.c"},
}


def sources():
    return sorted(path for path in SRC.rglob("*.[ch]"))


def includes(path):
    """(quoted, name) of every #include line."""
    return [(kind == '"', name) for kind, name in INCLUDE.findall(path.read_text())]


def part_of(path):
    return path.relative_to(SRC).parts[0]


def format_of(name):
    """disk/format/qcow2_table.h, disk/format/qcow2/table.h -> qcow2."""
    match = re.match(r"disk/format/([a-z0-9]+)", name)
    return match[1] if match else None


def is_unit_test(path):
    return path.stem.endswith("_test")


def arrows(path):
    """The arrows of this file that must not exist, as words."""
    here = part_of(path)
    name = str(path.relative_to(SRC))
    for quoted, included in includes(path):
        part = included.split("/")[0]
        if quoted and part in FORBIDDEN.get(here, ()):
            yield f"src/{name} includes {included}: {here} must not reach {part}"
        doors = DOORS.get((here, part))
        if quoted and doors and included not in doors:
            yield f"src/{name} includes {included}: {here} reaches {part} by {', '.join(sorted(doors))} only"
        other = format_of(included)
        if other and format_of(name) and other != format_of(name):
            yield f"src/{name} includes {included}: one format must not reach another"
        for pattern, allowed in PLATFORM.items():
            if re.fullmatch(pattern, included) and name not in allowed:
                yield f"src/{name} includes {included}: only {', '.join(sorted(allowed))} may"


def test_no_forbidden_arrow():
    found = [arrow for path in sources() if not is_unit_test(path) for arrow in arrows(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name,include,expected", [
    ("vbd/x.c", "cache/client.h", "vbd must not reach cache"), ("vbd/x.c", "vif/vif.h", "vbd must not reach vif"),
    ("disk/x.c", "cache/client.h", "disk must not reach cache"), ("guest/x.c", "ring/wire.h", "by ring/virtq.h only"),
    ("guest/x.c", "ring/virtq.h", None), ("vbd/x.c", "disk/disk.h", None), ("cmd/x.c", "cache/client.h", None),
    ("base/x.h", "loop/loop.h", "base must not reach loop"), ("disk/format/raw.c", "disk/format/qcow2_impl.h", "must not reach another"),
    ("cache/x.c", "control/link.h", "cache must not reach control")])
def test_a_forbidden_arrow_is_seen(name, include, expected, tmp_path, monkeypatch):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(f'#include "{include}"\n')
    monkeypatch.setitem(globals(), "SRC", tmp_path)
    found = list(arrows(path))
    assert expected in found[0] if expected else not found


def test_every_part_is_known():
    """A new folder must be given its place here, or nothing would be checked about it."""
    parts = {part_of(path) for path in sources() if path.parent != SRC}
    assert parts <= PARTS, f"parts without rules: {sorted(parts - PARTS)}"


def test_quoted_includes_name_the_part():
    """Every quoted include is spelled from src/, so that the rules above see it."""
    found = []
    for path in sources():
        for quoted, included in includes(path):
            if quoted and not (SRC / included).is_file() and not generated(included):
                found.append(f"src/{path.relative_to(SRC)} includes {included}, which is no file under src/")
    assert not found, "\n".join(found)


def generated(included):
    """Headers that the build writes."""
    return Path(included).name in {"commit.h"}


@pytest.mark.parametrize("folder", sorted(part for part in PARTS if any((SRC / part).glob("*.[ch]"))))
def test_folder_has_a_readme(folder):
    assert (SRC / folder / "README.md").is_file(), f"src/{folder}/README.md: the part's place in the flow is not written down"
