"""OpenAI's routes: embeddings of texts and of tokens, and errors in the form its clients read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
from werkzeug.test import TestResponse

from engine.errors import InvalidRequest
from engine.models.config import ModelConfig, Source
from engine.models.model import Model, Prepared
from engine.models.processor import HostProcessor
from engine.models.tensors import Arrays, TensorSpec
from engine.testing import PUPPET_SPEC_IN, PuppetCompiler, puppet_config, puppet_model
from tests.app.conftest import PATIENCE_S, Serve, Served, answer

EMBEDDINGS = "/v1/embeddings"
HOST = "tests.app.http.routes.test_openai:host"
HOSTED = puppet_config(rows=(4,), source=Source(factory="engine.testing:puppet_model"))
"""A model whose host is found in every process."""
BY_IDS = replace(HOSTED, token_ids=True)
IDS = 4
"""The size of the vocabulary."""


def measure(inputs: Arrays) -> Prepared:
    """A text's row is `[v, -v]`, where v is its length; a token is a word."""
    texts = [text.decode() for text in inputs["text"]]
    for row, text in enumerate(texts):
        if "\0" in text:
            raise InvalidRequest("text", f"row {row} has a zero")
    values = [[len(text), -len(text)] for text in texts]
    tokens = sum(len(text.split()) for text in texts)
    return Prepared({"x": np.array(values, np.float32)}, tokens=tokens)


def measure_ids(rows: Sequence[Sequence[int]]) -> Prepared:
    """A row of ids is `[v, -v]`, where v is their sum."""
    for token in chain.from_iterable(rows):
        if not 0 <= token < IDS:
            raise InvalidRequest("input", f"token {token} does not exist, expected 0 to {IDS - 1}")
    values = [[sum(ids), -sum(ids)] for ids in rows]
    return Prepared({"x": np.array(values, np.float32)}, tokens=sum(map(len, rows)))


def host(**_options: Any) -> HostProcessor:
    return HostProcessor(measure, preprocess_ids=measure_ids, dimensions=(1,))


def reader(**changes: Any) -> Model:
    """A model that turns a text into its length."""
    fields = {
        "inputs": (TensorSpec("text", "BYTES"),),
        "preprocess": measure,
        "device_inputs": (PUPPET_SPEC_IN,),
    }
    return puppet_model(**(fields | changes))


def hosted(_config: ModelConfig) -> Model:
    """The same, whose hooks run in the HTTP process and take token ids, too."""
    model = reader(preprocess=None, host=HOST)
    model.processor = host()
    return model


@pytest.fixture
def reading(serve: Serve) -> Served:
    return serve(model=lambda _config: reader())


@pytest.fixture
def by_ids(serve: Serve) -> Served:
    return serve(BY_IDS, model=hosted)


def ask(served: Served, given: Any, **more: Any) -> TestResponse:
    return served.client.post(EMBEDDINGS, json={"model": "puppet", "input": given, **more})


def problem(response: TestResponse) -> str:
    """The message of an error, which must have OpenAI's form and nothing else."""
    assert response.content_type == "application/json"
    said = json.loads(response.data)
    assert list(said) == ["error"]
    assert set(said["error"]) == {"message", "type", "param", "code"}
    kind = "server_error" if response.status_code >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if response.status_code == 429 else kind
    assert said["error"]["type"] == kind
    return str(said["error"]["message"])


# --- it goes well ---------------------------------------------------------------------------------


def test_a_text_is_answered_in_openais_form(reading: Served) -> None:
    response = ask(reading, "to the brim", user="someone")
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert response.get_json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": answer(11.0)}],
        "model": "puppet",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


@pytest.mark.parametrize(
    ("given", "texts", "tokens"),
    [
        pytest.param("full", ["full"], 1, id="a text"),
        pytest.param("", [""], 0, id="the empty text"),
        pytest.param("\u00e9", ["\u00e9"], 1, id="as UTF-8"),
        pytest.param(["full", "to the"], ["full", "to the"], 3, id="texts"),
        pytest.param(["a"] * 11, ["a"] * 11, 11, id="more than every bucket"),
    ],
)
def test_whatever_was_given_is_read(
    reading: Served, given: Any, texts: list[str], tokens: int
) -> None:
    said = ask(reading, given).get_json()
    assert [part["index"] for part in said["data"]] == list(range(len(texts)))
    lengths = [float(len(text.encode().decode())) for text in texts]
    assert [part["embedding"] for part in said["data"]] == [answer(value) for value in lengths]
    assert said["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize(
    ("given", "sums"),
    [
        pytest.param([0, 1, 2], [3.0], id="ids of one text"),
        pytest.param([[0], [1, 2, 3]], [0.0, 6.0], id="ids of several"),
        pytest.param([[1] * 1000], [1000.0], id="many ids"),
    ],
)
def test_token_ids_reach_the_model_as_they_are(
    by_ids: Served, given: Any, sums: list[float]
) -> None:
    said = ask(by_ids, given).get_json()
    assert [part["embedding"] for part in said["data"]] == [answer(value) for value in sums]
    count = len(given) if isinstance(given[0], int) else sum(map(len, given))
    assert said["usage"] == {"prompt_tokens": count, "total_tokens": count}
    assert ask(by_ids, "full").get_json()["data"][0]["embedding"] == answer(4.0)


def test_base64_is_of_the_same_numbers(reading: Served) -> None:
    said = ask(reading, ["a", "full"], encoding_format="base64").get_json()
    decoded = [np.frombuffer(base64.b64decode(part["embedding"]), "<f4") for part in said["data"]]
    plain = ask(reading, ["a", "full"], encoding_format="float").get_json()
    assert [row.tolist() for row in decoded] == [part["embedding"] for part in plain["data"]]


def test_the_dimensions_that_a_model_has_may_be_named(reading: Served) -> None:
    assert ask(reading, "full", dimensions=2).status_code == 200
    assert ask(reading, "full", dimensions=None).status_code == 200


# --- it does not ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        pytest.param(
            [], {}, "input: got an empty list, expected at least one text", id="no text at all"
        ),
        pytest.param(
            ["full", 1], {}, "input: expected texts, or token ids, and not both", id="text, token"
        ),
        pytest.param(
            [[1], 1], {}, "input: expected texts, or token ids, and not both", id="list, token"
        ),
        pytest.param(
            ["full", [1]], {}, "input: expected texts, or token ids, and not both", id="text, list"
        ),
        pytest.param(
            [True], {}, "input[0]: Expected `int | str | array`, got `bool`", id="true is no token"
        ),
        pytest.param(None, {}, "input: Expected `str | array`, got `null`", id="null is no text"),
        pytest.param(
            [["full"]], {}, "input[0][0]: Expected `int`, got `str`", id="a list of lists of texts"
        ),
        pytest.param(
            "full",
            {"dimensions": 3},
            "dimensions: got 3, expected 2; if the model was trained for others (Matryoshka), "
            "list them as dimensions in its table [[models]]",
            id="other dimensions",
        ),
        pytest.param(
            "full",
            {"dimensions": "2"},
            "dimensions: Expected `int | null`, got `str`",
            id="dimensions in words",
        ),
        pytest.param(
            "full",
            {"encoding_format": "hex"},
            "encoding_format: Invalid enum value 'hex', expected float, base64 or null",
            id="another format",
        ),
    ],
)
def test_a_clients_mistake_is_400_and_reaches_no_queue(
    reading: Served, given: Any, more: dict[str, Any], message: str
) -> None:
    response = ask(reading, given, **more)
    assert (response.status_code, problem(response)) == (400, message)
    assert reading.observer.named("queued") == []


SEND_TEXTS = "send texts (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"


@pytest.mark.parametrize("given", [[1, 2], [[1], [2]]], ids=["ids of one text", "of several"])
@pytest.mark.parametrize(
    ("config", "model", "message"),
    [
        pytest.param(
            HOSTED,
            hosted,
            f"input: got token ids, and model 'puppet' takes texts; {SEND_TEXTS}, or, if all "
            "clients use this model's own tokenizer, set token_ids = true in its table [[models]]",
            id="not allowed by the operator",
        ),
        pytest.param(
            HOSTED,
            lambda _config: reader(),
            f"input: model 'puppet' takes texts, and no token ids; {SEND_TEXTS}",
            id="not known to the model",
        ),
    ],
)
def test_token_ids_are_refused_with_what_to_set(
    serve: Serve, config: ModelConfig, model: Any, message: str, given: Any
) -> None:
    served = serve(config, model=model)
    response = ask(served, given)
    assert (response.status_code, problem(response)) == (400, message)
    assert served.observer.named("queued") == []


def test_a_text_that_the_model_refuses_is_an_error_of_input(serve: Serve) -> None:
    served = serve(HOSTED, model=hosted)
    response = ask(served, ["full", "to the\0brim"])
    assert (response.status_code, problem(response)) == (400, "input: row 1 has a zero")
    assert response.get_json()["error"]["param"] == "input"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1], []], "input: got an empty list of tokens, expected at least one"),
        ([[0, 4]], "input: token 4 does not exist, expected 0 to 3"),
        ([-1], "input: token -1 does not exist, expected 0 to 3"),
    ],
    ids=["no id", "no such id", "a negative id"],
)
def test_wrong_token_ids_are_refused(by_ids: Served, given: Any, message: str) -> None:
    response = ask(by_ids, given)
    assert (response.status_code, problem(response)) == (400, message)


# --- dimensions -----------------------------------------------------------------------------------

SIZES = replace(HOSTED, dimensions=(1, 2, 3))
WIDE = TensorSpec("y", "FP32", (4,))


def widened(*, normalized: bool) -> Callable[[ModelConfig], Model]:
    """A model whose vectors are `[3, 4, 0, 12]` times the length of the text, or of length 1."""

    def widen(outputs: Arrays) -> Arrays:
        lengths = (outputs["y"][:, :1] - 1) / 2
        vectors = lengths * np.float32([[3, 4, 0, 12]])
        return {"y": vectors / 13 / np.maximum(lengths, 1) if normalized else vectors}

    return lambda _config: reader(
        outputs=(replace(WIDE, normalized=normalized),),
        device_outputs=puppet_model().signature.outputs,
        postprocess=widen,
    )


@pytest.mark.parametrize("form", ["float", "base64"])
@pytest.mark.parametrize(
    ("normalized", "dimensions", "vector"),
    [
        pytest.param(True, 2, [0.6, 0.8], id="of length 1 again"),
        pytest.param(True, 1, [1.0], id="one number"),
        pytest.param(True, 4, [3 / 13, 4 / 13, 0, 12 / 13], id="all of it"),
        pytest.param(True, None, [3 / 13, 4 / 13, 0, 12 / 13], id="as the model has it"),
        pytest.param(False, 2, [12.0, 16.0], id="of a model that does not normalize"),
    ],
)
def test_a_vector_is_cut_and_has_the_length_that_the_models_have(
    serve: Serve, normalized: bool, dimensions: int | None, vector: list[float], form: str
) -> None:
    served = serve(SIZES, model=widened(normalized=normalized))
    asked = {"dimensions": dimensions, "encoding_format": form}
    (said,) = ask(served, "full", **asked).get_json()["data"]
    got = said["embedding"]
    if form == "base64":
        got = np.frombuffer(base64.b64decode(got), "<f4")
    np.testing.assert_allclose(got, vector, rtol=1e-6)


def test_a_models_host_may_name_dimensions_beside_those_of_the_configuration(
    serve: Serve,
) -> None:
    served = serve(replace(HOSTED, dimensions=()), model=hosted)
    assert ask(served, "full", dimensions=1).get_json()["data"][0]["embedding"] == [9.0]


def test_a_vector_of_zeros_stays_one(serve: Serve) -> None:
    served = serve(SIZES, model=widened(normalized=True))
    (said,) = ask(served, "", dimensions=2).get_json()["data"]
    assert said["embedding"] == [0.0, 0.0]


@pytest.mark.parametrize("dimensions", [0, -1, 5, 10**6])
def test_other_dimensions_are_refused_with_those_that_there_are(
    serve: Serve, dimensions: int
) -> None:
    response = ask(serve(SIZES, model=widened(normalized=True)), "full", dimensions=dimensions)
    assert response.status_code == 400
    assert problem(response) == f"dimensions: got {dimensions}, expected 1 or 2 or 3 or 4"


# --- a cut text -----------------------------------------------------------------------------------


def test_parameters_of_the_answer_are_those_of_the_models_preprocess(serve: Serve) -> None:
    cut = {"truncated_rows": 1, "truncated_row_indices": "0", "token_limit": 8}

    def preprocess(inputs: Arrays) -> Prepared:
        return replace(measure(inputs), parameters=cut if len(inputs["text"][0]) > 4 else {})

    served = serve(model=lambda _config: reader(preprocess=preprocess))
    assert ask(served, "more than it reads").get_json()["parameters"] == cut
    assert "parameters" not in ask(served, "full").get_json()


TWO = (TensorSpec("y", "FP32", (2,)), TensorSpec("z", "FP32", (2,)))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(puppet_model(), id="takes numbers"),
        pytest.param(reader(inputs=(TensorSpec("text", "BYTES", (2,)),)), id="two texts a row"),
        pytest.param(
            reader(inputs=(TensorSpec("text", "BYTES"), PUPPET_SPEC_IN)),
            id="takes more than a text",
        ),
        pytest.param(
            reader(
                outputs=TWO,
                postprocess=lambda out: out,
                device_outputs=puppet_model().signature.outputs,
            ),
            id="which of two vectors?",
        ),
        pytest.param(
            reader(
                outputs=(TensorSpec("y", "FP32", (2, 2)),),
                postprocess=lambda out: out,
                device_outputs=puppet_model().signature.outputs,
            ),
            id="a matrix",
        ),
    ],
)
def test_a_model_that_makes_no_embeddings_is_400(serve: Serve, model: Model) -> None:
    response = ask(serve(model=lambda _config: model), "full")
    assert response.status_code == 400
    message = "model: 'puppet' does not turn texts into embeddings; expected another server"
    assert problem(response) == message


def test_the_refusal_of_a_model_without_embeddings_names_those_with_them(serve: Serve) -> None:
    models = {"a": reader(), "puppet": puppet_model(), "c": reader()}
    configs = [puppet_config(name=name, rows=(4,)) for name in models]
    response = ask(serve(*configs, model=lambda config: models[config.name]), "full")
    assert response.status_code == 400
    message = "model: 'puppet' does not turn texts into embeddings; expected a or c"
    assert problem(response) == message


def test_an_unknown_model_is_404_and_the_known_ones_are_named(reading: Served) -> None:
    response = reading.client.post(EMBEDDINGS, json={"model": "nobody", "input": "full"})
    assert response.status_code == 404
    assert problem(response) == "unknown model 'nobody'; this server has puppet"


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "message"),
    [
        ("POST", EMBEDDINGS, b"nonsense", 400, "body: not JSON: "),
        ("POST", EMBEDDINGS, b'{"input": "a"}', 400, "body: Object missing required field `model`"),
        ("POST", EMBEDDINGS, None, 411, "the request says neither Content-Length nor"),
        (
            "POST",
            EMBEDDINGS,
            b" " * (2 << 20),
            413,
            "the body is larger than limits.max_body_bytes",
        ),
        ("GET", EMBEDDINGS, None, 405, "/v1/embeddings has POST, and not GET; "),
        ("GET", "/v1/nowhere", None, 404, "GET /v1/nowhere does not exist; "),
    ],
)
def test_every_error_below_v1_has_openais_form(
    reading: Served, method: str, path: str, sent: bytes | None, status: int, message: str
) -> None:
    response = reading.client.open(path, method=method, data=sent)
    assert response.status_code == status
    assert problem(response).startswith(message)


@pytest.mark.parametrize(
    ("sent", "status", "param", "code"),
    [
        ({"model": "nobody", "input": "full"}, 404, "model", "model_not_found"),
        ({"model": "puppet", "input": "full", "dimensions": 7}, 400, "dimensions", None),
        ({"model": "puppet"}, 400, "body", None),
    ],
)
def test_an_error_names_the_field_and_has_openais_code(
    reading: Served, sent: dict[str, Any], status: int, param: str, code: str | None
) -> None:
    response = reading.client.post(EMBEDDINGS, json=sent)
    said = response.get_json()["error"]
    assert (response.status_code, said["param"], said["code"]) == (status, param, code)
    assert said["type"] == "invalid_request_error"


def test_an_encoding_that_is_not_understood_is_415_in_openais_form(reading: Served) -> None:
    response = ask(reading, "full")
    assert response.status_code == 200
    headers = {"Content-Encoding": "br"}
    response = reading.client.post(EMBEDDINGS, data=b"full", headers=headers)
    assert response.status_code == 415
    assert problem(response).startswith("Content-Encoding 'br'")


def test_a_device_that_fails_is_a_server_error(reading: Served) -> None:
    reading.device.fail_result = RuntimeError("ECC error")
    response = ask(reading, "full")
    assert response.status_code == 500
    assert problem(response).startswith("a batch of model 'puppet' failed on the device (failure ")


def test_what_nobody_foresaw_is_told_by_the_request_id_only(
    reading: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: Any) -> None:
        raise ZeroDivisionError("secret")

    client = reading.services.engine
    monkeypatch.setattr(type(client.endpoint("puppet")), "submit", broken)
    response = reading.client.post(
        EMBEDDINGS, json={"model": "puppet", "input": "a"}, headers={"X-Request-Id": "seven"}
    )
    assert response.status_code == 500
    assert problem(response) == "internal error; the log has request seven"


def test_when_all_places_are_taken_it_is_429_and_says_when_to_come_back(serve: Serve) -> None:
    served = serve(model=lambda _config: reader(), worker="gthread", threads=2)
    served.hold()
    first = served.pool.submit(ask, served, "full")
    served.wait_on_device()
    refused = ask(served, "full")
    assert refused.status_code == 429
    assert problem(refused) == "1 requests wait in this process already"
    assert refused.headers["Retry-After"] == "1"
    client = served.services.engine
    assert client.endpoint("puppet").snapshot().activity.counts.refused == 1
    served.release()
    assert first.result(PATIENCE_S).status_code == 200


def test_a_model_that_failed_is_503_with_the_reason(serve: Serve) -> None:
    compiler = PuppetCompiler()
    compiler.fail = RuntimeError("out of memory")
    response = ask(serve(model=lambda _config: reader(), compiler=compiler), "full")
    assert response.status_code == 503
    assert problem(response) == "model 'puppet' has failed: RuntimeError: out of memory"


# --- what there is --------------------------------------------------------------------------------


def entry(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "brim"}


def test_the_models_are_listed(serve: Serve) -> None:
    def load(_config: ModelConfig) -> Model:
        return reader()

    served = serve(*(puppet_config(name=name, rows=(4,)) for name in ("b", "a")), model=load)
    assert served.client.get("/v1/models").get_json() == {
        "object": "list",
        "data": [entry("b"), entry("a")],
    }
    assert served.client.get("/v1/models/a").get_json() == entry("a")


def test_a_model_that_is_not_there_is_404(reading: Served) -> None:
    response = reading.client.get("/v1/models/nobody")
    assert response.status_code == 404
    assert problem(response) == "unknown model 'nobody'; this server has puppet"
