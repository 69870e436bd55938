"""Buckets, grids, and the length that a row is padded to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.buckets import Bucket, BucketGrid

LONG = BucketGrid(rows=(1, 8), lengths=(16, 64))
FLAT = BucketGrid(rows=(1, 8))

sizes = st.sets(st.integers(1, 512), min_size=1, max_size=6).map(lambda s: tuple(sorted(s)))


def test_a_grid_is_the_product_of_its_axes_smallest_first() -> None:
    assert LONG.buckets == (Bucket(1, 16), Bucket(8, 16), Bucket(1, 64), Bucket(8, 64))
    assert FLAT.buckets == (Bucket(1), Bucket(8))


def test_bucket_lengths_are_the_lengths_or_none_without_an_axis() -> None:
    assert LONG.bucket_lengths == (16, 64)
    assert FLAT.bucket_lengths == (None,)


def test_the_longest_row_is_the_last_length() -> None:
    assert LONG.max_length == 64
    assert FLAT.max_length is None


@pytest.mark.parametrize(
    ("length", "fits"),
    [
        pytest.param(1, 16, id="the-shortest-row"),
        pytest.param(16, 16, id="exactly-a-bucket"),
        pytest.param(17, 64, id="one-more-than-a-bucket"),
        pytest.param(64, 64, id="exactly-the-longest"),
        pytest.param(None, None, id="no-dynamic-axis"),
    ],
)
def test_a_row_goes_to_the_shortest_bucket_that_holds_it(
    length: int | None, fits: int | None
) -> None:
    assert LONG.fit_length(length) == fits


@given(lengths=sizes, data=st.data())
def test_no_shorter_bucket_would_have_held_the_row(
    lengths: tuple[int, ...], data: st.DataObject
) -> None:
    length = data.draw(st.integers(1, lengths[-1]))
    fits = BucketGrid(rows=(1,), lengths=lengths).fit_length(length)
    assert fits == min(candidate for candidate in lengths if candidate >= length)


def test_a_row_too_long_for_every_bucket_should_have_been_refused_before() -> None:
    with pytest.raises(AssertionError, match=r"length 65 fits no bucket; this is a bug"):
        LONG.fit_length(65)


@pytest.mark.parametrize(
    ("rows", "lengths"),
    [
        pytest.param((), (), id="no-rows"),
        pytest.param((0, 1), (), id="zero-rows"),
        pytest.param((2, 1), (), id="falling"),
        pytest.param((1, 1), (), id="twice-the-same"),
        pytest.param((1,), (8, 4), id="falling-lengths"),
        pytest.param((1,), (-1,), id="negative-length"),
    ],
)
def test_sizes_that_the_config_should_have_refused_are_a_bug(
    rows: tuple[int, ...], lengths: tuple[int, ...]
) -> None:
    with pytest.raises(AssertionError, match="this is a bug"):
        BucketGrid(rows, lengths)


def test_a_bucket_is_written_as_its_shape() -> None:
    assert [str(bucket) for bucket in LONG.buckets] == ["1x16", "8x16", "1x64", "8x64"]
    assert str(Bucket(8)) == "8"
