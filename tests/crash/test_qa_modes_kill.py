"""A commit that closes directories to their ordinary owner, killed anywhere.

The modes come last of all, or what is done after them (the deeper ones, the way back, a recovery)
cannot reach what lies below.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from committing import Bench, litter
from goexfsd.layer.origins import NOTHING, Kind
from goexfsd.worker import Owner, Root
from layering import Session
from manifests import Manifest, differences, manifest

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

OWNER = Owner(21001, 21001, ())
CLOSED = (b"d/e", b"d", b"new/in", b"new")


@pytest.fixture
def arena(temporary: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="arena-", dir=temporary))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def small(base: bytes) -> None:
    os.makedirs(base + b"/d/e")
    for name in (b"d/e/f", b"d/g", b"a"):
        Path(os.fsdecode(base + b"/" + name)).write_bytes(b"x")
    subprocess.run(["chown", "-R", f"{OWNER.uid}:{OWNER.gid}", base], check=True)


def close_them(session: Session) -> None:
    """Changes and new names below directories that nobody but root may enter afterwards."""
    session.write(b"d/e/f", b"changed")
    session.write(b"d/e/n", b"new")
    session.mkdir(b"new")
    session.mkdir(b"new/in")
    session.write(b"new/in/file", b"new")
    for path in CLOSED:
        session.chmod(path, 0o700)  # as the view leaves it on disk
        ino = os.lstat(session.upper(path)).st_ino
        session.record(Kind.MODE, ino, b"", replace(NOTHING, mode=stat.S_IFDIR))


@contextmanager
def case(arena: Path, number: int) -> Iterator[tuple[Bench, Path]]:
    home = arena / str(number)
    home.mkdir()
    session = Session.over(home, small)
    close_them(session)
    os.chown(home, OWNER.uid, OWNER.gid)
    subprocess.run(["chown", "-R", f"{OWNER.uid}:{OWNER.gid}", session.layer], check=True)
    base = Path(os.fsdecode(session.base))
    try:
        yield Bench(session.layer, [Root(0, "r", str(base))], home / "before", owner=OWNER), base
    finally:
        session.close()
        shutil.rmtree(home)


def after(base: Path) -> bool:
    found: Manifest = manifest(base)
    return (
        all(found[path].mode == 0 for path in CLOSED)
        and {b"d/e/n", b"new/in/file"} <= found.keys()
        and (base / "d/e/f").read_bytes() == b"changed"
    )


def test_it_is_committed(arena: Path) -> None:
    with case(arena, 0) as (bench, base):
        assert bench.commit().last.get("error") is None
        assert after(base)


def test_killed_at_every_point(arena: Path) -> None:
    for number in range(1, 400):
        with case(arena, number) as (bench, base):
            before = manifest(base)
            ran = bench.commit(fault=number)
            if not ran.killed:
                break
            for _ in range(2):
                done = bench.recover("intent" if ran.intent else "staging")
                assert done.last["event"] == "applied", (number, done.last)
                assert litter(str(base)) == []
                assert after(base) if ran.intent else differences(before, manifest(base)) == []
    assert number > 20
