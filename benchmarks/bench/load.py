"""The load of the soak: what processes do in a view, turn after turn, until they are stopped.

Each kind works in a directory of its own and on base files that are its own, over names from a
fixed set, so that the tree stays about as large as it is; between them they use every operation.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

FILES = 400
"""Base files for each kind of load."""


def fill(base: Path) -> None:
    """What the base has: for each kind a directory of small files, some with two names."""
    for name in (*LOADS, "outside"):
        top = base / name
        for number in range(FILES):
            place = top / f"d{number % 10}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"f{number}").write_bytes(b"%d\n" % number * 100)
            if number % 20 == 0:
                os.link(place / f"f{number}", place / f"l{number}")


def _any(top: Path, dice: random.Random) -> Path:
    number = dice.randrange(FILES)
    return top / f"d{number % 10}" / f"f{number}"


def churn(top: Path, dice: random.Random) -> None:
    """Small files come, are renamed over each other, and go."""
    for _ in range(50):
        name, other = (top / f"n{dice.randrange(100)}" for _ in range(2))
        name.write_bytes(dice.randbytes(dice.randrange(2000)))
        os.rename(name, other)
        if dice.random() < 0.4:
            other.unlink()


def changes(top: Path, dice: random.Random) -> None:
    """Base files are changed, deleted and made anew."""
    for _ in range(30):
        path = _any(top, dice)
        with contextlib.suppress(FileNotFoundError):
            with open(path, "r+b") as file:
                file.truncate(dice.randrange(500))
                file.seek(0, os.SEEK_END)
                file.write(b"more")
            if dice.random() < 0.2:
                path.unlink()
        if not path.exists():
            path.write_bytes(b"anew")


def trees(top: Path, dice: random.Random) -> None:
    """A directory is copied with its times, moved, and removed."""
    number = dice.randrange(10)
    copy = top / f"copy{number}"
    subprocess.run(["cp", "-a", str(top / f"d{number}"), str(copy)], check=True)
    os.rename(copy, top / "moved")
    for path in sorted((top / "moved").iterdir())[:5]:
        path.write_bytes(b"edited")
    shutil.rmtree(top / "moved")


def moves(top: Path, dice: random.Random) -> None:
    """Directories of the base change places."""
    one, two = dice.sample(range(10), 2)
    os.rename(top / f"d{one}", top / "aside")
    os.rename(top / f"d{two}", top / f"d{one}")
    os.rename(top / "aside", top / f"d{two}")


def data(top: Path, dice: random.Random) -> None:
    """One larger file, written, mapped, cut and synced."""
    with open(top / "large", "a+b") as file:
        fd = file.fileno()
        for _ in range(20):
            os.pwrite(fd, dice.randbytes(100_000), dice.randrange(8 << 20))
        os.ftruncate(fd, dice.randrange(1 << 20, 8 << 20))
        with mmap.mmap(fd, 0) as mapped:
            at = dice.randrange(len(mapped) - 1000)
            mapped[at : at + 1000] = bytes(1000)
        if dice.random() < 0.2:
            os.fsync(fd)


def links(top: Path, dice: random.Random) -> None:
    """Hard links, symlinks, modes, attributes and times."""
    path = _any(top, dice)
    for name in ("hard", "soft"):
        with contextlib.suppress(FileNotFoundError):
            (top / name).unlink()
    try:
        os.link(path, top / "hard")
    except FileNotFoundError:  # the kernel's count was behind: docs/conformance.md
        path.stat()
        os.link(path, top / "hard")
    os.symlink(path, top / "soft")
    os.chmod(top / "hard", dice.choice((0o600, 0o644, 0o755)))
    os.setxattr(path, "user.x", dice.randbytes(50))
    os.utime(top / "soft", ns=(dice.randrange(10**18), dice.randrange(10**18)))


def walks(top: Path, dice: random.Random) -> None:
    """The whole view is looked at, and some of it read."""
    for directory, _, files in os.walk(top.parent):
        for name in files:
            with contextlib.suppress(OSError):
                path = os.path.join(directory, name)
                os.lstat(path)
                if dice.random() < 0.05:
                    with open(path, "rb") as file:
                        file.read()


def database(top: Path, dice: random.Random) -> None:
    connection = sqlite3.connect(top / "db", timeout=60)
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", ((n,) for n in range(200)))
        connection.execute("DELETE FROM t WHERE rowid <= (SELECT max(rowid) FROM t) - 1000")
    connection.close()


def nameless(top: Path, dice: random.Random) -> None:
    """Files and directories that are gone while open, and locks."""
    held = []
    for number in range(20):
        fd = os.open(top / f"gone{number}", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.unlink(top / f"gone{number}")
        os.write(fd, b"into nowhere")
        held.append(fd)
    os.mkdir(top / "gone")
    held.append(os.open(top / "gone", os.O_RDONLY))
    os.rmdir(top / "gone")
    for fd in held:
        os.close(fd)


def victims(top: Path, dice: random.Random) -> None:
    """Processes that are killed in the middle of something."""
    work = "while :; do cp -r d1 v; find . -name 'f*' -exec cat {} + > all; rm -r v all; done"
    with subprocess.Popen(
        ["sh", "-c", work], cwd=top, start_new_session=True, stderr=subprocess.DEVNULL
    ) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(dice.random())
        os.killpg(process.pid, signal.SIGKILL)
    # The last call of one that was killed may still be under way.
    while subprocess.run(["rm", "-rf", "v", "all"], cwd=top, check=False).returncode:
        pass


LOADS: dict[str, Callable[[Path, random.Random], None]] = {
    load.__name__: load
    for load in (churn, changes, trees, moves, data, links, walks, database, nameless, victims)
}


def outside(top: Path, dice: random.Random) -> None:
    """Edits of the base itself, by somebody else."""
    path = _any(top, dice)
    new = path.with_name("new")
    new.write_bytes(dice.randbytes(dice.randrange(3000)))
    os.replace(new, path)


def forever(load: Callable[[Path, random.Random], None], top: Path, seed: int) -> None:
    """Until this process is told to stop; a failure ends it with an error."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    dice = random.Random(seed)
    while not stopped:
        load(top, dice)
