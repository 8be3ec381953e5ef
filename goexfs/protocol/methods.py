"""Every method with its parameters and result, every event and notice, and the envelope."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from goexfs.protocol.changes import Diff, DiffResult
from goexfs.protocol.commits import Commit, CommitResult, Undo, UndoResult, Verify, VerifyResult
from goexfs.protocol.daemon import Audit, AuditResult, Doctor, DoctorResult, Ping, PingResult
from goexfs.protocol.history import (
    Checkpoint,
    CheckpointInfo,
    Log,
    LogResult,
    Output,
    OutputResult,
    Rewind,
    RewindResult,
)
from goexfs.protocol.model import Encoding, Model, Reply
from goexfs.protocol.policies import (
    SecretList,
    SecretListResult,
    SecretRemove,
    SecretRemoveResult,
    SecretSet,
    SecretSetResult,
)
from goexfs.protocol.runs import (
    JobInfo,
    Jobs,
    JobsResult,
    Kill,
    Policy,
    PolicyResult,
    Run,
    RunResult,
    Start,
)
from goexfs.protocol.sessions import (
    Discard,
    DiscardResult,
    Fork,
    Ls,
    LsResult,
    Mount,
    SessionInfo,
    Status,
    StatusResult,
)

METHODS: dict[str, tuple[type[Model], type[Reply]]] = {
    "ping": (Ping, PingResult),
    "mount": (Mount, SessionInfo),
    "ls": (Ls, LsResult),
    "status": (Status, StatusResult),
    "run": (Run, RunResult),
    "start": (Start, JobInfo),
    "jobs": (Jobs, JobsResult),
    "kill": (Kill, JobInfo),
    "diff": (Diff, DiffResult),
    "log": (Log, LogResult),
    "output": (Output, OutputResult),
    "policy": (Policy, PolicyResult),
    "checkpoint": (Checkpoint, CheckpointInfo),
    "rewind": (Rewind, RewindResult),
    "fork": (Fork, SessionInfo),
    "commit": (Commit, CommitResult),
    "undo": (Undo, UndoResult),
    "discard": (Discard, DiscardResult),
    "secret_set": (SecretSet, SecretSetResult),
    "secret_list": (SecretList, SecretListResult),
    "secret_remove": (SecretRemove, SecretRemoveResult),
    "verify": (Verify, VerifyResult),
    "audit": (Audit, AuditResult),
    "doctor": (Doctor, DoctorResult),
}
"""Every method: its parameters and its result."""


class Started(Model):
    """A step began."""

    request: int | str
    session: str
    step: int


class OutputEvent(Model):
    """A piece of a script's output, in order within its stream (``pty`` carries both)."""

    request: int | str
    stream: Literal["stdout", "stderr", "pty"]
    data: str
    encoding: Encoding


class Taken(Model):
    """The script has taken this many more bytes of ``input``.

    A client keeps at most 1 MiB of input that was not yet taken under way; beyond
    ``MAX_INPUT_AHEAD`` the run is ended with a Limit error.
    """

    request: int | str
    bytes: int


class ChunkEvent(Model):
    """A piece of a patch."""

    request: int | str
    data: str
    encoding: Encoding


class ProgressEvent(Model):
    """How far long work is; ``total`` None while unknown."""

    request: int | str
    stage: str
    done: int
    total: int | None


EVENTS: dict[str, type[Model]] = {
    "started": Started,
    "output": OutputEvent,
    "taken": Taken,
    "chunk": ChunkEvent,
    "progress": ProgressEvent,
}


class Input(Model):
    """Bytes for the running script's stdin (or terminal)."""

    request: int | str
    data: str = ""
    encoding: Encoding = "utf-8"
    eof: bool = False


class Resize(Model):
    request: int | str
    rows: int = Field(ge=1, le=10000)
    cols: int = Field(ge=1, le=10000)


class Signal(Model):
    request: int | str
    name: Literal["INT", "TERM", "HUP", "QUIT", "KILL"]


NOTICES: dict[str, type[Model]] = {"input": Input, "resize": Resize, "signal": Signal}


class Envelope(BaseModel):
    """A line from a client: a request when it has an id, else a notification."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    jsonrpc: Literal["2.0"]
    id: int | str | None = None
    method: str = Field(max_length=64)
    params: dict[str, Any] = Field(default_factory=dict)
