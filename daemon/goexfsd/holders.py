"""Holders: which processes stand in a subvolume, and where it is mounted, as /proc tells root.

A process *writes* if it has a file there open or mapped for writing: what it writes later goes
where the file goes.  Others *stand* in it: their working directory or their root is there, or
they have something open for reading or mapped.  ``O_PATH`` descriptors do not count.

/proc does not show everything: not the processes of a PID namespace that ours does not hold,
descriptors on their way through a socket, or files that io_uring registered.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from goexfsd import kernel

_READ, _WRITE = 0o400, 0o200
_LINE = rb"^([0-9a-f]+-[0-9a-f]+) ...(%b) [0-9a-f]+ (\S+) ([1-9].*)$"
_FILE, _SHARED = (re.compile(_LINE % kind, re.MULTILINE) for kind in (b"[ps]", b"s"))
"""Mappings of files in /proc/PID/maps: addresses, private or shared, device, inode and path."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process (0: the kernel itself) and how it holds on to the subvolume."""

    pid: int
    uid: int
    name: str
    writes: bool


def inside(device: int, file_system: str, but: Collection[int], *, writers: bool) -> list[Holder]:
    """Who holds something on ``device`` (a subvolume's), or only who writes there; not the
    processes ``but``.  ``file_system`` is its ``major:minor`` as mount tables have it."""
    found = list(_loops(device))
    for pid in _pids():
        if pid in but:
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            how = _held(pid, device, file_system, writers)
            if how:
                found.append(_holder(pid, writes=how == "w"))
    return sorted(found, key=lambda each: not each.writes)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _holder(pid: int, *, writes: bool) -> Holder:
    name = Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    return Holder(pid, Path(f"/proc/{pid}").stat().st_uid, name, writes)


def _held(pid: int, device: int, file_system: str, writers: bool) -> str:
    """w, r or nothing."""
    how = ""
    for name in () if writers else ("cwd", "root"):
        if _on(f"/proc/{pid}/{name}", device):
            how = "r"
    for mode, link in itertools.chain(_open(pid), _mapped(pid, file_system, writers)):
        if mode & _WRITE or (mode & _READ and not how and not writers):
            if not _on(link, device):
                continue
            if mode & _WRITE:
                return "w"
            how = "r"
    return how


def _open(pid: int) -> Iterator[tuple[int, str]]:
    """Descriptors: how they are open, and the link that leads to the file."""
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield entry.stat(follow_symlinks=False).st_mode, entry.path


def _mapped(pid: int, file_system: str, shared: bool) -> Iterator[tuple[int, str]]:
    """The same of mappings, or only of ``shared`` ones; of the others each file once."""
    major, minor = (int(number) for number in file_system.split(":"))
    device, seen = b"%02x:%02x" % (major, minor), set()
    lines = (_SHARED if shared else _FILE).findall(Path(f"/proc/{pid}/maps").read_bytes())
    for span, rights, dev, rest in lines:
        private = rights == b"p"
        if dev != device or (private and rest in seen):
            continue
        seen.add(rest)
        link = f"/proc/{pid}/map_files/{span.decode()}"
        with contextlib.suppress(FileNotFoundError):
            mode = os.lstat(link).st_mode
            yield mode & ~_WRITE if private else mode, link


def _on(link: str, device: int) -> bool:
    with contextlib.suppress(OSError):
        return kernel.device_of(link) == device
    return False


def _loops(device: int) -> Iterator[Holder]:
    """Loop devices whose image is there."""
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if _on(path.read_text().rstrip("\n"), device):
                yield Holder(0, 0, path.parts[3], True)


def file_system_of(fd: int) -> str:
    """``major:minor`` of the file system of ``fd``, as mount tables have it."""
    number = kernel.statx_extra(fd, b"")[1]
    return next(mount.device for mount in kernel.mount_table() if mount.number == number)


def mounted(file_system: str, where: str) -> str | None:
    """What any process sees mounted of, on or in the directory ``where`` (from the top of its
    file system), as the end of a sentence; None: nothing."""
    seen: set[str] = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            space = str(Path(f"/proc/{pid}/ns/mnt").readlink())
            if space not in seen:
                found = _mounted(list(kernel.mount_table(pid)), file_system, where)
                if found is not None:
                    return found
                seen.add(space)
    return None


def _mounted(table: list[kernel.Mount], file_system: str, where: str) -> str | None:
    by_number = {mount.number: mount for mount in table}
    for mount in table:
        if mount.device == file_system and _within(mount.top, where):
            return f"it is mounted at {mount.point!r}"
        above = by_number.get(mount.above)
        if above is not None and above.device == file_system:
            inner = mount.point.removeprefix(above.point).strip("/")
            if _within(f"{above.top.rstrip('/')}/{inner}", where):
                return f"something is mounted on {mount.point!r}"
    return None


def _within(path: str, where: str) -> bool:
    return path == where or path.startswith(where + "/")
