#!/usr/bin/env python3
"""Several attempts at once, with trio: the first that succeeds is committed.

    agent_trio.py DIRECTORY COMMAND...

Each COMMAND (a line of shell) runs in a session of its own over the same DIRECTORY; they do not
see each other.  Its output is printed as it comes.  The others are cancelled, which kills what
they run, and discarded.
"""

import sys

import trio

import goexfs


async def attempt(
    fs: goexfs.TrioClient, directory: str, command: str, done: trio.CancelScope
) -> str | None:
    """Run one attempt; commit it if it is the first to succeed."""

    async def show(stream: str, data: bytes) -> None:
        print(f"[{command}] {data.decode(errors='replace')}", end="")

    session = await fs.mount(directory)
    commit = None
    try:
        ran = await fs.run(["sh", "-c", command], session=session, on_output=show)
        if ran.status == 0 and not done.cancel_called:
            done.cancel()
            with trio.CancelScope(shield=True):
                commit = (await fs.commit(session=session, message=command)).commit
                print(f"[{command}] committed as {commit}")
    finally:
        if commit is None:
            with trio.CancelScope(shield=True):
                await fs.discard(session)
    return commit


async def main(*arguments: str) -> None:
    directory, *commands = arguments
    async with goexfs.connect_trio() as fs, trio.open_nursery() as nursery:
        for command in commands:
            nursery.start_soon(attempt, fs, directory, command, nursery.cancel_scope)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
