"""One session: joins its layer, its view, its scripts and its fate.

A ``Session`` is made from its catalog row and served by ``serve`` until it is closed: the view
is mounted, and mounted again if its worker dies.  ``busy`` says what holds the session now (a
step, a commit, a rewind): one thing at a time; a second is refused, not queued, because it
would act on a state that its caller has not seen.

Checkpoints: number 0 is taken before the first step; one after each step, one by hand, and one
of whatever else changed (through the mount, outside any step) before a step or a rewind, so
that no state is ever lost and each step's changes are its own.

It knows nothing of the socket.  The decision (commit, discard) is in ``decide.py``, the script
run in ``steps.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import structlog
import trio

from goexfs.errors import GoexfsError, InvalidState, NotFound, Usage, ViewFailed
from goexfs.names import display, to_wire
from goexfs.protocol import CheckpointInfo, RootInfo, SessionInfo, Summary, ViewRule
from goexfsd import lifecycle, stable
from goexfsd.audit import Audit
from goexfsd.catalog import Catalog, RootRow, SessionRow
from goexfsd.channel import Channel, open_channel
from goexfsd.config import Config
from goexfsd.hold import START_SECONDS, Hold, Place, open_hold
from goexfsd.layer import jobs as layer_jobs
from goexfsd.layer.selection import Selection
from goexfsd.overlay.choice import LACKS
from goexfsd.store import Store
from goexfsd.vault import Vault
from goexfsd.worker import Owner, Root, Worker, Workers, WorkerSpec

log = structlog.get_logger("goexfsd.session")

RESTARTS = 3
"""A view whose worker dies this often within RESTART_WINDOW seconds stays down."""
RESTART_WINDOW = 60.0


@dataclass(frozen=True, slots=True)
class House:
    """What every session shares."""

    config: Config
    catalog: Catalog
    store: Store
    workers: Workers
    audit: Audit
    worker_lock: Path
    """Held (shared) by every worker while it lives, so that a new daemon can wait for them."""
    vault: Vault

    def worker_spec(
        self,
        owner: Owner,
        roots: tuple[Root, ...],
        layers: dict[str, Path],
        options: dict[str, Any],
    ) -> WorkerSpec:
        """What a worker of this daemon is told."""
        paths = {label: str(path) for label, path in layers.items()}
        return WorkerSpec(owner, roots, paths, options, lock=str(self.worker_lock))


@dataclass(slots=True)
class Lasting:
    """What runs in a session beside its steps (``background``)."""

    stop: trio.CancelScope = field(default_factory=trio.CancelScope, kw_only=True)
    ended: trio.Event = field(default_factory=trio.Event, kw_only=True)


@dataclass(slots=True)
class Session:
    """One open session.  Made by the service, which also runs ``serve``."""

    house: House
    row: SessionRow
    hold: Hold | None = None
    busy: str | None = None
    """What the session is doing, as words for a message; None = free."""
    running: int | None = None
    """The step that runs."""
    background: dict[str, Lasting] = field(default_factory=dict)
    """Jobs by name, those that have ended too."""
    why_down: str = "its view is being mounted"
    _closing: trio.Event = field(default_factory=trio.Event)
    _closed: trio.Event = field(default_factory=trio.Event)
    _seen: int = 0
    """The view's count of mutations at the last checkpoint."""
    _swaps: int = 0
    """How often the layer was exchanged."""
    _turn: _Turn | None = None
    """Somebody wants the view to be mounted anew."""
    _unknown: bool = True
    """Nothing is known of the layer since the last checkpoint (a new worker)."""

    # -- what it is --------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def enter_uid(self) -> int:
        """The host uid that scripts run as, who must be able to enter the mount directory."""
        if self.row.uid != 0:
            return self.row.uid
        return self.house.config.view.sandbox_uid_base + self.row.slot

    @property
    def place(self) -> Place:
        directory = self.house.config.runtime_dir / "views" / self.row.id
        names = tuple(root.name for root in self.row.roots) if len(self.row.roots) > 1 else ()
        return Place(
            directory,
            self.enter_uid,
            self.row.at,
            self.row.at_ino,
            self.row.uid,
            kernel=self.row.kernel,
            names=names,
        )

    @property
    def mountpoint(self) -> str:
        return self.row.at or str(self.place.mountpoint)

    def root_view(self, index: int) -> str:
        """Where the root appears below the private mountpoint."""
        mount = str(self.place.mountpoint)
        return mount if len(self.row.roots) == 1 else f"{mount}/{self.row.roots[index].name}"

    def info(self) -> SessionInfo:
        single = len(self.row.roots) == 1
        return SessionInfo(
            session=self.row.id,
            name=self.row.name,
            mountpoint=self.mountpoint,
            roots=[
                RootInfo(
                    name=root.name,
                    path=to_wire(os.fsencode(root.path)),
                    view=self.mountpoint if single else f"{self.mountpoint}/{root.name}",
                    stable=bool(root.lower),
                )
                for root in self.row.roots
            ],
            state=self.row.state,
            owner=self.row.uid,
            created=self.row.created,
            running=[] if self.running is None else [self.running],
            checkpoint=max(self.row.checkpoint, 0),
            view="kernel" if self.row.kernel else "fuse",
            lacks=list(LACKS) if self.row.kernel else [],
            forked_from=self.row.forked,
            forked_at=self.row.forked_at,
            rules=[
                ViewRule(
                    kind=kind,
                    pattern=pattern,
                    root=None if root is None else self.row.roots[root].name,
                )
                for kind, root, pattern in self.row.rules
            ],
            jobs=self.jobs(),
        )

    # -- life --------------------------------------------------------------------------------

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the view mounted until ``close``.  Raises only before it first came up."""
        deaths: list[float] = []
        turn: _Turn | None = None
        started = False
        try:
            while not self._closing.is_set():
                swaps = self._swaps
                try:
                    async with open_hold(self.house.workers, self._view_spec(), self.place) as hold:
                        if swaps != self._swaps:
                            continue  # the layer was exchanged while it came up
                        self.hold = hold
                        self._unknown = True
                        if turn is not None:
                            turn.back.set()
                        if not started:
                            task_status.started()
                            started = True
                        await _either(self._closing, hold.ended)
                except* Exception as group:  # one session must not take the daemon down
                    error = _told(group)
                    self.why_down = error.message
                    if not started:
                        raise error from group
                    log.error("view is down", session=self.id, exc_info=group)
                finally:
                    self.hold = None
                if self._closing.is_set():
                    return
                turn = self._turn
                if turn is not None:
                    turn.left.set()
                    await _either(self._closing, turn.done)
                    continue
                deaths = [at for at in deaths if at > time.monotonic() - RESTART_WINDOW]
                deaths.append(time.monotonic())
                log.warning("view worker died", session=self.id, deaths=len(deaths))
                if len(deaths) >= RESTARTS:
                    self.why_down = "its view keeps failing; the daemon's log says why"
                    await self._closing.wait()
        finally:
            self._closed.set()

    async def close(self) -> None:
        """End all jobs and the view; the layer stays.  Returns when everything is unmounted."""
        with trio.CancelScope(shield=True):
            for job in self.background.values():
                job.stop.cancel()
            for job in self.background.values():
                await job.ended.wait()
        self._closing.set()
        await self._closed.wait()

    def _view_spec(self) -> WorkerSpec:
        view = self.house.config.view
        squash = self.row.uid == 0 and view.squash_root
        return self.house.worker_spec(
            self.owner(),
            self.roots(),
            {"live": self.house.store.layer(self.id)},
            {
                "mountpoint": str(self.place.mountpoint),
                "session": self.id,
                "sandbox_uid": self.enter_uid if squash else None,
                "sandbox_gid": self.enter_uid if squash else None,
                "suid": view.suid,
                "dev": view.dev,
                "rules": self.row.rules,
                "watch": view.watch,
                "passthrough": view.passthrough and self.row.uid != 0 and not self.row.rules,
                "opened_ns": int(self.row.created * 1e9),
            },
        )

    def owner(self) -> Owner:
        return Owner(self.row.uid, self.row.gid, self.row.groups)

    def roots(self, rows: tuple[RootRow, ...] | None = None) -> tuple[Root, ...]:
        """The session's roots, or ``rows``, as workers are told them."""
        return tuple(
            Root(index, row.name, row.path, row.ino, self._lower(row), row.inner)
            for index, row in enumerate(self.row.roots if rows is None else rows)
        )

    def _lower(self, row: RootRow) -> str | None:
        """The snapshot that a root is shown in; a session that has ended shows nothing."""
        if not row.lower or self.row.state not in lifecycle.LIVE:
            return None
        return str(self.house.store.lower(self.id, row.lower))

    async def freeze(self) -> tuple[RootRow, ...]:
        """The roots with snapshots taken now, where they can have them; see ``stable``.

        Nothing shows them yet: ``swap`` makes the session go over to them.
        """
        rows = tuple(replace(root, lower="", inner="") for root in self.row.roots)
        if self.house.config.view.stable == "off":
            return rows
        spec = self.house.worker_spec(self.owner(), self.roots(rows), {}, {})
        found = await stable.freeze(self.house.store, self.house.workers, spec, self.id)
        return tuple(
            row if lower is None else replace(row, lower=lower.name, inner=lower.inner)
            for row, lower in zip(rows, found, strict=True)
        )

    @property
    def generation(self) -> str | None:
        """Which snapshots of the base the session shows; None: all its roots are live."""
        return next((r.lower.partition("/")[0] for r in self.row.roots if r.lower), None)

    async def show(self, roots: tuple[RootRow, ...]) -> None:
        """From now on these are the roots; snapshots that none of them names go."""
        self.row = self.house.catalog.set_session(self.row, roots=roots)
        await trio.to_thread.run_sync(self.drop_lowers)

    def drop_lowers(self) -> None:
        """Throw away the snapshots of the base that the catalog does not name."""
        self.house.store.drop_lowers(self.id, self.generation)

    # -- exclusion ---------------------------------------------------------------------------

    def jobs(self) -> list[str]:
        """The names of those that run."""
        return [name for name, job in self.background.items() if not job.ended.is_set()]

    @contextmanager
    def exclusively(self, what: str, *, alone: bool = False) -> Iterator[None]:
        """Hold the session for ``what``; InvalidState if it is busy or has ended."""
        if self.row.state != "open":
            raise InvalidState(f"session {self.row.name} is {self.row.state}")
        if self.busy is not None:
            raise InvalidState(
                f"session {self.row.name} is busy: {self.busy}",
                hint="wait for it to end, or stop it (Ctrl-C where it runs)",
            )
        if alone and (jobs := self.jobs()):
            raise InvalidState(
                f"session {self.row.name} has jobs in the background: {', '.join(jobs)}",
                hint="goexfs kill ends one",
            )
        self.busy = what
        try:
            yield
        finally:
            self.busy = None

    def view(self) -> Hold:
        """The serving view; ViewFailed when it is down."""
        if self.hold is None or self.hold.ended.is_set():
            raise ViewFailed(
                f"session {self.row.name} has no view now: {self.why_down}",
                hint="its changes are safe in the store; discard still works",
            )
        return self.hold

    # -- checkpoints -------------------------------------------------------------------------

    async def checkpoint(self, *, step: int | None, label: str | None) -> CheckpointInfo:
        """Flush the view and snapshot the layer."""
        return await self._keep(await self.view().flush(), step, label)

    async def conclude(self, step: int) -> tuple[CheckpointInfo, bool]:
        """The checkpoint after a step; and whether the layer may have changed since the last."""
        count = await self.view().flush()
        moved = await self._has_moved(count)
        return await self._keep(count, step, None), moved

    async def _keep(self, count: int, step: int | None, label: str | None) -> CheckpointInfo:
        """Snapshot the layer, which was flushed at ``count`` mutations."""
        number = self.house.catalog.next_checkpoint(self.id)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.house.store.snapshot, self.id, number)
            parent = None if self.row.checkpoint < 0 else self.row.checkpoint
            info = CheckpointInfo(
                number=number, parent=parent, step=step, label=label, created=time.time()
            )
            self.row = self.house.catalog.add_checkpoint(self.row, info)
        self._seen, self._unknown = count, False
        return info

    async def settle(self, label: str) -> CheckpointInfo | None:
        """A checkpoint of what no checkpoint holds yet; None when there is nothing new."""
        count = await self.view().flush()
        if self.row.checkpoint < 0:
            return await self._keep(count, None, None)
        return await self._keep(count, None, label) if await self._has_moved(count) else None

    async def moved(self) -> bool:
        """Whether the layer may have changed since the last checkpoint."""
        return await self._has_moved(await self.view().flush())

    async def _has_moved(self, count: int) -> bool:
        if self._unknown and not await trio.to_thread.run_sync(self._differs):
            self._seen, self._unknown = count, False
        return self._unknown or count != self._seen

    def _differs(self) -> bool:
        """The same, asked of the file system: for a view that was not there at the checkpoint."""
        store = self.house.store
        if self.row.checkpoint < 0:
            return True
        store.sync()
        last = store.checkpoint(self.id, self.row.checkpoint)
        return store.generation(store.layer(self.id)) != store.generation(last)

    async def rewind(self, to: int) -> CheckpointInfo | None:
        """Bring the live view to checkpoint ``to``; returns a checkpoint saved on the way."""
        self.require(to)
        saved = await self.settle("before rewind")
        with trio.CancelScope(shield=True):
            await self.swap(await trio.to_thread.run_sync(self.house.store.restore, self.id, to))
            self.row = self.house.catalog.set_session(self.row, checkpoint=to)
            self._seen = await self.view().flush()
            self._unknown = False
        return saved

    async def swap(self, path: Path, roots: tuple[RootRow, ...] | None = None) -> None:
        """Make ``path`` (a writable layer that the store restored) the live layer, over
        ``roots`` from then on, if given."""
        if self.row.kernel:
            await self._mount_anew(path, roots)
            return
        told = self.hold
        if told is not None:
            await self._go_over(path, roots)
        await trio.to_thread.run_sync(self.house.store.adopt, self.id, path)
        self._unknown = True
        self._swaps += 1
        if self.hold is not None and self.hold is not told:
            self.hold.channel.kill()  # it came up meanwhile, with what was: another will
        if roots is not None:
            await self.show(roots)

    async def _mount_anew(self, path: Path, roots: tuple[RootRow, ...] | None) -> None:
        """``swap`` where the kernel holds the layer: it cannot be exchanged beneath it."""
        self._turn = turn = _Turn()
        try:
            if self.hold is not None:
                self.hold.ended.set()
                await turn.left.wait()
            await trio.to_thread.run_sync(self.house.store.adopt, self.id, path)
            self._unknown = True
            if roots is not None:
                await self.show(roots)
        finally:
            self._turn = None
            turn.done.set()
        with trio.move_on_after(START_SECONDS):
            await turn.back.wait()

    async def _go_over(self, path: Path, roots: tuple[RootRow, ...] | None) -> None:
        """Let the view show another layer, and other roots beneath it."""
        shown = None if roots is None else [r.inner if r.lower else None for r in roots]
        store = self.house.store
        paths = [path, *(store.lower(self.id, r.lower) for r in roots or () if r.lower)]
        with ExitStack() as stack:
            fds = []
            for each in paths:
                fds.append(os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                stack.callback(os.close, fds[-1])
            await self.view().call("rewind", fds=fds, lowers=shown)

    # -- the change list ---------------------------------------------------------------------

    @asynccontextmanager
    async def job(
        self,
        entry: Callable[[Worker], None],
        layers: dict[str, Path],
        options: dict[str, Any],
        roots: tuple[RootRow, ...] | None = None,
    ) -> AsyncIterator[Channel]:
        """A worker of the owner's over this session's roots (or these) and the given layers."""
        spec = self.house.worker_spec(self.owner(), self.roots(roots), layers, options)
        async with open_channel(self.house.workers, entry, spec) as channel:
            yield channel

    def side(self, number: int | None) -> Path:
        """The layer directory of a checkpoint, or the live one for None."""
        if number is None:
            return self.house.store.layer(self.id)
        self.require(number)
        return self.house.store.checkpoint(self.id, number)

    def require(self, number: int) -> None:
        """NotFound if the session has no such checkpoint."""
        if not self.house.catalog.has_checkpoint(self.id, number):
            raise NotFound(
                f"session {self.row.name} has no checkpoint {number}", hint="goexfs log lists them"
            )

    async def changes(
        self,
        before: int | None,
        after: int | None,
        *,
        select: Selection | None = None,
        patch: bool = False,
        binary: bool = True,
        listing: Literal["all", "flagged", "none"] = "none",
        stale: bool = False,
        listen: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
    ) -> Summary:
        """Run the change job; all its messages go to listen, ``done`` with the warnings too.

        ``before`` is a checkpoint, None for the base; ``after`` a checkpoint, None for the live
        layer.  Returns how many changes of each kind there are.  Where nobody listens, nothing
        is looked at for warnings.  With ``stale``, ``done`` has the reads that are.
        """
        layers = {"to": self.side(after)}
        if before is not None:
            layers["from"] = self.side(before)
        options = {
            "newer": before is not None,
            "select": select,
            "patch": patch,
            "binary": binary,
            "list": listing,
            "stale": stale,
            "review": listen is not None,
            "rules": [rule.keywords() for rule in self.house.config.warnings],
        }
        async with self.job(layer_jobs.changes, layers, options) as channel:
            while (message := await channel.receive()) is not None:
                if message["event"] == "newer":
                    await self._tell_newer(channel, before, after, message["also"])
                    continue
                if listen is not None:
                    await listen(message)
                if message["event"] == "done":
                    return Summary.model_validate(message["summary"])
        raise ViewFailed("the worker that reads the changes ended early")

    async def _tell_newer(
        self, channel: Channel, before: int | None, after: int | None, also: list[int]
    ) -> None:
        """Answer a worker that asks what is newer than the older one of its layers."""
        assert before is not None
        store = self.house.store

        def tell() -> None:
            inodes = [ino for ino in also if isinstance(ino, int) and 0 < ino < 1 << 63]
            found = store.newer(self.id, before, after, inodes)
            told = None if found is None else (found.device, found.changed, found.names)
            channel.send({"newer": told})

        await trio.to_thread.run_sync(tell)

    # -- words -------------------------------------------------------------------------------

    def locate(self, path: str, cwd: str | None) -> tuple[int, bytes]:
        """(root index, path below it) of a path that a user named; Usage if it is in no root.

        Absolute: below a root or below the view.  Relative: to the caller's directory where that
        lies in a root or the view, else ``ROOT/...`` with several roots, else below the root.
        """
        candidates = [path] if path.startswith("/") else []
        if not candidates and cwd is not None and self._below(cwd) is not None:
            candidates = [os.path.join(cwd, path)]
        for candidate in candidates:
            found = self._below(os.path.normpath(candidate))
            if found is not None:
                return found
        clean = os.path.normpath(path)
        if not path.startswith("/") and clean != ".." and not clean.startswith("../"):
            if len(self.row.roots) == 1:
                return 0, b"" if clean == "." else os.fsencode(clean)
            head, _, rest = clean.partition("/")
            for index, root in enumerate(self.row.roots):
                if root.name == head:
                    return index, os.fsencode(rest)
        raise Usage(
            f"{display(path)} lies in no root of session {self.row.name}",
            hint="name a path below a root, or ROOT/path when there are several",
        )

    def holds(self, path: str) -> bool:
        """Whether a real root or the view holds ``path``."""
        return self._below(path) is not None

    def _below(self, path: str) -> tuple[int, bytes] | None:
        shown = self.info().roots
        for index, root in enumerate(self.row.roots):
            for top in (root.path, self.root_view(index), shown[index].view):
                if path == top:
                    return index, b""
                if path.startswith(top + "/"):
                    return index, os.fsencode(path[len(top) + 1 :])
        return None

    def enter(self, event: lifecycle.Event, **changes: Any) -> None:
        """Advance the lifecycle, durably."""
        state = lifecycle.advance(self.row.state, event)
        self.row = self.house.catalog.set_session(self.row, state=state, **changes)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A view that is unmounted and mounted anew, and between the two the layer exchanged."""

    left: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)
    back: trio.Event = field(default_factory=trio.Event)


async def _either(*events: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


def _told(group: BaseExceptionGroup[Exception]) -> GoexfsError:
    """What a failed view means to its user."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, GoexfsError):
        return error
    return ViewFailed(f"the view failed: {type(error).__name__}: {error}")
