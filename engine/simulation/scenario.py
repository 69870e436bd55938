"""One simulated server: bucket costs, batching policy, deadline.

The `simulate` command, the bucket tuner and the benchmark all run it: their figures are comparable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from engine.errors import ConfigError
from engine.scheduling.buckets import Bucket, fitting
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.scheduler import Scheduler, SchedulerOptions
from engine.simulation.rules import RULES, Rule
from engine.simulation.simulator import Result, Simulation
from engine.simulation.traces import Arrival, Clients, Request

BRIM: Final = "brim"
POLICIES: Final[tuple[str, ...]] = (BRIM, *RULES)  # this server's own is first
HOLD_S: Final = 0.010  # this server's default: the longest delay of a launch
DEPTH: Final = 2  # this server's default: batches in flight
WINDOW_S: Final = 0.002  # the longest wait of a row under other servers' rules: a usual setting
UNLIMITED: Final = 10**9  # most rows in the queue: deadlines alone bound it


@dataclass(frozen=True, slots=True)
class Scenario:
    """A server that can be run against any trace, any number of times.

    seconds         what every bucket costs
    policy          one of `POLICIES`
    timeout_s       from arrival to deadline, for every request
    slo_s           the latency objective of adaptive rules; the deadline if None
    max_wait_s      the policy's longest wait; `HOLD_S` or `WINDOW_S` if None
    noise           how much an execution varies, as a part of its cost, uniformly to both sides
    warmup_s        arrivals before this are simulated and not counted
    bucket_lengths  increasing; `(None,)` without a dynamic axis
    """

    seconds: Mapping[Bucket, float]
    policy: str = BRIM
    timeout_s: float = 0.5
    slo_s: float | None = None
    max_wait_s: float | None = None
    noise: float = 0.0
    warmup_s: float = 0.0
    seed: int = 0
    bucket_lengths: tuple[int | None, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError("policy", self.policy, f"one of {', '.join(POLICIES)}")
        # computed once: every simulated request reads it
        object.__setattr__(self, "bucket_lengths", bucket_lengths(self.seconds))

    @property
    def objective_s(self) -> float:
        """The objective, or the deadline where there is none."""
        return self.timeout_s if self.slo_s is None else self.slo_s

    def fit(self, length: int | None) -> int | None:
        """The bucket length of a row. The rules of other servers know one length, the longest.

        Raises `ConfigError` for a row that is longer than every bucket, or has a length where the
        buckets have none.
        """
        longest = self.bucket_lengths[-1]
        if longest is None or length is None:
            if longest is not None or length is not None:
                expected = "no length" if longest is None else f"a length up to {longest}"
                raise ConfigError("length", length, f"{expected}: that is what the buckets have")
            return None
        if length > longest:
            raise ConfigError("length", length, f"at most {longest}, the longest bucket")
        if self.policy != BRIM:
            return longest
        return fitting(cast("tuple[int, ...]", self.bucket_lengths), length)

    def run(self, trace: Iterable[Arrival]) -> Result:
        """An open trace, to its end."""
        return self._simulation().run(trace)

    def run_closed(self, clients: Clients, seconds: float) -> Result:
        """A closed loop for so many seconds."""
        return self._simulation().run_closed(clients, seconds)

    def _simulation(self) -> Simulation:
        costs = CostTable(self.seconds)  # corrections change a table, so every run has its own
        own_wait_s = HOLD_S if self.policy == BRIM else WINDOW_S
        wait_s = own_wait_s if self.max_wait_s is None else self.max_wait_s
        scheduler: Scheduler[Request] | Rule
        if self.policy == BRIM:
            options = SchedulerOptions(wait_s, UNLIMITED, DEPTH)
            scheduler = Scheduler(options, costs, self.bucket_lengths)
        else:
            rule, length = RULES[self.policy], self.bucket_lengths[-1]
            scheduler = rule(costs, length, wait_s, self.objective_s)
        return Simulation(
            scheduler,
            self.seconds.__getitem__,
            timeout_s=self.timeout_s,
            fit=self.fit,
            noise=self.noise,
            warmup_s=self.warmup_s,
            seed=self.seed,
        )


def bucket_lengths(seconds: Mapping[Bucket, float]) -> tuple[int | None, ...]:
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
    fitted = [scenario.fit(length) for length in lengths] or list(scenario.bucket_lengths)
    mean = sum(row_seconds(seconds, length) for length in fitted) / len(fitted)
    return len(rows) / sum(rows) / mean


def closed_loop_bound(seconds: Mapping[Bucket, float], clients: Clients) -> float:
    """Requests/s that no policy exceeds: the device's capacity, or that of undelayed clients."""
    scenario = Scenario(seconds)
    fitted = [scenario.fit(length) for length in clients.lengths]
    least = min(s for b, s in seconds.items() if b.length in fitted)
    undelayed = clients.number / (least + clients.turnaround_s)
    return min(undelayed, capacity(seconds, (clients.rows,), clients.lengths))
