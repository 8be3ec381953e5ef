"""The tree of checkpoints, drawn beside their rows, oldest first.

A lane is a column in which one checkpoint is still to come.  Below a checkpoint with several
children a line opens a lane for each; the line that leads to where the view is stays left.
A tree that is too wide to be drawn gets marks in place of lanes.  It knows only numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

HERE, NODE, LEFT = "@", "o", "~"
_WIDEST = 16
"""Lanes; more do not fit beside anything."""


class Lanes:
    """Draws one row after another; ``parents`` in the order of the rows."""

    def __init__(self, parents: Mapping[int, int | None], current: int) -> None:
        self._current = current
        self._line = _ancestry(parents, current)
        self._children: dict[int | None, list[int]] = {}
        for number, parent in parents.items():
            self._children.setdefault(parent, []).append(number)
        for children in self._children.values():
            children.sort(key=lambda number: number not in self._line)  # stable: else in order
        self._lanes: list[int | None] = []

    def at(self, number: int) -> tuple[str, str | None]:
        """What stands before a checkpoint's row, and the line below it that opens lanes."""
        lane = self._lane(number)
        cells = self._open()
        cells[lane] = HERE if number == self._current else NODE
        children = self._children.get(number, [])
        self._lanes[lane] = children[0] if children else None
        opened = [self._free(lane, child) for child in children[1:]]
        while self._lanes and self._lanes[-1] is None:
            self._lanes.pop()
        return " ".join(cells), self._branches(lane, opened) if opened else None

    def between(self) -> str:
        """What stands before a row that is no checkpoint's."""
        return " ".join(self._open())

    def _open(self) -> list[str]:
        return [" " if lane is None else "│" for lane in self._lanes]

    def _lane(self, number: int) -> int:
        if number in self._lanes:
            return self._lanes.index(number)
        return self._free(-1, number)

    def _free(self, right_of: int, number: int) -> int:
        for lane in range(right_of + 1, len(self._lanes)):
            if self._lanes[lane] is None:
                self._lanes[lane] = number
                return lane
        self._lanes.append(number)
        return len(self._lanes) - 1

    def _branches(self, lane: int, opened: Sequence[int]) -> str:
        last = max(opened)
        drawn = ""
        for at in range(len(self._lanes)):
            here = self._lanes[at] is not None
            if at == lane:
                drawn += "├"
            elif at in opened:
                drawn += "╮" if at == last else "┬"
            elif lane < at < last:
                drawn += "┼" if here else "─"
            else:
                drawn += "│" if here else " "
            drawn += "─" if lane <= at < last else " "
        return drawn.rstrip()


class Marks:
    """In place of ``Lanes`` where those would be too many."""

    def __init__(self, parents: Mapping[int, int | None], current: int) -> None:
        self._current = current
        self._line = _ancestry(parents, current)

    def at(self, number: int) -> tuple[str, str | None]:
        if number == self._current:
            return HERE, None
        return NODE if number in self._line else LEFT, None

    def between(self) -> str:
        return ""


def graph(parents: Mapping[int, int | None], current: int) -> Lanes | Marks:
    """What draws the tree: checkpoint → its parent, oldest first."""
    trial = Lanes(parents, current)
    for number in parents:
        trial.at(number)
        if len(trial.between()) > 2 * _WIDEST:
            return Marks(parents, current)
    return Lanes(parents, current)


def _ancestry(parents: Mapping[int, int | None], number: int | None) -> set[int]:
    found: set[int] = set()
    while number is not None and number not in found:
        found.add(number)
        number = parents.get(number)
    return found
