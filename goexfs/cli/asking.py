"""One question, one answer: a connection, the session and directory that go with it."""

from __future__ import annotations

import os

from goexfs.errors import Usage
from goexfs.wire import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from goexfs.wire import Message, OnEvent


def ask(method: str, params: Message, on_event: OnEvent | None = None) -> Message:
    """The result of a request, on a connection of its own."""
    with connect() as connection:
        return connection.call(method, params, on_event)


def path(name: str) -> str:
    """The wire form of a path: of its bytes, whatever the locale makes of them."""
    data = os.fsencode(name)
    try:
        found = data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        if not found.startswith("base64:"):
            return found
    # Not UTF-8: rare, and the only reason to load names here.
    from goexfs.names import to_wire

    return to_wire(data)


def remark(text: str | None) -> str | None:
    """Words of the caller's that are only ever shown: what is not UTF-8 in them is replaced."""
    return None if text is None else os.fsencode(text).decode("utf-8", "replace")


def text(value: str, what: str) -> str:
    """The value, if it can go over the wire."""
    try:
        return os.fsencode(value).decode("utf-8")
    except UnicodeDecodeError:
        raise Usage(
            f"{what} is not UTF-8: {value!r}", hint="put it in a script, and run that"
        ) from None


def here() -> str | None:
    """The current directory; None where it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def where(session: str | None, **more: Any) -> Message:
    """Params that pick the session; further ones that are None are left out."""
    params: Message = {name: value for name, value in more.items() if value is not None}
    if session is not None:
        params["session"] = session
    directory = here()
    if directory is not None:
        params["cwd"] = path(directory)
    return params


def selected(params: Message, names: Sequence[str], exclude: Sequence[str]) -> Message:
    """The params with the names and globs of ``with_selection``."""
    if names:
        params["paths"] = [path(name) for name in names]
    if exclude:
        params["exclude"] = [path(name) for name in exclude]
    return params


def real(name: str) -> str:
    """An absolute path without symlinks, in wire form; what does not exist stays as it is."""
    return path(os.path.realpath(name))


def many_roots(session: str) -> bool:
    """Whether paths of this session need their root's name before them."""
    for each in ask("ls", {"all": True})["sessions"]:
        if each["session"] == session:
            return len(each["roots"]) > 1
    return False
