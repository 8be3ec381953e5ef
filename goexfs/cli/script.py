"""A run seen through, whoever parsed its words: the script's streams, then what it ran into."""

from __future__ import annotations

import sys

from goexfs.cli.stream import Driver, Source
from goexfs.wire import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from goexfs.cli.state import State
    from goexfs.wire import Message

_FEW = 5
_LIMITS = {
    "memory": "memory: something was killed for want of it (--memory raises it)",
    "processes": "processes: some could not be started (--processes raises it)",
    "layer_bytes": "changed data (--layer raises it)",
    "layer_inodes": "changed entries (layer_inodes in a policy raises it)",
}


def run(params: Message, source: Source | None, stream: bool, about: State) -> Message:
    """See a run through; on a terminal, say why where its status alone does not."""
    about.script = "asked"
    with connect() as connection:
        driver = Driver(connection, source, about)
        more = {"stream": stream, "stdin": source is not None}
        result = driver.finish({**params, **more})
    if stream and result.get("timed_out"):
        limit = f" of {params['timeout']:g} s" if "timeout" in params else ""
        print(f"goexfs: stopped at the time limit{limit}", file=sys.stderr)
    if stream:
        tell_limits(result)
        tell_refused(result)
    return result


def tell_limits(result: Message) -> None:
    """Name the limits that the script ran into: its own words for it may be odd ones."""
    for limit in result.get("exceeded") or ():
        print(f"goexfs: hit the limit on {_LIMITS.get(limit, limit)}", file=sys.stderr)


def tell_refused(result: Message) -> None:
    """Name the hosts that were refused, each once, with the option that would allow it."""
    asked = (result.get("network") or {}).get("requests", ())
    rules = list(dict.fromkeys(each["rule"] for each in asked if each.get("rule")))
    for rule in rules[:_FEW]:
        from goexfs.names import visible

        print(f"goexfs: refused the network: --allow-host {visible(rule)} would allow it",
              file=sys.stderr)  # fmt: skip
    if len(rules) > _FEW:
        print(f"goexfs: ... and {len(rules) - _FEW} more: goexfs log --network", file=sys.stderr)
