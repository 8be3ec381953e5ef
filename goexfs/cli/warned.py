"""Review warnings for people: above the changes, each once, with the names it is about."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from goexfs.cli import show
from goexfs.names import folders, visible


def is_any(result: dict[str, Any]) -> bool:
    """Whether a ``diff`` result has a warning."""
    return bool(result.get("warnings")) or any(each.get("warnings") for each in result["changes"])


def lines(result: dict[str, Any], with_root: bool, colour: bool) -> Iterator[str]:
    """Of a ``diff`` result: those of all changes together, then each with its names below."""
    yield from plain(result.get("warnings") or (), colour)
    named: dict[str, list[str]] = {}
    for change in result["changes"]:
        for warning in change.get("warnings") or ():
            named.setdefault(warning, []).append(show.change_path(change, with_root))
    for warning, names in named.items():
        yield from plain([warning], colour)
        yield from (show.paint(f"!    {each}", "31", colour) for each in _few(names))


FEW = 20
"""Names that are listed with a warning; more are told by their directories (--json has them)."""


def _few(names: list[str]) -> Iterator[str]:
    if len(names) <= FEW:
        yield from names
        return
    for folder, count in folders(names):
        yield f"{folder}  ({show.plural(count, 'change')})"


def summed(warnings: Iterable[str]) -> list[str]:
    """Warnings that begin ``code: path: ``, those of a code that has many in a few lines."""
    by_code: dict[str, list[str]] = {}
    for warning in warnings:
        by_code.setdefault(warning.partition(": ")[0], []).append(warning)
    found: list[str] = []
    for code, same in by_code.items():
        if len(same) <= FEW:
            found += same
            continue
        sentence = same[0].rpartition(": ")[2]
        for folder, count in folders([each.split(": ")[1] for each in same]):
            found.append(f"{code}: {folder}: {show.plural(count, 'change')}: {sentence}")
    return found


def plain(warnings: Iterable[str], colour: bool) -> Iterator[str]:
    """Warnings that name what they are about themselves, a line each."""
    for warning in warnings:
        yield show.paint(f"! {visible(warning)}", "1;31", colour)


def apart(found: Iterable[str]) -> Iterator[str]:
    """The lines, and an empty one if there are any: what follows is something else."""
    empty = True
    for line in found:
        empty = False
        yield line
    if not empty:
        yield ""


def on_stderr(found: Iterable[str]) -> None:
    for line in found:
        print(line, file=sys.stderr)
