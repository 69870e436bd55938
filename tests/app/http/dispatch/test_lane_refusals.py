"""What a client is told where Brim's worker has no thread for its request, or no time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from app.worker.calls.job import Job
from app.worker.calls.lane import HANGS_S, Lane, LaneLoad
from app.worker.calls.pool import Pool
from app.worker.calls.refusal import Reason, Refusal
from app.worker.suspension import EXCHANGE, Exchange
from engine.testing import FakeClock
from tests.app.conftest import Serve, Served
from tests.app.worker.conftest import LaneByHand

INFER = "/v2/models/puppet/infer"


def refused(served: Served, refusal: Refusal, path: str = INFER) -> tuple[str, Any, Any]:
    """The status, the headers and the body of the answer."""
    exchange = Exchange(time.monotonic())
    exchange.deadline = exchange.read_at + 1.5
    environ = {
        EXCHANGE: exchange,
        "PATH_INFO": path,
        "REQUEST_METHOD": "POST",
        "HTTP_X_REQUEST_ID": "mine",
    }
    said: list[Any] = []
    body = b"".join(
        served.app.refuse_call(environ, lambda *start: said.extend(start), refusal)  # type: ignore[attr-defined]
    )
    return said[0], dict(said[1]), json.loads(body)


@pytest.mark.parametrize(
    ("reason", "status", "error", "text"),
    [
        (Reason.EXPIRED, 504, "DeadlineExceeded", "no answer within 1.5 s"),
        (Reason.LATE, 503, "Shed", "an answer within 1.5 s cannot be promised: it may take 4 s"),
        (Reason.FULL, 429, "TooManyWaiting", "7 requests wait for a thread of 'puppet' already"),
        (Reason.STUCK, 503, "NoThread", "all threads of 'puppet' are in calls that have passed"),
        (Reason.NO_THREAD, 503, "NoThread", "the system starts no thread for 'puppet'"),
    ],
)
def test_each_reason_is_an_error_of_the_engine_with_its_status(
    served: Served, reason: Reason, status: int, error: str, text: str
) -> None:
    line, headers, body = refused(served, Refusal(reason, 2.5, "puppet", 7))
    assert int(line[:3]) == status
    assert text in body["error"]
    assert headers["X-Request-Id"] == "mine"
    assert headers.get("Retry-After") == (None if status == 504 else "3")
    assert served.sample("brim_refused_total", model="puppet", error=error) == 1
    assert served.sample("flask_http_request_total", method="POST", status=str(status)) == 1


def test_a_lane_without_a_model_and_openais_route_are_answered_too(served: Served) -> None:
    refusal = Refusal(Reason.LATE, 2.5, "/v1/embeddings", 1)
    line, _, body = refused(served, refusal, "/v1/embeddings")
    assert line.startswith("503 ")
    assert "cannot be promised" in body["error"]["message"]


class OneLane(Pool):
    """A pool with the lane of one model."""

    def __init__(self, lane: Lane) -> None:
        super().__init__(2)
        self._lanes = {"puppet": lane}


def hang(lane: Lane, clock: FakeClock, calls: int) -> None:
    """So many calls pass their deadline and do not return."""
    assert isinstance(lane, LaneByHand)
    for _ in range(calls):
        job = Job(lambda: None, clock() + 1)
        assert lane.submit(job) is None
        lane.take()
        assert job.give_up()
    clock.advance(HANGS_S)


@pytest.mark.parametrize(("hanging", "ready"), [(0, True), (3, True), (4, False)])
def test_a_process_whose_threads_all_hang_is_not_ready_and_says_why(
    serve: Serve, hanging: int, ready: bool
) -> None:
    served, clock = serve(), FakeClock()
    lane = LaneByHand(clock, threads=2)
    served.services.lanes.attach(OneLane(lane))
    hang(lane, clock, hanging)
    said = served.client.get("/readyz")
    assert said.status_code == (200 if ready else 503)
    reason = said.get_json()["models"]["puppet"].get("reason")
    hang_text = "4 calls of its hooks have passed their deadlines and hold all threads"
    assert reason == (None if ready else hang_text)
    for path in ("/v2/health/ready", "/v2/models/puppet/ready"):
        assert served.client.get(path).status_code == said.status_code
    assert served.client.get("/healthz").status_code == 200


def test_what_the_threads_do_is_in_metrics(served: Served) -> None:
    clock = FakeClock()
    lane = LaneByHand(clock, threads=2)
    served.services.lanes.attach(OneLane(lane))
    hang(lane, clock, 1)
    for _ in range(3):
        lane.submit(Job(lambda: None))
    lane.take()
    assert lane.load() == LaneLoad(waiting=2, busy=2, stuck=1, blocked=False)
    served.app.beat()  # type: ignore[attr-defined]
    for field, value in (("waiting", 2), ("busy", 2), ("stuck", 1)):
        assert served.sample(f"brim_lane_{field}", lane="puppet") == value
