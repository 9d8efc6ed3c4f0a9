# SPDX-License-Identifier: Apache-2.0
"""Samples taken in turns, and what follows from them.

Machines drift. So contenders are measured in turns (A B C, C B A, ...), and two are compared by the
median of the ratios of samples of the same round, never by figures from different times.
"""

import sys
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Series:
    """One contender's samples of one figure, one a round."""
    samples: list = field(default_factory=list)
    details: list = field(default_factory=list)

    def median(self):
        return median(self.samples)

    def low(self):
        return min(self.samples)

    def high(self):
        return max(self.samples)


@dataclass
class Check:
    """A goal, and how it stands."""
    goal: str
    value: float
    want: float
    unit: str = "x"
    at_most: bool = False
    noise: float = 0.0  # how far beyond the goal still counts as even with it

    def verdict(self):
        over = self.value <= self.want if self.at_most else self.value >= self.want
        if over:
            return "PASS"
        slack = self.want * (1 + self.noise) if self.at_most else self.want * (1 - self.noise)
        near = self.value <= slack if self.at_most else self.value >= slack
        return "PASS (even, within noise)" if self.noise and near else "BELOW"


@dataclass
class Row:
    """One figure: what each contender reached."""
    label: str
    unit: str
    series: dict = field(default_factory=dict)
    checks: list = field(default_factory=list)
    more_is_better: bool = True

    def ratio(self, ours, theirs):
        """Median over rounds of ours/theirs."""
        return median(a / b for a, b in zip(self.series[ours].samples, self.series[theirs].samples))


@dataclass
class Section:
    """Rows with the same contenders."""
    title: str
    contenders: list
    rows: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    checks: list = field(default_factory=list)
    failed: bool = False
    part: str = ""    # of the suite
    origin: str = ""  # when, from which commit, how often


def section_from(data):
    """The other way round from asdict(): a section of an earlier run."""
    checks = [Check(**{k: v for k, v in c.items() if k != "verdict"}) for c in data["checks"]]
    rows = [Row(**{**r, "series": {name: Series(**s) for name, s in r["series"].items()},
                   "checks": [Check(**{k: v for k, v in c.items() if k != "verdict"}) for c in r["checks"]]})
            for r in data["rows"]]
    return Section(**{**data, "rows": rows, "checks": checks})


_last_topic = None


def progress(topic, detail):
    """One line that changes on a terminal; elsewhere a line for each new topic."""
    global _last_topic
    if sys.stderr.isatty():
        print(f"\r\x1b[K{topic}: {detail}", end="", file=sys.stderr, flush=True)
    elif topic != _last_topic:
        print(topic, file=sys.stderr, flush=True)
    _last_topic = topic


def progress_end():
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def interleave(row, rounds, tasks):
    """tasks: {contender: function that measures once and answers (sample, details)}."""
    order = list(tasks)
    for contender in order:
        row.series.setdefault(contender, Series())
    for turn in range(rounds):
        for contender in order if turn % 2 == 0 else reversed(order):
            progress(row.label, f"{contender}, round {turn + 1} of {rounds}")
            sample, details = tasks[contender]()
            row.series[contender].samples.append(sample)
            row.series[contender].details.append(details)
    progress_end()
    return row
