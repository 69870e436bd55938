"""What a client may ask about the server and its models."""

from __future__ import annotations

from typing import Literal

import msgspec
from flask import Blueprint

from app import body, serving, triton
from app.answer import Answer
from app.codec.typed import parse, prepared
from app.operation import NOT_SERVING, OPTIONAL_BODY, UNKNOWN, answers
from app.services import MODEL_VERSION, VERSION, services, this_request
from engine.costs import Cost
from engine.state import ModelState
from engine.stats import Counts, MemoryUse, ModelStats

blueprint = Blueprint("models", __name__)

EXTENSIONS = ("binary_tensor_data", "model_configuration", "schedule_policy", "statistics")


class ServerMetadata(Answer, frozen=True):
    """Who this is, and which of the protocol's extensions it speaks."""

    name: str
    version: str
    extensions: tuple[str, ...]


@blueprint.get("/v2")
@answers(ServerMetadata)
def server() -> ServerMetadata:
    """Who is this?"""
    return ServerMetadata("brim", VERSION, EXTENSIONS)


class ModelNames(Answer, frozen=True):
    """The configured models, in the order of the config."""

    models: tuple[str, ...]


@blueprint.get("/v2/models")
@answers(ModelNames)
def models() -> ModelNames:
    """Which models are there?"""
    return ModelNames(services().engine.names)


class TensorMetadata(Answer, frozen=True):
    """One tensor; -1 in its shape is what varies, the rows first of all."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Answer, frozen=True):
    """What a client must know to ask."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@blueprint.get("/v2/models/<name>")
@blueprint.get("/v2/models/<name>/versions/<version>")
@answers(ModelMetadata, *NOT_SERVING)
def model(name: str, version: str = MODEL_VERSION) -> ModelMetadata:
    """What are its tensors called, and which shapes do they have?"""
    serving.check_version(services().engine, name, version)
    served = services().engine.model(name)
    return ModelMetadata(
        name=name,
        versions=(MODEL_VERSION,),
        platform=served.platform,
        inputs=tuple(
            # Triton's tools make up no row without an axis; one that has it is taken, too
            TensorMetadata(spec.name, spec.datatype, (-1, *(spec.shape or (1,))))
            for spec in served.inputs
        ),
        outputs=tuple(
            TensorMetadata(spec.name, spec.datatype, spec.wire_shape) for spec in served.outputs
        ),
    )


@blueprint.get("/v2/models/<name>/config")
@blueprint.get("/v2/models/<name>/versions/<version>/config")
@answers(triton.TritonConfig, *NOT_SERVING)
def config(name: str, version: str = MODEL_VERSION) -> triton.TritonConfig:
    """Its configuration, as Triton's clients read it."""
    serving.check_version(services().engine, name, version)
    engine = services().engine
    return triton.model_config(engine.config(name), engine.model(name))


class EveryModelsStatistics(Answer, frozen=True):
    """Triton's statistics of every model."""

    model_stats: tuple[triton.ModelStatistics, ...]


@blueprint.get("/v2/models/stats")
@answers(EveryModelsStatistics)
def all_stats() -> EveryModelsStatistics:
    """Triton's statistics of every model."""
    engine = services().engine
    return EveryModelsStatistics(
        tuple(triton.model_statistics(engine.stats(name), MODEL_VERSION) for name in engine.names)
    )


class DeviceMemory(Answer, frozen=True):
    """Device bytes: the weights once, every bucket's code, and the most that one batch adds."""

    weights_bytes: int
    code_bytes: int
    peak_batch_bytes: int


class OneModelsStatistics(Answer, frozen=True):
    """Triton's statistics of one model, and what only Brim knows.

    `cost_table` is empty and `memory` null before they are known.
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
def stats(name: str, version: str = MODEL_VERSION) -> OneModelsStatistics:
    """Triton's statistics, and beside them what only Brim knows: the cost table, memory, load."""
    serving.check_version(services().engine, name, version)
    said = services().engine.stats(name)
    return OneModelsStatistics(
        model_stats=(triton.model_statistics(said, MODEL_VERSION),),
        name=said.name,
        version=MODEL_VERSION,
        state=said.state,
        reason=said.reason,
        queue_depth=said.queued_rows,
        queued_requests=said.queued_requests,
        batches_in_flight=said.in_flight,
        stalled_seconds=said.stalled_s,
        counts=said.counts,
        cost_table=said.cost_table,
        memory=None if said.memory is None else _memory(said.memory),
    )


def _memory(memory: MemoryUse) -> DeviceMemory:
    return DeviceMemory(memory.weights, memory.code, memory.peak_batch)


@prepared
class IndexRequest(msgspec.Struct):
    """The body of a repository index; it may be empty."""

    ready: bool = False


class IndexEntry(Answer, frozen=True):
    """One model, as Triton says it; `reason` is empty for one that serves."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


@blueprint.post("/v2/repository/index")
@answers(list[IndexEntry], *OPTIONAL_BODY, takes=IndexRequest)
def index() -> list[IndexEntry]:
    """Every model's state, as Triton says it; with `{"ready": true}` only those that serve."""
    ready_only = parse(body.read_optional(this_request()) or b"{}", IndexRequest).ready
    engine = services().engine
    every = [_entry(engine.stats(name)) for name in engine.names]
    return [entry for entry in every if entry.state == "READY" or not ready_only]


def _entry(said: ModelStats) -> IndexEntry:
    if said.serving:
        return IndexEntry(said.name, MODEL_VERSION, "READY", "")
    return IndexEntry(said.name, MODEL_VERSION, "UNAVAILABLE", said.reason or said.state.value)
