"""The digest of a change list: the same for the same, another for whatever a reviewer sees."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from goexfsd.layer.changes import Change
from goexfsd.layer.digest import EMPTY, digest

STATUS = os.stat(__file__)
CHANGE = Change(
    "modified", 0, b"a", None, "file", None, STATUS, STATUS, frozenset({"mode"}), b"a", 5, None, 1
)


def changed_status(path: Path) -> os.stat_result:
    path.write_text("x")
    return path.stat()


def test_the_same_list_has_the_same() -> None:
    assert digest([CHANGE]) == digest([replace(CHANGE, upper_ino=7, source=b"elsewhere")])
    assert digest([]) == EMPTY


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "created"},
        {"root": 1},
        {"path": b"b"},
        {"path": b"a\0"},
        {"old_path": b"a"},
        {"type": "dir"},
        {"aspects": frozenset({"mode", "owner"})},
        {"st": None},
    ],
)
def test_whatever_is_shown_counts(other: dict[str, Any]) -> None:
    assert digest([replace(CHANGE, **other)]) != digest([CHANGE])


def test_size_time_and_order_count(tmp_path: Path) -> None:
    other = replace(CHANGE, st=changed_status(tmp_path / "f"))
    assert digest([other]) != digest([CHANGE])
    assert digest([CHANGE, other]) != digest([other, CHANGE])
    assert digest([CHANGE, CHANGE]) != digest([CHANGE])
