"""The socket, on real socket pairs: framing, credentials, concurrency, misbehaving clients."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from goexfs import protocol as p
from goexfs.errors import NotFound
from goexfsd.server import Call, Server, listen


async def dispatch(call: Call, method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "who":
        return {"uid": call.peer.uid, "pid": call.peer.pid}
    if method == "slow":
        await call.emit("progress", stage="x", done=0, total=None)
        await trio.sleep_forever()
    if method == "echo":
        notice = await call.notices.receive()
        assert isinstance(notice, p.Input)
        await call.taken(len(notice.data))
        return {"data": notice.data}
    if method == "missing":
        raise NotFound("there is none", hint="make one")
    if method == "nested":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatch, call, "missing", params)
    if method == "bug":
        raise RuntimeError("oops")
    return {}


class Client:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, line: bytes) -> None:
        await self.stream.send_all(line + b"\n")

    async def ask(self, method: str, number: object = 1, **params: Any) -> dict[str, Any]:
        await self.say(method, number, **params)
        return await self.line()

    async def say(self, method: str, number: object = None, **params: Any) -> None:
        message: dict[str, object] = {"jsonrpc": "2.0", "method": method, "params": params}
        if number is not None:
            message["id"] = number
        await self.send(json.dumps(message).encode())

    async def line(self) -> dict[str, Any]:
        while b"\n" not in self.buffer:
            piece = await self.stream.receive_some(65536)
            if not piece:
                raise EOFError
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    path = str(tmp_path / "s.sock")
    listener = listen(path)
    server = Server(dispatch)

    async def connect() -> Client:
        return Client(await trio.open_unix_socket(path))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, [listener])
        with trio.fail_after(20):
            yield connect
        nursery.cancel_scope.cancel()


def on(tmp_path: Path, test: Callable[[Callable[[], Awaitable[Client]]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving(tmp_path) as connect:
            await test(connect)

    trio.run(main)


def test_the_kernel_says_who_asks(tmp_path: Path) -> None:
    async def test(connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        async with client.stream:
            reply = await client.ask("who")
            assert reply["result"] == {"uid": os.getuid(), "pid": os.getpid()}

    on(tmp_path, test)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{nonsense", -32700),
        (b"[1, 2]", -32600),
        (b'{"id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "who", "extra": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "who", "params": [1]}', -32600),
        (b"\xff\xfe", -32700),
        (b"[" * 100000, -32700),
    ],
)
def test_junk_is_answered_and_the_connection_goes_on(
    tmp_path: Path, line: bytes, code: int
) -> None:
    async def test(connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        async with client.stream:
            await client.send(line)
            assert (await client.line())["error"]["code"] == code
            assert "result" in await client.ask("who", 2)

    on(tmp_path, test)


def test_an_oversized_line_ends_only_its_connection(tmp_path: Path) -> None:
    async def test(connect: Callable[[], Awaitable[Client]]) -> None:
        bad, good = await connect(), await connect()
        async with bad.stream, good.stream:
            async with trio.open_nursery() as nursery:

                async def flood() -> None:
                    with suppress(trio.BrokenResourceError):
                        await bad.stream.send_all(b"x" * (p.MAX_LINE + 70000))

                nursery.start_soon(flood)
                assert "may not exceed" in (await bad.line())["error"]["message"]
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await bad.line()
            assert "result" in await good.ask("who")

    on(tmp_path, test)


def test_a_half_sent_request_is_no_request(tmp_path: Path) -> None:
    async def test(connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        await client.stream.send_all(b'{"jsonrpc": "2.0", "id": 1, "me')
        await client.stream.aclose()
        other = await connect()
        async with other.stream:
            assert "result" in await other.ask("who")

    on(tmp_path, test)


def test_requests_on_one_connection_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async def test(connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        async with client.stream:
            event = await client.ask("slow", "a")
            assert event["params"] == {"request": "a", "stage": "x", "done": 0, "total": None}
            assert (await client.ask("who", "b"))["id"] == "b"
            again = await client.ask("who", "a")
            assert "still under way" in again["error"]["message"]

    on(tmp_path, test)


def test_notices_reach_their_request(tmp_path: Path) -> None:
    async def test(connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        async with client.stream:
            await client.say("input", request=99, data="nobody's")
            await client.say("echo", 7)
            await client.say("input", request=7, data="hello")
            assert (await client.line())["params"] == {"request": 7, "bytes": 5}
            assert (await client.line())["result"] == {"data": "hello"}

    on(tmp_path, test)


def test_too_much_input_ahead_ends_the_request(tmp_path: Path) -> None:
    async def test(connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        async with client.stream:
            await client.ask("slow", 1)
            piece = "x" * (1024 * 1024)
            for _ in range(p.MAX_INPUT_AHEAD // len(piece) + 1):
                await client.say("input", request=1, data=piece)
            assert (await client.line())["error"]["data"]["code"] == "limit"
            assert "result" in await client.ask("who", 2)

    on(tmp_path, test)


def test_errors_are_replies(tmp_path: Path) -> None:
    async def test(connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        async with client.stream:
            error = (await client.ask("missing"))["error"]
            assert error["data"] == {"code": "not_found", "exit_status": 4, "hint": "make one"}
            nested = (await client.ask("nested"))["error"]
            assert nested == error, "a nursery's wrapping is not the user's concern"
            error = (await client.ask("bug"))["error"]
            assert error["data"]["code"] == "internal"

    on(tmp_path, test)


@pytest.mark.parametrize("text", ['"\\ud800"', '"\\uDCFF"', '{"\\udc80": 1}'])
def test_text_that_is_not_unicode_is_refused_at_the_door(tmp_path: Path, text: str) -> None:
    async def test(connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        async with client.stream:
            await client.send(
                b'{"jsonrpc":"2.0","id":1,"method":"who","params":{"x":%s}}' % text.encode()
            )
            assert (await client.line())["error"]["data"]["code"] == "bad_request"
            pair = b'{"jsonrpc":"2.0","id":2,"method":"who","params":{"x":"\\ud83d\\ude00"}}'
            await client.send(pair)
            assert "result" in await client.line()

    on(tmp_path, test)


def test_a_dead_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def test(connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        async with client.stream:
            assert "result" in await client.ask("who")

    on(tmp_path, test)
