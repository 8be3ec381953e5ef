"""The drawn tree of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs.cli.graph import HERE, NODE, Lanes, Marks, graph


def drawn(parents: Mapping[int, int | None], current: int) -> list[str]:
    tree = graph(parents, current)
    lines = []
    for number in parents:
        before, below = tree.at(number)
        lines.append(f"{before} {number}")
        if below is not None:
            lines.append(below)
    return lines


@pytest.mark.parametrize(
    ("parents", "current", "expected"),
    [
        ({0: None, 1: 0}, 1, ["o 0", "@ 1"]),
        ({0: None, 1: 0, 2: 0, 3: 1}, 3, ["o 0", "├─╮", "o │ 1", "│ o 2", "@ 3"]),
        ({0: None, 1: 0, 2: 0, 3: 2}, 3, ["o 0", "├─╮", "│ o 1", "o 2", "@ 3"]),
        (
            {0: None, 1: 0, 2: 0, 3: 0, 4: 1, 5: 1},
            4,
            [
                "o 0",
                "├─┬─╮",
                "o │ │ 1",
                "├─┼─┼─╮",
                "│ o │ │ 2",
                "│   o │ 3",
                "@     │ 4",
                "      o 5",
            ],
        ),
        ({}, 0, []),
    ],
)
def test_a_tree(parents: dict[int, int | None], current: int, expected: list[str]) -> None:
    assert drawn(parents, current) == expected


def test_what_is_no_checkpoint_stands_between_the_lanes() -> None:
    tree = graph({0: None, 1: 0, 2: 0}, 1)
    tree.at(0)
    assert tree.between() == "│ │"


def test_a_tree_that_is_too_wide_has_marks() -> None:
    tree = graph({0: None, **dict.fromkeys(range(1, 100), 0), 100: 99}, 100)
    assert isinstance(tree, Marks)
    assert [tree.at(number)[0] for number in (0, 1, 99, 100)] == ["o", "~", "o", "@"]


@given(st.lists(st.integers(min_value=0, max_value=10**6), max_size=60), st.integers(min_value=0))
def test_each_checkpoint_is_below_its_parent(picks: list[int], current: int) -> None:
    """Following the drawing down from a parent leads to its child."""
    parents: dict[int, int | None] = {0: None}
    for number, pick in enumerate(picks, 1):
        parents[number] = pick % number
    current %= len(parents)
    tree = Lanes(parents, current)
    lanes: dict[int, int] = {}
    """Column → the parent that its line comes from."""
    for number in parents:
        before, below = tree.at(number)
        column = next(at for at, cell in enumerate(before) if cell in (HERE, NODE))
        assert before[column] == (HERE if number == current else NODE)
        assert lanes.get(column) == parents[number]
        children = [child for child, parent in parents.items() if parent == number]
        opened = [at for at, cell in enumerate(below or "") if cell in "┬╮"]
        assert len(opened) == max(len(children) - 1, 0)
        lanes.pop(column, None)
        lanes.update(dict.fromkeys([column, *opened] if children else [], number))
    assert not lanes
