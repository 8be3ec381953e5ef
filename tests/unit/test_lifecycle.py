"""A session's states: what is allowed leads somewhere, what is not is refused."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs.errors import InvalidState
from goexfs.protocol import SessionState
from goexfsd.lifecycle import LIVE, Event, advance

STATES = st.sampled_from(get_args(SessionState))
EVENTS = st.sampled_from(get_args(Event))


@given(STATES, EVENTS)
def test_what_has_ended_stays_ended(state: SessionState, event: Event) -> None:
    if state not in LIVE:
        with pytest.raises(InvalidState):
            advance(state, event)


@given(st.lists(EVENTS, max_size=12))
def test_a_commit_is_never_applied_without_having_begun(events: list[Event]) -> None:
    state: SessionState = "opening"
    began = False
    for event in events:
        try:
            state = advance(state, event)
        except InvalidState:
            continue
        began = event == "commit" or (began and event != "kept")
        assert state != "committed" or began or "commit" in events


def test_the_usual_way() -> None:
    state: SessionState = "opening"
    ways: list[tuple[Event, SessionState]] = [
        ("opened", "open"),
        ("commit", "committing"),
        ("kept", "open"),
        ("commit", "committing"),
        ("applied", "committed"),
    ]
    for event, after in ways:
        state = advance(state, event)
        assert state == after


def test_a_session_that_commits_cannot_be_discarded() -> None:
    with pytest.raises(InvalidState, match="committing"):
        advance("committing", "discard")
