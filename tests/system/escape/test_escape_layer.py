"""Against the layer and the review: forged markers, swapped directories, swapped files.

A race proves nothing by being lost once: each runs for ``SECONDS`` with the target outside, and
counts how often the swap happened meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attacks import Field
from attacks import open_field as open_field
from manifests import Manifest

Manifests = Callable[..., Manifest]
SECONDS = 3.0

MARKERS = {
    "whiteout": "os.mknod('forged', 0o20666, 0); won = True",
    "whiteout over a file": """
        os.rename('run.sh', 'gone'); os.mknod('run.sh', 0o20666, 0); won = True
    """,
    "trusted opaque": "os.setxattr('src', 'trusted.overlay.opaque', b'y'); won = True",
    "staging name": "os.mkdir('.goexfs-stage-forged'); won = True",
    "into the work directory": "won = any(os.path.lexists(p) for p in ('../work', '../../work'))",
    "origins": "won = any(os.path.lexists(p) for p in ('../origins', '../../origins'))",
    "ioctl of btrfs": """
        fd = os.open('.', os.O_RDONLY)
        fcntl.ioctl(fd, 0x5000940E, bytes(4096))  # BTRFS_IOC_SUBVOL_CREATE
        won = True
    """,
    "immutable flag": """
        fd = os.open('README.md', os.O_RDONLY)
        fcntl.ioctl(fd, 0x40086602, struct.pack('l', 0x10))
        won = True
    """,
}
STORED = """
set -e
python3 - <<'END'
import os
for name in ("opaque", "redirect", "whiteout", "origin", "metacopy", "overlay.opaque"):
    os.setxattr("src", "user.overlay." + name, b"y" if name != "redirect" else b"/../outside")
    os.setxattr("README.md", "user.overlay." + name, b"y")
END
mkdir fresh
touch .wh.README.md src/.wh..wh..opq fresh/.wh.x
touch fresh/origins fresh/work
"""


def test_markers_cannot_be_forged(field: Field) -> None:
    assert field.inside(MARKERS) == {}


def test_what_looks_like_a_marker_is_plain_data(field: Field, manifest: Manifests) -> None:
    """Nothing vanishes from the view, now, in the next step, or after a restart; nor at commit."""
    field.goexfs("run", "--", "sh", "-c", STORED)
    listing = ("run", "--", "sh", "-c", "ls -A src fresh . && cat README.md && cat src/main.py")
    before = field.goexfs(*listing)
    for name in ("main.py", ".wh..wh..opq", ".wh.README.md", "# project", "hello"):
        assert name in before
    field.daemon.restart()
    assert field.goexfs(*listing) == before
    changes = {each["path"]: each["kind"] for each in field.json("diff")["changes"]}
    assert changes == {
        "README.md": "metadata", "src": "metadata", "fresh": "created", ".wh.README.md": "created",
        "src/.wh..wh..opq": "created", "fresh/.wh.x": "created", "fresh/origins": "created",
        "fresh/work": "created",
    }  # fmt: skip
    outside = manifest(field.outside)
    field.goexfs("commit", "-m", "odd names")
    assert (field.root / "src" / "main.py").read_text() == "print('hello')\n"
    assert os.getxattr(field.root / "src", "user.overlay.redirect") == b"/../outside"
    assert manifest(field.outside) == outside


def test_the_owner_cannot_forge_them_at_the_mountpoint_either(field: Field) -> None:
    """Outside the sandbox no filter stands before mknod: the view refuses by itself."""
    view = field.json("status")["session"]["mountpoint"]
    done = subprocess.run(
        ["unshare", "-Ur", "mknod", f"{view}/forged", "c", "0", "0"],
        user=field.owner.uid, group=field.owner.gid, extra_groups=[], check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert not os.path.lexists(f"{view}/forged")
    assert field.json("diff")["changes"] == []


# -- races --------------------------------------------------------------------------------------

_SWAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
one, two = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2])
count = 0
while not os.path.exists(sys.argv[3]):
    count += libc.renameat2(-100, one, -100, two, 2) == 0
print(count)
"""


@contextmanager
def swapping(one: Path, two: Path, counts: list[int]) -> Iterator[None]:
    """Exchange two names all the time, as somebody who may write there."""
    stop = one.parent.parent / "stop-swapping"
    argv = [sys.executable, "-I", "-c", _SWAP, str(one), str(two), str(stop)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            stop.touch()
            out, _ = process.communicate(timeout=20)
            counts.append(int(out))
            stop.unlink()


@pytest.fixture
def trap(field: Field) -> tuple[Path, Path]:
    """In the base: a directory, and a link to the outside that will stand in its place."""
    real, link = field.root / "spot", field.root / "link-out"
    real.mkdir()
    for name in ("victim", "second"):
        (real / name).write_text("in the base\n")
    link.symlink_to(field.outside)
    os.lchown(link, field.owner.uid, field.owner.gid)
    field.owner.own(real)
    return real, link


def test_a_base_that_is_swapped_during_copy_up_and_diff(
    field: Field, trap: tuple[Path, Path], manifest: Manifests
) -> None:
    """What is written through the view lands in the layer or fails; nothing outside is read."""
    before, counts = manifest(field.outside), list[int]()
    code = f"""
import os, time
end, wrote = time.monotonic() + {SECONDS}, 0
while time.monotonic() < end:
    for name in ("spot/victim", "spot/second", "spot/new"):
        try:
            with open(name, "a") as file: file.write("from the script\\n")
            wrote += 1
            if "untouched" in open(name).read(): print("LEAK")
            os.chmod(name, 0o600); os.utime(name)
            os.rename(name, name + "2"); os.unlink(name + "2")
        except OSError: pass
print(wrote)
"""
    with swapping(*trap, counts):
        out = field.goexfs("run", "--", "python3", "-c", code)
        for _ in range(5):
            assert "untouched" not in field.goexfs("diff", status=None)
    assert "LEAK" not in out
    assert counts[0] > 1000
    assert manifest(field.outside) == before


def test_a_base_that_is_swapped_during_commit(
    field: Field, trap: tuple[Path, Path], manifest: Manifests
) -> None:
    """A commit applies in the base or conflicts; it never follows the link."""
    before, counts, statuses = manifest(field.outside), list[int](), set[int]()
    libc = ctypes.CDLL(None)
    end = time.monotonic() + 2 * SECONDS
    while time.monotonic() < end:
        script = "echo changed >> spot/victim; echo new > spot/new$RANDOM; rm -f spot/second"
        field.goexfs("run", "--", "bash", "-c", script, status=None)
        with swapping(*trap, counts):
            done = field.daemon.run("commit", "-m", "x", user=field.owner, cwd=field.root)
        statuses.add(done.status)
        assert manifest(field.outside) == before
        field.daemon.run("discard", user=field.owner, cwd=field.root)
        if trap[0].is_symlink():
            libc.renameat2(-100, os.fsencode(trap[0]), -100, os.fsencode(trap[1]), 2)
        assert trap[0].is_dir(), (done, os.listdir(field.root))
        (trap[0] / "second").write_text("again\n")
        field.json("mount", field.root)
    assert sum(counts) > 100
    assert statuses <= {0, 1, 3}, statuses


def test_a_view_in_which_a_script_swaps(field: Field, manifest: Manifests) -> None:
    """Swaps inside the view, while it is written, listed, compared."""
    before = manifest(field.outside)
    code = f"""
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
os.mkdir("d"); open("d/victim", "w").close(); os.symlink({str(field.outside)!r}, "l")
end, count = time.monotonic() + {SECONDS}, [0]
def swap():
    while time.monotonic() < end:
        count[0] += libc.renameat2(-100, b"d", -100, b"l", 2) == 0
threading.Thread(target=swap).start()
while time.monotonic() < end:
    try:
        with open("d/victim", "a") as file: file.write("x")
        open("d/made", "w").close(); os.unlink("d/made")
    except OSError: pass
print(count[0])
"""
    swaps = field.goexfs("run", "--read", field.arena, "--", "python3", "-c", code)
    assert int(swaps) > 100
    field.goexfs("diff")
    field.goexfs("commit", "-m", "swapped")
    assert manifest(field.outside) == before
    assert {os.path.islink(field.root / name) for name in "dl"} == {True, False}


def test_what_was_reviewed_is_what_is_committed(field: Field) -> None:
    """A checkpoint that was looked at is committed as it was, or not at all."""
    field.goexfs("run", "--", "sh", "-c", "echo harmless > new.sh")
    reviewed = field.json("log")["checkpoints"][-1]["number"]
    field.goexfs("run", "--", "sh", "-c", "echo evil > new.sh")
    refused = field.goexfs("commit", "--checkpoint", str(reviewed), status=None)
    assert not (field.root / "new.sh").exists(), refused
    assert "evil" in field.goexfs("diff")
