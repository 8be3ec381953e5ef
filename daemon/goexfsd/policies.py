"""The policy of one run: files through the owner's worker, the request, the daemon's limits.

It joins ``rulebook`` (who reads) and ``sandbox.resolve`` (what it means), and knows nothing of
how a script is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trio

from goexfs import protocol as p
from goexfs.errors import GoexfsError, SandboxFailed
from goexfs.names import display
from goexfsd.catalog import SessionRow
from goexfsd.channel import open_channel
from goexfsd.config import Config
from goexfsd.rulebook import read_rules, silent
from goexfsd.sandbox import Rule
from goexfsd.sandbox import rules as within
from goexfsd.sandbox.presets import PRESETS
from goexfsd.sandbox.resolve import SIZES, Resolved, Said, preset, resolve, understand
from goexfsd.session import House
from goexfsd.worker import Owner, Root

DEFAULT = "default"
RUN = "this run"
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Reader:
    """Whose files are read, and which."""

    owner: Owner
    home: str
    roots: tuple[Root, ...]
    parser_uid: int
    """Who parses what root may read."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The policy of a run, and the names of all that there are."""

    resolved: Resolved
    available: tuple[str, ...]


def ceiling(config: Config) -> p.Rules:
    """What no policy passes."""
    limits = config.limits
    return p.Rules(
        network=limits.network,
        memory=limits.memory,
        processes=limits.processes,
        wall_seconds=limits.wall_seconds,
        open_files=limits.open_files,
        output_bytes=limits.output_bytes,
        layer_bytes=limits.layer_bytes,
        layer_inodes=limits.layer_inodes,
    )


async def choose(house: House, reader: Reader, request: p.Run) -> Chosen:
    """Read and resolve.  Raises NotFound, Usage or Denied with a sentence."""
    name = request.policy or DEFAULT
    found: dict[str, Any]
    if name in PRESETS and await _silent(reader):
        found = {"preset": name, "user": [], "projects": [], "available": sorted(PRESETS)}
    else:
        found = await _read(house, reader, name)
    said: list[Said] = []
    base = preset(found["preset"])
    assert base is not None, "the worker names only presets"
    said.append(base)
    said += [_said(reader, each, "user") for each in found["user"]]
    said += [_said(reader, each, "project") for each in found["projects"]]
    if request.rules is not None:
        said.append(Said(RUN, "run", request.rules))
    resolved = resolve(name, said, ceiling(house.config), house.config.network)
    return Chosen(resolved, tuple(str(each) for each in found["available"]))


async def rules(house: House, row: SessionRow, request: p.Mount) -> tuple[Rule, ...]:
    """What the view of a new session keeps: its owner's policy, its projects', and the request.

    Raises what ``choose`` does.
    """
    roots = tuple(Root(i, root.name, root.path, root.ino) for i, root in enumerate(row.roots))
    reader = Reader(
        Owner(row.uid, row.gid, row.groups),
        row.home,
        roots,
        house.config.view.sandbox_uid_base + row.slot,
    )
    own = p.Rules(hide=request.hide, mask=request.mask, read_only=request.read_only)
    chosen = await choose(house, reader, p.Run(policy=request.policy, rules=own))
    policy = chosen.resolved.policy
    return within(policy, row.home, [root.path for root in roots], asked=request.hide)


def _said(reader: Reader, file: list[Any], kind: Any) -> Said:
    path, table = file
    rules = understand(table, path)
    home = reader.home.rstrip("/")
    shown = f"~{path[len(home) :]}" if home and path.startswith(home + "/") else path
    return Said(display(shown), kind, rules)


async def _silent(reader: Reader) -> bool:
    """Whether there are no policy files, as for most people: then no worker has to read any."""
    with trio.move_on_after(_SECONDS):
        return await trio.to_thread.run_sync(
            silent, reader.owner, reader.home, reader.roots, abandon_on_cancel=True
        )
    raise _hangs()


def _hangs() -> SandboxFailed:
    return SandboxFailed("the policy files cannot be read in time: a file system does not answer")


async def _read(house: House, reader: Reader, name: str) -> dict[str, Any]:
    options = {
        "home": reader.home,
        "name": name,
        "presets": list(PRESETS),
        "sizes": list(SIZES),
        "parser_uid": reader.parser_uid,
    }
    spec = house.worker_spec(reader.owner, reader.roots, {}, options)
    with trio.move_on_after(_SECONDS):
        async with open_channel(house.workers, read_rules, spec, looks=True) as channel:
            message = await channel.expect("rules")
            if message["preset"] not in PRESETS:
                raise GoexfsError("the worker that reads policies made no sense")
            return message
    raise _hangs()


def result(
    chosen: Chosen, session: str | None, explanation: p.Explanation | None
) -> p.PolicyResult:
    """What a client is told of it."""
    made = chosen.resolved
    return p.PolicyResult(
        policy=made.name,
        session=session,
        settings=[
            p.Setting(key=key, value=made.values[key], source=made.sources[key])
            for key in made.values
        ],
        notes=list(made.notes),
        available=list(chosen.available),
        explanation=explanation,
    )
