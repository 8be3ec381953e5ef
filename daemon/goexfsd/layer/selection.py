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
from functools import cache

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


@cache
def expression(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression over whole paths; Usage where it is none."""
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if "/" not in pattern.rstrip("/"):
        names.insert(0, "**")
    parts = []
    for name in names[:-1]:
        parts.append("(?:[^/]+/)*" if name == "**" else _one_name(name) + "/")
    last = names[-1] if names else "**"
    parts.append(".+" if last == "**" else _one_name(last) + "(?:/.*)?")
    try:
        return re.compile("".join(parts) + r"\Z", re.DOTALL)
    except re.error as error:
        raise Usage(f"{display(pattern)} is no glob: {error}") from error


_CLASS = re.compile(r"\[([!^]?)(\]?(?:\\.|[^\]\\])*)\]", re.DOTALL)


def _one_name(glob: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(glob):
        char = glob[at]
        group = _CLASS.match(glob, at) if char == "[" else None
        if group is not None:
            parts.append(_one_of(*group.groups()))
            at = group.end()
            continue
        if char == "\\" and at + 1 < len(glob):
            at += 1
            parts.append(re.escape(glob[at]))
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char))
        at += 1
    return "".join(parts)


def _one_of(negation: str, members: str) -> str:
    """A class: ``-`` between two characters makes a range."""
    inner, at = "", 0
    while at < len(members):
        if members[at] == "\\" and at + 1 < len(members):
            at += 1
            inner += re.escape(members[at])
        else:
            inner += "-" if members[at] == "-" else re.escape(members[at])
        at += 1
    return f"(?!/)[{'^' if negation else ''}{inner}]"
