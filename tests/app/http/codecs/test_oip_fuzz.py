"""Any input decodes to a request or raises `InvalidRequest`."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.codecs import oip
from app.http.codecs.messages import InferRequest
from engine.errors import InvalidRequest
from engine.models.tensors import LENGTH, TensorSpec
from tests.app.wire import IDS, X, Y, elements

SPECS = (X, IDS, TensorSpec("text", "BYTES"), TensorSpec("flag", "BOOL", (2, LENGTH)))
RAW = (SPECS[:1], SPECS[1:2], SPECS[2:3], SPECS[3:])


def check(
    body: bytes, header: int | None, specs: tuple[TensorSpec, ...] = SPECS
) -> InferRequest | None:
    """Refused, or arrays that match the specs and the request."""
    try:
        got = oip.decode(body, header, specs, (Y, TensorSpec("z", "BF16")))
    except InvalidRequest:
        return None
    for spec in specs:
        if spec.name in got.inputs:
            assert got.inputs[spec.name].dtype == spec.dtype
    if header != 0:
        said = {tensor["name"]: tensor for tensor in json.loads(body[:header])["inputs"]}
        flat = {spec.name for spec in specs if not spec.shape}
        assert {name: list(array.shape) for name, array in got.inputs.items()} == {
            # a row of one value may come as [n, 1]
            name: tensor["shape"][:1] if name in flat else tensor["shape"]
            for name, tensor in said.items()
        }
    return got


HEADERS = st.none() | st.integers(-2, 80) | st.sampled_from([-(2**63), 2**31, 2**63, 2**64])


@given(st.binary(max_size=64), HEADERS, st.sampled_from([SPECS, *RAW]))
def test_any_bytes_with_any_header_length(
    body: bytes, header: int | None, specs: tuple[TensorSpec, ...]
) -> None:
    check(body, header, specs)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
SIZES = st.lists(st.integers(0, 3) | st.sampled_from([-1, 2**31, 2**62, 2**63, 2**64]), max_size=4)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "ids", "text", "flag", "z"]) | JSON,
        "shape": SIZES | JSON,
        "datatype": st.sampled_from(["FP32", "INT64", "BYTES", "BOOL"]) | JSON,
        "data": st.lists(st.integers() | st.floats(-9, 9) | st.text(max_size=1), max_size=4)
        | st.lists(st.lists(st.integers(-9, 9), max_size=3), max_size=3)
        | JSON,
    },
    optional={"parameters": JSON},
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=3) | JSON},
    optional={"id": JSON, "parameters": JSON, "outputs": JSON},
)


@settings(max_examples=300)
@given(REQUESTS | JSON, st.binary(max_size=8), st.booleans())
def test_any_json_and_any_bytes_after_it(request: Any, raw: bytes, announced: bool) -> None:
    body = json.dumps(request).encode()
    check(body + raw * announced, len(body) if announced else None)


# --- a valid request with one thing changed -------------------------------------------------------

PARTS: dict[str, tuple[str, list[int], bytes]] = {
    "x": ("FP32", [1, 2], bytes(8)),
    "ids": ("INT64", [1, 1], bytes(8)),
    "text": ("BYTES", [1], elements(b"abc")),
    "flag": ("BOOL", [1, 2, 1], b"\1\0"),
}


def valid() -> dict[str, Any]:
    return {
        "id": "seven",
        "parameters": {"timeout": 1000, "priority": 1, "binary_data_output": True},
        "outputs": [{"name": "y", "parameters": {"binary_data": False}}, {"name": "z"}],
        "inputs": [
            {
                "name": name,
                "datatype": datatype,
                "shape": list(shape),
                "parameters": {"binary_data_size": len(raw)},
            }
            for name, (datatype, shape, raw) in PARTS.items()
        ],
    }


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a structure."""
    found = []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *places(value[key])]
    return found


def test_the_request_that_is_changed_is_valid() -> None:
    header = json.dumps(valid()).encode()
    raw = b"".join(part for *_, part in PARTS.values())
    got = check(header + raw, len(header))
    assert got is not None
    assert set(got.inputs) == set(PARTS)


ODD = JSON | st.integers() | st.sampled_from(["x", "ids", "FP32", "FP16", 2**63 - 1, [0, 2**62]])


@settings(max_examples=300)
@given(st.data())
def test_a_valid_request_with_one_field_changed(data: st.DataObject) -> None:
    request = valid()
    container, key = data.draw(st.sampled_from(places(request)))
    if data.draw(st.booleans()):
        container[key] = data.draw(ODD)
    else:
        del container[key]
    header = json.dumps(request).encode()
    raw = b"".join(part for *_, part in PARTS.values())
    check(header + raw, len(header))


@settings(max_examples=200)
@given(st.data())
def test_a_valid_body_with_one_byte_changed_cut_or_moved(data: st.DataObject) -> None:
    header = json.dumps(valid()).encode()
    body = bytearray(header + b"".join(part for *_, part in PARTS.values()))
    at = data.draw(st.integers(0, len(body) - 1))
    match data.draw(st.sampled_from(["change", "cut", "drop", "move"])):
        case "change":
            body[at] = data.draw(st.integers(0, 255))
            check(bytes(body), len(header))
        case "cut":
            check(bytes(body[:at]), len(header))
        case "drop":
            del body[at]
            check(bytes(body), len(header))
        case "move":
            check(bytes(body), at)
