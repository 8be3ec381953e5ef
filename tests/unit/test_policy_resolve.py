"""From what everybody says to one policy: order, narrowing, ceilings, sources."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs.errors import Denied, Usage
from goexfs.protocol import Rules
from goexfs.units import parse_size, size_text
from goexfsd.sandbox import Policy
from goexfsd.sandbox.presets import PRESETS
from goexfsd.sandbox.resolve import KEYS, Kind, Resolved, Said, preset, resolve, understand
from goexfsd.sandbox.secrets import SECRETS

G = 1024**3
CEILING = Rules(network="host", memory=4 * G, processes=512, open_files=4096, output_bytes=2**20)


def said(kind: Kind, **rules: Any) -> Said:
    return Said(kind, kind, Rules(**rules))


def made(*parts: Said, ceiling: Rules = CEILING, name: str = "default") -> Resolved:
    base = preset(name)
    assert base is not None
    return resolve(name, [base, *parts], ceiling)


def test_nothing_said_is_the_daemon_s_limits_and_the_built_in_policy() -> None:
    found = made()
    assert found.policy == Policy(
        memory_bytes=4 * G, max_processes=512, open_files=4096, output_bytes=2**20
    )
    assert found.sources["memory"] == "the daemon's limits"
    assert found.sources["hide"] == "built in"
    assert found.notes == ()


def test_every_key_has_a_value_and_a_source() -> None:
    found = made()
    assert set(found.values) == set(found.sources) == set(KEYS)
    assert set(KEYS) == set(Rules.model_fields) - {"show"}


def test_later_ones_have_the_last_word() -> None:
    found = made(said("user", memory=G, cpu=2), said("run", memory=2 * G))
    assert (found.policy.memory_bytes, found.sources["memory"]) == (2 * G, "run")
    assert (found.policy.cpu, found.sources["cpu"]) == (2, "user")


def test_a_project_narrows() -> None:
    found = made(said("project", memory=G, network="none", home=False, hide=["*.key"]))
    assert (found.policy.memory_bytes, found.policy.home) == (G, False)
    assert found.policy.hidden == (*SECRETS, "*.key")
    assert found.sources["hide"] == "built in + project"
    assert found.notes == ()


WIDE: dict[str, Any] = {
    "memory": 3 * G,
    "processes": 400,
    "cpu": 8.0,
    "network": "host",
    "home": True,
    "unenforced": "allow",
    "read": ["/srv"],
    "show": ["~/.ssh"],
    "environment": ["SECRET", "LC_ALL"],
}


@pytest.mark.parametrize("key", WIDE)
def test_a_project_cannot_widen(key: str) -> None:
    mine = said("user", memory=G, processes=64, cpu=1, network="none", home=False,
                unenforced="refuse", environment=["LC_*"])  # fmt: skip
    before, after = made(mine), made(mine, said("project", **{key: WIDE[key]}))
    if key == "environment":
        assert after.policy.environment == ("LC_ALL",)
    else:
        assert after.policy == before.policy
    assert len(after.notes) == 1
    assert after.notes[0].startswith(f"project: {key} is left out: ")


RULES = st.builds(
    Rules,
    network=st.sampled_from([None, "none", "host"]),
    memory=st.none() | st.integers(16 * 2**20, 8 * G),
    processes=st.none() | st.integers(4, 1000),
    cpu=st.none() | st.floats(0.01, 64),
    wall_seconds=st.none() | st.floats(0.1, 1e6),
    layer_bytes=st.none() | st.integers(0, G),
    home=st.none() | st.booleans(),
    unenforced=st.sampled_from([None, "refuse", "allow"]),
    environment=st.none() | st.lists(st.sampled_from(["*", "LC_*", "LC_ALL", "A?", "A", "*_X"])),
    read=st.lists(st.sampled_from(["/a", "~/b"])),
    hide=st.lists(st.sampled_from(["/a", "~/b", "c/*"])),
    show=st.lists(st.sampled_from(["~/.ssh", "~/.aws"])),
    read_only=st.lists(st.sampled_from(["d", "e/f"])),
)
NAMES = ("LC_ALL", "A", "AB", "HOME_X", "PATH")


@given(RULES, RULES)
def test_whatever_a_project_says_it_grants_nothing(mine: Rules, theirs: Rules) -> None:
    from fnmatch import fnmatchcase

    own = [Said("mine", "user", mine)]
    before = resolve("x", own, CEILING).policy
    after = resolve("x", [*own, Said("theirs", "project", theirs)], CEILING).policy
    for name in ("memory_bytes", "max_processes", "cpu", "wall_seconds", "layer_bytes"):
        old, new = getattr(before, name), getattr(after, name)
        assert old is None or (new is not None and new <= old)
    assert (after.network, before.network) != ("host", "none")
    assert before.home or not after.home
    assert (after.unenforced, before.unenforced) != ("allow", "refuse")
    assert after.read == before.read
    assert set(before.hidden) <= set(after.hidden)
    assert set(before.read_only) <= set(after.read_only)
    for name in NAMES:
        granted = any(fnmatchcase(name, pattern) for pattern in before.environment)
        assert granted or not any(fnmatchcase(name, pattern) for pattern in after.environment)


@given(RULES, st.sampled_from(sorted(PRESETS)))
def test_nothing_passes_the_ceiling(rules: Rules, name: str) -> None:
    base = preset(name)
    assert base is not None
    ceiling = CEILING.model_copy(update={"network": "none", "layer_bytes": 2**20})
    policy = resolve(name, [base, Said("mine", "user", rules)], ceiling).policy
    assert policy.network == "none"
    assert policy.memory_bytes <= 4 * G
    assert policy.max_processes <= 512
    assert policy.layer_bytes is not None
    assert policy.layer_bytes <= 2**20


def test_a_file_is_cut_down_to_the_ceiling_and_it_is_told() -> None:
    found = made(said("user", memory=64 * G))
    assert (found.policy.memory_bytes, found.sources["memory"]) == (4 * G, "the daemon's limits")
    assert found.notes == ("memory: 64G of user is cut down to the daemon's limits",)


@pytest.mark.parametrize("rules", [{"memory": 5 * G}, {"processes": 513}, {"network": "host"}])
def test_a_run_that_asks_for_more_than_there_is_is_refused(rules: dict[str, Any]) -> None:
    ceiling = CEILING.model_copy(update={"network": "none"})
    with pytest.raises(Denied, match="above the daemon's limit"):
        made(said("run", **rules), ceiling=ceiling)


def test_the_daemon_s_default_network_is_only_a_default() -> None:
    base = preset("strict")
    assert base is not None
    assert resolve("x", [], CEILING, "host").policy.network == "host"
    assert resolve("strict", [base], CEILING, "host").policy.network == "none"


@pytest.mark.parametrize(
    "path",
    ["/", "/proc", "/proc/1", "/sys/fs", "/dev", "/run", "/run/user", "/var/run/docker.sock",
     "/./run", "//run", "/var"],
)  # fmt: skip
def test_some_places_are_never_shown(path: str) -> None:
    with pytest.raises(Denied, match="never shown"):
        made(said("run", read=[path]))


@pytest.mark.parametrize(
    ("key", "path"),
    [("read", "relative"), ("read", "/a/../b"), ("read", ""), ("hide", "/a/**/b"), ("hide", "/"),
     ("hide", "a\0"), ("hide", "~"), ("hide", "~/"), ("hide", "~root/x"),
     ("hide", "a" * 4097), ("hide", "*a" * 33), ("mask", "[a]" * 33), ("environment", "A*" * 99),
     ("read_only", "/etc"), ("read_only", "~/x"), ("read_only", "../x")],
)  # fmt: skip
def test_paths_that_make_no_sense(key: str, path: str) -> None:
    with pytest.raises(Usage):
        made(said("user", **{key: [path]}))


def test_what_is_hidden_can_be_shown_by_its_user() -> None:
    found = made(said("user", show=["~/.ssh", "~/no"]))
    assert "~/.ssh" not in found.policy.hidden
    assert found.sources["hide"] == "built in - user"
    assert found.notes == ("user: show is left out: ~/no is not an entry of what is hidden",)


def test_presets_are_policies() -> None:
    for name in PRESETS:
        assert made(name=name).name == name
    strict, default = made(name="strict").policy, made().policy
    assert strict.memory_bytes < default.memory_bytes
    assert not strict.home
    assert made(name="dev").policy.network == "host"
    assert default.network == "none"


@pytest.mark.parametrize(
    "table",
    [{"netwrok": "none"}, {"memory": "lots"}, {"memory": True}, {"cpu": float("nan")},
     {"cpu": float("inf")}, {"read": "x"}, {"network": "all"}, {"memory": 1}, {"home": 1}],
)  # fmt: skip
def test_a_file_that_is_not_understood_names_file_and_key(table: dict[str, Any]) -> None:
    with pytest.raises(Usage, match=rf"/f\.toml is wrong at {next(iter(table))}"):
        understand(table, "/f.toml")


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.floats() | st.booleans()))
def test_any_table_is_rules_or_a_usage_error(table: dict[str, Any]) -> None:
    try:
        understand(table, "/f")
    except Usage:
        return
    assert set(table) <= set(Rules.model_fields)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("2G", 2 * G), ("2g", 2 * G), ("1.5K", 1536), ("2 GiB", 2 * G),
     ("512MB", 512 * 2**20), ("7B", 7), ("1T", 1024 * G)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(size_text(size)) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "2X", "2GG", "٣", "1" * 40])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)
