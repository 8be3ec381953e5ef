"""A line diff whose cost is bounded: patience anchors, then Myers within a budget.

Python's difflib takes quadratic time and more on long files with repeated lines; the libraries
that wrap a C diff are either of a licence that does not go with ours (patiencediff) or bring all
of libgit2.  A diff need not be minimal to be right: where the two sides differ too much for the
budget, a stretch is replaced as a whole.

It knows nothing of files or patches.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_BUDGET = 400
"""Edits that Myers may look for in one stretch: its time and memory are the square of it."""


@dataclass(frozen=True, slots=True)
class Block:
    """Lines ``a0:a1`` of the old side became lines ``b0:b1`` of the new."""

    a0: int
    a1: int
    b0: int
    b1: int


def split(data: bytes) -> list[bytes]:
    """Lines with their newline; only a newline ends one (``splitlines`` knows more)."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def blocks(old: Sequence[bytes], new: Sequence[bytes]) -> list[Block]:
    """What differs, in order; blocks neither touch nor overlap."""
    numbers: dict[bytes, int] = {}
    a = [numbers.setdefault(line, len(numbers)) for line in old]
    b = [numbers.setdefault(line, len(numbers)) for line in new]
    return _merge(_Differ(a, b).run())


def _merge(found: list[Block]) -> list[Block]:
    merged: list[Block] = []
    for block in found:
        last = merged[-1] if merged else None
        if last is not None and last.a1 == block.a0 and last.b1 == block.b0:
            merged[-1] = Block(last.a0, block.a1, last.b0, block.b1)
        else:
            merged.append(block)
    return merged


class _Differ:
    def __init__(self, a: list[int], b: list[int]) -> None:
        self.a = a
        self.b = b

    def run(self) -> list[Block]:
        found: list[Block] = []
        stack = [(0, len(self.a), 0, len(self.b))]
        while stack:
            a0, a1, b0, b1 = self._trim(*stack.pop())
            if a0 == a1 and b0 == b1:
                continue
            anchors = self._anchors(a0, a1, b0, b1) if a0 < a1 and b0 < b1 else []
            if anchors:
                stack += reversed(_between(anchors, a0, a1, b0, b1))
            else:
                found += self._myers(a0, a1, b0, b1)
        return found

    def _trim(self, a0: int, a1: int, b0: int, b1: int) -> tuple[int, int, int, int]:
        a, b = self.a, self.b
        while a0 < a1 and b0 < b1 and a[a0] == b[b0]:
            a0 += 1
            b0 += 1
        while a0 < a1 and b0 < b1 and a[a1 - 1] == b[b1 - 1]:
            a1 -= 1
            b1 -= 1
        return a0, a1, b0, b1

    def _anchors(self, a0: int, a1: int, b0: int, b1: int) -> list[tuple[int, int]]:
        """Lines that occur once on either side, as far as they keep their order."""
        theirs = _once(self.b, b0, b1)
        pairs = [(at, theirs[line]) for line, at in _once(self.a, a0, a1).items() if line in theirs]
        return _longest(sorted(pairs))

    def _myers(self, a0: int, a1: int, b0: int, b1: int) -> list[Block]:
        """Myers' greedy O(ND) search; a whole replacement if it takes more than the budget."""
        a, b = self.a, self.b
        n, m = a1 - a0, b1 - b0
        if n == 0 or m == 0:
            return [Block(a0, a1, b0, b1)]
        reach = {1: 0}
        trail: list[dict[int, int]] = []
        for cost in range(min(n + m, _BUDGET) + 1):
            trail.append(dict(reach))
            for k in range(-cost, cost + 1, 2):
                down = k == -cost or (k != cost and reach[k - 1] < reach[k + 1])
                x = reach[k + 1] if down else reach[k - 1] + 1
                y = x - k
                while x < n and y < m and a[a0 + x] == b[b0 + y]:
                    x += 1
                    y += 1
                reach[k] = x
                if x >= n and y >= m:
                    return _path(trail, n, m, a0, b0)
        return [Block(a0, a1, b0, b1)]


def _path(trail: list[dict[int, int]], n: int, m: int, a0: int, b0: int) -> list[Block]:
    found: list[Block] = []
    x, y = n, m
    for cost in range(len(trail) - 1, 0, -1):
        reach, k = trail[cost], x - y
        down = k == -cost or (k != cost and reach[k - 1] < reach[k + 1])
        k += 1 if down else -1
        x, y = reach[k], reach[k] - k
        if down:
            found.append(Block(a0 + x, a0 + x, b0 + y, b0 + y + 1))
        else:
            found.append(Block(a0 + x, a0 + x + 1, b0 + y, b0 + y))
    return found[::-1]


def _once(lines: list[int], start: int, end: int) -> dict[int, int]:
    """Where each line is that occurs once in ``start:end``."""
    places: dict[int, int] = {}
    for at in range(start, end):
        line = lines[at]
        places[line] = -1 if line in places else at
    return {line: at for line, at in places.items() if at >= 0}


def _longest(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest run of pairs that ascends on both sides (patience sorting)."""
    tops: list[int] = []
    piles: list[int] = []
    before: list[int] = []
    for number, (_, there) in enumerate(pairs):
        pile = bisect_left(tops, there)
        before.append(piles[pile - 1] if pile else -1)
        if pile == len(tops):
            tops.append(there)
            piles.append(number)
        else:
            tops[pile] = there
            piles[pile] = number
    found: list[tuple[int, int]] = []
    at = piles[-1] if piles else -1
    while at >= 0:
        found.append(pairs[at])
        at = before[at]
    return found[::-1]


def _between(
    anchors: list[tuple[int, int]], a0: int, a1: int, b0: int, b1: int
) -> list[tuple[int, int, int, int]]:
    """The stretches between anchors."""
    found: list[tuple[int, int, int, int]] = []
    for here, there in anchors:
        found.append((a0, here, b0, there))
        a0, b0 = here + 1, there + 1
    return [*found, (a0, a1, b0, b1)]


def hunks(old: Sequence[bytes], new: Sequence[bytes], context: int = 3) -> Iterator[bytes]:
    """The unified diff, a hunk at a time.  Lines carry their newline; a last one may lack it."""
    group: list[Block] = []
    for block in blocks(old, new):
        if group and block.a0 - group[-1].a1 > 2 * context:
            yield _hunk(old, new, group, context)
            group = []
        group.append(block)
    if group:
        yield _hunk(old, new, group, context)


def _hunk(old: Sequence[bytes], new: Sequence[bytes], group: list[Block], context: int) -> bytes:
    lead = min(context, group[0].a0)
    tail = min(context, len(old) - group[-1].a1)
    a0, b0 = group[0].a0 - lead, group[0].b0 - lead
    a1, b1 = group[-1].a1 + tail, group[-1].b1 + tail
    parts = [b"@@ -%s +%s @@\n" % (_range(a0, a1), _range(b0, b1))]
    at = a0
    for block in group:
        parts += [_line(b" ", line) for line in old[at : block.a0]]
        parts += [_line(b"-", line) for line in old[block.a0 : block.a1]]
        parts += [_line(b"+", line) for line in new[block.b0 : block.b1]]
        at = block.a1
    parts += [_line(b" ", line) for line in old[at:a1]]
    return b"".join(parts)


def _range(start: int, end: int) -> bytes:
    length = end - start
    if length == 1:
        return b"%d" % (start + 1)
    return b"%d,%d" % (start + 1 if length else start, length)


def _line(mark: bytes, line: bytes) -> bytes:
    if line.endswith(b"\n"):
        return mark + line
    return mark + line + b"\n\\ No newline at end of file\n"
