"""Running: statuses, streams, time, signals, terminals; nothing survives."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from confined import LOWERED, Box
from goexfs.errors import NotExecutable
from goexfsd import sandbox

pytestmark = pytest.mark.root


@pytest.fixture(params=["user", "root"])
def box(request: pytest.FixtureRequest, arena: Path) -> Box:
    """As an ordinary user, and as a session of root's runs its scripts."""
    return _box(request.param, arena)


def _box(who: str, arena: Path) -> Box:
    if who == "user":
        return Box(arena)
    return Box(arena, uid=LOWERED, home="/root", dest="/root/project")


@pytest.fixture
def user(arena: Path) -> Box:
    return Box(arena)


def processes(mark: str) -> list[int]:
    """Host processes whose command line holds ``mark``."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in line and int(pid) != os.getpid():
            found.append(int(pid))
    return found


def mark() -> str:
    """A number of seconds that no other sleep on this machine has."""
    return f"1000{uuid.uuid4().int % 10**9}"


# -- statuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)],
)
def test_status_is_the_script_s(box: Box, script: str, status: int) -> None:
    result = box.run("sh", "-c", script)
    assert result.status == status
    assert result.outcome.signal == (status - 128 if 128 < status < 193 else None)
    assert result.outcome.sandbox_error is None


def test_missing_command_is_127(box: Box) -> None:
    result = box.run("no-such-command")
    assert result.status == 127
    assert result.err == "goexfs: no-such-command: there is no such command in the sandbox\n"
    assert result.outcome.sandbox_error is None


def test_not_executable_is_126(box: Box) -> None:
    (box.source / "data").write_text("just text\n")
    box.own()
    assert box.run("./data").status == 126


def test_missing_cwd_is_the_sandbox_s_failure(user: Box) -> None:
    result = user.run("true", cwd="/no/such/place")
    assert result.status == 125
    assert result.outcome.sandbox_error is not None
    assert "/no/such/place" in result.outcome.sandbox_error
    assert (result.out, result.err) == ("", "")


def test_a_vanished_view_is_the_sandbox_s_failure(user: Box) -> None:
    views = (sandbox.View(str(user.arena / "gone"), user.dest),)
    result = user.run("true", views=views)
    assert result.status == 125
    assert "gone" in (result.outcome.sandbox_error or "")


def test_the_script_cannot_pose_as_bubblewrap(user: Box) -> None:
    result = user.run("sh", "-c", """echo '{ "exit-code": 0 }' >&2; echo bwrap: no >&2; exit 9""")
    assert result.status == 9
    assert result.err == '{ "exit-code": 0 }\nbwrap: no\n'


def test_an_argument_that_is_too_long(user: Box) -> None:
    result = user.run("true", "x" * 200_000)
    assert result.status == 125
    assert result.outcome.sandbox_error == "Argument list too long"


def test_arguments_arrive_as_they_are(user: Box) -> None:
    odd = [
        "",
        " a  b ",
        "$HOME `id` *",
        "new\nline",
        "--help",
        os.fsdecode(b"\xff\x01"),
        "x" * 90_000,
    ]
    result = user.run("printf", "%s\\0", *odd)
    assert result.streams["stdout"] == b"".join(os.fsencode(part) + b"\0" for part in odd)


def test_signals_are_as_programs_expect_them(box: Box) -> None:
    """Not ignored because Python ignores them, or whoever started the daemon; nothing blocked."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGQUIT)}
    for number in before:
        signal.signal(number, signal.SIG_IGN)
    try:
        for _ in range(2):  # what starts the second may have been ready before
            shown = box.run("cat", "/proc/self/status").out
            masks = dict(line.split(":\t", 1) for line in shown.splitlines())
            assert (int(masks["SigIgn"], 16), int(masks["SigBlk"], 16)) == (0, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- scripts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "out"),
    [
        ("x.py", b"import sys; print(sys.argv[1:])", "['a', 'b']\n"),
        ("x.sh", b'echo "$#" "$2"', "2 b\n"),
        ("x", b'echo "$1"', "a\n"),
        ("x.py", b'#!/bin/sh\necho shebang "$1"', "shebang a\n"),
        ("x.pl", b'print "@ARGV\\n";', "a b\n"),
        ("we ird;name.sh", b"basename $0", "we_ird_name.sh\n"),
    ],
)
def test_scripts_find_their_interpreter(user: Box, name: str, text: bytes, out: str) -> None:
    result = user.run("a", "b", script=(name, text))
    assert (result.status, result.out, result.err) == (0, out, "")


def test_missing_interpreter_is_127(user: Box) -> None:
    assert user.run(script=("x", b"#!/no/such/interpreter\n")).status == 127


def test_a_program_as_script(user: Box) -> None:
    assert user.run("7", script=("prog", Path("/bin/false").read_bytes())).status == 1


def test_junk_as_script_is_refused(user: Box) -> None:
    with pytest.raises(NotExecutable, match="binary data") as caught:
        user.run(script=("junk", bytes(range(256))))
    assert caught.value.exit_status == 126


# -- streams --------------------------------------------------------------------------------


def test_streams_are_separate_and_can_be_reopened(box: Box) -> None:
    result = box.run(
        "sh", "-c", "echo out; echo err >&2; echo o2 >/dev/stdout; echo e2 >/dev/stderr"
    )
    assert (result.out, result.err) == ("out\no2\n", "err\ne2\n")


def test_output_beyond_the_pipe_s_buffer_arrives_whole(user: Box) -> None:
    result = user.python(
        """
        import os, sys, hashlib
        digest = hashlib.sha256()
        for n in range(300):
            piece = bytes([n % 256]) * 65521
            digest.update(piece)
            sys.stdout.buffer.write(piece)
        sys.stderr.write(digest.hexdigest())
        """
    )
    assert result.status == 0
    assert len(result.streams["stdout"]) == 300 * 65521
    assert hashlib.sha256(result.streams["stdout"]).hexdigest() == result.err


def test_a_slow_receiver_stops_the_script(user: Box) -> None:
    sizes: list[int] = []

    async def slowly(stream: str, data: bytes) -> None:
        if not sizes:
            await trio.sleep(0.5)
            sizes.append(int((user.source / "written").read_text()))

    job = user.job(
        "/usr/bin/python3", "-c",
        "import os\n"
        "for n in range(64):\n"
        "    os.write(1, b'x' * 65536)\n"
        "    open('written', 'w').write(str(n + 1))\n",
    )  # fmt: skip
    result = user.drive(job, output=slowly)
    assert len(result.streams["stdout"]) == 64 * 65536
    assert sizes[0] <= 4  # what a pipe and one piece hold


def _feeder(
    send: trio.MemorySendChannel[bytes], pieces: list[bytes], seen: list[str]
) -> Callable[[sandbox.Running], Awaitable[None]]:
    async def feed(_: sandbox.Running) -> None:
        async with send:
            try:
                for piece in pieces:
                    await send.send(piece)
                seen.append("all")
            except trio.BrokenResourceError:
                seen.append("broken")

    return feed


def test_stdin_is_passed_on(box: Box) -> None:
    send, receive = trio.open_memory_channel[bytes](0)
    pieces = [os.urandom(100_000) for _ in range(30)]
    seen: list[str] = []
    result = box.drive(box.job("sha256sum"), stdin=receive, beside=_feeder(send, pieces, seen))
    assert result.out.split()[0] == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert seen == ["all"]


def test_a_script_that_stops_reading(user: Box) -> None:
    send, receive = trio.open_memory_channel[bytes](0)
    seen: list[str] = []
    result = user.drive(
        user.job("sh", "-c", "head -c 10; exec <&-; sleep 0.3"),
        stdin=receive,
        beside=_feeder(send, [b"x" * 100_000] * 50, seen),
    )
    assert (result.status, result.out) == (0, "x" * 10)
    assert seen == ["broken"]


def test_no_stdin_is_empty(user: Box) -> None:
    assert user.run("wc", "-c").out.strip() == "0"


# -- the end --------------------------------------------------------------------------------


ESCAPES = {
    "background": "sleep {0} &",
    "setsid": "setsid sleep {0} & sleep 0.1",
    "double fork": "(setsid sh -c 'sleep {0} & exit' &) ; sleep 0.1",
    "nohup": "nohup sleep {0} >/dev/null 2>&1 &",
    "ignores signals": "(trap '' INT TERM HUP QUIT; sleep {0}) &",
    "stopped": "sleep {0} & kill -STOP $!",
}


@pytest.mark.parametrize("way", ESCAPES)
def test_nothing_survives_the_step(box: Box, way: str) -> None:
    seconds = mark()
    result = box.run("sh", "-c", ESCAPES[way].format(seconds) + "\necho done")
    assert (result.status, result.out) == (0, "done\n")
    assert processes(seconds) == []


def test_time_limit(box: Box) -> None:
    seconds = mark()
    result = box.drive(box.job("sh", "-c", f"sleep {seconds} & sleep {seconds}"), timeout=0.3)
    assert (result.status, result.outcome.timed_out) == (124, True)
    assert result.outcome.duration < 2
    assert processes(seconds) == []


def test_time_limit_lets_the_script_clean_up(user: Box) -> None:
    script = "trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done"
    result = user.drive(user.job("sh", "-c", script), timeout=0.3)
    assert (result.status, result.out) == (124, "bye\n")


def test_time_limit_of_the_policy(user: Box) -> None:
    result = user.run("sleep", "50", policy={"wall_seconds": 0.2})
    assert result.outcome.timed_out


def test_what_ignores_the_time_limit_is_killed(user: Box) -> None:
    script = "trap '' TERM INT; while :; do sleep 0.05; done"
    result = user.drive(user.job("sh", "-c", script), {"grace_seconds": 0.2}, timeout=0.2)
    assert result.status == 124
    assert result.outcome.duration < 2


def test_a_script_outlives_idle_threads(user: Box) -> None:
    """The death of the thread that forked must not be that of its parent (trio's live 10 s)."""
    assert user.run("sleep", "10.5").status == 0


def _after_output(
    signals: list[str], said: trio.Event, pause: float = 0
) -> Callable[[sandbox.Running], Awaitable[None]]:
    async def send(running: sandbox.Running) -> None:
        await said.wait()
        await trio.sleep(0.1)  # dash loses an INT between its fork and the child's exec
        for name in signals:
            running.signal(name)
            await trio.sleep(pause)
        await trio.sleep_forever()

    return send


def _signalled(box: Box, script: str, *signals: str, grace: float = 5) -> tuple[int, str, float]:
    said = trio.Event()

    async def heard(stream: str, data: bytes) -> None:
        said.set()

    result = box.drive(
        box.job("sh", "-c", script),
        {"grace_seconds": grace},
        output=heard,
        beside=_after_output(list(signals), said),
    )
    return result.status, result.out, result.outcome.duration


def test_interrupt_reaches_everything(box: Box) -> None:
    seconds = mark()
    script = f"(trap 'echo child' INT; sleep {seconds}) & echo up; sleep {seconds}"
    status, out, duration = _signalled(box, script, "INT")
    assert status == 130
    assert out.startswith("up\n")
    assert duration < 3
    assert processes(seconds) == []


def test_interrupt_can_be_handled(user: Box) -> None:
    script = "trap 'echo cleaned; exit 4' INT; echo up; while :; do sleep 0.05; done"
    assert _signalled(user, script, "INT")[:2] == (4, "up\ncleaned\n")


def test_interrupt_that_is_ignored_ends_in_a_kill(user: Box) -> None:
    seconds = mark()
    script = f"trap '' INT TERM; echo up; sleep {seconds}"
    status, _, duration = _signalled(user, script, "INT", grace=0.2)
    assert status == 130
    assert duration < 3
    assert processes(seconds) == []


def test_kill_is_at_once(user: Box) -> None:
    seconds = mark()
    status, _, duration = _signalled(user, f"trap '' INT; echo up; sleep {seconds}", "KILL")
    assert status == 137
    assert duration < 2
    assert processes(seconds) == []


@pytest.mark.parametrize("after", [0.0, 0.001, 0.004, 0.008, 0.012, 0.02, 0.3])
def test_cancelled_at_any_moment(user: Box, after: float) -> None:
    """The leak guard looks for descriptors and processes, too."""
    seconds = mark()
    launch = sandbox.plan(
        user.job("sh", "-c", f"setsid sleep {seconds} & sleep {seconds}"),
        sandbox.Policy(),
        user.machine,
    )

    async def ignore(stream: str, data: bytes) -> None:
        pass

    async def main() -> None:
        cgroups = sandbox.open_cgroups(user.machine)
        with trio.move_on_after(after) as scope:
            await sandbox.run(launch, cgroups=cgroups, output=ignore)
        assert scope.cancelled_caught
        assert cgroups.running() == []
        assert processes(seconds) == []
        cgroups.close()

    trio.run(main)


_DAEMON = """
import sys, trio
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from confined import Box
box = Box(Path(sys.argv[1]))
async def beside(running):
    print("up", flush=True)
box.drive(box.job("sh", "-c", f"setsid sleep {sys.argv[2]} & sleep {sys.argv[2]}"), beside=beside)
"""


def test_nothing_survives_the_daemon(user: Box) -> None:
    """Killed in the midst of it; the next daemon removes its control groups."""
    seconds = mark()
    with subprocess.Popen(
        [sys.executable, "-c", _DAEMON, str(user.arena), seconds, *sys.path],
        stdout=subprocess.PIPE,
    ) as daemon:
        deadline = time.monotonic() + 20
        while len(processes(f"sleep\0{seconds}")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        groups = _groups_of(daemon.pid)
        assert groups
        daemon.kill()
    deadline = time.monotonic() + 5
    while processes(seconds) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes(seconds) == []
    assert user.run("true").status == 0
    assert not any(path.exists() for path in groups)


def _groups_of(pid: int) -> list[Path]:
    mounts = {point for point, _ in sandbox.find_machine().cgroups.values()}
    return [path for point in mounts for path in point.rglob(f"goexfs-*-{pid}-*")]


def test_output_that_fails_ends_the_script(user: Box) -> None:
    seconds = mark()

    async def fail(stream: str, data: bytes) -> None:
        raise RuntimeError("receiver broke")

    with pytest.raises(ExceptionGroup) as caught:
        user.drive(user.job("sh", "-c", f"echo x; sleep {seconds}"), output=fail)
    assert caught.group_contains(RuntimeError, match="receiver broke")
    assert processes(seconds) == []


def test_a_descriptor_handed_out_does_not_hold_the_end_up(user: Box) -> None:
    """A process outside that was given the script's stdout: no end-of-file comes."""
    path = user.source / "socket"

    async def receive(_: sandbox.Running) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(path))
            path.chmod(0o777)
            listener.listen()
            connection, _address = await listener.accept()
            with connection:
                _data, ancillary, _flags, _from = await connection.recvmsg(1, 1000)
                fd = int.from_bytes(ancillary[0][2][:4], "little")
                try:
                    await trio.sleep(5)
                finally:
                    os.close(fd)

    code = """
        import socket, time, os
        while not os.path.exists("socket"): time.sleep(0.01)
        time.sleep(0.05)
        s = socket.socket(socket.AF_UNIX)
        s.connect("socket")
        socket.send_fds(s, [b"x"], [1])
        print("sent", flush=True)
    """
    began = time.monotonic()
    result = user.drive(user.job("/usr/bin/python3", "-c", textwrap.dedent(code)), beside=receive)
    assert result.out == "sent\n"
    assert time.monotonic() - began < 4


def test_signals_reach_a_script_that_forks_all_the_time(user: Box) -> None:
    """Everything stands still while it is signalled: nothing new slips through."""
    code = """
        import os, signal, time
        print("up", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            if os.fork() == 0:
                time.sleep(0.01)
                os._exit(0)
    """
    script = f"/usr/bin/python3 -c '{textwrap.dedent(code)}'"
    status, _, duration = _signalled(user, f"exec {script}", "TERM")
    assert status == 143
    assert duration < 3
