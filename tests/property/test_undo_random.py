"""Random sessions: undo gives the tree before the commit, undo of that the tree after it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from committing import Bench, Ran, litter
from goexfsd.worker import Root
from layering import Session
from layerops import Beside, Op, There, base_trees, build, operations, perform
from manifests import Manifest, differences, manifest

pytestmark = pytest.mark.timeout(600)

UNDO = settings(
    max_examples=int(os.environ.get("GOEXFS_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def bench(session: Session) -> Bench:
    root = Root(0, "r", os.fsdecode(session.base))
    home = Path(os.fsdecode(session.home))
    return Bench(session.layer, [root], home / "before", live=session.layer)


def tree(session: Session) -> Manifest:
    assert litter(session.base) == []
    return manifest(session.base)


def done(ran: Ran) -> None:
    note(str(ran.messages))
    assert ran.last["event"] == "applied", ran.messages
    assert ran.last["outcome"] == "forward", ran.messages
    assert ran.last["losses"] == [], ran.messages


@UNDO
@given(base=base_trees(), ops=operations(), part=st.none() | st.integers(0, 20))
@example(base=[("file", (Beside(0, b"a"), b""))], ops=[("write", (There(1), b"x"))], part=None)
def test_undo_and_undo_of_undo(base: list[Op], ops: list[Op], part: int | None) -> None:
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        try:
            perform(session, ops)
            before = tree(session)
            one = bench(session)
            names = sorted(os.listdir(session.model))
            paths = [] if part is None or not names else [(0, names[part % len(names)])]
            ran = one.commit(paths)
            note(str(ran.messages))
            if ran.last["event"] != "applied":
                return
            after = tree(session)
            done(one.undo("undo"))
            assert differences(before, tree(session)) == []
            done(one.undo("redo", of=one.beside("undo").before))
            assert differences(after, tree(session)) == []
            done(one.undo("again", of=one.beside("redo").before))
            assert differences(before, tree(session)) == []
        finally:
            session.close()


@UNDO
@given(base=base_trees(), ops=operations(), more=operations())
@example(
    base=[("file", (Beside(0, b"a"), b"")), ("link", (There(1), Beside(0, b"b")))],
    ops=[("unlink", (There(2),))],
    more=[("write", (There(1), b"x"))],
)
def test_two_commits_are_undone_one_after_the_other(
    base: list[Op], ops: list[Op], more: list[Op]
) -> None:
    """What the undo of the second brought back, the undo of the first takes for its own."""
    with tempfile.TemporaryDirectory() as home:
        first = Session.over(Path(home), build(base))
        try:
            perform(first, ops)
            trees = [tree(first)]
            one = bench(first)
            if one.commit().last["event"] != "applied":
                return
            trees.append(tree(first))
            second = Session.again(Path(home))
            try:
                perform(second, more)
                two = bench(second).beside("second")
                if two.commit().last["event"] != "applied":
                    return
                done(two.undo("undo-second"))
                assert differences(trees[1], tree(first)) == []
                done(one.undo("undo", undos=["undo-second"]))
                assert differences(trees[0], tree(first)) == []
            finally:
                second.close()
        finally:
            first.close()
