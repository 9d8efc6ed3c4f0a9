# SPDX-License-Identifier: Apache-2.0
"""A guest's console that is a shell (the /init of lib/images.py): each line is run, then answered by a line with a mark
and the exit status."""

import re
import threading

from lib.images import DONE_MARK
from lib.process import what_threads_do


class GuestError(Exception):
    """The guest did not do what was asked; the text has the end of its console."""


class Console:
    """Reads in a thread, keeps everything, and writes it to `log` as well."""

    def __init__(self, name, log):
        self.name = name
        self.log = log
        self._text = ""
        self._taken = 0  # the console up to here was looked at
        self._marks_at = 0  # marks() has returned what is before
        self._changed = threading.Condition()
        self._closed = False
        self._output = None

    def open(self, source, output):
        """What the guest writes comes from `source`, what it reads goes to `output`: binary files."""
        self._output = output
        threading.Thread(target=self._read, args=(source,), daemon=True).start()

    def _read(self, source):
        with open(self.log, "wb") as log:
            while chunk := source.read1(65536):
                log.write(chunk)
                log.flush()
                with self._changed:
                    self._text += chunk.decode(errors="replace").replace("\r", "")
                    self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_closed(self, timeout_s):
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout_s)

    def console(self):
        with self._changed:
            return self._text

    def fail(self, why):
        raise GuestError(f"{self.name}: {why}; its console ends:\n{self.console()[-3000:]}\n{what_threads_do()}")

    def wait_for(self, pattern, timeout_s):
        """Until the console, from where the last wait ended, matches the regular expression; the match."""
        found = None

        def look():
            nonlocal found
            found = re.compile(pattern, re.MULTILINE).search(self._text, self._taken)
            return found or self._closed

        with self._changed:
            self._changed.wait_for(look, timeout_s)
            if found:
                self._taken = found.end()
                return found
        self.fail(f"ended while waiting for {pattern!r}" if self._closed else f"no {pattern!r} in {timeout_s} s")

    def marks(self, prefix):
        """What follows `prefix` on the whole lines of the console that have come since the last call."""
        with self._changed:
            new = self._text[self._marks_at:self._text.rfind("\n") + 1]
            self._marks_at += len(new)
        return re.findall(rf"{re.escape(prefix)}(.*)\n", new)

    def send(self, line):
        assert "\n" not in line and len(line) < 4000, "one line, as long as a terminal takes"
        self._output.write(line.encode() + b"\n")
        self._output.flush()

    def begin(self, line):
        """Start a command and do not wait: finish() does."""
        self.send(line)

    def finish(self, timeout_s=60):
        """(status, output) of the command that begin() started."""
        before = self._taken
        match = self.wait_for(rf"{DONE_MARK} (\d+)\n", timeout_s)
        return int(match[1]), self.console()[before:match.start()]

    def run(self, line, timeout_s=60):
        self.begin(line)
        return self.finish(timeout_s)

    def check(self, line, timeout_s=60):
        """run() of what must succeed; its output."""
        status, output = self.run(line, timeout_s)
        if status:
            self.fail(f"`{line}` ended with status {status}: {output[-1000:]}")
        return output
