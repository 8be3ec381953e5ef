"""Where a name of the view lies in the base, and the reverse, as the change list tells it.

Names map to themselves, except at and below renamed directories, and except below directories
that the session made, which have no counterpart.  Pure: no file is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable

from goexfsd.layer.changes import Change

Place = tuple[int, bytes]
"""(root index, path below the root)."""


def parent(path: bytes) -> bytes:
    """The directory that holds ``path``; b"" is the root."""
    return path.rpartition(b"/")[0]


def leaf(path: bytes) -> bytes:
    """The last name of ``path``."""
    return path.rpartition(b"/")[2]


def join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def covers(above: bytes, path: bytes) -> bool:
    """Whether ``path`` is ``above`` or lies below it."""
    return not above or path == above or path.startswith(above + b"/")


def ancestors(path: bytes) -> list[bytes]:
    """Every directory above ``path``, nearest first, the root b"" last."""
    found = []
    while path:
        path = parent(path)
        found.append(path)
    return found


class Places:
    """The mapping that a change list implies."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self.at: dict[Place, Change] = {}
        """What is at a name of the view now, where that is a change."""
        self._came: dict[Place, bytes] = {}
        self._went: dict[Place, bytes] = {}
        self._made: set[Place] = set()
        self._slots: dict[Place, bytes | None] = {}
        """Directory of the view -> base directory that its names lie in; None: in none."""
        self.vacated: set[Place] = set()
        """Base entries that are gone from their name in the view: deleted, or renamed away."""
        for change in changes:
            if change.kind == "deleted":
                self.vacated.add((change.root, change.path))
                continue
            place = (change.root, change.path)
            self.at[place] = change
            if change.kind == "renamed":
                assert change.old_path is not None
                self._came[place] = change.old_path
                self._went[change.root, change.old_path] = change.path
                self.vacated.add((change.root, change.old_path))
            elif change.type == "dir" and change.kind in ("created", "retyped"):
                self._made.add(place)

    def base_of(self, root: int, path: bytes) -> bytes | None:
        """The base path that the view's ``path`` shows or stands in for; None below new ones."""
        tail: list[bytes] = []
        while True:
            came = self._came.get((root, path))
            if came is not None:
                path = came
                break
            if not path:
                break
            tail.append(leaf(path))
            path = parent(path)
            if (root, path) in self._made:
                return None
        for name in reversed(tail):
            path = join(path, name)
        return path

    def slot_of(self, root: int, path: bytes) -> bytes | None:
        """The base path of the *name* at the view's ``path``: what a placement there replaces."""
        if not path:
            return path
        above, _, name = path.rpartition(b"/")
        place = root, above
        if place not in self._slots:
            self._slots[place] = None if place in self._made else self.base_of(root, above)
        within = self._slots[place]
        return None if within is None else join(within, name)

    def view_of(self, root: int, path: bytes) -> bytes:
        """Where the view shows the base directory at ``path``."""
        tail: list[bytes] = []
        while path and (root, path) not in self._went:
            tail.append(leaf(path))
            path = parent(path)
        path = self._went.get((root, path), path)
        for name in reversed(tail):
            path = join(path, name)
        return path

    def made(self, root: int, path: bytes) -> bool:
        """Whether the view's directory ``path`` is one that the session made."""
        return (root, path) in self._made
