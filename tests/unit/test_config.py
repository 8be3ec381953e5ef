"""The configuration: defaults, the short form, and no silent typos."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from goexfs.errors import Usage
from goexfsd.config import read_config


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "goexfsd.toml"
    path.write_text(text)
    return path


def test_overrides_win(tmp_path: Path) -> None:
    path = written(tmp_path, 'state_dir = "/a"\nruntime_dir = "/b"\n')
    config = read_config(path, {"state_dir": Path("/c")})
    assert (config.state_dir, config.runtime_dir) == (Path("/c"), Path("/b"))


def test_store_may_be_a_path(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, 'store = "/some/btrfs"\n'), {})
    assert config.store.directory == Path("/some/btrfs")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("memry = 1\n", "memry"),
        ("[limits]\nmemory = -1\n", "limits.memory"),
        ('state_dir = "relative"\n', "state_dir"),
        ("[store\n", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(Usage, match=named.replace(".", r"\.")):
        read_config(written(tmp_path, text), {})


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="cannot be read"):
        read_config(tmp_path / "none.toml", {})


WARNING = """
[[warnings]]
name = "schema"
patterns = ["db/*.sql"]
message = "the database changes with it"
"""


def test_warnings_of_your_own(tmp_path: Path) -> None:
    (rule,) = read_config(written(tmp_path, WARNING), {}).warnings
    assert rule.keywords() == {
        "code": "schema",
        "says": "the database changes with it",
        "patterns": ("db/*.sql",),
        "kinds": frozenset(("created", "modified", "renamed", "retyped", "metadata")),
    }


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("schema", "git-hook", "goexfs's own"),
        ("schema", "Schema", "warnings.0.name"),
        ("db/*.sql", "../x", "empty name"),
        ('["db/*.sql"]', "[]", "warnings.0.patterns"),
        ("with it", "\\u001b[2J", "control characters"),
        ("message", 'kinds = ["gone"]\nmessage', "warnings.0.kinds"),
        ("message", "text", "warnings.0"),
        (WARNING, WARNING + WARNING, "a name of its own"),
    ],
)
def test_warnings_that_are_none(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(Usage, match=re.escape(named)):
        read_config(written(tmp_path, WARNING.replace(old, new)), {})
