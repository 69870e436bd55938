"""Buckets and the grid that they form.

A *bucket* is a fixed shape that an executable is compiled for: rows x length, where `length` is
None for a model without a dynamic axis.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Bucket(NamedTuple):
    """One compiled shape. A tuple: it is hashed for every batch, which is slow in a dataclass."""

    rows: int
    length: int | None = None

    def __str__(self) -> str:
        return f"{self.rows}" if self.length is None else f"{self.rows}x{self.length}"


@dataclass(frozen=True, slots=True)
class BucketGrid:
    """Every bucket of one model: the product of `rows` and `lengths`, both strictly increasing.

    `lengths` is empty for a model without a dynamic axis. The configuration validates the order;
    a violation here is a bug.
    """

    rows: tuple[int, ...]
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for axis in (self.rows, self.lengths):
            if list(axis) != sorted(set(axis)) or any(size < 1 for size in axis):
                raise AssertionError(f"bucket sizes {axis} are not increasing; this is a bug")
        if not self.rows:
            raise AssertionError("a grid without rows; this is a bug")

    @property
    def bucket_lengths(self) -> tuple[int | None, ...]:
        """The lengths that rows are padded to: `(None,)` without a dynamic axis."""
        return self.lengths or (None,)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """All buckets, by length and then rows."""
        return tuple(Bucket(rows, length) for length in self.bucket_lengths for rows in self.rows)

    @property
    def max_length(self) -> int | None:
        """The longest row that fits, or None without a dynamic axis."""
        return self.lengths[-1] if self.lengths else None

    def fit_length(self, length: int | None) -> int | None:
        """The shortest bucket length that holds `length`. Validation has refused longer rows."""
        if length is None:
            return None
        if length > self.lengths[-1]:
            raise AssertionError(f"length {length} fits no bucket; this is a bug")
        return fitting(self.lengths, length)


def fitting(lengths: Sequence[int], length: int) -> int:
    """The shortest of the increasing `lengths` that holds `length`; the last one does."""
    return lengths[bisect_left(lengths, length)]
