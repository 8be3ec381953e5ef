"""What both clients say: calls as request models, a script's input as notices.  No I/O.

Session arguments may be an id, a name, a model that names one, or None: then the caller's
working directory picks the one open session that holds it.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from goexfs.errors import Unavailable, Usage
from goexfs.names import to_wire
from goexfs.protocol import (
    METHODS,
    Diff,
    Model,
    Mount,
    Patch,
    Policy,
    Reply,
    Run,
    RunResult,
    Script,
    SessionInfo,
    Start,
)
from goexfs.wire import MAX_AHEAD, Message, decode, encode

Session = str | SessionInfo | RunResult | None
Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

Resolved = Literal["mine", "theirs", "merge"]
"""What becomes of a conflict."""
Way = Literal["abort", "mine", "theirs", "merge"]

_METHOD: dict[type[Model], str] = {request: name for name, (request, _) in METHODS.items()}
_PIECE = 64 * 1024
KILL_SECONDS = 10.0
"""How long an abandoned run waits for its script to be gone."""


M = TypeVar("M", bound=Model)
R = TypeVar("R", bound=Reply)


def build(kind: type[M], **fields: Any) -> M:
    """The request; Usage where a field makes no sense."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise Usage(f"{method_of(kind)}: {name}: {first['msg']}") from error


def understand(kind: type[R], found: Message) -> R:
    """The reply; Unavailable where it is none that this library knows."""
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise Unavailable(
            f"goexfsd's answer is no {kind.__name__}: {error.errors()[0]['msg']}",
            hint="client and daemon are of versions that do not fit",
        ) from error


def method_of(kind: type[Model]) -> str:
    return _METHOD[kind]


def method(request: Model) -> str:
    return method_of(type(request))


def params(request: Model) -> Message:
    return request.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def path(value: Path) -> str:
    """The wire form of a path as the caller has it."""
    return to_wire(os.fsencode(value))


def where(session: Session) -> dict[str, Any]:
    """``session`` and ``cwd`` of a request."""
    chosen = session if session is None or isinstance(session, str) else session.session
    directory = here()
    return {"session": chosen} if directory is None else {"session": chosen, "cwd": directory}


def here() -> str | None:
    """The current directory; None where it was removed under us: then it picks nothing."""
    try:
        return path(pathlib.Path.cwd())
    except FileNotFoundError:
        return None


def mount(
    roots: Sequence[Path],
    name: str | None,
    at: Path | None,
    policy: str | None,
    hide: Sequence[str],
    mask: Sequence[str],
    read_only: Sequence[str],
    view: str,
) -> Mount:
    place = None if at is None else path(os.path.realpath(os.fsencode(at)))
    return build(
        Mount,
        roots=[path(os.path.realpath(os.fsencode(root))) for root in roots],
        name=name,
        at=place,
        policy=policy,
        hide=list(hide),
        mask=list(mask),
        read_only=list(read_only),
        view=view,
    )


def script(text: str | bytes | None, name: str) -> Script | None:
    if text is None:
        return None
    coded = encode(text.encode() if isinstance(text, str) else text)
    return Script(text=coded["data"], encoding=coded["encoding"], name=name)


def run(
    command: Sequence[str],
    session: Session,
    text: str | bytes | None,
    script_name: str,
    timeout: float | None,
    env: Mapping[str, str] | None,
    label: str | None,
    policy: str | None,
    rules: Mapping[str, Any] | None,
    *,
    stream: bool,
    stdin: bool,
) -> Run:
    return build(
        Run,
        **where(session),
        command=list(command),
        script=script(text, script_name),
        timeout=timeout,
        env=dict(env or {}),
        label=label,
        policy=policy,
        rules=rules,
        stream=stream,
        stdin=stdin,
    )


def start(
    command: Sequence[str],
    session: Session,
    name: str | None,
    timeout: float | None,
    env: Mapping[str, str] | None,
    policy: str | None,
    rules: Mapping[str, Any] | None,
) -> Start:
    return build(
        Start,
        **where(session),
        command=list(command),
        name=name,
        timeout=timeout,
        env=dict(env or {}),
        policy=policy,
        rules=rules,
    )


def policy(session: Session, name: str | None, rules: Mapping[str, Any] | None) -> Policy:
    return build(Policy, run=build(Run, **where(session), policy=name, rules=rules))


def selection(paths: Sequence[Path], exclude: Sequence[Path]) -> dict[str, list[str]]:
    """Names or globs, and those of what is left out."""
    return {
        "paths": [path(each) for each in paths],
        "exclude": [path(each) for each in exclude],
    }


def edited(text: bytes | None) -> Patch | None:
    if text is None:
        return None
    coded = encode(text)
    return Patch(text=coded["data"], encoding=coded["encoding"])


def diff(
    paths: Sequence[Path],
    exclude: Sequence[Path],
    session: Session,
    step: int | None,
    from_: int | None,
    to: int | None,
    *,
    patch: bool,
) -> Diff:
    span = {"step": step, "from": from_, "to": to}
    return build(Diff, **where(session), **span, **selection(paths, exclude), patch=patch)


def resolutions(wanted: Mapping[Path, Resolved]) -> list[dict[str, str]]:
    return [{"path": path(each), "way": way} for each, way in wanted.items()]


def kill(request: int) -> Message:
    """Params of the ``signal`` notice that ends a run."""
    return {"request": request, "name": "KILL"}


def output(params: Message) -> tuple[str, bytes]:
    """Stream and bytes of an ``output`` event."""
    return params["stream"], decode(params)


class Feed:
    """A script's input, sent no more than ``MAX_AHEAD`` ahead of what it took.

    Both are counted in characters of ``data`` as it goes over the wire.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._sent = 0
        self._ahead = 0
        self._ended = False

    def took(self, count: int) -> None:
        self._ahead -= count

    def notices(self, request: int) -> Iterator[Message]:
        """The params of the ``input`` notices that may be sent now."""
        while self._sent < len(self._data) and self._ahead + 2 * _PIECE <= MAX_AHEAD:
            piece = self._data[self._sent : self._sent + _PIECE]
            self._sent += len(piece)
            coded = encode(piece)
            self._ahead += len(coded["data"])
            yield {"request": request, **coded}
        if self._sent == len(self._data) and not self._ended:
            self._ended = True
            yield {"request": request, "eof": True}
