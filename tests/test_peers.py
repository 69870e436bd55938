"""Other servers are measured with the same functions, rows and buckets, or not at all."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from app.bench.plan import Settings
from app.codec import oip
from benchmarks import mlp
from benchmarks.null import null_model
from benchmarks.peers import __main__ as comparison
from benchmarks.peers import functions, servers
from benchmarks.peers.servers import ALL, Case, OpenInference, Peer, Skipped
from engine.model import Model

MODELS = {"null": null_model.create(), "mlp": mlp.create()}
HOW = Settings("http://127.0.0.1:1", clients=1)


def row_of(name: str) -> np.ndarray:
    return np.random.default_rng(3).random(functions.WIDTHS[name], np.float32)


@pytest.mark.parametrize("count", [1, 3, 64])
@pytest.mark.parametrize("name", MODELS)
def test_what_the_others_compute_is_what_brim_computes(name: str, count: int) -> None:
    model: Model = MODELS[name]
    x = np.stack([row_of(name) + number for number in range(count)])
    ours = np.asarray(model.apply(model.params, {"x": x})["y"])
    np.testing.assert_allclose(functions.Compiled(name)(x), ours, atol=1e-4)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("peer", ALL, ids=lambda peer: peer.name)
def test_every_server_is_asked_for_the_same_row(peer: Peer, binary: bool) -> None:
    case = Case("mlp", binary, row_of("mlp"))
    how = Settings(HOW.url, clients=1, binary=binary)
    head, _, body = peer.shot(how, case).request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert int(headers["Content-Length"]) == len(body)
    if isinstance(peer, OpenInference):
        model = MODELS["mlp"]
        length = headers.get("Inference-Header-Content-Length")
        asked = oip.decode(body, int(length) if length else None, model.inputs, model.outputs)
        got = asked.inputs["x"][0]
    else:
        got = functions.decode(body)
    np.testing.assert_array_equal(got, case.row)


@pytest.mark.parametrize("peer", ALL[1:], ids=lambda peer: peer.name)
def test_a_server_that_is_not_installed_is_skipped_and_says_so(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(servers, "PEERS", tmp_path)
    case = Case("null", False, row_of("null"))
    assert comparison.compare([peer], case, [1], 0.1, 2) == {}
    said = capsys.readouterr().out
    assert said.count(f"SKIPPED {peer.name}: no environment at {tmp_path}") == 1


def test_a_wrong_answer_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(servers.Brim):
        def read(self, headers: object, body: bytes, case: Case) -> np.ndarray:
            return np.zeros(16, np.float32)

    opened = SimpleNamespace(headers={}, read=lambda: b"")
    monkeypatch.setattr(
        comparison.urllib.request, "urlopen", lambda *_args, **_named: nullcontext(opened)
    )
    case = Case("null", False, row_of("null"))
    server = comparison.Server("http://127.0.0.1:1", None)  # type: ignore[arg-type]
    with pytest.raises(Skipped, match="it answers"):
        comparison.check(Wrong(), server, Wrong().shot(HOW, case), case, np.ones(16, np.float32))
