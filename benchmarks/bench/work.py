"""One piece of work in a directory, timed from within: ``work.py NAME DIRECTORY SCALE``.

Standard library only and self-contained, so that the same text runs on the host against any
mountpoint and inside any sandbox.  Prints one JSON object: milliseconds by row.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable

BLOCK = 1 << 20
PAGE = 4096
KIB = b"x" * 1024

Row = Callable[[str, float], dict[str, float]]
ROWS: dict[str, Row] = {}


def row(function: Row) -> Row:
    ROWS[function.__name__] = function
    return function


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


def many(count: int, scale: float) -> int:
    return max(1, round(count * scale))


def walk_lstat(top: str) -> int:
    """Every entry below ``top`` by readdir and lstat; how many."""
    waiting, seen = [top], 0
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                os.lstat(entry.path)
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return seen


def files(top: str) -> list[str]:
    return [os.path.join(at, name) for at, _, names in os.walk(top) for name in names]


def tool(*argv: str, cwd: str, env: dict[str, str] | None = None) -> None:
    subprocess.run(
        argv, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
    )


@row
def walk(top: str, scale: float) -> dict[str, float]:
    return {
        "walk cold": timed(lambda: walk_lstat(top)),
        "walk warm": timed(lambda: walk_lstat(top)),
    }


@row
def tar(top: str, scale: float) -> dict[str, float]:
    # Into a pipe: tar does not read files at all when it sees that it writes to /dev/null.
    return {"tar": timed(lambda: tool("sh", "-c", "tar cf - . | cat >/dev/null", cwd=top))}


@row
def append(top: str, scale: float) -> dict[str, float]:
    chosen = sorted(files(top))[::5]

    def go() -> None:
        for path in chosen:
            with open(path, "ab") as file:
                file.write(b"one more line\n")

    return {"append": timed(go)}


@row
def create(top: str, scale: float) -> dict[str, float]:
    def go() -> None:
        os.mkdir(f"{top}/new")
        for number in range(many(1000, scale)):
            with open(f"{top}/new/{number}", "wb") as file:
                file.write(KIB)

    return {"create": timed(go)}


@row
def remove(top: str, scale: float) -> dict[str, float]:
    return {"rm -rf": timed(lambda: tool("rm", "-rf", "tree", cwd=top))}


@row
def rename(top: str, scale: float) -> dict[str, float]:
    def go() -> None:
        # Where a file system refuses (EXDEV), mv copies: so do programs.
        shutil.move(f"{top}/tree", f"{top}/moved")

    return {"rename directory": timed(go)}


@row
def poke(top: str, scale: float) -> dict[str, float]:
    def go() -> None:
        with open(f"{top}/big", "r+b", buffering=0) as file:
            file.seek(os.path.getsize(f"{top}/big") // 2)
            file.write(b"y" * PAGE)

    return {"4 KiB into big file": timed(go)}


@row
def reading(top: str, scale: float) -> dict[str, float]:
    path = f"{top}/big"
    pages = os.path.getsize(path) // PAGE
    places = [random.Random(1).randrange(pages) * PAGE for _ in range(many(4096, scale))]

    def sequential() -> None:
        with open(path, "rb", buffering=0) as file:
            while file.read(BLOCK):
                pass

    def scattered() -> None:
        fd = os.open(path, os.O_RDONLY)
        for place in places:
            os.pread(fd, PAGE, place)
        os.close(fd)

    return {
        "read first": timed(sequential),
        "read warm": timed(sequential),
        "read random warm": timed(scattered),
    }


@row
def writing(top: str, scale: float) -> dict[str, float]:
    path, count = f"{top}/written", many(256, scale)
    block, page = os.urandom(BLOCK), os.urandom(PAGE)
    chooser = random.Random(2)
    places = [chooser.randrange(count * BLOCK // PAGE) * PAGE for _ in range(many(4096, scale))]

    def sequential() -> None:
        with open(path, "wb", buffering=0) as file:
            for _ in range(count):
                file.write(block)

    def scattered() -> None:
        fd = os.open(path, os.O_RDWR)
        for place in places:
            os.pwrite(fd, page, place)
        os.close(fd)

    return {"write": timed(sequential), "write random warm": timed(scattered)}


GIT = {
    "HOME": "/nonexistent",
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}


@row
def git(top: str, scale: float) -> dict[str, float]:
    def status() -> None:
        tool("git", "status", "--porcelain", cwd=top, env=GIT)

    return {"git status cold": timed(status), "git status warm": timed(status)}


@row
def clone(top: str, scale: float) -> dict[str, float]:
    def go() -> None:
        tool("git", "clone", "-q", "--no-hardlinks", ".", "../clone", cwd=f"{top}/tree", env=GIT)

    return {"git clone": timed(go)}


@row
def sqlite(top: str, scale: float) -> dict[str, float]:
    database = sqlite3.connect(f"{top}/database", isolation_level=None)
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")

    def go() -> None:
        for number in range(many(100, scale)):
            database.execute("INSERT INTO t (b) VALUES (?)", (f"row {number}" * 10,))

    found = timed(go)
    database.close()
    return {"sqlite inserts, fsync": found}


@row
def compiling(top: str, scale: float) -> dict[str, float]:
    def go() -> None:
        tool("make", "-s", cwd=f"{top}/tree")

    return {"C build": timed(go)}


@row
def suite(top: str, scale: float) -> dict[str, float]:
    def go() -> None:
        tool("/usr/bin/python3", "-m", "unittest", "discover", "-q", cwd=f"{top}/tree")

    return {"Python test suite": timed(go)}


@row
def pip(top: str, scale: float) -> dict[str, float]:
    argv = "-m pip install -q --no-index --no-deps --no-cache-dir --disable-pip-version-check"

    def go() -> None:
        wheels = sorted(path for path in files(f"{top}/tree") if path.endswith(".whl"))
        tool("/usr/bin/python3", *argv.split(), "--target", "installed", *wheels, cwd=top)

    return {"pip install, local wheels": timed(go)}


@row
def npm(top: str, scale: float) -> dict[str, float]:
    argv = "npm install --offline --no-audit --no-fund --no-update-notifier --install-links"
    env = {**os.environ, "HOME": top, "npm_config_cache": f"{top}/.npm"}

    def go() -> None:
        packages = [f"./tree/{name}" for name in sorted(os.listdir(f"{top}/tree"))]
        tool(*argv.split(), *packages, cwd=top, env=env)

    return {"npm install, local packages": timed(go)}


if __name__ == "__main__":
    print(json.dumps(ROWS[sys.argv[1]](sys.argv[2], float(sys.argv[3]))))
