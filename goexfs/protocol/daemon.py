"""The daemon itself: is it there, is the machine fit, who did what."""

from __future__ import annotations

from pydantic import Field

from goexfs.protocol.model import Model, Reply


class Ping(Model):
    pass


class PingResult(Reply):
    version: str
    protocol: int
    pid: int
    uid: int
    """The caller's, as the kernel reports it."""


class Audit(Model):
    """The audit log: the caller's own entries, and those about the caller's sessions; root: all."""

    session: str | None = Field(default=None, max_length=64)
    """Only about this one: an id, or the name of an open one."""
    limit: int = Field(default=100, ge=0, le=100_000)
    """The newest so many."""
    verify: bool = False
    """Also check the chain, of everybody's entries."""


class AuditEntry(Reply):
    number: int
    at: float
    what: str
    """A method, or what the daemon did by itself: start, stop, applied, taken_back, torn."""
    uid: int | None
    """Who asked; None: nobody did."""
    owner: int | None
    """Whose session it is."""
    session: str | None
    result: str
    """``ok``, the code of an error, or ``given_up``."""
    said: dict[str, str]
    """What there is to say besides."""
    sha256: str
    """Of the entry's line, which the next one holds."""


class AuditResult(Reply):
    entries: list[AuditEntry]
    """Oldest first."""
    checked: int | None = None
    """How many entries were verified."""
    problems: list[str] = Field(default_factory=list)
    """What is wrong with the log; a sentence each."""


class Doctor(Model):
    pass


class Check(Reply):
    name: str
    ok: bool
    detail: str
    fix: str | None = None
    """The command that mends it."""
    required: bool = True


class DoctorResult(Reply):
    ok: bool
    checks: list[Check]
