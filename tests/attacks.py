"""An attacker's tools: attacks as pieces of Python, run in a session's sandbox and outside it.

An attack wins by setting ``won``.  Each runs in a process of its own, as whoever it is run as, so
that one cannot spoil the next.  ``at`` has the paths and numbers that it may use, and ``os`` and
``libc`` are there.  Run outside, the same code shows that it would work: its control.
"""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon, User

PRELUDE = """
import ctypes, errno, fcntl, json, os, signal, socket, stat, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
task = json.load(sys.stdin)
at = type("At", (), task["at"])
def pids():
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
def attempt(code):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        scope = {**globals(), "won": False}
        signal.alarm(20)
        try:
            exec(code, scope)
            said = ""
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps([bool(scope["won"]), said]).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else [False, "killed"]
print(json.dumps({name: attempt(code) for name, code in task["attacks"].items()}))
"""

Attacks = Mapping[str, str]


@dataclass(slots=True)
class Field:
    """A session of ``owner`` over ``root``, and things outside it that no script may reach."""

    daemon: Daemon
    owner: User
    arena: Path
    root: Path
    outside: Path
    """The owner's own, next to the root."""
    at: dict[str, Any]

    def goexfs(self, *arguments: str | Path, status: int | None = 0, **how: Any) -> str:
        """The command line, as the owner, in the root."""
        done = self.daemon.run(*arguments, user=self.owner, cwd=self.root, **how)
        if status is not None and done.status != status:
            log = self.daemon.said()[-4000:]
            pytest.fail(f"goexfs {arguments[0]}: {done.status}\n{done.out}{done.err}\n{log}")
        return done.out

    def json(self, verb: str, *arguments: str | Path, **how: Any) -> Any:
        return json.loads(self.goexfs(verb, "--json", *arguments, **how))

    def inside(self, attacks: Attacks, *options: str | Path) -> dict[str, str]:
        """Run attacks in the sandbox; returns those that won, with what they said."""
        out = self.goexfs(
            "run",
            *options,
            "--",
            "/usr/bin/python3",
            "-I",
            "-c",
            PRELUDE,
            input=self._task(attacks),
        )
        return _winners(json.loads(out))

    def control(self, attacks: Attacks) -> set[str]:
        """Run attacks as the owner without a sandbox; returns the names of those that won."""
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", PRELUDE],
            input=self._task(attacks), capture_output=True, text=True, cwd=self.root,
            user=self.owner.uid, group=self.owner.gid, extra_groups=[], timeout=60, check=True,
        )  # fmt: skip
        return set(_winners(json.loads(done.stdout)))

    def _task(self, attacks: Attacks) -> str:
        code = {name: textwrap.dedent(text) for name, text in attacks.items()}
        return json.dumps({"at": self.at, "attacks": code})


def _winners(found: dict[str, tuple[bool, str]]) -> dict[str, str]:
    return {name: said for name, (won, said) in found.items() if won}


@pytest.fixture(name="field", params=["root", "ordinary"])
def open_field(
    request: pytest.FixtureRequest, daemon: Daemon, tree: Path, arena: Path, ordinary_user: User
) -> Field:
    """A field for attacks, in both modes: a session of an ordinary user's, and one of root's.

    A module that uses it imports it.
    """
    owner = User(0, 0) if request.param == "root" else ordinary_user
    outside = arena / "outside"
    (outside / "deep").mkdir(parents=True)
    for name in ("victim", "second", "third", "deep/victim"):
        (outside / name).write_text("untouched\n")
    owner.own(arena)
    arena.chmod(0o755)
    places = {
        "root": str(tree),
        "outside": str(outside),
        "victim": str(outside / "victim"),
        "socket": str(daemon.socket),
        "state": str(daemon.state),
        "runtime": str(daemon.runtime),
    }
    field = Field(daemon, owner, arena, tree, outside, places)
    field.at["session"] = field.json("mount", tree)["session"]
    return field
