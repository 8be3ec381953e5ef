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

TYPE_CHECKING = False  # typing's is the same to a type checker, but costs 4 ms to import
if TYPE_CHECKING:
    from goexfs.client import Client, TrioClient, connect, connect_trio
    from goexfs.errors import (
        CannotSwitch,
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
    from goexfs.protocol import (
        Change,
        CheckpointInfo,
        CommitInfo,
        CommitResult,
        ConflictInfo,
        DiffResult,
        DiscardResult,
        DoctorResult,
        LogResult,
        OutputResult,
        ProgressEvent,
        RewindResult,
        RunResult,
        SessionInfo,
        StatusResult,
        StepInfo,
        Summary,
        UndoResult,
    )

__all__ = [
    "CannotSwitch",
    "Change",
    "CheckpointInfo",
    "Client",
    "CommitFailed",
    "CommitInfo",
    "CommitResult",
    "Conflict",
    "ConflictInfo",
    "Denied",
    "DiffResult",
    "DiscardResult",
    "DoctorResult",
    "GoexfsError",
    "Internal",
    "InvalidState",
    "Limit",
    "LogResult",
    "NotExecutable",
    "NotFound",
    "OutputResult",
    "ProgressEvent",
    "RewindResult",
    "RunResult",
    "SandboxFailed",
    "SessionInfo",
    "StatusResult",
    "StepInfo",
    "StoreFailed",
    "Summary",
    "TrioClient",
    "Unavailable",
    "UndoResult",
    "Unsupported",
    "Usage",
    "ViewFailed",
    "connect",
    "connect_trio",
]

_CLIENT = frozenset(("Client", "TrioClient", "connect", "connect_trio"))

if not TYPE_CHECKING:  # a type checker is to know every name, not to guess them

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module 'goexfs' has no attribute {name!r}")
        if name in _CLIENT:
            home = import_module("goexfs.client")
        else:
            home = import_module("goexfs.errors")
            if not hasattr(home, name):
                home = import_module("goexfs.protocol")
        value = globals()[name] = getattr(home, name)
        return value


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
