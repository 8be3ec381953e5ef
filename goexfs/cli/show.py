"""Text for people: tables, times, sizes, change lists.

Names come from scripts: each is shown by ``goexfs.names.display``.  Lists are never shortened.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from goexfs.names import display, from_wire, visible

KINDS = ("deleted", "created", "modified", "renamed", "retyped", "metadata")
LETTERS = dict(zip(KINDS, "DAMRTm", strict=True))
_COLOURS = {
    "deleted": "31",
    "created": "32",
    "modified": "33",
    "renamed": "36",
    "retyped": "35",
    "metadata": "33",
}


def coloured(stream: Any = None) -> bool:
    """Whether to use colour on the stream (stdout): a terminal, and nobody said no."""
    target = sys.stdout if stream is None else stream
    return target.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, on: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if on and text else text


def print_json(value: Any) -> None:
    """One object; ASCII only, so that no name in it can steer a terminal."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def name(wire: str) -> str:
    """A wire path for a terminal."""
    try:
        return display(from_wire(wire))
    except ValueError:
        return display(wire)


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> Iterator[str]:
    """Rows in columns; the last column is as wide as it is."""
    lines = [list(row) for row in rows]
    if head:
        lines.insert(0, list(head))
    if not lines:
        return
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    for row in lines:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def moment(seconds: float) -> str:
    """A time, as local date and time; only the time of day if it is today's."""
    then, now = time.localtime(seconds), time.localtime()
    today = then[:3] == now[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def span(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def opened(session: dict[str, Any]) -> None:
    """A session that is new."""
    print(f"session {name(session['name'])} ({session['session']})")
    for root in session["roots"]:
        snapshot = ", as it is now" if root.get("stable") else ""
        print(f"  {name(root['path'])} is seen{snapshot} at {name(root['view'])}")
    if session.get("lacks"):
        print("the kernel serves it; unlike in the FUSE view:")
        for each in session["lacks"]:
            print(f"  {each}")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def total(summary: dict[str, int]) -> int:
    return sum(summary.get(kind, 0) for kind in KINDS)


def summary(counts: dict[str, int] | None, nothing: str = "no changes") -> str:
    """``2 deleted, 1 created``: deletions first, kinds without changes left out."""
    found = [f"{counts[kind]} {kind}" for kind in KINDS if counts.get(kind)] if counts else []
    return ", ".join(found) or nothing


def change_path(change: dict[str, Any], with_root: bool) -> str:
    path = name(change["path"])
    if change["type"] == "dir" and path != ".":
        path += "/"
    return f"{name(change['root'])}/{path}" if with_root else path


def change_line(change: dict[str, Any], with_root: bool, colour: bool) -> str:
    """``R  old -> new  (content)``: one line; of its warnings the codes, in brackets."""
    kind = change["kind"]
    shown = change_path(change, with_root)
    if change.get("old_path") is not None:
        old = name(change["old_path"]) + ("/" if change["type"] == "dir" else "")
        shown = f"{name(change['root'])}/{old} -> {shown}" if with_root else f"{old} -> {shown}"
    line = paint(f"{LETTERS.get(kind, '?')}  {shown}", _COLOURS.get(kind, "0"), colour)
    details = list(_details(change))
    if details:
        line += paint(f"  ({', '.join(details)})", "2", colour)
    codes = [f"! {visible(each.partition(':')[0])}" for each in change.get("warnings") or ()]
    if codes:
        line += paint(f"  [{', '.join(codes)}]", "1;31", colour)
    return line


def _details(change: dict[str, Any]) -> Iterator[str]:
    kind, aspects = change["kind"], change.get("aspects") or []
    if kind == "retyped":
        yield f"{change.get('old_type')} -> {change['type']}"
    elif change["type"] not in ("file", "dir") and kind in ("created", "deleted"):
        yield change["type"]
    mode, old = change.get("mode"), change.get("old_mode")
    for aspect in aspects:
        if aspect == "mode" and mode is not None and old is not None:
            yield f"mode {old:04o} -> {mode:04o}"
        elif not (kind == "modified" and aspect == "content"):
            yield aspect
    if change.get("links", 1) > 1:
        yield f"{change['links']} links"


def change_lines(changes: Iterable[dict[str, Any]], with_root: bool, colour: bool) -> Iterator[str]:
    for change in changes:
        yield change_line(change, with_root, colour)


def print_conflicts(conflicts: Iterable[dict[str, Any]]) -> None:
    """Every conflict, on stderr."""
    on = coloured(sys.stderr)
    for each in conflicts:
        place = f"{name(str(each.get('root', '')))}/{name(str(each.get('path', '')))}"
        detail = visible(str(each.get("detail", "")))
        choices = each.get("choices") or ()
        if 0 < len(choices) < 3:
            detail += f" ({' or '.join(map(visible, choices))})"
        line = f"  {each.get('reason', 'conflict')}: {place}: {detail}"
        print(paint(line, "31", on), file=sys.stderr)
