"""The proxy's process: one for a step, of a uid that owns nothing, gone with the step.

It parses what a script and servers send, and it holds the values of the step's credentials, so
it is neither root nor the owner, cannot be traced, and has few descriptors and threads.  It is
told what to allow, gets the listening socket, and tells each connection's story.  When the daemon
says anything more, or nothing any more, it ends its connections and itself.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from multiprocessing import reduction
from typing import Any

import trio

from goexfsd.egress.credentials import Credential, Credentials
from goexfsd.egress.message import Target
from goexfsd.egress.proxy import Proxy
from goexfsd.egress.upstream import Upstream
from goexfsd.hosts import Hosts, parse_host
from goexfsd.worker import Worker, WorkerSpec

MOST_TOLD = 500
"""Connections that are told of one by one; further ones are only counted."""
_NICE = 5
_LIMITS = (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, 1024),
    (resource.RLIMIT_NPROC, 256),
    (resource.RLIMIT_FSIZE, 1 << 20),
)


def prepare(spec: WorkerSpec) -> None:
    """Root's part: limits, and what could not be imported later."""
    os.nice(_NICE)  # it works outside the step's control group
    for which, most in _LIMITS:
        resource.setrlimit(which, (most, most))
    if spec.options["tls"]:
        from goexfsd.egress import authority as authority  # 25 ms, so only where it is needed


def egress(worker: Worker) -> None:
    """Worker entry.  options: ``tls``, whether some credential is for a TLS host.

    Takes one command, ``{"allow": [rule, ...], "credentials": [{...}, ...]}``, and the listener.
    Sends ``{"event": "ready", "authority": PEM}``, then ``{"event": "visit", "visit": {...}}`` for
    each connection that ended (see ``proxy.Visit``), and ``{"event": "end", "total", "refused"}``.
    """
    command = worker.conn.recv()
    listener = socket.socket(fileno=reduction.recv_handle(worker.conn))
    listener.setblocking(False)
    held = [_credential(each) for each in command["credentials"]]
    trio.run(_serve, worker, listener, Hosts(command["allow"]), Credentials(held))


def _credential(said: dict[str, Any]) -> Credential:
    return Credential(
        target=Target(parse_host(said["host"]), said["port"], said["tls"]),
        header=said["header"].lower().encode("ascii"),
        value=said["value"].encode("ascii"),
        format=said["format"],
        placeholder=said["placeholder"].encode("ascii"),
    )


async def _serve(
    worker: Worker, listener: socket.socket, hosts: Hosts, credentials: Credentials
) -> None:
    teller = _Teller(worker)
    contexts: dict[Any, Any] = {}
    bundle = b""
    if targets := credentials.intercepted():
        from goexfsd.egress.authority import Authority, system_bundle

        names = list(dict.fromkeys(target.host for target in targets))
        authority = Authority(names)
        contexts = {name: authority.context(name) for name in names}
        bundle = system_bundle() + b"\n" + authority.pem()
    proxy = Proxy(Upstream(hosts), credentials, contexts, teller.tell)
    async with trio.open_nursery() as nursery:
        accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        nursery.start_soon(proxy.serve, accepting)
        worker.send({"event": "ready", "authority": bundle})
        await trio.lowlevel.wait_readable(worker.conn.fileno())
        nursery.cancel_scope.cancel()
    with contextlib.suppress(OSError):
        worker.send({"event": "end", "total": teller.total, "refused": teller.refused})


class _Teller:
    """Tells of connections, of the first ones in full."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.total = 0
        self.refused = 0

    def tell(self, visit: dict[str, Any]) -> None:
        self.total += 1
        self.refused += not visit["allowed"]
        if self.total <= MOST_TOLD:
            with contextlib.suppress(OSError):  # the daemon is gone: so are we, soon
                self._worker.send({"event": "visit", "visit": visit})
