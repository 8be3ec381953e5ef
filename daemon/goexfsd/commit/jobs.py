"""What a commit worker does: commit, undo, or recover from one that was cut off.

All run as the session's owner and speak with the daemon in messages (``worker.send``)::

    progress   {stage, done, total}
    reviewed   {warnings: [text...]}           with ``review``: what a reviewer should see
    resolved   {resolved: [Resolution...]}     how conflicts are resolved
    conflicts  {conflicts: [ConflictInfo...], remaining}   nothing was touched; the end
    nothing    {remaining}                      nothing to commit; the end
    operations {operations}                    in a dry run: a piece of the plan
    planned    {applied, remaining}             the end of a dry run; nothing was touched
    intent     {changes, losses, sha256}        all is staged and durable; waits for {cmd: go}
    applied    {outcome, applied, remaining, remaining_total, losses, late, bytes}  done, durable

``outcome`` is ``forward``, or ``back`` when the commit is wholly undone: a staging that never
had its intent, or an apply that met an error it could not get past (then ``error`` says which).
``late`` lists entries that somebody changed in the very last moment; their newest bytes are in
the before-images; ``bytes`` is what those take.  Until the daemon says go, any end (even a kill)
leaves the base as it was.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections import Counter
from collections.abc import Collection
from typing import Any

from goexfs.errors import CommitFailed, Conflict
from goexfs.names import display
from goexfsd import kernel
from goexfsd.commit import (
    aside,
    before,
    conflicts,
    describe,
    intent,
    preflight,
    revert,
    stage,
    steady,
)
from goexfsd.commit.base import Base
from goexfsd.commit.build import build
from goexfsd.commit.carry import carry_out, progress, say_back, take_away, told
from goexfsd.commit.draft import Blueprint, Contents
from goexfsd.commit.faults import arm, fault
from goexfsd.commit.ground import Ground
from goexfsd.commit.merge import Merged, Merger
from goexfsd.commit.parts import Parts
from goexfsd.commit.past import Past, Tracer
from goexfsd.commit.pick import Picked, key, pick
from goexfsd.commit.places import Place, Places
from goexfsd.commit.plan import Plan, parse
from goexfsd.commit.resolve import Rules, resolve
from goexfsd.commit.select import choose, complete
from goexfsd.commit.strict import Strict
from goexfsd.layer import originals, seen, unpatch
from goexfsd.layer.changes import Change, compute, differences, open_views
from goexfsd.layer.digest import digest
from goexfsd.layer.jobs import Reviewed, meant, select
from goexfsd.layer.origins import Identity
from goexfsd.layer.selection import Selection
from goexfsd.worker import Root, Worker, open_root


def commit(worker: Worker) -> None:
    """Commit the changes of layer ``source``; before-images and plan go to ``before``.

    Options: ``commit`` (id), ``select`` (a ``Selection``).  With a layer
    ``live``, a partial commit also takes what it committed out of that layer (``rebase``).  With
    ``dry`` there is no ``before``, and nothing is done: the plan is told.  ``on_conflict`` and
    ``resolve`` (list of (root index, path, way)) say what becomes of conflicts (``resolve``);
    with ``strict``, what was read and changed since is one too.  ``review`` and ``rules`` are as
    in ``layer.jobs``, but nothing is reviewed unless asked for.
    """
    _begin(worker)
    _see_through(worker, _Commit(worker))


def undo(worker: Worker) -> None:
    """Take back the done commit whose records are in layer ``undone``; else as ``commit``.

    Options: ``commit`` (the undo's own id).  Layers ``undo-<n>`` are the undos since, in their
    order: entries that they brought back are not taken for somebody else's.  ``heirs`` says
    what took the place of file systems (subvolumes) that records name, by fsid (``switch``).
    """
    _begin(worker)
    _see_through(worker, _Undo(worker))


def _see_through(worker: Worker, run: _Preparation) -> None:
    try:
        plan = run.prepare()
    except OSError as error:
        raise told(error, "nothing was changed") from error
    finally:
        run.close()
    if plan is None:
        return
    if not _told_to_go(worker):
        take_away(worker)
        return
    carry_out(worker, plan)


def recover(worker: Worker) -> None:
    """Finish or take back the commit of layer ``before``; option ``state``: staging or intent.

    Idempotent: killed at any point, it can be run again.
    """
    _begin(worker)
    if worker.spec.options["state"] != "intent":
        take_away(worker)
        say_back(worker, None)
        return
    lines = intent.read(worker.layer_fds["before"], intent.PLAN)
    if lines is None:
        raise CommitFailed(
            "the plan of a pending commit is missing; the base was not touched by recovery",
            hint="check the store for errors (btrfs scrub)",
        )
    plan = parse(lines)
    _same_roots(worker, plan)
    carry_out(worker, plan)


def _begin(worker: Worker) -> None:
    # A node is found through its directory, and so on up: deep trees, deep calls.
    sys.setrecursionlimit(1_000_000)
    gc.disable()  # everything made is kept to the end, and that is soon
    arm(worker.spec.options)


def _told_to_go(worker: Worker) -> bool:
    try:
        command = worker.conn.recv()
    except EOFError:
        return False
    return isinstance(command, dict) and command.get("cmd") == "go"


class _Preparation:
    """The way to the intent, for a commit or an undo."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._roots = worker.spec.roots
        self._before_fd = worker.layer_fds.get("before", -1)
        self._base = Base(worker.root_fds)
        self._base.remember()
        self._progress = progress(worker)
        self._ground: Ground | None = None
        _check_device(worker)

    def close(self) -> None:
        self._base.close()
        if self._ground is not None:
            self._ground.close()

    def prepare(self) -> Plan | None:
        """Everything up to the intent; None if it ends before."""
        raise NotImplementedError

    def _check(self) -> list[conflicts.Conflict]:
        raise NotImplementedError

    def _conflicts(self) -> bool:
        """Whether there are any; they are told."""
        found = self._check()
        if found:
            self._tell(found)
        return bool(found)

    def _before_last(self) -> None:
        """What is still to be said before the message that ends the way to the intent."""

    def _tell(self, found: list[conflicts.Conflict]) -> None:
        self._before_last()
        names = [root.name for root in self._roots]
        wire = [conflict.to_wire(names) for conflict in found]
        self._worker.send({"event": "conflicts", "conflicts": wire, **self._remaining()})

    def _remaining(self) -> dict[str, Any]:
        """What stays in the session, as a part of the last message where nothing is committed."""
        return {}

    def _stage(self, blueprint: Blueprint, source: Contents) -> Plan | None:
        plan = blueprint.plan
        preflight.check(blueprint, self._base, self._before_fd)
        self._base.forget()
        self._ground = Ground(plan.nodes, self._worker.root_fds)
        try:
            before.save(blueprint, self._base, source, self._before_fd, self._progress)
            stage.stage(
                blueprint, self._ground, self._base, source, self._before_fd, self._progress
            )
            # One sync of the store makes before-images, their index and the plan durable.
            intent.write(self._before_fd, intent.PLAN, plan.lines(), durable=False)
            fault("stage.sync")
            stage.sync(plan, self._ground)
            fault("intent.sync")
            kernel.syncfs(self._before_fd)
            self._base.close()
            for root, fd in zip(self._roots, self._worker.root_fds, strict=True):
                _still_there(root, fd)
            clear = not self._conflicts()
            if clear:
                fault("intent.written")
                self._say_intent(plan)
        except BaseException as error:
            take_away(self._worker)
            if isinstance(error, OSError):
                raise told(error, "nothing was changed") from error
            raise
        if not clear:
            take_away(self._worker)
        return plan if clear else None

    def _digest(self) -> str | None:
        """Of the changes that are to be applied, where it is changes."""
        return None

    def _say_intent(self, plan: Plan) -> None:
        self._before_last()
        count = sum(plan.applied.values())
        said = {"changes": count, "losses": plan.losses, "sha256": self._digest()}
        self._worker.send({"event": "intent", **said})


class _Commit(_Preparation):
    """From the layer's changes."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self._source_fd = worker.layer_fds["source"]
        self._seen = seen.read(self._source_fd, [root.index for root in self._roots])
        self._all: list[Change] = []
        self._chosen: list[Change] = []
        self._places = Places(())
        self._source: Merged | None = None
        self._originals = originals.read(self._source_fd)
        self._aside: aside.Aside | None = None
        self._accepted = conflicts.Accepted()
        self._strict: Strict | None = None
        if worker.spec.options.get("strict"):
            self._strict = Strict(self._source_fd, worker.root_fds)

    def close(self) -> None:
        super().close()
        self._originals.close()
        if self._aside is not None:
            self._aside.close()
        if self._source is not None:
            self._source.close()

    def _changes(self) -> list[Change]:
        """The change list to be carried out on the roots as they are."""
        worker, tell = self._worker, self._progress
        then = self._reviewed()
        if worker.lower_fds == worker.root_fds:
            return then
        fds = worker.root_fds
        now = compute(self._source_fd, self._roots, fds, progress=tell, known=self._seen)
        return steady.own(now, then, self._base.is_directory)

    def _reviewed(self) -> list[Change]:
        """The changes against what the session sees; with ``review``, their warnings are told."""
        spec, fds, tell = self._worker.spec, self._worker.lower_fds, self._progress
        opened = open_views(
            None, self._source_fd, self._roots, fds, progress=tell, known=self._seen
        )
        with opened as views:
            found = differences(views, progress=tell)
            if spec.options.get("review"):
                review = Reviewed(select(found, meant(spec)), views, spec)
                if aside.is_worth_it(len(found)):
                    with contextlib.suppress(OSError):
                        self._aside = aside.Aside(self._worker, review.lines)
                if self._aside is None:
                    self._say_reviewed(review.lines())
        return [each.change for each in found]

    def _say_reviewed(self, lines: list[str]) -> None:
        self._worker.send({"event": "reviewed", "warnings": lines})

    def _before_last(self) -> None:
        if self._aside is not None:
            lines, self._aside = self._aside.lines(), None
            self._say_reviewed(lines)

    def _looked(self, changes: list[Change]) -> None:
        """The change list has looked at most of the base that is touched."""
        for change in changes:
            if change.old_st is None:
                continue
            path: bytes | None = change.old_path or change.path
            if change.kind not in ("deleted", "renamed"):
                path = self._places.slot_of(change.root, change.path)
            if path:
                self._base.known(change.root, path, change.old_st)

    def prepare(self) -> Plan | None:
        changes = self._all = self._changes()
        self._places = Places(changes)
        if self._worker.lower_fds == self._worker.root_fds:
            self._looked(changes)
        picked = self._choose(changes)
        rules = Rules.of(self._worker.spec.options)
        rules.check(changes, () if self._strict is None else self._strict.places)
        partial = len(self._chosen) < len(changes)
        self._source = Merged(self._source_fd, self._roots, changes, self._seen)
        if not self._resolve(rules, self._source):
            return None
        parts = Parts(picked, self._places, self._base, self._source)
        resolved, self._chosen = self._chosen, parts.of(self._chosen)
        partial = partial or bool(parts.places) or len(self._chosen) < len(resolved)
        if not self._chosen:
            self._nothing()
            return None
        blueprint = build(
            self._worker.spec.options["commit"],
            self._roots,
            self._chosen,
            self._places,
            self._seen,
            self._base,
            self._source,
            partial=partial,
            parts=parts.places,
        )
        if self._worker.spec.options.get("dry"):
            preflight.check(blueprint, self._base, self._source_fd)
            self._preview(blueprint, parts.places)
            return None
        return self._stage(blueprint, self._source)

    def _choose(self, changes: list[Change]) -> Picked:
        """Choose by selection, or by patch; returns what of each change a patch names."""
        select: Selection = self._worker.spec.options["select"]
        if select.patch is None:
            self._chosen = choose(changes, select, self._places)
            return {}
        picked = pick(unpatch.parse(select.patch), changes, self._roots)
        chosen = {index for index, change in enumerate(changes) if key(change) in picked}
        self._chosen = complete(changes, chosen, self._places)
        return picked

    def _resolve(self, rules: Rules, source: Merged) -> bool:
        """Decide the conflicts; whether there is something to commit then (else it is told)."""
        checker = conflicts.Checker(self._places, self._seen, self._base)
        merger = Merger(self._places, checker, self._base, source, self._first)
        result = resolve(self._chosen, self._places, rules, checker, merger)
        if self._strict is not None and self._chosen:
            self._strict.leave(self._chosen, checker)
            standing, accepted = self._strict.resolve(rules)
            result.conflicts += standing
            result.decided += accepted
        if result.conflicts:
            self._tell(result.conflicts)
            return False
        self._chosen, self._accepted = result.chosen, result.accepted
        names = [root.name for root in self._roots]
        decided = [{**line, "root": names[line["root"]]} for line in result.decided]
        if decided:
            self._worker.send({"event": "resolved", "resolved": decided})
        if not self._chosen:
            self._nothing()
        return bool(self._chosen)

    def _nothing(self) -> None:
        self._before_last()
        self._worker.send({"event": "nothing", **self._remaining()})

    def _remaining(self) -> dict[str, Any]:
        return {"remaining": dict(Counter(change.kind for change in self._all))}

    def _preview(self, blueprint: Blueprint, parts: Collection[Place]) -> None:
        self._before_last()
        lines = describe.operations(blueprint)
        for line in lines:
            line["root"] = self._roots[line["root"]].name
        for start in range(0, len(lines), 1000):
            self._worker.send({"event": "operations", "operations": lines[start : start + 1000]})
        done = {id(c) for c in self._chosen if (c.root, c.path) not in parts}
        left = Counter(change.kind for change in self._all if id(change) not in done)
        told = {"applied": blueprint.plan.applied, "remaining": dict(left)}
        self._worker.send({"event": "planned", **told})

    def _digest(self) -> str | None:
        return digest(self._chosen)

    def _check(self) -> list[conflicts.Conflict]:
        found = conflicts.check(self._chosen, self._places, self._seen, self._base, self._accepted)
        return found if self._strict is None else found + self._strict.check()

    def _first(self, root: int, path: bytes, identity: Identity) -> bytes | None:
        """The bytes that the session saw of a file: kept in the layer, or in its snapshot."""
        known = self._originals.get(root, identity)
        if known is not None:
            return known
        return originals.found(self._worker.lower_fds[root], path, identity)


class _Undo(_Preparation):
    """From another commit's plan and before-images."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        heirs = worker.spec.options.get("heirs", {})
        self._past = Past(worker.layer_fds["undone"], heirs)
        later = [label for label in worker.layer_fds if label.startswith("undo-")]
        self._tracer = Tracer((worker.layer_fds[label] for label in sorted(later)), heirs)

    def close(self) -> None:
        super().close()
        self._past.close()

    def prepare(self) -> Plan | None:
        _same_roots(self._worker, self._past.plan)
        if self._conflicts():
            return None
        commit = self._worker.spec.options["commit"]
        blueprint = revert.revert(commit, self._past, self._tracer, self._roots, self._base)
        return self._stage(blueprint, self._past)

    def _check(self) -> list[conflicts.Conflict]:
        return revert.check(self._past, self._tracer, self._base)


def _check_device(worker: Worker) -> None:
    """Where the root is a snapshot that the daemon made (``device``), it has to be that one."""
    device = worker.spec.options.get("device")
    if device is not None and os.fstat(worker.root_fds[0]).st_dev != device:
        raise Conflict("the snapshot for the commit was moved away; nothing was changed")


def _still_there(root: Root, fd: int) -> None:
    """The root's path still leads to the directory that is open; NotFound, Conflict if not."""
    again = open_root(root)
    try:
        st, was = os.fstat(again), os.fstat(fd)
        if (st.st_dev, st.st_ino) != (was.st_dev, was.st_ino):
            raise Conflict(
                f"{display(root.path)} was replaced by another directory meanwhile; "
                "nothing was changed",
                hint="put the original directory back, then commit again",
            )
    finally:
        os.close(again)


def _same_roots(worker: Worker, plan: Plan) -> None:
    for mark in plan.roots:
        fd = worker.root_fds[mark.index]
        if os.fstat(fd).st_ino != mark.ino or os.fstatvfs(fd).f_fsid != mark.fsid:
            shown = display(worker.spec.roots[mark.index].path)
            raise CommitFailed(
                f"a commit to {shown} is pending, but another directory or file system is there",
                hint=f"mount or move the original {shown} back, then restart goexfsd",
            )
