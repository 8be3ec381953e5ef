"""Before-images of large files: exact whatever they are made from, and shared where they can be."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from daemons import Daemon, Goexfs
from goexfsd.commit import alike, faithful
from manifests import differences, manifest

MIB = 1 << 20
UNIT = 16 << 10


def extents(path: Path) -> list[tuple[int, int]]:
    """Where there are data, as the file system says."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        return list(faithful.extents(fd, os.fstat(fd).st_size))
    finally:
        os.close(fd)


def drawn(dice: random.Random, path: Path, other: bytes) -> bytes:
    """A file of data and holes, in part what ``other`` is; returns its bytes."""
    data = bytearray()
    with path.open("wb") as file:
        for unit in range(dice.randrange(300)):
            kind = dice.choice(("hole", "same", "same", "same", "new"))
            at = unit * UNIT
            here = other[at : at + UNIT] if kind == "same" else dice.randbytes(UNIT)
            here = bytes(UNIT) if kind == "hole" else here.ljust(UNIT, b"\0")
            if kind != "hole":
                file.seek(at)
                file.write(here)
            data += here
        data = data[: max(0, len(data) - dice.randrange(UNIT))]
        file.truncate(len(data))
    return bytes(data)


@pytest.mark.timeout(300)
def test_a_copy_is_exact_whatever_it_is_made_from(
    arena: Path, btrfs_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(60):
        dice = random.Random(seed)
        monkeypatch.setattr(alike, "_TRIED", dice.choice((UNIT, 16 * MIB)))
        like, src, dst = btrfs_image / "like", arena / "src", btrfs_image / "dst"
        theirs = drawn(dice, like, b"")
        ours = drawn(dice, src, theirs)
        fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in (src, dst, like)]
        try:
            alike.copy_alike(fds[0], fds[1], len(ours), fds[2])
        finally:
            for fd in fds:
                os.close(fd)
        assert dst.read_bytes() == ours, seed
        assert like.read_bytes() == theirs, seed
        assert extents(dst) == extents(src), seed
        dst.unlink()


@pytest.mark.timeout(300)
def test_a_commit_of_a_few_bytes_keeps_a_few_bytes(
    daemon: Daemon, goexfs: Goexfs, arena: Path
) -> None:
    tree = arena / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(random.Random(1).randbytes(32 * MIB))
    before = manifest(tree)

    goexfs("mount", tree)
    script = "touch other; printf here | dd of=large bs=1M seek=9 conv=notrunc"
    goexfs("run", "--", "sh", "-c", script, cwd=tree)
    goexfs("commit", "large", cwd=tree)  # what it shares with is the session's, which stays open
    after = manifest(tree)
    assert len(differences(before, after)) == 1
    (image,) = daemon.state.rglob("image.1")
    assert image.stat().st_size == 32 * MIB
    assert exclusive(image) <= alike.WORTH

    undo = json.loads(goexfs("undo", "--json", cwd=tree).out)["commit"]
    assert differences(before, manifest(tree)) == []
    (image,) = daemon.state.rglob("image.1")  # the undo's: a commit that was undone keeps nothing
    assert exclusive(image) <= alike.WORTH
    goexfs("undo", undo, cwd=tree)
    assert differences(after, manifest(tree)) == []


def exclusive(path: Path) -> int:
    """Bytes that only this file has, on its btrfs."""
    subprocess.run(["sync", "-f", path], check=True)
    told = subprocess.run(
        ["btrfs", "filesystem", "du", "--raw", path], check=True, capture_output=True, text=True
    )
    return int(told.stdout.splitlines()[-1].split()[1])
