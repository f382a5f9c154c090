"""Plots as SVG, with nothing to install: horizontal bars, each with its median, lowest and highest value."""

from __future__ import annotations

import math
from html import escape

from figures import Bar, Plot, median, number

WIDTH, LABEL, VALUE, ROW, TOP = 760, 250, 130, 26, 44
OURS, PEER, INK, PAPER = "#1f7a4d", "#8a94a3", "#1b1f24", "#ffffff"


def svg(plot: Plot) -> str:
    """The plot. Its scale is linear, or logarithmic where the values differ by more than 200 times."""
    highest = max((value for bar in plot.bars for value in bar.values), default=0.0) or 1.0
    positive = [value for bar in plot.bars for value in bar.values if value > 0]
    logarithmic = bool(positive) and highest / min(positive) > 200
    room = WIDTH - LABEL - VALUE

    def length(value: float) -> float:
        if not logarithmic:
            return room * max(value, 0) / highest
        floor = min(positive) / 2
        return room * math.log(max(value, floor) / floor) / math.log(highest / floor)

    height = TOP + ROW * len(plot.bars) + 26
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(plot.title)}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
        f'<text x="12" y="26" font-size="15" font-weight="bold" fill="{INK}">{escape(plot.title)}</text>',
    ]
    for row, bar in enumerate(plot.bars):
        lines += _bar(bar, TOP + ROW * row, length)
    scale = "logarithmic scale" if logarithmic else "linear scale"
    words = f"{plot.unit}, {scale}; bar: median, line: lowest to highest. Green: bluegreen."
    lines.append(f'<text x="12" y="{height - 10}" font-size="11" fill="{INK}">{escape(words)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _bar(bar: Bar, top: int, length) -> list[str]:  # type: ignore[no-untyped-def]
    colour, middle = OURS if bar.ours else PEER, top + 11
    lines = [f'<text x="{LABEL - 8}" y="{top + 15}" text-anchor="end" fill="{INK}">{escape(bar.label)}</text>']
    if not bar.values:
        return [*lines, f'<text x="{LABEL}" y="{top + 15}" fill="{INK}">{escape(bar.words or "-")}</text>']
    value, low, high = median(bar.values), min(bar.values), max(bar.values)
    lines.append(f'<rect x="{LABEL}" y="{top + 3}" width="{max(length(value), 1):.1f}" height="16" fill="{colour}"/>')
    if low != high:
        x1, x2 = LABEL + length(low), LABEL + length(high)
        lines.append(f'<path d="M{x1:.1f} {middle}H{x2:.1f}" stroke="{INK}" stroke-width="1.5"/>')
    x = LABEL + length(high) + 6
    lines.append(f'<text x="{x:.1f}" y="{top + 15}" fill="{INK}">{escape(bar.words or number(value))}</text>')
    return lines
