"""How long commits can be undone: which before-images are kept, and throwing away the others.

For each user the newest commits are kept, by count, age and bytes (``config.UndoConfig``).  A
commit that was undone keeps nothing: the undo's before-images bring it back.  Only done commits
are touched, and none whose roots an operation holds, for an undo reads the images of the commit
that it takes back and the records of the undos since.  First the catalog says that they are
gone, then they go.
"""

from __future__ import annotations

import time

import structlog
import trio

from goexfs.errors import GoexfsError
from goexfsd.catalog import Catalog, CommitRow, SwitchRow
from goexfsd.config import UndoConfig
from goexfsd.decide import RootLocks
from goexfsd.seat import Seat
from goexfsd.session import House

log = structlog.get_logger("goexfsd.retention")

_DAY = 86400.0


def until(config: UndoConfig, row: CommitRow) -> float | None:
    """Until when a commit can be undone, at the latest; None if it cannot any more."""
    return None if row.dropped is not None else row.created + config.days * _DAY


def surplus(config: UndoConfig, catalog: Catalog, now: float) -> list[CommitRow]:
    """The commits whose before-images are to be kept no longer."""
    undone = catalog.undone()
    rows = [row for row in catalog.commits(state="done") if row.dropped is None]
    found = [row for row in rows if row.id in undone and row.undoes is None]
    kept: dict[int, list[CommitRow]] = {}
    for row in sorted(rows, key=lambda row: row.created, reverse=True):
        if row.id in undone and row.undoes is None:
            continue
        mine = kept.setdefault(row.uid, [])
        over = bool(mine) and sum(other.bytes for other in mine) + row.bytes > config.bytes
        if len(mine) >= config.commits or row.created + config.days * _DAY <= now or over:
            found.append(row)
        else:
            mine.append(row)
    return found


def _drop(house: House, row: CommitRow, switched: SwitchRow | None) -> None:
    if switched is not None:
        seat = Seat.of(house.store.path, row, switched)
        late = seat.late()
        if late:
            log.warning("what was written in the tree before a switch goes", files=late)
        seat.drop()
    house.store.delete_commit(row.id)


async def prune(house: House, locks: RootLocks) -> None:
    """Throw away what is not to be kept.  A failure is logged: the next start tries again."""
    for row in surplus(house.config.undo, house.catalog, time.time()):
        if locks.held(row.roots):
            continue
        house.catalog.set_commit(row, dropped=time.time())
        try:
            await trio.to_thread.run_sync(_drop, house, row, house.catalog.switch(row.id))
        except (OSError, GoexfsError) as error:
            log.warning("before-images stay as garbage", commit=row.id, error=str(error))
            continue
        log.info("before-images dropped", commit=row.id, bytes=row.bytes)
