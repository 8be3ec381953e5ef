"""The view's worker process: mounts as root, serves as the owner, obeys the daemon.

``prepare`` runs as root: it mounts and raises the limit of open files.  ``entry`` runs as the
owner: it serves requests and, beside them, the daemon's commands, until told to stop or until
the daemon's end of the pipe closes.  The mount itself is the daemon's to undo.

Commands are ``{"cmd", "id", ...}``; each is answered by one ``{"event": "reply", "id", ...}``.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from multiprocessing.reduction import recv_handle
from typing import Any

import pyfuse3
import trio

from goexfs.errors import GoexfsError, Internal, Usage
from goexfsd.layer.quota import Quota
from goexfsd.layer.writer import Layer
from goexfsd.view.direct import Direct
from goexfsd.view.lane import Lane, inner_pair
from goexfsd.view.mount import mount
from goexfsd.view.rewind import forget_kernel, next_epoch
from goexfsd.view.ruled import Ruled, RuledTree
from goexfsd.view.through import Through
from goexfsd.view.tree import Tree
from goexfsd.view.watcher import Watcher
from goexfsd.worker import Worker, WorkerSpec, open_lower

log = logging.getLogger("goexfsd.view")

_OPEN_FILES = 1 << 20


class View(Direct):
    """All handlers together."""

    inner: socket.socket
    """Our end of what pyfuse3 serves."""


class RuledView(Ruled, View):
    """The same, where the session has rules."""


_view: View | None = None


def prepare(spec: WorkerSpec) -> None:
    """As root: mount the view at ``spec.options["mountpoint"]``."""
    global _view
    _raise_limit()
    _view = RuledView() if spec.options.get("rules") else View()
    _view.fuse_fd = mount(spec)
    theirs, _view.inner = inner_pair()
    pyfuse3.init(_view, f"/dev/fd/{theirs}", set())


def _raise_limit() -> None:
    """Open files and pinned directories cost descriptors."""
    for limit in (_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return
        except (ValueError, OSError):
            continue


def entry(worker: Worker) -> None:
    """As the owner: serve until the end."""
    assert _view is not None, "prepare comes first"
    options = worker.spec.options
    layer = Layer(
        worker.layer_fds["live"],
        [os.fsencode(root.name) for root in worker.spec.roots],
        [os.fstat(fd).st_dev for fd in worker.lower_fds],
    )
    uid, gid = options.get("sandbox_uid"), options.get("sandbox_gid")
    squash = None if uid is None else (uid, uid if gid is None else gid)
    rules = [tuple(rule) for rule in options.get("rules", ())]
    fds = worker.lower_fds
    tree = RuledTree(layer, fds, rules) if rules else Tree(layer, fds)
    tree.stable = [root.lower is not None for root in worker.spec.roots]
    tree.pool_limit = max(64, min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))
    _view.one_call = any(tree.stable) and next_epoch(_view.fuse_fd)
    _view.wants_passthrough = bool(options.get("passthrough"))
    if options.get("watch", True) and not all(tree.stable):
        try:
            tree.watcher = Watcher(tree, _view.fuse_fd)
        except OSError as error:
            log.info("the base is not watched: %s", error)
    _view.begin(tree, squash)
    gc.collect()
    gc.freeze()
    trio.run(Commands(worker, _view).serve)
    pyfuse3.close(unmount=False)


class Commands:
    """Serves the kernel and the daemon side by side."""

    def __init__(self, worker: Worker, view: View) -> None:
        self.worker = worker
        self.view = view
        self._known: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "step": self._step,
            "sync": self._sync,
            "stats": self._stats,
            "rewind": self._rewind,
            "passthrough": self._passthrough,
            "watching": self._watching,
        }

    async def serve(self) -> None:
        async with trio.open_nursery() as nursery:
            view = self.view
            options = self.worker.spec.options
            lane = Lane(
                view,
                view.fuse_fd,
                view.inner,
                direct=bool(options.get("lane", True)),
                compiled=bool(options.get("compiled", True)),
            )
            nursery.start_soon(lane.serve)
            if view.tree.watcher is not None:
                nursery.start_soon(view.tree.watcher.serve)
            await trio.lowlevel.checkpoint()
            self.worker.send({"event": "ready"})
            await self._obey()
            nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(lane.close)
        self.view.tree.layer.write_back()
        self.view.tree.layer.drain()
        self.view.tree.layer.sync_records()

    async def _obey(self) -> None:
        """Take commands until ``stop`` or the end of the pipe."""
        conn = self.worker.conn
        while True:
            await trio.lowlevel.wait_readable(conn.fileno())
            try:
                message = conn.recv()
            except (EOFError, OSError):
                return
            if message.get("cmd") == "stop":
                self._reply(message, {})
                return
            try:
                reply = await self._command(message)
            except GoexfsError as error:
                self._fail(message, error)
            except Exception as error:
                log.exception("command %r failed", message.get("cmd"))
                self._fail(message, Internal(f"the view failed: {error}"))
            else:
                self._reply(message, reply)

    async def _command(self, message: dict[str, Any]) -> dict[str, Any]:
        name = message.get("cmd")
        known = self._known.get(str(name))
        if known is None:
            raise Usage(f"the view knows no command {name!r}")
        return await known(message)

    def _reply(self, message: dict[str, Any], result: dict[str, Any]) -> None:
        self.worker.send({"event": "reply", "id": message.get("id"), "ok": True, **result})

    def _fail(self, message: dict[str, Any], error: GoexfsError) -> None:
        self.worker.send(
            {"event": "reply", "id": message.get("id"), "ok": False, "error": error.to_wire()}
        )

    # -- commands --------------------------------------------------------------------------------

    async def _step(self, message: dict[str, Any]) -> dict[str, Any]:
        """A step begins, with what the layer may hold during it; or (number 0) has ended.

        The reply says which limits were met during the one before.
        """
        layer = self.view.tree.layer
        met = [] if layer.quota is None else sorted(layer.quota.refused)
        layer.step = int(message["number"])
        quota = message.get("quota")
        layer.quota = None if quota is None else Quota(*quota)
        return {"met": met}

    async def _passthrough(self, message: dict[str, Any]) -> dict[str, Any]:
        """From now on files may be open past the view; the socket that it needs follows."""
        fd = await trio.to_thread.run_sync(recv_handle, self.worker.conn)
        view = self.view
        try:
            view.through = await trio.to_thread.run_sync(
                Through, socket.socket(fileno=fd), view.fuse_fd
            )
        except OSError as error:
            log.warning("no passthrough: %s", error)
        return {}

    async def _watching(self, message: dict[str, Any]) -> dict[str, Any]:
        """The number of the inotify descriptor, or -1."""
        del message
        watcher = self.view.tree.watcher
        return {"fd": -1 if watcher is None else watcher.fd}

    async def _sync(self, message: dict[str, Any]) -> dict[str, Any]:
        layer = self.view.tree.layer
        if self.view.through is not None and self.view.through.writers:
            layer.changes += 1  # for all that we know
        layer.write_back()
        await trio.to_thread.run_sync(layer.drain)
        await trio.to_thread.run_sync(layer.sync_records)
        return {"mutations": layer.changes}

    async def _rewind(self, message: dict[str, Any]) -> dict[str, Any]:
        """Go over to the layer whose descriptor follows the command.

        With ``lowers`` (for each root where it is below a snapshot's top, or None for the real
        directory) also to another state of the base; the tops' descriptors follow.
        """
        fd = await trio.to_thread.run_sync(recv_handle, self.worker.conn)
        view = self.view
        tree = view.tree
        lowers = message.get("lowers")
        fds = None if lowers is None else await trio.to_thread.run_sync(self._lower_fds, lowers)
        devs = [os.fstat(each).st_dev for each in fds or tree.root_fds]
        layer = Layer(fd, tree.layer.root_names, devs)
        told = view.rebase(layer, fds, None if lowers is None else [x is not None for x in lowers])
        await trio.to_thread.run_sync(forget_kernel, view.fuse_fd, told)
        return {"mutations": view.tree.layer.changes}

    def _lower_fds(self, lowers: list[str | None]) -> list[int]:
        """What is to be shown of the base from now on."""
        found = []
        for root, fd, inner in zip(
            self.worker.spec.roots, self.worker.root_fds, lowers, strict=True
        ):
            if inner is None:
                found.append(os.dup(fd))
            else:
                found.append(open_lower(replace(root, inner=inner), recv_handle(self.worker.conn)))
        return found

    async def _stats(self, message: dict[str, Any]) -> dict[str, Any]:
        view = self.view
        nodes = view.tree.table.by_id
        return {
            "nodes": len(nodes),
            "fds": len(os.listdir("/proc/self/fd")),
            "open_files": sum(node.opens for node in nodes.values()),
            "rss_kb": _resident_kb(),
            "requests": view.requests,
            "plain": view.plain,
            "mutations": view.tree.layer.changes,
        }


def _resident_kb() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024
