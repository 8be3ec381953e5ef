"""What a client may ask, and who may ask it: one async method a request.

It validates, has the ``register`` find the session and say whose it is, and hands over to
``session``, ``steps`` and ``decide``.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import structlog
import trio
from pydantic import TypeAdapter, ValidationError

from goexfs import protocol as p
from goexfs.errors import (
    CommitFailed,
    GoexfsError,
    NoSuchMethod,
    NotFound,
    Unsupported,
    Usage,
)
from goexfs.names import display
from goexfsd import (
    background,
    decide,
    deeds,
    doctor,
    forks,
    outward,
    policies,
    retention,
    steps,
    undo,
    verify,
    words,
)
from goexfsd.layer.selection import Selection
from goexfsd.opening import account, check_places, look, new_name, new_row
from goexfsd.overlay.choice import use_kernel
from goexfsd.register import Register, may
from goexfsd.server import Call, Peer
from goexfsd.session import House, Session
from goexfsd.steps import Sandboxes
from goexfsd.switch import Switch, check_selection
from goexfsd.worker import Owner

log = structlog.get_logger("goexfsd.service")

_CHANGES = TypeAdapter(list[p.Change])


@dataclass(slots=True)
class Service:
    """The daemon's business; made by ``open_service``."""

    house: House
    sandboxes: Sandboxes
    register: Register

    # -- the one way in ----------------------------------------------------------------------

    async def dispatch(self, call: Call, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Run one request; raises GoexfsError."""
        models = p.METHODS.get(method)
        if models is None:
            raise NoSuchMethod(
                f"there is no method {display(method)!r}", hint="docs/protocol.md lists them"
            )
        try:
            request = models[0].model_validate(params)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "params"
            raise Usage(f"{method}: {where}: {first['msg']}") from error
        started = time.monotonic()
        try:
            result: p.Reply = await getattr(self, method)(call, request)
        except BaseException as error:
            self._record(call.peer, method, request, None, error)
            raise
        self._record(call.peer, method, request, result, None)
        log.info(
            "request",
            method=method,
            uid=call.peer.uid,
            ms=round(1000 * (time.monotonic() - started), 1),
        )
        return result.model_dump(mode="json", by_alias=True, exclude_none=False)

    def _record(
        self,
        peer: Peer,
        method: str,
        request: p.Model,
        result: p.Reply | None,
        error: BaseException | None,
    ) -> None:
        came = deeds.result_of(error)
        if method in deeds.QUIET or came in deeds.MISTAKES:
            return
        named = deeds.session_of(request, result)
        row = None if named is None else self.house.catalog.session(named)
        self.house.audit.add(
            method,
            durable=method in deeds.DURABLE,
            uid=peer.uid,
            owner=None if row is None else row.uid,
            session=named,
            result=came,
            **deeds.said(request, result),
        )

    # -- about the daemon --------------------------------------------------------------------

    async def ping(self, call: Call, request: p.Ping) -> p.PingResult:
        return p.PingResult(
            version=version("goexfs"),
            protocol=p.PROTOCOL_VERSION,
            pid=os.getpid(),
            uid=call.peer.uid,
        )

    async def doctor(self, call: Call, request: p.Doctor) -> p.DoctorResult:
        checks = await trio.to_thread.run_sync(
            doctor.examine, self.house.config.state_dir, self.house.config.runtime_dir
        )
        pending = decide.pending(self.house, self.register.locks)
        checks.append(doctor.commits([(row.id, row.roots) for row in pending]))
        return p.DoctorResult(ok=all(c.ok or not c.required for c in checks), checks=checks)

    async def audit(self, call: Call, request: p.Audit) -> p.AuditResult:
        uid, named = call.peer.uid, request.session
        if named is not None:
            with suppress(GoexfsError):
                named = self.register.row(call.peer, named, None).id
        log, limit = self.house.audit, request.limit
        entries = await trio.to_thread.run_sync(deeds.entries, log, uid, named, limit)
        if not request.verify:
            return p.AuditResult(entries=entries)
        checked, problems = await trio.to_thread.run_sync(log.checking())
        return p.AuditResult(entries=entries, checked=checked, problems=problems)

    # -- sessions ----------------------------------------------------------------------------

    async def mount(self, call: Call, request: p.Mount) -> p.SessionInfo:
        peer = call.peer
        mine = self.register.room_for(peer.uid)
        roots, at = await look(self.house, peer, request)
        live = self.register.live.values()
        check_places(self.house, live, [path for path, _ in roots], at[0] if at else None)
        pending = decide.pending(self.house, self.register.locks)
        decide.refuse_pending(pending, [path for path, _ in roots])
        row = new_row(peer, request, roots, at, mine, self.register.slots())
        rules = await policies.rules(self.house, row, request)
        # Others may have opened sessions meanwhile.  From here until this one is in the register
        # nothing waits, so that its name, slot and mountpoint are its own.
        check_places(self.house, live, [path for path, _ in roots], at[0] if at else None)
        mine = self.register.room_for(peer.uid)
        row = new_row(peer, request, roots, at, mine, self.register.slots())
        in_kernel = use_kernel(request.view, of_root=row.uid == 0, ruled=bool(rules))
        row = replace(row, rules=rules, kernel=in_kernel)
        names = [root.name for root in row.roots]
        make = partial(self.house.store.create_layer, row.id, row.uid, row.gid, names)
        return (await self.register.open(row, make)).info()

    async def fork(self, call: Call, request: p.Fork) -> p.SessionInfo:
        parent = self.register.find(call.peer, request.session, request.cwd)
        pending = decide.pending(self.house, self.register.locks)
        decide.refuse_pending(pending, [root.path for root in parent.row.roots])
        at = await forks.point(parent, request)
        mine = self.register.room_for(parent.row.uid)
        name = new_name(request.name, parent.row.name, mine)
        row = forks.new_row(parent.row, at, name, self.register.slots())
        make = partial(self.house.store.fork, parent.id, at, row.id, parent.generation)
        session = await self.register.open(row, make, forks.first_checkpoint(parent.row, at))
        return session.info()

    async def ls(self, call: Call, request: p.Ls) -> p.LsResult:
        infos = [s.info() for s in self.register.live.values() if may(call.peer, s.row)]
        if request.all:
            infos += [
                Session(self.house, row).info()
                for row in self.house.catalog.sessions()
                if row.id not in self.register.live and may(call.peer, row)
            ]
        return p.LsResult(sessions=sorted(infos, key=lambda info: info.created))

    async def status(self, call: Call, request: p.Status) -> p.StatusResult:
        session = self.register.find(call.peer, request.session, request.cwd)
        store, catalog = self.house.store, self.house.catalog
        if session.hold is not None:
            await session.view().flush()
        warnings: list[str] = []
        stale: list[p.StaleRead] = []
        seen: list[str] = []

        async def listen(message: dict[str, Any]) -> None:
            if message["event"] == "done":
                warnings.extend(message["warnings"] + message["counts"])
                stale.extend(map(p.StaleRead.model_validate, message["stale"]))
                seen.append(message["sha256"])

        checkpoints, ran = catalog.counts(session.id)
        return p.StatusResult(
            session=session.info(),
            summary=await session.changes(None, None, stale=True, listen=listen),
            warnings=warnings,
            stale_reads=stale,
            sha256=seen[-1],
            checkpoints=checkpoints,
            steps=ran,
            layer_bytes=await trio.to_thread.run_sync(store.layer_bytes, session.id),
        )

    # -- scripts -----------------------------------------------------------------------------

    async def run(self, call: Call, request: p.Run) -> p.RunResult:
        session = self.register.find(call.peer, request.session, request.cwd)
        pending = decide.pending(self.house, self.register.locks)
        decide.refuse_pending(pending, [root.path for root in session.row.roots])
        return await steps.run(session, self._sandboxes_of(session), call, request)

    async def start(self, call: Call, request: p.Start) -> p.JobInfo:
        session = self.register.find(call.peer, request.session, request.cwd)
        pending = decide.pending(self.house, self.register.locks)
        decide.refuse_pending(pending, [root.path for root in session.row.roots])
        hiding = self._sandboxes_of(session)
        return await background.start(session, hiding, self.register.nursery, request)

    async def jobs(self, call: Call, request: p.Jobs) -> p.JobsResult:
        return background.jobs(self.register.find(call.peer, request.session, request.cwd), request)

    async def kill(self, call: Call, request: p.Kill) -> p.JobInfo:
        return await background.kill(
            self.register.find(call.peer, request.session, request.cwd), request
        )

    def _sandboxes_of(self, session: Session) -> Sandboxes:
        """What its sandboxes must not see: what is goexfs's own, and the other sessions' views."""
        others = (s.row.at for s in self.register.live.values() if s is not session)
        hide = (*self.sandboxes.hide, *(at for at in others if at is not None))
        return replace(self.sandboxes, hide=hide)

    async def policy(self, call: Call, request: p.Policy) -> p.PolicyResult:
        run = request.run or p.Run()
        session = self._meant(call.peer, run)
        if request.explain and session is None:
            session = self.register.find(call.peer, run.session, run.cwd)  # says what is missing
        reader = self._reader(call.peer) if session is None else steps.reader(session)
        chosen = await policies.choose(self.house, reader, run)
        explanation: p.Explanation | None = None
        if request.explain and session is not None:
            hiding = self._sandboxes_of(session)
            explanation = await steps.explain(session, hiding, run, chosen)
        return policies.result(chosen, None if session is None else session.id, explanation)

    def _meant(self, peer: Peer, run: p.Run) -> Session | None:
        """The session of a run; None where none is named and none holds the directory."""
        try:
            return self.register.find(peer, run.session, run.cwd)
        except NotFound:
            if run.session is not None:
                raise
            return None

    def _reader(self, peer: Peer) -> policies.Reader:
        """The caller's policies, before there is a session."""
        base = self.house.config.view.sandbox_uid_base
        _, home = account(peer.uid)
        return policies.Reader(Owner(peer.uid, peer.gid, peer.groups), home, (), base)

    async def output(self, call: Call, request: p.Output) -> p.OutputResult:
        row = self.register.row(call.peer, request.session, request.cwd)
        step = self.house.catalog.step(row.id, request.step)
        if step is None:
            raise NotFound(f"session {row.name} has no step {request.step}")
        stdout, stderr = await trio.to_thread.run_sync(
            steps.kept_output, self.house.store, row.id, request.step
        )
        return p.OutputResult(stdout=stdout, stderr=stderr, truncated=step.truncated)

    # -- looking -----------------------------------------------------------------------------

    async def diff(self, call: Call, request: p.Diff) -> p.DiffResult:
        session = self.register.find(call.peer, request.session, request.cwd)
        before, after = self._sides(session, request)
        if after is None and session.hold is not None:
            await session.view().flush()
        changes: list[p.Change] = []
        warnings: list[str] = []
        seen: list[str] = []

        async def listen(message: dict[str, Any]) -> None:
            if message["event"] == "changes":
                # Checked as they come, while the worker goes on with the next ones.
                changes.extend(_CHANGES.validate_python(message["changes"]))
            elif message["event"] == "chunk":
                await call.emit_bytes("chunk", message["data"])
            elif message["event"] == "progress":
                await _progress(call, message)
            elif message["event"] == "done":
                warnings.extend(message["warnings"])
                seen.append(message["sha256"])

        select = await words.selection(session, request.paths, request.exclude, request.cwd)
        summary = await session.changes(
            before,
            after,
            select=select,
            patch=request.patch,
            binary=request.binary,
            listing="all",
            listen=listen,
        )
        return p.DiffResult.model_validate(
            {
                "session": session.id,
                "from": before,
                "to": after,
                "changes": changes,
                "summary": summary,
                "warnings": warnings,
                "sha256": seen[-1],
            }
        )

    def _sides(self, session: Session, request: p.Diff) -> tuple[int | None, int | None]:
        if request.step is None:
            return request.from_, request.to
        if request.from_ is not None or request.to is not None:
            raise Usage("diff takes a step, or from and to, not both")
        step = self.house.catalog.step(session.id, request.step)
        if step is None:
            raise NotFound(
                f"session {session.row.name} has no step {request.step}",
                hint="goexfs log lists them",
            )
        return step.before, step.checkpoint

    async def log(self, call: Call, request: p.Log) -> p.LogResult:
        row = self.register.row(call.peer, request.session, request.cwd)
        catalog = self.house.catalog
        live = self.register.live.get(row.id) or Session(self.house, row)
        steps = catalog.steps(row.id)
        return p.LogResult(
            session=live.info(),
            checkpoints=catalog.checkpoints(row.id),
            steps=[step.info() for step in steps],
            commits=undo.infos(self.house, row.id),
            inherited=forks.inherited(catalog, row),
            network=outward.kept(self.house, row.id, steps) if request.network else [],
        )

    # -- secrets -----------------------------------------------------------------------------

    async def secret_set(self, call: Call, request: p.SecretSet) -> p.SecretSetResult:
        replaced = self.house.vault.put(call.peer.uid, request.name, request.value, request.hosts)
        return p.SecretSetResult(secret=request.name, replaced=replaced)

    async def secret_list(self, call: Call, request: p.SecretList) -> p.SecretListResult:
        return p.SecretListResult(secrets=self.house.vault.infos(call.peer.uid))

    async def secret_remove(self, call: Call, request: p.SecretRemove) -> p.SecretRemoveResult:
        self.house.vault.remove(call.peer.uid, request.name)
        return p.SecretRemoveResult(secret=request.name)

    # -- deciding ----------------------------------------------------------------------------

    async def checkpoint(self, call: Call, request: p.Checkpoint) -> p.CheckpointInfo:
        session = self.register.find(call.peer, request.session, request.cwd)
        with session.exclusively("a checkpoint"):
            if session.row.checkpoint < 0:
                await session.settle("")
            return await session.checkpoint(step=None, label=request.label)

    async def rewind(self, call: Call, request: p.Rewind) -> p.RewindResult:
        session = self.register.find(call.peer, request.session, request.cwd)
        with session.exclusively("a rewind", alone=True):
            saved = await session.rewind(request.to)
        return p.RewindResult(
            session=session.id, checkpoint=request.to, saved=saved.number if saved else None
        )

    async def commit(self, call: Call, request: p.Commit) -> p.CommitResult:
        session = self.register.find(call.peer, request.session, request.cwd)

        async def listen(message: dict[str, Any]) -> None:
            if message["event"] == "progress":
                await _progress(call, message)

        select = await words.of_commit(session, request)
        rules = decide.Rules(
            request.on_conflict,
            await words.resolutions(session, request.resolve, request.cwd),
            strict=request.isolation == "serializable",
        )
        if rules.strict and session.row.kernel:
            raise Unsupported(
                "what was read is not known in this session: the kernel serves its view",
                hint="mount with --view fuse, or commit without --isolation serializable",
            )
        switch = self._switch(call, request, select)
        if request.dry_run:
            if switch is not None:
                await switch.examine(session)
            return await decide.preview(
                session,
                self.register.locks,
                select=select,
                reviewed=request.checkpoint,
                rules=rules,
                listen=listen,
            )
        result: p.CommitResult | None = None
        try:
            async with _stoppable(call):
                result = await decide.commit(
                    session,
                    self.register.locks,
                    message=request.message,
                    select=select,
                    reviewed=request.checkpoint,
                    rules=rules,
                    listen=listen,
                    way=switch,
                )
        finally:
            # Also where the client went away after the intent: what is committed is over.
            if result is not None:
                with trio.CancelScope(shield=True):
                    await self._committed(session, result)
        if result is None:
            raise CommitFailed("the commit was stopped before its intent; nothing was changed")
        return result

    async def _committed(self, session: Session, result: p.CommitResult) -> None:
        if result.closed:
            await self.register.end(session)
        if result.commit is not None:
            await retention.prune(self.house, self.register.locks)

    def _switch(self, call: Call, request: p.Commit, select: Selection) -> Switch | None:
        if not request.switch:
            if request.leave_behind:
                raise Usage("leave_behind goes with switch only")
            return None
        check_selection(select)
        register = self.register
        return Switch(register.opening, register.live, request.leave_behind, call.peer.pid)

    async def undo(self, call: Call, request: p.Undo) -> p.UndoResult:
        peer = call.peer
        if request.commit is None:
            row = undo.newest(self.house, peer.uid, request.cwd)
        else:
            row = self.register.commit_row(peer, request.commit)

        async def listen(message: dict[str, Any]) -> None:
            if message["event"] == "progress":
                await _progress(call, message)

        return await undo.undo(
            self.house, self.register.locks, row, message=request.message, listen=listen
        )

    async def verify(self, call: Call, request: p.Verify) -> p.VerifyResult:
        if request.commit is not None and request.session is not None:
            raise Usage("verify takes a commit or a session, not both")
        if request.session is not None:
            return await verify.session(self.register.find(call.peer, request.session, request.cwd))
        if request.commit is not None:
            row = self.register.commit_row(call.peer, request.commit)
        else:
            row = undo.newest(self.house, call.peer.uid, request.cwd, undos=True)
        return await verify.commit(self.house, self.register.locks, row)

    async def discard(self, call: Call, request: p.Discard) -> p.DiscardResult:
        session = self.register.find(call.peer, request.session, request.cwd)
        with session.exclusively("a discard"):
            session.enter("discard", ended=time.time(), why="discarded")
            with trio.CancelScope(shield=True):
                await self.register.end(session)
        return p.DiscardResult(session=session.id)


@asynccontextmanager
async def _stoppable(call: Call) -> AsyncIterator[None]:
    """A signal of the client's cancels what is inside, where that can still be cancelled."""
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            async for notice in call.notices:
                if isinstance(notice, p.Signal):
                    nursery.cancel_scope.cancel()

        nursery.start_soon(wait)
        yield
        nursery.cancel_scope.cancel()


async def _progress(call: Call, message: dict[str, Any]) -> None:
    await call.emit(
        "progress",
        stage=message["stage"],
        done=message["done"],
        total=message.get("total"),
    )


@asynccontextmanager
async def open_service(house: House, sandboxes: Sandboxes) -> AsyncIterator[Service]:
    """A service with its former sessions mounted again; everything is unmounted at the end."""
    async with trio.open_nursery() as nursery:
        register = Register(house, nursery)
        await register.reopen()
        try:
            yield Service(house, sandboxes, register)
        finally:
            with trio.CancelScope(shield=True):
                await register.close()
            nursery.cancel_scope.cancel()
