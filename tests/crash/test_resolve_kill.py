"""Kill a commit of decided conflicts at every fault point: wholly before, or wholly after.

The base has moved under the session in all ways; what was decided (the session's version, the
base's, a merge) is part of what must arrive whole.  "After" is what an undisturbed run makes.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from committing import Bench, Ran, litter
from goexfsd.worker import Root
from layering import Session
from manifests import Manifest, differences, manifest

pytestmark = pytest.mark.timeout(600)

TEXT = b"".join(b"line %d\n" % number for number in range(12))
RULES = [
    (0, b"theirs", "theirs"),
    (0, b"gone/kept", "theirs"),
    (0, b"merged", "merge"),
    (0, b"moved", "merge"),
    (0, b"twin1", "merge"),
]


def base(top: bytes) -> None:
    home = Path(os.fsdecode(top))
    for name in ("merged", "from", "mine", "theirs", "twin1", "gone/kept", "gone/other", "lost/x"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(TEXT)
    os.link(home / "twin1", home / "twin2")


def session_works(session: Session) -> None:
    mine = TEXT.replace(b"line 1\n", b"session\n")
    for name in (b"merged", b"mine", b"theirs", b"twin1", b"lost/x"):
        session.write(name, mine)
    session.rename(b"from", b"moved")
    session.remove(b"gone")
    session.write(b"made", b"session\n")
    session.chmod(b"mine", 0o750)


def user_works(home: Path) -> None:
    theirs = TEXT.replace(b"line 9\n", b"user\n")
    for name in ("merged", "from", "mine", "theirs", "twin1", "gone/kept"):
        (home / name).write_bytes(theirs)
    (home / "made").write_bytes(b"user\n")
    shutil.rmtree(home / "lost")
    (home / "own").write_bytes(b"user\n")


class Case:
    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home = home
        self.session = Session.over(home, base)
        self.base = Path(os.fsdecode(self.session.base))
        session_works(self.session)
        user_works(self.base)
        roots = [Root(0, "r", str(self.base))]
        self.bench = Bench(self.session.layer, roots, home / "before")

    def commit(self, fault: int = 0) -> Ran:
        return self.bench.commit(fault=fault, on_conflict="mine", resolve=RULES)

    def manifest(self) -> Manifest:
        assert litter(str(self.base)) == []
        return manifest(self.base)

    def close(self) -> None:
        self.session.close()
        shutil.rmtree(self.home)


def timeless(tree: Manifest) -> Manifest:
    """A merge is as young as its run, and so is what holds it."""
    return {name: replace(entry, mtime_ns=0) for name, entry in tree.items()}


def test_killed_at_every_point(tmp_path: Path) -> None:
    case = Case(tmp_path / "whole")
    try:
        assert case.commit().last["event"] == "applied"
        after = timeless(case.manifest())
    finally:
        case.close()
    assert after[b"moved"].digest != after[b"mine"].digest
    for number in range(1, 2000):
        case = Case(tmp_path / str(number))
        try:
            before = case.manifest()
            ran = case.commit(fault=number)
            if ran.killed:
                state = "intent" if ran.intent else "staging"
                for _ in range(2):
                    settled = case.bench.recover(state)
                    assert settled.last["event"] == "applied", settled.messages
                    assert settled.last["outcome"] == ("forward" if ran.intent else "back")
            now = case.manifest()
            if ran.intent:
                assert differences(after, timeless(now)) == []
                undone = case.bench.undo("undo")
                assert undone.last["event"] == "applied", undone.messages
                now = case.manifest()
            assert differences(before, now) == []
            if not ran.killed:
                break
        finally:
            case.close()
    else:
        pytest.fail("no run completed")
    assert number > 30, "hardly any fault points"
