"""Kill a commit of hunks at every fault point, recover: all of the hunks are in the base, or none,
and what was not committed is still there to be committed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from committing import Bench, Ran, litter
from goexfs.cli.hunks import pieces
from goexfsd.layer.changes import differences as changes_of
from goexfsd.layer.changes import open_views
from goexfsd.layer.patch import patch
from goexfsd.worker import Root
from layering import Session
from manifests import Manifest, differences, manifest

pytestmark = pytest.mark.timeout(600)
LINES = [b"line %d\n" % number for number in range(60)]


def fill(base: bytes) -> None:
    for name in ("text", "moves", "attributes"):
        Path(os.fsdecode(base), name).write_bytes(b"".join(LINES))
    Path(os.fsdecode(base), "gone").write_bytes(b"gone\n")


def edit(session: Session) -> None:
    new = b"".join([b"first\n", *LINES[1:50], b"last\n", *LINES[51:]])
    for name in (b"text", b"moves", b"attributes"):
        session.write(name, new)
    session.rename(b"moves", b"moved")
    session.chmod(b"attributes", 0o755)
    session.setxattr(b"attributes", b"user.n", b"v")
    session.write(b"new", b"".join(LINES[:3]))
    session.unlink(b"gone")


def chosen(session: Session) -> bytes:
    """The first hunk of every file, without the deletion and the notes."""
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    base = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    try:
        with open_views(None, layer, [Root(0, "r", "")], [base]) as views:
            text = b"".join(patch(views, changes_of(views)))
    finally:
        os.close(layer)
        os.close(base)
    found = [piece for piece in pieces(text) if not piece.note and not piece.whole]
    return b"".join(piece.text(piece.hunks[:1]) for piece in found)


def fresh(home: Path) -> tuple[Session, Bench]:
    home.mkdir()
    session = Session.over(home, fill)
    edit(session)
    base = os.fsdecode(session.base)
    return session, Bench(session.layer, [Root(0, "r", base)], home / "before", live=session.layer)


def base_of(session: Session) -> Manifest:
    return manifest(os.fsdecode(session.base))


def view_of(session: Session) -> Manifest:
    return manifest(os.fsdecode(session.model), times=False, extents=False)


def expect(session: Session, before: Manifest, ran: Ran) -> None:
    assert litter(os.fsdecode(session.base)) == []
    if not ran.intent:
        assert differences(before, base_of(session)) == []
        return
    part = b"".join([b"first\n", *LINES[1:]])
    home = Path(os.fsdecode(session.base))
    for name in ("text", "moved", "attributes"):
        assert (home / name).read_bytes() == part
    assert (home / "attributes").stat().st_mode & 0o777 == 0o755
    assert os.listxattr(home / "attributes") == []
    names = sorted(each.name for each in home.iterdir())
    assert names == ["attributes", "gone", "moved", "new", "text"]


def test_killed_at_every_point(tmp_path: Path) -> None:
    for number in range(1, 2000):
        home = tmp_path / str(number)
        session, bench = fresh(home)
        try:
            before = base_of(session)
            ran = bench.commit(patch=chosen(session), fault=number)
            done = ran
            if ran.killed:
                done = bench.recover("intent" if ran.intent else "staging")
            if ran.intent:
                done = bench.recover("intent")  # once more, as after a crash of the daemon
                assert done.last["remaining"] == {"deleted": 1, "modified": 3}
            assert done.last["event"] == "applied", done.messages
            expect(session, before, ran)
            rest = replace(bench, before=home / "rest").commit()
            assert rest.last["event"] == "applied", rest.messages
            now = manifest(os.fsdecode(session.base), times=False, extents=False)
            assert differences(view_of(session), now) == []
            if not ran.killed:
                break
        finally:
            session.close()
            shutil.rmtree(home)
    else:
        pytest.fail("no run completed")
    assert number > 25, "hardly any fault points"
