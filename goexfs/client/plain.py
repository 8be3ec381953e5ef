"""The synchronous client.  See ``goexfs.client`` for what every call promises."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar

from goexfs.client import asking
from goexfs.client.asking import Feed, Path, Resolved, Session, Way
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
from goexfs.wire import Connection, Message, answers, decode, is_event, result
from goexfs.wire import connect as open_connection

R = TypeVar("R", bound=Reply)
OnOutput = Callable[[str, bytes], None]
"""Called with "stdout" or "stderr" and bytes, as they come."""
OnProgress = Callable[[ProgressEvent], None]


def connect(socket: str | os.PathLike[str] | None = None) -> Client:
    """A client of the daemon at ``socket`` (else ``$GOEXFS_SOCKET``, else the system's).

    Raises Unavailable when none answers there.
    """
    client = Client(None if socket is None else os.fspath(socket))
    client.ping()
    return client


class Client:
    """A daemon's verbs.  ``with`` it or not: between calls it holds nothing open."""

    def __init__(self, socket: str | None = None) -> None:
        self._socket = socket

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def _ask(
        self, request: Model, reply: type[R], on_event: Callable[[str, Message], None] | None = None
    ) -> R:
        with open_connection(self._socket) as connection:
            found = connection.call(asking.method(request), asking.params(request), on_event)
        return asking.understand(reply, found)

    def ping(self) -> PingResult:
        return self._ask(Ping(), PingResult)

    def mount(
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
        return self._ask(request, SessionInfo)

    def ls(self, *, all: bool = False) -> list[SessionInfo]:
        return self._ask(asking.build(Ls, all=all), LsResult).sessions

    def status(self, session: Session = None) -> StatusResult:
        return self._ask(asking.build(Status, **asking.where(session)), StatusResult)

    def run(
        self,
        command: Sequence[str] = (),
        *,
        session: Session = None,
        script: str | bytes | None = None,
        script_name: str = "script",
        timeout: float | None = None,
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
        that fails is no exception: look at ``status``.  If ``on_output`` raises, or Ctrl-C does,
        the script is killed, and gone before this returns.
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
        with open_connection(self._socket) as connection:
            feed = None if stdin is None else Feed(stdin)
            return asking.understand(RunResult, _run(connection, request, feed, on_output))

    def diff(
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
        return self._ask(request, DiffResult, _progress(on_progress))

    def patch(
        self,
        *paths: Path,
        exclude: Sequence[Path] = (),
        session: Session = None,
        step: int | None = None,
        from_: int | None = None,
        to: int | None = None,
        on_chunk: Callable[[bytes], None] | None = None,
    ) -> bytes:
        """The same as a patch in git's format; with ``on_chunk`` it goes there piece by piece."""
        kept: list[bytes] = []
        take = kept.append if on_chunk is None else on_chunk

        def on_event(method: str, params: Message) -> None:
            if method == "chunk":
                take(decode(params))

        request = asking.diff(paths, exclude, session, step, from_, to, patch=True)
        self._ask(request, DiffResult, on_event)
        return b"".join(kept)

    def log(self, session: Session = None, *, network: bool = False) -> LogResult:
        """``network``: also what each step did on it."""
        request = asking.build(Log, network=network, **asking.where(session))
        return self._ask(request, LogResult)

    def policy(
        self,
        name: str | None = None,
        *,
        session: Session = None,
        rules: Mapping[str, Any] | None = None,
    ) -> PolicyResult:
        """What a run with these would be held to, and why."""
        return self._ask(asking.policy(session, name, rules), PolicyResult)

    def output(self, step: int, *, session: Session = None) -> OutputResult:
        """The kept output of a step."""
        return self._ask(asking.build(Output, **asking.where(session), step=step), OutputResult)

    def checkpoint(self, label: str | None = None, *, session: Session = None) -> CheckpointInfo:
        return self._ask(
            asking.build(Checkpoint, **asking.where(session), label=label), CheckpointInfo
        )

    def rewind(self, to: int, *, session: Session = None) -> RewindResult:
        """Take the live view back (or forward) to a checkpoint."""
        return self._ask(asking.build(Rewind, **asking.where(session), to=to), RewindResult)

    def fork(
        self,
        session: Session = None,
        *,
        step: int | None = None,
        checkpoint: int | None = None,
        name: str | None = None,
    ) -> SessionInfo:
        """An independent session from what this one is, or was after a step or at a checkpoint."""
        at = {"step": step, "checkpoint": checkpoint, "name": name}
        return self._ask(asking.build(Fork, **asking.where(session), **at), SessionInfo)

    def commit(
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
        return self._ask(request, CommitResult, _progress(on_progress))

    def undo(
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
        return self._ask(request, UndoResult, _progress(on_progress))

    def start(
        self,
        command: Sequence[str],
        *,
        session: Session = None,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        policy: str | None = None,
        rules: Mapping[str, Any] | None = None,
    ) -> JobInfo:
        """Run a command in the background, until it ends, is killed, or the session ends."""
        request = asking.start(command, session, name, timeout, env, policy, rules)
        return self._ask(request, JobInfo)

    def jobs(
        self, session: Session = None, *, name: str | None = None, output: bool = False
    ) -> list[JobInfo]:
        """What runs in the background, and what has ended."""
        request = asking.build(Jobs, **asking.where(session), name=name, output=output)
        return (self._ask(request, JobsResult)).jobs

    def kill(self, name: str, session: Session = None, *, signal: str = "TERM") -> JobInfo:
        """End a job."""
        request = asking.build(Kill, **asking.where(session), name=name, signal=signal)
        return self._ask(request, JobInfo)

    def discard(self, session: Session = None) -> DiscardResult:
        return self._ask(asking.build(Discard, **asking.where(session)), DiscardResult)

    def secret_set(self, name: str, value: str, *, hosts: Sequence[str] = ()) -> SecretSetResult:
        """Keep a secret; policies may bind it to ``hosts`` alone, if any are given."""
        request = asking.build(SecretSet, name=name, value=value, hosts=list(hosts))
        return self._ask(request, SecretSetResult)

    def secret_list(self) -> list[SecretInfo]:
        """Your secrets, without their values."""
        return (self._ask(SecretList(), SecretListResult)).secrets

    def secret_remove(self, name: str) -> SecretRemoveResult:
        return self._ask(asking.build(SecretRemove, name=name), SecretRemoveResult)

    def verify(self, commit: str | None = None, *, session: Session = None) -> VerifyResult:
        """Whether the base is as a commit left it (None: your newest), or as a session found it."""
        named = None if session is None else asking.where(session)["session"]
        request = asking.build(Verify, commit=commit, session=named, cwd=asking.here())
        return self._ask(request, VerifyResult)

    def audit(
        self, session: Session = None, *, limit: int = 100, verify: bool = False
    ) -> AuditResult:
        """Who did what: your own entries and those about your sessions; root: everybody's."""
        named = asking.where(session)["session"]
        request = asking.build(Audit, session=named, limit=limit, verify=verify)
        return self._ask(request, AuditResult)

    def doctor(self) -> DoctorResult:
        return self._ask(Doctor(), DoctorResult)


def _progress(on_progress: OnProgress | None) -> Callable[[str, Message], None] | None:
    if on_progress is None:
        return None

    def on_event(method: str, params: Message) -> None:
        if method == "progress":
            on_progress(ProgressEvent.model_validate(params))

    return on_event


def _run(
    connection: Connection, request: Model, feed: Feed | None, on_output: OnOutput | None
) -> Message:
    number = connection.request(asking.method(request), asking.params(request))
    try:
        return _see_through(connection, number, feed, on_output)
    except GoexfsError:
        raise
    except BaseException:
        _kill(connection, number)
        raise


def _kill(connection: Connection, number: int) -> None:
    """Kill the script and wait until it is gone, so that its session can be used again."""
    connection.give_up_after(asking.KILL_SECONDS)
    with suppress(GoexfsError):
        connection.notify("signal", asking.kill(number))
        while not any(answers(message, number) for message in connection.receive()):
            pass


def _see_through(
    connection: Connection, number: int, feed: Feed | None, on_output: OnOutput | None
) -> Message:
    while True:
        for notice in feed.notices(number) if feed is not None else ():
            connection.notify("input", notice)
        for message in connection.receive():
            if answers(message, number):
                return result(message)
            if not is_event(message, number):
                continue
            if message["method"] == "taken" and feed is not None:
                feed.took(message["params"]["bytes"])
            elif message["method"] == "output" and on_output is not None:
                on_output(*asking.output(message["params"]))
