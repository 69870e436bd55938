"""What is on the device until when, and which model may launch next."""

from __future__ import annotations

import pytest

from engine.scheduling.fair_share import FairShareTimeline


@pytest.fixture
def timeline() -> FairShareTimeline:
    """Two models, `a` and `b`, of equal weight."""
    made = FairShareTimeline()
    made.join("a")
    made.join("b")
    return made


# --- batches in flight ---------------------------------------------------------------------------


def test_a_device_without_a_batch_is_free_now(timeline: FairShareTimeline) -> None:
    assert timeline.free_at(7.0) == 7.0


def test_batches_of_all_models_run_one_behind_the_other(
    timeline: FairShareTimeline,
) -> None:
    timeline.launch("a", 2.0, 10.0)
    timeline.launch("b", 3.0, 10.5)
    assert timeline.free_at(11.0) == 15.0


def test_the_device_is_free_now_if_its_last_batch_is_late(timeline: FairShareTimeline) -> None:
    timeline.launch("a", 2.0, 10.0)
    assert timeline.free_at(13.0) == 13.0


@pytest.mark.parametrize(
    ("completed_at", "free_at"),
    [
        pytest.param(11.0, 14.0, id="early"),
        pytest.param(12.0, 15.0, id="in-time"),
        pytest.param(13.5, 16.5, id="late"),
    ],
)
def test_batches_behind_a_completed_one_move(
    timeline: FairShareTimeline, completed_at: float, free_at: float
) -> None:
    first = timeline.launch("a", 2.0, 10.0)
    timeline.launch("b", 3.0, 10.0)
    assert timeline.complete(first, completed_at) == completed_at - 10.0
    assert timeline.free_at(completed_at) == free_at


def test_time_queued_behind_other_batches_is_not_device_time(timeline: FairShareTimeline) -> None:
    first = timeline.launch("a", 2.0, 10.0)
    second = timeline.launch("b", 3.0, 10.5)
    assert timeline.complete(first, 12.5) == 2.5
    assert timeline.complete(second, 15.0) == 2.5
    third = timeline.launch("a", 1.0, 20.0)
    assert timeline.complete(third, 21.0) == 1.0, "nor is idle time"


def test_completions_reported_out_of_order_are_not_negative(
    timeline: FairShareTimeline,
) -> None:
    first = timeline.launch("a", 2.0, 10.0)
    second = timeline.launch("b", 0.001, 10.0)
    assert timeline.complete(second, 12.001) == pytest.approx(2.001)
    assert timeline.complete(first, 12.0) == 0.0
    third = timeline.launch("a", 1.0, 12.0)
    assert timeline.complete(third, 13.001) == pytest.approx(1.0)


def test_an_aborted_batch_in_the_middle_leaves_the_one_before_it_unchanged(
    timeline: FairShareTimeline,
) -> None:
    timeline.launch("a", 10.0, 0.0)
    gone = timeline.launch("b", 3.0, 0.0)
    timeline.launch("a", 2.0, 0.0)
    timeline.abort(gone, 5.0)
    assert [batch.ends_at for batch in timeline.in_flight] == [10.0, 12.0]


def test_a_batch_behind_a_late_one_begins_no_earlier_than_now(
    timeline: FairShareTimeline,
) -> None:
    timeline.launch("a", 1.0, 0.0)
    gone = timeline.launch("b", 3.0, 0.0)
    timeline.launch("a", 2.0, 0.0)
    timeline.abort(gone, 5.0)
    assert timeline.in_flight[-1].ends_at == 7.0


# --- fair sharing --------------------------------------------------------------------------------


def shares(
    timeline: FairShareTimeline,
    costs: dict[str, float],
    batches: int,
    spent: float = 1.0,
    now: float = 0.0,
) -> dict[str, float]:
    """Every model is always runnable; device-seconds by model after so many batches."""
    got = dict.fromkeys(costs, 0.0)
    for model in costs:
        timeline.set_runnable(model, True)
    for _ in range(batches):
        model = next(model for model in costs if timeline.is_next(model))
        batch = timeline.launch(model, costs[model], now)
        now += costs[model] * spent
        got[model] += timeline.complete(batch, now)
    return got


@pytest.mark.parametrize(
    ("costs", "spent"),
    [
        pytest.param({"a": 1.0, "b": 1.0, "c": 1.0}, 1.0, id="equal-batches"),
        pytest.param({"a": 8.0, "b": 1.0, "c": 0.5}, 1.0, id="by-seconds-not-by-batches"),
        pytest.param({"a": 2.0, "b": 1.0, "c": 3.0}, 1.7, id="by-what-was-spent-not-expected"),
    ],
)
def test_models_that_are_always_runnable_share_the_device_by_weight(
    costs: dict[str, float], spent: float
) -> None:
    timeline = FairShareTimeline()
    for weight, model in enumerate(costs, 1):
        timeline.join(model, float(weight))
    got = shares(timeline, costs, 3000, spent)
    assert got["b"] / got["a"] == pytest.approx(2, rel=0.02)
    assert got["c"] / got["a"] == pytest.approx(3, rel=0.02)


def test_a_model_that_is_not_runnable_does_not_hold_up_others(timeline: FairShareTimeline) -> None:
    timeline.set_runnable("b", True)
    for now in range(5):
        assert timeline.is_next("b")
        timeline.complete(timeline.launch("b", 1.0, now), now + 1)


def test_an_idle_model_accumulates_no_credit(timeline: FairShareTimeline) -> None:
    shares(timeline, {"b": 1.0}, 1000)
    timeline.reactivate("a")
    got = shares(timeline, {"a": 1.0, "b": 1.0}, 100, now=2000.0)
    assert got == {"a": 50.0, "b": 50.0}


def test_a_model_that_joins_later_starts_at_the_virtual_time_of_the_others(
    timeline: FairShareTimeline,
) -> None:
    shares(timeline, {"a": 1.0, "b": 1.0}, 1000)
    timeline.join("c")
    got = shares(timeline, {"a": 1.0, "b": 1.0, "c": 1.0}, 99, now=2000.0)
    assert got == {"a": 33.0, "b": 33.0, "c": 33.0}


def test_a_model_that_is_not_runnable_for_a_moment_keeps_its_virtual_time(
    timeline: FairShareTimeline,
) -> None:
    timeline.set_runnable("a", True)
    timeline.complete(timeline.launch("b", 5.0, 0.0), 5.0)
    timeline.set_runnable("a", False)  # as many batches in flight as it may have
    timeline.set_runnable("b", True)
    timeline.set_runnable("a", True)
    assert timeline.is_next("a")
    assert not timeline.is_next("b")


def test_of_the_runnable_models_at_least_one_is_next(timeline: FairShareTimeline) -> None:
    timeline.set_runnable("a", True)
    timeline.set_runnable("b", True)
    assert timeline.is_next("a")
    assert timeline.is_next("b")
    timeline.launch("a", 1.0, 0.0)
    assert not timeline.is_next("a")
    assert timeline.is_next("b")


def test_a_model_that_left_does_not_hold_up_others_and_later_calls_are_ignored(
    timeline: FairShareTimeline,
) -> None:
    timeline.set_runnable("a", True)
    batch = timeline.launch("b", 1.0, 0.0)
    timeline.set_runnable("b", True)
    assert not timeline.is_next("b")
    timeline.leave("a")
    timeline.leave("a")
    assert timeline.is_next("b")
    timeline.set_runnable("a", False)
    timeline.leave("b")
    assert timeline.complete(batch, 1.0) == 1.0


@pytest.mark.parametrize(
    ("runnable", "share"),
    [
        pytest.param({"b": False, "c": False}, 1.0, id="no-other-is-runnable"),
        pytest.param({"b": True, "c": False}, 1 / 3, id="one-of-twice-the-weight"),
        pytest.param({"b": True, "c": True}, 1 / 6, id="all-are-runnable"),
    ],
)
def test_the_share_is_that_among_the_runnable_models(
    runnable: dict[str, bool], share: float
) -> None:
    timeline = FairShareTimeline()
    for weight, model in enumerate("abc", 1):
        timeline.join(model, float(weight))
    for model, value in runnable.items():
        timeline.set_runnable(model, value)
    assert timeline.share("a") == pytest.approx(share)
    timeline.set_runnable("a", True)
    assert timeline.share("a") == pytest.approx(share), "it counts once"


def test_the_version_changes_whenever_another_model_may_have_become_next(
    timeline: FairShareTimeline,
) -> None:
    timeline.set_runnable("a", True)
    seen = [timeline.version]

    def changed() -> bool:
        seen.append(timeline.version)
        return seen[-1] != seen[-2]

    timeline.set_runnable("a", True)
    assert not changed(), "it was runnable before"
    batch = timeline.launch("a", 1.0, 0.0)
    assert changed()
    timeline.complete(batch, 1.0)
    assert changed()
    timeline.set_runnable("a", False)
    assert changed()
    timeline.leave("a")
    assert changed()
