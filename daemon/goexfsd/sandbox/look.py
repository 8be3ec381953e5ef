"""What must be looked at before each run, with the eyes of the uid that the script will have.

Which hidden paths exist, which unix sockets somebody listens on (a read-only mount does not stop
connect), which directories above a root the uid may not enter.  Only names and types are looked
at, by a thread that has taken the uid for file access, so that a path that the user prepared
leads nowhere that the user could not go.

Symbolic links are resolved: what is masked is what they lead to.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

import trio

from goexfs.errors import SandboxFailed
from goexfsd import kernel

_LISTENING = 0x10000  # __SO_ACCEPTCON, in /proc/net/unix
_DATAGRAM = 2
_MOST_SOCKETS = 200
_MOST_DIRECTORIES = 64
_AT_ONCE = 4
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Search:
    """Where to look, and as whom."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    hidden: tuple[str, ...]
    hide: tuple[str, ...]
    visible: tuple[str, ...]
    """What the sandbox shows of the real file system, below these and nowhere else."""
    views: tuple[tuple[str, str], ...]
    """(source, dest)"""
    read_only: tuple[str, ...] = ()
    """Below every view."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Something to be made empty, at a real path."""

    path: str
    directory: bool
    in_view: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    own_home: bool = False
    """The home is there, and the uid's own."""
    masks: tuple[Mask, ...] = ()
    sockets: tuple[str, ...] = ()
    walls: tuple[str, ...] = ()
    """Directories above a root that the uid may not enter: they become empty ones."""
    pins: tuple[tuple[str, str], ...] = ()
    """(source, dest): directories of a view above what is hidden or read-only in it.  Being mount
    points, they cannot be renamed away, which would show it in the next step."""
    read_only: tuple[tuple[str, str], ...] = ()
    """(source, dest): bound over themselves, read-only."""


def beneath(path: str, directory: str) -> bool:
    """Whether ``path`` is ``directory`` or lies below it (by name alone)."""
    return path == directory or directory == "/" or path.startswith(directory + "/")


async def look(search: Search, seconds: float = _SECONDS) -> Found:
    """Carry out the search; SandboxFailed if it is not done in time."""
    # A thread that hangs in a file system cannot be stopped: a user's can be no more than these.
    room = _rooms.setdefault(search.uid, trio.CapacityLimiter(_AT_ONCE))
    until = time.monotonic() + seconds
    with trio.move_on_after(seconds):
        with contextlib.suppress(TimeoutError):
            return await trio.to_thread.run_sync(
                _look, search, until, abandon_on_cancel=True, limiter=room
            )
    raise SandboxFailed(
        f"{search.home} does not answer: what has to be hidden there cannot be found",
        hint="a network or FUSE file system may hang, or a pattern match too much",
    )


_rooms: WeakValueDictionary[int, trio.CapacityLimiter] = WeakValueDictionary()
"""By uid; a room is there as long as somebody is in it."""


def _look(search: Search, until: float = float("inf")) -> Found:
    listening = _listening()
    with kernel.eyes_of(search.uid, search.gid, search.groups):
        return _Eyes(search, until).found(listening)


class _Eyes:
    def __init__(self, search: Search, until: float) -> None:
        self.search = search
        self.until = until
        self.own_home = self._own_home()
        self.visible = tuple(
            path for path in search.visible if path != search.home or self.own_home
        )

    def found(self, listening: list[str]) -> Found:
        masks = {mask.path: mask for mask in self._masks()}
        fixed = tuple(sorted(set(self._below_views(self.search.read_only)), key=_by_dest))
        inner = [mask.path for mask in masks.values() if mask.in_view]
        covered = [mask.path for mask in masks.values() if mask.directory]
        return Found(
            own_home=self.own_home,
            masks=tuple(masks[path] for path in sorted(masks)),
            sockets=tuple(dict.fromkeys(self._sockets(listening, covered))),
            walls=tuple(dict.fromkeys(self._walls())),
            pins=tuple(self._pins([*inner, *(dest for _, dest in fixed)])),
            read_only=fixed,
        )

    def _below_views(self, patterns: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """What matches below a view, as (source, dest).  No symlink is followed, nor shown."""
        tree = _tree(tuple("/" + pattern for pattern in patterns))[1]
        for source, dest in self.search.views:
            for path in _walk(tree, source, self.until, follow=False):
                place = dest + path[len(source) :]
                if self._view(place) == (source, dest) and not Path(path).is_symlink():
                    yield path, place

    def _pins(self, places: list[str]) -> Iterator[tuple[str, str]]:
        """The directories between the views' tops and these, the outer ones first."""
        found: dict[str, str] = {}
        for place in places:
            view = self._view(place)
            assert view is not None
            source, dest = view
            parts = place[len(dest) :].strip("/").split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                below = "/" + "/".join(parts[:depth])
                found[dest + below] = source + below
        for dest in sorted(found):
            yield found[dest], dest

    def _own_home(self) -> bool:
        with contextlib.suppress(OSError):
            return Path(self.search.home).stat().st_uid == self.search.uid
        return False

    def _masks(self) -> Iterator[Mask]:
        absolute = tuple(path for path in self.search.hidden if path.startswith(("/", "~/")))
        for path in matches(absolute, self.search.home, self.until):
            yield from self._mask(path)
        relative = tuple(path for path in self.search.hidden if not path.startswith(("/", "~/")))
        for source, dest in self._below_views(relative):
            yield from self._present(dest, source, in_view=True)
        for path in self.search.hide:
            yield from self._mask(path)

    def _mask(self, path: str) -> Iterator[Mask]:
        """The masks for one real path, where the sandbox would show it."""
        real = os.path.realpath(path)
        view = self._view(real)
        if view is not None:
            source, dest = view
            # A root that was handed over is not hidden.
            if real != dest and _straight(source, real[len(dest) :]):
                yield from self._present(real, source + real[len(dest) :], in_view=True)
            return
        for shown in self.visible:
            if beneath(real, shown):
                yield from self._present(real, real, in_view=False)
            elif beneath(shown, real):  # asked for, below what is hidden
                yield from self._present(shown, shown, in_view=False)

    def _present(self, path: str, look_at: str, *, in_view: bool) -> Iterator[Mask]:
        try:
            mode = os.lstat(look_at).st_mode
        except OSError:
            return
        if stat.S_ISLNK(mode):  # in the view it is a link now: nothing is mounted through it
            return
        yield Mask(path, stat.S_ISDIR(mode), in_view)

    def _view(self, path: str) -> tuple[str, str] | None:
        """The innermost view that shows ``path``."""
        holding = [view for view in self.search.views if beneath(path, view[1])]
        return max(holding, key=lambda view: len(view[1]), default=None)

    def _sockets(self, listening: list[str], covered: list[str]) -> Iterator[str]:
        """Those in sight.  In a directory that is made empty, not even their names are.

        The kernel knows the name that a server once gave; anybody can give any name, in a mount
        namespace of their own.  So what is no socket is left alone, and where none is (any more),
        those around are taken: a program may rename its socket into place, as ssh does.
        """
        count, left = 0, set[str]()
        for path in listening:
            real = os.path.realpath(path)
            if self._view(real) or not any(beneath(real, shown) for shown in self.visible):
                continue
            if any(beneath(real, directory) for directory in covered):
                continue
            if _is_socket(real):
                found = [real]
            else:
                directory = os.path.dirname(real)  # noqa: PTH120
                looked = directory in left or len(left) >= _MOST_DIRECTORIES
                found = [] if looked else _sockets_in(directory)
                left.add(directory)
            yield from found
            count += len(found)
            if count > _MOST_SOCKETS:
                raise SandboxFailed("too many sockets in the directories that scripts see")

    def _walls(self) -> Iterator[str]:
        for _, dest in self.search.views:
            parts = dest.strip("/").split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                ancestor = "/" + "/".join(parts[:depth])
                if not any(beneath(ancestor, shown) for shown in self.visible):
                    continue
                try:
                    os.lstat(ancestor + "/.")  # Path would drop the dot
                except PermissionError:
                    yield ancestor
                    break
                except OSError:
                    break


def _by_dest(pair: tuple[str, str]) -> str:
    return pair[1]


def _straight(top: str, below: str) -> bool:
    """Whether ``top`` + ``below`` is there without passing a symlink: scripts make some."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    parent = os.fsencode(below.strip("/").rpartition("/")[0])
    try:
        fd = os.open(top, flags)
        try:
            os.close(kernel.open_beneath(fd, parent, flags))
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _sockets_in(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if _is_socket(entry.path)]
    except OSError:
        return []


def _listening() -> list[str]:
    """The paths of unix sockets that one could connect or send to."""
    found = []
    with Path("/proc/net/unix").open("rb") as lines:
        next(lines, None)
        for line in lines:
            fields = line.split(None, 7)
            if len(fields) < 8 or not fields[7].startswith(b"/"):
                continue
            if int(fields[3], 16) & _LISTENING or int(fields[4], 16) == _DATAGRAM:
                found.append(os.fsdecode(fields[7].rstrip(b"\n")))
    return found


@dataclass(slots=True)
class _Node:
    """A directory level of the patterns, so that each directory is listed once."""

    hidden: bool = False
    children: dict[str, _Node] = field(default_factory=dict)
    globs: list[tuple[re.Pattern[str], _Node]] = field(default_factory=list)
    either: re.Pattern[str] | None = None
    """All of ``globs`` at once: most names match none."""

    def child(self, part: str) -> _Node:
        if not any(char in part for char in "*?["):
            return self.children.setdefault(part, _Node())
        node = _Node()
        self.globs.append((re.compile(fnmatch.translate(part)), node))
        return node

    def matching(self, name: str) -> list[_Node]:
        """What follows ``name``."""
        found = [self.children[name]] if name in self.children else []
        if self.globs and self.either is None:
            self.either = re.compile("|".join(pattern.pattern for pattern, _ in self.globs))
        if self.either is not None and self.either.match(name):
            found += [child for pattern, child in self.globs if pattern.match(name)]
        return found


@functools.lru_cache(maxsize=16)
def _tree(patterns: tuple[str, ...]) -> tuple[_Node, _Node]:
    """The patterns below the home, and those from the top."""
    home, top = _Node(), _Node()
    for pattern in patterns:
        node = home if pattern.startswith("~/") else top
        for part in pattern.removeprefix("~").strip("/").split("/"):
            node = node.child(part)
        node.hidden = True
    return home, top


def matches(patterns: tuple[str, ...], home: str, until: float = float("inf")) -> list[str]:
    """The existing paths that match: ``~/`` is ``home``; what cannot be entered is skipped.

    TimeoutError if it is not done ``until`` then (by ``time.monotonic``).
    """
    below_home, top = _tree(patterns)
    return [*_walk(below_home, home.rstrip("/"), until), *_walk(top, "", until)]


def _walk(node: _Node, directory: str, until: float, *, follow: bool = True) -> Iterator[str]:
    if time.monotonic() > until:
        raise TimeoutError
    if not follow and Path(directory).is_symlink():
        return
    try:
        names = _names(node, directory or "/")
    except OSError:
        yield from _blind(node, directory, until)
        return
    for name in names:
        path = f"{directory}/{name}"
        candidates = node.matching(name)
        if any(child.hidden for child in candidates):
            yield path
        else:
            for child in candidates:
                yield from _walk(child, path, until, follow=follow)


def _names(node: _Node, directory: str) -> list[str]:
    """The names to consider: all, or only those that are asked for where that says it."""
    if node.globs:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries]
    return [name for name in node.children if os.path.lexists(f"{directory}/{name}")]


def _blind(node: _Node, directory: str, until: float) -> Iterator[str]:
    """A directory that may be entered but not listed: names can still be tried."""
    for name, child in node.children.items():
        path = f"{directory}/{name}"
        if not os.path.lexists(path):
            continue
        if child.hidden:
            yield path
        else:
            yield from _walk(child, path, until)
