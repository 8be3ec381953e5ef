"""What a script may do and use: one frozen value, made at the edge and handed down.

A policy says nothing of a particular run (that is the ``Job``) or machine (``Machine``).
Paths beginning with ``~/`` are below the owner's home; hidden and read-only ones may hold ``*``
within a name.  How files and requests become one is told in ``resolve``.  Sizes are bytes, times
seconds.  Every limit that is set is enforced or the run is refused, unless ``unenforced`` says
otherwise.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from goexfs.protocol import Credential
from goexfsd.sandbox.secrets import SECRETS

MIB = 1024 * 1024

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/sys/devices/system/cpu",
    "/var/cache/fontconfig",
    "/var/lib/dpkg",
    "/var/lib/texmf",
)
"""What a script sees of the system, read-only, where it exists.  Nothing else: above all no
``/run``, ``/var/run``, ``/sys`` or other users' homes, where sockets and secrets live."""


class Policy(BaseModel):
    """The boundary of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Literal["none", "allow", "host"] = "none"
    allow: tuple[str, ...] = ()
    """With ``allow``: the hosts (``hosts.parse_rule``) that are reached, through a proxy."""
    credentials: tuple[Credential, ...] = ()
    """With ``allow``: what requests to some of them carry."""
    memory_bytes: int = Field(default=4096 * MIB, ge=16 * MIB)
    """Of everything the script starts together, its private /tmp and page cache included."""
    max_processes: int = Field(default=512, ge=4)
    """Processes and threads together."""
    cpu: float | None = Field(default=None, gt=0)
    """Processors' worth of time; None: all there are."""
    wall_seconds: float | None = Field(default=None, gt=0)
    grace_seconds: float = Field(default=2.0, ge=0, le=60)
    """Between a polite signal and the end."""
    open_files: int = Field(default=4096, ge=32)
    """For each process."""
    file_bytes: int | None = Field(default=None, ge=0)
    """The largest single file that it may write."""
    tmp_bytes: int = Field(default=2048 * MIB, ge=MIB)
    """Of the private /tmp."""
    output_bytes: int = Field(default=MIB, ge=0)
    """Kept with a step, for each stream; streaming is flow-controlled, not bounded."""
    system: tuple[str, ...] = SYSTEM
    read: tuple[str, ...] = ()
    """More to see, read-only."""
    home: bool = True
    """Show the owner's home read-only (never in a session of root)."""
    hidden: tuple[str, ...] = SECRETS
    """Empty to the script.  Absolute, below ``~/``, or else below every root."""
    masked: tuple[str, ...] = ()
    """Below every root: there, but empty and not to be changed.  Only a view can do that."""
    read_only: tuple[str, ...] = ()
    """Below every root: what a script may see and not change."""
    layer_bytes: int | None = Field(default=None, ge=0)
    """What the session's layer may hold in all."""
    layer_inodes: int | None = Field(default=None, ge=0)
    environment: tuple[str, ...] = ("*",)
    """Names (with ``*``) of variables that a run may set; nothing else of the caller's
    environment reaches the script, and what looks like a secret never does."""
    unenforced: Literal["refuse", "allow"] = "refuse"
    """What to do where the machine cannot enforce a limit."""


DEFAULT = Policy()
