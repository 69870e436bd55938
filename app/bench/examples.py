"""What to send to a model that only the server knows: its tensors, and values for them.

May touch: the network (a few GETs before the load), numpy, orjson.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from app.bench import shots
from app.bench.plan import Address, BenchError, Plan, Settings, Target
from app.codec import oip_json
from engine.errors import InvalidRequest
from engine.spec import DTYPES, Array, TensorSpec

PATIENCE_S: Final = 10.0

LENGTH: Final = 16
"""Of a dynamic axis, or words in a text, where nobody says."""

WORDS: Final = ("every", "client", "waits", "no", "longer", "than", "the", "arithmetic", "allows")

OK: Final = 200


def plan(settings: Settings, targets: Sequence[Target], length: int | None) -> Plan:
    """Ask the server for the tensors of the targets' models, and make one request of each.

    Without targets: one row to every model that it has. Values are the example in its OpenAPI
    document, repeated to the rows asked for; random ones where it has none, and where `length` says
    how long a dynamic axis, or how many words a text, shall be. Raises `BenchError`.
    """
    server = _Server(settings.url)
    if not targets:
        targets = [Target(name) for name in server.models()]
    rng = np.random.default_rng(settings.seed)
    made = []
    for target in targets:
        specs = server.inputs(target.model, LENGTH if length is None else length)
        example = server.example(target.model) if length is None else {}
        arrays = {
            spec.name: _rows(spec, example[spec.name], target.rows)
            if spec.name in example
            else _random(spec, target.rows, LENGTH if length is None else length, rng)
            for spec in specs
        }
        made.append(shots.make(settings, target, specs, arrays))
    return Plan(settings, tuple(made))


class _Server:
    """What can be asked of it. A model is asked for once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._where = Address.parse(url)
        self._document: dict[str, Any] | None = None

    def models(self) -> list[str]:
        said = self._get("/v2/models")
        names = [str(name) for name in (said or {}).get("models", [])]
        if not names:
            raise BenchError(f"{self._url} does not say which models it has; name some by --model")
        return names

    def inputs(self, model: str, length: int) -> list[TensorSpec]:
        said = self._get(f"/v2/models/{model}")
        if said is None:
            raise BenchError(f"{self._url} does not serve a model {model!r} (now)")
        try:
            return [
                TensorSpec(
                    tensor["name"],
                    tensor["datatype"],
                    tuple(length if size < 0 else size for size in tensor["shape"][1:]),
                )
                for tensor in said["inputs"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(f"the inputs of {model!r} are not understood: {error}") from None

    def example(self, model: str) -> Mapping[str, Mapping[str, Any]]:
        """Tensor name -> tensor, as the OpenAPI document has it; empty without an example."""
        if self._document is None:
            self._document = self._get("/openapi.json") or {}
        schemas = self._document.get("components", {}).get("schemas", {})
        example = schemas.get(f"{model}.InferRequest", {}).get("example", {})
        return {tensor["name"]: tensor for tensor in example.get("inputs", [])}

    def _get(self, path: str) -> dict[str, Any] | None:
        """The JSON object behind `path`; None where the answer is no success."""
        connection = http.client.HTTPConnection(
            self._where.host, self._where.port, timeout=PATIENCE_S
        )
        try:
            connection.request("GET", path, headers={"Host": self._where.authority})
            response = connection.getresponse()
            said = orjson.loads(response.read()) if response.status == OK else None
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{self._url} cannot be asked: {error}") from None
        except orjson.JSONDecodeError:
            said = None
        finally:
            connection.close()
        return said if isinstance(said, dict) else None


def _rows(spec: TensorSpec, tensor: Mapping[str, Any], rows: int) -> Array:
    """The example's rows, again and again until there are enough."""
    try:
        array = oip_json.decode(spec, tensor["shape"], tensor["data"])
    except (KeyError, InvalidRequest) as error:
        raise BenchError(f"the example of {spec.name!r} is not understood: {error}") from None
    return np.resize(array, (rows, *array.shape[1:]))


def _random(spec: TensorSpec, rows: int, length: int, rng: np.random.Generator) -> Array:
    """Standard normal floats; 0 and 1 for integers, which is inside every vocabulary; words."""
    shape = (rows, *spec.shape)
    if spec.datatype == "BYTES":
        texts = np.empty(shape, object)
        for place in np.ndindex(shape):
            texts[place] = " ".join(rng.choice(WORDS, length)).encode()
        return texts
    dtype = DTYPES[spec.datatype]
    if dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
