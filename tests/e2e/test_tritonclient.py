"""Triton's Python client, unchanged, against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "reference"


@pytest.fixture(scope="module")
def triton() -> Any:
    import tritonclient.http

    return tritonclient.http


@pytest.fixture
def client(triton: Any, digits_server: Server) -> Iterator[Any]:
    made = triton.InferenceServerClient(f"127.0.0.1:{digits_server.port}", concurrency=8)
    yield made
    made.close()


@pytest.fixture(scope="module")
def halves(start: Any, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server of `half_model.py`."""
    directory = tmp_path_factory.mktemp("half")
    (directory / "half_model.py").symlink_to(HERE / "half_model.py")
    config = directory / "half.toml"
    config.write_text(
        '[[models]]\nname = "halves"\nfactory = "half_model:create"\nrows = [1, 2]\n'
        "tolerance = 1e-2\n",
        encoding="utf-8",
    )
    server: Server = start(config)
    server.until(server.ready, "readiness")
    return server


PICTURES = np.random.default_rng(0).integers(0, 17, (3, 8, 8)).astype(np.float32)


def image(triton: Any, pictures: np.ndarray, *, binary: bool) -> Any:
    tensor = triton.InferInput("image", list(pictures.shape), "FP32")
    tensor.set_data_from_numpy(pictures, binary_data=binary)
    return tensor


def test_it_finds_the_server_alive_and_described(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "2")
    assert client.get_server_metadata()["name"] == "brim"
    tensor = {"name": "image", "datatype": "FP32", "shape": [-1, 8, 8]}
    assert client.get_model_metadata("digits")["inputs"] == [tensor]
    assert client.get_model_config("digits", "1")["max_batch_size"] == 4
    (listed,) = client.get_model_repository_index()
    assert (listed["name"], listed["version"], listed["state"]) == ("digits", "1", "READY")


def test_json_and_binary_give_the_same_answer_both_ways(triton: Any, client: Any) -> None:
    answers = [
        client.infer(
            "digits",
            [image(triton, PICTURES, binary=way_in)],
            outputs=[
                triton.InferRequestedOutput("label", binary_data=way_out),
                triton.InferRequestedOutput("probabilities", binary_data=way_out),
            ],
        )
        for way_in in (True, False)
        for way_out in (True, False)
    ]
    for answer in answers:
        np.testing.assert_array_equal(answer.as_numpy("label"), answers[0].as_numpy("label"))
        got = answer.as_numpy("probabilities")
        np.testing.assert_allclose(got, answers[0].as_numpy("probabilities"), atol=1e-6)
        assert got.dtype == np.float32


def test_only_the_requested_outputs_are_returned_with_the_id(triton: Any, client: Any) -> None:
    answer = client.infer(
        "digits",
        [image(triton, PICTURES, binary=True)],
        outputs=[triton.InferRequestedOutput("label")],
        request_id="seven",
        priority=1,
        timeout=5_000_000,
    )
    assert answer.get_response()["id"] == "seven"
    assert answer.as_numpy("label").shape == (3,)
    assert answer.as_numpy("probabilities") is None


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed_both_ways(
    triton: Any, digits_server: Server, algorithm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # it prints the request and the response headers
    client = triton.InferenceServerClient(f"127.0.0.1:{digits_server.port}", verbose=True)
    # enough rows for an answer that is compressed
    many = np.repeat(PICTURES, 200, axis=0)
    plain = client.infer("digits", [image(triton, many, binary=True)])
    assert "Content-Encoding" not in capsys.readouterr().out
    answer = client.infer(
        "digits",
        [image(triton, many, binary=True)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    sent, _, came = capsys.readouterr().out.partition("<HTTPSocketPoolResponse")
    assert f"'Content-Encoding': '{algorithm}'" in sent
    assert f"'Content-Encoding': '{algorithm}'" in came
    np.testing.assert_array_equal(answer.as_numpy("label"), plain.as_numpy("label"))
    np.testing.assert_allclose(
        answer.as_numpy("probabilities"), plain.as_numpy("probabilities"), atol=1e-6
    )
    client.close()


def test_concurrent_requests_each_get_their_own_answer(triton: Any, client: Any) -> None:
    alone = [
        client.infer("digits", [image(triton, picture[None], binary=True)]).as_numpy("label")
        for picture in PICTURES
    ]
    asked = [
        client.async_infer("digits", [image(triton, PICTURES[i % 3][None], binary=True)])
        for i in range(24)
    ]
    for i, answer in enumerate(asked):
        np.testing.assert_array_equal(answer.get_result().as_numpy("label"), alone[i % 3])


def test_threads_with_one_client_each_get_their_own_answer(
    triton: Any, digits_server: Server
) -> None:
    def ask(number: int) -> np.ndarray:
        mine = triton.InferenceServerClient(f"127.0.0.1:{digits_server.port}")
        try:
            picture = image(triton, PICTURES[number % 3][None], binary=True)
            label: np.ndarray = mine.infer("digits", [picture]).as_numpy("label")
            return label
        finally:
            mine.close()

    expected = [ask(number) for number in range(3)]
    with ThreadPoolExecutor(8) as pool:
        for number, label in enumerate(pool.map(ask, range(24))):
            np.testing.assert_array_equal(label, expected[number % 3])


def test_halves_and_bytes_travel_as_binary(triton: Any, halves: Server) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{halves.port}")
    half = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float16)
    names = np.array([b"ann", "bj\u00f6rn".encode()], object)
    inputs = [
        triton.InferInput("half", [2, 4], "FP16"),
        triton.InferInput("brain", [2, 4], "BF16"),
        triton.InferInput("name", [2], "BYTES"),
    ]
    inputs[0].set_data_from_numpy(half)
    inputs[1].set_data_from_numpy(half.astype(ml_dtypes.bfloat16))
    inputs[2].set_data_from_numpy(names)
    answer = client.infer("halves", inputs)
    np.testing.assert_array_equal(answer.as_numpy("half"), half * 2)
    np.testing.assert_array_equal(answer.as_numpy("brain"), half.astype(np.float32) * 2)
    assert answer.as_numpy("greeting").tolist() == [b"hello ann", "hello bj\u00f6rn".encode()]
    client.close()


def test_halves_do_not_travel_as_json(triton: Any, halves: Server) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{halves.port}")
    inputs = [
        triton.InferInput("half", [1, 4], "FP16"),
        triton.InferInput("brain", [1, 4], "BF16"),
        triton.InferInput("name", [1], "BYTES"),
    ]
    inputs[0].set_data_from_numpy(np.ones((1, 4), np.float16))
    inputs[1].set_data_from_numpy(np.ones((1, 4), ml_dtypes.bfloat16))
    inputs[2].set_data_from_numpy(np.array([b"ann"], object))
    wanted = [triton.InferRequestedOutput("half", binary_data=False)]
    with pytest.raises(triton.InferenceServerException, match="FP16 travels as binary only"):
        client.infer("halves", inputs, outputs=wanted)
    client.close()


@pytest.mark.parametrize("shape", [[5], [5, 1]], ids=["as-it-is", "as-triton-has-it"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_texts_become_the_references_embeddings(
    triton: Any, demo_server: Server, binary: bool, shape: list[int]
) -> None:
    sentences = json.loads((REFERENCE / "sentences.json").read_text(encoding="utf-8"))[:5]
    client = triton.InferenceServerClient(f"127.0.0.1:{demo_server.port}", network_timeout=60)
    tensor = triton.InferInput("text", shape, "BYTES")
    tensor.set_data_from_numpy(np.array(sentences, object).reshape(shape), binary_data=binary)
    got = client.infer("minilm", [tensor]).as_numpy("embedding")
    np.testing.assert_allclose(got, np.load(REFERENCE / "minilm.npy")[:5], atol=1e-5, rtol=0)
    client.close()


@pytest.mark.parametrize(
    ("model", "rows", "asked", "status", "says"),
    [
        pytest.param("nope", 8, {}, "404", "unknown model 'nope'", id="no-such-model"),
        pytest.param("digits", 8, {"model_version": "2"}, "404", "no version '2'", id="no-version"),
        pytest.param("digits", 7, {}, "400", r"image: shape .* does not fit", id="another-shape"),
        pytest.param(
            "digits", 8, {"timeout": 1}, "422", "within .* is impossible", id="no-time-left"
        ),
        pytest.param("digits", 8, {"sequence_id": 7}, "400", "sequences are not", id="a-sequence"),
    ],
)
def test_an_invalid_request_raises_the_servers_message(
    triton: Any, client: Any, model: str, rows: int, asked: dict[str, Any], status: str, says: str
) -> None:
    with pytest.raises(triton.InferenceServerException, match=says) as refused:
        client.infer(model, [image(triton, PICTURES[:, :rows], binary=True)], **asked)
    assert refused.value.status() == status


def test_tritons_unsupported_extensions_are_refused(triton: Any, client: Any) -> None:
    inputs = [image(triton, PICTURES, binary=True)]
    classes = triton.InferRequestedOutput("probabilities", class_count=2)
    with pytest.raises(triton.InferenceServerException, match="classes are not served") as refused:
        client.infer("digits", inputs, outputs=[classes])
    assert refused.value.status() == "400"
    shared = triton.InferRequestedOutput("label")
    shared.set_shared_memory("region", 12)
    with pytest.raises(triton.InferenceServerException, match="shared memory is not served"):
        client.infer("digits", inputs, outputs=[shared])
    inputs[0].set_shared_memory("region", 768)
    with pytest.raises(triton.InferenceServerException, match="shared memory is not served"):
        client.infer("digits", inputs)


def test_the_statistics_add_up(triton: Any, client: Any) -> None:
    before = client.get_inference_statistics("digits")["model_stats"][0]
    for _ in range(5):
        client.infer("digits", [image(triton, PICTURES, binary=True)])
    after = client.get_inference_statistics("digits", "1")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 15
    said = after["inference_stats"]
    assert said["success"]["count"] - before["inference_stats"]["success"]["count"] == 5
    phases = ("queue", "compute_input", "compute_infer", "compute_output")
    total = sum(said[phase]["ns"] for phase in phases)
    assert total == pytest.approx(said["success"]["ns"], abs=len(phases) * said["success"]["count"])
    executed = sum(b["batch_size"] * b["compute_infer"]["count"] for b in after["batch_stats"])
    assert executed == after["inference_count"]


def test_the_client_does_not_patch_the_standard_library() -> None:
    # it is built on gevent, which can patch the standard library for the whole process
    code = (
        "import json, tritonclient.http, gevent.monkey as m; "
        "print(json.dumps([m.is_module_patched(n) for n in ('socket', 'threading', 'time')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, False, False]
