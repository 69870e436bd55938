"""A staging buffer belongs to its batch until the device has finished with it.

The regression of a real data race: on a CPU, JAX reads a 64-byte-aligned numpy array in place,
after the call has returned. numpy's own alignment is luck, so the buffers here are aligned by hand,
and the device is kept busy before it reads its input, so that the next batch is always gathered in
between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engine.compilation.compiler import JaxCompiler, JaxExecution
from engine.compilation.interface import Weights
from engine.models.model import Model
from engine.models.tensors import Arrays, TensorSpec
from engine.runtime import staging
from engine.scheduling.buckets import Bucket
from engine.testing import puppet_config, submit

WIDTH, ROWS, REQUESTS = 512, 4, 12
BUSY_ROUNDS = 2000
"""Some 8 ms of work before the input is read."""

ALIGNMENT = 64


def late_reader() -> Model:
    """`y = 2 * x + 1`, but `x` is read only after a loop that takes its time."""

    def apply(params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        busy = jax.lax.fori_loop(0, BUSY_ROUNDS, lambda _i, m: jnp.tanh(m @ m), params["m"])
        x, busy = jax.lax.optimization_barrier((inputs["x"], busy))
        return {"y": x * 2 + 1 + 0 * busy[0, 0]}

    return Model(
        apply=apply,
        params={"m": np.ones((64, 64), np.float32)},
        inputs=(TensorSpec("x", "FP32", (WIDTH,)),),
        outputs=(TensorSpec("y", "FP32", (WIDTH,)),),
    )


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """`np.empty`, where JAX reads it in place."""
    nbytes = int(np.prod(shape)) * dtype.itemsize
    block = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + nbytes].view(dtype).reshape(shape)


class OneBuffer:
    """`np.empty` that gives the same memory again: what `gather` must not do."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, ...], np.ndarray] = {}

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        return self._buffers.setdefault(shape, aligned(shape, dtype))


class Watched:
    """A real executable that keeps what it was launched with, so no address is used again."""

    def __init__(self, model: Model) -> None:
        self._compiler = JaxCompiler(model)
        self.weights = self._compiler.weights
        self.launched: list[Arrays] = []

    def compile(self, bucket: Bucket) -> Watched:
        self._executable = self._compiler.compile(bucket)
        self.memory = self._executable.memory
        self.self_contained = self._executable.self_contained
        return self

    def launch(self, weights: Weights, inputs: Arrays) -> JaxExecution:
        self.launched.append(inputs)
        return self._executable.launch(weights, inputs)


@pytest.fixture
def allocate_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Replaces the allocation in `gather`."""
    return lambda empty: monkeypatch.setattr(
        staging, "np", SimpleNamespace(**{**vars(np), "empty": empty})
    )


def wrong_answers(serving: Any, **parts: Any) -> int:
    """Twelve clients at once, two batches in flight: how many get a wrong answer?"""
    config = puppet_config(rows=(ROWS,), in_flight=2)
    wrong = 0
    with serving(config, load=lambda _config: late_reader(), **parts) as client:
        asked = [np.full((ROWS, WIDTH), number, np.float32) for number in range(REQUESTS)]
        results = [submit(client, "puppet", {"x": x}) for x in asked]
        for x, pending in zip(asked, results, strict=True):
            wrong += not np.array_equal(pending.result()["y"], 2 * x + 1)
        assert client.endpoint("puppet").snapshot().activity.counts.batches == REQUESTS
    return wrong


def test_every_client_gets_its_own_answer_while_two_batches_are_in_flight(
    serving: Any, allocate_with: Callable[[Callable[..., Any]], None]
) -> None:
    allocate_with(aligned)
    assert wrong_answers(serving) == 0


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU reads its input in place")
def test_a_buffer_that_is_used_again_at_once_mixes_up_the_clients(
    serving: Any, allocate_with: Callable[[Callable[..., Any]], None]
) -> None:
    """Shows that the test above can fail. When this one fails, JAX copies, and buffers may be
    used again; until then they may not.
    """
    allocate_with(OneBuffer())
    # of some twenty tries one mixes up nothing: the device was faster each time
    assert any(wrong_answers(serving) > 0 for _ in range(10))


def test_no_two_batches_share_memory(serving: Any) -> None:
    watched: list[Watched] = []

    def compiler(model: Model) -> Watched:
        watched.append(Watched(model))
        return watched[0]

    assert wrong_answers(serving, compiler=compiler) == 0
    staged = [inputs["x"] for inputs in watched[0].launched[-REQUESTS:]]
    assert not any(np.may_share_memory(one, other) for one, other in combinations(staged, 2))
