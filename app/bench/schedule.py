"""When requests are intended, and which kind each of them is.

May touch: numpy. Everything follows from the seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from app.bench.plan import Arrivals

_CHUNK: Final = 4096


def offsets(arrivals: Arrivals, rate: float, seed: int) -> Iterator[float]:
    """Seconds from the start, ascending, without end; `rate` of them a second on average."""
    if arrivals == "constant":
        yield from (number / rate for number in itertools.count())
    rng = np.random.default_rng(seed)
    at = 0.0
    while True:
        chunk = at + np.cumsum(rng.exponential(1 / rate, _CHUNK))
        yield from chunk.tolist()
        at = float(chunk[-1])


def choices(weights: Sequence[float], seed: int) -> Iterator[int]:
    """Indices into `weights`, in proportion to them, without end."""
    if len(weights) == 1:
        return itertools.repeat(0)
    share = np.array(weights) / sum(weights)
    return itertools.cycle(np.random.default_rng(seed).choice(len(share), _CHUNK, p=share).tolist())
