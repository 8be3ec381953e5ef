"""What of a policy is the view's to keep, and what is left to the sandbox of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs.errors import GoexfsError, Usage
from goexfs.protocol import Rules
from goexfsd.sandbox import Policy, rest, rules
from goexfsd.sandbox.resolve import Said, resolve
from goexfsd.sandbox.secrets import SECRETS
from goexfsd.view.rules import Rules as ViewRules

ROOTS = ["/home/me/one", "/srv/two"]


def test_what_leads_into_a_root_is_the_view_s() -> None:
    policy = Policy(
        hidden=(*SECRETS, ".env", "~/one/x/*.key", "/srv/two/y", "/srv/twofold", "~/.other"),
        masked=("big",),
        read_only=(".git/hooks",),
    )
    assert rules(policy, "/home/me", ROOTS) == (
        ("hidden", None, ".env"),
        ("hidden", 0, "./x/*.key"),
        ("hidden", 1, "./y"),
        ("masked", None, "big"),
        ("read_only", None, ".git/hooks"),
    )


def test_nothing_is_kept_that_nobody_asked_for() -> None:
    assert rules(Policy(), "/home/me", ["/home/me"]) == ()
    asked = rules(Policy(), "/home/me", ["/home/me"], asked=["~/.ssh"])
    assert asked == (("hidden", 0, "./.ssh"),)


def test_the_rest_is_the_sandbox_s() -> None:
    policy = Policy(hidden=("~/.ssh", ".env", "other"), masked=("big",), read_only=("a", "b"))
    kept = [("hidden", None, ".env"), ("masked", None, "big"), ("read_only", None, "b")]
    left = rest(policy, kept)  # type: ignore[arg-type]
    assert (left.hidden, left.masked, left.read_only) == (("~/.ssh", "other"), (), ("a",))
    assert rest(policy.model_copy(update={"masked": ()}), ()) is not policy


@pytest.mark.parametrize("said", [{"hidden": ("**/x",)}, {"masked": ("x",)},
                                  {"read_only": ("a/**",)}])  # fmt: skip
def test_what_only_a_view_can_keep_refuses_the_run(said: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(Usage, match="not in force"):
        rest(Policy.model_validate(said), ())


patterns = st.lists(st.text(alphabet="ab/.*?[]!^-~\\{}\0é\udcff", max_size=12), max_size=3)


@given(patterns, patterns, patterns)
def test_any_patterns_are_refused_or_can_be_kept(
    hide: list[str], mask: list[str], read_only: list[str]
) -> None:
    """What a policy's reader lets pass, a view can be given."""
    said = Rules.model_construct(hide=hide, mask=mask, read_only=read_only)
    try:
        made = resolve("x", [Said("x", "user", said)], Rules())
    except GoexfsError:
        return
    kept = rules(made.policy, "/home/me", ROOTS)
    automaton = ViewRules(kept, len(ROOTS))
    for top in automaton.tops:
        automaton.below(automaton.below(top, b"a"), b"\xff")
