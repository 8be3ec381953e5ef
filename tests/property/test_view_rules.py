"""Whatever is done to a view with rules: what is ruled stays what it was, and where it belongs."""

from __future__ import annotations

import os
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bases import mounted_image
from goexfsd.layer.selection import expression
from goexfsd.view.rules import HIDDEN, MASKED, READ_ONLY, RULED, Rule, Rules
from goexfsd.worker import Owner
from manifests import differences, manifest
from property.test_view_model import PARTS, ops
from sides import Side, acting
from views import View, create_layer

pytestmark = pytest.mark.timeout(600)

BITS = {"hidden": HIDDEN, "masked": MASKED, "read_only": READ_ONLY}
OWNER = 21001
PATTERNS = ["a", "./a", "d/a", "**/d/a", "d/**", "e/**/a", "*/e", "**/e/*", "./[ab]", "d/[!b]"]
rules = st.lists(
    st.tuples(st.sampled_from(list(BITS)), st.none(), st.sampled_from(PATTERNS)),
    min_size=1,
    max_size=3,
)


def expected(given_rules: list[Rule], path: bytes) -> int:
    """The verdict by the definition: what a pattern matches, and all below it."""
    text = path.decode()
    return sum({BITS[kind] for kind, _, glob in given_rules if expression(glob).match(text)})


@given(rules, st.lists(st.sampled_from([*PARTS, "x"]), min_size=1, max_size=5))
def test_the_automaton_says_what_the_patterns_do(given_rules: list[Rule], names: list[str]) -> None:
    made = Rules(given_rules, 1)
    state = made.tops[0]
    for name in names:
        state = made.below(state, name.encode())
    assert state & RULED == expected(given_rules, "/".join(names).encode())


def fill(base: Path) -> None:
    """Every entry its own bytes; one file with three names."""
    for directory in ("d/e/d", "d/d", "e/d", "e/e"):
        (base / directory).mkdir(parents=True)
    for name in ("a", "d/a", "d/b", "d/e/a", "d/e/d/a", "d/d/a", "e/b", "e/d/a", "e/d/b", "e/e/a"):
        (base / name).write_text(f"base {name}")
    os.link(base / "e" / "b", base / "e" / "a")
    os.link(base / "e" / "b", base / "d" / "d" / "b")
    os.symlink("d/a", base / "b")
    for directory, names, files in os.walk(base, topdown=False):
        for name in (*names, *files, "."):
            path = os.path.join(directory, name)
            os.chown(path, OWNER, OWNER, follow_symlinks=False)
            os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


def ruled(top: Path, given_rules: list[Rule]) -> Counter[Any]:
    """Every ruled entry: what is said of it, and all that it is, but for its name."""
    found: Counter[Any] = Counter()
    for path in walk(top):
        verdict = expected(given_rules, os.path.relpath(path, os.fsencode(top)))
        if verdict:
            st_ = os.lstat(path)
            kind = stat.S_IFMT(st_.st_mode)
            content = read(path) if kind == stat.S_IFREG else b""
            xattrs = tuple(sorted(os.listxattr(path, follow_symlinks=False)))
            found[verdict, st_.st_mode, st_.st_mtime_ns, st_.st_uid, content, xattrs] += 1
    return found


def walk(top: Path) -> Iterator[bytes]:
    for directory, names, files in os.walk(os.fsencode(top)):
        for name in (*names, *files):
            yield os.path.join(directory, name)


def read(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def seen(top: Path) -> set[bytes]:
    """All the bytes of files that the view shows."""
    return {read(path) for path in walk(top) if stat.S_ISREG(os.lstat(path).st_mode)}


def secret(base: Path, given_rules: list[Rule]) -> set[bytes]:
    """The bytes that the view must not show: those under hidden and masked names only."""
    verdicts: dict[bytes, int] = {}
    for path in walk(base):
        if stat.S_ISREG(os.lstat(path).st_mode):
            covered = expected(given_rules, os.path.relpath(path, os.fsencode(base)))
            shown = not covered & (HIDDEN | MASKED)
            verdicts[read(path)] = verdicts.get(read(path), 0) | shown
    return {content for content, shown in verdicts.items() if not shown}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    arena = tmp_path_factory.mktemp("rules")
    for directory in (arena, *arena.parents[:2]):
        directory.chmod(0o755)
    with mounted_image(arena, 512 * 2**20) as mount:
        (mount / "base").mkdir()
        fill(mount / "base")
        yield mount


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@settings(
    max_examples=int(os.environ.get("GOEXFS_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@example([("read_only", None, "d/a")], [("rename", "d", "x", 0), ("replace", "x/a", b"x")])
@example([("hidden", None, "d/a")], [("rmtree", "d"), ("rmdir", "d")])
@example([("read_only", None, "d/a")], [("open", "e/b"), ("rename", "e/b", "d/a", 2)])
@example([("read_only", None, "e/b")], [("open", "e/a"), ("handle-write", 0, 0, b"x")])
@example([("read_only", None, "**/e/*")], [("mkdir", "b/x", 0o755), ("rename", "d", "e", 2)])
@given(rules, st.lists(ops, max_size=40))
def test_what_is_ruled_stays(place: Path, given_rules: list[Rule], steps: list[Any]) -> None:
    base = place / "base"
    before, secrets = manifest(base), secret(base, given_rules)
    layer = create_layer(place / f"layer-{os.urandom(4).hex()}", Owner(OWNER, OWNER, ()), ["base"])
    view = View([base], layer, place.parent / "mnt", Owner(OWNER, OWNER, ()))
    view.options = {"rules": given_rules}
    view.start()
    try:
        side = Side(view.top)
        for op in steps:
            if op[0] == "remount":
                side.close_all()
                view.remount()
            elif op[0] != "step":
                with acting(OWNER):
                    side.do(op)
        assert not seen(view.top) & secrets
        side.close_all()
        kept = ruled(base, given_rules)
        view.options = {}
        view.remount()
        assert ruled(view.top, given_rules) == kept
    finally:
        view.stop()
        subprocess.run(["btrfs", "-q", "subvolume", "delete", str(layer)], check=True)
    assert differences(before, manifest(base)) == []
