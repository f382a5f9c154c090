"""RESULTS.md, whole, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from figures import Section, failed, number

REACHED = {True: "yes", False: "**no**", None: "not told"}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. A `|` in a cell does not end it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def markdown(sections: Sequence[Section], machine: Mapping[str, str], how: str) -> str:
    """The page: the machine, the targets, then each measurement."""
    zeros = [zero for section in sections for zero in section.zeros]
    wrong = failed(sections)
    targets = [target for section in sections for target in section.targets]
    text = [
        "# What was measured\n",
        f"Written by `{how}`, which measures all of it anew; nothing here is edited by hand. What counts is a number of"
        " requests, or a ratio of two things that were measured in turn, in this run, on this machine. A figure is a"
        " median, with the lowest and the highest behind it. Other machines have other times, and, mostly, the same"
        " ratios.\n",
        table(["", ""], list(machine.items())),
        "## Targets\n",
        f"{sum(t.reached is True for t in targets)} of {len(targets)} were reached."
        " Of the counts that must be 0,"
        f" {f'{len(wrong)} of {len(zeros)} are not' if wrong else f'all {len(zeros)} are'}.\n",
        table(
            ["what", "target", "measured", "reached"],
            [[t.what, t.wanted, t.measured, REACHED[t.reached]] for t in targets],
        ),
    ]
    if wrong:
        text += ["Not 0, and so `make bench` failed:\n"]
        text += ["\n".join(f"- {zero.what}: {number(zero.count)}" for zero in wrong) + "\n"]
    missed = [target for target in targets if not target.reached and target.reason]
    if missed:
        text += ["### What was not reached, and why\n"]
        text += ["\n".join(f"- **{target.what}** ({target.measured}): {target.reason}" for target in missed) + "\n"]
    for section in sections:
        text += [f"## {section.title}\n", section.text.strip() + "\n"]
        text += [f"![{plot.title}](plots/{plot.file})\n" for plot in section.plots]
        text += [table(section.columns, section.rows)]
    return "\n".join(text)
