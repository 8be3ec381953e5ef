"""The policy files of an owner and of projects, read and parsed by a worker with their rights.

The owner's are ``~/.config/goexfs/NAME.toml``; one extends another or a preset.  A project's is
``.goexfs.toml`` at the top of a root, in the base: what a script writes there says nothing until
it is committed.

Root neither opens nor parses any of them: the daemon gets plain JSON values, and checks those as
it checks a request's.  In root's own sessions the worker, which reads as root, becomes the
session's sandbox uid before it parses, since a root of theirs may hold anybody's files.  What
keys there are is not known here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from goexfs.errors import Denied, GoexfsError, NotFound, Usage
from goexfs.names import display
from goexfs.units import parse_size
from goexfsd import kernel
from goexfsd.worker import Owner, Root, Worker

PROJECT_FILE = ".goexfs.toml"
DIRECTORY = ".config/goexfs"
TABLES = ("credentials",)
"""Keys whose values are tables of text."""
_MOST_BYTES = 64 * 1024
_MOST_FILES = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class _File:
    source: str
    text: bytes
    error: GoexfsError | None = None
    """Why it cannot be read: only who uses it is told."""


def read_rules(worker: Worker) -> None:
    """Worker entry.  options: ``home``; ``name``; ``presets`` (names); ``sizes`` (keys whose
    values may be written ``2G``); ``parser_uid`` (who parses, in a session of root's).

    Sends ``{"event": "rules", "user": [[source, table], ...], "preset": name,
    "projects": [[source, table], ...], "available": [name, ...]}``, the owner's files from the
    outermost extended one to the named one.  Raises NotFound where there is no such policy,
    Usage for a file that is not TOML, Denied for one that may not be read.
    """
    options = worker.spec.options
    home = _Home(options["home"])
    projects = [
        _File(f"{root.path}/{PROJECT_FILE}", text)
        for root, fd in zip(worker.spec.roots, worker.root_fds, strict=True)
        if (text := _project(fd, root.path)) is not None
    ]
    files = home.files()
    if os.geteuid() == 0:
        _step_down(options["parser_uid"])
    sizes = frozenset(options["sizes"])
    user, preset = _chain(options["name"], files, options["presets"], sizes, options["home"])
    worker.send(
        {
            "event": "rules",
            "user": user,
            "preset": preset,
            "projects": [[file.source, _table(file, sizes)] for file in projects],
            "available": sorted({*options["presets"], *files}),
        }
    )


def silent(owner: Owner, home: str, roots: Sequence[Root]) -> bool:
    """Whether there surely is no policy file, neither of the owner's nor of a project.

    Only names are looked at, by this thread, with the owner's rights.  False for whatever is not
    as it should be: then a worker looks, and says what is wrong.
    """
    with kernel.eyes_of(owner.uid, owner.gid, owner.groups):
        try:
            return _is_empty(os.path.join(home, DIRECTORY)) and all(map(_says_nothing, roots))
        except OSError:
            return False


def _is_empty(directory: str) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except (FileNotFoundError, NotADirectoryError):
        return True


def _says_nothing(root: Root) -> bool:
    """Whether the root is the directory that it was, and no project's policy lies in it."""
    fd = os.open(root.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if root.ino and os.fstat(fd).st_ino != root.ino:
            return False
        os.lstat(PROJECT_FILE, dir_fd=fd)
    except FileNotFoundError:
        return True
    finally:
        os.close(fd)
    return False


class _Home:
    """The owner's directory of policies."""

    def __init__(self, home: str) -> None:
        self.directory = os.path.join(home, DIRECTORY)

    def files(self) -> dict[str, _File]:
        """All of them, by name; there are few."""
        found: dict[str, _File] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            for entry in sorted(os.listdir(self.directory)):
                name, dot, suffix = entry.rpartition(".")
                if (dot and suffix == "toml" and _NAME.fullmatch(name)) and len(found) < 64:
                    path = os.path.join(self.directory, entry)
                    found[name] = self._file(path)
        return found

    def _file(self, path: str) -> _File:
        try:
            # Links are followed, with the owner's rights: people keep such files elsewhere.
            fd = _open(lambda: os.open(path, _FLAGS), path)
            return _File(path, b"" if fd is None else _read(fd, path))
        except GoexfsError as error:
            return _File(path, b"", error)


_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def _project(root_fd: int, root: str) -> bytes | None:
    path = f"{root}/{PROJECT_FILE}"
    fd = _open(lambda: kernel.open_beneath(root_fd, PROJECT_FILE.encode(), _FLAGS), path)
    return None if fd is None else _read(fd, path)


def _open(opening: Any, path: str) -> int | None:
    """A descriptor; None where there is nothing."""
    try:
        fd: int = opening()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Denied(f"the policy {display(path)} is a symbolic link") from error
        raise Denied(
            f"the policy {display(path)} cannot be read: {error.strerror}",
            hint="without it the run might be held to less than it says; mend or remove it",
        ) from error
    return fd


def _read(fd: int, path: str) -> bytes:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Usage(f"the policy {display(path)} is not a plain file")
    with open(fd, "rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise Usage(f"the policy {display(path)} is larger than {_MOST_BYTES // 1024} KiB")
    return text


def _step_down(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _chain(
    name: str, files: dict[str, _File], presets: list[str], sizes: frozenset[str], home: str
) -> tuple[list[list[Any]], str]:
    """The owner's files along ``extends``, and the preset at its end."""
    chain: list[list[Any]] = []
    passed: list[str] = []
    while name in files and name not in passed:
        passed.append(name)
        if len(passed) > _MOST_FILES:
            raise Usage(f"policies extend each other more than {_MOST_FILES} deep")
        table = _table(files[name], sizes, home)
        # A file with a preset's name stands before it, and extends it.
        below = table.pop("extends", name if name in presets else "default")
        if not isinstance(below, str):
            raise Usage(f"the policy {display(files[name].source)} extends what is no name")
        chain.insert(0, [files[name].source, table])
        name = below
    if name not in presets:
        if passed and name in passed:
            raise Usage(f"the policy {name} extends itself")
        known = ", ".join(sorted({*presets, *files}))
        raise NotFound(
            f"there is no policy {display(name)}",
            hint=f"there are {known}; your own are files in ~/{DIRECTORY}/",
        )
    return chain, name


def _table(file: _File, sizes: frozenset[str], home: str | None = None) -> dict[str, Any]:
    """A file's keys and values, plain: text, numbers, booleans, lists and tables of text."""
    if file.error is not None:
        raise file.error
    try:
        table = tomllib.loads(file.text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        said = str(error)[:200]
        raise Usage(f"the policy {display(file.source)} is not TOML: {said}") from error
    for key, value in table.items():
        if key in sizes and isinstance(value, str):
            try:
                table[key] = parse_size(value)
            except ValueError as error:
                raise Usage(f"the policy {display(file.source)}: {key}: {error}") from error
        elif not _is_plain(value) and not (key in TABLES and _is_tables(value)):
            raise Usage(
                f"the policy {display(file.source)}: {display(key)} is no text, number or list"
            )
    if home is not None and isinstance(table.get("read"), list):
        table["read"] = [_real(path, home) for path in table["read"]]
    return table


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and all(isinstance(text, str) for text in each.values())
        for each in value
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, str) for each in value)
    return isinstance(value, str | int | float | bool)


def _real(path: str, home: str) -> str:
    """Where a path leads, with the owner's eyes: rules about places are about real ones."""
    expanded = home + path[1:] if path.startswith("~/") else path
    return os.path.realpath(expanded) if expanded.startswith("/") else path
