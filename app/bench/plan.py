"""What is sent, where to, how fast and for how long; and what may be wrong with that. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal, Self
from urllib.parse import urlsplit

Arrivals = Literal["poisson", "constant"]

_TARGET: Final = re.compile(r"(?P<name>[^:@]+)(:(?P<rows>\d+))?(@(?P<weight>\d+(\.\d+)?))?")


class BenchError(Exception):
    """The load cannot be made; the message is one line for a person."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is. `authority` is what the Host header says."""

    host: str
    port: int
    authority: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Of `http://HOST[:PORT]`. Raises `BenchError`."""
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
    """A model, how many rows a request to it has, and its share among the targets."""

    model: str
    rows: int = 1
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `NAME[:ROWS][@WEIGHT]`. Raises `BenchError`."""
        found = _TARGET.fullmatch(text)
        rows, weight = (found["rows"] or 1, found["weight"] or 1) if found else (0, 0)
        if not found or not int(rows) or not float(weight):
            raise BenchError(f"--model: got {text!r}, expected NAME[:ROWS][@WEIGHT]")
        return cls(found["name"], int(rows), float(weight))

    def __str__(self) -> str:
        return f"{self.model}:{self.rows}"


@dataclass(frozen=True, slots=True)
class Shot:
    """One kind of request, as the bytes that go out: head and body."""

    target: Target
    request: bytes


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a report repeats of how it was made. Exactly one of `clients` and `rate` is set.

    `clients` is a closed loop: that many connections, each with one request on its way. `rate` is
    an open loop: so many requests are *intended* per second, whatever the server does, on at most
    `connections`. A request is given up `give_up_s` after it was intended. An answer later than
    `deadline_ms` is no goodput. Raises `BenchError`.
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
        positive = {
            "--clients": self.clients,
            "--rate": self.rate,
            "--connections": self.connections,
            "--duration": self.duration_s,
            "--give-up": self.give_up_s,
            "--deadline-ms": self.deadline_ms,
        }
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise BenchError(f"{name}: got {value:g}, expected a number above 0")
        if not 0 <= self.warmup_s < math.inf:
            raise BenchError(f"--warmup: got {self.warmup_s:g}, expected 0 or a number above it")


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: how, and the kinds of requests to choose from by weight."""

    settings: Settings
    shots: tuple[Shot, ...]
