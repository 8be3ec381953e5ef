"""``goexfs run`` parsed the short way: the same request as click makes of it, or left to click."""

from __future__ import annotations

from typing import Any

import pytest

from goexfs.cli import quick
from goexfs.cli.asking import where
from goexfs.cli.commands import run
from goexfs.cli.state import State

PLAIN = [
    ["true"],
    ["--", "true"],
    ["true", "--", "-s", "x"],
    ["--", "--", "true"],
    ["-s", "otter", "--", "make", "-j", "2", "--json"],
    ["--session", "otter", "make", "--session=y"],
    ["--json", "--", "true"],
    ["-s", "a", "--json", "-s", "b", "sh", "-c", "exit 3"],
    ["--", "-s", "a"],
    ["--", ""],
]
OTHERS = [
    [],
    ["--"],
    ["-s"],
    ["-s", "otter"],
    ["-s", "", "--", "true"],
    ["-s", "--", "true"],
    ["-sotter", "true"],
    ["--session=otter", "true"],
    ["--ses", "otter", "true"],
    ["-", "true"],
    ["--timeout", "5", "true"],
    ["--script", "x.sh"],
    ["--policy", "strict", "--", "true"],
    ["--help"],
    ["--unknown", "true"],
]


def by_click(argv: list[str]) -> tuple[dict[str, Any], bool]:
    """The request that click makes of it, and whether the answer is to be JSON."""
    about = State()
    found: list[dict[str, Any]] = []

    def caught(argv: Any, script: Any, timeout: Any, variables: Any, **rest: Any) -> None:
        boundary, session = rest["boundary"], rest["session"]
        found.append(where(session, **run.request(argv, script, timeout, variables), **boundary))

    with run.command.make_context("run", list(argv), obj=about) as ctx:
        ctx.params["boundary"] = _boundary(ctx.params)
        caught(**ctx.params)
    return found[0], about.json


def _boundary(params: dict[str, Any]) -> dict[str, Any]:
    from goexfs.cli import boundary

    return boundary.params(**{name: params.pop(name) for name in boundary._NAMES})


@pytest.mark.parametrize("variable", [None, "", "heron"])
@pytest.mark.parametrize("argv", PLAIN, ids=" ".join)
def test_the_same_request_as_by_click(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], variable: str | None
) -> None:
    monkeypatch.delenv("GOEXFS_SESSION", raising=False)
    if variable is not None:
        monkeypatch.setenv("GOEXFS_SESSION", variable)
    found = quick.words(["run", *argv])
    assert found is not None
    command, session, as_json = found
    assert (quick.params(command, session), as_json) == by_click(argv)


@pytest.mark.parametrize("argv", OTHERS, ids=" ".join)
def test_what_is_left_to_click(argv: list[str]) -> None:
    assert quick.words(["run", *argv]) is None


def test_other_verbs_and_completion_are_left_to_click(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quick.words([]) is None
    assert quick.words(["diff", "true"]) is None
    monkeypatch.setenv("_GOEXFS_COMPLETE", "bash_complete")
    assert quick.words(["run", "true"]) is None
