"""Rules of a view: what it hides, shows empty, or keeps as it is, by path; frozen at mount.

Patterns are globs as ``layer.selection`` has them, below the top of a root: ``.env`` is one at any
depth, ``./.env`` the one at the top.  What a pattern matches is ruled with all that is below it.

All patterns together are one automaton over the names of a path, and its state at a directory is an
integer: which patterns have matched already (``RULED``), and how far each of the others has come.
Two directories with equal states rule alike whatever is in them: so is a rename judged.

It knows no nodes and does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from goexfsd.layer.selection import expression

Kind = Literal["hidden", "masked", "read_only"]
Rule = tuple[Kind, int | None, str]
"""Kind, index of the root (None: every root), pattern."""

HIDDEN, MASKED, READ_ONLY = 1, 2, 4
RULED = HIDDEN | MASKED | READ_ONLY
_BITS: dict[str, int] = {"hidden": HIDDEN, "masked": MASKED, "read_only": READ_ONLY}
_FIRST_BIT = 3
_MOST_KNOWN = 1 << 16


@dataclass(frozen=True, slots=True)
class _Step:
    """In a state with ``bit``, a name that matches leads to ``to``."""

    bit: int
    name: re.Pattern[str] | None
    """None: any."""
    to: int


class Rules:
    """The automaton of one view's rules."""

    __slots__ = ("_bits", "_known", "_steps", "tops")

    def __init__(self, rules: Iterable[Rule], roots: int) -> None:
        self._bits = _FIRST_BIT
        self._steps: list[_Step] = []
        self._known: dict[tuple[int, bytes], int] = {}
        self.tops = [0] * roots
        """The state at the top of each root."""
        for kind, root, pattern in rules:
            names = [name for name in pattern.split("/") if name not in ("", ".")]
            if "/" not in pattern.rstrip("/"):
                names.insert(0, "**")
            start = self._add(names, _BITS[kind])
            for index in range(roots) if root is None else (root,):
                self.tops[index] |= start

    def _add(self, names: list[str], verdict: int) -> int:
        """Compile one pattern; returns the bits with which it starts."""
        after = verdict
        for name in reversed(names):
            bit = 1 << self._bits
            self._bits += 1
            if name != "**":
                self._steps.append(_Step(bit, expression(name), after))
                after = bit
            elif after == verdict:  # at the end: everything below
                self._steps.append(_Step(bit, None, verdict))
                after = bit
            else:  # any number of directories, none too
                self._steps.append(_Step(bit, None, bit | after))
                after = bit | after
        return after

    def below(self, state: int, name: bytes) -> int:
        """The state at ``name`` in a directory that has ``state``."""
        key = (state, name)
        found = self._known.get(key)
        if found is None:
            found = state & RULED
            text = name.decode("utf-8", "surrogateescape")
            for step in self._steps:
                if state & step.bit and (step.name is None or step.name.match(text)):
                    found |= step.to
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = found
        return found
