"""Random sessions: after a commit the base is what the view showed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, example, given, note, settings
from hypothesis import strategies as st

from committing import Ran
from goexfsd.layer.changes import Change
from layering import Item, Session, manifest
from layerops import Beside, Op, There, base_trees, build, operations, perform
from outcomes import bench, changes, check

pytestmark = pytest.mark.timeout(600)
PICKS = st.lists(st.integers(0, 20), max_size=3)


def check_times(found: list[Change], base: dict[bytes, Item]) -> None:
    """What was written arrives with the time at which the session wrote it."""
    for change in found:
        made = change.kind in ("created", "retyped") and change.links == 1
        if change.st is not None and (made or change.aspects & {"content", "times"}):
            assert base[change.path].mtime == change.st.st_mtime_ns, change


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(base=base_trees(), ops=operations())
def test_commit_makes_the_base_what_the_view_showed(base: list[Op], ops: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        try:
            perform(session, ops)
            found = changes(session)
            for change in found:
                note(f"{change.kind} {change.old_path!r} {change.path!r} {set(change.aspects)}")
            ran = bench(session).commit()
            note(str(ran.messages))
            check(session, ran)
            check_times(found, manifest(session.base))
        finally:
            session.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(base=base_trees(), ops=operations(), picks=PICKS, leaves=PICKS)
# Two files change places; one of the two is committed: the other is still known by its place.
@example(
    base=[("file", (Beside(0, b"a"), b"x")), ("file", (Beside(0, b"b"), b"y"))],
    ops=[
        ("rename", (There(1), Beside(0, b"c"))),
        ("rename", (There(1), Beside(0, b"a"))),
        ("rename", (There(2), Beside(0, b"b"))),
    ],
    picks=[0],
    leaves=[],
)
# A file takes the place of a symlink; that is committed, and not yet that it is gone elsewhere.
@example(
    base=[("file", (Beside(0, b"a"), b"x")), ("symlink", (Beside(0, b"b"),))],
    ops=[("rename", (There(1), There(2)))],
    picks=[],
    leaves=[0],
)
def test_part_and_then_the_rest_is_all(
    base: list[Op], ops: list[Op], picks: list[int], leaves: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        try:
            perform(session, ops)
            found = changes(session)
            for change in found:
                note(f"{change.kind} {change.old_path!r} {change.path!r} {set(change.aspects)}")
            paths = [found[pick % len(found)].path for pick in picks if found]
            left = [found[pick % len(found)].path for pick in leaves if found]
            note(f"paths {paths} without {left}")
            part = bench(session).commit(
                [(0, path) for path in paths], exclude=[(0, path) for path in left]
            )
            note(str(part.messages))
            rest = part.last.get("remaining_total", 0) > 0
            event(f"{part.last['event']} {bool(paths)} {bool(left)} {rest}")
            if part.last["event"] == "error":
                assert part.last["error"]["data"]["code"] == "usage"
            elif part.last["event"] == "nothing":
                assert left or not found  # everything selected was left out
            elif sum(part.last.get("applied", {}).values()) == len(found):
                return  # all of it: such a session is closed
            else:
                check_left(session, found, part)
            check(session, bench(session, "rest").commit())
        finally:
            session.close()


def check_left(session: Session, found: list[Change], part: Ran) -> None:
    """What is left is what was not committed."""
    left = changes(session)
    note(f"left {[(change.kind, change.path) for change in left]}")
    assert part.last["remaining_total"] == len(left)
    assert len(left) == len(found) - sum(part.last["applied"].values())
