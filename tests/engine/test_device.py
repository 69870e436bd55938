"""What is on the device, until when, and whose turn it is."""

from __future__ import annotations

import pytest

from engine.device import Device


@pytest.fixture
def device() -> Device:
    """Two models, `a` and `b`, of equal weight."""
    made = Device()
    made.join("a")
    made.join("b")
    return made


# --- until when ----------------------------------------------------------------------------------


def test_a_device_without_a_batch_is_free_now(device: Device) -> None:
    assert device.free_at(7.0) == 7.0


def test_batches_queue_up_behind_each_other_whoever_launched_them(device: Device) -> None:
    device.launch("a", 2.0, 10.0)
    device.launch("b", 3.0, 10.5)
    assert device.free_at(11.0) == 15.0


def test_a_batch_that_is_overdue_may_end_at_any_moment(device: Device) -> None:
    device.launch("a", 2.0, 10.0)
    assert device.free_at(13.0) == 13.0


@pytest.mark.parametrize(
    ("landed_at", "free_at"),
    [
        pytest.param(11.0, 14.0, id="early"),
        pytest.param(12.0, 15.0, id="in-time"),
        pytest.param(13.5, 16.5, id="late"),
    ],
)
def test_what_is_behind_a_batch_follows_when_it_lands(
    device: Device, landed_at: float, free_at: float
) -> None:
    first = device.launch("a", 2.0, 10.0)
    device.launch("b", 3.0, 10.0)
    assert device.land(first, landed_at) == landed_at - 10.0
    assert device.free_at(landed_at) == free_at


def test_the_time_behind_others_is_not_time_on_the_device(device: Device) -> None:
    first = device.launch("a", 2.0, 10.0)
    second = device.launch("b", 3.0, 10.5)
    assert device.land(first, 12.5) == 2.5
    assert device.land(second, 15.0) == 2.5
    third = device.launch("a", 1.0, 20.0)
    assert device.land(third, 21.0) == 1.0, "nor is the time in which there was nothing"


def test_landings_that_are_heard_of_in_the_wrong_order_take_no_time_back(device: Device) -> None:
    first = device.launch("a", 2.0, 10.0)
    second = device.launch("b", 0.001, 10.0)
    assert device.land(second, 12.001) == pytest.approx(2.001)
    assert device.land(first, 12.0) == 0.0
    third = device.launch("a", 1.0, 12.0)
    assert device.land(third, 13.001) == pytest.approx(1.0)


def test_who_is_forgotten_in_the_middle_leaves_the_batch_before_it_where_it_is(
    device: Device,
) -> None:
    device.launch("a", 10.0, 0.0)
    gone = device.launch("b", 3.0, 0.0)
    device.launch("a", 2.0, 0.0)
    device.forget(gone, 5.0)
    assert [flight.lands_at for flight in device.flights] == [10.0, 12.0]


def test_what_follows_an_overdue_batch_begins_no_earlier_than_now(device: Device) -> None:
    device.launch("a", 1.0, 0.0)
    gone = device.launch("b", 3.0, 0.0)
    device.launch("a", 2.0, 0.0)
    device.forget(gone, 5.0)
    assert device.flights[-1].lands_at == 7.0


# --- whose turn ----------------------------------------------------------------------------------


def shares(
    device: Device, costs: dict[str, float], batches: int, spent: float = 1.0, now: float = 0.0
) -> dict[str, float]:
    """Everybody always wants; device-seconds by model after so many batches."""
    got = dict.fromkeys(costs, 0.0)
    for model in costs:
        device.want(model, True)
    for _ in range(batches):
        model = next(model for model in costs if device.has_turn(model))
        flight = device.launch(model, costs[model], now)
        now += costs[model] * spent
        got[model] += device.land(flight, now)
    return got


@pytest.mark.parametrize(
    ("costs", "spent"),
    [
        pytest.param({"a": 1.0, "b": 1.0, "c": 1.0}, 1.0, id="equal-batches"),
        pytest.param({"a": 8.0, "b": 1.0, "c": 0.5}, 1.0, id="by-seconds-not-by-batches"),
        pytest.param({"a": 2.0, "b": 1.0, "c": 3.0}, 1.7, id="by-what-was-spent-not-expected"),
    ],
)
def test_models_that_always_want_the_device_get_it_by_weight(
    costs: dict[str, float], spent: float
) -> None:
    device = Device()
    for weight, model in enumerate(costs, 1):
        device.join(model, float(weight))
    got = shares(device, costs, 3000, spent)
    assert got["b"] / got["a"] == pytest.approx(2, rel=0.02)
    assert got["c"] / got["a"] == pytest.approx(3, rel=0.02)


def test_whoever_wants_nothing_is_in_nobodys_way(device: Device) -> None:
    device.want("b", True)
    for now in range(5):
        assert device.has_turn("b")
        device.land(device.launch("b", 1.0, now), now + 1)


def test_an_idle_model_saves_nothing_up(device: Device) -> None:
    shares(device, {"b": 1.0}, 1000)
    device.rejoin("a")
    got = shares(device, {"a": 1.0, "b": 1.0}, 100, now=2000.0)
    assert got == {"a": 50.0, "b": 50.0}


def test_a_model_that_joins_later_begins_where_the_others_are(device: Device) -> None:
    shares(device, {"a": 1.0, "b": 1.0}, 1000)
    device.join("c")
    got = shares(device, {"a": 1.0, "b": 1.0, "c": 1.0}, 99, now=2000.0)
    assert got == {"a": 33.0, "b": 33.0, "c": 33.0}


def test_a_model_that_cannot_launch_for_a_moment_keeps_what_it_is_owed(device: Device) -> None:
    device.want("a", True)
    device.land(device.launch("b", 5.0, 0.0), 5.0)
    device.want("a", False)  # as many batches on their way as it may have
    device.want("b", True)
    device.want("a", True)
    assert device.has_turn("a")
    assert not device.has_turn("b")


def test_of_those_who_want_at_least_one_has_its_turn(device: Device) -> None:
    device.want("a", True)
    device.want("b", True)
    assert device.has_turn("a")
    assert device.has_turn("b")
    device.launch("a", 1.0, 0.0)
    assert not device.has_turn("a")
    assert device.has_turn("b")


def test_who_has_left_stands_in_nobodys_way_and_may_hear_of_it_late(device: Device) -> None:
    device.want("a", True)
    flight = device.launch("b", 1.0, 0.0)
    device.want("b", True)
    assert not device.has_turn("b")
    device.leave("a")
    device.leave("a")
    assert device.has_turn("b")
    device.want("a", False)
    device.leave("b")
    assert device.land(flight, 1.0) == 1.0


@pytest.mark.parametrize(
    ("wants", "share"),
    [
        pytest.param({"b": False, "c": False}, 1.0, id="nobody-else-wants-it"),
        pytest.param({"b": True, "c": False}, 1 / 3, id="one-of-twice-the-weight"),
        pytest.param({"b": True, "c": True}, 1 / 6, id="all-want-it"),
    ],
)
def test_the_share_to_count_on_is_that_among_those_who_want_it(
    wants: dict[str, bool], share: float
) -> None:
    device = Device()
    for weight, model in enumerate("abc", 1):
        device.join(model, float(weight))
    for model, wanted in wants.items():
        device.want(model, wanted)
    assert device.share("a") == pytest.approx(share)
    device.want("a", True)
    assert device.share("a") == pytest.approx(share), "its own wish is counted once"


def test_turns_changes_whenever_somebody_elses_turn_may_have_come(device: Device) -> None:
    device.want("a", True)
    seen = [device.turns]

    def changed() -> bool:
        seen.append(device.turns)
        return seen[-1] != seen[-2]

    device.want("a", True)
    assert not changed(), "it wanted before"
    flight = device.launch("a", 1.0, 0.0)
    assert changed()
    device.land(flight, 1.0)
    assert changed()
    device.want("a", False)
    assert changed()
    device.leave("a")
    assert changed()
