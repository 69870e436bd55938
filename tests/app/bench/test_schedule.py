"""When requests are intended."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import pytest

from app.bench import schedule
from app.bench.plan import Arrivals


def test_a_constant_rate_is_evenly_spread() -> None:
    assert list(islice(schedule.offsets("constant", 4, seed=1), 5)) == [0, 0.25, 0.5, 0.75, 1.0]


def test_poisson_arrivals_have_the_mean_and_the_spread_of_their_rate() -> None:
    """Gaps of an exponential distribution: mean and standard deviation are both 1 / rate."""
    offsets = list(islice(schedule.offsets("poisson", 50, seed=3), 20_000))
    gaps = [later - earlier for earlier, later in pairwise(offsets)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert spread == pytest.approx(1 / 50, rel=0.03)
    assert min(gaps) > 0, "ascending, over the chunks in which they are made too"


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_a_seed_makes_the_same_schedule_again(arrivals: Arrivals) -> None:
    one, same = (list(islice(schedule.offsets(arrivals, 9, seed=7), 100)) for _ in range(2))
    assert one == same


def test_another_seed_makes_another_poisson_schedule() -> None:
    one, other = (next(schedule.offsets("poisson", 9, seed)) for seed in (1, 2))
    assert one != other


def test_kinds_are_chosen_in_proportion_to_their_weights() -> None:
    seen = Counter(islice(schedule.choices([1, 3], seed=1), 10_000))
    assert seen[1] / seen[0] == pytest.approx(3, rel=0.1)


def test_the_only_kind_is_always_chosen() -> None:
    assert set(islice(schedule.choices([0.2], seed=1), 100)) == {0}
