"""What a run sends, where, how fast and for how long; validated, without side effects."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal, Self
from urllib.parse import urlsplit

Arrivals = Literal["poisson", "constant"]

UNSENT_SHARE: Final = 0.1
"""The share of its deadline that a request may wait for a connection. A server counts the deadline
from when it reads the request, so a request that is sent later would promise time that is over."""

UNANSWERED_DEADLINES: Final = 2
"""The deadlines after which a sent request is given up: a server's own 504 arrives before that."""

_TARGET: Final = re.compile(r"(?P<name>[^:@]+)(:(?P<rows>\d+))?(@(?P<weight>\d+(\.\d+)?))?")


class BenchError(Exception):
    """The run cannot be made. The message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is. `authority` goes into the Host header."""

    host: str
    port: int
    authority: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """From `http://HOST[:PORT]`. Raises `BenchError`."""
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise BenchError(f"URL: got {url!r}, expected http://HOST:PORT")
        return cls(parts.hostname, port, parts.netloc.rpartition("@")[2])


@dataclass(frozen=True, slots=True)
class Target:
    """A model, the rows of a request to it, and its weight among the targets."""

    model: str
    rows: int = 1
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `NAME[:ROWS][@WEIGHT]`. Raises `BenchError`."""
        found = _TARGET.fullmatch(text)
        rows, weight = (found["rows"] or 1, found["weight"] or 1) if found else (0, 0)
        if not found or not int(rows) or not float(weight):
            raise BenchError(f"--model: got {text!r}, expected NAME[:ROWS][@WEIGHT]")
        return cls(found["name"], int(rows), float(weight))

    def __str__(self) -> str:
        return f"{self.model}:{self.rows}"


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """One kind of request: `message` is its HTTP head and body."""

    target: Target
    message: bytes


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is made; the report repeats it. Exactly one of `clients` and `rate` is set.

    `clients` is a closed loop: that many connections with one request in flight each. `rate` is an
    open loop: so many requests are *intended* per second, whatever the server does, on at most
    `connections`. A request fails if it has no response `give_up_s` after its intended time. A
    response later than `deadline_ms` does not count as goodput, and a request with a deadline is
    given up earlier: see `unsent_s` and `unanswered_s`. Raises `BenchError`.
    """

    url: str
    clients: int | None = None
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    connections: int = 1024
    duration_s: float = 10.0
    warmup_s: float = 2.0
    give_up_s: float = 10.0
    deadline_ms: float | None = None
    binary: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if (self.clients is None) == (self.rate is None):
            raise BenchError("expected either --clients (closed loop) or --rate (open loop)")
        for name in ("clients", "rate", "connections", "duration_s", "give_up_s", "deadline_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                option = name.removesuffix("_s").replace("_", "-")
                raise BenchError(f"--{option}: got {value:g}, expected a number above 0")
        if not 0 <= self.warmup_s < math.inf:
            raise BenchError(f"--warmup: got {self.warmup_s:g}, expected 0 or a number above it")

    @property
    def unsent_s(self) -> float:
        """How long a request may wait for a connection."""
        return self._within_deadlines(UNSENT_SHARE)

    @property
    def unanswered_s(self) -> float:
        """How long after its intended time a request that was sent may wait for its response."""
        return self._within_deadlines(UNANSWERED_DEADLINES)

    def _within_deadlines(self, deadlines: float) -> float:
        if self.deadline_ms is None:
            return self.give_up_s
        return min(self.give_up_s, deadlines * self.deadline_ms / 1e3)

    @property
    def description(self) -> str:
        """The kind of load, in words."""
        loop = f"closed loop, {self.clients} clients"
        if self.rate is not None:
            loop = f"open loop, {self.rate:g}/s {self.arrivals}"
        form = "binary" if self.binary else "JSON"
        return f"{loop}, {form}, {self.duration_s:g} s after {self.warmup_s:g} s of warm-up"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: its settings, and the kinds of requests, chosen by their weights."""

    settings: Settings
    requests: tuple[EncodedRequest, ...]
