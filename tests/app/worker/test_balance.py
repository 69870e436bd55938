"""Which worker accepts the next connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.worker.balance import SLACK, SLACK_SHARE, UNUSED, Balance


@pytest.mark.parametrize(
    ("counts", "accepts"),
    [
        pytest.param([0, 0], True, id="none has any"),
        pytest.param([SLACK, 0], True, id="a few more than another"),
        pytest.param([SLACK + 1, 0], False, id="more than that"),
        pytest.param([9, 500], True, id="the fewest"),
        pytest.param([SLACK + 65 + 64 // SLACK_SHARE, 64], False, id="too many more of many"),
        pytest.param([SLACK + 64 + 64 // SLACK_SHARE, 64], True, id="a few more of many"),
        pytest.param([1000, UNUSED], True, id="the others are gone"),
    ],
)
def test_a_worker_with_many_more_connections_lets_others_accept(
    counts: list[int], accepts: bool
) -> None:
    assert Balance(counts, 0).may_accept is accepts


def test_alone_it_accepts_whatever_it_has() -> None:
    balance = Balance()
    balance.set(10_000)
    assert balance.may_accept


def test_a_worker_that_leaves_holds_up_none() -> None:
    counts = [0, 50]
    stays = Balance(counts, 1)
    assert not stays.may_accept
    Balance(counts, 0).leave()
    assert stays.may_accept


@given(st.lists(st.integers(0, 3), min_size=50, max_size=300))
def test_whatever_the_order_connections_end_up_spread(order: list[int]) -> None:
    """Workers are woken in any order; one that may not accept leaves it to the next."""
    counts = [0] * 4
    workers = [Balance(counts, slot) for slot in range(4)]
    for first in order:
        taker = next(s for s in (*range(first, 4), *range(first)) if workers[s].may_accept)
        workers[taker].set(counts[taker] + 1)
    assert max(counts) - min(counts) <= SLACK + min(counts) // SLACK_SHARE + 1
