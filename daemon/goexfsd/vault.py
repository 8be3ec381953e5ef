"""The vault: secrets that requests of scripts carry and no script sees.

One file for each uid, in a directory of root's alone (0700, files 0600), replaced whole: written
aside, synced, renamed.  A value comes in by ``put`` and leaves by ``value``, for the proxy of a
step; nothing else tells it, and neither repr nor error shows it.

The desktop's keyring is no place for them: it is open only while its user is logged in there, and
to every program of theirs; what a script must not have is kept where only root can look.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from goexfs.errors import Denied, Limit, NotFound, StoreFailed, Usage
from goexfs.names import display
from goexfs.protocol import SecretInfo
from goexfsd.hosts import join, parse_service

MOST = 256
"""Secrets of one user."""
_VALUE = re.compile(r"[ -~]+")


@dataclass(frozen=True, slots=True)
class _Secret:
    value: str = field(repr=False)
    hosts: tuple[str, ...]
    """``HOST:PORT``; empty: any."""
    created: float
    changed: float


class Vault:
    """All users' secrets, below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, uid: int, name: str, value: str, hosts: list[str]) -> bool:
        """Keep a value; whether there was one before.  Durable on return."""
        if _VALUE.fullmatch(value) is None or value != value.strip():
            raise Usage(
                f"the value of {display(name)} cannot be sent in a header",
                hint="printable ASCII, in one line, with no spaces around it",
            )
        places = tuple(dict.fromkeys(_place(host) for host in hosts))
        held = self._read(uid)
        before = held.get(name)
        if before is None and len(held) >= MOST:
            raise Limit(f"you have {MOST} secrets, which is the limit", hint="goexfs secret rm")
        now = time.time()
        held[name] = _Secret(value, places, before.created if before else now, now)
        self._write(uid, held)
        return before is not None

    def infos(self, uid: int) -> list[SecretInfo]:
        """All but the values."""
        return [
            SecretInfo(
                name=name, hosts=list(each.hosts), created=each.created, changed=each.changed
            )
            for name, each in sorted(self._read(uid).items())
        ]

    def remove(self, uid: int, name: str) -> None:
        """NotFound if there is none."""
        held = self._read(uid)
        if held.pop(name, None) is None:
            raise _missing(name)
        self._write(uid, held)

    def value(self, uid: int, name: str, host: str) -> str:
        """For requests to ``host`` (as in a credential); NotFound, Denied."""
        found = self._read(uid).get(name)
        if found is None:
            raise _missing(name)
        place = _place(host)
        if found.hosts and place not in found.hosts:
            raise Denied(
                f"the secret {display(name)} is not for {display(place)}",
                hint=f"it was set for {', '.join(found.hosts)} only",
            )
        return found.value

    # -- the files -----------------------------------------------------------------------------

    def _path(self, uid: int) -> Path:
        return self._directory / f"{uid}.json"

    def _read(self, uid: int) -> dict[str, _Secret]:
        try:
            data: dict[str, Any] = json.loads(self._path(uid).read_text("ascii"))
            return {
                name: _Secret(each["value"], tuple(each["hosts"]), each["created"], each["changed"])
                for name, each in data["secrets"].items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Whatever it was, it may show what is in the file.
            raise StoreFailed(
                "the file of your secrets cannot be read",
                hint=f"root may look at, or remove, {self._path(uid)}",
            ) from None

    def _write(self, uid: int, held: dict[str, _Secret]) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        data = {"version": 1, "secrets": {name: asdict(each) for name, each in held.items()}}
        aside = self._directory / f"{uid}.{secrets.token_hex(8)}.new"
        try:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="ascii") as file:  # noqa: PTH123
                json.dump(data, file)
                file.flush()
                os.fsync(fd)
            aside.rename(self._path(uid))
            _sync(self._directory)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise StoreFailed(f"your secrets cannot be written: {error.strerror}") from None


def open_vault(state_dir: Path) -> Vault:
    """The vault of a daemon; what a crash left half written is removed."""
    directory = state_dir / "secrets"
    for left in directory.glob("*.new"):
        left.unlink(missing_ok=True)
    return Vault(directory)


def _place(host: str) -> str:
    try:
        name, port, tls = parse_service(host)
    except ValueError as error:
        raise Usage(f"a secret's host: {display(str(error))}") from error
    return join(name, port) if tls else f"http://{join(name, port)}"


def _missing(name: str) -> NotFound:
    return NotFound(
        f"there is no secret {display(name)}", hint=f"goexfs secret set {display(name)}"
    )


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
