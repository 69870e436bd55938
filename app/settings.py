"""The settings: TOML file, environment and flags, read once into one frozen object.

The structs below are the file's shape. A key that is not in them is an error that names the file,
the key, the value and what is allowed. Nothing here imports JAX or starts a thread.
"""

from __future__ import annotations

import difflib
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import msgspec

from engine.api import ConfigError, ModelConfig, Source
from engine.api import registry as models

CONFIG_EXIT: Final = 2
"""The exit status for a wrong configuration."""

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=86_400)]
Timeout = Annotated[int, msgspec.Meta(ge=1, le=86_400)]

MIN_THREADS, MAX_THREADS = 2, 100_000
THREADS_ALLOWED = f"a whole number from {MIN_THREADS} to {MAX_THREADS}; one is kept for probes"
Threads = Annotated[int, msgspec.Meta(ge=MIN_THREADS, le=MAX_THREADS)]

AUTO: Final = "auto"
MAX_WORKERS: Final = 256
WORKERS_ALLOWED: Final = f'"{AUTO}", or a whole number from 1 to {MAX_WORKERS}'
Workers = Literal["auto"] | Annotated[int, msgspec.Meta(ge=1, le=MAX_WORKERS)]
"""HTTP processes; how many `auto` is, `app.hosting.workers` decides."""

UNIX: Final = "unix:"
ADDRESS_ALLOWED: Final = "HOST:PORT or unix:PATH, as in 127.0.0.1:8000"

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
THREADS: Final[Mapping[str, int]] = {"brim": 16, "gthread": 256}
"""Each worker and its default number of threads for requests. gthread needs a thread for each
request in the process. Brim's worker needs one only for each view that may block; more threads
that compute at the same time are slower."""
MAX_CONNECTIONS: Final = 16_384
"""Connections of Brim's worker; most of them are idle and cost a few KB each. The process's limit
on open files may be lower: then fewer are accepted, and the others stay in the listen backlog."""


class ServerTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[server]`. Names end in the unit."""

    bind: str = "127.0.0.1:8000"
    worker: str = "brim"
    workers: Workers = AUTO
    threads: Threads | msgspec.UnsetType = msgspec.UNSET
    keepalive_s: Seconds = 75
    graceful_timeout_s: Seconds = 30
    log_level: str = "info"
    cors_origins: tuple[str, ...] = ()


class Limits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[limits]`: what one client may use. Each HTTP process applies them for itself."""

    max_head_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 32 * 1024
    max_body_bytes: Positive = 16 * 1024 * 1024
    max_decompressed_bytes: Positive = 1024 * 1024
    max_json_bytes: Positive = 4 * 1024 * 1024
    max_id_bytes: Positive = 1024
    max_bytes_in_flight: Positive = 256 * 1024 * 1024
    head_timeout_s: Timeout = 10
    body_timeout_s: Timeout = 30
    send_timeout_s: Timeout = 30
    min_bytes_per_s: Positive = 16 * 1024


BRIM_ONLY: Final = (
    "max_head_bytes",
    "head_timeout_s",
    "body_timeout_s",
    "send_timeout_s",
    "min_bytes_per_s",
)
"""The limits that gthread cannot honour: there gunicorn reads and sends."""


class SourceTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The keys of `[[models]]` that say where a model comes from."""

    name: str
    family: str | None = None
    path: str | None = None
    sha256: str | None = None
    factory: str | None = None
    options: dict[str, Any] = {}


class EmbeddingsTable(SourceTable, forbid_unknown_fields=True, frozen=True):
    """The keys of `[[models]]` that are about OpenAI's embeddings."""

    token_ids: bool | msgspec.UnsetType = msgspec.UNSET
    dimensions: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET


class ModelTable(EmbeddingsTable, forbid_unknown_fields=True, frozen=True):
    """`[[models]]`. A key that is UNSET here gets its default from `ModelConfig`."""

    rows: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    lengths: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    max_wait_ms: float | msgspec.UnsetType = msgspec.UNSET
    max_queue_rows: int | msgspec.UnsetType = msgspec.UNSET
    max_request_rows: int | msgspec.UnsetType = msgspec.UNSET
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
    limits: Limits = Limits()


_STRUCTS: Final = {"": File, "server": ServerTable, "limits": Limits, "models": ModelTable}
"""The struct of each table's path; "" is the whole file."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is decided before the process starts anything."""

    file: str
    models: tuple[ModelConfig, ...]
    bind: str
    worker: str
    workers: Workers
    threads: int
    keepalive_s: int
    graceful_timeout_s: int
    log_level: str
    limits: Limits
    cors_origins: tuple[str, ...] = ()
    text: str = field(default="", repr=False, compare=False)

    @property
    def max_concurrent_requests(self) -> int:
        """How many requests may be in the process at once.

        Under gthread each holds a thread; one thread in sixteen, at least one, stays free for
        probes. Under Brim's worker a request holds none, so only connections and the queue limit.
        """
        if self.worker == "brim":
            return MAX_CONNECTIONS
        return self.threads - max(1, self.threads // 16)

    @property
    def url(self) -> str:
        """The server's URL on this machine; for a Unix socket `unix:PATH`."""
        return local_url(self.bind)

    def select(self, model: str | None, *, one: bool = False) -> list[ModelConfig]:
        """The models that `--model` names, all without it; `one`: exactly one, or `ConfigError`."""
        chosen = [each for each in self.models if model in (None, each.name)]
        if not chosen or (one and len(chosen) > 1):
            known = ", ".join(each.name for each in self.models)
            raise ConfigError("--model", model, f"one of {known}")
        return chosen

    def with_flags(
        self,
        bind: str | None = None,
        worker: str | None = None,
        threads: int | None = None,
        workers: str | None = None,
        names: tuple[str, str, str, str] = ("--bind", "--worker", "--threads", "--workers"),
    ) -> Settings:
        """These settings with some replaced. `names` are what errors call the four."""
        changed = self
        if bind is not None:
            changed = replace(changed, bind=_address(names[0], bind))
        if worker is not None and worker != self.worker:
            _check_one_of(names[1], worker, THREADS)
            # the file's number of threads was chosen for the other worker
            changed = replace(changed, worker=worker, threads=THREADS[worker])
        if threads is not None:
            if not MIN_THREADS <= threads <= MAX_THREADS:
                raise ConfigError(names[2], threads, THREADS_ALLOWED)
            changed = replace(changed, threads=threads)
        if workers is not None:
            changed = replace(changed, workers=_workers(names[3], workers))
        changed._check_limits()
        return changed

    def _check_limits(self) -> None:
        """Raise `ConfigError` for limits that exclude each other, or that the worker ignores."""
        limits, default = self.limits, Limits()
        largest = limits.max_body_bytes + limits.max_decompressed_bytes
        # small bodies have the last eighth for themselves
        if limits.max_bytes_in_flight - limits.max_bytes_in_flight // 8 < largest:
            text = "max_body_bytes + max_decompressed_bytes, and 1/7 more for small bodies"
            allowed = f"at least {largest + largest // 7 + 1}: {text}"
            got = limits.max_bytes_in_flight
            raise ConfigError("limits.max_bytes_in_flight", got, allowed, file=self.file)
        for name in BRIM_ONLY if self.worker != "brim" else ():
            if (value := getattr(limits, name)) != getattr(default, name):
                allowed = f"no such key: the worker {self.worker} cannot honour it, brim can"
                raise ConfigError(f"limits.{name}", value, allowed, file=self.file)


def load(
    file: str | Path, environment: Mapping[str, str] | None = None, text: str | None = None
) -> Settings:
    """Read and check one file, then apply the environment. Raises `ConfigError`; uses no device.
    With `text` that is the file's content, whatever the file has now.

    Checks the models' files too: missing weights, or weights with another checksum, are an error
    for a required model. A model that is not required starts as FAILED with the reason.
    """
    path = Path(file)
    text = _read(path) if text is None else text
    table = _parse(path, text)
    try:
        settings = _settings(path, table, text)
    except ConfigError as error:
        raise error.in_file(str(path)) from None
    return _with_environment(settings, environment or {})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("", str(path), f"a readable file: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError("", path.name, f"TOML: {error}", file=str(path)) from None


def _parse(path: Path, text: str) -> File:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("", path.name, f"TOML: {error}", file=str(path)) from None
    try:
        return msgspec.convert(content, File)
    except msgspec.ValidationError as error:
        raise _explain(str(error), content).in_file(str(path)) from None


def _settings(path: Path, table: File, text: str) -> Settings:
    server = msgspec.structs.asdict(table.server)
    server["bind"] = _address("server.bind", server["bind"])
    _check_one_of("server.log_level", server["log_level"], LOG_LEVELS)
    _check_one_of("server.worker", server["worker"], THREADS)
    _check_origins("server.cors_origins", server["cors_origins"])
    server["threads"] = server["threads"] or THREADS[server["worker"]]  # UNSET is false
    models = _models(path, table.models)
    return Settings(str(path), models, **server, limits=table.limits, text=text)


def _with_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    threads = environment.get("BRIM_THREADS")
    if threads and not re.fullmatch("[0-9]{1,9}", threads):
        raise ConfigError("BRIM_THREADS", threads, THREADS_ALLOWED)
    return settings.with_flags(
        environment.get("BRIM_BIND") or None,
        environment.get("BRIM_WORKER") or None,
        int(threads) if threads else None,
        environment.get("BRIM_WORKERS") or None,
        ("BRIM_BIND", "BRIM_WORKER", "BRIM_THREADS", "BRIM_WORKERS"),
    )


def _workers(key: str, text: str) -> Workers:
    if text == AUTO:
        return AUTO
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_WORKERS:
        raise ConfigError(key, text, WORKERS_ALLOWED)
    return int(text)


def _models(path: Path, tables: list[ModelTable]) -> tuple[ModelConfig, ...]:
    if not tables:
        raise ConfigError("models", [], "at least one [[models]]")
    names = [table.name for table in tables]
    configs = []
    for index, table in enumerate(tables):
        try:
            if table.name in names[:index]:
                raise ConfigError("name", table.name, "a name that no other model has")
            config = _config(path.parent, table)
            models.family(config)
            if config.required:
                models.check(config)
        except ConfigError as error:
            raise error.in_file("", f"models[{index}]") from None
        configs.append(config)
    return tuple(configs)


def _config(base: Path, table: ModelTable) -> ModelConfig:
    source = Source(table.family, table.path, table.sha256, table.factory, table.options)
    fields = {
        key: value
        for key, value in msgspec.structs.asdict(table).items()
        if value is not msgspec.UNSET and key not in Source.__dataclass_fields__
    }
    for key in [key for key in fields if key.endswith("_ms")]:
        fields[f"{key.removesuffix('ms')}s"] = fields.pop(key) / 1e3
    return ModelConfig(source=source, base=base, **fields)


def _check_origins(key: str, origins: tuple[str, ...]) -> None:
    """A browser names an origin in this form alone, and in lower case."""
    for index, origin in enumerate(origins):
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\sA-Z@,]+", origin):
            allowed = 'SCHEME://HOST or SCHEME://HOST:PORT in lower case, or "*" for any'
            raise ConfigError(f"{key}[{index}]", origin, allowed)


def _check_one_of(key: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise ConfigError(key, value, f"one of {', '.join(allowed)}")


def _address(key: str, text: str) -> str:
    if text.startswith(UNIX) and text != UNIX:
        return text
    _, _, port = text.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) < 2**16:
        raise ConfigError(key, text, ADDRESS_ALLOWED)
    return text


def local_url(bind: str) -> str:
    """The URL on this machine of a server at `HOST:PORT`; `unix:PATH` as it is."""
    if bind.startswith(UNIX):
        return bind
    host, _, port = bind.rpartition(":")
    host = "127.0.0.1" if host in ("0.0.0.0", "[::]", "") else host  # noqa: S104
    return f"http://{host}:{int(port)}"


def exit_with(error: Exception) -> NoReturn:
    """Print the error as one line and end the process with `CONFIG_EXIT`."""
    print(f"brim: {error}", file=sys.stderr)  # noqa: T201
    raise SystemExit(CONFIG_EXIT)


def _explain(problem: str, content: Mapping[str, Any]) -> ConfigError:
    """A message of msgspec about the parsed file, as key, value and what is allowed."""
    what, key = split_message(problem)
    expected = re.sub(r"^Expected (.*?)(, got .*)?$", r"\1", what).replace("`", "")
    if field := re.search("(unknown|missing required) field `(.*)`", what):
        kind, name = field.groups()
        known = _STRUCTS[re.sub(r"\[\d+\]$", "", key)].__struct_fields__
        key = f"{key}.{name}" if key else name
        meant = [f"; did you mean {each}?" for each in difflib.get_close_matches(name, known, 1)]
        allowed = f"a known key, one of {', '.join(known)}{''.join(meant)}"
        expected = allowed if kind == "unknown" else "a value; the key is missing"
    return ConfigError(key, _value_at(content, key), expected)


def split_message(problem: str) -> tuple[str, str]:
    """What msgspec found wrong, and the key where: `models[0].rows`."""
    what, _, at = problem.partition(" - at `")
    return what, at.rstrip("`").removeprefix("$").removeprefix(".")


def _value_at(content: Any, key: str) -> Any:
    """The value at `models[0].rows`; None if the key leads nowhere."""
    try:
        for step in re.findall(r"[^.\[\]]+", key):
            content = content[int(step) if isinstance(content, list) else step]
    except (LookupError, TypeError, ValueError):
        return None
    return content
