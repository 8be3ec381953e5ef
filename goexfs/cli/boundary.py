"""Options that shape the sandbox of one run: which policy, and what this run says on top of it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from goexfs.units import parse_size
from goexfs.wire import Message

F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only from 8.5 on
    """Bytes, or with a unit: 4096, 512M, 2G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_OPTIONS = (
    click.option("--policy", metavar="NAME", help="strict, default, dev, or one of yours."),
    click.option("--memory", type=Size(), metavar="SIZE", help="At most this much: 512M, 2G."),
    click.option("--processes", type=int, metavar="N", help="At most so many, threads counted."),
    click.option("--cpu", type=float, metavar="N", help="At most so many processors' time."),
    click.option("--layer", type=Size(), metavar="SIZE", help="At most so much changed data."),
    click.option("--network", type=click.Choice(["none", "allow", "host"]), help="[none]"),
    click.option(
        "--allow-host",
        multiple=True,
        metavar="HOST[:PORT]",
        help="Let it reach this host: example.com, *.example.com:443, 10.1.2.3:8080.",
    ),
    click.option("--read", multiple=True, metavar="PATH", help="Show this too, read-only."),
    click.option(
        "--hide", multiple=True, metavar="GLOB", help="Hide this: absolute, ~/..., or in the roots."
    ),
)
_NAMES = ("policy", "memory", "processes", "cpu", "layer", "network", "allow_host", "read", "hide")


def with_policy(function: F) -> F:
    """The options of ``_OPTIONS``, as one argument ``boundary``: params of a run."""

    @functools.wraps(function)
    def gathered(**values: Any) -> Any:
        own = {name: values.pop(name) for name in _NAMES}
        return function(**values, boundary=params(**own))

    found: Any = gathered
    for option in reversed(_OPTIONS):
        found = option(found)
    return found  # type: ignore[no-any-return]


def params(
    policy: str | None,
    memory: int | None,
    processes: int | None,
    cpu: float | None,
    layer: int | None,
    network: str | None,
    allow_host: tuple[str, ...],
    read: tuple[str, ...],
    hide: tuple[str, ...],
) -> Message:
    """``policy`` and ``rules`` of a run, as far as something was said."""
    from goexfs.cli.asking import text

    if allow_host and network not in (None, "allow"):
        raise click.UsageError(f"--allow-host makes no sense with --network {network}")
    rules: Message = {
        "memory": memory,
        "processes": processes,
        "cpu": cpu,
        "layer_bytes": layer,
        "network": "allow" if allow_host else network,
        "allow": [text(host, "--allow-host") for host in allow_host] or None,
        "read": [text(os.path.realpath(path), "--read") for path in read] or None,
        "hide": [text(pattern, "--hide") for pattern in hide] or None,
    }
    rules = {key: value for key, value in rules.items() if value is not None}
    found: Message = {}
    if policy is not None:
        found["policy"] = text(policy, "--policy")
    if rules:
        found["rules"] = rules
    return found
