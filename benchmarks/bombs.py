"""Do others notice a script that takes all that it can get?

    sudo PYTHONPATH=tests .venv/bin/python benchmarks/bombs.py [SECONDS]

A private daemon; one session is bombed, for SECONDS (8) each; in another one, `true` is run again
and again, and so it is on the host itself.  Medians and worst cases in ms, before and during.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import goexfs
from daemons import Daemon

BOMBS = {
    "processes": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "threads": "import threading, time\nwhile True:\n"
    " try: threading.Thread(target=time.sleep, args=(99,)).start()\n except RuntimeError: pass",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "memory, again and again": "import os\nwhile True:\n if os.fork() == 0:\n"
    "  x = []\n  while True: x.append(bytearray(1 << 24))\n os.wait()",
    "/tmp": "f = open('/tmp/x', 'wb')\nwhile True:\n try: f.write(bytes(1 << 20))\n"
    " except OSError: f.seek(0)",
    "disk": "import os\nwhile True:\n try:\n  f = open('big', 'wb')\n"
    "  while True: f.write(os.urandom(1 << 20))\n except OSError: pass",
    "disk and fsync": "import os\nf = open('big', 'wb', 0)\nwhile True:\n"
    " f.seek(0); f.write(os.urandom(1 << 20)); os.fsync(f.fileno())",
    "inodes": "i = 0\nwhile True:\n i += 1\n try: open(f'f{i}', 'x').close()\n"
    " except OSError: pass",
    "names": "import os\nopen('a', 'w')\nwhile True: os.rename('a', 'b'); os.rename('b', 'a')",
    "descriptors": "import os\nfor _ in range(60):\n if os.fork() == 0: break\nwhile True:\n"
    " try: os.open('README', os.O_RDONLY)\n except OSError: pass",
    "output": "import sys\nwhile True: sys.stdout.write('x' * (1 << 16))",
    "processor": "import os\nfor _ in range(7): os.fork()\nwhile True: pass",
}


def timed(action: Callable[[], object], until: float) -> tuple[float, float, int]:
    """Median and worst of as many as fit (three at least), in ms; how many."""
    samples: list[float] = []
    while time.monotonic() < until or len(samples) < 3:
        began = time.perf_counter()
        action()
        samples.append(1000 * (time.perf_counter() - began))
    return statistics.median(samples), max(samples), len(samples)


def measure(other: goexfs.Client, session: goexfs.SessionInfo, seconds: float) -> list[float]:
    """`run -- true` in the other session, then `true` on the host: median and worst of each."""
    half = seconds / 2
    inside = timed(lambda: other.run(["true"], session=session), time.monotonic() + half)
    outside = timed(lambda: subprocess.run(["true"], check=True), time.monotonic() + half)
    return [inside[0], inside[1], outside[0], outside[1]]


def bomb(socket: str, session: str, code: str, seconds: float) -> threading.Thread:
    """Set one off; it ends by itself."""

    def go() -> None:
        with goexfs.connect(socket) as client:
            limits = {"layer_bytes": 256 << 20, "layer_inodes": 20_000}
            argv = ["python3", "-c", code]
            client.run(argv, session=session, timeout=seconds + 2, rules=limits)

    thread = threading.Thread(target=go)
    thread.start()
    return thread


def row(what: str, figures: list[float]) -> None:
    print(f"{what:<26}" + "".join(f"{each:9.1f}" for each in figures), flush=True)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    directory = Path(tempfile.mkdtemp(prefix="bombs-"))
    directory.chmod(0o755)
    daemon = Daemon(directory, "[store]\nsize = 4294967296\n")
    daemon.start()
    try:
        for name in ("bombed", "other"):
            (directory / name).mkdir()
            (directory / name / "README").write_text("text\n")
        with goexfs.connect(str(daemon.socket)) as client:
            bombed = client.mount(directory / "bombed")
            other = client.mount(directory / "other")
            print(f"{'':<26}{'run true':>9}{'worst':>9}{'host':>9}{'worst':>9}   (ms)")
            row("nothing", measure(client, other, seconds))
            for name, code in BOMBS.items():
                thread = bomb(str(daemon.socket), bombed.session, code, seconds)
                time.sleep(0.5)
                row(name, measure(client, other, seconds))
                thread.join()
                client.rewind(0, session=bombed)
            row("nothing, afterwards", measure(client, other, seconds))
    finally:
        daemon.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
