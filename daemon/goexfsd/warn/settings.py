"""Files of which only some settings run something: what one says now, and did not before.

``git``: a git configuration; ``attributes``: .gitattributes; ``package``: package.json and its
like.  Each answers with the names of what was added, from a fixed vocabulary: nothing of the
file's own text leaves this room.  What cannot be read as what it claims to be is reported as a
whole, for another program may read it differently.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

MAX = 1024 * 1024
"""Bytes of a file that is read; a larger one is reported as a whole."""

_RUNNING = """
    alias.*! browser.*.cmd browser.*.path core.alternaterefscommand core.askpass
    core.attributesfile core.editor core.fsmonitor core.gitproxy core.hookspath core.pager
    core.sshcommand core.worktree credential.helper credential.*.helper diff.external
    diff.*.command diff.*.textconv difftool.*.cmd difftool.*.path filter.*.clean
    filter.*.process filter.*.smudge gpg.program gpg.*.program gpg.ssh.defaultkeycommand
    guitool.*.cmd hook.*.command include.path includeif.*.path init.templatedir
    interactive.difffilter lfs.customtransfer.*.path man.*.cmd man.*.path merge.*.driver
    mergetool.*.cmd mergetool.*.path pager.* protocol.allow protocol.*.allow
    remote.*.receivepack remote.*.uploadpack remote.*.url:: remote.*.pushurl:: remote.*.vcs
    sendemail.cccmd sendemail.headercmd sendemail.sendmailcmd sendemail.smtpserver
    sendemail.tocmd sendemail.*.cccmd sendemail.*.sendmailcmd sendemail.*.smtpserver
    sequence.editor submodule.*.update! tar.*.command trailer.*.cmd trailer.*.command
    uploadpack.packobjectshook url.*.insteadof url.*.pushinsteadof web.browser
"""
GIT_SETTINGS = frozenset(_RUNNING.split())
"""Settings that name a program, or lead git to other settings.  With ``!``: only a value that
begins with it; with ``::``: only an address with a transport helper in it."""

_HARMLESS = {
    "core.fsmonitor": frozenset(("true", "false", "")),
    "pager.*": frozenset(("true", "false", "")),
}
_SECTION = re.compile(r'\s*\[\s*([\w.-]+)(?:\s+"((?:[^"\\]|\\.)*)")?\s*\]')
_SETTING = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:=\s*(.*))?$", re.DOTALL)

_DIFFS = """
    ada bash bibtex cpp csharp css dts elixir fortran fountain golang html ini java kotlin
    markdown matlab objc pascal perl php python ruby rust scheme tex
"""
_DIFF_DRIVERS = frozenset(_DIFFS.split())
_MERGE_DRIVERS = frozenset(("text", "binary", "union"))
_DRIVER = re.compile(rb"(?:^|\s)(filter|diff|merge)=(\S+)")

RUN_BY = {
    "package.json": ("scripts", "lint-staged", "husky", "pre-commit", "simple-git-hooks"),
    "composer.json": ("scripts",),
    "deno.json": ("tasks",),
    "pyproject.toml": ("build-system", "tool"),
}
"""The parts of a package's description that say what is run."""


def git(old: bytes, new: bytes) -> list[str]:
    """Settings of ``GIT_SETTINGS`` that ``new`` has and ``old`` has not so."""
    before = _git_settings(old)
    return sorted({name for name, value in _git_settings(new) - before})


def _git_settings(data: bytes) -> set[tuple[str, str]]:
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").replace("\\\n", "")
    found: set[tuple[str, str]] = set()
    section = ""
    for line in text.split("\n"):
        heading = _SECTION.match(line)
        if heading is not None:
            section = _section(heading[1], heading[2])
            line = line[heading.end() :]
        setting = _SETTING.match(line)
        if setting is None or line.lstrip().startswith(("#", ";")):
            continue
        name = _running(section, setting[1].lower(), (setting[2] or "").strip())
        if name is not None:
            found.add((name, f"{section}\0{line.strip()}"))
    return found


def _section(name: str, below: str | None) -> str:
    first, dot, rest = name.lower().partition(".")
    if below is None and not dot:
        return first
    return f"{first}.*\0{below if below is not None else rest}"


def _running(section: str, key: str, value: str) -> str | None:
    """The name in ``GIT_SETTINGS`` of a setting that runs something with this value."""
    group = section.partition("\0")[0]
    plain = value.strip("\"' ")
    for name in (f"{group}.{key}", f"{group}.*"):
        if name in GIT_SETTINGS:
            return None if plain.lower() in _HARMLESS.get(name, ()) else name
        if name + "!" in GIT_SETTINGS:
            return name if plain.startswith("!") else None
        if name + "::" in GIT_SETTINGS:
            return name if "::" in plain else None
    return None


def attributes(old: bytes, new: bytes) -> list[str]:
    """The kinds of driver (filter, diff, merge) that ``new`` chooses where ``old`` did not."""
    return sorted({kind for kind, _ in _drivers(new) - _drivers(old)})


def _drivers(data: bytes) -> set[tuple[str, bytes]]:
    found: set[tuple[str, bytes]] = set()
    for line in data.splitlines():
        for kind, driver in _DRIVER.findall(line):
            known = {b"diff": _DIFF_DRIVERS, b"merge": _MERGE_DRIVERS}.get(kind, frozenset())
            if driver.decode("utf-8", "replace") not in known:
                found.add((kind.decode(), line.strip()))
    return found


def package(name: str, old: bytes, new: bytes) -> list[str]:
    """The parts of ``RUN_BY`` that differ; all of them if ``new`` cannot be read."""
    parts = RUN_BY[name]
    after = _load(name, new)
    if after is None:
        return list(parts)
    before = _load(name, old) or {}
    return [part for part in parts if after.get(part) and after.get(part) != before.get(part)]


def _load(name: str, data: bytes) -> dict[str, Any] | None:
    if not data:
        return {}
    try:
        text = data.decode("utf-8")
        found: Any = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
