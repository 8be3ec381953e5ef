"""The directories that work is done in, made once per ground and never changed afterwards."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.work import GIT
from daemons import User

_PER_DIRECTORY = 100
_BLOCK = 1 << 20


Maker = Callable[[Path, float], None]
MAKERS: dict[str, Maker] = {}


def maker(function: Maker) -> Maker:
    MAKERS[function.__name__] = function
    return function


def plant(top: Path, count: int, size: int = 1000) -> None:
    """``count`` text files in directories of a hundred."""
    for number in range(count):
        directory = top / f"d{number // _PER_DIRECTORY:05}"
        if number % _PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        text = f"file {number}\n".encode()
        (directory / f"f{number:07}").write_bytes((text * (size // len(text) + 1))[:size])


def _sized(count: int, scale: float) -> int:
    return max(1, round(count * scale))


@maker
def one(top: Path, scale: float) -> None:
    """A single file."""
    (top / "file").write_text("one\n")


@maker
def small(top: Path, scale: float) -> None:
    """5,000 files below ``tree``."""
    plant(top / "tree", _sized(5000, scale))


@maker
def medium(top: Path, scale: float) -> None:
    """50,000 files."""
    plant(top, _sized(50_000, scale), size=100)


@maker
def large(top: Path, scale: float) -> None:
    """100,000 files."""
    plant(top, _sized(100_000, scale), size=16)


@maker
def huge(top: Path, scale: float) -> None:
    """1,000,000 files."""
    plant(top, _sized(1_000_000, scale), size=1)


@maker
def big(top: Path, scale: float) -> None:
    """One file of 256 MiB without holes."""
    with open(top / "big", "wb") as file:
        block = os.urandom(_BLOCK)
        for _ in range(_sized(256, scale)):
            file.write(block)


@maker
def repository(top: Path, scale: float) -> None:
    """A git repository of 50,000 files."""
    plant(top, _sized(50_000, scale), size=100)
    _git(top)


@maker
def project(top: Path, scale: float) -> None:
    """A git repository of 5,000 files below ``tree``."""
    plant(top / "tree", _sized(5000, scale))
    _git(top / "tree")


@maker
def sources(top: Path, scale: float) -> None:
    """A C program with many headers, below ``tree``."""
    tree = top / "tree"
    tree.mkdir()
    headers = _sized(200, scale)
    for number in range(headers):
        (tree / f"h{number}.h").write_text(f"#pragma once\nint f{number}(int);\n")
    every = "".join(f'#include "h{number}.h"\n' for number in range(headers))
    units = _sized(20, scale)
    for number in range(units):
        (tree / f"u{number}.c").write_text(f"{every}int g{number}(void) {{ return {number}; }}\n")
    objects = " ".join(f"u{number}.o" for number in range(units))
    (tree / "Makefile").write_text(f"all: {objects}\n\t$(AR) rcs lib.a {objects}\n")


@maker
def vast(top: Path, scale: float) -> None:
    """One file of 4 GiB without holes, named like that of ``big``."""
    big(top, scale * 16)


@maker
def tests(top: Path, scale: float) -> None:
    """A Python package of 100 modules and 1,000 tests that read and write, below ``tree``."""
    tree = top / "tree"
    (tree / "package").mkdir(parents=True)
    (tree / "package/__init__.py").touch()
    for number in range(_sized(100, scale)):
        (tree / f"package/m{number}.py").write_text(f"def f(x):\n    return x + {number}\n")
        cases = "".join(
            f"    def test_{n}(self):\n"
            f"        with tempfile.TemporaryDirectory(dir='.') as d:\n"
            f"            p = pathlib.Path(d, 'x'); p.write_text(str(f({n})))\n"
            f"            self.assertEqual(p.read_text(), '{n + number}')\n"
            for n in range(10)
        )
        (tree / f"test_m{number}.py").write_text(
            f"import pathlib, tempfile, unittest\nfrom package.m{number} import f\n\n\n"
            f"class Case(unittest.TestCase):\n{cases}"
        )


@maker
def wheels(top: Path, scale: float) -> None:
    """Three wheels of 300 modules each, below ``tree``."""
    (top / "tree").mkdir()
    for name in ("one", "two", "three"):
        info = f"bench_{name}-1.0.dist-info"
        with zipfile.ZipFile(top / f"tree/bench_{name}-1.0-py3-none-any.whl", "w") as wheel:
            for number in range(_sized(300, scale)):
                wheel.writestr(f"bench_{name}/m{number}.py", f"VALUE = {number}\n" * 50)
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: bench_{name}\nVersion: 1.0\n"
            )
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{info}/RECORD", "")


@maker
def packages(top: Path, scale: float) -> None:
    """Ten npm packages of 100 files each, below ``tree``."""
    (top / "package.json").write_text('{"name": "bench", "version": "1.0.0"}')
    for number in range(10):
        tree = top / f"tree/p{number}"
        plant(tree / "lib", _sized(100, scale))
        (tree / "package.json").write_text(f'{{"name": "p{number}", "version": "1.0.0"}}')


def _git(top: Path) -> None:
    env = {
        **GIT,
        "GIT_AUTHOR_NAME": "Bench",
        "GIT_AUTHOR_EMAIL": "bench@example.org",
        "GIT_COMMITTER_NAME": "Bench",
        "GIT_COMMITTER_EMAIL": "bench@example.org",
    }
    for argv in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "Start"]):
        subprocess.run(
            ["git", "-c", "init.defaultBranch=main", "-c", "gc.auto=0", *argv],
            cwd=top,
            check=True,
            env=env,
        )


class Trees:
    """The trees of one ground, made when first asked for."""

    def __init__(self, directory: Path, user: User, scale: float) -> None:
        self.directory = directory
        self.user = user
        self.scale = scale

    def get(self, name: str) -> Path:
        top = self.directory / name
        if not top.exists():
            top.mkdir(parents=True)
            MAKERS[name](top, self.scale)
            self.user.own(top)
            for at in (top, top / "tree"):
                if (at / ".git").exists():
                    self._refresh(at)
        return top

    def _refresh(self, top: Path) -> None:
        """Let git's index know the files as they are now, so that nobody need read them all."""
        argv = ["git", "update-index", "-q", "--refresh"]
        who: dict[str, Any] = {"user": self.user.uid, "group": self.user.gid, "extra_groups": []}
        subprocess.run(argv, cwd=top, env=GIT, check=True, **who)

    def drop(self, name: str) -> None:
        """Make room again after a tree's last use."""
        subprocess.run(["rm", "-rf", str(self.directory / name)], check=True)
