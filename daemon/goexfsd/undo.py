"""Undo: a commit is taken back by a new one.

The worker does it from the plan and the before-images of the commit, through the same engine,
so an undo is as atomic, as careful of other people's changes, and as revocable as a commit.  It
needs nothing of the session, which may be long over.

Which commit is meant when none is named: the newest of the caller's that still stands.  An undo
itself is not meant then, so that asking again goes further back; an undo of an undo is, for it
stands for the commit that it brought back.
"""

from __future__ import annotations

import time
from pathlib import Path

from goexfs.errors import InvalidState, NotFound
from goexfs.protocol import CommitInfo, Summary, UndoResult
from goexfsd import decide, retention
from goexfsd.catalog import CommitRow
from goexfsd.commit import jobs
from goexfsd.decide import Listen, RootLocks, overlap
from goexfsd.session import House, Session


async def undo(
    house: House, locks: RootLocks, row: CommitRow, *, message: str, listen: Listen
) -> UndoResult:
    """Take back the commit ``row``.

    What changed since is in the result as conflicts, and nothing was touched then.  Raises
    InvalidState for a commit that cannot be undone (any more).
    """
    session = _session(house, row)
    async with locks.exclusive(row.roots):
        decide.refuse_pending(house.catalog.commits(state="intent"), row.roots)
        check(house, row)
        new = CommitRow(
            id=decide.new_id(),
            session=row.session,
            uid=row.uid,
            message=message,
            state="staging",
            partial=False,
            created=time.time(),
            ended=None,
            applied=Summary(),
            source=row.source,
            roots=row.roots,
            undoes=row.id,
        )
        layers = {"undone": house.store.commit_path(row.id), **_since(house, row)}
        options = {"commit": new.id, "heirs": house.catalog.heirs()}
        new, final = await decide.drive(session, new, jobs.undo, layers, options, listen)
        if final["event"] != "applied":
            return UndoResult(
                commit=None,
                undone=row.id,
                session=row.session,
                applied=Summary(),
                conflicts=decide.conflicts(final),
            )
        new = decide.finish(session, new, final)
    await retention.prune(house, locks)
    return UndoResult(
        commit=new.id,
        undone=row.id,
        session=row.session,
        applied=new.applied,
        losses=decide.losses(session, final),
        late=len(final["late"]),
    )


def _session(house: House, row: CommitRow) -> Session:
    found = house.catalog.session(row.session)
    assert found is not None, "sessions are never forgotten"
    return Session(house, found)


def _since(house: House, row: CommitRow) -> dict[str, Path]:
    """The undos since, as layers: what they brought back is not somebody else's change."""
    later = [
        other
        for other in house.catalog.commits(state="done")
        if other.undoes is not None
        and other.dropped is None
        and other.uid == row.uid
        and other.created > row.created
        and any(overlap(a, b) for a in row.roots for b in other.roots)
    ]
    return {
        f"undo-{number:06}": house.store.commit_path(other.id) for number, other in enumerate(later)
    }


def check(house: House, row: CommitRow) -> None:
    """InvalidState, with the reason, if a commit cannot be undone."""
    if row.state != "done":
        raise InvalidState(
            f"commit {row.id} is not finished", hint="restart goexfsd: it finishes pending commits"
        )
    undone_by = house.catalog.undone().get(row.id)
    if undone_by is not None:
        raise InvalidState(
            f"commit {row.id} was undone by {undone_by} already",
            hint=f"goexfs undo {undone_by} brings it back",
        )
    if row.dropped is not None:
        raise InvalidState(
            f"commit {row.id} cannot be undone any more: its before-images are no longer kept",
            hint="the [undo] section of goexfsd.toml says how long they are",
        )


def newest(house: House, uid: int, cwd: str | None, *, undos: bool = False) -> CommitRow:
    """The newest commit of the user's that stands and can be undone; NotFound if there is none.

    With ``undos`` one that took another away counts too: it stands as well.
    """
    rows = {row.id: row for row in house.catalog.commits(state="done")}
    undone = house.catalog.undone()
    fits = [
        row
        for row in rows.values()
        if row.uid == uid
        and row.dropped is None
        and row.id not in undone
        and (undos or not _takes_away(row, rows))
    ]
    if not fits:
        what = "verified" if undos else "undone"
        raise NotFound(f"there is no commit of yours that could be {what}")
    here = [row for row in fits if cwd is not None and any(_holds(root, cwd) for root in row.roots)]
    return max(here or fits, key=lambda row: row.created)


def _takes_away(row: CommitRow, rows: dict[str, CommitRow]) -> bool:
    """Whether a commit is an undo, and not one of an undo, and so on."""
    takes = False
    while row.undoes is not None:
        takes = not takes
        before = rows.get(row.undoes)
        if before is None:
            break
        row = before
    return takes


def _holds(root: str, path: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def infos(house: House, sid: str) -> list[CommitInfo]:
    """The done commits of a session, as a client sees them."""
    undone = house.catalog.undone()
    rows = house.catalog.commits(session=sid, state="done")
    return [
        row.info(
            undone_by=undone.get(row.id),
            until=None if row.id in undone else retention.until(house.config.undo, row),
        )
        for row in rows
    ]
