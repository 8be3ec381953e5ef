"""A running script and its caller: output out, input in, signals on.

One loop over two descriptors, the daemon's and our stdin.  Input is read only while the script
may take more (``MAX_AHEAD``), and from a terminal only while we are in its foreground, so that
``goexfs run ... &`` is not stopped for reading.  When the script has ended nothing of stdin is
waited for.

Signals: the first INT, TERM, HUP or QUIT goes to the script by its name, the second as KILL, the
third gives up on the daemon.  They are sent from the handler itself: the loop may be held up
by whoever reads our output.
"""

from __future__ import annotations

import os
import select

from goexfs.wire import MAX_AHEAD, answers, decode, encode, is_event, result

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType

    from goexfs.cli.screen import Screen
    from goexfs.cli.state import State
    from goexfs.wire import Connection, Message
else:
    import _signal as signal  # the standard module makes enums of it all at every start

_PIECE = 64 * 1024
_FOREGROUND_EVERY = 500
"""Milliseconds between looks at whether we came back to the foreground."""
_PASSED_ON = {
    int(signal.SIGINT): "INT",
    int(signal.SIGTERM): "TERM",
    int(signal.SIGHUP): "HUP",
    int(signal.SIGQUIT): "QUIT",
}


class Source:
    """Our stdin: what may be read of it now."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended = False
        self.ahead = 0
        """Characters of ``data`` sent and not yet taken."""
        self._terminal = os.isatty(fd)

    def wanted(self) -> bool:
        return not self.ended and self.ahead + 2 * _PIECE <= MAX_AHEAD

    def ours(self) -> bool:
        """Whether reading would not stop us as a background job."""
        if not self._terminal:
            return True
        try:
            return os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:
            return True

    def read(self) -> bytes | None:
        """What is there; ``b""`` once, at the end; None for nothing now."""
        try:
            piece = os.read(self.fd, _PIECE)
        except BlockingIOError:
            return None
        except OSError:
            piece = b""  # a closed or hung-up stdin has no more to say
        self.ended = not piece
        return piece


class Driver:
    """Sees one ``run`` request through; ``finish`` returns its result."""

    def __init__(self, connection: Connection, source: Source | None, about: State) -> None:
        self._connection = connection
        self._source = source
        self._request = 0
        self._signals = 0
        self._early: str | None = None
        """A signal that came before there was a script to pass it on to."""
        self._about = about
        self._screens = _screens()

    def finish(self, params: Message) -> Message:
        before = {number: signal.signal(number, self._signalled) for number in _PASSED_ON}
        try:
            return self._see_through(params)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _see_through(self, params: Message) -> Message:
        self._request = self._connection.request("run", params)
        if self._early is not None:
            self.notify("signal", name=self._early)
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        while True:
            ready = dict(poller.poll(self._watch_source(poller)))
            if self._connection.fileno() in ready:
                for message in self._connection.receive():
                    if answers(message, self._request):
                        self._end_screens()
                        return result(message)
                    self._event(message)
            if self._source is not None and self._source.fd in ready:
                self._forward(self._source)

    def notify(self, method: str, **params: object) -> None:
        if self._request:
            self._connection.notify(method, {"request": self._request, **params})

    def _watch_source(self, poller: select.poll) -> int | None:
        """Have the poller look at stdin if it may be read; how long to poll, in ms."""
        source = self._source
        if source is None:
            return None
        wanted = source.wanted()
        if wanted and source.ours():
            poller.register(source.fd, select.POLLIN)
            return None
        try:  # noqa: SIM105  (contextlib is not loaded)
            poller.unregister(source.fd)
        except KeyError:
            pass  # not looked at
        return _FOREGROUND_EVERY if wanted else None

    def _forward(self, source: Source) -> None:
        piece = source.read()
        if piece:
            coded = encode(piece)
            source.ahead += len(coded["data"])
            self.notify("input", **coded)
        elif piece is not None:
            self.notify("input", eof=True)

    def _event(self, message: Message) -> None:
        if not is_event(message, self._request):
            return
        params = message["params"]
        match message["method"]:
            case "output":
                self._write(params["stream"], decode(params))
            case "taken" if self._source is not None:
                self._source.ahead -= params["bytes"]
            case "started":
                self._about.script = "started"

    def _write(self, stream: str, data: bytes) -> None:
        fd = 2 if stream == "stderr" else 1
        screen = self._screens.get(fd) if stream != "pty" else None
        write_all(fd, data if screen is None else screen.feed(data))

    def _end_screens(self) -> None:
        for fd, screen in self._screens.items():
            if held := screen.end():
                write_all(fd, held)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 2:
            raise KeyboardInterrupt
        name = "KILL" if self._signals == 2 else _PASSED_ON[number]
        if self._request:
            self.notify("signal", name=name)
        else:
            self._early = name


def _screens() -> dict[int, Screen]:
    """For those of stdout and stderr that are terminals."""
    fds = [fd for fd in (1, 2) if os.isatty(fd)]
    if not fds:
        return {}
    from goexfs.cli.screen import Screen

    return {fd: Screen() for fd in fds}


def write_all(fd: int, data: bytes) -> None:
    """All of the data, though the descriptor be one that somebody made non-blocking."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(fd, select.POLLOUT)
            waiting.poll()


def stdin_source() -> Source | None:
    """Our stdin, if we have one that can say anything."""
    try:
        about = os.fstat(0)
    except OSError:
        return None
    if about.st_rdev == os.makedev(1, 3):  # /dev/null
        return None
    return Source(0)
