"""goexfs: transactions for scripts on real files.

    import goexfs

    with goexfs.connect() as fs:
        session = fs.mount("/home/me/project").session
        ran = fs.run(["make", "test"], session=session)
        print(ran.status, fs.diff(session=session).summary)
        fs.commit(session=session) if ran.status == 0 else fs.discard(session=session)

Importing this package loads nothing else: each name is fetched when it is first asked for, so
that the command line, which lives in ``goexfs.cli``, does not pay for the typed library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goexfs.client import Client, TrioClient, connect, connect_trio
    from goexfs.errors import (
        CommitFailed,
        Conflict,
        Denied,
        GoexfsError,
        Internal,
        InvalidState,
        Limit,
        NotExecutable,
        NotFound,
        SandboxFailed,
        StoreFailed,
        Unavailable,
        Unsupported,
        Usage,
        ViewFailed,
    )

__all__ = [
    "Client",
    "CommitFailed",
    "Conflict",
    "Denied",
    "GoexfsError",
    "Internal",
    "InvalidState",
    "Limit",
    "NotExecutable",
    "NotFound",
    "SandboxFailed",
    "StoreFailed",
    "TrioClient",
    "Unavailable",
    "Unsupported",
    "Usage",
    "ViewFailed",
    "connect",
    "connect_trio",
]

_CLIENT = frozenset(("Client", "TrioClient", "connect", "connect_trio"))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'goexfs' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module("goexfs.client" if name in _CLIENT else "goexfs.errors"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
