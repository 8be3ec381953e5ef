"""Review warnings through a real daemon: what a script planted is said before it is committed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Goexfs
from daemons import MakeDaemon, User

Json = Callable[..., Any]

TOKEN = "ghp_" + "aB1c" * 9
PLANT = f"""
set -e
mkdir -p .git/hooks .vscode sub
printf '#!/bin/sh\\n' > .git/hooks/pre-commit && chmod +x .git/hooks/pre-commit
printf '[core]\\n\\tfsmonitor = ./x\\n' > .git/config
echo {TOKEN} > notes.txt
ln -s ../outside leads-out
cp /bin/true tool && chmod 4755 tool
chmod 666 README.md
echo x > "$(printf 'a\\033[2Jb')"
i=0; while [ $i -lt 25 ]; do rm "old/f$i"; i=$((i+1)); done
echo plain > sub/plain.txt
"""
EXPECTED = {
    ".git/hooks/pre-commit": {"git-hook"},
    ".git/config": {"git-config"},
    "notes.txt": {"secret"},
    "leads-out": {"link-out"},
    "tool": {"binary", "setuid"},
    "README.md": {"world-writable"},
    "a\x1b[2Jb": {"name-control"},
}


@pytest.fixture
def project(tree: Path, ordinary_user: User) -> Path:
    (tree / "old").mkdir()
    for number in range(25):
        (tree / "old" / f"f{number}").write_text("x\n")
    return ordinary_user.own(tree)


def codes(change: dict[str, Any]) -> set[str]:
    return {each.partition(": ")[0] for each in change["warnings"]}


def test_what_a_script_planted(
    project: Path, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json
) -> None:
    name = goexfs_json("mount", project, user=ordinary_user)["name"]
    goexfs("run", "-s", name, "--", "sh", "-c", PLANT, user=ordinary_user)

    found = goexfs_json("diff", "-s", name, user=ordinary_user)
    flagged = {each["path"]: codes(each) for each in found["changes"] if each["warnings"]}
    assert flagged == EXPECTED
    assert [each.partition(": ")[0] for each in found["warnings"]] == ["mass-deletion"]
    assert TOKEN not in json.dumps(found)

    status = goexfs("status", "-s", name, user=ordinary_user).out.splitlines()
    assert status[0].startswith("! mass-deletion: ")
    assert any(line.startswith("! git-hook: 1 change: ") for line in status)

    lines = goexfs("diff", "--name-status", "-s", name, user=ordinary_user).out.split("\n")
    blank = lines.index("")
    assert all(line.startswith("! ") for line in lines[:blank])
    assert "!    a\\x1b[2Jb" in lines[:blank]
    assert "A  .git/hooks/pre-commit  [! git-hook]" in lines[blank:]

    done = goexfs("diff", "-s", name, user=ordinary_user)
    assert done.out.startswith("# goexfs: warning: mass-deletion: ")
    assert "! git-hook: " in done.err
    assert "\x1b" not in done.out.partition("diff --git")[0] + done.err

    tried = goexfs_json("commit", "--dry-run", "-s", name, user=ordinary_user)
    shown = goexfs("commit", "--dry-run", "-s", name, user=ordinary_user)
    assert "! git-hook: " in shown.err
    assert "mass-deletion" not in shown.out

    result = goexfs_json("commit", "-s", name, user=ordinary_user)
    assert result["commit"] is not None
    assert tried["warnings"] == result["warnings"]
    assert result["warnings"][0].startswith("mass-deletion: ")
    assert any(w.startswith("git-hook: .git/hooks/pre-commit: ") for w in result["warnings"])
    assert "name-control: a\\x1b[2Jb: its name has control characters" in result["warnings"]


def test_a_patch_with_warnings_still_applies(
    project: Path, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json, arena: Path
) -> None:
    other = arena / "other"
    subprocess.run(["cp", "-a", project, other], check=True)
    name = goexfs_json("mount", project, user=ordinary_user)["name"]
    script = "echo x > .envrc; rm -r old; echo more >> README.md"
    goexfs("run", "-s", name, "--", "sh", "-c", script, user=ordinary_user)
    patch = goexfs("diff", "-s", name, user=ordinary_user).out
    assert patch.count("# goexfs: warning: ") == 2
    for tool in (["git", "apply", "--check"], ["patch", "-p1", "--dry-run"]):
        subprocess.run(tool, cwd=other, input=patch, text=True, check=True, capture_output=True)


def test_try_says_them_first(project: Path, ordinary_user: User, goexfs: Goexfs) -> None:
    argv = ("try", "--no", "--root", str(project), "--", "sh", "-c", "echo x > .envrc")
    said = goexfs(*argv, user=ordinary_user).err
    assert said.index("! directory-env: ") < said.index("A  .envrc  [! directory-env]")


def test_rules_of_your_own(make_daemon: MakeDaemon, project: Path, ordinary_user: User) -> None:
    daemon = make_daemon(
        "[store]\nsize = 536870912\n"
        '[[warnings]]\nname = "schema"\npatterns = ["/*.sql"]\nmessage = "tell the others"\n'
    )
    assert daemon.run("mount", project, user=ordinary_user).status == 0
    script = "echo x > a.sql; echo x > src/b.sql"
    assert daemon.run("run", "--", "sh", "-c", script, user=ordinary_user, cwd=project).status == 0
    done = daemon.run("diff", "--json", user=ordinary_user, cwd=project)
    found = {each["path"]: each["warnings"] for each in json.loads(done.out)["changes"]}
    assert found == {"a.sql": ["schema: tell the others"], "src/b.sql": []}
