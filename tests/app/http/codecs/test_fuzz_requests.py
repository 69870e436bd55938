"""The fuzzer's valid requests decode, and its broken ones reach every refusal."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from app.http.codecs import oip
from engine.errors import InvalidRequest
from engine.models.tensors import TensorSpec
from tests.fuzz.requests import SPECS, Builder


class Dice:
    """A fuzzer's bytes, from a random generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def ConsumeIntInRange(self, low: int, high: int, /) -> int:
        return self.random.randint(low, high)

    def ConsumeBytes(self, count: int, /) -> bytes:
        return self.random.randbytes(count)

    def ConsumeUnicodeNoSurrogates(self, count: int, /) -> str:
        return "".join(self.random.choices("aä\0\n€\U0001f600", k=count))


def test_every_request_that_is_not_broken_is_decoded_with_its_values() -> None:
    values = 0
    for seed in range(300):
        body, header = Builder(Dice(seed)).request().written()
        asked = oip.decode(body, header, SPECS, SPECS)
        values += sum(array.size for array in asked.inputs.values())
    assert values > 3000


REACHED = (
    "sequences are not served",
    "shared memory is not served",
    "classes are not served",
    "the tensor is there twice",
    "the output is named twice",
    "no such output",
    "unexpected tensor",
    "travels as binary only",
    "data and binary_data_size together",
    "no data; expected data",
    "binary_data_size is",
    "bytes are left over",
    "bytes do not fit",
    "is out of range",
    "is nested",
    "datatype",
    "axes does not fit",
    "needs",
    "expected a whole number",
    "expected true or false",
    "not JSON",
    "a BOOL is",
    "expected 0 to",
)


def test_breaking_one_or_two_rules_reaches_every_refusal_and_keeps_many_requests_valid() -> None:
    reached: Counter[str] = Counter()
    whole = 0
    for seed in range(6000):
        builder = Builder(Dice(seed))
        body, header = builder.broken().written()
        try:
            oip.decode(body, header, SPECS, SPECS)
        except InvalidRequest as refused:
            reached.update(words for words in REACHED if words in str(refused))
        else:
            whole += 1
    assert set(REACHED) == set(reached)
    assert 0.3 < whole / 6000 < 0.7


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.datatype)
def test_a_raw_tensor_is_decoded(spec: TensorSpec) -> None:
    asked = oip.decode(Builder(Dice(1)).raw_body(spec), 0, (spec,), SPECS)
    assert list(asked.inputs) == [spec.name]
