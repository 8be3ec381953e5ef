"""Finding what is to be hidden, and what the cgroup files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from goexfsd.sandbox import cgroup
from goexfsd.sandbox.look import beneath, matches
from goexfsd.sandbox.run import _parse_report
from goexfsd.sandbox.secrets import SECRETS


def names(home: Path, *patterns: str) -> set[str]:
    found = matches(patterns, str(home))
    assert len(found) == len(set(found))
    return {str(Path(path).relative_to(home)) for path in found}


def make(home: Path, *paths: str) -> None:
    for path in paths:
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text("")


def test_patterns(tmp_path: Path) -> None:
    make(tmp_path, ".ssh/id", ".config/gh/x", ".config/git/credentials", ".config/git/config")
    make(tmp_path, ".bash_history", ".python_history", ".config/chromium-dev/x", "history")
    found = names(
        tmp_path, "~/.ssh", "~/.config/gh", "~/.config/git/credentials", "~/.*_history",
        "~/.config/chromium*", "~/.netrc", "~/nothing/at/all",
    )  # fmt: skip
    assert found == {
        ".ssh", ".config/gh", ".config/git/credentials", ".bash_history", ".python_history",
        ".config/chromium-dev",
    }  # fmt: skip


def test_the_outer_of_two_matches_is_enough(tmp_path: Path) -> None:
    make(tmp_path, ".docker/config.json")
    assert names(tmp_path, "~/.docker", "~/.docker/config.json") == {".docker"}


def test_links_and_odd_names(tmp_path: Path) -> None:
    (tmp_path / ".netrc").symlink_to("/nowhere")
    make(tmp_path, "a\nb_history")
    assert names(tmp_path, "~/.netrc", "~/*_history") == {".netrc", "a\nb_history"}


def test_directories_that_cannot_be_listed_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, ".ssh/id", ".config/gh/x")

    def refuse(path: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("os.scandir", refuse)
    assert names(tmp_path, "~/.ssh", "~/.config/gh", "~/.netrc", "~/.*_history") == {
        ".ssh",
        ".config/gh",
    }


def test_the_list_is_well_formed() -> None:
    assert len(SECRETS) == len(set(SECRETS))
    for pattern in SECRETS:
        assert pattern.startswith(("~/", "/etc/")), pattern
        assert not pattern.endswith("/")
        assert ".." not in pattern.split("/")


@pytest.mark.parametrize(
    ("path", "directory", "expected"),
    [("/a", "/a", True), ("/a/b", "/a", True), ("/ab", "/a", False), ("/", "/a", False),
     ("/a", "/", True)],
)  # fmt: skip
def test_beneath(path: str, directory: str, *, expected: bool) -> None:
    assert beneath(path, directory) is expected


MOUNTINFO = r"""
25 1 0:23 / /proc rw,nosuid - proc proc rw
33 30 0:30 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
34 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 30 0:32 /docker/abc /sys/fs/cgroup/with\040space rw master:9 - cgroup cgroup rw,memory
""".strip()


def test_mounts_of_hierarchies() -> None:
    mounts = cgroup._mounts(MOUNTINFO)
    assert mounts[""] == (Path("/sys/fs/cgroup/unified"), "/")
    assert mounts["cpu"] == mounts["cpuacct"] == (Path("/sys/fs/cgroup/cpu,cpuacct"), "/")
    assert mounts["memory"] == (Path("/sys/fs/cgroup/with space"), "/docker/abc")
    assert "pids" not in mounts


def test_memberships() -> None:
    own = cgroup._memberships("5:cpu,cpuacct:/a\n1:name=systemd:/b:c\n0::/user.slice\n")
    assert own == {"cpu": "/a", "cpuacct": "/a", "name=systemd": "/b:c", "": "/user.slice"}


def test_the_directory_of_a_group() -> None:
    assert cgroup._here((Path("/cg"), "/"), "/a/b") == Path("/cg/a/b")
    assert cgroup._here((Path("/cg"), "/docker/abc"), "/docker/abc/x") == Path("/cg/x")
    assert cgroup._here((Path("/cg"), "/docker/abc"), "/docker/abc") == Path("/cg")


def test_limits_that_cannot_be_kept() -> None:
    nothing = cgroup.Hierarchies(Path("/cg"), frozenset(), None, None, None, None)
    limits = cgroup.Limits(memory_bytes=1, max_processes=None, cpu=1.0)
    assert nothing.lacks(limits) == ["memory", "cpu"]
    assert nothing.directories() == [Path("/cg")]


def test_reports() -> None:
    assert _parse_report(b'{ "child-pid": 7 }\n{ "exit-code": 3 }\n') == (3, "")
    assert _parse_report(b'{ "child-pid": 7 }\nbwrap: Can\'t x: No\n') == (None, "Can't x: No")
    assert _parse_report(b"{ broken\n") == (None, "")
    assert _parse_report(b"") == (None, "")


def test_groups_of_another_daemon() -> None:
    mine = cgroup.Hierarchies(Path("/cg/a"), frozenset({"cpu"}), Path("/m/a"), None, None, None)
    other = mine.renamed("b")
    assert (other.unified, other.memory, other.pids) == (Path("/cg/b"), Path("/m/b"), None)
    assert other.v2 == mine.v2


def test_a_report_that_a_script_made_up_is_no_status() -> None:
    """It can write to the memory of the sandbox's first process, which reports."""
    for said in ('"0"', "1e400", "-1", "256", "true", "null", "[1]", '{"a": 1}'):
        assert _parse_report(f'{{"exit-code": {said}}}'.encode()) == (None, "")
    deep = b'{"exit-code":' + b"[" * 16000
    assert _parse_report(deep + b'\n{"exit-code": 3}\n') == (3, "")
