"""The ways in besides plain commands: a shell on a terminal, ``try``, the library, the examples."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import goexfs as library
from conftest import Goexfs
from daemons import Daemon, User
from manifests import Manifest
from terminals import Terminal

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
Json = Callable[..., Any]
Sit = Callable[..., Terminal]


@pytest.fixture
def sit(daemon: Daemon, tree: Path, ordinary_user: User) -> Iterator[Sit]:
    """Seat the ordinary user at a terminal in the project."""
    seated: list[Terminal] = []

    def seat(*argv: str, **env: str) -> Terminal:
        who = {"user": ordinary_user.uid, "group": ordinary_user.gid, "extra_groups": []}
        seated.append(Terminal(str(daemon.socket), *argv, env=env, cwd=tree, **who))
        return seated[-1]

    yield seat
    for person in seated:
        person.close()


def test_a_shell_has_job_control_and_the_window(
    tree: Path, ordinary_user: User, goexfs: Goexfs, sit: Sit
) -> None:
    goexfs("mount", tree, user=ordinary_user)
    person = sit("shell", SHELL="/bin/bash")
    person.see(b"$ ")
    person.type(b"stty size; pwd; echo $((6*7))\n")
    shown = person.see(b"\n42\r\n")
    assert b"30 100" in shown
    assert os.fsencode(tree) in shown
    person.type(b"sleep 60\n")
    person.see(b"sleep 60\r\n")
    for _ in range(50):  # until the sleep is in the foreground
        person.type(b"\x1a")
        try:
            person.see(b"Stopped", 0.2)
            break
        except AssertionError:
            continue
    person.type(b"jobs; kill %1; echo E$((1+1))\n")
    assert b"Stopped" in person.see(b"\nE2\r\n")
    person.resize(33, 77)
    person.type(b"stty size; echo E$((2+1))\n")
    assert b"33 77" in person.see(b"\nE3\r\n")
    person.type(b"touch made; exit 5\n")
    person.see(b"goexfs: step 1: 1 created")
    assert person.process.wait(10) == 5
    assert termios.tcgetattr(person.master) == person.before
    assert not (tree / "made").exists()
    goexfs("discard", user=ordinary_user, cwd=tree)


def test_ctrl_c_reaches_the_script_and_twice_kills(
    tree: Path, ordinary_user: User, goexfs: Goexfs, sit: Sit
) -> None:
    goexfs("mount", tree, user=ordinary_user)
    person = sit("run", "--", "sh", "-c", "trap 'exit 9' INT; echo up; while :; do sleep .1; done")
    person.see(b"up")
    person.type(b"\x03")
    assert person.process.wait(20) == 9
    person = sit("run", "--", "sh", "-c", "trap '' INT; echo up; while :; do sleep .1; done")
    person.see(b"up")
    person.type(b"\x03")
    with pytest.raises(subprocess.TimeoutExpired):
        person.process.wait(0.5)
    person.type(b"\x03")
    assert person.process.wait(20) in (130, 137)
    goexfs("discard", user=ordinary_user, cwd=tree)


@pytest.mark.parametrize("answer", ["c", "d"])
def test_try_on_a_terminal(
    tree: Path, sit: Sit, answer: str, manifest: Callable[..., Manifest]
) -> None:
    before = manifest(tree)
    person = sit("try", "--", "sh", "-c", "read name; echo $name > said; rm private")
    person.type(b"you\n")
    shown = person.see(b"ook closer? ")
    assert shown.index(b"D  private") < shown.index(b"A  said")
    person.type(b"l\n")
    assert b"+you" in person.see(b"ook closer? ")
    assert manifest(tree) == before
    person.type(answer.encode() + b"\n")
    person.see(b"-- committed as" if answer == "c" else b"-- discarded")
    assert person.process.wait(20) == 0
    if answer == "c":
        assert (tree / "said").read_text() == "you\n"
        assert not (tree / "private").exists()
    else:
        assert manifest(tree) == before


def test_try_without_a_terminal(tree: Path, ordinary_user: User, goexfs: Goexfs) -> None:
    where: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    done = goexfs("try", "--", "sh", "-c", "echo x > kept; exit 3", status=3, **where)
    assert "is kept, uncommitted" in done.err
    assert not (tree / "kept").exists()
    goexfs("commit", **where)
    assert (tree / "kept").exists()
    goexfs("try", "--yes", "--", "touch", "yes", **where)
    assert (tree / "yes").exists()
    goexfs("try", "--no", "--", "touch", "no", **where)
    assert not (tree / "no").exists()


def test_bytes_go_through_stdin_and_stdout_unharmed(
    tree: Path, ordinary_user: User, daemon: Daemon, goexfs: Goexfs
) -> None:
    goexfs("mount", tree, user=ordinary_user)
    data = os.urandom(3_000_000) + "ünï€".encode() * 100_000
    done = subprocess.run(
        [Path(sys.executable).parent / "goexfs", "run", "--", "cat"],
        input=data,
        stdout=subprocess.PIPE,
        cwd=tree,
        env=daemon.environment(),
        user=ordinary_user.uid,
        group=ordinary_user.gid,
        extra_groups=[],
        timeout=60,
        check=True,
    )
    assert done.stdout == data
    goexfs("discard", user=ordinary_user, cwd=tree)


def test_the_library(tree: Path, daemon: Daemon) -> None:
    with library.connect(daemon.socket) as fs:
        session = fs.mount(tree)
        ran = fs.run(["sh", "-c", "cat > new; echo out"], session=session, stdin=b"x" * 3_000_000)
        assert (ran.status, ran.stdout, ran.summary.created) == (0, "out\n", 1)
        seen: list[bytes] = []
        fs.run(["echo", "hi"], session=session, on_output=lambda _, data: seen.append(data))
        assert b"".join(seen) == b"hi\n"
        assert [change.path for change in fs.diff(session=session).changes] == ["new"]
        assert b"+++ b/new" in fs.patch(session=session)
        fs.rewind(0, session=session)
        assert fs.status(session).summary.total == 0
        with pytest.raises(library.NotFound):
            fs.rewind(99, session=session)
        fs.discard(session)


def test_the_library_for_trio(tree: Path, daemon: Daemon) -> None:
    async def main() -> None:
        async with library.connect_trio(daemon.socket) as fs:
            session = await fs.mount(tree)
            with trio.move_on_after(0.5) as scope:
                await fs.run(["sleep", "60"], session=session)
            assert scope.cancelled_caught
            assert (await fs.run(["true"], session=session)).status == 0
            await fs.discard(session)

    trio.run(main)


def example(daemon: Daemon, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable] if name.endswith(".py") else []
    return subprocess.run(
        [*program, EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        env=daemon.environment(),
        timeout=60,
        check=False,
    )


def test_the_agents_loop(tree: Path, arena: Path, daemon: Daemon, goexfs_json: Json) -> None:
    proposals = arena / "proposals"
    proposals.write_text("echo 1 > one\nrm README.md; exit 1\necho 2 > two\n")
    done = example(daemon, "agent_loop.py", tree, proposals)
    assert done.returncode == 0, done.stderr
    assert "[exit 1: taken back]" in done.stdout
    assert (tree / "one").read_text() + (tree / "two").read_text() == "1\n2\n"
    assert (tree / "README.md").exists()
    proposals.write_text("rm README.md\n")
    assert example(daemon, "agent_loop.py", tree, proposals).returncode == 1
    assert (tree / "README.md").exists()
    assert goexfs_json("ls")["sessions"] == []


def test_racing_attempts(tree: Path, daemon: Daemon, goexfs_json: Json) -> None:
    done = example(daemon, "agent_trio.py", tree, "sleep 60", "sleep .3; touch quick", "exit 3")
    assert done.returncode == 0, done.stderr
    assert "committed as" in done.stdout
    assert (tree / "quick").exists()
    assert goexfs_json("ls")["sessions"] == []


def test_a_session_by_hand(
    tree: Path, daemon: Daemon, goexfs_json: Json, manifest: Callable[..., Manifest]
) -> None:
    before = manifest(tree)
    done = example(daemon, "session.sh", tree, "sh", "-c", "echo out; rm private; exit 5")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "exit status 5\ndeleted\tprivate\n"
    assert done.stderr == "out\n"
    assert manifest(tree) == before
    assert goexfs_json("ls")["sessions"] == []
