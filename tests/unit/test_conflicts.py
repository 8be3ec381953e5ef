"""A change list made at one moment, the check at another: entries swapped to and fro between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from goexfsd import kernel
from goexfsd.commit import conflicts
from goexfsd.commit.base import Base
from goexfsd.commit.places import Places
from goexfsd.layer import seen
from goexfsd.layer.changes import compute
from layering import Root, Session


@contextmanager
def exchanged(top: bytes, one: bytes, two: bytes) -> Iterator[None]:
    fd = os.open(top, os.O_PATH | os.O_DIRECTORY)
    try:
        kernel.renameat2(fd, one, fd, two, kernel.RENAME_EXCHANGE)
        yield
        kernel.renameat2(fd, one, fd, two, kernel.RENAME_EXCHANGE)
    finally:
        os.close(fd)


def test_a_list_made_while_a_directory_was_swapped_for_a_link_is_a_conflict(tmp_path: Path) -> None:
    """Its changes say that the link becomes a directory; applied to the directory, they would
    replace all of it."""

    def build(base: bytes) -> None:
        os.mkdir(base + b"/spot")
        for name in (b"victim", b"second"):
            Path(os.fsdecode(base + b"/spot/" + name)).write_text("base\n")
        os.symlink(b"/tmp", base + b"/link")

    session = Session.over(tmp_path, build)
    session.write(b"spot/victim", b"changed\n")
    session.unlink(b"spot/second")
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    top = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    base = Base([top])
    try:

        def found(swapped: bool) -> list[tuple[bytes, str]]:
            if swapped:
                with exchanged(session.base, b"spot", b"link"):
                    changes = compute(layer, [Root()], [top])
            else:
                changes = compute(layer, [Root()], [top])
            known = seen.read(layer, [0])
            return [
                (conflict.path, conflict.reason)
                for conflict in conflicts.check(changes, Places(changes), known, base)
            ]

        assert found(swapped=False) == []
        assert (b"spot", "replaced") in found(swapped=True)
    finally:
        base.close()
        os.close(top)
        os.close(layer)
        session.close()
