"""Positions in listings of one directory: a name that stays keeps its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from goexfsd.view.directory import in_order

NAMES = st.lists(st.integers(0, 30).map(lambda n: b"%d" % n), unique=True, max_size=20)


@given(st.lists(NAMES, min_size=1, max_size=12))
def test_a_listing_has_each_name_once_and_where_it_was(states: list[list[bytes]]) -> None:
    before = None
    for names in states:
        order = in_order(before, names)
        there = [name for name in order if name is not None]
        assert sorted(there) == sorted([b".", b"..", *names])
        assert order[:2] == [b".", b".."]
        for name in there:
            if before is not None and name in before:
                assert order.index(name) == before.index(name)
        before = order


def test_much_that_is_gone_does_not_stay_for_ever() -> None:
    order = None
    for turn in range(1000):
        order = in_order(order, [b"%d" % (turn * 10 + each) for each in range(10)])
    assert order is not None
    assert len(order) < 200
