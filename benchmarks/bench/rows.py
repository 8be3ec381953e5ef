"""What is measured: items, each one piece of work for one system at a time, giving some rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.systems import HERE, PYTHON, Stage, System

Figures = dict[str, float]
"""Row name -> milliseconds (or what the row's unit says)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One measurement.  ``systems`` are the names of those that it makes sense for."""

    name: str
    measure: Callable[[Stage, System], Figures]
    systems: tuple[str, ...]
    trees: tuple[str, ...] = ()
    """What it works on: dropped after its last use."""
    seldom: bool = False
    """Expensive: at most three times, and not with --quick."""


VIEWS = (
    "native",
    "goexfs",
    "goexfs run",
    "goexfs kernel",
    "fuse-overlayfs",
    "overlayfs",
    "bwrap --overlay",
    "sandlock",
)
NOT_SANDLOCK = VIEWS[:-1]
"""sandlock answers wrongly there (tar of nothing; a directory rename copies)."""


def worked(stage: Stage, system: System, work: str, tree: str, *, writes: bool) -> Figures:
    """Do one of ``work.py``'s rows in a fresh view of a tree."""
    base = stage.trees.get(tree)
    with system.view(stage, base, writes=writes) as view:
        return at_work(stage, view.wrap, view.top, work, stage.scale)


def at_work(
    stage: Stage, wrap: Callable[[list[str]], list[str]], top: Path, work: str, scale: float
) -> Figures:
    script = stage.ground.top / "work.py"
    if not script.exists():
        script.write_bytes((HERE / "work.py").read_bytes())
    argv = [PYTHON, str(script), work, str(top), str(scale)]
    found: Figures = json.loads(stage.popen(wrap(argv)).stdout)
    return found


def _item(
    work: str,
    tree: str,
    *,
    writes: bool,
    systems: tuple[str, ...] = VIEWS,
    seldom: bool = False,
) -> Item:
    def measure(stage: Stage, system: System) -> Figures:
        return worked(stage, system, work, tree, writes=writes)

    return Item(work, measure, systems, (tree,), seldom)


IN_VIEW: tuple[Item, ...] = (
    _item("walk", "medium", writes=False),
    _item("tar", "small", writes=False, systems=NOT_SANDLOCK),
    _item("append", "small", writes=True),
    _item("create", "small", writes=True),
    _item("remove", "small", writes=True),
    _item("rename", "small", writes=True, systems=NOT_SANDLOCK),
    _item("poke", "big", writes=True),
    _item("reading", "big", writes=False),
    _item("writing", "one", writes=True),
    _item("git", "repository", writes=False),
    _item("clone", "project", writes=True),
    _item("sqlite", "one", writes=True),
    _item("compiling", "sources", writes=True),
    _item("suite", "tests", writes=True),
    _item("pip", "wheels", writes=True),
    _item("npm", "packages", writes=True),
)
