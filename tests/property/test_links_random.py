"""Random hard links, on both sides: the session's version is committed, undone, and done again.

Few names and little but links, so that the names of one file meet in all ways: one goes while
another comes, a name moves to where another was, the base's file lost the name that it was
changed under.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from committing import Bench, Ran, litter
from edited import Hand, of_base, view
from goexfsd.worker import Root
from layering import Session, manifest
from manifests import differences
from manifests import manifest as full

pytestmark = pytest.mark.timeout(600)
NAMES = [b"a", b"b", b"c", b"d/a", b"d/b"]
NAME = st.sampled_from(NAMES)
Deed = tuple[str, bytes, bytes]
DEEDS = st.lists(
    st.tuples(st.sampled_from(["link", "link", "rename", "rename", "write", "unlink"]), NAME, NAME),
    max_size=5,
)
BASES = st.lists(st.tuples(NAME, NAME), max_size=5)


def fill(links: list[tuple[bytes, bytes]]) -> object:
    def build(base: bytes) -> None:
        os.mkdir(base + b"/d")
        for name, other in links:
            old, new = base + b"/" + name, base + b"/" + other
            if not os.path.lexists(old):
                Path(os.fsdecode(old)).write_bytes(name)
            if not os.path.lexists(new):
                os.link(old, new)

    return build


def work(side: Session | Hand, deeds: list[Deed]) -> None:
    for what, one, other in deeds:
        there, taken = (os.path.lexists(side.model + b"/" + name) for name in (one, other))
        if what == "write":
            side.write(one, other)
        elif not there:
            continue
        elif what == "unlink":
            side.unlink(one)
        elif what == "link" and not taken:
            side.link(one, other)
        elif what == "rename" and one != other:
            side.rename(one, other)


def done(ran: Ran) -> list[object]:
    note(str(ran.messages))
    assert ran.last["event"] == "applied", ran.messages
    assert ran.last["outcome"] == "forward", ran.messages
    losses: list[object] = ran.last["losses"]
    return losses


@settings(
    max_examples=int(os.environ.get("GOEXFS_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(links=BASES, deeds=DEEDS, edits=DEEDS)
# The user linked the file to where the session moved it.
@example(links=[(b"a", b"a")], deeds=[("rename", b"a", b"b")], edits=[("link", b"a", b"b")])
@example(links=[(b"a", b"a")], deeds=[("rename", b"a", b"d/a")], edits=[("link", b"a", b"d/a")])
# One name moves, the bytes change under another.
@example(
    links=[(b"a", b"b"), (b"a", b"c")],
    deeds=[("rename", b"a", b"d/a"), ("write", b"b", b"b")],
    edits=[],
)
# The user takes the name away under which the session changed a file of several.
@example(
    links=[(b"a", b"b"), (b"a", b"c")], deeds=[("write", b"a", b"x")], edits=[("unlink", b"a", b"")]
)
# The user puts another file where the session changed one, or moves what it changed away.
@example(
    links=[(b"a", b"b"), (b"a", b"c"), (b"d/a", b"d/a")],
    deeds=[("write", b"b", b"x")],
    edits=[("rename", b"d/a", b"b")],
)
@example(
    links=[(b"a", b"b"), (b"a", b"c"), (b"d/a", b"d/a")],
    deeds=[("rename", b"a", b"d/a"), ("write", b"b", b"x")],
    edits=[("rename", b"d/a", b"a")],
)
@example(
    links=[(b"a", b"b")],
    deeds=[("unlink", b"a", b""), ("write", b"b", b"x")],
    edits=[("rename", b"b", b"c")],
)
# What shows the change is known by its inode alone, and has but one name left.
@example(
    links=[(b"a", b"b")],
    deeds=[("write", b"a", b"x"), ("write", b"c", b"y"), ("rename", b"c", b"a")],
    edits=[("unlink", b"a", b"")],
)
# The user's file is what the session put where another was renamed from.
@example(
    links=[(b"a", b"a"), (b"c", b"b")],
    deeds=[("rename", b"b", b"d/a"), ("link", b"a", b"b")],
    edits=[("rename", b"a", b"b")],
)
def test_mine_undone_and_done_again(
    links: list[tuple[bytes, bytes]], deeds: list[Deed], edits: list[Deed]
) -> None:
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), fill(links))  # type: ignore[arg-type]
        hand = Hand(session.base)
        try:
            work(session, deeds)
            work(hand, edits)
            before, expected = full(session.base), view(session)
            one = Bench(
                session.layer, [Root(0, "r", os.fsdecode(session.base))], Path(home) / "before"
            )
            if (ran := one.commit(on_conflict="mine")).last["event"] == "nothing":
                return
            assert done(ran) == []
            assert ran.last["late"] == []
            if all(what != "link" for what, _, _ in edits):  # the view knows only the copy
                assert of_base(manifest(session.base)) == expected
            after = full(session.base)
            lost = done(one.undo("undo"))
            assert lost or differences(before, full(session.base)) == []
            lost += done(one.undo("redo", of=one.beside("undo").before))
            assert lost or differences(after, full(session.base)) == []
            assert litter(session.base) == []
        finally:
            hand.close()
            session.close()
