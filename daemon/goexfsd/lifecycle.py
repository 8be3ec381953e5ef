"""The states of a session and what leads from one to the next.  Pure.

::

    opening --opened--> open --commit--> committing --applied--> committed
       |                 |  ^                |   |
       |                 |  +---kept---------+   +--(crash: recovery decides)
       +--failed--> failed  \\--discard--> discarded

A commit of a part of the changes (or one that met conflicts) goes back to ``open`` by ``kept``.
``committed``, ``discarded`` and ``failed`` are final.
"""

from __future__ import annotations

from typing import Literal

from goexfs.errors import InvalidState
from goexfs.protocol import SessionState

Event = Literal["opened", "failed", "commit", "applied", "kept", "discard"]

_NEXT: dict[tuple[SessionState, Event], SessionState] = {
    ("opening", "opened"): "open",
    ("opening", "failed"): "failed",
    ("open", "commit"): "committing",
    ("open", "discard"): "discarded",
    ("committing", "applied"): "committed",
    ("committing", "kept"): "open",
}

LIVE: frozenset[SessionState] = frozenset(("opening", "open", "committing"))
"""States in which a session holds a layer."""


def advance(state: SessionState, event: Event) -> SessionState:
    """The state after ``event``; InvalidState if a session in ``state`` cannot do that."""
    after = _NEXT.get((state, event))
    if after is None:
        raise InvalidState(f"the session is {state}: {event} is not possible now")
    return after
