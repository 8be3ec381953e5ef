"""What a machine is to do, from the host to the guest: a JSON file that both can read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

USER = 21001
"""Whose the base and the session are."""
BEGIN, ACKED, KEPT, END = "begin", "acknowledged", "kept", "end"
"""What the guest says: it starts what it was told to; it was told OK; this file is synced."""


@dataclass(frozen=True, slots=True)
class Disk:
    name: str
    """Its image is this name with ``.img``, its mount point this name, below the plan's home."""
    fstype: str
    options: str = "defaults"


@dataclass(frozen=True, slots=True)
class Plan:
    home: str
    disks: tuple[Disk, ...]
    config: str
    """Text of the daemon's configuration file."""
    do: tuple[str, ...]
    """Names of functions in guest.py."""
    unsynced: bool = False
    """The negative control: every sync of the daemon's and the workers' does nothing."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Plan:
        told = json.loads(path.read_text())
        disks = tuple(Disk(**disk) for disk in told["disks"])
        return cls(**{**told, "disks": disks, "do": tuple(told["do"])})
