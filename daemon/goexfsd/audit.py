"""The audit log: who did what and when, append-only, each entry chained to the one before it.

Files ``<first number>.jsonl`` in one directory that only root may enter; an entry is a line of
JSON that holds the SHA-256 of the line before it, over file boundaries too.  So an entry that is
edited, removed or moved breaks the chain at the next one.  Cutting off the newest entries does
not; for that the catalog keeps the number and hash of the last entry as of the last durable one
(``durable=True``, and every ``_HEAD_EVERY``), and this process those of the very last.

Invariants: nothing that was written is ever changed, but for a torn last line, which a crash
leaves and the next start removes and tells; when the files pass their bound the oldest goes
whole, and the catalog says where the log begins since.

Writing costs some 50 microseconds, a durable entry an fsync more.  It knows nothing of sessions.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from goexfs.errors import StoreFailed
from goexfsd.catalog import Catalog

log = structlog.get_logger("goexfsd.audit")

GENESIS = "0" * 64
"""What the first entry is chained to."""
_HEAD, _BEGIN = "audit_head", "audit_begin"
_HEAD_EVERY = 64
_FILES = 8
"""The bound is shared by so many files; the oldest of them is what goes."""
_WIDEST = 2048
"""Bytes of one value."""

Entry = dict[str, Any]
Mark = tuple[int, str]
"""The number of an entry, and its hash."""


@dataclass(slots=True)
class Audit:
    """An open log.  ``open_audit`` makes one."""

    directory: Path
    catalog: Catalog
    most_bytes: int
    head: Mark = (0, GENESIS)
    """The last entry."""
    _fd: int = -1
    _size: int = 0
    _noted: int = 0
    """The last entry that the catalog knows."""
    _held: list[Path] = field(default_factory=list)

    def add(self, what: str, *, durable: bool = False, **said: Any) -> None:
        """Write an entry.  Never raises: what cannot be recorded is told in the daemon's log."""
        number, before = self.head[0] + 1, self.head[1]
        entry = {"n": number, "before": before, "at": round(time.time(), 6), "what": what}
        line = _line({**entry, **{key: _short(value) for key, value in said.items()}})
        try:
            if self._size + len(line) > self.most_bytes // _FILES or self._fd < 0:
                self._turn(number)
            _write(self._fd, line)
            self._size += len(line)
            self.head = number, _hash(line)
            if durable or number - self._noted >= _HEAD_EVERY:
                self._note()
        except (OSError, StoreFailed) as error:
            log.error("no audit entry was written", what=what, error=str(error))

    def _note(self) -> None:
        os.fdatasync(self._fd)
        self.catalog.put_mark(_HEAD, self.head)
        self._noted = self.head[0]

    def _turn(self, number: int) -> None:
        """Go on in a new file; the oldest goes when there are too many."""
        if self._fd >= 0:
            self._note()
            os.close(self._fd)
            self._fd = -1
        path = self.directory / f"{number:012}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd, self._size = os.open(path, flags, 0o600), 0
        self._held.append(path)
        while len(self._held) > _FILES:
            second = _first(self._held[1])
            if second is not None:
                self.catalog.put_mark(_BEGIN, (second[0], second[1]))
            self._held.pop(0).unlink(missing_ok=True)
        _sync_directory(self.directory)

    def close(self) -> None:
        if self._fd >= 0:
            self._note()
            os.close(self._fd)
            self._fd = -1

    def entries(self) -> Iterator[tuple[Entry, str]]:
        """Every entry that can be read, oldest first, with its hash."""
        for _, line in _lines(_files(self.directory)):
            entry = _parsed(line)
            if entry is not None and line.endswith(b"\n"):
                yield entry, _hash(line)

    def checking(self) -> Callable[[], tuple[int, list[str]]]:
        """What counts the entries and says what is wrong with them, a sentence each.

        It may run in a thread; what is written meanwhile is not looked at.
        """
        head, known = self.head, self.catalog.mark(_HEAD)
        marks = dict(mark for mark in (known, head) if mark is not None)
        begin = self.catalog.mark(_BEGIN) or (1, GENESIS)
        return partial(_check, self.directory, begin, marks, head[0])


def _check(directory: Path, begin: Mark, marks: dict[int, str], last: int) -> tuple[int, list[str]]:
    """The chain from ``begin`` (the first entry, and what it is chained to) to entry ``last``."""
    wrong: list[str] = []
    number, before, count = begin[0] - 1, begin[1], 0
    for path, line in _lines(_files(directory)):
        entry = _parsed(line)
        if entry is None and not line.endswith(b"\n"):
            break  # it is being written
        if entry is None:
            wrong.append(f"{path.name}: after entry {number} there is a line that is none")
            continue
        if entry["n"] < begin[0] and not count:
            continue  # of a file that was on its way out
        if entry["n"] > last:
            break  # written meanwhile
        count += 1
        if entry["n"] != number + 1:
            wrong.append(_jump(number, entry["n"]))
        elif entry["before"] != before:
            wrong.append(f"entry {number} is not what it was, or entry {number + 1} is not")
        number, before = entry["n"], _hash(line)
        if number in marks and marks[number] != before:
            wrong.append(f"entry {number} is not what the catalog knows of it")
    if number < last:
        wrong.append(f"the log ends with entry {number}; entries up to {last} are missing")
    return count, wrong


def _jump(number: int, found: int) -> str:
    if found > number + 1:
        return f"entries {number + 1} to {found - 1} are missing"
    return f"entry {found} stands after entry {number}"


def open_audit(directory: Path, catalog: Catalog, most_bytes: int) -> Audit:
    """Open or begin the log; what a crash tore is removed."""
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    audit = Audit(directory, catalog, most_bytes, _held=_files(directory))
    known = catalog.mark(_HEAD) or (0, GENESIS)
    last: Mark = (0, GENESIS)
    torn = 0
    if audit._held:
        path = audit._held[-1]
        audit._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        whole, torn = _whole(path)
        if torn:
            os.ftruncate(audit._fd, whole)
        audit._size = whole
        last = _last(audit._held) or last
    # Where entries are missing that the catalog knows of, the gap stays to be seen.
    audit.head = known if known[0] >= last[0] else last
    audit._noted = known[0]
    if torn:
        audit.add("torn", bytes=torn)
    return audit


def _whole(path: Path) -> tuple[int, int]:
    """Bytes of whole lines in a file, and of the piece of one after them."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    return whole, len(data) - whole


def _last(files: list[Path]) -> Mark | None:
    for path in reversed(files):
        lines = path.read_bytes().splitlines(keepends=True)
        for line in reversed(lines):
            entry = _parsed(line)
            if entry is not None:
                return entry["n"], _hash(line)
    return None


def _first(path: Path) -> Mark | None:
    """The first entry of a file: its number, and what it is chained to."""
    with path.open("rb") as file:
        entry = _parsed(file.readline())
    return None if entry is None else (entry["n"], entry["before"])


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.jsonl"))


def _lines(files: list[Path]) -> Iterator[tuple[Path, bytes]]:
    for path in files:
        try:
            with path.open("rb") as file:
                for line in file:
                    yield path, line
        except FileNotFoundError:
            continue  # it was the oldest, and has just gone


def _line(entry: Entry) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("n"), int):
        return None
    return entry if isinstance(entry.get("before"), str) else None


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _WIDEST:
        return f"{value[:_WIDEST]}..."
    return value


def _write(fd: int, line: bytes) -> None:
    """All of it, or nothing but a piece that the next start removes."""
    written = os.write(fd, line)
    if written != len(line):
        os.ftruncate(fd, os.fstat(fd).st_size - written)
        raise OSError(28, "no room")


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
