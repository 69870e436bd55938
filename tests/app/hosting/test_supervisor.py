"""What follows the end of an engine's process."""

from __future__ import annotations

import pytest

from app.hosting.supervisor import LONGEST_PAUSE_S, STEADY_S, Ended, Restarts


@pytest.mark.parametrize(
    ("status", "reason"),
    [(-9, "was killed by SIGKILL"), (-6, "was killed by SIGABRT"), (3, "ended with status 3")],
)
def test_the_reason_is_told_in_words(status: int, reason: str) -> None:
    assert Ended(status, True, 1.0).reason == reason


UP, NEVER_UP = Ended(-9, True, 1.0), Ended(1, False, 1.0)
STEADY = Ended(-9, True, STEADY_S)


@pytest.mark.parametrize(
    ("ends", "pauses"),
    [
        pytest.param([UP] * 7, [1, 2, 4, 8, 16, 30, 30], id="it dies again and again"),
        pytest.param([UP, UP, STEADY, UP], [1, 2, 1, 2], id="it was up for long"),
        pytest.param([NEVER_UP] * 3, [1, 2, None], id="it never comes up"),
        pytest.param(
            [NEVER_UP, NEVER_UP, UP, NEVER_UP, NEVER_UP, NEVER_UP],
            [1, 2, 4, 8, 16, None],
            id="it comes up once in between",
        ),
    ],
)
def test_the_pause_grows_until_another_start_makes_no_sense(
    ends: list[Ended], pauses: list[float | None]
) -> None:
    restarts = Restarts()
    assert [restarts.pause_after(ended) for ended in ends] == pauses
    assert max(pause for pause in pauses if pause) <= LONGEST_PAUSE_S
