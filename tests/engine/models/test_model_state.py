"""A model's life is walked forward only."""

from __future__ import annotations

import pytest

from engine.models.model import ModelState

LOADING, COMPILING, WARMING, READY, DRAINING, CLOSED, FAILED = ModelState

STEPS = {
    LOADING: {COMPILING, WARMING, READY, DRAINING, CLOSED, FAILED},
    COMPILING: {WARMING, READY, DRAINING, CLOSED, FAILED},
    WARMING: {READY, DRAINING, CLOSED, FAILED},
    READY: {DRAINING, CLOSED, FAILED},
    DRAINING: {CLOSED, FAILED},
    FAILED: {CLOSED},
    CLOSED: set(),
}


@pytest.mark.parametrize("state", ModelState, ids=lambda state: state.value)
def test_a_state_may_become_only_what_comes_later(state: ModelState) -> None:
    assert {other for other in ModelState if state.may_become(other)} == STEPS[state]


def test_start_up_is_over_from_ready_on() -> None:
    assert {state for state in ModelState if state.startup_finished} == {
        READY,
        DRAINING,
        CLOSED,
        FAILED,
    }
