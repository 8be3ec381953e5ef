"""What a session went through: steps, checkpoints, commits, kept output."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from goexfs.protocol.changes import Summary
from goexfs.protocol.model import Model, Reply
from goexfs.protocol.runs import StepNetwork
from goexfs.protocol.sessions import SessionInfo


class CheckpointInfo(Reply):
    number: int
    parent: int | None
    step: int | None
    """The step after which it was taken; None for one taken by hand and for the first."""
    label: str | None
    created: float


class StepInfo(Reply):
    number: int
    command: list[str]
    state: Literal["running", "done", "interrupted"]
    status: int | None
    """The script's exit status; 128 + n after signal n; 124 after the time limit."""
    timed_out: bool
    started: float
    ended: float | None
    before: int = 0
    """The checkpoint that it started from."""
    checkpoint: int | None
    """Taken after it."""
    summary: Summary | None
    """What it changed."""
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool


class CommitInfo(Reply):
    commit: str
    session: str
    message: str
    created: float
    applied: Summary
    partial: bool
    undoes: str | None = None
    """The commit that this one took back."""
    undone_by: str | None = None
    """The commit that took this one back."""
    undo_until: float | None = None
    """It can be undone until then at the latest, earlier if newer commits need the room; None:
    not any more."""
    sha256: str | None = None
    """SHA-256 of the list of changes that it applied; None for an undo."""
    before_bytes: int = 0
    """What its before-images take in the store; less where they are shared with the base."""


class Log(Model):
    session: str | None = None
    cwd: str | None = None
    network: bool = False
    """Also what each step did on the network."""


class Inherited(Reply):
    """What a fork has from the session that it was forked from."""

    session: str
    name: str
    checkpoint: int
    """Where it was forked."""
    steps: list[StepInfo]
    """Those that led there, oldest first."""


class LogResult(Reply):
    session: SessionInfo
    checkpoints: list[CheckpointInfo]
    steps: list[StepInfo]
    commits: list[CommitInfo]
    network: list[StepNetwork] = Field(default_factory=list)
    """Of the steps that had a proxy, where it was asked for."""
    inherited: list[Inherited] = Field(default_factory=list)
    """Of a fork: from whom, the first forefather first."""


class Output(Model):
    """The kept output of a step."""

    session: str | None = None
    cwd: str | None = None
    step: int


class OutputResult(Reply):
    stdout: str
    stderr: str
    truncated: bool


class Checkpoint(Model):
    session: str | None = None
    cwd: str | None = None
    label: str | None = Field(default=None, max_length=200)


class Rewind(Model):
    session: str | None = None
    cwd: str | None = None
    to: int


class RewindResult(Reply):
    session: str
    checkpoint: int
    saved: int | None
    """A checkpoint made of what the live layer held and no checkpoint had yet."""
