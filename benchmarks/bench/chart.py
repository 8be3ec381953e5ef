"""A chart of ratios to native, as SVG written by hand.

A plotting library would bring some 60 MB of dependencies for rectangles and text.
"""

from __future__ import annotations

import math
from html import escape

_COLOURS = {
    "goexfs": "#0b6e4f",
    "goexfs run": "#6bbf9c",
    "fuse-overlayfs": "#c8553d",
    "overlayfs": "#588b8b",
    "bwrap --overlay": "#93b7be",
    "sandlock": "#f28f3b",
}
_LEFT, _WIDTH, _BAR, _GAP, _TOP = 190, 620, 10, 12, 56

Medians = dict[str, dict[str, float]]


def draw(title: str, medians: Medians) -> str:
    """Rows that native has too; each bar is how many times native's median, on a log scale."""
    rows = {row: by for row, by in medians.items() if by.get("native") and "goexfs" in by}
    most = max(
        (value / by["native"] for by in rows.values() for one, value in by.items() if value),
        default=10,
    )
    scale = _WIDTH / math.log10(max(10, most) / 0.5)
    body, y = [], _TOP
    for row, by in rows.items():
        shown = [one for one in _COLOURS if by.get(one)]
        middle = y + len(shown) * _BAR / 2 + 4
        body.append(f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(row)}</text>')
        for one in shown:
            ratio = by[one] / by["native"]
            length = max(1.0, math.log10(max(0.5, ratio) / 0.5) * scale)
            body.append(
                f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR - 1}" '
                f'fill="{_COLOURS[one]}"/><text class="n" x="{_LEFT + length + 4:.1f}" '
                f'y="{y + _BAR - 2}">{ratio:.1f}</text>'
            )
            y += _BAR
        y += _GAP
    lines = _lines(scale, max(10, most), y)
    return _page(title, [*lines, *_legend(), *body], y)


def _lines(scale: float, most: float, bottom: int) -> list[str]:
    found, ratio = [], 1.0
    while ratio <= most:
        x = _LEFT + math.log10(ratio / 0.5) * scale
        found.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{bottom}" stroke="#bbb"/>'
            f'<text class="n" x="{x:.1f}" y="{_TOP - 10}" text-anchor="middle">{ratio:g}</text>'
        )
        ratio *= 10
    return found


def _legend() -> list[str]:
    found, x = [], _LEFT
    for one, colour in _COLOURS.items():
        found.append(
            f'<rect x="{x}" y="22" width="10" height="10" fill="{colour}"/>'
            f'<text class="n" x="{x + 14}" y="31">{escape(one)}</text>'
        )
        x += 24 + 7 * len(one)
    return found


def _page(title: str, body: list[str], bottom: int) -> str:
    style = "text{font:12px sans-serif;fill:#222}.n{font-size:9px}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 50} {bottom}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{_LEFT}" y="14">{escape(title)}: times native, lower is better</text>'
        f"{''.join(body)}</svg>\n"
    )
