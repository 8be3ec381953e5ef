"""Jobs: scripts that run beside a session's steps until they end, are killed, or the session ends.

A job has a sandbox and a control group of its own, like a step, but no checkpoints: what it writes
while a step runs belongs to that step, anything else is "changed outside any step"; a checkpoint
may find it in the middle of something.  So nothing is committed or rewound while one runs.  Jobs
are not in the catalog: they do not outlive the daemon either.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import structlog
import trio

from goexfs import protocol as p
from goexfs.errors import GoexfsError, InvalidState, Limit, NotFound, Usage
from goexfs.names import display
from goexfsd import outward, policies, sandbox
from goexfsd.egress.gate import Held
from goexfsd.session import Lasting, Session
from goexfsd.steps import Kept, Sandboxes, make_job, reader

log = structlog.get_logger("goexfsd.background")

MOST = 16
"""Jobs of one session, those that have ended included: the oldest of these give way."""
_KILL_SECONDS = 90.0


@dataclass(slots=True)
class Job(Lasting):
    """One of them."""

    session: Session
    sandboxes: Sandboxes
    name: str
    request: p.Start
    policy: sandbox.Policy
    held: list[Held]
    kept: dict[str, Kept]
    running: sandbox.Running = field(default_factory=sandbox.Running)
    started: float = field(default_factory=time.time)
    at: float | None = None
    """When it ended."""
    outcome: sandbox.Outcome | None = None
    why: str | None = None

    def info(self, *, output: bool = False) -> p.JobInfo:
        out, err = self.kept["stdout"], self.kept["stderr"]
        return p.JobInfo(
            name=self.name,
            command=list(self.request.command),
            started=self.started,
            ended=self.at,
            status=None if self.outcome is None else self.outcome.status,
            why=self.why,
            stdout_bytes=out.total,
            stderr_bytes=err.total,
            stdout=out.data().decode("utf-8", "replace") if output else None,
            stderr=err.data().decode("utf-8", "replace") if output else None,
        )

    async def serve(self) -> None:
        """See it through; whatever happens, it is dead afterwards, and the daemon goes on."""
        try:
            with self.stop:
                self.outcome = await self._run()
                self.why = self.outcome.sandbox_error
            if self.stop.cancelled_caught:
                self.why = "killed"
        except* Exception as group:
            self.why = _told(group)
            log.error("a job failed", session=self.session.id, job=self.name, exc_info=group)
        finally:
            self.at = time.time()
            self.ended.set()

    async def _run(self) -> sandbox.Outcome:
        job = make_job(self.session, self.sandboxes.hide, self.request, 0)
        if self.policy.network != "allow":
            return await self._sandboxed(job, None)
        async with outward.open_way(self.session, self.policy, self.held) as gate:
            try:
                return await self._sandboxed(replace(job, way=outward.way(gate)), gate.namespace)
            finally:
                with trio.CancelScope(shield=True):
                    await gate.finish()

    async def _sandboxed(self, job: sandbox.Job, network: int | None) -> sandbox.Outcome:
        return await sandbox.run(
            sandbox.plan(job, self.policy, self.sandboxes.machine),
            cgroups=self.sandboxes.cgroups,
            output=self._output,
            timeout=self.request.timeout,
            running=self.running,
            network=network,
        )

    async def _output(self, stream: str, data: bytes) -> None:
        self.kept[stream].add(data)


def _told(group: BaseExceptionGroup[Exception]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error.message if isinstance(error, GoexfsError) else f"goexfsd failed: {error}"


async def start(
    session: Session, sandboxes: Sandboxes, nursery: trio.Nursery, request: p.Start
) -> p.JobInfo:
    """Start a job; it goes on in ``nursery``."""
    if not request.command:
        raise Usage("there is nothing to run", hint="goexfs run --background -- CMD...")
    with session.exclusively("a job is being started"):
        session.view()
        name = _name(session, request.name)
        chosen = await policies.choose(session.house, reader(session), request)
        policy = sandbox.rest(chosen.resolved.policy, session.row.rules)
        limited = (policy.layer_bytes, policy.layer_inodes) != (None, None)
        if limited and policy.unenforced == "refuse":
            raise Usage(
                "limits on the session's changes cannot be kept for a job",
                hint="run it as a step, or with a policy that sets none, or unenforced = allow",
            )
        if session.row.checkpoint < 0:
            await session.settle("")
        kept = {stream: Kept(policy.output_bytes) for stream in ("stdout", "stderr")}
        held = outward.held(session, policy)
        job = Job(session, sandboxes, name, request, policy, held, kept)
        sandbox.plan(make_job(session, sandboxes.hide, request, 0), policy, sandboxes.machine)
        session.background[name] = job
        nursery.start_soon(job.serve)
    return job.info()


def _name(session: Session, wanted: str | None) -> str:
    """A name that no other job has; room is made."""
    jobs = session.background
    if wanted in jobs and not jobs[wanted].ended.is_set():
        raise InvalidState(f"the session has a job named {wanted}", hint="goexfs kill ends it")
    for name in [each for each, job in jobs.items() if job.ended.is_set()]:
        if len(jobs) >= MOST or name == wanted:
            del jobs[name]
    if len(jobs) >= MOST:
        raise Limit(f"the session has {MOST} jobs, which is the limit")
    return wanted or next(f"job-{n}" for n in range(1, MOST + 2) if f"job-{n}" not in jobs)


def jobs(session: Session, request: p.Jobs) -> p.JobsResult:
    """Those that run, and those that ended, oldest first."""
    found = [job for job in session.background.values() if isinstance(job, Job)]
    if request.name is not None:
        found = [_find(session, request.name)]
    return p.JobsResult(jobs=[job.info(output=request.output) for job in found])


async def kill(session: Session, request: p.Kill) -> p.JobInfo:
    """End a job: politely, unless asked otherwise; what does not end in time is killed."""
    job = _find(session, request.name)
    if not job.ended.is_set():
        job.running.signal(request.signal)
        with trio.move_on_after(_KILL_SECONDS):
            await job.ended.wait()
        if not job.ended.is_set():
            job.stop.cancel()
            await job.ended.wait()
    return job.info()


def _find(session: Session, name: str) -> Job:
    job = session.background.get(name)
    if not isinstance(job, Job):
        raise NotFound(
            f"session {session.row.name} has no job {display(name)}", hint="goexfs jobs lists them"
        )
    return job
