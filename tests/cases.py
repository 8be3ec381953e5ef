"""A base, and a session over it that does something of every kind: for the crash tests."""

from __future__ import annotations

import os
from pathlib import Path

from committing import Bench
from goexfsd.worker import Root
from layering import Session
from manifests import Manifest, manifest


def small(base: bytes) -> None:
    """A base with one of everything that is going to change."""
    for name in (b"d", b"d/deep", b"gone", b"gone/sub", b"x", b"y"):
        os.mkdir(base + b"/" + name)
    for name, data in (
        (b"edit", b"old\n"),
        (b"mode", b"#!/bin/sh\n"),
        (b"one", b"shared"),
        (b"swap1", b"1"),
        (b"swap2", b"2"),
        (b"victim", b"to be replaced by a rename\n"),
        (b"mover", b"moves\n"),
        (b"d/file", b"in d\n"),
        (b"d/deep/file", b"deep\n"),
        (b"gone/a", b"a"),
        (b"gone/sub/b", b"b" * 10_000),
        (b"become-dir", b"file"),
        (b"x/in-x", b"x"),
        (b"y/in-y", b"y"),
    ):
        (Path(os.fsdecode(base)) / os.fsdecode(name)).write_bytes(data)
    os.link(base + b"/one", base + b"/two")
    os.link(base + b"/one", os.path.dirname(base) + b"/outside")
    os.symlink(b"edit", base + b"/link")


def everything(session: Session) -> None:
    """A session that does something of every kind."""
    session.write(b"edit", b"new\n")
    session.chmod(b"mode", 0o755)
    session.write(b"one", b"now more, for all the names\n")
    session.rename(b"swap1", b"t")
    session.rename(b"swap2", b"swap1")
    session.rename(b"t", b"swap2")
    session.rename(b"mover", b"victim")
    session.rename(b"d", b"moved")
    session.write(b"moved/deep/file", b"changed below a renamed directory\n")
    session.mkdir(b"new")
    session.mkdir(b"new/inner")
    session.write(b"new/inner/file", b"created\n")
    session.symlink(b"new/link", b"/etc/passwd")
    session.rename(b"x", b"new/x")
    session.rename(b"y", b"x")
    session.remove(b"gone")
    session.unlink(b"link")
    session.symlink(b"link", b"victim")
    session.remove(b"become-dir")
    session.mkdir(b"become-dir")
    session.write(b"become-dir/child", b"c")
    session.link(b"edit", b"edit-too")
    session.utime(b"new/inner/file", 10**18)


class Case:
    """A base, a session over it, and both manifests, in copies that can be thrown away."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.session = Session.over(home, small)
        everything(self.session)
        self.base = Path(os.fsdecode(self.session.base))

    @property
    def bench(self) -> Bench:
        return Bench(self.session.layer, [Root(0, "r", str(self.base))], self.home / "before")

    def manifest(self) -> Manifest:
        return manifest(self.base)

    def close(self) -> None:
        self.session.close()


def fresh(tmp_path: Path, number: int) -> Case:
    home = tmp_path / str(number)
    home.mkdir()
    return Case(home)
