"""One simulated server, described: what its buckets cost, which rule batches, what is promised.

May touch: nothing.

The command, the search for bucket sizes and the benchmark all run this, so that they mean the same
by the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from engine.batching import BatchQueue, Policy
from engine.buckets import Bucket, fitting
from engine.costs import CostTable
from engine.errors import ConfigError
from engine.rules import RULES, Setting
from engine.simulate import Request, Result, Scheduler, Simulation
from engine.traces import Arrival, Clients

BRIM: Final = "brim"
POLICIES: Final[tuple[str, ...]] = (BRIM, *RULES)
"""What may batch: this server's own policy first."""

HOLD_S: Final = 0.010
"""How long this server's policy holds a free device for a closed loop, at most: its default."""

WINDOW_S: Final = 0.002
"""How long a row waits for company under the others' rules: what they are usually told."""

DEPTH: Final = 2
"""Batches on their way at once, under this server's policy: its default."""

UNLIMITED: Final = 10**9
"""Rows that may wait. Deadlines refuse whoever comes too late, so the queue needs no other end."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A server that can be run against any trace, as often as one likes.

    seconds     what every bucket costs
    policy      one of `POLICIES`
    timeout_s   from arrival to deadline, for every request
    slo_s       the objective that adaptive rules are told; the deadline if None
    max_wait_s  as the policy means it; `HOLD_S` or `WINDOW_S` if None
    noise       how much an execution varies, as a part of its cost, evenly to both sides
    warmup_s    what arrives before this is simulated and not counted
    lanes       the bucket lengths, increasing; `(None,)` without a dynamic axis
    """

    seconds: Mapping[Bucket, float]
    policy: str = BRIM
    timeout_s: float = 0.5
    slo_s: float | None = None
    max_wait_s: float | None = None
    noise: float = 0.0
    warmup_s: float = 0.0
    seed: int = 0
    lanes: tuple[int | None, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError("policy", self.policy, f"one of {', '.join(POLICIES)}")
        # once: every simulated request asks for its own
        object.__setattr__(self, "lanes", lanes(self.seconds))

    @property
    def objective_s(self) -> float:
        """The objective, or the deadline where there is none."""
        return self.timeout_s if self.slo_s is None else self.slo_s

    def fit(self, length: int | None) -> int | None:
        """The bucket length of a row. The rules of other servers know one length, the longest.

        Raises `ConfigError` for a row that is longer than every bucket, or has a length where the
        buckets have none.
        """
        longest = self.lanes[-1]
        if longest is None or length is None:
            if longest is not None or length is not None:
                expected = "no length" if longest is None else f"a length up to {longest}"
                raise ConfigError("length", length, f"{expected}: that is what the buckets have")
            return None
        if length > longest:
            raise ConfigError("length", length, f"at most {longest}, the longest bucket")
        if self.policy != BRIM:
            return longest
        return fitting(cast("tuple[int, ...]", self.lanes), length)

    def run(self, trace: Iterable[Arrival]) -> Result:
        """An open trace, to its end."""
        return self._simulation().run(trace)

    def run_closed(self, clients: Clients, seconds: float) -> Result:
        """A closed loop for so many seconds."""
        return self._simulation().run_closed(clients, seconds)

    def _simulation(self) -> Simulation:
        return Simulation(
            self._scheduler(),
            self.seconds.__getitem__,
            timeout_s=self.timeout_s,
            fit=self.fit,
            noise=self.noise,
            warmup_s=self.warmup_s,
            seed=self.seed,
        )

    def _scheduler(self) -> Scheduler:
        # a table learns from what it sees, so every run has its own
        costs = CostTable(self.seconds)
        if self.policy == BRIM:
            hold_s = HOLD_S if self.max_wait_s is None else self.max_wait_s
            queue: BatchQueue[Request] = BatchQueue(
                Policy(hold_s, UNLIMITED, DEPTH), costs, self.lanes
            )
            return queue
        window_s = WINDOW_S if self.max_wait_s is None else self.max_wait_s
        return RULES[self.policy](costs, self.lanes[-1], Setting(window_s, self.objective_s))


def lanes(seconds: Mapping[Bucket, float]) -> tuple[int | None, ...]:
    """The lengths of these buckets, increasing."""
    lengths = {bucket.length for bucket in seconds}
    if None in lengths and len(lengths) > 1:
        raise ConfigError("buckets", [str(b) for b in seconds], "all with a length, or none")
    return tuple(sorted(lengths, key=lambda length: length or 0))


def row_seconds(seconds: Mapping[Bucket, float], length: int | None) -> float:
    """Device-seconds a row of this bucket length, in the best full bucket."""
    return min(s / b.rows for b, s in seconds.items() if b.length == length)


def capacity(
    seconds: Mapping[Bucket, float], rows: Sequence[int] = (1,), lengths: Sequence[int | None] = ()
) -> float:
    """Requests/s that keep the device busy when every bucket is full and the best of its length.

    Each request has one of these numbers of rows and one of these row lengths, all equally often;
    without `lengths` they are the bucket lengths.
    """
    scenario = Scenario(seconds)
    fitted = [scenario.fit(length) for length in lengths] or list(scenario.lanes)
    mean = sum(row_seconds(seconds, length) for length in fitted) / len(fitted)
    return len(rows) / sum(rows) / mean


def closed_loop_bound(seconds: Mapping[Bucket, float], clients: Clients) -> float:
    """Requests/s that no policy exceeds with so many clients: the device's capacity, or everybody
    served alone and at once.
    """
    scenario = Scenario(seconds)
    fitted = [scenario.fit(length) for length in clients.lengths]
    least = min(s for b, s in seconds.items() if b.length in fitted)
    alone = clients.number / (least + clients.turnaround_s)
    full = capacity(seconds, (clients.rows,), clients.lengths)
    return min(alone, full)
