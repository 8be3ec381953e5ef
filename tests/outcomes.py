"""After a commit the base is what the view showed: for the tests of random sessions."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from committing import Bench, Ran, litter
from goexfsd.layer.changes import Change, compute
from goexfsd.worker import Root
from layering import Item, Session, manifest

Shown = tuple[object, ...]


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


def check(session: Session, ran: Ran) -> None:
    assert ran.last["event"] in ("applied", "nothing"), ran.messages
    view, base = manifest(session.model), manifest(session.base)
    assert shown(base) == shown(view)
    assert litter(session.base) == []
