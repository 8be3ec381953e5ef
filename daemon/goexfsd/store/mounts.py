"""What the kernel says about loop devices and mounts: read from /sys and /proc, nothing kept."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator
from pathlib import Path

from goexfsd import kernel

_ESCAPE = re.compile(r"\\([0-7]{3})")


def loops() -> Iterator[tuple[str, str]]:
    """Attached loop devices: (device, backing file as the kernel names it)."""
    for entry in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        try:
            backing = entry.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            continue  # detached meanwhile
        yield f"/dev/{entry.parent.parent.name}", backing.rstrip("\n")


def loop_of(image: Path) -> str | None:
    """The loop device that ``image`` is attached to."""
    real = str(image.resolve())
    return next((device for device, backing in loops() if backing == real), None)


def mounted_at(device: str) -> list[str]:
    """Where a device is mounted, as far as this mount namespace shows."""
    return [target for source, target in _mounts() if source == device]


def source_of(target: Path) -> str | None:
    """What is mounted at ``target`` (the last, if several are)."""
    found = [source for source, at in _mounts() if at == str(target)]
    return found[-1] if found else None


def _mounts() -> Iterator[tuple[str, str]]:
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        yield _plain(rest.split()[1]), _plain(fields.split()[4])


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def unmount(target: Path, patience: float = 3.0) -> bool:
    """Unmount; False if it had to be detached lazily because something still holds it."""
    deadline = time.monotonic() + patience
    while True:
        try:
            kernel.umount(str(target), kernel.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EBUSY:  # busy: a worker that is just ending
                raise
            if time.monotonic() > deadline:
                kernel.umount(str(target), kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
                return False
            time.sleep(0.02)
        else:
            return True
