"""Every error goexfs reports, on the wire, in the library and on the command line.

Each leaf has a stable ``code`` (part of the protocol), a JSON-RPC number and the exit status
that the command line ends with.  ``message`` is one sentence that says what is wrong;
``hint`` says what to do about it; ``data`` carries machine-readable details.

GoexfsError                 exit 1
 +-- Usage                  exit 2   the request itself makes no sense
 +-- Conflict               exit 3   the base changed under the session (or two commits meet)
 +-- NotFound               exit 4   no such session, checkpoint, path, ...
 +-- Denied                 exit 5   not yours, or the system does not let you
 +-- Limit                  exit 6   a quota, a full disk, a size or time limit
 +-- Unavailable            exit 7   no daemon answers
 +-- InvalidState           exit 1   right request, wrong moment (a step is running, ...)
 +-- SandboxFailed          exit 125 the sandbox could not be built; the script never ran
 +-- NotExecutable          exit 126 the script is nothing that could be run
 +-- StoreFailed            exit 1   the store is missing, damaged or not a btrfs
 +-- ViewFailed             exit 1   the view could not be mounted, or its worker died
 +-- CommitFailed           exit 1   applying failed; says what state the base is in
 +-- Unsupported            exit 1   this machine lacks something; doctor says what
 +-- CannotSwitch           exit 1   the commit cannot be one switch here (now); nothing was changed
 +-- Internal               exit 1   a bug in goexfs
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar


class GoexfsError(Exception):
    """Base of all errors; ``code``, ``number`` and ``exit_status`` are fixed per class."""

    code: ClassVar[str] = "failed"
    number: ClassVar[int] = -32000
    exit_status: ClassVar[int] = 1

    def __init__(
        self, message: str, *, hint: str | None = None, data: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data = data or {}

    def to_wire(self) -> dict[str, Any]:
        """The JSON-RPC error object: ``{"code", "message", "data": {"code", "hint", ...}}``."""
        data = {**self.data, "code": self.code, "exit_status": self.exit_status}
        if self.hint is not None:
            data["hint"] = self.hint
        return {"code": self.number, "message": self.message, "data": data}

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints: ``{"error": {"code", "message", "hint", ...}}``."""
        return {
            "error": {**self.data, "code": self.code, "message": self.message, "hint": self.hint}
        }


class Usage(GoexfsError):
    code = "usage"
    number = -32602
    exit_status = 2


class BadRequest(Usage):
    """The line was no JSON-RPC request."""

    code = "bad_request"
    number = -32600


class BadJSON(Usage):
    """The line was no JSON."""

    code = "bad_json"
    number = -32700


class NoSuchMethod(Usage):
    code = "no_such_method"
    number = -32601


class Conflict(GoexfsError):
    code = "conflict"
    number = -32003
    exit_status = 3


class NotFound(GoexfsError):
    code = "not_found"
    number = -32004
    exit_status = 4


class Denied(GoexfsError):
    code = "denied"
    number = -32005
    exit_status = 5


class Limit(GoexfsError):
    code = "limit"
    number = -32006
    exit_status = 6


class Unavailable(GoexfsError):
    code = "unavailable"
    number = -32007
    exit_status = 7


class InvalidState(GoexfsError):
    code = "invalid_state"
    number = -32008


class SandboxFailed(GoexfsError):
    code = "sandbox_failed"
    number = -32009
    exit_status = 125


class NotExecutable(GoexfsError):
    code = "not_executable"
    number = -32014
    exit_status = 126


class StoreFailed(GoexfsError):
    code = "store_failed"
    number = -32010


class ViewFailed(GoexfsError):
    code = "view_failed"
    number = -32011


class CommitFailed(GoexfsError):
    code = "commit_failed"
    number = -32012


class Unsupported(GoexfsError):
    code = "unsupported"
    number = -32013


class CannotSwitch(GoexfsError):
    code = "cannot_switch"
    number = -32015


class Internal(GoexfsError):
    code = "internal"
    number = -32603


def _leaves(cls: type[GoexfsError]) -> list[type[GoexfsError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found += _leaves(sub)
    return found


BY_CODE: dict[str, type[GoexfsError]] = {leaf.code: leaf for leaf in _leaves(GoexfsError)}


def from_wire(error: dict[str, Any]) -> GoexfsError:
    """The exception that a JSON-RPC error object stands for; unknown codes stay GoexfsError."""
    data = dict(error.get("data") or {})
    leaf = BY_CODE.get(str(data.pop("code", "")), GoexfsError)
    hint = data.pop("hint", None)
    data.pop("exit_status", None)
    return leaf(str(error.get("message", "unknown error")), hint=hint, data=data)
