"""The same client for trio.  See ``goexfs.client`` for what every call promises.

Resource handling: a call opens its connection and closes it before it returns, also when it is
cancelled; no task outlives a call, and no nursery is needed, so errors arrive unwrapped.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, TypeVar

import trio

from goexfs.client import asking
from goexfs.client.asking import KILL_SECONDS, Feed, Path, Resolved, Session, Way
from goexfs.errors import GoexfsError
from goexfs.protocol import (
    Audit,
    AuditResult,
    Checkpoint,
    CheckpointInfo,
    Commit,
    CommitResult,
    DiffResult,
    Discard,
    DiscardResult,
    Doctor,
    DoctorResult,
    Fork,
    JobInfo,
    Jobs,
    JobsResult,
    Kill,
    Log,
    LogResult,
    Ls,
    LsResult,
    Model,
    Output,
    OutputResult,
    Ping,
    PingResult,
    PolicyResult,
    ProgressEvent,
    Reply,
    Rewind,
    RewindResult,
    Run,
    RunResult,
    SecretInfo,
    SecretList,
    SecretListResult,
    SecretRemove,
    SecretRemoveResult,
    SecretSet,
    SecretSetResult,
    SessionInfo,
    Status,
    StatusResult,
    Undo,
    UndoResult,
    Verify,
    VerifyResult,
)
from goexfs.wire import (
    Lines,
    Message,
    answers,
    decode,
    gone,
    is_event,
    notice_line,
    parse,
    request_line,
    result,
    socket_path,
    unreachable,
)

R = TypeVar("R", bound=Reply)
OnEvent = Callable[[str, Message], Awaitable[None]]
OnOutput = Callable[[str, bytes], Awaitable[None]]
"""Awaited with "stdout" or "stderr" and bytes, as they come."""
OnProgress = Callable[[ProgressEvent], Awaitable[None]]
_REQUEST = 1


@asynccontextmanager
async def connect_trio(socket: str | os.PathLike[str] | None = None) -> AsyncIterator[TrioClient]:
    """A client of the daemon at ``socket`` (else ``$GOEXFS_SOCKET``, else the system's).

    Raises Unavailable when none answers there.
    """
    client = TrioClient(None if socket is None else os.fspath(socket))
    await client.ping()
    yield client


class _Call:
    """One connection with one request under way."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._lines = Lines()

    async def send(self, line: bytes) -> None:
        try:
            await self._stream.send_all(line)
        except trio.BrokenResourceError:
            return  # the reason, if the daemon gave one before it hung up, is still to be read

    async def receive(self) -> list[Message]:
        try:
            piece = await self._stream.receive_some(65536)
        except trio.BrokenResourceError as error:
            raise gone() from error
        if not piece:
            raise gone()
        return [parse(line) for line in self._lines.feed(piece)]

    async def finish(
        self, request: Model, on_event: OnEvent | None = None, feed: Feed | None = None
    ) -> Message:
        """Ask, hand events on, feed the input, return the result."""
        try:
            return await self._finish(request, on_event, feed)
        except GoexfsError:
            raise
        except BaseException:
            if isinstance(request, Run):
                await self._kill()
            raise

    async def _kill(self) -> None:
        """Kill the script and wait until it is gone, so that its session can be used again."""
        with trio.move_on_after(KILL_SECONDS, shield=True), suppress(GoexfsError):
            await self.send(notice_line("signal", asking.kill(_REQUEST)))
            while not any(answers(message, _REQUEST) for message in await self.receive()):
                pass

    async def _finish(self, request: Model, on_event: OnEvent | None, feed: Feed | None) -> Message:
        await self.send(request_line(_REQUEST, asking.method(request), asking.params(request)))
        while True:
            for notice in feed.notices(_REQUEST) if feed is not None else ():
                await self.send(notice_line("input", notice))
            for message in await self.receive():
                if answers(message, _REQUEST):
                    return result(message)
                if not is_event(message, _REQUEST):
                    continue
                if message["method"] == "taken" and feed is not None:
                    feed.took(message["params"]["bytes"])
                elif on_event is not None:
                    await on_event(message["method"], message["params"])


class TrioClient:
    """A daemon's verbs, for trio; tasks may share it."""

    def __init__(self, socket: str | None = None) -> None:
        self._socket = socket

    async def _ask(
        self,
        request: Model,
        reply: type[R],
        on_event: OnEvent | None = None,
        feed: Feed | None = None,
    ) -> R:
        where = self._socket or socket_path()
        try:
            stream = await trio.open_unix_socket(where)
        except OSError as error:
            raise unreachable(where, error) from error
        async with stream:
            found = await _Call(stream).finish(request, on_event, feed)
        return asking.understand(reply, found)

    async def ping(self) -> PingResult:
        return await self._ask(Ping(), PingResult)

    async def mount(
        self,
        *roots: Path,
        name: str | None = None,
        at: Path | None = None,
        policy: str | None = None,
        hide: Sequence[str] = (),
        mask: Sequence[str] = (),
        read_only: Sequence[str] = (),
        view: str = "fuse",
    ) -> SessionInfo:
        """Open a session over one or more real directories and mount its view."""
        request = asking.mount(roots, name, at, policy, hide, mask, read_only, view)
        return await self._ask(request, SessionInfo)

    async def ls(self, *, all: bool = False) -> list[SessionInfo]:
        return (await self._ask(asking.build(Ls, all=all), LsResult)).sessions

    async def status(self, session: Session = None) -> StatusResult:
        return await self._ask(asking.build(Status, **asking.where(session)), StatusResult)

    async def run(
        self,
        command: Sequence[str] = (),
        *,
        session: Session = None,
        script: str | bytes | None = None,
        script_name: str = "script",
        timeout: float | None = None,  # noqa: ASYNC109 (the daemon's limit on the script)
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        label: str | None = None,
        policy: str | None = None,
        rules: Mapping[str, Any] | None = None,
        on_output: OnOutput | None = None,
    ) -> RunResult:
        """Run a command, or a script's text with ``command`` as its arguments; ``timeout`` in s.

        ``policy`` names one, ``rules`` are this run's own word on top of it (``protocol.Rules``).
        With ``on_output`` the output is streamed to it; without, it is in the result.  A script
        that fails is no exception: look at ``status``.  Cancelled: the script is killed, and
        gone before this returns.
        """
        request = asking.run(
            command,
            session,
            script,
            script_name,
            timeout,
            env,
            label,
            policy,
            rules,
            stream=on_output is not None,
            stdin=stdin is not None,
        )

        async def on_event(method: str, params: Message) -> None:
            if method == "output" and on_output is not None:
                await on_output(*asking.output(params))

        return await self._ask(request, RunResult, on_event, None if stdin is None else Feed(stdin))

    async def diff(
        self,
        *paths: Path,
        exclude: Sequence[Path] = (),
        session: Session = None,
        step: int | None = None,
        from_: int | None = None,
        to: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> DiffResult:
        """What the session changed (or a step did, or what differs between two checkpoints)."""
        request = asking.diff(paths, exclude, session, step, from_, to, patch=False)
        return await self._ask(request, DiffResult, _progress(on_progress))

    async def patch(
        self,
        *paths: Path,
        exclude: Sequence[Path] = (),
        session: Session = None,
        step: int | None = None,
        from_: int | None = None,
        to: int | None = None,
        on_chunk: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> bytes:
        """The same as a patch in git's format; with ``on_chunk`` it goes there piece by piece."""
        kept: list[bytes] = []

        async def on_event(method: str, params: Message) -> None:
            if method != "chunk":
                return
            if on_chunk is None:
                kept.append(decode(params))
            else:
                await on_chunk(decode(params))

        request = asking.diff(paths, exclude, session, step, from_, to, patch=True)
        await self._ask(request, DiffResult, on_event)
        return b"".join(kept)

    async def log(self, session: Session = None, *, network: bool = False) -> LogResult:
        """``network``: also what each step did on it."""
        request = asking.build(Log, network=network, **asking.where(session))
        return await self._ask(request, LogResult)

    async def policy(
        self,
        name: str | None = None,
        *,
        session: Session = None,
        rules: Mapping[str, Any] | None = None,
    ) -> PolicyResult:
        """What a run with these would be held to, and why."""
        return await self._ask(asking.policy(session, name, rules), PolicyResult)

    async def output(self, step: int, *, session: Session = None) -> OutputResult:
        """The kept output of a step."""
        return await self._ask(
            asking.build(Output, **asking.where(session), step=step), OutputResult
        )

    async def checkpoint(
        self, label: str | None = None, *, session: Session = None
    ) -> CheckpointInfo:
        return await self._ask(
            asking.build(Checkpoint, **asking.where(session), label=label), CheckpointInfo
        )

    async def rewind(self, to: int, *, session: Session = None) -> RewindResult:
        """Take the live view back (or forward) to a checkpoint."""
        return await self._ask(asking.build(Rewind, **asking.where(session), to=to), RewindResult)

    async def fork(
        self,
        session: Session = None,
        *,
        step: int | None = None,
        checkpoint: int | None = None,
        name: str | None = None,
    ) -> SessionInfo:
        at = {"step": step, "checkpoint": checkpoint, "name": name}
        return await self._ask(asking.build(Fork, **asking.where(session), **at), SessionInfo)

    async def commit(
        self,
        *paths: Path,
        exclude: Sequence[Path] = (),
        patch: bytes | None = None,
        session: Session = None,
        message: str = "",
        checkpoint: int | None = None,
        dry_run: bool = False,
        on_conflict: Way = "abort",
        resolve: Mapping[Path, Resolved] | None = None,
        isolation: Literal["snapshot", "serializable"] = "snapshot",
        switch: bool = False,
        leave_behind: bool = False,
        on_progress: OnProgress | None = None,
    ) -> CommitResult:
        """Apply the session's changes, or those at ``paths``, to the real directories.

        ``patch``, in place of paths: an edited ``patch()``; what was taken out of it stays in the
        session.  Conflicts at and below the paths in ``resolve`` end as that says, all others as
        ``on_conflict``; with ``isolation`` at ``serializable`` a file that a script read and that
        changed since is one too.  With ``switch`` all of it is seen at once, where that can be,
        and CannotSwitch raised where not; who stands in the root prevents it, unless they may be
        left behind in the tree before.  Nothing was applied where the result has ``conflicts``;
        nor by a dry run, whose result has the ``plan``.
        """
        request = asking.build(
            Commit,
            **asking.where(session),
            message=message,
            **asking.selection(paths, exclude),
            patch=asking.edited(patch),
            checkpoint=checkpoint,
            dry_run=dry_run,
            on_conflict=on_conflict,
            resolve=asking.resolutions(resolve or {}),
            isolation=isolation,
            switch=switch,
            leave_behind=leave_behind,
        )
        return await self._ask(request, CommitResult, _progress(on_progress))

    async def undo(
        self,
        commit: str | None = None,
        *,
        message: str = "",
        on_progress: OnProgress | None = None,
    ) -> UndoResult:
        """Take a commit back by a new one; None: your newest that stands, best in this directory.

        Nothing was touched where the result has ``conflicts``.
        """
        request = asking.build(Undo, commit=commit, cwd=asking.here(), message=message)
        return await self._ask(request, UndoResult, _progress(on_progress))

    async def start(
        self,
        command: Sequence[str],
        *,
        session: Session = None,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  (the daemon keeps it)
        policy: str | None = None,
        rules: Mapping[str, Any] | None = None,
    ) -> JobInfo:
        """Run a command in the background, until it ends, is killed, or the session ends."""
        request = asking.start(command, session, name, timeout, env, policy, rules)
        return await self._ask(request, JobInfo)

    async def jobs(
        self, session: Session = None, *, name: str | None = None, output: bool = False
    ) -> list[JobInfo]:
        """What runs in the background, and what has ended."""
        request = asking.build(Jobs, **asking.where(session), name=name, output=output)
        return (await self._ask(request, JobsResult)).jobs

    async def kill(self, name: str, session: Session = None, *, signal: str = "TERM") -> JobInfo:
        """End a job."""
        request = asking.build(Kill, **asking.where(session), name=name, signal=signal)
        return await self._ask(request, JobInfo)

    async def discard(self, session: Session = None) -> DiscardResult:
        return await self._ask(asking.build(Discard, **asking.where(session)), DiscardResult)

    async def secret_set(
        self, name: str, value: str, *, hosts: Sequence[str] = ()
    ) -> SecretSetResult:
        """Keep a secret; policies may bind it to ``hosts`` alone, if any are given."""
        request = asking.build(SecretSet, name=name, value=value, hosts=list(hosts))
        return await self._ask(request, SecretSetResult)

    async def secret_list(self) -> list[SecretInfo]:
        """Your secrets, without their values."""
        return (await self._ask(SecretList(), SecretListResult)).secrets

    async def secret_remove(self, name: str) -> SecretRemoveResult:
        return await self._ask(asking.build(SecretRemove, name=name), SecretRemoveResult)

    async def verify(self, commit: str | None = None, *, session: Session = None) -> VerifyResult:
        """Whether the base is as a commit left it (None: your newest), or as a session found it."""
        named = None if session is None else asking.where(session)["session"]
        request = asking.build(Verify, commit=commit, session=named, cwd=asking.here())
        return await self._ask(request, VerifyResult)

    async def audit(
        self, session: Session = None, *, limit: int = 100, verify: bool = False
    ) -> AuditResult:
        """Who did what: your own entries and those about your sessions; root: everybody's."""
        named = asking.where(session)["session"]
        request = asking.build(Audit, session=named, limit=limit, verify=verify)
        return await self._ask(request, AuditResult)

    async def doctor(self) -> DoctorResult:
        return await self._ask(Doctor(), DoctorResult)


def _progress(on_progress: OnProgress | None) -> OnEvent | None:
    if on_progress is None:
        return None

    async def on_event(method: str, params: Message) -> None:
        if method == "progress":
            await on_progress(ProgressEvent.model_validate(params))

    return on_event
