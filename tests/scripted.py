"""A daemon that answers as a test tells it to: a real unix socket, a thread a connection.

For tests of the client and the command line that need no session: what they send, what they do
with what comes back.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goexfs.errors import GoexfsError

Message = dict[str, Any]


@dataclass(slots=True)
class Exchange:
    """One request, seen from the daemon."""

    id: int | str
    method: str
    params: Message
    _file: Any

    def send(self, message: Message) -> None:
        self._file.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._file.flush()

    def emit(self, method: str, **params: Any) -> None:
        self.send({"method": method, "params": {"request": self.id, **params}})

    def output(self, text: str, stream: str = "stdout") -> None:
        self.emit("output", stream=stream, data=text, encoding="utf-8")

    def reply(self, result: Message) -> None:
        self.send({"id": self.id, "result": result})

    def fail(self, error: GoexfsError) -> None:
        self.send({"id": self.id, "error": error.to_wire()})

    def notice(self) -> Message | None:
        """The client's next notification; None when it has hung up."""
        line = self._file.readline()
        found: Message | None = json.loads(line) if line else None
        return found


Answer = Message | GoexfsError | Callable[[Exchange], None]


@dataclass(slots=True)
class Scripted:
    """Where it listens, and every request it got."""

    path: str
    answers: Mapping[str, Answer]
    requests: list[tuple[str, Message]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def params(self, method: str) -> Message:
        """Of the last request of this method."""
        return [params for name, params in self.requests if name == method][-1]

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock, sock.makefile("rwb") as file:
                while line := file.readline():
                    message = json.loads(line)
                    if "id" in message:
                        self._answer(
                            Exchange(message["id"], message["method"], message["params"], file)
                        )
        except (BrokenPipeError, ConnectionResetError):
            pass
        except BaseException as error:
            self.failures.append(error)

    def _answer(self, exchange: Exchange) -> None:
        self.requests.append((exchange.method, exchange.params))
        answer = self.answers[exchange.method]
        if isinstance(answer, GoexfsError):
            exchange.fail(answer)
        elif callable(answer):
            answer(exchange)
        else:
            exchange.reply(answer)


@contextmanager
def serving(directory: Path, answers: Mapping[str, Answer]) -> Iterator[Scripted]:
    """Serve until the block ends; fails if an answer failed."""
    scripted = Scripted(str(directory / "s"), answers)
    threads: list[threading.Thread] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(scripted.path)
        listener.listen()

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=scripted._serve, args=(sock,)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield scripted
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            os.unlink(scripted.path)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "a client kept its connection open"
    if scripted.failures:
        raise scripted.failures[0]


SESSION: Message = {
    "session": "s-1",
    "name": "otter",
    "mountpoint": "/run/goexfs/views/s-1/mnt",
    "roots": [{"name": "project", "path": "/home/me/project", "view": "/run/goexfs/views/s-1/mnt"}],
    "state": "open",
    "owner": 1000,
    "created": 1.0,
    "running": [],
    "checkpoint": 1,
}
NOTHING: Message = dict.fromkeys(
    ("deleted", "created", "modified", "renamed", "retyped", "metadata"), 0
)
RAN: Message = {
    "session": "s-1",
    "step": 1,
    "status": 0,
    "signal": None,
    "timed_out": False,
    "duration": 0.25,
    "checkpoint": 1,
    "summary": {**NOTHING, "created": 1},
    "stdout": None,
    "stderr": None,
    "truncated": False,
}


def change(kind: str, path: str, **more: Any) -> Message:
    """A change as it comes over the wire."""
    return {"kind": kind, "root": "project", "path": path, "type": "file", **more}


PING: Message = {"version": "0", "protocol": 1, "pid": 1, "uid": 0}
