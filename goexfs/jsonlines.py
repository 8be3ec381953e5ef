"""JSON for the client: what ``json`` does, without what importing ``json`` costs.

The package imports ``re`` and ``enum`` for halves of it that are not used here: a tenth of the
command line's start.  Its other halves are written in C and live in ``_json``; they are asked
first.  Whatever they do not take as a matter of course is the package's, so that both say the
same (a test holds them to it); so is everything where an interpreter has them not.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def dumps(value: Any) -> str:
    """``json.dumps`` without spaces."""
    if _encode is not None:
        return "".join(_encode(value, 0))
    import json

    return json.dumps(value, separators=(",", ":"))


def loads(line: bytes) -> Any:
    """``json.loads`` of one line; ValueError if it is no JSON."""
    if _scan is not None:
        try:
            text = line.decode()
            value, end = _scan(text, 0)
            if end == len(text):
                return value
        except (StopIteration, ValueError):
            pass
    import json

    return json.loads(line)


def _refuse(value: object) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


class _Settings:
    """What the scanner asks: the defaults of ``json.JSONDecoder``."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {
        "-Infinity": float("-inf"),
        "Infinity": float("inf"),
        "NaN": float("nan"),
    }.__getitem__


_encode: Any = None
_scan: Any = None
try:
    import _json

    _encode = _json.make_encoder(
        None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, True
    )
    _scan = _json.make_scanner(_Settings)  # type: ignore[arg-type]
except (ImportError, AttributeError, TypeError):
    _encode = _scan = None
