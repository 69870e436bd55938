"""Traces: made up or recorded arrivals."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.simulation.traces import (
    DAY_S,
    TRACES,
    Arrival,
    Shape,
    bursty,
    constant,
    diurnal,
    recorded,
    split,
)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert [arrival.at for arrival in constant(4.0, 3)] == [0.0, 0.25, 0.5]


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_has_its_number_of_requests_in_order_at_its_rate(name: str) -> None:
    trace = list(TRACES[name](100.0, 60_000, Shape(), 1))
    assert len(trace) == 60_000
    assert all(earlier.at <= later.at for earlier, later in pairwise(trace))
    assert 60_000 / trace[-1].at == pytest.approx(100.0, rel=0.1)


@pytest.mark.parametrize("name", ["poisson", "bursty", "diurnal"])
def test_a_seed_determines_the_trace(name: str) -> None:
    def times(seed: int) -> list[Arrival]:
        shape = Shape(rows=(1, 2), lengths=(8, 16))
        return list(TRACES[name](10.0, 50, shape, seed))

    assert times(1) == times(1) != times(2)


@pytest.mark.parametrize("name", TRACES)
def test_rows_and_lengths_are_drawn_from_the_shape(name: str) -> None:
    trace = list(TRACES[name](10.0, 2000, Shape(rows=(1, 3), lengths=(8, 16, 32)), 1))
    for counts, values in (
        (Counter(arrival.rows for arrival in trace), (1, 3)),
        (Counter(arrival.length for arrival in trace), (8, 16, 32)),
    ):
        assert set(counts) == set(values)
        assert min(counts.values()) > 0.8 * 2000 / len(values)


def test_bursts_are_five_times_as_dense_as_the_whole() -> None:
    gaps = sorted(b.at - a.at for a, b in pairwise(bursty(100.0, 20_000, seed=1, burst_s=1.0)))
    assert gaps[len(gaps) // 2] == pytest.approx(0.693 / 500, rel=0.1)
    # pauses take four times as long as bursts
    assert sum(gap for gap in gaps if gap > 0.1) == pytest.approx(0.8 * sum(gaps), rel=0.1)


def test_a_diurnal_trace_is_sparse_at_its_ends_and_dense_in_the_middle() -> None:
    day = [arrival.at for arrival in diurnal(100.0, 6_000, seed=1) if arrival.at < DAY_S]
    night = sum(at < DAY_S / 8 or at > DAY_S * 7 / 8 for at in day)
    noon = sum(3 * DAY_S / 8 < at < 5 * DAY_S / 8 for at in day)
    assert noon > 8 * night > 0


def test_replicas_get_arrivals_round_robin() -> None:
    assert [arrival.at for arrival in split(constant(1.0, 7), 3)] == [0.0, 3.0, 6.0]


# --- recorded -------------------------------------------------------------------------------------


def csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "arrivals"),
    [
        ("at\n0\n0.5\n0.5\n", [Arrival(0.0), Arrival(0.5), Arrival(0.5)]),
        ("at,rows,length\n1,2,30\n2,,\n", [Arrival(1.0, 2, 30), Arrival(2.0)]),
        ("user,length,at\nann,7,-1\n", [Arrival(-1.0, 1, 7)]),
        ("at\n", []),
    ],
    ids=[
        "times only",
        "all columns, values may be missing",
        "any order, others are ignored",
        "empty",
    ],
)
def test_a_recorded_trace_is_read(tmp_path: Path, text: str, arrivals: list[Arrival]) -> None:
    assert list(recorded(csv(tmp_path, text))) == arrivals


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("time\n1\n", "trace", "a column `at`"),
        ("", "trace", "a column `at`"),
        ("at\n0\nsoon\n", "line 3", "numbers"),
        ("at\nnan\n", "line 2", "never decrease"),
        ("at\ninf\n", "line 2", "never decrease"),
        ("at\n2\n1\n", "line 3", "never decrease"),
        ("at,rows\n1,0\n", "line 2", "from 1 up"),
        ("at,rows\n1,1.5\n", "line 2", "numbers"),
        ("at,length\n1,-1\n", "line 2", "from 1 up"),
        ("at,length\n1,0\n", "line 2", "from 1 up"),
    ],
)
def test_a_mistake_names_the_file_and_the_line(
    tmp_path: Path, text: str, where: str, problem: str
) -> None:
    path = csv(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        list(recorded(path))
    assert str(caught.value).startswith(f"{path}: {where}: got ")
    assert problem in str(caught.value)


def test_arrivals_before_a_mistake_are_read(tmp_path: Path) -> None:
    assert list(islice(recorded(csv(tmp_path, "at\n1\n2\nsoon\n")), 2)) == [
        Arrival(1.0),
        Arrival(2.0),
    ]


@pytest.mark.parametrize("content", [None, b"at\n\xff\n"], ids=["missing", "not text"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "trace.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"trace\.csv.*a readable CSV file"):
        list(recorded(path))
