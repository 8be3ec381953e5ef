"""Mistakes: one clear sentence, the documented exit status, nothing lost, the daemon alive."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Goexfs, MakeDaemon
from daemons import Daemon, User
from manifests import Manifest

Json = Callable[..., Any]


def refused(goexfs: Goexfs, *arguments: str | Path, status: int, says: str, **how: Any) -> None:
    """The command ends with ``status`` and one sentence; then the daemon still answers."""
    done = goexfs(*arguments, status=status, **how)
    assert says in done.err, done.err
    assert "Traceback" not in done.out + done.err
    goexfs("ls")


def test_roots(
    arena: Path, tree: Path, daemon: Daemon, goexfs: Goexfs, ordinary_user: User
) -> None:
    mine: dict[str, Any] = {"user": ordinary_user}
    refused(goexfs, "mount", arena / "none", status=4, says="does not exist", **mine)
    refused(goexfs, "mount", tree / "README.md", status=2, says="not a directory", **mine)
    refused(goexfs, "mount", tree, "--root", tree / "src", status=2, says="overlap", **mine)
    refused(goexfs, "mount", tree, "--root", tree, status=2, says="overlap", **mine)
    refused(goexfs, "mount", "/", status=2, says="cannot be /", **mine)
    refused(goexfs, "mount", daemon.state, status=2, says="state directory")
    refused(goexfs, "mount", daemon.state.parent, status=2, says="overlaps")
    refused(goexfs, "mount", daemon.runtime / "views", status=2, says="runtime directory")
    closed = arena / "closed"
    closed.mkdir(mode=0o700)
    refused(goexfs, "mount", closed, status=5, says="not readable", **mine)


def test_mountpoints(tree: Path, arena: Path, goexfs: Goexfs, ordinary_user: User) -> None:
    mine: dict[str, Any] = {"user": ordinary_user}
    at = arena / "at"
    at.mkdir()
    refused(goexfs, "mount", tree, "--at", at, status=5, says="not yours", **mine)
    os.chown(at, ordinary_user.uid, ordinary_user.gid)
    refused(goexfs, "mount", tree, "--at", tree / "empty", status=2, says="overlap", **mine)
    refused(goexfs, "mount", tree, "--at", tree / "README.md", status=2, says="not a dir", **mine)
    (at / "x").write_text("")
    refused(goexfs, "mount", tree, "--at", at, status=2, says="not empty", **mine)
    (at / "x").unlink()
    goexfs("mount", tree, "--at", at, **mine)
    refused(goexfs, "mount", tree, "--at", at, status=2, says="in use", **mine)


def test_names_and_sessions(tree: Path, goexfs: Goexfs, ordinary_user: User) -> None:
    mine: dict[str, Any] = {"user": ordinary_user}
    refused(goexfs, "status", status=4, says="no open session", **mine)
    refused(goexfs, "diff", "-s", "nobody", status=4, says="no session", **mine)
    goexfs("mount", tree, "--name", "n", **mine)
    refused(goexfs, "mount", tree, "--name", "n", status=1, says="named n", **mine)
    refused(goexfs, "mount", tree, "--name", "../n", status=2, says="'../n' is no name", **mine)
    goexfs("mount", tree, "--name", "m", **mine)
    refused(goexfs, "diff", status=2, says="several", cwd=tree, **mine)
    refused(goexfs, "rewind", "9", "-s", "n", status=4, says="no checkpoint 9", **mine)
    refused(goexfs, "diff", "--step", "9", "-s", "n", status=4, says="no step 9", **mine)
    refused(goexfs, "diff", "-s", "n", "/etc/passwd", status=2, says="in no root", **mine)
    refused(goexfs, "diff", "-s", "n", "../../etc", status=2, says="in no root", **mine)


def test_junk_as_a_script(tree: Path, arena: Path, goexfs: Goexfs, ordinary_user: User) -> None:
    goexfs("mount", tree, user=ordinary_user)
    (arena / "junk").write_bytes(b"\x7fELF\x00\x01\x02" + os.urandom(200))
    done = goexfs("run", "--script", str(arena / "junk"), user=ordinary_user, cwd=tree, status=None)
    assert done.status == 126
    assert "Traceback" not in done.err


def test_a_second_daemon_is_refused(daemon: Daemon) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "goexfsd",
         "--state-dir", daemon.state, "--runtime-dir", daemon.directory / "run2"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "another goexfsd" in done.stderr
    shutil.rmtree(daemon.directory / "run2", ignore_errors=True)


def test_no_daemon(tmp_path: Path, daemon: Daemon, goexfs: Goexfs) -> None:
    done = goexfs("ls", env={"GOEXFS_SOCKET": str(tmp_path / "none")}, status=7)
    assert "goexfsd" in done.err


def test_a_root_that_vanishes_while_mounted(
    tree: Path, arena: Path, goexfs: Goexfs, ordinary_user: User, daemon: Daemon,
    manifest: Callable[..., Manifest],
) -> None:  # fmt: skip
    mine: dict[str, Any] = {"user": ordinary_user}
    goexfs("mount", tree, "--name", "v", **mine)
    goexfs("run", "-s", "v", "--", "sh", "-c", "echo kept > new; echo more >> README.md", **mine)
    away = arena / "away"
    os.rename(tree, away)
    before = manifest(away)
    refused(goexfs, "commit", "-s", "v", status=4, says="not a directory", **mine)
    daemon.restart()
    refused(goexfs, "run", "-s", "v", "--", "true", status=125, says="no view", **mine)
    assert manifest(away) == before
    os.rename(away, tree)
    daemon.restart()
    goexfs("commit", "-s", "v", **mine)
    assert (tree / "new").read_text() == "kept\n"


def test_another_directory_in_the_roots_place(
    tree: Path, arena: Path, goexfs: Goexfs, ordinary_user: User
) -> None:
    mine: dict[str, Any] = {"user": ordinary_user}
    goexfs("mount", tree, "--name", "v", **mine)
    goexfs("run", "-s", "v", "--", "sh", "-c", "echo 1 > new", **mine)
    os.rename(tree, arena / "away")
    tree.mkdir()
    refused(goexfs, "commit", "-s", "v", status=4, says="not the directory it was", **mine)
    tree.rmdir()
    tree.symlink_to("away")
    refused(goexfs, "commit", "-s", "v", status=4, says="not a directory", **mine)
    assert not (arena / "away" / "new").exists()
    tree.unlink()
    goexfs("discard", "-s", "v", **mine)


def test_a_full_store_loses_nothing(
    make_daemon: MakeDaemon, tree: Path, ordinary_user: User, manifest: Callable[..., Manifest]
) -> None:
    daemon = make_daemon("[store]\nsize = 268435456\ngrow = false\n")
    mine: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    before = manifest(tree)
    assert daemon.run("mount", tree, user=ordinary_user).status == 0
    assert daemon.run("run", "--", "sh", "-c", "echo kept > kept", **mine).status == 0
    fill = "head -c 600000000 /dev/urandom > big"
    done = daemon.run("run", "--", "sh", "-c", fill, timeout=110, **mine)
    assert done.status != 0
    assert "No space left" in done.err
    assert manifest(tree) == before
    assert daemon.run("run", "--", "sh", "-c", "rm big; cat kept", **mine).out == "kept\n"
    assert daemon.run("discard", **mine).status == 0
    assert manifest(tree) == before


def test_a_damaged_and_a_missing_image(daemon: Daemon, tree: Path, ordinary_user: User) -> None:
    assert daemon.run("mount", tree, user=ordinary_user).status == 0
    daemon.stop()
    image = daemon.state / "store.img"
    moved = daemon.state / "moved"
    image.rename(moved)
    with pytest.raises(RuntimeError, match="missing"):
        daemon.start()
    assert not image.exists()
    with open(image, "wb") as file:
        file.truncate(moved.stat().st_size)
    with pytest.raises(RuntimeError, match="damaged"):
        daemon.start()
    moved.rename(image)
    daemon.start()
    found = daemon.run("status", user=ordinary_user, cwd=tree)
    assert found.status == 0, found


@pytest.mark.parametrize(
    "line", [b"\n\n\x00\xff{", b'{"jsonrpc":"2.0","id":1,"method":"mount","params":{"roots":3}}']
)
def test_junk_on_the_socket(daemon: Daemon, goexfs: Goexfs, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.socket))
        sock.sendall(line + b"\n")
        assert b'"error"' in sock.recv(65536)
    goexfs("ls")


def test_a_client_that_is_killed_takes_its_script_along(
    tree: Path, goexfs: Goexfs, daemon: Daemon, ordinary_user: User
) -> None:
    goexfs("mount", tree, user=ordinary_user)
    client = subprocess.Popen(
        [Path(sys.executable).parent / "goexfs", "run", "--",
         "sh", "-c", "echo done > partial; echo up; setsid sleep 61 & sleep 61"],
        env=daemon.environment(), cwd=tree, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        user=ordinary_user.uid, group=ordinary_user.gid, extra_groups=[],
    )  # fmt: skip
    with client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        client.send_signal(signal.SIGKILL)
    for _ in range(100):
        done = goexfs("run", "--", "cat", "partial", user=ordinary_user, cwd=tree, status=None)
        if done.status == 0:
            break
    assert done.out == "done\n"
    found = subprocess.run(["pgrep", "-f", "sleep 61"], capture_output=True, check=False)
    assert found.stdout == b""


def test_without_bubblewrap_only_runs_are_refused(
    tree: Path, arena: Path, ordinary_user: User
) -> None:
    hide = 'mount --bind /dev/null /usr/bin/bwrap && exec "$@"'
    wrapper = ("unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh")
    (arena / "daemon").mkdir(mode=0o755)
    daemon = Daemon(arena / "daemon", "[store]\nsize = 536870912\n", wrapper=wrapper)
    mine: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    daemon.start()
    try:
        assert daemon.run("mount", tree, user=ordinary_user).status == 0
        done = daemon.run("run", "--", "true", **mine)
        assert done.status == 125
        assert "bwrap is not installed" in done.err
        assert "apt-get install bubblewrap" in done.err
        assert daemon.run("status", **mine).status == 0
        assert daemon.run("discard", **mine).status == 0
    finally:
        assert daemon.stop() == 0
