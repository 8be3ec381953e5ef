"""The view against a plain directory: the same operations on both, the same trees and errnos.

Hypothesis makes up sequences of operations over few names, so that they meet: hard links,
renames over and into each other, exchanges, attributes, open handles.  In between the view is
remounted, its worker killed, and the base edited: what the session left alone (all below ``o``)
shows the edit, what it touched (all below ``t``) does not.  The plain directory is a copy of the
base on the btrfs that also holds the layer.  At the end the base is what it was, but for the
edits; and a commit makes it what the view was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from committing import Bench
from daemons import User
from goexfsd.worker import Owner, Root
from sides import Side, acting, compare, picture
from views import View, create_layer, store

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]

PARTS = ["a", "b", "d", "e"]
paths = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("/".join)
texts = st.binary(max_size=12)
modes = st.sampled_from([0o644, 0o600, 0o755, 0o400, 0o4755, 0o2775, 0o1777, 0])
xattrs = st.sampled_from(["user.x", "user.overlay.opaque", "user.overlay.redirect", "trusted.t"])

outer = st.lists(st.sampled_from(PARTS[:3]), max_size=2).map(lambda parts: "/".join(["o", *parts]))
edits = st.one_of(
    st.tuples(st.just("replace"), outer, texts),
    st.tuples(st.just("append"), outer, texts),
    st.tuples(st.just("mkdir"), outer, st.just(0o755)),
    st.tuples(st.just("rmtree"), outer),
    st.tuples(st.just("unlink"), outer),
    st.tuples(st.just("rename"), outer, outer, st.sampled_from([0, 2])),
    st.tuples(st.just("link"), outer, outer),
    st.tuples(st.just("chmod"), outer, st.sampled_from([0o600, 0o755])),
)

ops = st.one_of(
    st.tuples(st.just("write"), paths, st.integers(0, 9000), texts),
    st.tuples(st.just("append"), paths, texts),
    st.tuples(st.just("replace"), paths, texts),
    st.tuples(st.just("create"), paths, texts),
    st.tuples(st.just("truncate"), paths, st.integers(0, 9000)),
    st.tuples(st.just("mkdir"), paths, modes),
    st.tuples(st.just("rmdir"), paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("rmtree"), paths),
    st.tuples(st.just("rename"), paths, paths, st.sampled_from([0, 0, 0, 1, 2])),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("symlink"), st.just("a/b"), paths),
    st.tuples(st.just("mkfifo"), paths),
    st.tuples(st.just("chmod"), paths, modes),
    st.tuples(st.just("chown"), paths, st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("utime"), paths, st.integers(0, 10**18)),
    st.tuples(st.just("setxattr"), paths, xattrs, texts),
    st.tuples(st.just("removexattr"), paths, xattrs),
    st.tuples(st.just("listdir"), paths),
    st.tuples(st.just("open"), paths),
    st.tuples(st.just("handle-write"), st.integers(0, 5), st.integers(0, 100), texts),
    st.tuples(st.just("handle-read"), st.integers(0, 5)),
    st.tuples(st.just("handle-truncate"), st.integers(0, 5), st.integers(0, 100)),
    st.tuples(st.just("handle-stat"), st.integers(0, 5)),
    st.tuples(st.just("close"), st.integers(0, 5)),
    st.just(("remount",)),
    st.just(("step",)),
)
more = st.one_of(
    ops,
    st.just(("kill",)),
    st.tuples(st.just("look"), outer),
    st.tuples(st.just("edit"), edits),
    st.tuples(st.just("edit-touched"), st.sampled_from(PARTS), texts),
)


def fill(base: Path) -> None:
    """A base with one of everything, over the names that the operations use."""
    (base / "d" / "e" / "d").mkdir(parents=True)
    (base / "e").mkdir()
    (base / "a").write_bytes(b"base a" * 1000)
    (base / "d" / "a").write_bytes(b"base d/a")
    (base / "d" / "e" / "b").write_bytes(b"base d/e/b")
    (base / "d" / "e" / "d" / "a").write_bytes(b"deep")
    os.link(base / "d" / "a", base / "e" / "a")
    os.link(base / "d" / "a", base / "d" / "e" / "a")
    for top in ("o", "t"):
        (base / top).mkdir()
        for name in PARTS:
            (base / top / name).write_bytes(b"base " + name.encode())
    os.symlink("d/a", base / "b")
    os.mkfifo(base / "d" / "b")
    os.setxattr(base / "a", "user.x", b"was here")
    os.setxattr(base / "d", "user.x", b"dir")
    os.chmod(base / "d" / "e", 0o2755)
    for directory, names, files in os.walk(base, topdown=False):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


@pytest.fixture(scope="module")
def arena() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="model-"))
    directory.chmod(0o755)
    with store(directory) as at:
        yield at
    shutil.rmtree(directory)


UIDS = (0, 21001)


@pytest.mark.parametrize("uid", UIDS)
@settings(
    max_examples=int(os.environ.get("GOEXFS_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(steps=st.lists(more, max_size=40), compiled=st.booleans())
@example(steps=[("edit", ("chmod", "o", 0o600))], compiled=True)  # listed, and nothing else
def test_view_equals_a_plain_directory(
    arena: Path, steps: list[Any], compiled: bool, uid: int
) -> None:
    home = Path(tempfile.mkdtemp(dir=arena))
    home.chmod(0o755)
    try:
        with Pair(home, uid, compiled=compiled) as pair:
            for number, op in enumerate(steps):
                pair.do(number, op)
            pair.end()
        pair.commit()
    finally:
        for layer in home.glob("layer"):
            subprocess.run(["btrfs", "-q", "subvolume", "delete", str(layer)], check=True)
        shutil.rmtree(home)


class Pair:
    """A fresh view and a copy of its base, in a session of ``uid``."""

    def __init__(self, home: Path, uid: int, *, compiled: bool) -> None:
        """``compiled``: whether the view answers plain requests in C, until it is restarted;
        then the other way."""
        self.home, self.uid = home, uid
        self.owner = Owner(uid, uid, ())
        self.base, plain = home / "base", home / "plain"
        self.base.mkdir()
        fill(self.base)
        User(uid, uid).own(self.base)
        (self.base / "d" / "e").chmod(0o2755)
        subprocess.run(["cp", "-a", str(self.base), str(plain)], check=True)
        self.copy = Side(self.base)
        """The base itself, for the edits of others."""
        layer = create_layer(home / "layer", self.owner, [self.base.name])
        self.view = View([self.base], layer, home / "mnt", self.owner)
        self.view.options["compiled"] = compiled
        self.sides = Side(self.view.top), Side(plain)
        self.conflicts = False

    def __enter__(self) -> Pair:
        self.view.start()
        for name in PARTS:
            self.both(("append", f"t/{name}", b"the session's"))
        self.before = picture(os.fsencode(self.base))
        return self

    def __exit__(self, *_: object) -> None:
        for side in self.sides:
            side.close_all()
        self.view.stop()

    def both(self, op: tuple[Any, ...]) -> None:
        with acting(self.uid):
            got, wanted = (side.do(op) for side in self.sides)
        assert got == wanted, (op, got, wanted)

    def do(self, number: int, op: tuple[Any, ...]) -> None:
        name, *arguments = op
        if name == "step":
            self.view.command("step", number=number)
        elif name in ("remount", "kill", "edit", "edit-touched"):
            self.away(name == "kill", name, arguments)
        else:
            self.both(op)

    def away(self, kill: bool, name: str, arguments: list[Any]) -> None:
        """The view is unmounted or its worker killed; edits of others fall into that time, so
        that nobody need wait until they show."""
        for side in self.sides:
            side.close_all()
        if kill:
            self.view.kill()
        else:
            self.view.stop()
        if name == "edit":
            with acting(self.uid):
                assert self.copy.do(arguments[0]) == self.sides[1].do(arguments[0])
        elif name == "edit-touched":
            (self.base / "t" / arguments[0]).write_bytes(b"another's" + arguments[1])
            self.conflicts = True
        self.view.options["compiled"] = not self.view.options["compiled"]
        if name.startswith("edit"):
            self.before = picture(os.fsencode(self.base))
        self.view.start()

    def end(self) -> None:
        """All is equal, at once and after a remount; and the base is as it was."""
        with acting(self.uid):
            compare(self.sides)
        self.away(False, "remount", [])
        with acting(self.uid):
            compare(self.sides)
        assert picture(os.fsencode(self.base)) == self.before, "the base changed"
        assert not os.listdir(self.view.layer / "work"), "litter in work"

    def commit(self) -> None:
        """The base becomes what the view was, or all conflicts are told and nothing is done."""
        before = picture(os.fsencode(self.base))
        roots = [Root(0, self.base.name, str(self.base))]
        ran = Bench(str(self.view.layer), roots, self.home / "before", self.owner).commit()
        if self.conflicts:
            assert ran.last["event"] == "conflicts", ran.messages
            assert picture(os.fsencode(self.base)) == before
        else:
            assert ran.last["event"] in ("applied", "nothing"), ran.messages
            compare((self.copy, self.sides[1]))
