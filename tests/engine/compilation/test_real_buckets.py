"""Real models through real buckets: published embeddings, and rows that are independent."""

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

from engine.compilation.compiler import JaxCompiler, JaxExecutable
from engine.compilation.interface import Execution, Weights
from engine.errors import ConfigError
from engine.models import registry as models
from engine.models.config import ModelConfig, Source
from engine.models.model import Model, ModelState
from engine.models.processor import HostProcessor, Prepared, TokenIds
from engine.models.tensors import Array, Arrays, Extent
from engine.runtime.request import Request
from engine.runtime.staging import gather, scatter
from engine.scheduling.buckets import Bucket
from engine.scheduling.request_queue import DEFAULT_PRIORITY, RowSlice
from engine.serving.client import InProcessClient
from engine.testing import (
    FakeClock,
    RecordingObserver,
    puppet_config,
    puppet_model,
    rows,
    submit,
    texts,
)
from engine.warmup.golden import golden_row

ROOT = Path(__file__).parents[3]
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
def minilm(serving: Any) -> Iterator[InProcessClient]:
    """The demo's sentence encoder, in few buckets."""
    demo = tomllib.loads((ROOT / "configs/demo.toml").read_text())
    (said,) = (model for model in demo["models"] if model["name"] == "minilm")
    source = Source(family=said["family"], path=said["path"], sha256=said["sha256"])
    config = ModelConfig(name="minilm", source=source, rows=(1, 4), lengths=(32, 128, LIMIT))
    try:
        models.check(config)
    except ConfigError as error:
        pytest.skip(str(error))
    with serving(config) as client:
        assert client.ready, client.endpoint("minilm").snapshot().reason
        yield client


def test_the_reference_is_what_it_says() -> None:
    assert EMBEDDINGS.shape == (len(SENTENCES), 384)
    assert [row for row, count in enumerate(TOKENS) if count > LIMIT] == TOO_LONG


@pytest.mark.parametrize("row", range(50))
def test_a_sentence_alone_gets_the_published_embedding(minilm: InProcessClient, row: int) -> None:
    pending = submit(minilm, "minilm", texts(SENTENCES[row]))
    embedding = pending.result()["embedding"]
    np.testing.assert_allclose(embedding, EMBEDDINGS[row : row + 1], rtol=0, atol=1e-5)
    assert pending.request.prepared.parameters == (cut_rows(0) if row in TOO_LONG else {})


def cut_rows(*rows: int, limit: int = LIMIT) -> dict[str, int | str]:
    """The parameters that report them."""
    return {
        "truncated_rows": len(rows),
        "truncated_row_indices": ",".join(map(str, rows)),
        "token_limit": limit,
    }


@pytest.mark.parametrize("ids", [[7592, 2088], [101, 7592, 2088, 102]], ids=["bare", "special"])
def test_token_ids_get_the_embedding_of_their_text(minilm: InProcessClient, ids: list[int]) -> None:
    expected = submit(minilm, "minilm", texts("hello world")).result()["embedding"]
    endpoint = minilm.endpoint("minilm")
    request = endpoint.prepare(endpoint.interface, TokenIds([ids]))
    got = endpoint.submit(request).result()["embedding"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert request.prepared.tokens == 4


def test_all_sentences_in_one_request_get_the_published_embeddings(minilm: InProcessClient) -> None:
    pending = submit(minilm, "minilm", texts(*SENTENCES))
    embeddings = pending.result()["embedding"]
    np.testing.assert_allclose(embeddings, EMBEDDINGS, rtol=0, atol=1e-5)
    assert pending.request.prepared.parameters == cut_rows(46, 47, 48, 49)


def test_the_limit_is_that_of_the_longest_bucket_when_it_is_shorter_than_the_model_s(
    tiny_bert: Any, tiny_directory: Path, serving: Any
) -> None:
    config = tiny_bert.served(tiny_directory, rows=(1,), lengths=(8,))
    with serving(config) as client:
        assert client.endpoint("tiny").interface.signature.max_length == 16
        fits = texts("full to the brim is full", "full to the brim is a")
        pending = submit(client, "tiny", fits)
        assert pending.result()["embedding"].shape == (2, 32)
        assert pending.request.prepared.parameters == {}
        pending = submit(client, "tiny", texts("full", "full to the brim is full a"))
        assert pending.result()["embedding"].shape == (2, 32)
        assert pending.request.prepared.parameters == cut_rows(1, limit=8)


# --- a row does not depend on its neighbours -----------------------------------------------------


@dataclass(frozen=True)
class Compiled:
    """All buckets of one model, to be run one by one."""

    model: Model
    weights: Weights
    executables: dict[Bucket, JaxExecutable]

    def launch(self, bucket: Bucket, staged: Arrays) -> Arrays:
        """One execution."""
        return self.executables[bucket].launch(self.weights, staged).result()

    def run(self, bucket: Bucket, *requests: Arrays) -> list[dict[str, Array]]:
        """The answers of single rows that share one execution."""
        slices = [RowSlice(as_request(inputs), 0, 1) for inputs in requests]
        staged = gather(bucket, self.model.signature.device_inputs, slices)
        outputs = self.launch(bucket, staged)
        return list(scatter(bucket, self.model.signature.device_outputs, outputs, slices))


def as_request(inputs: Arrays) -> Request:
    """One row that is queued."""
    extent = Extent(1, max(array.shape[-1] for array in inputs.values()))
    return Request(
        Prepared(inputs),
        extent,
        bucket_length=None,
        enqueued_at=0.0,
        deadline=1.0,
        priority=DEFAULT_PRIORITY,
        processor=HostProcessor(),
    )


@pytest.fixture(scope="module", params=["bert", "digits"])
def compiled(request: pytest.FixtureRequest, tiny_bert: Any, tiny_directory: Path) -> Compiled:
    config = tiny_bert.served(tiny_directory, rows=(1, 3, 4), lengths=(8, 16))
    if request.param == "digits":
        config = ModelConfig(name="digits", source=DIGITS, rows=(1, 3, 8))
    model = models.load(config)
    compiler = JaxCompiler(model)
    executables = {bucket: compiler.compile(bucket) for bucket in config.grid.buckets}
    return Compiled(model, compiler.weights, executables)


def golden(compiled: Compiled, count: int, length: int | None) -> list[dict[str, Array]]:
    """Different rows, the same in every test."""
    rng = np.random.default_rng(3)
    model = compiled.model
    return [golden_row(model.signature, model.program, rng, length) for _ in range(count)]


def lengths(compiled: Compiled) -> list[int | None]:
    return sorted({bucket.length for bucket in compiled.executables}, key=lambda n: n or 0)


def assert_same(one: Arrays, other: Arrays, what: str) -> None:
    for name, array in one.items():
        assert np.array_equal(array, other[name]), f"{what}: {name}"


def test_a_row_is_bit_identical_at_every_place_of_its_bucket(compiled: Compiled) -> None:
    for bucket in compiled.executables:
        row, *others = golden(compiled, bucket.rows, bucket.length)
        (alone,) = compiled.run(bucket, row)
        for place in range(bucket.rows):
            batch = [*others[:place], row, *others[place:]]
            answer = compiled.run(bucket, *batch)[place]
            assert_same(alone, answer, f"bucket {bucket}, place {place}")


def test_what_the_padding_holds_changes_no_bit(compiled: Compiled) -> None:
    for bucket in compiled.executables:
        (row,) = golden(compiled, 1, lengths(compiled)[0])
        row_slice = RowSlice(as_request(row), 0, 1)
        (clean,) = compiled.run(bucket, row)
        dirty_specs = [
            replace(spec, pad=float("nan") if spec.dtype.kind == "f" else 5)
            for spec in compiled.model.signature.device_inputs
            if spec.name != "mask"  # the mask is how a model knows what is padding
        ]
        staged = gather(bucket, compiled.model.signature.device_inputs, [row_slice])
        staged |= gather(bucket, dirty_specs, [row_slice])
        outputs = compiled.launch(bucket, staged)
        (dirty,) = scatter(bucket, compiled.model.signature.device_outputs, outputs, [row_slice])
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
    name = compiled.model.signature.outputs[-1].name
    assert len({answer[name].tobytes() for answer in answers}) == bucket.rows


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_padding_of_nan_never_reaches_a_client(serving: Any, count: int) -> None:
    observer = RecordingObserver()
    config = puppet_config(rows=(4,))
    with serving(config, observer=observer, load=lambda _config: puppet_model()) as client:
        values = np.arange(count, dtype=np.float32)
        answer = client.infer("puppet", rows(*values))
        expected = np.stack([2 * values + 1, 1 - 2 * values], axis=1)
        np.testing.assert_array_equal(answer["y"], expected)
        done = observer.wait_for("batch_done", -(-count // 4))
        assert sum(report.rows for _, report in done) == count, "the rest was NaN"


# --- nothing compiles after READY ---------------------------------------------------------------


class CostedExecutable:
    """A real executable that takes the time its size says, on a clock that only it moves."""

    def __init__(self, executable: JaxExecutable, bucket: Bucket, clock: FakeClock) -> None:
        self.memory = executable.memory
        self.self_contained = executable.self_contained
        self._executable, self._bucket, self._clock = executable, bucket, clock

    def launch(self, weights: Weights, inputs: Arrays) -> Execution:
        tokens = self._bucket.rows * (self._bucket.length or 1)
        self._clock.advance(1e-3 + 1e-5 * tokens)
        return self._executable.launch(weights, inputs)


class CostedCompiler:
    """Compiles for real; what a bucket costs is arithmetic, so a test knows which one is chosen:
    the smallest that holds the rows.
    """

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def __call__(self, model: Model) -> CostedCompiler:
        self._real = JaxCompiler(model)
        self.weights = self._real.weights
        return self

    def compile(self, bucket: Bucket) -> CostedExecutable:
        return CostedExecutable(self._real.compile(bucket), bucket, self._clock)


def test_no_bucket_compiles_anything_when_it_is_used(
    serving: Any, tiny_bert: Any, tiny_directory: Path
) -> None:
    clock, observer = FakeClock(), RecordingObserver()
    compiler = CostedCompiler(clock)
    config = tiny_bert.served(tiny_directory)
    with serving(config, observer=observer, clock=clock, compiler=compiler) as client:
        for bucket in config.grid.buckets:
            sentence = "full " * ((bucket.length or 0) - 2)
            client.infer("tiny", texts(*[sentence] * bucket.rows))
        done = observer.wait_for("batch_done", len(config.grid.buckets))
        assert [report.bucket for _, report in done] == list(config.grid.buckets)
        assert client.snapshot().compiles_after_ready == 0
        assert observer.named("compiled_after_ready") == []
        # the control: the watch is on
        fresh = threading.Thread(target=lambda: jax.jit(lambda x: x - 1)(np.ones(5, np.float32)))
        fresh.start()
        fresh.join()
        assert client.snapshot().compiles_after_ready == 1


# --- requests larger than any bucket ------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 8, 11])
def test_a_request_larger_than_every_bucket_is_split_and_joined_in_order(
    serving: Any, count: int
) -> None:
    config = ModelConfig(name="digits", source=DIGITS, rows=(1, 4))
    rng = np.random.default_rng(count)
    images = rng.integers(0, 17, (count, 8, 8)).astype(np.float32)
    with serving(config) as client:
        endpoint = client.endpoint("digits")
        assert endpoint.lifecycle.state is ModelState.READY, endpoint.snapshot().reason
        together = client.infer("digits", {"image": images})
        assert together["label"].shape == (count,)
        assert together["label"].dtype == np.int64
        for row in range(count):
            alone = client.infer("digits", {"image": images[row : row + 1]})
            np.testing.assert_array_equal(together["label"][row], alone["label"][0])
            np.testing.assert_allclose(
                together["probabilities"][row], alone["probabilities"][0], rtol=0, atol=ACROSS
            )
    batches = endpoint.snapshot().activity.counts.batches
    assert batches > 1 + count, "the large request took several"
