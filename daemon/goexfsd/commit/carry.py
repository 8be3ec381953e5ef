"""From the intent on: a plan is applied, tidied up and told, or taken back; in a recovery too.

Whatever of it was done before, it can be done again: a crash anywhere in it is followed by another
run.  The verdict, once written, is final: what could not be applied is taken back, never tried
forward again.  It knows nothing of how a plan came about.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from goexfs.errors import CommitFailed, Conflict, Denied, GoexfsError, Limit
from goexfs.names import display
from goexfsd.commit import before, intent, outcome, rebase, stage
from goexfsd.commit.apply import Applier, finish, reopen, tidy
from goexfsd.commit.base import Base
from goexfsd.commit.faults import fault
from goexfsd.commit.ground import Ground, Lost
from goexfsd.commit.plan import Plan, path_of
from goexfsd.layer.changes import compute
from goexfsd.worker import Worker

Progress = Callable[[str, int, int | None], None]
Line = dict[str, Any]


def progress(worker: Worker) -> Progress:
    def tell(name: str, done: int, total: int | None) -> None:
        worker.send({"event": "progress", "stage": name, "done": done, "total": total})

    return tell


def take_away(worker: Worker) -> None:
    """Remove what was staged, durably.  CommitFailed if it cannot be: a recovery has to."""
    try:
        stage.remove_stages(worker.root_fds, worker.layer_fds["before"], times=True)
    except OSError as error:
        raise CommitFailed(
            f"nothing was changed, but what was prepared cannot be removed ({_reason(error)})",
            hint="the daemon tries again at once, and at each start",
        ) from error


def carry_out(worker: Worker, plan: Plan) -> None:
    """Apply, tidy, rebase, tell.  May be cut off anywhere and be done again; CommitFailed if it
    has to be."""
    try:
        _carry_out(worker, plan)
    except OSError as error:
        raise CommitFailed(
            f"the commit is not finished ({_reason(error)})",
            hint="the daemon tries again at once, and at each start",
        ) from error


def _carry_out(worker: Worker, plan: Plan) -> None:
    before_fd = worker.layer_fds["before"]
    ground = Ground(plan.nodes, worker.root_fds)
    try:
        if intent.exists(before_fd, intent.VERDICT):
            _take_back(worker, plan, ground)
            return
        done = intent.read(before_fd, intent.APPLIED) or _apply(worker, plan, ground)
        if done is None:
            _take_back(worker, plan, ground)
            return
        fault("applied")
        if not intent.exists(before_fd, intent.TIDIED):
            _tidy(worker, plan, ground, done)
    finally:
        ground.close()
    _say_applied(worker, plan, done)


def _tidy(worker: Worker, plan: Plan, ground: Ground, done: list[Line]) -> None:
    reopen(plan, ground, back=False)
    homes = _homes(plan, ground)
    try:
        tidy(plan, ground)
        finish(plan, ground, back=False)
        stage.sync_all(homes)
    finally:
        for fd in homes:
            os.close(fd)
    # From here on others' changes are theirs: what the entries are now is what an undo expects,
    # and a recovery that is asked again sets no times any more.
    before_fd = worker.layer_fds["before"]
    base = Base(worker.root_fds)
    try:
        intent.write(before_fd, intent.TIDIED, outcome.tidied(plan, base, done))
    finally:
        base.close()


def _apply(worker: Worker, plan: Plan, ground: Ground) -> list[Line] | None:
    """Forward to the point where only tidying is left; the record of it, None if that cannot be
    reached."""
    before_fd = worker.layer_fds["before"]
    try:
        Applier(plan, ground, before_fd, progress(worker)).forward()
        stage.sync(plan, ground)
        late = _save_late(plan, ground, before_fd)
        done = [*_results(plan, worker), *late]
        intent.write(before_fd, intent.APPLIED, done)
    except (OSError, Lost) as error:
        fault("verdict")
        intent.write(before_fd, intent.VERDICT, [{"error": _verdict(error, plan).to_wire()}])
        return None
    return done


def _verdict(error: OSError | Lost, plan: Plan) -> GoexfsError:
    if isinstance(error, OSError):
        return told(error, "the commit was taken back, nothing is changed")
    path = display(path_of(plan, error.node.id, old=True))
    return Conflict(
        f"{path} was moved away in the base while it was committed; "
        "the commit was taken back, nothing is changed"
    )


def _save_late(plan: Plan, ground: Ground, before_fd: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    known = {node.ino for node in plan.nodes if node.new}
    # A name can go of a file that stays under another, and was written to there: by us.
    known |= {plan.nodes[op.node].ino for op in plan.ops if op.kind in ("fill", "attrs")}
    for number in plan.stages:
        node = plan.nodes[number]
        if ground.look(node.slots[0]) is not None:
            fd = ground.directory(number)
            saved = before.save_late(node.root, fd, plan.taken, known, before_fd)
            found += [{"late": line} for line in saved]
    return found


def _results(plan: Plan, worker: Worker) -> list[dict[str, Any]]:
    base = Base(worker.root_fds)
    try:
        return [{"losses": plan.losses}, *outcome.applied(plan, base)]
    finally:
        base.close()


def _take_back(worker: Worker, plan: Plan, ground: Ground) -> None:
    before_fd = worker.layer_fds["before"]
    verdict = intent.read(before_fd, intent.VERDICT) or []
    reopen(plan, ground, back=True)
    if any(ground.look(plan.nodes[stage_id].slots[0]) for stage_id in plan.stages):
        Applier(plan, ground, before_fd, progress(worker)).backward()
    homes = _homes(plan, ground)
    try:
        stage.sync_all(homes)
        late = _save_late(plan, ground, before_fd)
        tidy(plan, ground)
        finish(plan, ground, back=True)
        stage.sync_all(homes)
    finally:
        for fd in homes:
            os.close(fd)
    say_back(worker, verdict[0]["error"] if verdict else None, late)


def _homes(plan: Plan, ground: Ground) -> list[int]:
    """A descriptor on every file system that was changed."""
    return [os.dup(ground.directory(plan.nodes[number].slots[0][0])) for number in plan.stages]


def say_back(
    worker: Worker, error: dict[str, Any] | None, late: list[dict[str, Any]] | None = None
) -> None:
    message: dict[str, Any] = {"event": "applied", "outcome": "back", "applied": {}}
    message["late"] = [line["late"] for line in late or ()]
    if error is not None:
        message["error"] = error
    worker.send(message)


def _say_applied(worker: Worker, plan: Plan, lines: list[Line]) -> None:
    remaining: dict[str, int] = {}
    live = worker.layer_fds.get("live")
    if plan.partial and live is not None:
        rebase.rebase(live, worker.layer_fds["before"], plan, worker.spec.roots, worker.lower_fds)
        left = compute(live, worker.spec.roots, worker.lower_fds)
        remaining = dict(Counter(change.kind for change in left))
    losses = [loss for line in lines for loss in line.get("losses", ())]
    late = [line["late"] for line in lines if "late" in line and line["late"]["changed"]]
    worker.send(
        {
            "event": "applied",
            "outcome": "forward",
            "applied": plan.applied,
            "remaining": remaining,
            "remaining_total": sum(remaining.values()),
            "losses": losses,
            "late": late,
            "bytes": before.held(worker.layer_fds["before"]),
        }
    )


def told(error: OSError, state: str) -> GoexfsError:
    """What an OSError of the commit's own means to a user."""
    reason = _reason(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Limit(f"no room for the commit ({reason}); {state}", hint="free some space")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return Denied(f"the commit was refused by the file system ({reason}); {state}")
    return CommitFailed(f"the commit failed ({reason}); {state}")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
