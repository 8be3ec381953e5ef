"""Random sessions over bases that others change meanwhile, and random decisions."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from committing import Bench, Ran, litter
from edited import Hand, Shown, of_base, view
from goexfsd.worker import Root
from layering import Item, Session, manifest
from layerops import Op, base_trees, build, operations, perform
from manifests import differences
from manifests import manifest as full

pytestmark = pytest.mark.timeout(600)
MORE = settings(
    max_examples=int(os.environ.get("GOEXFS_EXAMPLES", "20")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
WAYS = st.sampled_from(["mine", "theirs", "merge"])


@contextmanager
def worked_on(base: list[Op], ops: list[Op], edits: list[Op]) -> Iterator[Session]:
    """A session that did ``ops``, over a base on which a user did ``edits`` since."""
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        hand = Hand(session.base)
        try:
            perform(session, ops)
            perform(hand, edits)  # type: ignore[arg-type]
            yield session
        finally:
            hand.close()
            session.close()


def commit(session: Session, every: str, **resolve: str) -> Ran:
    home = Path(os.fsdecode(session.home))
    bench = Bench(session.layer, [Root(0, "r", os.fsdecode(session.base))], home / "before")
    ran = bench.commit(on_conflict=every, resolve=list(resolve.items()))
    note(f"{every}: {ran.messages}")
    assert litter(session.base) == []
    return ran


def undone(session: Session) -> None:
    home = Path(os.fsdecode(session.home))
    bench = Bench(session.layer, [Root(0, "r", os.fsdecode(session.base))], home / "before")
    ran = bench.undo("undo")
    assert ran.last["event"] == "applied", ran.messages


@MORE
@given(base=base_trees(), ops=operations(), edits=operations())
def test_mine_makes_the_base_what_the_view_shows(
    base: list[Op], ops: list[Op], edits: list[Op]
) -> None:
    # A file to which the user makes another name shows the session's version under both: the
    # view, which knows only the copy, would show them apart.
    edits = [edit for edit in edits if edit[0] != "link"]
    with worked_on(base, ops, edits) as session:
        expected, before = view(session), full(session.base)
        ran = commit(session, "mine")
        event(f"{ran.last['event']} {ran.get('resolved') is not None}")
        assert ran.last["event"] in ("applied", "nothing"), ran.messages
        assert of_base(manifest(session.base)) == expected
        if ran.last["event"] == "applied":
            undone(session)
            assert differences(before, full(session.base)) == []


@MORE
@given(base=base_trees(), ops=operations(), edits=operations())
def test_theirs_keeps_all_that_the_user_did(base: list[Op], ops: list[Op], edits: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        hand = Hand(session.base)
        try:
            perform(session, ops)
            first = manifest(session.base)
            perform(hand, edits)  # type: ignore[arg-type]
            before, now = full(session.base), manifest(session.base)
            ran = commit(session, "theirs")
            assert ran.last["event"] in ("applied", "nothing"), ran.messages
            after = {(item.ino, _bytes(item)) for item in manifest(session.base).values()}
            for path, item in now.items():
                if item != first.get(path) and not stat.S_ISDIR(item.kind):
                    assert (item.ino, _bytes(item)) in after, path
            if ran.last["event"] == "applied":
                undone(session)
                assert differences(before, full(session.base)) == []
        finally:
            hand.close()
            session.close()


def _bytes(item: Item) -> Shown:
    return item.kind, item.mode, item.owner, item.data


@MORE
@given(
    base=base_trees(),
    ops=operations(),
    edits=operations(),
    every=WAYS,
    picks=st.lists(WAYS, max_size=4),
)
def test_any_decisions_are_undone(
    base: list[Op], ops: list[Op], edits: list[Op], every: str, picks: list[str]
) -> None:
    with worked_on(base, ops, edits) as session:
        before = full(session.base)
        refused = commit(session, "abort")
        found: list[dict[str, Any]] = refused.last.get("conflicts", [])
        if refused.last["event"] == "applied":
            return
        rules = [(0, _raw(each["path"]), way) for each, way in zip(found, picks, strict=False)]
        home = Path(os.fsdecode(session.home))
        bench = Bench(session.layer, [Root(0, "r", os.fsdecode(session.base))], home / "before")
        ran = bench.commit(on_conflict=every, resolve=rules)
        note(f"{every} {rules}: {ran.messages}")
        event(f"{every} {ran.last['event']}")
        if ran.last["event"] == "applied":
            undone(session)
        elif ran.last["event"] == "error":
            assert ran.last["error"]["data"]["code"] == "usage"
        assert differences(before, full(session.base)) == []


def _raw(path: str) -> bytes:
    from goexfs.names import from_wire

    return b"" if path == "." else from_wire(path)
