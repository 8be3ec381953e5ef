"""Forks and the tree of checkpoints, by a real daemon: nothing is lost, each goes its own way."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import goexfs as library
from daemons import Daemon, Goexfs, MakeDaemon, User
from manifests import differences, manifest

Json = Callable[..., Any]


def shell(goexfs: Goexfs, session: str, script: str, **how: Any) -> None:
    goexfs("run", "-s", session, "--", "sh", "-ec", script, **how)


def test_a_fork_begins_as_its_parent_was_and_goes_its_own_way(
    tree: Path, ordinary_user: User, daemon: Daemon, goexfs: Goexfs, goexfs_json: Json
) -> None:
    how: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    before = manifest(tree)
    view = Path(goexfs_json("mount", tree, "--name", "first", **how)["mountpoint"])
    shell(goexfs, "first", "echo 1 > one; ln src/main.py hard; mv src/deep moved", **how)
    after_one = manifest(view)
    shell(goexfs, "first", "echo 2 > two; rm -r moved", **how)
    fork = goexfs_json("fork", "--at", "1", "--name", "second", **how)
    assert (fork["name"], fork["forked_at"], fork["owner"]) == ("second", 1, ordinary_user.uid)
    other = Path(fork["mountpoint"])
    assert differences(after_one, manifest(other)) == []
    shell(goexfs, "second", "echo 3 > three; echo more >> src/main.py", **how)
    shell(goexfs, "first", "rm one", **how)
    assert {"one", "three", "moved"} <= {path.name for path in other.iterdir()}
    assert not {"one", "three", "moved"} & {path.name for path in view.iterdir()}
    log = goexfs_json("log", "-s", "second", **how)
    assert [step["number"] for step in log["steps"]] == [1]
    (inherited,) = log["inherited"]
    assert (inherited["name"], inherited["checkpoint"]) == ("first", 1)
    assert [step["number"] for step in inherited["steps"]] == [1]
    assert goexfs_json("diff", "--step", "1", "-s", "second", **how)["summary"]["created"] == 1
    # The parent goes; the daemon ends and starts again; the fork stays, and is rewound.
    goexfs("discard", "-s", "first", **how)
    daemon.restart()
    goexfs("rewind", "-s", "second", "0", **how)
    assert differences(after_one, manifest(other)) == []
    goexfs("rewind", "-s", "second", "1", **how)
    assert (other / "three").read_text() == "3\n"
    assert differences(before, manifest(tree)) == []
    assert goexfs_json("commit", "-s", "second", **how)["closed"]
    assert (tree / "three").exists()
    assert os.stat(tree / "hard").st_ino == os.stat(tree / "src" / "main.py").st_ino
    assert "two" not in os.listdir(tree)


def test_the_first_of_ten_forks_to_commit_wins(
    tree: Path, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json
) -> None:
    how: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    goexfs("mount", tree, "--name", "s", **how)
    shell(goexfs, "s", "echo shared > shared", **how)
    names = [goexfs_json("fork", "-s", "s", **how)["name"] for _ in range(10)]
    assert names == [f"s-{number}" for number in range(2, 12)]
    for name in names:
        shell(goexfs, name, f"echo {name} >> README.md; echo {name} > only-{name}", **how)
    winner = names[4]
    assert goexfs_json("commit", "-s", winner, **how)["closed"]
    assert winner in (tree / "README.md").read_text()
    for name in (names[0], names[9]):
        done = json.loads(goexfs("commit", "--json", "-s", name, status=3, **how).out)
        assert [each["path"] for each in done["conflicts"]] == ["README.md"]
        assert not (tree / f"only-{name}").exists()
        assert goexfs_json("commit", "-s", name, f"only-{name}", **how)["applied"]["created"] == 1
    # What the parent has is what the winner committed too: it is no change any more.
    assert goexfs_json("diff", "-s", "s", **how)["changes"] == []
    for name in ("s", *(name for name in names if name != winner)):
        goexfs("discard", "-s", name, **how)


def test_a_fork_of_a_session_of_which_a_part_was_committed(
    tree: Path, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json
) -> None:
    how: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    goexfs("mount", tree, "--name", "s", **how)
    shell(goexfs, "s", "echo a >> README.md; echo b > rest", **how)
    assert not goexfs_json("commit", "-s", "s", "README.md", **how)["closed"]
    goexfs("fork", "-s", "s", "--name", "now", **how)
    goexfs("fork", "-s", "s", "--at", "1", "--name", "then", **how)
    for name in ("now", "then"):  # what was committed is no change any more, seen from either
        changes = goexfs_json("diff", "-s", name, **how)["changes"]
        assert [(each["kind"], each["path"]) for each in changes] == [("created", "rest")]
    shell(goexfs, "now", "echo mine >> README.md", **how)
    shell(goexfs, "then", "echo late >> README.md", **how)
    assert goexfs_json("commit", "-s", "now", **how)["applied"]["modified"] == 1
    done = json.loads(goexfs("commit", "--json", "-s", "then", status=3, **how).out)
    assert {each["path"] for each in done["conflicts"]} == {"README.md"}
    assert (tree / "README.md").read_text() == "# project\na\nmine\n"


def test_while_a_script_runs_only_what_was_can_be_forked(
    tree: Path, ordinary_user: User, daemon: Daemon, goexfs: Goexfs, goexfs_json: Json
) -> None:
    how: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    goexfs("mount", tree, "--name", "s", **how)
    shell(goexfs, "s", "echo 1 > one", **how)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(daemon.socket))
        run = {"session": "s", "command": ["sh", "-c", "echo 2 > two; sleep 600"]}
        line = {"jsonrpc": "2.0", "id": 1, "method": "run", "params": run}
        link.sendall(json.dumps(line).encode() + b"\n")
        assert b"started" in link.recv(4096)
        assert "busy" in goexfs("fork", "-s", "s", status=1, user=ordinary_user).err
        assert "no checkpoint" in goexfs("fork", "-s", "s", "--at", "2", status=1, **how).err
        fork = goexfs_json("fork", "-s", "s", "--at", "1", **how)
        assert sorted(os.listdir(fork["mountpoint"])) == sorted([*os.listdir(tree), "one"])
    goexfs("discard", "-s", fork["session"], **how)


def test_what_cannot_be_forked(tree: Path, ordinary_user: User, goexfs: Goexfs) -> None:
    goexfs("mount", tree, "--name", "s", user=ordinary_user)
    for arguments, status in (
        (["--at", "9"], 4),
        (["--at", "0"], 4),  # no checkpoint yet
        (["--checkpoint", "9"], 4),
        (["--at", "1", "--checkpoint", "1"], 2),
        (["--name", "s"], 1),
        (["--name", "no/name"], 2),
    ):
        goexfs("fork", "-s", "s", *arguments, status=status, user=ordinary_user)
    assert len(goexfs("ls", user=ordinary_user).out.splitlines()) == 2


def test_a_fork_belongs_to_the_owner_of_its_parent(
    tree: Path, ordinary_user: User, other_user: User, goexfs: Goexfs, goexfs_json: Json
) -> None:
    session = goexfs_json("mount", tree, user=ordinary_user)["session"]
    goexfs("fork", "-s", session, status=5, user=other_user)
    fork = goexfs_json("fork", "-s", session)  # root may
    assert fork["owner"] == ordinary_user.uid
    shell(goexfs, fork["session"], "id -u > id", user=ordinary_user)
    goexfs("commit", "-s", fork["session"], user=ordinary_user)
    assert (tree / "id").read_text() == f"{ordinary_user.uid}\n"


def test_a_daemon_killed_in_a_fork_leaves_none_or_a_whole_one(
    tree: Path, btrfs_image: Path, make_daemon: MakeDaemon
) -> None:
    store = btrfs_image / "store"
    store.mkdir()
    daemon = make_daemon(f'store = "{store}"\n')
    client = library.connect(daemon.socket)
    session = client.mount(tree, name="s").session
    client.run(["sh", "-c", "echo 1 > one"], session=session)
    for attempt in range(6):
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(daemon.socket))
            line = {"jsonrpc": "2.0", "id": 1, "method": "fork", "params": {"session": "s"}}
            link.sendall(json.dumps(line).encode() + b"\n")
            time.sleep(0.008 * attempt)  # anywhere in it: what matters holds wherever it was
            daemon.kill()
        daemon.start()
        live = client.ls()
        (sessions,) = store.glob("**/sessions")
        assert sorted(os.listdir(sessions)) == sorted(each.session for each in live)
        for each in live:
            assert (Path(each.mountpoint) / "one").read_text() == "1\n"
            if each.session != session:
                client.discard(each)


FILES = st.sampled_from(["a", "b", "d/c", "new"])
OPERATION = st.one_of(
    st.tuples(st.just("write"), FILES),
    st.tuples(st.just("write"), FILES),
    st.tuples(st.just("delete"), FILES),
    st.tuples(st.just("checkpoint"), st.none()),
    st.tuples(st.just("rewind"), st.integers(0, 20)),
    st.tuples(st.just("fork"), st.one_of(st.none(), st.integers(0, 20))),
)
Contents = dict[str, str | None]


class Model:
    """What each session holds over the base, and held at each checkpoint."""

    def __init__(self, client: library.Client, base: Path) -> None:
        self.client, self.base = client, base
        self.content: Contents = {}
        (base / "d").mkdir(parents=True)
        for name in ("a", "b", "d/c"):
            (base / name).write_text(name)
            self.content[name] = name
        self.sessions: list[library.SessionInfo] = []
        self.layers: list[Contents] = []
        self.checkpoints: list[dict[int, Contents]] = []
        self.count = 0
        self._add(client.mount(base), {}, {})

    def _add(
        self, info: library.SessionInfo, layer: Contents, checkpoints: dict[int, Contents]
    ) -> None:
        self.sessions.append(info)
        self.layers.append(dict(layer))
        self.checkpoints.append(checkpoints)

    def do(self, pick: int, operation: str, argument: Any) -> None:
        at = pick % len(self.sessions)
        getattr(self, operation)(at, argument)
        self.check(at)

    def write(self, at: int, name: str) -> None:
        self.count += 1
        self.layers[at][name] = f"{self.count}"
        (Path(self.sessions[at].mountpoint) / name).write_text(f"{self.count}")

    def delete(self, at: int, name: str) -> None:
        if self.now(at).get(name) is not None:
            self.layers[at][name] = None
            (Path(self.sessions[at].mountpoint) / name).unlink()

    def checkpoint(self, at: int, _: None) -> None:
        made = self.client.checkpoint(session=self.sessions[at])
        self.checkpoints[at].setdefault(0, dict(self.layers[at]))
        self.checkpoints[at][made.number] = dict(self.layers[at])

    def rewind(self, at: int, pick: int) -> None:
        known = self.checkpoints[at]
        if known:
            number = sorted(known)[pick % len(known)]
            saved = self.client.rewind(number, session=self.sessions[at]).saved
            if saved is not None:
                known[saved] = self.layers[at]
            self.layers[at] = dict(known[number])

    def fork(self, at: int, pick: int | None) -> None:
        known = self.checkpoints[at]
        if len(self.sessions) == 5 or (pick is not None and not known):
            return
        number = None if pick is None else sorted(known)[pick % len(known)]
        info = self.client.fork(self.sessions[at], checkpoint=number)
        begins = self.layers[at] if number is None else known[number]
        assert info.forked_at is not None
        known.setdefault(info.forked_at, dict(begins))
        self._add(info, begins, {0: dict(begins)})
        self.check(len(self.sessions) - 1)

    def now(self, at: int) -> Contents:
        return {**self.content, **self.layers[at]}

    def check(self, at: int) -> None:
        view = Path(self.sessions[at].mountpoint)
        assert read(view) == {n: c for n, c in self.now(at).items() if c is not None}

    def finish(self, order: list[int]) -> None:
        """Commit one after another: what was changed meanwhile is a conflict, by the model too."""
        began = dict(self.content)
        for pick in order:
            if not self.sessions:
                break
            at = pick % len(self.sessions)
            session, layer = self.sessions.pop(at), self.layers.pop(at)
            # What is again as it was when the sessions began is no change, whoever else has one.
            changed = {n for n, c in layer.items() if c not in (began.get(n), self.content.get(n))}
            moved = {n for n in changed if self.content.get(n) != began.get(n)}
            done = self.client.commit(session=session)
            assert {each.path for each in done.conflicts} == moved
            if moved:
                self.client.discard(session)
            else:
                self.content.update({n: layer[n] for n in changed})
            assert read(self.base) == {n: c for n, c in self.content.items() if c is not None}
        for session in self.sessions:
            self.client.discard(session)


def read(top: Path) -> Contents:
    files = [path for path in top.glob("**/*") if path.is_file()]
    return {str(path.relative_to(top)): path.read_text() for path in files}


def test_forks_and_rewinds_against_a_model(daemon: Daemon, arena: Path) -> None:
    client = library.connect(daemon.socket)
    count = iter(range(1000))

    @settings(
        max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(
        st.lists(st.tuples(st.integers(0, 9), OPERATION), max_size=14),
        st.lists(st.integers(0, 9), min_size=1, max_size=5),
    )
    def holds(operations: list[tuple[int, tuple[str, Any]]], order: list[int]) -> None:
        model = Model(client, arena / str(next(count)))
        try:
            for pick, (operation, argument) in operations:
                model.do(pick, operation, argument)
            model.finish(order)
        finally:
            for session in client.ls():
                client.discard(session)

    holds()


def test_many_checkpoints(daemon: Daemon, arena: Path) -> None:
    """Many checkpoints: each is whole and can be returned to, and all go in one discard."""
    (arena / "base").mkdir()
    client = library.connect(daemon.socket)
    session = client.mount(arena / "base")
    view = Path(session.mountpoint)
    for number in range(1, 151):
        (view / "file").write_text(f"{number}")
        assert client.checkpoint(f"{number}", session=session).number == number
        if number % 50 == 0:
            client.rewind(number - 25, session=session)
    log = client.log(session)
    assert [each.number for each in log.checkpoints] == list(range(151))
    assert log.checkpoints[51].parent == 25
    daemon.restart()
    for number in (150, 1, 75):
        client.rewind(number, session=session)
        assert (view / "file").read_text() == f"{number}"
    assert client.fork(session, checkpoint=140).forked_at == 140
    for each in client.ls():
        client.discard(each)
