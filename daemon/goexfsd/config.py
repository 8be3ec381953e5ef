"""goexfsd.toml as one frozen value, read once and handed down.

Every key has a default, an unknown key is an error (a typo must not silently weaken a limit).
Nothing below this room reads files or the environment for settings.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from goexfs.errors import Usage
from goexfs.names import display
from goexfs.protocol import Kind
from goexfsd.warn.globs import check
from goexfsd.warn.rules import CODES

DEFAULT_CONFIG = Path("/etc/goexfs/goexfsd.toml")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreConfig(_Part):
    """Where layers live: ``directory`` on a btrfs of yours, else an embedded image."""

    directory: Path | None = None
    image: Path | None = None
    """Default: ``store.img`` in the state directory."""
    size: int | None = Field(default=None, ge=256 * 1024 * 1024)
    """Bytes of the (sparse) image when it is first made; default: see docs."""
    grow: bool = True
    """Enlarge the image when it is nearly full and its file system has room."""


class LimitsConfig(_Part):
    """What one script may use: policies and runs can ask for less, never for more."""

    network: Literal["none", "allow", "host"] = "host"
    """The most that may be asked for."""
    memory: int = Field(default=4 * 1024**3, ge=16 * 1024**2)
    processes: int = Field(default=512, ge=4)
    wall_seconds: float | None = Field(default=None, gt=0)
    open_files: int = Field(default=4096, ge=32)
    output_bytes: int = Field(default=1024 * 1024, ge=0)
    """Kept with a step, for each stream; what is streamed to the caller is not bounded."""
    layer_bytes: int | None = Field(default=None, ge=1024**2)
    """What the layer of one session may hold."""
    layer_inodes: int | None = Field(default=None, ge=16)
    sessions_per_user: int = Field(default=64, ge=1)


class WarningRule(_Part):
    """A review warning of your own by path, besides those of docs/warnings.md."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")
    patterns: tuple[str, ...] = Field(min_length=1, max_length=256)
    kinds: tuple[Kind, ...] = ("created", "modified", "renamed", "retyped", "metadata")
    message: str = Field(min_length=1, max_length=200)

    @field_validator("name")
    @classmethod
    def _free(cls, value: str) -> str:
        if value in CODES:
            raise ValueError(f"{value} is a warning of goexfs's own; choose another name")
        return value

    @field_validator("message")
    @classmethod
    def _plain(cls, value: str) -> str:
        if display(value) != value:
            raise ValueError("must be plain text, without control characters and backslashes")
        return value

    @field_validator("patterns")
    @classmethod
    def _usable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            check(pattern)
        return value

    def keywords(self) -> dict[str, Any]:
        """As ``goexfsd.warn.rules.Rule`` takes them."""
        return {
            "code": self.name,
            "says": self.message,
            "patterns": self.patterns,
            "kinds": frozenset(self.kinds),
        }


class UndoConfig(_Part):
    """How long a commit can be undone: whichever limit is met first, for each user."""

    commits: int = Field(default=50, ge=0)
    """The newest so many."""
    days: float = Field(default=14, ge=0)
    bytes: int = Field(default=10 * 1024**3, ge=0)
    """Of before-images; the newest commit's are kept whatever they take."""


class AuditConfig(_Part):
    bytes: int = Field(default=64 * 1024**2, ge=64 * 1024)
    """What the audit log may take; the oldest eighth of it goes when it is full."""


class ViewConfig(_Part):
    """Mount options of the view.  ``suid``/``dev`` and no squashing are for conformance runs."""

    stable: Literal["auto", "off"] = "auto"
    """Whether sessions see a snapshot of their roots where the store shares their btrfs."""
    passthrough: bool = True
    """Whether the kernel reads and writes large open files in the layer itself, where it can."""
    watch: bool = True
    """Whether a base that may change is watched, so that the kernel may keep what it shows."""
    suid: bool = False
    dev: bool = False
    squash_root: bool = True
    """Sessions of root show every entry as the sandbox's uid; see docs/decisions."""
    sandbox_uid_base: int = Field(default=1_879_048_192, ge=1, lt=2**31 - 65536)
    """Scripts of root's sessions run as this host uid plus the session's slot."""


class Config(_Part):
    state_dir: Path = Path("/var/lib/goexfs")
    runtime_dir: Path = Path("/run/goexfs")
    store: StoreConfig = StoreConfig()
    limits: LimitsConfig = LimitsConfig()
    undo: UndoConfig = UndoConfig()
    audit: AuditConfig = AuditConfig()
    view: ViewConfig = ViewConfig()
    network: Literal["none", "allow", "host"] = "none"
    """What a script gets where neither its policy nor its run says."""
    warnings: tuple[WarningRule, ...] = ()
    """Further review warnings."""
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("store", mode="before")
    @classmethod
    def _store_path(cls, value: Any) -> Any:
        """``store = "/some/btrfs/dir"`` is short for ``[store] directory = ...``."""
        return {"directory": value} if isinstance(value, str) else value

    @field_validator("warnings")
    @classmethod
    def _once(cls, value: tuple[WarningRule, ...]) -> tuple[WarningRule, ...]:
        names = [rule.name for rule in value]
        if len(set(names)) < len(names):
            raise ValueError("each warning needs a name of its own; one may have many patterns")
        return value

    @field_validator("state_dir", "runtime_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError("must be an absolute path")
        return value


def read_config(path: Path | None, overrides: dict[str, Any]) -> Config:
    """The configuration of ``path`` (None: the default file if it exists) under ``overrides``.

    Raises Usage, naming the file and the key, for anything that is not understood.
    """
    chosen = path or DEFAULT_CONFIG
    values: dict[str, Any] = {}
    if path is not None or chosen.exists():
        try:
            values = tomllib.loads(chosen.read_text("utf-8"))
        except OSError as error:
            raise Usage(f"the configuration {chosen} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Usage(f"the configuration {chosen} is not TOML: {error}") from error
    values.update(overrides)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Usage(
            f"the configuration {chosen} is wrong at {key}: {first['msg']}",
            hint="docs/configuration.md lists every key",
        ) from error
