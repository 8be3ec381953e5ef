"""What commands share: help with examples, ``--json``, ``-s``, durations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from goexfs.cli.state import State

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])


class Command(click.Command):
    """A command whose help ends with examples; an example is a line of shell."""

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
            for line in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def command(name: str, *examples: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Declare a command; what its function returns is the exit status (None: 0)."""
    return click.command(name, cls=Command, examples=examples, **settings)


def _set_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(State).json = True


def with_json(function: F) -> F:
    """``--json``: the result, or the error, as one JSON object on stdout."""
    return click.option(
        "--json",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_json,
        help="Print JSON.",
    )(function)


def _sessions(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from goexfs.cli.asking import ask
    from goexfs.errors import GoexfsError

    try:
        found = ask("ls", {})["sessions"]
    except GoexfsError:
        return []
    return [
        CompletionItem(each["name"], help=", ".join(root["path"] for root in each["roots"]))
        for each in found
        if each["name"].startswith(incomplete)
    ]


def with_session(function: F) -> F:
    """``-s``: which session."""
    return click.option(
        "-s",
        "--session",
        envvar="GOEXFS_SESSION",
        metavar="NAME",
        shell_complete=_sessions,
        help="Session, by name or id [else $GOEXFS_SESSION, else the one that holds this"
        " directory].",
    )(function)


def with_selection(function: F) -> F:
    """``PATH...`` and ``--exclude``: which entries, by name or glob."""
    function = click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Leave this out, and all below it; may be repeated.",
    )(function)
    return click.argument("names", nargs=-1, metavar="[PATH]...")(function)


class Name(click.ParamType):  # type: ignore[type-arg]  # generic only from 8.5 on
    """A session's or a job's name."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        plain = value.replace(".", "").replace("_", "").replace("-", "")
        if len(value) > 64 or not value[:1].isalnum() or not (plain.isalnum() and plain.isascii()):
            self.fail(
                f"{value!r} is no name; it may have letters, digits, '.', '_' and '-', up to 64,"
                " and begins with a letter or digit",
                param,
                ctx,
            )
        return value


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic only from 8.5 on
    """Seconds, or with a unit: 90, 1.5, 30s, 5m, 2h."""

    name = "time"
    _UNITS = {"s": 1, "m": 60, "h": 3600}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        number, unit = (value[:-1], value[-1]) if value[-1:] in self._UNITS else (value, "s")
        try:
            seconds = float(number) * self._UNITS[unit]
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} is no time; try 30, 30s, 5m or 2h", param, ctx)
        return seconds
