"""Warnings of a session built by hand (``layering.Session``), through the real change job."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from goexfs.names import from_wire
from goexfsd.layer import jobs
from goexfsd.worker import Root
from layering import Session


@dataclass(frozen=True, slots=True)
class Spec:
    roots: list[Root]
    options: dict[str, Any]


@dataclass(slots=True)
class Worker:
    """What the job needs of one; keeps what it sends."""

    spec: Spec
    layer_fds: dict[str, int]
    lower_fds: list[int]
    root_fds: list[int] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError(message)


@dataclass(frozen=True, slots=True)
class Found:
    """What a review said."""

    of: dict[bytes, list[str]]
    """Path -> warnings, where there are any."""
    whole: list[str]
    counts: list[str]
    patch: bytes

    def codes(self, path: bytes) -> set[str]:
        return {each.partition(":")[0] for each in self.of.get(path, ())}


def review(session: Session, place: str | None = None, **options: Any) -> Found:
    """The session's changes reviewed; ``place``: where its root is said to lie."""
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    base = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    root = Root(0, "r", place or os.fsdecode(session.base))
    worker = Worker(Spec([root], options), {"to": layer}, [base])
    try:
        jobs.changes(worker)
    finally:
        os.close(layer)
        os.close(base)
    changes = [each for message in worker.sent for each in message.get("changes", ())]
    done = worker.sent[-1]
    return Found(
        {from_wire(each["path"]): each["warnings"] for each in changes if each["warnings"]},
        done["warnings"],
        done["counts"],
        b"".join(message.get("data", b"") for message in worker.sent),
    )
