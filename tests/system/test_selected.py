"""``goexfs commit`` and ``diff`` of a selection: globs, exclusions, what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemons import Goexfs, User

Json = Callable[..., Any]

SCRIPT = """
set -e
mkdir -p src/new
for name in a.py src/b.py src/new/c.py src/new/c.txt 'src/[b].py'; do echo x > "$name"; done
rm -r src/deep
mv run.sh moved.sh
"""


def changed(found: dict[str, Any]) -> set[str]:
    return {each["path"] for each in found["changes"]}


def test_globs_and_exclusions(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, ordinary_user: User
) -> None:
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "sh", "-c", SCRIPT, **how)
    everything = changed(goexfs_json("diff", **how))
    assert {"src/deep", "moved.sh", "src/new"} < everything

    python = changed(goexfs_json("diff", "*.py", **how))
    assert python == {"a.py", "src/b.py", "src/new/c.py", "src/[b].py"}
    below = {**how, "cwd": tree / "src"}
    assert changed(goexfs_json("diff", "*.py", **below)) == python - {"a.py"}
    assert changed(goexfs_json("diff", "new/*", **below)) == {"src/new/c.py", "src/new/c.txt"}
    assert changed(goexfs_json("diff", "src/[b].py", **how)) == {"src/[b].py"}
    assert changed(goexfs_json("diff", "--exclude", "src", **how)) == {"a.py", "moved.sh"}

    assert "run.sh was renamed" in goexfs("commit", "moved*", status=2, **how).err
    assert "no change at *.rs" in goexfs("commit", "*.rs", status=4, **how).err
    assert "is no glob" in goexfs("commit", "[z-a]*", status=2, **how).err
    told = goexfs("commit", "src/**/*.py", "--exclude", "b.py", **how).out
    assert "committed 3 created" in told  # the directory that is needed came along
    assert (tree / "src/new/c.py").read_text() == "x\n"
    assert not (tree / "src/new/c.txt").exists()
    assert not (tree / "src/b.py").exists()
    assert changed(goexfs_json("diff", **how)) == everything - {
        "src/new",
        "src/new/c.py",
        "src/[b].py",
    }
    goexfs("commit", **how)
    assert not (tree / "src/deep").exists()
    assert (tree / "src/b.py").exists()
    assert (tree / "moved.sh").exists()
