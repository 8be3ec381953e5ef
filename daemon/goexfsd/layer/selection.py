"""A selection: which entries a user's words mean, by path, by glob, by exclusion.

A word that names something in the list, or a directory above something, means that and all below
it, whatever characters it has; only otherwise is it a glob.  Globs are gitignore's: ``*``, ``?``
and ``[a-z]`` stay within a name, ``**`` is any number of directories, a backslash takes the
meaning from what follows; one without a slash fits at any depth; what fits brings all below it.

Names are any bytes: for ``?`` and classes what is UTF-8 in them are characters, the rest bytes.
Pure; which root and directory a word is taken from is decided above (``goexfsd.words``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from goexfs.errors import Usage
from goexfs.names import display
from goexfsd.layer.changes import Change

Place = tuple[int, bytes]
"""(root index, path below the root)."""

_WILD = re.compile(r"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern that is taken from the directory ``top`` of a root on."""

    root: int
    top: bytes
    pattern: str
    """With surrogates for bytes that are no UTF-8."""

    def fits(self, root: int, path: bytes) -> bool:
        if root != self.root:
            return False
        if self.top:
            if not path.startswith(self.top + b"/"):
                return False
            path = path[len(self.top) + 1 :]
        text = path.decode("utf-8", "surrogateescape")
        return expression(self.pattern).match(text) is not None


@dataclass(frozen=True, slots=True)
class Word:
    """One word, with what it may mean."""

    text: str
    place: Place | None
    globs: tuple[Glob, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """What to take (no words: everything), and what of it to leave; or what a patch takes."""

    words: tuple[Word, ...] = ()
    excluded: tuple[Word, ...] = ()
    patch: bytes | None = None
    """Unread: whoever reads it does so with the owner's rights."""

    @classmethod
    def of(cls, places: Iterable[Place], excluded: Iterable[Place] = ()) -> Selection:
        """Of places that are meant as they stand."""

        def words(found: Iterable[Place]) -> tuple[Word, ...]:
            return tuple(Word(os.fsdecode(path), (root, path)) for root, path in found)

        return cls(words(places), words(excluded))

    def __bool__(self) -> bool:
        """Whether it may be less than everything."""
        return bool(self.words or self.excluded) or self.patch is not None

    def among(self, listed: Collection[Place]) -> Chosen:
        """The selection from a list: only the list tells names from globs."""
        known = _with_parents(listed)
        words, excluded = _Meaning(self.words, known), _Meaning(self.excluded, known)
        return Chosen(words if self.words else None, excluded)

    def idle(self, listed: Collection[Place]) -> str | None:
        """The first word that means nothing in the list."""
        known = _with_parents(listed)
        for word in self.words:
            if word.place in known:
                continue
            if not any(glob.fits(*place) for glob in word.globs for place in listed):
                return word.text
        return None


class Chosen:
    """A selection whose words have got their meaning."""

    def __init__(self, words: _Meaning | None, excluded: _Meaning) -> None:
        self._words, self._excluded = words, excluded

    def takes(self, root: int, path: bytes) -> bool:
        """Whether a word means it; exclusions are another question."""
        return self._words is None or self._words.fits(root, path)

    def leaves(self, change: Change) -> bool:
        """Whether an exclusion means it, or either end of a rename."""
        if self._excluded.fits(change.root, change.path):
            return True
        return change.old_path is not None and self._excluded.fits(change.root, change.old_path)


class _Meaning:
    """What some words mean, each by name or by glob."""

    __slots__ = ("_globs", "_places")

    def __init__(self, words: Iterable[Word], known: Collection[Place]) -> None:
        self._places: set[Place | None] = set()
        self._globs: list[Glob] = []
        for word in words:
            if word.place in known or not word.globs:
                self._places.add(word.place)
            else:
                self._globs += word.globs

    def fits(self, root: int, path: bytes) -> bool:
        above = path
        while self._places:
            if (root, above) in self._places:
                return True
            if not above:
                break
            above = above.rpartition(b"/")[0]
        return any(glob.fits(root, path) for glob in self._globs)


def places_of(changes: Iterable[Change]) -> set[Place]:
    """Every place that a change list speaks of: both ends of renames."""
    found = set()
    for change in changes:
        found.add((change.root, change.path))
        if change.old_path is not None:
            found.add((change.root, change.old_path))
    return found


def _with_parents(listed: Iterable[Place]) -> set[Place]:
    found: set[Place] = set()
    for root, path in listed:
        while (root, path) not in found:
            found.add((root, path))
            path = path.rpartition(b"/")[0]
    return found


def is_glob(text: str) -> bool:
    """Whether there is anything in it that is special to a glob."""
    return _WILD.search(text) is not None


def check(pattern: str) -> None:
    """Usage where it is no glob; costs no more than looking at it."""
    for group in _CLASS.finditer(pattern):
        members = _members(group[2])
        while len(members) > 2:
            low, dash, high, *_ = members
            ranges = dash == "-"
            if ranges and low[-1] > high[-1]:
                raise Usage(f"{display(pattern)} is no glob: {display(low + dash + high)}")
            members = members[3 if ranges else 1 :]


@lru_cache(maxsize=2048)
def expression(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression over whole paths; Usage where it is none.

    However many stars it has, it takes no more than the length of the path times its own: what
    stands between two of them is taken where it comes first, for good (an atomic group).
    """
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if "/" not in pattern.rstrip("/"):
        names.insert(0, "**")
    last = names.pop() if names else "**"
    between: list[list[str]] = [[]]
    for name in names:
        if name == "**":
            between.append([])
        else:
            between[-1].append(_one_name(name) + "/")
    first, *others = map("".join, between)
    middle = [f"(?>(?:[^/]+/)*?{part})" for part in others[:-1] if part]
    end = ["(?:[^/]+/)*" + others[-1]] if others else []
    tail = ".+" if last == "**" else _one_name(last) + "(?:/.*)?"
    try:
        return re.compile("".join((first, *middle, *end, tail)) + r"\Z", re.DOTALL)
    except re.error as error:
        raise Usage(f"{display(pattern)} is no glob: {error}") from error


_CLASS = re.compile(r"\[([!^]?)(\]?(?:\\.|[^\]\\])*)\]", re.DOTALL)


def _one_name(glob: str) -> str:
    parts = [""]  # what stands between stars
    at = 0
    while at < len(glob):
        char = glob[at]
        group = _CLASS.match(glob, at) if char == "[" else None
        if group is not None:
            parts[-1] += _one_of(*group.groups())
            at = group.end()
            continue
        if char == "\\" and at + 1 < len(glob):
            at += 1
            parts[-1] += re.escape(glob[at])
        elif char == "*":
            parts.append("")
        else:
            parts[-1] += "[^/]" if char == "?" else re.escape(char)
        at += 1
    first, *others = parts
    middle = [f"(?>[^/]*?{part})" for part in others[:-1] if part]
    return "".join((first, *middle, *(["[^/]*" + others[-1]] if others else [])))


def _one_of(negation: str, members: str) -> str:
    """A class: ``-`` between two characters makes a range."""
    inner = "".join("-" if each == "-" else re.escape(each[-1]) for each in _members(members))
    return f"(?!/)[{'^' if negation else ''}{inner}]"


def _members(members: str) -> list[str]:
    """Its characters, each with the backslash before it."""
    return re.findall(r"\\.|.", members, re.DOTALL)
