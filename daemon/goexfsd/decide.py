"""The decision: commit or discard a session.

A commit is: flush and checkpoint (what was reviewed is what is committed), then the commit
worker (the owner) plans, checks and stages; its intent becomes durable in the catalog here;
only then it may apply.  From the intent on nothing cancels it: if its client goes away it still
finishes, and if the daemon dies ``recovery`` rolls it forward.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from goexfs.errors import CommitFailed, GoexfsError, Internal, InvalidState, from_wire
from goexfs.names import display
from goexfs.protocol import CommitResult, ConflictInfo, Loss, Operation, Resolution, Summary
from goexfsd.catalog import CommitRow, RootRow
from goexfsd.channel import Channel
from goexfsd.commit import jobs as commit_jobs
from goexfsd.layer.selection import Selection
from goexfsd.session import House, Session
from goexfsd.worker import Worker

log = structlog.get_logger("goexfsd.decide")

Listen = Callable[[dict[str, Any]], Awaitable[None]]


class Drive(Protocol):
    """A way to carry a commit out; ``drive`` is the usual one."""

    async def __call__(
        self,
        session: Session,
        row: CommitRow,
        entry: Callable[[Worker], None],
        layers: dict[str, Path],
        options: dict[str, Any],
        listen: Listen,
        /,
    ) -> tuple[CommitRow, dict[str, Any]]: ...


def new_id() -> str:
    """A fresh commit id."""
    return f"c-{secrets.token_hex(6)}"


@dataclass(slots=True)
class RootLocks:
    """Commits to overlapping roots exclude each other; others run side by side."""

    _held: list[str] = field(default_factory=list)
    _freed: trio.Condition = field(default_factory=trio.Condition)

    def held(self, paths: Iterable[str]) -> bool:
        """Whether an operation holds a root that is, contains or lies below one of ``paths``."""
        return any(overlap(a, b) for a in paths for b in self._held)

    @asynccontextmanager
    async def exclusive(self, paths: Iterable[str]) -> AsyncIterator[None]:
        """Wait until no held path is, contains or lies below one of ``paths``; hold them."""
        mine = list(paths)
        async with self._freed:
            while any(overlap(a, b) for a in mine for b in self._held):
                await self._freed.wait()
            self._held += mine
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                async with self._freed:
                    for path in mine:
                        self._held.remove(path)
                    self._freed.notify_all()


def overlap(a: str, b: str) -> bool:
    """Whether two canonical directories are the same or one contains the other."""
    return a == b or a.startswith(b.rstrip("/") + "/") or b.startswith(a.rstrip("/") + "/")


def pending(house: House, locks: RootLocks) -> list[CommitRow]:
    """Commits past their point of no return that nobody is carrying out: recovery could not."""
    rows = house.catalog.commits(state="intent")
    return [row for row in rows if not locks.held(row.roots)]


def refuse_pending(rows: Iterable[CommitRow], roots: Iterable[str]) -> None:
    """InvalidState if one of the pending commits ``rows`` is to one of ``roots``."""
    mine = list(roots)
    for row in rows:
        if any(overlap(a, b) for a in mine for b in row.roots):
            raise InvalidState(
                f"commit {row.id} to {', '.join(map(display, row.roots))} is pending",
                hint="restart goexfsd, which finishes it; its log and `goexfs doctor` say more",
            )


@dataclass(frozen=True, slots=True)
class Rules:
    """What becomes of conflicts: all of them, and those at and below some paths."""

    every: str = "abort"
    paths: Sequence[tuple[int, bytes, str]] = ()
    strict: bool = False
    """What scripts read and others changed since is a conflict too."""

    def options(self) -> dict[str, Any]:
        """For the commit worker."""
        return {
            "on_conflict": self.every,
            "resolve": list(self.paths),
            "strict": self.strict,
        }


async def commit(
    session: Session,
    locks: RootLocks,
    *,
    message: str,
    select: Selection,
    reviewed: int | None,
    rules: Rules,
    listen: Listen,
    way: Drive | None = None,
) -> CommitResult:
    """Commit the session, or the changes that ``select`` means, in a ``way`` of its own if given.

    When the base has moved and ``rules`` do not decide it all, the result has every conflict
    left and nothing was touched.  Raises
    InvalidState when the layer has moved past the ``reviewed`` checkpoint, Usage for a selection
    that cannot stand alone, Denied or Limit when the base will not take it: nothing changed then
    either.
    """
    with session.exclusively("a commit", alone=True):
        await _check_reviewed(session, reviewed)
        await session.settle("before commit")
        row = CommitRow(
            id=new_id(),
            session=session.id,
            uid=session.row.uid,
            message=message,
            state="staging",
            partial=bool(select),
            created=time.time(),
            ended=None,
            applied=Summary(),
            source=session.row.checkpoint,
            roots=tuple(root.path for root in session.row.roots),
        )
        async with locks.exclusive(row.roots):
            refuse_pending(session.house.catalog.commits(state="intent"), row.roots)
            try:
                return await _run(session, row, select, rules, listen, way or drive)
            finally:
                begun = session.row.state == "committing"
                if begun and not session.house.catalog.unfinished(session.id):
                    session.enter("kept")


async def preview(
    session: Session,
    locks: RootLocks,
    *,
    select: Selection,
    reviewed: int | None,
    rules: Rules,
    listen: Listen,
) -> CommitResult:
    """What ``commit`` would do: the same checks, the same errors, the plan; nothing is touched."""
    with session.exclusively("a dry run"):
        await _check_reviewed(session, reviewed)
        await session.settle("before a dry run")
        store, roots = session.house.store, [root.path for root in session.row.roots]
        async with locks.exclusive(roots):
            refuse_pending(session.house.catalog.commits(state="intent"), roots)
            layers = {"source": store.checkpoint(session.id, session.row.checkpoint)}
            options = {"commit": "dry-run", "select": select, "dry": True, **rules.options()}
            options |= _review(session)
            found: list[dict[str, Any]] = []
            decided = _Decided(listen)
            async with session.job(commit_jobs.commit, layers, options) as channel:
                while (message := await channel.receive()) is not None:
                    if message["event"] == "operations":
                        found += message["operations"]
                    elif message["event"] in ("planned", "nothing", "conflicts"):
                        return _previewed(session, message, found, decided)
                    else:
                        await decided.hear(message)
    raise CommitFailed("the commit worker ended early; nothing was changed")


@dataclass(slots=True)
class _Decided:
    """Listens for what the worker found to warn of, and how it resolved conflicts."""

    listen: Listen
    resolved: list[Resolution] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    async def hear(self, message: dict[str, Any]) -> None:
        if message["event"] == "resolved":
            self.resolved += map(Resolution.model_validate, message["resolved"])
        elif message["event"] == "reviewed":
            self.warnings = message["warnings"]  # of the last of several rounds
        else:
            await self.listen(message)


def _previewed(
    session: Session, last: dict[str, Any], operations: list[dict[str, Any]], decided: _Decided
) -> CommitResult:
    return _unchanged(session, last, decided).model_copy(
        update={
            "applied": Summary.model_validate(last.get("applied", {})),
            "plan": [Operation.model_validate(each) for each in operations],
        }
    )


def _review(session: Session) -> dict[str, Any]:
    """For the commit worker: that it tells what a reviewer should see, and rules of the house."""
    return {"review": True, "rules": [rule.keywords() for rule in session.house.config.warnings]}


async def _check_reviewed(session: Session, reviewed: int | None) -> None:
    if reviewed is None:
        return
    if session.row.checkpoint != reviewed or await session.moved():
        raise InvalidState(
            f"session {session.row.name} has changed since checkpoint {reviewed}",
            hint="look at the diff again, then commit what it shows",
        )


async def _run(
    session: Session,
    row: CommitRow,
    select: Selection,
    rules: Rules,
    listen: Listen,
    way: Drive,
) -> CommitResult:
    layers = {"source": session.house.store.checkpoint(session.id, row.source)}
    options = {"commit": row.id, "select": select, **rules.options(), **_review(session)}
    decided = _Decided(listen)
    row, final = await way(session, row, commit_jobs.commit, layers, options, decided.hear)
    if final["event"] != "applied":
        return _unchanged(session, final, decided)
    if row.partial:
        with trio.CancelScope(shield=True):
            final = await _rebase(session, row)
    remaining = Summary.model_validate(final["remaining"])
    closed = not row.partial or final["remaining_total"] == 0
    with session.house.catalog.together():
        row = finish(session, row, final)
        if closed:
            session.enter("applied", ended=time.time(), why="committed")
        else:
            session.enter("kept")
    return CommitResult(
        commit=row.id,
        session=session.id,
        applied=row.applied,
        resolved=decided.resolved,
        remaining=remaining,
        closed=closed,
        warnings=decided.warnings,
        losses=losses(session, final),
        late=len(final["late"]),
        kept=final.get("kept"),
        sha256=row.digest,
    )


async def drive(
    session: Session,
    row: CommitRow,
    entry: Callable[[Worker], None],
    layers: dict[str, Path],
    options: dict[str, Any],
    listen: Listen,
) -> tuple[CommitRow, dict[str, Any]]:
    """Run a commit (or undo) worker from its start to its end, the intent durable in between.

    Returns the row as it is then, and the worker's last message: ``applied``, or ``nothing`` or
    ``conflicts`` when nothing was touched and the row is forgotten.  The caller calls ``finish``.
    Raises when it was taken back.
    """
    store, catalog = session.house.store, session.house.catalog
    before = await trio.to_thread.run_sync(
        store.create_commit, row.id, session.row.uid, session.row.gid
    )
    with catalog.together():
        if row.undoes is None:
            session.enter("commit")
        catalog.add_commit(row)
    decided = False
    clean = False
    try:
        async with session.job(entry, {**layers, "before": before}, options) as channel:
            early = await until_intent(channel, listen)
            if early["event"] != "intent":
                clean = True
                return row, early
            with trio.CancelScope(shield=True):
                row = catalog.set_commit(row, state="intent", digest=early["sha256"])
                decided = True
                channel.send({"cmd": "go"})
                final = await until_applied(channel, listen)
    except CommitFailed as error:
        if not decided:
            raise
        log.warning("commit worker failed; rolling forward", commit=row.id, error=error.message)
        with trio.CancelScope(shield=True):
            final = await roll(session, row, None)
    except GoexfsError as error:
        # The worker said so itself, having taken its staging back, unless it was taken by surprise.
        clean = not isinstance(error, Internal)
        raise
    finally:
        if not decided:
            with trio.CancelScope(shield=True):
                await _take_back(session, row, clean=clean)
    if final["outcome"] == "back":
        await _take_back(session, row, clean=True)
        raise taken_back(final)
    return row, final


def losses(session: Session, final: dict[str, Any]) -> list[Loss]:
    """What a worker could not carry over."""
    names = [root.name for root in session.row.roots]
    return [
        Loss(root=names[item["root"]], path=item["path"], what=item["what"])
        for item in final["losses"]
    ]


def conflicts(early: dict[str, Any]) -> list[ConflictInfo]:
    """The conflicts in a worker's last message."""
    return [ConflictInfo.model_validate(item) for item in early.get("conflicts", ())]


def _unchanged(session: Session, early: dict[str, Any], decided: _Decided) -> CommitResult:
    """The result of a commit that ended before its intent: conflicts, or nothing to do."""
    return CommitResult(
        commit=None,
        session=session.id,
        applied=Summary(),
        conflicts=conflicts(early),
        resolved=decided.resolved if early["event"] != "conflicts" else [],
        warnings=decided.warnings,
        remaining=Summary.model_validate(early.get("remaining", {})),
        closed=False,
    )


def taken_back(final: dict[str, Any]) -> GoexfsError:
    """Why a commit was taken back, from the worker's last message."""
    if "error" in final:
        return from_wire(final["error"])
    return CommitFailed("the commit could not be applied and was taken back; nothing is changed")


async def _take_back(session: Session, row: CommitRow, *, clean: bool) -> None:
    """Forget a commit that never reached its intent; one that cannot be now, recovery will."""
    store = session.house.store
    if not clean:
        try:
            await roll(session, row, None)
        except GoexfsError as error:
            log.error("staging stays until the next start", commit=row.id, error=error.message)
            return
    session.house.catalog.drop_commit(row.id)
    await trio.to_thread.run_sync(store.delete_commit, row.id)


def finish(session: Session, row: CommitRow, final: dict[str, Any]) -> CommitRow:
    """Record that a commit is applied, durably."""
    applied = Summary.model_validate(final["applied"])
    # Before the catalog: a crash between the two makes this entry twice, and not never.
    session.house.audit.add(
        "applied",
        durable=True,
        owner=row.uid,
        session=row.session,
        commit=row.id,
        undoes=row.undoes,
        checkpoint=row.source,
        changes=applied.total,
        changes_sha256=row.digest,
    )
    return session.house.catalog.set_commit(
        row, state="done", applied=applied, ended=time.time(), bytes=final["bytes"]
    )


async def _rebase(session: Session, row: CommitRow) -> dict[str, Any]:
    """Take what a partial commit applied out of the live layer, under the mounted view.

    It is done to a new layer, which then takes the live one's place.  Until that is in place the
    commit counts as unfinished: after a crash, recovery does it to the layer itself.
    """
    store = session.house.store
    await session.settle("written during a commit")
    roots = None if session.generation is None else await session.freeze()
    path = await trio.to_thread.run_sync(store.restore, session.id, session.row.checkpoint)
    final = await roll(session, row, path, roots)
    await session.swap(path, roots)
    await session.checkpoint(step=None, label=f"after {row.id}")
    return final


async def roll(
    session: Session, row: CommitRow, live: Path | None, roots: tuple[RootRow, ...] | None = None
) -> dict[str, Any]:
    """Finish (state ``intent``) or take back (state ``staging``) a commit that was cut off.

    A partial commit is also taken out of the layer ``live``, which lies over ``roots`` from then
    on (None: over those that it has).  Idempotent; returns the worker's last message.  Raises
    the worker's error if it cannot: the commit then stays as it is for the next try.
    """
    store = session.house.store
    if row.state == "staging" and row.id not in store.commits():
        # It was named, and power went before its place was on disk: nothing was staged, for where
        # that would be is recorded there first.
        return {"outcome": "back"}
    layers = {"before": store.commit_path(row.id)}
    if live is not None:
        layers["live"] = live
    options = {"commit": row.id, "state": row.state}
    async with session.job(commit_jobs.recover, layers, options, roots) as channel:
        return await until_applied(channel, _deaf)


async def until_intent(channel: Channel, listen: Listen) -> dict[str, Any]:
    """``intent`` when the worker waits at it; its last message when it ended before."""
    while (message := await channel.receive()) is not None:
        if message["event"] in ("intent", "nothing", "conflicts"):
            return message
        await listen(message)
    raise CommitFailed("the commit worker ended before it applied anything; nothing was changed")


async def until_applied(channel: Channel, listen: Listen) -> dict[str, Any]:
    """The worker's last message, whoever listens; CommitFailed if it ended without."""
    try:
        while (message := await channel.receive()) is not None:
            if message["event"] == "applied":
                return message
            try:
                await listen(message)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                log.info("the client of a commit is gone; it goes on")
                listen = _deaf
    except GoexfsError as error:
        raise CommitFailed(
            f"the commit stopped half-way and is not undone: {error.message}",
            hint="restart the daemon: it finishes the commit from its intent",
        ) from error
    raise CommitFailed(
        "the commit worker died while applying",
        hint="restart the daemon: it finishes the commit from its intent",
    )


async def _deaf(message: dict[str, Any]) -> None:
    del message
