"""Changes: how many, which, and what each is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from goexfs.protocol.model import FileType, Kind, Model, Reply


class Summary(Reply):
    """How many changes of each kind."""

    deleted: int = 0
    created: int = 0
    modified: int = 0
    renamed: int = 0
    retyped: int = 0
    metadata: int = 0

    @property
    def total(self) -> int:
        return (
            self.deleted
            + self.created
            + self.modified
            + self.renamed
            + self.retyped
            + self.metadata
        )


class Change(Reply):
    """One difference between base and layer (or between two checkpoints)."""

    kind: Kind
    root: str
    """The root's name."""
    path: str
    """Relative to the root; ``.`` is the root itself."""
    type: FileType
    """What it is now (what it was, for a deletion)."""
    old_path: str | None = None
    """Where it was, for a rename."""
    old_type: FileType | None = None
    """What it was, for a retype."""
    aspects: list[
        Literal["content", "mode", "owner", "xattrs", "target", "device", "times", "links"]
    ] = Field(default_factory=list)
    """What differs, for modified, metadata and renamed entries; links: the name belongs to
    another file than before (hard links)."""
    mode: int | None = None
    """Permission bits now (what they were, for a deletion)."""
    old_mode: int | None = None
    size: int | None = None
    old_size: int | None = None
    links: int = 1
    """Names that the file has in the view: more than 1 means that they all show the change."""
    warnings: list[str] = Field(default_factory=list)
    """Why a reviewer should look at it: ``code: sentence``; docs/warnings.md has the codes."""


class Diff(Model):
    session: str | None = None
    cwd: str | None = None
    paths: list[str] = Field(default_factory=list)
    """Names or globs, relative to ``cwd`` where the session holds it, else to a root
    (``ROOTNAME/...`` when there are several); or absolute (real or view)."""
    exclude: list[str] = Field(default_factory=list)
    """Names or globs of what to leave out."""
    step: int | None = None
    from_: int | None = Field(default=None, alias="from")
    to: int | None = None
    patch: bool = False
    """Also stream the unified diff, as ``chunk`` events before the result."""
    binary: bool = True
    """False: the patch only says that binary files differ; quicker, and not to be applied."""


class DiffResult(Reply):
    session: str
    from_: int | None = Field(default=None, alias="from")
    """A checkpoint, or None for the base."""
    to: int | None
    """A checkpoint, or None for the live layer."""
    changes: list[Change]
    summary: Summary
    warnings: list[str] = Field(default_factory=list)
    """Of all changes together (``code: sentence``); those of one are in it."""
    sha256: str = ""
    """Of the list of changes; the audit log has it of what was seen and of what was committed."""
