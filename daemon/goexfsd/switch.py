"""A commit that others see as one switch: another subvolume takes the root's place.

It is a way to carry a commit out (``decide.Drive``).  The commit worker does what it always does,
checks, stages, applies, but in a snapshot of the root beside it, which nobody looks at yet; so
all its records are those of any commit, and an undo reads them as any other's.  Then the intent
is durable in the catalog, and the two subvolumes change places in one call (``seat``).

What is a crash before that call is taken back, after it it is carried on; which of both, the
subvolumes' numbers and names say (``settle``).  If somebody wrote in the root between snapshot
and switch, all of it is done again, ``ROUNDS`` times at most.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from goexfs.errors import CannotSwitch, CommitFailed, Conflict, GoexfsError, InvalidState
from goexfs.names import display
from goexfsd import decide
from goexfsd.catalog import CommitRow, SwitchRow
from goexfsd.channel import open_channel
from goexfsd.commit import faults
from goexfsd.commit.plan import STAGE_PREFIX
from goexfsd.decide import Listen, RootLocks
from goexfsd.holders import Holder
from goexfsd.layer.selection import Selection
from goexfsd.seat import HINT, Seat, look, refusal, survey
from goexfsd.session import House, Session
from goexfsd.worker import Worker

log = structlog.get_logger("goexfsd.switch")

ROUNDS = 4
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Result = tuple[CommitRow, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Switch:
    """How one request wants it; called as ``decide.drive`` is."""

    opening: RootLocks
    """Held over the switch itself, so that no session opens over the root meanwhile."""
    live: Mapping[str, Session]
    """All open sessions, at any time."""
    leave_behind: bool
    """Who merely stands in the root may be left in the tree before."""
    caller: int
    """The asking process, which is about to end anyway."""

    async def __call__(
        self,
        session: Session,
        row: CommitRow,
        entry: Callable[[Worker], None],
        layers: dict[str, Path],
        options: dict[str, Any],
        listen: Listen,
    ) -> Result:
        """CannotSwitch where it cannot be, Conflict where somebody keeps writing."""
        faults.arm({"fault": os.environ.get("GOEXFS_SWITCH_FAULT", "0")})
        for number in range(ROUNDS):
            async with self._seat(session, row.id) as seat:
                round_ = _Round(self, session, row, seat)
                result = await round_.run(entry, layers, options, listen)
            if result is not None:
                return result
            log.info("somebody wrote in the root meanwhile", commit=row.id, round=number + 1)
        root = display(session.row.roots[0].path)
        raise Conflict(
            f"somebody wrote in {root} each time that the switch was prepared; nothing was changed",
            hint=f"wait until nobody does, or {HINT}",
        )

    async def examine(self, session: Session) -> None:
        """CannotSwitch, Denied if it cannot be done now; nothing is touched."""
        async with self._seat(session, "examined"):
            pass

    # -- may it be? --------------------------------------------------------------------------

    @asynccontextmanager
    async def _seat(self, session: Session, cid: str) -> AsyncIterator[Seat]:
        _check_session(session)
        (root,), store = session.row.roots, session.house.store
        hidden = os.fsdecode(STAGE_PREFIX) + cid
        spec = session.house.worker_spec(session.owner(), session.roots(), {}, {})
        async with open_channel(session.house.workers, look, spec) as channel:
            found = await channel.expect("seat")
            with ExitStack() as stack:
                fds = []
                for name in ("parent", "top"):
                    path = f"/proc/{channel.pid}/fd/{int(found[name])}"
                    fds.append(os.open(path, _DIRECTORY))
                    stack.callback(os.close, fds[-1])
                looking = partial(survey, store.path, root.path, hidden, *fds)
                row = await trio.to_thread.run_sync(looking)
        seat = Seat(store.path, session.owner(), root.path, row)
        with self._alone(session):
            await trio.to_thread.run_sync(seat.check_mounts)
            await trio.to_thread.run_sync(self.check_holders, session, seat)
        yield seat

    def check_holders(self, session: Session, seat: Seat, *, writers: bool = False) -> None:
        """CannotSwitch if somebody stands in the root who must not, or may not be left behind."""
        found = seat.holders(writers=writers or self.leave_behind)
        for holder in found:
            if holder.writes or holder.pid != self.caller:
                raise _held(holder, session)

    @contextmanager
    def _alone(self, session: Session) -> Iterator[None]:
        """Other sessions over the root show a snapshot of it, and do nothing meanwhile."""
        mine = [root.path for root in session.row.roots]
        with ExitStack() as stack:
            for other in self.live.values():
                if other is session or not _over(other, mine):
                    continue
                known = session.row.uid in (0, other.row.uid)
                who = f"session {other.row.name}" if known else "another user's session"
                try:
                    stack.enter_context(other.exclusively("a switch of its root", alone=True))
                except InvalidState as error:
                    raise refusal(error.message if known else f"{who} over it is busy") from error
                if not all(root.lower for root in other.row.roots if _overlaps(root.path, mine)):
                    raise refusal(f"{who} shows the real directory live")
            yield

    @asynccontextmanager
    async def undisturbed(self, session: Session) -> AsyncIterator[None]:
        """The time of the switch itself."""
        async with self.opening.exclusive(root.path for root in session.row.roots):
            with self._alone(session):
                yield


def _check_session(session: Session) -> None:
    if len(session.row.roots) != 1:
        raise refusal("the session has several roots")
    if session.house.store.image is not None:
        raise refusal("the store is an image; it has to be a directory on the root's btrfs")
    if not session.row.roots[0].lower:
        raise refusal("the session shows the real directory, and not a snapshot of it")


def check_selection(select: Selection) -> None:
    """CannotSwitch for a commit of a part."""
    if select:
        raise refusal("only all of a session's changes can be switched in")


def _overlaps(path: str, mine: Iterable[str]) -> bool:
    return any(decide.overlap(path, each) for each in mine)


def _over(other: Session, mine: list[str]) -> bool:
    return any(_overlaps(root.path, mine) for root in other.row.roots)


def _held(holder: Holder, session: Session) -> CannotSwitch:
    root, known = display(session.row.roots[0].path), session.row.uid in (0, holder.uid)
    who = f"{display(holder.name)} (pid {holder.pid})" if known else f"a process ({holder.pid})"
    if holder.writes:
        why = f"{who} has a file in {root} open or mapped for writing"
        return refusal(why, "let it close the file, or commit without --switch")
    why = f"{who} stands in {root}, and would go on seeing what was there before"
    return refusal(why, "let it go elsewhere (cd), or give --leave-behind")


# -- doing it ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Round:
    """One try, from the snapshot to the switch."""

    how: Switch
    session: Session
    row: CommitRow
    seat: Seat

    async def run(
        self,
        entry: Callable[[Worker], None],
        layers: dict[str, Path],
        options: dict[str, Any],
        listen: Listen,
    ) -> Result | None:
        """None: somebody wrote in the root meanwhile.  Where it does not come to a switch,
        nothing is left of it."""
        house, row = self.session.house, self.row
        before = await trio.to_thread.run_sync(
            house.store.create_commit, row.id, row.uid, self.session.row.gid
        )
        if self.session.row.state != "committing":
            self.session.enter("commit")
        house.catalog.add_commit(row)
        house.catalog.put_switch(row.id, self.seat.row)
        switched = False
        try:
            faults.fault("switch.named")
            self.seat = await trio.to_thread.run_sync(self.seat.prepare)
            self._note(self.seat.row)
            faults.fault("switch.prepared")
            early, final = await self._work(entry, {**layers, "before": before}, options, listen)
            if early["event"] != "intent":
                return row, early
            with trio.CancelScope(shield=True):
                switched = await self._switch(early["sha256"])
                if not switched:
                    return None
                kept, late = await trio.to_thread.run_sync(finish, house, row.id, self.seat)
                final |= {"kept": kept, "late": [*final["late"], *[{"kept": kept}] * late]}
        finally:
            if not switched:
                with trio.CancelScope(shield=True):
                    await self._take_back()
        return self.row, final

    def _note(self, row: SwitchRow) -> None:
        self.seat = replace(self.seat, row=row)
        self.session.house.catalog.put_switch(self.row.id, row)

    async def _work(
        self,
        entry: Callable[[Worker], None],
        layers: dict[str, Path],
        options: dict[str, Any],
        listen: Listen,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The whole commit, in the snapshot; the worker's word before it applied, and its last."""
        device = await trio.to_thread.run_sync(self.seat.device)
        roots = (replace(self.session.row.roots[0], path=self.seat.hidden_path),)
        options = {**options, "device": device}
        async with self.session.job(entry, layers, options, roots) as channel:
            early = await decide.until_intent(channel, listen)
            if early["event"] != "intent":
                return early, early
            channel.send({"cmd": "go"})
            try:
                final = await decide.until_applied(channel, listen)
            except CommitFailed as error:
                raise CommitFailed(
                    "the commit could not be prepared; nothing was changed"
                ) from error
        if final["outcome"] == "back":
            raise decide.taken_back(final)
        return early, final

    async def _switch(self, digest: str | None) -> bool:
        """The point of no return is in here."""
        catalog = self.session.house.catalog
        async with self.how.undisturbed(self.session):
            self._note(replace(self.seat.row, frozen_ns=time.time_ns()))
            self.row = catalog.set_commit(self.row, state="intent", digest=digest)
            faults.fault("switch.intent")
            return await trio.to_thread.run_sync(self.seat.exchange, self._check)

    def _check(self) -> None:
        self.seat.check_mounts()
        self.how.check_holders(self.session, self.seat, writers=True)

    async def _take_back(self) -> None:
        house, cid = self.session.house, self.row.id
        try:
            await trio.to_thread.run_sync(self.seat.back)
        except (OSError, GoexfsError) as error:
            log.error("a switch is pending until the next start", commit=cid, error=str(error))
            return
        house.catalog.drop_commit(cid)
        await trio.to_thread.run_sync(house.store.delete_commit, cid)


def finish(house: House, cid: str, seat: Seat) -> tuple[str | None, int]:
    """What is left to do once the two have changed places: keep the old tree.  Returns where it
    is, and how many files in it changed late.  Blocks.  CommitFailed if it has to be done again,
    which it may be."""
    try:
        kept = seat.keep(house.store.commit_path(cid))
        late = seat.late()
    except OSError as error:
        raise CommitFailed(
            f"the commit is made, but the tree before it could not be put away ({error.strerror})",
            hint="restart goexfsd, which finishes it",
        ) from error
    if late:
        log.warning("somebody wrote in the old tree", commit=cid, files=late, kept=kept)
    return kept, late


async def settle(house: House, session: Session, commit: CommitRow, row: SwitchRow) -> bool:
    """At a start: whether the commit was switched in.  Then ``finish`` is done, else nothing is
    left of it but its records.  CommitFailed if neither can be now."""
    seat = Seat(house.store.path, session.owner(), session.row.roots[0].path, row)
    faults.arm({"fault": os.environ.get("GOEXFS_SETTLE_FAULT", "0")})
    try:
        if await trio.to_thread.run_sync(seat.done):
            await trio.to_thread.run_sync(partial(finish, house, commit.id, seat))
            return True
        await trio.to_thread.run_sync(seat.back)
    except OSError as error:
        raise CommitFailed(f"a switch cannot be settled: {error.strerror}") from error
    return False
