"""The demo with real weights, gunicorn and HTTP."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from examples.digits.dataset import held_out_split
from tests.e2e.server import BIN, Server

pytestmark = pytest.mark.e2e

REFERENCE = Path(__file__).parents[1] / "reference"


def text(*sentences: str) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(sentences)], "data": sentences}


def image(images: np.ndarray) -> dict[str, Any]:
    data = images.tolist()
    return {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": data}


def output(response: requests.Response, name: str) -> np.ndarray:
    assert response.status_code == 200, response.text
    (found,) = [out for out in response.json()["outputs"] if out["name"] == name]
    return np.array(found["data"]).reshape(found["shape"])


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    content: list[str] = json.loads((REFERENCE / "sentences.json").read_text(encoding="utf-8"))
    return content


def test_embeddings_of_fifty_varied_sentences_equal_the_reference(
    demo_server: Server, sentences: list[str]
) -> None:
    reference = np.load(REFERENCE / "minilm.npy")
    assert len(sentences) == 50
    for sentence, expected in zip(sentences, reference, strict=True):
        got = output(demo_server.infer("minilm", **text(sentence)), "embedding")
        np.testing.assert_allclose(got[0], expected, atol=1e-5, rtol=0)


def test_fifty_sentences_in_one_request_come_back_in_order(
    demo_server: Server, sentences: list[str]
) -> None:
    got = output(demo_server.infer("minilm", **text(*sentences)), "embedding")
    np.testing.assert_allclose(got, np.load(REFERENCE / "minilm.npy"), atol=1e-5, rtol=0)


def test_the_response_reports_a_truncated_sentence(
    demo_server: Server, sentences: list[str]
) -> None:
    tokens = json.loads((REFERENCE / "minilm_tokens.json").read_text(encoding="utf-8"))
    cut = [str(row) for row, count in enumerate(tokens) if count > 256]
    said = demo_server.infer("minilm", **text(*sentences)).json()["parameters"]
    assert said == {
        "truncated_rows": len(cut),
        "truncated_row_indices": ",".join(cut),
        "token_limit": 256,
    }
    assert "parameters" not in demo_server.infer("minilm", **text("short")).json()


def test_the_digits_reach_97_percent_on_held_out_images(demo_server: Server) -> None:
    _, held_out = held_out_split()
    right = 0
    for start in range(0, len(held_out.labels), 50):
        part = slice(start, start + 50)
        labels = output(demo_server.infer("digits", **image(held_out.images[part])), "label")
        right += int((labels == held_out.labels[part]).sum())
    assert right / len(held_out.labels) >= 0.97


def test_64_clients_with_distinct_rows_each_get_their_own_answer(demo_server: Server) -> None:
    _, held_out = held_out_split()
    alone = [
        output(demo_server.infer("digits", **image(picture[None])), "probabilities")[0]
        for picture in held_out.images[:64]
    ]

    def client(number: int) -> list[np.ndarray]:
        picture = image(held_out.images[number][None])
        return [
            output(demo_server.infer("digits", **picture), "probabilities")[0] for _ in range(8)
        ]

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(client, range(64)))
    for mine, one in zip(answers, alone, strict=True):
        for answer in mine:
            np.testing.assert_allclose(answer, one, atol=1e-5, rtol=0)


def test_nothing_compiles_after_ready_over_every_bucket(demo_server: Server) -> None:
    for rows in (1, 2, 3, 5, 8, 11):
        for words in (3, 40, 90, 200):
            response = demo_server.infer("minilm", **text(*["brim " * words] * rows))
            assert response.status_code == 200
    for rows in (1, 2, 4, 8, 16, 32, 64, 100):
        response = demo_server.infer("digits", **image(np.ones((rows, 8, 8), np.float32)))
        assert response.status_code == 200
    metrics = requests.get(f"{demo_server.url}/metrics", timeout=10).text
    assert "compiles_after_ready_total 0.0" in metrics


def test_the_cost_table_has_every_bucket_once(demo_server: Server) -> None:
    stats = requests.get(f"{demo_server.url}/v2/models/minilm/stats", timeout=10).json()
    table = [(line["rows"], line["length"]) for line in stats["cost_table"]]
    assert sorted(table) == [(r, n) for r in (1, 2, 4, 8) for n in (32, 64, 128, 256)]
    assert all(line["seconds"] > 0 for line in stats["cost_table"])


def test_a_bad_request_between_two_good_ones_does_not_affect_them(demo_server: Server) -> None:
    good, bad = np.ones((1, 8, 8), np.float32), np.ones((1, 8, 7), np.float32)

    def ask(picture: np.ndarray) -> requests.Response:
        return demo_server.infer("digits", **image(picture))

    with ThreadPoolExecutor(3) as pool:
        first, wrong, second = pool.map(ask, (good, bad, good))
    assert wrong.status_code == 400
    assert wrong.json()["error"].startswith("image: ")
    np.testing.assert_array_equal(output(first, "label"), output(second, "label"))


def test_both_ways_to_host_it_give_the_same_answers(
    demo_server: Server, start: Any, digits_config: Path
) -> None:
    other = start(
        digits_config,
        str(BIN / "gunicorn"), "-c", "configs/gunicorn.py", "-b", "127.0.0.1:{port}",
        "app.wsgi:app",
        BRIM_CONFIG=str(digits_config),
    )  # fmt: skip
    other.until(other.ready, "readiness")
    picture = image(np.full((1, 8, 8), 7, np.float32))
    mine, theirs = (server.infer("digits", **picture) for server in (demo_server, other))
    np.testing.assert_allclose(
        output(mine, "probabilities"), output(theirs, "probabilities"), atol=1e-5
    )
    assert other.stop() == 0
