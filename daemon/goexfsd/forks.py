"""Forks: independent sessions from any checkpoint of another.

A fork has the roots and the owner of its parent, a layer that begins as the parent's checkpoint
(a snapshot: constant in what was changed), and a view, checkpoints and steps of its own.  The
origins come along in the layer, so each of several forks is checked at its commit against the
base as *its* session saw it: the first to commit wins, the others meet conflicts where they
touch the same entries.  After that neither needs the other.

It does not open or serve the session; the service does.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from dataclasses import replace

from goexfs import protocol as p
from goexfs.errors import InvalidState, NotFound, Usage
from goexfsd.catalog import Catalog, SessionRow
from goexfsd.session import Session


async def point(parent: Session, request: p.Fork) -> int:
    """The checkpoint to fork at.

    Where none is named one is taken of what no checkpoint holds yet; that needs the session to
    be free.  An older one may be forked at while a script runs.
    """
    if request.step is not None and request.checkpoint is not None:
        raise Usage("fork takes a step or a checkpoint, not both")
    if request.checkpoint is not None:
        parent.require(request.checkpoint)
        return request.checkpoint
    if request.step is not None:
        return _after(parent, request.step)
    with parent.exclusively("a fork"):
        await parent.settle("before fork")
        return parent.row.checkpoint


def _after(parent: Session, step: int) -> int:
    catalog = parent.house.catalog
    if step == 0:
        parent.require(0)
        return 0
    row = catalog.step(parent.id, step)
    if row is None:
        raise NotFound(
            f"session {parent.row.name} has no step {step}", hint="goexfs log lists them"
        )
    if row.checkpoint is None:
        raise InvalidState(
            f"there is no checkpoint after step {step}",
            hint="it runs still, or was cut off; goexfs log lists checkpoints",
        )
    return row.checkpoint


def new_row(parent: SessionRow, at: int, name: str, slots: Collection[int]) -> SessionRow:
    """The fork's row: the parent's but for what must be its own."""
    return replace(
        parent,
        id=f"s-{secrets.token_hex(5)}",
        name=name,
        slot=next(n for n in range(len(slots) + 1) if n not in slots),
        at=None,
        at_ino=0,
        state="opening",
        checkpoint=-1,
        created=time.time(),
        ended=None,
        why=None,
        forked=parent.id,
        forked_at=at,
    )


def first_checkpoint(parent: SessionRow, at: int) -> p.CheckpointInfo:
    """Checkpoint 0 of a fork."""
    label = f"forked from {parent.name} at checkpoint {at}"
    return p.CheckpointInfo(number=0, parent=None, step=None, label=label, created=time.time())


def inherited(catalog: Catalog, row: SessionRow) -> list[p.Inherited]:
    """The steps that led to where a session was forked, and its parent, and so on."""
    found: list[p.Inherited] = []
    while row.forked is not None and row.forked_at is not None:
        parent = catalog.session(row.forked)
        if parent is None:
            break
        line = _line(catalog, parent.id, row.forked_at)
        steps = [step.info() for step in catalog.steps(parent.id) if step.checkpoint in line]
        found.append(
            p.Inherited(session=parent.id, name=parent.name, checkpoint=row.forked_at, steps=steps)
        )
        row = parent
    return found[::-1]


def _line(catalog: Catalog, sid: str, number: int) -> set[int]:
    """A checkpoint and those that it descends from."""
    parents = {info.number: info.parent for info in catalog.checkpoints(sid)}
    line: set[int] = set()
    at: int | None = number
    while at is not None and at not in line:
        line.add(at)
        at = parents.get(at)
    return line
