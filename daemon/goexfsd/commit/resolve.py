"""What becomes of conflicts: the session's version, the base's, or a merge of the two.

Rules come from the request: one for everything, and some for paths, which count at and below
them; the longest wins.  *mine* keeps the change and accepts what is in the base now (it goes to
the before-images); *theirs* drops the change, and with it what cannot be without it; *merge*
puts a merged change in its place, or leaves the conflict standing.  As long as one is left,
nothing is committed.

It looks at the base and changes nothing.  How two files are merged is ``merge``'s affair.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from goexfs.errors import NotFound, Usage
from goexfs.names import display, to_wire
from goexfsd.commit.conflicts import Accepted, Checker, Conflict
from goexfsd.commit.places import Place, Places, ancestors, covers
from goexfsd.layer.changes import Change

Way = Literal["abort", "mine", "theirs", "merge"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the request says about conflicts."""

    every: Way = "abort"
    paths: Sequence[tuple[int, bytes, Way]] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Rules:
        """From a worker's options."""
        paths = cast("Sequence[tuple[int, bytes, Way]]", options.get("resolve", ()))
        return cls(cast("Way", options.get("on_conflict", "abort")), paths)

    def way(self, change: Change) -> tuple[Way, bool]:
        """How a conflict of ``change`` is resolved, and whether a path's rule says so."""
        return self.way_at(change.root, change.path, change.old_path)

    def way_at(self, root: int, path: bytes, old_path: bytes | None = None) -> tuple[Way, bool]:
        """The same for a conflict at a place."""
        best: tuple[int, Way] | None = None
        for index, above, way in self.paths:
            here = covers(above, path) or (old_path is not None and covers(above, old_path))
            if root == index and here and len(above) >= (best or (0,))[0]:
                best = len(above), way
        return (self.every, False) if best is None else (best[1], True)

    def check(self, changes: Sequence[Change], places: Iterable[Place] = ()) -> None:
        """NotFound for a path at which there is no change, and none of ``places``."""
        for root, path, _ in self.paths:
            if any(at == root and covers(path, place) for at, place in places):
                continue
            if not any(change.root == root and _covers(path, change) for change in changes):
                raise NotFound(
                    f"no change at {display(path) or '.'} to resolve",
                    hint="goexfs commit lists the conflicts",
                )


def _covers(path: bytes, change: Change) -> bool:
    return covers(path, change.path) or (
        change.old_path is not None and covers(path, change.old_path)
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a merge came to."""

    change: Change | None
    """What is committed in place of the change; None: the base stays as it is."""
    how: str


@dataclass(slots=True)
class Resolved:
    """What is left to commit, and what was decided on the way."""

    chosen: list[Change]
    conflicts: list[Conflict] = field(default_factory=list)
    accepted: Accepted = field(default_factory=Accepted)
    decided: list[dict[str, Any]] = field(default_factory=list)
    """``protocol.Resolution`` for each conflict."""


Merge = Callable[[Change, Conflict], Verdict | str]
"""A verdict, or why the two cannot be merged."""


def resolve(
    chosen: Sequence[Change], places: Places, rules: Rules, checker: Checker, merge: Merge
) -> Resolved:
    """Decide every conflict of ``chosen`` that ``checker`` finds."""
    return _Resolver(chosen, places, rules, checker, merge).run()


class _Resolver:
    def __init__(
        self,
        chosen: Sequence[Change],
        places: Places,
        rules: Rules,
        checker: Checker,
        merge: Merge,
    ) -> None:
        self._chosen, self._places, self._rules = list(chosen), places, rules
        self._checker, self._merge = checker, merge
        self._standing: dict[int, Conflict] = {}
        self._ways: dict[int, tuple[Way, str]] = {}
        """Index of a change in conflict -> how it was resolved, and what that came to."""
        self._shape: _Shape
        self._dropped: set[int] = set()
        self._merged: dict[int, Change] = {}

    def run(self) -> Resolved:
        found = {
            index: conflict
            for index, change in enumerate(self._chosen)
            if (conflict := self._checker.change(change)) is not None
        }
        if not found:
            return Resolved(self._chosen)
        self._shape = _Shape(self._chosen, self._places)
        for index, conflict in found.items():
            self._one(index, conflict)
        self._needed()
        self._drop_with()
        return self._result()

    def _one(self, index: int, conflict: Conflict) -> None:
        change = self._chosen[index]
        way, _ = self._rules.way(change)
        if way == "abort" or way not in conflict.choices:
            self._standing[index] = conflict
        elif way == "mine":
            self._ways[index] = "mine", "the session's version is committed"
        elif way == "theirs":
            self._ways[index] = "theirs", "the base stays as it is"
            self._dropped.add(index)
        else:
            self._try_merge(index, conflict)

    def _try_merge(self, index: int, conflict: Conflict) -> None:
        verdict = self._merge(self._chosen[index], conflict)
        if isinstance(verdict, str):
            detail = f"{conflict.detail}; not merged: {verdict}"
            self._standing[index] = replace(conflict, detail=detail, choices=("mine", "theirs"))
            return
        self._ways[index] = "merge", verdict.how
        if verdict.change is None:
            self._dropped.add(index)
        else:
            self._merged[index] = verdict.change

    def _needed(self) -> None:
        """Directories that are gone from the base come back for what is resolved as mine in
        them, unless they are spoken of themselves."""
        for index, conflict in list(self._standing.items()):
            change = self._chosen[index]
            if change.type != "dir" or change.kind != "created" or self._rules.way(change)[1]:
                continue
            if any(
                way == "mine" and self._is_below(self._chosen[other], change)
                for other, (way, _) in self._ways.items()
            ) or self._wanted_below(change):
                del self._standing[index]
                self._ways[index] = "mine", f"it is needed for what is in it ({conflict.theirs})"

    def _wanted_below(self, directory: Change) -> bool:
        """Whether a rule for a path says mine of something in ``directory``."""
        return any(
            self._is_below(change, directory) and self._rules.way(change) == ("mine", True)
            for change in self._chosen
        )

    @staticmethod
    def _is_below(change: Change, directory: Change) -> bool:
        same = change.root == directory.root and change.kind != "deleted"
        return same and change.path != directory.path and covers(directory.path, change.path)

    # -- what goes with a change that is dropped -----------------------------------------------

    def _drop_with(self) -> None:
        """Drop what cannot be committed without a dropped change, or would overrule it."""
        todo = [(index, True) for index in sorted(self._dropped)]
        for index, named in todo:  # grows while it is read
            for other in self._goes_with(self._chosen[index], named):
                if other in self._dropped:
                    continue
                self._contradiction(index, other)
                self._dropped.add(other)
                todo.append((other, False))

    def _goes_with(self, change: Change, named: bool) -> set[int]:
        root, kept, shape = change.root, self._kept(change), self._shape
        found: set[int] = set()
        if kept is not None:
            for above in ancestors(kept):  # a directory stays because something in it does
                found |= shape.takes.get((root, above), set())
            found |= shape.arrives.get((root, kept), set())  # its place is not free
            if change.kind == "retyped" or (change.kind == "deleted" and named):
                # The base's directory stays, with all that is in it.
                found |= shape.below(shape.deleted, root, kept)
        if change.type != "dir" and change.upper_ino:
            found |= shape.names.get((root, change.upper_ino), set())
        if change.type == "dir" and change.kind in ("created", "retyped", "renamed"):
            # The directory is not made, or is elsewhere.
            found |= shape.below(shape.shown, root, change.path)
        return found

    def _kept(self, change: Change) -> bytes | None:
        """The base place that stays as it is when ``change`` is dropped."""
        return change.old_path if change.kind == "renamed" else self._slot(change)

    def _slot(self, change: Change) -> bytes | None:
        return _slot(self._places, change)

    def _contradiction(self, index: int, other: int) -> None:
        if other not in self._ways or self._ways[other][0] == "theirs":
            return
        one, two = self._chosen[index].path, self._chosen[other].path
        raise Usage(
            f"{display(one)} cannot stay as it is in the base while {display(two)} is "
            f"resolved as {self._ways[other][0]}",
            hint="resolve both in the same way",
        )

    # -- the end ------------------------------------------------------------------------------

    def _result(self) -> Resolved:
        standing = [self._standing[i] for i in sorted(self._standing) if i not in self._dropped]
        if standing:
            return Resolved([], standing)
        result = Resolved([])
        for index, change in enumerate(self._chosen):
            if index not in self._dropped:
                result.chosen.append(self._merged.get(index, change))
        for index in sorted(self._ways.keys() | self._dropped):
            change = self._chosen[index]
            dropped_too = "theirs", "it goes with another change that was dropped"
            way, how = self._ways.get(index, dropped_too)
            if index not in self._dropped:
                self._checker.accept(change)
            result.decided.append(
                {
                    "root": change.root,
                    "path": to_wire(change.path) if change.path else ".",
                    "way": way,
                    "detail": how,
                }
            )
        result.accepted = self._checker.accepted
        return result


class _Shape:
    """Which of the changes have to do with one another, by place and inode."""

    def __init__(self, changes: Sequence[Change], places: Places) -> None:
        self.takes: dict[Place, set[int]] = {}
        """Base place -> changes by which no directory is left there."""
        self.arrives: dict[Place, set[int]] = {}
        """Base place -> changes that put something there."""
        self.names: dict[tuple[int, int], set[int]] = {}
        """Root and upper inode, of what is no directory -> its names."""
        shown: list[tuple[int, bytes, int]] = []
        deleted: list[tuple[int, bytes, int]] = []
        for index, change in enumerate(changes):
            slot = _slot(places, change)
            place = None if slot is None else (change.root, slot)
            if place is not None and change.kind in ("deleted", "retyped"):
                self.takes.setdefault(place, set()).add(index)
            if place is not None and change.kind != "deleted":
                self.arrives.setdefault(place, set()).add(index)
            if change.type != "dir" and change.upper_ino and change.kind != "deleted":
                self.names.setdefault((change.root, change.upper_ino), set()).add(index)
            line = (change.root, change.path, index)
            (deleted if change.kind == "deleted" else shown).append(line)
        self.shown, self.deleted = sorted(shown), sorted(deleted)

    @staticmethod
    def below(lines: list[tuple[int, bytes, int]], root: int, path: bytes) -> set[int]:
        """Those strictly below ``path``."""
        first, last = (path + b"/", path + b"0") if path else (b"", b"\xff")
        start = bisect.bisect_left(lines, (root, first, 0))
        end = bisect.bisect_left(lines, (root, last, 0)) if path else len(lines)
        return {index for at, here, index in lines[start:end] if at == root and here != path}


def _slot(places: Places, change: Change) -> bytes | None:
    """The base place of a change's name."""
    if change.kind == "deleted":
        return change.path
    return places.slot_of(change.root, change.path)
