"""The engine's errors for what a lane of threads refuses. Needs no Flask: the engine's process has
lanes, too.
"""

from __future__ import annotations

from app.worker.calls.refusal import Reason, Refusal
from engine.api import BrimError, DeadlineExceeded, NoThread, Shed, TooManyWaiting


def error_of(refusal: Refusal, allowed_s: float) -> BrimError:
    """The engine's error for the same reason, of a request with so much time for its answer."""
    reason, retry_s, lane, waiting = refusal
    behind = f"{waiting} requests wait for a thread of {lane!r}"
    match reason:
        case Reason.EXPIRED:
            return DeadlineExceeded(f"no answer within {allowed_s:.3g} s")
        case Reason.LATE:
            text = f"an answer within {allowed_s:.3g} s cannot be promised: it may take"
            return Shed(f"{text} {allowed_s + retry_s:.3g} s, {behind}", retry_s)
        case Reason.FULL:
            return TooManyWaiting(f"{behind} already", retry_s)
        case Reason.STUCK:
            hang = f"all threads of {lane!r} are in calls that have passed their deadlines"
            return NoThread(hang, retry_s)
        case Reason.NO_THREAD:
            return NoThread(f"the system starts no thread for {lane!r}", retry_s)
