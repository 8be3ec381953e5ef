"""One script run: a step, with a checkpoint on either side.

Whatever way the script ends (by itself, by its time limit, by Ctrl-C, because its client went
away, because the daemon stops), everything it started is dead before the checkpoint after it is
taken, and the step is recorded with what it changed.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import structlog
import trio

from goexfs import protocol as p
from goexfs.errors import GoexfsError, Internal, SandboxFailed, Usage, ViewFailed
from goexfsd import outward, policies, sandbox
from goexfsd.catalog import StepRow
from goexfsd.config import Config
from goexfsd.egress.gate import Held
from goexfsd.measure import measure
from goexfsd.server import Call, decode_bytes
from goexfsd.session import Session
from goexfsd.store import Store

log = structlog.get_logger("goexfsd.steps")

INTERRUPTED = 130
"""The status of a script that was ended because its client went away."""


@dataclass(frozen=True, slots=True)
class Sandboxes:
    """What every run shares: this machine's abilities, and the cgroup root."""

    found: tuple[sandbox.Machine, sandbox.CgroupRoot] | GoexfsError
    """Or what the machine lacks for a sandbox: then only runs are refused."""
    hide: tuple[str, ...]
    """goexfs's own directories, invisible in every sandbox."""

    @property
    def machine(self) -> sandbox.Machine:
        """Raises what the machine lacks."""
        return self._both()[0]

    @property
    def cgroups(self) -> sandbox.CgroupRoot:
        """Raises what the machine lacks."""
        return self._both()[1]

    def _both(self) -> tuple[sandbox.Machine, sandbox.CgroupRoot]:
        if isinstance(self.found, GoexfsError):
            lack = self.found
            raise type(lack)(lack.message, hint=lack.hint, data=lack.data)
        return self.found

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config) -> AsyncIterator[Sandboxes]:
        """Look at the machine once; the cgroup root is removed at the end."""
        hide = (str(config.state_dir), str(config.runtime_dir))
        try:
            machine = await trio.to_thread.run_sync(sandbox.find_machine)
            cgroups = sandbox.open_cgroups(machine)
        except GoexfsError as error:
            log.error("no script can run on this machine", error=error.message, hint=error.hint)
            yield cls(error, hide)
            return
        try:
            yield cls((machine, cgroups), hide)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(cgroups.close)


@dataclass(slots=True)
class Kept:
    """A bounded copy of one output stream: its first and its last half of ``limit`` bytes."""

    limit: int
    total: int = 0
    _head: bytearray = field(default_factory=bytearray)
    _tail: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> None:
        self.total += len(data)
        half = self.limit // 2
        room = half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * half + 65536:
            del self._tail[: len(self._tail) - half]

    @property
    def truncated(self) -> bool:
        return self.total > len(self._head) + len(self.tail)

    @property
    def tail(self) -> bytes:
        return bytes(self._tail[-(self.limit // 2) :]) if self.limit > 1 else b""

    def data(self) -> bytes:
        """What is kept; a cut is marked with a line that says how much is missing."""
        missing = self.total - len(self._head) - len(self.tail)
        mark = f"\n[... {missing} bytes not kept ...]\n".encode() if missing else b""
        return bytes(self._head) + mark + self.tail


def reader(session: Session) -> policies.Reader:
    """Whose policy files count for the session's runs."""
    row = session.row
    return policies.Reader(session.owner(), row.home, session.roots(), session.enter_uid)


async def explain(
    session: Session, sandboxes: Sandboxes, request: p.Run, chosen: policies.Chosen
) -> p.Explanation:
    """The sandbox that ``run`` would build for the request."""
    session.view()
    number = session.house.catalog.next_step(session.id)
    job = make_job(session, sandboxes.hide, request, number)
    policy = sandbox.rest(chosen.resolved.policy, session.row.rules)
    launch = sandbox.plan(job, policy, sandboxes.machine)
    return await sandbox.explain(launch)


async def run(session: Session, sandboxes: Sandboxes, call: Call, request: p.Run) -> p.RunResult:
    """Run the request's command or script as one step of the session.

    ``sandboxes.hide`` is what this sandbox must not see of goexfs.
    """
    if not request.command and request.script is None:
        raise Usage("there is nothing to run", hint="goexfs run -- CMD..., or --script FILE")
    with session.exclusively(f"a script runs since {time.strftime('%H:%M:%S')}"):
        session.view()
        chosen = await policies.choose(session.house, reader(session), request)
        if session.row.checkpoint < 0:
            await session.settle("")
        else:
            await session.settle("changed outside any step")
        held = outward.held(session, chosen.resolved.policy)
        step = _Step(session, sandboxes, call, request, chosen, held)
        return await step.run()


def make_job(session: Session, hide: tuple[str, ...], request: p.Run, step: int) -> sandbox.Job:
    """What the request means for the sandbox."""
    row = session.row
    uid = session.enter_uid
    script = request.script
    return sandbox.Job(
        uid=uid,
        gid=row.gid if row.uid else uid,
        groups=row.groups if row.uid else (),
        user=row.user,
        home=row.home,
        views=tuple(
            sandbox.View(session.root_view(index), root.path)
            for index, root in enumerate(row.roots)
        ),
        cwd=_cwd(session, request.cwd),
        argv=tuple(request.command),
        env=dict(request.env),
        script=None
        if script is None
        else (script.name, decode_bytes(script.text, script.encoding)),
        pty=None if request.pty is None else (request.pty.rows, request.pty.cols, request.pty.term),
        hide=hide,
        session_id=session.id,
        step=step,
    )


def _cwd(session: Session, cwd: str | None) -> str:
    """Where the script starts: the caller's directory if a root holds it, else the root."""
    if cwd is not None and session.holds(cwd):
        index, below = session.locate(cwd, None)
        top = session.row.roots[index].path
        return f"{top}/{os.fsdecode(below)}" if below else top
    return session.row.roots[0].path


LayerLimit = Literal["layer_bytes", "layer_inodes"]

_LOOSE_BYTES = 8 << 20
_LOOSE_INODES = 1000
"""What a layer may exceed a limit by before a script is ended: whiteouts, and copies of the
directories above what is deleted, are not refused."""


def _beyond(limit: int | None, held: int, loose: int) -> float:
    return math.inf if limit is None else max(limit, held) + limit // 8 + loose


class _Step:
    def __init__(
        self,
        session: Session,
        sandboxes: Sandboxes,
        call: Call,
        request: p.Run,
        chosen: policies.Chosen,
        held: list[Held],
    ) -> None:
        self.held = held
        self.network: p.Network | None = None
        self.session = session
        self.sandboxes = sandboxes
        self.call = call
        self.request = request
        self.chosen = chosen.resolved
        self.policy = sandbox.rest(self.chosen.policy, session.row.rules)
        self.over: list[LayerLimit] = []
        self.unmeasured: GoexfsError | None = None
        limit = self.policy.output_bytes
        self.kept = {"stdout": Kept(limit), "stderr": Kept(limit)}
        catalog = session.house.catalog
        self.row = StepRow(
            session=session.id,
            number=catalog.next_step(session.id),
            command=tuple(request.command or [request.script.name if request.script else ""]),
            state="running",
            status=None,
            timed_out=False,
            started=time.time(),
            ended=None,
            before=session.row.checkpoint,
            checkpoint=None,
            summary=None,
        )

    async def run(self) -> p.RunResult:
        job = make_job(self.session, self.sandboxes.hide, self.request, self.row.number)
        launch = sandbox.plan(job, self.policy, self.sandboxes.machine)
        catalog = self.session.house.catalog
        catalog.put_step(self.row)
        self.session.running = self.row.number
        outcome: sandbox.Outcome | None = None
        error: GoexfsError | None = None
        try:
            await self.call.emit("started", session=self.session.id, step=self.row.number)
            if self.policy.network == "allow":
                outcome = await self._behind_proxy(job)
            else:
                outcome = await self._sandboxed(launch)
        finally:
            with trio.CancelScope(shield=True):
                self.session.running = None
                error = await self._finish(outcome)
        if outcome.sandbox_error is not None:
            raise SandboxFailed(
                f"the sandbox could not be set up: {outcome.sandbox_error}",
                hint="goexfs doctor checks what it needs",
            )
        if error is not None:
            raise self._without_end(outcome.status, error) from error
        return self._result(outcome)

    def _without_end(self, status: int, error: GoexfsError) -> GoexfsError:
        """What to tell of a script that ran where what comes after it failed."""
        ended = f"the script ended with status {status}, but"
        number = self.row.checkpoint
        if number is None:
            return ViewFailed(
                f"{ended} there is no checkpoint after it: {error.message}",
                hint="goexfs status says whether the session's view is back",
            )
        return type(error)(
            f"{ended} what it changed cannot be told: {error.message}",
            hint=f"checkpoint {number} holds it",
        )

    async def _behind_proxy(self, job: sandbox.Job) -> sandbox.Outcome:
        """The same with a way out, which ends with the script and is told of in any case."""
        async with outward.open_way(self.session, self.policy, self.held) as gate:
            there = replace(job, way=outward.way(gate))
            launch = sandbox.plan(there, self.policy, self.sandboxes.machine)
            try:
                return await self._sandboxed(launch, gate.namespace)
            finally:
                with trio.CancelScope(shield=True):
                    self.network = await gate.finish()

    async def _sandboxed(
        self, launch: sandbox.Launch, network: int | None = None
    ) -> sandbox.Outcome:
        send, receive = trio.open_memory_channel[bytes](0)
        stdin = receive if self.request.stdin or self.request.pty else None
        async with trio.open_nursery() as nursery:
            running = sandbox.Running()
            nursery.start_soon(self._listen, send, running)
            quota = None
            if (self.policy.layer_bytes, self.policy.layer_inodes) != (None, None):
                quota = await nursery.start(self._watch_layer, running)
            await self.session.view().call("step", number=self.row.number, quota=quota)
            outcome = await sandbox.run(
                launch,
                cgroups=self.sandboxes.cgroups,
                stdin=stdin,
                output=self._output,
                timeout=self.request.timeout or self.policy.wall_seconds,
                running=running,
                network=network,
            )
            nursery.cancel_scope.cancel()
        if self.unmeasured is not None:
            raise SandboxFailed(
                f"the script was ended: its changes could not be measured:"
                f" {self.unmeasured.message}"
            )
        return outcome

    async def _watch_layer(
        self,
        running: sandbox.Running,
        *,
        task_status: trio.TaskStatus[list[int | None] | None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Measure the layer: once for the view, which keeps it within the policy's limits, and
        then again and again, to end the script should it grow beyond them all the same."""
        session, policy = self.session, self.policy
        layers = {"live": session.house.store.layer(session.id)}
        quota: list[int | None] | None = None
        try:
            async with session.job(measure, layers, {}) as channel:
                held = await channel.expect("held")
                quota = [policy.layer_bytes, policy.layer_inodes, held["bytes"], held["inodes"]]
                task_status.started(quota)
                most_bytes = _beyond(policy.layer_bytes, held["bytes"], _LOOSE_BYTES)
                most_inodes = _beyond(policy.layer_inodes, held["inodes"], _LOOSE_INODES)
                while held["bytes"] <= most_bytes and held["inodes"] <= most_inodes:
                    held = await channel.expect("held")
                self.over.append("layer_bytes" if held["bytes"] > most_bytes else "layer_inodes")
        except GoexfsError as error:
            if quota is None:
                raise
            self.unmeasured = error
        running.signal("KILL")

    async def _output(self, stream: str, data: bytes) -> None:
        self.kept["stdout" if stream == "pty" else stream].add(data)
        if self.request.stream or self.request.pty:
            await self.call.emit_bytes("output", data, stream=stream)

    async def _listen(self, stdin: trio.MemorySendChannel[bytes], running: sandbox.Running) -> None:
        """Carry the client's notices to the script: input in order, the rest at once."""
        pending, queue = trio.open_memory_channel[p.Input](float("inf"))

        async def feed() -> None:
            async for notice in queue:
                data = decode_bytes(notice.data, notice.encoding)
                try:
                    if data:
                        await stdin.send(data)
                except trio.BrokenResourceError:
                    pass  # the script has closed its stdin: the rest is for nobody
                await self.call.taken(len(notice.data))
                if notice.eof:
                    await stdin.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            async for notice in self.call.notices:
                if isinstance(notice, p.Input):
                    pending.send_nowait(notice)
                elif isinstance(notice, p.Resize):
                    running.resize(notice.rows, notice.cols)
                elif isinstance(notice, p.Signal):
                    running.signal(notice.name)

    async def _finish(self, outcome: sandbox.Outcome | None) -> GoexfsError | None:
        """Checkpoint, summary, record.  Returns why one of the first two is missing, if it is."""
        session = self.session
        failed: GoexfsError | None = None
        summary: p.Summary | None = None
        number: int | None = None
        try:
            self.over += (await session.view().call("step", number=0)).get("met", ())
            info, moved = await session.conclude(self.row.number)
            number = info.number
            summary = await session.changes(self.row.before, number) if moved else p.Summary()
        except GoexfsError as error:
            failed = error
            log.error("a step without its end", session=session.id, error=error.message)
        except Exception as error:  # a bug of ours: the step is recorded all the same
            failed = Internal(f"goexfsd failed: {type(error).__name__}: {error}")
            log.exception("a step without its end", session=session.id)
        await trio.to_thread.run_sync(self._keep)
        stdout, stderr = self.kept["stdout"], self.kept["stderr"]
        self.row = replace(
            self.row,
            state="done" if outcome is not None else "interrupted",
            status=INTERRUPTED if outcome is None else outcome.status,
            timed_out=outcome is not None and outcome.timed_out,
            ended=time.time(),
            checkpoint=number,
            summary=summary,
            stdout_bytes=stdout.total,
            stderr_bytes=stderr.total,
            truncated=stdout.truncated or stderr.truncated,
        )
        session.house.catalog.put_step(self.row)
        return failed

    def _keep(self) -> None:
        directory = self.session.house.store.steps_dir(self.session.id)
        for suffix, kept in (("out", self.kept["stdout"]), ("err", self.kept["stderr"])):
            if kept.total:
                (directory / f"{self.row.number}.{suffix}").write_bytes(kept.data())
        if self.network is not None and self.network.total:
            outward.keep(self.session.house, self.session.id, self.row.number, self.network)

    def _result(self, outcome: sandbox.Outcome) -> p.RunResult:
        quiet = not self.request.stream and self.request.pty is None
        stdout, stderr = self.kept["stdout"], self.kept["stderr"]
        return p.RunResult(
            session=self.session.id,
            step=self.row.number,
            status=outcome.status,
            signal=outcome.signal,
            timed_out=outcome.timed_out,
            duration=outcome.duration,
            checkpoint=self.row.checkpoint,
            summary=self.row.summary or p.Summary(),
            stdout=stdout.data().decode("utf-8", "replace") if quiet else None,
            stderr=stderr.data().decode("utf-8", "replace") if quiet else None,
            truncated=self.row.truncated,
            policy=self.chosen.name,
            policy_sha256=hashlib.sha256(self.policy.model_dump_json().encode()).hexdigest(),
            exceeded=[*outcome.exceeded, *dict.fromkeys(self.over)],
            network=self.network,
        )


def kept_output(store: Store, session: str, step: int) -> tuple[str, str]:
    """(stdout, stderr) that were kept of a step, as text."""
    directory = store.steps_dir(session)
    texts = []
    for suffix in ("out", "err"):
        path = directory / f"{step}.{suffix}"
        texts.append(path.read_bytes().decode("utf-8", "replace") if path.exists() else "")
    return texts[0], texts[1]
