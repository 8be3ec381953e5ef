"""Text that looks like a secret: key headers and the formats of common tokens, as data.

Each format has a literal that must occur before its expression is tried, so that text without
secrets costs a few substring searches.  What is found stays here: callers learn the format's
name, and whether a text holds one that another did not, never the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD = 64 * 1024
"""Bytes of a file that are searched."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a kind of secret looks."""

    name: str
    literal: bytes
    """Occurs in every one of them."""
    expression: re.Pattern[bytes]


def _format(name: str, literal: bytes, expression: bytes) -> Format:
    return Format(name, literal, re.compile(expression))


_WORD = rb"(?<![A-Za-z0-9_])"

FORMATS = (
    _format(
        "a private key",
        b"-----BEGIN ",
        rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----",
    ),
    _format("a PuTTY private key", b"PuTTY-User-Key-File-", rb"PuTTY-User-Key-File-\d"),
    _format("an age secret key", b"AGE-SECRET-KEY-", rb"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    _format("an AWS access key", b"IA", _WORD + rb"A[KS]IA[A-Z2-7]{16}(?![A-Z0-9])"),
    _format("an Azure storage key", b"AccountKey=", rb"AccountKey=[A-Za-z0-9+/]{80,88}={0,2}"),
    _format("a Google API key", b"AIza", _WORD + rb"AIza[0-9A-Za-z_-]{35}"),
    _format("a GitHub token", b"gh", _WORD + rb"gh[pousr]_[A-Za-z0-9]{36,255}"),
    _format("a GitHub token", b"github_pat_", rb"github_pat_[A-Za-z0-9_]{22,255}"),
    _format("a GitLab token", b"glpat-", _WORD + rb"glpat-[A-Za-z0-9_-]{20,}"),
    _format("a Slack token", b"xox", _WORD + rb"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    _format("a Slack webhook", b"hooks.slack.com/", rb"hooks\.slack\.com/services/T[\w/]{20,}"),
    _format("a Stripe key", b"k_live_", _WORD + rb"[rs]k_live_[A-Za-z0-9]{20,}"),
    _format("an API key", b"sk-", _WORD + rb"sk-(?:[a-z0-9]{2,10}-)*[A-Za-z0-9_]{24,}"),
    _format("an npm token", b"npm_", _WORD + rb"npm_[A-Za-z0-9]{36}"),
    _format("an npm login", b"_authToken", rb"_authToken\s*=\s*[\"']?[A-Za-z0-9][\w.+/=-]{15,}"),
    _format("a PyPI token", b"pypi-", _WORD + rb"pypi-AgE[A-Za-z0-9_-]{50,}"),
    _format("a Hugging Face token", b"hf_", _WORD + rb"hf_[A-Za-z0-9]{30,}"),
    _format("a SendGrid key", b"SG.", _WORD + rb"SG\.[\w-]{22}\.[\w-]{43}"),
    _format("a DigitalOcean token", b"_v1_", _WORD + rb"do[opr]_v1_[a-f0-9]{64}"),
    _format("a Vault token", b"hv", _WORD + rb"hv[sbr]\.[A-Za-z0-9_-]{24,}"),
    _format(
        "a JSON web token",
        b"eyJ",
        _WORD + rb"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    ),
    _format(
        "a password in an address",
        b"://",
        rb"://[^\s/:@\"'<>{}$%*]{1,64}:[^\s/:@\"'<>{}$%*]{4,128}@[A-Za-z0-9\[]",
    ),
)


_TELLING = b"-_.:="


def _by_byte() -> tuple[tuple[bytes, tuple[tuple[bytes, Format], ...]], ...]:
    """The formats by a byte of their literals that much text does not have."""
    groups: dict[bytes, list[tuple[bytes, Format]]] = {}
    for each in FORMATS:
        byte = next((bytes([b]) for b in _TELLING if b in each.literal), each.literal[:1])
        groups.setdefault(byte, []).append((each.literal, each))
    return tuple((byte, tuple(formats)) for byte, formats in groups.items())


_BY_BYTE = _by_byte()


def find(text: bytes) -> dict[str, frozenset[bytes]]:
    """By format, what looks like it.  The values are for comparing, not for telling."""
    found: dict[str, frozenset[bytes]] = {}
    for byte, formats in _BY_BYTE:
        if byte not in text:
            continue
        for literal, each in formats:
            if literal in text:
                values = frozenset(each.expression.findall(text))
                if values:
                    found[each.name] = found.get(each.name, frozenset()) | values
    return found


def added(old: dict[str, frozenset[bytes]], new: dict[str, frozenset[bytes]]) -> list[str]:
    """The formats of which there is one that was not there before."""
    return [name for name, values in new.items() if values - old.get(name, frozenset())]
