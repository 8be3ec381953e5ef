"""A network namespace for one step, and the socket in it that its proxy listens on.

Root's part.  The namespace has a loopback, which is up, and belongs to the machine's first user
namespace: nothing in a sandbox has any right over it.  It is gone with the last process in it
and the last socket of it.
"""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass

from goexfs.errors import SandboxFailed
from goexfsd import kernel
from goexfsd.hosts import PROXY

_BACKLOG = 128


@dataclass(slots=True)
class StepNetwork:
    """Close it once both have been handed over."""

    namespace: int
    """A descriptor for setns(2)."""
    listener: socket.socket

    def close(self) -> None:
        if self.namespace >= 0:
            os.close(self.namespace)
        self.namespace = -1
        self.listener.close()


def make_network() -> StepNetwork:
    """Make both; takes about a millisecond.  SandboxFailed where the machine cannot."""
    made: list[StepNetwork] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            kernel.leave_network()
            made.append(_inside())
        except OSError as error:
            failed.append(error)

    # In a thread of its own: a namespace belongs to a thread, and this one does not come back.
    thread = threading.Thread(target=make, name="network")
    thread.start()
    thread.join()
    if failed:
        raise SandboxFailed(
            f"the script's network could not be made: {failed[0].strerror}",
            hint="--network none does without",
        ) from failed[0]
    return made[0]


def _inside() -> StepNetwork:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        kernel.raise_interface(listener.fileno(), b"lo")
        listener.bind(PROXY)
        listener.listen(_BACKLOG)
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except BaseException:
        listener.close()
        raise
    return StepNetwork(namespace, listener)
