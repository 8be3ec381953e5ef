"""The register of open sessions: which there are, who may have them, and which one is meant.

A session is in it from the moment its row is written until nothing is left of it.  Only its owner
and root may see or drive it; to anybody else it is denied.  It owns the nursery in which the
sessions are served, and knows nothing of requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from goexfs.errors import Denied, GoexfsError, InvalidState, Limit, NotFound, Usage
from goexfs.names import display
from goexfs.protocol import CheckpointInfo
from goexfsd import retention
from goexfsd.catalog import CommitRow, SessionRow
from goexfsd.decide import RootLocks
from goexfsd.server import Peer
from goexfsd.session import House, Session

log = structlog.get_logger("goexfsd.register")


@dataclass(slots=True)
class Register:
    """All open sessions."""

    house: House
    nursery: trio.Nursery
    live: dict[str, Session] = field(default_factory=dict)
    locks: RootLocks = field(default_factory=RootLocks)
    opening: RootLocks = field(default_factory=RootLocks)
    """Held where no session may be opened for the moment."""
    _unsettled: int = 0
    """Sessions whose end is not on disk yet."""

    # -- which one ---------------------------------------------------------------------------

    def find(self, peer: Peer, named: str | None, cwd: str | None) -> Session:
        """The open session that is meant; NotFound, or Denied for another user's."""
        row = self.row(peer, named, cwd)
        session = self.live.get(row.id)
        if session is None:
            raise InvalidState(
                f"session {row.name} is {row.state}; it has ended",
                hint="goexfs ls lists open sessions",
            )
        return session

    def row(self, peer: Peer, named: str | None, cwd: str | None) -> SessionRow:
        """The same for a session that may have ended."""
        if named is None:
            return self._by_directory(peer, cwd).row
        live = [s.row for s in self.live.values() if named in (s.row.id, s.row.name)]
        mine = [row for row in live if row.uid == peer.uid] or [
            row for row in live if may(peer, row)
        ]
        if len(mine) > 1:
            raise Usage(f"several sessions are named {display(named)}", hint="use the id")
        if mine:
            return mine[0]
        if any(row.id == named for row in live):
            raise Denied(f"session {display(named)} belongs to another user")
        ended = self.house.catalog.session(named)
        if ended is not None and may(peer, ended):
            return ended
        raise NotFound(f"there is no session {display(named)}", hint="goexfs ls lists them")

    def commit_row(self, peer: Peer, named: str) -> CommitRow:
        """The commit that is meant; NotFound, for another user's too."""
        row = self.house.catalog.commit(named)
        if row is None or peer.uid not in (0, row.uid):
            raise NotFound(
                f"there is no commit {display(named)}", hint="goexfs log lists a session's commits"
            )
        return row

    def _by_directory(self, peer: Peer, cwd: str | None) -> Session:
        own = [s for s in self.live.values() if s.row.uid == peer.uid]
        fits = [s for s in own if cwd is not None and s.holds(cwd)]
        if len(fits) == 1:
            return fits[0]
        if len(fits) > 1:
            names = ", ".join(sorted(s.row.name for s in fits))
            raise Usage(f"several open sessions hold this directory: {names}", hint="use -s")
        if not own:
            raise NotFound("you have no open session", hint="open one: goexfs mount DIR")
        raise NotFound(
            "no open session holds this directory", hint="name one with -s; goexfs ls lists them"
        )

    def slots(self) -> set[int]:
        """The numbers that are taken."""
        return {session.row.slot for session in self.live.values()}

    # -- beginning and end -------------------------------------------------------------------

    def room_for(self, uid: int) -> list[Session]:
        """The open sessions of a user; Limit if there may be no further one."""
        mine = [session for session in self.live.values() if session.row.uid == uid]
        if len(mine) >= self.house.config.limits.sessions_per_user:
            raise Limit(
                f"you have {len(mine)} open sessions, which is the limit",
                hint="commit or discard some, or raise limits.sessions_per_user",
            )
        return mine

    async def open(
        self,
        row: SessionRow,
        make_layer: Callable[[], object],
        first: CheckpointInfo | None = None,
    ) -> Session:
        """Open the session of a new row; nothing of it is left where that fails.

        It is durable when its view serves and this returns.
        """
        if self.opening.held([root.path for root in row.roots]):
            raise InvalidState("the root is being switched at this moment", hint="try again")
        self.house.catalog.add_session(row)
        session = Session(self.house, row)
        self.live[row.id] = session
        try:
            await trio.to_thread.run_sync(make_layer)
            if first is not None:
                session.row = self.house.catalog.add_checkpoint(row, first)
            else:
                roots = await session.freeze()
                if roots != row.roots:
                    await session.show(roots)
            await self.nursery.start(session.serve)
            await self._secure(session)
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await self._forget(session, "failed", why=str(error))
            raise
        session.enter("opened")
        log.info("session opened", session=row.id, uid=row.uid, roots=[r.path for r in row.roots])
        return session

    async def _secure(self, session: Session) -> None:
        try:
            await trio.to_thread.run_sync(self.house.store.secure, session.id)
        except BaseException:
            await session.close()
            raise

    async def _forget(self, session: Session, event: Any, *, why: str) -> None:
        self.live.pop(session.id, None)
        session.enter(event, ended=time.time(), why=why)
        try:
            await trio.to_thread.run_sync(self.house.store.delete_session, session.id)
        except GoexfsError as error:
            log.warning("layer stays as garbage", session=session.id, error=error.message)

    async def end(self, session: Session) -> None:
        """Unmount a session that is over and drop its layer."""
        await session.close()
        await trio.to_thread.run_sync(self.house.store.delete_session, session.id)
        self.live.pop(session.id, None)
        self._unsettled += 1
        if self._unsettled == 1:
            self.nursery.start_soon(self._settle)

    async def _settle(self) -> None:
        """Let the disk follow, and the room of what went come back, while nobody waits.

        That the session is over the catalog says; what is left of it after a crash is garbage.
        """
        while self._unsettled:
            ended = self._unsettled
            try:
                await trio.to_thread.run_sync(self.house.store.settle)
            except GoexfsError as error:
                log.warning("the store does not settle", error=error.message)
            self._unsettled -= ended

    async def reopen(self) -> None:
        """Serve the sessions that were open when the daemon last ended; drop what is too old."""
        await retention.prune(self.house, self.locks)
        for row in self.house.catalog.sessions(frozenset(("open",))):
            session = Session(self.house, row)
            self.live[row.id] = session
            try:
                await self.nursery.start(session.serve)
                log.info("session is back", session=row.id)
            except GoexfsError as error:
                log.warning("session without a view", session=row.id, error=error.message)

    async def close(self) -> None:
        """Unmount every session; their layers stay for the next start."""
        async with trio.open_nursery() as nursery:
            for session in self.live.values():
                nursery.start_soon(session.close)


def may(peer: Peer, row: SessionRow) -> bool:
    """Whether the session is the peer's to see and drive."""
    return peer.uid in (0, row.uid)
