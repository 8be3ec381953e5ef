"""Verify: is the base what a commit left, or what an open session found?

Like undo it needs a commit's records, so it works for as long as a commit can be undone.
"""

from __future__ import annotations

from typing import Any

from goexfs.errors import CommitFailed, InvalidState
from goexfs.protocol import VerifyDifference, VerifyResult
from goexfsd.catalog import CommitRow
from goexfsd.commit import verify as jobs
from goexfsd.decide import RootLocks, refuse_pending
from goexfsd.session import House, Session


async def commit(house: House, locks: RootLocks, row: CommitRow) -> VerifyResult:
    """Whether what the commit ``row`` did stands.  Raises InvalidState for one that tells not."""
    if row.state != "done":
        raise InvalidState(f"commit {row.id} is not finished", hint="restart goexfsd")
    undone_by = house.catalog.undone().get(row.id)
    if undone_by is not None:
        raise InvalidState(
            f"commit {row.id} was undone by {undone_by}", hint=f"goexfs verify {undone_by}"
        )
    if row.dropped is not None:
        raise InvalidState(
            f"commit {row.id} cannot be verified any more: its records are no longer kept",
            hint="the [undo] section of goexfsd.toml says how long they are",
        )
    found = house.catalog.session(row.session)
    assert found is not None, "sessions are never forgotten"
    async with locks.exclusive(row.roots):
        refuse_pending(house.catalog.commits(state="intent"), row.roots)
        layers = {"before": house.store.commit_path(row.id)}
        options = {"heirs": house.catalog.heirs()}
        return await _run(Session(house, found), jobs.commit, layers, row.id, options)


async def session(found: Session) -> VerifyResult:
    """Whether every base entry that an open session touched is as the session saw it first."""
    if found.hold is not None:
        await found.view().flush()
    layers = {"live": found.house.store.layer(found.id)}
    return await _run(found, jobs.session, layers, None)


async def _run(
    found: Session,
    entry: Any,
    layers: Any,
    commit: str | None,
    options: dict[str, Any] | None = None,
) -> VerifyResult:
    differences: list[VerifyDifference] = []
    async with found.job(entry, layers, options or {}) as channel:
        while (message := await channel.receive()) is not None:
            if message["event"] == "differences":
                differences += map(VerifyDifference.model_validate, message["differences"])
            elif message["event"] == "verified":
                return VerifyResult(
                    commit=commit,
                    session=found.id,
                    checked=message["checked"],
                    differences=differences,
                )
    raise CommitFailed("the worker that verifies ended early")
