"""``goexfs discard``."""

from __future__ import annotations

from goexfs.cli.asking import ask, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_session


@declare("discard", "goexfs discard", "goexfs discard -s nightly")
@with_session
@with_json
def command(session: str | None) -> None:
    """Throw a session and everything it changed away; the real directories stay as they are."""
    result = ask("discard", where(session))
    if state().json:
        from goexfs.cli.show import print_json

        print_json(result)
    else:
        print(f"discarded session {result['session']}")
