"""Glob patterns over paths, many at once: an index by literal part keeps a path's cost small.

A pattern matches at any depth, on whole names; one that begins with ``/`` only from the root.
``*`` and ``?`` stay within a name, ``**`` is any number of directories (at the end: everything
below), ``[abc]`` and ``[!abc]`` are one character, ``{a,b}`` is either.  Case matters.

Besides its own matches each pattern knows the directories above them: ``.git/hooks/*`` has
``.git`` and ``.git/hooks``.  Who puts another directory, or a symlink, there changes what lies
below without a change of its own for it.  Only directories of a telling name (with a dot in it,
or below one) are taken: a ``bin`` is not.

Everything is bytes; nothing is looked at but the path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_WILD = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_CLASS = re.compile(r"\[(!?)([^\]/]+)\]")


def expand(pattern: str) -> list[str]:
    """The patterns that ``{a,b}`` stands for."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [each for choice in found[1].split(",") for each in expand(head + choice + tail)]


MAX_EXPANDED = 256
"""Patterns that one with braces may stand for."""


def check(pattern: str) -> None:
    """Raise ValueError, saying why, for a pattern that is none."""
    if math.prod(found.count(",") + 1 for found in _BRACES.findall(pattern)) > MAX_EXPANDED:
        raise ValueError(f"{pattern} stands for more than {MAX_EXPANDED} patterns")
    for glob in expand(pattern):
        names = glob.removeprefix("/").split("/")
        if any(name in ("", ".", "..") for name in names):
            raise ValueError(f"{pattern} has an empty name, a . or a .. in it")
        _expression(names, anchored=False)


def _one_name(glob: str) -> str:
    """The regular expression of a glob within one name."""
    parts: list[str] = []
    at = 0
    while at < len(glob):
        char = glob[at]
        group = _CLASS.match(glob, at) if char == "[" else None
        if group is not None:
            inner = group[2].replace("\\", "\\\\").replace("^", "\\^").replace("[", "\\[")
            parts.append(f"[{'^/' if group[1] else ''}{inner}]")
            at = group.end()
            continue
        parts.append({"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char))
        at += 1
    return "".join(parts)


def _expression(names: list[str], anchored: bool) -> re.Pattern[bytes]:
    parts = []
    for name in names[:-1]:
        parts.append("(?:[^/]+/)*" if name == "**" else _one_name(name) + "/")
    parts.append(".+" if names[-1] == "**" else _one_name(names[-1]))
    start = "" if anchored else "(?:.*/)?"
    text = start + "".join(parts) + r"\Z"
    return re.compile(text.encode("utf-8"), re.DOTALL)


class _Glob(Generic[T]):
    """One pattern; compiled when it is first needed, for most never are."""

    __slots__ = ("_expression", "_names", "anchored", "value")

    def __init__(self, names: list[str], anchored: bool, value: T) -> None:
        self._names = names
        self.anchored = anchored
        self.value = value
        self._expression: re.Pattern[bytes] | None = None

    def matches(self, path: bytes, whole: bytes) -> bool:
        if self._expression is None:
            self._expression = _expression(self._names, self.anchored)
        return self._expression.match(path if self.anchored else whole) is not None


def _places(names: list[str]) -> Iterator[list[str]]:
    """The directories above a pattern's matches that have a telling name."""
    for end in range(1, len(names)):
        place = names[:end]
        if not _WILD.search(place[-1]) and any("." in name for name in place):
            yield place


@dataclass(slots=True)
class Globs(Generic[T]):
    """Patterns, each with a value; which values does a path get?"""

    _by_name: dict[bytes, list[_Glob[T]]] = field(default_factory=dict)
    _by_suffix: dict[bytes, list[_Glob[T]]] = field(default_factory=dict)
    _by_start: dict[bytes, list[_Glob[T]]] = field(default_factory=dict)
    _by_folder: dict[bytes, list[_Glob[T]]] = field(default_factory=dict)
    _others: list[_Glob[T]] = field(default_factory=list)
    _folders: dict[bytes, list[_Glob[T]]] = field(default_factory=dict)
    """Parent directory (whole) -> what may match in it by a directory's name."""

    @classmethod
    def of(cls, patterns: Iterable[tuple[str, T]], *, above: bool = False) -> Globs[T]:
        """The patterns themselves or, with ``above``, the directories above their matches."""
        made: Globs[T] = cls()
        for pattern, value in patterns:
            for glob in expand(pattern):
                names = glob.strip("/").split("/")
                for each in _places(names) if above else (names,):
                    made._add(each, _Glob(each, glob.startswith("/"), value))
        return made

    def _add(self, names: list[str], glob: _Glob[T]) -> None:
        last = names[-1]
        wild = _WILD.search(last)
        stem, dot, suffix = last.rpartition(".")
        literal = [name for name in names[:-1] if not _WILD.search(name)]
        if wild is None:
            self._by_name.setdefault(last.encode(), []).append(glob)
        elif dot and stem and not _WILD.search(suffix):
            self._by_suffix.setdefault((dot + suffix).encode(), []).append(glob)
        elif literal:
            telling = max(literal, key=lambda name: ("." in name, len(name)))
            self._by_folder.setdefault(telling.encode(), []).append(glob)
        elif len(start := last[: wild.start()].encode()) >= _START:
            self._by_start.setdefault(start[:_START], []).append(glob)
        else:
            self._others.append(glob)

    def matches(self, place: bytes, path: bytes) -> Sequence[T]:
        """The value of every pattern that ``path``, relative to a root at ``place``, matches."""
        parent, _, name = path.rpartition(b"/")
        key = place + b"/" + parent
        folders = self._folders.get(key)
        if folders is None:
            folders = self._folders[key] = self._of_folder(key)
        found = self._by_name.get(name)
        suffix = self._by_suffix.get(name[name.rfind(b".") :])
        start = self._by_start.get(name[:_START])
        if not (found or suffix or start or folders or self._others):
            return ()
        whole = key + b"/" + name if parent else key + name
        groups = (found, suffix, start, folders, self._others)
        return [each.value for group in groups for each in group or () if each.matches(path, whole)]

    def _of_folder(self, parent: bytes) -> list[_Glob[T]]:
        names = dict.fromkeys(parent.split(b"/"))
        return [glob for name in names for glob in self._by_folder.get(name, ())]


_START = 4
"""Bytes of a name by which patterns that end in a wildcard are found."""
