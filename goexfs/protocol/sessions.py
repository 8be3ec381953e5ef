"""Sessions: opening, listing, looking at, forking and ending them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from goexfs.protocol.changes import Summary
from goexfs.protocol.model import POLICY_NAME, Model, Reply, SessionState


class RootInfo(Reply):
    name: str
    """The root's name in the view (its directory below the mountpoint when there are several)."""
    path: str
    """The real directory."""
    view: str
    """Where this root appears in the mounted view."""
    stable: bool = False
    """The session sees a snapshot of it: what others change there meanwhile does not show."""


class ViewRule(Reply):
    """What a session's view keeps of a path, for every process."""

    kind: Literal["hidden", "masked", "read_only"]
    pattern: str
    root: str | None = None
    """The name of the root that it is about; None: every one."""


class SessionInfo(Reply):
    session: str
    name: str
    mountpoint: str
    roots: list[RootInfo]
    state: SessionState
    owner: int
    """uid."""
    created: float
    running: list[int] = Field(default_factory=list)
    """Steps running now."""
    checkpoint: int = 0
    """The checkpoint that the live layer descends from."""
    view: Literal["fuse", "kernel"] = "fuse"
    lacks: list[str] = Field(default_factory=list)
    """What this view does not do and the other does, a sentence each."""
    forked_from: str | None = None
    """The session that it was forked from, by id."""
    forked_at: int | None = None
    """At which checkpoint of it."""
    rules: list[ViewRule] = Field(default_factory=list)
    jobs: list[str] = Field(default_factory=list)
    """Those that run."""


class Mount(Model):
    roots: list[str] = Field(min_length=1, max_length=64)
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    at: str | None = None
    policy: str | None = Field(default=None, pattern=POLICY_NAME)
    """Whose paths in the roots the view keeps; None: ``default``."""
    hide: list[str] = Field(default_factory=list, max_length=1024)
    """Further ones: not to be seen by anybody at the mountpoint,"""
    mask: list[str] = Field(default_factory=list, max_length=256)
    """to be seen empty,"""
    read_only: list[str] = Field(default_factory=list, max_length=256)
    """not to be changed."""
    view: Literal["fuse", "kernel", "auto"] = "fuse"
    """Who serves it; ``auto``: the kernel where that loses nothing that was asked for."""


class Ls(Model):
    all: bool = False
    """Also those that ended; root: also other users'."""


class LsResult(Reply):
    sessions: list[SessionInfo]


class Status(Model):
    session: str | None = None
    cwd: str | None = None
    """Picks the one open session whose root or mountpoint holds it, when session is None."""


class StaleRead(Reply):
    """A base file that a script read and that changed in the base since."""

    root: str
    path: str
    detail: str
    """What happened to it."""


class StatusResult(Reply):
    session: SessionInfo
    summary: Summary
    checkpoints: int
    steps: int
    layer_bytes: int
    """Exclusive to the live layer, as btrfs accounts it (rounded to its block size)."""
    warnings: list[str] = Field(default_factory=list)
    """Those of all changes together, then ``code: N changes: sentence`` for each code."""
    stale_reads: list[StaleRead] = Field(default_factory=list)
    """The first 1,000 of them."""
    sha256: str = ""
    """Of the list of changes."""


class Fork(Model):
    """Without step and checkpoint: at the state that the session has now."""

    session: str | None = None
    cwd: str | None = None
    step: int | None = Field(default=None, ge=0)
    """After this step; 0: before the first."""
    checkpoint: int | None = Field(default=None, ge=0)
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


class Discard(Model):
    session: str | None = None
    cwd: str | None = None


class DiscardResult(Reply):
    session: str
    discarded: bool = True
