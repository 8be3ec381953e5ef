"""Commits: what is taken, what stands against it, undo and proof."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import FailFast, Field

from goexfs.protocol.changes import Summary
from goexfs.protocol.model import Encoding, Model, Reply


class ConflictInfo(Reply):
    root: str
    path: str
    reason: Literal[
        "changed", "replaced", "deleted", "created", "parent", "retyped", "blocked", "read"
    ]
    detail: str
    """One sentence: what happened in the base, and what the session wants."""
    theirs: str = ""
    """Of a commit: its first half, what happened in the base."""
    mine: str = ""
    """Of a commit: its second half, what the session did."""
    choices: list[Literal["mine", "theirs", "merge"]] = Field(default_factory=list)
    """How it can be resolved."""


class Loss(Reply):
    """Something of an entry that the owner may not set in the base (an owner, a capability)."""

    root: str
    path: str
    what: str


class Resolve(Model):
    """What becomes of the conflicts at and below a path; the longest path counts."""

    path: str
    way: Literal["mine", "theirs", "merge"]


class Patch(Model):
    """A patch that ``diff`` made, as it was edited."""

    text: str
    """UTF-8 text, or base64 when encoding says so."""
    encoding: Encoding = "utf-8"


class Commit(Model):
    session: str | None = None
    cwd: str | None = None
    message: str = Field(default="", max_length=10_000)
    paths: list[str] = Field(default_factory=list)
    """Names or globs, as for ``diff``."""
    exclude: list[str] = Field(default_factory=list)
    """Names or globs of what stays in the session."""
    patch: Patch | None = None
    """Commit what is in it; what was taken out of it stays in the session.  In place of
    ``paths`` and ``exclude``."""
    checkpoint: int | None = None
    """Commit exactly this reviewed checkpoint; refused if the live layer has moved on."""
    dry_run: bool = False
    """Only say what would be done; nothing is staged or kept."""
    on_conflict: Literal["abort", "mine", "theirs", "merge"] = "abort"
    """What becomes of conflicts of which ``resolve`` says nothing."""
    resolve: Annotated[list[Resolve], FailFast()] = Field(default_factory=list)
    isolation: Literal["snapshot", "serializable"] = "snapshot"
    """``serializable``: a base file that a script read, and that changed since, is a conflict."""
    switch: bool = False
    """Others are to see it as one switch, or it is not to be done (``cannot_switch``)."""
    leave_behind: bool = False
    """With ``switch``: processes that merely stand in the root may be left in the old tree."""


class Operation(Reply):
    """One step of a commit."""

    action: Literal[
        "save",
        "stage",
        "widen",
        "link",
        "fill",
        "put",
        "replace",
        "exchange",
        "move",
        "park",
        "remove",
        "set",
    ]
    root: str
    path: str
    to: str | None = None
    """For link, exchange and move: the other place."""
    bytes: int | None = None
    """For save and stage: what it takes on disk at most."""


class Resolution(Reply):
    """How a conflict was resolved."""

    root: str
    path: str
    way: Literal["mine", "theirs", "merge"]
    detail: str
    """One sentence: what that came to."""


class CommitResult(Reply):
    commit: str | None
    """None when there was nothing to commit, or when there were conflicts."""
    session: str
    applied: Summary
    conflicts: list[ConflictInfo] = Field(default_factory=list)
    """Those that are not resolved; where there are any, nothing was touched."""
    resolved: list[Resolution] = Field(default_factory=list)
    remaining: Summary
    """What is left in the session, or would be after a dry run."""
    closed: bool
    losses: list[Loss] = Field(default_factory=list)
    """What could not be carried over although the change itself was committed."""
    sha256: str | None = None
    """Of the list of changes that were applied."""
    late: int = 0
    """Entries that somebody else changed in the very last moment; their newest bytes are kept
    with the commit's before-images."""
    kept: str | None = None
    """After a ``switch``: where the tree before it is, read-only, for root to look at, as long as
    the commit can be undone."""
    warnings: list[str] = Field(default_factory=list)
    """Of what was to be committed: those of all changes together, then ``code: path: sentence``
    for each of a change's, the path as for a terminal."""
    plan: list[Operation] = Field(default_factory=list)
    """Of a dry run: every operation, in order; ``applied`` is what would be."""


class Undo(Model):
    """Take a commit back by a new one; only its owner and root may."""

    commit: str | None = None
    """None: the newest of the caller's that can be undone, one in cwd's root before others."""
    cwd: str | None = None
    message: str = Field(default="", max_length=10_000)


class UndoResult(Reply):
    commit: str | None
    """The new commit, which can be undone in turn; None when there were conflicts."""
    undone: str
    """The commit that was meant."""
    session: str
    applied: Summary
    conflicts: list[ConflictInfo] = Field(default_factory=list)
    """What changed since the commit; where there are any, nothing was touched."""
    losses: list[Loss] = Field(default_factory=list)
    late: int = 0


class Verify(Model):
    """Is the base what it should be: as a commit left it, or as an open session found it?"""

    commit: str | None = None
    """None, and no session: as for ``undo``."""
    session: str | None = None
    cwd: str | None = None


class VerifyDifference(Reply):
    root: str
    path: str
    detail: str
    """One sentence: what is different."""


class VerifyResult(Reply):
    commit: str | None
    session: str
    checked: int
    """Entries that were looked at."""
    differences: list[VerifyDifference] = Field(default_factory=list)
