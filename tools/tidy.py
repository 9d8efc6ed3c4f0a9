#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run clang-tidy over every C source that the build knows, two at a time or as the machine has cores."""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

TOP = Path(__file__).resolve().parent.parent


def sources(build, wanted):
    """Files of compile_commands.json that are part of the tree, each once."""
    commands = json.loads((build / "compile_commands.json").read_text())
    files = {(Path(entry["directory"]) / entry["file"]).resolve() for entry in commands}
    files = {path for path in files if path.is_relative_to(TOP) and not path.is_relative_to(build)}
    if wanted:
        wanted = [Path(word).resolve() for word in wanted]
        files = {path for path in files if any(path == word or path.is_relative_to(word) for word in wanted)}
    return sorted(files)


def without_gcc_options(build, into):
    """The build's commands without options of machines that clang does not know."""
    commands = json.loads((build / "compile_commands.json").read_text())
    for entry in commands:
        entry["command"] = " ".join(word for word in entry["command"].split(" ") if not word.startswith("-mmem"))
    (into / "compile_commands.json").write_text(json.dumps(commands))


def tidy(commands, path):
    # Warnings of gcc that clang does not know are not findings.
    command = ["clang-tidy", "-p", str(commands), "--quiet", "--extra-arg=-Wno-unknown-warning-option", str(path)]
    done = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return path, done.returncode, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=TOP / "build" / "release")
    parser.add_argument("paths", nargs="*", help="only these files and directories")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    files = sources(build, arguments.paths)
    bad = 0
    with TemporaryDirectory() as commands, ThreadPoolExecutor(os.cpu_count()) as pool:
        without_gcc_options(build, Path(commands))
        for path, status, output in pool.map(lambda path: tidy(commands, path), files):
            if status:
                bad += 1
                print(output.strip(), flush=True)
    print(f"clang-tidy: {len(files)} files, {bad} with findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
