"""At start: what a former life left is rolled forward or back; needs no person.

Order matters:

1. ``await_workers``: no worker of the former life may still be at work (each holds a shared
   flock; the new daemon waits for them, then kills them);
2. mounts that it left are detached;
3. steps that ran are marked interrupted; sessions that never came up are dropped;
4. commits: ``staging`` is taken back, ``intent`` is rolled forward (``decide.roll``);
5. whatever the store holds and the catalog does not name is deleted.

Every step is idempotent: a crash during recovery is recovered from by the next start.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
import trio

from goexfs.errors import GoexfsError, StoreFailed
from goexfsd import decide, hold, kernel, switch
from goexfsd.catalog import Catalog, CommitRow
from goexfsd.lifecycle import LIVE
from goexfsd.seat import Seat
from goexfsd.session import House, Session
from goexfsd.store import Store

log = structlog.get_logger("goexfsd.recovery")

WORKER_GRACE = 10.0
"""Seconds that former workers have to end by themselves before they are killed."""


def await_workers(lock: Path) -> None:
    """Return when no worker holds ``lock`` (made if missing).  Blocks up to 20 s."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        kill_at = time.monotonic() + WORKER_GRACE
        while not kernel.lock_exclusive(fd, wait=False):
            if time.monotonic() > kill_at:
                for pid in _holders(os.fstat(fd)):
                    log.warning("killing a worker of the former daemon", pid=pid)
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > kill_at + WORKER_GRACE:
                raise StoreFailed(
                    "a worker of a former daemon does not end",
                    hint=f"fuser -v {lock} shows it; reboot if it cannot be killed",
                )
            time.sleep(0.02)
    finally:
        os.close(fd)


def _holders(st: os.stat_result) -> list[int]:
    """Processes that hold a flock on this file, from /proc/locks."""
    key = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}:{st.st_ino}"
    found = []
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5] == key and int(fields[4]) > 0:
            found.append(int(fields[4]))
    return found


def clear_mounts(runtime_dir: Path, catalog: Catalog) -> None:
    """Detach every view that a former daemon left mounted, and remove its directories."""
    views = runtime_dir / "views"
    for path in reversed(hold.view_mounts()):
        if path.startswith(f"{views}/"):
            hold.unmount_all(path)
    for row in catalog.sessions(LIVE):
        if row.at is not None:
            hold.unmount_all(row.at)
    shutil.rmtree(views, ignore_errors=True)
    views.mkdir(mode=0o711)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a commit that was cut off."""

    commit: str
    roots: tuple[str, ...]
    outcome: Literal["forward", "back", "pending"]
    why: str | None = None
    """Why it was taken back, or cannot be finished now."""


async def recover(house: House) -> list[Settled]:
    """Steps 3 to 5 above.  A commit that cannot be finished now stays for the next start."""
    catalog = house.catalog
    interrupted = catalog.interrupt_steps()
    if interrupted:
        log.warning("steps were interrupted", count=interrupted)
    for row in catalog.sessions(frozenset(("opening",))):
        Session(house, row).enter("failed", ended=time.time(), why="the daemon ended meanwhile")
    settled = [
        await _settle_commit(house, commit)
        for commit in catalog.commits(state="staging") + catalog.commits(state="intent")
    ]
    for row in catalog.sessions(frozenset(("committing",))):
        if not catalog.unfinished(row.id):
            _reopen_or_end(Session(house, row))
    await collect(house)
    return settled


def _reopen_or_end(session: Session) -> None:
    """Of a session whose commit is not pending: it is done, and only this was not recorded any
    more, or it was taken back."""
    row = session.row
    whole = (
        commit
        for commit in session.house.catalog.commits(session=row.id, state="done")
        if not commit.partial and commit.undoes is None and commit.source == row.checkpoint
    )
    done = next(whole, None)
    if done is None:
        session.enter("kept")
    else:
        session.enter("applied", ended=done.ended or time.time(), why="committed")


async def _settle_commit(house: House, commit: CommitRow) -> Settled:
    row = house.catalog.session(commit.session)
    assert row is not None
    session = Session(house, row)
    try:
        if not await _switched(session, commit):
            return _dropped(session, commit, "it was cut off before the root was switched")
        # An undo takes nothing out of a layer; its session may long be over.
        live = None if commit.undoes is not None else house.store.layer(row.id)
        final = await _roll(session, commit, live)
    except GoexfsError as error:
        log.error("a commit is pending", commit=commit.id, error=error.message)
        return Settled(commit.id, commit.roots, "pending", error.message)
    if final["outcome"] == "back":
        return _dropped(session, commit, final["error"]["message"] if "error" in final else None)
    decide.finish(session, commit, final)
    log.warning("commit rolled forward", commit=commit.id)
    if row.state == "committing" and commit.undoes is None:
        if commit.partial and final["remaining_total"]:
            session.enter("kept")
        else:
            session.enter("applied", ended=time.time(), why="committed")
    return Settled(commit.id, commit.roots, "forward")


async def _switched(session: Session, commit: CommitRow) -> bool:
    """False of a commit by switch that was not made.  From there on it is as any other."""
    row = session.house.catalog.switch(commit.id)
    return row is None or await switch.settle(session.house, session, commit, row)


def _dropped(session: Session, commit: CommitRow, why: str | None) -> Settled:
    house = session.house
    house.catalog.drop_commit(commit.id)
    house.audit.add("taken_back", owner=commit.uid, session=session.id, commit=commit.id)
    log.warning("commit taken back", commit=commit.id, error=why)
    return Settled(commit.id, commit.roots, "back", why)


async def _roll(session: Session, commit: CommitRow, live: Path | None) -> dict[str, Any]:
    """``decide.roll``; a session that shows snapshots of its base goes over to new ones, which
    have the whole commit in them."""
    if live is None or not commit.partial or session.generation is None:
        return await decide.roll(session, commit, live)
    final = await decide.roll(session, commit, None)
    if final["outcome"] == "forward":
        roots = await session.freeze()
        final = await decide.roll(session, commit, live, roots)
        await session.show(roots)
    return final


async def collect(house: House) -> None:
    """Delete what the store holds and the catalog does not name."""
    rows = house.catalog.sessions(LIVE)
    live = {row.id for row in rows}
    known = {row.id for row in house.catalog.commits() if row.dropped is None}
    await trio.to_thread.run_sync(_collect, house.store, live, known)
    for commit in house.catalog.commits():
        switched = None if commit.dropped is None else house.catalog.switch(commit.id)
        if switched is not None:
            await trio.to_thread.run_sync(Seat.of(house.store.path, commit, switched).drop)
    for row in rows:
        await trio.to_thread.run_sync(Session(house, row).drop_lowers)


def _collect(store: Store, live: set[str], known: set[str]) -> None:
    for sid in store.sessions():
        if sid not in live:
            store.delete_session(sid)
            log.info("layer of an ended session removed", session=sid)
    for cid in store.commits():
        if cid not in known:
            store.delete_commit(cid)
            log.info("before-images of no commit removed", commit=cid)
