"""Items about sessions: open, run, checkpoint, diff, discard, commit, and many at once."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.grounds import run, unmount
from bench.rows import Figures, Item, at_work
from bench.systems import BY_NAME, PYTHON, Goexfs, Stage, System, View
from bench.work import many, timed
from goexfs.client import Client

OVERLAYS = ("fuse-overlayfs", "overlayfs")
VIEWS = ("goexfs", "goexfs kernel", *OVERLAYS)


# -- open ------------------------------------------------------------------------------------------


def _open(tree: str, title: str) -> Item:
    """From the request until something in the view has been looked at."""

    def measure(stage: Stage, system: System) -> Figures:
        base = stage.trees.get(tree)
        name = min(os.listdir(base))
        context = system.view(stage, base, writes=False)
        views: list[View] = []

        def go() -> None:
            views.append(context.__enter__())
            os.lstat(os.path.join(views[0].top, name))

        try:
            return {f"open, {title}": timed(go)}
        finally:
            context.__exit__(None, None, None)

    return Item(f"open-{tree}", measure, VIEWS, (tree,), seldom=tree == "huge")


# -- run -- true -----------------------------------------------------------------------------------


def _true(stage: Stage, system: System) -> Figures:
    base = stage.trees.get("small")
    if system.name == "native":
        found = timed(lambda: stage.popen(["true"]))
        return {"run true, CLI": found, "run true, library": found}
    if system.name == "bwrap":
        argv = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "true"]
        return {"run true, CLI": timed(lambda: stage.popen(argv))}
    if system.name == "sandlock":
        python = str(stage.rivals / "bin/python")
        script = str(Path(__file__).with_name("sandlocked.py"))
        with stage.spot() as spot:
            own = stage.copy(base, spot / "copy")
            told = stage.popen([python, script, str(own), "time", "true"]).stdout
        return {"run true, library": float(told)}
    with system.view(stage, base, writes=False) as view:
        command = BY_NAME["goexfs run"]
        with command.view(stage, base, writes=False) as other:
            argv = other.wrap(["true"])
            cli = timed(lambda: stage.popen(argv))
        start = _own_start(stage, argv)
        parsed = _own_start(stage, [*argv[: argv.index("run")], "status"])
        with stage.as_user():
            client = stage.client
            library = timed(lambda: client.run(["true"], session=view.session))
        return {
            "run true, CLI": cli,
            "run true, library": library,
            "the CLI's own start, run": start,
            "the CLI's own start, status": parsed,
        }


def _own_start(stage: Stage, argv: list[str]) -> float:
    """Milliseconds until a command has connected to its daemon: to one that hangs up on it."""
    with stage.spot() as spot, socket.socket(socket.AF_UNIX) as listener:
        path = str(spot / "sock")
        listener.bind(path)
        os.chmod(path, 0o777)
        listener.listen()
        listener.settimeout(30)
        connected: list[float] = []

        def hang_up() -> None:
            one, _ = listener.accept()
            connected.append(time.perf_counter())
            one.close()

        waiter = threading.Thread(target=hang_up)
        waiter.start()
        begin = time.perf_counter()
        with contextlib.suppress(RuntimeError):  # it says that the daemon hung up
            stage.popen(argv, socket=path)
        waiter.join()
        return (connected[0] - begin) * 1000


class _PlainBubblewrap(System):
    """bubblewrap without any view: what starting a sandbox costs alone."""

    name = "bwrap"


PLAIN_BUBBLEWRAP = _PlainBubblewrap()


# -- checkpoints -----------------------------------------------------------------------------------


def _changed(stage: Stage, view: View, count: float) -> None:
    """Make ``count`` thousand new files through the view."""
    at_work(stage, list, view.top, "create", count * stage.scale)


def _checkpointing(stage: Stage, system: System, view: View, label: str) -> Callable[[], object]:
    """The action that keeps the present state of a view."""
    if isinstance(system, Goexfs):
        return lambda: stage.client.checkpoint(session=view.session)
    if system.name == "shadow git":

        def keep() -> None:
            stage.popen(view.wrap(["add", "-A"]))
            stage.popen(view.wrap(["commit", "-q", "--allow-empty", "-m", label]))

        return keep
    if system.name == "btrfs snapshot":
        to = view.top.parent / f"snap-{label}"
        return lambda: run("btrfs", "-q", "subvolume", "snapshot", "-r", view.top, to)
    assert view.upper is not None
    to = view.upper.parent / f"copy-{label}"
    return lambda: run("cp", "-a", "--reflink=auto", str(view.upper), to)


def _checkpoint(stage: Stage, system: System) -> Figures:
    base = stage.trees.get("small")
    with system.view(stage, base, writes=True) as view:
        if system.name == "shadow git":
            _checkpointing(stage, system, view, "first")()
        clean = timed(_checkpointing(stage, system, view, "clean"))
        _changed(stage, view, 1)
        dirty = timed(_checkpointing(stage, system, view, "dirty"))
    return {"checkpoint, clean": clean, "checkpoint, 1,000 dirty": dirty}


def _checkpoints(stage: Stage, system: System) -> Figures:
    """Each with one small change before it; the last tenth tells whether they become slower."""
    base = stage.trees.get("one")
    count = many(1000, stage.scale)
    took: list[float] = []
    with system.view(stage, base, writes=True) as view:
        for number in range(count):
            (view.top / "file").write_text(f"{number}\n")
            took.append(timed(_checkpointing(stage, system, view, str(number))))
    tenth = max(1, count // 10)
    return {
        "a checkpoint, first tenth of 1,000": sum(took[:tenth]) / tenth,
        "a checkpoint, last tenth of 1,000": sum(took[-tenth:]) / tenth,
    }


# -- diff ------------------------------------------------------------------------------------------


def _diff(tree: str, title: str) -> Item:
    def measure(stage: Stage, system: System) -> Figures:
        base = stage.trees.get(tree)
        row = f"diff of 1,000 in {title}"
        with system.view(stage, base, writes=True) as view:
            if system.name == "shadow git":
                _checkpointing(stage, system, view, "first")()
            _changed(stage, view, 1)
            if isinstance(system, Goexfs):
                return {row: timed(lambda: stage.client.diff(session=view.session))}
            if system.name == "shadow git":
                return {row: timed(lambda: stage.popen(view.wrap(["status", "--porcelain"])))}
            return {row: timed(lambda: stage.popen(["find", str(view.upper), "-ls"]))}

    return Item(f"diff-{tree}", measure, (*VIEWS, "shadow git"), (tree,))


def _deletions(stage: Stage, system: System) -> Figures:
    """The whole command line: ``goexfs diff --stat``, ``git diff --stat``."""
    base = stage.trees.get("small")
    with system.view(stage, base, writes=True) as view:
        if system.name == "shadow git":
            _checkpointing(stage, system, view, "first")()
        stage.popen(["rm", "-rf", str(view.top / "tree")])
        if system.name == "shadow git":
            argv = view.wrap(["diff", "--stat"])
        else:
            argv = [*stage.goexfs(), "diff", "-s", view.session, "--stat"]
        return {"diff --stat of 5,000 deletions": timed(lambda: stage.popen(argv))}


# -- discard and commit ----------------------------------------------------------------------------


def _discard(stage: Stage, system: System) -> Figures:
    base = stage.trees.get("small")
    row = "discard of 5,000 new files"
    with system.view(stage, base, writes=True) as view:
        if system.name == "shadow git":
            _checkpointing(stage, system, view, "first")()
        _changed(stage, view, 5)
        if isinstance(system, Goexfs):
            return {row: timed(lambda: stage.client.discard(view.session))}
        if system.name == "shadow git":
            return {row: timed(lambda: stage.popen(view.wrap(["clean", "-fdxq", str(view.top)])))}

        def throw_away() -> None:
            unmount(view.top)
            run("rm", "-rf", str(view.upper))

        return {row: timed(throw_away)}


@contextlib.contextmanager
def _own_base(stage: Stage, tree: str) -> Iterator[Path]:
    """A base that may be committed to."""
    with stage.spot() as spot:
        yield stage.copy(stage.trees.get(tree), spot / "base")


def _landing(base: Path, view: View) -> Callable[[], object]:
    """The action that brings an overlay's changes into its base, durably."""

    def by_rsync() -> None:
        run("rsync", "-aHAX", f"{view.upper}/", f"{base}/")
        run("sync", "-f", base)

    return by_rsync


def _home(stage: Stage, system: System, base: Path, view: View, what: str) -> Figures:
    """Commit, and take it back where that can be done."""
    if not isinstance(system, Goexfs):
        return {f"commit of {what}": timed(_landing(base, view))}
    made: list[str | None] = []
    landed = timed(lambda: made.append(stage.client.commit(session=view.session).commit))
    return {f"commit of {what}": landed, f"undo of {what}": timed(lambda: _undo(stage, made[0]))}


def _undo(stage: Stage, commit: str | None) -> None:
    with stage.as_user():
        stage.client.undo(commit)


def _commit(count: float, title: str) -> Item:
    what = f"{title} new files"

    def measure(stage: Stage, system: System) -> Figures:
        with _own_base(stage, "small") as base:
            if system.name == "sandlock":
                return _sandlock_commit(stage, base, count, f"commit of {what}")
            with system.view(stage, base, writes=True) as view:
                _changed(stage, view, count)
                return _home(stage, system, base, view, what)

    return Item(f"commit-{title}", measure, (*VIEWS, "sandlock"), ("small",), seldom=count > 10)


def _sandlock_commit(stage: Stage, base: Path, count: float, row: str) -> Figures:
    python = str(stage.rivals / "bin/python")
    script = str(Path(__file__).with_name("sandlocked.py"))
    work = [PYTHON, str(stage.ground.top / "work.py"), "create", str(base)]
    argv = [python, script, str(base), "commit", *work, str(count * stage.scale)]
    took = float(stage.popen(argv).stdout)
    return {row: took + timed(lambda: run("sync", "-f", base))}


def _commit_big(tree: str, what: str) -> Item:
    def measure(stage: Stage, system: System) -> Figures:
        with (
            _own_base(stage, tree) as base,
            system.view(stage, base, writes=True) as view,
        ):
            at_work(stage, list, view.top, "poke", stage.scale)
            return _home(stage, system, base, view, what)

    return Item(f"commit-{tree}", measure, VIEWS, (tree,), seldom=tree != "big")


def _fork(stage: Stage, system: System) -> Figures:
    """Of a session that changed 1, and of one that changed 5,000 files."""
    base = stage.trees.get("small")
    found: Figures = {}
    for count, title in ((0.001, "1"), (5, "5,000")):
        with system.view(stage, base, writes=True) as view:
            _changed(stage, view, count)
            forks: list[str] = []

            def go(view: View = view, forks: list[str] = forks) -> None:
                forks.append(stage.client.fork(session=view.session).session)

            found[f"fork with {title} changed"] = timed(go)
            with stage.as_user():
                stage.client.discard(forks[0])
    return found


# -- many at once ----------------------------------------------------------------------------------


def _many(count: int) -> Item:
    """Sessions side by side, each editing, running and diffing in a small loop."""

    def measure(stage: Stage, system: System) -> Figures:
        base = stage.trees.get("small")
        rounds = 3
        before = private_bytes(stage)
        with stage.as_user():
            client = stage.client
            sessions = [client.mount(base).session for _ in range(count)]
        idle = (private_bytes(stage) - before) / count / 1e6
        cpu, since = cpu_seconds(stage), time.monotonic()
        time.sleep(2)
        busy = (cpu_seconds(stage) - cpu) / (time.monotonic() - since)
        took: list[float] = []
        with stage.as_user():
            begin = time.perf_counter()
            threads = [
                threading.Thread(target=_edits, args=(client, one, rounds, took))
                for one in sessions
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.perf_counter() - begin
            for one in sessions:
                client.discard(one)
        if len(took) != count:
            raise RuntimeError(f"{count - len(took)} of {count} sessions failed")
        return {
            f"{count} sessions: memory of each, MB": idle,
            f"{count} sessions idle: CPU, %": busy * 100,
            f"{count} sessions: edit-run-diff loops a second": count * rounds / seconds,
            f"{count} sessions: slowest to fastest": max(took) / min(took),
        }

    return Item(f"sessions-{count}", measure, ("goexfs",), ("small",), seldom=True)


def _edits(client: Client, session: str, rounds: int, took: list[float]) -> None:
    begin = time.perf_counter()
    for number in range(rounds):
        done = client.run(["sh", "-c", f"echo {number} >> tree/d00000/f0000000"], session=session)
        if done.status or len(client.diff(session=session).changes) != 1:
            return
    took.append(time.perf_counter() - begin)


def processes(stage: Stage) -> list[int]:
    """The daemon and everything below it."""
    assert stage.daemon.process is not None
    argv = ["ps", "-e", "-o", "pid=,ppid="]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, told.splitlines())}
    found = {stage.daemon.process.pid}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found)


def private_bytes(stage: Stage) -> int:
    """Memory that the daemon's processes do not share."""
    total = 0
    for pid in processes(stage):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if "Private" in line)
    return total * 1024


def cpu_seconds(stage: Stage) -> float:
    ticks = 0
    for pid in processes(stage):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


SESSIONS: tuple[Item, ...] = (
    _open("one", "1 file"),
    _open("small", "5,000 files"),
    _open("large", "100,000 files"),
    _open("huge", "1,000,000 files"),
    Item("true", _true, ("native", "goexfs", "sandlock", "bwrap"), ("small",)),
    Item(
        "checkpoint",
        _checkpoint,
        (*VIEWS, "shadow git", "btrfs snapshot"),
        ("small",),
    ),
    Item("checkpoints", _checkpoints, ("goexfs", "shadow git"), ("one",), seldom=True),
    _diff("small", "5,000"),
    _diff("large", "100,000"),
    Item("deletions", _deletions, ("goexfs", "shadow git"), ("small",)),
    Item("discard", _discard, (*VIEWS, "shadow git"), ("small",)),
    _commit(0.01, "10"),
    _commit(3, "3,000"),
    _commit(100, "100,000"),
    _commit_big("big", "4 KiB in big file"),
    _commit_big("vast", "4 KiB in 4 GiB"),
    Item("fork", _fork, ("goexfs", "goexfs kernel"), ("small",)),
    _many(1),
    _many(10),
    _many(50),
)
