"""The catalog: sessions, checkpoints, steps and commits in SQLite.  The only room with SQL.

WAL with ``synchronous=FULL``: when a method that writes returns, what it wrote is durable.
What the store holds and the catalog does not name is garbage.  Every method is synchronous and
takes about a millisecond when it writes; the daemon calls it from its one thread, so that a
read followed by a write, with no await between, is atomic.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from goexfs.errors import StoreFailed
from goexfs.protocol import CheckpointInfo, CommitInfo, SessionState, StepInfo, Summary

SCHEMA = 5

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    groups TEXT NOT NULL, home TEXT NOT NULL, user TEXT NOT NULL, slot INTEGER NOT NULL,
    roots TEXT NOT NULL, at TEXT, at_ino INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL,
    checkpoint INTEGER NOT NULL DEFAULT -1, created REAL NOT NULL, ended REAL, why TEXT,
    forked TEXT, forked_at INTEGER, rules TEXT NOT NULL DEFAULT '[]',
    kernel INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS sessions_by_state ON sessions (state);
CREATE TABLE IF NOT EXISTS checkpoints (
    session TEXT NOT NULL REFERENCES sessions (id), number INTEGER NOT NULL, parent INTEGER,
    step INTEGER, label TEXT, created REAL NOT NULL, PRIMARY KEY (session, number)
) STRICT;
CREATE TABLE IF NOT EXISTS steps (
    session TEXT NOT NULL REFERENCES sessions (id), number INTEGER NOT NULL,
    command TEXT NOT NULL, state TEXT NOT NULL, status INTEGER, timed_out INTEGER NOT NULL,
    started REAL NOT NULL, ended REAL, before INTEGER NOT NULL, checkpoint INTEGER, summary TEXT,
    stdout_bytes INTEGER NOT NULL, stderr_bytes INTEGER NOT NULL, truncated INTEGER NOT NULL,
    PRIMARY KEY (session, number)
) STRICT;
CREATE TABLE IF NOT EXISTS commits (
    id TEXT PRIMARY KEY, session TEXT NOT NULL REFERENCES sessions (id), uid INTEGER NOT NULL,
    message TEXT NOT NULL, state TEXT NOT NULL, partial INTEGER NOT NULL, created REAL NOT NULL,
    ended REAL, applied TEXT NOT NULL, source INTEGER NOT NULL, roots TEXT NOT NULL,
    undoes TEXT, bytes INTEGER NOT NULL DEFAULT 0, dropped REAL, digest TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS commits_by_state ON commits (state);
CREATE TABLE IF NOT EXISTS switches (
    id TEXT PRIMARY KEY REFERENCES commits (id) ON DELETE CASCADE, record TEXT NOT NULL
) STRICT;
"""

_MIGRATIONS = {
    1: """
ALTER TABLE commits ADD COLUMN undoes TEXT;
ALTER TABLE commits ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE commits ADD COLUMN dropped REAL;
""",
    2: """
ALTER TABLE sessions ADD COLUMN forked TEXT;
ALTER TABLE sessions ADD COLUMN forked_at INTEGER;
""",
    3: """
ALTER TABLE sessions ADD COLUMN rules TEXT NOT NULL DEFAULT '[]';
ALTER TABLE sessions ADD COLUMN kernel INTEGER NOT NULL DEFAULT 0;
""",
    4: "ALTER TABLE commits ADD COLUMN digest TEXT;",
}
"""Schema -> what makes the next one of it."""


@dataclass(frozen=True, slots=True)
class RootRow:
    name: str
    path: str
    ino: int
    lower: str = ""
    """``<generation>/<place>`` of the snapshot that the session sees it in; "": it sees the real
    directory."""
    inner: str = ""
    """Where it is below the snapshot's top."""

    def plain(self) -> list[str | int]:
        """As it is written."""
        return [self.name, self.path, self.ino, self.lower, self.inner]


@dataclass(frozen=True, slots=True)
class SessionRow:
    id: str
    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    user: str
    slot: int
    """Small number, unique among live sessions: a root session's sandbox uid comes from it."""
    roots: tuple[RootRow, ...]
    at: str | None
    at_ino: int
    state: SessionState
    checkpoint: int
    """The checkpoint the live layer descends from; -1 before the first."""
    created: float
    ended: float | None = None
    why: str | None = None
    forked: str | None = None
    """The session that this one was forked from."""
    forked_at: int | None = None
    """At which checkpoint of it."""
    rules: tuple[tuple[Any, ...], ...] = ()
    """What its view keeps: kind, index of the root or None, pattern."""
    kernel: bool = False
    """The view is the kernel's overlayfs."""


@dataclass(frozen=True, slots=True)
class StepRow:
    session: str
    number: int
    command: tuple[str, ...]
    state: str
    status: int | None
    timed_out: bool
    started: float
    ended: float | None
    before: int
    checkpoint: int | None
    summary: Summary | None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: bool = False

    def info(self) -> StepInfo:
        return StepInfo.model_validate(
            {
                "number": self.number,
                "command": list(self.command),
                "state": self.state,
                "status": self.status,
                "timed_out": self.timed_out,
                "started": self.started,
                "ended": self.ended,
                "before": self.before,
                "checkpoint": self.checkpoint,
                "summary": self.summary,
                "stdout_bytes": self.stdout_bytes,
                "stderr_bytes": self.stderr_bytes,
                "truncated": self.truncated,
            }
        )


@dataclass(frozen=True, slots=True)
class CommitRow:
    """``state``: staging (nothing in the base yet), intent (past the point of no return), done."""

    id: str
    session: str
    uid: int
    message: str
    state: str
    partial: bool
    created: float
    ended: float | None
    applied: Summary
    source: int
    """The checkpoint that was committed."""
    roots: tuple[str, ...]
    undoes: str | None = None
    """The commit that this one takes back."""
    bytes: int = 0
    """What its before-images take on disk."""
    dropped: float | None = None
    """When its before-images were thrown away; it cannot be undone since."""
    digest: str | None = None
    """Of the changes that it applies; None for an undo."""

    def info(self, *, undone_by: str | None, until: float | None) -> CommitInfo:
        return CommitInfo(
            commit=self.id,
            session=self.session,
            message=self.message,
            created=self.created,
            applied=self.applied,
            partial=self.partial,
            undoes=self.undoes,
            undone_by=undone_by,
            undo_until=until,
            before_bytes=0 if self.dropped is not None else self.bytes,
            sha256=self.digest,
        )


@dataclass(frozen=True, slots=True)
class SwitchRow:
    """A commit by which one subvolume takes another's place (``switch``): where, and which two.

    Handles are ``kernel.handle_of``'s, numbers and uuids the subvolumes' own, ``fsid`` is what
    statvfs says in them, and plans know roots by.
    """

    parent: str
    """Handle of the directory that holds the root."""
    name: str
    hidden: str
    """The name beside it, of the new subvolume before the exchange, of the old one after it."""
    old: str
    """Handle of the old subvolume's top."""
    old_number: int
    old_uuid: str
    old_fsid: int
    new_number: int = 0
    """0: it is not made yet."""
    new_fsid: int = 0
    generation: int = 0
    """The old one's when the snapshot was taken."""
    frozen_ns: int = 0
    """When the old one was to become read-only."""


class Catalog:
    """One open catalog; create it with ``open_catalog``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        if self._db.in_transaction:
            yield self._db
            return
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written inside is one transaction, and one wait for the disk.

        Nothing inside may await.
        """
        with self._write():
            yield

    # -- marks -------------------------------------------------------------------------------

    def put_mark(self, name: str, mark: tuple[int, str]) -> None:
        """Remember a number and a text durably; StoreFailed if that cannot be."""
        try:
            with self._write() as db:
                db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, json.dumps(mark)))
        except sqlite3.Error as error:
            raise StoreFailed(f"the catalog cannot be written: {error}") from error

    def mark(self, name: str) -> tuple[int, str] | None:
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (name,)).fetchone()
        if row is None:
            return None
        number, text = json.loads(row[0])
        return int(number), str(text)

    # -- sessions ----------------------------------------------------------------------------

    def add_session(self, row: SessionRow) -> None:
        with self._write() as db:
            db.execute(
                "INSERT INTO sessions VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    row.id,
                    row.name,
                    row.uid,
                    row.gid,
                    json.dumps(row.groups),
                    row.home,
                    row.user,
                    row.slot,
                    json.dumps([root.plain() for root in row.roots]),
                    row.at,
                    row.at_ino,
                    row.state,
                    row.checkpoint,
                    row.created,
                    row.ended,
                    row.why,
                    row.forked,
                    row.forked_at,
                    json.dumps(row.rules),
                    row.kernel,
                ),
            )

    def set_session(self, row: SessionRow, **changes: Any) -> SessionRow:
        """The row with ``changes`` (state, checkpoint, roots, at_ino, ended, why), written."""
        new = replace(row, **changes)
        with self._write() as db:
            db.execute(
                "UPDATE sessions SET state=?, checkpoint=?, roots=?, at_ino=?, ended=?, why=?"
                " WHERE id=?",
                (
                    new.state,
                    new.checkpoint,
                    json.dumps([root.plain() for root in new.roots]),
                    new.at_ino,
                    new.ended,
                    new.why,
                    new.id,
                ),
            )
        return new

    def session(self, sid: str) -> SessionRow | None:
        row = self._db.execute("SELECT * FROM sessions WHERE id=?", (sid,)).fetchone()
        return None if row is None else _session(row)

    def sessions(self, states: frozenset[str] | None = None) -> list[SessionRow]:
        rows = self._db.execute("SELECT * FROM sessions ORDER BY created, id").fetchall()
        found = [_session(row) for row in rows]
        return found if states is None else [row for row in found if row.state in states]

    # -- checkpoints -------------------------------------------------------------------------

    def add_checkpoint(self, row: SessionRow, info: CheckpointInfo) -> SessionRow:
        """Record a checkpoint and make it the one the live layer descends from."""
        with self._write() as db:
            db.execute(
                "INSERT INTO checkpoints VALUES (?,?,?,?,?,?)",
                (row.id, info.number, info.parent, info.step, info.label, info.created),
            )
            db.execute("UPDATE sessions SET checkpoint=? WHERE id=?", (info.number, row.id))
        return replace(row, checkpoint=info.number)

    def checkpoints(self, sid: str) -> list[CheckpointInfo]:
        rows = self._db.execute(
            "SELECT number, parent, step, label, created FROM checkpoints"
            " WHERE session=? ORDER BY number",
            (sid,),
        ).fetchall()
        return [
            CheckpointInfo(number=n, parent=p, step=s, label=label, created=c)
            for n, p, s, label, c in rows
        ]

    def has_checkpoint(self, sid: str, number: int) -> bool:
        query = "SELECT 1 FROM checkpoints WHERE session=? AND number=?"
        return self._db.execute(query, (sid, number)).fetchone() is not None

    def counts(self, sid: str) -> tuple[int, int]:
        """How many checkpoints and steps a session has."""
        query = (
            "SELECT (SELECT COUNT(*) FROM checkpoints WHERE session=?1),"
            " (SELECT COUNT(*) FROM steps WHERE session=?1)"
        )
        checkpoints, steps = self._db.execute(query, (sid,)).fetchone()
        return checkpoints, steps

    def next_checkpoint(self, sid: str) -> int:
        return self._next("SELECT MAX(number) FROM checkpoints WHERE session=?", sid)

    # -- steps -------------------------------------------------------------------------------

    def next_step(self, sid: str) -> int:
        return self._next("SELECT MAX(number) FROM steps WHERE session=?", sid) or 1

    def put_step(self, row: StepRow) -> None:
        """Insert the step, or overwrite what is known of it."""
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO steps VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    row.session,
                    row.number,
                    json.dumps(row.command),
                    row.state,
                    row.status,
                    int(row.timed_out),
                    row.started,
                    row.ended,
                    row.before,
                    row.checkpoint,
                    None if row.summary is None else row.summary.model_dump_json(),
                    row.stdout_bytes,
                    row.stderr_bytes,
                    int(row.truncated),
                ),
            )

    def steps(self, sid: str) -> list[StepRow]:
        rows = self._db.execute(
            "SELECT * FROM steps WHERE session=? ORDER BY number", (sid,)
        ).fetchall()
        return [_step(row) for row in rows]

    def step(self, sid: str, number: int) -> StepRow | None:
        row = self._db.execute(
            "SELECT * FROM steps WHERE session=? AND number=?", (sid, number)
        ).fetchone()
        return None if row is None else _step(row)

    def interrupt_steps(self) -> int:
        """Mark the steps that were running when the daemon ended; returns how many."""
        with self._write() as db:
            return db.execute(
                "UPDATE steps SET state='interrupted', ended=? WHERE state='running'",
                (time.time(),),
            ).rowcount

    # -- commits -----------------------------------------------------------------------------

    def add_commit(self, row: CommitRow) -> None:
        with self._write() as db:
            db.execute(
                "INSERT INTO commits VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    row.id,
                    row.session,
                    row.uid,
                    row.message,
                    row.state,
                    int(row.partial),
                    row.created,
                    row.ended,
                    row.applied.model_dump_json(),
                    row.source,
                    json.dumps(row.roots),
                    row.undoes,
                    row.bytes,
                    row.dropped,
                    row.digest,
                ),
            )

    def set_commit(self, row: CommitRow, **changes: Any) -> CommitRow:
        """The row with ``changes`` (state, applied, ended, bytes, dropped, digest), written."""
        new = replace(row, **changes)
        applied = new.applied.model_dump_json()
        with self._write() as db:
            db.execute(
                "UPDATE commits SET state=?, applied=?, ended=?, bytes=?, dropped=?, digest=?"
                " WHERE id=?",
                (new.state, applied, new.ended, new.bytes, new.dropped, new.digest, new.id),
            )
        return new

    def drop_commit(self, cid: str) -> None:
        with self._write() as db:
            db.execute("DELETE FROM commits WHERE id=?", (cid,))

    def put_switch(self, cid: str, row: SwitchRow) -> SwitchRow:
        """What is known by now of the switch that the commit is."""
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO switches VALUES (?,?)", (cid, json.dumps(asdict(row)))
            )
        return row

    def switch(self, cid: str) -> SwitchRow | None:
        """None for a commit that is no switch."""
        row = self._db.execute("SELECT record FROM switches WHERE id=?", (cid,)).fetchone()
        return None if row is None else SwitchRow(**json.loads(row[0]))

    def heirs(self) -> dict[int, int]:
        """The fsid that a root had once -> the one that it has after all switches since."""
        query = "SELECT record FROM switches JOIN commits USING (id) WHERE state='done'"
        rows = [SwitchRow(**json.loads(text)) for (text,) in self._db.execute(query)]
        next_of = {row.old_fsid: row.new_fsid for row in rows}
        found = {}
        for first, last in next_of.items():
            while last in next_of:
                last = next_of[last]
            found[first] = last
        return found

    def commits(self, *, session: str | None = None, state: str | None = None) -> list[CommitRow]:
        """Oldest first; of one session, in one state, if asked."""
        rows = self._db.execute(
            "SELECT * FROM commits WHERE (?1 IS NULL OR session=?1)"
            f" {'' if state is None else 'AND state=?2'} ORDER BY created, id",
            (session,) if state is None else (session, state),
        ).fetchall()
        return [_commit(row) for row in rows]

    def commit(self, cid: str) -> CommitRow | None:
        row = self._db.execute("SELECT * FROM commits WHERE id=?", (cid,)).fetchone()
        return None if row is None else _commit(row)

    def unfinished(self, sid: str) -> list[CommitRow]:
        """The session's own commits (no undos) that are past the point of no return."""
        rows = self.commits(session=sid, state="intent")
        return [row for row in rows if row.undoes is None]

    def undone(self) -> dict[str, str]:
        """Commit -> the commit that took it back, of all that are done."""
        rows = self._db.execute(
            "SELECT undoes, id FROM commits WHERE undoes IS NOT NULL AND state='done'"
        ).fetchall()
        return dict(rows)

    def _next(self, query: str, sid: str) -> int:
        highest = self._db.execute(query, (sid,)).fetchone()[0]
        return 0 if highest is None else int(highest) + 1


def _session(row: Any) -> SessionRow:
    (sid, name, uid, gid, groups, home, user, slot, roots, at, at_ino, state, *rest) = row
    checkpoint, created, ended, why, forked, forked_at, rules, in_kernel = rest
    return SessionRow(
        sid,
        name,
        uid,
        gid,
        tuple(json.loads(groups)),
        home,
        user,
        slot,
        tuple(RootRow(*root) for root in json.loads(roots)),
        at,
        at_ino,
        state,
        checkpoint,
        created,
        ended,
        why,
        forked,
        forked_at,
        tuple(tuple(rule) for rule in json.loads(rules)),
        bool(in_kernel),
    )


def _step(row: Any) -> StepRow:
    (session, number, command, state, status, timed_out, started, ended, before, *rest) = row
    checkpoint, summary, stdout_bytes, stderr_bytes, truncated = rest
    return StepRow(
        session,
        number,
        tuple(json.loads(command)),
        state,
        status,
        bool(timed_out),
        started,
        ended,
        before,
        checkpoint,
        None if summary is None else Summary.model_validate_json(summary),
        stdout_bytes,
        stderr_bytes,
        bool(truncated),
    )


def _commit(row: Any) -> CommitRow:
    (cid, session, uid, message, state, partial, created, ended, applied, *rest) = row
    source, roots, undoes, held, dropped, digest = rest
    return CommitRow(
        cid,
        session,
        uid,
        message,
        state,
        bool(partial),
        created,
        ended,
        Summary.model_validate_json(applied),
        source,
        tuple(json.loads(roots)),
        undoes,
        held,
        dropped,
        digest,
    )


def open_catalog(path: Path) -> Catalog:
    """Open or create the catalog; StoreFailed if it is damaged or of a later goexfs."""
    try:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
        db.executescript(_TABLES)
        db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA),))
        found = _migrated(db)
    except sqlite3.DatabaseError as error:
        raise StoreFailed(
            f"the catalog {path} cannot be used: {error}",
            hint="restore it from a backup; the layers in the store are untouched",
        ) from error
    if found != SCHEMA:
        db.close()
        raise StoreFailed(
            f"the catalog {path} has schema {found}; this goexfs knows {SCHEMA}",
            hint="start the goexfs version that wrote it",
        )
    return Catalog(db)


def pending_commits(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """(id, roots) of the commits that a daemon, which does not run now, left unfinished.

    Only looks.  Empty where there is no catalog, or none that can be read: a start tells that.
    """
    try:
        db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    except sqlite3.DatabaseError:
        return []
    try:
        query = "SELECT id, roots FROM commits WHERE state != 'done' ORDER BY created"
        return [(cid, tuple(json.loads(roots))) for cid, roots in db.execute(query)]
    except sqlite3.DatabaseError:
        return []
    finally:
        db.close()


def _migrated(db: sqlite3.Connection) -> int:
    """Bring an older catalog to this schema; returns the schema that it has then."""
    found = int(db.execute("SELECT value FROM meta WHERE key='schema'").fetchone()[0])
    while found in _MIGRATIONS:
        after = found + 1
        step = f"UPDATE meta SET value='{after}' WHERE key='schema';"
        db.executescript(f"BEGIN IMMEDIATE; {_MIGRATIONS[found]} {step} COMMIT;")
        found = after
    return found
