"""What a session is opened on: a small project, and file systems of every kind to put it on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from daemons import User
from goexfsd import kernel
from views import mounted


def make_tree(top: Path, owner: User) -> Path:
    """Files, links of both kinds, a fifo, modes, xattrs, an ACL, holes, odd names, old times."""
    (top / "src" / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "README.md").write_text("# project\n")
    (top / "src" / "main.py").write_text("print('hello')\n")
    (top / "src" / "deep" / "er" / "data.bin").write_bytes(bytes(range(256)) * 64)
    (top / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (top / "run.sh").chmod(0o755)
    (top / "private").write_text("secret\n")
    (top / "private").chmod(0o600)
    os.link(top / "src" / "main.py", top / "src" / "same.py")
    (top / "link").symlink_to("src/main.py")
    (top / "dangling").symlink_to("/nowhere/at/all")
    os.mkfifo(top / "pipe", 0o640)
    (top / os.fsdecode(b"odd \xff\n\x1b[31m name")).write_text("odd\n")
    with open(top / "sparse", "wb") as file:
        file.write(b"head")
        file.seek(8 * 2**20)
        file.write(b"tail")
    os.setxattr(top / "README.md", "user.note", b"kept")
    owner.own(top)
    subprocess.run(["setfacl", "-m", f"u:{owner.uid + 1}:r", top / "README.md"], check=True)
    for directory, names, files in os.walk(top, topdown=False):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            os.utime(path, ns=(10**18, 10**18 + 1234567), follow_symlinks=False)
    return top


@contextmanager
def mounted_image(directory: Path, size: int, fstype: str = "btrfs") -> Iterator[Path]:
    """A fresh file system of ``size`` bytes in an image, mounted below ``directory``."""
    image, mount = directory / f"{fstype}.img", directory / fstype
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(size)
    quiet = {"btrfs": ["-q", "-K"], "ext4": ["-q"]}.get(fstype, [])
    if fstype == "btrfs" and size < 256 * 2**20:
        quiet += ["--mixed"]
    subprocess.run([f"mkfs.{fstype}", *quiet, str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    mount.chmod(0o755)
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)
        image.unlink()
        mount.rmdir()


# A context manager in a directory: the mounted file system.
Base = Callable[[Path], AbstractContextManager[Path]]


@contextmanager
def mounted_at(at: Path, fstype: str, data: str = "") -> Iterator[Path]:
    """A file system without device, mounted at a new directory."""
    at.mkdir()
    kernel.mount("none", str(at), fstype, 0, data)
    at.chmod(0o755)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)
        at.rmdir()


@contextmanager
def _tmpfs(directory: Path) -> Iterator[Path]:
    with mounted_at(directory / "tmpfs", "tmpfs", "size=64m") as at:
        yield at


@contextmanager
def _overlay(directory: Path) -> Iterator[Path]:
    with mounted_at(directory / "parts", "tmpfs", "size=64m") as parts:
        for name in ("lower", "upper", "work"):
            (parts / name).mkdir()
        (parts / "lower" / "from-below").write_text("below\n")
        data = f"lowerdir={parts}/lower,upperdir={parts}/upper,workdir={parts}/work"
        with mounted_at(directory / "overlay", "overlay", data) as at:
            yield at


@contextmanager
def _fuse(directory: Path) -> Iterator[Path]:
    """The base is another session's view."""
    inner = directory / "inner"
    inner.mkdir()
    (inner / "base").mkdir()
    with mounted_image(inner, 256 << 20) as store, mounted(inner, [inner / "base"], store) as view:
        yield view.top


BASES: dict[str, Base] = {
    "ext4": partial(mounted_image, size=64 << 20, fstype="ext4"),
    "btrfs": partial(mounted_image, size=128 << 20, fstype="btrfs"),
    "xfs": partial(mounted_image, size=320 << 20, fstype="xfs"),
    "tmpfs": _tmpfs,
    "overlay": _overlay,
    "fuse": _fuse,
}
