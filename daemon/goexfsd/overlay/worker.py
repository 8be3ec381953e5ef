"""The kernel view's keeper: mounts as root, then, as the owner, keeps the log for the daemon.

It obeys the FUSE view worker's commands, but serves no requests (the kernel does), so it sleeps
between them.  The layer cannot be exchanged under a mounted overlayfs: instead of ``rewind`` the
daemon ends this worker and starts another over the new layer.
"""

from __future__ import annotations

import os
import time
from typing import Any

from goexfs.errors import GoexfsError, Internal, Usage
from goexfsd.layer.writer import Layer
from goexfsd.overlay.adopt import Adopter
from goexfsd.overlay.mount import mount
from goexfsd.worker import Worker, WorkerSpec

_mounted_ns = 0


def prepare(spec: WorkerSpec) -> None:
    """As root: mount the overlays."""
    global _mounted_ns
    _mounted_ns = time.time_ns()
    mount(spec)


def entry(worker: Worker) -> None:
    """As the owner: keep the log until told to stop, or until the daemon is gone."""
    spec = worker.spec
    layer = Layer(
        worker.layer_fds["live"],
        [os.fsencode(root.name) for root in spec.roots],
        [os.fstat(fd).st_dev for fd in worker.lower_fds],
    )
    # What a crash left without a record was written when the session was open, no later.
    adopter = Adopter(layer, spec.roots, worker.lower_fds, int(spec.options["opened_ns"]))
    adopter.adopt()
    adopter.opened(_mounted_ns)
    worker.send({"event": "ready"})
    while True:
        try:
            message = worker.conn.recv()
        except (EOFError, OSError):
            break
        reply = {"event": "reply", "id": message.get("id")}
        try:
            result = _obey(adopter, layer, message)
        except GoexfsError as error:
            worker.send({**reply, "ok": False, "error": error.to_wire()})
        except OSError as error:
            failed = Internal(f"the layer could not be read: {error}")
            worker.send({**reply, "ok": False, "error": failed.to_wire()})
        else:
            worker.send({**reply, "ok": True, **result})
        if message.get("cmd") == "stop":
            break
    adopter.close()


def _obey(adopter: Adopter, layer: Layer, message: dict[str, Any]) -> dict[str, Any]:
    command = message.get("cmd")
    if command == "step":
        number = int(message["number"])
        if number == 0:
            adopter.adopt()  # what the step did is recorded as its own
        layer.step = number
        return {}
    if command == "sync":
        return {"mutations": adopter.adopt()}
    if command == "stop":
        return {}
    if command == "stats":
        return {"mutations": adopter.mutations}
    raise Usage(f"the kernel view knows no command {command!r}")
