"""The OpenAPI document that a real server gives, held against what the server does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import requests

from tests.e2e.server import BIN, Server

pytestmark = pytest.mark.e2e

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def test_thousands_of_generated_requests_are_answered_as_the_document_says(
    digits_server: Server, tmp_path: Path
) -> None:
    command = [
        BIN / "schemathesis", "run", f"{digits_server.url}/openapi.json",
        "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing",
        "-n", "10", "--max-time", "30", "--seed", "20", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert ran, done.stdout
    assert int(ran.group(1)) == int(ran.group(2)) > 500


def test_the_models_tensors_have_their_real_names(digits_server: Server) -> None:
    document = requests.get(f"{digits_server.url}/openapi.json", timeout=10).json()
    operation = document["paths"]["/v2/models/digits/infer"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/digits.InferRequest"
    }
    schema = document["components"]["schemas"]["digits.InferRequest"]
    (tensor,) = schema["properties"]["inputs"]["items"]["oneOf"]
    assert tensor["properties"]["name"]["enum"] == ["image"]
    assert tensor["properties"]["datatype"]["enum"] == ["FP32"]
    url = f"{digits_server.url}/v2/models/digits/infer"
    assert requests.post(url, json=schema["example"], timeout=10).status_code == 200
