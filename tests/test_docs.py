# SPDX-License-Identifier: Apache-2.0
"""What the pages name is there: paths in backticks, and targets of links, of every *.md in the tree."""

import re
from fnmatch import fnmatchcase

import pytest

from lib.paths import TOP

NOT_SOURCE = {".git", ".cache", ".pytest_cache", "__pycache__"}  # and builds
# Named and yet not there: made when the project is built or measured, planned, or standing for any name.
ALLOWED = {
    "build/release", "bench/results", "bench/results/latest.md", "latest.json", "latest.svg",
    "disk/remote", "guest/xen.c", "ring/blkif.c",
    "foo.c", "foo_test.c", "fuzz/fuzz_X.c", "fuzz/corpus/fuzz_X/",
}
ENDINGS = r"c|h|py|md|sh|txt|svg|build|in|service|json|[18]"
# With a slash in it, or with the ending of a source file. What starts with a slash or a capital PREFIX is of another place.
PATH = re.compile(rf"(?!PREFIX/|RUNDIR/|STATEDIR/)(?:[\w.*+-]+/)+[\w.*+{{,}}-]*|[\w.*+-]+\.(?:{ENDINGS}|\{{h,c\}})")


def tree():
    """Files and directories of the source tree, as /a/b."""
    found = []
    for path in TOP.rglob("*"):
        parts = path.relative_to(TOP).parts
        if not any(part in NOT_SOURCE for part in parts) and not parts[0].startswith("build"):
            found.append("/" + "/".join(parts))
    return found


TREE = tree()
PAGES = [path for path in TREE if path.endswith(".md")]


def prose(text):
    """Without blocks of code, which show commands and output."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def paths_in(text):
    """What stands in backticks, alone or as a word of a command, and is spelled as a path of the tree."""
    for quoted in re.findall(r"`([^`\n]+)`", prose(text)):
        for word in quoted.split():
            if PATH.fullmatch(word):
                # `engine/piece.{h,c}` names two files
                yield from (word.replace("{h,c}", ending) for ending in "hc") if word.endswith("{h,c}") else (word,)


def is_there(name):
    """A page names a file from the top, from src/, or from its own folder: the end of a path is enough."""
    wanted = "*/" + name.rstrip("/")
    return any(fnmatchcase(path, wanted) or fnmatchcase(path, wanted + ".[ch]") for path in TREE)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page):
    path = TOP / page[1:]
    text = path.read_text()
    missing = [name for name in paths_in(text) if name not in ALLOWED and not is_there(name)]
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", prose(text)) if "://" not in link]
    missing += [link for link in links if not (path.parent / link).exists()]
    assert not missing, f"{page[1:]} names what is not there: {', '.join(missing)}"


def test_paths_are_found_where_they_are_meant():
    text = "`src/`, `make all`, `tests/test_x.py -k uml`, `a/b.{h,c}`, `/etc/x`, `PREFIX/lib/x`, `disk stats`\n```\n`in/code.c`\n```\n"
    assert list(paths_in(text)) == ["src/", "tests/test_x.py", "a/b.h", "a/b.c"]
    assert is_there("cmd/sandbox.c") and is_there("tests/test_*.py") and not is_there("cmd/vbd_sandbox.c")
