"""Where the work is done: file systems of the benchmark's own, mounted for one run.

On ``tmpfs`` the trees, the rivals' layers and goexfs's store image lie in memory; on ``btrfs``
all of them lie on one loop image, so that whoever can reflink may.  Nothing of the machine's
own file systems is measured, and leaving the context leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ground:
    """A mounted file system."""

    name: str
    top: Path

    @property
    def reflinks(self) -> bool:
        return self.name == "btrfs"


def run(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True)


def quietly(*argv: str | Path) -> None:
    """For programs that warn of what does not matter; not to a pipe, which a daemon would keep."""
    words = [str(word) for word in argv]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def unmount(path: Path) -> None:
    """Unmount, waiting a little for daemons and loop devices that still let go."""
    for _ in range(250):
        if subprocess.run(["umount", str(path)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.02)
    run("umount", path)


@contextlib.contextmanager
def tmpfs(directory: Path, size: int) -> Iterator[Ground]:
    top = directory / "tmpfs"
    top.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=0,mode=755", "bench", top)
    try:
        yield Ground("tmpfs", top)
    finally:
        unmount(top)
        top.rmdir()


@contextlib.contextmanager
def btrfs(directory: Path, size: int) -> Iterator[Ground]:
    top, image = directory / "btrfs", directory / "btrfs.img"
    top.mkdir()
    with open(image, "wb") as file:
        file.truncate(size)
    run("mkfs.btrfs", "-q", "-K", image)
    run("mount", "-o", "loop,user_subvol_rm_allowed", image, top)
    try:
        top.chmod(0o755)
        yield Ground("btrfs", top)
    finally:
        unmount(top)
        image.unlink()
        top.rmdir()


GROUNDS = {"tmpfs": tmpfs, "btrfs": btrfs}
