"""Which requests have room: a table, and a queue against the sum of what each request takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.places import Places
from engine.scheduling.request_queue import RequestQueue
from tests.engine.scheduling.test_request_queue import Request


@pytest.mark.parametrize(
    ("rows", "taken", "divided", "expected"),
    [
        pytest.param(1, 0, 0, True, id="an-empty-queue"),
        pytest.param(1, 1023, 0, True, id="the-last-place"),
        pytest.param(1, 1024, 0, False, id="none-is-left"),
        pytest.param(64, 960, 0, True, id="the-last-sixteenth"),
        pytest.param(64, 961, 0, False, id="not-all-of-a-request-that-is-not-divided"),
        pytest.param(1_000_000, 0, 0, True, id="a-request-of-any-size"),
        pytest.param(65, 960, 0, True, id="a-sixteenth-is-enough-for-a-large-one"),
        pytest.param(65, 961, 0, False, id="and-needed"),
        pytest.param(65, 512, 8, False, id="large-ones-have-half-of-the-places-together"),
        pytest.param(64, 512, 8, True, id="and-the-others-are-for-small-ones"),
    ],
)
def test_which_requests_have_room(rows: int, taken: int, divided: int, expected: bool) -> None:
    assert Places(1024).fit(rows, taken, divided) == expected


@pytest.mark.parametrize("places", range(1, 9))
def test_a_queue_of_any_size_has_room_for_a_large_request(places: int) -> None:
    queue: RequestQueue[Request] = RequestQueue((None,), places)
    assert queue.has_room(5000)
    queue.add(Request("large", 5000))
    assert queue.places_taken == 1
    assert queue.has_room(1) == (places > 1)


@given(
    st.integers(1, 70),
    st.lists(st.tuples(st.sampled_from(["add", "take", "discard"]), st.integers(1, 40))),
)
def test_each_request_takes_its_rows_or_a_sixteenth(
    places: int, operations: list[tuple[str, int]]
) -> None:
    queue: RequestQueue[Request] = RequestQueue((None,), places)
    for number, (operation, rows) in enumerate(operations):
        if operation == "add" and queue.has_room(rows):
            queue.add(Request(f"r{number}", rows))
        elif operation == "take":
            queue.take((None,), rows)
        elif operation == "discard" and len(queue):
            queue.discard(list(queue)[rows % len(queue)])
        part = queue.places.part
        left = [queue.rows_left(request) for request in queue]
        assert queue.places_taken == sum(min(part, rows) for rows in left) <= places
        assert queue.places.divided == sum(request.rows > part for request in queue)
