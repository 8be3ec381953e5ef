"""Policies: what a script may do, and the secrets that its requests carry."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from goexfs.protocol.model import SECRET_NAME, Model, Reply


class Credential(Model):
    """A secret of the owner's that requests to one host carry, and no script sees."""

    secret: str = Field(pattern=SECRET_NAME)
    """Its name in ``goexfs secret list``."""
    host: str = Field(min_length=1, max_length=300)
    """``HOST[:PORT]``, of https, no ``*``; with ``http://`` before it, of plain HTTP."""
    header: str = Field(default="Authorization", pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$")
    format: str = Field(default="", pattern=r"^$|^[ -z|~]*\{\}[ -z|~]*$", max_length=200)
    """The whole header, ``{}`` for the secret; empty: only the placeholder is replaced."""
    env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    """The variable that holds a placeholder.  None: every request to the host gets the header."""


class Rules(Model):
    """What a policy file, or one run, says of the boundary; what it leaves out stays as it is."""

    model_config = ConfigDict(allow_inf_nan=False)

    network: Literal["none", "allow", "host"] | None = None
    allow: list[str] = Field(default_factory=list, max_length=256)
    """``HOST[:PORT]``: what is reached with ``network`` at ``allow``."""
    credentials: list[Credential] = Field(default_factory=list, max_length=64)
    memory: int | None = Field(default=None, ge=16 * 1024**2)
    processes: int | None = Field(default=None, ge=4)
    cpu: float | None = Field(default=None, ge=0.01)
    wall_seconds: float | None = Field(default=None, gt=0)
    open_files: int | None = Field(default=None, ge=32)
    file_bytes: int | None = Field(default=None, ge=0)
    tmp_bytes: int | None = Field(default=None, ge=1024**2)
    output_bytes: int | None = Field(default=None, ge=0)
    layer_bytes: int | None = Field(default=None, ge=0)
    layer_inodes: int | None = Field(default=None, ge=0)
    home: bool | None = None
    environment: list[str] | None = Field(default=None, max_length=256)
    read: list[str] = Field(default_factory=list, max_length=256)
    hide: list[str] = Field(default_factory=list, max_length=1024)
    show: list[str] = Field(default_factory=list, max_length=256)
    mask: list[str] = Field(default_factory=list, max_length=256)
    read_only: list[str] = Field(default_factory=list, max_length=256)
    unenforced: Literal["refuse", "allow"] | None = None


class SecretSet(Model):
    """Keep a secret of the caller's, or a new value of it."""

    name: str = Field(pattern=SECRET_NAME)
    value: str = Field(min_length=1, max_length=8192, repr=False)
    """Printable ASCII; never told again."""
    hosts: list[str] = Field(default_factory=list, max_length=32)
    """The only hosts that a policy may bind it to; empty: any."""


class SecretSetResult(Reply):
    secret: str
    replaced: bool


class SecretList(Model):
    pass


class SecretInfo(Reply):
    name: str
    hosts: list[str]
    created: float
    changed: float


class SecretListResult(Reply):
    secrets: list[SecretInfo]


class SecretRemove(Model):
    name: str = Field(pattern=SECRET_NAME)


class SecretRemoveResult(Reply):
    secret: str
