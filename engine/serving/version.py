"""One version of a model that can serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from engine.errors import UnknownModel, UnknownVersion
from engine.models.processor import HostProcessor
from engine.models.signature import Signature
from engine.runtime.device_group import Replica
from engine.scheduling.costs.cost_table import CostTable

FIRST_VERSION: Final = "1"


@dataclass(frozen=True, slots=True, eq=False)
class ModelInterface:
    """What the host side of a request needs of the version that serves it.

    host    `module:function` that makes `processor` in another process, too; or ""
    hooked  the processor's hooks run in the process of the engine, and `processor` has none of them
    """

    version: str
    signature: Signature
    processor: HostProcessor
    host: str = ""
    hooked: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class LoadedVersion:
    """Immutable after verification: what clients see of it, its replica, its costs."""

    interface: ModelInterface
    replica: Replica
    costs: CostTable


E = TypeVar("E")


def find(endpoints: Mapping[str, E], name: str, version: str | None) -> E:
    """The endpoint of a configured model. Raises `UnknownModel` or `UnknownVersion`."""
    endpoint = endpoints.get(name)
    if endpoint is None:
        raise UnknownModel(name, tuple(endpoints))
    if version is not None and version != FIRST_VERSION:
        raise UnknownVersion(name, version, FIRST_VERSION)
    return endpoint
