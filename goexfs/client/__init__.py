"""The typed client library: ``connect()`` for plain programs, ``connect_trio()`` for trio.

The same verbs as the command line and the wire, one method a request, each returning the
request's result model from ``goexfs.protocol`` and raising the errors of ``goexfs.errors``.

Every call has a connection of its own.  So a client may be shared by threads or tasks, a slow
``on_output`` holds up only its own script, and a call that is abandoned (an exception, a
cancelled scope) hangs up, upon which the daemon ends what it had asked for.  A run that is
abandoned first kills its script and waits for its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from goexfs.client.plain import Client, connect

if TYPE_CHECKING:
    from goexfs.client.async_trio import TrioClient, connect_trio

__all__ = ["Client", "TrioClient", "connect", "connect_trio"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # trio is half of what this library would cost to import: only for those who use it.
        if name not in ("TrioClient", "connect_trio"):
            raise AttributeError(f"module 'goexfs.client' has no attribute {name!r}")
        from goexfs.client import async_trio

        return getattr(async_trio, name)
