# SPDX-License-Identifier: Apache-2.0
"""The report: JSON for machines, Markdown tables for people, and a picture."""

import json
from dataclasses import asdict
from html import escape

COLOURS = ["#1b6ca8", "#4aa3df", "#d9822b", "#f0b775", "#8a8a8a"]


def quantity(value, unit):
    """A number as a person reads it."""
    if unit == "s":
        for scale, name in ((1, "s"), (1e3, "ms"), (1e6, "us")):
            if value * scale >= 1 or scale == 1e6:
                return f"{value * scale:.3g} {name}"
    if unit == "B":
        for scale, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value >= scale:
                return f"{value / scale:.2f} {name}"
    if unit == "B/s":
        return f"{value / 1e9:.2f} GB/s" if value >= 1e9 else f"{value / 1e6:.0f} MB/s"
    if unit == "IOPS":
        return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k" if value >= 1e4 else f"{value:.0f}"
    if unit in ("pps", "b/s"):
        for scale, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= scale:
                return f"{value / scale:.2f} {name}{unit}"
    if unit == "x":
        return f"{value:.2f}x"
    return f"{value:.4g} {unit}".strip()


def _cell(row, contender):
    series = row.series.get(contender)
    if not series:
        return "-"
    text = quantity(series.median(), row.unit)
    if len(series.samples) > 1:
        text += f" ({quantity(series.low(), row.unit)} to {quantity(series.high(), row.unit)})"
    return text


def _table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(r) + " |" for r in rows] + [""]


def _checks(section):
    rows = []
    for label, checks in [(r.label, r.checks) for r in section.rows] + [("", section.checks)]:
        for check in checks:
            sign = "at most" if check.at_most else "at least"
            rows.append([label, check.goal, f"{sign} {quantity(check.want, check.unit)}", quantity(check.value, check.unit),
                         check.verdict()])
    return rows


def _losses(sections):
    lost = [f"- {section.title}: {label + ': ' if label else ''}{goal}: {value} ({want})"
            for section in sections for label, goal, want, value, verdict in _checks(section) if verdict == "BELOW"]
    lost += [f"- {section.title}" for section in sections if section.failed]
    return lost or ["- nowhere, in this run"]


def markdown(machine, plan, sections, commands):
    lines = ["# What Creedence reaches on this machine", ""]
    if machine["debug"]:
        lines += ["> **THIS IS A DEBUG BUILD. These figures say nothing about Creedence.**", ""]
    lines += [f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] >> 30} GiB; Linux {machine['kernel']}",
              f"- commit {machine['commit']}; {machine['worker']}",
              f"- {plan.rounds} rounds of {plan.runtime_s:g} s each, contenders in turns (A B C, C B A, ...); the worker on "
              "one core, the generator on another",
              f"- load average at the start: {machine['load_at_start']:.2f}",
              "- figures are medians (lowest to highest); ratios are medians of the ratios within each round", "",
              "Where it falls short of its goals:", "", *_losses(sections), ""]
    for section in sections:
        lines += [f"## {section.title}", "", *([section.origin + "\n"] if section.origin else [])]
        if section.rows:
            lines += _table(["", *section.contenders],
                            [[row.label, *(_cell(row, c) for c in section.contenders)] for row in section.rows])
        checks = _checks(section)
        if checks:
            lines += _table(["figure", "goal", "wanted", "reached", ""], checks)
        lines += [f"{note}\n" for note in section.notes]
    lines += ["## Command lines", "", "```"]
    lines += [f"# {name}\n{command}" for name, command in commands.items()]
    return "\n".join(lines + ["```", ""])


def as_json(machine, plan, sections, commands):
    out = {"machine": machine, "plan": asdict(plan), "commands": commands, "sections": []}
    for section in sections:
        data = asdict(section)
        for row, row_data in zip(section.rows, data["rows"]):
            for check, check_data in zip(row.checks, row_data["checks"]):
                check_data["verdict"] = check.verdict()
        for check, check_data in zip(section.checks, data["checks"]):
            check_data["verdict"] = check.verdict()
        out["sections"].append(data)
    return json.dumps(out, indent=1)


# ---- The picture: one group of bars per row, each group to its own scale ----

WIDTH, LABEL, BAR, GAP = 900, 300, 16, 14


def _bars(section, row, y):
    top = max((row.series[c].median() for c in section.contenders if c in row.series), default=0) or 1
    parts = [f'<text x="{LABEL - 10}" y="{y + 12}" text-anchor="end">{escape(row.label)}</text>']
    for i, contender in enumerate(c for c in section.contenders if c in row.series):
        value = row.series[contender].median()
        length = max(1, (WIDTH - LABEL - 130) * value / top)
        colour = COLOURS[section.contenders.index(contender) % len(COLOURS)]
        at = y + i * (BAR + 2)
        parts.append(f'<rect x="{LABEL}" y="{at}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
        parts.append(f'<text x="{LABEL + length + 6:.1f}" y="{at + 12}">{quantity(value, row.unit)}</text>')
        y_end = at + BAR
    return parts, y_end + GAP


def svg(machine, sections):
    parts, y = [], 30
    parts.append(f'<text x="10" y="20" font-size="15" font-weight="bold">Creedence {escape(machine["commit"])}, '
                 f'{escape(machine["cpu"])}{" - DEBUG BUILD" if machine["debug"] else ""}</text>')
    for section in sections:
        y += 24
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{escape(section.title)}</text>')
        y += 12
        x = 10
        for i, contender in enumerate(section.contenders):
            parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{COLOURS[i % len(COLOURS)]}"/>'
                         f'<text x="{x + 14}" y="{y + 9}" font-size="11">{escape(contender)}</text>')
            x += 26 + 6 * len(contender)
        y += 22
        for row in section.rows:
            bars, y = _bars(section, row, y)
            parts += bars
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 10}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")
