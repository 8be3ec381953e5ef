"""Reading requests our way: pyfuse3's tasks, played over a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyfuse3
import pytest
import trio
import trio.lowlevel
import trio.testing

from goexfsd.view import reading


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


async def serve(waiting: reading.Waiting, fd: int, seen: list[bytes], gate: trio.Event) -> None:
    """What pyfuse3's session loop does; ``s`` is a slow request."""
    while True:
        async with waiting.Lock():
            await waiting.lowlevel.wait_readable(fd)
        byte = os.read(fd, 1)
        if byte == b"s":
            with waiting:
                await gate.wait()
        seen.append(byte)


def test_this_pyfuse3_can_be_made_to_wait_our_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(pyfuse3), "trio", trio)
    reading.install()
    assert vars(pyfuse3)["trio"] is reading.slow


def test_another_task_reads_on_while_one_waits(pipe: tuple[int, int]) -> None:
    seen: list[bytes] = []

    async def main() -> None:
        waiting, gate = reading.Waiting(), trio.Event()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(serve, waiting, pipe[0], seen, gate)
                os.write(pipe[1], b"1s2s3")
                while len(seen) < 3:
                    await trio.lowlevel.checkpoint()
                assert seen == [b"1", b"2", b"3"]
                gate.set()
                while len(seen) < 5:
                    await trio.lowlevel.checkpoint()
                os.write(pipe[1], b"4")
                while len(seen) < 6:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert seen == [b"1", b"2", b"3", b"s", b"s", b"4"]


def test_everybody_else_has_a_turn_in_a_long_burst(pipe: tuple[int, int]) -> None:
    seen: list[bytes] = []

    async def main() -> None:
        waiting, gate = reading.Waiting(), trio.Event()
        os.write(pipe[1], b"x" * 1000)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, waiting, pipe[0], seen, gate)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                assert len(seen) < 100
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_end_of_the_mount_wakes_all_readers(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        waiting, woken = reading.Waiting(), 0

        async def read() -> None:
            nonlocal woken
            async with waiting.Lock():
                await waiting.lowlevel.wait_readable(pipe[0])
            woken += 1

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                hung = os.open("/dev/null", os.O_WRONLY)
                os.dup2(hung, pipe[1])  # the other end hangs up
                os.close(hung)
        assert woken == 3

    trio.run(main)
