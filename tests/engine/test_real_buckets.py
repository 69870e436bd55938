"""Real models through real buckets: the published embeddings, and rows that know no neighbours."""

from __future__ import annotations

import json
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from engine import models
from engine.batching import Piece
from engine.buckets import Bucket
from engine.config import ModelConfig, Source
from engine.engine import Engine
from engine.errors import ConfigError
from engine.executable import Compiler, Executable
from engine.model import Model, Prepared
from engine.padding import gather, scatter
from engine.runnable import Running
from engine.spec import Array, Arrays, Extent
from engine.state import ModelState
from engine.testing import FakeClock, RecordingObserver, puppet_config, puppet_model, rows, texts
from engine.ticket import Ticket

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests/reference"
DIGITS = Source(family="digits", path=str(ROOT / "examples/digits/digits.safetensors"))
ACROSS = 1e-5
"""How far the same row may be from itself in another bucket, in float32."""


# --- the published embeddings -------------------------------------------------------------------

SENTENCES: list[str] = json.loads((REFERENCE / "sentences.json").read_text(encoding="utf-8"))
TOKENS: list[int] = json.loads((REFERENCE / "minilm_tokens.json").read_text())
EMBEDDINGS: Array = np.load(REFERENCE / "minilm.npy")
LIMIT = 256
TOO_LONG = [46, 47, 48, 49]


@pytest.fixture(scope="module")
def minilm(serving: Any) -> Iterator[Engine]:
    """The demo's sentence encoder, in few buckets."""
    demo = tomllib.loads((ROOT / "configs/demo.toml").read_text())
    (said,) = (model for model in demo["models"] if model["name"] == "minilm")
    source = Source(family=said["family"], path=said["path"], sha256=said["sha256"])
    config = ModelConfig(name="minilm", source=source, rows=(1, 4), lengths=(32, 128, LIMIT))
    try:
        models.check(config)
    except ConfigError as error:
        pytest.skip(str(error))
    with serving(config) as engine:
        assert engine.ready, engine.stats("minilm").reason
        yield engine


def test_the_reference_is_what_it_says() -> None:
    assert EMBEDDINGS.shape == (len(SENTENCES), 384)
    assert [row for row, count in enumerate(TOKENS) if count > LIMIT] == TOO_LONG


@pytest.mark.parametrize("row", range(50))
def test_a_sentence_alone_gets_the_published_embedding(minilm: Engine, row: int) -> None:
    ticket = minilm.submit("minilm", texts(SENTENCES[row]))
    embedding = minilm.result("minilm", ticket)["embedding"]
    np.testing.assert_allclose(embedding, EMBEDDINGS[row : row + 1], rtol=0, atol=1e-5)
    cut = {"truncated_rows": "0", "token_limit": LIMIT}
    assert ticket.prepared.parameters == (cut if row in TOO_LONG else {})


def test_all_sentences_in_one_request_get_the_published_embeddings(minilm: Engine) -> None:
    ticket = minilm.submit("minilm", texts(*SENTENCES))
    embeddings = minilm.result("minilm", ticket)["embedding"]
    np.testing.assert_allclose(embeddings, EMBEDDINGS, rtol=0, atol=1e-5)
    assert ticket.prepared.parameters == {"truncated_rows": "46,47,48,49", "token_limit": LIMIT}


def test_the_limit_is_that_of_the_longest_bucket_when_it_is_shorter_than_the_model_s(
    tiny_bert: Any, tiny_directory: Path, serving: Any
) -> None:
    config = tiny_bert.served(tiny_directory, rows=(1,), lengths=(8,))
    with serving(config) as engine:
        assert engine.model("tiny").max_length == 16
        ticket = engine.submit("tiny", texts("full to the brim is full", "full to the brim is a"))
        assert engine.result("tiny", ticket)["embedding"].shape == (2, 32)
        assert ticket.prepared.parameters == {}
        ticket = engine.submit("tiny", texts("full", "full to the brim is full a"))
        assert engine.result("tiny", ticket)["embedding"].shape == (2, 32)
        assert ticket.prepared.parameters == {"truncated_rows": "1", "token_limit": 8}


# --- a row does not know its neighbours ---------------------------------------------------------


@dataclass(frozen=True)
class Compiled:
    """All buckets of one model, to be run one by one."""

    model: Model
    executables: dict[Bucket, Executable]

    def run(self, bucket: Bucket, *requests: Arrays) -> list[dict[str, Array]]:
        """The answers of single rows that share one execution."""
        pieces = [Piece(as_ticket(request), 0, 1) for request in requests]
        staged = gather(bucket, self.model.device_inputs, pieces)
        outputs = self.executables[bucket].launch(staged).result()
        return list(scatter(bucket, self.model.device_outputs, outputs, pieces))


def as_ticket(inputs: Arrays) -> Ticket:
    """One row on its way to the device."""
    extent = Extent(1, max(array.shape[-1] for array in inputs.values()))
    return Ticket(
        Prepared(inputs),
        extent,
        lane=None,
        enqueued_at=0.0,
        deadline=1.0,
        clock=FakeClock(),
        settled=lambda _tickets: None,
    )


@pytest.fixture(scope="module", params=["bert", "digits"])
def compiled(request: pytest.FixtureRequest, tiny_bert: Any, tiny_directory: Path) -> Compiled:
    config = tiny_bert.served(tiny_directory, rows=(1, 3, 4), lengths=(8, 16))
    if request.param == "digits":
        config = ModelConfig(name="digits", source=DIGITS, rows=(1, 3, 8))
    model = models.load(config)
    compiler = Compiler(model)
    return Compiled(model, {bucket: compiler.compile(bucket) for bucket in config.grid.buckets})


def golden(compiled: Compiled, count: int, length: int | None) -> list[dict[str, Array]]:
    """Different rows, the same in every test."""
    rng = np.random.default_rng(3)
    return [compiled.model.golden_row(rng, length) for _ in range(count)]


def lengths(compiled: Compiled) -> list[int | None]:
    return sorted({bucket.length for bucket in compiled.executables}, key=lambda n: n or 0)


def assert_same(one: Arrays, other: Arrays, what: str) -> None:
    for name, array in one.items():
        assert np.array_equal(array, other[name]), f"{what}: {name}"


def test_a_row_is_bit_identical_wherever_it_stands_in_its_bucket(compiled: Compiled) -> None:
    for bucket in compiled.executables:
        row, *others = golden(compiled, bucket.rows, bucket.length)
        (alone,) = compiled.run(bucket, row)
        for place in range(bucket.rows):
            company = [*others[:place], row, *others[place:]]
            answer = compiled.run(bucket, *company)[place]
            assert_same(alone, answer, f"bucket {bucket}, place {place}")


def test_what_the_padding_holds_changes_no_bit(compiled: Compiled) -> None:
    for bucket in compiled.executables:
        (row,) = golden(compiled, 1, lengths(compiled)[0])
        piece = Piece(as_ticket(row), 0, 1)
        (clean,) = compiled.run(bucket, row)
        dirty_specs = [
            replace(spec, pad=float("nan") if spec.dtype.kind == "f" else 5)
            for spec in compiled.model.device_inputs
            if spec.name != "mask"  # the mask is how a model knows what is padding
        ]
        staged = gather(bucket, compiled.model.device_inputs, [piece])
        staged |= gather(bucket, dirty_specs, [piece])
        outputs = compiled.executables[bucket].launch(staged).result()
        (dirty,) = scatter(bucket, compiled.model.device_outputs, outputs, [piece])
        assert_same(clean, dirty, f"bucket {bucket}")


def test_a_row_is_the_same_in_every_bucket_of_every_length(compiled: Compiled) -> None:
    (row,) = golden(compiled, 1, lengths(compiled)[0])
    answers = [compiled.run(bucket, row)[0] for bucket in compiled.executables]
    for bucket, answer in zip(compiled.executables, answers, strict=True):
        for name, array in answer.items():
            np.testing.assert_allclose(
                array, answers[0][name], rtol=0, atol=ACROSS, err_msg=f"bucket {bucket}"
            )


def test_a_neighbour_of_nan_changes_no_bit(compiled: Compiled) -> None:
    bucket = max(compiled.executables, key=lambda bucket: bucket.rows)
    row, *_ = golden(compiled, 1, bucket.length)
    broken = {
        name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array + 1
        for name, array in row.items()
    }
    (alone,) = compiled.run(bucket, row)
    assert_same(alone, compiled.run(bucket, broken, row, broken)[1], "between broken rows")


def test_different_rows_get_different_answers(compiled: Compiled) -> None:
    """Otherwise nothing above could fail."""
    bucket = max(compiled.executables, key=lambda bucket: bucket.rows)
    answers = compiled.run(bucket, *golden(compiled, bucket.rows, bucket.length))
    name = compiled.model.outputs[-1].name
    assert len({answer[name].tobytes() for answer in answers}) == bucket.rows


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_padding_of_nan_never_reaches_a_client(serving: Any, count: int) -> None:
    observer = RecordingObserver()
    config = puppet_config(rows=(4,))
    with serving(config, observer=observer, load=lambda _config: puppet_model()) as engine:
        values = np.arange(count, dtype=np.float32)
        answer = engine.infer("puppet", rows(*values))
        expected = np.stack([2 * values + 1, 1 - 2 * values], axis=1)
        np.testing.assert_array_equal(answer["y"], expected)
        done = observer.wait_for("batch_done", -(-count // 4))
        assert sum(report.rows for _, report in done) == count, "the rest was NaN"


# --- nothing compiles after READY ---------------------------------------------------------------


class CostedExecutable:
    """A real executable that takes the time its size says, on a clock that only it moves."""

    def __init__(self, executable: Executable, bucket: Bucket, clock: FakeClock) -> None:
        self.memory = executable.memory
        self.self_contained = executable.self_contained
        self._executable, self._bucket, self._clock = executable, bucket, clock

    def launch(self, inputs: Arrays) -> Running:
        tokens = self._bucket.rows * (self._bucket.length or 1)
        self._clock.advance(1e-3 + 1e-5 * tokens)
        return self._executable.launch(inputs)


class CostedCompiler:
    """Compiles for real; what a bucket costs is arithmetic, so a test knows which one is chosen:
    the smallest that holds the rows.
    """

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def __call__(self, model: Model) -> CostedCompiler:
        self._real = Compiler(model)
        self.weights_bytes = self._real.weights_bytes
        return self

    def compile(self, bucket: Bucket) -> CostedExecutable:
        return CostedExecutable(self._real.compile(bucket), bucket, self._clock)


def test_no_bucket_compiles_anything_when_it_is_used(
    serving: Any, tiny_bert: Any, tiny_directory: Path
) -> None:
    clock, observer = FakeClock(), RecordingObserver()
    compiler = CostedCompiler(clock)
    config = tiny_bert.served(tiny_directory)
    with serving(config, observer=observer, clock=clock, compiler=compiler) as engine:
        for bucket in config.grid.buckets:
            sentence = "full " * ((bucket.length or 0) - 2)
            engine.infer("tiny", texts(*[sentence] * bucket.rows))
        done = observer.wait_for("batch_done", len(config.grid.buckets))
        assert [report.bucket for _, report in done] == list(config.grid.buckets)
        assert engine.compiles_after_ready == 0
        assert observer.named("compiled_after_ready") == []
        # the control: the watch is on
        fresh = threading.Thread(target=lambda: jax.jit(lambda x: x - 1)(np.ones(5, np.float32)))
        fresh.start()
        fresh.join()
        assert engine.compiles_after_ready == 1


# --- requests larger than any bucket ------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 8, 11])
def test_a_request_larger_than_every_bucket_is_split_and_put_together_in_order(
    serving: Any, count: int
) -> None:
    config = ModelConfig(name="digits", source=DIGITS, rows=(1, 4))
    rng = np.random.default_rng(count)
    images = rng.integers(0, 17, (count, 8, 8)).astype(np.float32)
    with serving(config) as engine:
        assert engine.stats("digits").state is ModelState.READY, engine.stats("digits").reason
        together = engine.infer("digits", {"image": images})
        assert together["label"].shape == (count,)
        assert together["label"].dtype == np.int64
        for row in range(count):
            alone = engine.infer("digits", {"image": images[row : row + 1]})
            np.testing.assert_array_equal(together["label"][row], alone["label"][0])
            np.testing.assert_allclose(
                together["probabilities"][row], alone["probabilities"][0], rtol=0, atol=ACROSS
            )
    batches = engine.stats("digits").counts.batches
    assert batches > 1 + count, "the large request took several"
