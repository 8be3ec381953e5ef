"""Run things in a real sandbox, for the tests of it: views are ordinary directories here."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from goexfsd import sandbox

USER = 21001
LOWERED = 1_879_048_192 + 7
"""The host uid of a session of root's."""


@dataclass(slots=True)
class Result:
    outcome: sandbox.Outcome
    streams: dict[str, bytes]

    @property
    def out(self) -> str:
        return self.streams.get("stdout", b"").decode("utf-8", "replace")

    @property
    def err(self) -> str:
        return self.streams.get("stderr", b"").decode("utf-8", "replace")

    @property
    def status(self) -> int:
        return self.outcome.status

    def json(self) -> Any:
        assert self.status == 0, (self.outcome, self.err)
        return json.loads(self.out)


@dataclass(slots=True)
class Box:
    """A home and one root of ``uid``'s below ``arena``; ``run`` runs a command on them."""

    arena: Path
    uid: int = USER
    home: str = ""
    dest: str = ""
    machine: sandbox.Machine = field(default_factory=sandbox.find_machine)

    def __post_init__(self) -> None:
        self.home = self.home or str(self.arena / "home")
        self.dest = self.dest or str(self.arena / "home" / "project")
        for path in (self.arena / "home" / "project", self.source):
            path.mkdir(parents=True, exist_ok=True)
        self.own()

    @property
    def source(self) -> Path:
        """Stands in for the mounted view; a real one lies below 0700 directories, too."""
        return self.arena / "views" / "one" / "mnt"

    def own(self) -> None:
        owner = self.uid
        for top in (self.arena / "home", self.arena / "views" / "one"):
            for directory, _, names in os.walk(top):
                os.chown(directory, owner, owner)
                for name in names:
                    os.chown(os.path.join(directory, name), owner, owner, follow_symlinks=False)
        (self.arena / "views" / "one").chmod(0o700)

    def job(self, *argv: str, **how: Any) -> sandbox.Job:
        fields: dict[str, Any] = {
            "uid": self.uid,
            "gid": self.uid,
            "groups": (),
            "user": "root" if self.uid == LOWERED else "somebody",
            "home": self.home,
            "views": (sandbox.View(str(self.source), self.dest),),
            "cwd": self.dest,
            "argv": argv,
            "env": {},
            "script": None,
            "pty": None,
            "hide": (),
            "session_id": "test",
            "step": 1,
        }
        return sandbox.Job(**{**fields, **how})

    def run(self, *argv: str, policy: dict[str, Any] | None = None, **how: Any) -> Result:
        """Run a command to its end; keywords are the job's, ``policy`` the policy's."""
        return self.drive(self.job(*argv, **how), policy)

    def python(self, code: str, *argv: str, **how: Any) -> Result:
        return self.run("/usr/bin/python3", "-I", "-c", textwrap.dedent(code), *argv, **how)

    def drive(
        self,
        job: sandbox.Job,
        policy: dict[str, Any] | None = None,
        *,
        output: Callable[[str, bytes], Awaitable[None]] | None = None,
        beside: Callable[[sandbox.Running], Awaitable[None]] | None = None,
        **how: Any,
    ) -> Result:
        """Run a job; ``beside`` runs at the same time and holds the handle."""
        launch = sandbox.plan(job, sandbox.Policy(**(policy or {})), self.machine)
        streams: dict[str, bytes] = {}
        outcomes: list[sandbox.Outcome] = []

        async def collect(stream: str, data: bytes) -> None:
            streams[stream] = streams.get(stream, b"") + data
            if output is not None:
                await output(stream, data)

        async def main() -> None:
            cgroups = sandbox.open_cgroups(self.machine)
            running = sandbox.Running()
            try:
                with trio.fail_after(60):
                    async with trio.open_nursery() as nursery:
                        if beside is not None:
                            nursery.start_soon(beside, running)
                        outcome = await sandbox.run(
                            launch, cgroups=cgroups, output=collect, running=running, **how
                        )
                        outcomes.append(outcome)
                        nursery.cancel_scope.cancel()
            finally:
                assert cgroups.running() == []
                cgroups.close()

        trio.run(main)
        return Result(outcomes[0], streams)
