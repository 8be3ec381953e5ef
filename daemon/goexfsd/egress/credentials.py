"""Placeholders in, values out; and values in answers, masked.

A credential is bound to one host, port, way (TLS or not) and header.  In a request to just that,
the header's placeholder is replaced: in place, inside ``Basic`` too, or by the credential's
format.  A credential without a placeholder is put in whenever that host is asked.  Nowhere else
does a value appear: to any other host a placeholder goes as it is, and is worth nothing.

A server that sends back what it was sent would give a value away.  It is masked in answers
(headers and bodies, over pieces too) where it appears as it was sent; in another form (encoded,
compressed against our wish) it is not recognised.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field

from goexfsd.egress.message import Headers, Target

_SHORTEST_MASKED = 8
"""What is shorter appears by chance."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One credential with its value.  Its repr does not show that."""

    target: Target
    header: bytes
    """Lower case."""
    value: bytes = field(repr=False)
    format: str = ""
    """``{}`` stands for the value; empty: only the placeholder is replaced."""
    placeholder: bytes = b""
    """Empty: the header is always set."""

    def whole(self) -> bytes:
        """The header with nothing of the script's in it."""
        before, found, after = (self.format or "{}").partition("{}")
        return before.encode("ascii") + (self.value if found else b"") + after.encode("ascii")

    def _in_place(self, said: bytes) -> bytes:
        scheme, _, coded = said.partition(b" ")
        if scheme.lower() == b"basic":
            try:
                plain = base64.b64decode(coded.strip(), validate=True)
            except binascii.Error:
                plain = b""
            if self.placeholder in plain:
                return b"Basic " + base64.b64encode(plain.replace(self.placeholder, self.value))
        return said.replace(self.placeholder, self.value)

    def fill(self, said: bytes) -> bytes:
        """What a header with this value is to say instead."""
        replaced = self._in_place(said)
        return self.whole() if self.format and replaced != said else replaced


class Credentials:
    """All that one step has."""

    def __init__(self, held: list[Credential]) -> None:
        self._held = held

    def intercepted(self) -> list[Target]:
        """The targets whose TLS has to end here."""
        return list(dict.fromkeys(one.target for one in self._held if one.target.tls))

    def of(self, target: Target) -> list[Credential]:
        return [one for one in self._held if one.target == target]

    def apply(self, target: Target, headers: Headers) -> tuple[Headers, Mask]:
        """The headers with the values that are for this target, and a mask for its answer."""
        bound = self.of(target)
        if not bound:
            return headers, Mask(())
        secrets = [one.value for one in bound]
        filled = headers
        for one in bound:
            before = filled
            if one.placeholder:
                filled = [
                    (key, one.fill(said) if key == one.header else said) for key, said in before
                ]
                secrets += [
                    new.rpartition(b" ")[2]
                    for (_, new), (_, old) in zip(filled, before, strict=True)
                    if new != old
                ]
            else:
                filled = [(key, said) for key, said in before if key != one.header]
                filled.append((one.header, one.whole()))
        # An answer that is compressed could not be masked.
        filled = [(key, said) for key, said in filled if key not in (b"accept-encoding", b"range")]
        filled.append((b"accept-encoding", b"identity"))
        return filled, Mask(tuple(secrets))


class Mask:
    """Replaces secrets in a stream by as many asterisks."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        long = {secret for secret in secrets if len(secret) >= _SHORTEST_MASKED}
        self._secrets = sorted(long, key=len, reverse=True)
        self._held = b""

    def once(self, data: bytes) -> bytes:
        """Something that is whole: a header."""
        for secret in self._secrets:
            data = data.replace(secret, b"*" * len(secret))
        return data

    def feed(self, data: bytes) -> bytes:
        """The next piece; what may be the beginning of a secret is held back."""
        if not self._secrets:
            return data
        data = self.once(self._held + data)
        keep = max(_overlap(data, secret) for secret in self._secrets)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def end(self) -> bytes:
        """What was held back."""
        rest, self._held = self._held, b""
        return rest


def _overlap(data: bytes, secret: bytes) -> int:
    """The length of the longest end of ``data`` that begins ``secret``, and is not all of it."""
    for length in range(min(len(data), len(secret) - 1), 0, -1):
        if data[-1] == secret[length - 1] and secret.startswith(data[-length:]):
            return length
    return 0
