"""The proxy over real sockets on this machine: what it lets through, refuses and writes anew."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from goexfsd.egress import message
from goexfsd.egress.credentials import Credential, Credentials, Mask
from goexfsd.egress.message import Target
from goexfsd.egress.proxy import Proxy
from goexfsd.egress.upstream import Upstream, open_tcp
from goexfsd.hosts import Address, Hosts

SECRET = b"the-real-value-0123456789"
PLACEHOLDER = b"goexfs-placeholder-abcdef"


@dataclass
class Server:
    """Answers each connection with what ``reply`` makes of the request's bytes."""

    reply: Callable[[bytes], bytes]
    port: int = 0
    seen: list[bytes] = field(default_factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := await stream.receive_some(65536)):
                break
            data += piece
        with trio.move_on_after(0.1):
            while piece := await stream.receive_some(65536):
                data += piece
        self.seen.append(data)
        await stream.send_all(self.reply(data))
        await stream.aclose()


@dataclass
class Bench:
    proxy_port: int
    server: Server
    told: list[dict[str, Any]]
    opened: list[tuple[str, int]]
    news: trio.Event = field(default_factory=trio.Event)

    async def ask(self, data: bytes) -> bytes:
        """Send and half-close; everything that comes back."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.proxy_port)
        async with stream:
            await stream.send_all(data)
            answer = b""
            with trio.fail_after(20):
                try:
                    while piece := await stream.receive_some(65536):
                        answer += piece
                except trio.BrokenResourceError:
                    pass
        return answer

    async def until_told(self, number: int = 1) -> dict[str, Any]:
        """The story of connection ``number``, when it has ended."""
        with trio.fail_after(20):
            while len(self.told) < number:
                await self.news.wait()
        return self.told[number - 1]


OK = b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def bench(
    *allow: str,
    reply: Callable[[bytes], bytes] = lambda _: OK,
    credentials: Callable[[int], list[Credential]] = lambda _: [],
    resolver: Callable[[str, int], Awaitable[list[Address]]] | None = None,
) -> AsyncIterator[Bench]:
    """A proxy and a server; ``PORT`` in a rule is the server's."""
    on = Bench(0, Server(reply), [], [])

    async def opener(address: Address, port: int) -> trio.SocketStream:
        on.opened.append((str(address), port))
        return await open_tcp(address, port)

    def tell(visit: dict[str, Any]) -> None:
        on.told.append(visit)
        on.news.set()
        on.news = trio.Event()

    async with trio.open_nursery() as nursery:
        serving = partial(trio.serve_tcp, on.server.serve, 0, host="127.0.0.1")
        listeners = await nursery.start(serving)
        on.server.port = listeners[0].socket.getsockname()[1]
        rules = [rule.replace("PORT", str(on.server.port)) for rule in allow]
        held = Credentials(credentials(on.server.port))
        proxy = Proxy(Upstream(Hosts(rules), resolver, opener), held, {}, tell)
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        on.proxy_port = listener.socket.getsockname()[1]
        nursery.start_soon(proxy.serve, listener)
        try:
            yield on
        finally:
            nursery.cancel_scope.cancel()
            listener.socket.close()


def get(url: str, *headers: str, body: str = "") -> bytes:
    host = url.split("/")[2]
    lines = [f"GET {url} HTTP/1.1", f"Host: {host}", *headers, "", body]
    return "\r\n".join(lines).encode()


def run(test: Callable[[], Awaitable[None]]) -> None:
    trio.run(test)


def test_a_listed_host_is_asked_anew() -> None:
    async def main() -> None:
        async with bench("127.0.0.1:PORT") as on:
            url = f"http://127.0.0.1:{on.server.port}/a?b=c#d"
            said = await on.ask(get(url, "Proxy-Authorization: x", "Connection: x-hop", "X-Hop: 1",
                                    "X-Kept: 1"))  # fmt: skip
            assert said.endswith(b"\r\n\r\nok")
            seen = on.server.seen[0]
            assert seen.startswith(b"GET /a?b=c HTTP/1.1\r\n")
            assert b"x-kept: 1" in seen.lower()
            for gone in (b"proxy-", b"x-hop", b"http://"):
                assert gone not in seen.lower()
            told = await on.until_told()
            assert (told["host"], told["port"], told["method"]) == (
                "127.0.0.1", on.server.port, "GET",
            )  # fmt: skip
            assert (told["allowed"], told["status"], told["rule"]) == (True, 200, None)
            assert told["sent"] > 0
            assert told["received"] > 0

    run(main)


def test_others_are_refused_with_the_rule_that_would_allow_them() -> None:
    async def main() -> None:
        async with bench("example.org:443", resolver=_never) as on:
            for number, (ask, rule) in enumerate((
                (get("http://evil.test/"), "evil.test:80"),
                (get("https://evil.test/"), "evil.test:443"),
                (b"CONNECT evil.test:8443 HTTP/1.1\r\nHost: evil.test:8443\r\n\r\n",
                 "evil.test:8443"),
                (b"CONNECT example.org:22 HTTP/1.0\r\n\r\n", "example.org:22"),
                (b"CONNECT [::1]:22 HTTP/1.1\r\nHost: [::1]\r\n\r\n", "[::1]:22"),
            ), 1):  # fmt: skip
                said = await on.ask(ask)
                assert said.startswith(b"HTTP/1.1 403 ")
                assert f"--allow-host {rule} would allow it".encode() in said
                told = await on.until_told(number)
                assert (told["allowed"], told["rule"]) == (False, rule)
            assert on.opened == []

    run(main)


async def _never(name: str, port: int) -> list[Address]:
    raise AssertionError(f"{name} was looked up")


def test_a_name_does_not_lead_to_this_machine() -> None:
    async def resolver(name: str, port: int) -> list[Address]:
        return [ipaddress.ip_address(text) for text in ("127.0.0.1", "::ffff:10.0.0.1")]

    async def main() -> None:
        async with bench("inside.test:PORT", "*:9", resolver=resolver) as on:
            said = await on.ask(get(f"http://inside.test:{on.server.port}/"))
            assert said.startswith(b"HTTP/1.1 403 ")
            assert b"leads to 10.0.0.1, a private address" in said
            assert f"--allow-host 10.0.0.1:{on.server.port}".encode() in said
            assert on.opened == []
        rules = ("inside.test:PORT", "127.0.0.1:PORT")
        async with bench(*rules, resolver=resolver) as on:
            said = await on.ask(get(f"http://inside.test:{on.server.port}/"))
            assert said.endswith(b"ok")
            assert on.opened == [("127.0.0.1", on.server.port)]

    run(main)


def test_a_name_is_looked_up_once_and_that_address_is_connected_to() -> None:
    """Rebinding: the second answer would be an address that is not listed."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]

    async def resolver(name: str, port: int) -> list[Address]:
        return [ipaddress.ip_address(text) for text in answers.pop(0)]

    async def main() -> None:
        async with bench("rebind.test:PORT", "127.0.0.1:PORT", resolver=resolver) as on:
            url = f"http://rebind.test:{on.server.port}/"
            assert (await on.ask(get(url))).endswith(b"ok")
            assert on.opened == [("127.0.0.1", on.server.port)]
            assert (await on.ask(get(url))).startswith(b"HTTP/1.1 403 ")
            assert len(on.opened) == 1

    run(main)


SMUGGLED = [
    b"POST U HTTP/1.1\r\nHost: H\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    b"\r\n",
    b"POST U HTTP/1.1\r\nHost: H\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST U HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST U HTTP/1.1\r\nHost: H\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST U HTTP/1.0\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET U HTTP/1.1\r\nHost: H\r\nX: a\r\n b\r\n\r\n",
    b"GET U HTTP/1.1\r\nHost: H\r\nX: a\nY: b\r\n\r\n",
    b"GET U HTTP/1.1\r\nHost: H\r\nX: a\rY: b\r\n\r\n",
    b"GET U HTTP/1.1\r\nHost: H\r\nX: a\0b\r\n\r\n",
    b"GET U HTTP/1.1\r\nHost: H\r\nHost: other.test\r\n\r\n",
    b"GET U HTTP/1.1\r\nHost: other.test\r\n\r\n",
    b"GET U HTTP/1.1\r\nHost: H.evil.test\r\n\r\n",
    b"GET U HTTP/1.1\r\n\r\n",
    b"GET http://user@N/ HTTP/1.1\r\nHost: H\r\n\r\n",
    b"GET http://N\\@evil.test/ HTTP/1.1\r\nHost: H\r\n\r\n",
    b"GET ftp://N/ HTTP/1.1\r\nHost: H\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: H\r\n\r\n",
    b"GET U\tx HTTP/1.1\r\nHost: H\r\n\r\n",
    b"TRACE U HTTP/1.1\r\nHost: H\r\n\r\n",
    b"CONNECT N HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    b"CONNECT N HTTP/1.1\r\nHost: H\r\nContent-Length: 3\r\n\r\nabc",
    b"GET U HTTP/1.1\r\nHost: H\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    b"GET U HTTP/1.1\r\nHost: H\r\n" + b"X: a\r\n" * 15_000 + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]  # fmt: skip


def test_what_could_be_read_in_two_ways_reaches_no_server() -> None:
    async def main() -> None:
        async with bench("127.0.0.1:PORT") as on:
            name = f"127.0.0.1:{on.server.port}".encode()
            for number, text in enumerate(SMUGGLED, 1):
                url = b"http://" + name + b"/"
                data = text.replace(b" U", b" " + url).replace(b"H\r", name + b"\r")
                data = data.replace(b" N ", b" " + name + b" ").replace(b"N/", name + b"/")
                said = await on.ask(data)
                assert said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501")), (text, said)
                assert (await on.until_told(number))["status"] != 403, text
            assert on.opened == []

    run(main)


def test_what_follows_a_request_is_not_a_second_one() -> None:
    async def main() -> None:
        async with bench("127.0.0.1:PORT") as on:
            url = f"http://127.0.0.1:{on.server.port}/"
            said = await on.ask(get(url) + get(f"{url}second") + get("http://evil.test/"))
            assert said.count(b"HTTP/1.1 ") == 1
            assert len(on.server.seen) == 1
            assert b"second" not in on.server.seen[0]

    run(main)


def test_bodies_arrive_however_they_are_sent() -> None:
    async def main() -> None:
        async with bench("127.0.0.1:PORT") as on:
            name = f"127.0.0.1:{on.server.port}"
            head = f"POST http://{name}/ HTTP/1.1\r\nHost: {name}\r\n"
            await on.ask(f"{head}Content-Length: 5\r\n\r\nhello".encode())
            chunks = "3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
            await on.ask(f"{head}Transfer-Encoding: chunked\r\n\r\n{chunks}".encode())
            assert on.server.seen[0].endswith(b"\r\n\r\nhello")
            assert b"transfer-encoding: chunked" in on.server.seen[1].lower()
            assert b"hel" in on.server.seen[1]
            assert b"x=y" not in on.server.seen[1]
            said = await on.ask(f"{head}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode()
                                + b"hi")  # fmt: skip
            assert said.endswith(b"ok")
            assert b"expect" not in on.server.seen[2].lower()

    run(main)


@pytest.mark.parametrize(
    "reply",
    [b"", b"junk\r\n\r\n", b"HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\nshort",
     b"HTTP/1.1 101 x\r\n\r\n", b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nzz"],
)  # fmt: skip
def test_an_answer_that_is_broken_is_not_passed_for_whole(reply: bytes) -> None:
    async def main() -> None:
        async with bench("127.0.0.1:PORT", reply=lambda _: reply) as on:
            said = await on.ask(get(f"http://127.0.0.1:{on.server.port}/"))
            whole = said.startswith(b"HTTP/1.1 502 ")
            assert (
                whole
                or (b"Content-Length: 9" in said.title() and said.endswith(b"short"))
                or (said.endswith(b"\r\n\r\n"))
            )
            assert (await on.until_told())["why"]

    run(main)


def test_a_tunnel_carries_bytes_as_they_are() -> None:
    async def main() -> None:
        async with bench("127.0.0.1:PORT", reply=lambda data: data[::-1]) as on:
            name = f"127.0.0.1:{on.server.port}"
            said = await on.ask(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\nraw\r\n\r\n"
                                .encode())  # fmt: skip
            assert said == b"HTTP/1.1 200 Connection established\r\n\r\n\n\r\n\rwar"
            told = await on.until_told()
            assert (told["method"], told["sent"], told["received"]) == ("CONNECT", 7, 7)

    run(main)


def credential(port: int, **more: Any) -> Credential:
    address = ipaddress.ip_address("127.0.0.1")
    how = {"format": "Bearer {}", "placeholder": PLACEHOLDER, **more}
    return Credential(Target(address, port, False), b"authorization", SECRET, **how)


def test_a_value_goes_to_its_host_in_its_header_and_nowhere_else() -> None:
    def reply(data: bytes) -> bytes:
        return b"HTTP/1.1 200 x\r\nX-Echo: %s\r\nContent-Length: %d\r\n\r\n%s" % (
            data.partition(b"authorization: ")[2].partition(b"\r\n")[0], len(data), data,
        )  # fmt: skip

    async def main() -> None:
        rules = ("127.0.0.1:PORT", "localhost:PORT")
        async with bench(*rules, reply=reply, credentials=lambda port: [credential(port)]) as on:
            token = PLACEHOLDER.decode()
            url = f"http://127.0.0.1:{on.server.port}/{token}"
            said = await on.ask(get(url, f"Authorization: token {token}", f"X-Other: {token}"))
            seen = on.server.seen[0]
            assert b"authorization: Bearer " + SECRET + b"\r\n" in seen
            assert seen.count(SECRET) == 1
            assert seen.count(PLACEHOLDER) == 2
            assert SECRET not in said  # sent back by the server, in a header and in the body
            assert said.count(b"*" * len(SECRET)) == 2
            other = url.replace("127.0.0.1", "localhost")
            await on.ask(get(other, f"Authorization: token {token}"))
            assert SECRET not in on.server.seen[1]
            assert PLACEHOLDER in on.server.seen[1]
            await on.ask(get(url, "Authorization: Bearer mine"))
            assert SECRET not in on.server.seen[2]

    run(main)


def _one_credential(how: dict[str, Any], port: int) -> list[Credential]:
    return [credential(port, **how)]


def test_a_value_in_place_in_basic_and_unasked() -> None:
    import base64

    async def main() -> None:
        plain: list[dict[str, Any]] = [{"format": ""}, {"placeholder": b"", "format": "token {}"}]
        for how in plain:
            async with bench(
                "127.0.0.1:PORT",
                credentials=partial(_one_credential, how),
            ) as on:
                url = f"http://127.0.0.1:{on.server.port}/"
                coded = base64.b64encode(b"user:" + PLACEHOLDER).decode()
                await on.ask(get(url, f"Authorization: Basic {coded}"))
                await on.ask(get(url))
                seen = on.server.seen
                if how["format"]:
                    assert all(b"authorization: token " + SECRET in each for each in seen)
                else:
                    assert base64.b64encode(b"user:" + SECRET) in seen[0]
                    assert b"authorization" not in seen[1]

    run(main)


def test_one_that_says_nothing_holds_up_nobody() -> None:
    async def main() -> None:
        async with bench("127.0.0.1:PORT") as on, trio.open_nursery() as nursery:
            streams = [await trio.open_tcp_stream("127.0.0.1", on.proxy_port) for _ in range(100)]
            for stream in streams:
                nursery.start_soon(stream.send_all, b"GET ")
            said = await on.ask(get(f"http://127.0.0.1:{on.server.port}/"))
            assert said.endswith(b"ok")
            for stream in streams:
                await stream.aclose()

    run(main)


@given(
    st.binary(max_size=40), st.lists(st.integers(0, 80), max_size=6), st.integers(0, 3), st.data()
)
def test_a_secret_is_masked_however_it_is_cut(
    around: bytes, cuts: list[int], times: int, data: st.DataObject
) -> None:
    secret = data.draw(st.sampled_from([SECRET, b"aaaaaaaab", b"abababababab"]))
    whole = around + secret * times + around[::-1]
    mask = Mask((secret, b"short"))
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [mask.feed(whole[a:b]) for a, b in itertools.pairwise(edges)]
    found = b"".join([*pieces, mask.end()])
    assert found == whole.replace(secret, b"*" * len(secret))


@given(st.binary(max_size=200), st.sampled_from(SMUGGLED), st.integers(0, 60))
def test_any_head_is_understood_or_refused(junk: bytes, text: bytes, at: int) -> None:
    """Whatever comes: a request with a target, or ``Unfit``; never anything else."""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(text[:at] + junk + text[at:][:4000] + b"\r\n\r\n")
        await theirs.aclose()
        with suppress(message.Unfit):
            asked = await message.read_head(ours)
            if asked is not None and asked.method == "CONNECT":
                message.connect_target(asked)
            elif asked is not None:
                message.absolute_target(asked)

    run(main)
