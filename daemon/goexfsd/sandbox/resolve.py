"""From what everybody says to one policy: pure, and every value knows where it comes from.

In this order: the daemon's limits and the built-in policy; a preset; the owner's file, or files
that extend each other; the projects' files; the run's own words; and the daemon's limits once
more, as the ceiling that nothing passes.

A project's file lies where scripts can get at it (their changes may be committed), so it can only
narrow: what it says that would widen is left out, and noted.  What a run asks for explicitly above
the ceiling is refused; a file's value is cut down to it.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from goexfs.errors import Denied, Usage
from goexfs.names import display
from goexfs.protocol import Credential, Rules
from goexfs.units import size_text
from goexfsd.hosts import HostRule, Hosts, join, parse_rule, parse_service
from goexfsd.layer.selection import check
from goexfsd.sandbox.policy import Policy
from goexfsd.sandbox.presets import PRESETS

Kind = Literal["user", "project", "run"]
Value = Any

BUILT_IN = "built in"
CEILING = "the daemon's limits"

SIZES = ("memory", "file_bytes", "tmp_bytes", "output_bytes", "layer_bytes")
_NUMBERS = (
    *SIZES,
    "processes",
    "cpu",
    "wall_seconds",
    "open_files",
    "layer_inodes",
)
_RANKS: dict[str, tuple[Value, ...]] = {  # the narrowest first
    "network": ("none", "allow", "host"),
    "home": (False, True),
    "unenforced": ("refuse", "allow"),
}
_LISTS = ("read", "hide", "mask", "read_only")
_FIELDS = {
    "memory": "memory_bytes",
    "processes": "max_processes",
    "hide": "hidden",
    "mask": "masked",
}
"""Keys whose field in ``Policy`` is named otherwise."""
KEYS = (*_RANKS, "allow", "credentials", *_NUMBERS, "environment", *_LISTS)

_MOST_LETTERS = 4096
_MOST_WILD = 32
_MOST_NAME = 128

# A read-only bind does not stop a connect(), and these are full of other things than files.
_NEVER_READ = ("/proc", "/sys", "/dev", "/run", "/var/run")


@dataclass(frozen=True, slots=True)
class Said:
    """What one of them says."""

    source: str
    kind: Kind
    rules: Rules


@dataclass(frozen=True, slots=True)
class Resolved:
    """A policy, where each of its values comes from, and what was not granted."""

    policy: Policy
    name: str
    values: dict[str, Value]
    sources: dict[str, str]
    notes: tuple[str, ...]


def resolve(name: str, said: Iterable[Said], ceiling: Rules, network: str = "none") -> Resolved:
    """Put together what is ``said``, in order, below ``ceiling``.

    ``network`` is what a script gets where nobody says.  Raises Usage for paths that make no
    sense, Denied for what a run asks for and may not have.
    """
    making = _Making(ceiling, network)
    for each in said:
        making.take(each)
    making.cut()
    fields = {_FIELDS.get(key, key): value for key, value in making.values.items()}
    for key in _LISTS:
        fields[_FIELDS.get(key, key)] = tuple(making.values[key])
    for key in ("environment", "allow"):
        fields[key] = tuple(making.values[key])
    fields["credentials"] = making.credentials
    return Resolved(
        policy=Policy.model_validate(fields),
        name=name,
        values=making.values,
        sources=making.sources,
        notes=tuple(making.notes),
    )


def understand(table: dict[str, Any], source: str) -> Rules:
    """A file's table as rules; Usage names the file and the key."""
    try:
        return Rules.model_validate(table, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Usage(
            f"the policy {display(source)} is wrong at {display(key)}: {first['msg']}",
            hint="docs/policy.md lists every key",
        ) from error


@dataclass(slots=True)
class _Making:
    ceiling: Rules
    network: str
    values: dict[str, Value] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    credentials: tuple[Credential, ...] = ()

    def __post_init__(self) -> None:
        for key in KEYS:
            value = getattr(Policy(), _FIELDS.get(key, key))
            self.put(key, list(value) if isinstance(value, tuple) else value, BUILT_IN)
        for key in _NUMBERS:
            if (most := getattr(self.ceiling, key)) is not None:
                self.put(key, most, CEILING)
        self.put("network", self.network, CEILING)

    def put(self, key: str, value: Value, source: str) -> None:
        self.values[key] = value
        self.sources[key] = source

    def take(self, said: Said) -> None:
        rules, narrow = said.rules, said.kind == "project"
        everything = self.values["network"] == "host"
        for key in (*_RANKS, *_NUMBERS):
            value = getattr(rules, key)
            if value is None:
                continue
            if said.kind == "run" and self.above(key, value):
                raise Denied(
                    f"{key} {shown(key, value)} is above the daemon's limit of"
                    f" {shown(key, getattr(self.ceiling, key))}",
                    hint="the administrator sets limits in goexfsd.toml",
                )
            if not narrow or not _wider(key, value, self.values[key]):
                self.put(key, value, said.source)
            else:
                self.note(said, key, f"{shown(key, value)} is more than you grant")
        if rules.allow:
            self._allow(said, rules.allow, everything=everything)
        if rules.credentials:
            self._bind(said, rules.credentials)
        if rules.environment is not None:
            self._environment(said, rules.environment)
        for key in _LISTS:
            if getattr(rules, key):
                self._list(said, key, getattr(rules, key))
        if rules.show:
            self._show(said, rules.show)

    def note(self, said: Said, key: str, why: str) -> None:
        self.notes.append(f"{said.source}: {key} is left out: {why}")

    def above(self, key: str, value: Value) -> bool:
        most = getattr(self.ceiling, key)
        return most is not None and _wider(key, value, most)

    def cut(self) -> None:
        """Nothing passes the ceiling."""
        for key in (*_RANKS, *_NUMBERS):
            most = getattr(self.ceiling, key)
            if most is not None and _wider(key, self.values[key], most):
                asked = f"{shown(key, self.values[key])} of {self.sources[key]}"
                self.notes.append(f"{key}: {asked} is cut down to {CEILING}")
                self.put(key, most, CEILING)
        listed = Hosts(self.values["allow"])
        for one in self.credentials:
            host, port, _ = parse_service(one.host)
            if self.values["network"] != "allow" or not listed.lists(host, port):
                place = display(join(host, port))
                self.notes.append(f"credentials: {one.secret} has no use: {place} is not allowed")

    def _allow(self, said: Said, rules: list[str], *, everything: bool) -> None:
        """Further hosts; a project's are the only ones, as far as they were granted."""
        new = [_host_rule(rule, said.source) for rule in rules]
        if said.kind != "project":
            self._add("allow", [rule.text for rule in new], said.source)
            return
        granted = [parse_rule(rule) for rule in self.values["allow"]]
        kept = [
            one.text for one in new if everything or any(grant.covers(one) for grant in granted)
        ]
        for one in new:
            if one.text not in kept:
                self.note(said, "allow", f"{display(one.text)} is more than you grant")
        self.put("allow", kept, said.source)

    def _bind(self, said: Said, credentials: list[Credential]) -> None:
        if said.kind == "project":
            self.note(said, "credentials", "a project cannot use your secrets")
            return
        for one in credentials:
            _bound_host(one, said.source)
        self.credentials = (*self.credentials, *credentials)
        self._add("credentials", [bound(one) for one in credentials], said.source)

    def _environment(self, said: Said, patterns: list[str]) -> None:
        for one in patterns:
            if len(one) > _MOST_NAME:
                raise Usage(f"{said.source}: environment: {display(one[:80])}... is too long")
        if said.kind != "project":
            self.put("environment", list(patterns), said.source)
            return
        granted = self.values["environment"]
        kept = [one for one in patterns if any(_covers(grant, one) for grant in granted)]
        for one in patterns:
            if one not in kept:
                self.note(said, "environment", f"{display(one)} is more than you grant")
        self.put("environment", kept, said.source)

    def _list(self, said: Said, key: str, paths: list[str]) -> None:
        if key == "read" and said.kind == "project":
            self.note(said, key, "a project cannot show more")
            return
        check = _CHECKS[key]
        self._add(key, [check(path, said.source) for path in paths], said.source)

    def _add(self, key: str, new: list[str], source: str) -> None:
        old = self.values[key]
        self.values[key] = [*old, *(each for each in new if each not in old)]
        before = self.sources[key]
        plain = not old or before == source
        self.sources[key] = source if plain else f"{before} + {source}"

    def _show(self, said: Said, paths: list[str]) -> None:
        """Take entries off the list of what is hidden."""
        if said.kind == "project":
            self.note(said, "show", "a project cannot show more")
            return
        hidden = self.values["hide"]
        for path in paths:
            if path not in hidden:
                self.note(said, "show", f"{display(path)} is not an entry of what is hidden")
        self.values["hide"] = [path for path in hidden if path not in paths]
        self.sources["hide"] += f" - {said.source}"


def _wider(key: str, new: Value, old: Value) -> bool:
    if key in _RANKS:
        return _RANKS[key].index(new) > _RANKS[key].index(old)
    if old is None:
        return False
    return bool(new is None or new > old)


def _covers(grant: str, pattern: str) -> bool:
    """Whether all that ``pattern`` matches, ``grant`` does."""
    if grant in ("*", pattern):
        return True
    return not any(char in pattern for char in "*?[") and fnmatch.fnmatchcase(pattern, grant)


def shown(key: str, value: Value) -> str:
    """A value as a person wrote it."""
    if key in SIZES and value is not None:
        return size_text(value)
    return "unlimited" if value is None else f"{value}"


def _plain(path: str, source: str) -> str:
    if not path or "\0" in path or ".." in path.split("/"):
        raise Usage(f"{source}: {display(path)!r} is no path for a policy")
    return path


def _read_path(path: str, source: str) -> str:
    path = _plain(path, source)
    if not path.startswith(("/", "~/")):
        raise Usage(f"{source}: read: {display(path)} is neither absolute nor below ~/")
    clean = posixpath.normpath(path).replace("//", "/")
    for place in _NEVER_READ:
        if clean in ("/", place) or clean.startswith(place + "/") or place.startswith(clean + "/"):
            raise Denied(
                f"{source}: read: {display(path)} is never shown to a script",
                hint=f"it holds or lies in {place}, which is more than files",
            )
    return clean


def _pattern(path: str, source: str) -> str:
    path = _plain(path, source)
    # Whoever compiles these has other things to do as well.
    if len(path) > _MOST_LETTERS or sum(map(path.count, "*?[")) > _MOST_WILD:
        raise Usage(f"{source}: {display(path[:80])}... is too long, or has too much * ? [ in it")
    if "**" in path and path.startswith(("/", "~/")):
        raise Usage(
            f"{source}: {display(path)}: ** is only understood below the roots",
            hint="* stands for any part of one name; to find names at any depth elsewhere would"
            " mean to walk the whole tree before each run",
        )
    if path.startswith("~") and not path.rstrip("/").startswith("~/"):
        raise Usage(
            f"{source}: {display(path)} is neither below ~/ nor clearly in the roots",
            hint='home = false is what hides all of your home; "./~name" is a name in the roots',
        )
    if not path.startswith(("/", "~/")):
        check(path)  # Usage where that is no glob
    if not path.strip("/.*"):
        raise Usage(f"{source}: {display(path)} cannot be hidden")
    return path.rstrip("/")


def _relative(path: str, source: str) -> str:
    path = _pattern(path, source)
    if path.startswith(("/", "~")):
        raise Usage(
            f"{source}: {display(path)} is not relative to the roots",
            hint="all outside the roots is read-only anyway, and can be hidden",
        )
    return path


def _host_rule(text: str, source: str) -> HostRule:
    try:
        return parse_rule(text)
    except ValueError as error:
        raise Usage(f"{source}: allow: {display(str(error))}") from error


def _bound_host(credential: Credential, source: str) -> None:
    try:
        parse_service(credential.host)
    except ValueError as error:
        raise Usage(f"{source}: credentials: host: {display(str(error))}") from error


def bound(credential: Credential) -> str:
    """A credential in words: where it goes; there is no value in it."""
    host, port, tls = parse_service(credential.host)
    way = "https" if tls else "http"
    env = "" if credential.env is None else f", ${credential.env}"
    return f"{credential.secret}: {credential.header} of {way}://{join(host, port)}{env}"


_CHECKS: dict[str, Callable[[str, str], str]] = {
    "read": _read_path,
    "hide": _pattern,
    "mask": _relative,
    "read_only": _relative,
}


def preset(name: str) -> Said | None:
    """A policy that comes with goexfs."""
    rules = PRESETS.get(name)
    return None if rules is None else Said(f"preset {name}", "user", rules)
