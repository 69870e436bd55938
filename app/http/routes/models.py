"""Metadata, configuration, statistics and states of the server and its models."""

from __future__ import annotations

from typing import Literal

import msgspec
from flask import Blueprint

from app.http import bodies as body
from app.http.codecs import triton
from app.http.codecs.messages import Answer, decodable, parse
from app.http.hooks import this_request
from app.http.responses.operation import NOT_SERVING, OPTIONAL_BODY, UNKNOWN, answers
from app.http.services import MODEL_VERSION, VERSION, services
from engine.api import Cost, Counts, ModelState, ModelStatus

blueprint = Blueprint("models", __name__)

EXTENSIONS = ("binary_tensor_data", "model_configuration", "schedule_policy", "statistics")


class ServerMetadata(Answer, frozen=True):
    """Name and version of the server, and the protocol extensions that it supports."""

    name: str
    version: str
    extensions: tuple[str, ...]


@blueprint.get("/v2")
@answers(ServerMetadata)
def server() -> ServerMetadata:
    """Metadata of the server."""
    return ServerMetadata("brim", VERSION, EXTENSIONS)


class ModelNames(Answer, frozen=True):
    """Names of the configured models, in the order of the configuration."""

    models: tuple[str, ...]


@blueprint.get("/v2/models")
@answers(ModelNames)
def models() -> ModelNames:
    """Names of the configured models."""
    return ModelNames(services().engine.names)


class TensorMetadata(Answer, frozen=True):
    """One tensor; -1 in its shape is a size that varies. The first axis is the rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Answer, frozen=True):
    """What a client needs to build a request, and in `properties` what the model says of itself."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    properties: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


@blueprint.get("/v2/models/<name>")
@blueprint.get("/v2/models/<name>/versions/<version>")
@answers(ModelMetadata, *NOT_SERVING)
def model(name: str, version: str | None = None) -> ModelMetadata:
    """Names, datatypes and shapes of the model's tensors."""
    served = services().engine.endpoint(name, version).interface.signature
    # Triton's tools generate no rows without an axis, so [n, 1] is accepted too
    inputs = [TensorMetadata(s.name, s.datatype, (-1, *(s.shape or (1,)))) for s in served.inputs]
    outputs = [TensorMetadata(s.name, s.datatype, s.wire_shape) for s in served.outputs]
    said = dict(served.properties) or msgspec.UNSET
    versions = (MODEL_VERSION,)
    return ModelMetadata(name, versions, served.platform, tuple(inputs), tuple(outputs), said)


@blueprint.get("/v2/models/<name>/config")
@blueprint.get("/v2/models/<name>/versions/<version>/config")
@answers(triton.TritonConfig, *NOT_SERVING)
def config(name: str, version: str | None = None) -> triton.TritonConfig:
    """The model's configuration in Triton's format."""
    endpoint = services().engine.endpoint(name, version)
    return triton.model_config(endpoint.config, endpoint.interface.signature)


class EveryModelsStatistics(Answer, frozen=True):
    """Triton's statistics of all models."""

    model_stats: tuple[triton.ModelStatistics, ...]


@blueprint.get("/v2/models/stats")
@answers(EveryModelsStatistics)
def all_stats() -> EveryModelsStatistics:
    """Statistics of all models in Triton's format."""
    models = services().engine.snapshot().models
    return EveryModelsStatistics(tuple(map(triton.model_statistics, models)))


class DeviceMemory(Answer, frozen=True):
    """Device bytes: the weights, the code of all buckets, and the most that one batch adds."""

    weights_bytes: int
    code_bytes: int
    peak_batch_bytes: int


class OneModelsStatistics(Answer, frozen=True):
    """Triton's statistics of one model, and Brim's own.

    `cost_table` is empty and `memory` null before they are measured.
    """

    model_stats: tuple[triton.ModelStatistics, ...]
    name: str
    version: str
    state: ModelState
    reason: str | None
    queue_depth: int
    queued_requests: int
    batches_in_flight: int
    stalled_seconds: float
    counts: Counts
    cost_table: tuple[Cost, ...]
    memory: DeviceMemory | None


@blueprint.get("/v2/models/<name>/stats")
@blueprint.get("/v2/models/<name>/versions/<version>/stats")
@answers(OneModelsStatistics, *UNKNOWN)
def stats(name: str, version: str | None = None) -> OneModelsStatistics:
    """Triton's statistics, and Brim's own: cost table, memory, load."""
    snapshot = services().engine.endpoint(name, version).snapshot()
    load, use = snapshot.load, snapshot.memory
    memory = None if use is None else DeviceMemory(use.weights, use.code, use.peak_batch)
    return OneModelsStatistics(
        model_stats=(triton.model_statistics(snapshot),),
        name=snapshot.name,
        version=snapshot.version,
        state=snapshot.state,
        reason=snapshot.reason,
        queue_depth=load.queued_rows,
        queued_requests=load.queued_requests,
        batches_in_flight=load.batches_in_flight,
        stalled_seconds=load.stalled_s,
        counts=snapshot.activity.counts,
        cost_table=snapshot.cost_table,
        memory=memory,
    )


@decodable
class IndexRequest(msgspec.Struct):
    """The body of a repository index; it may be empty."""

    ready: bool | None = None


class IndexEntry(Answer, frozen=True):
    """One model's state in Triton's format; `reason` is empty for a READY model."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


@blueprint.post("/v2/repository/index")
@answers(list[IndexEntry], *OPTIONAL_BODY, takes=IndexRequest)
def index() -> list[IndexEntry]:
    """State of every model in Triton's format; with `{"ready": true}` only of READY models."""
    content = body.read_optional(this_request()) or b"{}"
    body.check_json(len(content), services())
    ready_only = parse(content, IndexRequest).ready
    entries = [_entry(model) for model in services().engine.status().models]
    return [entry for entry in entries if entry.state == "READY" or not ready_only]


def _entry(status: ModelStatus) -> IndexEntry:
    reason = "" if status.serving else status.reason or status.state.value
    state: Literal["READY", "UNAVAILABLE"] = "READY" if status.serving else "UNAVAILABLE"
    return IndexEntry(status.name, status.version, state, reason)
