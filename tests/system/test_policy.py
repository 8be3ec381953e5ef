"""Policies end to end: files, projects, options, what is refused, what is hidden in a view."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import Goexfs
from daemons import Daemon, User
from goexfsd.rulebook import silent
from goexfsd.worker import Owner, Root
from manifests import Manifest

Json = Callable[..., Any]


@pytest.fixture(params=["root", "ordinary"])
def owner(request: pytest.FixtureRequest, ordinary_user: User) -> User:
    return User(0, 0) if request.param == "root" else ordinary_user


@pytest.fixture
def project(tree: Path, owner: User, goexfs: Goexfs) -> Path:
    (tree / ".env").write_text("PASSWORD=x\n")
    (tree / ".git" / "hooks").mkdir(parents=True)
    (tree / ".git" / "config").write_text("[core]\n")
    owner.own(tree)
    goexfs("mount", tree, user=owner)
    return tree


def settings(found: Any) -> dict[str, tuple[Any, str]]:
    return {each["key"]: (each["value"], each["source"]) for each in found["settings"]}


def test_what_is_in_force_and_why(project: Path, owner: User, goexfs_json: Json) -> None:
    (project / ".goexfs.toml").write_text('memory = "64M"\nnetwork = "host"\nprocesses = 9999\n')
    file = f"{project}/.goexfs.toml"
    found = goexfs_json("policy", "show", "--processes", "40", user=owner, cwd=project)
    values = settings(found)
    assert values["memory"] == (64 << 20, file)
    assert values["processes"] == (40, "this run")
    assert values["network"] == ("none", "the daemon's limits")
    assert [note.split(" is ")[0] for note in found["notes"]] == [
        f"{file}: network", f"{file}: processes",
    ]  # fmt: skip
    assert found["available"] == ["default", "dev", "strict"]


def test_limits_of_a_project_hold_and_the_user_is_told(
    project: Path, owner: User, goexfs: Goexfs, goexfs_json: Json
) -> None:
    (project / ".goexfs.toml").write_text('memory = "48M"\n')
    bomb = ["--", "python3", "-c", "x = bytearray(1 << 28)"]
    done = goexfs("run", *bomb, user=owner, cwd=project, status=137)
    assert "hit the limit on memory" in done.err
    assert goexfs_json("run", *bomb, user=owner, cwd=project, status=137)["exceeded"] == ["memory"]
    goexfs("run", "--memory", "1G", *bomb, user=owner, cwd=project)


def test_what_a_script_writes_is_no_policy(project: Path, owner: User, goexfs: Goexfs) -> None:
    goexfs("run", "--", "sh", "-c", "echo nonsense > .goexfs.toml", user=owner, cwd=project)
    goexfs("run", "--", "true", user=owner, cwd=project)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"memory = ", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"a = " + b"[" * 30_000, "is not TOML"),
        (b"netwrok = 'none'", "is wrong at netwrok"),
        (b"cpu = nan", "is wrong at cpu"),
        (b"hide = [1979-05-27]", "hide is no text, number or list"),
        (b"extends = 'dev'", "is wrong at extends"),
        (b"hide = ['/srv/**/x']", "** is only understood below the roots"),
        (b"hide = ['**/x']", "is not in force: the session was opened without it"),
        (b"mask = ['x']", "is not in force: the session was opened without it"),
        (b"mask = ['/etc/x']", "is not relative to the roots"),
        (b"# " + b"x" * 70_000, "larger than 64 KiB"),
    ],
)
def test_a_file_that_is_not_understood_refuses_the_run(
    project: Path, owner: User, goexfs: Goexfs, text: bytes, said: str
) -> None:
    (project / ".goexfs.toml").write_bytes(text)
    done = goexfs("run", "--", "true", user=owner, cwd=project, status=2)
    assert said in done.err


def test_odd_files_refuse_the_run_at_once(project: Path, owner: User, goexfs: Goexfs) -> None:
    place = project / ".goexfs.toml"
    os.mkfifo(place)
    assert "not a plain file" in goexfs("run", "--", "true", user=owner, cwd=project, status=2).err
    place.unlink()
    place.symlink_to("/etc/shadow")
    assert "symbolic link" in goexfs("run", "--", "true", user=owner, cwd=project, status=5).err
    place.unlink()
    place.mkdir()
    assert "not a plain file" in goexfs("run", "--", "true", user=owner, cwd=project, status=2).err


def test_hidden_and_read_only_in_the_view(
    project: Path,
    owner: User,
    goexfs: Goexfs,
    goexfs_json: Json,
    manifest: Callable[..., Manifest],
) -> None:
    before = manifest(project)
    script = """
        cat .env
        echo x > .env
        echo x > .git/hooks/pre-commit
        echo x >> .git/config
        mv .git moved && echo moved
        mv .env shown && echo moved
        rm -rf .git/hooks .env
        ln .env linked && cat linked
        echo fine > .git/other && cat .git/other
    """
    done = goexfs("run", "--policy", "strict", "--", "sh", "-c", script, user=owner, cwd=project,
                  status=None)  # fmt: skip
    assert done.out == "fine\n"
    assert manifest(project) == before
    found = goexfs_json("diff", user=owner, cwd=project)["changes"]
    assert [each["path"] for each in found] == [".git/other"]
    # The next step, with nothing hidden, finds what was there.
    assert goexfs("run", "--", "cat", ".env", user=owner, cwd=project).out == "PASSWORD=x\n"


def test_hidden_through_links_that_a_script_made(
    project: Path, owner: User, goexfs: Goexfs, arena: Path
) -> None:
    """A pattern never leads out of the view, and a run does not fail for it."""
    outside = arena / "outside"
    outside.mkdir()
    (outside / "x.key").write_text("theirs")
    swap = f"ln -s {outside} config; ln -s /oldroot/etc other; ln -s .. up"
    goexfs("run", "--", "sh", "-c", swap, user=owner, cwd=project)
    hide = ["--hide", "config/*.key", "--hide", "other/passwd", "--hide", "up/project/.env"]
    done = goexfs("run", *hide, "--", "cat", ".env", user=owner, cwd=project)
    assert done.out == "PASSWORD=x\n"
    assert (outside / "x.key").read_text() == "theirs"


def test_more_to_read(project: Path, owner: User, goexfs: Goexfs, arena: Path) -> None:
    shown = arena / "reference"
    shown.mkdir()
    (shown / "page").write_text("text\n")
    goexfs("run", "--", "cat", shown / "page", user=owner, cwd=project, status=1)
    done = goexfs("run", "--read", shown, "--", "cat", shown / "page", user=owner, cwd=project)
    assert done.out == "text\n"
    write = ["--", "sh", "-c", f"echo x > {shown}/page"]
    goexfs("run", "--read", shown, *write, user=owner, cwd=project, status=2)
    (arena / "link").symlink_to("/run")
    for place in ("/", "/proc", "/run", arena / "link"):
        goexfs("run", "--read", place, "--", "true", user=owner, cwd=project, status=5)


def test_nothing_above_the_daemon_s_limits(
    project: Path, owner: User, goexfs: Goexfs, make_daemon: Any, arena: Path
) -> None:
    done = goexfs("run", "--memory", "64G", "--", "true", user=owner, cwd=project, status=5)
    assert "above the daemon's limit of 4G" in done.err
    closed = make_daemon("[store]\nsize = 536870912\n[limits]\nnetwork = 'none'\n")
    other = arena / "other"
    other.mkdir()
    owner.own(other)
    assert closed.run("mount", other, user=owner).status == 0
    refused = closed.run("run", "--network", "host", "--", "true", user=owner, cwd=other)
    assert (refused.status, refused.out) == (5, "")
    cut = json.loads(closed.run("policy", "show", "--policy", "dev", "--json", user=owner).out)
    assert settings(cut)["network"] == ("none", "the daemon's limits")
    assert cut["notes"] == ["network: host of preset dev is cut down to the daemon's limits"]


def test_explain_builds_nothing(project: Path, owner: User, goexfs: Goexfs) -> None:
    done = goexfs("run", "--explain", "--policy", "strict", "-e", "LANG=x", "--", "touch", "made",
                  user=owner, cwd=project)  # fmt: skip
    uid = owner.uid or 1879048192
    for line in ("--unshare-all", "--disable-userns", f"--reuid {uid}", "LANG=x", "memory: "):
        assert f"  {line}" in done.out
    assert f"{project}/.env" in done.out
    assert "AF_UNIX AF_INET AF_INET6" in done.out
    assert "io_uring_setup" in done.out
    assert goexfs("log", user=owner, cwd=project).out.count("touch made") == 0
    assert not goexfs("diff", user=owner, cwd=project).out


def test_explained_is_what_is_run(
    project: Path, owner: User, daemon: Daemon, goexfs: Goexfs
) -> None:
    """The words of --explain, against the mounts that the script finds."""
    told = goexfs("run", "--explain", "--", "true", user=owner, cwd=project).out
    bound = {line.split()[2] for line in told.splitlines() if line.startswith("  --ro-bind-try ")}
    seen = goexfs("run", "--", "cat", "/proc/self/mounts", user=owner, cwd=project).out
    points = {line.split()[1] for line in seen.splitlines()}
    assert {place for place in bound if os.path.exists(place)} <= points | {"/lib32", "/libx32"}


def test_without_a_session(goexfs: Goexfs, goexfs_json: Json, owner: User) -> None:
    assert goexfs_json("policy", "show", user=owner)["session"] is None
    goexfs("policy", "show", "-s", "none", user=owner, status=4)
    goexfs("policy", "show", "--policy", "mine", user=owner, status=4)
    goexfs("policy", "show", "--policy", "../x", user=owner, status=2)


def test_where_there_is_no_policy_file_no_worker_has_to_look(arena: Path) -> None:
    home, project = arena / "home", arena / "project"
    home.mkdir()
    project.mkdir()
    root = Root(0, "project", str(project), project.stat().st_ino)

    def quiet(root: Root = root, home: Path = home) -> bool:
        return silent(Owner(21001, 21001, ()), str(home), [root])

    assert quiet()
    assert quiet(home=arena / "none")
    directory = home / ".config/goexfs"
    directory.mkdir(parents=True)
    assert quiet()
    directory.chmod(0o700)
    assert not quiet()  # the owner may not look: a worker is to say what that means
    directory.chmod(0o755)
    (directory / "default.toml").touch()
    assert not quiet()
    (directory / "default.toml").unlink()
    (project / ".goexfs.toml").symlink_to("nowhere")
    assert not quiet()
    (project / ".goexfs.toml").unlink()
    assert quiet()
    assert not quiet(replace(root, ino=root.ino + 1))
    assert not quiet(replace(root, path=str(arena / "none")))
    project.chmod(0o700)
    assert not quiet()
    assert list(project.iterdir()) == []  # this thread has its own rights again
