"""The base, and what the session does to it: a few hundred changes of every kind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

PARTS, FILES = 20, 30


def fill(top: Path, uid: int) -> None:
    """600 files in 20 directories, with links, modes and attributes."""
    for part in range(PARTS):
        here = top / f"d{part:02}"
        here.mkdir(parents=True)
        for number in range(FILES):
            (here / f"f{number:02}").write_text(f"{part} {number}\n" * (1 + 40 * (number % 9)))
        os.link(here / "f00", here / "linked")
        (here / "soft").symlink_to("f01")
        os.setxattr(here / "f02", "user.note", b"kept")
    for directory, names, files in os.walk(top):
        for name in (".", *names, *files):
            os.chown(os.path.join(directory, name), uid, uid, follow_symlinks=False)


def change(top: Path, step: Callable[[Path], None]) -> None:
    """Change a view of it; ``step`` is called with every new file, once written."""
    for part in range(6):
        for number in range(0, FILES, 2):
            with open(top / f"d{part:02}" / f"f{number:02}", "a") as file:
                file.write("more\n")
    for part in (6, 7):
        shutil.rmtree(top / f"d{part:02}")
    _rearrange(top)
    for part in range(4):
        here = top / "new" / f"n{part}"
        here.mkdir(parents=True)
        for number in range(FILES):
            (here / f"f{number:02}").write_text(f"new {part} {number}\n" * (1 + 30 * number))
            step(here / f"f{number:02}")
    os.link(top / "new" / "n0" / "f00", top / "d15" / "again")


def _rearrange(top: Path) -> None:
    """Names that change places, directories that move, kinds that change, attributes."""
    here = top / "d08"
    here.joinpath("f00").rename(here / "spare")
    for number in range(1, FILES):
        here.joinpath(f"f{number:02}").rename(here / f"f{number - 1:02}")
    (top / "d09").rename(top / "d10" / "moved")
    shutil.rmtree(top / "d11")
    (top / "d11").write_text("a file now\n")
    (top / "d12" / "f05").unlink()
    (top / "d12" / "f05").mkdir()
    (top / "d12" / "f05" / "inner").write_text("a directory now\n")
    for number in range(FILES):
        os.chmod(top / "d13" / f"f{number:02}", 0o600)
        os.setxattr(top / "d14" / f"f{number:02}", "user.note", b"other")
    (top / "d14" / "soft").unlink()
    (top / "d14" / "soft").symlink_to("f03")
