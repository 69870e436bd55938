"""Sums over the frozen values."""

from __future__ import annotations

from engine.compilation.interface import Memory
from engine.telemetry.snapshots import MemoryUse


def test_code_adds_up_but_only_one_batch_is_at_its_peak() -> None:
    small = Memory(inputs=1, outputs=2, temporary=3, code=10)
    large = Memory(inputs=4, outputs=5, temporary=6, code=20)
    use = MemoryUse(weights=100, buckets=((1, None, small), (8, None, large)))
    assert use.code == 30
    assert use.peak_batch == 4 + 5 + 6


def test_without_buckets_nothing_is_used() -> None:
    assert MemoryUse(weights=100, buckets=()).code == 0
    assert MemoryUse(weights=100, buckets=()).peak_batch == 0
