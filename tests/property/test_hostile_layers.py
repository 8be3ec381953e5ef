"""A layer that nobody of ours wrote: reading it fails with one of our errors, or not at all.

The disk may be damaged, or a former version have had a bug; a script cannot do this.  Whatever the
layer says, nothing outside the root is read.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from goexfs.errors import StoreFailed
from goexfsd.layer.format import OPAQUE, REDIRECT
from goexfsd.layer.origins import NOTHING, Kind, Record, encode
from layering import Session
from layerops import Op, base_trees, build, operations, perform
from warned import review

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes as root does"),
]

CANARY = b"nothing of this may be seen"
names = st.sampled_from([b"a", b"b", b"c", b".wh.a", b"x" * 255, b"\xff\n\x1b[31m"])
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
redirects = st.sampled_from(
    [b"", b"/", b"//", b"a", b"/a", b"/a/b/c", b"/..", b"/../outside", b"/a/../../outside", b"/.",
     b"/a/", b"\0", b"/" + b"x" * 300, b"/outside-link", b"/\xff"]
)  # fmt: skip
numbers = st.sampled_from([0, 1, 2, 256, 257, 258, 259, 260, 1 << 40, (1 << 64) - 1])
records = st.builds(
    lambda kind, root, step, ino, path: encode(Record(kind, root, step, ino, path, NOTHING)),
    st.sampled_from(list(Kind)),
    st.sampled_from([0, 1, 200]),
    st.integers(0, 9),
    numbers,
    st.one_of(paths, redirects),
)
damage = st.one_of(
    st.tuples(st.just("whiteout"), paths),
    st.tuples(st.just("device"), paths),
    st.tuples(st.just("fifo"), paths),
    st.tuples(st.just("file"), paths),
    st.tuples(st.just("directory"), paths),
    st.tuples(st.just("link out"), paths),
    st.tuples(st.just("mark"), paths, st.just(REDIRECT), redirects),
    st.tuples(st.just("mark"), paths, st.just(OPAQUE), st.sampled_from([b"", b"y", b"x", b"yy"])),
    st.tuples(st.just("mark"), paths, st.just(b"user.overlay.origin"), st.binary(max_size=20)),
    st.tuples(st.just("record"), records),
    st.tuples(st.just("log"), st.binary(max_size=200)),
    st.tuples(st.just("cut"), st.integers(0, 400)),
    st.tuples(st.just("flip"), st.integers(0, 4000)),
    st.tuples(st.just("index"), names),
)


class Vandal:
    """Does to a layer what it is told, as far as that is possible."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.top = session.upper(b"")
        self.log = session.layer + b"/origins"

    def do(self, what: str, *arguments: object) -> None:
        method: Callable[..., None] = getattr(self, "do_" + what.replace(" ", "_"))
        with contextlib.suppress(OSError):
            method(*arguments)

    def at(self, path: bytes) -> bytes:
        return self.top + b"/" + path

    def do_whiteout(self, path: bytes) -> None:
        os.mknod(self.at(path), 0o20000, 0)

    def do_device(self, path: bytes) -> None:
        os.mknod(self.at(path), 0o60600, os.makedev(7, 99))

    def do_fifo(self, path: bytes) -> None:
        os.mkfifo(self.at(path))

    def do_file(self, path: bytes) -> None:
        with open(self.at(path), "xb") as file:
            file.write(b"upper")

    def do_directory(self, path: bytes) -> None:
        os.mkdir(self.at(path))

    def do_link_out(self, path: bytes) -> None:
        os.symlink(self.session.home + b"/outside", self.at(path))

    def do_mark(self, path: bytes, name: bytes, value: bytes) -> None:
        os.setxattr(self.at(path), name, value, follow_symlinks=False)

    def do_record(self, data: bytes) -> None:
        self.do_log(data)

    def do_log(self, data: bytes) -> None:
        with open(self.log, "ab") as log:
            log.write(data)

    def do_cut(self, size: int) -> None:
        os.truncate(self.log, min(size, os.path.getsize(self.log)))

    def do_flip(self, place: int) -> None:
        with open(self.log, "r+b") as log:
            data = log.read()
            if data:
                log.seek(place % len(data))
                log.write(bytes([data[place % len(data)] ^ 0x41]))

    def do_index(self, name: bytes) -> None:
        os.symlink(self.session.home + b"/outside/canary", self.session.layer + b"/index/" + name)


@settings(
    max_examples=int(os.environ.get("GOEXFS_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@example([], [], [("directory", b"a"), ("mark", b"a", REDIRECT, b"/../outside")])
@example([], [], [("link out", b"a")])
@example([], [], [("log", b"\xff" * 64)])
@given(base_trees(), operations(), st.lists(damage, min_size=1, max_size=12))
def test_a_hostile_layer_is_read_or_refused(
    base: list[Op], ops: list[Op], harm: list[tuple[object, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as home:
        outside = Path(home) / "outside"
        outside.mkdir()
        (outside / "canary").write_bytes(CANARY)
        session = Session.over(Path(home), build(base))
        os.symlink(outside, session.base + b"/outside-link")
        try:
            perform(session, ops)
            vandal = Vandal(session)
            for what, *arguments in harm:
                vandal.do(str(what), *arguments)
            try:
                found = review(session, patch=True)
            except StoreFailed:
                return
            assert CANARY not in found.patch
            assert b"canary" not in b"".join(found.of)
        finally:
            session.close()
