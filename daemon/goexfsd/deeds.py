"""What the audit log says of a request: who asked for what, and what came of it.

Text of the caller's is bounded, and no contents are in it: of a command its words, of a change
list its digest (``layer.digest``), of a policy the digest of all that it holds.  Requests that
only ask about the daemon or the log itself are not recorded, nor are mistakes in words (an
unknown name, a bad argument), which nobody is touched by.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import deque
from collections.abc import Callable
from typing import Any

from goexfs import protocol as p
from goexfs.errors import GoexfsError
from goexfsd.audit import Audit, Entry

QUIET = frozenset(("ping", "ls", "doctor", "log", "policy", "secret_list", "audit", "jobs"))
MISTAKES = frozenset(("usage", "not_found", "no_such_method"))
DURABLE = frozenset(("discard",))
"""Those that are on disk before they are answered; what a commit did has an entry of its own."""
_COMMAND = 400

Said = dict[str, Any]


def result_of(error: BaseException | None) -> str:
    """One word: ok, the code of an error, or that nobody waits for the answer any more."""
    if error is None:
        return "ok"
    return error.code if isinstance(error, GoexfsError) else "given_up"


def session_of(request: p.Model, result: p.Reply | None) -> str | None:
    """The session that was meant, by id or as the caller named it."""
    found = getattr(result, "session", None) or getattr(request, "session", None)
    if isinstance(found, p.SessionInfo):
        return found.session
    return found if isinstance(found, str) else None


def said(request: p.Model, result: p.Reply | None) -> Said:
    """What an entry says besides who and when: of the request, then of its result."""
    found: Said = {}
    for each in (request, result):
        tell = _TELLERS.get(type(each))
        if tell is not None:
            found |= {key: value for key, value in tell(each).items() if value not in (None, "")}
    return found


def entries(log: Audit, uid: int, session: str | None, limit: int) -> list[p.AuditEntry]:
    """The newest entries that a user may see, oldest first.  May run in a thread."""
    found: deque[tuple[Entry, str]] = deque(maxlen=limit)
    for line, sha256 in log.entries():
        if uid not in (0, line.get("uid"), line.get("owner")):
            continue
        if session is None or line.get("session") == session:
            found.append((line, sha256))
    return [entry(line, sha256) for line, sha256 in found]


def entry(line: Entry, sha256: str) -> p.AuditEntry:
    """An entry as it goes over the wire."""
    rest = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in line.items()
        if key not in ("n", "before", "at", "what", "uid", "owner", "session", "result")
    }
    return p.AuditEntry(
        number=line["n"],
        at=line["at"],
        what=line["what"],
        uid=line.get("uid"),
        owner=line.get("owner"),
        session=line.get("session"),
        result=line.get("result", "ok"),
        said=rest,
        sha256=sha256,
    )


def _session(result: p.SessionInfo) -> Said:
    return {
        "name": result.name,
        "roots": [root.path for root in result.roots],
        "forked_from": result.forked_from,
        "forked_at": result.forked_at,
    }


def _run(request: p.Run) -> Said:
    script = None if request.script is None else request.script.text
    whole = json.dumps([request.command, script])
    words = shlex.join(request.command or [request.script.name if request.script else ""])
    return {
        "command": words if len(words) <= _COMMAND else f"{words[:_COMMAND]}...",
        "command_sha256": hashlib.sha256(whole.encode()).hexdigest(),
    }


def _ran(result: p.RunResult) -> Said:
    return {
        "step": result.step,
        "status": result.status,
        "checkpoint": result.checkpoint,
        "policy": result.policy,
        "policy_sha256": result.policy_sha256,
        "changes": result.summary.total,
    }


def _seen(result: p.StatusResult | p.DiffResult) -> Said:
    return {"changes": result.summary.total, "changes_sha256": result.sha256}


def _diff(request: p.Diff) -> Said:
    span = {"step": request.step, "from": request.from_, "to": request.to}
    return {**span, "paths": len(request.paths) or None, "patch": request.patch or None}


def _commit(request: p.Commit) -> Said:
    return {
        "dry_run": request.dry_run or None,
        "switch": request.switch or None,
        "checkpoint": request.checkpoint,
        "paths": len(request.paths) or None,
    }


def _committed(result: p.CommitResult) -> Said:
    return {
        "commit": result.commit,
        "conflicts": len(result.conflicts) or None,
        "changes_sha256": result.sha256,
    }


def _undone(result: p.UndoResult) -> Said:
    conflicts = len(result.conflicts) or None
    return {"commit": result.commit, "undone": result.undone, "conflicts": conflicts}


_TELLERS: dict[type[Any], Callable[[Any], Said]] = {
    p.SessionInfo: _session,
    p.Run: _run,
    p.Start: _run,
    p.JobInfo: lambda result: {"job": result.name},
    p.RunResult: _ran,
    p.StatusResult: _seen,
    p.DiffResult: _seen,
    p.Diff: _diff,
    p.Output: lambda request: {"step": request.step},
    p.CheckpointInfo: lambda result: {"checkpoint": result.number},
    p.Rewind: lambda request: {"to": request.to},
    p.RewindResult: lambda result: {"saved": result.saved},
    p.Commit: _commit,
    p.CommitResult: _committed,
    p.UndoResult: _undone,
    p.VerifyResult: lambda result: {
        "commit": result.commit,
        "checked": result.checked,
        "differences": len(result.differences),
    },
    p.SecretSet: lambda request: {"secret": request.name, "hosts": request.hosts},
    p.SecretRemove: lambda request: {"secret": request.name},
}
