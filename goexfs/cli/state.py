"""How the command under way stands: whether its failures are JSON, how far its script got."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from goexfs.errors import GoexfsError

PIPE_GONE = 141
GOEXFS_FAILED = 125


class State:
    """How the command under way wants its failures: as JSON; told from those of its script."""

    # No dataclass: importing and building it is 1.5 ms of every start.
    __slots__ = ("json", "script")

    def __init__(self) -> None:
        self.json = False
        self.script: Literal["none", "asked", "started"] = "none"

    def status(self, error: GoexfsError) -> int:
        """The exit status for an error."""
        told_apart = error.exit_status > (7 if self.script == "started" else 1)
        return error.exit_status if self.script == "none" or told_apart else GOEXFS_FAILED
