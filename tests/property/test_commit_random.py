"""Random sessions: after a commit the base is what the view showed."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from committing import Bench, Ran, litter
from goexfsd.layer.changes import Change, compute
from goexfsd.worker import Root
from layering import Item, Session, manifest
from layerops import Op, base_trees, build, operations, perform

Shown = tuple[object, ...]
PICKS = st.lists(st.integers(0, 20), max_size=3)


def bench(session: Session, before: str = "before") -> Bench:
    root = Root(0, "r", os.fsdecode(session.base))
    home = Path(os.fsdecode(session.home))
    return Bench(session.layer, [root], home / before, live=session.layer)


def shown(tree: dict[bytes, Item]) -> dict[bytes, Shown]:
    """What has to be equal (the model's own times are not the session's); hard links as groups
    of names."""
    names: dict[int, list[bytes]] = {}
    for path, item in tree.items():
        names.setdefault(item.ino, []).append(path)
    return {
        path: (
            item.kind,
            item.mode if not stat.S_ISLNK(item.kind) else 0,
            item.owner,
            item.xattrs,
            item.data,
            item.rdev,
            item.links,
            tuple(sorted(names[item.ino])),
        )
        for path, item in tree.items()
    }


def changes(session: Session) -> list[Change]:
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    base = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    try:
        return compute(layer, [Root(0, "r", "")], [base])
    finally:
        os.close(layer)
        os.close(base)


def check_times(found: list[Change], base: dict[bytes, Item]) -> None:
    """What was written arrives with the time at which the session wrote it."""
    for change in found:
        made = change.kind in ("created", "retyped") and change.links == 1
        if change.st is not None and (made or change.aspects & {"content", "times"}):
            assert base[change.path].mtime == change.st.st_mtime_ns, change


def check(session: Session, ran: Ran) -> None:
    assert ran.last["event"] in ("applied", "nothing"), ran.messages
    view, base = manifest(session.model), manifest(session.base)
    assert shown(base) == shown(view)
    assert litter(session.base) == []


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
