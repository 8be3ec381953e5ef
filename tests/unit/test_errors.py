"""Every error keeps its code, hint and data over the wire, and has its own exit status."""

from __future__ import annotations

import pytest

from goexfs import errors


@pytest.mark.parametrize("leaf", errors.BY_CODE.values(), ids=lambda leaf: leaf.__name__)
def test_round_trip(leaf: type[errors.GoexfsError]) -> None:
    error = leaf("it broke", hint="mend it", data={"conflicts": [1]})
    back = errors.from_wire(error.to_wire())
    assert type(back) is leaf
    assert (back.message, back.hint, back.data) == ("it broke", "mend it", {"conflicts": [1]})


def test_codes_and_numbers_are_unique() -> None:
    leaves = list(errors.BY_CODE.values())
    assert len({leaf.number for leaf in leaves}) == len(leaves)


def test_an_unknown_code_is_still_an_error() -> None:
    error = errors.from_wire({"code": 1, "message": "new", "data": {"code": "from_the_future"}})
    assert type(error) is errors.GoexfsError
    assert error.exit_status == 1
