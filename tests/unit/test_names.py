"""Names survive the wire, and none of them can reach a terminal raw."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs import names

NAMES = st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name)


@given(NAMES)
def test_the_wire_form_is_one_to_one(name: bytes) -> None:
    text = names.to_wire(name)
    text.encode("utf-8")
    assert names.from_wire(text) == name


@given(NAMES)
def test_nothing_unsafe_is_displayed(name: bytes) -> None:
    for char in names.display(name):
        assert unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(NAMES, NAMES)
def test_different_names_are_displayed_differently(a: bytes, b: bytes) -> None:
    if a != b:
        assert names.display(a) != names.display(b)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain.txt", "plain.txt"),
        (b"a\nb", "a\\nb"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        ("\u202egnp.exe".encode(), "\\u202egnp.exe"),
        (b"\xff", "\\xff"),
        ("zoë".encode(), "zoë"),
        (b"back\\slash", "back\\\\slash"),
    ],
)
def test_display(name: bytes, shown: str) -> None:
    assert names.display(name) == shown


def test_a_name_that_poses_as_base64_is_not_mistaken_for_one() -> None:
    assert names.from_wire(names.to_wire(b"base64:aGk=")) == b"base64:aGk="


def test_damaged_base64_is_an_error() -> None:
    with pytest.raises(ValueError, match="damaged base64"):
        names.from_wire("base64:***")


def test_many_names_are_told_by_their_directories() -> None:
    objects = [f".git/objects/{number:02x}/{number}" for number in range(300)]
    assert names.folders(objects) == [(".git/objects/", 300)]
    assert names.folders([*objects, "a", "b/c"]) == [("./", 1), (".git/objects/", 300), ("b/", 1)]
    assert names.folders(["x/y/1", "x/y/2", "x/z/3"]) == [("x/y/", 2), ("x/z/", 1)]
    assert names.folders([f"{number}/x" for number in range(9)]) == [("./", 9)]
    assert names.folders([]) == [("./", 0)]
