"""TOML file + environment + flags -> one frozen object.

May touch: the file system, msgspec, and the environment once (`from_environment`).

The file's shape is the two structs below: what is not in them is an error that names the file, the
key, the value and what is allowed. Nothing here imports JAX or starts a thread.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from engine import models
from engine.config import ModelConfig, Source
from engine.errors import ConfigError

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=86_400)]

MIN_THREADS, MAX_THREADS = 2, 100_000
THREADS_ALLOWED = f"a whole number from {MIN_THREADS} to {MAX_THREADS}; one is kept for probes"
Threads = Annotated[int, msgspec.Meta(ge=MIN_THREADS, le=MAX_THREADS)]

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
THREADS: Final[Mapping[str, int]] = {"brim": 16, "gthread": 256}
"""How many threads each worker has for requests, if nobody says. gthread needs one for each that is
in the process; ours for those whose views may block, and more that compute at once are slower."""
CONNECTIONS: Final = 16_384
"""Of our own worker, most of them idle, at a few KB each. The process's limit of open files may be
lower: then so many are taken, and the others wait."""

WORKERS_ALLOWED: Final = f"one of {', '.join(THREADS)}"


class ServerTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[server]`. Times and sizes have their unit in the name."""

    bind: str = "127.0.0.1:8000"
    worker: str = "brim"
    threads: Threads | msgspec.UnsetType = msgspec.UNSET
    max_body_bytes: Positive = 16 * 1024 * 1024
    keepalive_s: Seconds = 75
    graceful_timeout_s: Seconds = 30
    log_level: str = "info"


class ModelTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[[models]]`. Defaults that are UNSET here are those of `engine.config.ModelConfig`."""

    name: str
    family: str | None = None
    path: str | None = None
    sha256: str | None = None
    factory: str | None = None
    options: dict[str, Any] = {}
    rows: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    lengths: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    max_wait_ms: float | msgspec.UnsetType = msgspec.UNSET
    max_queue_rows: int | msgspec.UnsetType = msgspec.UNSET
    timeout_ms: float | msgspec.UnsetType = msgspec.UNSET
    slo_ms: float | msgspec.UnsetType = msgspec.UNSET
    weight: float | msgspec.UnsetType = msgspec.UNSET
    in_flight: int | msgspec.UnsetType = msgspec.UNSET
    tolerance: float | msgspec.UnsetType = msgspec.UNSET
    compile_threads: int | msgspec.UnsetType = msgspec.UNSET
    required: bool | msgspec.UnsetType = msgspec.UNSET


class File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    models: list[ModelTable]
    server: ServerTable = ServerTable()


_TABLES: Final[Mapping[str, type[msgspec.Struct]]] = {
    "": File,
    "server": ServerTable,
    "models": ModelTable,
}
_MILLISECONDS: Final = {
    "max_wait_ms": "max_wait_s",
    "timeout_ms": "timeout_s",
    "slo_ms": "slo_s",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is decided before the process does anything."""

    file: str
    models: tuple[ModelConfig, ...]
    host: str
    port: int
    worker: str
    threads: int
    max_body_bytes: int
    keepalive_s: int
    graceful_timeout_s: int
    log_level: str

    @property
    def places(self) -> int:
        """How many requests may be in the process at once.

        Where each holds a thread, one thread in sixteen, at least one, stays free for probes; where
        they hold none, there may be as many as connections, and the queue alone refuses.
        """
        if self.worker == "brim":
            return CONNECTIONS
        return self.threads - max(1, self.threads // 16)

    @property
    def url(self) -> str:
        """Where a person on this machine finds the server."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "[::]", "") else self.host  # noqa: S104
        return f"http://{host}:{self.port}"

    def with_flags(
        self,
        bind: str | None = None,
        worker: str | None = None,
        threads: int | None = None,
        called: tuple[str, str, str] = ("--bind", "--worker", "--threads"),
    ) -> Settings:
        """Flags win over the environment, which wins over the file. `called`: in an error."""
        changed = self
        if bind is not None:
            host, port = _address(called[0], bind)
            changed = replace(changed, host=host, port=port)
        if worker is not None and worker != self.worker:
            if worker not in THREADS:
                raise ConfigError(called[1], worker, WORKERS_ALLOWED)
            # what the file says of the other's threads is not meant for this one
            changed = replace(changed, worker=worker, threads=THREADS[worker])
        if threads is not None:
            if not MIN_THREADS <= threads <= MAX_THREADS:
                raise ConfigError(called[2], threads, THREADS_ALLOWED)
            changed = replace(changed, threads=threads)
        return changed


def from_environment() -> Settings:
    """`BRIM_CONFIG` names the file; `BRIM_BIND`, `BRIM_WORKER` and `BRIM_THREADS` win over it."""
    file = os.environ.get("BRIM_CONFIG")
    if not file:
        raise ConfigError("BRIM_CONFIG", file, "the path of a config file")
    return load(file, os.environ)


def load(file: str | Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check one file. Raises `ConfigError`; touches no device.

    Also looks at every model's files: weights that are missing or not the pinned ones are an error
    where the model is required. A model that is not starts FAILED and says why.
    """
    path = Path(file)
    table = _parse(path)
    try:
        host, port = _address("server.bind", table.server.bind)
        if table.server.log_level not in LOG_LEVELS:
            level = table.server.log_level
            raise ConfigError("server.log_level", level, f"one of {', '.join(LOG_LEVELS)}")
        worker = table.server.worker
        if worker not in THREADS:
            raise ConfigError("server.worker", worker, WORKERS_ALLOWED)
        settings = Settings(
            file=str(path),
            models=_models(path, table.models),
            host=host,
            port=port,
            worker=worker,
            threads=table.server.threads or THREADS[worker],  # UNSET is false
            max_body_bytes=table.server.max_body_bytes,
            keepalive_s=table.server.keepalive_s,
            graceful_timeout_s=table.server.graceful_timeout_s,
            log_level=table.server.log_level,
        )
    except ConfigError as error:
        raise error.in_file(str(path)) from None
    said = environment or {}
    threads = said.get("BRIM_THREADS")
    if threads and not re.fullmatch("[0-9]{1,9}", threads):
        raise ConfigError("BRIM_THREADS", threads, THREADS_ALLOWED)
    return settings.with_flags(
        said.get("BRIM_BIND") or None,
        said.get("BRIM_WORKER") or None,
        int(threads) if threads else None,
        ("BRIM_BIND", "BRIM_WORKER", "BRIM_THREADS"),
    )


def _parse(path: Path) -> File:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("", str(path), f"a readable file: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("", path.name, f"TOML: {error}", file=str(path)) from None
    try:
        return msgspec.convert(content, File)
    except msgspec.ValidationError as error:
        raise _explain(path, content, str(error)) from None


def _models(path: Path, tables: list[ModelTable]) -> tuple[ModelConfig, ...]:
    if not tables:
        raise ConfigError("models", [], "at least one [[models]]")
    names = [table.name for table in tables]
    configs = []
    for place, table in enumerate(tables):
        key = f"models[{place}]"
        try:
            if table.name in names[:place]:
                raise ConfigError("name", table.name, "a name that no other model has")
            config = _config(path.parent, table)
            models.family(config)
            _check_files(config)
        except ConfigError as error:
            raise ConfigError(f"{key}.{error.key}", error.value, error.expected) from None
        configs.append(config)
    return tuple(configs)


def _config(base: Path, table: ModelTable) -> ModelConfig:
    source = Source(table.family, table.path, table.sha256, table.factory, table.options)
    fields: dict[str, Any] = {
        key: value
        for key, value in msgspec.structs.asdict(table).items()
        if value is not msgspec.UNSET and key not in Source.__dataclass_fields__
    }
    for written, inside in _MILLISECONDS.items():
        if written in fields:
            fields[inside] = fields.pop(written) / 1e3
    return ModelConfig(source=source, base=base, **fields)


def _check_files(config: ModelConfig) -> None:
    if config.required:
        models.check(config)


def _address(key: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) < 2**16:
        raise ConfigError(key, text, "HOST:PORT, as in 127.0.0.1:8000")
    return host, int(port)


# --- saying what is wrong -------------------------------------------------------------------------


def _explain(path: Path, content: dict[str, Any], problem: str) -> ConfigError:
    """Msgspec's message, as file, key, value and what is allowed."""
    what, _, at = problem.partition(" - at `")
    key = at.rstrip("`").removeprefix("$").removeprefix(".")
    unknown = re.search("unknown field `(.*)`", what)
    if unknown:
        return _explain_unknown(path, content, key, unknown.group(1))
    missing = re.search("missing required field `(.*)`", what)
    if missing:
        name = missing.group(1)
        at = f"{key}.{name}" if key else name
        return ConfigError(at, None, "a value; the key is missing", file=str(path))
    expected = re.sub(r"^Expected (.*?)(, got .*)?$", r"\1", what).replace("`", "")
    return ConfigError(key, _value_at(content, key), expected, file=str(path))


def _explain_unknown(path: Path, content: dict[str, Any], key: str, name: str) -> ConfigError:
    at = f"{key}.{name}" if key else name
    known = _TABLES[re.sub(r"\[\d+\]$", "", key)].__struct_fields__
    close = difflib.get_close_matches(name, known, 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    allowed = f"a known key, one of {', '.join(known)}{meant}"
    return ConfigError(at, _value_at(content, at), allowed, file=str(path))


def _value_at(content: Any, key: str) -> Any:
    """The value at `models[0].rows`; None when the key does not lead anywhere."""
    for step in re.findall(r"[^.\[\]]+", key):
        if isinstance(content, dict) and step in content:
            content = content[step]
        elif isinstance(content, list) and step.isdecimal() and int(step) < len(content):
            content = content[int(step)]
        else:
            return None
    return content
