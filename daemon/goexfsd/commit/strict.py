"""Serializable commits: what the session's scripts read must still be so.

A file that a script read and that changed in the base since is a conflict of its own, if the
commit does not touch it anyway (then the ordinary check speaks of it).  It can be accepted
(*mine*), never dropped or merged: nobody knows which change rests on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from goexfs.errors import Limit
from goexfs.names import to_wire
from goexfsd.commit.conflicts import Checker, Conflict
from goexfsd.commit.resolve import Rules
from goexfsd.layer import reads
from goexfsd.layer.changes import Change


class Strict:
    """What was read, held against the base."""

    def __init__(self, layer_fd: int, root_fds: Sequence[int]) -> None:
        """Raises Limit where more was read than is known."""
        self._root_fds = root_fds
        self._read, complete = reads.load(layer_fd)
        self._accepted: dict[reads.Place, reads.Version | None] = {}
        if not complete:
            raise Limit(
                "the session's scripts read more files than were noted; nothing was changed",
                hint="commit without --isolation serializable",
            )

    @property
    def places(self) -> Iterable[reads.Place]:
        """Every file that was read."""
        return self._read.keys()

    def leave(self, changes: Iterable[Change], checker: Checker) -> None:
        """What the commit itself touches is held to more than this."""
        for change in changes:
            for path, _ in checker.touched(change):
                self._read.pop((change.root, path), None)

    def check(self) -> list[Conflict]:
        """What is stale, and was not accepted as it is now."""
        return [
            _conflict(place, happened)
            for place, happened, now in reads.stale(self._read, self._root_fds)
            if place not in self._accepted or self._accepted[place] != now
        ]

    def resolve(self, rules: Rules) -> tuple[list[Conflict], list[dict[str, Any]]]:
        """The conflicts that stay, and ``protocol.Resolution`` for those that are accepted."""
        standing, decided = [], []
        for place, happened, now in reads.stale(self._read, self._root_fds):
            if rules.way_at(*place)[0] != "mine":
                standing.append(_conflict(place, happened))
                continue
            self._accepted[place] = now
            root, path = place
            detail = f"{happened}; what was made of the older version is committed"
            line = {"root": root, "path": to_wire(path), "way": "mine", "detail": detail}
            decided.append(line)
        return standing, decided


def _conflict(place: reads.Place, happened: str) -> Conflict:
    root, path = place
    did = "the session read it"
    return Conflict(root, path, "read", f"{happened}; {did}", happened, did, ("mine",), path)
