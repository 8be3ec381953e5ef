"""The review: for each change the warnings that it earns, and those of all changes together.

A warning is ``code: sentence``: a stable code of ``rules``, and a sentence for people, which may
have a detail in it.  Details come from our own tables or through ``display``: no warning holds
a control character, and none holds a secret.

A change is looked at through ``Evidence``: the room that has the trees reads, bounded, without
following symlinks; here nothing is opened.  Only what changed is looked at, and of a file's
content only what came with the change: what the old content had as well is no news.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from goexfs.names import display
from goexfsd.warn import binaries, links, looks, secrets, settings
from goexfsd.warn.globs import Globs
from goexfsd.warn.rules import ARRIVED, CHECKS, DELETED_MANY, RULES, Rule


class Change(Protocol):
    """What is needed of a change (``goexfsd.layer.changes.Change`` is one)."""

    @property
    def kind(self) -> str: ...
    @property
    def root(self) -> int: ...
    @property
    def path(self) -> bytes: ...
    @property
    def type(self) -> str: ...
    @property
    def st(self) -> os.stat_result | None: ...
    @property
    def old_st(self) -> os.stat_result | None: ...
    @property
    def aspects(self) -> frozenset[str]: ...
    @property
    def upper_ino(self) -> int: ...
    @property
    def links(self) -> int: ...


class Evidence(Protocol):
    """What may be looked at about one change."""

    def look(self, limit: int) -> tuple[bytes, bool] | None:
        """The first bytes of the regular file, and whether it has file capabilities.

        None: it cannot be read.
        """
        ...

    def capable(self) -> bool:
        """Whether the regular file has file capabilities."""
        ...

    def before(self, limit: int) -> bytes:
        """The first bytes that it had; none if it was not there, or cannot be read."""
        ...

    def target(self) -> bytes:
        """Where the symlink points."""
        ...

    def link(self, path: bytes) -> bytes | None:
        """Where the symlink at a path of the same root's view points; None if there is none."""
        ...

    def exists(self, path: bytes) -> bool:
        """Whether the same root's view has something there."""
        ...


Warnings = Iterator[tuple[str, str | None]]
"""Codes of ``CHECKS``, each with a detail or none."""

_ANEW = frozenset(("created", "retyped"))
_OTHERS_MAY_WRITE = stat.S_IWOTH
_BYTECODE = (b".pyc", b".pyo")
_TEXT = 8000
"""As git does: a file with a NUL in its first so many bytes is no text."""


class _Paths:
    """Rules by path."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        patterns = [(pattern, rule) for rule in rules for pattern in rule.patterns]
        self._at = Globs.of(patterns)
        self._above = Globs.of(patterns, above=True)
        self._but = Globs.of((pattern, rule) for rule in rules for pattern in rule.but)

    def of(self, change: Change, place: bytes) -> Sequence[Rule]:
        """The rules that a change falls under."""
        kind, path = change.kind, change.path
        found: Sequence[Rule] = ()
        if change.type != "dir" or kind == "deleted":
            found = self._at.matches(place, path)
        elif kind == "renamed":
            found = self._above.matches(place, path)
        if change.type == "symlink" and kind in ARRIVED:
            found = [*found, *self._above.matches(place, path)]
        if not found:
            return ()
        excused = self._but.matches(place, path)
        each = dict.fromkeys(found)
        return [rule for rule in each if kind in rule.kinds and rule not in excused]


_BUILT_IN = _Paths(RULES)


class Review:
    """One review: ask ``of`` for each change in order, then ``whole`` and ``counts``."""

    def __init__(
        self, changes: Iterable[Change], places: Mapping[int, bytes], more: Iterable[Rule] = ()
    ) -> None:
        """``changes``: all that will be asked for.  ``places``: root -> its real path."""
        own = tuple(more)
        self._places = {root: place.rstrip(b"/") for root, place in places.items()}
        self._sets = (_BUILT_IN, _Paths(own)) if own else (_BUILT_IN,)
        self._says = {**CHECKS, **{rule.code: rule.says for rule in (*RULES, *own)}}
        self._counts: Counter[str] = Counter()
        self._gone: Counter[tuple[int, bytes]] = Counter()
        self._top = b"\0"
        self._listed = Counter((c.root, c.upper_ino) for c in changes if c.links > 1)

    def of(self, change: Change, evidence: Evidence) -> list[str]:
        """The warnings of one change."""
        found: list[tuple[str, str | None]] = [(rule.code, None) for rule in self._by_path(change)]
        if change.kind == "deleted":
            self._deleted(change)
        else:
            found += self._by_look(change, evidence)
            if "content" in change.aspects and _is_emptied(change):
                self._gone[change.root, change.path.rpartition(b"/")[0]] += 1
        if not found:
            return []
        self._counts.update(code for code, _ in found)
        return [self._sentence(code, detail) for code, detail in found]

    def _sentence(self, code: str, detail: str | None) -> str:
        text = f"{code}: {self._says[code]}"
        return text if detail is None else f"{text}: {detail}"

    # -- all changes together ------------------------------------------------------------------

    def whole(self, root_names: Mapping[int, str]) -> list[str]:
        """The warnings that only all changes together earn."""
        total = self._gone.total()
        if total <= DELETED_MANY:
            return []
        (root, place), count = self._gone.most_common(1)[0]
        shown = display(place) + "/" if place else "the top"
        if len(root_names) > 1:
            shown = f"{display(root_names[root])}: {shown}"
        detail = f"{total} files, {count} of them in {shown}"
        return [self._sentence("mass-deletion", detail)]

    def counts(self) -> list[str]:
        """``code: N changes: sentence`` for each code met."""
        order = {code: at for at, code in enumerate(self._says)}
        return [
            f"{code}: {count} change{'' if count == 1 else 's'}: {self._says[code]}"
            for code, count in sorted(self._counts.items(), key=lambda each: order[each[0]])
        ]

    def _deleted(self, change: Change) -> None:
        """Deletions come first, a directory before what is in it: count by the topmost."""
        path = change.path
        if not path.startswith(self._top + b"/"):
            self._top = path if change.type == "dir" else b"\0"
        if change.type != "dir":
            below = path.startswith(self._top + b"/")
            place = self._top if below else path.rpartition(b"/")[0]
            self._gone[change.root, place] += 1

    # -- by path -------------------------------------------------------------------------------

    def _by_path(self, change: Change) -> Sequence[Rule]:
        place = self._places.get(change.root, b"")
        if len(self._sets) == 1:
            return _BUILT_IN.of(change, place)
        return [rule for paths in self._sets for rule in paths.of(change, place)]

    # -- by looking at it ----------------------------------------------------------------------

    def _by_look(self, change: Change, evidence: Evidence) -> list[tuple[str, str | None]]:
        kind, aspects, st = change.kind, change.aspects, change.st
        found: list[tuple[str, str | None]] = []
        if st is None:
            return found
        anew = kind in _ANEW
        name = change.path.rpartition(b"/")[2]
        if (anew or kind == "renamed") and looks.is_odd(name):
            found += looks.strange(name)
        mode, type_ = st.st_mode, change.type
        if type_ == "symlink":
            if kind in ARRIVED and self._leads_out(change, evidence):
                found.append(("link-out", display(evidence.target())))
            return found
        if mode & 0o6002 and (anew or aspects):
            found += _rights(type_, mode, anew or not aspects.isdisjoint(("mode", "owner")), change)
        if type_ == "file":
            if anew or "content" in aspects:
                found += self._content(change, evidence)
            elif "xattrs" in aspects and evidence.capable():
                found.append(("capability", None))
            if kind != "metadata" and (name in _BY_NAME or name[-4:] in _BYTECODE):
                found += _special(change, name, evidence)
        elif type_ in ("char", "block") and kind in ARRIVED:
            found.append(("device", None))
        if change.links > 1 and not anew and change.upper_ino:
            unlisted = change.links - self._listed[change.root, change.upper_ino]
            if unlisted > 0:
                found.append(("shared-file", f"{unlisted} of {change.links}"))
        return found

    def _leads_out(self, change: Change, evidence: Evidence) -> bool:
        place = self._places.get(change.root, b"")
        return links.leads_out(change.path, evidence.target(), place, evidence.link)

    def _content(self, change: Change, evidence: Evidence) -> list[tuple[str, str | None]]:
        seen = evidence.look(secrets.HEAD)
        if seen is None:
            return [("unread", None)]
        data, capable = seen
        said: list[tuple[str, str | None]] = [("capability", None)] if capable else []
        machine = binaries.recognise(data)
        if machine is not None:
            return [*said, ("binary", machine)]
        found = secrets.find(data)
        if found and data.find(b"\0", 0, _TEXT) < 0:
            old = {} if change.kind in _ANEW else secrets.find(evidence.before(secrets.HEAD))
            said += [("secret", format_name) for format_name in secrets.added(old, found)]
        return said


def _is_emptied(change: Change) -> bool:
    st, old = change.st, change.old_st
    return st is not None and old is not None and st.st_size == 0 < old.st_size


def _rights(type_: str, mode: int, granted: bool, change: Change) -> Warnings:
    if mode & 0o6000 and type_ != "dir" and (granted or "content" in change.aspects):
        both = [name for bit, name in ((0o4000, "setuid"), (0o2000, "setgid")) if mode & bit]
        yield "setuid", " and ".join(both)
    if mode & _OTHERS_MAY_WRITE and granted and not (type_ == "dir" and mode & stat.S_ISVTX):
        yield "world-writable", None


# -- files that are special by their name ------------------------------------------------------


def _special(change: Change, name: bytes, evidence: Evidence) -> Warnings:
    if name[-4:] in _BYTECODE:
        yield from _bytecode(change, name, evidence)
    check = _BY_NAME.get(name)
    if check is not None:
        yield from check(change, evidence)


def _bytecode(change: Change, name: bytes, evidence: Evidence) -> Warnings:
    parent = change.path[: -len(name)]
    stem = name.partition(b".")[0] if parent.endswith(b"__pycache__/") else name[:-4]
    folder = parent.removesuffix(b"__pycache__/")
    if evidence.exists(folder + stem + b".py"):
        yield "bytecode", None
    else:
        yield "bytecode-alone", None


def _both(change: Change, evidence: Evidence) -> tuple[bytes, bytes] | None:
    """What came to this path, and what it had; None if that is too large or cannot be read."""
    seen = evidence.look(settings.MAX + 1)
    if seen is None or len(seen[0]) > settings.MAX:
        return None
    old = evidence.before(settings.MAX) if change.kind == "modified" else b""
    return old, seen[0]


def _git_config(change: Change, evidence: Evidence) -> Warnings:
    texts = _both(change, evidence)
    if texts is None:
        yield "git-config", "too large, or not to be read"
        return
    found = settings.git(*texts)
    if found:
        yield "git-config", ", ".join(found)


def _git_attributes(change: Change, evidence: Evidence) -> Warnings:
    texts = _both(change, evidence)
    found = ["too large, or not to be read"] if texts is None else settings.attributes(*texts)
    if found:
        yield "git-attributes", ", ".join(found)


def _git_link(change: Change, evidence: Evidence) -> Warnings:
    del change, evidence
    yield "git-link", None


def _package(name: str) -> Callable[[Change, Evidence], Warnings]:
    def check(change: Change, evidence: Evidence) -> Warnings:
        texts = _both(change, evidence)
        parts = settings.RUN_BY[name] if texts is None else settings.package(name, *texts)
        if parts:
            yield "package-scripts", ", ".join(parts)

    return check


_BY_NAME: dict[bytes, Callable[[Change, Evidence], Warnings]] = {
    b"config": _git_config,
    b"config.worktree": _git_config,
    b".gitconfig": _git_config,
    b"gitconfig": _git_config,
    b".gitattributes": _git_attributes,
    b"attributes": _git_attributes,
    b".git": _git_link,
    **{name.encode(): _package(name) for name in settings.RUN_BY},
}
