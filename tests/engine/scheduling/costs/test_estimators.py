"""Estimators, against samples whose statistics are known."""

from __future__ import annotations

import math
import random

import pytest

from engine.scheduling.costs.estimators import DEVIATIONS, EwmaEstimator


def test_before_the_first_sample_the_bound_is_the_default() -> None:
    assert EwmaEstimator().upper(7.0) == 7.0
    assert EwmaEstimator().upper(math.inf) == math.inf


@pytest.mark.parametrize(
    ("samples", "mean", "deviation"),
    [
        pytest.param([4.0], 4.0, 2.0, id="the-first-is-the-mean"),
        pytest.param([-4.0], -4.0, 2.0, id="a-deviation-is-never-negative"),
        pytest.param([4.0, 4.0], 4.0, 1.5, id="the-same-again"),
        pytest.param([4.0, 12.0], 5.0, 3.5, id="an-eighth-in-the-mean-a-fourth-in-the-deviation"),
        pytest.param([4.0] * 200, 4.0, 0.0, id="samples-that-never-vary"),
        pytest.param([90.0] + [4.0] * 200, 4.0, 0.0, id="old-samples-fade"),
    ],
)
def test_samples_make_a_mean_and_a_deviation(
    samples: list[float], mean: float, deviation: float
) -> None:
    estimator = EwmaEstimator()
    for sample in samples:
        estimator.add(sample)
    assert estimator.mean == pytest.approx(mean)
    assert estimator.deviation == pytest.approx(deviation, abs=1e-6)
    assert estimator.upper(0.0) == estimator.mean + DEVIATIONS * estimator.deviation


def test_few_samples_exceed_the_bound() -> None:
    rng, estimator, above = random.Random(1), EwmaEstimator(), 0
    for _ in range(4000):
        sample = rng.gauss(10.0, 1.0)
        above += sample > estimator.upper(math.inf)
        estimator.add(sample)
    assert 0 < above / 4000 < 0.1
