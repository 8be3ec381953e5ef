"""Very many entries: a directory of 100,000 that changes while it is read, and long walks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from views import mounted

_MANY = 100_000
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@pytest.fixture
def many(arena: Path) -> Iterator[Path]:
    """A base with 100,000 files in one directory."""
    base = arena / "base"
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(base)], check=True)
    try:
        top = base / "many"
        top.mkdir()
        at = os.open(top, os.O_RDONLY)
        for number in range(_MANY):
            os.mknod(f"{number:06}", dir_fd=at)
        os.close(at)
        yield base
    finally:
        subprocess.run(["umount", str(base)], check=True)


def test_a_directory_of_many_entries_changes_while_it_is_read(
    arena: Path, btrfs_image: Path, many: Path
) -> None:
    """No entry comes twice, none is lost that stood throughout; whoever looks again is right."""
    with mounted(arena, [many], btrfs_image) as view:
        top = view.top / "many"
        seen: list[str] = []
        with os.scandir(top) as entries:
            for count, entry in enumerate(entries):
                seen.append(entry.name)
                if count % 1000 == 0:
                    _disturb(top, many / "many", count)
        assert len(seen) == len(set(seen))
        stood = {f"{number:06}" for number in range(_MANY) if number % 1000 > 3}
        assert stood <= set(seen)
        again = os.listdir(top)
        assert len(again) == len(set(again))
        assert set(again) == _expected()


def _disturb(top: Path, base: Path, count: int) -> None:
    """Create, delete and rename in the view, and delete in the base."""
    (top / f"new{count}").touch()
    (top / f"{count + 1:06}").unlink()
    (top / f"{count + 2:06}").rename(top / f"renamed{count}")
    (base / f"{count + 3:06}").unlink()
    (top / f"{count:06}").write_text("changed")


def _expected() -> set[str]:
    names = {f"{number:06}" for number in range(_MANY)}
    for count in range(0, _MANY, 1000):
        names -= {f"{count + more:06}" for more in (1, 2, 3)}
        names |= {f"new{count}", f"renamed{count}"}
    return names


@contextlib.contextmanager
def _memory_group() -> Iterator[Path]:
    """A memory cgroup: what the kernel remembers for those in it can be taken from it again."""
    at = (_V1 if _V1.exists() else _V2) / f"goexfs-test-{os.getpid()}"
    try:
        at.mkdir()
    except OSError:
        pytest.skip("no memory cgroup can be made")
    try:
        if not any((at / name).exists() for name in ("memory.force_empty", "memory.reclaim")):
            pytest.skip("the memory of a cgroup cannot be reclaimed")
        yield at
    finally:
        at.rmdir()


def _reclaim(group: Path) -> None:
    """Have the kernel forget all it can of what the group made it remember."""
    v1 = group / "memory.force_empty"
    with contextlib.suppress(OSError):
        (v1 if v1.exists() else group / "memory.reclaim").write_text("0" if v1.exists() else "1G")


_WALK = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
with os.scandir(sys.argv[2]) as entries:
    for count, entry in enumerate(entries, 1):
        entry.stat(follow_symlinks=False)
        if count % 10_000 == 0:
            print(count, flush=True)
            sys.stdin.readline()
"""


def test_memory_is_bounded_on_a_long_walk(arena: Path, btrfs_image: Path, many: Path) -> None:
    """Nodes follow what the kernel remembers, not what was ever seen."""
    with mounted(arena, [many], btrfs_image) as view, _memory_group() as group:
        before = view.command("stats")
        arguments = [sys.executable, "-I", "-S", "-c", _WALK, str(group), str(view.top / "many")]
        pipe = subprocess.PIPE
        with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as walk:
            assert walk.stdin is not None
            assert walk.stdout is not None
            for line in walk.stdout:
                _reclaim(group)
                now = view.command("stats")
                assert now["nodes"] < 20_000, line
                walk.stdin.write("on\n")
                walk.stdin.flush()
        assert walk.returncode == 0
        assert line == f"{_MANY}\n"
        _reclaim(group)
        end = view.command("stats")
        assert end["nodes"] < 1000
        assert end["open_files"] == 0
        assert end["fds"] < before["fds"] + 50
        assert end["rss_kb"] < before["rss_kb"] + (48 << 10)
