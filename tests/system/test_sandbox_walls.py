"""What is looked for before a script runs: sockets in sight; and who can hold that up."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from confined import USER, Box
from goexfs.errors import SandboxFailed
from goexfsd.sandbox import look

pytestmark = pytest.mark.root

CONNECT = """
    import socket, sys
    try:
        socket.socket(socket.AF_UNIX).connect(sys.argv[1])
        print("connected")
    except OSError as error:
        print(error.strerror)
"""
# In a root directory of its own (or a mount namespace: anybody can have one).
FORGE = """
import os, socket, sys
os.chroot(sys.argv[1])
held = []
for name in sys.argv[2:]:
    os.makedirs(os.path.dirname(name), exist_ok=True)
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].bind(name); held[-1].listen()
print("listening", flush=True)
sys.stdin.read()
"""


@contextmanager
def forged(top: Path, names: list[str]) -> Iterator[None]:
    """Sockets of which the kernel says that they have these names."""
    top.mkdir()
    with subprocess.Popen(
        [sys.executable, "-I", "-c", FORGE, str(top), *names],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == b"listening\n"
            yield
        finally:
            process.stdin.close()


def test_nobody_hides_a_program_from_others_by_a_socket_of_its_name(arena: Path) -> None:
    names = [f"/usr/bin/{name}" for name in ("env", "python3", "no-such-program")]
    with forged(arena / "top", names):
        assert Path("/proc/net/unix").read_text().count("/usr/bin/") >= len(names)
        done = Box(arena).run("/usr/bin/env", "python3", "-c", "print('fine')")
    assert (done.status, done.out) == (0, "fine\n")


def test_nobody_stops_others_by_many_sockets(arena: Path) -> None:
    names = [f"/usr/bin/there-is-no-{number}" for number in range(220)]
    names += [f"/usr/share/no-{number}/socket" for number in range(220)]
    with forged(arena / "top", names):
        assert Box(arena).run("true").status == 0


def test_a_socket_that_was_renamed_is_walled_off(arena: Path) -> None:
    """As those of ssh's master connections are."""
    box = Box(arena)
    place = Path(box.home) / "sockets"
    place.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "name.temporary"))
        listener.listen()
        (place / "name.temporary").rename(place / "name")
        (place / "name").chmod(0o777)
        assert box.python(CONNECT, str(place / "name")).out == "Connection refused\n"


def test_what_is_hidden_is_so_where_only_a_part_of_it_is_shown(arena: Path) -> None:
    box = Box(arena)
    keys = Path(box.home) / ".ssh" / "keys"
    keys.mkdir(parents=True)
    (keys / "key").write_text("KEY")
    state = arena / "state" / "store"
    state.mkdir(parents=True)
    (state / "layer").write_text("KEY")
    for shown in (keys, keys / "key", state):
        policy = {"read": (str(shown),), "home": False}
        found = box.run(
            "grep", "-rs", "KEY", str(shown), policy=policy, hide=(str(arena / "state"),)
        )
        assert found.status in (1, 2), found.out


def test_more_processors_than_there_can_be(arena: Path) -> None:
    assert Box(arena).run("true", policy={"cpu": 1e308}).status == 0


# -- who looks holds up nobody else ---------------------------------------------------------------


def search(uid: int, *hidden: str) -> look.Search:
    return look.Search(
        uid=uid, gid=uid, groups=(), home="/nonexistent", hidden=hidden, hide=(),
        visible=("/usr",), views=(),
    )  # fmt: skip


def test_a_search_without_end_is_given_up() -> None:
    endless = "/proc/self/root" * 20 + "/*" * 12
    before = threading.active_count()
    with pytest.raises(SandboxFailed, match="does not answer"):
        trio.run(look.look, search(USER, *(endless + str(n) for n in range(4))), 0.2)
    end = time.monotonic() + 10
    while threading.active_count() > before + 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() <= before + 1  # trio keeps an idle one


def test_a_user_whose_file_systems_hang_holds_up_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()
    real = look._look

    def hang(asked: look.Search, until: float) -> look.Found:
        if asked.uid == USER:
            release.wait(60)
        return real(asked, until)

    monkeypatch.setattr(look, "_look", hang)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(attempt)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(30):
                await look.look(search(USER + 1))
                await trio.to_thread.run_sync(lambda: None)
            nursery.cancel_scope.cancel()
        release.set()

    async def attempt() -> None:
        await look.look(search(USER))

    trio.run(main)
