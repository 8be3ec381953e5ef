"""Random sessions over a snapshot, beside random edits of the real directory: who gets what."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import btrfsutil
import pytest

from committing import Bench, litter
from views import mounted

ROUNDS = 25
NAMES = ["a", "b", "c", "d/a", "d/b", "d/e/a", "d/e/b", "f/a", "f/b"]
DIRECTORIES = ["d", "d/e", "f", "g"]

Tree = dict[str, tuple[int, bytes]]


def tree_of(top: Path) -> Tree:
    """Every path with its mode and, of a file, its bytes."""
    found: Tree = {}
    for path in top.rglob("*"):
        mode = path.lstat().st_mode
        found[str(path.relative_to(top))] = (mode, b"" if stat.S_ISDIR(mode) else path.read_bytes())
    return found


class Somebody:
    """Makes random changes below ``top``; what they touched is in ``touched``."""

    def __init__(self, top: Path, name: str, dice: random.Random, renames: bool) -> None:
        self.top, self.name, self.dice, self.renames = top, name, dice, renames
        self.touched: set[str] = set()

    def act(self) -> None:
        acts: list[Callable[[], None]] = [
            self.write, self.write, self.append, self.chmod, self.rename, self.delete, self.grow,
            self.remove, self.same,
        ]  # fmt: skip
        if self.renames:
            acts.append(self.move)
        self.dice.choice(acts)()

    def _file(self) -> Path:
        name = self.dice.choice(NAMES)
        self.touched.add(name)
        return self.top / name

    def write(self) -> None:
        path = self._file()
        if path.parent.is_dir() and not path.is_dir():
            path.write_bytes(f"{self.name} {self.dice.random()}\n".encode())

    def append(self) -> None:
        path = self._file()
        if path.is_file():
            with path.open("ab") as file:
                file.write(self.name.encode())

    def same(self) -> None:
        """Touch it, and leave it as it was."""
        path = self._file()
        if path.is_file():
            path.write_bytes(path.read_bytes())

    def chmod(self) -> None:
        path = self._file()
        if path.exists():
            path.chmod(self.dice.choice([0o600, 0o640, 0o644]))

    def rename(self) -> None:
        path, to = self._file(), self._file()
        if path.is_file() and to.parent.is_dir() and not to.is_dir():
            path.rename(to)

    def delete(self) -> None:
        path = self._file()
        if path.is_file():
            path.unlink()

    def _directory(self) -> Path:
        name = self.dice.choice(DIRECTORIES)
        self.touched.add(name)
        return self.top / name

    def grow(self) -> None:
        path = self._directory()
        if path.parent.is_dir() and not path.exists():
            path.mkdir()
            (path / "a").write_bytes(f"{self.name} in {path.name}\n".encode())

    def remove(self) -> None:
        path = self._directory()
        if path.is_dir() and self.dice.random() < 0.5:
            shutil.rmtree(path)

    def move(self) -> None:
        path, to = self._directory(), self._directory()
        if path.is_dir() and not to.exists() and to.parent.is_dir() and path not in to.parents:
            path.rename(to)


def related(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


@pytest.mark.parametrize("seed", [11, 12])
def test_each_gets_their_own(arena: Path, btrfs_image: Path, seed: int) -> None:
    dice = random.Random(seed)
    ends = {"conflicts": 0, "applied": 0, "nothing": 0}
    for number in range(ROUNDS):
        home = btrfs_image / f"round-{number}"
        home.mkdir()
        base, lower = home / "base", home / "lower"
        btrfsutil.create_subvolume(str(base))
        for name in NAMES:
            (base / name).parent.mkdir(exist_ok=True, parents=True)
            (base / name).write_bytes(f"base {name}\n".encode())
        btrfsutil.create_snapshot(str(base), str(lower), read_only=True)
        with mounted(arena, [base], home, lower=lower) as view:
            session = Somebody(view.top, "session", dice, renames=False)
            other = Somebody(base, "other", dice, renames=True)
            for _ in range(dice.randrange(1, 8)):
                session.act()
                if dice.random() < 0.5:
                    other.act()
            view.command("sync")
            bench = Bench(str(view.layer), view.told_roots(), home / "before")
            before, saw, shown = tree_of(base), tree_of(lower), tree_of(view.top)
            ran = bench.commit()
            _check(ran.last, session, other, [before, saw, shown, tree_of(base)])
            assert litter(str(base)) == []
        ends[ran.last["event"]] += 1
    assert min(ends["conflicts"], ends["applied"]) > ROUNDS // 10, ends


def _check(last: dict[str, object], session: Somebody, other: Somebody, trees: list[Tree]) -> None:
    before, saw, shown, after = trees
    if last["event"] == "conflicts":
        assert after == before
        mine = {path for path in saw.keys() | shown.keys() if saw.get(path) != shown.get(path)}
        assert any(related(one, each) for one in mine for each in other.touched), (last, mine)
        return
    assert last["event"] in ("applied", "nothing"), last
    for path in before.keys() | saw.keys() | shown.keys() | after.keys():
        changed = saw.get(path) != shown.get(path)
        assert after.get(path) == (shown if changed else before).get(path), (path, last)
    del session


def test_what_was_open_goes_on_over_another_base(arena: Path, btrfs_image: Path) -> None:
    """Files that are the same in the newer snapshot are read on from there; others keep the bytes
    that they had."""
    base, layers = btrfs_image / "base", btrfs_image / "layers"
    btrfsutil.create_subvolume(str(base))
    layers.mkdir()
    for name in ("same", "changed", "gone"):
        (base / name).write_text(f"old {name}\n")
    first, second = btrfs_image / "first", btrfs_image / "second"
    btrfsutil.create_snapshot(str(base), str(first), read_only=True)
    with mounted(arena, [base], layers, lower=first) as view:
        (base / "changed").write_text("new changed\n")
        (base / "gone").unlink()
        (base / "more").write_text("more\n")
        assert not (view.top / "more").exists()
        names = ("same", "changed", "gone")
        files = {name: os.open(view.top / name, os.O_RDONLY) for name in names}
        number = (view.top / "same").stat().st_ino
        btrfsutil.create_snapshot(str(base), str(second), read_only=True)
        layer = layers / "next"
        btrfsutil.create_snapshot(str(view.layer), str(layer))
        view.rewind(layer, second)
        btrfsutil.delete_subvolume(str(first))
        try:
            for name, fd in files.items():
                assert os.read(fd, 100) == f"old {name}\n".encode()
        finally:
            for fd in files.values():
                os.close(fd)
        assert (view.top / "changed").read_text() == "new changed\n"
        assert (view.top / "more").read_text() == "more\n"
        assert not (view.top / "gone").exists()
        assert (view.top / "same").stat().st_ino == number
        with open(view.top / "same", "a") as file:
            file.write("written\n")
        assert (view.top / "same").read_text() == "old same\nwritten\n"
        assert view.command("stats")["open_files"] == 0
