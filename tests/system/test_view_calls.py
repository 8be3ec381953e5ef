"""The view's answers, call by call, beside those of a local disk (ext4).

Every call of ``calls.py`` meets every kind of entry of ``entries.py``: whether it comes from the
base, was made in the session, copied up, merged, moved, replaced or deleted makes no difference
to any result, errno, attribute or byte, neither at once nor after a remount.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from beside import as_user, picture
from calls import CALLS, listed, rename, told
from daemons import User
from dirscenes import ON_DIRECTORIES
from entries import ABSENT, DIRECTORIES, KINDS, Kind, still
from goexfsd import kernel
from goexfsd.worker import Owner
from manifests import differences, manifest
from scenes import ON_FILES
from views import mounted

Case = tuple[tuple[tuple[str, Kind], ...], Callable[[], object]]
"""The entries that must be there, by name, and the call."""


def of_one_entry() -> dict[str, Case]:
    return {
        f"{call}: {kind}": ((("e", KINDS[kind]),), lambda do=do: do("e"))  # type: ignore[misc]
        for call, do in CALLS.items()
        for kind in KINDS
    }


def _renaming(flags: int) -> Callable[[], object]:
    return lambda: (told(rename, "s", "t", flags), told(listed, "s"), told(listed, "t"))


def of_two_entries(flags: int, targets: Iterable[str] = KINDS) -> dict[str, Case]:
    return {
        f"{source} to {target}": ((("s", KINDS[source]), ("t", KINDS[target])), _renaming(flags))
        for source in KINDS
        for target in targets
    }


_THERE_OR_NOT = ("lower file", "upper file", "lower directory", *ABSENT)


def _into() -> object:
    return told(rename, "s", "d/t"), told(rename, "d/t", "d/sub/t"), told(rename, "d", "moved")


def into_directories() -> dict[str, Case]:
    return {
        f"{source} into {target}": ((("s", KINDS[source]), ("d", DIRECTORIES[target])), _into)
        for source in KINDS
        for target in DIRECTORIES
    }


def scenes() -> dict[str, Case]:
    files = ("lower file", "upper file", "copied file", "lower hard link")
    directories = ("lower directory", "upper directory", "merged directory", "moved directory")
    return {
        f"{scene}: {kind}": ((("e", KINDS[kind]),), lambda do=do: do("e"))  # type: ignore[misc]
        for table, kinds in ((ON_FILES, files), (ON_DIRECTORIES, directories))
        for scene, do in table.items()
        for kind in kinds
    }


GROUPS: dict[str, Callable[[], dict[str, Case]]] = {
    "one entry": of_one_entry,
    "rename": lambda: of_two_entries(0),
    "rename without replacing": lambda: of_two_entries(kernel.RENAME_NOREPLACE, _THERE_OR_NOT),
    "exchange": lambda: of_two_entries(kernel.RENAME_EXCHANGE),
    "rename into directories": into_directories,
    "scenes": scenes,
}


def make_base(top: Path, cases: dict[str, Case], user: User) -> None:
    """A directory for each case, with what the base has of its entries."""

    def make() -> None:
        for number, (entries, _) in enumerate(cases.values()):
            os.mkdir(top / f"{number}")
            os.chdir(top / f"{number}")
            for name, kind in entries:
                if kind.base:
                    kind.base(name)
        os.chdir("/")
        still(str(top))

    top.mkdir()
    user.own(top)
    as_user(user.uid, make)


def perform(tops: tuple[Path, Path], cases: dict[str, Case]) -> list[str]:
    """Carry out all cases on both sides, the view first; a line for each that differs."""
    differing = []
    for number, (case, (entries, call)) in enumerate(cases.items()):
        results = []
        for top in tops:
            os.chdir(top / f"{number}")
            for name, kind in entries:
                if kind.first:
                    kind.first(name)
            results.append(told(call))
            os.umask(0o022)
        if results[0] != results[1]:
            differing.append(f"{case}: {results[0]}, not {results[1]}")
    os.chdir("/")
    return differing


def compare(tops: tuple[Path, Path], cases: dict[str, Case]) -> list[str]:
    """A line for each entry that shows differently now."""
    differing = []
    for number, case in enumerate(cases):
        view, disk = (picture(str(top / f"{number}")) for top in tops)
        if view != disk:
            differing += [
                f"{case}: {name}: {view.get(name)}, not {disk.get(name)}"
                for name in sorted(view.keys() | disk.keys())
                if view.get(name) != disk.get(name)
            ]
    return differing


def agree(differing: list[str]) -> None:
    assert not differing, "\n".join([f"{len(differing)} differ", *differing[:40]])


@pytest.mark.parametrize("compiled", [True, False], ids=["C", "Python"])
@pytest.mark.parametrize("group", GROUPS)
def test_every_call_on_every_kind_of_entry(
    group: str,
    compiled: bool,
    ordinary_user: User,
    arena: Path,
    btrfs_image: Path,
    ext4_image: Path,
) -> None:
    hold(ordinary_user, GROUPS[group](), arena, btrfs_image, ext4_image, compiled=compiled)


@pytest.mark.parametrize("group", ["one entry", "scenes"])
def test_every_call_as_root(group: str, arena: Path, btrfs_image: Path, ext4_image: Path) -> None:
    hold(User(0, 0), GROUPS[group](), arena, btrfs_image, ext4_image)


def hold(
    user: User,
    cases: dict[str, Case],
    arena: Path,
    btrfs_image: Path,
    ext4_image: Path,
    *,
    compiled: bool = True,
) -> None:
    """All cases, on a view over one directory of the ext4, and on another beside it."""
    base, disk = ext4_image / "base", ext4_image / "disk"
    for top in (base, disk):
        make_base(top, cases, user)
    before = manifest(base)
    owner = Owner(user.uid, user.gid, ())
    with mounted(arena, [base], btrfs_image, owner, compiled=compiled) as view:
        tops = view.top, disk
        agree(as_user(user.uid, lambda: perform(tops, cases)))
        agree(as_user(user.uid, lambda: compare(tops, cases)))
        view.remount()
        agree(as_user(user.uid, lambda: compare(tops, cases)))
        assert os.listdir(view.layer / "work") == []
    assert differences(before, manifest(base)) == []
